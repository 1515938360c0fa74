"""Latency of a network compiled, quantised with standard operators, and as it was.

    python tests/bench/bench_latency.py [MODEL.onnx ...] [--threads 2] [--rounds 7]

Batch 1. Thresholds come from synthetic inputs: they do not change the time. Without a model, the
bundled example is measured.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from measure import compare, show
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.save import save_model

EXAMPLE = Path(__file__).resolve().parents[2] / "models" / "digits_resnet_dynamo.onnx"


def main() -> None:
    """Print medians and ratios for every model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path, default=[EXAMPLE])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            result = compile_model(model, options=CompileOptions(dump_dir=folder))
            save_model(result.model, folder / "snn.onnx")
            shutil.copy(model, folder / "ann.onnx")
            candidates = {
                "ANN": (folder / "ann.onnx", False),
                "SNN, C++ kernels": (folder / "snn.onnx", True),
                "SNN, function bodies": (folder / "snn.onnx", False),
                "quantised, five ops": (folder / "05_insert_quant_clip.onnx", False),
            }
            show(model.name, compare(candidates, arguments.threads, arguments.rounds))


if __name__ == "__main__":
    main()
