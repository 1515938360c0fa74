"""Latency of a network compiled, quantised with standard operators, and as it was.

    python tests/bench/bench_latency.py [MODEL.onnx ...] [--threads 2] [--rounds 7]

The last line is the ANN with every activation replaced by Abs, a standard operator that onnxruntime
does not know for its blocked memory layout either: what leaving that layout costs at each neuron,
whatever the neuron computes.

"Activations only" is compiled without encoders. Batch 1. Thresholds come from synthetic inputs:
they do not change the time. Without a model, the bundled example is measured.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import onnx
from measure import compare, show
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.model_io.save import save_network

EXAMPLE = Path(__file__).resolve().parents[2] / "models" / "digits_resnet_dynamo.onnx"


def write_abs(model: Path, path: Path) -> Path:
    """The network with Abs in place of every Relu and Clip."""
    network = onnx.load(model)
    for node in network.graph.node:
        if node.op_type in ("Relu", "Clip"):
            node.op_type = "Abs"
            del node.input[1:]
    onnx.save(network, path)
    return path


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
            activations = CompileOptions(encode="activations", dump_dir=folder)
            save_network(compile_model(model, options=activations).network, folder / "part.onnx")
            save_network(compile_model(model).network, folder / "snn.onnx")
            (quantised,) = folder.glob("*_insert_quant_clip.onnx")
            shutil.copy(model, folder / "ann.onnx")
            candidates = {
                "ANN": (folder / "ann.onnx", False),
                "SNN, C++ kernels": (folder / "snn.onnx", True),
                "SNN, function bodies": (folder / "snn.onnx", False),
                "SNN, activations only": (folder / "part.onnx", True),
                "activations only, bodies": (folder / "part.onnx", False),
                "activations only, five ops": (quantised, False),
                "ANN, Abs for activations": (write_abs(model, folder / "abs.onnx"), False),
            }
            show(model.name, compare(candidates, arguments.threads, arguments.rounds))


if __name__ == "__main__":
    main()
