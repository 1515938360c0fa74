"""Encode analog edges: put a neuron wherever a linear operator would read analog values.

The linear operators are Conv, ConvTranspose, Gemm, MatMul and Einsum. What a tensor carries follows
from what made it:

1. spikes: the output of a neuron, and what operators that only move or select values (MaxPool,
   Reshape, Transpose, Concat, Split, Slice, Pad with zeros, nearest Resize, ...) make of spikes.
2. the network's own input: an input, and what these operators and element-wise arithmetic with
   constants make of it.
3. a constant: no signal at all; shapes and what is computed from constants alone.
4. analog: everything else: sums, products, pooled means, Softmax, normalisations.

Each linear operator reads each analog tensor through an encoder, a neuron that follows the
identity; one serves all linear operators that read the tensor, and everything else still reads the
analog value. Where values of both kinds were joined (Concat of a neuron and a sum), only the analog
part is encoded. The network's own input is encoded when asked.

The encoder is an Identity node until ``insert_quant_clip``, so the function computed is unchanged.
Bodies of If are treated like the main graph; in bodies of Loop and Scan nothing is changed.
"""

from __future__ import annotations

from enum import Enum

import numpy as np

from .activations import LINEAR_OPS, find_activations, mark_encoder
from .graph import (
    Graph,
    Node,
    PassResult,
    Tensor,
    add_node,
    bodies,
    is_constant,
    is_standard,
    scopes,
    tidy,
    unique_name,
    variable,
)


class Carries(Enum):
    """What a tensor carries; a join of several carries the last of them in this order."""

    CONSTANT = 0
    SPIKES = 1
    INPUT = 2
    ANALOG = 3


#: Operators whose outputs are values of their first input, or of all inputs, moved or selected.
_MOVING_FIRST = frozenset(
    [
        *("Identity", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Dropout"),
        *("Split", "Slice", "Gather", "GatherElements", "GatherND", "Expand", "Tile", "Trilu"),
        *("MaxPool", "GlobalMaxPool", "ReduceMax", "DepthToSpace", "SpaceToDepth", "Compress"),
        *("Pad", "Resize", "Upsample", "ReverseSequence", "MaxUnpool"),
    ]
)
_MOVING_ALL = frozenset(["Concat", "Max", "Min"])
_ARITHMETIC = frozenset(["Add", "Sub", "Mul", "Div", "Neg", "Cast", "CastLike"])
_NO_SIGNAL = frozenset(["Shape", "Size", "ConstantOfShape", "Range", "EyeLike", "NonZero"])


class EdgeAnalysis:
    """What every tensor of a graph carries.

    Args:
        graph: a canonical graph.
        fired: names of the tensors that neurons write.
    """

    def __init__(self, graph: Graph, fired: set[str]) -> None:
        self._fired = fired
        self._known: dict[int, Carries] = {}
        self._tensors: list[Tensor] = []  # keeps the ids of the tensors valid
        for tensor in graph.inputs:
            self._set(tensor, Carries.INPUT)
        self._visit(graph)

    def of(self, tensor: Tensor) -> Carries:
        """What the tensor carries."""
        if is_constant(tensor) or tensor.is_empty():
            return Carries.CONSTANT
        return self._known.get(id(tensor), Carries.ANALOG)

    def _set(self, tensor: Tensor, carries: Carries) -> None:
        self._known[id(tensor)] = carries
        self._tensors.append(tensor)

    def _visit(self, graph: Graph) -> None:
        for node in graph.nodes:
            inner = bodies(node)
            for body in inner:
                self._visit(body)
            for position, output in enumerate(node.outputs):
                if output.name in self._fired:
                    self._set(output, Carries.SPIKES)
                elif node.op == "If" and is_standard(node):
                    self._set(output, self._join([body.outputs[position] for body in inner]))
                else:
                    self._set(output, self._made_by(node))

    def _join(self, tensors: list[Tensor]) -> Carries:
        return max((self.of(tensor) for tensor in tensors), key=lambda c: c.value)

    def _made_by(self, node: Node) -> Carries:
        read = [tensor for tensor in node.inputs if not tensor.is_empty()]
        if not is_standard(node) or bodies(node):
            return Carries.ANALOG
        if node.op in _NO_SIGNAL or not read:
            return Carries.ANALOG if node.op.startswith("Random") else Carries.CONSTANT
        joined = self._join(read)
        if joined == Carries.CONSTANT:
            return Carries.CONSTANT
        if moves_values(node):
            carried = self._join(moved(node))
            # What data select from a table of constants (an embedding) is a signal.
            return Carries.ANALOG if carried == Carries.CONSTANT else carried
        if joined == Carries.INPUT and node.op in _ARITHMETIC:
            plain = {self.of(tensor) for tensor in read} <= {Carries.INPUT, Carries.CONSTANT}
            return Carries.INPUT if plain else Carries.ANALOG
        return Carries.ANALOG


def moves_values(node: Node) -> bool:
    """Whether the outputs hold values of the inputs (or zeros) and nothing else."""
    if not is_standard(node):
        return False
    if node.op in _MOVING_ALL:
        return True
    if node.op == "Pad":
        fill = node.inputs[2] if len(node.inputs) > 2 else None
        if node.attrs.get("mode", "constant") != "constant" or fill is None or fill.is_empty():
            return True
        return is_constant(fill) and not np.any(fill.values)
    if node.op in ("Resize", "Upsample"):
        return str(node.attrs.get("mode", "nearest")) == "nearest"
    return node.op in _MOVING_FIRST


def moved(node: Node) -> list[Tensor]:
    """The inputs whose values :func:`moves_values` speaks of."""
    return list(node.inputs) if node.op in _MOVING_ALL else [node.inputs[0]]


def signal_inputs(node: Node) -> list[int]:
    """Positions of the operands of a linear operator that may carry a signal."""
    if node.op in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return [0, 1]
    return list(range(len(node.inputs)))


def is_linear(node: Node) -> bool:
    """Whether the node is a linear operator on floats."""
    if node.op not in LINEAR_OPS or not is_standard(node) or not node.inputs:
        return False
    kind = node.inputs[0].dtype
    return kind is None or np.dtype(kind).kind == "f"


def encode_edges(graph: Graph, encode_input: bool = False) -> PassResult:
    """Put encoders as described above.

    Args:
        graph: a canonical graph.
        encode_input: encode the network's own input too.
    """
    activations, _ = find_activations(graph)
    analysis = EdgeAnalysis(graph, {activation.output for activation in activations})
    wanted = {Carries.ANALOG, Carries.INPUT} if encode_input else {Carries.ANALOG}
    encoding = _Encoding(graph, analysis, wanted)
    for scope in [scope for scope in scopes(graph) if not scope.closed]:
        for node in [node for node in scope.graph.nodes if is_linear(node)]:
            for position in signal_inputs(node):
                node.inputs[position] = encoding.spiking(node.inputs[position])
    tidy(graph)
    return PassResult(graph, encoding.changes)


class _Encoding:
    def __init__(self, graph: Graph, analysis: EdgeAnalysis, wanted: set[Carries]) -> None:
        self._main, self._analysis, self._wanted = graph, analysis, wanted
        self._encoded: dict[int, Tensor] = {}
        self._homes = {
            id(node): scope.graph for scope in scopes(graph) for node in scope.graph.nodes
        }
        self.changes: list[str] = []

    def spiking(self, tensor: Tensor) -> Tensor:
        """The tensor itself, or its encoded version where it is to be encoded."""
        if self._analysis.of(tensor) not in self._wanted:
            return tensor
        if tensor.dtype != np.float32:
            return tensor
        if id(tensor) not in self._encoded:
            self._encoded[id(tensor)] = self._mixed(tensor) or self._encode(tensor)
        return self._encoded[id(tensor)]

    def _mixed(self, tensor: Tensor) -> Tensor | None:
        """Where spikes and analog values were joined, join spikes and encoded values instead."""
        producer = tensor.inputs[0] if tensor.inputs else None
        if producer is None or not moves_values(producer) or len(producer.outputs) != 1:
            return None
        if Carries.SPIKES not in {self._analysis.of(t) for t in self._sources(producer)}:
            return None
        parts = moved(producer)
        inputs = [self.spiking(t) if t in parts else t for t in producer.inputs]
        output = variable(unique_name(self._main, f"{tensor.name}.spikes"), tensor)
        name = unique_name(self._main, f"{producer.name}.spikes")
        home = self._homes[id(producer)]
        clone = add_node(home, producer.op, name, inputs, output, dict(producer.attrs))
        self._homes[id(clone)] = home
        return output

    def _sources(self, node: Node) -> list[Tensor]:
        """What the values of a moving node come from, through any number of moving nodes."""
        found: list[Tensor] = []
        pending = list(moved(node))
        while pending:
            tensor = pending.pop()
            found.append(tensor)
            producer = tensor.inputs[0] if tensor.inputs else None
            joined_before = self._analysis.of(tensor) != Carries.SPIKES
            if producer is not None and moves_values(producer) and joined_before:
                pending += moved(producer)
        return found

    def _encode(self, tensor: Tensor) -> Tensor:
        output = variable(unique_name(self._main, f"{tensor.name}.encoded"), tensor)
        home = self._homes[id(tensor.inputs[0])] if tensor.inputs else self._main
        name = unique_name(self._main, f"{tensor.name}.encoder")
        mark_encoder(add_node(home, "Identity", name, [tensor], output))
        self.changes.append(f"encoder {name} for {tensor.name}")
        return output
