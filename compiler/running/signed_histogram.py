"""Histograms of activations, gathered batch by batch in bounded memory.

Bins are of equal relative width on both sides of 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

#: Bins per octave as a power of two, and octaves, for the rows of a whole tensor
#: and of a channel.
_TENSOR_BINS = (7, 24)
_CHANNEL_BINS = (4, 16)
#: A float32: sign, 8 bits of exponent, 23 bits of mantissa.
_MANTISSA_BITS = 23
_EXPONENT_BIAS = 127


class SignedHistogram:
    """Counts, means and moments of values of either sign, one row per channel.

    1. A bin is a sign, an exponent and the leading bits of the mantissa of a float32: its width is
       a fixed share of its values, near 0 as far out. Exactly 0 has a bin of its own.
    2. A row keeps a number of octaves (powers of two), down from its largest magnitude. Values
       smaller than that count as 0.
    3. The mean of the values in a bin is exact: a value that fills a bin alone, where an activation
       saturates, say, is kept as it is.
    4. Counters are integers, and rule 2 looks at the largest magnitude only: neither they nor the
       extremes depend on how the values were split into batches or shards, and in which order
       these came.
    5. Values that are not finite are counted apart, and are in nothing else.
    6. The sums of one run have a fixed order: the values of a row, in order, are cut into blocks of
       1,024. In a block value k is added to lane k % 4, in float64; lane 2 is added to lane 0 and 3
       to 1, then 1 to 0. The sums of blocks are added in order.

    The operator ``Observe`` of the library counts inside a graph, by these rules; its counts are
    merged here. ``counted_histogram.py`` counts in numpy.

    Attributes:
        counts: int64 [rows, bins], most negative bin first.
        rests: int64 [rows, bins], sum of the mantissa bits that a bin does not tell apart.
        tops: int32 [rows], biased exponent of the largest magnitude, at least the octaves.
        minima: float32 [rows], inf where there are no values; a zero is +0.
        maxima: float32 [rows], -inf where there are no values; a zero is +0.
        sums: float64 [rows].
        squares: float64 [rows], sums of the squares.
        not_finite: int64 [rows], how many values were NaN or infinite.
        views: how often the same samples were counted, each time as computed in another place.
    """

    def __init__(self, rows: int = 1, bins: tuple[int, int] | None = None) -> None:
        """Empty; ``bins``: bins per octave as a power of two, at most 10, and octaves."""
        self.leading, self.octaves = bins or (_TENSOR_BINS if rows == 1 else _CHANNEL_BINS)
        self._side = self.octaves << self.leading
        self.counts = np.zeros((rows, 2 * self._side + 1), np.int64)
        self.rests = np.zeros_like(self.counts)
        self.tops = np.full(rows, self.octaves, np.int32)
        self.minima = np.full(rows, np.inf, np.float32)
        self.maxima = np.full(rows, -np.inf, np.float32)
        self.sums = np.zeros(rows)
        self.squares = np.zeros(rows)
        self.not_finite = np.zeros(rows, np.int64)
        self.views = 1

    def merge(self, other: SignedHistogram) -> None:
        """Count what ``other``, of as many rows, has counted."""
        self._merge(other.counts, other.rests, other.tops, other.minima, other.maxima)
        self.sums += other.sums
        self.squares += other.squares
        self.not_finite += other.not_finite

    def merge_seen_again(self, other: SignedHistogram) -> None:
        """Count what ``other`` has counted of the same samples, elsewhere."""
        self.merge(other)
        self.views += other.views

    def merge_observed(
        self, counts: np.ndarray, rests: np.ndarray, tops: np.ndarray, moments: np.ndarray
    ) -> None:
        """Count what an ``Observe`` node of as many rows, with these bins, has counted.

        Args:
            counts: int64 [rows, bins].
            rests: int64 [rows, bins].
            tops: int32 [rows].
            moments: float64 [rows, 5]: sum, sum of squares, minimum, maximum, and how many values
                are not finite.
        """
        sums, squares, minima, maxima, not_finite = moments.T
        self._merge(counts, rests, tops, minima.astype(np.float32), maxima.astype(np.float32))
        self.sums += sums
        self.squares += squares
        self.not_finite += not_finite.astype(np.int64)

    def state(self) -> dict[str, Any]:
        """What :meth:`merge_state` takes: the bins that are occupied, and all else whole."""
        at = np.flatnonzero(self.counts)
        return {
            "at": at,
            "counts": self.counts.reshape(-1)[at],
            "rests": self.rests.reshape(-1)[at],
            "tops": self.tops.copy(),
            "minima": self.minima.copy(),
            "maxima": self.maxima.copy(),
            "sums": self.sums.copy(),
            "squares": self.squares.copy(),
            "not_finite": self.not_finite.copy(),
        }

    def merge_state(self, state: Mapping[str, Any]) -> None:
        """Count what a histogram of as many rows, with these bins, has counted."""
        other = SignedHistogram(len(self.counts), (self.leading, self.octaves))
        other.counts.reshape(-1)[state["at"]] = state["counts"]
        other.rests.reshape(-1)[state["at"]] = state["rests"]
        for name in ("tops", "minima", "maxima", "sums", "squares", "not_finite"):
            setattr(other, name, state[name])
        self.merge(other)

    @property
    def values(self) -> np.ndarray:
        """How many finite values were counted: int64 [rows]."""
        values: np.ndarray = self.counts.sum(axis=1)
        return values

    @property
    def silent(self) -> bool:
        """Whether every value counted as 0."""
        return int(self.counts.sum()) == int(self.counts[:, self._side].sum())

    def distribution(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """The occupied bins of a row: float64 [n], ascending means, and int64 [n], counts."""
        used = np.flatnonzero(self.counts[row])
        return self._means(np.full(len(used), row), used), self.counts[row, used]

    def occupied(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The occupied bins of all rows: int64 [n], rows; float64 [n], means; int64 [n], counts."""
        rows, used = np.nonzero(self.counts)
        return rows, self._means(rows, used), self.counts[rows, used]

    def _means(self, rows: np.ndarray, used: np.ndarray) -> np.ndarray:
        """Mean of the values in each of the bins ``used`` of the rows: float64 [n]."""
        shift = _MANTISSA_BITS - self.leading
        bins = np.abs(used - self._side)
        lowest = (self.tops[rows].astype(np.int64) - self.octaves + 1) << self.leading
        leading = bins - 1 + lowest
        exponent = leading >> self.leading
        known = (leading - (exponent << self.leading)) << shift
        mantissa = known + self.rests[rows, used] / self.counts[rows, used]
        means = np.ldexp(1 + mantissa / (1 << _MANTISSA_BITS), exponent - _EXPONENT_BIAS)
        signed: np.ndarray = np.sign(used - self._side) * means
        return signed

    def _extend(self, minima: np.ndarray, maxima: np.ndarray, tops: np.ndarray) -> None:
        """Make room for values as large as these."""
        np.minimum(self.minima, minima, out=self.minima)
        np.maximum(self.maxima, maxima, out=self.maxima)
        raised = np.maximum(self.tops, tops)
        _move(self.counts, raised - self.tops, self.leading)
        _move(self.rests, raised - self.tops, self.leading)
        self.tops = raised

    def _merge(
        self,
        counts: np.ndarray,
        rests: np.ndarray,
        tops: np.ndarray,
        minima: np.ndarray,
        maxima: np.ndarray,
    ) -> None:
        if counts.shape != self.counts.shape:
            raise ValueError(f"histograms {self.counts.shape} and {counts.shape} do not merge")
        self._extend(minima, maxima, tops)
        if (tops < self.tops).any():
            counts, rests = counts.copy(), rests.copy()
            _move(counts, self.tops - tops, self.leading)
            _move(rests, self.tops - tops, self.leading)
        self.counts += counts
        self.rests += rests
        self.rests[:, self._side] = 0


def _move(table: np.ndarray, raised: np.ndarray, leading: int) -> None:
    """Move the bins of the rows whose top was raised towards 0, by so many octaves."""
    if not raised.any():
        return
    middle = table.shape[1] // 2
    for octaves in sorted(set(raised[raised > 0].tolist())):
        rows = np.flatnonzero(raised == octaves)
        old = table[rows]
        if not old.any():
            continue
        shift = min(octaves << leading, middle)
        new = np.zeros_like(old)
        new[:, middle + 1 : table.shape[1] - shift] = old[:, middle + 1 + shift :]
        new[:, shift:middle] = old[:, : middle - shift]
        new[:, middle] = old.sum(axis=1) - new.sum(axis=1)
        table[rows] = new
