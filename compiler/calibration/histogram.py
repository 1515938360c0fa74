"""Histograms of activations, gathered batch by batch in bounded memory.

:class:`Histogram` has equal bins over the magnitudes above 0, for neurons whose levels are equally
far apart. :class:`SignedHistogram` has bins of equal relative width on both sides of 0, for
staircases that follow the density.
"""

from __future__ import annotations

import numpy as np

#: Bins of one histogram. The range is a power of two at most twice the largest value seen, so at
#: least half of the bins are in use: 32 bins per level at N = 32.
BINS = 2048
#: A channel of its own gets fewer bins: a network has thousands of channels.
CHANNEL_BINS = 512

#: Signed histograms: bins per octave as a power of two, and octaves, for the rows of a whole tensor
#: and of a channel.
_TENSOR_BINS = (7, 24)
_CHANNEL_BINS = (4, 16)
#: Values counted at a time, at least: the temporaries stay in the cache.
_BLOCK = 1 << 16
#: A float32: sign, 8 bits of exponent, 23 bits of mantissa.
_MANTISSA_BITS = 23
_EXPONENT_BIAS = 127
_MAGNITUDE = np.int32(0x7FFFFFFF)


class Histogram:
    """Counts of values x > 0 in equal bins over [0, limit), one row per channel.

    The limit of a row doubles, merging bins pairwise, when a larger value arrives. Limits are
    powers of two, so that the result does not depend on how the values were split into batches.

    Attributes:
        counts: int64 [rows, bins].
        limits: float64 [rows], upper end of the last bin.
        totals: int64 [rows], all values seen, those that are not above 0 included.
        peaks: float64 [rows], largest value seen.
    """

    def __init__(self, rows: int = 1) -> None:
        self.bins = BINS if rows == 1 else CHANNEL_BINS
        self.counts = np.zeros((rows, self.bins), np.int64)
        self.limits = np.full(rows, 2.0**-100)
        self.totals = np.zeros(rows, np.int64)
        self.peaks = np.zeros(rows)

    def add(self, values: np.ndarray) -> None:
        """Count ``values``: float32 [rows, n], finite."""
        if values.size == 0:
            return
        self.totals += values.shape[1]
        self.peaks = np.maximum(self.peaks, values.max(axis=1))
        for row in np.flatnonzero(self.peaks >= self.limits).tolist():
            self._grow(row, float(self.peaks[row]))
        scale = (self.bins / self.limits).astype(np.float32)[:, None]
        index = (np.maximum(values, 0) * scale).astype(np.int32)
        silent = values.shape[1] - np.count_nonzero(values > 0, axis=1)
        index += (np.arange(len(index), dtype=np.int32) * self.bins)[:, None]
        counts = np.bincount(index.reshape(-1), minlength=self.counts.size)
        self.counts += counts.reshape(self.counts.shape)
        self.counts[:, 0] -= silent

    def _grow(self, row: int, peak: float) -> None:
        limit = 2.0 ** np.floor(np.log2(peak) + 1)
        while limit <= peak:  # log2 rounds up just below a power of two
            limit *= 2
        doublings = round(np.log2(limit / self.limits[row]))
        self.limits[row] = limit
        if not self.counts[row].any():
            return
        width = min(2**doublings, self.bins)
        merged = self.counts[row].reshape(-1, width).sum(axis=1)
        self.counts[row] = 0
        self.counts[row, : len(merged)] = merged

    def merged(self) -> Histogram:
        """All rows in one, with the bins of a row."""
        result = Histogram(1)
        result.bins = self.bins
        limit = self.limits.max()
        counts = np.zeros(self.bins, np.int64)
        for row, row_limit in zip(self.counts, self.limits, strict=True):
            width = min(int(limit / row_limit), self.bins)
            coarse = row.reshape(-1, width).sum(axis=1)
            counts[: len(coarse)] += coarse
        result.counts = counts[None]
        result.limits = np.array([limit])
        result.totals = self.totals.sum(keepdims=True)
        result.peaks = self.peaks.max(keepdims=True)
        return result

    def centres(self, row: int) -> np.ndarray:
        """Mid-points of the bins of a row, float64 [bins]."""
        centres: np.ndarray = (np.arange(self.bins) + 0.5) * (self.limits[row] / self.bins)
        return centres


class SignedHistogram:
    """Counts and means of values of either sign, one row per channel.

    1. A bin is a sign, an exponent and the leading bits of the mantissa of a float32: its width is
       a fixed share of its values, near 0 as far out. Exactly 0 has a bin of its own.
    2. A row keeps a number of octaves (powers of two), down from its largest magnitude. Values
       smaller than that count as 0.
    3. The mean of the values in a bin is exact: a value that fills a bin alone, where an activation
       saturates, say, is kept as it is.
    4. Counters are integers, and rule 2 looks at the largest magnitude only: the result does not
       depend on how the values were split into batches.

    Attributes:
        counts: int64 [rows, bins], most negative bin first.
        rests: int64 [rows, bins], sum of the mantissa bits that a bin does not tell apart.
    """

    def __init__(self, rows: int = 1) -> None:
        self._leading, self._octaves = _TENSOR_BINS if rows == 1 else _CHANNEL_BINS
        self._side = self._octaves << self._leading
        self._tops = np.full(rows, self._octaves, np.int32)  # exponent of the largest magnitude
        self.counts = np.zeros((rows, 2 * self._side + 1), np.int64)
        self.rests = np.zeros_like(self.counts)

    def add(self, values: np.ndarray) -> None:
        """Count ``values``: float32 [rows, n], finite."""
        if values.size == 0:
            return
        largest = np.maximum(values.max(axis=1), -values.min(axis=1))
        exponents = largest.view(np.int32) >> _MANTISSA_BITS
        for row in np.flatnonzero(exponents > self._tops).tolist():
            self._raise(row, int(exponents[row]))
        step = max(_BLOCK, self.counts.size) // len(values)
        for start in range(0, values.shape[1], step):
            self._count(np.ascontiguousarray(values[:, start : start + step]).view(np.int32))
        self.rests[:, self._side] = 0

    @property
    def silent(self) -> bool:
        """Whether every value counted as 0."""
        return int(self.counts.sum()) == int(self.counts[:, self._side].sum())

    def distribution(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """The occupied bins of a row: float64 [n], ascending means, and int64 [n], counts."""
        used = np.flatnonzero(self.counts[row])
        counts = self.counts[row, used]
        shift = _MANTISSA_BITS - self._leading
        bins = np.abs(used - self._side)
        lowest = (int(self._tops[row]) - self._octaves + 1) << self._leading
        leading = bins - 1 + lowest
        exponent = leading >> self._leading
        known = (leading - (exponent << self._leading)) << shift
        mantissa = known + self.rests[row, used] / counts
        means = np.ldexp(1 + mantissa / (1 << _MANTISSA_BITS), exponent - _EXPONENT_BIAS)
        return np.sign(used - self._side) * means, counts

    def _count(self, bits: np.ndarray) -> None:
        shift = _MANTISSA_BITS - self._leading
        lowest = (self._tops - self._octaves + 1) << self._leading
        magnitude = bits & _MAGNITUDE
        bins = (magnitude >> shift) - (lowest - 1)[:, None]
        np.maximum(bins, 0, out=bins)
        sign = bits >> 31  # 0 or -1
        first = np.arange(len(bits)) * self.counts.shape[1] + self._side
        index = (((bins ^ sign) - sign) + first[:, None]).reshape(-1)
        rest = (magnitude & np.int32((1 << shift) - 1)).reshape(-1)
        size, shape = self.counts.size, self.counts.shape
        self.counts += np.bincount(index, minlength=size).reshape(shape)
        rests = np.bincount(index, weights=rest, minlength=size)  # exact below 2^53
        self.rests += rests.astype(np.int64).reshape(shape)

    def _raise(self, row: int, top: int) -> None:
        """Move the bins of a row towards 0, for an octave above those it has."""
        shift = min(top - int(self._tops[row]), self._octaves) << self._leading
        self._tops[row] = top
        middle = self._side
        for table in (self.counts, self.rests):
            old = table[row]
            new = np.zeros_like(old)
            new[middle + 1 : len(new) - shift] = old[middle + 1 + shift :]
            new[shift:middle] = old[: middle - shift]
            new[middle] = old.sum() - new.sum()
            table[row] = new
