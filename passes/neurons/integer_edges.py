"""Put a neuron of 8 bits on every edge between operators that integer kernels compute.

A convolution of integers has sums of 32 bits, which its kernel scales and rounds to 8 bits at once;
so do the kernels of sums, products and pools. In float such an edge costs more than the operator.
What lies on it is a membrane potential: where no neuron of the network fires there, one more is
put there, of 255 levels whatever the others have, a membrane.

1. Operators of integers: linear operators of float32; Add, Mul, Concat, AveragePool and
   GlobalAveragePool that read integers and no constant. All their operands have to be integers:
   those that are not get a membrane. Linear operators that are kept in float are none.
2. What comes out of them, other than out of Gemm, MatMul, Einsum and ConvTranspose, whose kernels
   give floats, needs a neuron: if one alone reads it, a linear activation or an encoder, that is
   it. Otherwise there is a membrane, and all that read the output read that.
3. What operators that only move values make of integers are integers (:func:`moves_integers`).
4. Shortcuts read membranes instead of copies of an activation in float (``membrane_shortcuts.py``).
5. The encoder of the network's own input is a membrane too: 8 bits are what images have. Encoders
   go in front of what moves values without choosing among them, so that integers are moved.
6. Where other neurons have 255 levels too (``alike``), an encoder of a membrane is one too many.

Sums of what nothing quantises, as the residual sums of transformers between a MatMul, whose kernel
has floats to give, and a normalisation, stay in float. Control-flow bodies are left as they are.
"""

from __future__ import annotations

import numpy as np

from ..analysis.activations import (
    find_activations,
    is_encoder,
    is_shortcut,
    mark_encoder,
    mark_membrane,
    why_kept,
)
from ..analysis.edges import Carries, EdgeAnalysis
from ..analysis.operators import Bytes, is_linear, moved, moves_values, signal_inputs, standard
from ..graph.graph import (
    Graph,
    Node,
    PassResult,
    Tensor,
    is_constant,
    redirect,
    tidy,
    unique_name,
)
from ..graph.surgeon import add_node, variable


def integer_edges(graph: Graph, alike: bool) -> PassResult:
    """Apply the rules above.

    Args:
        graph: canonical, with encoders in place.
        alike: all neurons have 255 levels.
    """
    analysis = EdgeAnalysis(graph, {a.output for a in find_activations(graph)[0]})
    for node in graph.nodes:
        own_input = is_encoder(node) and analysis.of(node.inputs[0]) == Carries.INPUT
        if own_input or is_shortcut(node):
            mark_membrane(node)
        if is_encoder(node):
            _move_forward(graph, node)
    tidy(graph)  # sorts what was moved
    edges = _Edges(graph, alike)  # which finds that shortcuts have neurons now
    for node in list(graph.nodes):
        edges.visit(node)
    tidy(graph)
    return PassResult(graph, edges.changes)


def moves_integers(node: Node) -> bool:
    """Whether a node moves integers of one tensor: what it does to floats it can do to these."""
    if standard(node).bytes is not Bytes.MOVED or not moves_values(node) or is_encoder(node):
        return False
    return len(node.outputs) == 1 or node.op == "Split"  # MaxPool may give positions too


def _move_forward(graph: Graph, encoder: Node) -> None:
    """Rule 5: x -> mover -> encoder becomes x -> encoder -> mover."""
    while True:
        moved_last, output = encoder.inputs[0], encoder.outputs[0]
        mover = moved_last.inputs[0] if moved_last.inputs else None
        if mover is None or not standard(mover).rearranges or not moves_values(mover):
            return
        if len(moved_last.outputs) != 1 or moved_last in graph.outputs or output in graph.outputs:
            return
        source = mover.inputs[0]
        if source.dtype != np.float32 or is_constant(source):
            return
        redirect(list(output.outputs), output, moved_last)
        encoder.inputs[0], mover.inputs[0] = source, output
        output.shape = source.shape


class _Edges:
    """What the edges of a graph hold, as far as they are settled.

    Attributes:
        neurons: by the tensors that they write; those that are put in not among them.
    """

    def __init__(self, graph: Graph, alike: bool) -> None:
        self._graph, self._alike = graph, alike
        self.neurons = {a.output: a for a in find_activations(graph)[0]}
        self._integers: dict[int, Tensor] = {}
        self._membranes: dict[int, Tensor] = {}
        self.changes: list[str] = []

    def visit(self, node: Node) -> None:
        """Settle a node; those before it are."""
        if any(output.name in self.neurons for output in node.outputs):
            if self._alike and is_encoder(node) and self._holds_integers(node.inputs[0]):
                self._leave_out(node)
            self._add(node.outputs[0])
        elif moves_integers(node):
            if self._holds_integers(moved(node)[0]):
                for output in node.outputs:
                    self._add(output)
        elif self._is_integer(node):
            for position in signal_inputs(node):
                node.inputs[position] = self._as_integers(node.inputs[position])
            gives_integers = node.op == "Conv" or not is_linear(node)
            if gives_integers and not self._is_read_by_neuron(node.outputs[0]):
                self._append_membrane(node)

    def _is_integer(self, node: Node) -> bool:
        """Rule 1."""
        if is_linear(node):
            return not why_kept(node)
        if standard(node).bytes is not Bytes.COMPUTED:
            return False
        if any(is_constant(operand) for operand in node.inputs):
            return False
        return any(self._holds_integers(operand) for operand in node.inputs)

    def _as_integers(self, tensor: Tensor) -> Tensor:
        """The tensor, or a membrane that follows it."""
        if self._holds_integers(tensor) or is_constant(tensor) or tensor.dtype != np.float32:
            return tensor
        if id(tensor) not in self._membranes:
            encoders = [node for node in tensor.outputs if is_encoder(node)]
            if self._alike and encoders:
                found = encoders[0].outputs[0]
            else:
                found = variable(unique_name(self._graph, f"{tensor.name}.membrane"), tensor)
                self._encode(tensor, found)
            self._membranes[id(tensor)] = found
            self._add(found)
        return self._membranes[id(tensor)]

    def _is_read_by_neuron(self, tensor: Tensor) -> bool:
        """Rule 2."""
        if len(tensor.outputs) != 1 or tensor in self._graph.outputs:
            return False
        output = tensor.outputs[0].outputs[0]
        activation = self.neurons.get(output.name)
        return activation is not None and activation.linear and not activation.signed

    def _append_membrane(self, node: Node) -> None:
        output = node.outputs[0]
        analog = variable(unique_name(self._graph, f"{output.name}.analog"), output)
        node.outputs[0] = analog
        self._encode(analog, output)
        self._add(output)

    def _encode(self, tensor: Tensor, output: Tensor) -> None:
        name = unique_name(self._graph, f"{tensor.name}.membrane")
        encoder = add_node(self._graph, "Identity", name, [tensor], output)
        mark_encoder(encoder)
        mark_membrane(encoder)
        self.changes.append(f"membrane {name} for {tensor.name}")

    def _leave_out(self, encoder: Node) -> None:
        """Rule 6."""
        source, output = encoder.inputs[0], encoder.outputs[0]
        redirect(list(output.outputs), output, source)

    def _holds_integers(self, tensor: Tensor) -> bool:
        return id(tensor) in self._integers

    def _add(self, tensor: Tensor) -> None:
        self._integers[id(tensor)] = tensor
