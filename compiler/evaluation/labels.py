"""Labels of test samples: one class index each, in the array 'labels' of an .npz.

1. They are integers, 0 or above, one per sample. In a folder every file has them, or none.
2. They belong to each output [batch, classes] that has a class for all of them. Where the networks
   have such outputs and none has enough classes, the labels are refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..samples.files import LABELS, UNREADABLE, FileSamples


def read_labels(samples: FileSamples, inputs: Collection[str]) -> np.ndarray | None:
    """The class of each sample, int64 [samples]; None where the data have no labels.

    Args:
        samples: the samples.
        inputs: names of the networks' inputs; one that is called 'labels' is no label.

    Raises:
        DataError: they do not fit the samples.
    """
    if LABELS in inputs:
        return None
    found = {file: _labels_in(file) for file in samples.files}
    arrays = [labels for labels in found.values() if labels is not None]
    if not arrays:
        return None
    if len(arrays) < len(found):
        without = next(file for file, labels in found.items() if labels is None)
        raise DataError(
            f"{without}: holds no 'labels', but other files of the folder do; save them in it too"
        )
    for file, labels in found.items():
        if labels is not None and (labels.ndim != 1 or labels.dtype.kind not in "iu"):
            raise DataError(_not_fitting(file, labels, samples.count))
    count = sum(len(labels) for labels in arrays)
    if count != samples.count:
        place = samples.files[0] if len(found) == 1 else samples.files[0].parent
        raise DataError(_not_fitting(place, np.concatenate(arrays), samples.count))
    joined = np.concatenate(arrays)
    if int(joined.min()) < 0:
        raise DataError(
            f"'labels' has {int(joined.min())} at sample {int(joined.argmin())}; "
            "classes count from 0"
        )
    if int(joined.max()) > np.iinfo(np.int64).max:
        raise DataError(f"'labels' has {int(joined.max())}, which is no class; save class indices")
    return joined.astype(np.int64)


def labelled_outputs(labels: np.ndarray, classes: Mapping[str, int]) -> set[str]:
    """The outputs that the labels belong to.

    Args:
        labels: as :func:`read_labels` gives them.
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


def _labels_in(file: Path) -> np.ndarray | None:
    if file.suffix != ".npz":
        return None
    try:
        with np.load(file, allow_pickle=False) as archive:
            labels: np.ndarray | None = archive.get(LABELS)
            return labels
    except UNREADABLE as error:
        raise DataError(f"{file}: 'labels' is not readable: {error}; save it again") from error


def _not_fitting(place: Path, labels: np.ndarray, count: int) -> str:
    return (
        f"{place}: 'labels' is {labels.dtype} {list(labels.shape)}, expected {count} integers, "
        "one class index per sample"
    )
