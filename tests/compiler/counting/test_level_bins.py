"""Levels of neurons told apart by the bins of a histogram."""

from __future__ import annotations

import numpy as np
import pytest
from histogram_by_hand import HistogramByHand
from hypothesis import given
from hypothesis import strategies as st
from snn_compile.compiler.counting.level_bins import INDEX, level_bins


def observed(bins, seen):
    histogram = HistogramByHand(1, bins.bins)
    histogram.add(np.asarray(seen, np.float32)[None])
    return histogram


@given(
    st.lists(st.integers(-4000, 4000), min_size=2, max_size=256, unique=True),
    st.floats(1e-3, 1e3),
    st.integers(0, 2**32 - 1),
)
def test_every_level_is_counted(places, unit, seed):
    values = np.sort(np.array(places, np.float64)) * unit
    k = np.arange(len(values)) - len(values) // 2
    bins = level_bins(values, k)
    if bins is None:
        return  # which levels have bins is another test
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(values), 500)
    # Rounded, and what a product and a quotient may be off by.
    seen = values[drawn].astype(np.float32) * (1 + rng.uniform(-1, 1, 500) * 2.0**-21)
    found, seen_there = bins.spikes(observed(bins, seen))
    counts = np.zeros(len(values), np.int64)
    np.add.at(counts, found - k.min(), seen_there)
    np.testing.assert_array_equal(counts, np.bincount(drawn, minlength=len(values)))


@pytest.mark.parametrize("levels", [2, 4, 17, 33, 65, 256])
def test_equal_steps_have_bins_and_few(levels):
    for low in (0, -(levels // 2), 1 - levels):
        k = np.arange(levels) + low
        bins = level_bins(k * 0.37, k)
        leading, octaves = bins.bins
        assert octaves << leading <= 4096
        assert bins.top == np.frexp(0.37 * np.abs(k).max())[1] + 126


def test_indices_have_bins_whatever_they_stand_for():
    for levels in (1, 2, 100, 256):
        index = INDEX + np.arange(levels)
        bins = level_bins(index, np.arange(levels))
        assert bins.bins[1] == 1 and bins.bins[0] <= 8


def test_levels_too_close_or_too_far_apart_have_none():
    k = np.arange(3)
    assert level_bins(np.array([0, 1, 1 + 2.0**-12]), k) is None
    assert level_bins(np.array([2.0**-60, 1, 1.01]), k) is None
    assert level_bins(np.array([0, 2.0**-100, 2.0**100]), k) is None
    assert level_bins(np.array([0, 2.0**-140, 2.0**-139]), k) is None
    assert level_bins(np.array([0, 1, np.finfo(np.float32).max], np.float64), k) is None
    assert level_bins(np.array([0, 1, 1 + 2.0**-12]), np.array([0, 1, 1])) is not None
