"""Calibration on workers: what it takes, and what becomes of it when a worker is killed.

    python tests/bench/bench_distributed_calibration.py MODEL.onnx SAMPLES.npz [--rounds 3]
    python tests/bench/bench_distributed_calibration.py MODEL.onnx SAMPLES.npz --kill 10

The first has the seconds of the step "calibrate", of the whole command and of processors in all its
processes, for one process of one thread and for 1 and 2 workers of one thread each: medians, one
after the other in turn. It says whether the files are the same.

The second kills one of two workers at a time drawn from the time that the command took before, and
says what came of it: the same file, or exit code 1 with one line and nothing written. It exits with
1 if anything else did.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

#: Options by what is run.
KINDS = {
    "one process": (),
    "1 worker": ("--workers", "1"),
    "2 workers": ("--workers", "2"),
}
_LIMIT = 600


def command(arguments: argparse.Namespace, folder: Path, *options: str) -> list[str]:
    """Of a compilation into a folder."""
    files = ["-o", str(folder / "out.onnx"), "--report", str(folder / "report.json")]
    data = ["--calibration", str(arguments.samples), "--threads", "1"]
    code = "from snn_compile.compiler.cli import main; main()"
    return [sys.executable, "-c", code, str(arguments.model), *files, *data, *options, "-q"]


def digest(folder: Path) -> str:
    """Of what was written; empty where nothing was."""
    output = folder / "out.onnx"
    return hashlib.sha256(output.read_bytes()).hexdigest() if output.exists() else ""


def times(arguments: argparse.Namespace) -> int:
    """The first of the two."""
    steps: dict[str, list[float]] = {kind: [] for kind in KINDS}
    whole: dict[str, list[float]] = {kind: [] for kind in KINDS}
    work: dict[str, list[float]] = {kind: [] for kind in KINDS}
    files: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for _ in range(arguments.rounds):
        for kind, options in KINDS.items():
            with tempfile.TemporaryDirectory() as name:
                folder, begin, before = Path(name), time.perf_counter(), _processors()
                subprocess.run(command(arguments, folder, *options), check=True, timeout=_LIMIT)
                whole[kind].append(time.perf_counter() - begin)
                work[kind].append(_processors() - before)
                files[kind].add(digest(folder))
                report = json.loads((folder / "report.json").read_text())
            (seconds,) = [p["seconds"] for p in report["passes"] if p["name"] == "calibrate"]
            steps[kind].append(seconds)
    print(f"{'':12}  calibrate  whole command  processors  file")
    for kind in KINDS:
        found = ", ".join(sorted(one[:12] for one in files[kind]))
        print(
            f"{kind:12}  {median(steps[kind]):7.2f} s  {median(whole[kind]):11.2f} s  "
            f"{median(work[kind]):8.2f} s  {found}"
        )
    return 0


def _processors() -> float:
    """Seconds of all processes that were started here, and by these, and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def kills(arguments: argparse.Namespace) -> int:
    """The second."""
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        begin = time.perf_counter()
        typed = command(arguments, Path(name), "--workers", "2")
        subprocess.run(typed, check=True, timeout=_LIMIT)
        expected, taken = digest(Path(name)), time.perf_counter() - begin
    print(f"without: {taken:.1f} s")
    wrong = 0
    for number in range(arguments.kill):
        with tempfile.TemporaryDirectory() as name:
            begin = time.perf_counter()
            typed = command(arguments, Path(name), "--workers", "2")
            process = subprocess.Popen(typed, stderr=subprocess.PIPE, text=True)
            workers = _workers(process)
            ready = time.perf_counter() - begin
            at = draw.uniform(ready, taken)
            time.sleep(max(begin + at - time.perf_counter(), 0))
            lost = draw.choice(workers)
            _kill(lost)
            _, errors = process.communicate(timeout=_LIMIT)
            found = digest(Path(name))
            same = process.returncode == 0 and found == expected
            lines = errors.strip().splitlines()
            ended = process.returncode == 1 and not found and len(lines) == 1
        outcome = "the same file" if same else f"exit code {process.returncode}: {errors.strip()}"
        print(f"{number}: killed after {at:.1f} s, {outcome}", flush=True)
        wrong += not (same or ended)
    print(f"{arguments.kill - wrong} of {arguments.kill} as they have to be")
    return 1 if wrong else 0


def _workers(process: subprocess.Popen[str]) -> list[int]:
    """Process ids of the two workers, once they are there and have read the compiler."""
    while process.poll() is None:
        found = [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and _is_worker(entry, process.pid)
        ]
        if len(found) == 2:
            return found
        time.sleep(0.02)
    raise RuntimeError(f"it ended with exit code {process.returncode}")


def _is_worker(entry: Path, parent: int) -> bool:
    try:
        # Name in brackets, state, parent.
        status = (entry / "stat").read_text().rpartition(")")[2].split()
        return int(status[1]) == parent and "spawn_main" in (entry / "cmdline").read_text()
    except OSError:  # it is gone
        return False


def _kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        print("it had ended")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("samples", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kill", type=int, default=0, help="so many times")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    return kills(arguments) if arguments.kill else times(arguments)


if __name__ == "__main__":
    sys.exit(main())
