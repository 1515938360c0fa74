"""Distributions of the channels of a tensor, one behind the other in the same arrays.

A channel has a few hundred intervals, a tensor hundreds of channels: one call for all of them takes
as long as a few calls for one. What :class:`Rows` gives is, to the last bit, what each of its rows
gives as a :class:`~.distributions.Distribution`, whose rules hold here too: sums are added up row
by row and in the same order. Only counts, which are integers, are added in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import overload

import numpy as np

from ...running.signed_histogram import SignedHistogram
from .distributions import (
    POINT,
    Distribution,
    leading_bits,
    partial_sums,
    spread_bins,
    sums_of_parts,
)


class Rows(Sequence[Distribution]):
    """Distributions of several rows.

    Attributes:
        means, low, high, counts: float64 [n], as of a distribution, row by row.
        starts: int64 [rows + 1], where in them each row begins, and n.
    """

    def __init__(
        self,
        means: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
        counts: np.ndarray,
        starts: np.ndarray,
    ) -> None:
        self.means, self.low, self.high, self.counts = means, low, high, counts
        self.starts = starts
        self._followed: dict[Callable[[np.ndarray], np.ndarray], Rows] = {}
        self._points: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    @classmethod
    def joined(cls, rows: Sequence[Distribution]) -> Rows:
        """These rows; themselves where they are joined already."""
        if isinstance(rows, Rows):
            return rows
        ends = np.cumsum([0, *(len(row.means) for row in rows)])
        if len(rows) == 1:
            one = rows[0]
            return cls(one.means, one.low, one.high, one.counts, ends)
        return cls(
            np.concatenate([row.means for row in rows]),
            np.concatenate([row.low for row in rows]),
            np.concatenate([row.high for row in rows]),
            np.concatenate([row.counts for row in rows]),
            ends,
        )

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.starts) - 1

    @overload
    def __getitem__(self, index: int) -> Distribution: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Distribution]: ...

    def __getitem__(self, index: int | slice) -> Distribution | Sequence[Distribution]:
        """A row, or several."""
        return self._each[index]

    def __iter__(self) -> Iterator[Distribution]:
        """The rows."""
        return iter(self._each)

    @cached_property
    def _each(self) -> list[Distribution]:
        arrays = (self.means, self.low, self.high, self.counts)
        parts = [slice(*ends) for ends in pairwise(self.starts.tolist())]
        return [Distribution(*(array[part] for array in arrays)) for part in parts]

    @cached_property
    def row(self) -> np.ndarray:
        """The row of each interval: int64 [n]."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    @cached_property
    def totals(self) -> np.ndarray:
        """How many values each row has: float64 [rows]."""
        return np.bincount(self.row, self.counts, len(self))

    @cached_property
    def zeros(self) -> np.ndarray:
        """How many values of each row are 0: float64 [rows]."""
        silent = self.means == 0
        return np.bincount(self.row[silent], self.counts[silent], len(self))

    @property
    def has_positive(self) -> bool:
        """Whether a value is above 0."""
        return bool((self.means > 0).any())

    @property
    def has_negative(self) -> bool:
        """Whether a value is below 0."""
        return bool((self.means < 0).any())

    @cached_property
    def positive(self) -> Sides:
        """The values above 0."""
        above = self.means > 0
        return Sides(self.low[above], self.high[above], self.counts[above], self._starts_of(above))

    @cached_property
    def negative(self) -> Sides:
        """The magnitudes of the values below 0."""
        below = self.means < 0
        starts, row = self._starts_of(below), self.row[below]
        ascending = np.flatnonzero(below)[starts[row] + starts[row + 1] - 1 - np.arange(len(row))]
        low, high = -self.high[ascending], -self.low[ascending]
        return Sides(low, high, self.counts[ascending], starts)

    @cached_property
    def squares(self) -> tuple[list[float], list[float]]:
        """Sum of the squares of the values above and below 0, of each row."""
        return self.positive.totals[2].tolist(), self.negative.totals[2].tolist()

    @property
    def power(self) -> float:
        """Sum of the squares of all values."""
        return sum(above + below for above, below in zip(*self.squares, strict=True))

    def of(self, function: Callable[[np.ndarray], np.ndarray]) -> Rows:
        """The distributions of ``function`` of the values; computed once for each function."""
        if function not in self._followed:
            self._followed[function] = self._of(function)
        return self._followed[function]

    def _of(self, function: Callable[[np.ndarray], np.ndarray]) -> Rows:
        means, low, high = (function(values) for values in (self.means, self.low, self.high))
        low, high = np.minimum(low, high), np.maximum(low, high)
        flat = (means == 0) | (low == high)
        low, high = np.where(flat, means, low), np.where(flat, means, high)
        means, counts, starts = np.clip(means, low, high), self.counts, self.starts
        inside = _same_row(starts, len(means))
        if not (means[1:] >= means[:-1])[inside].all():
            order = np.lexsort((means, self.row))
            means, low, high, counts = means[order], low[order], high[order], counts[order]
        equal = inside & (means[1:] == means[:-1]) & (low[1:] == high[1:])
        if equal.any():  # what is 0, or saturates, is one point
            first = np.flatnonzero(np.append(True, ~equal))
            counts = np.add.reduceat(counts, first)
            means, low, high = means[first], low[first], high[first]
            starts = np.searchsorted(first, starts)
            inside = _same_row(starts, len(means))
        middle = (means[:-1] + means[1:]) / 2
        crossing = inside & (high[:-1] > low[1:])
        high[:-1] = np.where(crossing, middle, high[:-1])
        low[1:] = np.where(crossing, middle, low[1:])
        return Rows(means, low, high, counts, starts)

    def weighted(self, weight: np.ndarray) -> Rows:
        """With the values of each row counted as often as its weight, float64 [rows], says."""
        return Rows(self.means, self.low, self.high, self.counts * weight[self.row], self.starts)

    def points(self, parts: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The intervals as points, ``parts`` each: values, rows and weights of the points, [n].

        Computed once for each number of parts.
        """
        if parts not in self._points:
            self._points[parts] = self._made_of(parts)
        return self._points[parts]

    def _made_of(self, parts: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        is_point = self.low == self.high
        sizes = np.where(is_point, 1, parts)
        at = np.repeat(np.arange(len(sizes)), sizes)
        offsets = (np.arange(parts) + 0.5) / parts
        within = np.arange(len(at)) - (np.cumsum(sizes) - sizes)[at]
        spread = self.low[at] + (self.high - self.low)[at] * offsets[within]
        values = np.where(is_point[at], self.means[at], spread)
        weights = np.where(is_point, self.counts, self.counts / parts)[at]
        row = self.row[at]
        if not ((values[1:] >= values[:-1]) | (row[1:] != row[:-1])).all():
            order = np.lexsort((~is_point[at], values, row))
            values, weights = values[order], weights[order]
        return values, row, weights

    def _starts_of(self, chosen: np.ndarray) -> np.ndarray:
        """Where each row begins among the chosen intervals."""
        starts: np.ndarray = np.append(0, np.cumsum(chosen))[self.starts]
        return starts


class Sides:
    """Magnitudes on one side of 0, as :class:`~.distributions.Side`, for each row.

    Attributes:
        totals: float64 [3, rows], count, sum, and sum of squares of all magnitudes.
    """

    def __init__(
        self, low: np.ndarray, high: np.ndarray, counts: np.ndarray, starts: np.ndarray
    ) -> None:
        self._low, self._high, self._counts, self._starts = low, high, counts, starts
        terms = sums_of_parts(low, high, counts)
        # A 0 in front of the sums of each row.
        self._sums = np.zeros((3, len(low) + len(starts) - 1))
        for row, (start, stop) in enumerate(self._ends()):
            at = slice(start + row + 1, stop + row + 1)
            np.cumsum(terms[:, start:stop], axis=1, out=self._sums[:, at])
        self.totals = self._sums[:, starts[1:] + np.arange(len(starts) - 1)]

    def below(self, edges: np.ndarray) -> np.ndarray:
        """Count, sum, and sum of squares of the magnitudes below the edges of each row.

        Args:
            edges: float64 [rows, m].

        Returns:
            float64 [3, rows, m].
        """
        if len(self._low) == 0:
            return np.zeros((3, *edges.shape))
        last = np.empty(edges.shape, np.int64)
        for row, (start, stop) in enumerate(self._ends()):
            last[row] = np.searchsorted(self._low[start:stop], edges[row], side="left") - 1
        rows = np.arange(len(edges))[:, None]
        at = self._starts[:-1, None] + np.maximum(last, 0)
        of = np.minimum(at, len(self._low) - 1)  # of a row without magnitudes any other one's
        partial = partial_sums(self._low[of], self._high[of], self._counts[of], edges)
        return np.where(last >= 0, self._sums[:, at + rows] + partial, 0.0)

    def _ends(self) -> Iterator[tuple[int, int]]:
        return pairwise(self._starts.tolist())


def _same_row(starts: np.ndarray, count: int) -> np.ndarray:
    """Whether an interval and the next one are of the same row: bool [count - 1]."""
    same = np.ones(count + 1, bool)
    same[starts] = False
    return same[1:count]


def distributions(histogram: SignedHistogram) -> Rows:
    """The distribution of each row of a histogram."""
    row, means, counts = histogram.occupied()
    starts = np.searchsorted(row, np.arange(len(histogram.counts) + 1))
    spread = spread_bins(means, counts.astype(np.float64), histogram.leading)
    rows = Rows(spread.means, spread.low, spread.high, spread.counts, starts)
    _extend(rows, histogram.minima.astype(np.float64), histogram.maxima.astype(np.float64))
    return rows


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
    joined = Rows.joined(rows)
    means, counts = joined.means, joined.counts
    if scale is not None:
        scales = scale.astype(np.float64)
        means = means / scales[joined.row]
        counts = counts * (scales**2)[joined.row] if weigh else counts
    mantissa, exponent = np.frexp(np.abs(means))
    bins = (exponent.astype(np.int64) << leading) + leading_bits(mantissa, leading)
    sides = np.sign(means).astype(np.int64)
    # Bins of values below 0, of 0, and of values above 0, ascending.
    least = int(bins.min(initial=0)) - 1
    key = sides * (bins - least)
    key -= key.min(initial=0)
    sizes = np.bincount(key, weights=counts)
    sums = np.bincount(key, weights=counts * means)
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
    joined = Rows.joined(rows)
    return joined.points(min(max(wanted // max(len(joined.means), 1), fewest), most))


def _extend(rows: Rows, least: np.ndarray, most: np.ndarray) -> None:
    """Move the outer ends of the outermost intervals, around their means where there is room.

    Args:
        rows: those of a histogram; changed.
        least, most: float64 [rows], the extremes of each row.
    """
    means, low, high = rows.means, rows.low, rows.high
    used = np.flatnonzero(np.diff(rows.starts))
    least, most = least[used], most[used]
    first, last = rows.starts[used], rows.starts[used + 1] - 1
    single = first == last
    moved = most - means[last] > POINT * np.abs(most)
    before = np.where(single, -np.inf, high[last - 1])
    low[last[moved]] = np.maximum(before, 2 * means[last] - most)[moved]
    high[last[moved]] = most[moved]
    moved = means[first] - least > POINT * np.abs(least)
    behind = np.where(single, np.inf, low[np.minimum(first + 1, len(low) - 1)])
    high[first[moved]] = np.minimum(behind, 2 * means[first] - least)[moved]
    low[first[moved]] = least[moved]
