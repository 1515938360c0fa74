"""Intervals of what an evaluation counts, all at 95 %.

Wilson (E. B. Wilson 1927) for the share p of n samples, z = 1.96:

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

Paired difference for the drop: sample i contributes d_i = [ANN right] - [SNN right], one of -1, 0,
1, since both answer the same samples; that is the normal interval of McNemar's table, with two
samples added as Agresti and Min (2005) do, 1/2 in each cell of that table, so that the interval
does not shrink to a point where no sample differs:

    m = sum d_i / (n + 2),   m -+ z sqrt(((sum d_i^2 + 1) / (n + 2) - m^2) / (n + 2))
"""

from __future__ import annotations

import math

from ..report.results import Estimate

Z = 1.959963984540054


def wilson(share: float, samples: int) -> Estimate:
    """A share of so many samples."""
    z2 = Z * Z / samples
    centre = share + z2 / 2
    half = math.sqrt(z2 * (share * (1 - share) + z2 / 4))
    # Rounding must not put a bound beyond the share itself.
    low = min(max((centre - half) / (1 + z2), 0.0), share)
    high = max(min((centre + half) / (1 + z2), 1.0), share)
    return Estimate(share, low, high)


def paired_difference(total: float, squares: float, samples: int) -> Estimate:
    """How much less often the SNN is right.

    Args:
        total: the sum of all d_i.
        squares: the sum of their squares.
        samples: how many there are.
    """
    count = samples + 2
    mean = total / count
    variance = max((squares + 1) / count - mean**2, 0.0)
    half = Z * math.sqrt(variance / count)
    return Estimate(total / samples, mean - half, mean + half)
