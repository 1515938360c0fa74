"""Networks as onnxruntime has them: its operators, its optimised files; compiled whole."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.errors import ModelError


def model_of(text, weights, opset=17):
    imports = f'["" : {opset}, "com.microsoft" : 1]'
    model = onnx.parser.parse_model(f"<ir_version: 10, opset_import: {imports}>\n{text}")
    rng = np.random.default_rng(1)
    for name, shape in weights.items():
        values = (0.4 * rng.standard_normal(shape)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def lines(result):
    return [f"{line.op} {line.status}" for line in result.report.coverage.lines]


IMAGES = "g (float[n,4,8,8] x) => (float[n,3,h,w2] y)"
TOKENS = "g (float[n,6,8] x) => (float[n,6,3] y)"


@pytest.mark.parametrize(
    ("text", "weights", "opset", "expected"),
    [
        (
            f"""{IMAGES} {{
                c = Conv(x, w)  g0 = GroupNormalization<num_groups=2>(c, s, s)
                r = Relu(g0)  y = Conv(r, v) }}""",
            {"w": (6, 4, 3, 3), "s": 6, "v": (3, 6, 1, 1)},
            21,
            ["Conv kept", "GroupNormalization kept", "Relu converted", "Conv converted"],
        ),
        (
            f"""{IMAGES} {{
                c = Conv(x, w)  g0 = GroupNormalization<num_groups=2>(c, s, s)
                r = LeakyRelu(g0)  y = Conv(r, v) }}""",
            {"w": (6, 4, 3, 3), "s": 2, "v": (3, 6, 1, 1)},
            19,
            ["Conv kept", "InstanceNormalization kept", "LeakyRelu converted", "Conv converted"],
        ),
        (
            f"""{TOKENS} {{
                a = MatMul(x, w)  h = com.microsoft.SkipLayerNormalization(x, a, s, b)
                m = MatMul(h, u)  r = com.microsoft.BiasGelu(m, k)  y = MatMul(r, v) }}""",
            {"w": (8, 8), "s": 8, "b": 8, "u": (8, 16), "k": 16, "v": (16, 3)},
            17,
            [
                *("MatMul kept", "LayerNormalization encoded", "MatMul encoded"),
                *("Gelu converted", "MatMul converted"),
            ],
        ),
        (
            f"""{TOKENS} {{
                a = com.microsoft.FusedMatMul<alpha=0.5, transB=1>(x, w)  r = Relu(a)
                y = MatMul(r, v) }}""",
            {"w": (16, 8), "v": (16, 3)},
            17,
            ["MatMul kept", "Relu converted", "MatMul converted"],
        ),
        (
            f"""{TOKENS} {{
                h = SimplifiedLayerNormalization(x, s)  a = MatMul(h, w)
                r = com.microsoft.QuickGelu(a)  y = MatMul(r, v) }}""",
            {"s": 8, "w": (8, 16), "v": (16, 3)},
            14,
            [
                "RMSNormalization encoded",
                "MatMul encoded",
                "QuickGelu converted",
                "MatMul converted",
            ],
        ),
    ],
)
def test_everything_is_in_the_report(text, weights, opset, expected):
    result = compile_model(model_of(text, weights, opset))
    assert lines(result) == expected
    assert max(output.relative_l2 for output in result.report.verification.outputs) < 0.08


def test_a_model_that_was_optimised_is_compiled_as_the_one_before(tmp_path):
    text = f"""{IMAGES} {{
        c = Conv<pads=[1,1,1,1]>(x, w, b)  r = Relu(c)
        d = Conv<pads=[1,1,1,1]>(r, u)  s = Add(d, r)  t = Clip(s, zero, six)
        y = Conv(t, v) }}"""
    weights = {"w": (6, 4, 3, 3), "b": 6, "u": (6, 6, 3, 3), "v": (3, 6, 1, 1)}
    model = model_of(text, weights)
    bounds = {"zero": 0, "six": 6}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.float32(value), name) for name, value in bounds.items()
    )
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(model.SerializeToString(), options)
    optimised = onnx.load(tmp_path / "optimised.onnx")
    assert any(node.op_type == "FusedConv" for node in optimised.graph.node)
    before, after = compile_model(model), compile_model(tmp_path / "optimised.onnx")
    assert lines(after) == lines(before)
    assert after.report.coverage.spiking_share == before.report.coverage.spiking_share


def test_over_time_an_activation_of_the_runtime_is_followed():
    text = f"""{TOKENS} {{
        a = MatMul(x, w)  r = com.microsoft.QuickGelu(a)  y = MatMul(r, v) }}"""
    model = model_of(text, {"w": (8, 16), "v": (16, 3)})
    result = compile_model(model, None, CompileOptions(timesteps=4))
    assert lines(result) == ["MatMul kept", "QuickGelu encoded", "MatMul encoded"]


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("a = com.microsoft.Attention<num_heads=2>(x, q, qb)", "Attention 'Attention:a'"),
        ("a = com.microsoft.MultiHeadAttention<num_heads=2>(x, x, x)", "MultiHeadAttention"),
        ("a, d = com.microsoft.EmbedLayerNormalization(i, , e, e, , s, s)", "EmbedLayerNorm"),
    ],
)
def test_what_cannot_be_taken_apart_is_refused_by_name(body, names):
    text = f"""g (float[n,6,8] x, int32[n,6] i) => (float[n,6,3] y) {{
        {body}  r = Relu(a)  y = MatMul(r, v) }}"""
    model = model_of(text, {"q": (8, 24), "qb": 24, "v": (8, 3), "e": (8, 8), "s": 8})
    with pytest.raises(ModelError, match=rf"{names}.*export the model without graph optimisation"):
        compile_model(model)


def test_layouts_of_one_machine_are_refused():
    text = f"""{IMAGES} {{
        a = com.microsoft.nchwc.Conv<activation="Relu">(x, w)  y = Conv(a, v) }}"""
    model = model_of(text, {"w": (8, 4, 3, 3), "v": (3, 8, 1, 1)})
    model.opset_import.add(domain="com.microsoft.nchwc", version=1)
    with pytest.raises(ModelError, match="export the model without graph optimisation"):
        compile_model(model)
