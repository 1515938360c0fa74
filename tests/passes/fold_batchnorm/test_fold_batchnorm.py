"""fold_batchnorm: every rule against the unfolded model, and every refusal with its reason."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import export_model, model_from_text, run_model
from snn_compile.passes.canonicalise.canonicalise import canonicalise
from snn_compile.passes.fold_batchnorm.fold_batchnorm import fold_batchnorm
from snn_compile.passes.graph.surgeon import import_model


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


BEFORE_LINEAR = {
    "conv": ("N,4,6,6", "float[5,4,3,3] w", "y = Conv (b, w)", "N,5,4,4", ["Relu", "Conv"]),
    "conv with bias, grouped": (
        "N,4,6,6",
        "float[6,2,3,3] w, float[6] c",
        "y = Conv <group = 2, strides = [2,2]> (b, w, c)",
        "N,6,2,2",
        ["Relu", "Conv"],
    ),
    "conv of one element, SAME": (
        "N,4,6,6",
        "float[5,4,1,1] w",
        'y = Conv <auto_pad = "SAME_UPPER"> (b, w)',
        "N,5,6,6",
        ["Relu", "Conv"],
    ),
    "conv 1d": ("N,4,6", "float[5,4,3] w", "y = Conv (b, w)", "N,5,4", ["Relu", "Conv"]),
    "gemm": (
        "N,4",
        "float[5,4] w, float[5] c",
        "y = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (b, w, c)",
        "N,5",
        ["Relu", "Gemm"],
    ),
    "gemm, not transposed": ("N,4", "float[4,5] w", "y = Gemm (b, w)", "N,5", ["Relu", "Gemm"]),
    "matmul": ("N,4", "float[4,5] w", "y = MatMul (b, w)", "N,5", ["Relu", "MatMul", "Add"]),
}


@pytest.mark.parametrize("name", BEFORE_LINEAR)
def test_folds_into_the_linear_operator_after_it(name):
    dims, weights, body, output, expected = BEFORE_LINEAR[name]
    model = model_from_text(f"""
        g (float[{dims}] x) => (float[{output}] y) <{weights}, {statistics(4)}> {{
            a = Relu (x)
            b = BatchNormalization (a, gamma, beta, mean, var)
            {body}
        }}""")
    after, changes = rewritten(model)
    assert ops(after) == expected
    assert "after it" in changes[0]
    assert_equivalent(model, after, [3, *(int(dim) for dim in dims.split(",")[1:])])


BEFORE_REFUSED = {
    "zero padding": (
        "float[5,4,3,3] w",
        "y = Conv <pads = [1,1,1,1]> (b, w)",
        "pads with zeros, which the shift does not reach",
    ),
    "automatic padding": (
        "float[5,4,3,3] w",
        'y = Conv <auto_pad = "SAME_LOWER"> (b, w)',
        "pads with zeros, which the shift does not reach",
    ),
    "transposed conv": (
        "float[4,5,3,3] w",
        "y = ConvTranspose (b, w)",
        "sums fewer terms at the border",
    ),
    "shared weight": (
        "float[5,4,3,3] w",
        "c = Conv (b, w) d = Conv (x, w) y = Add (c, d)",
        "weight w is shared with another node",
    ),
    "read twice": (
        "float[5,4,3,3] w",
        "c = Conv (b, w) d = Relu (b) y = Concat <axis = 0> (c, c)",
        None,
    ),
    "not linear": ("float[1] w", "y = Relu (b)", "its result goes to Relu"),
    "as the weight": (
        "float[4,4,1,1] w",
        "y = Conv (x, b)",
        "it is not the first input of Conv",
    ),
}


@pytest.mark.parametrize("name", BEFORE_REFUSED)
def test_refuses_the_operator_after_it_with_a_reason(name):
    weights, body, reason = BEFORE_REFUSED[name]
    rows = 4 if name == "as the weight" else "N"
    model = model_from_text(f"""
        g (float[{rows},4,6,6] x) => (float[A,B,C,D] y) <{weights}, {statistics(4)}> {{
            a = Relu (x)
            b = BatchNormalization (a, gamma, beta, mean, var)
            {body}
        }}""")
    after, changes = rewritten(model)
    if reason is not None:
        assert reason in changes[0]
        assert "now Mul and Add, its input comes from Relu" in changes[0]
        assert ops(after)[:3] == ["Relu", "Mul", "Add"]
    assert_equivalent(model, after, (4, 4, 6, 6))


@pytest.mark.parametrize(
    ("body", "dims", "output"),
    [
        ("y = Conv <pads = [1,1,1,1]> (b, w)", "5,4,3,3", "N,5,6,6"),
        ("y = ConvTranspose (b, w)", "4,5,3,3", "N,5,8,8"),
    ],
)
def test_padding_is_no_obstacle_without_a_shift(body, dims, output):
    model = model_from_text(f"""
        g (float[N,4,6,6] x) => (float[{output}] y)
        <float[{dims}] w, float[4] gamma, float[4] var, float[4] zero = {{0,0,0,0}}> {{
            a = Relu (x)
            b = BatchNormalization (a, gamma, zero, zero, var)
            {body}
        }}""")
    after, _ = rewritten(model)
    assert len(ops(after)) == 2
    assert_equivalent(model, after, (2, 4, 6, 6))


OLD_FORM = {
    "[C,1,1]": ("float[4,1,1] s, float[4,1,1] t", "b = Mul (a, s) y = Add (b, t)"),
    "[1,C,1,1], from the left": (
        "float[1,4,1,1] s, float[1,4,1,1] t",
        "b = Mul (s, a) y = Add (t, b)",
    ),
    "scalars": ("float s = {2.5}, float[1] t = {0.5}", "b = Mul (a, s) y = Add (b, t)"),
    "shift and divide": ("float[4,1,1] s, float[4,1,1] var", "b = Sub (a, s) y = Div (b, var)"),
    "subtracted from": ("float[4,1,1] s, float t = {1}", "b = Sub (s, a) y = Mul (b, t)"),
    "all four": (
        "float[4,1,1] s, float[4,1,1] t, float[4,1,1] u, float[4,1,1] var",
        "b = Sub (a, s) c = Div (b, var) d = Mul (c, t) y = Add (d, u)",
    ),
}


@pytest.mark.parametrize("form", OLD_FORM)
@pytest.mark.parametrize("linear", ["Conv", "ConvTranspose"])
def test_arithmetic_of_old_exporters_folds(form, linear):
    constants, body = OLD_FORM[form]
    dims, size = ("4,3,3,3", 6) if linear == "Conv" else ("3,4,3,3", 10)
    model = model_from_text(f"""
        g (float[N,3,8,8] x) => (float[N,4,{size},{size}] y) <float[{dims}] w, {constants}> {{
            a = {linear} (x, w) {body}
        }}""")
    after, changes = rewritten(model)
    assert ops(after) == [linear]
    assert any("folded into" in line for line in changes)
    assert_equivalent(model, after, (2, 3, 8, 8))


@pytest.mark.parametrize("constant", ["float[4]", "float[1,4]", "float[1]"])
@pytest.mark.parametrize("form", ["gemm", "matmul", "matmul of rank 3", "matmul with bias"])
def test_arithmetic_after_matrix_products_folds(form, constant):
    body = "a = Gemm (x, w)" if form == "gemm" else "a = MatMul (x, w)"
    body = "m = MatMul (x, w) a = Add (m, c)" if form == "matmul with bias" else body
    rank_3 = form == "matmul of rank 3"
    x, y = ("N,2,3", "N,2,4") if rank_3 else ("N,3", "N,4")
    model = model_from_text(f"""
        g (float[{x}] x) => (float[{y}] y)
        <float[3,4] w, float[4] c, {constant} s, {constant} t, {constant} var> {{
            {body}
            b = Mul (a, s)
            d = Add (b, t)
            y = Div (d, var)
        }}""")
    after, _ = rewritten(model)
    assert ops(after) == (["Gemm"] if form == "gemm" else ["MatMul", "Add"])
    assert_equivalent(model, after, (5, 2, 3) if rank_3 else (5, 3))


def test_bias_of_matmul_stays_and_is_no_news():
    model = model_from_text("""
        g (float[N,3] x) => (float[N,4] y) <float[3,4] w, float[4] c>
        { m = MatMul (x, w) y = Add (m, c) }""")
    after, changes = rewritten(model)
    assert ops(after) == ["MatMul", "Add"]
    assert changes == []


OLD_FORM_REFUSED = {
    "another axis": ("float[6] s", "y = Mul (a, s)", "not one value per channel"),
    "per element": ("float[4,6,6] s", "y = Add (a, s)", "not one value per channel"),
    "more dimensions": ("float[1,1,4,1,1] s", "y = Mul (a, s)", "more dimensions"),
    "division by zero": ("float s = {0}", "y = Div (a, s)", "divides by zero"),
    "shared weight": (
        "float s = {2}",
        "b = Mul (a, s) o = Conv (x, w) y = Add (b, o)",
        "weight w is shared with another node",
    ),
}


@pytest.mark.parametrize("name", OLD_FORM_REFUSED)
def test_arithmetic_that_does_not_fold_says_why(name):
    constants, body, reason = OLD_FORM_REFUSED[name]
    rank = "A,B,C,D,E" if name == "more dimensions" else "A,B,C,D"
    model = model_from_text(f"""
        g (float[N,3,8,8] x) => (float[{rank}] y) <float[4,3,3,3] w, {constants}>
        {{ a = Conv (x, w) {body} }}""")
    after, changes = rewritten(model)
    assert sorted(ops(after)) == sorted(ops(model))
    assert any(reason in line and line.startswith("kept") for line in changes)


@pytest.mark.parametrize(
    "body",
    [
        "a = Relu (x) b = Mul (a, s) y = Add (b, s)",
        "a = Conv (x, w) b = Mul (a, s) y = Add (a, b)",
        "a = Conv (x, w) y = Div (s, a)",
        "a = Conv (x, w) b = Relu (a) y = Mul (b, a)",
    ],
    ids=["after Relu", "used elsewhere", "divided by", "no constant"],
)
def test_other_arithmetic_is_left_alone(body):
    model = model_from_text(f"""
        g (float[N,3,8,8] x) => (float[A,B,C,D] y) <float[4,3,3,3] w, float s = {{2}}>
        {{ {body} }}""")
    after, changes = rewritten(model)
    assert ops(after) == ops(model)
    assert changes == []


def test_batch_normalization_after_an_added_bias():
    model = model_from_text(f"""
        g (float[N,3,5,5] x) => (float[N,4,7,7] y)
        <float[3,4,3,3] w, float[1,4,1,1] c, {statistics(4)}> {{
            a = ConvTranspose (x, w)
            b = Add (a, c)
            y = BatchNormalization (b, gamma, beta, mean, var)
        }}""")
    after, _ = rewritten(model)
    assert ops(after) == ["ConvTranspose"]
    assert_equivalent(model, after, (2, 3, 5, 5))


def test_folds_inside_bodies():
    model = model_from_text(f"""
        g (float[2,3,8,8] x, bool c) => (float[2,4,6,6] y)
        <float[4,3,3,3] w, float[4,3,3,3] v, {statistics(4)}> {{
            outer = Conv (x, v)
            y = If (c) <
                then_branch = t () => (float[2,4,6,6] p) {{
                    a = Conv (x, w)
                    p = BatchNormalization (a, gamma, beta, mean, var)
                }},
                else_branch = e () => (float[2,4,6,6] q) {{
                    q = BatchNormalization (outer, gamma, beta, mean, var)
                }}
            >
        }}""")
    after, changes = rewritten(model)
    node = next(node for node in after.graph.node if node.op_type == "If")
    bodies = {attribute.name: attribute.g for attribute in node.attribute}
    assert [node.op_type for node in bodies["then_branch"].node] == ["Conv"]
    assert [node.op_type for node in bodies["else_branch"].node] == ["Mul", "Add"]
    assert any("its input is computed in another scope" in line for line in changes)
    x = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    for condition in (True, False):
        feed = {"x": x, "c": np.array(condition)}
        np.testing.assert_allclose(
            run_model(after, feed)[0], run_model(model, feed)[0], rtol=1e-4, atol=1e-5
        )


def test_weights_that_constant_of_shape_makes():
    model = model_from_text(f"""
        g (float[N,3,8,8] x) => (float[N,4,6,6] y)
        <int64[4] shape = {{4,3,3,3}}, {statistics(4)}> {{
            w = ConstantOfShape <value = float[1] {{0.25}}> (shape)
            a = Conv (x, w)
            y = BatchNormalization (a, gamma, beta, mean, var)
        }}""")
    after, _ = rewritten(model)
    assert ops(after) == ["Conv"]
    assert_equivalent(model, after, (2, 3, 8, 8))
