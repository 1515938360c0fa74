"""The 95 % intervals, against values worked out another way."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from snn_compile.compiler.evaluation.statistics import (
    mean_interval,
    paired_difference,
    paired_drop,
    wilson,
)


def bits(text):
    return np.array([c == "1" for c in text])


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
    ann = bits("1" * 6 + "0" * 2 + "1" * 16 + "0" * 16)
    snn = bits("0" * 6 + "1" * 2 + "1" * 16 + "0" * 16)
    estimate = paired_difference(ann, snn[None])
    b, c, n = 6.5, 2.5, 42
    half = 1.959963984540054 * np.sqrt((b + c) - (b - c) ** 2 / n) / n
    assert estimate.value == pytest.approx(4 / 40)
    assert (estimate.low, estimate.high) == pytest.approx(((b - c) / n - half, (b - c) / n + half))


def test_the_paired_interval_is_no_point_where_nothing_differs():
    ann = bits("1011")
    estimate = paired_difference(ann, ann[None])
    assert estimate.value == 0
    assert estimate.low == -estimate.high < 0


def test_more_seeds_are_no_more_samples():
    ann, snn = bits("11110000"), bits("11011000")
    once = paired_difference(ann, snn[None])
    thrice = paired_difference(ann, np.stack([snn] * 3))
    assert astuple(thrice) == pytest.approx(astuple(once))


def test_seeds_are_averaged_within_a_sample():
    ann = bits("1100")
    estimate = paired_difference(ann, np.stack([bits("0100"), bits("1100")]))
    assert estimate.value == pytest.approx(0.125)


def test_mean_interval_takes_the_spread_over_samples():
    values = np.array([[1.0, 3.0, 5.0], [1.0, 3.0, 5.0]])
    estimate = mean_interval(values)
    half = 1.959963984540054 * 2 / np.sqrt(3)
    assert astuple(estimate) == pytest.approx((3, 3 - half, 3 + half))


def test_the_drop_from_counts_is_that_of_the_samples():
    ann, snn = bits("1" * 6 + "0" * 2 + "1" * 32), bits("0" * 6 + "1" * 2 + "1" * 32)
    assert astuple(paired_drop(6, 2, 40)) == pytest.approx(
        astuple(paired_difference(ann, snn[None]))
    )
