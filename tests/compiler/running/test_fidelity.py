"""Comparison of outputs: cosine, answers and ranks, against other formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from snn_compile.compiler.running.fidelity import FidelityMeter


def compared(reference, other, **options):
    meter = FidelityMeter("y")
    meter.add(np.array(reference, np.float32), np.array(other, np.float32), **options)
    return meter


def test_the_cosine_is_the_mean_over_samples_of_all_batches():
    meter = FidelityMeter("y")
    meter.add(np.float32([[1, 0], [1, 1]]), np.float32([[1, 1], [-2, -2]]))
    meter.add(np.float32([[3, 4]]), np.float32([[4, 3]]))
    assert meter.result().cosine == pytest.approx((np.sqrt(0.5) - 1 + 24 / 25) / 3)


def test_the_cosine_of_outputs_with_more_dimensions_is_that_of_a_samples_values():
    reference = np.arange(12).reshape(2, 3, 2)
    other = reference[:, ::-1]
    rows = [(a.ravel(), b.ravel()) for a, b in zip(reference, other, strict=True)]
    expected = np.mean([a @ b / (a @ a) for a, b in rows])
    assert compared(reference, other).result().cosine == pytest.approx(expected)


@pytest.mark.parametrize(
    ("reference", "other", "cosine"),
    [
        ([0, 0], [0, 0], 1),
        ([0, 0], [1, 0], 0),
        ([np.inf, np.nan], [np.inf, np.nan], 1),
        ([1, np.nan], [1, 2], 0),
        ([1, 2], [1, np.inf], 0),
    ],
)
def test_the_cosine_where_there_is_none(reference, other, cosine):
    assert compared([reference], [other]).result().cosine == cosine


def test_an_output_without_a_row_per_sample_is_one_sample():
    found = compared([[1, 0], [0, 1]], [[1, 0], [0, -1]], samples=5)
    assert found.result().cosine == 0
    assert found.result().agreement is None
    assert found.answers() is None


def test_outputs_of_other_shapes_have_no_cosine():
    assert compared([[1, 2], [3, 4]], [[1, 2]]).result().cosine is None


@given(st.integers(2, 9), st.integers(0, 10**6))
def test_answers_are_those_of_sorting(classes, seed):
    rng = np.random.default_rng(seed)
    ann, snn = rng.integers(0, 4, (2, 20, classes))  # ties are common
    labels = rng.integers(0, classes, 20)
    answers = compared(ann, snn, labels=labels).answers()
    order = [np.argsort(-scores, axis=1, kind="stable") for scores in (ann, snn)]
    first, second = (ranks[:, 0] == labels for ranks in order)
    assert answers.samples == answers.labelled == 20
    assert answers.agreeing == (order[0][:, 0] == order[1][:, 0]).sum()
    assert answers.right == (first.sum(), second.sum())
    assert (answers.lost, answers.gained) == ((first > second).sum(), (second > first).sum())
    five = tuple((ranks[:, :5] == labels[:, None]).any(axis=1).sum() for ranks in order)
    assert answers.among_five == (five if classes > 5 else None)


def test_a_row_with_nan_is_never_right_and_is_counted():
    scores = np.zeros((3, 7), np.float32)
    scores[0, 0] = np.nan
    meter = compared(np.zeros((3, 7)), scores, labels=np.zeros(3, int))
    assert meter.answers().right == (3, 2)
    assert meter.answers().among_five == (3, 2)
    assert meter.not_numbers == [0, 1]
