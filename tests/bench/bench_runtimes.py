"""Compiled networks in many runtimes: what loads, how far off, agreement, time against the ANN.

    python tests/bench/bench_runtimes.py [--targets NAME ...] [--data DATA] [--networks NAME ...]
        [--runtimes NAME ...] [--venvs FOLDER] [--samples 40] [--rounds 1] [--out docs/runtimes.md]

``digits`` is the bundled network; others are shared networks with float32 inputs
(``shared_networks.py``), which need ``--data``. Each is compiled to each target with default
options. ``quantize_static`` is no target but onnxruntime's own quantisation, to tell a runtime that
does not read our file from one that reads no QDQ. The inputs are calibration samples: runtimes are
compared, not accuracy.

A runtime (``runtimes_worker.py``) runs with ``FOLDER/NAME/bin/python`` where that exists
(``make_runtimes.py``) and with this Python otherwise; ``web`` is onnxruntime-web in Chromium
(``bench_web.py``), ``node`` is onnxruntime-node, installed into build/node with npm. Nowhere is
there the operator library. Batch 1, one thread; in each round a process for the ANN and for each
file.

One table in Markdown for each target, written between its markers into ``--out`` or printed. A
cell (``runtimes_table.py``):

1. The largest difference from what onnxruntime gives with the same file, relative to its largest
   output.
2. Samples with the ANN's class, of those on which onnxruntime has it with the same file.
3. CPU time (web: wall time) against the same runtime's of the ANN, the ratio of medians; with
   several rounds the least and the largest ratio of one.

A slow runtime has fewer samples. Reasons stand in notes below the table, and a line says how many
runtimes run all networks.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import bench_web
import numpy as np
import onnx
from accuracy_page import replace_block
from bench_latency import quantised, write_compiled
from runtimes_table import Cell, Expected, Measured, cell, classes, short, table
from runtimes_worker import RUNTIMES
from shared_networks import NETWORKS
from snn_compile.compiler import CompileOptions
from snn_compile.compiler.targets import TARGETS

_WORKER = Path(__file__).with_name("runtimes_worker.py")
_TITLES = {"digits": "digits"} | {name: one.title for name, one in NETWORKS.items()}
_NETWORKS = ["digits", "kws_mlperf_dscnn", "cifar10_resnet20"]
_WEB, _NODE = "web", "node"
_NAMES = {_WEB: "onnxruntime-web", _NODE: "onnxruntime-node"}
_NODE_BUILD = Path(__file__).parents[2] / "build" / "node"
_ANN, _THEIRS = "ANN", "quantize_static"
_REFERENCE = "onnxruntime"
#: Options of what is compiled.
_OPTIONS: dict[str, dict[str, Any]] = {
    _REFERENCE: {"target": "onnxruntime"},
    "standard": {"target": "standard"},
    "int8": {"target": "int8"},
}
#: Seconds for samples, to time a run for, and until a process is given up.
_SAMPLES, _TIME, _PATIENCE = 15, 0.4, 180
#: Bytes of inputs that a script is handed as text at most.
_MOST_TEXT = 4_000_000
#: One thread in libraries that only the environment tells.
_ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TVM_NUM_THREADS"), "1"),
    "PYTHONWARNINGS": "ignore",
}


#: From a model, inputs and whether the outputs of all of them are wanted.
Run = Callable[[Path, Path, bool], Measured]


def run_python(runtime: str, python: str, model: Path, feed: Path, outputs: bool) -> Measured:
    """One process of ``runtimes_worker.py``."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "outputs.npz"
        request = {"runtime": runtime, "model": str(model.absolute()), "seconds": _TIME}
        request |= {
            "feed": str(feed.absolute()),
            "outputs": str(file),
            "patience": _SAMPLES if outputs else 0,
        }
        path = f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"
        try:
            done = subprocess.run(
                [python, str(_WORKER), json.dumps(request)],
                capture_output=True,
                text=True,
                check=False,
                timeout=_PATIENCE,
                cwd=folder,  # for what converters leave behind
                env={**os.environ, **_ENVIRONMENT, "PATH": path},
            )
        except subprocess.TimeoutExpired:
            return Measured(reason=f"not done after {_PATIENCE} s")
        if done.returncode:
            return _broken(done)
        answer = json.loads(done.stdout.splitlines()[-1])
        if "absent" in answer:
            return Measured(reason=f"absent: {answer['absent']}")
        if "refused" in answer:
            return Measured(reason=answer["refused"])
        with np.load(file) as arrays:
            return Measured(arrays["outputs"], [answer["seconds"]], answer["version"])


def run_web(browser: str, model: Path, feed: Path, outputs: bool) -> Measured:
    """One browser."""
    try:
        seconds, results = bench_web.time_runs(browser, model, _samples(feed, outputs))
    except RuntimeError as error:
        return Measured(reason=str(error))
    return Measured(np.stack([result[0] for result in results]), [seconds], bench_web.VERSION)


def run_node(node: str, model: Path, feed: Path, outputs: bool) -> Measured:
    """One process of ``runtimes_node.js``."""
    request = {"model": str(model), "feeds": bench_web.as_json(_samples(feed, outputs))}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "request.json"
        file.write_text(json.dumps({**request, "seconds": _TIME}))
        done = subprocess.run(
            [node, str(_WORKER.with_name("runtimes_node.js")), str(file)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "NODE_PATH": str(_NODE_BUILD / "node_modules")},
        )
    if done.returncode:
        return _broken(done)
    answer = json.loads(done.stdout.splitlines()[-1])
    if "error" in answer:
        return Measured(reason=answer["error"])
    results = np.array([sample[0] for sample in answer["outputs"]])
    return Measured(results, [answer["seconds"]], bench_web.VERSION)


def _samples(feed: Path, several: bool) -> list[dict[str, np.ndarray]]:
    """One sample each; as few as text has room for."""
    with np.load(feed) as arrays:
        samples = dict(arrays)
    count = min(map(len, samples.values())) if several else 1
    count = max(1, min(count, _MOST_TEXT // sum(x[0].nbytes for x in samples.values())))
    return [{name: x[i : i + 1] for name, x in samples.items()} for i in range(count)]


def _broken(done: subprocess.CompletedProcess[str]) -> Measured:
    last = (done.stderr.strip() or "nothing said").splitlines()[-1]
    return Measured(reason=f"ends with {done.returncode}: {last}")


def measure(run: Run, files: dict[str, Path], feed: Path, rounds: int) -> dict[str, Measured]:
    """Each file's outputs and times, the files taking turns."""
    found = {name: run(file, feed, True) for name, file in files.items()}
    for _ in range(rounds - 1):
        for name, file in files.items():
            if not found[name].reason:
                again = run(file, feed, False)
                found[name].times += again.times
                found[name].reason = again.reason
    return found


def write_files(
    name: str, targets: list[str], data: Path | None, samples: int, folder: Path
) -> tuple[dict[str, Path], Path]:
    """The files, the ANN's first and then those of the targets, and the .npz of inputs."""
    model, calibration = bench_web.load(name, data)
    (folder / name).mkdir()
    files = {_ANN: folder / name / "ann.onnx"}
    onnx.save(model, files[_ANN])
    for target in targets:
        own = folder / name / target
        own.mkdir()
        if target == _THEIRS:
            files[target] = quantised(files[_ANN], calibration, own)
            continue
        options = CompileOptions(**_OPTIONS[target])
        files[target] = write_compiled(name, model, calibration, options, own)["snn.onnx"]
    feed = folder / f"{name}.feed.npz"
    np.savez(feed, **{key: x[:samples] for key, x in calibration.items()})
    return files, feed


def expect(files: dict[str, Path], feed: Path) -> dict[str, Expected]:
    """What onnxruntime gives for each file.

    Raises:
        RuntimeError: it refuses one.
    """
    outputs: dict[str, np.ndarray] = {}
    for name, file in files.items():
        found = run_python(_REFERENCE, sys.executable, file, feed, True)
        if found.outputs is None:
            raise RuntimeError(f"onnxruntime: {name}: {found.reason}")
        outputs[name] = found.outputs
    ann = classes(outputs[_ANN])
    return {name: Expected(values, ann) for name, values in outputs.items()}


def _runners(names: list[str], venvs: Path | None) -> dict[str, Run]:
    runners: dict[str, Run] = {}
    for name in names:
        if name in (_WEB, _NODE):
            runners[name] = _script_runner(name)
            continue
        own = venvs / name / "bin" / "python" if venvs else None
        python = str(own.absolute()) if own and own.exists() else sys.executable
        runners[name] = partial(run_python, name, python)
    return runners


def _script_runner(name: str) -> Run:
    try:
        if name == _WEB:
            return partial(run_web, bench_web.browser_path())
        node = shutil.which("node")
        if node is None:
            raise bench_web.MissingError("node is not installed")
        bench_web.install(_NAMES[_NODE], _NODE_BUILD)
        return partial(run_node, node)
    except bench_web.MissingError as error:
        reason = f"absent: {error}"
        return lambda *_: Measured(reason=reason)


def available() -> list[str]:
    """What this checkout can compile."""
    return [name for name, options in _OPTIONS.items() if options["target"] in TARGETS]


def targets_of(names: list[str]) -> list[str]:
    """The targets asked for.

    Raises:
        ValueError: one is not in this checkout, or gives no file that a runtime reads.
    """
    known = [*available(), _THEIRS]
    for name in names:
        if name not in known:
            raise ValueError(f"no target {name!r} in this checkout, only {', '.join(known)}")
    return names


def main() -> None:
    """Print or write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--targets", nargs="+", default=available())
    parser.add_argument("--networks", nargs="+", default=_NETWORKS, choices=_TITLES)
    parser.add_argument("--runtimes", nargs="+", default=[*RUNTIMES, _NODE, _WEB])
    parser.add_argument("--venvs", type=Path)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path, help="the page; docs/runtimes.md")
    arguments = parser.parse_args()
    try:
        targets = targets_of(arguments.targets)
        page = arguments.out.read_text("utf-8") if arguments.out else ""
        for target in targets if page else ():
            replace_block(page, target, "")  # a page without markers is refused before the work
    except (OSError, ValueError) as error:
        parser.error(str(error))
    rows, right = tables(arguments, targets)
    for target in targets:
        lines = table(right[target], rows[target])
        if page:
            page = replace_block(page, target, "\n" + "\n".join(lines))
            arguments.out.write_text(page, "utf-8")
        else:
            print("\n".join(["", target, "", *lines]))


def tables(
    arguments: argparse.Namespace, targets: list[str]
) -> tuple[dict[str, dict[str, list[Cell]]], dict[str, dict[str, str]]]:
    """By target: cells by runtime with its version, and the files' own classes by network.

    The latter are samples on which onnxruntime has the ANN's class, of all, as text.
    """
    runners = _runners(arguments.runtimes, arguments.venvs)
    versions: dict[str, str] = {}
    cells: dict[str, dict[str, list[Cell]]] = {
        target: {runtime: [] for runtime in runners} for target in targets
    }
    right: dict[str, dict[str, str]] = {target: {} for target in targets}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.networks:
            gone = bench_web.absent(name, arguments.data)
            if gone:
                print(f"{name}: left out, {gone}", file=sys.stderr)
                continue
            files, feed = write_files(
                name, targets, arguments.data, arguments.samples, Path(folder)
            )
            expected = expect(files, feed)
            for target in targets:
                same = classes(expected[target].outputs) == expected[target].classes
                right[target][_TITLES[name]] = f"{same.sum()}/{len(same)}"
            for runtime, run in runners.items():
                found = measure(run, files, feed, arguments.rounds)
                version = next((one.version for one in found.values() if one.version), "")
                versions[runtime] = version or versions.get(runtime, "")
                for target in targets:
                    one = cell(found[target], found[_ANN], expected[target])
                    cells[target][runtime].append(one)
                    print(name, runtime, target, one.text, short(one.reason), file=sys.stderr)
    named = {
        runtime: f"{_NAMES.get(runtime, runtime)} {version}".strip()
        for runtime, version in versions.items()
    }
    return {
        target: {named[runtime]: row for runtime, row in rows.items()}
        for target, rows in cells.items()
    }, right


if __name__ == "__main__":
    main()
