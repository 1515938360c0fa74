"""How far two detectors agree, cell by cell.

The detector of the tables gives each cell of a grid the probability p that it holds an object, a
box, and the probabilities q of the classes, [samples, 5 + classes, rows, columns]. A cell detects
something if p^0.6 q^0.4 > 0.5, with the q of its likeliest class.
"""

from __future__ import annotations

import numpy as np

_SCORE = 0.5
_OVERLAP = 0.5


def agreement(expected: np.ndarray, got: np.ndarray) -> np.ndarray:
    """F1 of the cells of ``got`` against those of ``expected``, [samples].

    A cell of ``got`` is right if both detect something there, of the same class, in boxes whose
    intersection over union is at least 0.5. Where neither detects anything, F1 is 1.
    """
    ours, theirs = _detects(got), _detects(expected)
    same = got[:, 5:].argmax(axis=1) == expected[:, 5:].argmax(axis=1)
    right = ours & theirs & same & (_overlap(_boxes(got), _boxes(expected)) >= _OVERLAP)
    found = ours.sum(axis=(1, 2)) + theirs.sum(axis=(1, 2))
    f1: np.ndarray = np.where(found > 0, 2 * right.sum(axis=(1, 2)) / np.maximum(found, 1), 1.0)
    return f1


def _detects(outputs: np.ndarray) -> np.ndarray:
    score: np.ndarray = outputs[:, 0] ** 0.6 * outputs[:, 5:].max(axis=1) ** 0.4
    return score > _SCORE


def _boxes(outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Left upper and right lower corners, [samples, 2, rows, columns], as shares of the image.

    Of the four numbers tanh gives the centre, in cells from the cell's own corner, and the logistic
    function width and height.
    """
    rows, columns = outputs.shape[2:]
    corner = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)))
    centre = (np.tanh(outputs[:, 1:3]) + corner) / np.array([columns, rows])[:, None, None]
    half = 0.5 / (1 + np.exp(-outputs[:, 3:5]))
    return centre - half, centre + half


def _overlap(
    one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Intersection over union, [samples, rows, columns]."""
    sides = np.minimum(one[1], other[1]) - np.maximum(one[0], other[0])
    common = np.maximum(sides, 0).prod(axis=1)
    areas = sum((upper - lower).prod(axis=1) for lower, upper in (one, other))
    overlap: np.ndarray = common / (areas - common)
    return overlap
