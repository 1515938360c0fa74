"""What a task is: which outputs are scored, against which labels, by which meters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ...report.results import Metric
from ...samples.base import Feed


@dataclass(frozen=True)
class TaskOptions:
    """What the user says of the task.

    Attributes:
        task: one of :data:`.names.TASKS`; None: it is found from the outputs and the labels.
        ignore: the label of pixels that are not counted.
        boxes: how outputs hold boxes, one of :data:`.names.BOXES`; None: it is found.
    """

    task: str | None = None
    ignore: int | None = None
    boxes: str | None = None


@dataclass(frozen=True)
class Batch:
    """Outputs of the ANN and of another network for the same samples.

    Attributes:
        feed: the inputs.
        ann: outputs by name, the batch axis first.
        other: likewise of the other network.
        labels: of these samples, as the task reads them.
        start: number of the first of them.
    """

    feed: Feed
    ann: Mapping[str, np.ndarray]
    other: Mapping[str, np.ndarray]
    labels: np.ndarray | None
    start: int = 0


@dataclass(frozen=True)
class Seen:
    """What is looked at of an output for the first batch.

    Attributes:
        shape: the batch axis first.
        inside: whether all values lie in [0, 1].
    """

    shape: tuple[int, ...]
    inside: bool

    @classmethod
    def of(cls, output: np.ndarray) -> Seen:
        """That of an output."""
        return cls(output.shape, bool(((output >= 0) & (output <= 1)).all()))

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return len(self.shape)

    def __len__(self) -> int:
        """Length of the batch axis."""
        return self.shape[0]


class Meter(Protocol):
    """Accumulates the metrics of one network."""

    def add(self, batch: Batch) -> None:
        """The next samples."""
        ...

    def result(self) -> list[Metric]:
        """The metrics of all samples so far."""
        ...

    def state(self) -> dict[str, Any]:
        """What was accumulated, as :meth:`merge` takes it: arrays, numbers, lists and mappings."""
        ...

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add what a meter of its kind has accumulated of samples behind these."""
        ...


def _no_labels(_start: int, _stop: int) -> np.ndarray | None:
    return None


@dataclass(frozen=True)
class Task:
    """A task, for the outputs of one pair of networks.

    Attributes:
        name: one of :data:`.names.TASKS`; empty where there is none.
        meters: makes a meter for each output that is scored, by its name.
        labels: reads those of samples from start to stop; they are asked for in order.
        labelled: outputs [batch, classes] that class indices belong to.
    """

    name: str = ""
    meters: Mapping[str, Callable[[], Meter]] = field(default_factory=dict)
    labels: Callable[[int, int], np.ndarray | None] = _no_labels
    labelled: frozenset[str] = frozenset()
