"""Intervals of statistics of sums: against formulas, and what they are of few samples."""

from __future__ import annotations

import numpy as np
import pytest
from snn_compile.compiler.evaluation.statistics import Z
from snn_compile.compiler.evaluation.tasks.bootstrap import Bootstrap, ratio
from snn_compile.compiler.report.results import Estimate


def mean(sums):
    return ratio(sums[..., 0], sums[..., 1])


def of(values, size=7):
    bootstrap = Bootstrap(2)
    rows = np.stack([values, np.ones_like(values)], axis=1)
    for start in range(0, len(rows), size):
        bootstrap.add(rows[start : start + size])
    return bootstrap


def test_the_interval_of_a_mean_is_that_of_the_formula():
    values = np.random.default_rng(1).uniform(0, 1, 400)
    found = of(values).estimate(mean)
    assert found.value == pytest.approx(values.mean())
    half = Z * values.std() / np.sqrt(len(values))
    assert found.high - found.value == pytest.approx(half, rel=0.08)
    assert found.value - found.low == pytest.approx(half, rel=0.08)


def test_it_covers_the_truth_as_often_as_it_says():
    rng, hits = np.random.default_rng(2), 0
    for _ in range(100):
        found = of(rng.uniform(0, 1, 50)).estimate(mean)
        hits += found.low <= 0.5 <= found.high
    assert 88 <= hits <= 100


def test_it_ends_where_the_statistic_does():
    found = of(np.array([1.0, 1, 1, 0.2])).estimate(mean)
    assert found.high == 1 and 0 < found.low < 0.8


def test_one_sample_says_nothing_of_others():
    assert of(np.array([0.3])).estimate(mean) == Estimate(0.3, 0.0, 1.0)
    assert of(np.array([0.3])).estimate(mean, (-1, 1)) == Estimate(0.3, -1, 1)


def test_the_same_samples_give_the_same_interval():
    values = np.random.default_rng(3).uniform(0, 1, 30)
    assert of(values).estimate(mean) == of(values).estimate(mean)
