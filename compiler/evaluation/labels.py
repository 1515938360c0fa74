"""Labels of test samples: one class index each, in an array 'labels' or with the images.

1. They are integers, 0 or above, one per sample. In a folder every file has them, or none.
2. They belong to each output [batch, classes] that has a class for all of them. Where the networks
   have such outputs and none has enough classes, the labels are refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from ..errors import DataError
from ..samples.files import LABELS, GivenSamples


def read_labels(samples: GivenSamples, inputs: Collection[str]) -> np.ndarray | None:
    """The class of each sample, int64 [samples]; None where the data have no labels.

    Args:
        samples: the samples.
        inputs: names of the networks' inputs; one that is called 'labels' is no label.

    Raises:
        DataError: they do not fit the samples.
    """
    if LABELS in inputs:
        return None
    found = samples.label_parts()
    arrays = [labels for _, labels in found if labels is not None]
    if not arrays:
        return None
    for place, labels in found:
        if labels is None:
            raise DataError(
                f"{place}: holds no 'labels', but other files of the folder do; save them in it too"
            )
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise DataError(_not_fitting(place, labels, samples.count))
    count = sum(len(labels) for labels in arrays)
    if count != samples.count:
        place = found[0][0] if len(found) == 1 else samples.name
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


def _not_fitting(place: str, labels: np.ndarray, count: int) -> str:
    return (
        f"{place}: 'labels' is {labels.dtype} {list(labels.shape)}, expected {count} integers, "
        "one class index per sample"
    )
