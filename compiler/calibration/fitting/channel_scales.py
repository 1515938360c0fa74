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
    own = np.array([_magnitude(row) for row in rows])
    if not own.any():
        return np.ones(len(rows), np.float32)
    whole = _magnitude(Distribution(rows.means, rows.low, rows.high, rows.counts))
    rare = rarely_active(rows) | (own < _SILENT * whole)
    scale: np.ndarray = np.where(rare, np.maximum(own, whole), own).astype(np.float32)
    return scale


def rarely_active(rows: Sequence[Distribution]) -> np.ndarray:
    """Rule 2: which channels have too few values other than 0 for statistics of their own."""
    rows = Rows.joined(rows)
    active = rows.totals - rows.zeros
    rare: np.ndarray = active < np.maximum(_RARE_SHARE * rows.totals, _FEW_VALUES)
    return rare


def _magnitude(row: Distribution) -> float:
    """The percentile of the magnitudes; the largest where that is 0."""
    if len(row.means) == 0:
        return 0.0
    magnitudes = np.abs(row.means)
    order = np.argsort(magnitudes, kind="stable")
    cumulative = np.cumsum(row.counts[order])
    position = int(np.searchsorted(cumulative, _QUANTILE * cumulative[-1]))
    magnitude = float(magnitudes[order[min(position, len(order) - 1)]])
    return magnitude or float(magnitudes.max())
