"""Bins of a histogram that tell the levels of a neuron apart.

A tensor that holds one value for each level of a neuron is observed as it is: looking at every
value is what costs, so nothing is made for it first.

1. Bins are those of ``SignedHistogram``: as few per octave, and as few octaves, as keep values that
   stand for other spikes in other bins. All of them are tried, with what a product and a quotient
   may change (2^-20 of the value).
2. The largest value is known, so ``Observe`` need not find it.
3. Where more than :data:`_MOST_BINS` were needed, levels lie too close together, or too far apart:
   None. Their indices, from :data:`INDEX` on, are told apart in any case.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..running.signed_histogram import SignedHistogram

#: Where indices of levels begin, as many as a table has at most: all in one octave, each in the
#: middle of a bin.
INDEX = 256.5
#: Bins of either sign, at most: more take longer to add up than values take to count.
_MOST_BINS = 1 << 12
#: What ``Observe`` takes: bins per octave as a power of two, octaves, exponent of finite values.
_MOST_LEADING, _MOST_OCTAVES, _LARGEST = 10, 127, 254
_MANTISSA_BITS = 23
_ROUNDING = 2.0**-20


@dataclass(frozen=True)
class LevelBins:
    """How the values of a tensor are counted.

    Attributes:
        bins: bins per octave as a power of two, and octaves.
        top: biased exponent of the largest magnitude.
        values: float64, ascending.
        k: int64, the spikes that each one stands for.
    """

    bins: tuple[int, int]
    top: int
    values: np.ndarray
    k: np.ndarray

    def spikes(self, histogram: SignedHistogram) -> tuple[np.ndarray, np.ndarray]:
        """What was observed: int64 [bins], k of each bin that has values, and how many."""
        means, seen = histogram.distribution(0)
        ends = (self.values[1:] + self.values[:-1]) / 2
        return self.k[np.searchsorted(ends, means)], seen


def level_bins(values: np.ndarray, k: np.ndarray) -> LevelBins | None:
    """The bins for levels with these values and spikes; None where there are no such bins.

    Args:
        values: float64 [levels], what the tensor holds at each of them, ascending.
        k: int64 [levels]; levels of the same k need not be told apart.
    """
    ends = np.sort([values * (1 - _ROUNDING), values * (1 + _ROUNDING)], axis=0)
    with np.errstate(over="ignore"):  # the largest float32, rounded up
        bits = ends.astype(np.float32).view(np.int32) & np.int32(0x7FFFFFFF)
    exponents = bits >> _MANTISSA_BITS
    top = int(exponents.max())
    least = int(exponents[:, values != 0].min(initial=top))
    octaves = top - least + 1
    if octaves > min(top, _MOST_OCTAVES) or top > _LARGEST:
        return None
    for leading in range(_MOST_LEADING + 1):
        if octaves << leading > _MOST_BINS:
            return None
        below = (least << leading) - 1
        distance = np.maximum((bits >> (_MANTISSA_BITS - leading)) - below, 0)
        first, last = np.where(values < 0, -distance, distance)
        if np.all((last[:-1] < first[1:])[np.diff(k) != 0]):
            return LevelBins((leading, octaves), top, values, k)
    return None
