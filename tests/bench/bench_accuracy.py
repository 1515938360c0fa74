"""Accuracy of compiled networks against their ANNs: the tables of docs/accuracy.md.

    python tests/bench/bench_accuracy.py --data ../shared/data
    python tests/bench/bench_accuracy.py --data ../shared/data --tables main --minutes 60
    python tests/bench/bench_accuracy.py --data ../shared/data --quick

1. Each configuration (a row of a table with one seed) is measured in a process of its own, so that
   memory does not add up, on one processor, so that sums do not depend on how many there are; as
   many run at a time as there are processors. Its result is kept in ``--cache`` (the ANN's
   outputs in a folder beside it). What is there is not measured again: an interrupted run goes on,
   and a long one can be done in portions (``--minutes``).
2. A result belongs to the network, the samples, the options, the seed, the versions of the packages
   and the code. The code is known by the hash of its files, or by ``--tag``, for results that
   shall outlive a change of the code.
3. The chosen tables are then written between their markers into ``--out``; rows without a result
   say so. ``--quick`` measures a little of everything, and prints unless ``--out`` is given.

Networks are in ``shared_networks.py``, rows in ``accuracy_tables.py``, what is measured in
``accuracy_worker.py``, intervals in ``accuracy_intervals.py``. Exit code
1 if a configuration failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import snn_compile.compiler
import snn_compile.passes
import snn_compile.runtime_ops
from accuracy_configuration import Configuration
from accuracy_page import identity, replace_block, table
from accuracy_tables import TABLES, Plan, Section
from shared_networks import MINILM, NETWORKS, absent, digest, sentence_counts

_REPOSITORY = Path(__file__).resolve().parents[2]
_WORKER = Path(__file__).with_name("accuracy_worker.py")
_MEASURING = (
    *("accuracy_worker", "accuracy_configuration", "shared_networks", "sentences", "minilm"),
)
_PACKAGES = ("numpy", "onnx", "onnxruntime")
_TIME_LIMIT = 3600


def code_hash() -> str:
    """Hash of the compiler and of what measures here."""
    total = hashlib.sha256()
    files = [Path(__file__).with_name(f"{name}.py") for name in _MEASURING]
    for package in (snn_compile.compiler, snn_compile.passes, snn_compile.runtime_ops):
        for folder in package.__path__:
            files += sorted(Path(folder).rglob("*.py"))
            files += sorted(Path(folder).rglob("*.cc")) + sorted(Path(folder).rglob("*.h"))
    for file in files:
        total.update(file.name.encode() + file.read_bytes())
    return total.hexdigest()[:12]


@dataclass
class Cache:
    """Results by the hash of all that they depend on, in a file that is whole at any time.

    Attributes:
        path: the file.
        code: the tag or hash of the code.
        data: folder of networks and samples.
    """

    path: Path
    code: str
    data: Path
    _entries: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.is_file():
            self._entries = json.loads(self.path.read_text(encoding="utf-8"))

    def get(self, configuration: Configuration) -> dict[str, Any] | None:
        """The result, if there is one."""
        entry = self._entries.get(self._key(configuration))
        return None if entry is None else entry["result"]

    def put(self, configuration: Configuration, result: dict[str, Any]) -> None:
        """Keep a result."""
        self._entries[self._key(configuration)] = {
            "configuration": configuration.as_dict(),
            "code": self.code,
            "versions": versions(),
            "result": result,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(self.path.name + ".part")
        partial.write_text(json.dumps(self._entries, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.path)

    def answers(self, configuration: Configuration) -> Path:
        """Where the outputs of its ANN on its test samples are kept."""
        what = f"{digest(NETWORKS[configuration.network], self.data)} {configuration.test}"
        name = hashlib.sha256(f"{what} {versions()}".encode()).hexdigest()[:24]
        return self.path.with_name(f"{self.path.stem}_ann") / f"{name}.npy"

    def _key(self, configuration: Configuration) -> str:
        content = {
            "configuration": configuration.as_dict(),
            "code": self.code,
            "versions": versions(),
            "data": digest(NETWORKS[configuration.network], self.data),
        }
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {name: metadata.version(name) for name in _PACKAGES}


def measure(configuration: Configuration, cache: Cache) -> dict[str, Any]:
    """The result of a worker.

    Raises:
        RuntimeError: the worker failed.
    """
    request = {
        "configuration": configuration.as_dict(),
        "data": str(cache.data),
        "answers": str(cache.answers(configuration)),
    }
    return ask_worker(_WORKER, request, _TIME_LIMIT)


def ask_worker(worker: Path, request: dict[str, Any], time_limit: float) -> dict[str, Any]:
    """What a worker, a script in a process of its own, answers.

    Args:
        worker: reads the request from stdin; the last line that it writes is the answer. Both are
            JSON.
        request: what it is asked.
        time_limit: in seconds.

    Raises:
        RuntimeError: it failed; the message is its last line, all of it goes to stderr.
    """
    try:
        done = subprocess.run(
            [sys.executable, str(worker)],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=time_limit,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"took longer than {time_limit} s") from error
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr)
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise RuntimeError(lines[-1] if lines else f"exit code {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure_missing(
    configurations: list[Configuration],
    cache: Cache,
    until: float,
    measure_one: Callable[[Configuration, Cache], dict[str, Any]] = measure,
) -> dict[str, str]:
    """Fill the cache; what failed, by identity, with the reason.

    Args:
        configurations: in the order in which they are begun, one on each processor at a time.
        cache: gets the results, one by one.
        until: when nothing new is begun, in seconds of time.monotonic.
        measure_one: the measurement.
    """
    errors: dict[str, str] = {}
    todo = missing(configurations, cache)
    processors: SimpleQueue[int] = SimpleQueue()
    for processor in sorted(os.sched_getaffinity(0)):
        processors.put(processor)

    def timed(configuration: Configuration) -> tuple[dict[str, Any] | str | None, float]:
        begin = time.monotonic()
        if begin >= until:
            return None, 0.0
        processor = processors.get()
        os.sched_setaffinity(0, {processor})  # of this thread, and of the worker that it starts
        try:
            return measure_one(configuration, cache), time.monotonic() - begin
        except RuntimeError as error:
            return f"failed: {error}", time.monotonic() - begin
        finally:
            processors.put(processor)

    left = 0
    with ThreadPoolExecutor(processors.qsize()) as pool:
        running = {pool.submit(timed, configuration): configuration for configuration in todo}
        for number, future in enumerate(as_completed(running), 1):
            configuration, (result, seconds) = running[future], future.result()
            if result is None:
                left += 1
                continue
            if isinstance(result, str):
                errors[identity(configuration)] = result
            else:
                cache.put(configuration, result)
            outcome = result if isinstance(result, str) else "done"
            where = f"{configuration.network} seed {configuration.seed} {configuration.options}"
            print(
                f"[{number}/{len(todo)}] {seconds:6.1f} s {outcome}: {configuration.what} {where}",
                file=sys.stderr,
                flush=True,
            )
    if left:
        print(f"time is up, {left} are left", file=sys.stderr)
    return errors


def missing(configurations: list[Configuration], cache: Cache) -> list[Configuration]:
    """Those that have no result, each once."""
    unique = {identity(configuration): configuration for configuration in configurations}
    return [configuration for configuration in unique.values() if cache.get(configuration) is None]


def write_tables(
    page: str,
    sections: dict[str, list[Section]],
    intros: dict[str, list[str]],
    cache: Cache,
    errors: dict[str, str],
) -> str:
    """The page with these tables."""
    for name, parts in sections.items():
        configurations = [c for part in parts for row in part.rows for c in row.configurations]
        found = {identity(c): cache.get(c) for c in configurations}
        results = {key: result for key, result in found.items() if result is not None}
        lines = list(intros[name])
        for part in parts:
            lines += ["", *table(part, results, errors)]
        page = replace_block(page, name, "\n".join(lines))
    return page


def intro(
    name: str,
    arguments: argparse.Namespace,
    plan: Plan,
    code: str,
    gone: dict[str, str],
    parts: list[Section],
) -> list[str]:
    """The lines above a table: the command, versions, sample counts, what is absent."""
    seeds = ",".join(map(str, plan.seeds))
    data = "DATA" if arguments.data.is_absolute() else arguments.data.as_posix()
    command = f"python tests/bench/bench_accuracy.py --data {data} --tables {name} --seeds {seeds}"
    if arguments.models:
        command += f" --models {','.join(arguments.models)}"
    if plan.quick:
        command += " --quick"
    packages = ", ".join(f"{package} {version}" for package, version in versions().items())
    used = {c.network: c for part in parts for row in part.rows for c in row.configurations}
    networks = [network for network in plan.networks if network.name in used]
    counts = [f"{n.title} {plan.counts(n)[0]}, {plan.counts(n)[1]}" for n in networks]
    lines = [
        "```",
        command,
        "```",
        "",
        f"Code {code}, Python {platform.python_version()}, {packages}, "
        f"{os.cpu_count()} processors ({platform.machine()}). Seeds {seeds}.",
    ]
    lines.append(f"Calibration and test samples: {'; '.join(counts)}.")
    if MINILM in networks:
        pool, rest, sha = sentence_counts()
        lines.append(
            f"Sentences: {pool} for calibration, {rest} for testing to choose from, {sha}."
        )
    lines += [f"Not measured: {NETWORKS[n].title}, {reason}." for n, reason in gone.items()]
    return lines


def _names(known: Any) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        unknown = [name for name in chosen if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: there are {', '.join(known)}")
        return [name for name in known if name in chosen]

    return parse


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(int(seed) for seed in text.split(",")))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="networks and their samples")
    parser.add_argument("--models", type=_names(NETWORKS), help="only these, with commas")
    parser.add_argument("--tables", type=_names(TABLES), default=list(TABLES), help="with commas")
    parser.add_argument("--seeds", type=_seeds, help="with commas; 0,1,2, of a quick run 0")
    parser.add_argument("--out", type=Path, help="the page; docs/accuracy.md")
    parser.add_argument("--cache", type=Path, default=_REPOSITORY / "build" / "accuracy.json")
    parser.add_argument("--tag", help="name of the code, instead of its hash")
    parser.add_argument("--minutes", type=float, help="begin nothing new after so many")
    parser.add_argument("--quick", action="store_true", help="few samples, N = 8, one seed")
    parser.add_argument("--list", action="store_true", help="say what is left, measure nothing")
    return parser.parse_args()


def main() -> int:
    """The command."""
    arguments = _arguments()
    page_file = arguments.out or _REPOSITORY / "docs" / "accuracy.md"
    page = page_file.read_text(encoding="utf-8")
    for name in arguments.tables:
        replace_block(page, name, "")  # a page without markers is refused before hours of work

    names = arguments.models or list(NETWORKS)
    reasons = {name: absent(NETWORKS[name], arguments.data) for name in names}
    gone = {name: reason for name, reason in reasons.items() if reason is not None}
    present = tuple(NETWORKS[name] for name in names if name not in gone)
    plan = Plan(
        present, arguments.seeds or ((0,) if arguments.quick else (0, 1, 2)), arguments.quick
    )
    cache = Cache(arguments.cache, arguments.tag or code_hash(), arguments.data)
    sections = {name: TABLES[name](plan) for name in arguments.tables}
    per_table = {
        name: [c for part in parts for row in part.rows for c in row.configurations]
        for name, parts in sections.items()
    }
    if arguments.list:
        for name, configurations in per_table.items():
            left = missing(configurations, cache)
            print(f"{name}: {len(left)} of {len(configurations)} left")
        return 0

    until = math.inf if arguments.minutes is None else time.monotonic() + 60 * arguments.minutes
    everything = [c for configurations in per_table.values() for c in configurations]
    errors = measure_missing(everything, cache, until)
    intros = {
        name: intro(name, arguments, plan, cache.code, gone, parts)
        for name, parts in sections.items()
    }
    page = write_tables(page, sections, intros, cache, errors)
    if arguments.quick and arguments.out is None:
        print(page)
    else:
        page_file.write_text(page, encoding="utf-8")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
