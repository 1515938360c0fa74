"""Histograms of activation magnitudes, gathered batch by batch in bounded memory."""

from __future__ import annotations

import numpy as np

#: Bins of one histogram. The range is a power of two at most twice the largest value seen, so at
#: least half of the bins are in use: 32 bins per level at N = 32.
BINS = 2048
#: A channel of its own gets fewer bins: a network has thousands of channels.
CHANNEL_BINS = 512


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
