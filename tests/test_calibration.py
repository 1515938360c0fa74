"""Histograms, thresholds and calibration of a network."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import model_from_text
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from snn_compile.compiler.calibration.calibrate import CalibrationOptions, calibrate
from snn_compile.compiler.calibration.histogram import Histogram, SignedHistogram
from snn_compile.compiler.calibration.thresholds import clip_rate, find_theta
from snn_compile.compiler.errors import DataError
from snn_compile.compiler.progress import Progress
from snn_compile.compiler.samples import FileSamples, input_specs
from snn_compile.passes.activations import find_activations
from snn_compile.passes.canonicalise import canonicalise
from snn_compile.passes.graph import export_network, import_model


def histogram_of(values):
    histogram = Histogram(len(np.atleast_2d(values)))
    histogram.add(np.atleast_2d(np.asarray(values, np.float32)))
    return histogram


def test_counts_are_those_of_numpy():
    x = np.abs(np.random.default_rng(0).standard_normal(10_000)).astype(np.float32)
    x[:100] = 0
    histogram = histogram_of(np.concatenate([x, -x]))
    expected, _ = np.histogram(x[x > 0], histogram.bins, (0, histogram.limits[0]))
    np.testing.assert_array_equal(histogram.counts[0], expected)
    assert histogram.totals[0] == 20_000
    assert histogram.peaks[0] == x.max()
    assert x.max() < histogram.limits[0] <= 2 * x.max()


@settings(max_examples=50, deadline=None)
@given(
    pieces=st.lists(
        st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=20).map(lambda v: v[:2]),
        min_size=1,
        max_size=8,
    )
)
def test_result_does_not_depend_on_how_values_arrive(pieces):
    whole = np.array(pieces, np.float32).T  # two channels
    at_once = Histogram(2)
    at_once.add(whole)
    step_by_step = Histogram(2)
    for column in whole.T:
        step_by_step.add(column[:, None])
    np.testing.assert_array_equal(at_once.counts, step_by_step.counts)
    np.testing.assert_array_equal(at_once.limits, step_by_step.limits)
    np.testing.assert_array_equal(at_once.totals, step_by_step.totals)


def signed(values, rows=1):
    histogram = SignedHistogram(rows)
    histogram.add(np.asarray(values, np.float32).reshape(rows, -1))
    return histogram


@pytest.mark.parametrize("rows", [1, 2])
def test_signed_histogram_covers_both_sides_and_zero(rows):
    x = np.random.default_rng(0).standard_normal((rows, 5000)).astype(np.float32)
    x[:, :100] = 0
    for row in range(rows):
        centres, counts = signed(x, rows).distribution(row)
        assert centres.dtype == np.float64
        assert counts.dtype == np.int64
        assert (np.diff(centres) > 0).all()
        assert (counts > 0).all()
        assert counts[centres == 0] == [100]
        assert counts[centres < 0].sum() == np.count_nonzero(x[row] < 0)
        assert counts[centres > 0].sum() == np.count_nonzero(x[row] > 0)
        assert (centres * counts).sum() == pytest.approx(x[row].sum(dtype=np.float64), rel=1e-9)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_bins_of_a_signed_histogram_have_one_relative_width(rows, scale):
    x = scale * np.random.default_rng(0).lognormal(0, 1, (rows, 100_000))
    x = x.astype(np.float32)
    centres, counts = signed(x, rows).distribution(0)
    mantissa, _ = np.frexp(centres)  # equal bins over [1/2, 1)
    width = 2.0 ** -(8 if rows == 1 else 5)
    edges = np.floor(mantissa / width) * width
    assert len(np.unique(centres / mantissa * edges)) == len(centres)
    sizes, _ = np.histogram(x[0], np.append(centres / mantissa * edges, np.inf))
    np.testing.assert_array_equal(sizes, counts)


def test_value_that_fills_a_bin_alone_is_kept():
    x = np.float32([-0.1, 1 / 3, 6, 6, 6, 255])
    centres, counts = signed(x).distribution(0)
    np.testing.assert_array_equal(centres, np.unique(x.astype(np.float64)))
    np.testing.assert_array_equal(counts, [1, 1, 3, 1])


def test_values_far_below_the_largest_count_as_zero():
    histogram = signed([1e-20, -1e-20, 0])
    assert len(histogram.distribution(0)[0]) == 3
    histogram.add(np.float32([[3.0]]))
    centres, counts = histogram.distribution(0)
    np.testing.assert_array_equal(centres, [0, 3])
    np.testing.assert_array_equal(counts, [3, 1])
    np.testing.assert_array_equal(signed([-1e-45, 1e-39]).distribution(0)[0], [0])


def test_empty_signed_histogram():
    histogram = signed(np.zeros((2, 0)), rows=2)
    centres, counts = histogram.distribution(1)
    assert len(centres) == len(counts) == 0
    assert histogram.silent


def test_signed_histogram_is_silent_until_a_value_differs_from_zero():
    histogram = signed(np.zeros((2, 10)), rows=2)
    assert histogram.silent
    histogram.add(np.float32([[0], [-1]]))
    assert not histogram.silent


@settings(max_examples=100, deadline=None)
@given(
    pieces=st.lists(
        st.lists(
            st.floats(-(2.0**127), 2.0**127, width=32) | st.floats(-4, 4, width=32),
            min_size=2,
            max_size=2,
        ),
        min_size=1,
        max_size=12,
    ),
    rows=st.sampled_from([1, 2]),
)
def test_signed_result_does_not_depend_on_how_values_arrive(pieces, rows):
    whole = np.array(pieces, np.float32).T.reshape(rows, -1)
    at_once = SignedHistogram(rows)
    at_once.add(whole)
    step_by_step = SignedHistogram(rows)
    for column in whole.T[::-1]:
        step_by_step.add(np.ascontiguousarray(column[:, None]))
    np.testing.assert_array_equal(at_once.counts, step_by_step.counts)
    np.testing.assert_array_equal(at_once.rests, step_by_step.rests)
    for row in range(rows):
        a, b = at_once.distribution(row), step_by_step.distribution(row)
        np.testing.assert_array_equal(a, b)
        assert a[1].sum() == whole.shape[1]


def test_signed_histogram_takes_many_values_and_channels_at_once():
    x = np.random.default_rng(0).standard_normal((300, 700)).astype(np.float32)
    whole = signed(x, rows=300)
    for row in (0, 299):
        means, counts = signed(np.stack([x[row], x[row]]), rows=2).distribution(0)
        np.testing.assert_array_equal(whole.distribution(row), (means, counts))
    large = np.tile(x, 3)
    np.testing.assert_array_equal(signed(large).counts, 3 * signed(x).counts)


def test_transposed_views_are_counted_by_value():
    x = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    histogram = SignedHistogram(4)
    histogram.add(x.T)
    np.testing.assert_array_equal(histogram.counts, signed(x.T.copy(), rows=4).counts)


def squared_error(x, theta, levels):
    return ((x - theta * np.minimum(np.floor(x / theta + 0.5), levels)) ** 2).mean()


@pytest.mark.parametrize("levels", [1, 4, 8, 32])
@pytest.mark.parametrize("distribution", ["half normal", "exponential", "uniform"])
def test_mse_theta_is_the_best_of_a_brute_force_search(levels, distribution):
    rng = np.random.default_rng(0)
    x = {
        "half normal": np.abs(rng.standard_normal(20_000)),
        "exponential": rng.exponential(1, 20_000),
        "uniform": rng.uniform(0, 1, 20_000),
    }[distribution].astype(np.float32)
    theta = find_theta(histogram_of(x), levels, "mse", 99.9, np.inf)
    grid = np.linspace(x.max() / levels / 100, x.max() / levels, 1000)
    best = min(squared_error(x, candidate, levels) for candidate in grid)
    assert squared_error(x, float(theta), levels) <= best * 1.01


@pytest.mark.parametrize("percentile", [50.0, 99.0, 99.9, 100.0])
def test_percentile_theta_puts_the_ceiling_at_the_percentile(percentile):
    x = np.random.default_rng(0).exponential(1, 50_000).astype(np.float32)
    theta = find_theta(histogram_of(x), 8, "percentile", percentile, np.inf)
    ordered = np.sort(x)
    position = int(np.ceil(percentile / 100 * len(x)))  # give or take one value, plus one bin
    low, high = ordered[position - 2], ordered[min(position, len(x) - 1)]
    width = 2 * x.max() / 2048
    assert low <= float(theta) * 8 <= high + width


def test_percentile_counts_silent_values_and_falls_back_to_the_peak():
    x = np.zeros(1000, np.float32)
    x[:100] = np.linspace(0.01, 1, 100)
    theta = find_theta(histogram_of(x), 1, "percentile", 95.0, np.inf)
    assert abs(float(theta) - 0.5) < 0.02
    assert float(find_theta(histogram_of(x), 1, "percentile", 80.0, np.inf)) == 1.0


@pytest.mark.parametrize("calibrator", ["mse", "percentile"])
def test_ceiling_stays_below_the_activations_own_bound(calibrator):
    x = np.minimum(np.random.default_rng(0).exponential(5, 10_000), 6).astype(np.float32)
    for levels in (3, 7, 32, 255):
        theta = find_theta(histogram_of(x), levels, calibrator, 100.0, 6.0)
        assert theta.dtype == np.float32
        assert 5.5 < float(theta) * levels <= 6.0


def test_silent_rows_get_a_usable_theta():
    silent = histogram_of(np.zeros((2, 50)))
    np.testing.assert_array_equal(find_theta(silent, 4, "mse", 99.9, np.inf), [0.25, 0.25])
    np.testing.assert_array_equal(find_theta(silent, 4, "mse", 99.9, 6.0), [1.5, 1.5])


def test_rarely_active_channels_get_at_least_the_threshold_of_the_tensor():
    rng = np.random.default_rng(0)
    x = np.abs(rng.standard_normal((3, 20_000))).astype(np.float32)
    x[1] *= 0.05  # small and busy: its own threshold
    x[2] *= 0.05  # small and rare: the tensor's
    x[2, :19_000] = 0
    thetas = find_theta(histogram_of(x), 8, "mse", 99.9, np.inf)
    shared = find_theta(histogram_of(x).merged(), 8, "mse", 99.9, np.inf)
    alone = find_theta(histogram_of(x[1]), 8, "mse", 99.9, np.inf)
    assert thetas[2] == shared
    assert abs(thetas[1] - alone) < 0.1 * alone
    assert thetas[1] < 0.2 * shared


def test_merged_histogram_is_that_of_all_values():
    x = np.random.default_rng(0).exponential([[1], [30]], (2, 5000)).astype(np.float32)
    merged = histogram_of(x).merged()
    expected, _ = np.histogram(x, merged.bins, (0, merged.limits[0]))
    np.testing.assert_array_equal(merged.counts[0], expected)
    assert merged.totals[0] == x.size


def test_clip_rate_counts_levels_beyond_the_last():
    x = np.linspace(0, 10, 100_001).astype(np.float32)
    rate = clip_rate(histogram_of(x), np.float32(1.0), 4)
    assert abs(rate - 0.55) < 2e-3  # above 4.5 of 10


NET = """
    g (float[N,3] x) => (float[N,4] y) <float[3,4] w, float[4,4] v, float slope = {{0.1}}> {{
        a = MatMul (x, w)
        b = {activation}
        y = MatMul (b, v)
    }}"""


def calibrated(tmp_path, data, activation="Relu (a)", **options):
    model = model_from_text(NET.format(activation=activation))
    np.save(tmp_path / "x.npy", data)
    samples = FileSamples(tmp_path / "x.npy", input_specs(model))
    graph = canonicalise(import_model(model)).graph
    activations, _ = find_activations(graph)
    chosen = CalibrationOptions(**options)
    neurons, warnings = calibrate(
        export_network(graph), activations, samples, 7, chosen, Progress()
    )
    weight = next(t for t in model.graph.initializer if t.name == "w")

    return neurons["b"], warnings, data @ numpy_helper.to_array(weight)


DATA = np.random.default_rng(5).standard_normal((5000, 3)).astype(np.float32)


def test_theta_of_a_network_is_that_of_its_activations(tmp_path):
    neuron, warnings, a = calibrated(tmp_path, DATA, levels=8, per_channel=False)
    expected = find_theta(histogram_of(a.reshape(-1)), 8, "mse", 99.9, np.inf)
    np.testing.assert_allclose(neuron.positive.theta, expected, rtol=1e-3)
    assert neuron.levels == 8
    assert neuron.calibrator == "mse, per tensor"
    assert not warnings


def test_per_channel_gives_one_theta_each(tmp_path):
    neuron, _, a = calibrated(tmp_path, DATA, levels=8, per_channel=True, calibrator="percentile")
    assert neuron.axis == 1
    assert neuron.calibrator == "percentile 99.9, per channel"
    expected = find_theta(histogram_of(a.T), 8, "percentile", 99.9, np.inf)
    np.testing.assert_allclose(neuron.positive.theta, expected, rtol=1e-2)


def test_signed_activation_gets_a_theta_for_each_side(tmp_path):
    neuron, _, a = calibrated(
        tmp_path, DATA + np.float32(1), "PRelu (a, slope)", levels=8, per_channel=False
    )
    assert neuron.negative is not None
    expected = find_theta(histogram_of(-a.reshape(-1)), 8, "mse", 99.9, np.inf)
    np.testing.assert_allclose(neuron.negative.theta, expected, rtol=1e-3)
    assert neuron.negative.theta != neuron.positive.theta


def test_silent_activation_is_warned_about(tmp_path):
    _, warnings, _ = calibrated(tmp_path, np.zeros((8, 3), np.float32))
    assert warnings == ["Relu Relu:b is silent on every sample"]


def test_overflowing_activations_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"input of Relu .* NaN or infinite"):
        calibrated(tmp_path, np.full((8, 3), 3e38, np.float32))
