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

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

#: Intervals narrower than this share of their magnitude are points: differences of cubes cancel.
POINT = 1e-6
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
        self._sums = np.zeros((3, len(low) + 1))
        np.cumsum(sums_of_parts(low, high, counts), axis=1, out=self._sums[:, 1:])

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
        partial = partial_sums(self.low[at], self.high[at], self.counts[at], edge)
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


def sums_of_parts(low: np.ndarray, high: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Count, sum, and sum of squares of the magnitudes of each interval: float64 [3, n]."""
    means, squares = (low + high) / 2, (low * low + low * high + high * high) / 3
    sums: np.ndarray = counts * [np.ones_like(low), means, squares]
    return sums


def partial_sums(
    low: np.ndarray, high: np.ndarray, counts: np.ndarray, edge: np.ndarray
) -> np.ndarray:
    """The same of the magnitudes of an interval below an edge: [3, *edge.shape].

    Args:
        low, high, counts: of the interval that begins below each edge, of the shape of ``edge``.
        edge: any shape.
    """
    end = np.minimum(edge, high)
    width = np.where(high > low, high - low, 1.0)
    inside = counts * np.where(high > low, (end - low) / width, 1.0)
    return np.stack(
        [inside, inside * (low + end) / 2, inside * (low * low + low * end + end * end) / 3]
    )


def leading_bits(mantissa: np.ndarray, leading: int) -> np.ndarray:
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
    start = 0.5 + leading_bits(mantissa, leading) / (2 << leading)
    left = magnitude - np.ldexp(start, exponent)
    right = np.ldexp(start + 0.5 / (1 << leading), exponent) - magnitude
    reach = np.minimum(left, right)
    reach = np.where((reach > POINT * magnitude) & (counts != 1), reach, 0.0)
    return Distribution(means, means - reach, means + reach, counts)
