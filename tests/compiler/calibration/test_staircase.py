"""Thresholds and levels of staircase neurons."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from snn_compile.compiler.calibration.fitting import staircase as module
from snn_compile.compiler.calibration.fitting.channel_scales import channel_scales
from snn_compile.compiler.calibration.fitting.rows import distributions
from snn_compile.compiler.calibration.fitting.staircase import find_scaled_staircase, find_staircase
from snn_compile.compiler.running.counted_histogram import CountedHistogram


def identity(x):
    return x


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def hard_swish(x):
    return x * np.clip(x / 6 + 0.5, 0, 1)


def hard_sigmoid(x):
    return np.clip(x / 6 + 0.5, 0, 1)


def thresholded_relu(x):
    return np.where(x > 1, x, 0)


FUNCTIONS = [identity, relu, sigmoid, silu, gelu_tanh, hard_swish, hard_sigmoid, thresholded_relu]
SILENT = [f for f in FUNCTIONS if f(np.zeros(1))[0] == 0]


def by_name(f):
    return f.__name__


def distribution_of(x):
    histogram = CountedHistogram()
    histogram.add(np.asarray(x, np.float32).reshape(1, -1))
    return histogram.distribution(0)


def normal(n=100_000, seed=0):
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


def relative_error(y, f):
    return np.sqrt(((y - f) ** 2).sum() / (f**2).sum())


# What is best.


@pytest.mark.parametrize(("levels", "mse"), [(2, 0.1902), (4, 0.07994), (6, 0.0440), (8, 0.02785)])
def test_identity_of_a_normal_variable_gives_the_lloyd_max_quantiser(levels, mse):
    x = np.linspace(-6, 6, 12_001)
    staircase = find_staircase(x, np.exp(-x * x / 2), identity, levels)
    assert staircase.error**2 == pytest.approx(mse, rel=3e-3)
    np.testing.assert_allclose(staircase.levels, -staircase.levels[::-1], atol=0.02)


@pytest.mark.parametrize("f", [identity, gelu_tanh, np.cos, sigmoid], ids=by_name)
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_no_partition_of_the_bins_is_better(f, levels, monkeypatch):
    monkeypatch.setattr(module, "_CHARGE", 0.0)
    rng = np.random.default_rng(levels)
    x = np.sort(rng.normal(-0.5, 2, 11))
    x[6] = 0
    x.sort()
    counts = rng.integers(1, 50, 11)
    y = f(x)

    def error(cuts):
        total = 0.0
        for i, j in zip((0, *cuts), (*cuts, 11), strict=True):
            silent = (y[i:j] == 0).any()
            level = 0 if silent else np.average(y[i:j], weights=counts[i:j])
            total += (counts[i:j] * (y[i:j] - level) ** 2).sum()
        return total

    best = min(error(cuts) for cuts in combinations(range(1, 11), levels))
    staircase = find_staircase(x, counts, f, levels)
    assert len(staircase.thresholds) == levels
    power = (counts * y * y).sum()
    assert staircase.error**2 * power == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("f", FUNCTIONS, ids=by_name)
@pytest.mark.parametrize("levels", [1, 3, 8, 32])
def test_error_is_that_of_the_neuron_on_the_values_themselves(f, levels):
    x = 2 * normal()
    staircase = find_staircase(*distribution_of(x), f, levels)
    fired = (x[:, None] >= staircase.thresholds).sum(axis=1)
    y = staircase.levels[fired]
    np.testing.assert_array_equal(staircase(x), y)
    assert staircase.error == pytest.approx(relative_error(y, f(x.astype(np.float64))), rel=0.01)


@pytest.mark.parametrize("f", FUNCTIONS, ids=by_name)
def test_merging_bins_costs_next_to_nothing(f, monkeypatch):
    x, counts = distribution_of(3 * normal(20_000))
    merged = find_staircase(x, counts, f, 16)
    monkeypatch.setattr(module, "_FEWEST_GROUPS", 1500)
    monkeypatch.setattr(module, "_MOST_GROUPS", 1500)
    fine = find_staircase(x, counts, f, 16)
    assert merged.error <= 1.01 * fine.error


@pytest.mark.parametrize("levels", [8, 32, 255])
@pytest.mark.parametrize("power", [1, 5], ids=["normal", "heavy tails"])
def test_histogram_is_as_good_as_the_values(levels, power):
    x = normal(20_000) ** power
    ordered = np.sort(x.astype(np.float64))
    from_values = find_staircase(ordered, np.ones(len(x)), identity, levels)
    from_bins = find_staircase(*distribution_of(x), identity, levels)
    assert relative_error(from_bins(ordered), ordered) <= 1.05 * from_values.error


def test_levels_go_where_the_values_are():
    x = np.concatenate([normal() * 0.01, normal(1000, 1) * 0.01 + 1])
    staircase = find_staircase(*distribution_of(x), identity, 16)
    assert (np.abs(staircase.levels) < 0.1).sum() > 8
    assert (np.abs(staircase.levels - 1) < 0.1).sum() >= 2
    assert not ((staircase.levels > 0.1) & (staircase.levels < 0.9)).any()


# Silence.


@pytest.mark.parametrize("f", SILENT, ids=by_name)
@pytest.mark.parametrize("levels", [1, 2, 3, 7, 8, 31])
@pytest.mark.parametrize("mean", [-1.5, 0.0, 1.5])
def test_silent_input_gives_exactly_zero(f, levels, mean):
    staircase = find_staircase(*distribution_of(2 * normal(5000) + mean), f, levels)
    assert staircase(np.zeros(1))[0] == 0


@pytest.mark.parametrize("f", [relu, hard_swish, hard_sigmoid, thresholded_relu], ids=by_name)
@pytest.mark.parametrize("levels", [1, 8, 32])
def test_level_is_exactly_zero_wherever_the_function_is(f, levels):
    x = 4 * normal()
    staircase = find_staircase(*distribution_of(x), f, levels)
    bins, _ = distribution_of(x)
    assert not staircase(bins[f(bins) == 0]).any()
    assert staircase(bins[f(bins) != 0]).any()


@pytest.mark.parametrize("levels", [8, 32])
def test_tail_near_zero_is_silent_where_that_costs_little(levels, monkeypatch):
    x, counts = distribution_of(3 * normal())
    staircase = find_staircase(x, counts, silu, levels)
    monkeypatch.setattr(module, "_CHARGE", 0.0)
    exact = find_staircase(x, counts, silu, levels)
    assert staircase.levels[0] == 0 != exact.levels[0]
    assert exact.error < staircase.error <= exact.error * 1.05
    assert counts[staircase(x) == 0].sum() > 2 * counts[exact(x) == 0].sum()


def test_small_levels_stay_where_they_carry_the_signal():
    x = np.repeat([-0.001, 1.0, 2.0], [90_000, 10, 10])
    staircase = find_staircase(*distribution_of(x), lambda x: np.where(x < 0, x, x + 1), 2)
    np.testing.assert_allclose(staircase.levels, [-0.001, 2, 3], rtol=1e-6)


@pytest.mark.parametrize("f", FUNCTIONS, ids=by_name)
@pytest.mark.parametrize("x", [4 * normal(5000), np.full(9, -8)], ids=["normal", "single value"])
def test_zero_level_has_no_sign(f, x):
    staircase = find_staircase(*distribution_of(x), f, 16)
    assert not np.signbit(staircase.levels[staircase.levels == 0]).any()


# Few values.


@pytest.mark.parametrize("at", [0.9, -3.0])
def test_threshold_lies_where_the_function_jumps(at):
    def jump(x):
        return np.where(x >= at, 2.0, 0.0)

    staircase = find_staircase(np.array([at - 1, at + 5]), np.array([3, 9]), jump, 4)
    assert staircase.thresholds == pytest.approx([at], abs=1e-4)
    np.testing.assert_array_equal(staircase.levels, [0, 2])


def test_fewer_values_than_levels_are_kept_as_they_are():
    x = np.array([-3, -3, -1.7, 0, 0, 0, 0.3, 12.1], np.float32)
    staircase = find_staircase(*distribution_of(x), identity, 32)
    np.testing.assert_array_equal(staircase(x), x)
    assert len(staircase.thresholds) == 4
    assert staircase.error == pytest.approx(0, abs=1e-7)
    assert staircase(np.float32(6)) == np.float32(0.3)
    assert staircase(np.float32(7)) == np.float32(12.1)


def test_levels_that_nothing_needs_are_left_out():
    x = np.concatenate([normal(1000) - 10, normal(1000) + 10])
    staircase = find_staircase(*distribution_of(x), lambda x: np.sign(x) * 2, 8)
    np.testing.assert_array_equal(staircase.levels, [-2, 0, 2])


@pytest.mark.parametrize("levels", [1, 2, 5, 32, 255])
@pytest.mark.parametrize("value", [5.25, -5.25])
def test_single_value_gives_equal_steps_that_include_it_and_zero(levels, value):
    x = np.full(100, value, np.float32)
    staircase = find_staircase(*distribution_of(x), identity, levels)
    assert len(staircase.thresholds) == levels
    assert staircase(x[:1])[0] == np.float32(value)
    assert staircase(np.zeros(1))[0] == 0
    assert staircase.error == pytest.approx(0, abs=1e-7)
    np.testing.assert_allclose(np.diff(staircase.levels), 5.25 / -(-levels // 2), rtol=1e-3)


@pytest.mark.parametrize("values", [np.zeros(0), np.zeros(50)], ids=["none", "zeros"])
def test_no_signal_gives_equal_steps_up_to_one(values):
    staircase = find_staircase(*distribution_of(values), np.tanh, 4)
    levels = np.tanh([-1, -0.5, 0, 0.5, 1])
    np.testing.assert_allclose(staircase.levels, levels, rtol=1e-6)
    halfway = np.arctanh((levels[1:] + levels[:-1]) / 2)
    np.testing.assert_allclose(staircase.thresholds, halfway, rtol=1e-5)
    assert staircase.error == 0


def test_function_that_is_constant_on_all_values_gives_equal_steps_over_their_range():
    x = -np.abs(normal(1000)) - 1
    staircase = find_staircase(*distribution_of(x), relu, 4)
    assert staircase.levels[-1] == pytest.approx(np.abs(x).max())
    np.testing.assert_allclose(staircase.levels[:3], 0)
    assert len(np.unique(staircase.levels)) == 3
    assert staircase.error == 0


# Numbers.


@pytest.mark.parametrize("f", [identity, relu], ids=by_name)
@pytest.mark.parametrize("levels", [1, 8, 255])
@pytest.mark.parametrize("magnitude", [1e-36, 1e-30, 1.0, 1e30, 6e37])
def test_staircase_of_any_magnitude_is_finite_and_ascends(f, levels, magnitude):
    x = (normal(5000).astype(np.float64) * magnitude).astype(np.float32)
    staircase = find_staircase(*distribution_of(x), f, levels)
    assert staircase.thresholds.dtype == staircase.levels.dtype == np.float32
    assert np.isfinite(staircase.thresholds).all()
    assert np.isfinite(staircase.levels).all()
    assert (np.diff(staircase.thresholds) > 0).all()
    assert len(staircase.levels) == len(staircase.thresholds) + 1 == levels + 1
    reference = find_staircase(*distribution_of(normal(5000)), f, levels)
    assert staircase.error == pytest.approx(reference.error, rel=0.15)


def test_neighbouring_float32_values_are_told_apart():
    x = np.array([1, np.nextafter(np.float32(1), np.float32(2))], np.float64)
    staircase = find_staircase(x, np.array([5, 5]), lambda x: np.where(x > 1, 3.0, 2.0), 4)
    np.testing.assert_array_equal(staircase(x), [2, 3])


def test_levels_beyond_float32_are_its_largest_values():
    x = np.array([-1e38, 0, 1e38])
    staircase = find_staircase(x, np.ones(3), lambda x: 10 * x, 4)
    limit = np.finfo(np.float32).max
    np.testing.assert_array_equal(staircase.levels, [-limit, 0, limit])


def test_values_that_float32_cannot_tell_apart_share_a_threshold():
    x = 1 + np.arange(9) * 2.0**-26
    staircase = find_staircase(x, np.full(9, 10), lambda x: (x - 1) * 2**26, 8)
    assert (np.diff(staircase.thresholds) > 0).all()
    assert 1 <= len(staircase.thresholds) < 4
    assert len(staircase.levels) == len(staircase.thresholds) + 1


def test_inputs_beyond_the_distribution_keep_the_outer_levels():
    staircase = find_staircase(*distribution_of(normal()), identity, 8)
    outer = staircase(np.array([-np.inf, -1e30, 1e30, np.inf]))
    np.testing.assert_array_equal(outer, staircase.levels[[0, 0, -1, -1]])


def test_thresholds_lie_halfway_between_levels_where_there_is_room():
    staircase = find_staircase(np.array([-4.0, 0, 1, 9]), np.full(4, 5), identity, 3)
    np.testing.assert_allclose(staircase.thresholds, [-2, 0.5, 5])


def test_function_may_overflow_on_its_way_but_not_in_the_end():
    x = np.array([-2000.0, -1, 1, 2])
    assert find_staircase(x, np.ones(4), silu, 4).error < 1e-6
    with pytest.raises(ValueError, match=r"not finite at x = 2000"):
        find_staircase(-x[::-1], np.ones(4), np.exp, 3)


# Channels.


def rows_of(x):
    histogram = CountedHistogram(len(x))
    histogram.add(np.asarray(x, np.float32))
    return distributions(histogram)


def test_channels_of_different_size_get_scales_of_their_own():
    rng = np.random.default_rng(0)
    size = np.array([1, 30, 0.5, 2, 10])[:, None]
    x = (rng.standard_normal((5, 20_000)) * size).astype(np.float32)
    scale, staircase = find_scaled_staircase(rows_of(x), identity, 16)
    assert scale.dtype == np.float32
    np.testing.assert_allclose(scale / scale[0], size[:, 0], rtol=0.1)
    y = scale[:, None] * staircase(x / scale[:, None])
    assert staircase.error == pytest.approx(relative_error(y, x), rel=0.03)
    shared = find_staircase(*distribution_of(x), identity, 16)
    assert relative_error(y, x) < 0.81 * relative_error(shared(x), x)
    even = np.sqrt(scale[:, None])  # the measure of rule 9
    assert relative_error(y / even, x / even) < 0.7 * relative_error(shared(x) / even, x / even)


def test_channels_alike_share_one_scale():
    x = np.random.default_rng(0).standard_normal((5, 20_000)) * 3
    scale, staircase = find_scaled_staircase(rows_of(x), identity, 16)
    assert scale.shape == ()
    assert scale == 1
    shared = find_staircase(*distribution_of(x), identity, 16)
    assert staircase.error == pytest.approx(shared.error, rel=0.01)
    np.testing.assert_allclose(staircase.levels, shared.levels, atol=0.2)


def test_errors_of_channels_weigh_as_their_scale_says():
    rng = np.random.default_rng(0)
    loud, quiet = 20 * rng.uniform(0, 1, (1, 20_000)), rng.uniform(0, 1, (20, 20_000)) ** 6
    x = np.concatenate([loud, quiet]).astype(np.float32)
    scale, staircase = find_scaled_staircase(rows_of(x), relu, 16)
    unit = scale[:, None].astype(np.float64)
    order = np.argsort((x / unit).reshape(-1))

    def loss(found):
        return ((x - unit * found(x / unit)) ** 2 / unit).sum()

    for power in (0, 2):
        weight = np.broadcast_to(unit**power, x.shape)
        values = (x / unit).reshape(-1)[order], weight.reshape(-1)[order]
        assert loss(staircase) < 0.97 * loss(find_staircase(*values, relu, 16))
    y = unit * staircase(x / unit)
    assert staircase.error == pytest.approx(relative_error(y, x), rel=0.03)


@pytest.mark.parametrize(("levels", "worse"), [(32, 1.02), (255, 1.1)])
def test_coarse_bins_of_channels_cost_next_to_nothing(levels, worse):
    x = normal().reshape(5, -1)
    _, staircase = find_scaled_staircase(rows_of(x), relu, levels)
    fine = find_staircase(*distribution_of(x), relu, levels)
    f = relu(x)
    assert relative_error(staircase(x), f) < worse * relative_error(fine(x), f)


def test_rare_and_silent_channels_get_at_least_the_scale_of_the_tensor():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((7, 20_000)) * np.array([100, 1, 1, 1, 1, 1, 1])[:, None]
    x[2, 1500:] = 0  # rarely active
    x[3] = 0
    x[4] *= 1e-9
    x[5, 2:] = 0  # active so rarely that the percentile is 0, and loud
    x[5, :2] = 1000
    scale = channel_scales(rows_of(x))
    whole = np.quantile(np.abs(x), 0.999)
    np.testing.assert_allclose(scale[[2, 3, 4]], whole, rtol=0.1)
    assert scale[5] == 1000
    assert scale[1] == pytest.approx(scale[6], rel=0.1) == pytest.approx(3.3, rel=0.1)


def test_few_values_per_channel_do_not_decide_its_scale():
    x = np.random.default_rng(0).standard_normal((5, 200)) * np.array([1, 1, 1, 1, 9])[:, None]
    scale = channel_scales(rows_of(x))
    assert scale.min() >= 0.9 * np.quantile(np.abs(x), 0.999)


@pytest.mark.parametrize("shape", [(3, 0), (3, 10)], ids=["none", "zeros"])
def test_silent_channels_get_a_usable_staircase(shape):
    scale, staircase = find_scaled_staircase(rows_of(np.zeros(shape)), identity, 2)
    assert scale == 1
    np.testing.assert_array_equal(staircase.levels, [-1, 0, 1])


def test_leaky_relu_per_channel():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 20_000)) * np.array([1, 40, 10])[:, None]

    def leaky(x):
        return np.where(x < 0, 0.2 * x, x)

    scale, staircase = find_scaled_staircase(rows_of(x), leaky, 16)
    y = scale[:, None] * staircase(x / scale[:, None])
    assert staircase.error == pytest.approx(relative_error(y, leaky(x)), rel=0.03)
    assert scale.shape == (3,)
