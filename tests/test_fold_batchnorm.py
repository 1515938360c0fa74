"""fold_batchnorm: every rule against the unfolded model, and every refusal with its reason."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import model_from_text, run_model
from snn_compile.passes.canonicalise import canonicalise
from snn_compile.passes.fold_batchnorm import fold_batchnorm
from snn_compile.passes.graph import export_model, import_model


def statistics(channels, prefix=""):
    return ", ".join(f"float[{channels}] {prefix}{n}" for n in ("gamma", "beta", "mean", "var"))


def rewritten(model):
    result = fold_batchnorm(canonicalise(import_model(model)).graph)
    exported = export_model(result.graph)
    onnx.checker.check_model(exported, full_check=True)
    return exported, result.changes


def ops(model):
    return [node.op_type for node in model.graph.node]


def assert_equivalent(before, after, shape, seed=1):
    """Folding rounds the weights anew: a few ULP of the largest output."""
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    for old, new in zip(run_model(before, {"x": x}), run_model(after, {"x": x}), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-5 * np.abs(old).max())


LINEAR = {
    "conv": ("float[N,3,8,8] x", "float[4,3,3,3] w", "a = Conv (x, w)", 4, (2, 3, 8, 8)),
    "conv with bias": (
        "float[N,3,8,8] x",
        "float[4,3,3,3] w, float[4] b",
        "a = Conv <pads = [1,1,1,1]> (x, w, b)",
        4,
        (2, 3, 8, 8),
    ),
    "grouped conv": (
        "float[N,4,8,8] x",
        "float[6,2,3,3] w",
        "a = Conv <group = 2> (x, w)",
        6,
        (2, 4, 8, 8),
    ),
    "depthwise conv 1d": (
        "float[N,4,8] x",
        "float[4,1,3] w, float[4] b",
        "a = Conv <group = 4> (x, w, b)",
        4,
        (2, 4, 8),
    ),
    "conv 3d": ("float[N,2,4,4,4] x", "float[3,2,2,2,2] w", "a = Conv (x, w)", 3, (1, 2, 4, 4, 4)),
    "transposed conv": (
        "float[N,3,5,5] x",
        "float[3,4,2,2] w",
        "a = ConvTranspose <strides = [2,2]> (x, w)",
        4,
        (2, 3, 5, 5),
    ),
    "grouped transposed conv": (
        "float[N,4,5,5] x",
        "float[4,3,2,2] w, float[6] b",
        "a = ConvTranspose <group = 2> (x, w, b)",
        6,
        (2, 4, 5, 5),
    ),
    "gemm": ("float[N,3] x", "float[3,4] w", "a = Gemm (x, w)", 4, (5, 3)),
    "gemm transposed, scaled": (
        "float[N,3] x",
        "float[4,3] w, float[4] b",
        "a = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, w, b)",
        4,
        (5, 3),
    ),
    "gemm with scalar bias": (
        "float[N,3] x",
        "float[3,4] w, float b",
        "a = Gemm (x, w, b)",
        4,
        (5, 3),
    ),
    "matmul": ("float[N,3] x", "float[3,4] w", "a = MatMul (x, w)", 4, (5, 3)),
    "matmul add": (
        "float[N,3] x",
        "float[3,4] w, float[4] b",
        "m = MatMul (x, w) a = Add (m, b)",
        4,
        (5, 3),
    ),
    "add on the left": (
        "float[N,3] x",
        "float[3,4] w, float[1,4] b",
        "m = MatMul (x, w) a = Add (b, m)",
        4,
        (5, 3),
    ),
}


@pytest.mark.parametrize("name", LINEAR)
def test_folds_into_the_linear_operator(name):
    x, weights, body, channels, shape = LINEAR[name]
    output = ",".join(["N", str(channels), *(f"D{i}" for i in range(len(shape) - 2))])
    model = model_from_text(f"""
        g ({x}) => (float[{output}] y) <{weights}, {statistics(channels)}> {{
            {body}
            y = BatchNormalization <epsilon = 0.01> (a, gamma, beta, mean, var)
        }}""")
    after, changes = rewritten(model)
    assert "BatchNormalization" not in ops(after)
    assert "Mul" not in ops(after)
    assert "folded into" in changes[0]
    assert_equivalent(model, after, shape)


REFUSED = {
    "shared weight": (
        "float[N,3,8,8] x",
        "float[4,3,3,3] w",
        "a = Conv (x, w) other = Conv (x, w)",
        "weight w is shared with another node",
    ),
    "shared bias": (
        "float[N,3,8,8] x",
        "float[4,3,3,3] w, float[4,3,3,3] v, float[4] b",
        "a = Conv (x, w, b) other = Conv (x, v, b)",
        "bias b is shared with another node",
    ),
    "output used elsewhere": (
        "float[N,3,8,8] x",
        "float[4,3,3,3] w",
        "a = Conv (x, w) other = Neg (a)",
        "used elsewhere too",
    ),
    "not linear": (
        "float[N,4,6,6] x",
        "float[1] w",
        "a = Relu (x) other = Mul (x, w)",
        "its input comes from Relu",
    ),
    "graph input": (
        "float[N,4,6,6] a",
        "float[1] w",
        "other = Mul (a, w)",
        "its input is not computed by a node",
    ),
    "weight not constant": (
        "float[N,3,8,8] x, float[4,3,3,3] w",
        "float[1] u",
        "a = Conv (x, w) other = Mul (x, u)",
        "the weight is not constant",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_with_a_reason_and_rewrites_as_mul_add(name):
    x, weights, body, reason = REFUSED[name]
    model = model_from_text(f"""
        g ({x}) => (float[N,4,6,6] y, float[P,Q,R,S] other) <{weights}, {statistics(4)}> {{
            {body}
            y = BatchNormalization (a, gamma, beta, mean, var)
        }}""")
    after, changes = rewritten(model)
    assert "BatchNormalization" not in ops(after)
    assert {"Mul", "Add"} <= set(ops(after))
    assert reason in changes[0]
    assert "now Mul and Add" in changes[0]
    rng = np.random.default_rng(0)
    feed = {
        value.name: rng.standard_normal(
            [d.dim_value or 2 for d in value.type.tensor_type.shape.dim]
        ).astype(np.float32)
        for value in model.graph.input
    }
    for old, new in zip(run_model(model, feed), run_model(after, feed), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-5 * np.abs(old).max())


@pytest.mark.parametrize("shape", [(5, 4), (2, 4, 3), (2, 4, 3, 3), (1, 4, 2, 2, 2)], ids=str)
def test_standalone_on_every_rank(shape):
    dims = ",".join(["N", *map(str, shape[1:])])
    model = model_from_text(f"""
        g (float[{dims}] x) => (float[{dims}] y) <{statistics(4)}> {{
            y = BatchNormalization (x, gamma, beta, mean, var)
        }}""")
    after, _ = rewritten(model)
    assert ops(after) == ["Mul", "Add"]
    assert_equivalent(model, after, shape)


def test_matmul_of_rank_3_normalises_another_axis_than_its_last():
    model = model_from_text(f"""
        g (float[N,4,3] x) => (float[N,4,4] y) <float[3,4] w, {statistics(4)}> {{
            a = MatMul (x, w)
            y = BatchNormalization (a, gamma, beta, mean, var)
        }}""")
    after, changes = rewritten(model)
    assert ops(after) == ["MatMul", "Mul", "Add"]
    assert "channels are not the last axis" in changes[0]
    assert_equivalent(model, after, (2, 4, 3))


def test_statistics_that_are_not_constant_are_computed_at_run_time():
    model = model_from_text("""
        g (float[N,4,3] x, float[4] gamma) => (float[N,4,3] y)
        <float[4] beta, float[4] mean, float[4] var> {
            y = BatchNormalization (x, gamma, beta, mean, var)
        }""")
    after, changes = rewritten(model)
    assert "BatchNormalization" not in ops(after)
    assert "not constants" in changes[0]
    rng = np.random.default_rng(0)
    feed = {
        "x": rng.standard_normal((2, 4, 3)).astype(np.float32),
        "gamma": rng.standard_normal(4).astype(np.float32),
    }
    np.testing.assert_allclose(
        run_model(after, feed)[0], run_model(model, feed)[0], rtol=1e-5, atol=1e-6
    )


def test_training_mode_is_kept_with_the_reason():
    model = model_from_text(f"""
        g (float[N,4,3] x) => (float[N,4,3] y) <{statistics(4)}> {{
            y, m, v = BatchNormalization <training_mode = 1> (x, gamma, beta, mean, var)
        }}""")
    after, changes = rewritten(model)
    assert ops(after) == ["BatchNormalization"]
    assert "training mode" in changes[0]


@pytest.mark.parametrize("index", [0, 1], ids=["Conv", "BatchNormalization"])
def test_operators_of_other_domains_are_not_taken_for_onnx_ones(index):
    model = model_from_text(f"""
        g (float[N,3,8,8] x) => (float[N,4,6,6] y) <float[4,3,3,3] w, {statistics(4)}> {{
            a = Conv (x, w)
            y = BatchNormalization (a, gamma, beta, mean, var)
        }}""")
    model.opset_import.append(onnx.helper.make_opsetid("other", 1))
    model.graph.node[index].domain = "other"
    model.graph.value_info.append(
        onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, ["N", 4, 6, 6])
    )
    after, changes = rewritten(model)
    expected = [["Conv", "Mul", "Add"], ["Conv", "BatchNormalization"]][index]
    assert ops(after) == expected
    assert not any("folded" in line for line in changes)


def test_two_in_a_row_both_fold():
    model = model_from_text(f"""
        g (float[N,3,8,8] x) => (float[N,4,6,6] y)
        <float[4,3,3,3] w, {statistics(4)}, {statistics(4, "second_")}> {{
            a = Conv (x, w)
            b = BatchNormalization (a, gamma, beta, mean, var)
            y = BatchNormalization (b, second_gamma, second_beta, second_mean, second_var)
        }}""")
    after, _ = rewritten(model)
    assert ops(after) == ["Conv"]
    assert_equivalent(model, after, (2, 3, 8, 8))


def test_bundled_example_folds_completely(digits):
    model = onnx.load(digits)
    after, _ = rewritten(model)
    assert "BatchNormalization" not in ops(after)
    x = np.random.default_rng(0).random((4, 1, 8, 8), np.float32)
    np.testing.assert_allclose(
        run_model(after, {"image": x})[0], run_model(model, {"image": x})[0], rtol=1e-4, atol=1e-5
    )
