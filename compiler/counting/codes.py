"""Codes: tensors inside the graph that hold spikes, and go where the spikes go.

A code holds the signed number of spikes k of each value of a tensor, exactly
(``neuron_spikes.py``); ``spans.py`` says which tensors have one.

1. Operators that only move or select values are repeated on the codes. Where the values decide what
   is selected, they still do: MaxPool says where the largest value is, and the code is taken from
   there; of GlobalMaxPool and ReduceMax it is that of the value that equals the result (the
   highest, of several), of Max and Min that of the first input that does. Constants fire nothing:
   their code is 0.
2. The sum of two neurons of opposite polarity has the sum of their codes.
3. What an If gives has the code that the branch taken gives.
4. The mean over all steps of spikes has the code of the spikes.

A reader in a body gets its codes there, made anew where its spikes come from outside.
"""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper

from ...passes.analysis.operators import moved
from ...passes.graph.graph import Node, Tensor, bodies
from ...runtime_ops.definition import DOMAIN
from ...runtime_ops.staircase_fire import MAX_CELLS
from .insertion import Insertion
from .neuron_spikes import Grid, NeuronSpikes, Span, grid_of
from .spans import Spans

#: Below every k.
_NOTHING = -float(1 << 25)


class Codes:
    """Makes what tells the spikes of tensors that have a span."""

    def __init__(self, insert: Insertion, neurons: NeuronSpikes, spans: Spans) -> None:
        self._insert, self._neurons, self._spans = insert, neurons, spans
        self._made: dict[tuple[int, str], str] = {}

    def span(self, tensor: Tensor) -> Span:
        """What the tensor may hold."""
        span = self._spans.of(tensor)
        assert span is not None
        return span

    def grid(self, home: GraphProto, tensor: Tensor) -> Grid | None:
        """What tells the spikes of a tensor, in the graph ``home``; None: too many.

        Where it holds the values of one neuron it is looked at itself: a code takes time.
        """
        neuron, span = self._spans.neuron_of(tensor), self.span(tensor)
        grid = self._neurons.grid(home, neuron, str(tensor.name)) if neuron is not None else None
        if grid is None and span.width <= MAX_CELLS:
            grid = grid_of(self.code(home, tensor), span)
        return grid

    def code(self, home: GraphProto, tensor: Tensor) -> str:
        """The code of a tensor, made in the graph ``home``: its name."""
        if (id(home), tensor.name) not in self._made:
            producer = tensor.inputs[0]
            for output, name in zip(producer.outputs, self._make(home, producer), strict=False):
                self._made[id(home), str(output.name)] = name
        return self._made[id(home), str(tensor.name)]

    def _make(self, home: GraphProto, producer: Node) -> list[str]:
        """The codes of a node's outputs."""
        if producer.domain == DOMAIN:
            return [self._neurons.code(home, self._spans.proto(producer)[1])]
        if producer.op == "If":
            return self._of_branches(producer)
        steps = self._spans.averaged(producer.outputs[0])
        if steps is not None:
            return [self.code(home, steps)]
        if producer.op == "Add":
            both = self._spans.polarities(producer)
            codes = [self.code(home, neuron.outputs[0]) for neuron in both]
            return [self._insert.node(home, "Add", *codes)]
        names = {}
        for part in moved(producer):
            if self._spans.is_constant(part):  # it fires nothing
                names[str(part.name)] = self._insert.node(home, "Sub", part.name, part.name)
            else:
                names[str(part.name)] = self.code(home, part)
        return self._repeated(home, self._spans.proto(producer)[1], names)

    # Rule 1.

    def _repeated(self, home: GraphProto, node: NodeProto, codes: dict[str, str]) -> list[str]:
        """A moving operator on codes: the names of its outputs."""
        if node.op_type == "MaxPool":
            return [self._at_maxima(home, node, codes[node.input[0]])]
        if node.op_type in ("GlobalMaxPool", "ReduceMax"):
            return [self._at_maximum(home, node, codes[node.input[0]])]
        if node.op_type in ("Max", "Min"):
            return [self._of_first_equal(home, node, codes)]
        first_alone = node.op_type != "Concat"
        clone = self._clone(home, node)
        for position, name in enumerate(node.input):
            if name in codes and (position == 0 or not first_alone):
                clone.input[position] = codes[name]
        outputs = node.output if node.op_type == "Split" else node.output[:1]
        clone.output[:] = [self._insert.name() for _ in outputs]
        return list(clone.output)

    def _clone(self, home: GraphProto, node: NodeProto, *without: str) -> NodeProto:
        """A node like another one but for some attributes."""
        clone: NodeProto = home.node.add()
        clone.CopyFrom(node)
        clone.name = self._insert.name()
        del clone.attribute[:]
        clone.attribute.extend(a for a in node.attribute if a.name not in without)
        return clone

    def _at_maxima(self, home: GraphProto, pool: NodeProto, code: str) -> str:
        positions = self._insert.name()
        clone = self._clone(home, pool, "storage_order")
        clone.output[:] = [self._insert.name(), positions]
        everything = self._insert.constant(home, [-1], np.int64)
        flat = self._insert.node(home, "Reshape", code, everything)
        return self._insert.node(home, "Gather", flat, positions)

    def _at_maximum(self, home: GraphProto, reduction: NodeProto, code: str) -> str:
        largest = self._clone(home, reduction, "keepdims")
        largest.output[:] = [self._insert.name()]
        equal = self._insert.node(home, "Equal", reduction.input[0], largest.output[0])
        nothing = self._insert.constant(home, _NOTHING)
        candidates = self._insert.node(home, "Where", equal, code, nothing)
        clone = self._clone(home, reduction)
        clone.input[0] = candidates
        clone.output[:] = [self._insert.name()]
        return str(clone.output[0])

    def _of_first_equal(self, home: GraphProto, node: NodeProto, codes: dict[str, str]) -> str:
        *others, last = node.input
        result = codes[last]
        for name in reversed(others):
            equal = self._insert.node(home, "Equal", name, node.output[0])
            result = self._insert.node(home, "Where", equal, codes[name], result)
        return result

    # Rule 3.

    def _of_branches(self, node: Node) -> list[str]:
        stored = self._spans.proto(node)[1]
        given = []
        for position, output in enumerate(node.outputs):
            if self._spans.of(output) is None:
                given.append("")
                continue
            for body in bodies(node):
                home = self._spans.home(body)
                code = self.code(home, body.outputs[position])
                # A name of its own: a graph gives out a tensor once.
                own = self._insert.node(home, "Identity", code)
                home.output.append(helper.make_tensor_value_info(own, TensorProto.FLOAT, None))
            given.append(self._insert.name())
            stored.output.append(given[-1])
        return given
