"""The 95 % intervals, against values worked out another way."""

from __future__ import annotations

import numpy as np
import pytest
from snn_compile.compiler.evaluation.statistics import paired_difference, wilson


@pytest.mark.parametrize(
    ("right", "samples", "low", "high"),
    [  # the first as tabulated by R. G. Newcombe 1998, method 3
        (81, 263, 0.2553, 0.3662),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
    ],
)
def test_wilson(right, samples, low, high):
    estimate = wilson(right / samples, samples)
    assert estimate.value == right / samples
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=5e-5)
    # The bounds are the shares q from which p is z standard deviations away.
    z2 = 1.959963984540054**2
    for bound in {estimate.low, estimate.high} - {0.0, 1.0}:
        distance = (right / samples - bound) ** 2
        assert distance == pytest.approx(z2 * bound * (1 - bound) / samples, rel=1e-9)


def test_the_paired_interval_counts_only_samples_that_differ():
    """40 samples, 6 right in the ANN alone, 2 in the SNN alone: Agresti and Min by hand."""
    estimate = paired_difference(6 - 2, 6 + 2, 40)
    b, c, n = 6.5, 2.5, 42
    half = 1.959963984540054 * np.sqrt((b + c) - (b - c) ** 2 / n) / n
    assert estimate.value == pytest.approx(4 / 40)
    assert (estimate.low, estimate.high) == pytest.approx(((b - c) / n - half, (b - c) / n + half))


def test_the_paired_interval_is_no_point_where_nothing_differs():
    estimate = paired_difference(0, 0, 4)
    assert estimate.value == 0
    assert estimate.low == -estimate.high < 0
