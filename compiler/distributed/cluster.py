"""A cluster of Dask: connected to or started here, checked, and given work.

1. Tasks are functions of a module, called with a value that was put on the cluster and an item:
   their results depend on nothing else. So Dask may compute one again, on another worker, when a
   worker is lost.
2. A value that is put travels once to each worker, and what is built from it there (sessions, open
   files) is kept: the last ones of :data:`_KEPT`.
3. A worker does one task at a time, however many threads Dask gives it.
4. Results come in the order of the items. So many more than there are workers are under way at
   once: those that are done wait for the ones before them, and memory is bounded.
5. Versions that differ are refused, :mod:`.versions`: at the beginning, and of a worker that comes
   later by its first task.
6. Refusals (``errors.py``) of a task are raised here as they are. Of several the one of the first
   item is.
7. Of a cluster that is started here workers that die are started again. Where a task kills worker
   after worker, no worker is there for :data:`PATIENCE` seconds, or the scheduler is gone, that is
   a :class:`ClusterError`.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import logging
import pickle
import threading
import time
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from ..errors import ClusterError, SnnCompileError, UsageError
from ..progress import Progress
from .versions import difference, versions

#: Seconds to wait for a scheduler's answer, and for a first worker.
TIMEOUT = 10.0
#: Seconds for a result to come, after which it is given up.
_LONGEST = 600.0
#: Seconds without any worker after which the work is given up.
PATIENCE = 30.0
#: Tasks under way for each worker.
_AHEAD = 4
#: What workers build from values, as many as are kept.
_KEPT = 2
#: What processes of one thread are told, whatever library their BLAS is of.
_SINGLE = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
#: Packages whose exceptions say that the cluster fails, not a task.
_OF_DASK = ("distributed", "asyncio", "concurrent")
#: Seconds between looks at the cluster while a result is waited for.
_MOMENT = 1.0

#: One and the same from Python 3.11 on.
_TIMED_OUT = (TimeoutError, asyncio.TimeoutError)

Build = Callable[[Any], Any]
Work = Callable[[Any, Any], Any]


class WorkerLostError(Exception):
    """The worker that had to do a task is gone."""


@dataclass(frozen=True)
class Put:
    """A value on the cluster.

    Attributes:
        key: SHA-256 of its bytes.
        future: what Dask holds it by.
    """

    key: str
    future: Any


class Cluster:
    """Workers that answer. It is made by :func:`connected`.

    Attributes:
        client: of Dask, for what is not here.
        where: what messages call it.
    """

    def __init__(self, client: Any, where: str) -> None:
        self.client, self.where = client, where

    def workers(self) -> list[str]:
        """Addresses of the workers that are there now, in order."""
        with self.losses():
            return sorted(self.client.nthreads())

    def wait_for_workers(self) -> list[str]:
        """The same, once there are some.

        Raises:
            ClusterError: rule 7.
        """
        without = None
        while not (there := self.workers()):
            without = self._watch(without)
            time.sleep(_MOMENT / 10)
        return there

    def put(self, value: Any) -> Put:
        """Give a value that can be pickled to the cluster; rule 2."""
        data = pickle.dumps(value, protocol=5)
        key = hashlib.sha256(data).hexdigest()
        with warnings.catch_warnings():
            # Of a value in a task Dask says that it is large. It is meant: a scheduler that has it
            # can give it to workers that come in the place of all that were lost.
            warnings.simplefilter("ignore")
            with self.losses():
                future = self.client.submit(_same, data, key=f"snn-{key}")
        return Put(key, future)

    def warm_up(self, module: str) -> None:
        """Let the workers import a module of ours, while this process does other things."""
        self.client.run(importlib.import_module, module, wait=False, on_error="ignore")

    def submit(self, build: Build, work: Work, put: Put, item: Any, worker: str = "") -> Any:
        """One task: ``work(build(value), item)``; ``build`` once per worker and value.

        Args:
            build: function of a module; makes of the value what tasks need.
            work: function of a module; its result is pickled.
            put: the value.
            item: what this task is about.
            worker: address of the one that has to do it; empty: any.

        Returns:
            Dask's future, for :meth:`result`.
        """
        own = {"workers": [worker], "allow_other_workers": False} if worker else {}
        arguments = (dict(versions()), build, work, put.key, put.future, item)
        with self.losses():
            return self.client.submit(_task, *arguments, pure=False, **own)

    def result(self, future: Any, worker: str = "") -> Any:
        """Wait for a task.

        Args:
            future: of :meth:`submit`.
            worker: as there.

        Raises:
            SnnCompileError: a refusal of the task; :class:`ClusterError`: rule 7.
            WorkerLostError: the worker is gone.
        """
        from distributed import wait

        without = None
        with self.losses():
            while not future.done():
                with suppress(*_TIMED_OUT), self.client.as_current():
                    wait([future], timeout=_MOMENT)
                without = self._watch(without)
                self._check_there(worker)
            return self._fetched(future, worker)

    def map(
        self,
        build: Build,
        work: Work,
        put: Put,
        items: Iterable[Any],
        total: int,
        label: str,
        progress: Progress,
    ) -> Generator[Any, None, None]:
        """The results of :meth:`submit` for each item, in order; rule 4.

        What is under way is cancelled when the iterator is closed, or an error leaves it.

        Args:
            build: as there.
            work: as there.
            put: the value.
            items: one for each task.
            total: how many they are.
            label: of the progress.
            progress: told about results.

        Raises:
            As :meth:`result`.
        """
        waiting: deque[Any] = deque()

        def results() -> Iterator[Any]:
            for item in items:
                waiting.append(self.submit(build, work, put, item))
                if len(waiting) >= _AHEAD * max(len(self.workers()), 1):
                    yield self.result(waiting[0])
                    waiting.popleft()
            while waiting:
                yield self.result(waiting[0])
                waiting.popleft()

        try:
            yield from progress.track(results(), total, label)
        finally:
            with suppress(Exception):  # the scheduler may be gone
                self.client.cancel(list(waiting))

    def _fetched(self, future: Any, worker: str) -> Any:
        """The result of a task that was done; whoever has it may be gone since."""
        timeout = TIMEOUT
        while True:
            try:
                return future.result(timeout=timeout)
            except _TIMED_OUT:
                self._check_there(worker)
                if not worker or timeout > _LONGEST:
                    raise
            timeout *= 4  # it is large

    def _check_there(self, worker: str) -> None:
        if worker and worker not in self.workers():
            raise WorkerLostError(worker)

    def _watch(self, without: float | None) -> float | None:
        """Look whether there are workers; since when there are none.

        Raises:
            ClusterError: there have been none for too long, or the scheduler is gone.
        """
        if self.client.status != "running":
            raise self._gone(None)
        there = self.workers()
        if there:
            return None
        now = time.monotonic()
        if without is not None and now - without > PATIENCE:
            raise ClusterError(
                f"{self.where}: has had no worker for {PATIENCE:g} s; start some, then run again"
            )
        return now if without is None else without

    @contextmanager
    def losses(self) -> Iterator[None]:
        """What Dask raises where workers or the scheduler are lost becomes a refusal: rule 7."""
        from distributed import KilledWorker

        try:
            yield
        except KilledWorker as error:
            raise ClusterError(
                f"{self.where}: worker after worker died at the same task, the last was "
                f"{error.last_worker.address}; look at its memory, and at its log"
            ) from error
        except (SnnCompileError, MemoryError, WorkerLostError):
            raise
        except Exception as error:
            of_dask = type(error).__module__.partition(".")[0] in _OF_DASK
            # Of a connection that is not made Dask says an OSError in words alone.
            unreached = isinstance(error, OSError) and error.errno is None
            if of_dask or unreached or isinstance(error, (*_TIMED_OUT, ConnectionError)):
                raise self._gone(error) from error
            raise

    def _gone(self, error: Exception | None) -> ClusterError:
        lines = str(error).strip().splitlines() if error else []
        reason = f" ({type(error).__name__}: {' '.join(lines[:3])})" if error else ""
        return ClusterError(f"{self.where}: the scheduler is gone{reason}; run again")


@contextmanager
def asked_for(scheduler: str | None, workers: int | None, warm_up: str) -> Iterator[Cluster | None]:
    """As :func:`connected`; None where neither is asked for.

    Args:
        scheduler: as there.
        workers: as there.
        warm_up: module that has the work: it is imported here and on the workers meanwhile.
    """
    if scheduler is None and workers is None:
        yield None
        return
    check_installed()
    # Processes take a second to start, in which this one has nothing else to do.
    threading.Thread(target=importlib.import_module, args=(warm_up,), daemon=True).start()
    with connected(scheduler, workers) as cluster:
        cluster.warm_up(warm_up)
        yield cluster


@contextmanager
def connected(scheduler: str | None, workers: int | None) -> Iterator[Cluster]:
    """A cluster: a running one, or one on this machine that ends with the block.

    Args:
        scheduler: address of a running one, as Dask has it: tcp://host:8786.
        workers: else how many processes to start, of one thread each.

    Raises:
        UsageError: Dask is not installed, no scheduler answers, versions differ.
        ClusterError: no worker came.
    """
    if (scheduler is None) == (workers is None):
        raise UsageError("--scheduler and --workers exclude each other; leave out one of them")
    check_installed()
    with (
        _quiet(),
        _loop() as loop,
        _started(workers or 1, loop) if scheduler is None else _reached(scheduler, loop) as cluster,
    ):
        with cluster.losses():
            _check_versions(cluster)
        yield cluster


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Dask's own log: what goes wrong arrives as an exception."""
    import distributed  # noqa: F401  # it sets the levels

    known = [name for name in logging.root.manager.loggerDict if name.startswith("distributed")]
    before = {name: logging.getLogger(name).level for name in known}
    for name in known:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def check_installed() -> None:
    """Refuse where Dask is missing.

    Raises:
        UsageError: it is.
    """
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "--scheduler and --workers need Dask: install the extra 'distributed' (pip install "
            "'snn-compile[distributed]'), or leave them out"
        ) from error


@contextmanager
def _started(workers: int, loop: Any) -> Iterator[Cluster]:
    """Processes of this machine. No one else reaches them, and they end with this one."""
    from distributed import Client

    with _local(workers, loop) as local, Client(local, set_as_default=False) as client:
        try:
            client.wait_for_workers(workers, timeout=TIMEOUT * 6)
        except _TIMED_OUT as error:
            raise ClusterError(f"of {workers} processes some did not start within 60 s") from error
        yield Cluster(client, "the cluster on this machine")


@contextmanager
def _loop() -> Iterator[Any]:
    """A loop of events that runs in a thread of its own, as Dask's would.

    Dask gives its thread 10 s to start and then fails by an assertion, which a machine that was
    busy or asleep for a moment has seen. This one is waited for.
    """
    from tornado.ioloop import IOLoop

    started: Future[tuple[IOLoop, asyncio.Event]] = Future()

    async def run() -> None:
        ended = asyncio.Event()
        started.set_result((IOLoop.current(), ended))
        await ended.wait()

    def work() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=work, daemon=True, name="loop of Dask")
    thread.start()
    loop, ended = started.result()
    try:
        yield loop
    finally:
        loop.add_callback(ended.set)
        thread.join()


def _local(workers: int, loop: Any) -> Any:
    """Processes that have started. In a thread: what is stopped half-way is not closed by Dask."""
    import dask
    from distributed import LocalCluster

    # Dask would have the memory of every large array given back to the system and cleared again,
    # which takes longer than what is computed in it. What a worker takes is what the work takes.
    environment = {"distributed.nanny.pre-spawn-environ": dict.fromkeys(_SINGLE, "1")}
    with dask.config.set(environment), ThreadPoolExecutor(1) as thread:
        starting = thread.submit(
            LocalCluster,
            loop=loop,
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",  # of its status, which needs some port
            scheduler_kwargs={"dashboard": False},
            memory_limit=0,
            silence_logs=logging.CRITICAL,
            preload=f"{__package__}.quiet_worker",
        )
        try:
            return starting.result()
        except RuntimeError as error:
            raise ClusterError(
                f"of {workers} processes some did not start ({error}); run again"
            ) from error
        except BaseException:  # asked to stop
            starting.result().close()
            raise


@contextmanager
def _reached(scheduler: str, loop: Any) -> Iterator[Cluster]:
    from distributed import Client

    where = f"the cluster at {scheduler}"
    try:
        client = Client(scheduler, loop=loop, timeout=TIMEOUT, set_as_default=False)
    except (OSError, ValueError, TypeError, ImportError) as error:
        reason = str(error).strip().splitlines()
        raise UsageError(
            f"--scheduler {scheduler}: no scheduler of Dask answers ({' '.join(reason[:1])}); "
            "start one with 'dask scheduler', which says its address"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=TIMEOUT)
        except _TIMED_OUT as error:
            raise ClusterError(
                f"{where}: has no workers; start some with 'dask worker {scheduler}'"
            ) from error
        yield Cluster(client, where)


def _check_versions(cluster: Cluster) -> None:
    """Rule 5."""
    known = cluster.client.get_versions(check=False)
    advice = "install the same on both"
    places = {f"the scheduler at {cluster.client.scheduler.address}": known["scheduler"]}
    places |= {f"worker {address}": one for address, one in known["workers"].items()}
    for place, one in places.items():
        packages = {name: version for name, version in one["packages"].items() if version}
        packages["python"] = ".".join(map(str, packages["python"].split(".")[:3]))
        if found := difference({name: packages[name] for name in packages if name in _COMMON}):
            raise UsageError(f"{place} {found}; {advice}")
    answers: Mapping[str, Any] = cluster.client.run(_versions_there, on_error="return")
    for address, answer in answers.items():
        if isinstance(answer, Exception):
            raise UsageError(
                f"worker {address} cannot run snn-compile ({type(answer).__name__}: {answer}); "
                "install the same version there, with its extra 'distributed'"
            )
        if found := difference(answer):
            raise UsageError(f"worker {address} {found}; {advice}")


#: What Dask's own comparison has that ours has too.
_COMMON = ("python", "dask", "distributed")


def _versions_there() -> dict[str, str]:
    return dict(versions())


def _same(data: bytes) -> bytes:
    return data


#: Of this process, where it is a worker: what was built, the latest last.
_built: OrderedDict[tuple[str, str], Any] = OrderedDict()
_one_at_a_time = threading.Lock()


def _task(
    expected: Mapping[str, str], build: Build, work: Work, key: str, data: bytes, item: Any
) -> Any:
    """What a worker does: rules 2, 3 and 5."""
    for name, version in versions().items():
        if expected.get(name) != version:
            raise UsageError(
                f"a worker has {name} {version}, and this machine has {expected.get(name)}; "
                "install the same on both"
            )
    with _one_at_a_time:
        own = f"{build.__module__}.{build.__qualname__}", key
        if own not in _built:
            while len(_built) >= _KEPT:
                _built.popitem(last=False)
            _built[own] = build(pickle.loads(data))
        _built.move_to_end(own)
        return work(_built[own], item)
