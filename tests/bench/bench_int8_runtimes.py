"""Files of target int8 in runtimes that read QDQ: what runs, agreement, time against float.

    python tests/bench/bench_int8_runtimes.py [--data DATA] [--networks NAME ...]
        [--runtimes NAME ...] [--venvs FOLDER] [--samples 100] [--rounds 5]

``digits`` is the bundled network; others are shared networks with float32 inputs
(``shared_networks.py``), which need ``--data``. Each is compiled to ``int8`` with default options
and quantised by onnxruntime's quantize_static, to tell a runtime that does not read our file from
one that reads no QDQ. The inputs are calibration samples: runtimes are compared, not accuracy.

A runtime (``runtimes_worker.py``) runs with ``FOLDER/NAME/bin/python`` where that exists and with
this Python otherwise; ``web`` is onnxruntime-web in Chromium (``bench_web.py``), ``node`` is
onnxruntime-node, installed into build/node with npm. Batch 1, one thread; in each round a process
for the ANN, for our file and for quantize_static's.

Two tables in Markdown, ours and quantize_static's. A cell: samples whose largest output is that of
onnxruntime with the same file, of those run; CPU time (web: wall time) against the same runtime's
of the ANN, the ratio of medians and the least and the largest of a round. Or why there is none.
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
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import bench_web
import numpy as np
from bench_latency import quantised, write_compiled
from runtimes_worker import RUNTIMES
from snn_compile.compiler import CompileOptions

_WORKER = Path(__file__).with_name("runtimes_worker.py")
_NETWORKS = ["digits", "cifar10_resnet20", "kws_mlperf_dscnn", "imagenet_efficientnet_lite0"]
_WEB, _NODE = "web", "node"
_NODE_BUILD, _NODE_PACKAGE = Path(__file__).parents[2] / "build" / "node", "onnxruntime-node"
_ANN, _OURS, _THEIRS = "ANN", "int8", "quantize_static"
#: Seconds for samples, to time a run for, and until a process is given up.
_SAMPLES, _TIME, _PATIENCE = 15, 0.4, 180
#: Bytes of inputs that a script is handed as text at most.
_MOST_TEXT = 4_000_000
#: Characters of a reason.
_WIDTH = 160
#: One thread in libraries that only the environment tells.
_ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TVM_NUM_THREADS"), "1"),
    "PYTHONWARNINGS": "ignore",
}


@dataclass
class Measured:
    """One file in one runtime.

    Attributes:
        outputs: of the samples run, [samples, ...].
        times: seconds of a run, one for each round.
        version: of the runtime.
        reason: why there are none, or "".
    """

    outputs: np.ndarray | None = None
    times: list[float] = field(default_factory=list)
    version: str = ""
    reason: str = ""


#: From a model, inputs and whether the outputs of all of them are wanted.
Run = Callable[[Path, Path, bool], Measured]


def run_python(runtime: str, python: str, model: Path, feed: Path, outputs: bool) -> Measured:
    """One process of ``runtimes_worker.py``."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "outputs.npz"
        request = {"runtime": runtime, "model": str(model), "feed": str(feed), "seconds": _TIME}
        request |= {"outputs": str(file), "patience": _SAMPLES if outputs else 0}
        path = f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"
        try:
            done = subprocess.run(
                [python, str(_WORKER), json.dumps(request)],
                capture_output=True,
                text=True,
                check=False,
                timeout=_PATIENCE,
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


def cell(name: str, found: dict[str, Measured], reference: np.ndarray) -> str:
    """What a table says of one file in one runtime.

    Args:
        name: of the file.
        found: what was measured of it and of the ANN.
        reference: onnxruntime's outputs of it, [samples, ...].
    """
    ours, ann = found[name], found[_ANN]
    if ours.reason:
        also = "the ANN is refused too: " if ann.reason else ""
        return _short(also + ours.reason)
    if ours.outputs is None:
        raise AssertionError("neither outputs nor a reason")
    count = len(ours.outputs)
    same = _classes(ours.outputs) == _classes(reference[:count])
    result = f"{np.count_nonzero(same)}/{count}"
    if ann.reason:
        return f"{result}; ANN: {_short(ann.reason)}"
    ratios = np.array(ours.times) / np.array(ann.times)
    ratio = np.median(ours.times) / np.median(ann.times)
    return f"{result}, {ratio:.2f} ({ratios.min():.2f} to {ratios.max():.2f})"


def _classes(outputs: np.ndarray) -> np.ndarray:
    return outputs.reshape(len(outputs), -1).argmax(1)


def _short(reason: str) -> str:
    line = " ".join(reason.split()).replace("|", "/")
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 3]}..."


def write_files(
    name: str, data: Path | None, samples: int, folder: Path
) -> tuple[dict[str, Path], Path]:
    """The files by what they are, and the .npz of inputs."""
    model, calibration = bench_web.load(name, data)
    paths = write_compiled(name, model, calibration, CompileOptions(target="int8"), folder)
    (folder / name).mkdir()
    theirs = quantised(paths["ann.onnx"], calibration, folder / name)
    feed = folder / f"{name}.feed.npz"
    np.savez(feed, **{key: x[:samples] for key, x in calibration.items()})
    return {_ANN: paths["ann.onnx"], _OURS: paths["snn.onnx"], _THEIRS: theirs}, feed


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
        bench_web.install(_NODE_PACKAGE, _NODE_BUILD)
        return partial(run_node, node)
    except bench_web.MissingError as error:
        reason = f"absent: {error}"
        return lambda *_: Measured(reason=reason)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--networks", nargs="+", default=_NETWORKS)
    parser.add_argument("--runtimes", nargs="+", default=[*RUNTIMES, _NODE, _WEB])
    parser.add_argument("--venvs", type=Path)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    runners = _runners(arguments.runtimes, arguments.venvs)
    versions: dict[str, str] = {}
    tables: dict[str, dict[str, list[str]]] = {
        title: {runtime: [] for runtime in runners} for title in (_OURS, _THEIRS)
    }
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.networks:
            gone = bench_web.absent(name, arguments.data)
            if gone:
                print(f"{name}: left out, {gone}", file=sys.stderr)
                continue
            measured.append(name)
            files, feed = write_files(name, arguments.data, arguments.samples, Path(folder))
            own = {
                title: run_python("onnxruntime", sys.executable, files[title], feed, True)
                for title in tables
            }
            for runtime, run in runners.items():
                found = measure(run, files, feed, arguments.rounds)
                versions[runtime] = next((m.version for m in found.values() if m.version), "")
                for title, table in tables.items():
                    reference = own[title].outputs
                    if reference is None:
                        raise RuntimeError(f"onnxruntime: {own[title].reason}")
                    table[runtime].append(cell(title, found, reference))
                    print(f"{name} {runtime} {title}: {table[runtime][-1]}", file=sys.stderr)
    for title, table in tables.items():
        print(
            f"\n{title}\n\n| runtime | {' | '.join(measured)} |\n{'| --- ' * (len(measured) + 1)}|"
        )
        for runtime, cells in table.items():
            print(f"| {runtime} {versions.get(runtime, '')} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
