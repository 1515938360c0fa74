"""An evaluation on the workers of a cluster: each runs shards of samples that it reads itself.

Networks travel, samples do not: workers open the same path, and their files have to be those that
this process has seen, by name and length. On each worker there is one set of sessions.
"""

from __future__ import annotations

import platform
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..distributed.cluster import Cluster
from ..errors import DataError, UsageError
from ..progress import Progress
from ..running.threads import use_threads
from ..samples.files import FileSamples, GivenSamples, InputSpec
from ..samples.image_options import ImageOptions
from ..samples.images import ImageSamples
from ..samples.source import Source
from .labels import find_labels
from .shards import Shards
from .side_by_side import Networks, SideBySide
from .tasks.choose import Given
from .tasks.task import Seen, TaskOptions


@dataclass(frozen=True)
class Place:
    """Where samples are, for any process that sees the same files.

    Attributes:
        path: as the user gives it, from the root on.
        images: how pixels become values, if they are images.
        sha256: of what they hold.
        files: their names and lengths in bytes.
    """

    path: Path
    images: ImageOptions | None
    sha256: str
    files: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, source: Source, samples: GivenSamples) -> Place:
        """That of samples which were opened here.

        Raises:
            UsageError: they are in no file.
        """
        if source.path is None:
            raise UsageError("workers read samples from files; save the data, or leave out workers")
        return cls(source.path.absolute(), source.image_options, samples.sha256, _files(samples))

    def source(self) -> Source:
        """The data, to be opened as often as they are wanted."""
        return Source(self.path, images=self.images)

    def open(self, specs: list[InputSpec]) -> GivenSamples:
        """The samples, as they were seen: nothing is read before it is asked for.

        Raises:
            DataError: the files are not here, or others.
        """
        try:
            source = self.source()
            source.read_late(self.sha256)
            samples = source.open(specs)
            found = _files(samples)
        except DataError as error:
            raise DataError(f"on worker {platform.node()}: {error}") from error
        for own, expected in zip(found, self.files, strict=False):
            if own != expected:
                raise DataError(
                    f"on worker {platform.node()}: {self.path} has {own[0]} of {own[1]} bytes, "
                    f"where this machine has {expected[0]} of {expected[1]}; copy it there again"
                )
        if len(found) != len(self.files):
            raise DataError(
                f"on worker {platform.node()}: {self.path} has {len(found)} files, and "
                f"{len(self.files)} on this machine; copy it there again"
            )
        return samples


def _files(samples: GivenSamples) -> tuple[tuple[str, int], ...]:
    if isinstance(samples, ImageSamples):
        files: Sequence[Path] = samples.images.files
    else:
        assert isinstance(samples, FileSamples)
        files = samples.files
    return tuple((file.name, file.stat().st_size) for file in files)


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
