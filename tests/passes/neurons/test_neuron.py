"""What neurons say and make of themselves: levels, spikes, scaled, shrunk."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from helpers import level_counts
from snn_compile.passes.neurons.neuron import (
    DualNeuron,
    OctaveNeuron,
    StaircaseNeuron,
    ThresholdNeuron,
)


def threshold(theta, above, below=0, **more):
    return ThresholdNeuron(np.float32(theta), above, below, axis=1, calibrator="mse", **more)


def staircase(scale, thresholds, levels):
    arrays = (np.asarray(values, np.float32) for values in (scale, thresholds, levels))
    return StaircaseNeuron.of_staircase(*arrays, axis=1, calibrator="density")


def octave(scale, linear, above, below=0, **more):
    scale = np.asarray(scale, np.float32)
    tops = {"top_pos": above, "top_neg": below}
    return OctaveNeuron(scale, linear, **tops, axis=1, calibrator="density", **more)


def dual(positive, negative):
    return DualNeuron(positive=positive, negative=negative, axis=1, calibrator="mse")


def test_parts_are_what_it_is_made_of():
    one, other = threshold([1, 2, 3], 4), staircase(1, [-2, -1], [-3, -1, 0])
    both = dual(one, other)
    assert both.parts == {"positive": one, "negative": other}
    assert (one.parts, other.parts) == ({"": one}, {"": other})
    assert (one.rows, other.rows, both.rows) == (3, 1, 3)
    assert (one.level_count, other.level_count, both.level_count) == (4, 2, 6)
    assert (one.unit_name, other.unit_name) == ("theta", "scale")
    swapped = {"positive": other, "negative": one}
    assert both.changed(lambda name, _: swapped[name]).parts == swapped


def test_levels_are_reached_where_the_staircase_says():
    x = np.float32([[-9, -1.5, -0.6, -0.4, 0, 0.4, 0.5, 2.4, 2.5, 7]])
    neuron = threshold(1, 3, 2)
    assert level_counts(neuron, x)[""].tolist() == [2, 1, 3, 1, 1, 2]
    thresholds, levels = neuron.staircase()
    assert thresholds.tolist() == [-1.5, -0.5, 0.5, 1.5, 2.5]
    assert levels.tolist() == [-2, -1, 0, 1, 2, 3]
    assert neuron.spikes(x, 0).tolist() == [[2, 2, 1, 0, 0, 0, 1, 2, 3, 3]]
    late = replace(neuron, v0=0.0)
    assert late.level_of(np.float32([0.9, 1.0, -2.0]), 0).tolist() == [2, 3, 0]
    assert late.spikes(np.float32([0.9, 1.0, -2.0]), 0).tolist() == [0, 1, 2]
    steps = staircase([1, 2], [-1, 1, 2], [5, 0, 1, 3])
    x = np.float32([[-1.5, -1.5], [-1, -3], [1, 1], [2, 4]])
    assert level_counts(steps, x)[""].tolist() == [2, 3, 1, 2]
    assert steps.spikes(x[:, 0], 0).tolist() == [5, 0, 1, 3]
    assert steps.spikes(x[:, 1], 1).tolist() == [0, 5, 0, 3]


def test_levels_of_an_octave_neuron_grow_apart():
    neuron = octave(2, 4, 12, 2)
    thresholds, levels = neuron.staircase()
    assert levels.tolist() == [-2, -1, 0, 1, 2, 3, 4, 6, 8, 12]
    assert thresholds.tolist() == [-1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 5, 7, 10]
    assert neuron.level_count == 9
    x = np.float32([-9, -2, -0.9, 0.9, 1.1, 7.1, 9.9, 10.1, 19, 21, 1e30])
    assert neuron.level_of(x, 0).tolist() == [0, 1, 2, 2, 3, 6, 6, 7, 8, 9, 9]
    assert neuron.spikes(x, 0).tolist() == [2, 1, 0, 0, 1, 4, 4, 6, 8, 12, 12]
    each = octave([1, 2], 4, 12)
    assert each.spikes(np.float32([5.5]), 0).tolist() == [6]
    assert each.spikes(np.float32([5.5]), 1).tolist() == [3]


def test_an_octave_neuron_without_some_levels_ends_at_the_outermost():
    neuron = octave(1, 4, 12, 2)
    small = without(neuron, [0, 1, 5, 1, 1, 1, 0, 1, 0, 0])
    assert (small.top_pos, small.top_neg) == (6, 1)
    nothing = without(neuron, [0, 0, 5, 0, 0, 0, 0, 0, 0, 0])
    assert (nothing.top_pos, nothing.top_neg) == (1, 0)
    assert neuron.mirrored() == replace(neuron, top_pos=2, top_neg=12)
    below = without(neuron.mirrored(), [0] * 8 + [5, 0])
    assert (below.top_pos, below.top_neg) == (1, 0)


def test_a_mirrored_neuron_fires_on_the_other_side():
    assert threshold(1, 3).mirrored() == replace(threshold(1, 3), levels_pos=0, levels_neg=3)


def without(neuron, counts):
    """The neuron without the levels that occur 0 times."""
    return neuron.shrunk({"": np.array(counts)})


def test_levels_that_do_not_occur_go_and_silence_stays():
    steps = staircase(1, [1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5])
    small = without(steps, [0, 7, 0, 0, 2, 0])
    assert small.levels.tolist() == [0, 1, 4]
    assert small.staircase()[0].tolist() == [1, 3]
    assert without(steps, [1] * 6).staircase()[0].tolist() == [1, 2, 3, 4, 5]
    assert without(steps, [0] * 6).levels.tolist() == [0, 1]
    nowhere_zero = replace(steps, table=steps.table + np.float32(1))
    assert without(nowhere_zero, [0, 0, 0, 0, 0, 1]).levels.tolist() == [5, 6]


@pytest.mark.parametrize(
    ("counts", "sides"),
    [
        ([0, 0, 1, 9, 1, 1, 0, 0], (2, 1)),
        ([0, 0, 0, 9, 1, 0, 0, 0], (1, 0)),
        ([0, 1, 0, 0, 0, 0, 0, 0], (0, 2)),
        ([0, 0, 0, 9, 0, 0, 0, 0], (1, 0)),
        ([0, 0, 0, 0, 0, 0, 0, 0], (1, 0)),
    ],
)
def test_either_side_ends_at_the_outermost_level_that_occurs(counts, sides):
    small = without(threshold(1, 4, 3), counts)
    assert (small.levels_pos, small.levels_neg) == sides


def test_one_level_stays_on_the_side_where_there_were_some():
    silent = without(threshold(1, 0, 3), [0, 0, 0, 5])
    assert (silent.levels_pos, silent.levels_neg) == (0, 1)


def test_each_part_of_two_is_shrunk():
    both = dual(threshold(1, 3), threshold(1, 0, 3))
    counts = {"positive": np.array([5, 1, 0, 0]), "negative": np.array([0, 2, 0, 4])}
    small = both.shrunk(counts)
    assert (small.positive.levels_pos, small.negative.levels_neg) == (1, 2)


def test_counts_of_another_neuron_are_refused():
    with pytest.raises(ValueError, match="5 counts of a neuron with 6 levels"):
        without(threshold(1, 3, 2), [1] * 5)


def test_a_scaled_neuron_says_so_and_forgets_its_errors():
    neuron = threshold([2, 4], 3, error=0.1, clip_rate=0.2)
    scaled = neuron.scaled(0.5)
    np.testing.assert_array_equal(scaled.theta, np.float32([1, 2]))
    assert scaled.theta.dtype == np.float32
    assert scaled.calibrator == "mse, times 0.5"
    assert math.isnan(scaled.error) and math.isnan(scaled.clip_rate)
    assert neuron.scaled(1.0) is neuron
    both = dual(neuron, staircase(3, [-1], [-1, 0])).scaled(2.0)
    assert both.positive.theta.tolist() == [4, 8] and both.negative.scale == 6
    assert octave(3, 4, 4).scaled(2.0).scale == 6
    assert (both.calibrator, both.negative.calibrator) == ("mse, times 2", "density, times 2")


@pytest.mark.parametrize(("theta", "scale"), [(1e-38, 0.25), (3e38, 2.0)])
def test_a_scaled_step_stays_a_normal_number(theta, scale):
    scaled = threshold(theta, 1).scaled(scale).theta
    assert np.isfinite(scaled) and scaled >= np.finfo(np.float32).tiny
    assert scaled.shape == ()
