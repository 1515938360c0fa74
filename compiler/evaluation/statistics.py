"""Intervals of what an evaluation counts, all at 95 %.

Wilson (E. B. Wilson 1927) for the share p of n samples, z = 1.96:

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

Paired difference for the drop: sample i contributes d_i = [ANN right] - [SNN right], one of -1, 0,
1, since both answer the same samples; that is the normal interval of McNemar's table, with two
samples added as Agresti and Min (2005) do, 1/2 in each cell of that table, so that the interval
does not shrink to a point where no sample differs:

    m = sum d_i / (n + 2),   m -+ z sqrt(((sum d_i^2 + 1) / (n + 2) - m^2) / (n + 2))

With several seeds d_i is the mean of sample i over them. The test samples are the same for each
seed, so more seeds do not count as more samples; what the choice of calibration samples does is
told by the range over seeds.

Mean for cosines: the normal interval of the mean over samples, m -+ z s / sqrt(n).
"""

from __future__ import annotations

import math

import numpy as np

from ..report.results import Estimate

_Z = 1.959963984540054


def wilson(share: float, samples: int) -> Estimate:
    """A share of so many samples."""
    z2 = _Z * _Z / samples
    centre = share + z2 / 2
    half = math.sqrt(z2 * (share * (1 - share) + z2 / 4))
    # Rounding must not put a bound beyond the share itself.
    low = min(max((centre - half) / (1 + z2), 0.0), share)
    high = max(min((centre + half) / (1 + z2), 1.0), share)
    return Estimate(share, low, high)


def paired_difference(first: np.ndarray, others: np.ndarray) -> Estimate:
    """How much less often the others are right.

    Args:
        first: whether each sample was right, bool [n].
        others: the same for each seed, bool [seeds, n].
    """
    differences = (first[None].astype(float) - others.astype(float)).mean(axis=0)
    return _paired(float(differences.sum()), float((differences**2).sum()), len(differences))


def paired_drop(lost: int, gained: int, samples: int) -> Estimate:
    """The same from counts, of one seed.

    Args:
        lost: how many samples only the first network has right.
        gained: how many only the other has right.
        samples: how many there are.
    """
    return _paired(float(lost - gained), float(lost + gained), samples)


def mean_interval(values: np.ndarray) -> Estimate:
    """The mean over samples of their means over seeds; ``values`` is [seeds, n], n at least 2."""
    per_sample = values.mean(axis=0)
    mean = float(per_sample.mean())
    half = _Z * float(per_sample.std(ddof=1)) / math.sqrt(len(per_sample))
    return Estimate(mean, mean - half, mean + half)


def _paired(total: float, squares: float, samples: int) -> Estimate:
    count = samples + 2
    mean = total / count
    variance = max((squares + 1) / count - mean**2, 0.0)
    half = _Z * math.sqrt(variance / count)
    return Estimate(total / samples, mean - half, mean + half)
