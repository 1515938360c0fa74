"""Levels of octave and staircase neurons against their operators; thresholds moved to a grid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from operators import assert_same_bits, operator_model, session
from snn_compile.passes.neurons.neuron import OctaveNeuron, StaircaseNeuron
from snn_compile.runtime_ops.scale_fire import DUAL_SCALE_FIRE, SCALE_FIRE, fire_octave
from snn_compile.runtime_ops.staircase_fire import MAX_CELLS, STAIRCASE_FIRE, cell_of

GIVEN = {"axis": 1, "calibrator": "hand"}


def octave(scale, linear, top_pos, top_neg=0):
    return OctaveNeuron(np.asarray(scale, np.float32), linear, top_pos, top_neg, **GIVEN)


def staircase(thresholds, levels, scale=1.0):
    values = (np.asarray(values, np.float32) for values in (scale, thresholds, levels))
    return StaircaseNeuron.of_staircase(*values, **GIVEN)


OCTAVES = {
    "relu": octave(0.37, 4, 24),
    "per channel": octave([0.1, 2.5, 30], 8, 64),
    "both signs": octave(0.11, 6, 20, 12),
    "negative": octave([3, 1, 0.01], 16, 0, 40),
    "equal steps": octave(1, 255, 255),
    "one level": octave(0.7, 1, 1),
    "many": octave(0.01, 2048, 4096, 2048),
}
STAIRCASES = {
    "rises and falls": staircase([-1.3, -0.2, 0.45, 2], [0, -0.17, 0, 0.5, 1.9]),
    "per channel": staircase([-2, -0.5, 0.5, 3], [-3, -1, 0, 1, 4], [0.2, 1, 7]),
    "never silent": staircase([-1, 0, 1], [0.1, 0.3, 0.7, 0.9]),
    "one threshold": staircase([0.5], [0, 1], [1, 2, 0.03]),
    "dense": staircase(np.cumsum(np.linspace(0.001, 0.02, 255)), np.arange(256) ** 2 / 4000),
}


def potentials(neuron, seed=0):
    """float32 [n, 3]: thresholds, what lies beside them, and normal values."""
    thresholds = neuron.staircase()[0]
    unit = np.broadcast_to(neuron.unit, 3)
    marks = np.float32(thresholds[:, None] * unit)
    beside = [np.nextafter(marks, np.float32(end)) for end in (-np.inf, np.inf)]
    spread = np.random.default_rng(seed).normal(0, np.abs(thresholds).max(), (3000, 1)) * unit
    ends = np.float32([[0.0] * 3, [-0.0] * 3, [1e30] * 3, [-1e30] * 3, [np.inf] * 3, [-np.inf] * 3])
    return np.concatenate([marks, *beside, spread.astype(np.float32), ends])


def by_channel(function, x):
    return np.stack([function(x[:, channel], channel) for channel in range(3)], axis=1)


def operated(neuron, x):
    """What the operator's kernels make of the potentials."""
    if isinstance(neuron, OctaveNeuron):
        operator = DUAL_SCALE_FIRE if neuron.top_neg else SCALE_FIRE
        inputs = {"scale": neuron.scale}
        attributes = {key: getattr(neuron, key) for key in ("linear", "top_pos", "top_neg")}
    else:
        operator, inputs = STAIRCASE_FIRE, {"scale": neuron.scale, "table": neuron.table}
        attributes = {"density": neuron.density, "start": neuron.start}
    model = operator_model(operator, inputs, axis=neuron.axis, **attributes)
    return session(model, library=True).run(None, {"X": x})[0]


@pytest.mark.parametrize(
    "neuron", [*OCTAVES.values(), *STAIRCASES.values()], ids=[*OCTAVES, *STAIRCASES]
)
def test_levels_are_those_that_the_operator_gives(neuron):
    """Bit for bit, on the thresholds too."""
    x = potentials(neuron)
    reached = by_channel(neuron.level_of, x)
    assert reached.dtype == np.int64
    levels = neuron.staircase()[1].astype(np.float32)
    assert len(levels) == neuron.level_count + 1
    assert set(np.unique(reached)) == set(range(len(levels)))
    assert_same_bits(operated(neuron, x), neuron.unit * levels[reached] + np.float32(0))


@pytest.mark.parametrize(
    "neuron", [*OCTAVES.values(), *STAIRCASES.values()], ids=[*OCTAVES, *STAIRCASES]
)
def test_thresholds_lie_where_the_level_changes(neuron):
    """Up to roundings: what is beyond a threshold by 1e-5 of it is on the next level."""
    thresholds, levels = neuron.staircase()
    assert (np.diff(thresholds) > 0).all()
    assert (np.diff(levels) != 0).all()
    away = 1e-5 * np.maximum(np.abs(thresholds), np.abs(thresholds).max() / 100)
    for channel in range(3):
        unit = neuron.unit_of(channel)
        above, below = (np.float32((thresholds + sign * away) * unit) for sign in (1, -1))
        np.testing.assert_array_equal(neuron.level_of(above, channel), np.arange(len(levels))[1:])
        np.testing.assert_array_equal(neuron.level_of(below, channel), np.arange(len(levels))[:-1])


@pytest.mark.parametrize("neuron", OCTAVES.values(), ids=OCTAVES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_octave_neuron_fires_its_output_in_units_of_the_scale(neuron, dtype):
    x = potentials(neuron).astype(dtype)
    spikes = by_channel(neuron.spikes, x)
    limits = neuron.linear, neuron.top_pos, neuron.top_neg
    np.testing.assert_array_equal(
        spikes, np.abs(fire_octave(x, neuron.unit.astype(dtype), *limits))
    )
    assert (spikes == np.rint(spikes)).all()
    if dtype == np.float32:
        assert_same_bits(np.abs(operated(neuron, x)), neuron.unit * spikes)


@pytest.mark.parametrize("neuron", STAIRCASES.values(), ids=STAIRCASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_staircase_fires_multiples_of_its_smallest_step(neuron, dtype):
    x = potentials(neuron).astype(dtype)
    table = neuron.table.astype(np.float64)
    silent = table[np.abs(table).argmin()]
    step = np.diff(np.unique(table)).min()
    k = np.abs(np.rint((table - silent) / step))
    cell = cell_of(x, neuron.unit.astype(dtype), neuron.density, neuron.start, len(table))
    np.testing.assert_array_equal(by_channel(neuron.spikes, x), k[cell])


@pytest.mark.parametrize("neuron", OCTAVES.values(), ids=OCTAVES)
def test_an_octave_neuron_with_some_levels_clips_at_the_outermost(neuron):
    x = potentials(neuron)
    reached, before = by_channel(neuron.level_of, x), operated(neuron, x)
    levels, rng = neuron.staircase()[1], np.random.default_rng(0)
    silent = int(np.flatnonzero(levels == 0)[0])
    for _ in range(5):
        kept = np.sort(rng.choice(len(levels), rng.integers(2, len(levels) + 1), replace=False))
        small = neuron.with_levels(kept)
        ends = min(kept[0], silent), max(kept[-1], silent)
        np.testing.assert_array_equal(small.staircase()[1], levels[ends[0] : ends[1] + 1])
        after = operated(small, x)
        same = (reached >= ends[0]) & (reached <= ends[1])
        assert_same_bits(after[same], before[same])
        np.testing.assert_array_equal(
            by_channel(small.level_of, x), np.clip(reached, *ends) - ends[0]
        )
        assert (small.scale is neuron.scale) and small.linear == neuron.linear


@pytest.mark.parametrize("neuron", STAIRCASES.values(), ids=STAIRCASES)
def test_a_staircase_with_some_levels_gives_each_other_value_one_beside_it(neuron):
    x = potentials(neuron)
    reached, before = by_channel(neuron.level_of, x), operated(neuron, x)
    levels, rng = neuron.levels, np.random.default_rng(0)
    silence = np.flatnonzero(levels == 0)[:1]
    for _ in range(5):
        kept = np.sort(rng.choice(len(levels), rng.integers(2, len(levels) + 1), replace=False))
        small = neuron.with_levels(kept)
        stayed = np.union1d(kept, silence)
        if len(np.unique(levels[stayed])) < 2:
            continue  # of which below
        assert set(small.levels) == set(levels[stayed])
        assert (small.density, small.start) == (neuron.density, neuron.start)
        same = np.isin(reached, stayed)
        assert_same_bits(operated(small, x)[same], before[same])
        found = small.levels[by_channel(small.level_of, x)]
        above = np.searchsorted(stayed, reached)
        lower, upper = stayed[np.maximum(above - 1, 0)], stayed[np.minimum(above, len(stayed) - 1)]
        assert (same | (found == levels[lower]) | (found == levels[upper])).all()


def test_a_staircase_keeps_a_level_besides_silence_though_it_is_silent_twice():
    """Of a function that falls and rises again; what is beside the silent level stays."""
    neuron = staircase([-2, -1, 1], [0, -0.2, 0, 3])
    assert neuron.with_levels(np.array([0, 2])).levels.tolist() == [0, np.float32(-0.2), 0]
    assert neuron.with_levels(np.array([0, 2, 3])).levels.tolist() == [0, 3]
    assert neuron.with_levels(np.array([], int)).levels.tolist() == [0, np.float32(-0.2)]
    assert staircase([0], [-1, 0]).with_levels(np.array([1])).levels.tolist() == [-1, 0]


# --- thresholds on a grid -------------------------------------------------------------------------


def at_first(thresholds, levels, x):
    """What a staircase with free thresholds gives."""
    return np.float32(levels)[np.searchsorted(np.float64(thresholds), x, side="right")]


def given_by(neuron, x):
    return neuron.levels[neuron.level_of(np.float32(x), 0)]


def assert_on_grid(thresholds, levels):
    """What :meth:`StaircaseNeuron.of_staircase` promises; returns the neuron.

    Thresholds move by half a cell, beside 0 by a cell, as they stay on their side of it; what else
    they move by are roundings of x itself to float32.
    """
    thresholds = np.float32(thresholds)
    neuron = staircase(thresholds, levels)
    assert neuron.table.dtype == np.float32
    assert 1 <= len(neuron.table) <= MAX_CELLS
    assert np.isfinite([neuron.density, neuron.start]).all() and neuron.density > 0
    for number in (neuron.density, neuron.start):
        assert float(np.float32(number)) == number
    cell = 1 / neuron.density
    at = thresholds.astype(np.float64)
    reach = np.where(np.abs(at) < 1.5 * cell, 1.01, 0.51) * cell + 4e-7 * np.abs(at)
    x = np.concatenate([at - reach, at + reach, [-np.inf, np.inf]])
    x = x[~(np.abs(x[:, None] - at) < 0.999 * reach).any(axis=1)]
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(given_by(neuron, x), at_first(thresholds, levels, x))
    assert given_by(neuron, np.zeros(1)) == at_first(thresholds, levels, np.zeros(1))
    return neuron


finite = st.floats(-1e4, 1e4, width=32)
#: Clusters of thresholds, apart from each other by anything.
free = st.lists(finite, min_size=1, max_size=40) | st.builds(
    lambda centre, steps, unit: [centre + step * unit for step in steps],
    finite,
    st.lists(st.integers(-300, 300), min_size=1, max_size=60),
    st.sampled_from([1e-6, 1e-3, 1.0, 1e3]),
)


@settings(max_examples=400, deadline=None)
@given(thresholds=free, magnitude=st.sampled_from([1e-18, 1e-6, 1.0, 1e6, 1e30]))
@example(thresholds=[-8.40354636e-02, -1.55744525e-02, -1.55738480e-02, 3.6e-10], magnitude=1.0)
@example(thresholds=[2e6, 2e6 + 1], magnitude=1.0)
@example(thresholds=[-2e6 - 1, -2e6], magnitude=1.0)
def test_free_thresholds_move_by_half_a_cell_and_silence_stays(thresholds, magnitude):
    scaled = np.unique(np.float32(np.float64(thresholds) * magnitude))
    levels = np.arange(len(scaled) + 1.0) - np.searchsorted(scaled, 0, side="right")
    neuron = assert_on_grid(scaled, levels)
    assert 0 in neuron.levels
    assert 1 <= neuron.level_count <= len(scaled)
    assert (np.diff(neuron.levels) > 0).all()


@pytest.mark.parametrize("thresholds", [[-3, -1, 0.5, 2, 2.25], [0.5, 1.5, 4.5], [-4, 0, 4]])
def test_thresholds_that_fit_a_grid_stay_where_they_are(thresholds):
    neuron = assert_on_grid(thresholds, np.arange(len(thresholds) + 1.0))
    np.testing.assert_allclose(neuron.staircase()[0], thresholds, rtol=1e-6)


@pytest.mark.parametrize("value", [5.25, -5.25, 0.0, 1e-20, -1e-20, 3e38, -3e38])
@pytest.mark.parametrize("levels", [[0, 1], [-1, 0], [0.25, 0.75]])
def test_a_single_threshold_stays_where_it_is(value, levels):
    neuron = assert_on_grid([value], levels)
    assert len(neuron.table) <= 20
    assert neuron.staircase()[0] == pytest.approx([value], rel=1e-6, abs=0)
    np.testing.assert_array_equal(neuron.levels, np.float32(levels))


def test_a_cell_is_a_16th_of_the_least_distance():
    neuron = staircase([0.5, 1.5, 2, 8], np.arange(5))
    assert neuron.density == 16 / 0.5
    assert len(neuron.table) == (8 - 0.5) * neuron.density + 2  # with a cell before the first


def test_levels_between_thresholds_that_meet_go():
    thresholds, levels = [0.5, 1.5, 1.5 + 1e-5, 4], [0, 1, 2, 3, 4]
    neuron = assert_on_grid(thresholds, levels)
    assert neuron.levels.tolist() == [0, 1, 3, 4]
    assert len(neuron.table) > 0.9 * MAX_CELLS
    # What lies between them gets a level beside it.
    assert given_by(neuron, np.float64([1.5 + 5e-6])) in (1, 3)


@pytest.mark.parametrize("least", [1e-3, 1e-7, 1e-12, 1e-20])
def test_thresholds_beside_0_stay_on_their_side(least):
    """However close to 0 they are: what was silent stays so, and nothing else at 0."""
    for thresholds, levels in (
        ([least, 1], [0, 1, 2]),
        ([-1, -least], [-2, -1, 0]),
        ([-1, -least, least, 1], [-2, -1, 0, 1, 2]),
        ([-1, 0, 1], [-2, -1, 0, 1]),
    ):
        neuron = assert_on_grid(thresholds, levels)
        np.testing.assert_array_equal(neuron.levels, levels)
        assert given_by(neuron, np.zeros(1)) == 0


def test_neighbouring_float32_values_are_told_apart_from_what_lies_further():
    for one in np.float32([1, 1e6, -1e6, 2e6, 1e-20]):
        other = np.nextafter(one, np.float32(np.inf))
        neuron = assert_on_grid([one, other], [0, 1, 2])
        assert given_by(neuron, np.float64([one * (1 - 1e-6 * np.sign(one))])) == 0
        assert given_by(neuron, np.float64([other * (1 + 1e-6 * np.sign(one))])) == 2


def test_thresholds_are_in_units_of_a_channels_scale():
    thresholds, levels = [-1, 0.5, 2], [-1, 0, 1, 2]
    scale = np.float32([1e-3, 1, 40])
    neuron = staircase(thresholds, levels, scale)
    x = np.float32([-1.1, -0.9, 0.4, 0.6, 1.9, 2.1])
    for row, unit in enumerate(scale):
        reached = neuron.levels[neuron.level_of(x * unit, row)]
        np.testing.assert_array_equal(reached, at_first(thresholds, levels, x))
