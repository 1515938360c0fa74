"""Seconds and peak memory of calibration, each in a process of its own.

A process holds what is measured and the interpreter.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.evaluation.latency_child import peak_memory
from snn_compile.compiler.running.session import make_session
from snn_compile.compiler.samples.files import FileSamples, input_specs

#: Samples per run of plain inference.
_BATCH = 32


def measure_calibration(
    model: ModelProto, samples: Path, folder: Path, options: dict[str, Any]
) -> dict[str, Any]:
    """Plain inference over the samples, and the step ``calibrate`` of compiling with them."""
    path = _write(model, folder)
    plain = _child("plain", path, samples, options)
    compiled = _child("compile", path, samples, options)
    return {
        "plain_seconds": plain["seconds"],
        "plain_peak": plain["peak"],
        "seconds": compiled["steps"]["calibrate"],
        "peak": compiled["peak"],
    }


def measure_whole(
    model: ModelProto, samples: Path, folder: Path, options: dict[str, Any]
) -> dict[str, Any]:
    """Compiling, all of it."""
    compiled = _child("compile", _write(model, folder), samples, options)
    return {"seconds": compiled["seconds"], "peak": compiled["peak"], "steps": compiled["steps"]}


def _write(model: ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def _child(what: str, model: Path, samples: Path, options: dict[str, Any]) -> dict[str, Any]:
    command = [
        sys.executable,
        __file__,
        what,
        str(model),
        str(samples),
        json.dumps(options),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _plain(model: Path, samples: Path) -> dict[str, Any]:
    proto = onnx.load(model)
    session = make_session(proto, library=False)
    feeds = FileSamples(samples, input_specs(proto))
    begin = time.perf_counter()
    for feed in feeds.batches(_BATCH):
        session.run(None, feed)
    return {"seconds": time.perf_counter() - begin}


def _compile(model: Path, samples: Path, chosen: dict[str, Any]) -> dict[str, Any]:
    begin = time.perf_counter()
    report = compile_model(model, samples, CompileOptions(**chosen)).report
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "steps": {step.name: step.seconds for step in report.passes}}


def main() -> None:
    """What the child process does."""
    what, model, samples = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if what == "plain":
        result = _plain(model, samples)
    else:
        result = _compile(model, samples, json.loads(sys.argv[4]))
    print("\n" + json.dumps(result | {"peak": peak_memory()}))


if __name__ == "__main__":
    main()
