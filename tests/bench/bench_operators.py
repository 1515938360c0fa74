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
from snn_compile.runtime_ops.scale_fire import DUAL_SCALE_FIRE, SCALE_FIRE
from snn_compile.runtime_ops.staircase_fire import STAIRCASE_FIRE

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
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    model.functions.append(operator.function_body(17, **operator.form_in(model)))
    onnx.save(model, path)
    return path


def channels(value: float, count: int) -> np.ndarray:
    """A value per channel, as it broadcasts."""
    return np.full((count, 1, 1), value)


def fire_candidates(folder: Path, shape: list[int]) -> dict[str, tuple[Path, bool]]:
    """MultiThresholdFire: excitatory, per channel, signed, and its body."""

    def model(name: str, theta: np.ndarray, levels_neg: int = 0) -> Path:
        path = folder / f"{name}.onnx"
        attributes = {"levels_pos": 32, "levels_neg": levels_neg}
        return write_neuron(path, MULTI_THRESHOLD_FIRE, {"theta": theta}, shape, **attributes)

    one, many = np.array(0.1), channels(0.1, shape[1])
    return {
        "Relu": (write_standard(folder / "relu.onnx", "Relu", shape), False),
        "fire": (model("fire", one), True),
        "fire per channel": (model("channel", many), True),
        "fire signed": (model("signed", one, 32), True),
        "fire, function body": (model("fire", one), False),
        "fire signed, function body": (model("signed", one, 32), False),
    }


def scale_candidates(folder: Path, shape: list[int]) -> dict[str, tuple[Path, bool]]:
    """ScaleFire and DualScaleFire with 24 and 2 * 24 levels, per channel, and their bodies."""

    def model(name: str, operator, scale: np.ndarray, top_neg: int = 0) -> Path:
        attributes = {"linear": 16, "top_pos": 32, "top_neg": top_neg}
        path = folder / f"{name}.onnx"
        return write_neuron(path, operator, {"scale": scale}, shape, **attributes)

    one, many = np.array(0.1), channels(0.1, shape[1])
    return {
        "Relu": (write_standard(folder / "relu.onnx", "Relu", shape), False),
        "scale": (model("scale", SCALE_FIRE, one), True),
        "scale per channel": (model("channel", SCALE_FIRE, many), True),
        "dual": (model("dual", DUAL_SCALE_FIRE, one, 32), True),
        "scale, function body": (model("scale", SCALE_FIRE, one), False),
        "dual, function body": (model("dual", DUAL_SCALE_FIRE, one, 32), False),
    }


def staircase_candidates(folder: Path, shape: list[int]) -> dict[str, tuple[Path, bool]]:
    """StaircaseFire with 32 levels on 512 cells, 512 on 512 and 4,096 on 4,096, and its body."""

    def model(name: str, scale: np.ndarray, cells: int, levels: int) -> Path:
        table = np.arange(cells) // (cells // levels) * 8 / levels - 4
        attributes = {"density": cells / 8, "start": -cells / 2}
        inputs = {"scale": scale, "table": table}
        return write_neuron(folder / f"{name}.onnx", STAIRCASE_FIRE, inputs, shape, **attributes)

    one, many = np.array(1.0), channels(1.0, shape[1])
    return {
        "Relu": (write_standard(folder / "relu.onnx", "Relu", shape), False),
        "staircase 32": (model("32", one, 512, 32), True),
        "staircase 32 per channel": (model("channel", many, 512, 32), True),
        "staircase 512": (model("512", one, 512, 512), True),
        "staircase 4096": (model("4096", one, 4096, 4096), True),
        "staircase, function body": (model("32", one, 512, 32), False),
    }


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
    "StaircaseFire": staircase_candidates,
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
