"""The octave calibrator: against every neuron on a fine grid, against uniform and free levels."""

from __future__ import annotations

import numpy as np
import pytest
from snn_compile.compiler.calibration.fitting.distributions import Distribution, spread_bins
from snn_compile.compiler.calibration.fitting.octave import find_octave
from snn_compile.compiler.calibration.fitting.rows import pool
from snn_compile.compiler.calibration.fitting.staircase import find_staircase
from snn_compile.compiler.calibration.fitting.uniform_calibrators import find_uniform, squared_error
from snn_compile.runtime_ops.scale_fire import fire_octave, octave_levels

DRAWN = {
    "relu": lambda rng: np.maximum(rng.normal(0, 1, 5_000), 0),
    "heavy": lambda rng: np.maximum(rng.laplace(0, 1, 5_000), 0),
    "relu6": lambda rng: np.clip(rng.normal(1, 2.5, 5_000), 0, 6),
    "signed": lambda rng: rng.normal(0, 1, 5_000),
    "skewed": lambda rng: rng.gamma(2, 1, 5_000) - 1,
    "negative": lambda rng: -np.abs(rng.normal(0, 1, 5_000)),
}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def points(*values):
    x = np.array(values, np.float64)
    return Distribution(x, x, x, np.ones(len(x)))


def distribution(x):
    """In bins of 2^-7 octaves, as histograms give them."""
    means = np.sort(x).astype(np.float64)
    return pool([Distribution(means, means, means, np.ones(len(means)))])


def error_of(octave, x):
    k = fire_octave(x.astype(np.float64), octave.scale, *tops(octave))
    return float(((x - octave.scale.astype(np.float64) * k) ** 2).sum())


def tops(octave):
    return octave.linear, octave.top_pos, octave.top_neg


def count(octave):
    return sum(len(octave_levels(octave.linear, t)) - 1 for t in (octave.top_pos, octave.top_neg))


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("levels", [2, 5, 16, 32])
def test_no_other_neuron_on_a_grid_is_much_better(name, levels, rng):
    x = DRAWN[name](rng)
    values = distribution(x)
    best = find_octave([values], levels)
    assert count(best) <= levels
    assert error_of(best, x) == pytest.approx(best.squared_error, rel=0.02)
    others = []
    for linear in {2, 4, 8, 16, 32, levels}:
        table = octave_levels(linear)
        for negative in {0, levels // 2, levels} if x.min() < 0 else {0}:
            last = len(table) - 1
            ends = [int(table[min(n, last)]) for n in (levels - negative, negative)]
            for scale in np.geomspace(1e-3, 10, 120):
                k = fire_octave(x, np.float64(scale), linear, *ends)
                others.append(((x - scale * k) ** 2).sum())
    k = fire_octave(x, best.scale, *tops(best))
    assert ((x - best.scale * k) ** 2).sum() <= 1.05 * min(others)


@pytest.mark.parametrize("name", DRAWN)
def test_next_to_a_neuron_with_other_levels_it_errs_hardly_more(name, rng):
    values = distribution(DRAWN[name](rng))
    for ladder in ((16, 14, 12, 10, 8), (16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128)):
        near = find_octave([values], ladder[0])
        shares = []
        for levels in ladder[1:]:
            near = find_octave([values], levels, near=near)
            assert count(near) <= levels
            assert error_of(near, DRAWN[name](np.random.default_rng(0))) == pytest.approx(
                near.squared_error, rel=0.02
            )
            shares.append(near.squared_error / find_octave([values], levels).squared_error)
        assert min(shares) > 0.98 and max(shares) < 1.15  # of the far tail there are a few points
        assert np.mean(shares) < 1.04


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("levels", [16, 32])
def test_errors_lie_between_those_of_free_and_of_uniform_levels(name, levels, rng):
    values = distribution(DRAWN[name](rng))
    found = find_octave([values], levels).squared_error
    free = find_staircase(values.means, values.counts, lambda x: x, levels).error ** 2
    uniform = squared_error(values, find_uniform(values, levels, "mse", 99.9))
    assert 0.95 * free * values.power <= found <= 1.02 * uniform
    assert found <= 1.4 * free * values.power


def test_one_value_is_a_level():
    found = find_octave([points(3.0)], 7)
    assert found.squared_error == pytest.approx(0, abs=1e-12)
    assert fire_octave(np.float32(3), found.scale, *tops(found)) * found.scale == 3


def test_levels_go_where_values_are():
    assert find_octave([points(1.0, 2.0, 3.0)], 4).top_neg == 0
    below = find_octave([points(-1.0, -2.0, -3.0)], 4)
    assert (below.top_pos, below.top_neg > 0) == (0, True)
    both = find_octave([points(*np.linspace(-1, 9, 300))], 20)
    assert both.top_pos > 5 * both.top_neg > 0


@pytest.mark.parametrize(("upper", "scale"), [(6.0, 6 / 8), (np.inf, 1 / 8)])
def test_where_every_value_is_0_any_scale_does(upper, scale):
    found = find_octave([points(), points()], 8, upper)
    assert (found.scale, tops(found)) == (np.float32(scale), (8, 8, 0))
    assert find_octave([points(0.0)], 8, upper, signed=True).top_neg == 4


def test_no_level_lies_beyond_what_a_clip_reaches(rng):
    x = np.minimum(np.abs(rng.normal(0, 3, 5_000)), 6)
    for levels in range(1, 40):
        found = find_octave([distribution(x)], levels, 6.0)
        assert fire_octave(np.float32(6), found.scale, *tops(found)) == found.top_pos


def test_channels_get_scales_where_they_differ(rng):
    alike = [distribution(np.abs(rng.normal(0, 1, 3_000))) for _ in range(4)]
    assert find_octave(alike, 16).scale.shape == ()
    sizes = np.array([0.01, 0.1, 1, 10])
    rows = [distribution(size * np.abs(rng.normal(0, 1, 3_000))) for size in sizes]
    found = find_octave(rows, 16)
    assert found.scale.shape == (4,)
    np.testing.assert_allclose(found.scale / found.scale[2], sizes, rtol=0.2)
    exact = sum(row.power for row in rows)
    assert found.squared_error < 0.01 * exact


def test_values_in_bins_are_spread():
    """A bin wider than a step is no point: its error is that of values all over it."""
    wide = spread_bins(np.array([1.5]), np.array([1000.0]), 0)
    assert find_octave([wide], 2).squared_error > 1


@pytest.mark.parametrize("upper", [np.inf, 2.0])
def test_scales_that_are_powers_of_two(upper):
    rng = np.random.default_rng(0)
    rows = [distribution(np.minimum(np.abs(rng.normal(0, c, 3000)), upper)) for c in (0.3, 1, 7)]
    for some in (rows, rows[:1]):
        plain = find_octave(some, 16, upper)
        found = find_octave(some, 16, upper, power_of_two=True)
        assert np.all(np.frexp(found.scale)[0] == 0.5)
        assert np.all(np.abs(np.log2(found.scale / plain.scale)) < 1)
        assert found.linear == plain.linear
        assert found.top_pos <= plain.top_pos
        assert found.squared_error > 0
