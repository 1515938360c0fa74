"""Detection: how far networks agree with the ANN on boxes, and the mAP where boxes are known.

1. The agreement is that of :mod:`.boxes`, the mean over the images; it needs no labels.
2. Known boxes are labels [samples, n, 5]: class, left, top, right, bottom in pixels of the
   network's input; a row whose class is -1 is none, so images may have fewer than n. A sixth column
   of 1 marks a crowd as COCO has it: what is found in it is neither right nor wrong.
3. mAP is COCO's, of pycocotools: the mean over classes and over the overlaps 0.5, 0.55, ..., 0.95,
   of at most 100 boxes per image; mAP50 that at 0.5. Boxes of cells are suppressed first, within
   each class, where they overlap one of a higher score by more than 0.6.
4. The interval of mAP is the jackknife's: images are dealt out to 20 groups, of which one after the
   other is left out. A bootstrap would sort all boxes a thousand times.

Up to 100 boxes per image are kept. Of the first images where a network finds anything, its boxes
above the score of :mod:`.boxes`, suppressed likewise, are kept to be drawn.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from ...errors import DataError, UsageError
from ...report.results import Estimate, ImageBoxes, Metric
from ..labels import Labels
from ..statistics import Z
from .bootstrap import SHARE, Bootstrap, ratio
from .boxes import SCORE, Boxes, Form, agreement, fitting_form, kept
from .names import DETECTION, ROWS
from .task import Batch, Seen, Task

_MOST, _LEAST_SCORE, _SUPPRESSED = 100, 0.001, 0.6
_GROUPS = 20
#: Images whose boxes are drawn, and boxes of one network on each.
_DRAWN, _MOST_DRAWN = 4, 20


def detection(
    outputs: Mapping[str, Seen],
    count: int,
    samples: int,
    labels: Labels | None,
    asked: str | None,
) -> Task | None:
    """The task for the outputs of the first batch; None where none holds boxes.

    Args:
        outputs: of the ANN, by name.
        count: samples in the batch.
        samples: all of them.
        labels: rule 2; None: there are none.
        asked: the form of the boxes; None: it is found.

    Raises:
        DataError: there is no box, or one is not as rule 2 has it.
        UsageError: pycocotools is not installed, and boxes are known.
    """
    forms = [
        form
        for name, values in outputs.items()
        if len(values) == count and (form := fitting_form(asked, name, values.shape)) is not None
    ]
    if not forms:
        return None
    if labels is None:
        return Task(DETECTION, {form.output: partial(DetectionMeter, form) for form in forms})
    if labels.count != samples or len(labels.shape) != 2 or labels.shape[1] not in (5, 6):
        return None
    _cocoeval()
    if not any((labels[i : i + 1][..., 0] >= 0).any() for i in range(samples)):
        raise DataError(
            f"{labels.place}: 'labels' have no box; rows are class, left, top, right, bottom, and "
            "a class of -1 is none"
        )

    def read(start: int, stop: int) -> np.ndarray:
        rows = labels[start:stop].astype(np.float64)
        for form in forms:
            _check(rows, form, labels.place, start)
        return rows

    return Task(DETECTION, {form.output: partial(DetectionMeter, form) for form in forms}, read)


def _check(rows: np.ndarray, form: Form, place: str, start: int) -> None:
    """Refuse labels that are no boxes: rule 2."""
    there = ~(rows[..., 0] < 0)  # NaN is checked
    finite = np.isfinite(rows).all(axis=-1)
    shown = np.where(finite[..., None], rows, 0)
    sides = shown[..., 3:5] - shown[..., 1:3]
    form_of_rows = "rows are class, left, top, right, bottom"
    problems = {
        "has NaN or inf; leave it out": ~finite,
        f"has no whole number as its class; {form_of_rows}": shown[..., 0] % 1 != 0,
        f"ends before it begins; {form_of_rows}": (sides < 0).any(axis=-1),
        f"has a class that the output '{form.output}' does not have, which has {form.classes}, "
        "counted from 0": shown[..., 0] >= (form.classes or np.inf),
    }
    for problem, where in problems.items():
        wrong = np.argwhere(where & there)
        if wrong.size:
            sample, box = wrong[0]
            raise DataError(f"{place}: 'labels' box {box} of sample {start + sample} {problem}")


class DetectionMeter:
    """Accumulates the metrics of one output of a network against the ANN and known boxes.

    Args:
        form: how the output holds boxes.
    """

    def __init__(self, form: Form) -> None:
        self._form = form
        self._agreement = Bootstrap(2)
        self._found: tuple[list[Boxes], list[Boxes]] = [], []
        self._known: list[np.ndarray] = []
        self._drawn: list[ImageBoxes] = []

    def add(self, batch: Batch) -> None:
        """The next samples."""
        size = _size(batch.feed)
        most_overlap = 1.0 if self._form.name == ROWS else _SUPPRESSED
        pairs = zip(batch.ann[self._form.output], batch.other[self._form.output], strict=True)
        for sample, values in enumerate(pairs):
            ann, other = (self._form.read(one, size) for one in values)
            agreed = agreement(ann, other, self._form.cells)
            self._agreement.add(np.array([[agreed, 1.0]]), batch.start + sample)
            if len(self._drawn) < _DRAWN:
                shown = [_rows(kept(one, SCORE, most_overlap, _MOST_DRAWN)) for one in (ann, other)]
                if any(shown):
                    self._drawn.append(ImageBoxes(batch.start + sample, list(size), *shown))
            if batch.labels is None:
                continue
            own = batch.labels[sample]
            self._known.append(own[own[:, 0] >= 0])
            for found, boxes in zip(self._found, (ann, other), strict=True):
                found.append(kept(boxes, _LEAST_SCORE, most_overlap, _MOST))

    def state(self) -> dict[str, Any]:
        """What :meth:`merge` takes; what belongs to images is joined, with its length in each."""
        return {
            "agreement": self._agreement.state(),
            "drawn": [asdict(one) for one in self._drawn],
            "known": _joined(self._known),
            "found": [
                [
                    _joined([getattr(boxes, name) for boxes in found])
                    for name in ("corners", "scores", "classes")
                ]
                for found in self._found
            ],
        }

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add what was found in images behind these."""
        self._agreement.merge(state["agreement"])
        self._drawn = [*self._drawn, *(ImageBoxes(**one) for one in state["drawn"])][:_DRAWN]
        self._known += _apart(state["known"])
        for own, parts in zip(self._found, state["found"], strict=True):
            own += [Boxes(*one) for one in zip(*map(_apart, parts), strict=True)]

    def drawn(self) -> list[ImageBoxes]:
        """Boxes of a few images."""
        return self._drawn

    def result(self) -> list[Metric]:
        """mAP and mAP50 where boxes are known, and the agreement."""
        agreed = self._agreement.estimate(lambda sums: ratio(sums[..., 0], sums[..., 1]))
        metrics = [Metric("box agreement (F1)", agreed)]
        if not self._known:
            return metrics
        first, second = (_precisions(found, self._known) for found in self._found)
        for number, name in ((1, "mAP50"), (0, "mAP")):
            ann, other = first[:, number], second[:, number]
            drop = _jackknife(ann - other, len(self._known), (-1.0, 1.0))
            value, of_ann = (_jackknife(one, len(self._known), SHARE) for one in (other, ann))
            metrics.insert(0, Metric(name, value, of_ann, drop))
        return metrics


def _joined(arrays: Sequence[np.ndarray]) -> dict[str, Any]:
    """Arrays along their first axes as one, and the length of each."""
    lengths = np.array([len(one) for one in arrays], np.int64)
    return {"lengths": lengths, "values": np.concatenate(arrays) if len(arrays) else None}


def _apart(joined: Mapping[str, Any]) -> list[np.ndarray]:
    """The arrays that :func:`_joined` was given."""
    if joined["values"] is None:
        return []
    return np.split(joined["values"], np.cumsum(joined["lengths"])[:-1])


def _rows(boxes: Boxes) -> list[list[float]]:
    """Those that are finite, as the report has them."""
    rows = np.column_stack([boxes.corners, boxes.scores, boxes.classes])
    found: list[list[float]] = rows[np.isfinite(rows).all(axis=1)].round(4).tolist()
    return found


def _size(feed: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """Height and width of the images of a batch; the only input of four axes, or the first."""
    shape = next((array.shape for array in feed.values() if array.ndim == 4), (1, 1, 1, 1))
    return shape[1:3] if shape[3] in (1, 3) and shape[1] not in (1, 3) else shape[2:]


def _jackknife(values: np.ndarray, samples: int, limits: tuple[float, float]) -> Estimate:
    """Of all images, then without each group: rule 4."""
    value, groups = float(values[0]), values[1:]
    groups = groups[np.isfinite(groups)]
    if samples < 2 or len(groups) < 2 or not np.isfinite(value):
        return Estimate(value, *limits)
    half = Z * float(np.sqrt((len(groups) - 1) * groups.var()))
    return Estimate(value, max(value - half, limits[0]), min(value + half, limits[1]))


def _precisions(found: Sequence[Boxes], known: Sequence[np.ndarray]) -> np.ndarray:
    """mAP and mAP50 of all images, then without each group, [1 + groups, 2]."""
    count = len(known)
    images = [{"id": image} for image in range(count)]
    classes = sorted({int(row[0]) for rows in known for row in rows})
    truth = [
        _annotation(image, int(row[0]), row[1:5], iscrowd=int(len(row) > 5 and row[5] > 0))
        for image, rows in enumerate(known)
        for row in rows
    ]
    answers = [
        _annotation(image, int(kind), corners, score=float(score), iscrowd=0)
        for image, boxes in enumerate(found)
        for corners, score, kind in zip(boxes.corners, boxes.scores, boxes.classes, strict=True)
    ]
    coco, evaluation = _cocoeval()
    with contextlib.redirect_stdout(io.StringIO()):  # it says what it does
        sets = []
        for annotations in (truth, answers):
            one = coco()
            numbered = [{"id": i, **row} for i, row in enumerate(annotations, 1)]
            categories = [{"id": kind} for kind in classes]
            one.dataset = {"images": images, "annotations": numbered, "categories": categories}
            one.createIndex()
            sets.append(one)
        run = evaluation(*sets, "bbox")
        run.params.areaRng, run.params.areaRngLbl = run.params.areaRng[:1], ["all"]
        run.params.maxDets = [_MOST]
        run.evaluate()
        group = np.arange(count) % min(_GROUPS, count)
        rows = [_accumulated(run, np.arange(count))]
        rows += [_accumulated(run, np.flatnonzero(group != g)) for g in range(group.max() + 1)]
    return np.array(rows)


def _annotation(image: int, kind: int, corners: np.ndarray, **others: Any) -> dict[str, Any]:
    left, top, right, bottom = (float(one) for one in corners)
    width, height = right - left, bottom - top
    where = {"image_id": image, "category_id": kind, "bbox": [left, top, width, height]}
    return {**where, "area": width * height, **others}


def _accumulated(run: Any, images: np.ndarray) -> tuple[float, float]:
    """mAP and mAP50 of some of the images that were evaluated; NaN where they have no box."""
    every, ids = run.evalImgs, run._paramsEval.imgIds
    rows = [every[i : i + len(ids)] for i in range(0, len(every), len(ids))]
    run.evalImgs = [row[i] for row in rows for i in images]
    run._paramsEval.imgIds = run.params.imgIds = list(range(len(images)))
    run.accumulate()
    run.evalImgs, run._paramsEval.imgIds = every, ids
    precision = run.eval["precision"]
    means = [
        one[one > -1].mean() if (one > -1).any() else np.nan for one in (precision, precision[:1])
    ]
    return float(means[0]), float(means[1])


def _cocoeval() -> tuple[Any, Any]:
    """COCO and COCOeval of pycocotools."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise UsageError(
            "mAP needs pycocotools: install the extra 'detection' (pip install "
            "'snn-compile[detection]'), or leave the known boxes out"
        ) from error
    return COCO, COCOeval
