"""Accuracy, spikes and time over T timesteps: the tables and the plot of docs/timesteps.md.

    python tests/bench/bench_timesteps.py --data ../shared/data
    python tests/bench/bench_timesteps.py --data ../shared/data --networks mnist_ccexam_cnn
    python tests/bench/bench_timesteps.py --data ../shared/data --minutes 60 --only accuracy
    python tests/bench/bench_timesteps.py --data ../shared/data --only times
    python tests/bench/bench_timesteps.py --data ../shared/data --quick

1. Each network is compiled and run in a process of its own, and its result kept in ``--cache``,
   compiled networks in a folder beside it, as in ``bench_accuracy.py``, by the hash of the code or
   ``--tag``. What other tools give does not depend on our code; it has a file beside the cache.
2. Where SpikingJelly and sinabs are installed (``pip install '.[peers]'``), they convert ResNet-20
   and run on the same samples.
3. Then times, of networks that a few samples calibrated, since time depends on operators and not
   on thresholds. In rounds: of one T, all networks take turns, each in a process of its own on two
   threads, ours and the ANN in onnxruntime, others in torch. Ratios are taken within a round, the
   figure is their median. What is timed at several batch sizes counts at the best one,
   SpikingJelly also in the better of its two modes, all steps together and step by step.
4. Tables are written between their markers into ``--out``, and the plot beside it. ``--quick``
   measures a little of everything, and prints unless ``--out`` is given.

Rows are in ``timesteps_rows.py``, what is measured in ``timesteps_worker.py`` and
``timesteps_peers.py``, figures in ``timesteps_page.py``. Exit code 1 if something failed.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import math
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx
from accuracy_configuration import Configuration
from accuracy_page import identity, replace_block
from bench_accuracy import Cache, ask_worker, code_hash, measure_missing, missing
from shared_networks import EFFICIENTNET, NETWORKS, absent, load_model
from timesteps_page import block, plot, times_block
from timesteps_rows import OTHERS, OURS, SAMPLES, Plan, Series, timing_batches, versions

_REPOSITORY = Path(__file__).resolve().parents[2]
_WORKER = Path(__file__).with_name("timesteps_worker.py")
_PAGE = _REPOSITORY / "docs" / "timesteps.md"
_MEASURING = ("worker", "rows")
_TIME_LIMIT = 3600 * 2
_SECONDS = 1.0


def _code() -> str:
    """Hash of the compiler and of what measures here."""
    total = hashlib.sha256(code_hash().encode())
    for name in _MEASURING:
        total.update(Path(__file__).with_name(f"timesteps_{name}.py").read_bytes())
    return total.hexdigest()[:12]


def _peers_code() -> str:
    """Hash of how other tools are used."""
    source = Path(__file__).with_name("timesteps_peers.py").read_bytes()
    return hashlib.sha256(source).hexdigest()[:12]


class Caches:
    """Results of ours, and of others."""

    def __init__(self, path: Path, tag: str | None, data: Path) -> None:
        self.ours = Cache(path, tag or _code(), data)
        self.others = Cache(path.with_name(f"{path.stem}_others.json"), _peers_code(), data)

    def of(self, configuration: Configuration) -> Cache:
        """Where a result is kept."""
        return self.ours if configuration.what in ("compile", "time") else self.others

    def get(self, configuration: Configuration) -> dict[str, Any] | None:
        """The result, if there is one."""
        return self.of(configuration).get(configuration)

    def network(self, configuration: Configuration) -> Path:
        """Where a compiled network is kept."""
        key = hashlib.sha256((identity(configuration) + self.ours.code).encode()).hexdigest()[:24]
        return self.ours.path.with_name(f"{self.ours.path.stem}_networks") / f"{key}.onnx"


def run_worker(request: dict[str, Any]) -> dict[str, Any]:
    """What a worker answers.

    Raises:
        RuntimeError: it failed.
    """
    return ask_worker(_WORKER, request, _TIME_LIMIT)


def measure_accuracy(configuration: Configuration, caches: Caches) -> dict[str, Any]:
    """The result of a worker."""
    return run_worker(
        {
            "what": configuration.what,
            "configuration": configuration.as_dict(),
            "data": str(caches.ours.data),
            "answers": str(caches.ours.answers(configuration)),
            "network": str(caches.network(configuration)),
        }
    )


def measure_times(configuration: Configuration, caches: Caches, plan: Plan) -> dict[str, Any]:
    """One round of one T: seconds per sample of the ANN and of each series.

    Raises:
        RuntimeError: a worker failed, or a network has not been compiled.
    """
    network, timesteps = NETWORKS[configuration.network], configuration.options["timesteps"]
    common = {
        "what": "time",
        "network": network.name,
        "data": str(caches.ours.data),
        "timesteps": timesteps,
        "seconds": _SECONDS,
    }
    with tempfile.TemporaryDirectory() as folder:
        ann = Path(folder) / "ann.onnx"
        onnx.save(load_model(network, caches.ours.data), ann)
        requests: dict[str, list[dict[str, Any]]] = {"ann": [{"path": str(ann), "library": False}]}
        for series in plan.series(network):
            if series.name in configuration.options["series"]:
                requests[series.name] = _requests(series, plan, network.name, timesteps, caches)
        return {
            name: {
                f"{batch}{' stepwise' * request.get('stepwise', False)}": run_worker(
                    common | request | {"batch": batch}
                )["seconds"]
                for request in ways
                for batch in timing_batches(network)
            }
            for name, ways in requests.items()
        }


def _requests(
    series: Series, plan: Plan, network: str, timesteps: int, caches: Caches
) -> list[dict[str, Any]]:
    """The ways in which a network is timed."""
    if series not in OURS:
        one = {"tool": series.what, "mode": series.options["mode"], "stepwise": False}
        return [one, one | {"stepwise": True}] if series.what == "spikingjelly" else [one]
    configuration = plan.accuracy(NETWORKS[network], series, timesteps)
    if configuration is None:
        raise RuntimeError(f"{series.title} is not compiled at T = {timesteps}")
    path = caches.network(configuration)
    if not path.is_file():
        raise RuntimeError(f"{series.title} was not compiled at T = {timesteps}")
    return [{"path": str(path), "library": True}]


def measure_all(plan: Plan, caches: Caches, until: float) -> dict[str, str]:
    """Fill the caches; what failed, by identity, with the reason."""
    errors: dict[str, str] = {}
    accuracies = plan.accuracies()
    for cache in (caches.ours, caches.others):
        own = [one for one in accuracies if caches.of(one) is cache]
        errors |= measure_missing(own, cache, until, lambda one, _: measure_accuracy(one, caches))
    if plan.timed and time.monotonic() < until:
        errors |= measure_missing(
            plan.times(), caches.ours, until, lambda one, _: measure_times(one, caches, plan)
        )
    return errors


def intro(arguments: argparse.Namespace, plan: Plan, code: str) -> list[str]:
    """The lines above the tables: the command, versions, sample counts."""
    data = "DATA" if arguments.data.is_absolute() else arguments.data.as_posix()
    command = f"python tests/bench/bench_timesteps.py --data {data}"
    if arguments.networks:
        command += f" --networks {','.join(arguments.networks)}"
    if arguments.series:
        command += f" --series {','.join(arguments.series)}"
    if plan.quick:
        command += " --quick"
    command += f" --only {'times' if plan.timed else 'accuracy'}"
    used = ["numpy", "onnx", "onnxruntime"]
    if any(s not in OURS for network in plan.networks for s in plan.series(network)):
        used += ["torch", "spikingjelly", "sinabs"]
    packages = ", ".join(f"{name} {version}" for name, version in versions(used).items())
    counts = [f"{n.title} {plan.counts(n)[0]}, {plan.counts(n)[1]}" for n in plan.networks]
    return [
        "```",
        command,
        "```",
        "",
        f"Code {code}, Python {platform.python_version()}, {packages}, "
        f"{os.cpu_count()} processors ({platform.machine()}).",
        f"Calibration and test samples: {'; '.join(counts)}.",
    ]


def _names(text: str) -> list[str]:
    chosen = text.split(",")
    unknown = [name for name in chosen if name not in SAMPLES]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: there are {', '.join(SAMPLES)}")
    return chosen


def _series(text: str) -> tuple[str, ...]:
    known = [series.name for series in (*OURS, *OTHERS)]
    unknown = [name for name in text.split(",") if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: there are {', '.join(known)}")
    return tuple(text.split(","))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="networks and their samples")
    parser.add_argument(
        *("--networks",),
        type=_names,
        help=f"with commas; all but {EFFICIENTNET.name}, which takes long",
    )
    parser.add_argument("--series", type=_series, default=(), help="only these, with commas")
    parser.add_argument("--out", type=Path, help="the page; docs/timesteps.md")
    parser.add_argument("--cache", type=Path, default=_REPOSITORY / "build" / "timesteps.json")
    parser.add_argument("--tag", help="name of the code, instead of its hash")
    parser.add_argument("--minutes", type=float, help="begin nothing new after so many")
    parser.add_argument("--rounds", type=int, default=3, help="of times")
    parser.add_argument(
        "--only", choices=("accuracy", "times"), help="measure and write this alone"
    )
    parser.add_argument("--quick", action="store_true", help="few samples, T = 1 and 4")
    parser.add_argument("--list", action="store_true", help="say what is left, measure nothing")
    return parser.parse_args()


def main() -> int:
    """The command."""
    arguments = _arguments()
    page_file = arguments.out or _PAGE
    page = page_file.read_text(encoding="utf-8")
    for name in ("timesteps", "times"):
        replace_block(page, name, "")  # a page without markers is refused before hours of work
    names = arguments.networks or [name for name in SAMPLES if name != EFFICIENTNET.name]
    present = tuple(NETWORKS[name] for name in names if not absent(NETWORKS[name], arguments.data))
    plan = Plan(present, arguments.rounds, arguments.quick, arguments.series)
    plans = {"accuracy": plan, "times": dataclasses.replace(plan, timed=True)}
    if arguments.only:
        plans = {arguments.only: plans[arguments.only]}
    caches = Caches(arguments.cache, arguments.tag, arguments.data)
    if arguments.list:
        for what, plan in plans.items():
            wanted = [*plan.accuracies(), *(plan.times() if plan.timed else [])]
            left = [one for one in wanted if caches.get(one) is None]
            print(f"{what}: {len(missing(left, caches.ours))} left")
        return 0
    until = math.inf if arguments.minutes is None else time.monotonic() + 60 * arguments.minutes
    errors: dict[str, str] = {}
    for plan in plans.values():
        errors |= measure_all(plan, caches, until)
        lines = intro(arguments, plan, caches.ours.code)
        for network in present:
            if plan.timed:
                lines += times_block(network, plan, caches.get)
            else:
                lines += block(network, plan, caches.get, errors)
        page = replace_block(page, "times" if plan.timed else "timesteps", "\n".join(lines))
    if arguments.quick and arguments.out is None:
        print(page)
        return 1 if errors else 0
    page_file.write_text(page, encoding="utf-8")
    if "accuracy" in plans:
        plot(present[0], plans["accuracy"], caches.get, page_file.with_suffix(".svg"))
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
