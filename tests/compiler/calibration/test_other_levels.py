"""Half and twice the levels, from histograms, against neurons with these levels on the values."""

from __future__ import annotations

import numpy as np
import pytest
from snn_compile.compiler.calibration.fitting.membrane import Membrane
from snn_compile.compiler.calibration.other_levels import half_and_double
from snn_compile.compiler.running.counted_histogram import CountedHistogram
from snn_compile.passes.neurons.neuron import DualNeuron, OctaveNeuron, ThresholdNeuron


def uniform(step, positive, negative=0):
    return ThresholdNeuron(
        theta=np.float32(step), levels_pos=positive, levels_neg=negative, axis=1, calibrator="test"
    )


def octave(scale, linear, top):
    return OctaveNeuron(
        scale=np.float32(scale), linear=linear, top_pos=top, top_neg=0, axis=1, calibrator="test"
    )


def ratios(values, neuron):
    histogram = CountedHistogram(1)
    histogram.add(np.ascontiguousarray(values, np.float32))
    return half_and_double({"y": neuron}, {"y": Membrane(histogram, neuron)})


def exact(values, neuron):
    """Root of the squared error, and unit spikes, value by value."""
    error = spikes = 0.0
    for name, part in neuron.parts.items():
        thresholds, levels = part.staircase()
        wanted = values if levels[0] < 0 else np.maximum(values, 0)
        wanted = np.minimum(values, 0) if name == "negative" else wanted
        given = levels[np.searchsorted(thresholds, wanted / float(part.unit), side="right")]
        power = (wanted**2).sum()
        error += ((wanted - given * float(part.unit)) ** 2).sum() / power
        spikes += np.abs(given).sum()
    return np.sqrt(error), spikes


@pytest.mark.parametrize(
    ("half", "own", "double"),
    [
        (uniform(0.5, 8), uniform(0.25, 16), uniform(0.125, 32)),
        (uniform(0.5, 8, 4), uniform(0.25, 16, 8), uniform(0.125, 32, 16)),
        (octave(0.25, 4, 16), octave(0.125, 8, 32), octave(0.0625, 16, 64)),
        (octave(0.5, 8, 8), octave(0.25, 16, 16), octave(0.125, 32, 32)),
    ],
)
def test_one_neuron(half, own, double):
    values = np.random.default_rng(0).normal(0, 1, (1, 20_000))
    found = ratios(values, own)
    error, spikes = exact(values, own)
    for ratio, neuron in zip(found, (half, double), strict=True):
        other_error, other_spikes = exact(values, neuron)
        assert ratio.error == pytest.approx(other_error / error, rel=0.02)
        assert ratio.spikes == pytest.approx(other_spikes / spikes, rel=0.02)


def test_values_beyond_the_levels_err_as_before():
    values = np.full((1, 100), 10.0)
    half, double = ratios(values, uniform(1.0, 4))
    assert half.error == pytest.approx(1, rel=0.01) and double.error == pytest.approx(1, rel=0.01)
    assert (half.spikes, double.spikes) == (0.5, 2)


def test_odd_numbers_of_levels_keep_the_outermost():
    values = np.linspace(0, 3, 3001)[None]
    half, _ = ratios(values, uniform(1.0, 3))
    levels = np.array([0, 2, 3])
    given = levels[np.searchsorted([1.0, 2.5], values[0], side="right")]
    error = np.sqrt(((values[0] - given) ** 2).sum() / (values**2).sum())
    assert half.error == pytest.approx(error / exact(values, uniform(1.0, 3))[0], rel=0.02)


def test_both_polarities_count():
    values = np.random.default_rng(1).normal(0, 1, (1, 20_000))
    dual = DualNeuron(
        positive=uniform(0.25, 16), negative=uniform(0.25, 0, 16), axis=1, calibrator="test"
    )
    half, double = ratios(values, dual)
    assert 1.7 < half.error < 2.1 and 0.45 < double.error < 0.6


def test_nothing_is_known_without_neurons():
    assert half_and_double({}, {}) is None
