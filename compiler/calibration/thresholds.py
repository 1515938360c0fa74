"""From the distribution of an activation to the threshold of its neuron.

The neuron is y = theta * min(floor(x / theta + 1/2), N) for x > 0: a uniform quantiser with step
theta and ceiling N * theta.

* percentile: N * theta is the p-th percentile of all values, those at 0 included. (QCFS-style
  clipping; the question "which percentile?" is why it is not the default.)
* mse: theta minimises sum_j c_j (m_j - y(m_j))^2 over the histogram's counts c_j at bin centres
  m_j. The ceiling is searched on a geometric grid from the largest value down to 1/200 of it, then
  on a fine linear grid around the best. This is the error-optimal uniform quantiser.

Both keep N * theta at or below ``upper``, the largest value the activation itself can give.

Per channel, a channel that is rarely active (above 0 in less than a tenth of its values, or in
fewer than 300 of them) gets at least the threshold of the whole tensor: its few large values carry
what it has to say, and its own statistics would clip them.
"""

from __future__ import annotations

import numpy as np

from .histogram import Histogram

_COARSE = np.geomspace(1.0, 1 / 200, 96)
_FINE = 33
_RARE_SHARE = 0.1
_FEW_VALUES = 300


def find_theta(
    histogram: Histogram, levels: int, calibrator: str, percentile: float, upper: float
) -> np.ndarray:
    """Thresholds, float32: scalar for one row, [rows] otherwise.

    Args:
        histogram: distribution of the activation's output magnitude.
        levels: number of levels N.
        calibrator: "mse" or "percentile".
        percentile: p of the percentile calibrator, in (0, 100].
        upper: largest output of the activation, inf if unbounded.
    """

    def theta_of(distribution: Histogram, row: int) -> np.float32:
        peak = min(float(distribution.peaks[row]), upper)
        if peak <= 0:  # silent on every sample: any threshold will do
            ceiling = upper if np.isfinite(upper) else 1.0
        elif calibrator == "percentile":
            ceiling = min(_percentile(distribution, row, percentile), peak)
        else:
            ceiling = _mse_ceiling(distribution, row, levels, peak)
        return _theta(ceiling, levels, upper)

    rows = len(histogram.counts)
    if rows == 1:
        return np.array(theta_of(histogram, 0))
    shared = theta_of(histogram.merged(), 0)
    active = histogram.counts.sum(axis=1)
    rare = active < np.maximum(_RARE_SHARE * histogram.totals, _FEW_VALUES)
    own = [theta_of(histogram, row) for row in range(rows)]
    return np.where(rare, np.maximum(own, shared), own).astype(np.float32)


def clip_rate(histogram: Histogram, theta: np.ndarray, levels: int) -> float:
    """Share of all values whose level exceeds N: those at or above (N + 1/2) * theta."""
    clipped = 0
    for row, threshold in enumerate(np.atleast_1d(theta)):
        beyond = histogram.centres(row) >= (levels + 0.5) * float(threshold)
        clipped += int(histogram.counts[row, beyond].sum())
    return clipped / max(int(histogram.totals.sum()), 1)


def _theta(ceiling: float, levels: int, upper: float) -> np.float32:
    theta = np.float32(max(ceiling / levels, float(np.finfo(np.float32).tiny)))
    while float(theta) * levels > upper:  # rounding may have gone up
        theta = np.nextafter(theta, np.float32(0))
    return theta


def _percentile(histogram: Histogram, row: int, percentile: float) -> float:
    """Upper end of the bin that holds the percentile; the peak if that is at 0."""
    total = int(histogram.totals[row])
    silent = total - int(histogram.counts[row].sum())
    cumulative = silent + np.cumsum(histogram.counts[row])
    position = int(np.searchsorted(cumulative, percentile / 100 * total))
    if silent >= percentile / 100 * total:
        return float(histogram.peaks[row])
    return (position + 1) * float(histogram.limits[row]) / histogram.bins


def _mse_ceiling(histogram: Histogram, row: int, levels: int, peak: float) -> float:
    used = np.flatnonzero(histogram.counts[row])
    counts = histogram.counts[row, used].astype(np.float64)
    values = np.minimum(histogram.centres(row)[used], peak)

    def best(ceilings: np.ndarray) -> int:
        theta = (ceilings / levels)[:, None]
        level = np.minimum(np.floor(values / theta + 0.5), levels)
        return int(np.argmin(((values - theta * level) ** 2) @ counts))

    coarse = peak * _COARSE
    k = best(coarse)
    fine = np.linspace(coarse[min(k + 1, len(coarse) - 1)], coarse[max(k - 1, 0)], _FINE)
    return float(fine[best(fine)])
