"""The intervals over several seeds, against values worked out another way."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from accuracy_intervals import drop_over_seeds, mean_over_seeds
from snn_compile.compiler.evaluation.statistics import paired_difference


def bits(text):
    return np.array([c == "1" for c in text])


def test_one_seed_is_the_paired_difference_of_its_samples():
    ann, snn = bits("1" * 6 + "0" * 2 + "1" * 32), bits("0" * 6 + "1" * 2 + "1" * 32)
    assert drop_over_seeds(ann, snn[None]) == paired_difference(6 - 2, 6 + 2, 40)


def test_more_seeds_are_no_more_samples():
    ann, snn = bits("11110000"), bits("11011000")
    once = drop_over_seeds(ann, snn[None])
    thrice = drop_over_seeds(ann, np.stack([snn] * 3))
    assert astuple(thrice) == pytest.approx(astuple(once))


def test_seeds_are_averaged_within_a_sample():
    ann = bits("1100")
    estimate = drop_over_seeds(ann, np.stack([bits("0100"), bits("1100")]))
    assert estimate.value == pytest.approx(0.125)


def test_the_mean_takes_the_spread_over_samples():
    values = np.array([[1.0, 3.0, 5.0], [1.0, 3.0, 5.0]])
    estimate = mean_over_seeds(values)
    half = 1.959963984540054 * 2 / np.sqrt(3)
    assert astuple(estimate) == pytest.approx((3, 3 - half, 3 + half))
