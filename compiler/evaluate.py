"""Compare an ANN with its compiled SNN on test data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import DataError, ModelError
from .fidelity import FidelityMeter, OutputFidelity, float_outputs
from .load import read_model
from .progress import Progress
from .samples import UNREADABLE, FileSamples, input_specs
from .session import batch_size, make_session, run_samples


@dataclass
class OutputEvaluation:
    """One output: fidelity to the ANN, and top-1 of both where labels apply.

    Attributes:
        fidelity: SNN against ANN.
        ann_top1: share of samples whose argmax is the label; None without labels or classes.
        snn_top1: likewise for the SNN.
    """

    fidelity: OutputFidelity
    ann_top1: float | None
    snn_top1: float | None


@dataclass
class Evaluation:
    """The outcome of :func:`evaluate`."""

    samples: int
    outputs: list[OutputEvaluation]


def evaluate(ann: Path, snn: Path, data: Path, progress: Progress) -> Evaluation:
    """Run both networks on all samples; memory does not grow with their number.

    Raises:
        ModelError: a model is unreadable, or the two do not have the same inputs and outputs.
        DataError: the data do not fit the models.
    """
    models = [read_model(path) for path in (ann, snn)]
    specs = [input_specs(model.proto) for model in models]
    if specs[0] != specs[1]:
        raise ModelError(f"{ann} and {snn} have different inputs: {specs[0]} and {specs[1]}")
    samples = FileSamples(data, specs[0])
    labels = _read_labels(data, samples.count)
    sessions = [make_session(model) for model in models]
    names = [[name for _, name in float_outputs(session)] for session in sessions]
    if names[0] != names[1]:
        raise ModelError(f"{ann} and {snn} have different outputs: {names[0]} and {names[1]}")

    meters = [FidelityMeter(name) for name in names[0]]
    correct = np.zeros((2, len(meters)), np.int64)
    positions = [[position for position, _ in float_outputs(session)] for session in sessions]
    size = samples.fixed_batch or batch_size(list(next(samples.batches(1)).values()))
    done = 0
    for feed in progress.track(samples.batches(size), samples.batch_count(size), "evaluating"):
        results = [
            run_samples(session, feed, str(path))
            for session, path in zip(sessions, (ann, snn), strict=True)
        ]
        for i in range(len(meters)):
            pair = [outputs[at[i]] for outputs, at in zip(results, positions, strict=True)]
            # The first dimension may be the number of detections, which is the network's to say.
            if pair[0].ndim != pair[1].ndim or pair[0].shape[1:] != pair[1].shape[1:]:
                raise ModelError(
                    f"{ann} and {snn} have different outputs: '{names[0][i]}' is "
                    f"{list(pair[0].shape)} of one and {list(pair[1].shape)} of the other; "
                    "give the SNN that was compiled from this ANN"
                )
            meters[i].add(*pair)
            if labels is not None and pair[0].ndim == 2 and pair[0].shape == pair[1].shape:
                rows = labels[done : done + len(pair[0])]
                correct[:, i] += [int((scores.argmax(1) == rows).sum()) for scores in pair]
        done += len(next(iter(feed.values()))) if not samples.unbatched else 1
    outputs = []
    for i, meter in enumerate(meters):
        fidelity = meter.result()
        counted = labels is not None and fidelity.agreement is not None
        top1 = [float(share) for share in correct[:, i] / done] if counted else [None, None]
        outputs.append(OutputEvaluation(fidelity, *top1))
    return Evaluation(done, outputs)


def _read_labels(path: Path, count: int) -> np.ndarray | None:
    """The array 'labels' of an .npz: one class index per sample."""
    if path.suffix != ".npz":
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            if "labels" not in archive:
                return None
            labels: np.ndarray = archive["labels"]
    except UNREADABLE as error:
        raise DataError(f"{path}: 'labels' is not readable: {error}") from error
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise DataError(
            f"{path}: 'labels' is {labels.dtype} {list(labels.shape)}, expected {count} integers"
        )
    return labels
