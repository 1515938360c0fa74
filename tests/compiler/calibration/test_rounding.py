"""Rounding of weights with error feedback: against rounding to the nearest, and all roundings."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from snn_compile.compiler.calibration.sequence.rounding import round_weights


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def covariance(rng, inputs, shared=0.9, groups=1):
    """Of inputs that vary together."""
    mixed = rng.standard_normal((groups, 4 * inputs, inputs))
    mixed += shared * 3 * rng.standard_normal((groups, 4 * inputs, 1))
    return np.stack([np.cov(rows, rowvar=False).reshape(inputs, inputs) for rows in mixed])


def error(weight, rounded, steps, matrix):
    left = weight - rounded * steps.astype(np.float64).reshape(*weight.shape[:2], 1)
    return np.einsum("goi,gij,goj->go", left, matrix, left)


@pytest.mark.parametrize("groups", [1, 3])
def test_feedback_leaves_far_less_error_than_the_nearest_integers_where_inputs_vary_together(
    groups, rng
):
    weight, matrix = rng.standard_normal((groups, 5, 40)), covariance(rng, 40, groups=groups)
    rounded, steps = round_weights(weight, matrix, 15, np.zeros(groups * 5))
    nearest = np.rint(weight / steps.astype(np.float64).reshape(groups, 5, 1)).clip(-15, 15)
    fed, plain = (error(weight, r, steps, matrix).sum() for r in (rounded, nearest))
    assert fed < 0.5 * plain
    assert np.array_equal(rounded, np.rint(rounded))
    assert np.abs(rounded).max() <= 15


def test_no_rounding_of_three_weights_is_much_better(rng):
    """Each of three weights to one of the four integers next to it."""
    matrix = covariance(rng, 3)
    fed = best = 0.0
    for _ in range(50):
        weight = rng.standard_normal((1, 1, 3))
        rounded, steps = round_weights(weight, matrix, 7, np.zeros(1))
        fed += float(error(weight, rounded, steps, matrix)[0, 0])
        low = np.floor(weight / float(steps[0]))
        best += min(
            float(error(weight, np.clip(low + shift, -7, 7), steps, matrix)[0, 0])
            for shift in itertools.product((-1, 0, 1, 2), repeat=3)
        )
    assert fed < 2 * best


def test_inputs_that_do_not_vary_together_are_rounded_to_the_nearest(rng):
    weight, variance = rng.standard_normal((1, 4, 6)), np.array([4.0, 1, 9, 2, 5, 3])
    matrix = np.diag(variance)[None]
    rounded, steps = round_weights(weight, matrix, 64, np.zeros(4))
    step = steps.astype(np.float64)[None, :, None]
    np.testing.assert_array_equal(rounded, np.rint(weight / step).clip(-64, 64))


def test_without_covariances_all_weights_are_rounded_to_the_nearest(rng):
    weight = rng.standard_normal((1, 4, 6))
    rounded, steps = round_weights(weight, None, 64, np.zeros(4))
    step = steps.astype(np.float64)[None, :, None]
    np.testing.assert_array_equal(rounded, np.rint(weight / step).clip(-64, 64))


def test_inputs_that_never_vary_and_weights_of_zero_do_no_harm(rng):
    weight, matrix = rng.standard_normal((2, 3, 5)), covariance(rng, 5, groups=2)
    matrix[0] = 0
    weight[1, 1] = 0
    rounded, steps = round_weights(weight, matrix, 64, np.zeros(6))
    assert np.isfinite(rounded).all()
    assert np.all(steps > 0)
    assert not rounded[1, 1].any()


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1e150, 1e300])
def test_variances_beyond_all_bounds_are_survived(scale, rng):
    """Networks whose values explode on made-up samples have them."""
    weight = rng.standard_normal((1, 3, 5))
    matrix = covariance(rng, 5) * np.outer(*[np.array([1, 1e-8, 1, 1e-12, 1])] * 2) * scale
    rounded, steps = round_weights(weight, matrix, 64, np.zeros(3))
    step = steps.astype(np.float64)[None, :, None]
    assert np.abs(weight - rounded * step).max() < 20 * step.max()
    assert np.array_equal(rounded, np.rint(rounded))


def test_a_step_is_smaller_than_the_largest_weight_asks_for_where_few_weights_are_large():
    weight = np.concatenate([[8.0], np.full(200, 0.9)])[None, None]
    matrix = np.eye(201)[None] * np.concatenate([[0.01], np.ones(200)])
    _, steps = round_weights(weight, matrix, 4, np.zeros(1))
    assert steps[0] < 2
