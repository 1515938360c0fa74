"""Latency of compiled networks, with the operator library and without, as ratios to the ANN.

    python tests/bench/bench_latency.py --data DATA [--networks NAME ...] [--rounds 9]
    python tests/bench/bench_latency.py --data DATA --target int8 [--levels 32]
    python tests/bench/bench_latency.py --data DATA --target standard

The shared networks (``shared_networks.py``) are compiled with default options and their calibration
samples of seed 0; ``--target``, ``--neuron``, ``--levels`` and ``--granularity`` are handed on.
Batch 1. Networks of standard operators need no library. Beside
networks of int8 stands onnxruntime's own (``quantize_static``, uint8 and int8 per
channel, calibrated on the same samples) instead of a run without the library.

- cpu1: CPU time of one thread, one session in each process, the processes of all candidates
  interleaved: the median over a process's runs, then over rounds. Steady where wall time is not.
- wall2: wall time with two threads, measured the same way.

Each ratio is that of medians, with the least and the largest ratio of a round.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import shared_networks
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.evaluation.int8_baseline import BATCH, quantise
from snn_compile.compiler.model_io.load import load_source
from snn_compile.compiler.model_io.save import save_network
from snn_compile.runtime_ops import register

#: Seconds that a process measures for, and runs at least and at most.
_SECONDS, _FEWEST, _MOST = 0.4, 12, 300
_WARM_UP = 3
_DEFAULT = ["cifar10_resnet20", "kws_mlperf_dscnn", "imagenet_efficientnet_lite0", "minilm_l6"]


def time_runs(model: str, feed: str, library: bool, threads: int) -> float:
    """Median seconds of a run: of CPU time with one thread, of wall time with more."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    if library:
        register(options)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    clock = time.thread_time if threads == 1 else time.perf_counter
    with np.load(feed) as arrays:
        inputs = dict(arrays)
    begin = clock()
    for _ in range(_WARM_UP):
        session.run(None, inputs)
    count = int(np.clip(_SECONDS * _WARM_UP / (clock() - begin), _FEWEST, _MOST))
    times = []
    for _ in range(count):
        begin = clock()
        session.run(None, inputs)
        times.append(clock() - begin)
    return float(np.median(times))


def measure(candidates: dict[str, tuple[Path, bool]], feed: Path, threads: int, rounds: int) -> str:
    """A line of ratios to the first candidate."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, (model, library) in candidates.items():
            request = json.dumps([str(model), str(feed), library, threads])
            command = [sys.executable, __file__, "--child", request]
            times[name].append(float(subprocess.check_output(command, text=True)))
    first = np.array(next(iter(times.values())))
    parts = [f"{np.median(first) * 1e3:9.3f} ms"]
    for name, values in list(times.items())[1:]:
        ratio = np.median(values) / np.median(first)
        low, high = (f(np.array(values) / first) for f in (np.min, np.max))
        parts.append(f"{name} {ratio:.3f} ({low:.2f} to {high:.2f})")
    return "  ".join(parts)


def write_compiled(
    name: str,
    model: onnx.ModelProto,
    samples: shared_networks.Feed,
    options: CompileOptions,
    folder: Path,
) -> dict[str, Path]:
    """Writes the ANN, the SNN and an input of one sample; their paths by "ann.onnx" and so on."""
    paths = {key: folder / f"{name}.{key}" for key in ("ann.onnx", "snn.onnx", "npz")}
    onnx.save(model, paths["ann.onnx"])
    np.savez(folder / "samples.npz", **samples)
    result = compile_model(paths["ann.onnx"], folder / "samples.npz", options)
    save_network(result.network, paths["snn.onnx"])
    np.savez(paths["npz"], **{key: values[:1] for key, values in samples.items()})
    return paths


def quantised(ann: Path, samples: shared_networks.Feed, folder: Path) -> Path:
    """onnxruntime's own network of 8 bits."""
    count = len(next(iter(samples.values())))
    batches = range(0, count, BATCH)
    feeds = [{key: values[i : i + BATCH] for key, values in samples.items()} for i in batches]
    return quantise(load_source(ann).network, feeds, folder)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", default=_DEFAULT)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--neuron")
    parser.add_argument("--levels", type=int)
    parser.add_argument("--granularity")
    parser.add_argument(
        "--target", default="onnxruntime", choices=["onnxruntime", "standard", "int8"]
    )
    arguments = parser.parse_args()
    options = CompileOptions(
        target=arguments.target,
        neuron=arguments.neuron,
        levels=arguments.levels,
        granularity=arguments.granularity,
    )
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.networks:
            network = shared_networks.NETWORKS[name]
            gone = shared_networks.absent(network, arguments.data)
            if gone:
                print(f"{name}: left out, {gone}")
                continue
            model = shared_networks.load_model(network, arguments.data)
            samples = shared_networks.calibration_samples(
                network, arguments.data, network.calibration, 0
            )
            paths = write_compiled(name, model, samples, options, Path(folder))
            candidates = {
                "ANN": (paths["ann.onnx"], False),
                "library": (paths["snn.onnx"], True),
                "no library": (paths["snn.onnx"], False),
            }
            if arguments.target == "standard":
                del candidates["library"], candidates["no library"]
                candidates["standard"] = (paths["snn.onnx"], False)
            elif arguments.target == "int8":
                candidates = {
                    "ANN": (paths["ann.onnx"], False),
                    "int8": (paths["snn.onnx"], False),
                    "quantize_static": (quantised(paths["ann.onnx"], samples, Path(folder)), False),
                }
                sizes = [path.stat().st_size for path, _ in candidates.values()]
                print(f"{name:28s} bytes  {sizes[0]:9d}     int8 {sizes[1] / sizes[0]:.3f}")
            for label, threads in (("cpu1", 1), ("wall2", 2)):
                line = measure(candidates, paths["npz"], threads, arguments.rounds)
                print(f"{name:28s} {label:6s} {line}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(time_runs(*json.loads(sys.argv[2])))
    else:
        main()
