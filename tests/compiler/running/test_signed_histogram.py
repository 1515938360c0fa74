"""Signed histograms: moments, values that are not finite, and merging."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snn_compile.compiler.running.counted_histogram import CountedHistogram

INTEGERS = ["counts", "rests", "tops", "minima", "maxima", "not_finite"]


def histogram_of(values):
    histogram = CountedHistogram(len(values))
    histogram.add(values)
    return histogram


def assert_same(one, other):
    """What does not depend on the order of adding."""
    for name in INTEGERS:
        a, b = getattr(one, name), getattr(other, name)
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes(), name


def as_observed(histogram):
    moments = [histogram.sums, histogram.squares, histogram.minima, histogram.maxima]
    table = np.stack([*moments, histogram.not_finite], axis=1, dtype=np.float64)
    return histogram.counts, histogram.rests, histogram.tops, table


@pytest.mark.parametrize("rows", [1, 3])
def test_moments_are_those_of_the_values(rows):
    x = np.random.default_rng(0).standard_normal((rows, 5003)).astype(np.float32)
    histogram = histogram_of(x)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(histogram.sums, wide.sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(histogram.squares, (wide**2).sum(axis=1), rtol=1e-12)
    np.testing.assert_array_equal(histogram.minima, x.min(axis=1))
    np.testing.assert_array_equal(histogram.maxima, x.max(axis=1))
    np.testing.assert_array_equal(histogram.values, np.full(rows, 5003))
    assert not histogram.not_finite.any()


def test_sums_are_added_in_the_order_that_is_specified():
    x = np.random.default_rng(0).standard_normal(200_001).astype(np.float32)
    total = np.float64(0)
    for block in np.split(x.astype(np.float64), range(1024, x.size, 1024)):
        lanes = [np.float64(0)] * 4
        for k, value in enumerate(block):
            lanes[k % 4] += value
        total += (lanes[0] + lanes[2]) + (lanes[1] + lanes[3])
    assert histogram_of(x[None]).sums[0] == total


def test_values_that_are_not_finite_are_counted_apart():
    x = np.float32([[1, np.nan, -2, np.inf, 0], [np.nan, np.nan, -np.inf, np.inf, np.nan]])
    histogram = histogram_of(x)
    np.testing.assert_array_equal(histogram.not_finite, [2, 5])
    np.testing.assert_array_equal(histogram.values, [3, 0])
    np.testing.assert_array_equal(histogram.minima, [-2, np.inf])
    np.testing.assert_array_equal(histogram.maxima, [1, -np.inf])
    np.testing.assert_array_equal(histogram.sums, [-1, 0])
    np.testing.assert_array_equal(histogram.squares, [5, 0])
    centres, counts = histogram.distribution(0)
    np.testing.assert_array_equal(centres, [-2, 0, 1])
    np.testing.assert_array_equal(counts, [1, 1, 1])
    assert len(histogram.distribution(1)[0]) == 0


def test_extremes_that_are_zero_are_positive():
    histogram = histogram_of(np.float32([[-0.0, -0.0], [-0.0, 0.0]]))
    assert not np.signbit(histogram.minima).any()
    assert not np.signbit(histogram.maxima).any()


def test_nothing_was_seen():
    histogram = histogram_of(np.zeros((2, 0), np.float32))
    np.testing.assert_array_equal(histogram.minima, [np.inf, np.inf])
    np.testing.assert_array_equal(histogram.maxima, [-np.inf, -np.inf])
    np.testing.assert_array_equal(histogram.values, [0, 0])


FLOATS = st.one_of(
    st.floats(width=32),
    st.floats(-(2.0**100), 2.0**100, width=32),
    st.floats(-4, 4, width=32),
    st.sampled_from([0.0, -0.0, 1e-45, 3.4e38, float("nan"), float("inf")]).map(np.float32),
)


@settings(max_examples=150, deadline=None)
@given(
    columns=st.lists(st.lists(FLOATS, min_size=2, max_size=2), min_size=1, max_size=12),
    shards=st.lists(st.integers(0, 3), min_size=12, max_size=12),
    order=st.permutations(range(4)),
    rows=st.sampled_from([1, 2]),
    observed=st.booleans(),
)
def test_merging_shards_is_adding_everything_at_once(columns, shards, order, rows, observed):
    values = np.array(columns, np.float32).T
    shard = np.array(shards[: len(columns)])
    at_once = histogram_of(np.ascontiguousarray(values).reshape(rows, -1))
    merged = CountedHistogram(rows)
    for number in order:
        part = np.ascontiguousarray(values[:, shard == number]).reshape(rows, -1)
        other = histogram_of(part)
        before = other.counts.copy(), other.tops.copy()
        if observed:
            merged.merge_observed(*as_observed(other))
        else:
            merged.merge(other)
        np.testing.assert_array_equal(before[0], other.counts)
        np.testing.assert_array_equal(before[1], other.tops)
    assert_same(merged, at_once)
    np.testing.assert_allclose(merged.squares, at_once.squares, rtol=1e-12)
    scale = np.abs(np.where(np.isfinite(values), values, 0)).astype(np.float64).sum()
    np.testing.assert_allclose(merged.sums, at_once.sums, rtol=0, atol=1e-12 * scale)


def test_merging_keeps_the_octaves_below_the_largest_of_both():
    small, large = histogram_of(np.float32([[1e-20, 1.0]])), histogram_of(np.float32([[1e10]]))
    large.merge(small)
    centres, counts = large.distribution(0)
    np.testing.assert_array_equal(centres, [0, np.float32(1e10)])
    np.testing.assert_array_equal(counts, [2, 1])


def test_histograms_of_other_rows_do_not_merge():
    with pytest.raises(ValueError, match=r"\(2, 513\) and \(3, 513\) do not merge"):
        CountedHistogram(2).merge(CountedHistogram(3))
    with pytest.raises(ValueError, match="do not merge"):
        CountedHistogram(2).merge_observed(*as_observed(CountedHistogram(1)))
