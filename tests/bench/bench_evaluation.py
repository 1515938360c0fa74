"""What counting spikes costs: ANN and counting SNN against ANN and SNN, over the same samples.

    python tests/bench/bench_evaluation.py ann.onnx snn.onnx samples.npz [--batch 32] [--rounds 3]

One session per process, processes interleaved; each runs all samples once after a first batch that
is not timed. The counting network's time includes what is done with the counts, and the results.
Ratios are taken within a round, then their median.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
from snn_compile.compiler.counting.spikes import SpikeMeter
from snn_compile.compiler.model_io.load import read_model
from snn_compile.compiler.running.session import make_session, run_samples
from snn_compile.compiler.samples.base import input_specs
from snn_compile.compiler.samples.files import FileSamples

KINDS = ("ann", "snn", "counting")


def _child(kind: str, model: Path, data: Path, batch: int) -> dict[str, float]:
    """Seconds over all samples, of the clock and of processors, and the largest memory in bytes."""
    network = read_model(model)
    samples = FileSamples(data, input_specs(network.proto))
    meter = None
    if kind == "counting":
        outputs = [output.name for output in network.proto.graph.output]
        runs = 1 + samples.batch_count(batch)
        meter = SpikeMeter(network, outputs, samples.unbatched, runs)
    session = make_session(network if meter is None else meter.network)
    outputs = run_samples(session, next(samples.batches(batch)), "the model")
    if meter is not None:  # what is observed comes with the last run
        meter.add(outputs)
    spent = np.zeros(2)
    for feed in samples.batches(batch):
        begin = _clocks()
        outputs = run_samples(session, feed, "the model")
        if meter is not None:
            meter.add(outputs)
        spent += _clocks() - begin
    if meter is not None:
        begin = _clocks()
        meter.result()
        spent += _clocks() - begin
    seconds, cpu = map(float, spent)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "cpu": cpu, "peak": peak}


def _clocks() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


def main() -> None:
    """Print seconds, memory and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ann", type=Path)
    parser.add_argument("snn", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        model = options.ann if options.child == "ann" else options.snn
        print(json.dumps(_child(options.child, model, options.data, options.batch)))
        return
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(options.rounds):
        for kind in KINDS:
            command = [sys.executable, __file__, *sys.argv[1:], "--child", kind]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[kind].append(json.loads(done.stdout))
    for kind, runs in found.items():
        seconds, cpu, peak = (
            median(run[key] for run in runs) for key in ("seconds", "cpu", "peak")
        )
        print(f"{kind:10s} {seconds:8.2f} s {cpu:8.2f} s of processors   peak {peak / 1e6:6.0f} MB")
    for key, what in (("seconds", "time"), ("cpu", "processor time")):
        ratios = [
            (ann[key] + counting[key]) / (ann[key] + snn[key])
            for ann, snn, counting in zip(*found.values(), strict=True)
        ]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f} in the rounds"
        print(f"counting costs {median(ratios):.2f} times the {what} of both networks ({spread})")


if __name__ == "__main__":
    main()
