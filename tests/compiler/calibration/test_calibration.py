"""Histograms and the calibration of a network."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import model_from_text, resolved
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from snn_compile.compiler.calibration.calibrate import calibrate
from snn_compile.compiler.calibration.fitting.octave import find_octave
from snn_compile.compiler.calibration.fitting.rows import distributions
from snn_compile.compiler.calibration.fitting.thresholds import find_thresholds
from snn_compile.compiler.errors import DataError, UsageError
from snn_compile.compiler.progress import Progress
from snn_compile.compiler.running.counted_histogram import CountedHistogram
from snn_compile.compiler.samples.base import input_specs
from snn_compile.compiler.samples.files import FileSamples
from snn_compile.passes.analysis.activations import find_activations
from snn_compile.passes.canonicalise.canonicalise import canonicalise
from snn_compile.passes.graph.surgeon import export_network, import_model
from snn_compile.passes.neurons.neuron import (
    DualNeuron,
    OctaveNeuron,
    StaircaseNeuron,
    ThresholdNeuron,
)


def signed(values, rows=1):
    histogram = CountedHistogram(rows)
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
    at_once = CountedHistogram(rows)
    at_once.add(whole)
    step_by_step = CountedHistogram(rows)
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
    histogram = CountedHistogram(4)
    histogram.add(x.T)
    np.testing.assert_array_equal(histogram.counts, signed(x.T.copy(), rows=4).counts)


NET = """
    g (float[N,3] x) => (float[N,4] y) <float[3,4] w, float[4,4] v, float slope = {{0.1}}> {{
        a = MatMul (x, w)
        b = {activation}
        y = MatMul (b, v)
    }}"""


NO_CORRECTIONS = {"sequential": False, "bias_correction": False, "compensation": False}


def calibrated(
    tmp_path, data, activation="Relu (a)", net=NET, corrections=NO_CORRECTIONS, **options
):
    """The neuron of b, what is silent, and a: in one pass, or in sequence without layers."""
    model = model_from_text(net.format(activation=activation))
    np.save(tmp_path / "x.npy", data)
    samples = FileSamples(tmp_path / "x.npy", input_specs(model))
    graph = canonicalise(import_model(model)).graph
    activations, _ = find_activations(graph)
    chosen, network = resolved(**corrections, **options), export_network(graph)
    found = calibrate(network, activations, [], samples, 7, chosen, Progress())
    assert not found.parameters
    assert not found.changes
    weight = next(t for t in model.graph.initializer if t.name == "w")
    return found.neurons["b"], found.silent, data @ numpy_helper.to_array(weight)


DATA = np.random.default_rng(5).standard_normal((5000, 3)).astype(np.float32)
THRESHOLDS = {"levels": 8, "neuron": "multi-threshold"}


def thresholds(x, calibrator="mse"):
    """Of the values above 0, one row per channel."""
    rows = [row.of(lambda x: np.maximum(x, 0)) for row in distributions(signed(x, len(x)))]
    return find_thresholds(rows, 8, calibrator).theta


def test_theta_of_a_network_is_that_of_its_activations(tmp_path):
    neuron, silent, a = calibrated(
        tmp_path, DATA, **THRESHOLDS, granularity="tensor", calibrator="mse"
    )
    assert isinstance(neuron, ThresholdNeuron)
    np.testing.assert_allclose(neuron.theta, thresholds(a.reshape(1, -1)), rtol=1e-3)
    assert (neuron.levels_pos, neuron.levels_neg) == (8, 0)
    assert neuron.calibrator == "mse, per tensor"
    assert neuron.reason == ""
    assert not silent


def test_per_channel_gives_one_theta_each(tmp_path):
    neuron, _, a = calibrated(tmp_path, DATA, **THRESHOLDS, calibrator="percentile")
    assert neuron.axis == 1
    assert neuron.calibrator == "percentile 99.9, per channel"
    np.testing.assert_allclose(neuron.theta, thresholds(a.T, "percentile"), rtol=1e-2)


def test_signed_activation_gets_a_theta_for_each_side(tmp_path):
    neuron, _, a = calibrated(
        tmp_path,
        DATA + np.float32(1),
        "PRelu (a, slope)",
        **THRESHOLDS,
        granularity="tensor",
        calibrator="mse",
    )
    assert isinstance(neuron, DualNeuron)
    values = a.reshape(1, -1)
    np.testing.assert_allclose(neuron.positive.theta, thresholds(values), rtol=1e-3)
    np.testing.assert_allclose(neuron.negative.theta, thresholds(-values), rtol=1e-3)
    assert neuron.negative.theta != neuron.positive.theta
    assert (neuron.negative.levels_pos, neuron.negative.levels_neg) == (0, 8)


def octave(rows):
    """What a ScaleFire of the values above 0 is: scale, m and the highest level."""
    rows = [row.of(lambda x: np.maximum(x, 0)) for row in distributions(signed(rows, len(rows)))]
    found = find_octave(rows, 8)
    return found.scale, found.linear, found.top_pos


def octave_of(neuron):
    return neuron.scale, neuron.linear, neuron.top_pos


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_octaves_of_a_network_are_those_of_its_activations(tmp_path, granularity):
    data = DATA * np.float32([1, 10, 0.1])
    neuron, silent, a = calibrated(
        tmp_path, data, levels=8, neuron="scale", granularity=granularity
    )
    assert isinstance(neuron, OctaveNeuron)
    rows = a.T if granularity == "channel" else a.reshape(1, -1)
    expected = octave(rows)
    np.testing.assert_allclose(neuron.scale, expected[0], rtol=1e-3)
    assert octave_of(neuron)[1:] == expected[1:]
    assert neuron.top_neg == 0
    assert neuron.calibrator.startswith("density, per ")
    assert neuron.reason == "auto: enough values for levels that follow the density"
    assert not silent


def test_octaves_of_a_signed_activation_have_a_scale_for_each_side(tmp_path):
    neuron, _, a = calibrated(
        tmp_path,
        DATA + np.float32(1),
        "PRelu (a, slope)",
        levels=8,
        neuron="scale",
        granularity="tensor",
    )
    assert isinstance(neuron, DualNeuron)
    values = a.reshape(1, -1)
    scale, linear, top = octave(values)
    np.testing.assert_allclose(neuron.positive.scale, scale, rtol=1e-3)
    assert (neuron.positive.linear, neuron.positive.top_pos, neuron.positive.top_neg) == (
        linear,
        top,
        0,
    )
    scale, linear, top = octave(-values)
    np.testing.assert_allclose(neuron.negative.scale, scale, rtol=1e-3)
    assert (neuron.negative.linear, neuron.negative.top_pos, neuron.negative.top_neg) == (
        linear,
        0,
        top,
    )
    assert neuron.negative.scale != neuron.positive.scale


@pytest.mark.parametrize("activation", ["LeakyRelu <alpha = 0.25> (a)", "PRelu (a, slope)"])
def test_staircase_of_a_network_follows_its_slope(tmp_path, activation):
    neuron, _, _ = calibrated(tmp_path, DATA, activation)
    assert isinstance(neuron, StaircaseNeuron)
    slope = 0.25 if "alpha" in activation else 0.1
    x = np.array([-3.0, 3.0], np.float32)
    widest = int(neuron.scale.argmax())
    y = neuron.levels[neuron.level_of(x, widest)] * float(neuron.unit_of(widest))
    assert y == pytest.approx([-3 * slope, 3], abs=0.4)
    assert neuron.error < 0.06


def test_options_that_contradict_each_other_are_refused(tmp_path):
    with pytest.raises(UsageError, match="density"):
        calibrated(tmp_path, DATA, neuron="multi-threshold", calibrator="density")


BOTH_WAYS = pytest.mark.parametrize("corrections", [NO_CORRECTIONS, {}])


@BOTH_WAYS
def test_silent_activation_is_found(tmp_path, corrections):
    _, silent, _ = calibrated(tmp_path, np.zeros((8, 3), np.float32), corrections=corrections)
    assert [(activation.op, activation.name) for activation in silent] == [("Relu", "Relu:b")]


@BOTH_WAYS
def test_activation_below_zero_is_silent_where_that_gives_zero(tmp_path, corrections):
    data = np.ones((8, 3), np.float32)
    for activation, is_silent in (("Relu (b0)", True), ("Sigmoid (b0)", False)):
        net = NET.replace("b =", "b1 = Abs (a) b0 = Neg (b1) b =")
        _, silent, _ = calibrated(tmp_path, data, activation, net, corrections)
        assert bool(silent) == is_silent


@BOTH_WAYS
def test_overflowing_activations_are_refused(tmp_path, corrections):
    data = np.full((8, 3), 3e38, np.float32)
    data[:2] = 1
    says = (
        r"input of Relu Relu:b NaN or infinite; check their scaling: sample 2 is the first, array"
    )
    with pytest.raises(DataError, match=says):
        calibrated(tmp_path, data, corrections=corrections)
