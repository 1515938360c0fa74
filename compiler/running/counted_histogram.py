"""Histograms counted in numpy, value by value: the specification of the operator ``Observe``."""

from __future__ import annotations

import numpy as np

from .signed_histogram import SignedHistogram

#: Values counted at a time, at least: the temporaries stay in the cache.
_BLOCK = 1 << 16
#: Values whose sums are kept in lanes, and the lanes.
_SUM_BLOCK = 1024
_LANES = 4
#: A float32: sign, 8 bits of exponent, 23 bits of mantissa.
_MANTISSA_BITS = 23
_MAGNITUDE = np.int32(0x7FFFFFFF)


class CountedHistogram(SignedHistogram):
    """A histogram that counts values itself."""

    def add(self, values: np.ndarray) -> None:
        """Count ``values``: float32 [rows, n]."""
        if values.size == 0:
            return
        finite = np.isfinite(values)
        all_finite = bool(finite.all())
        if not all_finite:
            self.not_finite += np.count_nonzero(~finite, axis=1)
        used = True if all_finite else finite
        smallest = values.min(axis=1, initial=np.inf, where=used) + np.float32(0)
        largest = values.max(axis=1, initial=-np.inf, where=used) + np.float32(0)
        self._extend(smallest, largest, _tops(smallest, largest, self.octaves))
        sums, squares = np.zeros(len(values)), np.zeros(len(values))
        blocks = -(-max(_BLOCK, self.counts.size) // (len(values) * _SUM_BLOCK))
        step = blocks * _SUM_BLOCK
        for start in range(0, values.shape[1], step):
            part = np.ascontiguousarray(values[:, start : start + step])
            if not all_finite:
                part = np.where(finite[:, start : start + step], part, np.float32(0))
            self._count(part.view(np.int32))
            wide = part.astype(np.float64)
            sums = _add_blocks(sums, wide)
            squares = _add_blocks(squares, wide * wide)
        self.sums += sums
        self.squares += squares
        if not all_finite:
            self.counts[:, self._side] -= np.count_nonzero(~finite, axis=1)
        self.rests[:, self._side] = 0

    def add_below(self, top: int, values: np.ndarray) -> None:
        """Count values in bins down from the biased exponent ``top``; the histogram is empty.

        Larger values, and NaN, count as 0. Neither rests nor moments are gathered.

        Args:
            top: of the largest magnitudes that are told from 0.
            values: float32 [rows, n].
        """
        self.tops[:] = top
        end = np.int32((top + 1) << _MANTISSA_BITS)
        for start in range(0, values.shape[1], _BLOCK):
            bits = np.ascontiguousarray(values[:, start : start + _BLOCK]).view(np.int32)
            self._count(np.where((bits & _MAGNITUDE) < end, bits, np.int32(0)))
        self.rests[:] = 0

    def _count(self, bits: np.ndarray) -> None:
        shift = _MANTISSA_BITS - self.leading
        lowest = (self.tops - self.octaves + 1) << self.leading
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


def _tops(minima: np.ndarray, maxima: np.ndarray, least: int) -> np.ndarray:
    """Biased exponents of the largest magnitudes, int32 [rows]; ``least`` without values."""
    largest = np.where(minima > maxima, np.float32(0), np.maximum(maxima, -minima))
    exponents = largest.astype(np.float32).view(np.int32) >> _MANTISSA_BITS
    tops: np.ndarray = np.maximum(exponents, np.int32(least))
    return tops


def _add_blocks(sums: np.ndarray, values: np.ndarray) -> np.ndarray:
    """``sums``, float64 [rows], and then the values, float64 [rows, n], in the order of rule 6."""
    rows, count = values.shape
    size = min(_SUM_BLOCK, -(-count // _LANES) * _LANES)
    padded = np.zeros((rows, -(-count // size) * size))
    padded[:, :count] = values
    # Along an axis that is not the last one numpy adds in order.
    lanes = padded.reshape(rows, -1, size // _LANES, _LANES).sum(axis=2)
    pairs = lanes[..., :2] + lanes[..., 2:]
    blocks = pairs[..., 0] + pairs[..., 1]
    total: np.ndarray = np.cumsum(np.column_stack([sums, blocks]), axis=1)[:, -1]
    return total
