"""Latency and peak memory of networks, side by side on one machine.

1. Several multi-threaded sessions in one process disturb each other, so each measurement is a
   process of its own with one session (:mod:`.latency_child`), and nothing else runs meanwhile. A
   machine's speed drifts, so in each round the processes of all networks take turns. A network's
   figure is the median over its processes; the ratio is taken within a round, then the median.
   Beside both stand the least and the largest.
2. Each process measures for :attr:`LatencyOptions.seconds`, and at least one run. Where a process
   needs more than :data:`SLOW` seconds in all, its network is measured in one round only; if it is
   the first network, to which the ratios are, so are the others at this batch size. A process that
   needs :attr:`LatencyOptions.limit` seconds is stopped, and one run of which can be expected to
   take that long, from batch 1, is not started: the network has no figure there.
3. The samples are real ones, since where a branch or the number of detections depends on the data
   so does the time. Where there are fewer than a batch needs, they are repeated.
4. A model that fixes its batch size, or has no batch axis, is measured as it is.
5. No process outlives this one: it ends when its input does.
6. Models are files that we wrote ourselves: they name no other file than one of ours beside them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import IO

import numpy as np

from ..progress import Progress
from ..report.results import LatencyResult
from ..samples.base import Samples

#: Seconds of one process above which a network is measured in one round only.
SLOW = 10.0
#: Tasks per core besides ours from which the machine is said to be busy.
BUSY = 0.25
#: How often it is looked, and seconds between.
_MOMENTS, _MOMENT = 10, 0.03

# Nothing is imported from the current folder, where a module may take the place of a real one.
_START = (
    "import sys; sys.path[:] = filter(None, sys.path);"
    "from snn_compile.compiler.evaluation.latency_child import main; main()"
)


@dataclass(frozen=True)
class LatencyOptions:
    """How latency is measured.

    Attributes:
        batch: the other batch size besides 1.
        rounds: processes per network and batch size.
        seconds: how long each process measures.
        threads: inside an operator; 0: the runtime's choice.
        limit: seconds after which a process is stopped.
    """

    batch: int = 32
    rounds: int = 3
    seconds: float = 0.5
    threads: int = 0
    limit: float = 20.0


@dataclass(frozen=True)
class Candidate:
    """A network to measure.

    Attributes:
        name: what it is called.
        path: its file, which we wrote.
        library: whether it runs on the C++ kernels.
    """

    name: str
    path: Path
    library: bool


@dataclass
class _Measured:
    """One network at one batch size: seconds by round, peaks, and whether that was all."""

    seconds: dict[int, float] = field(default_factory=dict)
    peaks: list[int | None] = field(default_factory=list)
    finished: bool = False


class _FailedError(Exception):
    """A process gave no figure; says why."""


def batch_sizes(samples: Samples, options: LatencyOptions) -> list[int]:
    """The sizes that the networks can be measured at: rule 4."""
    return [samples.fixed_batch] if samples.fixed_batch else sorted({1, options.batch})


def write_feeds(samples: Samples, sizes: Sequence[int], folder: Path) -> dict[int, Path]:
    """One .npz for each batch size, rule 3, by size."""
    paths = {}
    for size in sizes:
        feed = next(samples.batches(size))
        if not samples.unbatched:
            feed = {name: array[np.arange(size) % len(array)] for name, array in feed.items()}
        paths[size] = folder / f"feed_{size}.npz"
        np.savez(paths[size], **feed)  # type: ignore[arg-type]
    return paths


def measure_latency(
    candidates: Sequence[Candidate],
    feeds: Mapping[int, Path],
    options: LatencyOptions,
    progress: Progress,
) -> tuple[list[LatencyResult], list[str]]:
    """Measure every network at every batch size.

    Args:
        candidates: the networks; ratios are to the first.
        feeds: a file of inputs for each batch size.
        options: how.
        progress: told about processes done.

    Returns:
        Results by batch size, and why there are some missing.
    """
    found = {(batch, one): _Measured() for batch in feeds for one in candidates}
    problems: list[str] = []
    jobs = [(number, *key) for number in range(options.rounds) for key in found]
    for number, batch, candidate in progress.track(jobs, len(jobs), "measuring latency"):
        own, first = found[batch, candidate], found[batch, candidates[0]]
        if own.finished or (first.finished and number not in first.seconds):
            continue
        begin = time.perf_counter()
        try:
            _check_expected(batch, found.get((1, candidate)), options)
            seconds, peak = _measure(candidate, feeds[batch], options)
        except _FailedError as reason:
            problems.append(f"latency of {candidate.name} at batch {batch}: {reason}")
            own.finished = True
            continue
        own.seconds[number] = seconds
        own.peaks.append(peak)
        own.finished = time.perf_counter() - begin > SLOW
    results = []
    for (batch, candidate), own in found.items():
        first = found[batch, candidates[0]]
        ratios = [own.seconds[i] / first.seconds[i] for i in own.seconds if i in first.seconds]
        if ratios:
            seconds = median(own.seconds.values())
            peak = max((peak for peak in own.peaks if peak is not None), default=None)
            ranges = _range(list(own.seconds.values())), _range(ratios)
            results.append(
                LatencyResult(candidate.name, batch, seconds, median(ratios), peak, *ranges)
            )
    return results, problems


def busy_machine() -> str | None:
    """What makes figures of this machine doubtful just now; None where nothing does, or is known.

    The system says how many tasks run at a moment; where it does not, its load average of a minute
    counts, which may be our own work of before.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    running = _running_tasks()
    if running is None or running < BUSY * cores:
        return None
    return (
        f"the machine is busy: {running:.1f} other tasks run on {cores} cores; latency is larger "
        "and less steady than on an idle one"
    )


def _running_tasks() -> float | None:
    """How many tasks besides this one run, on average over some moments."""
    try:
        counts = []
        for _ in range(_MOMENTS):
            fields = Path("/proc/loadavg").read_text(encoding="ascii").split()
            counts.append(int(fields[3].split("/")[0]) - 1)
            time.sleep(_MOMENT)
        return sum(counts) / len(counts)
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows
        return None


def _range(values: Sequence[float]) -> tuple[float, float] | None:
    return (min(values), max(values)) if len(values) > 1 else None


def _check_expected(batch: int, alone: _Measured | None, options: LatencyOptions) -> None:
    """Refuse a batch that would take too long, from what one sample took."""
    expected = batch * min(alone.seconds.values(), default=0.0) if alone and batch > 1 else 0.0
    if expected > options.limit:
        raise _FailedError(f"a run would take about {expected:.0f} s; give a smaller batch")


def _measure(candidate: Candidate, feed: Path, options: LatencyOptions) -> tuple[float, int | None]:
    """Seconds and peak memory that a process of its own finds."""
    request = {
        "path": str(candidate.path),
        "feed": str(feed),
        "library": candidate.library,
        "threads": options.threads,
        "seconds": options.seconds,
    }
    command = [sys.executable, "-c", _START, json.dumps(request)]
    try:
        code, stdout, stderr = _run(command, options.limit)
    except subprocess.TimeoutExpired as error:
        raise _FailedError(f"no figure within {options.limit:g} s; give a smaller batch") from error
    if code != 0:
        lines = stderr.strip().splitlines() or [f"ended with code {code}"]
        raise _FailedError(lines[-1])
    answer = json.loads(stdout.splitlines()[-1])
    return answer["seconds"], answer["peak_bytes"]


def _run(command: list[str], limit: float) -> tuple[int, str, str]:
    """Exit code and what was printed; whatever interrupts this, the process ends first."""
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        # Its input is the sign that this process is alive.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stdout, stderr=stderr)
        try:
            code = process.wait(limit)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            if process.stdin is not None:
                process.stdin.close()
        return code, _text_of(stdout), _text_of(stderr)


def _text_of(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode(errors="replace")
