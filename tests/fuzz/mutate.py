"""Compile damaged models: every one must end in a valid model or a documented refusal.

    python tests/fuzz/mutate.py --count 5000 --seed 0

Model number i depends on the seed and i alone; ``--only i`` compiles that one in this process and
keeps its file. Models run in worker processes. A worker that a signal ends is a crash, an exception
that is not a refusal a traceback. A worker that says nothing for ``--timeout`` seconds gets Ctrl-C:
a network may take as long as it likes, or for ever, but must stop when it is asked to; one that
does not within 10 seconds is a hang. The exit code is 1 if there was any crash, traceback or hang.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import os
import queue
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from mutations import mutate
from seeds import DATA, DATA_FILE, seed_models
from snn_compile.compiler import CompileOptions, compile_model, pipeline
from snn_compile.compiler.errors import SnnCompileError

SAMPLES = 4
MEMORY = 6 << 30
PATIENCE = 10  # seconds that a worker may take to stop
DOCUMENTED = {0, 2, 3, 4, 5}


def compile_case(models: list, seed: int, number: int, folder: Path) -> str:
    """What became of model ``number``: an exit code, or where it failed."""
    path = folder / "model.onnx"
    path.write_bytes(mutate(models, np.random.default_rng([seed, number])))
    try:
        compile_model(path, None, CompileOptions())
    except SnnCompileError as error:
        return f"exit {error.exit_code}: {error}".replace("\n", " ")[:400]
    except MemoryError:
        return "out of memory"
    except KeyboardInterrupt:
        return "stopped: it ran for too long, and Ctrl-C ended it"
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        ours = [
            f
            for f in traceback.extract_tb(error.__traceback__)
            if "/snn_compile/" in f.filename
            or any(f"/{part}/" in f.filename for part in ("compiler", "passes"))
        ][-1]
        text = str(error).splitlines()[0][:160] if str(error) else ""
        return (
            f"traceback {type(error).__name__} at {Path(ours.filename).name}:{ours.lineno} "
            f"({Path(frame.filename).name}:{frame.lineno}): {text}"
        )
    return "exit 0"


@contextlib.contextmanager
def case_folder() -> Iterator[Path]:
    """A folder for the models, with the data file that one of them reads."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / DATA_FILE).write_bytes(DATA)
        yield Path(name)


def prepare() -> list:
    """Few samples, no chatter, bounded memory; the models to start from."""
    warnings.simplefilter("ignore")
    pipeline.SYNTHETIC_SAMPLES = SAMPLES
    return seed_models()


def work(seed: int, numbers: range) -> None:
    """Compile these models; one line before and one after each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background ignore it
    models = prepare()
    with case_folder() as folder:
        for number in numbers:
            print(f"begin {number}", flush=True)
            print(f"end {number} {compile_case(models, seed, number, folder)}", flush=True)


class Worker(threading.Thread):
    """Runs numbers from a queue in one process after another."""

    def __init__(self, arguments: argparse.Namespace, chunks: queue.Queue, results: dict) -> None:
        super().__init__()
        self._arguments, self._chunks, self._results = arguments, chunks, results

    def run(self) -> None:
        while True:
            try:
                numbers = self._chunks.get_nowait()
            except queue.Empty:
                return
            while numbers and time.monotonic() < self._arguments.deadline:
                numbers = range(self._run(numbers), numbers.stop)

    def _run(self, numbers: range) -> int:
        """Results of a worker until it ends; the number to go on with."""
        command = [sys.executable, __file__, "--seed", str(self._arguments.seed)]
        process = subprocess.Popen(
            [*command, "--work", f"{numbers.start}:{numbers.stop}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        current, hung = None, False

        def end() -> None:
            nonlocal hung
            hung = True
            process.kill()

        while True:
            limit = self._arguments.timeout + (30 if current is None else 0)  # imports
            watches = [
                threading.Timer(limit, process.send_signal, [signal.SIGINT]),
                threading.Timer(limit + PATIENCE, end),
            ]
            for watch in watches:
                watch.start()
            line = process.stdout.readline()
            for watch in watches:
                watch.cancel()
            if not line:
                break
            kind, number, *rest = line.rstrip("\n").split(" ", 2)
            current = int(number)
            if kind == "end":
                self._results[current] = rest[0]
            if time.monotonic() > self._arguments.deadline:
                process.kill()
                process.wait()
                return numbers.stop
        code = process.wait()
        if current is None:
            raise RuntimeError(f"the worker did not start (exit code {code})")
        if current not in self._results:
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            self._results[current] = "hang" if hung else f"crash {name}"
        return current + 1


def main() -> int:
    """Run the models and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--timeout", type=float, default=20, help="seconds for one model")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--only", type=int, help="one model, in this process; its file is kept")
    parser.add_argument("--messages", type=Path, help="write what became of each model here")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.seed, range(*map(int, arguments.work.split(":"))))
        return 0
    if arguments.only is not None:
        return _only(arguments.seed, arguments.only)

    begin = time.monotonic()
    arguments.deadline = begin + arguments.seconds
    chunks: queue.Queue = queue.Queue()
    for start in range(0, arguments.count, 100):
        chunks.put(range(start, min(start + 100, arguments.count)))
    results: dict[int, str] = {}
    workers = [Worker(arguments, chunks, results) for _ in range(arguments.processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return _show(results, arguments.seed, time.monotonic() - begin, arguments.messages)


def _only(seed: int, number: int) -> int:
    models = prepare()
    folder = Path(tempfile.mkdtemp())
    (folder / DATA_FILE).write_bytes(DATA)
    path = folder / "model.onnx"
    path.write_bytes(mutate(models, np.random.default_rng([seed, number])))
    print(path, flush=True)
    faulthandler.dump_traceback_later(20)
    try:
        compile_model(path, None, CompileOptions())
    except SnnCompileError as error:
        print(f"exit {error.exit_code}: {error}")
    return 0


def _show(results: dict[int, str], seed: int, seconds: float, messages: Path | None) -> int:
    kinds = Counter(_kind(outcome) for outcome in results.values())
    print(f"{len(results)} models in {seconds:.0f} s")
    if messages:
        messages.write_text(
            "".join(f"{number} {outcome}\n" for number, outcome in sorted(results.items()))
        )
    for kind, count in sorted(kinds.items()):
        print(f"{count:6d}  {kind}")
    bad = {n: outcome for n, outcome in results.items() if not _is_documented(outcome)}
    grouped: dict[str, list[int]] = {}
    for number, outcome in sorted(bad.items()):
        grouped.setdefault(outcome, []).append(number)
    for outcome, numbers in sorted(grouped.items(), key=lambda item: -len(item[1])):
        some = ", ".join(map(str, numbers[:6]))
        print(f"{len(numbers):4d}  {outcome}\n      --seed {seed} --only {some}")
    return 1 if bad else 0


def _kind(outcome: str) -> str:
    return (
        outcome.split(":")[0]
        if outcome.startswith(("exit", "out of", "stopped"))
        else outcome.split()[0]
    )


def _is_documented(outcome: str) -> bool:
    documented = {"out of memory", "stopped", *(f"exit {code}" for code in DOCUMENTED)}
    return _kind(outcome) in documented


if __name__ == "__main__":
    sys.exit(main())
