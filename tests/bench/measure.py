"""Timing of networks for the benchmarks: the way of ``compiler/evaluation/latency.py``, batch 1.

Inputs are normal.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from snn_compile.compiler.evaluation.latency import Candidate, LatencyOptions, measure_latency
from snn_compile.compiler.progress import Progress
from snn_compile.compiler.samples.base import input_specs

_BATCH = 1


def compare(
    candidates: dict[str, tuple[Path, bool]], threads: int = 2, rounds: int = 7
) -> dict[str, tuple[float, float]]:
    """Median seconds of each candidate, and the median ratio to the first one.

    Args:
        candidates: model file, and whether our library is registered, by name; all with the same
            inputs.
        threads: threads inside an operator.
        rounds: processes per candidate.
    """
    first = next(iter(candidates.values()))[0]
    options = LatencyOptions(rounds=rounds, seconds=1.0, threads=threads)
    with tempfile.TemporaryDirectory() as folder:
        feeds = {_BATCH: _write_feed(first, Path(folder))}
        networks = [Candidate(name, *one) for name, one in candidates.items()]
        results, problems = measure_latency(networks, feeds, options, Progress())
    if problems:
        raise RuntimeError("; ".join(problems))
    return {result.network: (result.seconds, result.ratio) for result in results}


def show(title: str, results: dict[str, tuple[float, float]]) -> None:
    """One line per candidate."""
    print(title)
    for name, (seconds, ratio) in results.items():
        print(f"  {name:24s} {seconds * 1e6:12.1f} us   {ratio:6.2f} x")


def _write_feed(model: Path, folder: Path) -> Path:
    rng = np.random.default_rng(0)
    feed = {}
    for spec in input_specs(onnx.load(model, load_external_data=False)):
        shape = [_BATCH if dim is None else dim for dim in spec.shape]
        feed[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
    np.savez(folder / "feed.npz", **feed)
    return folder / "feed.npz"
