"""Segmentation: a class for each pixel, of outputs [batch, classes, ...] or [batch, ..., classes].

1. The answer at a pixel is the channel of the largest value, the first where several are equal. Of
   a single channel it is 1 or 0: above 0.5 or not where all values of the first batch lie in
   [0, 1] (probabilities), above 0 or not otherwise. A pixel with NaN is never right.
2. mIoU: the mean over the classes of TP / (TP + FP + FN), each summed over all labelled pixels of
   all samples. A class that no pixel has or is given is left out of the mean, and so is the ignored
   value where it is a class of the output: answers of that class are wrong at labelled pixels.
3. Pixel accuracy: the share of labelled pixels that are right. Pixel agreement: the share of all
   pixels at which a network and the ANN give the same answer, right or wrong; it needs no labels.
4. Intervals are over samples: pixels of one image are alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ...errors import DataError
from ...report.results import Metric
from ..labels import Labels
from .bootstrap import DIFFERENCE, Bootstrap, Statistic, ratio
from .names import SEGMENTATION
from .task import Batch, Seen, Task


def segmentation(
    outputs: Mapping[str, Seen], count: int, labels: Labels | None, ignore: int | None
) -> Task | None:
    """The task for the outputs of the first batch; None where none gives a class for each pixel.

    Args:
        outputs: of the ANN, by name.
        count: samples in the batch.
        labels: of the pixels; None: there are none.
        ignore: the label of pixels that are not counted.
    """
    found: list[Maps] = []
    shapes = [None] if labels is None else _shapes(labels.shape)
    for shape in shapes:
        found = found or _fitting(outputs, shape, count)
    if not found:
        return None

    def read(start: int, stop: int) -> np.ndarray | None:
        if labels is None:
            return None
        rows = labels[start:stop]
        for maps in found:
            _check(rows, maps, ignore, labels.place, start)
        return rows

    meters = {maps.output: partial(SegmentationMeter, maps, ignore) for maps in found}
    return Task(SEGMENTATION, meters, read)


@dataclass(frozen=True)
class Maps:
    """How an output gives classes.

    Attributes:
        output: its name.
        axis: of the classes; None: it has none, and two classes.
        channels: length of that axis.
        threshold: of a single channel, rule 1.
    """

    output: str
    axis: int | None
    channels: int
    threshold: float = 0.0

    @property
    def classes(self) -> int:
        """How many there are."""
        return max(self.channels, 2)

    @classmethod
    def of(cls, name: str, seen: Seen, axis: int | None) -> Maps:
        """Those of an output whose first batch is known."""
        channels = 1 if axis is None else seen.shape[axis]
        return cls(name, axis, channels, 0.5 if seen.inside else 0.0)

    def answers(self, values: np.ndarray) -> np.ndarray:
        """The class at each pixel of one sample, ``classes`` where a value is NaN.

        Args:
            values: the output without the batch axis.
        """
        if self.axis is None:
            return np.where(np.isnan(values), self.classes, values > self.threshold).astype(int)
        scores = np.moveaxis(values, self.axis - 1, 0)
        best = scores[0] > self.threshold if self.channels == 1 else scores.argmax(axis=0)
        return np.where(np.isnan(scores).any(axis=0), self.classes, best).astype(int)


class SegmentationMeter:
    """Accumulates the metrics of one output of a network against the ANN and the labels.

    Args:
        maps: how the output gives classes.
        ignore: the label of pixels that are not counted.
    """

    def __init__(self, maps: Maps, ignore: int | None) -> None:
        self._maps, self._ignore, self._labelled = maps, ignore, False
        # TP, TP + FP and TP + FN of each class of the ANN and of the network; pixels that agree,
        # and all pixels.
        self._sums = Bootstrap(6 * maps.classes + 2)

    def add(self, batch: Batch) -> None:
        """The next samples.

        Raises:
            DataError: labels have another shape than the output's pixels.
        """
        self._labelled = batch.labels is not None
        first, second = batch.ann[self._maps.output], batch.other[self._maps.output]
        rows = []
        for sample, pair in enumerate(zip(first, second, strict=True)):
            ann, other = (self._maps.answers(values) for values in pair)
            row = np.zeros(6 * self._maps.classes + 2)
            row[-2:] = (ann == other).sum(), ann.size
            if batch.labels is not None:
                own = self._pixels(batch.labels[sample], ann.shape)
                known = np.ones(own.shape, bool) if self._ignore is None else own != self._ignore
                counts = [self._counts(one[known], own[known]) for one in (ann, other)]
                row[:-2] = np.concatenate(counts)
            rows.append(row)
        self._sums.add(np.array(rows), batch.start)

    def state(self) -> dict[str, Any]:
        """What :meth:`merge` takes."""
        return {"labelled": self._labelled, "sums": self._sums.state()}

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add the counts of samples behind these."""
        self._labelled = self._labelled or state["labelled"]
        self._sums.merge(state["sums"])

    def _pixels(self, labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        if shape not in _shapes(labels.shape):
            raise DataError(
                f"'labels' of a sample are {list(labels.shape)}, and the output "
                f"'{self._maps.output}' has classes for {list(shape)} pixels; give labels of that "
                "size"
            )
        return labels.reshape(shape).astype(np.int64)

    def _counts(self, answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """TP, TP + FP, TP + FN of each class."""
        classes = self._maps.classes
        right = np.bincount(labels[answers == labels], minlength=classes)
        given = np.bincount(answers.reshape(-1), minlength=classes)[:classes]
        return np.concatenate([right, given, np.bincount(labels.reshape(-1), minlength=classes)])

    def result(self) -> list[Metric]:
        """mIoU, pixel accuracy and pixel agreement."""
        agreement = Metric(
            "pixel agreement", self._sums.estimate(lambda s: ratio(s[..., -2], s[..., -1]))
        )
        if not self._labelled:
            return [agreement]
        return [
            self._metric("mIoU", self._mean_iou),
            self._metric("pixel accuracy", _accuracy),
            agreement,
        ]

    def _metric(self, name: str, of: Statistic) -> Metric:
        """A metric of both networks; ``of`` takes the counts [..., 3, classes] of one."""

        def ann(sums: np.ndarray) -> np.ndarray:
            return of(self._split(sums)[..., 0, :, :])

        def other(sums: np.ndarray) -> np.ndarray:
            return of(self._split(sums)[..., 1, :, :])

        def drop(sums: np.ndarray) -> np.ndarray:
            lost: np.ndarray = ann(sums) - other(sums)
            return lost

        estimate = self._sums.estimate
        return Metric(name, estimate(other), estimate(ann), estimate(drop, DIFFERENCE))

    def _split(self, sums: np.ndarray) -> np.ndarray:
        shape = (*sums.shape[:-1], 2, 3, self._maps.classes)
        split: np.ndarray = sums[..., :-2].reshape(shape)
        return split

    def _mean_iou(self, counts: np.ndarray) -> np.ndarray:
        right, given, there = (counts[..., i, :] for i in range(3))
        union = given + there - right
        used = union > 0
        if self._ignore is not None and 0 <= self._ignore < self._maps.classes:
            used[..., self._ignore] = False
        shares = np.where(used, right / np.where(used, union, 1), 0)
        return ratio(shares.sum(axis=-1), used.sum(axis=-1))


def _accuracy(counts: np.ndarray) -> np.ndarray:
    return ratio(counts[..., 0, :].sum(axis=-1), counts[..., 2, :].sum(axis=-1))


def _shapes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes that labels of a sample may be meant as: an axis of one channel may be left out."""
    found = [shape] if shape else []
    if len(shape) > 1:
        found += [shape[1:]] if shape[0] == 1 else []
        found += [shape[:-1]] if shape[-1] == 1 else []
    return found


def _fitting(outputs: Mapping[str, Seen], shape: tuple[int, ...] | None, count: int) -> list[Maps]:
    """The outputs that give a class for each pixel.

    Args:
        outputs: of one batch, by name.
        shape: of the pixels of a sample; None: it is not known, and outputs are [batch, classes,
            height, width] or [batch, height, width, classes], of fewer classes than pixels.
        count: samples in the batch.
    """
    found = []
    for name, values in outputs.items():
        own = values.shape
        if own[:1] != (count,):
            continue
        if shape is None:
            axes = [min((1, 3), key=lambda axis: own[axis])] if len(own) == 4 else []
        else:
            axes = [
                axis
                for axis in dict.fromkeys((1, len(own) - 1))
                if axis > 0 and own[1:axis] + own[axis + 1 :] == shape
            ]
        if axes:
            found.append(Maps.of(name, values, axes[0]))
        elif own[1:] == shape and len(own) > 2:  # [batch, n] are n answers, not n pixels
            found.append(Maps.of(name, values, None))
    return found


def _check(labels: np.ndarray, maps: Maps, ignore: int | None, place: str, start: int) -> None:
    """Refuse labels that are no class of the output.

    Args:
        labels: of a batch.
        maps: of the output.
        ignore: the label of pixels that are not counted.
        place: of the labels, for messages.
        start: number of the batch's first sample.
    """
    wrong = (labels < 0) | (labels >= maps.classes)
    if ignore is not None:
        wrong &= labels != ignore
    if not wrong.any():
        return
    at = np.unravel_index(int(wrong.argmax()), wrong.shape)
    value = int(labels[at])
    raise DataError(
        f"{place}: 'labels' has {value} in sample {start + int(at[0])}, but the output "
        f"'{maps.output}' has {maps.classes} classes, counted from 0; where {value} means that a "
        f"pixel is not labelled, give --ignore {value}"
    )
