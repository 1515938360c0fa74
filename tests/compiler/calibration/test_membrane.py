"""What the report keeps of the membrane potential at calibration."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from helpers import level_counts, model_from_text
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.calibration.fitting.membrane import BINS, MOST_LEVELS, Membrane
from snn_compile.compiler.running.counted_histogram import CountedHistogram
from snn_compile.passes.neurons.neuron import (
    DualNeuron,
    OctaveNeuron,
    StaircaseNeuron,
    ThresholdNeuron,
)


def array(*values):
    return np.array(values, np.float32)


def threshold_neuron(theta, levels_pos, levels_neg=0):
    return ThresholdNeuron(
        theta=np.asarray(theta, np.float32), levels_pos=levels_pos, levels_neg=levels_neg,
        axis=1, calibrator="test",
    )  # fmt: skip


def octave_neuron(scale, linear, top_pos, top_neg=0):
    return OctaveNeuron(
        scale=np.asarray(scale, np.float32), linear=linear, top_pos=top_pos, top_neg=top_neg,
        axis=1, calibrator="test",
    )  # fmt: skip


def staircase_neuron(scale, thresholds, levels):
    return StaircaseNeuron.of_staircase(
        np.asarray(scale, np.float32), array(*thresholds), array(*levels), axis=1,
        calibrator="test",
    )  # fmt: skip


def histogram_of(values):
    """Of values [rows, n]."""
    histogram = CountedHistogram(len(values))
    histogram.add(np.ascontiguousarray(values, np.float32))
    return histogram


def described(values, neuron):
    return Membrane(histogram_of(values), neuron).describe(neuron)[""]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("make", "unit", "thresholds", "levels"),
    [
        (lambda theta: threshold_neuron(theta, 4), "theta", [0.5, 1.5, 2.5, 3.5], range(5)),
        (lambda theta: threshold_neuron(theta, 2, 1), "theta", [-0.5, 0.5, 1.5], [-1, 0, 1, 2]),
        (lambda theta: threshold_neuron(theta, 0, 2), "theta", [-1.5, -0.5], [-2, -1, 0]),
        (lambda scale: octave_neuron(scale, 2, 4), "scale", [0.5, 1.5, 3], [0, 1, 2, 4]),
        (lambda scale: octave_neuron(scale, 2, 2, 1), "scale", [-0.5, 0.5, 1.5], [-1, 0, 1, 2]),
        (
            lambda scale: staircase_neuron(scale, [-1, 1, 3], [-0.3, 0, 0.5, 2]),
            "scale",
            [-1, 1, 3],
            array(-0.3, 0, 0.5, 2).astype(float),
        ),
    ],
)
def test_values_are_counted_in_units_of_their_channels_threshold_or_scale(
    channels, make, unit, thresholds, levels
):
    rng = np.random.default_rng(channels)
    step = array(0.5, 3.0, 20.0)[:channels]
    values = rng.normal(0.5, 2.0, (channels, 20_000)).astype(np.float32) * step[:, None]
    neuron = make(step if channels > 1 else step[0])
    found = described(values, neuron)
    assert found.unit == unit and found.thresholds == thresholds
    assert found.levels == pytest.approx(list(levels), rel=1e-5)  # of six digits
    margin = (thresholds[-1] - thresholds[0]) / 2
    assert (found.low, found.high) == (thresholds[0] - margin, thresholds[-1] + margin)
    scaled = (values / step[:, None]).reshape(-1)
    counts, _ = np.histogram(scaled, BINS, (found.low, found.high))
    # A bin of the calibration's histogram is up to 1/16 octave wide, its values count as spread.
    np.testing.assert_allclose(found.shares, counts / scaled.size, atol=0.003)
    assert found.below == pytest.approx((scaled < found.low).mean(), abs=0.003)
    assert found.above == pytest.approx((scaled > found.high).mean(), abs=0.003)
    exact = level_counts(neuron, values.T if channels > 1 else values.reshape(-1, 1))[""]
    np.testing.assert_allclose(found.level_shares, exact / scaled.size, atol=0.004)


def test_the_axis_ends_where_the_values_do():
    neuron = staircase_neuron(2.0, [0.5, 1.5, 4.5], [0, 1, 2, 3])
    found = described([[-0.5, 0.0, 3.2, 8.0]], neuron)
    assert (found.unit, found.low, found.high) == ("scale", -0.25, 4.5)
    assert found.below == found.above == 0 and sum(found.shares) == pytest.approx(1)
    assert found.level_shares == [0.5, 0, 0.5, 0]
    found = described([[-50.0, 0.0, 3.0, 80.0]], neuron)
    assert (found.low, found.high) == (0.5 - 2, 4.5 + 2)
    assert (found.below, found.above) == (0.25, 0.25)
    found = described([[0.0, 9.0]], neuron)  # on the last threshold, in the last bin
    assert found.above == 0 and found.shares[-1] == 0.5


@pytest.mark.parametrize("values", [[[0.0, 0.0]], [[]], [[np.nan]], [[-1e30, 1e-30]]])
def test_a_neuron_that_saw_nothing_is_described_too(values):
    found = described(values, threshold_neuron(1.0, 1))
    assert found.low < found.high and np.isfinite([found.low, found.high, *found.shares]).all()
    assert sum(found.shares) + found.below + found.above in (pytest.approx(1), 0)


def test_what_happens_to_the_neuron_is_followed():
    values = np.random.default_rng(0).normal(0, 3, (1, 5000))
    before, after = threshold_neuron(0.5, 8), threshold_neuron(1.0, 5)
    membrane = Membrane(histogram_of(values), before)
    first, then = membrane.describe(before)[""], membrane.describe(after)[""]
    assert then.shares == first.shares
    assert (then.low, then.high) == (first.low / 2, first.high / 2)
    assert then.thresholds == [0.5, 1.5, 2.5, 3.5, 4.5]
    exact = level_counts(after, values.astype(np.float32).reshape(-1, 1))[""]
    np.testing.assert_allclose(then.level_shares, exact / values.size, atol=0.005)


def test_both_polarities_of_a_dual_neuron():
    dual = DualNeuron(
        positive=threshold_neuron(1.0, 2), negative=threshold_neuron(0.5, 0, 2), axis=1,
        calibrator="test",
    )  # fmt: skip
    found = Membrane(histogram_of([[-1.0, 0.25, 1.0, 2.0]]), dual).describe(dual)
    assert found["positive"].level_shares == [0.5, 0.25, 0.25]
    assert found["negative"].level_shares == [0.25, 0, 0.75]


def test_many_levels_are_not_listed():
    found = described([[0.0, 1.0, 400.0]], threshold_neuron(1.0, MOST_LEVELS + 1))
    assert found.thresholds == found.levels == found.level_shares == []
    assert len(found.shares) == BINS and len(json.dumps(asdict(found))) < 1000
    assert len(described([[1.0]], threshold_neuron(1.0, MOST_LEVELS)).thresholds) == MOST_LEVELS


MODEL = """
    g (float[N, 4] x) => (float[N, 3] y)
    <float[4, 8] w1, float[8, 8] w2, float[8, 8] w3, float[8, 3] w4> {
        h1 = MatMul (x, w1)
        a1 = Relu (h1)
        h2 = MatMul (a1, w2)
        a2 = LeakyRelu (h2)
        h3 = MatMul (a2, w3)
        a3 = Sigmoid (h3)
        y = MatMul (a3, w4)
    }
"""


@pytest.mark.parametrize(
    ("neuron", "operators"),
    [
        ("scale", ["DualScaleFire", *["ScaleFire"] * 3]),
        ("staircase", ["StaircaseFire"] * 3),
        ("multi-threshold", [*["MultiThresholdFire"] * 3, "StaircaseFire"]),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_every_calibrated_neuron_has_one(tmp_path, neuron, operators, scale):
    """Of a LeakyRelu there are two, but for staircases."""
    samples = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    np.save(tmp_path / "c.npy", samples)
    options = CompileOptions(levels=8, neuron=neuron, scale=scale)
    result = compile_model(model_from_text(MODEL), tmp_path / "c.npy", options)
    activity = {line.name: line for line in result.report.verification.neurons}
    assert sorted(line.op for line in result.report.neurons) == operators
    for line in result.report.neurons:
        found = line.membrane
        assert found is not None and found.unit == ("theta" if "Multi" in line.op else "scale")
        assert len(found.thresholds) == line.levels == len(found.level_shares) - 1
        if line.op != "StaircaseFire":  # of which other levels may be silent too
            silent = found.level_shares[found.levels.index(0)]
            assert silent == pytest.approx(activity[line.name].silent_values, abs=0.05)
    assert json.loads(result.report.to_json())["neurons"][0]["membrane"]["unit"] in (
        "theta",
        "scale",
    )


def test_a_neuron_that_fires_the_same_at_every_potential_has_one_too(tmp_path):
    """A HardSigmoid without a slope is a constant."""
    model = model_from_text("""g (float[N,4] x) => (float[N,3] y) <float[4,5] w, float[5,3] v> {
        p = MatMul (x, w) h = HardSigmoid <alpha=0.0, beta=0.5> (p) y = MatMul (h, v) }""")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((40, 4)).astype("f"))
    for neuron in compile_model(model, tmp_path / "x.npy").report.neurons:
        membrane = neuron.membrane
        assert membrane is not None and membrane.low < membrane.high
