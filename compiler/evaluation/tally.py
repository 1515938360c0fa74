"""What is accumulated of one network: its outputs against the ANN's, its task, its spikes.

A tally can be put into plain data and merged into another one, exactly as if the other had counted
the same samples itself (``shards.py``, rule 2; spikes are integers, whose order does not matter).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..counting.results import NeuronResult, SynapseResult
from ..counting.spikes import SpikeMeter
from ..errors import DataError
from ..report.results import OutputResult
from .outputs import OutputComparison
from .tasks.detection import DetectionMeter
from .tasks.task import Batch, Meter, Task


class Tally:
    """Accumulates one network.

    Args:
        comparison: of its outputs with those of the ANN.
        task: whose meters it has.
        spikes: counts them; None: they are not counted.

    Attributes:
        problem: why spikes are not counted any more.
    """

    def __init__(
        self, comparison: OutputComparison, task: Task, spikes: SpikeMeter | None = None
    ) -> None:
        self.comparison, self.spikes, self.problem = comparison, spikes, ""
        self._task_meters: dict[str, Meter] = {name: make() for name, make in task.meters.items()}

    def count(self, counts: list[np.ndarray]) -> None:
        """Add what the network that counts spikes gave."""
        if self.spikes is None or self.problem:
            return
        try:
            self.spikes.add(counts)
        except DataError as reason:  # a membrane potential is NaN
            self.problem = str(reason)

    def settle(self) -> None:
        """Find out now whether a membrane potential was NaN, as :meth:`state` does."""
        if self.spikes is not None and not self.problem:
            try:
                self.spikes.settle()
            except DataError as reason:
                self.problem = str(reason)

    def add_to_task(self, batch: Batch) -> None:
        """Outputs for the task."""
        for meter in self._task_meters.values():
            meter.add(batch)

    def state(self, with_spikes: bool = True) -> dict[str, Any]:
        """What :meth:`merge` takes: mappings with names, lists, numbers, texts, arrays, None."""
        self.settle()
        counted = with_spikes and self.spikes is not None and not self.problem
        return {
            "outputs": self.comparison.state(),
            "task": {name: meter.state() for name, meter in self._task_meters.items()},
            "spikes": self.spikes.state() if self.spikes is not None and counted else None,
            "problem": self.problem,
        }

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add what another tally has of samples behind these."""
        self.comparison.merge(state["outputs"])
        for name, meter in self._task_meters.items():
            meter.merge(state["task"][name])
        self.problem = self.problem or state["problem"]
        if state["spikes"] is not None and self.spikes is not None and not self.problem:
            self.spikes.merge(state["spikes"])

    def results(self) -> list[OutputResult]:
        """The outputs against those of the ANN."""
        found = self.comparison.results()
        for output in found:
            if output.name in self._task_meters:
                meter = self._task_meters[output.name]
                output.metrics = meter.result()
                if isinstance(meter, DetectionMeter) and self.comparison.in_detail:
                    output.boxes = meter.drawn()
                    output.error_map = None  # of cells and columns, which are no map
        return found

    def counted(self) -> tuple[list[NeuronResult], list[SynapseResult]] | None:
        """What was counted, if it could be."""
        if self.spikes is None or self.problem:
            return None
        try:
            return self.spikes.result()
        except DataError as reason:
            self.problem = str(reason)
        return None
