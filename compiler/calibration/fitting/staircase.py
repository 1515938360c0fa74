"""From the distribution of a neuron's input to its staircase: thresholds and levels.

A staircase neuron is the activation f that it stands for: f = x where spikes only encode a tensor.
Its N thresholds cut the axis of x into N + 1 intervals, each with one level. The staircase with
the least mean squared error over the distribution of x is found exactly, on a grid:

1. Grid. The bins of the histogram are merged into at most a few hundred groups, each with the same
   share of sum_j c_j^(1/3) |df_j|^(2/3) (c_j the counts, df_j the step of f from bin to bin). That
   is the density of levels of the best quantiser with many levels (Panter and Dite, 1951): where
   many levels are wanted the grid is fine, where f is flat or x is rare it is coarse.
2. Optimum. D_k(j) = min_i D_{k-1}(i) + E(i, j), with E(i, j) the squared error of one level over
   groups i..j-1, gives the best k intervals of the first j groups for every k and j. Nothing is
   asked of f: for a GELU, which falls and rises, it holds as for a rising function. For f = x the
   result is the Lloyd-Max quantiser.
3. Levels are the mean of f over their interval, but an interval that holds a point where f is
   exactly 0 (x = 0 for f = x, all x <= 0 for Relu) has the level 0 exactly, and E counts it so: a
   silent input stays silent. Every level at 0 saves spikes, so an interval where f comes near 0
   (below rms(f) / (20 N): the far left of a SiLU) has the level 0 too if that adds no more than a
   charge, a tenth of the squared error that rule 1 lets expect, which E adds where it has not.
4. Thresholds lie between the bins on either side, where f passes half-way between the two levels.
   They ascend strictly as float32; an interval that rounding closes is dropped with its level.
5. No level more than are of use: the fewest intervals that reach the least error. Distributions
   with fewer bins than levels get fewer thresholds.
6. Where no value was seen, or a single one, or f is the same for all, the staircase is f at equal
   steps over [-a, a], a the largest magnitude seen, or 1.
7. Inputs beyond the distribution keep the first or the last level.

Per channel, one staircase serves all channels, each stretched by a scale of its own. That is right
for functions with f(a x) = a f(x) for a > 0: x itself, Relu, LeakyRelu.

8. The scale of a channel is that of ``channel_scales.py``, from the values of f.
9. The channels are pooled in units of their scales, and a squared error e^2 of a channel of scale s
   counts as e^2 / s: half-way between the squared error of the tensor, which loud channels decide,
   and the relative one, in which all channels are alike. What reads a channel makes up for its
   size: the weights of quiet channels are larger. docs/accuracy.md has what it is worth. The bins
   of channels are coarse, and a threshold lies between two of them, so each is cut into parts over
   which its values are spread evenly.
10. Channels get scales only where that takes a tenth off the error of one scale for all, measured
    as in rule 9. It does where some channels are much larger than the others (LayerNorm), and
    elsewhere it only fits the samples more closely.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...running.threads import together
from .channel_scales import channel_scales
from .distributions import Distribution
from .rows import Rows, points_of

#: f of a neuron: float64 of any shape to float64 of the same shape.
Function = Callable[[np.ndarray], np.ndarray]

#: Groups per level, and the bounds of their number.
_GROUPS_PER_LEVEL = 8
_FEWEST_GROUPS = 256
_MOST_GROUPS = 512
#: |f| below this share of its root mean square over the levels is near 0.
_NEAR = 0.05
#: What a level other than 0 near 0 is charged, as a share of the squared error to be expected.
_CHARGE = 0.1
#: Halvings of the gap between two bins, for the threshold in it.
_BISECTIONS = 20
#: Share of the error of one scale for all that scales per channel have to stay below.
_WORTHWHILE = 0.9
#: Parts of a bin of a channel, and points of all channels, which bounds the memory.
_FEWEST_PARTS, _MOST_PARTS, _POINTS = 2, 8, 100_000
#: Rows of the table of errors handled at a time: they stay in the cache, and end at the diagonal.
_ROWS = 128
#: Errors that differ by less than this, relative to the squares, are the same.
_TIE = 1e-13


@dataclass(frozen=True)
class Staircase:
    """y = levels[number of thresholds at or below x].

    Attributes:
        thresholds: float32 [K], strictly ascending, K >= 1.
        levels: float32 [K + 1].
        error: ||f(x) - y|| / ||f(x)|| over the distribution; 0 where f(x) is 0 throughout.
    """

    thresholds: np.ndarray
    levels: np.ndarray
    error: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The levels of ``x``, any shape."""
        fired = np.searchsorted(self.thresholds.astype(np.float64), x, side="right")
        levels: np.ndarray = self.levels[fired]
        return levels


def find_staircase(
    centres: np.ndarray, counts: np.ndarray, function: Function, levels: int
) -> Staircase:
    """The staircase with the least mean squared error.

    Args:
        centres: float64 [n], ascending values of x.
        counts: [n], how often each was seen, or other weights of at least 0.
        function: f.
        levels: number of thresholds N, 1..255: of the levels that are not silence.

    Raises:
        ValueError: f is NaN or infinite at a value of x.
    """
    seen = counts > 0
    x, weight = centres[seen], counts[seen].astype(np.float64)
    if len(x) < 2:
        return _uniform(x, weight, function, levels)
    if evaluate(function, np.zeros(1))[0] == 0:  # hold the place of a silent input
        at = int(np.searchsorted(x, 0))
        if at == len(x) or x[at] != 0:
            x, weight = np.insert(x, at, 0.0), np.insert(weight, at, 0.0)
    f = evaluate(function, x)
    density = _level_density(weight, f)
    charge = _CHARGE * density.sum() ** 3 / (12 * (levels + 1) ** 2)
    zero = f == 0
    near = np.abs(f) <= _NEAR / levels * np.sqrt((weight * f * f).sum() / weight.sum())
    sums = np.zeros((5, len(x) + 1))
    for row, power in enumerate((1.0, f, f * f)):
        np.cumsum(weight * power, out=sums[row, 1:])
    np.cumsum(zero, out=sums[3, 1:])
    np.cumsum(near, out=sums[4, 1:])
    groups = int(np.clip(_GROUPS_PER_LEVEL * levels, _FEWEST_GROUPS, _MOST_GROUPS))
    edges = _group(density, zero + 1 * near, groups)
    at_edges = sums[:, edges]
    _, errors = _fit(at_edges[:, :, None] - at_edges[:, None, :], charge)
    errors[~np.tri(len(edges), k=-1, dtype=bool)] = np.inf
    cuts = edges[_best_cuts(errors, levels + 1)]
    if len(cuts) == 2:  # f is the same throughout
        return _uniform(x, weight, function, levels)
    level, _ = _fit(np.diff(sums[:, cuts]), charge)
    return _measured(join_levels(x, f, cuts, level, function), x, weight, function)


def find_scaled_staircase(
    rows: Sequence[Distribution], function: Function, levels: int
) -> tuple[np.ndarray, Staircase]:
    """Scales and the staircase that the channels share.

    Args:
        rows: distributions of x, one per channel.
        function: f, with f(a x) = a f(x) for a > 0.
        levels: number of thresholds N, 1..255.

    Returns:
        Scales, float32, finite and above 0, of shape [rows], or of shape [] where one for the whole
        tensor does (rule 10); and the staircase in units of the scale. Its error is that of the
        whole tensor.

    Raises:
        ValueError: f is NaN or infinite at a value of x.
    """
    points = _Points(rows)
    one = np.ones(len(rows))
    scale = channel_scales(Rows.joined(rows).of(function))
    unit = scale.astype(np.float64)
    own_x, own_order = points.sorted_in(unit)
    x, order = points.sorted_in(one)
    own, shared = together(
        lambda: find_staircase(own_x, points.counts(own_order, unit), function, levels),
        lambda: find_staircase(x, points.counts(order, one), function, levels),
    )
    alike = _measured(shared, x, points.counts(order, 1 / unit), function)
    if own.error < _WORTHWHILE * alike.error:
        return scale, _measured(own, own_x, points.counts(own_order, unit**2), function)
    return np.ones((), np.float32), shared


class _Points:
    """The values of all channels."""

    def __init__(self, rows: Sequence[Distribution]) -> None:
        self._values, self._row, self._counts = points_of(rows, _POINTS, _FEWEST_PARTS, _MOST_PARTS)

    def sorted_in(self, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ascending values in units of their channel, and where each of them was.

        Args:
            unit: float64 [rows].
        """
        x = self._values / unit[self._row]
        order = np.argsort(x, kind="stable")
        return x[order], order

    def counts(self, order: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Counts of the values in this order, times the weight of their channel, float64 [rows]."""
        counts: np.ndarray = (self._counts * weight[self._row])[order]
        return counts


def evaluate(function: Function, x: np.ndarray) -> np.ndarray:
    """f of x, float64.

    Raises:
        ValueError: it is NaN or infinite at a value of x.
    """
    with np.errstate(all="ignore"):  # exp(-x) may overflow on its way to a finite value
        f = np.asarray(function(x), np.float64)
    if not np.isfinite(f).all():
        raise ValueError(f"the function is not finite at x = {x[~np.isfinite(f)][0]:g}")
    return f


def _level_density(weight: np.ndarray, f: np.ndarray) -> np.ndarray:
    """Rule 1: what share of many levels the best quantiser has in each bin, not normalised."""
    rise = np.abs(np.diff(f))
    step = (np.append(rise, 0) + np.insert(rise, 0, 0)) / 2
    density: np.ndarray = np.cbrt(weight * step * step)
    return density


def _group(density: np.ndarray, kind: np.ndarray, groups: int) -> np.ndarray:
    """First bins of the groups, and the number of bins. Bins of different kind stay apart."""
    bins = len(density)
    total = density.sum()
    if bins <= groups or total == 0:
        return np.arange(bins + 1) if bins <= groups else np.array([0, bins])
    group = np.floor(np.cumsum(density) * (groups / total))
    starts = np.flatnonzero((np.diff(group) > 0) | (np.diff(kind) != 0)) + 1
    return np.concatenate([[0], starts, [bins]])


def _fit(sums: np.ndarray, charge: float) -> tuple[np.ndarray, np.ndarray]:
    """Levels of intervals, and their squared errors with charges: rule 3.

    Args:
        sums: over each interval, of weight, weighted f and f^2, bins with f = 0 and with f near 0.
        charge: what is added for a level other than 0 near 0.
    """
    mass, first, second, zeros, near = sums
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where((zeros == 0) & (mass > 0), first / mass, 0)
    errors = np.maximum(second - mean * first, 0) + charge * (near > 0)
    silent = (near > 0) & (second <= errors)
    return np.where(silent, 0, mean), np.where(silent, second, errors)


def _best_cuts(errors: np.ndarray, most: int) -> np.ndarray:
    """Edges, first and last included, of the best partition into at most ``most`` intervals."""
    edges = len(errors)
    most = min(most, edges - 1)
    best = errors[:, 0].copy()
    origins = np.zeros((most + 1, edges), np.int64)
    totals = np.full(most + 1, np.inf)
    totals[1] = best[-1]
    blocks = [
        (slice(start, start + _ROWS), np.ascontiguousarray(rows[:, : start + _ROWS]))
        for start in range(0, edges, _ROWS)
        for rows in [errors[start : start + _ROWS]]
    ]
    for k in range(2, most + 1):
        before = best.copy()
        for rows, block in blocks:
            candidates = block + before[: block.shape[1]]
            at = origins[k, rows] = candidates.argmin(axis=1)
            best[rows] = candidates[np.arange(len(at)), at]
        totals[k] = best[-1]
    k = int(np.argmax(totals <= totals.min() + _TIE * errors[-1, 0]))
    cuts = [edges - 1]
    for intervals in range(k, 0, -1):
        cuts.append(int(origins[intervals, cuts[-1]]))
    return np.array(cuts[::-1])


def join_levels(
    x: np.ndarray, f: np.ndarray, cuts: np.ndarray, level: np.ndarray, function: Function
) -> Staircase:
    """The staircase of given levels, with the thresholds of rule 4.

    Args:
        x: float64 [n], ascending values.
        f: [n], the function at x.
        cuts: [K + 2], where in x each level begins, 0 and n included.
        level: float64 [K + 1].
        function: f.
    """
    left, right = x[cuts[1:-1] - 1], x[cuts[1:-1]]
    halfway = (level[:-1] + level[1:]) / 2
    side = np.where(f[cuts[1:-1]] < f[cuts[1:-1] - 1], -1, 1)
    low, high = left, right
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        passed = side * (evaluate(function, middle) - halfway) >= 0
        low, high = np.where(passed, low, middle), np.where(passed, middle, high)
    thresholds = high.astype(np.float32)
    at_left = thresholds <= left.astype(np.float32)
    thresholds = np.where(at_left, np.nextafter(thresholds, np.float32(np.inf)), thresholds)
    kept = np.append(np.diff(thresholds) > 0, True)
    limit = np.finfo(np.float32).max
    levels = np.clip(level, -limit, limit).astype(np.float32)[np.insert(kept, 0, True)]
    return Staircase(thresholds[kept], levels + np.float32(0), 0.0)


def _measured(
    staircase: Staircase, x: np.ndarray, weight: np.ndarray, function: Function
) -> Staircase:
    """With its error over these values."""
    f = evaluate(function, x)
    power = float((weight * f * f).sum())
    error = float((weight * (f - staircase(x)) ** 2).sum())
    return replace(staircase, error=float(np.sqrt(error / power)) if power > 0 else 0.0)


def _uniform(x: np.ndarray, weight: np.ndarray, function: Function, levels: int) -> Staircase:
    """Rule 6. The points where f is taken include 0 and the value itself."""
    end = float(x[np.abs(x).argmax()]) if len(x) else 0.0
    if end == 0:
        end = 1.0
    points = np.sort((np.arange(levels + 1) - levels // 2) * (end / -(-levels // 2)))
    f = evaluate(function, points)
    staircase = join_levels(points, f, np.arange(levels + 2), f, function)
    return _measured(staircase, x, weight, function)
