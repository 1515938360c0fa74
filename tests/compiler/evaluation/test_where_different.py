"""Where networks differ: classes that are confused, places of a map."""

from __future__ import annotations

import numpy as np
import pytest
from snn_compile.compiler.evaluation.outputs import OutputComparison
from snn_compile.compiler.evaluation.where_different import (
    MOST_CLASSES,
    MOST_SIDE,
    ConfusionMeter,
    MapMeter,
)


def scores(classes, count):
    """Outputs [samples, count] that give these classes."""
    return np.eye(count, dtype=np.float32)[classes]


def confusion(first, second, count, batches=1):
    meter = ConfusionMeter()
    for a, b in zip(np.array_split(first, batches), np.array_split(second, batches), strict=True):
        meter.add(scores(a, count), scores(b, count), len(a))
    return meter.result()


@pytest.mark.parametrize("batches", [1, 2])
def test_samples_are_counted_by_both_classes(batches):
    found = confusion([0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 2, 0], 3, batches)
    assert (found.classes, found.shown) == (3, [0, 1, 2])
    assert found.counts == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]


def test_of_many_classes_the_most_confused_are_shown_and_the_others_together():
    first = [*range(100), 70, 70, 70, 5]
    second = [*range(100), 71, 71, 72, 6]
    found = confusion(first, second, 100)
    assert {70, 71, 72, 5, 6} <= set(found.shown)
    assert len(found.shown) == MOST_CLASSES - 1 and found.shown == sorted(found.shown)
    assert np.sum(found.counts) == 104
    a, b = found.shown.index(70), found.shown.index(71)
    assert found.counts[a][b] == 2 and found.counts[-1][-1] == 100 - len(found.shown)


@pytest.mark.parametrize("shape", [(4, 1), (4, 3, 2), (4,)])
def test_other_outputs_have_no_confusion(shape):
    meter = ConfusionMeter()
    meter.add(np.zeros(shape), np.zeros(shape), 4)
    assert meter.result() is None
    assert ConfusionMeter().result() is None


def mapped(first, second):
    meter = MapMeter()
    for a, b in zip(first, second, strict=True):
        meter.add(a, b)
    return meter.result()


@pytest.mark.parametrize("last", [False, True])
def test_errors_are_told_place_by_place_whatever_the_layout(last):
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 2, 3, 3, 8, 10)).astype(np.float32)
    expected = np.sqrt(((second.astype(np.float64) - first) ** 2).mean(axis=(0, 1, 2)))
    other = (first.argmax(2) != second.argmax(2)).mean(axis=(0, 1))
    if last:
        first, second = (np.moveaxis(one, 2, -1) for one in (first, second))
    found = mapped(first, second)
    assert found.size == [8, 10]
    np.testing.assert_allclose(found.error, expected, rtol=1e-3)
    np.testing.assert_allclose(found.other, other, atol=1e-4)


def test_large_maps_are_told_in_cells():
    first = np.zeros((1, 1, 2 * MOST_SIDE, 30), np.float32)
    second = first.copy()
    second[0, 0, 0, 0] = 2.0
    found = mapped([first], [second])
    assert np.shape(found.error) == (MOST_SIDE, 15)
    assert found.error[0][0] == 1 and np.sum(found.error) == 1  # a cell of four places
    assert found.other is None and found.size == [2 * MOST_SIDE, 30]


def test_cells_at_the_edge_may_be_smaller():
    first = np.zeros((1, 1, MOST_SIDE + 1, 9), np.float32)
    second = first + 3
    np.testing.assert_allclose(mapped([first], [second]).error, 3)


@pytest.mark.parametrize("shapes", [[(2, 3, 4, 9)], [(2, 3, 8)], [(1, 2, 8, 8), (1, 2, 9, 9)]])
def test_other_outputs_have_no_map(shapes):
    arrays = [np.zeros(shape, np.float32) for shape in shapes]
    assert mapped(arrays, arrays) is None


def test_values_that_are_not_finite_are_left_out():
    first = np.zeros((1, 1, 8, 8), np.float32)
    second = first.copy()
    second[0, 0, 0, :2] = np.nan, np.inf
    assert np.sum(mapped([first], [second]).error) == 0


def test_a_comparison_has_them_where_details_are_asked_for():
    arrays = [scores([0, 1], 2), np.zeros((2, 3, 8, 8), np.float32)]
    for in_detail in (False, True):
        comparison = OutputComparison("n", ["a", "b"], unbatched=False, in_detail=in_detail)
        comparison.add(arrays, arrays, 2)
        classes, places = comparison.results()
        assert (classes.confusion is not None) == in_detail
        assert (places.error_map is not None) == in_detail
        assert places.confusion is None and classes.error_map is None
