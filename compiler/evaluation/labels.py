"""Labels of test samples: in an array 'labels', with the images, or in a file of their own.

1. What they are depends on the task (:mod:`.tasks`). In a folder every file has them, or none. They
   are read as the samples come where they are many per sample, so memory does not grow with these.
2. Class indices are integers, 0 or above, one per sample. They belong to each output [batch,
   classes] that has a class for all of them. Where the networks have such outputs and none has
   enough classes, the labels are refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..samples.base import LABELS, GivenSamples, Rows
from ..samples.label_files import read_label_path


class Labels:
    """Labels in the order of the samples, part after part.

    Args:
        parts: where they are, for messages, and their rows.

    Attributes:
        place: of all of them.
        count: how many there are.
        shape: of one, in the first part.
        dtype: of the first part.
    """

    def __init__(self, place: str, parts: Sequence[tuple[str, Rows]]) -> None:
        self._parts = list(parts)
        self.place = parts[0][0] if len(parts) == 1 else place
        first = parts[0][1]
        self.dtype, self.shape = first.dtype, tuple(first.shape[1:])
        self.scalar = not first.shape
        self.count = sum(rows.shape[0] if rows.shape else 0 for _, rows in parts)

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """Those of samples that follow each other; reading in order is fastest."""
        start, stop, _ = rows.indices(self.count)
        found, first = [], 0
        for _, part in self._parts:
            begin, end = max(start - first, 0), min(stop - first, part.shape[0])
            if begin < end:
                found.append(part[begin:end])
            first += part.shape[0]
        shapes = {one.shape[1:] for one in found}
        if len(shapes) > 1:
            one, other = sorted(shapes)[:2]
            raise DataError(
                f"{self.place}: 'labels' of samples {start} to {stop - 1} have the shapes "
                f"{list(one)} and {list(other)}; samples of one batch need one"
            )
        return np.concatenate(found) if found else np.empty((0, *self.shape), self.dtype)

    def misfit(self, expected: str) -> DataError:
        """That they are not what is expected."""
        shape = [] if self.scalar else [self.count, *self.shape]
        return DataError(f"{self.place}: 'labels' is {self.dtype} {shape}, expected {expected}")


def find_labels(
    samples: GivenSamples, inputs: Collection[str], path: Path | None = None
) -> Labels | None:
    """The labels of samples, of whatever shape; None where there are none.

    Args:
        samples: the samples.
        inputs: names of the networks' inputs; one that is called 'labels' is no label.
        path: file or folder that has them; None: they come with the samples.

    Raises:
        DataError: some files have them, and some do not, or ``path`` cannot be read.
    """
    if LABELS in inputs and path is None:
        return None
    found = samples.label_parts() if path is None else read_label_path(path, samples)
    parts = [(place, rows) for place, rows in found if rows is not None]
    if not parts:
        return None
    for place, rows in found:
        if rows is None:
            raise DataError(
                f"{place}: holds no 'labels', but other files of the folder do; save them in it too"
            )
    return Labels(samples.name, parts)


def read_labels(samples: GivenSamples, inputs: Collection[str]) -> np.ndarray | None:
    """The class of each sample, int64 [samples]; None where the data have no labels.

    Args:
        samples: the samples.
        inputs: names of the networks' inputs; one that is called 'labels' is no label.

    Raises:
        DataError: they do not fit the samples.
    """
    labels = find_labels(samples, inputs)
    return None if labels is None else class_indices(labels, samples.count)


def class_indices(labels: Labels, samples: int) -> np.ndarray:
    """The class of each sample, int64 [samples]: rule 2.

    Raises:
        DataError: they are none.
    """
    if labels.scalar or labels.shape or labels.dtype.kind not in "iu" or labels.count != samples:
        raise labels.misfit(f"{samples} integers, one class index per sample")
    found = labels[:]
    if int(found.min()) < 0:
        raise DataError(
            f"'labels' has {int(found.min())} at sample {int(found.argmin())}; classes count from 0"
        )
    if int(found.max()) > np.iinfo(np.int64).max:
        raise DataError(f"'labels' has {int(found.max())}, which is no class; save class indices")
    return found.astype(np.int64)


def class_warnings(samples: GivenSamples) -> list[str]:
    """A warning of classes that are called by other numbers than theirs."""
    for index, name in enumerate(samples.classes):
        if name.isdecimal() and int(name) != index:
            return [
                f"{samples.name}: class '{name}' is number {index}, by the order of the names as "
                "text; where the names are the numbers, give a CSV of file name, number"
            ]
    return []


def labelled_outputs(labels: np.ndarray, classes: Mapping[str, int]) -> set[str]:
    """The outputs that class indices belong to.

    Args:
        labels: as :func:`class_indices` gives them.
        classes: number of classes of each output [batch, classes], by name.

    Raises:
        DataError: there are such outputs, and the labels fit none.
    """
    highest = int(labels.max())
    fitting = {name for name, count in classes.items() if highest < count}
    if classes and not fitting:
        have = ", ".join(f"'{name}' has {count}" for name, count in classes.items())
        raise DataError(
            f"'labels' has {highest} at sample {int(labels.argmax())}, but of the networks' "
            f"outputs {have} classes, counted from 0; give the labels of these samples"
        )
    return fitting
