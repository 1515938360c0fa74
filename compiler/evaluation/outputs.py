"""The floating-point outputs of one network against those of the ANN, batch by batch.

Shares have their Wilson interval, the drop in top-1 that of the paired difference
(:mod:`.statistics`). Memory does not grow with the number of samples.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import ModelError
from ..report.results import Estimate, OutputResult
from ..running.fidelity import Answers, FidelityMeter
from .statistics import paired_difference, wilson
from .where_different import ConfusionMeter, MapMeter


class OutputComparison:
    """Accumulates an :class:`OutputResult` for each output.

    Args:
        network: what to call the network in messages.
        names: of the outputs.
        unbatched: the networks run on one sample at a time, without an axis for it; then an
            output of one dimension is that of one sample.
        in_detail: whether to say where they differ too.
    """

    def __init__(
        self, network: str, names: Sequence[str], *, unbatched: bool, in_detail: bool = False
    ) -> None:
        self._network = network
        self._names = list(names)
        self._unbatched = unbatched
        self._meters = [FidelityMeter(name) for name in names]
        self._details = [(ConfusionMeter(), MapMeter()) for _ in names] if in_detail else []

    @property
    def in_detail(self) -> bool:
        """Whether it is told where outputs differ."""
        return bool(self._details)

    def add(
        self,
        ann: Sequence[np.ndarray],
        other: Sequence[np.ndarray],
        samples: int,
        labels: np.ndarray | None = None,
        labelled: Collection[str] = (),
    ) -> None:
        """Compare one run.

        Args:
            ann: outputs of the ANN.
            other: those of the network.
            samples: how many the run had.
            labels: their classes.
            labelled: names of the outputs that the labels belong to.

        Raises:
            ModelError: an output has another shape than the ANN's.
        """
        for number, (first, second) in enumerate(zip(ann, other, strict=True)):
            meter, name = self._meters[number], self._names[number]
            # The first dimension may be the number of detections, which is the network's to say.
            if first.ndim != second.ndim or first.shape[1:] != second.shape[1:]:
                raise ModelError(
                    f"the ANN and {self._network} have different outputs: '{name}' is "
                    f"{list(first.shape)} of one and {list(second.shape)} of the other; "
                    "give the SNN that was compiled from this ANN"
                )
            if self._unbatched and first.ndim == 1:
                first, second = first[None], second[None]
            meter.add(first, second, samples, labels if name in labelled else None)
            if self._details:
                confusion, places = self._details[number]
                confusion.add(first, second, samples)
                places.add(first, second)

    def state(self) -> dict[str, Any]:
        """What :meth:`merge` takes."""
        return {
            "meters": [meter.state() for meter in self._meters],
            "details": [[meter.state() for meter in pair] for pair in self._details],
        }

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add what another comparison of these outputs has, of samples behind these."""
        for meter, own in zip(self._meters, state["meters"], strict=True):
            meter.merge(own)
        for (confusion, places), own in zip(self._details, state["details"], strict=True):
            confusion.merge(own[0])
            places.merge(own[1])

    def results(self) -> list[OutputResult]:
        """The comparison so far."""
        found = [_result(meter) for meter in self._meters]
        for result, (confusion, places) in zip(found, self._details, strict=False):
            result.confusion, result.error_map = confusion.result(), places.result()
        return found

    def warnings(self, *, of_ann: bool) -> list[str]:
        """Outputs with NaN, of this network or of the ANN."""
        network = "the ANN" if of_ann else self._network
        counts = [meter.not_numbers[0 if of_ann else 1] for meter in self._meters]
        return [
            f"output '{name}' of {network} is NaN in {count} samples"
            for name, count in zip(self._names, counts, strict=True)
            if count
        ]


def _result(meter: FidelityMeter) -> OutputResult:
    found = meter.result()
    result = OutputResult(found.name, found.max_abs, found.relative_l2, found.cosine)
    answers = meter.answers()
    if answers is None:
        return result
    result.agreement = wilson(answers.agreeing / answers.samples, answers.samples)
    if answers.labelled:
        result.ann_top1, result.top1 = _shares(answers.right, answers)
        lost, gained = answers.lost, answers.gained
        result.drop = paired_difference(lost - gained, lost + gained, answers.labelled)
        if answers.among_five is not None:
            result.ann_top5, result.top5 = _shares(answers.among_five, answers)
    return result


def _shares(counts: tuple[int, int], answers: Answers) -> tuple[Estimate, Estimate]:
    first, second = (wilson(count / answers.labelled, answers.labelled) for count in counts)
    return first, second
