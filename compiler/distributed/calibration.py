"""Sequential calibration whose side of the samples is spread over workers.

1. Each worker has a part of the batches, with a twin of both networks and a spool of its own
   (``shard.py``). In every round it gets the neurons and parameters that were settled, and gives
   back histograms and sums of errors. Neurons are fitted and layers corrected here.
2. Workers read the samples themselves (``place.py``).
3. Parts are of whole batches, whose size does not depend on the number of workers. Counts add
   exactly, sums of errors in an order that depends on the batches alone (``sums.py``). So the
   result does not depend on how many workers there are, nor on which has what.
4. What a worker holds is a function of its part and of what was settled. When a worker is lost, its
   part is computed again on another one, from the first round on; when that happens
   :data:`_LOSSES` times in one round, it is a :class:`ClusterError`.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any

from ..calibration.sequence.exchange import Job, Opener, Seen, Settled, Side
from ..calibration.sequence.shard import Part, Shard
from ..calibration.tuning.search_scale import hold_out
from ..errors import ClusterError, UsageError
from ..front_end import Prepared
from ..options import CompileOptions
from ..running.memory import free_memory
from ..running.spool import Spool
from ..running.threads import use_threads
from ..samples.base import GivenSamples, InputSpec, Samples, input_specs
from ..samples.source import Source
from .cluster import Cluster, Work, WorkerLostError, connected
from .place import Place

#: How often a part may be lost in one round.
_LOSSES = 3


@dataclass(frozen=True)
class _Given:
    """What each worker is given once.

    Attributes:
        run: of this calibration alone, as what is kept under it changes.
        job: what is calibrated.
        place: of the samples.
        specs: the model's inputs.
        size: of a batch.
        threads: of each worker.
    """

    run: str
    job: Job
    place: Place
    specs: list[InputSpec]
    size: int
    threads: int

    def samples(self) -> Samples:
        """Those that calibration looks at: a search of the scale has others."""
        samples = self.place.open(self.specs)
        return hold_out(samples)[0] if self.job.options.search_scale else samples


class _Place:
    """What one worker keeps of a calibration: the shards of its parts."""

    def __init__(self, given: _Given) -> None:
        self._given = given
        self._shards: dict[int, Shard] = {}
        self._threads = ExitStack()
        self._threads.enter_context(use_threads(given.threads))

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Forget the shards."""
        for shard in self._shards.values():
            shard.close()
        self._shards.clear()
        self._threads.close()

    def replay(self, part: Part, memory: float, history: Sequence[Settled]) -> Seen:
        """Take a part, and do what was done with it so far."""
        if part.first in self._shards:
            self._shards.pop(part.first).close()
        spool = Spool(int(memory * free_memory()))
        shard = self._shards[part.first] = Shard(self._given.job, part, spool)
        samples = self._given.samples()
        size = samples.fixed_batch or self._given.size
        seen = shard.start(islice(samples.batches(size, part.first * size), part.count))
        for settled in history:
            seen = shard.advance(settled)
        return seen

    def advance(self, part: Part, stage: int, settled: Settled) -> Seen | None:
        """Compute a stage of a part; None where the one before is not here."""
        shard = self._shards.get(part.first)
        if shard is None or shard.stage != stage - 1:
            return None
        return shard.advance(settled)


def _replay(place: _Place, item: tuple[Part, float, Sequence[Settled]]) -> Seen:
    return place.replay(*item)


def _advance(place: _Place, item: tuple[Part, int, Settled]) -> Seen | None:
    return place.advance(*item)


def _forget(place: _Place, _: None) -> None:
    place.close()


class Workers:
    """Workers that calibrate.

    Args:
        cluster: of these.
        source: the samples.
    """

    def __init__(self, cluster: Cluster, source: Source) -> None:
        self._cluster, self._source = cluster, source

    def opener(self, prepared: Prepared, options: CompileOptions) -> Opener:
        """Of the side of the samples; for :func:`..calibration.calibrate.calibrate`."""
        assert isinstance(prepared.samples, GivenSamples)  # as there is a source
        place = Place.of(self._source, prepared.samples)
        specs = input_specs(prepared.analog.proto)

        def opened(job: Job) -> Spread:
            run, threads = uuid.uuid4().hex, options.threads or 1
            given = _Given(run, _sendable(job), place, specs, prepared.block, threads)
            return Spread(self._cluster, given)

        return opened


@contextmanager
def calibrating_workers(options: CompileOptions, source: Source | None) -> Iterator[Workers | None]:
    """The workers that the options ask for; None where they ask for none.

    Raises:
        UsageError: the samples are in no file or folder; or as :func:`.cluster.connected`.
        ClusterError: as there.
    """
    if options.workers is None and options.scheduler is None:
        yield None
        return
    if source is None or source.path is None:
        raise UsageError(
            "--workers and --scheduler need samples in a file or folder, which workers read; save "
            "them with numpy.savez"
        )
    with connected(options.scheduler, options.workers) as cluster:
        yield Workers(cluster, source)


class Spread(Side):
    """The side of the samples on workers.

    Args:
        cluster: of these.
        given: what each of them is given.
    """

    def __init__(self, cluster: Cluster, given: _Given) -> None:
        job = given.job
        self._cluster, self._memory = cluster, job.options.memory
        self._put = cluster.put(given)
        self._history: list[Settled] = []
        self._waiting: dict[Part, Any] = {}
        # A part begins with a full batch: what is drawn of those in front follows from its size.
        workers = cluster.workers()[: job.full]
        bounds = [job.full * i // len(workers) for i in range(len(workers))] + [job.batches]
        self._parts = [Part(a, b - a, whole=False) for a, b in pairwise(bounds)]
        self._workers = dict(zip(self._parts, workers, strict=True))

    def start(self) -> Seen:
        """Compute stage 0.

        Raises:
            SnnCompileError: of a worker; a ``ClusterError`` if too many were lost.
        """
        for part in self._parts:
            self._begin(part)
        return self._seen()

    def advance(self, settled: Settled) -> Seen:
        """Compute the next stage; raises as :meth:`start`."""
        self._history.append(settled)
        for part in self._parts:
            self._submit(part, _advance, (part, len(self._history), settled))
        return self._seen()

    def close(self) -> None:
        """Let the workers forget what they hold."""
        from distributed import fire_and_forget

        with suppress(Exception):  # the scheduler may be gone
            self._cluster.client.cancel(list(self._waiting.values()))
            for worker in set(self._workers.values()).intersection(self._cluster.workers()):
                fire_and_forget(self._cluster.submit(_Place, _forget, self._put, None, worker))

    def _submit(self, part: Part, work: Work, item: Any) -> None:
        worker = self._workers[part]
        self._waiting[part] = self._cluster.submit(_Place, work, self._put, item, worker)

    def _begin(self, part: Part) -> None:
        """Compute all so far of a part on its worker."""
        hosts = Counter(_host(worker) for worker in self._workers.values())
        memory = self._memory / hosts[_host(self._workers[part])]
        self._submit(part, _replay, (part, memory, list(self._history)))

    def _seen(self) -> Seen:
        """The sum of what was seen of all parts."""
        first, *others = self._parts
        total = self._of(first)
        for part in others:
            total.merge(self._of(part))
        return total

    def _of(self, part: Part) -> Seen:
        """What was seen of a part; where it is lost, it is computed again: rule 4."""
        for _ in range(_LOSSES):
            worker = self._workers[part]
            try:
                seen: Seen | None = self._cluster.result(self._waiting[part], worker)
            except WorkerLostError:
                seen = None
                load = Counter(self._workers.values())
                self._workers[part] = min(self._cluster.wait_for_workers(), key=lambda w: load[w])
            if seen is not None:
                del self._waiting[part]
                return seen
            self._begin(part)
        raise ClusterError(
            f"{self._cluster.where}: worker after worker was lost in the same round of "
            "calibration; look at their memory, and at their logs"
        )


def _sendable(job: Job) -> Job:
    """Without the functions that neurons follow: they do not pickle, and shards fit no neurons."""
    rounds = [
        replace(this, neurons=[replace(one, function=None) for one in this.neurons])
        for this in job.schedule.rounds
    ]
    return replace(job, schedule=replace(job.schedule, rounds=rounds))


def _host(worker: str) -> str:
    return worker.rpartition(":")[0]
