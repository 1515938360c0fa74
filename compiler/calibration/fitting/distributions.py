"""The distribution of a tensor or channel, as calibrators see it.

A histogram keeps the exact mean of each bin but not where in the bin its values lie. Near the
largest value a bin can be wider than a step of a quantiser, so that a bin taken as a point would
say that a quantiser has no error, or twice the error it has:

1. The values of a bin are spread evenly over the widest interval around its mean that stays inside
   the bin. A bin of one value, or of equal values at its edge, is a point. The outermost intervals
   end at the least and the largest value.
2. A function of the values moves the ends of the intervals. Where it folds them onto each other
   (a GELU falls and rises) intervals end half-way between the means.
3. Sides: the magnitudes above and below 0 apart, with the sums of the magnitudes below any edge in
   closed form. A value on the edge counts as above it, since equality fires.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ...running.signed_histogram import SignedHistogram

#: Intervals narrower than this share of their magnitude are points: differences of cubes cancel.
_POINT = 1e-6
#: Share of the largest magnitude up to which values are small, whatever they are.
_SMALL = 2.0**-20


class Side:
    """Magnitudes on one side of 0: disjoint intervals, ascending.

    Attributes:
        low, high: float64 [n], ends of the intervals; equal for points.
        counts: float64 [n].
    """

    def __init__(self, low: np.ndarray, high: np.ndarray, counts: np.ndarray) -> None:
        self.low, self.high, self.counts = low, high, counts
        means, squares = (low + high) / 2, (low * low + low * high + high * high) / 3
        self._sums = np.zeros((3, len(low) + 1))
        np.cumsum(counts * [np.ones_like(low), means, squares], axis=1, out=self._sums[:, 1:])

    @property
    def totals(self) -> np.ndarray:
        """Count, sum, and sum of squares of all magnitudes."""
        totals: np.ndarray = self._sums[:, -1]
        return totals

    @property
    def peak(self) -> float:
        """The largest magnitude, 0 where there is none."""
        return float(self.high[-1]) if len(self.high) else 0.0

    def below(self, edge: np.ndarray) -> np.ndarray:
        """Count, sum, and sum of squares of the magnitudes below each edge: [3, *edge.shape]."""
        if len(self.low) == 0:
            return np.zeros((3, *np.shape(edge)))
        last = np.searchsorted(self.low, edge, side="left") - 1
        at = np.maximum(last, 0)
        low, high = self.low[at], self.high[at]
        end = np.minimum(edge, high)
        width = np.where(high > low, high - low, 1.0)
        share = np.where(high > low, (end - low) / width, 1.0)
        inside = self.counts[at] * share
        partial = np.stack(
            [inside, inside * (low + end) / 2, inside * (low * low + low * end + end * end) / 3]
        )
        return np.where(last >= 0, self._sums[:, at] + partial, 0.0)

    def quantile(self, count: float) -> float:
        """The magnitude that ``count`` of the values do not exceed."""
        cumulative = self._sums[0]
        at = int(np.searchsorted(cumulative, count)) - 1
        at = min(max(at, 0), len(self.low) - 1)
        share = (count - cumulative[at]) / self.counts[at]
        return float(self.low[at] + min(max(share, 0.0), 1.0) * (self.high[at] - self.low[at]))


@dataclass(frozen=True)
class Distribution:
    """Values spread evenly over intervals.

    Attributes:
        means: float64 [n], ascending.
        low: float64 [n], lower ends.
        high: float64 [n], upper ends.
        counts: float64 [n], how many values, or other weights of at least 0.
    """

    means: np.ndarray
    low: np.ndarray
    high: np.ndarray
    counts: np.ndarray

    @cached_property
    def zeros(self) -> float:
        """How many values are 0."""
        return float(self.counts[self.means == 0].sum())

    @cached_property
    def total(self) -> float:
        """How many values there are."""
        return float(self.counts.sum())

    @cached_property
    def positive(self) -> Side:
        """The values above 0."""
        above = self.means > 0
        return Side(self.low[above], self.high[above], self.counts[above])

    @cached_property
    def negative(self) -> Side:
        """The magnitudes of the values below 0."""
        below = np.flatnonzero(self.means < 0)[::-1]
        return Side(-self.high[below], -self.low[below], self.counts[below])

    @cached_property
    def power(self) -> float:
        """Sum of squares."""
        return float(self.positive.totals[2] + self.negative.totals[2])

    def of(self, function: Callable[[np.ndarray], np.ndarray]) -> Distribution:
        """The distribution of ``function`` of the values: rule 2."""
        means, low, high = (function(values) for values in (self.means, self.low, self.high))
        low, high = np.minimum(low, high), np.maximum(low, high)
        flat = (means == 0) | (low == high)
        low, high = np.where(flat, means, low), np.where(flat, means, high)
        means = np.clip(means, low, high)
        order = np.argsort(means, kind="stable")
        means, low, high = means[order], low[order], high[order]
        counts = self.counts[order]
        equal = (low == high) & (np.append(np.nan, means[:-1]) == means)
        first = np.flatnonzero(~equal)
        if len(first) < len(means):  # what is 0, or saturates, is one point
            counts = np.add.reduceat(counts, first)
            means, low, high = means[first], low[first], high[first]
        middle = (means[:-1] + means[1:]) / 2
        crossing = high[:-1] > low[1:]
        high[:-1] = np.where(crossing, middle, high[:-1])
        low[1:] = np.where(crossing, middle, low[1:])
        return Distribution(means, low, high, counts)

    def relative(self) -> Distribution:
        """With weights by which squared errors are those relative to the values.

        Values below :data:`_SMALL` of the largest magnitude count as much as that one would.
        """
        magnitudes = np.abs(self.means)
        least = _SMALL * magnitudes.max(initial=0.0)
        if least == 0:
            return self
        return replace(self, counts=self.counts / np.maximum(magnitudes, least) ** 2)

    def relative_above(self, square: float) -> Distribution:
        """With weights by which a squared error at x counts as 1 / (x^2 + ``square``)."""
        weights = self.means**2 + square
        return replace(self, counts=self.counts / np.where(weights > 0, weights, 1.0))

    def points(self, parts: int = 8) -> tuple[np.ndarray, np.ndarray]:
        """The intervals as points, ``parts`` each: values and weights, float64 [n]."""
        offsets = (np.arange(parts) + 0.5) / parts
        is_point = self.low == self.high
        wide = ~is_point
        spread = self.low[wide, None] + (self.high - self.low)[wide, None] * offsets
        weights = np.broadcast_to(self.counts[wide, None] / parts, spread.shape)
        values = np.concatenate([self.means[is_point], spread.reshape(-1)])
        order = np.argsort(values, kind="stable")
        return values[order], np.concatenate([self.counts[is_point], weights.reshape(-1)])[order]


def distributions(histogram: SignedHistogram) -> list[Distribution]:
    """The distribution of each row of a histogram."""
    result = []
    for row in range(len(histogram.counts)):
        means, counts = histogram.distribution(row)
        spread = spread_bins(means, counts.astype(np.float64), histogram.leading)
        _extend(spread, float(histogram.minima[row]), float(histogram.maxima[row]))
        result.append(spread)
    return result


def pool(
    rows: Sequence[Distribution],
    scale: np.ndarray | None = None,
    weigh: bool = False,
    leading: int = 7,
) -> Distribution:
    """All rows in one, in bins of 2^-leading octaves.

    Args:
        rows: distributions.
        scale: [rows]; where given, each row is taken in units of its scale.
        weigh: count the values of a row as often as the square of its scale says, so that squared
            errors stay those of the values.
        leading: bins per octave as a power of two.
    """
    scales = np.ones(len(rows)) if scale is None else scale.astype(np.float64)
    means = np.concatenate([row.means / s for row, s in zip(rows, scales, strict=True)])
    weights = scales**2 if weigh else np.ones(len(rows))
    counts = np.concatenate([row.counts * w for row, w in zip(rows, weights, strict=True)])
    mantissa, exponent = np.frexp(np.abs(means))
    bins = (exponent.astype(np.int64) << leading) + _leading_bits(mantissa, leading)
    key = np.sign(means).astype(np.int64) * (bins + (1 << 40))  # exponents may be negative
    _, group = np.unique(key, return_inverse=True)
    group = group.reshape(-1)
    sizes = np.bincount(group, weights=counts)
    sums = np.bincount(group, weights=counts * means)
    kept = sizes > 0
    return spread_bins(sums[kept] / sizes[kept], sizes[kept], leading)


def points_of(
    rows: Sequence[Distribution], wanted: int, fewest: int, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All rows as points: values, the row of each, and weights, float64, int64 and float64 [n].

    Args:
        rows: distributions.
        wanted: points of all rows, about; an interval becomes as many as that allows,
        fewest: but at least so many,
        most: and at most so many.
    """
    parts = min(max(wanted // max(sum(len(row.means) for row in rows), 1), fewest), most)
    points = [row.points(parts) for row in rows]
    return (
        np.concatenate([values for values, _ in points]),
        np.repeat(np.arange(len(rows)), [len(values) for values, _ in points]),
        np.concatenate([weights for _, weights in points]),
    )


def _leading_bits(mantissa: np.ndarray, leading: int) -> np.ndarray:
    """Which of 2^leading equal parts of [1/2, 1) holds the mantissa."""
    bits: np.ndarray = np.floor((mantissa - 0.5) * (2 << leading)).astype(np.int64)
    return bits


def spread_bins(means: np.ndarray, counts: np.ndarray, leading: int) -> Distribution:
    """Rule 1, the outermost intervals like the others.

    Args:
        means: float64 [n], of bins of 2^-leading octaves.
        counts: float64 [n], how many values each bin has.
        leading: bins per octave as a power of two.
    """
    magnitude = np.abs(means)
    mantissa, exponent = np.frexp(magnitude)
    start = 0.5 + _leading_bits(mantissa, leading) / (2 << leading)
    left = magnitude - np.ldexp(start, exponent)
    right = np.ldexp(start + 0.5 / (1 << leading), exponent) - magnitude
    reach = np.minimum(left, right)
    reach = np.where((reach > _POINT * magnitude) & (counts != 1), reach, 0.0)
    return Distribution(means, means - reach, means + reach, counts)


def _extend(spread: Distribution, least: float, most: float) -> None:
    """Move the outer ends of the outermost intervals, around their means where there is room."""
    if len(spread.means) == 0:
        return
    means, low, high = spread.means, spread.low, spread.high
    if most - means[-1] > _POINT * abs(most):
        before = high[-2] if len(means) > 1 else -np.inf
        low[-1], high[-1] = max(before, 2 * means[-1] - most), most
    if means[0] - least > _POINT * abs(least):
        behind = low[1] if len(means) > 1 else np.inf
        low[0], high[0] = least, min(behind, 2 * means[0] - least)
