"""Drop the levels of a neuron that no calibration sample reaches.

On membrane potentials that were counted, the neuron gives the same bits as before:

1. ThresholdNeuron: N_pos and N_neg become the outermost levels that occur. Larger inputs than were
   seen are then clipped there.
2. StaircaseNeuron: levels that do not occur go, and of the thresholds between two levels that stay
   one stays, in the middle of them. Level 0 stays even if it did not occur: silence is for inputs
   that were not seen too.
3. DualNeuron: each of its neurons.
4. A neuron keeps at least one threshold.

Levels are counted on arrays, exactly (:func:`count_levels`), or in a histogram
(:func:`count_levels_in`), which counts a bin for every level that its values may reach: more
levels may stay than are used, never fewer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ....passes.neurons.neuron import V0, DualNeuron, Neuron, StaircaseNeuron, ThresholdNeuron
from ...running.signed_histogram import SignedHistogram

_EXPONENT_BIAS = 127

#: Level counts: int64 [levels], most negative or first level first; of a DualNeuron a pair.
Counts = Any


def count_levels(neuron: Neuron, x: np.ndarray) -> Counts:
    """How often each level occurs.

    Args:
        neuron: any kind.
        x: float32 membrane potentials, finite, with the neuron's channel axis.

    Returns:
        int64 [N_neg + 1 + N_pos] of a ThresholdNeuron, [K + 1] of a StaircaseNeuron, a pair of
        them (positive, negative) of a DualNeuron. Counts of several arrays may be added up.
    """
    if isinstance(neuron, DualNeuron):
        return count_levels(neuron.positive, x), count_levels(neuron.negative, x)
    counts = np.zeros(_size(neuron), np.int64)
    scale = _scale(neuron)
    if scale.ndim == 0:
        return counts + np.bincount(_levels(neuron, x, scale).reshape(-1), minlength=len(counts))
    for channel, values in enumerate(np.moveaxis(x, neuron.axis, 0)):
        fired = _levels(neuron, values, scale[channel])
        counts += np.bincount(fired.reshape(-1), minlength=len(counts))
    return counts


def count_levels_in(neuron: Neuron, histogram: SignedHistogram) -> Counts:
    """How many values may have reached each level, as for :func:`count_levels`.

    Args:
        neuron: any kind.
        histogram: of its membrane potential; one row, or one per channel.
    """
    if isinstance(neuron, DualNeuron):
        return count_levels_in(neuron.positive, histogram), count_levels_in(
            neuron.negative, histogram
        )
    counts = np.zeros(_size(neuron) + 1, np.int64)
    scale = _scale(neuron)
    if scale.ndim and scale.size != len(histogram.counts):
        raise ValueError(f"{scale.size} channels, the histogram has {len(histogram.counts)} rows")
    for row in range(len(histogram.counts)):
        means, seen = histogram.distribution(row)
        if len(means) == 0:
            continue
        unit = scale[row] if scale.ndim else scale
        low, high = _bins(means, histogram, row)
        first, last = _levels(neuron, low, unit), _levels(neuron, high, unit)
        np.add.at(counts, first, seen)
        np.subtract.at(counts, last + 1, seen)
    return np.cumsum(counts)[:-1]


def shrink(neuron: Neuron, counts: Counts) -> Neuron:
    """The neuron without the levels that do not occur.

    Args:
        neuron: any kind.
        counts: as from :func:`count_levels`.

    Raises:
        ValueError: there are more or fewer counts than levels.
    """
    if isinstance(neuron, DualNeuron):
        positive = _shrink(neuron.positive, counts[0])
        return replace(neuron, positive=positive, negative=_shrink(neuron.negative, counts[1]))
    assert isinstance(neuron, (ThresholdNeuron, StaircaseNeuron))
    return _shrink(neuron, counts)


def _shrink(
    neuron: ThresholdNeuron | StaircaseNeuron, counts: np.ndarray
) -> ThresholdNeuron | StaircaseNeuron:
    """Rules 1, 2 and 4."""
    if len(counts) != _size(neuron):
        raise ValueError(f"{len(counts)} counts of a neuron with {_size(neuron)} levels")
    used = np.flatnonzero(counts)
    if isinstance(neuron, ThresholdNeuron):
        silent = neuron.levels_neg
        above = max(int(used[-1]) - silent, 0) if len(used) else 0
        below = max(silent - int(used[0]), 0) if len(used) else 0
        if above == below == 0:
            above, below = (1, 0) if neuron.levels_pos else (0, 1)
        return replace(neuron, levels_pos=above, levels_neg=below)
    return _shrink_staircase(neuron, used)


def _shrink_staircase(neuron: StaircaseNeuron, used: np.ndarray) -> StaircaseNeuron:
    """Rule 2."""
    kept = np.union1d(used, np.flatnonzero(neuron.levels == 0)[:1]).astype(np.int64)
    if len(kept) < 2:
        only = int(kept[0]) if len(kept) else 0
        kept = np.array([only, only + 1] if only == 0 else [only - 1, only])
    # Thresholds i..j-1 are between levels i and j.
    middle = (kept[:-1] + kept[1:] - 1) // 2
    return replace(neuron, thresholds=neuron.thresholds[middle], levels=neuron.levels[kept])


def _size(neuron: Neuron) -> int:
    """Number of levels, silence included."""
    if isinstance(neuron, StaircaseNeuron):
        return len(neuron.levels)
    assert isinstance(neuron, ThresholdNeuron)
    return neuron.levels_neg + 1 + neuron.levels_pos


def _scale(neuron: Neuron) -> np.ndarray:
    if isinstance(neuron, StaircaseNeuron):
        return neuron.scale
    assert isinstance(neuron, ThresholdNeuron)
    return neuron.theta


def _levels(neuron: Neuron, x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Index of the level of each value, in the operators' own arithmetic (float32)."""
    x = x.astype(np.float32, copy=False)
    if isinstance(neuron, StaircaseNeuron):
        return np.asarray(np.searchsorted(scale * neuron.thresholds, x, side="right"))
    assert isinstance(neuron, ThresholdNeuron)
    fired = np.floor(np.abs(x) / scale + np.float32(V0))
    limit = np.where(x < 0, neuron.levels_neg, neuron.levels_pos).astype(np.float32)
    spikes = np.minimum(fired, limit).astype(np.int64)
    return np.asarray(np.where(x < 0, -spikes, spikes) + neuron.levels_neg)


def _bins(means: np.ndarray, histogram: SignedHistogram, row: int) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest float32 in the bins that have these means."""
    leading = histogram.leading
    mantissa, exponent = np.frexp(np.abs(means))
    part = np.floor((mantissa - 0.5) * (2 << leading))
    near = np.ldexp(0.5 + part / (2 << leading), exponent)
    far = np.ldexp(0.5 + (part + 1) / (2 << leading), exponent)
    # What is too small for a bin of its own counts as 0.
    smallest = np.ldexp(1.0, int(histogram.tops[row]) - histogram.octaves + 1 - _EXPONENT_BIAS)
    near = np.where(means == 0, -smallest, near).astype(np.float32)
    far = np.nextafter(np.where(means == 0, smallest, far).astype(np.float32), np.float32(0))
    low, high = np.where(means < 0, -far, near), np.where(means < 0, -near, far)
    return np.maximum(low, histogram.minima[row]), np.minimum(high, histogram.maxima[row])
