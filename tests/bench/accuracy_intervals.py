"""Intervals of 95 % over several seeds.

Paired difference: that of ``compiler/evaluation/statistics.py``, where d_i is the mean of sample i
over the seeds. The test samples are the same for each seed, so more seeds do not count as more
samples; what the choice of calibration samples does is told by the range over seeds.

Mean for cosines: the normal interval of the mean over samples, m -+ z s / sqrt(n).
"""

from __future__ import annotations

import math

import numpy as np
from snn_compile.compiler.evaluation.statistics import paired_difference
from snn_compile.compiler.report.results import Estimate

_Z = 1.959963984540054


def drop_over_seeds(first: np.ndarray, others: np.ndarray) -> Estimate:
    """How much less often the others are right.

    Args:
        first: whether each sample was right, bool [n].
        others: the same for each seed, bool [seeds, n].
    """
    differences = (first[None].astype(float) - others.astype(float)).mean(axis=0)
    total, squares = float(differences.sum()), float((differences**2).sum())
    return paired_difference(total, squares, len(differences))


def mean_over_seeds(values: np.ndarray) -> Estimate:
    """The mean over samples of their means over seeds; ``values`` is [seeds, n], n at least 2."""
    per_sample = values.mean(axis=0)
    mean = float(per_sample.mean())
    half = _Z * float(per_sample.std(ddof=1)) / math.sqrt(len(per_sample))
    return Estimate(mean, mean - half, mean + half)
