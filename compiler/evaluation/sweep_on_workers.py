"""A sweep on the workers of a cluster: one task for each point, which compiles and compares it.

A worker calibrates and runs all test samples itself, in one process, so that a point is what it is
in a sweep of one process with as many threads. The network is prepared once per worker.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

from ...passes.graph.network import Network
from ..distributed.place import Place
from ..errors import SnnCompileError
from ..progress import Progress
from ..report.results import OutputResult
from ..running.threads import use_threads
from ..samples.base import GivenSamples
from .compare import compare
from .energy import EnergyTable
from .labels import find_labels
from .on_workers import Elsewhere
from .side_by_side import Networks
from .sweep import FrontEnd, Job, Measured, Trials
from .tasks.choose import Given


@dataclass(frozen=True)
class Trial:
    """What was measured of a compiled network.

    Attributes:
        outputs: against those of the ANN.
        energy: pJ per sample by accounting.
        warnings: what the user should know.
    """

    outputs: list[OutputResult]
    energy: dict[str, float]
    warnings: list[str]

    @classmethod
    def of(
        cls,
        ann: Network,
        snn: Network,
        samples: GivenSamples,
        given: Given,
        table: EnergyTable,
        progress: Progress,
    ) -> Trial:
        """That of a network, on all samples."""
        one = compare(Networks(ann, snn, {}, False), samples, given, table, progress)
        return cls(one.outputs, one.energy.totals if one.energy else {}, one.warnings)


@dataclass(frozen=True)
class SweepJob:
    """What a worker needs besides the settings.

    Attributes:
        ann: the trained network.
        test: where and how test samples are read, and the workers.
        calibration: where calibration samples are.
        energy: energies per operation.
    """

    ann: Network
    test: Elsewhere
    calibration: Place
    energy: EnergyTable


def tried_on_workers(
    job: SweepJob, warn: Callable[[Sequence[str]], None], progress: Progress
) -> Trials:
    """Tries settings on workers.

    Args:
        job: what they need; its cluster stays here.
        warn: told the warnings of each point.
        progress: told about points done.
    """
    cluster = job.test.cluster

    def tried(jobs: Sequence[Job]) -> Generator[Measured | SnnCompileError, None, None]:
        test = job.test
        data = test.specs, test.place, test.labels, test.task, test.threads
        put = cluster.put((job.ann, data, job.calibration, job.energy))
        with closing(
            cluster.map(_Worker, _try, put, jobs, len(jobs), "sweep", progress)
        ) as outcomes:
            for outcome in outcomes:
                if isinstance(outcome, SnnCompileError):
                    yield outcome
                    continue
                warn(outcome.warnings)
                yield outcome.outputs, outcome.energy

    return tried


class _Worker:
    """On a worker: samples, and the network prepared."""

    def __init__(self, value: tuple) -> None:  # type: ignore[type-arg]
        self.ann, data, calibration, self.energy = value
        specs, place, labels, task, self.threads = data
        self.samples = place.open(specs)
        found = find_labels(self.samples, {spec.name for spec in specs}, labels)
        self.given = Given(self.samples.count, found, task)
        calibration.open(specs)  # its files are those that were seen
        self.front_end = FrontEnd(self.ann.attached(), calibration.source(), Progress())


def _try(worker: _Worker, job: Job) -> Trial | SnnCompileError:
    """On a worker: a point."""
    trials: list[Trial] = []

    def measure(network: Network) -> Measured:
        trial = Trial.of(
            worker.ann, network, worker.samples, worker.given, worker.energy, Progress()
        )
        trials.append(trial)
        return trial.outputs, trial.energy

    with use_threads(worker.threads):
        outcome = worker.front_end.tried(job, measure)
    return outcome if isinstance(outcome, SnnCompileError) else trials[0]
