"""What the edges of a graph carry: spikes, the network's own input, constants, or analog values.

What a tensor carries follows from what made it:

1. spikes: the output of a neuron, and what operators that only move or select values (MaxPool,
   Reshape, Transpose, Concat, Split, Slice, Pad with zeros, nearest Resize, ...) make of spikes.
2. the network's own input: an input, and what these operators and element-wise arithmetic with
   constants make of it.
3. a constant: no signal at all; shapes and what is computed from constants alone.
4. analog: everything else: sums, products, pooled means, Softmax, normalisations.
"""

from __future__ import annotations

from enum import Enum

import numpy as np

from ..graph.graph import (
    Graph,
    Node,
    Tensor,
    bodies,
    is_constant,
    is_standard,
    may_be_float,
    optional_input,
)
from .activations import LINEAR_OPS


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
        fill = optional_input(node, 2)
        if node.attrs.get("mode", "constant") != "constant" or fill is None:
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
    return may_be_float(node.inputs[0])
