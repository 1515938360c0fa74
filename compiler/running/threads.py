"""How many threads compute: those of the runtime's sessions and those of BLAS, set in one place.

Sessions have as many as there are processors, or as many as are asked for. BLAS has them only where
there are more than two: its own wait by spinning, which takes the processor from the runtime's, and
two halves of the samples are worked on at once instead (:func:`together`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from threadpoolctl import threadpool_info, threadpool_limits

T = TypeVar("T")

#: Threads up to which BLAS has one.
_FEW = 2


@dataclass(frozen=True)
class Threads:
    """How many there are.

    Attributes:
        runtime: inside an operator of a session.
        blas: inside a product of matrices.
    """

    runtime: int
    blas: int


_sessions: list[int] = []


def processors() -> int:
    """How many this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def of_sessions() -> int:
    """Threads inside an operator of a session that is made now."""
    return _sessions[-1] if _sessions else processors()


@contextmanager
def use_threads(asked: int | None) -> Iterator[Threads]:
    """Compute with so many threads; None: as around it, else one for each processor.

    What the environment allows BLAS (``OMP_NUM_THREADS`` and others) is not exceeded where none are
    asked for.
    """
    threads = of_sessions() if asked is None else asked
    blas = 1 if threads <= _FEW else threads
    if asked is None:
        blas = min([blas, *(pool["num_threads"] for pool in _pools())])
    _sessions.append(threads)
    try:
        with threadpool_limits(blas, user_api="blas"):
            yield Threads(threads, blas)
    finally:
        _sessions.pop()


def in_turn(*calls: Callable[[], T]) -> list[T]:
    """What the calls give, made one after the other."""
    return [call() for call in calls]


def together(*calls: Callable[[], T]) -> list[T]:
    """What the calls give, made at once where there are threads for it."""
    return list(as_they_come(calls))


def as_they_come(calls: Sequence[Callable[[], T]]) -> Iterator[T]:
    """What the calls give, in their order, made at once by as many threads as sessions have."""
    if of_sessions() == 1 or len(calls) < _FEW:
        yield from (call() for call in calls)
        return
    with ThreadPoolExecutor(min(len(calls), of_sessions())) as pool:
        yield from pool.map(lambda call: call(), calls)


def _pools() -> list[dict[str, int]]:
    """What BLAS libraries are loaded, and how many threads each has."""
    return [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
