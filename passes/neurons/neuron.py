"""A calibrated neuron: what calibration decides and the passes write into the graph."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import numpy as np

from ...runtime_ops.scale_fire import fire_octave, octave_levels
from ...runtime_ops.staircase_fire import MAX_CELLS, cell_of, spikes_of_levels

#: Initial membrane potential as a fraction of theta: half a threshold turns floor into
#: round-half-up and so halves the error, |x - y| <= theta / 2 inside the range.
V0 = 0.5

_FLOAT = np.finfo(np.float32)
#: Cells of a staircase's grid in the least distance of two thresholds, if a table may be so long.
_CELLS_IN_GAP = 16
#: Cells per scale, at most: times a value of a network it should be finite.
_DENSEST = 2.0**96
#: Cells from 0 to the furthest threshold, at most: float32 has to tell them apart.
_FURTHEST = 2.0**23

_AnyNeuron = TypeVar("_AnyNeuron", bound="Neuron")


@dataclass(frozen=True, kw_only=True)
class Neuron(ABC):
    """What every neuron records; one of the classes below says what it does.

    Attributes:
        axis: channel axis when theta or scale is per channel.
        calibrator: how it was found, for provenance.
        reason: why this calibrator and this kind of neuron; empty where both were asked for.
        error: relative error ||f(x) - y|| / ||f(x)|| to be expected, from the calibration values.
    """

    axis: int
    calibrator: str
    reason: str = ""
    error: float = float("nan")

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, SingleNeuron]:
        """The neurons that it is made of: those of a DualNeuron by polarity, "positive" and
        "negative"; any other is its own one part, by the name ""."""

    @abstractmethod
    def changed(self, change: Callable[[str, SingleNeuron], SingleNeuron]) -> Neuron:
        """The neuron with each of its :attr:`parts`, by name, changed."""

    @abstractmethod
    def _with_step(self: _AnyNeuron, scale: float, calibrator: str) -> _AnyNeuron:
        """As :meth:`scaled`, with what the calibrator is to be called."""

    @property
    def rows(self) -> int:
        """How many thresholds or scales it has: one, or one per channel."""
        return max(int(part.unit.size) for part in self.parts.values())

    @property
    def level_count(self) -> int:
        """Number of levels besides silence, of all parts."""
        return sum(part.level_count for part in self.parts.values())

    def scaled(self: _AnyNeuron, scale: float) -> _AnyNeuron:
        """The neuron with its step times ``scale``, above 0; the steps stay finite and above 0.

        It computes scale * f(x / scale) of what it computed, f(x), so f should be homogeneous.
        What was said of its errors no longer holds.
        """
        if scale == 1:
            return self
        return self._with_step(scale, f"{self.calibrator}, times {scale:.4g}")

    def shrunk(self, counts: Mapping[str, np.ndarray]) -> Neuron:
        """The neuron without the levels that do not occur; each part keeps one threshold.

        Args:
            counts: how often each level occurs, int64 [levels, silence included], most negative
                or first level first, by the names of :attr:`parts`.

        Raises:
            ValueError: there are more or fewer counts than levels.
        """

        def without(name: str, part: SingleNeuron) -> SingleNeuron:
            levels = part.level_count + 1
            if len(counts[name]) != levels:
                raise ValueError(f"{len(counts[name])} counts of a neuron with {levels} levels")
            return part.with_levels(np.flatnonzero(counts[name]))

        return self.changed(without)


@dataclass(frozen=True)
class SingleNeuron(Neuron):
    """A neuron that is no pair: its thresholds and levels are multiples of one unit per channel."""

    #: What the unit is called.
    unit_name: ClassVar[str]

    @property
    @abstractmethod
    def unit(self) -> np.ndarray:
        """Threshold or scale: float32 () or [C]."""

    @abstractmethod
    def staircase(self) -> tuple[np.ndarray, np.ndarray]:
        """Thresholds, ascending, and levels, one more, in units; float64."""

    @abstractmethod
    def level_of(self, x: np.ndarray, row: int) -> np.ndarray:
        """Index of the level that each value reaches, in the operator's own arithmetic (float32).

        Args:
            x: membrane potentials of any shape.
            row: channel, of a unit per channel.

        Returns:
            int64, 0 for the most negative or first level.
        """

    @abstractmethod
    def spikes(self, x: np.ndarray, row: int) -> np.ndarray:
        """Number of unit spikes for each value: what it gives in units of the smallest step.

        Args:
            x: membrane potentials of any shape, in the precision to compute in.
            row: as of :meth:`level_of`.
        """

    @abstractmethod
    def with_levels(self, kept: np.ndarray) -> SingleNeuron:
        """With some of its levels, at least one besides silence.

        Args:
            kept: their indices as of :meth:`level_of`, ascending.
        """

    @property
    def parts(self) -> Mapping[str, SingleNeuron]:
        """Itself."""
        return {"": self}

    def changed(self, change: Callable[[str, SingleNeuron], SingleNeuron]) -> Neuron:
        """What the change makes of it."""
        return change("", self)

    def unit_of(self, row: int) -> np.ndarray:
        """The unit of a channel, ()."""
        return np.asarray(self.unit[row] if self.unit.ndim else self.unit)


@dataclass(frozen=True)
class ThresholdNeuron(SingleNeuron):
    """MultiThresholdFire: its levels are multiples of a threshold, in either direction.

        k = sign(x) * min(floor(|x| / theta + v0), levels_pos if x >= 0 else levels_neg)
        y = theta * k

    It stands for Relu, Clip from 0 and encoders.

    Attributes:
        theta: float32 threshold, scalar () or per channel [C]; finite and greater than 0.
        levels_pos: number of positive levels; 0 if it fires below 0 only.
        levels_neg: number of negative levels.
        clip_rate: share of the calibration values beyond the outermost levels.
        v0: initial membrane potential as a fraction of theta, in [0, 1).
        folded: the theta that it had before the layers around it took it (``fold_scales.py``).
    """

    unit_name: ClassVar[str] = "theta"

    theta: np.ndarray
    levels_pos: int
    levels_neg: int = 0
    clip_rate: float = 0.0
    v0: float = V0
    folded: np.ndarray | None = None

    @property
    def unit(self) -> np.ndarray:
        """Theta."""
        return self.theta

    @property
    def level_count(self) -> int:
        """N+ and N- together."""
        return self.levels_pos + self.levels_neg

    def staircase(self) -> tuple[np.ndarray, np.ndarray]:
        """The k-th level is k, its threshold |k| - v0 on either side of 0."""
        levels = np.arange(-self.levels_neg, self.levels_pos + 1, dtype=np.float64)
        steps = levels[levels != 0]
        return steps - np.sign(steps) * self.v0, levels

    def level_of(self, x: np.ndarray, row: int) -> np.ndarray:
        """N- + k."""
        x = x.astype(np.float32, copy=False)
        fired = np.floor(np.abs(x) / self.unit_of(row) + np.float32(self.v0))
        limit = np.where(x < 0, self.levels_neg, self.levels_pos).astype(np.float32)
        spikes = np.minimum(fired, limit).astype(np.int64)
        return np.asarray(np.where(x < 0, -spikes, spikes) + self.levels_neg)

    def spikes(self, x: np.ndarray, row: int) -> np.ndarray:
        """|k|."""
        limit = np.where(x < 0, self.levels_neg, self.levels_pos)
        fired = np.minimum(np.floor(np.abs(x) / self.unit_of(row) + self.v0), limit)
        return np.asarray(fired)

    def with_levels(self, kept: np.ndarray) -> ThresholdNeuron:
        """N+ and N- become the outermost levels kept; inputs beyond them are clipped there."""
        above = max(int(kept[-1]) - self.levels_neg, 0) if len(kept) else 0
        below = max(self.levels_neg - int(kept[0]), 0) if len(kept) else 0
        if above == below == 0:
            above, below = (1, 0) if self.levels_pos else (0, 1)
        return replace(self, levels_pos=above, levels_neg=below)

    def mirrored(self) -> ThresholdNeuron:
        """The neuron that fires below 0 as this one does above."""
        return replace(self, levels_pos=self.levels_neg, levels_neg=self.levels_pos)

    def _with_step(self, scale: float, calibrator: str) -> ThresholdNeuron:
        theta, unknown = scaled_step(self.theta, scale), math.nan
        return replace(self, theta=theta, calibrator=calibrator, error=unknown, clip_rate=unknown)


@dataclass(frozen=True)
class OctaveNeuron(SingleNeuron):
    """ScaleFire: its levels are multiples of one scale, dense near 0.

    They are the integers 0..m, then every second up to 2 m, every fourth up to 4 m, and so on, up
    to the highest, in either direction; y = scale * K with K the level nearest to x / scale
    (``scale_fire.py``). It stands for Relu, Clip from 0 and encoders.

    Attributes:
        scale: float32, scalar () or per channel [C]; finite and greater than 0.
        linear: m, 1..2048.
        top_pos: the highest level K; 0 if it fires below 0 only.
        top_neg: the magnitude of the lowest level.
        folded: the scale that it had before the layers around it took it (``fold_scales.py``).
    """

    unit_name: ClassVar[str] = "scale"

    scale: np.ndarray
    linear: int
    top_pos: int
    top_neg: int = 0
    folded: np.ndarray | None = None

    @property
    def unit(self) -> np.ndarray:
        """The scale."""
        return self.scale

    @property
    def level_count(self) -> int:
        """Levels of either sign."""
        return len(self._levels) - 1

    def staircase(self) -> tuple[np.ndarray, np.ndarray]:
        """Thresholds half-way between the levels."""
        levels = self._levels
        return (levels[1:] + levels[:-1]) / 2, levels

    def level_of(self, x: np.ndarray, row: int) -> np.ndarray:
        """Where its K is among the levels."""
        return np.searchsorted(self._levels, self._fired(x.astype(np.float32, copy=False), row))

    def spikes(self, x: np.ndarray, row: int) -> np.ndarray:
        """|K|."""
        return np.asarray(np.abs(self._fired(x, row)))

    def with_levels(self, kept: np.ndarray) -> OctaveNeuron:
        """The outermost levels kept become the highest; inputs beyond them are clipped there."""
        levels = self._levels[kept]
        above, below = max(levels.max(initial=0), 0), max(-levels.min(initial=0), 0)
        if above == below == 0:
            above, below = (1, 0) if self.top_pos else (0, 1)
        return replace(self, top_pos=int(above), top_neg=int(below))

    def mirrored(self) -> OctaveNeuron:
        """The neuron that fires below 0 as this one does above."""
        return replace(self, top_pos=self.top_neg, top_neg=self.top_pos)

    @cached_property
    def _levels(self) -> np.ndarray:
        above, below = (octave_levels(self.linear, top) for top in (self.top_pos, self.top_neg))
        return np.concatenate([-below[:0:-1], above])

    def _fired(self, x: np.ndarray, row: int) -> np.ndarray:
        limits = self.linear, self.top_pos, self.top_neg
        return fire_octave(x, self.unit_of(row).astype(x.dtype), *limits)

    def _with_step(self, scale: float, calibrator: str) -> OctaveNeuron:
        step = scaled_step(self.scale, scale)
        return replace(self, scale=step, calibrator=calibrator, error=math.nan)


@dataclass(frozen=True)
class StaircaseNeuron(SingleNeuron):
    """StaircaseFire: its levels follow any function, by a table over the cells of a uniform grid.

    y = scale * table[i], with i = clip(floor(x * density / scale - start), 0, cells - 1)
    (``staircase_fire.py``). Neighbouring cells of one value are one level.

    Attributes:
        scale: float32, scalar () or per channel [C]; finite and greater than 0.
        density: cells per scale, a float32 number above 0.
        start: where the grid begins, in cells, a float32 number.
        table: float32 [cells], in units of the scale; two values at least differ.
    """

    unit_name: ClassVar[str] = "scale"

    scale: np.ndarray
    density: float
    start: float
    table: np.ndarray

    @classmethod
    def of_staircase(
        cls, scale: np.ndarray, thresholds: np.ndarray, levels: np.ndarray, **known: Any
    ) -> StaircaseNeuron:
        """With thresholds moved to the edges of a grid.

        The grid has cells of a 16th of the least distance of two thresholds, or as many as a table
        may have, or as float32 tells apart so far from 0. A threshold above 0 does not move below
        it, nor one at or below 0 above it, so that what is silent stays silent. Levels between
        thresholds that meet go.

        Args:
            scale: as of the neuron.
            thresholds: float [K], ascending, K >= 1, in units of the scale.
            levels: float [K + 1].
            known: what any neuron records.
        """
        at = thresholds.astype(np.float64)
        reach = float(at[-1] - at[0] or abs(at[0]) or 1.0)
        gap = float(np.diff(at).min(initial=reach))
        cells = max(min(math.ceil(_CELLS_IN_GAP * reach / gap), MAX_CELLS - 4), 1)
        furthest = float(np.abs(at).max()) or reach
        densest = min(_FURTHEST / furthest, _DENSEST)
        density = np.float32(np.clip(cells / reach, _FLOAT.tiny, densest))
        # Cell 0 ends at the first threshold, or one cell below it.
        start = np.float32(np.floor(at[0] * float(density)) - 1)
        edges = at * float(density) - float(start)
        zero = -float(start)
        edges = np.where(at > 0, np.maximum(np.rint(edges), np.floor(zero) + 1), np.rint(edges))
        edges = np.where(at <= 0, np.minimum(edges, np.floor(zero)), edges)
        table = levels[np.searchsorted(edges, np.arange(edges[-1] + 1), side="right")]
        return cls(
            scale=scale,
            density=float(density),
            start=float(start),
            table=table.astype(np.float32),
            **known,
        )

    @property
    def unit(self) -> np.ndarray:
        """The scale."""
        return self.scale

    @property
    def level_count(self) -> int:
        """One of the levels is silence."""
        return len(self._begins) - 1

    @property
    def levels(self) -> np.ndarray:
        """float32 [levels], in units of the scale, the first one first."""
        return np.asarray(self.table[self._begins])

    def staircase(self) -> tuple[np.ndarray, np.ndarray]:
        """Thresholds where one level ends and the next begins."""
        thresholds = (self._begins[1:] + self.start) / self.density
        return thresholds, self.levels.astype(np.float64)

    def level_of(self, x: np.ndarray, row: int) -> np.ndarray:
        """Which of the levels each value's cell belongs to."""
        return np.asarray(self._level_of_cell[self._cell(x.astype(np.float32, copy=False), row)])

    def spikes(self, x: np.ndarray, row: int) -> np.ndarray:
        """Multiples of the smallest step, as ``staircase_fire.spikes_of_levels`` counts them."""
        return np.asarray(np.abs(spikes_of_levels(self.table))[self._cell(x, row)])

    def with_levels(self, kept: np.ndarray) -> StaircaseNeuron:
        """Level 0 stays too: silence is for what was not seen.

        Of the thresholds between two levels that stay one stays, in the middle of them.
        """
        levels = self.levels
        kept = np.union1d(kept, np.flatnonzero(levels == 0)[:1]).astype(np.int64)
        if len(np.unique(levels[kept])) < 2:  # there may be two of level 0
            first = int(kept[0]) if len(kept) else 0
            kept = np.union1d(kept, [first, first - 1 if first else 1]).astype(np.int64)
        # Thresholds i..j-1 are between levels i and j.
        middle = (kept[:-1] + kept[1:] - 1) // 2
        level = kept[np.searchsorted(middle, self._level_of_cell, side="left")]
        return replace(self, table=levels[level])

    @cached_property
    def _begins(self) -> np.ndarray:
        """The first cell of each level."""
        return np.append(0, np.flatnonzero(np.diff(self.table)) + 1)

    @cached_property
    def _level_of_cell(self) -> np.ndarray:
        return np.searchsorted(self._begins, np.arange(len(self.table)), side="right") - 1

    def _cell(self, x: np.ndarray, row: int) -> np.ndarray:
        scale = self.unit_of(row).astype(x.dtype)
        return cell_of(x, scale, self.density, self.start, len(self.table))

    def _with_step(self, scale: float, calibrator: str) -> StaircaseNeuron:
        step = scaled_step(self.scale, scale)
        return replace(self, scale=step, calibrator=calibrator, error=math.nan)


@dataclass(frozen=True)
class DualNeuron(Neuron):
    """Two neurons, of LeakyRelu and PRelu: y = positive(x) + slope * negative(x).

    Attributes:
        positive: 0 below 0; a ThresholdNeuron has positive levels only.
        negative: 0 above 0, and below it follows x; a ThresholdNeuron has negative levels only.
    """

    positive: SingleNeuron
    negative: SingleNeuron

    @property
    def parts(self) -> Mapping[str, SingleNeuron]:
        """Positive and negative."""
        return {"positive": self.positive, "negative": self.negative}

    def changed(self, change: Callable[[str, SingleNeuron], SingleNeuron]) -> Neuron:
        """A neuron of the changed parts."""
        positive, negative = (change(name, part) for name, part in self.parts.items())
        return replace(self, positive=positive, negative=negative)

    def _with_step(self, scale: float, calibrator: str) -> DualNeuron:
        positive, negative = self.positive.scaled(scale), self.negative.scaled(scale)
        return replace(
            self, positive=positive, negative=negative, calibrator=calibrator, error=math.nan
        )


def describe_range(theta: np.ndarray) -> str:
    """A threshold or scale as provenance shows it: the value, or the range over channels."""
    if theta.ndim == 0:
        return repr(float(theta))
    return f"{float(theta.min())!r}..{float(theta.max())!r} over {theta.size} channels"


def scaled_step(step: np.ndarray, scale: float) -> np.ndarray:
    """A threshold or scale times a factor above 0: float32, finite and above 0."""
    product = np.clip(step.astype(np.float64) * scale, _FLOAT.tiny, _FLOAT.max)
    return np.asarray(product, np.float32)
