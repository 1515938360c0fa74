"""MultiThresholdFire against ONNX Runtime's Relu and against its own function body.

python tests/bench/bench_fire.py [--threads 2] [--rounds 7]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnx
from measure import compare, show
from onnx import TensorProto, helper
from snn_compile.runtime_ops.multi_threshold_fire import DEFAULTS, DOMAIN, OP_TYPE, function_body

CASES = {
    "64k": ([1, 64, 32, 32], False),
    "1M": ([1, 256, 64, 64], False),
    "16M": ([4, 256, 128, 128], False),
    "1M per channel": ([1, 256, 64, 64], True),
}


def write_model(path: Path, op: str, shape: list[int], per_channel: bool) -> Path:
    """A model of one node."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "XY")
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    if op == "Relu":
        graph = helper.make_graph([helper.make_node("Relu", ["X"], ["Y"])], "g", [x], [y])
        model = helper.make_model(graph, opset_imports=imports[:1], ir_version=8)
    else:
        attributes = {**DEFAULTS, "levels_pos": 32, "levels_neg": 32 if op == "signed" else 0}
        node = helper.make_node(OP_TYPE, ["X", "theta"], ["Y"], domain=DOMAIN, **attributes)
        theta = np.full(shape[1] if per_channel else (), 0.1, np.float32)
        weights = [onnx.numpy_helper.from_array(theta, "theta")]
        graph = helper.make_graph([node], "g", [x], [y], weights)
        model = helper.make_model(
            graph, opset_imports=imports, ir_version=8, functions=[function_body(17)]
        )
    onnx.save(model, path)
    return path


def main() -> None:
    """Print medians and ratios for every size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, (shape, per_channel) in CASES.items():
            relu, fire, signed = (
                write_model(Path(folder) / f"{op}.onnx", op, shape, per_channel)
                for op in ("Relu", "fire", "signed")
            )
            candidates = {
                "Relu": (relu, False),
                "fire": (fire, True),
                "fire, signed": (signed, True),
                "fire, function body": (fire, False),
            }
            show(name, compare(candidates, arguments.threads, arguments.rounds))


if __name__ == "__main__":
    main()
