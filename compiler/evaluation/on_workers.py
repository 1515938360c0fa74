"""An evaluation on the workers of a cluster: each runs shards of samples that it reads itself.

Networks travel, samples do not (``place.py``). On each worker there is one set of sessions.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..distributed.cluster import Cluster
from ..distributed.place import Place
from ..progress import Progress
from ..running.threads import use_threads
from ..samples.base import InputSpec
from .labels import find_labels
from .shards import Shards
from .side_by_side import Networks, SideBySide
from .tasks.choose import Given
from .tasks.task import Seen, TaskOptions


@dataclass(frozen=True)
class _Job:
    """What a worker needs.

    Attributes:
        networks: what is compared.
        specs: inputs of the networks.
        place: of the samples.
        labels: file or folder of labels that lie apart.
        task: what is said of them.
        shards: how the samples are split.
        threads: of the sessions.
    """

    networks: Networks
    specs: list[InputSpec]
    place: Place
    labels: Path | None
    task: TaskOptions
    shards: Shards
    threads: int


@dataclass(frozen=True)
class Elsewhere:
    """Workers, and what they need of an evaluation besides its networks.

    Attributes:
        cluster: of the workers.
        specs: inputs of the networks.
        place: of the samples.
        labels: file or folder of labels that lie apart.
        task: what is said of them.
        threads: of the sessions of each worker.
    """

    cluster: Cluster
    specs: list[InputSpec]
    place: Place
    labels: Path | None
    task: TaskOptions
    threads: int

    def run(
        self, sides: SideBySide, numbers: Sequence[int], progress: Progress
    ) -> Generator[dict[str, Any], None, None]:
        """What :meth:`SideBySide.run` gives of each shard, in order.

        Args:
            sides: as this process has it; it finds out what the task is chosen by.
            numbers: of the shards.
            progress: told about shards done.

        Raises:
            As :meth:`SideBySide.run`, and :meth:`Cluster.map`.
        """
        data = self.specs, self.place, self.labels, self.task
        put = self.cluster.put(_Job(sides.networks, *data, sides.shards, self.threads))
        # Sessions are made while this process looks at the first batch.
        workers = self.cluster.workers()
        ready = [self.cluster.submit(_open, _ready, put, None, worker) for worker in workers]
        if sides.seen is None:
            sides.look()
        items = ((number, sides.seen) for number in numbers)
        total = len(numbers)
        yield from self.cluster.map(_open, _run, put, items, total, "evaluating", progress)
        del ready  # until now Dask does not forget them


def _open(job: _Job) -> tuple[_Job, SideBySide]:
    """On a worker: sessions and samples."""
    samples = job.place.open(job.specs)
    labels = find_labels(samples, {spec.name for spec in job.specs}, job.labels)
    given = Given(samples.count, labels, job.task)
    with use_threads(job.threads):
        sides = SideBySide(job.networks, samples, given, job.shards, whole=False)
    return job, sides


def _ready(opened: tuple[_Job, SideBySide], _: None) -> None:
    """On a worker: sessions, before there is a shard."""
    job, sides = opened
    with use_threads(job.threads):
        sides.make_sessions()


def _run(opened: tuple[_Job, SideBySide], item: tuple[int, Mapping[str, Seen]]) -> dict[str, Any]:
    """On a worker: a shard, and what the task is chosen by."""
    job, sides = opened
    number, sides.seen = item
    with use_threads(job.threads):
        return sides.run_alone(number)
