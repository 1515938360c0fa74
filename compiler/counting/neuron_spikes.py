"""What counts as a spike, and tensors inside the graph that tell what a neuron fires.

The spikes of a value are a signed number k of unit spikes:

1. MultiThresholdFire, IntegrateFire: the signed number of thresholds that its output is made of.
2. ScaleFire, DualScaleFire: K, its output in units of the scale.
3. StaircaseFire: the distance of its level from the silent one, the level nearest to 0, as a
   multiple of the smallest step, rounded (``staircase_fire.spikes_of_levels``).

A value is silent if k = 0. It is clipped if one level more would have changed it; that is counted
of MultiThresholdFire only.

Inside the graph k is told in one of two ways:

4. By a grid (:class:`Grid`), where there are up to 4,096 k from the lowest to the highest: a
   StaircaseFire of scale 1 looks up what is wanted. It sees the values that the neuron gave,
   wherever they were moved to, in cells of one unit around each k. A StaircaseFire's own potential
   is seen on its own grid, so that the same cell is found; values of it that were moved, in cells
   half as wide as the smallest step, each for the level next to its middle.
5. By a code: a float32 tensor of the shape of the values it stands for that holds k, exactly, and
   NaN for NaN. It is the output itself where the step is 1, and else
   - of a MultiThresholdFire what another one, of threshold 1, makes of X / theta. The kernel
     divides by theta before all else, so it is the same arithmetic. It has one level more on each
     side that has any; what reaches it is clipped;
   - of a ScaleFire what another one, of scale 1, makes of Y / scale: far nearer to K than to any
     other level;
   - of a StaircaseFire what the grid looks up;
   - of an IntegrateFire Y / theta, rounded. The potential that it carries over depends on its own
     spikes, which no other neuron could repeat with other levels.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper

from ...passes.graph.protos import attributes_of, nodes_with_graphs
from ...runtime_ops.definition import DOMAIN, MAX_LEVELS
from ...runtime_ops.integrate_fire import INTEGRATE_FIRE
from ...runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE
from ...runtime_ops.operators import OPERATORS
from ...runtime_ops.scale_fire import octave_levels
from ...runtime_ops.staircase_fire import MAX_CELLS, STAIRCASE_FIRE, spikes_of_levels
from .insertion import Insertion

_DEFAULTS = {operator.name: operator.defaults for operator in OPERATORS}
#: Steps whose multiples and reciprocal are ordinary numbers lie between this and its reciprocal.
_LARGEST_STEP = 2.0**60


@dataclass(frozen=True)
class Span:
    """What a tensor of spikes may hold.

    Attributes:
        low: the lowest k, at most 0.
        high: the highest, at least 0.
        levels: how many levels there are below and above the silent one, of the neuron with the
            most.
        neurons: names of the neurons that the spikes come from.
        timesteps: T, the most of any of them.
        averaged: it is the mean over the steps of what is counted (``spans.py``).
    """

    low: int
    high: int
    levels: tuple[int, int]
    neurons: tuple[str, ...]
    timesteps: int = 1
    averaged: bool = False

    @property
    def width(self) -> int:
        """How many k there are from the lowest to the highest."""
        return self.high - self.low + 1


@dataclass(frozen=True)
class Grid:
    """Cells of a uniform grid over the values of a tensor that tell its spikes.

    Attributes:
        tensor: its name.
        density: cells per unit of its values.
        start: where the first one begins, in cells.
        k: int64 [cells], at most as many as a StaircaseFire has.
    """

    tensor: str
    density: float
    start: float
    k: np.ndarray

    def map(self, insert: Insertion, home: GraphProto, results: np.ndarray) -> str:
        """A tensor that holds one of ``results`` [cells] instead, made in the graph ``home``."""
        return insert.staircase(home, self.tensor, self.density, self.start, results)


class NeuronSpikes:
    """Makes the tensors that tell what neurons fire."""

    def __init__(self, insert: Insertion) -> None:
        self._insert = insert
        self._made: dict[tuple[str, int, str], str] = {}

    def levels(self, neuron: NodeProto) -> Sequence[int]:
        """The k of each level of a neuron, ascending."""
        attributes = all_attributes(neuron)
        if neuron.op_type == STAIRCASE_FIRE.name:
            k = spikes_of_levels(np.unique(self._insert.parameters(neuron)[1]))
        elif "linear" in attributes:
            tops = (attributes[name] for name in ("top_neg", "top_pos"))
            below, above = (octave_levels(attributes["linear"], top) for top in tops)
            k = np.concatenate([-below[:0:-1], above]).astype(np.int64)
        else:
            return range(-attributes["levels_neg"], attributes["levels_pos"] + 1)
        return [int(level) for level in k]

    def span(self, neuron: NodeProto) -> Span:
        """What a neuron may fire."""
        k, timesteps = self.levels(neuron), all_attributes(neuron).get("timesteps", 1)
        sides = bisect_left(k, 0), len(k) - bisect_right(k, 0)
        return Span(k[0], k[-1], sides, (neuron.name,), timesteps)

    def grid(self, home: GraphProto, neuron: NodeProto, tensor: str) -> Grid | None:
        """What tells the spikes of a tensor that holds values which a neuron gave, rule 4.

        Args:
            home: the graph to make it in.
            neuron: of one step, or the tensor has its channels along the same axis.
            tensor: its name.
        """
        span, (step, *table) = self.span(neuron), self._insert.parameters(neuron)
        if span.width > MAX_CELLS:
            return None
        if table and tensor == neuron.output[0]:
            return self._own_grid(home, neuron)
        cells = _cells_of_levels(table[0]) if table else _cells_of_multiples(span)
        if cells is None:
            return None
        density, start, k = cells
        if _is_plain(step):
            return Grid(tensor, density / float(step.reshape(())), start, k)
        return Grid(self._by(home, neuron, "Div", tensor, step), density, start, k)

    def code(self, home: GraphProto, neuron: NodeProto) -> str:
        """The code of a neuron, made in the graph ``home``: its name."""
        key = "code", id(home), neuron.output[0]
        if key not in self._made:
            self._made[key] = self._make_code(home, neuron)
        return self._made[key]

    def watched(self, home: GraphProto, neuron: NodeProto) -> tuple[str, float]:
        """A tensor that holds multiples of a number, and the number; one k beyond where clipped."""
        step = self._insert.parameters(neuron)[0]
        if neuron.op_type == MULTI_THRESHOLD_FIRE.name:
            return self._raised(home, neuron), 1.0
        if neuron.op_type == STAIRCASE_FIRE.name or not _is_plain(step):
            return self.code(home, neuron), 1.0
        return neuron.output[0], float(step.reshape(()))

    def clipped(self, home: GraphProto, neuron: NodeProto) -> str:
        """A tensor that is 0 where a MultiThresholdFire's value is not clipped."""
        raised, code = self._raised(home, neuron), self.code(home, neuron)
        return self._insert.node(home, "Sub", raised, code)

    def _make_code(self, home: GraphProto, neuron: NodeProto) -> str:
        insert, given = self._insert, str(neuron.output[0])
        step = insert.parameters(neuron)[0]
        if neuron.op_type == STAIRCASE_FIRE.name:
            grid = self._own_grid(home, neuron)
            return grid.map(insert, home, grid.k)
        if np.all(step == 1):
            return given
        if neuron.op_type == MULTI_THRESHOLD_FIRE.name:
            span = self.span(neuron)
            bounds = [insert.constant(home, float(k)) for k in (span.low, span.high)]
            return insert.node(home, "Clip", self._raised(home, neuron), *bounds)
        scaled = self._by(home, neuron, "Div", given, step)
        if neuron.op_type == INTEGRATE_FIRE.name:
            return insert.node(home, "Round", scaled)
        return self._of_step_1(home, neuron, scaled, attributes_of(neuron))

    def _raised(self, home: GraphProto, neuron: NodeProto) -> str:
        """The code of a MultiThresholdFire, one beyond its span where clipped."""
        key = "raised", id(home), neuron.output[0]
        if key not in self._made:
            attributes = all_attributes(neuron)
            for side in ("levels_pos", "levels_neg"):
                # A side without levels is cut off by the function, it does not saturate.
                attributes[side] = min(attributes[side] + (attributes[side] > 0), MAX_LEVELS)
            step = self._insert.parameters(neuron)[0]
            scaled = self._by(home, neuron, "Div", neuron.input[0], step)
            self._made[key] = self._of_step_1(home, neuron, scaled, attributes)
        return self._made[key]

    def _of_step_1(
        self, home: GraphProto, neuron: NodeProto, scaled: str, attributes: dict[str, Any]
    ) -> str:
        one = self._insert.constant(home, 1.0)
        return self._insert.neuron(home, neuron.op_type, scaled, one, **attributes)

    def _own_grid(self, home: GraphProto, neuron: NodeProto) -> Grid:
        """The grid of a StaircaseFire over its potential, with the roundings that it has."""
        attributes, (scale, table) = all_attributes(neuron), self._insert.parameters(neuron)
        x, rate = neuron.input[0], np.float32(1) / scale * np.float32(attributes["density"])
        if rate.size > 1:
            x, rate = self._by(home, neuron, "Mul", x, rate), np.ones(1)
        return Grid(x, float(rate.reshape(())), attributes["start"], spikes_of_levels(table))

    def _by(
        self, home: GraphProto, neuron: NodeProto, op: str, tensor: str, step: np.ndarray
    ) -> str:
        """``tensor`` of the neuron's shape, divided by steps or times them."""
        key = f"{op} by the steps of {neuron.output[0]}", id(home), tensor
        if np.all(step == 1):
            return tensor
        if key not in self._made:
            aligned = self._aligned(home, tensor, step, all_attributes(neuron)["axis"])
            self._made[key] = self._insert.node(home, op, tensor, aligned)
        return self._made[key]

    def _aligned(self, home: GraphProto, tensor: str, step: np.ndarray, axis: int) -> str:
        """A step, or steps as they broadcast against a tensor."""
        insert = self._insert
        given = insert.constant(home, step if step.size > 1 else step.reshape(()))
        if step.ndim > 1 or step.size == 1 or axis == -1:
            return given
        # [C] along an axis: [C, 1, ..., 1], with as many dimensions as X has from there on.
        trailing = insert.node(home, "Shape", insert.node(home, "Shape", tensor, start=axis + 1))
        one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
        ones = insert.node(home, "ConstantOfShape", trailing, value=one)
        channels = insert.constant(home, [step.size], np.int64)
        shape = insert.node(home, "Concat", channels, ones, axis=0)
        return insert.node(home, "Reshape", given, shape)


def grid_of(code: str, span: Span) -> Grid:
    """What tells the spikes of a code."""
    return Grid(code, *_cells_of_multiples(span))


def neurons_with_graphs(graph: GraphProto) -> list[tuple[GraphProto, NodeProto]]:
    """Each neuron and the graph or body that it is in; nodes may be added meanwhile."""
    return [(home, node) for home, node in nodes_with_graphs(graph) if node.domain == DOMAIN]


def all_attributes(neuron: NodeProto) -> dict[str, Any]:
    """The attributes of a neuron, defaults included."""
    return {**_DEFAULTS[neuron.op_type], **attributes_of(neuron)}


def _is_plain(step: np.ndarray) -> bool:
    """Whether all channels have one step, in the middle of the range of float32."""
    return step.size == 1 and 1 / _LARGEST_STEP <= float(step.reshape(())) <= _LARGEST_STEP


def _cells_of_multiples(span: Span) -> tuple[float, float, np.ndarray]:
    """Density, start and k of cells over k itself."""
    return 1.0, span.low - 0.5, np.arange(span.low, span.high + 1)


def _cells_of_levels(table: np.ndarray) -> tuple[float, float, np.ndarray] | None:
    """Density, start and k of cells over the levels of a table; None where they are too many."""
    levels = np.unique(table).astype(np.float64)
    step = float(np.diff(levels).min(initial=levels[-1] - levels[0] or 1.0))
    # Rounded, a level is in its cell or the next one: counted from 0 there are few as well.
    if 4 * np.abs(levels).max() / step > MAX_CELLS - 2 or not _is_plain(np.array(step)):
        return None
    density, start = 2 / step, 2 * levels[0] / step - 0.5
    middles = np.arange(levels[0], levels[-1] + step / 4, step / 2)
    nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, middles)
    return density, start, spikes_of_levels(levels)[nearest]
