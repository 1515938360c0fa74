"""Regression and similarity of pairs: how answers and given numbers go together.

1. Regression: labels [samples] for outputs [batch] or [batch, 1], or [samples, k] for [batch, k].
2. Similarity: the embeddings of samples 2i and 2i + 1 are a pair, whose answer is their cosine, and
   labels are [pairs]. An output [batch, features] is the embedding; of [batch, tokens, features] it
   is the mean over the tokens that the mask keeps: the only input [batch, tokens] that has "mask"
   in its name; without one, over all. The cosine with an embedding of zeros is 0.
3. Pearson's correlation is that of the values, Spearman's that of their ranks, the mean of their
   ranks where values are equal; of k columns the mean over the columns. They are NaN where all
   answers are equal, or one is NaN.
4. Intervals are those of :mod:`.bootstrap`: in a resample, a sample counts w times.

Two numbers per sample or pair are kept, as its label is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ...errors import DataError
from ...report.results import Estimate, Metric
from ..labels import Labels
from .bootstrap import RESAMPLES, interval
from .names import REGRESSION, SIMILARITY
from .task import Batch, Meter, Seen, Task


def regression(
    outputs: Mapping[str, Seen], count: int, samples: int, labels: Labels
) -> Task | None:
    """The task for the outputs of the first batch; None where none fits the labels.

    Args:
        outputs: of the ANN, by name.
        count: samples in the batch.
        samples: all of them.
        labels: numbers, as in rule 1.

    Raises:
        DataError: a label is not finite, or they are all the same.
    """
    columns = labels.shape or (1,)
    if labels.count != samples or len(columns) != 1:
        return None
    found = [
        name
        for name, values in outputs.items()
        if values.shape == (count, *columns) or (columns == (1,) and values.shape == (count,))
    ]
    if not found:
        return None
    targets = _targets(labels)
    meters: dict[str, Callable[[], Meter]] = {
        name: partial(CorrelationMeter, name, targets, _Values) for name in found
    }
    return Task(REGRESSION, meters)


def similarity(
    outputs: Mapping[str, Seen], count: int, samples: int, labels: Labels
) -> Task | None:
    """The task for the outputs of the first batch; None where none fits the labels.

    Args:
        outputs: of the ANN, by name.
        count: samples in the batch.
        samples: all of them.
        labels: a number for each pair.

    Raises:
        DataError: a label is not finite, or they are all the same.
    """
    if labels.shape or 2 * labels.count != samples:
        return None
    found = [
        name
        for name, values in outputs.items()
        if values.ndim in (2, 3) and len(values) == count and values.shape[-1] > 1
    ]
    if not found:
        return None
    targets = _targets(labels)
    meters: dict[str, Callable[[], Meter]] = {
        name: partial(CorrelationMeter, name, targets, _Cosines) for name in found
    }
    return Task(SIMILARITY, meters)


def _targets(labels: Labels) -> np.ndarray:
    """Labels as float64 [samples, columns]."""
    found = labels[:].astype(np.float64).reshape(labels.count, -1)
    wrong = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if wrong.size:
        raise DataError(
            f"{labels.place}: 'labels' has NaN or inf at {wrong[0]}; leave out what has no target"
        )
    if labels.count < 2 or (found == found[0]).all(axis=0).any():
        raise DataError(
            f"{labels.place}: all 'labels' are {found[0, 0]:g}, and nothing correlates with that; "
            "give several different ones"
        )
    return found


class _Values:
    """Answers of a regression: the outputs."""

    def __call__(self, values: np.ndarray, _feed: Mapping[str, np.ndarray]) -> np.ndarray:
        return values.reshape(len(values), -1)


class _Cosines:
    """Answers for pairs: the cosines of the embeddings of two samples in a row."""

    _left: np.ndarray | None = None

    def __call__(self, values: np.ndarray, feed: Mapping[str, np.ndarray]) -> np.ndarray:
        rows = values.astype(np.float64)
        if rows.ndim == 3:
            rows = _pooled(rows, feed)
        if self._left is not None:
            rows = np.concatenate([self._left, rows])
        pairs = len(rows) // 2
        self._left = rows[2 * pairs :] if len(rows) % 2 else None
        first, second = rows[: 2 * pairs : 2], rows[1 : 2 * pairs : 2]
        norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        cosines: np.ndarray = (first * second).sum(axis=1) / np.where(norms == 0, 1, norms)
        return cosines[:, None]


def _pooled(rows: np.ndarray, feed: Mapping[str, np.ndarray]) -> np.ndarray:
    """Means over tokens: rule 2."""
    masks = [m for name, m in feed.items() if "mask" in name.lower() and m.shape == rows.shape[:2]]
    if len(masks) != 1:
        masks = [np.ones(rows.shape[:2])]
    kept = (masks[0] != 0)[..., None]
    means: np.ndarray = np.where(kept, rows, 0).sum(axis=1) / np.maximum(kept.sum(axis=1), 1)
    return means


class CorrelationMeter:
    """Accumulates answers of the ANN and of a network, and correlates them with the targets.

    Args:
        output: whose answers they are.
        targets: [samples, columns].
        answers: makes what turns outputs of a batch into answers [answers, columns].
    """

    def __init__(
        self,
        output: str,
        targets: np.ndarray,
        answers: Callable[[], Callable[[np.ndarray, Mapping[str, np.ndarray]], np.ndarray]],
    ) -> None:
        self._output, self._targets = output, targets
        self._answers = answers(), answers()
        self._found: tuple[list[np.ndarray], list[np.ndarray]] = [], []

    def add(self, batch: Batch) -> None:
        """The next samples."""
        for number, outputs in enumerate((batch.ann, batch.other)):
            values = outputs[self._output]
            self._found[number].append(self._answers[number](values, batch.feed))

    def state(self) -> dict[str, Any]:
        """What :meth:`merge` takes: answers of the ANN and of the network."""
        return {"answers": [np.concatenate(found) for found in self._found if found]}

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add the answers of samples behind these; a pair is never in two parts."""
        for own, found in zip(self._found, state["answers"], strict=False):
            own.append(found)

    def result(self) -> list[Metric]:
        """Spearman's and Pearson's correlation."""
        ann, other = (np.concatenate(found).astype(np.float64) for found in self._found)
        count = len(ann)
        random = np.random.default_rng(0)
        weights = [np.ones(count)]
        weights += [random.poisson(1.0, count).astype(np.float64) for _ in range(RESAMPLES)]

        def estimate(found: np.ndarray, limit: float) -> Estimate:
            return interval(float(found[0]), found[1:], count, (-limit, limit))

        metrics = []
        for name, ranked in (("Spearman", True), ("Pearson", False)):
            first, second = (
                _correlations(self._targets[:count], answers, ranked, weights)
                for answers in (ann, other)
            )
            lost = estimate(first - second, 2)
            metrics.append(Metric(name, estimate(second, 1), estimate(first, 1), lost))
        return metrics


def _correlations(
    targets: np.ndarray, answers: np.ndarray, ranked: bool, weights: Sequence[np.ndarray]
) -> np.ndarray:
    """The correlation for each of the weights, the mean over columns.

    Args:
        targets: [samples, columns].
        answers: likewise.
        ranked: whether ranks are correlated.
        weights: how many times each sample is there.
    """
    columns = []
    for x, y in zip(targets.T, answers.T, strict=True):
        if np.isnan(y).any():
            return np.full(len(weights), np.nan)
        first, second = (_Ranks(values) if ranked else _Plain(values) for values in (x, y))
        columns.append([_pearson(first(w), second(w), w) for w in weights])
    means: np.ndarray = np.mean(columns, axis=0)
    return means


class _Plain:
    """Values as they are."""

    def __init__(self, values: np.ndarray) -> None:
        self._values = values

    def __call__(self, _weights: np.ndarray) -> np.ndarray:
        return self._values


class _Ranks:
    """Ranks of values among samples of which each is there several times."""

    def __init__(self, values: np.ndarray) -> None:
        self._places = np.unique(values, return_inverse=True)[1]

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        there = np.bincount(self._places, weights)
        ranks: np.ndarray = (np.cumsum(there) - there / 2)[self._places]
        return ranks


def _pearson(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    """Pearson's correlation; NaN where one of the two does not vary."""
    there = weights > 0
    x, y, weights = x[there], y[there], weights[there]
    if not x.size or (x == x[0]).all() or (y == y[0]).all():
        return np.nan
    total = weights.sum()
    x, y = (values - (weights @ values) / total for values in (x, y))
    return float(weights @ (x * y) / np.sqrt((weights @ x**2) * (weights @ y**2)))
