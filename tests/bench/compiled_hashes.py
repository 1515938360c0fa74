"""Hashes of what ``snn-compile`` writes: whether a change of the code changes what is compiled.

    python tests/bench/compiled_hashes.py --data ../shared/data > before.txt
    python tests/bench/compiled_hashes.py --data ../shared/data --compare before.txt

One line for each network and set of options: the hash of the file, or the exit code and the hash of
the message where the compiler refuses. Networks are those bundled in ``models/`` and those of
``shared_networks.py`` that are there. The bytes depend on the versions of the packages, the
processor and the number of threads, so the hashes are compared on one machine and never stored in
the project; each network is compiled in a process that is pinned to one processor.
``--compare`` prints the lines that differ, and exits with 1 if there are any.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import onnxruntime as ort
from shared_networks import NETWORKS, absent, calibration_samples, load_model
from snn_compile.compiler.cli import main as snn_compile

REPOSITORY = Path(__file__).resolve().parents[2]

OPTIONS = {
    "default": "",
    "few levels": "--levels 4",
    "per tensor": "--neuron multi-threshold --granularity tensor --levels 255",
    "percentile": "--neuron multi-threshold --calibrator percentile --percentile 99",
    "uniform staircase": "--neuron scale --calibrator mse --levels 16",
    "no corrections": "--no-sequential --no-bias-correction --no-compensation",
    "activations alone": "--shortcuts spikes --encode activations",
    "input too": "--encode-input --levels 64",
    "scaled": "--scale 0.8 --levels 16",
    "budget": "--levels-budget 1 --levels 16",
    "search": "--search-scale --trials 3 --no-sequential",
    "bits": "--binary-spikes bits --levels 16",
    "over time": "--timesteps 4",
    "delayed": "--timesteps 4 --firing delayed --levels 4",
    "one-sided over time": "--timesteps 4 --neuron multi-threshold --time-axis",
    "nir": "--timesteps 4 --target nir",
    "no samples": "",
}
#: Not run on networks of more parameters than this, since they compile it many times.
_SLOW = ("budget", "search")
_LARGE = 2 << 20
_COUNT = 16


def networks(data: Path | None) -> dict[str, Path | None]:
    """Names and files; of a network that is built, not read, None."""
    found: dict[str, Path | None] = {
        path.stem: path for path in sorted((REPOSITORY / "models").glob("*.onnx"))
    }
    for name, network in NETWORKS.items():
        if data is not None and absent(network, data) is None:
            found[name] = None if network.data is None else data / "models" / f"{name}.onnx"
    return found


def write_network(name: str, path: Path | None, data: Path | None, folder: Path) -> Path:
    """The file of the network; beside it, in ``folder``, its samples."""
    if path is not None and path.parent == REPOSITORY / "models":
        with np.load(path.parent / "digits_calibration.npz") as archive:
            feed = {key: archive[key][:_COUNT] for key in archive.files}
    else:
        assert data is not None
        count = min(_COUNT, NETWORKS[name].calibration)
        large = path is not None and path.stat().st_size > _LARGE
        feed = calibration_samples(NETWORKS[name], data, count // 4 if large else count, seed=0)
        if path is None:
            path = folder / f"{name}.onnx"
            path.write_bytes(load_model(NETWORKS[name], data).SerializeToString())
    np.savez(folder / "samples.npz", **feed)
    return path


def hashes(name: str, path: Path | None, data: Path | None, sets: list[str]) -> list[str]:
    """The lines of one network."""
    ort.set_default_logger_severity(4)
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processors[os.getpid() % len(processors)]})
    with tempfile.TemporaryDirectory() as folder:
        file = write_network(name, path, data, Path(folder))
        large = file.stat().st_size > _LARGE
        wanted = [title for title in sets if not (large and title in _SLOW)]
        return [f"{name}, {title}: {compiled(file, title, Path(folder))}" for title in wanted]


def compiled(model: Path, title: str, folder: Path) -> str:
    """The hash of what is written, or how it is refused."""
    output = folder / "out"
    samples = [] if title == "no samples" else ["--calibration", str(folder / "samples.npz")]
    arguments = [str(model), "-o", str(output), *samples, *OPTIONS[title].split()]
    begin, code, text = time.monotonic(), 0, io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(text):
        try:
            snn_compile.main(arguments, standalone_mode=False)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
    print(f"{time.monotonic() - begin:6.1f} s {model.stem}, {title}", file=sys.stderr, flush=True)
    if code != 0:
        last = text.getvalue().strip().splitlines()[-1:]
        return f"exit code {code}, {hashlib.sha256(str(last).encode()).hexdigest()[:16]}"
    return hashlib.sha256(output.read_bytes()).hexdigest()[:16]


def lines(data: Path | None, names: list[str], sets: list[str]) -> Iterator[str]:
    """All lines, those of each network together."""
    wanted = {name: path for name, path in networks(data).items() if not names or name in names}
    workers = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(workers, get_context("spawn"), max_tasks_per_child=1) as pool:
        jobs = [pool.submit(hashes, name, path, data, sets) for name, path in wanted.items()]
        for job in jobs:
            yield from job.result()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="networks and samples that are not bundled")
    parser.add_argument("--networks", default="", help="only these, with commas")
    parser.add_argument("--sets", default="", help="only these sets of options, with commas")
    parser.add_argument("--compare", type=Path, help="what an earlier run printed")
    arguments = parser.parse_args()
    names = [name for name in arguments.networks.split(",") if name]
    sets = [title for title in OPTIONS if title in arguments.sets.split(",") or not arguments.sets]
    found = list(lines(arguments.data, names, sets))
    if arguments.compare is None:
        print("\n".join(found))
        return 0
    known = dict(line.rsplit(": ", 1) for line in arguments.compare.read_text().splitlines())
    now = dict(line.rsplit(": ", 1) for line in found)
    differing = [case for case, result in now.items() if known.get(case) != result]
    print("\n".join(f"{case}: {known.get(case)} became {now[case]}" for case in differing))
    print(f"{len(now) - len(differing)} of {len(now)} are equal", file=sys.stderr)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
