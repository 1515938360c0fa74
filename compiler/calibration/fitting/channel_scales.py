"""The scale of each channel, in whose units all channels share one staircase.

1. The scale of a channel is the 99.9th percentile of its magnitudes: of the measures tried (root
   mean square, mean, largest, percentiles) it gave the least error, between the first two, which
   let tails saturate, and the third, which one value decides.
2. A channel that is rarely active (not 0 in less than a tenth of its values, or in fewer than 300
   of them), or nearly silent, gets at least the scale of the whole tensor: its few large values
   carry what it has to say, and its own statistics would clip them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from .distributions import Distribution
from .rows import Rows

_QUANTILE = 0.999
_RARE_SHARE = 0.1
_FEW_VALUES = 300
#: A channel whose scale is below this share of the tensor's is nearly silent.
_SILENT = 1e-5


def channel_scales(rows: Sequence[Distribution]) -> np.ndarray:
    """Scales, float32 [rows], above 0; all 1 where every value is 0.

    Args:
        rows: distribution of each channel.
    """
    rows = Rows.joined(rows)
    magnitudes, counts = np.abs(rows.means), rows.counts
    ends = np.array([0, len(magnitudes)])
    own = _percentiles(magnitudes, counts, rows.starts)
    if not own.any():
        return np.ones(len(rows), np.float32)
    whole = float(_percentiles(magnitudes, counts, ends)[0])
    rare = rarely_active(rows) | (own < _SILENT * whole)
    scale: np.ndarray = np.where(rare, np.maximum(own, whole), own).astype(np.float32)
    return scale


def rarely_active(rows: Sequence[Distribution]) -> np.ndarray:
    """Rule 2: which channels have too few values other than 0 for statistics of their own."""
    rows = Rows.joined(rows)
    active = rows.totals - rows.zeros
    rare: np.ndarray = active < np.maximum(_RARE_SHARE * rows.totals, _FEW_VALUES)
    return rare


def _percentiles(magnitudes: np.ndarray, counts: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Rule 1 for each row, the largest magnitude where the percentile is 0, and 0 without values.

    Args:
        magnitudes: float64 [n], row by row.
        counts: float64 [n], whole numbers above 0, so that their sums are exact.
        starts: int64 [rows + 1], where each row begins, and n.
    """
    order = np.arange(len(magnitudes))
    for start, stop in pairwise(starts.tolist()):
        if (np.diff(magnitudes[start:stop]) < 0).any():
            order[start:stop] = start + np.argsort(magnitudes[start:stop])
    ascending = np.append(magnitudes[order], 0.0)
    cumulative = np.append(0.0, np.cumsum(counts[order]))
    first, behind = starts[:-1], starts[1:]
    wanted = np.ceil(_QUANTILE * (cumulative[behind] - cumulative[first]))
    at = np.searchsorted(cumulative[1:], cumulative[first] + wanted)
    last = np.maximum(behind - 1, first)
    found = ascending[np.clip(at, first, last)]
    found = np.where(found > 0, found, ascending[last])
    return np.where(behind > first, found, 0.0)
