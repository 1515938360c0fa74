"""Which task the networks do, found from the labels and the outputs of the first batch.

1. Labels of one integer per sample: classification, of outputs [batch, classes].
2. Integers with more axes: segmentation, of outputs that have a class for each of them.
3. One number per sample that is no integer: regression, of outputs [batch] or [batch, 1]. One for
   two samples: similarity, of outputs that are embeddings. Integers, and several numbers per
   sample, may be something else, so for these the task has to be asked for.
4. Rows of five or six numbers that are no integers: detection, of outputs that hold boxes.
5. Without labels there is no task, unless one is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...errors import DataError, UsageError
from ...running.fidelity import has_classes
from ..labels import Labels, class_indices, labelled_outputs
from .correlation import regression, similarity
from .detection import detection
from .names import BOXES, CLASSIFICATION, DETECTION, REGRESSION, SEGMENTATION, SIMILARITY, TASKS
from .segmentation import segmentation
from .task import Seen, Task, TaskOptions

#: What labels a task has, and of which outputs.
_EXPECTED = {
    SEGMENTATION: "an integer for each pixel of an output [batch, classes, height, width]",
    REGRESSION: "a number for each sample, of an output [batch] or [batch, 1], or several, "
    "[samples, n], of an output [batch, n]",
    SIMILARITY: "a number for each two samples, of an output [batch, features] or [batch, tokens, "
    "features]",
    DETECTION: "boxes [samples, n, 5] of class, left, top, right, bottom, of an output that holds "
    "boxes, in a form that --boxes names",
}


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

    @property
    def wanted(self) -> bool:
        """Whether there may be a task."""
        return self.labels is not None or self.options != TaskOptions()


def check_task(options: TaskOptions) -> None:
    """Refuse options that contradict one another.

    Raises:
        UsageError: says which.
    """
    if options.task not in (None, *TASKS):
        raise UsageError(f"no task is called {options.task}; there are {', '.join(TASKS)}")
    if options.boxes not in (None, *BOXES):
        raise UsageError(
            f"no form of boxes is called {options.boxes}; there are {', '.join(BOXES)}"
        )
    if options.boxes is not None and options.task not in (None, DETECTION):
        raise UsageError(f"--boxes is of --task detection, not {options.task}; leave it out")
    if options.ignore is not None and options.task not in (None, SEGMENTATION):
        raise UsageError(
            f"--ignore is a label of pixels, which --task {options.task} has none of; leave it out"
        )


def choose_task(given: Given, outputs: Mapping[str, Seen], count: int, warnings: list[str]) -> Task:
    """The task, by the rules above.

    Args:
        given: samples, labels and options.
        outputs: of the ANN for the first batch, by name.
        count: samples in that batch.
        warnings: gets what the user should know.

    Raises:
        DataError: the labels fit no output, or the task needs some and there are none.
        UsageError: an option has no effect on the task.
    """
    labels, options = given.labels, given.options
    name = options.task or (DETECTION if options.boxes else _kind(given))
    if options.ignore is not None and name != SEGMENTATION:
        raise UsageError(
            "--ignore is a label of pixels, and there are no labels of pixels; leave it out"
        )
    if name == SEGMENTATION:
        expected = _EXPECTED[SEGMENTATION]
        if not options.task:
            expected = f"{given.samples} integers, one class index per sample, or {expected}"
        _check_kind(labels, "iub", expected)
        fits = labels is None or labels.count == given.samples
        found = segmentation(outputs, count, labels, options.ignore) if fits else None
        if found is None:
            raise _fits_none(given, outputs, expected)
        return found
    if name == DETECTION:
        _check_kind(labels, "iuf", _EXPECTED[name])
        found = detection(outputs, count, given.samples, labels, options.boxes)
        if found is None:
            raise _fits_none(given, outputs, _EXPECTED[name])
        return found
    if labels is None:
        if name:
            raise DataError(f"--task {name} needs labels, and the samples have none; give 'labels'")
        return Task()
    correlated = {REGRESSION: regression, SIMILARITY: similarity}.get(name)
    if correlated is not None:
        _check_kind(labels, "iuf", _EXPECTED[name])
        found = correlated(outputs, count, given.samples, labels)
        if found is None and options.task:
            raise _fits_none(given, outputs, _EXPECTED[name])
        if found is not None:
            return found
    return _classification(labels, given.samples, outputs, count, warnings)


def _kind(given: Given) -> str:
    labels = given.labels
    if labels is None or labels.scalar:
        return "" if labels is None else CLASSIFICATION
    if labels.shape and labels.dtype.kind in "iub":
        return SEGMENTATION
    if labels.shape in ((), (1,)) and labels.dtype.kind == "f":
        pairs = not labels.shape and 2 * labels.count == given.samples
        return SIMILARITY if pairs else REGRESSION
    if len(labels.shape) == 2 and labels.shape[1] in (5, 6) and labels.dtype.kind == "f":
        return DETECTION
    return CLASSIFICATION


def _classification(
    labels: Labels,
    samples: int,
    outputs: Mapping[str, Seen],
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


def _check_kind(labels: Labels | None, kinds: str, expected: str) -> None:
    """Refuse labels of another element type."""
    if labels is not None and labels.dtype.kind not in kinds:
        raise labels.misfit(expected)


def _fits_none(given: Given, outputs: Mapping[str, Seen], expected: str) -> DataError:
    shown = ", ".join(f"'{name}' {list(output.shape)}" for name, output in outputs.items())
    shown = f"for the first batch the outputs are {shown}"
    if given.labels is None:
        return DataError(f"--task {given.options.task} needs {expected}; {shown}")
    return DataError(f"{given.labels.misfit(expected)}; {shown}")
