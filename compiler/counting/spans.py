"""Spans: which tensors of a network carry spikes, and whose.

1. What a neuron writes carries its spikes.
2. Operators that only move or select values (``edges.moves_values``) pass them on. Constants that
   they join to them fire nothing.
3. The sum of two neurons of opposite polarity on one membrane potential, either multiplied by a
   constant (a LeakyRelu), carries the spikes of both: never do both fire.
4. What an If gives carries what the branch taken gives.
5. The mean over all steps of spikes, and what Identity and Flatten make of it, stands for the
   spikes, T times as many rows: an operator that is linear reads it, so each spike can be sent when
   it is fired. Only the mean that ``spatial_to_temporal.py`` makes is known as one.
6. All else is analog.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from onnx import GraphProto, NodeProto

from ...passes.analysis.edges import Carries, EdgeAnalysis
from ...passes.analysis.operators import moved, moves_values
from ...passes.graph.graph import (
    Graph,
    Node,
    Tensor,
    bodies,
    is_constant,
    is_standard,
    metadata,
    paired_scopes,
    scopes,
)
from ...passes.graph.network import Network
from ...passes.graph.surgeon import import_model
from ...passes.lowering.time_nodes import INPUT_STEPS, OUTPUT, REPEATED, STANDS_FOR, TIME
from ...runtime_ops.definition import DOMAIN
from ...runtime_ops.integrate_fire import INTEGRATE_FIRE
from ...runtime_ops.staircase_fire import STAIRCASE_FIRE, cell_of, spikes_of_levels
from ..errors import ModelError
from .insertion import Insertion
from .neuron_spikes import NeuronSpikes, Span, all_attributes

#: What takes the mean over steps, in one stage or two; the last operator first.
_MEANS = (
    ("Reshape", "ReduceMean", "Reshape"),
    ("Reshape", "ReduceMean", "ReduceMean", "Reshape"),
)
#: Take the largest value of each channel's windows; channels are axis 1.
_POOLS = ("MaxPool", "GlobalMaxPool")
#: Levels of an IntegrateFire of which a quotient of float32 is nearer than 1/4.
_MOST_IN_STEP = 1 << 20


class Spans:
    """Finds the tensors that carry spikes.

    Attributes:
        graph: the network, for analysis; nothing is added to it.
        analysis: what its tensors carry.
    """

    def __init__(self, insert: Insertion, neurons: NeuronSpikes) -> None:
        """Look at the model that ``insert`` adds to, before anything was added.

        Raises:
            ModelError: its inputs have an axis of timesteps, or a neuron has too many levels.
        """
        self._insert, self._of_neurons = insert, neurons
        self.graph = import_model(Network(insert.proto, insert.weights))
        self._nodes: dict[int, tuple[GraphProto, NodeProto]] = {}
        self._homes: dict[int, GraphProto] = {}
        self._attach(self.graph, insert.proto.graph)
        if any(metadata(node).get(TIME) == INPUT_STEPS for node in self.graph.nodes):
            raise ModelError(
                "its inputs have an axis of timesteps, so that samples are not along axis 0; "
                "spikes are counted of networks compiled without --time-axis"
            )
        found = list(self.neurons())
        for _, neuron, _ in found:
            self._check(neuron)
        self.analysis = EdgeAnalysis(self.graph, {neuron.output[0] for _, neuron, _ in found})
        self._spans: dict[int, Span | None] = {}
        self._timesteps = self._over_time()

    def proto(self, node: Node) -> tuple[GraphProto, NodeProto]:
        """The graph that a node is in, and the node, as they stand in the model."""
        return self._nodes[id(node)]

    def home(self, graph: Graph) -> GraphProto:
        """A graph or body as it stands in the model."""
        return self._homes[id(graph)]

    def neurons(self) -> Iterator[tuple[GraphProto, NodeProto, Tensor]]:
        """Every neuron in order: the graph that it is in, and its output, for analysis."""
        for scope in scopes(self.graph):
            for node in scope.graph.nodes:
                if node.domain == DOMAIN:
                    yield *self.proto(node), node.outputs[0]

    def of(self, tensor: Tensor) -> Span | None:
        """What a tensor of spikes may hold; None where it is none."""
        if id(tensor) not in self._spans:
            self._spans[id(tensor)] = self._find(tensor)
        return self._spans[id(tensor)]

    def neuron_of(self, tensor: Tensor) -> NodeProto | None:
        """The neuron whose values a tensor holds, moved; None: of several, or of other channels."""
        producer = tensor.inputs[0] if tensor.inputs else None
        if producer is None:
            return None
        if producer.domain == DOMAIN:
            return self.proto(producer)[1]
        parts = moved(producer) if moves_values(producer) else []
        neuron = self.neuron_of(parts[0]) if len(parts) == 1 else None
        if neuron is None:
            return None
        step, axis = self._insert.parameters(neuron)[0], all_attributes(neuron)["axis"]
        if step.ndim > 1:  # channels lie as they should
            axis = len(tensor.shape or ()) - step.ndim + int(np.argmax(step.shape))
        return neuron if step.size == 1 or (producer.op in _POOLS and axis == 1) else None

    def timesteps_of(self, tensor: Tensor) -> int:
        """How many steps a tensor of the main graph has rows for; 1 where it depends on none."""
        return self._timesteps.get(id(tensor), 1)

    def length_of(self, tensor: Tensor) -> str | int | None:
        """The length of axis 0, if it is known."""
        span = self.of(tensor)
        if not tensor.shape or span is None or span.averaged:
            return None
        return tensor.shape[0] or None

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether no signal is in the tensor."""
        return is_constant(tensor) or self.analysis.of(tensor) == Carries.CONSTANT

    def averaged(self, tensor: Tensor) -> Tensor | None:
        """The spikes that a tensor is the mean of, rule 5: means between two Reshapes."""
        node = tensor.inputs[0]
        spikes = metadata(node).get(STANDS_FOR)
        if metadata(node).get(TIME) != OUTPUT or spikes is None:
            return None
        chain, source = [], tensor
        while is_standard(node) and node.op in ("Reshape", "ReduceMean"):
            chain.append(node.op)
            source = node.inputs[0]
            if not source.inputs:
                return None
            node = source.inputs[0]
        if tuple(chain) not in _MEANS:
            return None
        fires = node.op == INTEGRATE_FIRE.name and node.domain == DOMAIN
        return source if fires and source.name == spikes else None

    def polarities(self, add: Node) -> list[Node]:
        """The two neurons that rule 3 speaks of; empty where it does not apply."""
        neurons = [self._weighted_neuron(tensor) for tensor in add.inputs]
        found = [neuron for neuron in neurons if neuron is not None]
        if len(found) < 2 or found[0].inputs[0] is not found[1].inputs[0]:
            return []
        one, other = (self.proto(neuron)[1] for neuron in found)
        for first, second in ((one, other), (other, one)):
            if self._fires_only(first, positive=True) and self._fires_only(second, positive=False):
                return found
        return []

    def _attach(self, graph: Graph, proto: GraphProto) -> None:
        """Pair the nodes of a graph and its bodies with those of the model."""
        for scope, home in paired_scopes(graph, proto):
            self._homes[id(scope)] = home
            for node, stored in zip(scope.nodes, home.node, strict=True):
                self._nodes[id(node)] = (home, stored)

    def _check(self, neuron: NodeProto) -> None:
        span = self._of_neurons.span(neuron)
        if neuron.op_type == INTEGRATE_FIRE.name and max(-span.low, span.high) > _MOST_IN_STEP:
            raise ModelError(
                f"{neuron.op_type} '{neuron.name}' has more than {_MOST_IN_STEP} levels per "
                "timestep, too many to count"
            )

    def _find(self, tensor: Tensor) -> Span | None:
        producer = tensor.inputs[0] if tensor.inputs else None
        if producer is None:
            return None
        if producer.domain == DOMAIN:
            return self._of_neurons.span(self.proto(producer)[1])
        if not is_standard(producer):
            return None
        steps = self.averaged(tensor)
        if steps is not None:
            span = self.of(steps)
            return None if span is None else replace(span, averaged=True)
        if producer.op == "If":
            position = producer.outputs.index(tensor)
            parts = [body.outputs[position] for body in bodies(producer)]
        elif producer.op == "Add":
            parts = [neuron.outputs[0] for neuron in self.polarities(producer)]
        elif moves_values(producer):
            parts = [part for part in moved(producer) if not self.is_constant(part)]
        else:
            return None
        spans = [self.of(part) for part in parts]
        known = [span for span in spans if span is not None]
        if not spans or len(known) < len(spans):
            return None
        averaged = any(span.averaged for span in known)
        if averaged and not _keeps_rows(producer):
            return None
        names = tuple(dict.fromkeys(name for span in known for name in span.neurons))
        below, above = (max(s.levels[side] for s in known) for side in (0, 1))
        return Span(
            min(s.low for s in known),
            max(s.high for s in known),
            (below, above),
            names,
            max(s.timesteps for s in known),
            averaged,
        )

    def _over_time(self) -> dict[int, int]:
        """By the tensor's id, of what depends on time."""
        found: dict[int, int] = {}
        every = [self._of_neurons.span(neuron).timesteps for _, neuron, _ in self.neurons()]
        for node in self.graph.nodes:
            time = metadata(node).get(TIME)
            steps = max((found.get(id(tensor), 1) for tensor in node.inputs), default=1)
            if time == REPEATED:
                steps = max(every, default=1)
            elif time == OUTPUT:
                steps = 1
            elif node.domain == DOMAIN:
                steps = max(steps, self._of_neurons.span(self.proto(node)[1]).timesteps)
            if steps > 1:
                found.update((id(tensor), steps) for tensor in node.outputs)
        return found

    def _weighted_neuron(self, tensor: Tensor) -> Node | None:
        """The neuron that writes a tensor, up to a factor that is constant."""
        producer = tensor.inputs[0] if tensor.inputs else None
        if producer is not None and producer.op == "Mul" and is_standard(producer):
            factors = [t for t in producer.inputs if not self.is_constant(t)]
            if len(factors) != 1 or not factors[0].inputs:
                return None
            producer = factors[0].inputs[0]
        return producer if producer is not None and producer.domain == DOMAIN else None

    def _fires_only(self, neuron: NodeProto, positive: bool) -> bool:
        """Whether a neuron is silent on one side of 0."""
        if neuron.op_type != STAIRCASE_FIRE.name:
            span = self._of_neurons.span(neuron)
            return not (span.low if positive else span.high)
        _, table = self._insert.parameters(neuron)
        grid = all_attributes(neuron)
        at_0 = int(cell_of(0.0, 1.0, grid["density"], grid["start"], len(table)))
        silent = spikes_of_levels(table) == 0
        return bool(silent[: at_0 + 1].all() if positive else silent[at_0:].all())


def _keeps_rows(node: Node) -> bool:
    """Whether a moving operator does the same, however many rows there are."""
    return node.op == "Identity" or bool(node.op == "Flatten" and node.attrs.get("axis", 1) == 1)
