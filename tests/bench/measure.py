"""Honest timing of ONNX Runtime sessions: one session per process, processes interleaved.

Several multi-threaded sessions in one process disturb each other, and a machine's speed drifts, so
each round starts one process per candidate, in turn, and a candidate's figure is the median of its
processes' medians. Ratios are taken within a round, then their median.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime as ort
from snn_compile.runtime_ops import register

SECONDS = 1.0
WARM_UP = 3


def _child(path: str, library: bool, threads: int) -> float:
    """Median seconds of one run of the model at ``path``, buffers bound once."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if library:
        register(options)
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    binding = session.io_binding()
    for value in session.get_inputs():
        shape = [dim if isinstance(dim, int) else 1 for dim in value.shape]
        data = rng.standard_normal(shape, np.float32)
        binding.bind_ortvalue_input(value.name, ort.OrtValue.ortvalue_from_numpy(data))
    for value in session.get_outputs():
        shape = [dim if isinstance(dim, int) else 1 for dim in value.shape]
        empty = ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
        binding.bind_ortvalue_output(value.name, empty)
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(times) < 2 * WARM_UP:
        begin = time.perf_counter()
        session.run_with_iobinding(binding)
        times.append(time.perf_counter() - begin)
    return median(times[WARM_UP:])


def compare(
    candidates: dict[str, tuple[Path, bool]], threads: int = 2, rounds: int = 7
) -> dict[str, tuple[float, float]]:
    """Median seconds of each candidate, and the median ratio to the first one.

    Args:
        candidates: model file, and whether our library is registered, by name.
        threads: threads inside an operator.
        rounds: processes per candidate.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, (path, library) in candidates.items():
            command = [sys.executable, __file__, str(path), str(int(library)), str(threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds[name].append(json.loads(done.stdout))
    first = seconds[next(iter(seconds))]
    return {
        name: (median(values), median(a / b for a, b in zip(values, first, strict=True)))
        for name, values in seconds.items()
    }


def show(title: str, results: dict[str, tuple[float, float]]) -> None:
    """One line per candidate."""
    print(title)
    for name, (seconds, ratio) in results.items():
        print(f"  {name:24s} {seconds * 1e6:12.1f} us   {ratio:6.2f} x")


if __name__ == "__main__":
    print(json.dumps(_child(sys.argv[1], sys.argv[2] == "1", int(sys.argv[3]))))
