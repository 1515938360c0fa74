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

from ..graph.graph import Graph, Node, Tensor, bodies, is_constant, is_standard
from .operators import is_arithmetic, moved, moves_values, standard


class Carries(Enum):
    """What a tensor carries; a join of several carries the last of them in this order."""

    CONSTANT = 0
    SPIKES = 1
    INPUT = 2
    ANALOG = 3


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
        if not read:
            return Carries.ANALOG if standard(node).random else Carries.CONSTANT
        if not standard(node).signal:
            return Carries.CONSTANT
        joined = self._join(read)
        if joined == Carries.CONSTANT:
            return Carries.CONSTANT
        if moves_values(node):
            carried = self._join(moved(node))
            # What data select from a table of constants (an embedding) is a signal.
            return Carries.ANALOG if carried == Carries.CONSTANT else carried
        if joined == Carries.INPUT and is_arithmetic(node):
            plain = {self.of(tensor) for tensor in read} <= {Carries.INPUT, Carries.CONSTANT}
            return Carries.INPUT if plain else Carries.ANALOG
        return Carries.ANALOG
