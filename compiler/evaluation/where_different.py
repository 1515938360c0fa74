"""Where two networks differ: between which classes, and at which places of a map.

1. Confusion, of outputs [samples, classes]: how many samples the one network gives class a and the
   other class b. Of more than :data:`MOST_CLASSES` classes those that most disagreements are of
   keep a row and a column, all others share the last; without disagreement those that occur most.
2. Error map, of outputs of rank 4 with two axes of at least :data:`LEAST_SIDE`: of every place the
   root mean square, over samples and channels, of the difference, and of at least two channels the
   share of samples in which the channel of the largest value is another one. Channels are the
   shortest of the axes besides the samples, the first of equal ones: both layouts are known so. It
   is told to :data:`MOST_SIDE` cells along the longer side, the mean of the places in each (of
   squares its root).

Where shapes depend on the data there is none, and values that are not finite are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..report.results import Confusion, ErrorMap
from ..running.fidelity import has_classes

MOST_CLASSES = 12
LEAST_SIDE, MOST_SIDE = 8, 48
_DIGITS = 4


class ConfusionMeter:
    """Accumulates rule 1 for one output."""

    def __init__(self) -> None:
        self._pairs: Counter[tuple[int, int]] | None = Counter()
        self._classes = 0

    def add(self, first: np.ndarray, second: np.ndarray, samples: int) -> None:
        """Count one run; outputs of both networks, of one shape."""
        if not has_classes(first, samples) or first.shape != second.shape:
            self._pairs = None
        if self._pairs is not None:
            self._classes = first.shape[1]
            pairs = zip(first.argmax(1).tolist(), second.argmax(1).tolist(), strict=True)
            self._pairs.update(pairs)

    def state(self) -> dict[str, Any]:
        """What :meth:`merge` takes: counts of pairs as rows of class, class, count."""
        if self._pairs is None:
            return {"pairs": None, "classes": self._classes}
        rows = [[*pair, count] for pair, count in self._pairs.items()]
        return {"pairs": np.array(rows, np.int64).reshape(-1, 3), "classes": self._classes}

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add what another meter has counted."""
        self._classes = max(self._classes, state["classes"])
        if state["pairs"] is None:
            self._pairs = None
        if self._pairs is not None:
            for first, second, count in state["pairs"].tolist():
                self._pairs[first, second] += count

    def result(self) -> Confusion | None:
        """What was counted; None of other outputs."""
        if not self._pairs:
            return None
        if self._classes <= MOST_CLASSES:
            shown = list(range(self._classes))
        else:
            shown = _most_confused(self._pairs)
        place = {one: at for at, one in enumerate(shown)}
        size = len(shown) + (self._classes > len(shown))
        counts = np.zeros((size, size), np.int64)
        for (a, b), count in self._pairs.items():
            counts[place.get(a, size - 1), place.get(b, size - 1)] += count
        return Confusion(self._classes, shown, counts.tolist())


def _most_confused(pairs: Counter[tuple[int, int]]) -> list[int]:
    confused: Counter[int] = Counter()
    seen: Counter[int] = Counter()
    for (a, b), count in pairs.items():
        for one in (a, b):
            seen[one] += count
            confused[one] += count if a != b else 0
    order = sorted(seen, key=lambda one: (-confused[one], -seen[one], one))
    return sorted(order[: MOST_CLASSES - 1])


class MapMeter:
    """Accumulates rule 2 for one output."""

    def __init__(self) -> None:
        self._squares: np.ndarray | None = None
        self._other: np.ndarray | None = None
        self._values = 0
        self._samples = 0
        self._fits = True

    def add(self, first: np.ndarray, second: np.ndarray) -> None:
        """Count one run; outputs of both networks."""
        self._fits = self._fits and first.ndim == 4 and first.shape == second.shape
        if not self._fits or not first.size:
            return
        axis = 1 + int(np.argmin(first.shape[1:]))
        first, second = (np.moveaxis(one, axis, 1).astype(np.float64) for one in (first, second))
        sides = first.shape[2:]
        if min(sides) < LEAST_SIDE or (self._squares is not None and self._squares.shape != sides):
            self._fits = False
            return
        with np.errstate(invalid="ignore"):
            difference = second - first
        difference[~np.isfinite(difference)] = 0
        squares = (difference**2).sum(axis=(0, 1))
        other = (first.argmax(1) != second.argmax(1)).sum(axis=0)
        self._squares = squares if self._squares is None else self._squares + squares
        self._other = other if self._other is None else self._other + other
        self._values += first.shape[0] * first.shape[1]
        self._samples += first.shape[0]

    def state(self) -> dict[str, Any]:
        """What :meth:`merge` takes."""
        return {
            "fits": self._fits,
            "squares": self._squares,
            "other": self._other,
            "values": self._values,
            "samples": self._samples,
        }

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add what another meter has accumulated, of samples behind these."""
        squares, other = state["squares"], state["other"]
        self._fits = self._fits and state["fits"]
        if squares is None:
            return
        if self._squares is None or self._other is None:
            self._squares, self._other = squares, other
        elif self._squares.shape != squares.shape:
            self._fits = False
        else:
            self._squares, self._other = self._squares + squares, self._other + other
        self._values += state["values"]
        self._samples += state["samples"]

    def result(self) -> ErrorMap | None:
        """What was accumulated; None of other outputs."""
        if not self._fits or self._squares is None or self._other is None:
            return None
        error = np.sqrt(_coarse(self._squares / self._values))
        other = None
        if self._values > self._samples:
            other = _rounded(_coarse(self._other / self._samples))
        return ErrorMap(list(self._squares.shape), _rounded(error), other)


def _coarse(values: np.ndarray) -> np.ndarray:
    """Means over cells, as square as the sides allow."""
    step = max(-(-max(values.shape) // MOST_SIDE), 1)
    for axis in (0, 1):
        starts = np.arange(0, values.shape[axis], step)
        counts = np.diff([*starts, values.shape[axis]])
        sums = np.add.reduceat(values, starts, axis=axis)
        values = sums / (counts[:, None] if axis == 0 else counts)
    return values


def _rounded(values: np.ndarray) -> list[list[float]]:
    return [[float(f"{value:.{_DIGITS}g}") for value in row] for row in values.tolist()]
