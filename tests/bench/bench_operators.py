"""The operators against ONNX Runtime's Relu, a copy, and their own function bodies.

    python tests/bench/bench_operators.py [--threads 2] [--rounds 7] [--only NAME ...]

Every table has its peer as its first line; ratios are times, so throughput relative to the peer is
one over the ratio. The copy is ONNX Runtime's Identity, a memcpy on one thread; Relu beside it
moves the same memory with all threads.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnx
from measure import compare, show
from onnx import TensorProto, helper
from snn_compile.runtime_ops.definition import DOMAIN
from snn_compile.runtime_ops.integrate_fire import INTEGRATE_FIRE
from snn_compile.runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE
from snn_compile.runtime_ops.scale_fire import SCALE_FIRE

SIZES = {"64k": [1, 64, 32, 32], "1M": [1, 256, 64, 64], "16M": [4, 256, 128, 128]}
STEPS = 8


def write_standard(path: Path, op: str, shape: list[int]) -> Path:
    """A model of one standard operator."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "XY")
    graph = helper.make_graph([helper.make_node(op, ["X"], ["Y"])], "g", [x], [y])
    imports = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


def write_neuron(path: Path, operator, inputs: dict, shape: list[int], **attributes) -> Path:
    """A model of one neuron with constant ``inputs``."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "XY")
    node = helper.make_node(
        operator.name,
        list(operator.inputs),
        ["Y"],
        domain=DOMAIN,
        **{**operator.defaults, **attributes},
    )
    constants = [
        onnx.numpy_helper.from_array(np.asarray(value, np.float32), name)
        for name, value in inputs.items()
    ]
    graph = helper.make_graph([node], "g", [x], [y], constants)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    functions = [operator.function_body(17)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8, functions=functions)
    onnx.save(model, path)
    return path


def staircase(thresholds: int) -> dict[str, np.ndarray]:
    """Thresholds at the quantiles of the normal inputs, levels between them."""
    samples = np.sort(np.random.default_rng(1).standard_normal(100_000))
    cuts = np.interp(
        np.arange(1, thresholds + 1) / (thresholds + 1), np.linspace(0, 1, 100_000), samples
    )
    levels = np.concatenate([cuts[:1] - 0.1, (cuts[1:] + cuts[:-1]) / 2, cuts[-1:] + 0.1])
    return {"thresholds": cuts, "levels": levels}


def fire_candidates(folder: Path, shape: list[int]) -> dict[str, tuple[Path, bool]]:
    """MultiThresholdFire: excitatory, per channel, signed, and its body."""

    def model(name: str, theta: np.ndarray, levels_neg: int = 0) -> Path:
        path = folder / f"{name}.onnx"
        attributes = {"levels_pos": 32, "levels_neg": levels_neg}
        return write_neuron(path, MULTI_THRESHOLD_FIRE, {"theta": theta}, shape, **attributes)

    one, many = np.array(0.1), np.full(shape[1], 0.1)
    return {
        "Relu": (write_standard(folder / "relu.onnx", "Relu", shape), False),
        "fire": (model("fire", one), True),
        "fire per channel": (model("channel", many), True),
        "fire signed": (model("signed", one, 32), True),
        "fire, function body": (model("fire", one), False),
    }


def scale_candidates(folder: Path, shape: list[int]) -> dict[str, tuple[Path, bool]]:
    """ScaleFire with 31, 63 and 255 thresholds, per channel, and its body."""

    def model(name: str, scale: np.ndarray, thresholds: int) -> Path:
        inputs = {"scale": scale, **staircase(thresholds)}
        return write_neuron(folder / f"{name}.onnx", SCALE_FIRE, inputs, shape)

    one, many = np.array(1.0), np.full(shape[1], 1.0)
    candidates = {"Relu": (write_standard(folder / "relu.onnx", "Relu", shape), False)}
    for count in (31, 63, 255):
        candidates[f"scale {count}"] = (model(f"scale{count}", one, count), True)
    candidates["scale 31 per channel"] = (model("channel", many, 31), True)
    candidates["scale 31, function body"] = (model("scale31", one, 31), False)
    return candidates


def integrate_candidates(folder: Path, shape: list[int]) -> dict[str, tuple[Path, bool]]:
    """IntegrateFire over 8 timesteps, binary, multi-level and signed, and its body."""
    shape = [STEPS * shape[0], shape[1], shape[2] // 2, shape[3] // 4]

    def model(name: str, levels_pos: int, levels_neg: int = 0) -> Path:
        attributes = {"timesteps": STEPS, "levels_pos": levels_pos, "levels_neg": levels_neg}
        theta = {"theta": np.array(0.1)}
        return write_neuron(folder / f"{name}.onnx", INTEGRATE_FIRE, theta, shape, **attributes)

    return {
        "Identity (a copy)": (write_standard(folder / "copy.onnx", "Identity", shape), False),
        "Relu": (write_standard(folder / "relu.onnx", "Relu", shape), False),
        "integrate": (model("integrate", 1), True),
        "integrate 4 levels": (model("levels", 4), True),
        "integrate signed": (model("signed", 4, 4), True),
        "integrate, function body": (model("integrate", 1), False),
    }


BENCHMARKS = {
    "MultiThresholdFire": fire_candidates,
    "ScaleFire": scale_candidates,
    "IntegrateFire": integrate_candidates,
}


def main() -> None:
    """Print medians and ratios for every operator and size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="*", choices=BENCHMARKS, default=list(BENCHMARKS))
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=list(SIZES))
    arguments = parser.parse_args()
    for operator in arguments.only:
        for size in arguments.sizes:
            with tempfile.TemporaryDirectory() as folder:
                candidates = BENCHMARKS[operator](Path(folder), SIZES[size])
                show(
                    f"{operator}, {size}", compare(candidates, arguments.threads, arguments.rounds)
                )


if __name__ == "__main__":
    main()
