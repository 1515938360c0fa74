"""Evaluation on local workers: how much faster, whether one may be killed, what memory it takes.

    python tests/bench/bench_distributed.py speed ann.onnx snn.onnx test.npz --samples 200 1000
    python tests/bench/bench_distributed.py kill ann.onnx snn.onnx test.npz --times 10
    python tests/bench/bench_distributed.py memory

``speed``: whole processes of ``snn-eval``, without latency and level flips: of one thread, and with
``--workers``, in turn; the ratio is that of the medians. Samples are repeated where there are too
few.
``kill``: a worker is killed (SIGKILL) when the workers have run for a while, each time for longer;
the result has to be that of one process, or the command ends with code 1 and one line.
``memory``: peak memory of an evaluation of a small network on 1,000 and 20,000 images of 96x96.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import onnx
from onnx import parser
from snn_compile.compiler import CompileOptions, compile_model

COMMAND = (
    "import resource, sys; from snn_compile.compiler.eval_cli import main\n"
    "try: main()\n"
    "finally:\n"
    "    lines = open('/proc/self/status').read().splitlines()\n"
    "    own = next(line.split()[1] for line in lines if line.startswith('VmHWM'))\n"
    "    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss\n"
    "    print(own, workers, file=sys.stderr)"
)
SHAPE = (3, 96, 96)
SMALL = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,96,96] x) => (float[N,10] y)
    <float[8,3,3,3] w, float[8,10] v> {
    a = Conv <strides = [2, 2]> (x, w)  b = Relu (a)  c = GlobalAveragePool (b)
    d = Flatten (c)  y = MatMul (d, v) }"""


def start(models: list[Path], data: Path, *options: str) -> subprocess.Popen[str]:
    """``snn-eval`` with one thread, without what runs on this machine alone."""
    fixed = ["--no-latency", "--no-flips", "--json", "--quiet", "--threads", "1"]
    arguments = [*map(str, models), "--data", str(data), *fixed, *options]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[dict[str, object], int, str]:
    """What was found but for the command, the peak in KiB of any process, and what was said."""
    stdout, stderr = process.communicate()
    *lines, peaks = stderr.strip().splitlines()
    found = json.loads(stdout) if process.returncode == 0 else {}
    found.pop("command", None)
    return found, max(map(int, peaks.split())), "\n".join(lines)


def repeated(data: Path, samples: int, folder: Path) -> Path:
    """The samples of a file, over and over until there are so many."""
    with np.load(data) as known:
        arrays = {name: np.resize(known[name], (samples, *known[name].shape[1:])) for name in known}
    np.savez(folder / f"{samples}.npz", **arrays)
    return folder / f"{samples}.npz"


def speed(options: argparse.Namespace) -> None:
    """Print seconds of both, and their ratio."""
    kinds = {"one process": [], f"{options.workers} workers": ["--workers", str(options.workers)]}
    with tempfile.TemporaryDirectory() as name:
        for samples in options.samples:
            data = repeated(options.data, samples, Path(name))
            seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
            results = []
            for _ in range(options.rounds):
                for kind, extra in kinds.items():
                    begin = time.perf_counter()
                    found, _, said = finish(start([options.ann, options.snn], data, *extra))
                    seconds[kind].append(time.perf_counter() - begin)
                    results.append(found or said)
            assert all(one == results[0] for one in results), "results differ"
            shown = ", ".join(f"{kind} {median(one):.1f} s" for kind, one in seconds.items())
            first, second = map(median, seconds.values())
            print(f"{samples} samples: {shown}, {first / second:.2f} times faster; same results")


def workers_of(pid: int) -> list[int]:
    """Processes of workers that are there now."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and b"spawn_main" in (entry / "cmdline").read_bytes():
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                found += [int(entry.name)] * (int(fields[1]) == pid)
        except OSError:  # it is gone
            continue
    return sorted(found)


def seconds_of(pid: int) -> float:
    """What a process has computed."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def kill(options: argparse.Namespace) -> None:
    """Print how each of the runs ended."""
    expected, _, _ = finish(start([options.ann, options.snn], options.data))
    counts = {"same result": 0, "code 1, one line": 0, "killed too late": 0, "WRONG": 0}
    for number in range(options.times):
        process = start([options.ann, options.snn], options.data, "--workers", "2")
        patience, killed = 1.5 + 0.5 * number, False
        while process.poll() is None and not killed:
            there = workers_of(process.pid)
            if len(there) == 2 and min(map(seconds_of, there)) > patience:
                os.kill(there[number % 2], signal.SIGKILL)
                killed = True
            time.sleep(0.01)
        found, _, said = finish(process)
        if not killed:
            end = "killed too late"
        elif process.returncode == 0:
            end = "same result" if found == expected else "WRONG"
        else:
            end = (
                "code 1, one line" if (process.returncode, said.count("\n")) == (1, 0) else "WRONG"
            )
        counts[end] += 1
        print(f"run {number + 1}, killed after {patience:.1f} s of work: {end} {said}", flush=True)
    print(", ".join(f"{end}: {count}" for end, count in counts.items()))


def memory(options: argparse.Namespace) -> None:
    """Print peaks."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = parser.parse_model(SMALL)
        for weights, shape in (("w", (8, 3, 3, 3)), ("v", (8, 10))):
            values = rng.standard_normal(shape).astype(np.float32)
            model.graph.initializer.append(onnx.numpy_helper.from_array(values, weights))
        onnx.save(model, folder / "ann.onnx")
        x = rng.standard_normal((32, *SHAPE)).astype(np.float32)
        onnx.save(compile_model(model, {"x": x}, CompileOptions()).model, folder / "snn.onnx")
        models = [folder / "ann.onnx", folder / "snn.onnx"]
        for extra in ([], ["--resume", str(folder / "kept.npz")], ["--workers", "2"]):
            peaks = []
            for samples in options.samples:
                data = folder / f"{samples}.npy"
                with data.open("wb") as stream:  # mapped, it would count as memory
                    header = {"descr": "<f4", "fortran_order": False, "shape": (samples, *SHAPE)}
                    np.lib.format.write_array_header_1_0(stream, header)
                    for begin in range(0, samples, len(x)):
                        stream.write(x[: samples - begin].tobytes())
                peaks.append(finish(start(models, data, *extra))[1] / 1024)
            shown = ", ".join(
                f"{peak:.0f} MiB at {samples:,}"
                for samples, peak in zip(options.samples, peaks, strict=True)
            )
            print(f"{' '.join(extra[:1]) or 'one process'}: {shown} samples", flush=True)


def main() -> None:
    """Choose what is measured."""
    known = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    kinds = known.add_subparsers(required=True)
    for kind in (speed, kill, memory):
        one = kinds.add_parser(kind.__name__)
        one.set_defaults(run=kind)
        if kind is not memory:
            for name in ("ann", "snn", "data"):
                one.add_argument(name, type=Path)
        if kind is kill:
            one.add_argument("--times", type=int, default=10)
        else:
            default = [200] if kind is speed else [1000, 20_000]
            one.add_argument("--samples", type=int, nargs="+", default=default)
        if kind is speed:
            one.add_argument("--workers", type=int, default=2)
            one.add_argument("--rounds", type=int, default=3)
    options = known.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
