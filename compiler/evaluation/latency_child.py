"""Times one network in a process of its own, which is how :mod:`.latency` starts it.

The request is one argument, JSON: ``path`` of the model, ``feed`` of an .npz by input name,
``library`` whether the C++ kernels run, ``threads`` inside an operator (0: the runtime's choice),
``seconds`` to measure. The answer is one line, JSON: ``seconds`` of a run and ``peak_bytes``.

1. Inputs and outputs are bound once, so that a run copies nothing.
2. A first run that takes four times as long as the time to measure is the figure. Otherwise runs
   warm up for a fifth of that time, the first one included, and the figure is the median of the
   rest, two at least.
3. It ends when its input does: whoever asked is gone.
4. The peak is what the system kept of this process alone (VmHWM); the figure that a parent gets
   counts what the parent held. Elsewhere it is resource.getrusage's, or null.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime as ort

from ...runtime_ops import register

_ERRORS_ONLY = 3
_LONG = 4
_WARM_UP = 0.2


def time_runs(path: str, feed: str, library: bool, threads: int, seconds: float) -> float:
    """Seconds of one run of the model at ``path``, which is a file that nobody else wrote."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    if library:
        register(options)
    session = ort.InferenceSession(path, options, ["CPUExecutionProvider"])
    binding = session.io_binding()
    with np.load(feed, allow_pickle=False) as arrays:
        for value in session.get_inputs():
            held = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(arrays[value.name]))
            binding.bind_ortvalue_input(value.name, held)
    for value in session.get_outputs():
        binding.bind_output(value.name)
    begin = time.perf_counter()
    first = _run(session, binding)
    if first >= _LONG * seconds:
        return first
    for value, held in zip(session.get_outputs(), binding.get_outputs(), strict=True):
        if held.has_value() and held.is_tensor() and "string" not in held.data_type():
            binding.bind_ortvalue_output(value.name, held)  # the same memory in every run
    while time.perf_counter() < begin + _WARM_UP * seconds:
        _run(session, binding)
    times: list[float] = []
    while time.perf_counter() < begin + seconds or len(times) < 2:
        times.append(_run(session, binding))
    return median(times)


def peak_memory() -> int | None:
    """Bytes that this process held at most; None where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(dict(line.split(":") for line in status.splitlines())["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    """Answer the request."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    request: dict[str, Any] = json.loads(sys.argv[1])
    answer = {"seconds": time_runs(**request), "peak_bytes": peak_memory()}
    sys.stdout.write(json.dumps(answer) + "\n")


def _end_with_input() -> None:
    os.read(sys.stdin.fileno(), 1)  # not through a buffer, whose lock ends the interpreter badly
    os._exit(1)


def _run(session: ort.InferenceSession, binding: ort.IOBinding) -> float:
    begin = time.perf_counter()
    session.run_with_iobinding(binding)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
