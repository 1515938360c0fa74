"""T steps of IntegrateFire against one of MultiThresholdFire: docs/equivalence.md."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snn_compile.compiler.evaluation.level_bound import Levels, level_bounds, one_step_level
from timesteps import OUTSIDE, differing, dyadic, spikes

POTENTIALS = (0.0, 0.25, 0.5)


def compared(kinds, neurons, low, high):
    """Neurons, mismatches, and mismatches that are no ties, T = 2 to 64 through the kernels.

    ``low`` and ``high`` bound the inputs, in units of theta_IF for one level per step.
    """
    rng = np.random.default_rng(0)
    total = mismatches = wrong = active = 0
    for steps in range(2, 65):
        cases = [dyadic(rng, levels, steps, neurons, low(levels), high(levels)) for levels in kinds]
        for (_, x, theta), (fired, one) in zip(cases, spikes(cases, steps), strict=True):
            differs = fired.sum(axis=0) != one
            # Exact: both are integers times the unit.
            tie = np.fmod(2 * np.abs(x.sum(axis=0)), 2 * steps * theta) == steps * theta
            total += differs.size
            mismatches += int(differs.sum())
            wrong += int((differs & ~tie).sum())
            active += int((one != 0).sum())
    assert active > 0.5 * total
    return total, mismatches, wrong


def test_a_million_neurons_inside_the_premise():
    kinds = [Levels(n, 0, v0) for n in (1, 2, 3, 4) for v0 in POTENTIALS]
    total, mismatches, _ = compared(kinds, 1400, lambda _: 0, lambda levels: levels.positive)
    assert total > 1_000_000
    assert mismatches == 0


def test_neurons_of_both_polarities_inside_the_premise():
    """Equal but where the mean is half way between two levels."""
    kinds = [Levels(1, 1, 0.5), Levels(3, 1, 0.5), Levels(2, 4, 0.5)]
    total, mismatches, wrong = compared(
        kinds, 1400, lambda levels: -levels.negative, lambda levels: levels.positive
    )
    assert total > 250_000
    assert wrong == 0
    assert 0 < mismatches < 0.01 * total  # the ties are there


@pytest.mark.parametrize(
    ("inputs", "rates"),
    [
        ("uniform in [0, 2]", (0.09, 0.20, 0.35, 0.63)),
        ("normal, mean 0.2, deviation 0.6", (0.08, 0.17, 0.28, 0.39)),
    ],
)
def test_outside_the_premise_neurons_differ(inputs, rates):
    rng = np.random.default_rng(1)
    found = [differing(rng, OUTSIDE[inputs], steps) for steps in (2, 4, 8, 32)]
    np.testing.assert_allclose([share for share, _ in found], rates, atol=0.012)
    assert [largest for _, largest in found] == sorted(largest for _, largest in found)
    assert found[0][1] == 1 and found[-1][1] >= 6


def test_a_constant_input_needs_no_premise():
    rng = np.random.default_rng(2)
    for steps in (2, 5, 32, 64):
        cases = [
            (levels, np.repeat(x[:1], steps, axis=0), theta)
            for levels in (Levels(1, 0, 0.0), Levels(1, 0, 0.5), Levels(4, 0, 0.25))
            for levels, x, theta in [dyadic(rng, levels, steps, 2000, -3, 7)]
        ]
        for (levels, *_), (fired, one) in zip(cases, spikes(cases, steps), strict=True):
            np.testing.assert_array_equal(fired.sum(axis=0), one)
            assert one.min() == 0 and one.max() == levels.positive * steps


# The bound ---------------------------------------------------------------------------------------

KINDS = st.builds(
    lambda positive, negative, v0: Levels(positive or int(not negative), negative, v0),
    st.integers(0, 4),
    st.integers(0, 4),
    st.sampled_from([0.0, 0.25, 0.5, 0.75, 0.875]),
)
SIXTEENTHS = st.lists(st.integers(-80, 80), min_size=1, max_size=12)


def simulated(sixteenths, levels):
    """The spikes of every step, in rational arithmetic, of inputs in sixteenths of theta_IF."""
    rest, fired = Fraction(0), []
    for x in sixteenths:
        potential = rest + Fraction(x, 16)
        count = int(abs(potential) + Fraction(levels.v0))
        k = min(count, levels.positive) if potential >= 0 else -min(count, levels.negative)
        rest = potential - k
        fired.append(k)
    return fired


def bounds(sixteenths, levels):
    """The level of one step, and the least and the greatest number of spikes of T."""
    sums = np.cumsum(np.array(sixteenths, np.float64))[:, None] / 16
    low, high = level_bounds(sums, levels)
    return one_step_level(sums[-1], len(sixteenths), levels).item(), low.item(), high.item()


@settings(max_examples=200, deadline=None)
@given(KINDS, SIXTEENTHS)
def test_spikes_and_level_lie_between_the_bounds(levels, sixteenths):
    level, low, high = bounds(sixteenths, levels)
    assert low <= sum(simulated(sixteenths, levels)) <= high
    assert low <= level <= high


@settings(max_examples=100, deadline=None)
@given(KINDS, SIXTEENTHS)
def test_the_bound_is_at_most_what_leaves_the_premise(levels, sixteenths):
    """With one polarity: the sum of the parts above n theta, or of those below 0, rounded up."""
    levels = Levels(levels.positive or 1, 0, levels.v0)
    above = sum(max(Fraction(x, 16) - levels.positive, Fraction(0)) for x in sixteenths)
    below = sum(max(Fraction(-x, 16), Fraction(0)) for x in sixteenths)
    level, low, high = bounds(sixteenths, levels)
    assert high - level <= -(-below // 1)
    assert level - low <= -(-above // 1)


@settings(max_examples=100, deadline=None)
@given(KINDS, SIXTEENTHS)
def test_inside_the_premise_the_bound_is_0(levels, sixteenths):
    """And with both polarities at v0 = 1/2 but for ties; at another v0 it is 1 at most."""
    inside = [int(np.clip(x, -16 * levels.negative, 16 * levels.positive)) for x in sixteenths]
    level, low, high = bounds(inside, levels)
    both = levels.positive and levels.negative
    if not both or (levels.v0 == 0.5 and sum(inside) % 16 != 8):
        assert low == level == high
    assert max(high - level, level - low) <= 1


@settings(max_examples=100, deadline=None)
@given(KINDS, st.integers(-200, 200), st.integers(1, 40))
def test_the_bound_of_a_constant_input_is_0(levels, x, steps):
    if levels.positive and levels.negative:
        levels = Levels(levels.positive, 0, levels.v0)
    level, low, high = bounds([x] * steps, levels)
    assert low == level == high == sum(simulated([x] * steps, levels))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(-200, 200), st.integers(1, 40))
def test_a_constant_input_of_both_polarities(positive, negative, x, steps):
    """Equal up to v0 = 1/2, ties too."""
    for v0 in (0.0, 0.25, 0.5):
        levels = Levels(positive, negative, v0)
        level, *_ = bounds([x] * steps, levels)
        assert level == sum(simulated([x] * steps, levels))


@pytest.mark.parametrize(
    ("inputs", "levels", "spikes_fired", "level"),
    [
        ([1, -1], Levels(1, 0, 0.0), 1, 0),  # fired too early
        ([0, 2], Levels(1, 0, 0.0), 1, 2),  # too many at once
        ([10, -10], Levels(1, 0, 0.5), 1, 0),
        ([3, 1, 2, -6], Levels(2, 0, 0.5), 6, 0),
        ([-2, 2], Levels(1, 1, 0.5), 0, 0),
        ([3, -3], Levels(1, 1, 0.5), 0, 0),
        ([4, 0, -4], Levels(1, 1, 0.5), 1, 0),
        ([-1, 0], Levels(0, 1, 0.5), -1, -1),
        ([-3, 2], Levels(0, 2, 0.5), -2, -1),
        ([1, 1], Levels(2, 2, 0.0), 2, 2),  # nothing is open
    ],
)
def test_the_bound_is_attained(inputs, levels, spikes_fired, level):
    sixteenths = [16 * x for x in inputs]
    found, low, high = bounds(sixteenths, levels)
    fired = sum(simulated(sixteenths, levels))
    assert (fired, found) == (spikes_fired, level)
    assert abs(fired - found) == max(high - found, found - low)


def test_the_bound_is_attained_by_most_neurons():
    """A bound that only holds could be far off."""
    rng = np.random.default_rng(3)
    for levels in (Levels(1, 0, 0.5), Levels(3, 0, 0.0), Levels(2, 2, 0.5)):
        x = rng.normal(0.3, 0.8, (16, 2000)) * levels.positive
        x = np.rint(1024 * x).astype(np.float32) / 1024
        ((fired, _),) = spikes([(levels, x, np.full(2000, 1 / 16, np.float32))], 16)
        sums = np.cumsum(x, axis=0, dtype=np.float64)
        low, high = level_bounds(sums, levels)
        level = one_step_level(sums[-1], 16, levels)
        bound = np.maximum(high - level, level - low)
        may_differ = bound > 0
        assert may_differ.mean() > 0.1
        difference = np.abs(fired.sum(axis=0) - level)
        assert (difference == bound)[may_differ].mean() > 0.6


@settings(max_examples=40, deadline=None)
@given(KINDS, st.integers(2, 64), st.integers(0, 2**32 - 1))
def test_the_bound_holds_with_the_roundings_of_float32(levels, steps, seed):
    rng = np.random.default_rng(seed)
    theta = rng.uniform(0.01, 3, 300).astype(np.float32)
    x = (rng.normal(0.5, 1.5, (steps, 300)) * theta * steps).astype(np.float32)
    x[:, ::3] = np.rint(x[:, ::3] / theta[::3]) * theta[::3]  # sums near thresholds
    ((fired, _),) = spikes([(levels, x, theta)], steps)
    scale = (theta * np.float32(steps)).astype(np.float64)
    low, high = level_bounds(np.cumsum(x, axis=0, dtype=np.float64) / scale, levels, fired)
    spikes_fired = fired.sum(axis=0)
    assert (low <= spikes_fired).all() and (spikes_fired <= high).all()
