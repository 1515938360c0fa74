"""Which task the networks do, found from the labels and the outputs of the first batch.

1. Labels of one integer per sample: classification, of outputs [batch, classes].
2. Integers with more axes: segmentation, of outputs that have a class for each of them.
3. Without labels there is no task, unless one is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...errors import DataError, UsageError
from ...running.fidelity import has_classes
from ..labels import Labels, class_indices, labelled_outputs
from .names import CLASSIFICATION, SEGMENTATION, TASKS
from .segmentation import segmentation
from .task import Task, TaskOptions


@dataclass(frozen=True)
class Given:
    """What is known before a network has run.

    Attributes:
        samples: how many there are.
        labels: None where there are none.
        options: of the user.
    """

    samples: int
    labels: Labels | None = None
    options: TaskOptions = TaskOptions()  # noqa: RUF009  # frozen


def check_task(options: TaskOptions) -> None:
    """Refuse options that contradict one another.

    Raises:
        UsageError: says which.
    """
    if options.task not in (None, *TASKS):
        raise UsageError(f"no task is called {options.task}; there are {', '.join(TASKS)}")
    if options.ignore is not None and options.task not in (None, SEGMENTATION):
        raise UsageError(
            f"--ignore is a label of pixels, which --task {options.task} has none of; leave it out"
        )


def choose_task(
    given: Given, outputs: Mapping[str, np.ndarray], count: int, warnings: list[str]
) -> Task:
    """The task, rules 1 to 3.

    Args:
        given: samples, labels and options.
        outputs: of the ANN for the first batch, by name; the batch axis first.
        count: samples in that batch.
        warnings: gets what the user should know.

    Raises:
        DataError: the labels fit no output, or the task needs some and there are none.
        UsageError: an option has no effect on the task.
    """
    labels, options = given.labels, given.options
    name = options.task or _kind(labels)
    if options.ignore is not None and name != SEGMENTATION:
        raise UsageError(
            "--ignore is a label of pixels, and there are no labels of pixels; leave it out"
        )
    if name == SEGMENTATION:
        _check_numbers(given, "iub", "an integer for each pixel")
        found = segmentation(outputs, count, labels, options.ignore)
        if found is None:
            raise _fits_none(given, outputs)
        return found
    if labels is None:
        if name:
            raise DataError(f"--task {name} needs labels, and the samples have none; give 'labels'")
        return Task()
    return _classification(labels, given.samples, outputs, count, warnings)


def _kind(labels: Labels | None) -> str:
    if labels is None:
        return ""
    return SEGMENTATION if labels.shape and labels.dtype.kind in "iub" else CLASSIFICATION


def _classification(
    labels: Labels,
    samples: int,
    outputs: Mapping[str, np.ndarray],
    count: int,
    warnings: list[str],
) -> Task:
    indices = class_indices(labels, samples)
    classes = {
        name: output.shape[1] for name, output in outputs.items() if has_classes(output, count)
    }
    if not classes:
        warnings.append("'labels' are not used: no output is [batch, classes]")
        return Task()
    return Task(
        CLASSIFICATION,
        labels=lambda start, stop: indices[start:stop],
        labelled=frozenset(labelled_outputs(indices, classes)),
    )


def _check_numbers(given: Given, kinds: str, what: str) -> None:
    """Refuse labels of another element type, or another number of them."""
    labels = given.labels
    if labels is not None and (labels.dtype.kind not in kinds or labels.count != given.samples):
        raise labels.misfit(f"{what} of each of {given.samples} samples")


def _fits_none(given: Given, outputs: Mapping[str, np.ndarray]) -> DataError:
    shown = ", ".join(f"'{name}' {list(output.shape)}" for name, output in outputs.items())
    if given.labels is None:
        return DataError(
            f"--task {given.options.task}: no output gives classes of pixels; there are {shown}"
        )
    error = given.labels.misfit(
        f"{given.samples} integers, one class index per sample, or one for each pixel of an output"
    )
    return DataError(f"{error}; for the first batch the outputs are {shown}")
