"""Codes: what neurons fire, as tensors inside the graph that go where the spikes go.

A code is a float32 tensor of the shape of the values it stands for: the signed number of spikes k
of each, exactly (``twins.py`` defines k). NaN stands for NaN.

1. MultiThresholdFire: its twin of threshold 1 sees X / theta. The kernel divides |X| by theta
   before all else, so it is the same arithmetic. The twin has one level more on each side that has
   any; what reaches it is clipped.
2. ScaleFire with one step: its twin gives k. With a step per channel the twin gives step * k / 256,
   which is divided by step / 256 and rounded: the quotient is within 0.01 of k.
   The code of an IntegrateFire, too, is its output divided by theta and rounded: the potential that
   it carries over depends on its own spikes, which a twin could not repeat with other levels.
3. Operators that only move or select values (``encode_edges.moves_values``) are repeated on the
   codes. Where the values decide what is selected, they still do: MaxPool says where the largest
   value is, and the code is taken from there; of GlobalMaxPool and ReduceMax it is that of the
   value that equals the result (the highest, of several), of Max and Min that of the first input
   that does. Where codes are in the order of the values, since the levels ascend and a channel has
   one step, MaxPool and GlobalMaxPool of the codes are the same and faster. Constants fire
   nothing: their code is 0.
4. The sum of two neurons of opposite polarity on one membrane potential, either multiplied by a
   constant (a LeakyRelu), has the sum of their codes: never do both fire.
5. What an If gives has the code that the branch taken gives.
6. All else has no code: it is analog.
7. The mean over all steps of spikes, and what Identity and Flatten make of it, has the code of the
   spikes, T times as many rows: an operator that is linear reads it, so each spike can be sent when
   it is fired. Only the mean that ``spatial_to_temporal.py`` makes is known as one.

A reader in a body gets its codes there, made anew where its spikes come from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper

from ...passes.analysis.edges import Carries, EdgeAnalysis
from ...passes.analysis.operators import moved, moves_values
from ...passes.graph.graph import (
    Graph,
    Node,
    Tensor,
    bodies,
    import_model,
    is_constant,
    is_standard,
    metadata,
    scopes,
)
from ...passes.graph.network import Network
from ...passes.lowering.spatial_to_temporal import INPUT_STEPS, OUTPUT, REPEATED, STANDS_FOR, TIME
from ...runtime_ops.definition import DOMAIN
from ...runtime_ops.integrate_fire import INTEGRATE_FIRE
from ...runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE
from ...runtime_ops.scale_fire import spikes_of_levels
from ..errors import ModelError
from .twins import Twins, attributes_of, raised_attributes

#: The name of the tensor that says what a neuron fires.
_OfNeuron: TypeAlias = Callable[[NodeProto], str]
#: What takes the mean over steps, in one stage or two; the last operator first.
_MEANS = (
    ("Reshape", "ReduceMean", "Reshape"),
    ("Reshape", "ReduceMean", "ReduceMean", "Reshape"),
)
#: Keeps a step times a number of spikes from overflowing; a power of two.
_UNIT = np.float32(256)
#: Take the largest value of each channel's windows.
_POOLS = ("MaxPool", "GlobalMaxPool")
#: Levels of which a quotient of float32 is nearer than 1/4.
_MOST_IN_STEP = 1 << 20
#: Below every k.
_NOTHING = -float(1 << 25)


@dataclass(frozen=True)
class Span:
    """What a tensor of spikes may hold.

    Attributes:
        low: the lowest k, at most 0.
        high: the highest, at least 0.
        neurons: names of the neurons that the spikes come from.
        timesteps: T, the most of any of them.
        averaged: it is the mean over the steps of what is counted, rule 7.
    """

    low: int
    high: int
    neurons: tuple[str, ...]
    timesteps: int = 1
    averaged: bool = False

    @property
    def levels(self) -> int:
        """Number of levels other than the silent one, N."""
        return self.high - self.low


class Codes:
    """Finds what tensors carry spikes, and makes their codes in the graphs of a model.

    Attributes:
        graph: the network, for analysis; nothing is added to it.
        analysis: what its tensors carry.
    """

    def __init__(self, twins: Twins) -> None:
        """Look at the model that ``twins`` adds to, before anything was added.

        Raises:
            ModelError: its inputs have an axis of timesteps.
        """
        self._twins = twins
        self.graph = import_model(Network(twins.proto, twins.weights))
        self._nodes: dict[int, tuple[GraphProto, NodeProto]] = {}
        self._homes: dict[int, GraphProto] = {}
        self._attach(self.graph, twins.proto.graph)
        if any(metadata(node).get(TIME) == INPUT_STEPS for node in self.graph.nodes):
            raise ModelError(
                "its inputs have an axis of timesteps, so that samples are not along axis 0; "
                "spikes are counted of networks compiled without --time-axis"
            )
        fired = {node.output[0] for _, node, _ in self.neurons()}
        self.analysis = EdgeAnalysis(self.graph, fired)
        self._spans: dict[int, Span | None] = {}
        self._timesteps = self._over_time()
        self._made: dict[tuple[int, str], str] = {}

    def proto(self, node: Node) -> tuple[GraphProto, NodeProto]:
        """The graph that a node is in, and the node, as they stand in the model."""
        return self._nodes[id(node)]

    def neurons(self) -> Iterator[tuple[GraphProto, NodeProto, Tensor]]:
        """Every neuron in order: the graph that it is in, and its output, for analysis."""
        for scope in scopes(self.graph):
            for node in scope.graph.nodes:
                if node.domain == DOMAIN:
                    yield *self.proto(node), node.outputs[0]

    def neuron_of(self, tensor: Tensor) -> NodeProto | None:
        """The neuron that writes the tensor itself."""
        producer = tensor.inputs[0] if tensor.inputs else None
        if producer is None or producer.domain != DOMAIN:
            return None
        return self.proto(producer)[1]

    def span_of(self, neuron: NodeProto) -> Span:
        """What a neuron may fire."""
        timesteps = 1
        if neuron.op_type in (MULTI_THRESHOLD_FIRE.name, INTEGRATE_FIRE.name):
            attributes = INTEGRATE_FIRE.defaults | attributes_of(neuron)
            low, high = -int(attributes["levels_neg"]), int(attributes["levels_pos"])
            timesteps = int(attributes["timesteps"])
        else:
            spikes = spikes_of_levels(self._twins.parameters(neuron)[2])
            low, high = int(spikes.min()), int(spikes.max())
        return Span(low, high, (neuron.name,), timesteps)

    def span(self, tensor: Tensor) -> Span | None:
        """What a tensor of spikes may hold; None where it is none."""
        if id(tensor) not in self._spans:
            self._spans[id(tensor)] = self._find_span(tensor)
        return self._spans[id(tensor)]

    def timesteps_of(self, tensor: Tensor) -> int:
        """How many steps a tensor of the main graph has rows for; 1 where it depends on none."""
        return self._timesteps.get(id(tensor), 1)

    def length_of(self, tensor: Tensor) -> str | int | None:
        """The length of axis 0, if it is known."""
        span = self.span(tensor)
        if not tensor.shape or span is None or span.averaged:
            return None
        return tensor.shape[0] or None

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether no signal is in the tensor."""
        return is_constant(tensor) or self.analysis.of(tensor) == Carries.CONSTANT

    def code(self, home: GraphProto, tensor: Tensor) -> str:
        """The code of a tensor that has a span, made in the graph ``home``: its name."""
        return self._view(home, tensor, "", lambda neuron: self._fired(home, neuron))

    def moved_along(
        self, home: GraphProto, tensor: Tensor, kind: str, given: Mapping[str, str]
    ) -> str:
        """Like the code, of other tensors that ascend with k, with 0 for silence.

        Args:
            home: the graph to make it in.
            tensor: all its spikes come from neurons in :meth:`sources`.
            kind: what it is, to make it only once.
            given: names of the tensors, by the outputs of the neurons.
        """
        return self._view(home, tensor, kind, lambda neuron: given[neuron.output[0]])

    def sources(self, tensor: Tensor) -> list[str]:
        """The neurons' outputs that a tensor is moved from; empty where it is more than that."""
        producer = tensor.inputs[0]
        if producer.domain == DOMAIN:
            return [str(tensor.name)]
        steps = self._steps_of_mean(tensor)
        if steps is not None:
            return self.sources(steps)
        if producer.op in ("If", "Add"):
            return []
        parts = [part for part in moved(producer) if not self.is_constant(part)]
        found = [self.sources(part) for part in parts]
        return [name for names in found for name in names] if all(found) else []

    def _view(self, home: GraphProto, tensor: Tensor, kind: str, of_neuron: _OfNeuron) -> str:
        key = (id(home), f"{tensor.name} {kind}")  # no name of a tensor: it has a blank
        if key not in self._made:
            producer = tensor.inputs[0]
            names = self._make(home, producer, kind, of_neuron)
            for output, name in zip(producer.outputs, names, strict=False):
                self._made[id(home), f"{output.name} {kind}"] = name
        return self._made[key]

    def raised(self, home: GraphProto, neuron: NodeProto) -> str:
        """The code of a neuron; a MultiThresholdFire's is one beyond its span where clipped.

        That of an IntegrateFire is not yet rounded.
        """
        key = (id(home), f"{neuron.output[0]} raised")
        if key not in self._made:
            make = self._of_scale_fire
            if neuron.op_type == MULTI_THRESHOLD_FIRE.name:
                make = self._of_multi_threshold_fire
            elif neuron.op_type == INTEGRATE_FIRE.name:
                make = self._of_integrate_fire
            self._made[key] = make(home, neuron)
        return self._made[key]

    def _attach(self, graph: Graph, proto: GraphProto) -> None:
        """Pair the nodes of a graph and its bodies with those of the model."""
        self._homes[id(graph)] = proto
        for node, stored in zip(graph.nodes, proto.node, strict=True):
            self._nodes[id(node)] = (proto, stored)
            for attribute in stored.attribute:
                if attribute.HasField("g"):
                    self._attach(node.attrs[attribute.name], attribute.g)

    def _find_span(self, tensor: Tensor) -> Span | None:
        producer = tensor.inputs[0] if tensor.inputs else None
        if producer is None:
            return None
        if producer.domain == DOMAIN:
            return self.span_of(self.proto(producer)[1])
        if not is_standard(producer):
            return None
        steps = self._steps_of_mean(tensor)
        if steps is not None:
            span = self.span(steps)
            return None if span is None else replace(span, averaged=True)
        if producer.op == "If":
            position = producer.outputs.index(tensor)
            parts = [body.outputs[position] for body in bodies(producer)]
        elif producer.op == "Add":
            parts = [neuron.outputs[0] for neuron in self._dual(producer)]
        elif moves_values(producer):
            parts = [part for part in moved(producer) if not self.is_constant(part)]
        else:
            return None
        spans = [self.span(part) for part in parts]
        known = [span for span in spans if span is not None]
        if not spans or len(known) < len(spans):
            return None
        averaged = any(span.averaged for span in known)
        if averaged and not _keeps_rows(producer):
            return None
        neurons = tuple(dict.fromkeys(name for span in known for name in span.neurons))
        low, high = min(s.low for s in known), max(s.high for s in known)
        return Span(low, high, neurons, max(s.timesteps for s in known), averaged)

    def _over_time(self) -> dict[int, int]:
        """By the tensor's id, of what depends on time."""
        found: dict[int, int] = {}
        most = [self.span_of(neuron).timesteps for _, neuron, _ in self.neurons()]
        for node in self.graph.nodes:
            time = metadata(node).get(TIME)
            steps = max((found.get(id(tensor), 1) for tensor in node.inputs), default=1)
            if time == REPEATED:
                steps = max(most, default=1)
            elif time == OUTPUT:
                steps = 1
            elif node.domain == DOMAIN:
                steps = max(steps, self.span_of(self.proto(node)[1]).timesteps)
            if steps > 1:
                found.update((id(tensor), steps) for tensor in node.outputs)
        return found

    def _steps_of_mean(self, tensor: Tensor) -> Tensor | None:
        """The spikes that a tensor is the mean of, rule 7: means between two Reshapes."""
        node = tensor.inputs[0]
        spikes = metadata(node).get(STANDS_FOR)
        if metadata(node).get(TIME) != OUTPUT or spikes is None:
            return None
        chain, source = [], tensor
        while node is not None and is_standard(node) and node.op in ("Reshape", "ReduceMean"):
            chain.append(node.op)
            source = node.inputs[0]
            node = source.inputs[0] if source.inputs else None
        if tuple(chain) not in _MEANS or node is None:
            return None
        fires = node.op == INTEGRATE_FIRE.name and node.domain == DOMAIN
        return source if fires and source.name == spikes else None

    def _make(self, home: GraphProto, producer: Node, kind: str, of_neuron: _OfNeuron) -> list[str]:
        """The codes of a node's outputs."""
        if producer.domain == DOMAIN:
            return [of_neuron(self.proto(producer)[1])]
        if producer.op == "If":
            return self._of_branches(producer)
        steps = self._steps_of_mean(producer.outputs[0])
        if steps is not None:
            return [self._view(home, steps, kind, of_neuron)]
        if producer.op == "Add":
            codes = [self.code(home, neuron.outputs[0]) for neuron in self._dual(producer)]
            return [self._twins.node(home, "Add", *codes)]
        names = {}
        for part in moved(producer):
            if self.is_constant(part):  # it fires nothing
                names[part.name] = self._twins.node(home, "Sub", part.name, part.name)
            else:
                names[part.name] = self._view(home, part, kind, of_neuron)
        return self._repeated(home, producer, names)

    # Rules 1 and 2.

    def _of_multi_threshold_fire(self, home: GraphProto, neuron: NodeProto) -> str:
        twins = self._twins
        (theta,) = twins.parameters(neuron)
        attributes = raised_attributes(neuron)
        scaled = self.divided(home, neuron, neuron.input[0], theta)
        one = twins.constant(home, 1.0)
        return twins.neuron(home, neuron.op_type, scaled, one, **attributes)

    def _of_scale_fire(self, home: GraphProto, neuron: NodeProto) -> str:
        twins = self._twins
        scale, _, levels = twins.parameters(neuron)
        spikes = spikes_of_levels(levels)
        if scale.size == 1:
            return twins.of_scale_fire(home, neuron, spikes)
        scaled = twins.scaled_staircase(home, neuron, neuron.input[2], spikes / _UNIT)
        return twins.node(home, "Round", self.divided(home, neuron, scaled, scale / _UNIT))

    def _of_integrate_fire(self, home: GraphProto, neuron: NodeProto) -> str:
        span = self.span_of(neuron)
        if max(-span.low, span.high) > _MOST_IN_STEP:
            raise ModelError(
                f"{neuron.op_type} '{neuron.name}' has more than {_MOST_IN_STEP} levels per "
                "timestep, too many to count"
            )
        (theta,) = self._twins.parameters(neuron)
        return self.divided(home, neuron, neuron.output[0], theta)

    def divided(self, home: GraphProto, neuron: NodeProto, tensor: str, steps: np.ndarray) -> str:
        """``tensor`` of the neuron's shape, divided by a step or by one for each channel."""
        twins = self._twins
        if steps.size == 1:
            return twins.node(home, "Div", tensor, twins.constant(home, steps.reshape(())))
        axis = (MULTI_THRESHOLD_FIRE.defaults | attributes_of(neuron))["axis"]
        # [C, 1, ..., 1], with as many dimensions as X has from the axis on.
        tail = twins.node(home, "Shape", tensor, start=int(axis))
        first, last = (twins.constant(home, [end], np.int64) for end in (1, np.iinfo(np.int64).max))
        trailing = twins.node(home, "Shape", twins.node(home, "Slice", tail, first, last))
        one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
        ones = twins.node(home, "ConstantOfShape", trailing, value=one)
        channels = twins.constant(home, [steps.size], np.int64)
        shape = twins.node(home, "Concat", channels, ones, axis=0)
        held = twins.constant(home, steps)
        return twins.node(home, "Div", tensor, twins.node(home, "Reshape", held, shape))

    def _fired(self, home: GraphProto, neuron: NodeProto) -> str:
        """The code of a neuron, what is clipped at its outermost level."""
        raised = self.raised(home, neuron)
        if neuron.op_type == INTEGRATE_FIRE.name:
            return self._twins.node(home, "Round", raised)
        if neuron.op_type != MULTI_THRESHOLD_FIRE.name:
            return raised
        span = self.span_of(neuron)
        bounds = [self._twins.constant(home, float(k)) for k in (span.low, span.high)]
        return self._twins.node(home, "Clip", raised, *bounds)

    # Rule 3.

    def _repeated(self, home: GraphProto, node: Node, codes: dict[str, str]) -> list[str]:
        """A moving operator on codes: the names of its outputs."""
        stored = self.proto(node)[1]
        in_order = stored.op_type in _POOLS and self._in_order(node.inputs[0])
        if stored.op_type == "MaxPool" and not in_order:
            return [self._at_maxima(home, stored, codes[stored.input[0]])]
        if stored.op_type in ("GlobalMaxPool", "ReduceMax") and not in_order:
            return [self._at_maximum(home, stored, codes[stored.input[0]])]
        if stored.op_type in ("Max", "Min"):
            return [self._of_first_equal(home, stored, codes)]
        first_alone = stored.op_type != "Concat"
        clone = self._clone(home, stored)
        for position, name in enumerate(stored.input):
            if name in codes and (position == 0 or not first_alone):
                clone.input[position] = codes[name]
        outputs = stored.output if stored.op_type == "Split" else stored.output[:1]
        del clone.output[:]
        clone.output.extend(self._twins.name() for _ in outputs)
        return list(clone.output)

    def _clone(self, home: GraphProto, stored: NodeProto) -> NodeProto:
        clone: NodeProto = home.node.add()
        clone.CopyFrom(stored)
        clone.name = self._twins.name()
        return clone

    def _in_order(self, tensor: Tensor) -> bool:
        """Whether in each channel, axis 1, a higher value always has a higher code."""
        node = tensor.inputs[0] if tensor.inputs else None
        if node is None:
            return False
        if node.domain != DOMAIN:
            joins = node.op == "Concat" and node.attrs.get("axis") == 1
            pools = node.op in _POOLS and is_standard(node)
            return (joins or pools) and all(self._in_order(part) for part in moved(node))
        neuron = self.proto(node)[1]
        step, *tables = self._twins.parameters(neuron)
        if step.size > 1 and attributes_of(neuron).get("axis", 1) != 1:
            return False
        return not tables or bool(np.all(np.diff(tables[1]) > 0))

    def _at_maxima(self, home: GraphProto, pool: NodeProto, code: str) -> str:
        positions = self._twins.name()
        clone = self._clone(home, pool)
        clone.output[:] = [self._twins.name(), positions]
        kept = [a for a in clone.attribute if a.name != "storage_order"]
        del clone.attribute[:]
        clone.attribute.extend(kept)
        everything = self._twins.constant(home, [-1], np.int64)
        flat = self._twins.node(home, "Reshape", code, everything)
        return self._twins.node(home, "Gather", flat, positions)

    def _at_maximum(self, home: GraphProto, reduction: NodeProto, code: str) -> str:
        largest = self._clone(home, reduction)
        largest.output[:] = [self._twins.name()]
        if reduction.op_type == "ReduceMax":
            kept = [a for a in largest.attribute if a.name != "keepdims"]
            del largest.attribute[:]
            largest.attribute.extend([*kept, helper.make_attribute("keepdims", 1)])
        equal = self._twins.node(home, "Equal", reduction.input[0], largest.output[0])
        nothing = self._twins.constant(home, _NOTHING)
        candidates = self._twins.node(home, "Where", equal, code, nothing)
        clone = self._clone(home, reduction)
        clone.input[0] = candidates
        clone.output[:] = [self._twins.name()]
        return str(clone.output[0])

    def _of_first_equal(self, home: GraphProto, node: NodeProto, codes: dict[str, str]) -> str:
        *others, last = node.input
        result = codes[last]
        for name in reversed(others):
            equal = self._twins.node(home, "Equal", name, node.output[0])
            result = self._twins.node(home, "Where", equal, codes[name], result)
        return result

    # Rule 4.

    def _dual(self, add: Node) -> list[Node]:
        """The two neurons that rule 4 speaks of; empty where it does not apply."""
        neurons = [self._weighted_neuron(tensor) for tensor in add.inputs]
        found = [neuron for neuron in neurons if neuron is not None]
        if len(found) < 2 or found[0].inputs[0] is not found[1].inputs[0]:
            return []
        one, other = (self.proto(neuron)[1] for neuron in found)
        if self._fires_only(one, positive=True) and self._fires_only(other, positive=False):
            return found
        if self._fires_only(one, positive=False) and self._fires_only(other, positive=True):
            return found
        return []

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
        if neuron.op_type == MULTI_THRESHOLD_FIRE.name:
            attributes = MULTI_THRESHOLD_FIRE.defaults | attributes_of(neuron)
            return not attributes["levels_neg" if positive else "levels_pos"]
        _, thresholds, levels = self._twins.parameters(neuron)
        spikes = spikes_of_levels(levels)
        fires = np.flatnonzero(spikes)
        if positive:  # level i is reached at threshold i - 1
            return bool(len(fires) == 0 or (fires[0] > 0 and thresholds[fires[0] - 1] > 0))
        return bool(len(fires) == 0 or (fires[-1] < len(thresholds) and thresholds[fires[-1]] <= 0))

    # Rule 5.

    def _of_branches(self, node: Node) -> list[str]:
        stored = self.proto(node)[1]
        given = []
        for position, output in enumerate(node.outputs):
            if self.span(output) is None:
                given.append("")
                continue
            for body in bodies(node):
                home = self._homes[id(body)]
                code = self.code(home, body.outputs[position])
                # A name of its own: a graph gives out a tensor once.
                own = self._twins.node(home, "Identity", code)
                home.output.append(helper.make_tensor_value_info(own, TensorProto.FLOAT, None))
            given.append(self._twins.name())
            stored.output.append(given[-1])
        return given


def _keeps_rows(node: Node) -> bool:
    """Whether a moving operator does the same, however many rows there are."""
    return node.op == "Identity" or bool(node.op == "Flatten" and node.attrs.get("axis", 1) == 1)
