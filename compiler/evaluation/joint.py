"""Joint values: the levels of several samples in one float32, so that they are observed at once.

A histogram of the levels of a neuron needs a look at every value, and looking is what costs. With p
the packed counts of a level (``pack.py``), ascending and at least `gap` apart from one level to
another, and `range` the largest p:

1. The joint value of m samples is v = c + s sum_i w^i p_i, with w = 1 + range / gap. Then v of
   other levels are at least s gap apart: it is a number of m digits. For a batch it is a product
   with a matrix, the same one that sums over samples.
2. c = 2^26 and s are such that all v lie in the octaves from c on, as many as ``Observe`` keeps.
   Sums over samples, at most 2^24, lie below and are not counted where both are observed together.
3. m is the largest for which no two v of other levels share a bin of at most 2^10 per octave. All
   v are tried, with what rounding may change (2^-18 of v, more than m roundings).
4. What is observed as silent beyond the number of values are samples that the batch lacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..calibration.histogram import SignedHistogram

#: Least joint value, and the octaves that are kept from it on.
OFFSET = float(1 << 26)
_OCTAVES = 2
#: Bins per octave that ``Observe`` has at most, as a power of two.
_MOST_LEADING = 10
#: No more joint values can be told apart.
_MOST_VALUES = 2 << _MOST_LEADING
_MANTISSA_BITS = 23
_ROUNDING = 2.0**-18


@dataclass(frozen=True)
class Joint:
    """How the levels of several samples are one number.

    Attributes:
        weights: float32 [m], what packed counts are multiplied by.
        bins: of a histogram that tells the values apart.
        values: float64, ascending.
        k: int64 [values, m], the spikes that each one stands for.
    """

    weights: np.ndarray
    bins: tuple[int, int]
    values: np.ndarray
    k: np.ndarray

    def level_counts(self, histogram: SignedHistogram, low: int, total: int) -> np.ndarray:
        """How often each k was seen, from the lowest one on: int64, of ``total`` values.

        Raises:
            ValueError: fewer were observed; not all runs were made that are observed at once.
        """
        means, seen = histogram.distribution(0)
        joint = means > OFFSET / 2
        ends = (self.values[1:] + self.values[:-1]) / 2
        k = self.k[np.searchsorted(ends, means[joint])]
        counts = np.zeros(int(self.k.max()) - low + 1, np.int64)
        np.add.at(counts, k - low, seen[joint, None])
        beyond = int(counts.sum()) - total
        if beyond < 0:
            raise ValueError(f"{total} values were counted, {-beyond} of them were not observed")
        counts[-low] -= beyond  # rule 4
        return counts


def joint_of(packed: np.ndarray, k: np.ndarray) -> Joint | None:
    """For levels with these packed counts and spikes; None where one sample is too much.

    Args:
        packed: int64 [levels].
        k: int64 [levels]; levels of the same k need not be told apart.
    """
    return _joint_of(tuple(packed.tolist()), tuple(k.tolist()))


@lru_cache
def _joint_of(packed: Sequence[int], k: Sequence[int]) -> Joint | None:
    order = np.argsort(packed, kind="stable")
    ordered, spikes = np.array(packed)[order], np.array(k)[order]
    other = np.diff(spikes) != 0
    gap = int(np.diff(ordered)[other].min(initial=ordered[-1] or 1))
    if gap <= 0:
        return None
    most = int(np.log(_MOST_VALUES) / np.log(len(packed)))
    for m in range(max(most, 1), 0, -1):
        weights = (1 + ordered[-1] / gap) ** np.arange(m)
        room = ((1 << _OCTAVES) - 1) * OFFSET * (1 - 2.0**-9)
        weights = (weights * (room / (weights.sum() * ordered[-1] or 1))).astype(np.float32)
        digits = np.indices([len(packed)] * m).reshape(m, -1)
        values = OFFSET + weights.astype(float) @ ordered[digits]
        own = spikes[digits].T
        rank = np.argsort(values, kind="stable")
        values, own = values[rank], own[rank]
        for leading in range(1, _MOST_LEADING + 1):
            if _are_told_apart(values, own, leading):
                return Joint(weights, (leading, _OCTAVES), values, own)
    return None


def _are_told_apart(values: np.ndarray, k: np.ndarray, leading: int) -> bool:
    first, last = (
        (values * (1 + change)).astype(np.float32).view(np.int32) >> (_MANTISSA_BITS - leading)
        for change in (-_ROUNDING, _ROUNDING)
    )
    other = (k[1:] != k[:-1]).any(axis=1)
    return bool(np.all((last[:-1] < first[1:])[other]))
