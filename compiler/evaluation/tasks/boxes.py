"""Boxes in the outputs of detectors, and how far two networks agree on them.

1. Forms of an output, of C classes; all boxes become corners in pixels of the network's input:

   fastestdet  [batch, 5 + C, rows, columns]: of each cell the probability p of an object, the box,
               the probabilities q of the classes. Of the four numbers tanh gives the centre, in
               cells from the cell's own corner, and the logistic function width and height as
               shares of the image. The score is p^0.6 q^0.4 with the largest q.
   yolov5      [batch, boxes, 5 + C]: centre, width and height in pixels, p, q; the score is p q.
   yolov8      [batch, 4 + C, boxes], or [batch, boxes, 4 + C]: likewise without p; the score is q.
   rows        [batch, boxes, 6]: left, top, right, bottom in pixels, score, class; rows of score 0
               are none.

2. Where no form is given it is found from the shape: four axes are fastestdet, three with more
   columns than rows are yolov8, others yolov5; 6 columns may be rows as well, and are not guessed.
3. Two networks agree on a box where both have it with a score above 0.5, of the same class, and
   the intersection of the two over their union is at least 0.5. The boxes of the first three forms
   belong to cells, and a cell is compared with the same cell; rows are compared in the order of
   their scores, each with the one of those left that it overlaps most.
4. The agreement on an image is F1: twice the boxes agreed on over all boxes of both, above that
   score; 1 where neither has any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .names import FASTESTDET, ROWS, YOLOV5, YOLOV8

#: Above which a box counts, rule 3.
SCORE = 0.5
_OVERLAP = 0.5


@dataclass(frozen=True)
class Boxes:
    """Boxes of one image.

    Attributes:
        corners: left, top, right, bottom, [boxes, 4].
        scores: [boxes].
        classes: [boxes].
    """

    corners: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> Boxes:
        """Those that are marked, or in this order."""
        return Boxes(self.corners[chosen], self.scores[chosen], self.classes[chosen])


@dataclass(frozen=True)
class Form:
    """How an output holds boxes.

    Attributes:
        name: one of :data:`.names.BOXES`.
        output: the output.
        classes: how many there are; None: the output does not say.
    """

    name: str
    output: str
    classes: int | None

    @property
    def cells(self) -> bool:
        """Whether a box of one network is that of the same place of another."""
        return self.name != ROWS

    def read(self, values: np.ndarray, size: tuple[int, int]) -> Boxes:
        """The boxes of an image.

        Args:
            values: the output without the batch axis.
            size: height and width of the network's input.
        """
        values = values.astype(np.float64)
        if self.name == FASTESTDET:
            return _fastestdet(values, size)
        if self.name == ROWS:
            return Boxes(values[:, :4], values[:, 4], values[:, 5].round().astype(int))
        if self.name == YOLOV8:
            if values.shape[0] - 4 == self.classes:
                values = values.T
            scores = values[:, 4:]
        else:
            scores = values[:, 4:5] * values[:, 5:]
        half = values[:, 2:4] / 2
        corners = np.concatenate([values[:, :2] - half, values[:, :2] + half], axis=1)
        return Boxes(corners, scores.max(axis=1), scores.argmax(axis=1))


def fitting_form(asked: str | None, output: str, shape: Sequence[int]) -> Form | None:
    """The form of an output, rules 1 and 2; None where it holds no boxes, or is not guessed.

    Args:
        asked: the form that is given, or None.
        output: its name.
        shape: of its first batch.
    """
    if len(shape) == 4:
        fits = shape[1] > 5 and asked in (None, FASTESTDET)
        return Form(FASTESTDET, output, shape[1] - 5) if fits else None
    if len(shape) != 3 or asked == FASTESTDET:
        return None
    first, last = shape[1:]
    if asked == ROWS:
        return Form(ROWS, output, None) if last == 6 else None
    if asked == YOLOV8 or (asked is None and 5 < first < last):
        columns = min(first, last)
        return Form(YOLOV8, output, columns - 4) if columns > 4 else None
    if asked == YOLOV5 or (asked is None and last > 6):
        return Form(YOLOV5, output, last - 5) if last > 5 else None
    return None


def _fastestdet(values: np.ndarray, size: tuple[int, int]) -> Boxes:
    rows, columns = values.shape[1:]
    corner = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)))
    centre = (np.tanh(values[1:3]) + corner) / np.array([columns, rows])[:, None, None]
    half = 0.5 / (1 + np.exp(-values[3:5]))
    pixels = np.array([size[1], size[0]] * 2)[:, None]
    corners = np.concatenate([centre - half, centre + half]).reshape(4, -1) * pixels
    likeliest = values[5:].max(axis=0)
    scores = np.maximum(values[0], 0) ** 0.6 * np.maximum(likeliest, 0) ** 0.4
    return Boxes(corners.T, scores.reshape(-1), values[5:].argmax(axis=0).reshape(-1))


def agreement(ann: Boxes, other: Boxes, cells: bool) -> float:
    """F1 of the boxes of a network against those of the ANN: rules 3 and 4."""
    detected = ann.scores > SCORE, other.scores > SCORE
    found = int(detected[0].sum() + detected[1].sum())
    if not found:
        return 1.0
    if cells:
        right = detected[0] & detected[1] & (ann.classes == other.classes)
        return 2 * int((right & (overlap(ann.corners, other.corners) >= _OVERLAP)).sum()) / found
    return 2 * _matched(ann[detected[0]], other[detected[1]]) / found


def _matched(ann: Boxes, other: Boxes) -> int:
    left, count = np.ones(len(ann.scores), bool), 0
    for index in np.argsort(-other.scores, kind="stable"):
        overlaps = overlap(ann.corners, other.corners[index])
        overlaps[~left | (ann.classes != other.classes[index])] = 0
        if overlaps.size and overlaps.max() >= _OVERLAP:
            left[overlaps.argmax()] = False
            count += 1
    return count


def overlap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union of corners [..., 4]; 0 of boxes without area."""
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    common = np.maximum(sides, 0).prod(axis=-1)
    areas = [np.maximum(box[..., 2:] - box[..., :2], 0).prod(axis=-1) for box in (one, other)]
    union = areas[0] + areas[1] - common
    shares: np.ndarray = np.where(union > 0, common / np.where(union > 0, union, 1), 0)
    return shares


def kept(boxes: Boxes, least: float, most_overlap: float, most: int) -> Boxes:
    """Boxes after non-maximum suppression within each class.

    Args:
        boxes: of one image.
        least: score below which a box is left out.
        most_overlap: with one of a higher score, above which it is left out.
        most: how many are kept, those of the highest scores.
    """
    boxes = boxes[boxes.scores > least]
    boxes = boxes[np.argsort(-boxes.scores, kind="stable")[:_CANDIDATES]]
    chosen: list[int] = []
    left = np.ones(len(boxes.scores), bool)
    while len(chosen) < most and left.any():
        best = int(left.argmax())  # they are in order
        chosen.append(best)
        same = boxes.classes == boxes.classes[best]
        left &= ~(same & (overlap(boxes.corners, boxes.corners[best]) > most_overlap))
        left[best] = False
    return boxes[np.array(chosen, int)]


#: Boxes of an image, those of the highest scores, that are looked at.
_CANDIDATES = 3000
