"""IntegrateFire: a neuron simulated step by step, and MultiThresholdFire at T = 1."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import assert_kernel_equals_body, assert_same_bits, operator_model, session
from snn_compile.runtime_ops.integrate_fire import INTEGRATE_FIRE
from snn_compile.runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE


def integrate_model(theta, **options):
    return operator_model(INTEGRATE_FIRE, {"theta": theta}, **options)


def dyadic(rng, shape, largest):
    """Multiples of 2^-10, so that sums in any order are exact."""
    return (rng.integers(-largest * 1024, largest * 1024 + 1, shape) / 1024).astype(np.float32)


@pytest.mark.parametrize("v0", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("timesteps", [1, 2, 7, 32])
def test_binary_neuron_is_the_classical_one(timesteps, v0):
    """h = v + x, a spike where h >= theta, reset by subtraction, v(0) = v0 * theta."""
    theta = 0.75
    x = dyadic(np.random.default_rng(timesteps), (timesteps, 500), 2)
    potential = np.full(500, v0 * theta)
    expected = np.empty_like(x)
    for step in range(timesteps):
        potential = potential + x[step]
        spike = potential >= theta
        expected[step] = theta * spike
        potential = potential - theta * spike
    model = integrate_model(theta, timesteps=timesteps, v0=v0)
    y = assert_kernel_equals_body(model, {"X": x})
    np.testing.assert_array_equal(y, expected)
    assert len(np.unique(y)) == 2


@pytest.mark.parametrize(("levels_pos", "levels_neg"), [(4, 0), (3, 2), (0, 5), (1, 1)])
def test_multi_level_neuron_carries_the_residual(levels_pos, levels_neg):
    """Both polarities alike; what the spikes did not carry away stays for the next step."""
    theta, v0, timesteps = 0.5, 0.25, 9
    x = dyadic(np.random.default_rng(7), (timesteps, 400), 3)
    residual = np.zeros(400)
    expected = np.empty_like(x)
    for step in range(timesteps):
        potential = residual + x[step]
        up = np.clip(np.floor(potential / theta + v0), 0, levels_pos)
        down = np.clip(np.floor(-potential / theta + v0), 0, levels_neg)
        expected[step] = theta * np.where(potential >= 0, up, -down)
        residual = potential - expected[step]
    attributes = {"levels_pos": levels_pos, "levels_neg": levels_neg, "v0": v0}
    model = integrate_model(theta, timesteps=timesteps, **attributes)
    y = assert_kernel_equals_body(model, {"X": x})
    np.testing.assert_array_equal(y, expected)
    assert np.unique(y).size == levels_pos + levels_neg + 1


def test_nothing_is_lost_while_no_level_saturates():
    """What went in came out, but for the residual, which is below one threshold."""
    x = dyadic(np.random.default_rng(8), (20, 300), 1)
    model = integrate_model(0.25, timesteps=20, levels_pos=50, levels_neg=50, v0=0.5)
    y = session(model, library=True).run(None, {"X": x})[0]
    assert np.abs(x.sum(0, dtype=np.float64) - y.sum(0, dtype=np.float64)).max() <= 0.125


@settings(max_examples=50, deadline=None)
@given(
    levels_pos=st.integers(0, 40),
    levels_neg=st.integers(0, 40),
    v0=st.floats(0, 1, exclude_max=True, width=32),
    theta=st.floats(2**-10, 8, width=32),
    seed=st.integers(0, 2**32 - 1),
)
def test_one_step_is_multi_threshold_fire(levels_pos, levels_neg, v0, theta, seed):
    attributes = {"levels_pos": levels_pos or 1, "levels_neg": levels_neg, "v0": v0}
    x = np.random.default_rng(seed).normal(0, 5, (3, 70)).astype(np.float32)
    x[0, :5] = [np.nan, np.inf, -np.inf, 0.0, -0.0]
    fire = operator_model(MULTI_THRESHOLD_FIRE, {"theta": theta}, **attributes)
    y = assert_kernel_equals_body(integrate_model(theta, **attributes), {"X": x})
    assert_same_bits(y, session(fire, library=True).run(None, {"X": x})[0])


def test_one_step_of_a_scalar():
    y = assert_kernel_equals_body(integrate_model(1.0), {"X": np.array(0.7, np.float32)})
    assert y == 1


def test_axis_zero_is_time_major():
    """Two samples of three steps: rows 0, 2, 4 are sample 0."""
    x = np.array([[1], [0], [0], [0], [0], [0]], np.float32)
    model = integrate_model(0.5, timesteps=3, v0=0.0)
    y = assert_kernel_equals_body(model, {"X": x})
    np.testing.assert_array_equal(y.ravel(), [0.5, 0, 0.5, 0, 0, 0])


def test_axis_counts_within_one_step():
    """theta of shape [B] on axis 0 belongs to the samples of a step."""
    x = np.ones((4, 1), np.float32)
    model = integrate_model([1.0, 4.0], timesteps=2, axis=0, v0=0.0)
    y = assert_kernel_equals_body(model, {"X": x})
    np.testing.assert_array_equal(y.ravel(), [1, 0, 1, 0])


def test_nan_and_infinity_stay_in_their_neuron():
    x = np.zeros((3, 3), np.float32)
    x[0] = [np.nan, np.inf, np.inf]
    x[1, 2] = -np.inf
    y = assert_kernel_equals_body(integrate_model(1.0, timesteps=3), {"X": x})
    np.testing.assert_array_equal(y[:, 0], np.nan)
    np.testing.assert_array_equal(y[:, 1], 1)
    np.testing.assert_array_equal(y[:, 2], [1, np.nan, np.nan])


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"timesteps": 0}, r"timesteps = 0 must lie in 1\.\.2147483648"),
        ({"timesteps": -3}, "timesteps = -3"),
        ({"timesteps": 1 << 40}, "timesteps = 1099511627776"),
        ({"timesteps": 2.0}, "attribute timesteps must be an integer, got the float 2"),
        ({"levels_pos": 0}, "levels_pos = 0 and levels_neg = 0"),
        ({"v0": 1.0}, "v0 = 1 must lie in"),
    ],
    ids=str,
)
def test_bad_attributes_are_refused(attributes, message):
    model = integrate_model(1.0, with_body=False, **attributes)
    with pytest.raises(Exception, match=f"IntegrateFire node 'neuron': {message}"):
        session(model, library=True)


@pytest.mark.parametrize(
    ("shape", "theta", "message"),
    [
        ((5, 3), 1.0, "axis 0 of X has 5 entries, not a multiple of timesteps = 2"),
        ((), 1.0, "X is a scalar: it has no axis 0 for 2 timesteps"),
        ((4, 3), [1.0, 1.0], "theta has 2 values but axis 1 of X has 3 channels"),
    ],
    ids=str,
)
def test_bad_shapes_are_refused(shape, theta, message):
    runner = session(integrate_model(theta, timesteps=2, with_body=False), library=True)
    with pytest.raises(Exception, match=f"IntegrateFire node 'neuron': {message}"):
        runner.run(None, {"X": np.zeros(shape, np.float32)})
