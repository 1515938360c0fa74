"""From distributions to neurons: calibrators, kinds, the automatic choice, shrinking."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
from helpers import export_model, level_counts, model_from_text, resolved, run_model
from hypothesis import given, settings
from hypothesis import strategies as st
from snn_compile.compiler.calibration.fitting import fit_neuron as module
from snn_compile.compiler.calibration.fitting.distributions import Side
from snn_compile.compiler.calibration.fitting.fit_neuron import (
    channel_axis,
    fit_neuron,
)
from snn_compile.compiler.calibration.fitting.rows import distributions, pool
from snn_compile.compiler.calibration.fitting.thresholds import find_thresholds
from snn_compile.compiler.calibration.fitting.uniform_calibrators import (
    UNIFORM_CALIBRATORS,
    Uniform,
    _side_error,
    clip_rate,
    divide,
    entropy,
    find_uniform,
    squared_error,
)
from snn_compile.compiler.calibration.tuning.shrink_levels import count_levels
from snn_compile.compiler.errors import UsageError
from snn_compile.compiler.running.counted_histogram import CountedHistogram
from snn_compile.passes.analysis.activations import find_activations
from snn_compile.passes.canonicalise.canonicalise import canonicalise
from snn_compile.passes.graph.surgeon import export_network, import_model
from snn_compile.passes.lowering.function_bodies import function_bodies
from snn_compile.passes.neurons.encode_edges import encode_edges
from snn_compile.passes.neurons.insert_quant_clip import insert_quant_clip
from snn_compile.passes.neurons.neuron import (
    DualNeuron,
    OctaveNeuron,
    StaircaseNeuron,
    ThresholdNeuron,
)
from snn_compile.passes.neurons.replace_activation import replace_activation
from snn_compile.passes.neurons.rounded_chain import only_rounds


def histogram_of(x):
    """One row per row of x."""
    x = np.atleast_2d(np.asarray(x, np.float32))
    histogram = CountedHistogram(len(x))
    histogram.add(x)
    return histogram


def rows_of(x):
    return distributions(histogram_of(x))


def quantised(x, quantiser):
    """What the quantiser makes of values."""
    limit = np.where(x < 0, quantiser.levels_neg, quantiser.levels_pos)
    spikes = np.minimum(np.floor(np.abs(x) / quantiser.step + 0.5), limit)
    return quantiser.step * np.where(x < 0, -spikes, spikes)


def distribution_of(x, rows=1):
    """Of a whole tensor, or as coarse as that of a channel."""
    return rows_of([x] * rows)[0]


def relu(x):
    return np.maximum(x, 0)


RNG = np.random.default_rng
SAMPLES = {
    "normal": RNG(0).standard_normal(50_000),
    "half normal": np.abs(RNG(1).standard_normal(50_000)),
    "exponential": RNG(2).exponential(1, 50_000),
    "skewed": RNG(3).gamma(2, 1, 50_000) - 0.5,
    "uniform": RNG(4).uniform(0, 1, 50_000),
    "integers": RNG(5).integers(-3, 10, 50_000),
}
SAMPLES = {name: x.astype(np.float32) for name, x in SAMPLES.items()}


# --- distributions --------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("name", SAMPLES)
def test_sums_below_an_edge_are_those_of_the_values(name, rows):
    x = SAMPLES[name]
    distribution = distribution_of(x, rows)
    for side, magnitudes in (
        (distribution.positive, x[x > 0]),
        (distribution.negative, -x[x < 0]),
    ):
        edges = np.array([0.0, 0.011, 0.4, 0.99, 1.0, 2.3, 3.0, 50])
        found = side.below(edges)
        for power in range(3):
            expected = [(magnitudes[magnitudes < e].astype(float) ** power).sum() for e in edges]
            np.testing.assert_allclose(found[power], expected, rtol=5e-3, atol=30)
        assert side.peak == pytest.approx(magnitudes.max(initial=0), rel=1e-6)
    assert distribution.total == len(x)
    assert distribution.zeros == pytest.approx((x == 0).sum(), abs=0 if rows == 1 else 20)
    assert distribution.power == pytest.approx((x.astype(float) ** 2).sum(), rel=1e-3)


def test_values_alone_in_their_bins_are_points():
    x = [-2.0, -2.0, 0, 0.3, 6, 6, 6]
    distribution = distribution_of(x)
    np.testing.assert_array_equal(distribution.low, distribution.high)
    np.testing.assert_array_equal(distribution.low, np.unique(np.float32(x)))


def test_function_moves_intervals_and_folds_what_it_makes_equal():
    x = SAMPLES["normal"]
    rectified = distribution_of(x).of(relu)
    assert rectified.negative.peak == 0
    assert rectified.zeros == (x <= 0).sum()
    assert rectified.power == pytest.approx((relu(x).astype(float) ** 2).sum(), rel=1e-4)
    folded = distribution_of(x).of(np.abs)
    assert (folded.high[:-1] <= folded.low[1:]).all()
    assert folded.total == len(x)
    assert folded.power == pytest.approx((x.astype(float) ** 2).sum(), rel=1e-3)


def test_pooled_rows_are_the_whole():
    x = np.stack([SAMPLES["normal"], 30 * SAMPLES["normal"] + 1])
    pooled = pool(rows_of(x))
    assert pooled.total == x.size
    assert pooled.power == pytest.approx((x.astype(float) ** 2).sum(), rel=2e-3)
    edge = np.array(2.0)
    assert pooled.positive.below(edge)[0] == pytest.approx(((x > 0) & (x < 2)).sum(), rel=0.02)
    scale = np.array([1, 30], np.float32)
    scaled = pool(rows_of(x), scale)
    assert scaled.positive.peak == pytest.approx((x / scale[:, None]).max(), rel=0.05)
    weighed = pool(rows_of(x), scale, weigh=True)
    assert weighed.power == pytest.approx((x.astype(float) ** 2).sum(), rel=2e-3)


# --- uniform calibrators --------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2], ids=["tensor", "channel"])
@pytest.mark.parametrize("levels", [1, 2, 5, 32, 255])
@pytest.mark.parametrize("calibrator", UNIFORM_CALIBRATORS)
@pytest.mark.parametrize("name", SAMPLES)
def test_error_and_clip_rate_are_those_of_the_values(name, calibrator, levels, rows):
    """Though bins of a channel are up to 1/16 of their value wide, more than a step of 255."""
    x = SAMPLES[name]
    distribution = distribution_of(x, rows)
    quantiser = find_uniform(distribution, levels, calibrator)
    assert quantiser.levels == levels
    assert quantiser.step > 0
    y = quantised(x.astype(np.float64), quantiser)
    error = ((x - y) ** 2).sum()
    assert squared_error(distribution, quantiser) == pytest.approx(error, rel=0.02)
    k = np.floor(np.abs(x.astype(np.float64)) / quantiser.step + 0.5)
    beyond = k > np.where(x < 0, quantiser.levels_neg, quantiser.levels_pos)
    assert clip_rate(distribution, quantiser) == pytest.approx(beyond.mean(), abs=5e-3)
    _, counts = np.unique(y, return_counts=True)
    bits = -(counts / len(x) * np.log2(counts / len(x))).sum()
    assert entropy(distribution, quantiser) == pytest.approx(bits, abs=0.02)


def test_closed_form_needs_no_bins_narrower_than_a_step():
    """A bin taken as a point would be right on a level, or half a step off."""
    x = RNG(0).uniform(0.9, 1.0, 100_000).astype(np.float32)
    distribution = distribution_of(x, rows=2)
    for step in (0.004, 0.01, 0.0317):
        quantiser = Uniform(step, 1000)
        y = quantised(x.astype(np.float64), quantiser)
        error = ((x - y) ** 2).sum()
        assert squared_error(distribution, quantiser) == pytest.approx(error, rel=0.05)


def brute_force(x, levels):
    """The least squared error of any step and division."""
    best = np.inf
    for negative in range(levels + 1) if x.min() < 0 else [0]:
        for step in np.ptp(np.append(x, 0)) / levels * np.geomspace(1, 1 / 200, 150):
            y = quantised(x, Uniform(step, levels - negative, negative))
            best = min(best, ((x - y) ** 2).sum())
    return best


@pytest.mark.parametrize("levels", [1, 2, 4, 7, 16])
@pytest.mark.parametrize("name", ["normal", "half normal", "exponential", "skewed", "uniform"])
def test_mse_is_the_best_step_and_division(name, levels):
    x = SAMPLES[name][:3000].astype(np.float64)
    quantiser = find_uniform(distribution_of(x), levels, "mse")
    assert ((x - quantised(x, quantiser)) ** 2).sum() <= 1.01 * brute_force(x, levels)


def test_mse_of_a_normal_variable_is_the_known_optimum():
    """J. Max, Quantizing for minimum distortion, 1960: 9 output levels, 0.5338 apart."""
    quantiser = find_uniform(distribution_of(RNG(9).standard_normal(400_000)), 8, "mse")
    assert (quantiser.levels_neg, quantiser.levels_pos) == (4, 4)
    assert quantiser.step == pytest.approx(0.5338, rel=0.03)


def test_polarity_follows_the_data():
    for calibrator in UNIFORM_CALIBRATORS:
        skewed = find_uniform(distribution_of(SAMPLES["skewed"]), 32, calibrator, 99.0)
        assert 1 <= skewed.levels_neg <= 6
        mirrored = find_uniform(distribution_of(-SAMPLES["skewed"]), 32, calibrator, 99.0)
        assert mirrored.levels_pos <= 6
        assert mirrored.step == pytest.approx(skewed.step, rel=0.03)
        positive = find_uniform(distribution_of(SAMPLES["exponential"]), 32, calibrator)
        assert (positive.levels_neg, positive.levels_pos) == (0, 32)
        negative = find_uniform(distribution_of(-SAMPLES["exponential"]), 32, calibrator)
        assert (negative.levels_neg, negative.levels_pos) == (32, 0)


@pytest.mark.parametrize("levels", [2, 4, 8, 32])
@pytest.mark.parametrize("name", ["normal", "half normal", "exponential", "skewed"])
def test_entropy_keeps_the_most_information(name, levels):
    distribution = distribution_of(SAMPLES[name])
    most = find_uniform(distribution, levels, "entropy")
    least_error = find_uniform(distribution, levels, "mse")
    bits = entropy(distribution, most)
    assert bits >= entropy(distribution, least_error) - 0.02
    for step in most.step * np.geomspace(0.3, 3, 40):
        for negative in {most.levels_neg, max(most.levels_neg - 1, 0), most.levels_neg + 1}:
            if negative <= levels and (negative == 0 or distribution.negative.peak):
                other = Uniform(step, levels - negative, negative)
                assert entropy(distribution, other) <= bits + 0.03


def test_entropy_of_few_values_takes_the_least_error_of_equals():
    """Any step that tells these apart has the same entropy; most of them clip."""
    x = np.repeat([1.0, 2.0, 3.0], 1000)
    quantiser = find_uniform(distribution_of(x), 32, "entropy")
    np.testing.assert_allclose(quantised(x, quantiser), x, atol=0.05)


@pytest.mark.parametrize("levels", [1, 4, 33])
@pytest.mark.parametrize("rows", [1, 2])
def test_max_clips_nothing(levels, rows):
    for x in SAMPLES.values():
        distribution = distribution_of(x, rows)
        quantiser = find_uniform(distribution, levels, "max")
        if levels > 1:
            top, bottom = quantiser.step * np.array([quantiser.levels_pos, quantiser.levels_neg])
            assert top >= x.max() * (1 - 1e-6)
            assert bottom >= -x.min() * (1 - 1e-6)
            assert clip_rate(distribution, quantiser) == 0


@pytest.mark.parametrize("percentile", [50.0, 90.0, 99.0, 99.9, 100.0])
def test_percentile_puts_the_outermost_level_at_the_percentile(percentile):
    x = SAMPLES["exponential"]
    quantiser = find_uniform(distribution_of(x), 8, "percentile", percentile)
    expected = np.quantile(x, percentile / 100, method="higher")
    assert quantiser.step * 8 == pytest.approx(expected, rel=0.01)
    signed = SAMPLES["normal"]
    quantiser = find_uniform(distribution_of(signed), 8, "percentile", max(percentile, 90.0))
    ends = quantiser.step * np.array([-quantiser.levels_neg, quantiser.levels_pos])
    expected = np.quantile(signed, [1 - max(percentile, 90) / 100, max(percentile, 90) / 100])
    assert np.abs(ends - expected).max() <= 0.15 * np.abs(expected).max() + quantiser.step


def test_percentile_counts_silent_values_and_falls_back_to_the_peak():
    x = np.zeros(1000, np.float32)
    x[:100] = np.linspace(0.01, 1, 100)
    assert find_uniform(distribution_of(x), 1, "percentile", 95.0).step == pytest.approx(
        0.5, abs=0.02
    )
    assert find_uniform(distribution_of(x), 1, "percentile", 80.0).step == pytest.approx(1.0)


def test_division_in_proportion_leaves_no_side_without_levels():
    assert divide(8, 3.0, 1.0) == (6, 2)
    assert divide(8, 1000.0, 1.0) == (7, 1)
    assert divide(8, 1.0, 1000.0) == (1, 7)
    assert divide(8, 1.0, 0.0) == (8, 0)
    assert divide(1, 2.0, 1.0) == (1, 0)
    assert divide(1, 1.0, 2.0) == (0, 1)
    assert divide(2, 1.0, 1000.0) == (1, 1)


def test_nothing_to_quantise_and_unknown_calibrators():
    assert find_uniform(distribution_of(np.zeros(9)), 4, "mse") is None
    assert find_uniform(distribution_of(np.zeros(0)), 4, "entropy") is None
    with pytest.raises(ValueError, match="'guess' is none of max"):
        find_uniform(distribution_of(np.ones(9)), 4, "guess")


@settings(max_examples=60, deadline=None)
@given(
    x=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=30),
    levels=st.integers(1, 40),
    calibrator=st.sampled_from(UNIFORM_CALIBRATORS),
    rows=st.sampled_from([1, 2]),
)
def test_any_values_give_a_usable_quantiser(x, levels, calibrator, rows):
    distribution = distribution_of(x, rows)
    quantiser = find_uniform(distribution, levels, calibrator)
    if quantiser is None:
        assert distribution.power == 0
        return
    assert np.isfinite(quantiser.step)
    assert quantiser.step > 0
    assert quantiser.levels == levels
    assert min(quantiser.levels_pos, quantiser.levels_neg) >= 0


# --- thresholds -----------------------------------------------------------------------------------


@pytest.mark.parametrize("calibrator", UNIFORM_CALIBRATORS)
def test_ceiling_stays_below_the_activations_own_bound(calibrator):
    x = np.clip(RNG(0).exponential(5, 10_000), 0, 6)
    for levels in (3, 7, 32, 255):
        found = find_thresholds(rows_of(x), levels, calibrator, 100.0, 6.0)
        assert found.theta.dtype == np.float32
        assert float(found.theta) * levels <= 6.0
        assert calibrator == "entropy" or float(found.theta) * levels > 5.5


def test_silent_rows_get_a_usable_theta():
    silent = rows_of(np.zeros((2, 50)))
    assert find_thresholds(silent, 4, "mse").theta.tolist() == [0.25, 0.25]
    assert find_thresholds(silent, 4, "mse", 99.9, 6.0).theta.tolist() == [1.5, 1.5]
    both = find_thresholds(silent[:1], 5, "mse", signed=True)
    assert (both.levels_pos, both.levels_neg) == (3, 2)
    partly = find_thresholds(rows_of([np.zeros(9), np.ones(9)]), 4, "mse")
    assert partly.theta[0] == partly.theta[1]
    assert partly.squared_error == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("calibrator", UNIFORM_CALIBRATORS)
def test_rarely_active_channels_get_at_least_the_threshold_of_the_tensor(calibrator):
    x = np.abs(RNG(0).standard_normal((3, 20_000)))
    x[1] *= 0.05  # small and busy: its own threshold
    x[2] *= 0.05  # small and rare: the tensor's
    x[2, :19_000] = 0
    thetas = find_thresholds(rows_of(x), 8, calibrator).theta
    shared = find_thresholds([pool(rows_of(x))], 8, calibrator).theta
    alone = find_thresholds(rows_of([x[1]]), 8, calibrator).theta
    assert thetas[2] == shared
    assert thetas[1] == pytest.approx(float(alone), rel=0.1)
    assert thetas[1] < (0.2 if calibrator != "entropy" else 0.7) * shared


@pytest.mark.parametrize("calibrator", UNIFORM_CALIBRATORS)
def test_channels_share_the_division_and_have_steps_of_their_own(calibrator):
    skewed = SAMPLES["skewed"] - np.float32(0.5)
    x = np.stack([skewed, 20 * skewed, skewed])
    found = find_thresholds(rows_of(x), 16, calibrator, 99.0)
    assert found.levels_pos + found.levels_neg == 16
    assert 1 <= found.levels_neg <= 6
    assert found.theta[1] / found.theta[0] == pytest.approx(20, rel=0.05)
    theta = found.theta.astype(float)[:, None]
    k = np.sign(x) * np.floor(np.abs(x) / theta + 0.5)
    y = theta * np.clip(k, -found.levels_neg, found.levels_pos)
    assert found.squared_error == pytest.approx(((x - y) ** 2).sum(), rel=0.02)
    beyond = (k > found.levels_pos) | (k < -found.levels_neg)
    assert found.clip_rate == pytest.approx(beyond.mean(), abs=2e-3)


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"calibrator": "guess"}, "--calibrator 'guess' cannot be used; give auto, density, mse, "),
        (
            {"neuron": "guess"},
            "--neuron 'guess' cannot be used; give auto, scale, staircase, multi-threshold or sig",
        ),
        ({"levels": 0}, "--levels 0 cannot be used; give a whole number from 1 to 65536"),
        ({"percentile": 0.0}, "--percentile 0.0 .* a finite number above 0 and at most 100"),
        ({"percentile": 100.5}, "--percentile 100.5 "),
        ({"percentile": float("nan")}, "--percentile nan "),
        (
            {"levels": 256, "neuron": "scale"},
            "256 levels: scale neurons have at most 255; use fewer --levels, or multi-threshold",
        ),
        ({"levels": 256, "neuron": "staircase"}, "256 levels: staircase neurons have at most 255"),
        ({"neuron": "scale", "timesteps": 2}, "^scale neurons fire in one timestep; leave out --t"),
        ({"neuron": "staircase", "timesteps": 2}, "^staircase neurons fire in one timestep"),
        (
            {"calibrator": "density", "neuron": "multi-threshold"},
            "places levels freely.*; use mse, or scale or staircase neurons",
        ),
        ({"calibrator": "density", "levels": 300}, "which 300 levels need"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together_are_refused(options, match):
    with pytest.raises(UsageError, match=match):
        resolved(**options)


def test_options_that_go_together():
    for levels, neuron, kind in (
        (255, "auto", "auto"),
        (256, "auto", "multi-threshold"),
        (4, "multi-threshold", "multi-threshold"),
        (255, "scale", "scale"),
        (255, "staircase", "staircase"),
    ):
        options = resolved(levels=levels, neuron=neuron)
        assert options.kind == options.neuron == kind
    for neuron in ("auto", "scale", "staircase"):
        resolved(calibrator="density", neuron=neuron)
    resolved(levels=1000, calibrator="entropy")


# --- which neuron an activation becomes -----------------------------------------------------------

NET = """
    g (float[N,4,5,5] x) => (float[N,4,5,5] y, float[N,2,5,5] z)
    <float four = {{4.0}}, float lo = {{0}}, float hi = {{6}}, float one = {{1}},
     float slope = {{0.2}}, float[4,1,1] slopes = {{0.25, 0, -0.5, 1.5}}, float[2,4,1,1] w> {{
        a = Mul (x, four)
        y = {activation}
        z = Conv (y, w)
    }}"""
ACTIVATIONS = {
    "relu": "Relu (a)",
    "relu6": "Clip (a, lo, hi)",
    "clip of both signs": "Clip (a, , one)",
    "leaky relu": "LeakyRelu <alpha = 0.1> (a)",
    "leaky relu that rises on both sides": "LeakyRelu <alpha = -0.7> (a)",
    "prelu of one slope": "PRelu (a, slope)",
    "prelu": "PRelu (a, slopes)",
    "sigmoid": "Sigmoid (a)",
    "hard swish": "HardSwish (a)",
    "encoder": "Sin (a)",
}
KINDS = ("scale", "staircase", "multi-threshold")
OPTIONS = {
    "auto": {},
    "auto density": {"calibrator": "density"},
    "auto of 16": {"levels": 16},
    "many": {"levels": 300, "calibrator": "mse"},
    **{kind: {"neuron": kind} for kind in KINDS},
    **{f"one level {kind}": {"levels": 1, "neuron": kind} for kind in ("auto", *KINDS)},
    **{
        f"{kind} {name}": {"calibrator": name, "neuron": kind}
        for kind in KINDS
        for name in UNIFORM_CALIBRATORS
    },
}


def potentials(seed=0):
    x = RNG(seed).standard_normal((40, 4, 5, 5)).astype(np.float32)
    return x * np.float32([1, 0.2, 3, 1]).reshape(4, 1, 1)


def activation_of(case):
    """The graph, its one activation, and its membrane potentials."""
    model = model_from_text(NET.format(activation=ACTIVATIONS[case]))
    graph = encode_edges(canonicalise(import_model(model)).graph).graph
    activations, kept = find_activations(graph)
    assert not kept
    activation = activations[-1]
    network = export_network(graph)
    observed = onnx.ModelProto()
    observed.CopyFrom(network.attached())
    del observed.graph.output[:]
    observed.graph.output.append(onnx.helper.make_tensor_value_info(activation.input, 1, None))
    return graph, activation, run_model(observed, {"x": potentials()})[0]


def histogram_along(x, axis):
    if axis is None:
        return histogram_of(x.reshape(1, -1))
    return histogram_of(np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1))


def fitted(case, options):
    graph, activation, x = activation_of(case)
    axis = channel_axis(activation, options)
    neuron = fit_neuron(activation, histogram_along(x, axis), options)
    return graph, activation, neuron, x


def stages(graph, activation, neuron):
    """The quantised ANN and the SNN, both giving the neuron's input and output."""
    graph = insert_quant_clip(graph, {activation.output: neuron}).graph
    quantised = export_model(graph)
    snn = function_bodies(export_network(replace_activation(graph).graph)).attached()
    for model in (quantised, snn):
        onnx.checker.check_model(model, full_check=True)
        del model.graph.output[:]
        for name in (activation.input, activation.output):
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
    return quantised, snn


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("chosen", OPTIONS)
@pytest.mark.parametrize("case", ACTIVATIONS)
def test_quantised_network_and_spiking_network_agree_bit_for_bit(case, chosen, granularity):
    options = resolved(**{"levels": 8, "granularity": granularity} | OPTIONS[chosen])
    graph, activation, neuron, x = fitted(case, options)
    quantised, snn = stages(graph, activation, neuron)
    feed = {"x": potentials(seed=1)}
    feed["x"].reshape(-1)[:6] = [0.0, -0.0, 1e-40, -1e-40, 1e30, -1e30]
    expected = run_model(quantised, feed)[1]
    for library in (True, False):
        got = run_model(snn, feed, library=library)[1]
        np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))
    fired = [node.op_type for node in snn.graph.node if node.domain == "ai.snn"]
    assert sorted(fired) == sorted(operator_of(part) for part in neuron.parts.values())
    if granularity == "tensor":
        assert "per tensor" in neuron.calibrator
    # What was expected is what is found on the values it was fitted to.
    if not isinstance(neuron, DualNeuron):
        potential, y = run_model(snn, {"x": potentials()})
        np.testing.assert_array_equal(potential, x)
        f = analog(case, potential)
        error = np.sqrt(((y - f) ** 2).sum() / (f**2).sum())
        assert error <= neuron.error * 1.03 + 1e-6
        assert neuron.error <= error * 1.15 + 1e-6


def operator_of(part):
    """The operator that a neuron becomes: with levels below 0, ScaleFire's second name."""
    match part:
        case ThresholdNeuron():
            return "MultiThresholdFire"
        case OctaveNeuron():
            return "DualScaleFire" if part.top_neg else "ScaleFire"
    return "StaircaseFire"


def analog(case, x):
    """What the activation itself gives."""
    text = (
        "g (float[N,4,5,5] a) => (float[N,4,5,5] y) <float lo = {{0}}, float hi = {{6}}, "
        "float one = {{1}}, float slope = {{0.2}}> {{ y = {activation} }}"
    )
    if case == "encoder":
        return x
    return run_model(model_from_text(text.format(activation=ACTIVATIONS[case])), {"a": x})[0]


@pytest.mark.parametrize(
    ("case", "scale", "staircase", "multi_threshold"),
    [
        ("relu", OctaveNeuron, StaircaseNeuron, ThresholdNeuron),
        ("relu6", OctaveNeuron, StaircaseNeuron, ThresholdNeuron),
        ("encoder", OctaveNeuron, StaircaseNeuron, ThresholdNeuron),
        ("leaky relu", (OctaveNeuron,) * 2, StaircaseNeuron, (ThresholdNeuron,) * 2),
        ("prelu of one slope", (OctaveNeuron,) * 2, StaircaseNeuron, (ThresholdNeuron,) * 2),
        ("prelu", (OctaveNeuron,) * 2, (StaircaseNeuron,) * 2, (ThresholdNeuron,) * 2),
        ("clip of both signs", StaircaseNeuron, StaircaseNeuron, StaircaseNeuron),
        ("sigmoid", StaircaseNeuron, StaircaseNeuron, StaircaseNeuron),
    ],
)
def test_kinds(case, scale, staircase, multi_threshold):
    for name, kind in zip(KINDS, (scale, staircase, multi_threshold), strict=True):
        _, activation, found, _ = fitted(case, resolved(levels=8, neuron=name))
        parts = list(found.parts.values())
        assert isinstance(found, DualNeuron) == isinstance(kind, tuple)
        assert [type(part) for part in parts] == list(kind if isinstance(kind, tuple) else (kind,))
        both = case in ("encoder", "leaky relu", "prelu of one slope", "clip of both signs")
        if isinstance(found, ThresholdNeuron):
            assert found.levels_pos + found.levels_neg == (16 if both else 8)
        assert all(part.level_count <= (16 if both and len(parts) == 1 else 8) for part in parts)
        assert (f"{activation.op} is curved" in found.reason) == (not activation.linear)


@pytest.mark.parametrize("neuron", ["scale", "multi-threshold"])
def test_neurons_for_one_sign_fire_no_other(neuron):
    """Of a Relu and of either part of a LeakyRelu; an encoder of both signs fires both."""
    for case, signs in (("relu", "+"), ("relu6", "+"), ("leaky relu", "+-"), ("encoder", "both")):
        _, _, found, _ = fitted(case, resolved(levels=8, neuron=neuron))
        each = [signs] if signs == "both" else signs
        for part, sign in zip(found.parts.values(), each, strict=True):
            levels = part.staircase()[1]
            assert (levels[0] < 0) == (sign in ("-", "both"))
            assert (levels[-1] > 0) == (sign in ("+", "both"))


def test_axes_of_kinds():
    multiples = {"scale": True, "multi-threshold": True, "staircase": False, "auto": False}
    for neuron, linear in multiples.items():
        options = resolved(neuron=neuron)
        for case, axis in (
            ("relu", 1),
            ("leaky relu", 1),
            ("prelu", 1),
            ("relu6", 1 if linear else None),
            ("sigmoid", None),
        ):
            _, activation, _ = activation_of(case)
            assert channel_axis(activation, options) == axis, (case, neuron)
        _, activation, _ = activation_of("relu")
        assert channel_axis(activation, replace(options, granularity="tensor")) is None


@pytest.mark.parametrize("calibrator", UNIFORM_CALIBRATORS)
@pytest.mark.parametrize("case", [case for case in ACTIVATIONS if case != "prelu"])
def test_uniform_staircases_have_levels_equally_far_apart(case, calibrator):
    options = resolved(levels=16, neuron="staircase", calibrator=calibrator, granularity="tensor")
    _, _, neuron, _ = fitted(case, options)
    levels = np.unique(neuron.levels)
    steps = np.diff(levels)
    np.testing.assert_allclose(steps / steps.min(), np.round(steps / steps.min()), rtol=1e-4)
    assert 0 in neuron.levels
    # Negative values of a hard swish are there, if too small for a level.
    both = levels[0] < 0 < levels[-1] or case == "hard swish"
    assert neuron.level_count <= (32 if both else 16)
    assert (np.diff(neuron.staircase()[0]) > 0).all()


@pytest.mark.parametrize("calibrator", UNIFORM_CALIBRATORS)
@pytest.mark.parametrize("case", ["relu", "relu6", "encoder"])
def test_uniform_octave_neurons_stay_below_m(case, calibrator):
    """Up to m every integer is a level, and with room to it they are rounded to."""
    _, _, neuron, _ = fitted(case, resolved(levels=16, neuron="scale", calibrator=calibrator))
    assert only_rounds(neuron.linear, neuron.top_pos, neuron.top_neg)
    assert neuron.top_pos + neuron.top_neg == neuron.level_count == (32 if neuron.top_neg else 16)


def test_more_than_255_levels_of_a_curved_function_are_255():
    _, _, neuron, _ = fitted("sigmoid", resolved(levels=1000))
    assert neuron.level_count <= 255
    assert "Sigmoid is curved, a StaircaseFire has at most 255 levels" in neuron.reason


@pytest.mark.parametrize("neuron", ["auto", *KINDS])
@pytest.mark.parametrize("case", ACTIVATIONS)
def test_silent_activations_get_a_usable_neuron(case, neuron):
    _, activation, x = activation_of(case)
    options = resolved(levels=8, neuron=neuron)
    axis = channel_axis(activation, options)
    for values in (np.zeros_like(x), np.zeros((0, *x.shape[1:]))):
        found = fit_neuron(activation, histogram_along(values, axis), options)
        quantised, snn = stages(activation_of(case)[0], activation, found)
        feed = {"x": potentials(seed=1)}
        expected, got = run_model(quantised, feed)[1], run_model(snn, feed, library=True)[1]
        np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))
        assert np.isfinite(got).all()


# --- the automatic choice -------------------------------------------------------------------------


def relu_of_values(x, **options):
    _, activation, _ = activation_of("relu")
    return fit_neuron(activation, histogram_of(x), resolved(**options))


def error_on(neuron, x):
    """The relative error of a neuron that stands for a Relu on values of a tensor."""
    thresholds, levels = neuron.staircase()
    scale = float(neuron.scale)
    y = scale * levels[np.searchsorted(thresholds, x / scale, side="right")]
    f = relu(x.astype(np.float64))
    return np.sqrt(((y - f) ** 2).sum() / (f**2).sum())


placed = pytest.mark.parametrize("neuron", ["scale", "staircase"])


@placed
def test_samples_seen_again_are_no_further_values(neuron):
    _, activation, _ = activation_of("relu")
    x = np.random.default_rng(4).normal(0, 1, (1, 60)).astype(np.float32)
    once, again = histogram_of(x), histogram_of(x)
    again.merge_seen_again(histogram_of(x))
    more = histogram_of(x)
    more.merge(histogram_of(x))
    options = resolved(levels=16, neuron=neuron)
    neurons = [fit_neuron(activation, values, options) for values in (once, again, more)]
    assert neurons[0].calibrator == neurons[1].calibrator
    # Bins of two equal values are spread, those of one are not.
    assert neurons[1].error == pytest.approx(neurons[0].error, rel=0.01)
    assert neurons[2].error < neurons[0].error
    if neuron == "staircase":  # which fits many numbers
        assert neurons[0].reason == neurons[1].reason != neurons[2].reason
        assert neurons[2].error < 0.8 * neurons[0].error


@placed
def test_auto_takes_density_where_there_are_many_values(neuron):
    found = relu_of_values(SAMPLES["normal"], levels=8, neuron=neuron)
    assert found.calibrator == "density, per tensor"
    assert found.reason == "auto: enough values for levels that follow the density"
    fixed = {
        name: relu_of_values(SAMPLES["normal"], levels=8, neuron=neuron, calibrator=name).error
        for name in ("density", "mse")
    }
    assert fixed["density"] < fixed["mse"]
    assert found.error == fixed["density"]


def test_auto_does_not_fit_levels_to_few_values():
    x = SAMPLES["exponential"]
    few, many = x[:40], x[20_000:]
    options = {"levels": 16, "neuron": "staircase"}
    chosen = relu_of_values(few, **options)
    assert chosen.calibrator == "mse, per tensor"
    assert "(density " in chosen.reason
    tempted = relu_of_values(few, **options, calibrator="density")
    assert error_on(chosen, many) < error_on(tempted, many)
    for neuron in ("auto", "scale", "staircase"):
        one = relu_of_values(few[:1], levels=16, neuron=neuron)
        assert one.calibrator == "mse, per tensor"


def test_of_few_values_the_three_numbers_of_an_octave_neuron_are_known():
    few = SAMPLES["exponential"][:20]
    octave, staircase = (
        relu_of_values(few, levels=16, neuron=neuron).reason for neuron in ("scale", "staircase")
    )
    assert re.match(r"auto: of the errors to be expected \(density \d+\.\d\d%, mse ", octave)
    assert "(density unknown, too few values, mse " in staircase


def test_auto_of_thresholds():
    many = relu_of_values(SAMPLES["normal"], levels=8, neuron="multi-threshold")
    assert many.calibrator == "mse, per tensor"
    assert "max" in many.reason
    few = relu_of_values(SAMPLES["normal"][:2], levels=8, neuron="multi-threshold")
    assert few.calibrator == "max, per tensor"
    assert "unknown, too few values" in few.reason


@pytest.mark.parametrize("neuron", KINDS)
def test_asked_for_calibrators_need_no_reason(neuron):
    for calibrator in ("density", *UNIFORM_CALIBRATORS):
        if (calibrator, neuron) == ("density", "multi-threshold"):
            continue
        percentile = 99 if calibrator == "percentile" else None
        found = relu_of_values(
            SAMPLES["normal"], levels=8, neuron=neuron, calibrator=calibrator, percentile=percentile
        )
        name = "percentile 99" if calibrator == "percentile" else calibrator
        assert found.calibrator == f"{name}, per tensor"
        assert found.reason == ""
        assert 0 < found.error < 1


COMPARED = "auto: octaves of levels have {} times the squared error of levels placed one by one"
UP_TO = ", up to {:g} are taken"


@pytest.mark.parametrize("levels", [9, 16, 64, 255])
@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "integers"])
def test_auto_takes_octaves_of_levels_up_to_a_bound(name, levels, monkeypatch):
    x = SAMPLES[name]
    octave = relu_of_values(x, levels=levels, neuron="scale")
    staircase = relu_of_values(x, levels=levels, neuron="staircase")
    ratio = octave.error**2 / staircase.error**2
    for bound, taken in ((1.01 * ratio, octave), (0.99 * ratio, staircase)):
        monkeypatch.setattr(module, "_WITHIN", bound)
        found = relu_of_values(x, levels=levels)
        reason = f"{taken.reason}; {COMPARED.format(f'{ratio:.2f}')}{UP_TO.format(bound)}"
        assert_same_neuron(found, replace(taken, reason=reason))


def assert_same_neuron(found, expected):
    assert type(found) is type(expected)
    for key, value in vars(expected).items():
        if not key.startswith("_"):  # what is kept once computed
            np.testing.assert_array_equal(getattr(found, key), value)


@pytest.mark.parametrize("levels", [9, 16, 32, 255])
@pytest.mark.parametrize("name", ["normal", "half normal", "exponential", "skewed", "uniform"])
def test_the_bound_lets_octaves_of_levels_follow_usual_densities(name, levels):
    assert isinstance(relu_of_values(SAMPLES[name], levels=levels), OctaveNeuron)


@pytest.mark.parametrize("levels", [1, 4, 8])
@pytest.mark.parametrize("calibrator", ["auto", "density", "max"])
def test_few_levels_are_placed_one_by_one(levels, calibrator):
    x = SAMPLES["normal"]
    found = relu_of_values(x, levels=levels, calibrator=calibrator)
    expected = relu_of_values(x, levels=levels, calibrator=calibrator, neuron="staircase")
    reason = "auto: up to 8 levels are placed one by one"
    reason += f"; {expected.reason}" if expected.reason else ""
    assert_same_neuron(found, replace(expected, reason=reason))


@pytest.mark.parametrize("calibrator", ["auto", "density"])
def test_levels_that_have_to_lie_exactly_are_placed_one_by_one(calibrator):
    x = np.repeat(np.float32([0, 1, 1.375, 9, 50, 400]), 1000)
    found = relu_of_values(x, levels=9, calibrator=calibrator)
    assert isinstance(found, StaircaseNeuron)
    assert found.error == pytest.approx(0, abs=1e-6)
    assert found.reason.endswith(
        "auto: levels placed one by one have no error, octaves of levels have one"
    )


@pytest.mark.parametrize("x", [np.repeat(np.arange(5.0), 100), np.zeros(50), np.full(50, -3.0)])
def test_octaves_of_levels_without_error_are_taken(x):
    found = relu_of_values(x.astype(np.float32), levels=16)
    assert isinstance(found, OctaveNeuron)
    assert found.error == pytest.approx(0, abs=1e-6)
    assert COMPARED.format("1.00") in found.reason


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize(
    ("case", "options", "kinds"),
    [
        ("leaky relu", {}, [StaircaseNeuron]),
        ("prelu of one slope", {}, [StaircaseNeuron]),
        ("prelu", {}, [OctaveNeuron, OctaveNeuron]),
        ("clip of both signs", {}, [StaircaseNeuron]),
        ("sigmoid", {}, [StaircaseNeuron]),
        ("relu", {"levels": 256}, [ThresholdNeuron]),
        ("encoder", {"levels": 256}, [ThresholdNeuron]),
    ],
)
def test_where_auto_has_no_choice_it_compares_nothing(case, options, kinds, granularity):
    for levels in (4, 16):
        chosen = {"levels": levels, "granularity": granularity} | options
        _, _, found, _ = fitted(case, resolved(**chosen))
        assert [type(part) for part in found.parts.values()] == kinds
        assert "octaves" not in found.reason
        assert "one by one" not in found.reason


@pytest.mark.parametrize("case", ["relu", "relu6", "encoder"])
def test_where_auto_has_a_choice_it_says_how_it_was_made(case):
    _, _, found, _ = fitted(case, resolved(levels=16))
    assert isinstance(found, (OctaveNeuron, StaircaseNeuron))
    assert re.search(COMPARED.format(r"\d+\.\d\d") + ", up to", found.reason)


# --- shrinking ------------------------------------------------------------------------------------


def evaluated(case, neuron):
    """Small membrane potentials and what the compiled neuron makes of them."""
    graph, activation, _ = activation_of(case)
    _, snn = stages(graph, activation, neuron)
    return run_model(snn, {"x": potentials() * np.float32(0.02)}, library=True)


@pytest.mark.parametrize("count", ["values", "histogram"])
@pytest.mark.parametrize("neuron", KINDS)
@pytest.mark.parametrize("case", ACTIVATIONS)
def test_shrunk_neurons_give_the_same_bits(case, neuron, count):
    """On values far smaller than those that the neuron was fitted to."""
    _, _, full, _ = fitted(case, resolved(levels=200, calibrator="max", neuron=neuron))
    x, before = evaluated(case, full)
    if count == "values":
        counts = level_counts(full, x)
    else:
        counts = count_levels(full, histogram_along(x, full.axis if full.rows > 1 else None))
    small = full.shrunk(counts)
    after = evaluated(case, small)[1]
    np.testing.assert_array_equal(before.view(np.uint32), after.view(np.uint32))
    for name, part in small.parts.items():
        assert 1 <= part.level_count < full.parts[name].level_count
        assert (np.diff(part.staircase()[0]) > 0).all()
        assert 0 in part.staircase()[1] or 0 not in full.parts[name].staircase()[1]


def test_levels_are_counted_in_histograms():
    neuron = ThresholdNeuron(np.float32(1), 3, 2, axis=1, calibrator="")
    x = np.float32([[-9, -1.5, -0.6, -0.4, 0, 0.4, 0.5, 2.4, 2.5, 7]])
    assert count_levels(neuron, histogram_of(x))[""].tolist() == [2, 1, 3, 1, 1, 2]
    many = replace(neuron, theta=np.ones(3, np.float32))
    with pytest.raises(ValueError, match="3 channels, the histogram has 2 rows"):
        count_levels(many, histogram_of(np.ones((2, 5))))


def test_values_too_small_for_a_bin_are_counted_on_either_side_of_zero():
    histogram = histogram_of([1e-30, -1e-30, 4.0])
    tiny, given = np.float32(1e-30), {"axis": 1, "calibrator": ""}
    steps, levels = np.float32([-0.4, 0.4]), np.float32([-1, 0, 1])
    for neuron in (
        StaircaseNeuron.of_staircase(tiny, steps, levels, **given),
        OctaveNeuron(tiny, 1, 1, 1, **given),
        ThresholdNeuron(tiny, 1, 1, **given),
    ):
        assert (count_levels(neuron, histogram)[""] > 0).tolist() == [True, True, True]


@pytest.mark.parametrize("calibrator", ["mse", "max"])
def test_thresholds_that_are_powers_of_two(calibrator):
    """The better one of two, and never so large that the levels reach beyond the upper bound."""
    x = [np.abs(RNG(i).normal(0, 0.3 * (i + 1), 4000)) for i in range(4)]
    plain = find_thresholds(rows_of(x), 16, calibrator)
    found = find_thresholds(rows_of(x), 16, calibrator, power_of_two=True)
    assert np.all(np.frexp(found.theta)[0] == 0.5)
    assert np.all(np.abs(np.log2(found.theta / plain.theta)) < 1)
    assert found.squared_error >= plain.squared_error or calibrator == "max"
    for row, theta in zip(rows_of(x), found.theta, strict=True):
        errors = [
            squared_error(row, Uniform(float(theta) * factor, 16)) for factor in (0.5, 1.0, 2.0)
        ]
        assert min(errors) == errors[1] or calibrator == "max"
    bounded = find_thresholds(rows_of(x), 16, calibrator, 99.9, 1.0, power_of_two=True)
    assert np.all(16 * bounded.theta <= 1)


def test_bounds_that_are_the_same_number_of_steps():
    """Values that differ by one bit: the error over them is that of either."""
    high = np.nextafter(1.0, 2)
    steps, levels = np.geomspace(0.01, 0.9, 50), np.full(50, 255)
    errors = [
        _side_error(Side(np.array([low]), np.array([high]), np.ones(1)), steps, levels)
        for low in (1.0, high)
    ]
    np.testing.assert_allclose(errors[0], errors[1], rtol=1e-9, atol=1e-12)
