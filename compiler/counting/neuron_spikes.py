"""What counts as a spike, and tensors inside the graph that tell what a neuron fires.

The spikes of a value are a signed number k. For a neuron at its i-th level of i = 0, 1, ...:

1. MultiThresholdFire, IntegrateFire: k is the signed number of thresholds that its output is made
   of.
2. ScaleFire: k = i - i0, the levels between this one and the silent one, which is the one nearest
   to 0 (the first of several). Where a level has the silent one's value, k = 0: nothing is sent
   (``scale_fire.spikes_of_levels``).

A value is silent if k = 0. It is clipped if one level more would have changed it; of
MultiThresholdFire only, since the outer levels of a ScaleFire have no end, and an IntegrateFire
carries over what it did not fire.

A tensor tells k in one of two ways:

3. Its values are those that the neuron gave, wherever they were moved to (:class:`Levels`): divided
   by the step where each channel has one. Levels have to ascend, 2^-18 of the largest apart.
4. It is a code: a float32 tensor of the shape of the values it stands for that holds k, exactly,
   and NaN for NaN.
   - MultiThresholdFire: another one, of threshold 1, sees X / theta. The kernel divides |X| by
     theta before all else, so it is the same arithmetic. It has one level more on each side that
     has any; what reaches it is clipped.
   - ScaleFire: another one gives step * k / 256, which is divided by step / 256 and rounded: the
     quotient is within 0.01 of k.
   - IntegrateFire: its output is divided by theta and rounded. The potential that it carries over
     depends on its own spikes, which no other neuron could repeat with other levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper

from ...passes.graph.protos import attributes_of, nodes_with_graphs
from ...runtime_ops.definition import DOMAIN, MAX_LEVELS
from ...runtime_ops.integrate_fire import INTEGRATE_FIRE
from ...runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE
from ...runtime_ops.scale_fire import MAX_THRESHOLDS, SCALE_FIRE, spikes_of_levels
from .insertion import Insertion

#: Least distance of levels, of the largest one: far more than is lost by a product and a quotient.
_APART = 2.0**-18
#: Keeps a step times a number of spikes from overflowing; a power of two.
_UNIT = np.float32(256)


@dataclass(frozen=True)
class Span:
    """What a tensor of spikes may hold.

    Attributes:
        low: the lowest k, at most 0.
        high: the highest, at least 0.
        neurons: names of the neurons that the spikes come from.
        timesteps: T, the most of any of them.
        averaged: it is the mean over the steps of what is counted (``spans.py``).
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


@dataclass(frozen=True)
class Levels:
    """A tensor that has a value of its own for each level, up to rounding.

    Attributes:
        tensor: its name.
        values: float64 [levels], ascending; at most as many as a ScaleFire has.
        k: int64 [levels], the spikes that each one stands for; one beyond the span where clipped.
    """

    tensor: str
    values: np.ndarray
    k: np.ndarray

    def map(self, insert: Insertion, home: GraphProto, results: np.ndarray) -> str:
        """A tensor that holds one of ``results`` [levels] instead, made in the graph ``home``."""
        between = (self.values[1:] + self.values[:-1]) / 2
        return insert.staircase(home, self.tensor, between, results)


class NeuronSpikes:
    """Makes the tensors that tell what neurons fire."""

    def __init__(self, insert: Insertion) -> None:
        self._insert = insert
        self._made: dict[tuple[str, int, str], str] = {}

    def span(self, neuron: NodeProto) -> Span:
        """What a neuron may fire."""
        timesteps = 1
        if neuron.op_type == SCALE_FIRE.name:
            spikes = spikes_of_levels(self._insert.parameters(neuron)[2])
            low, high = int(spikes.min()), int(spikes.max())
        else:
            attributes = INTEGRATE_FIRE.defaults | attributes_of(neuron)
            low, high = -int(attributes["levels_neg"]), int(attributes["levels_pos"])
            timesteps = int(attributes["timesteps"])
        return Span(low, high, (neuron.name,), timesteps)

    def levels(self, home: GraphProto, neuron: NodeProto) -> Levels | None:
        """What tells a neuron's levels apart, also those that are clipped; None: too many."""
        if neuron.op_type == MULTI_THRESHOLD_FIRE.name:
            span = self.span(neuron)
            low, high = span.low - (span.low < 0), span.high + (span.high > 0)
            if high - low > MAX_THRESHOLDS:
                return None
            return levels_of_code(self._raised(home, neuron), low, high)
        moved = self.levels_in(home, neuron, neuron.output[0])
        if moved is not None:
            return moved
        span = self.span(neuron)
        if span.levels > MAX_THRESHOLDS:
            return None
        return levels_of_code(self.code(home, neuron), span.low, span.high)

    def levels_in(self, home: GraphProto, neuron: NodeProto, tensor: str) -> Levels | None:
        """What tells them apart in a tensor that holds values which the neuron gave, rule 3.

        Args:
            home: the graph to make it in.
            neuron: of one step, or the tensor has its channels along the same axis.
            tensor: its name.
        """
        step, *tables = self._insert.parameters(neuron)
        span = self.span(neuron)
        if span.levels > MAX_THRESHOLDS:
            return None
        k = spikes_of_levels(tables[1]) if tables else _ascending(span.low, span.high)
        levels = (tables[1] if tables else k).astype(np.float64)
        if np.any(np.diff(levels) < _APART * np.abs(levels).max()):
            return None
        if step.size == 1:
            return Levels(tensor, levels * float(step.reshape(())), k)
        return Levels(self._divided(home, neuron, tensor, step), levels, k)

    def code(self, home: GraphProto, neuron: NodeProto) -> str:
        """The code of a neuron, made in the graph ``home``: its name."""
        key = "code", id(home), neuron.output[0]
        if key not in self._made:
            self._made[key] = self._make_code(home, neuron)
        return self._made[key]

    def clipped(self, home: GraphProto, neuron: NodeProto) -> str:
        """A tensor that is 0 where a MultiThresholdFire's value is not clipped."""
        raised, code = self._raised(home, neuron), self.code(home, neuron)
        return self._insert.node(home, "Sub", raised, code)

    def _make_code(self, home: GraphProto, neuron: NodeProto) -> str:
        insert, span = self._insert, self.span(neuron)
        if neuron.op_type == MULTI_THRESHOLD_FIRE.name:
            bounds = [insert.constant(home, float(k)) for k in (span.low, span.high)]
            return insert.node(home, "Clip", self._raised(home, neuron), *bounds)
        (step, *tables), given = insert.parameters(neuron), neuron.output[0]
        if tables:
            levels = insert.constant(home, spikes_of_levels(tables[1]) / _UNIT)
            axis = {name: a for name, a in attributes_of(neuron).items() if name == "axis"}
            given = insert.neuron(home, neuron.op_type, *neuron.input[:3], levels, **axis)
            step = step / _UNIT
        return insert.node(home, "Round", self._divided(home, neuron, given, step))

    def _raised(self, home: GraphProto, neuron: NodeProto) -> str:
        """The code of a MultiThresholdFire, one beyond its span where clipped."""
        key = "raised", id(home), neuron.output[0]
        if key not in self._made:
            (theta,) = self._insert.parameters(neuron)
            attributes = MULTI_THRESHOLD_FIRE.defaults | attributes_of(neuron)
            for side in ("levels_pos", "levels_neg"):
                # A side without levels is cut off by the function, it does not saturate.
                attributes[side] = min(attributes[side] + (attributes[side] > 0), MAX_LEVELS)
            scaled = self._divided(home, neuron, neuron.input[0], theta)
            one = self._insert.constant(home, 1.0)
            self._made[key] = self._insert.neuron(home, neuron.op_type, scaled, one, **attributes)
        return self._made[key]

    def _divided(self, home: GraphProto, neuron: NodeProto, tensor: str, step: np.ndarray) -> str:
        """``tensor`` of the neuron's shape, divided by a step or by one for each channel."""
        insert = self._insert
        if step.size == 1:
            return insert.node(home, "Div", tensor, insert.constant(home, step.reshape(())))
        key = f"divided by the steps of {neuron.output[0]}", id(home), tensor
        if key not in self._made:
            axis = (MULTI_THRESHOLD_FIRE.defaults | attributes_of(neuron))["axis"]
            # [C, 1, ..., 1], with as many dimensions as X has from the axis on.
            tail = insert.node(home, "Shape", tensor, start=int(axis))
            ends = 1, np.iinfo(np.int64).max
            first, last = (insert.constant(home, [end], np.int64) for end in ends)
            trailing = insert.node(home, "Shape", insert.node(home, "Slice", tail, first, last))
            one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
            ones = insert.node(home, "ConstantOfShape", trailing, value=one)
            channels = insert.constant(home, [step.size], np.int64)
            shape = insert.node(home, "Concat", channels, ones, axis=0)
            aligned = insert.node(home, "Reshape", insert.constant(home, step), shape)
            self._made[key] = insert.node(home, "Div", tensor, aligned)
        return self._made[key]


def levels_of_code(code: str, low: int, high: int) -> Levels:
    """What tells the levels of a code with these k apart."""
    k = _ascending(low, high)
    return Levels(code, k.astype(np.float64), k)


def neurons_with_graphs(graph: GraphProto) -> list[tuple[GraphProto, NodeProto]]:
    """Each neuron and the graph or body that it is in; nodes may be added meanwhile."""
    return [(home, node) for home, node in nodes_with_graphs(graph) if node.domain == DOMAIN]


def _ascending(low: int, high: int) -> np.ndarray:
    """Each k, two at least: a ScaleFire that tells them apart has a threshold."""
    return np.arange(low, max(high, low + 1) + 1)
