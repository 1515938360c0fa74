"""Fused operators of onnxruntime against what they are taken apart into."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from helpers import export_model, run_model
from onnx import numpy_helper
from snn_compile.compiler.model_io.load import load_source
from snn_compile.compiler.running.types import with_types
from snn_compile.passes.canonicalise.canonicalise import canonicalise
from snn_compile.passes.graph.graph import ANN_DOMAIN
from snn_compile.passes.graph.surgeon import import_model

MICROSOFT = "com.microsoft"


def model_of(text, weights=(), opset=17):
    """``graph (inputs) => (outputs) { nodes }``, with normal weights of these names and shapes."""
    imports = f'["" : {opset}, "{MICROSOFT}" : 1]'
    model = onnx.parser.parse_model(f"<ir_version: 8, opset_import: {imports}>\n{text}")
    rng = np.random.default_rng(1)
    for name, shape in dict(weights).items():
        values = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def split(model):
    graph = import_model(with_types(load_source(model).network))
    return export_model(canonicalise(graph).graph)


def operators(model):
    return [node.op_type for node in model.graph.node]


def assert_same_outputs(model, expected, feed=None):
    """Taken apart the model has these operators, none of onnxruntime's, and the same outputs."""
    apart = split(model)
    assert operators(apart) == expected
    assert {node.domain for node in apart.graph.node} <= {"", ANN_DOMAIN}
    rng = np.random.default_rng(2)
    shapes = {
        value.name: [dim.dim_value or 3 for dim in value.type.tensor_type.shape.dim]
        for value in model.graph.input
    }
    feed = feed or {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    for before, after in zip(run_model(model, feed), run_model(apart, feed), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


CONV = "float[n,4,7,7] x"
CONV_WEIGHTS = {"w": (6, 4, 3, 3), "b": 6}


@pytest.mark.parametrize(
    ("attributes", "activation"),
    [
        ('activation="Relu"', "Relu"),
        ('activation="Sigmoid", pads=[1,1,1,1]', "Sigmoid"),
        ('activation="Tanh", strides=[2,2]', "Tanh"),
        ('activation="HardSwish"', "HardSwish"),
        ('activation="LeakyRelu", activation_params=[0.2]', "LeakyRelu"),
        ('activation="HardSigmoid", activation_params=[0.3, 0.4]', "HardSigmoid"),
        ('activation="Clip", activation_params=[0.0, 1.5]', "Clip"),
    ],
)
def test_fused_conv(attributes, activation):
    text = (
        f"g ({CONV}) => (float[n,6,h,w2] y) {{ y = {MICROSOFT}.FusedConv<{attributes}>(x, w, b) }}"
    )
    assert_same_outputs(model_of(text, CONV_WEIGHTS), ["Conv", activation])


def test_fused_conv_with_a_sum():
    body = f'y = {MICROSOFT}.FusedConv<activation="Relu">(x, w, b, z)'
    text = f"g ({CONV}, float[n,6,5,5] z) => (float[n,6,5,5] y) {{ {body} }}"
    assert_same_outputs(model_of(text, CONV_WEIGHTS), ["Conv", "Add", "Relu"])


def test_fused_conv_with_a_sum_and_no_bias():
    body = f'y = {MICROSOFT}.FusedConv<activation="Tanh">(x, w, , z)'
    text = f"g ({CONV}, float[n,6,5,5] z) => (float[n,6,5,5] y) {{ {body} }}"
    assert_same_outputs(model_of(text, {"w": (6, 4, 3, 3)}), ["Conv", "Add", "Tanh"])


def test_fused_conv_without_activation():
    text = f"g ({CONV}) => (float[n,6,5,5] y) {{ y = {MICROSOFT}.FusedConv(x, w, b) }}"
    assert_same_outputs(model_of(text, CONV_WEIGHTS), ["Conv"])


@pytest.mark.parametrize(
    ("attributes", "activation"),
    [
        ('activation="Relu"', "Relu"),
        ('activation="Softplus", alpha=0.5', "Softplus"),
        ('activation="Softsign"', "Softsign"),
        ('activation="Elu", activation_alpha=0.7', "Elu"),
        ('activation="LeakyRelu", activation_alpha=0.2, transB=0', "LeakyRelu"),
        ('activation="Celu", activation_alpha=1.5', "Celu"),
        ('activation="ThresholdedRelu", activation_alpha=0.4', "ThresholdedRelu"),
        ('activation="HardSigmoid", activation_alpha=0.3, activation_beta=0.4', "HardSigmoid"),
        ('activation="Selu", activation_alpha=1.6, activation_gamma=1.1, beta=2.0', "Selu"),
    ],
)
def test_fused_gemm(attributes, activation):
    body = f"y = {MICROSOFT}.FusedGemm<{attributes}>(x, w, b)"
    model = model_of(f"g (float[n,5] x) => (float[n,4] y) {{ {body} }}", {"w": (5, 4), "b": 4})
    assert_same_outputs(model, ["Gemm", activation])


@pytest.mark.parametrize(
    ("attributes", "left", "right", "expected"),
    [
        ("alpha=0.25", "n,4,6", "n,6,5", ["MatMul", "Mul"]),
        ("transA=1", "n,6,4", "n,6,5", ["Transpose", "MatMul"]),
        ("transB=1, alpha=0.5", "n,2,4,6", "n,2,5,6", ["Transpose", "MatMul", "Mul"]),
        ("transA=1, transB=1", "n,6,4", "n,5,6", ["Transpose", "Transpose", "MatMul"]),
        ("transBatchA=1", "4,n,2,6", "n,2,6,5", ["Transpose", "MatMul"]),
        ("transBatchB=1, transB=1", "n,2,4,6", "5,n,2,6", ["Transpose", "MatMul"]),
        ("transB=1", "n,6", "6", ["MatMul"]),
    ],
)
def test_fused_matmul(attributes, left, right, expected):
    body = f"y = {MICROSOFT}.FusedMatMul<{attributes}>(l, r)"
    model = model_of(f"g (float[{left}] l, float[{right}] r) => (float[a] y) {{ {body} }}")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert_same_outputs(model, expected)


@pytest.mark.parametrize("opset", [15, 17, 20])
@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("BiasGelu(x, b)", ["Add", "Gelu"]),
        ("FastGelu(x, b)", ["Add", "GeluTanh"]),
    ],
)
def test_activations_of_a_sum(call, expected, opset):
    text = f"g (float[n,4,6] x) => (float[n,4,6] y) {{ y = {MICROSOFT}.{call} }}"
    if opset >= 20:
        expected = ["Gelu" if op == "GeluTanh" else op for op in expected]
    assert_same_outputs(model_of(text, {"b": 6}, opset), expected)


@pytest.mark.parametrize("opset", [15, 17, 23])
@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("SkipLayerNormalization<epsilon=0.001>(x, s, scale)", ["Add", "LayerNormalization"]),
        ("SkipLayerNormalization(x, s, scale, shift)", ["Add", "LayerNormalization"]),
        ("SkipLayerNormalization(x, s, scale, shift, b)", ["Add", "Add", "LayerNormalization"]),
        ("SkipSimplifiedLayerNormalization(x, s, scale)", ["Add", "RMSNormalization"]),
        ("SkipSimplifiedLayerNormalization(x, s, scale, b)", ["Add", "Add", "RMSNormalization"]),
    ],
)
def test_normalisations_of_sums(call, expected, opset):
    text = f"g (float[n,4,6] x, float[n,4,6] s) => (float[n,4,6] y) {{ y = {MICROSOFT}.{call} }}"
    weights = {name: 6 for name in ("scale", "shift", "b") if name in call}
    assert_same_outputs(model_of(text, weights, opset), expected)


def test_the_sum_in_front_of_a_normalisation_may_be_read():
    body = f"""n, m, d, t = {MICROSOFT}.SkipLayerNormalization(x, s, scale)
               y = Add(n, t)"""
    text = f"g (float[n,4,6] x, float[4,6] s) => (float[n,4,6] y) {{ {body} }}"
    model = model_of(text, {"scale": 6})
    assert_same_outputs(model, ["Add", "LayerNormalization", "Add"])


def test_bodies_are_taken_apart_too():
    text = f"""g (bool c, float[n,4] x) => (float[n,4] y) {{
        y = If (c) <
            then_branch = t () => (float[n,4] a) {{ a = {MICROSOFT}.BiasGelu(x, v) }},
            else_branch = e () => (float[n,4] b) {{ b = {MICROSOFT}.FusedMatMul<alpha=2.0>(x, w) }}
        > }}"""
    model = model_of(text, {"w": (4, 4), "v": 4})
    x = np.random.default_rng(3).standard_normal((2, 4)).astype(np.float32)
    for condition in (True, False):
        assert_same_outputs(model, ["If"], {"c": np.array(condition), "x": x})


def test_what_cannot_be_taken_apart_stays():
    body = f"""n, m = {MICROSOFT}.SkipLayerNormalization(x, s, scale)
               y = Add(n, m)"""
    text = f"g (float[n,4,6] x, float[n,4,6] s) => (float[n,4,6] y) {{ {body} }}"
    assert operators(split(model_of(text, {"scale": 6}))) == ["SkipLayerNormalization", "Add"]


def test_what_the_runtime_writes_when_it_optimises(tmp_path):
    """A residual network of convolutions, and a classifier, as ONNX Runtime saves it."""
    text = f"""g ({CONV}) => (float[n,3] y) {{
        c = Conv<pads=[1,1,1,1]>(x, w, b)
        r = Relu(c)
        d = Conv<pads=[1,1,1,1]>(r, v)
        s = Add(d, r)
        t = LeakyRelu<alpha=0.1>(s)
        p = GlobalAveragePool(t)
        f = Flatten(p)
        h = Gemm(f, m, k)
        i = Sigmoid(h)
        y = Gemm(i, o)
    }}"""
    weights = {**CONV_WEIGHTS, "v": (6, 6, 3, 3), "m": (6, 8), "k": 8, "o": (8, 3)}
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(model_of(text, weights).SerializeToString(), options)
    optimised = onnx.load(tmp_path / "optimised.onnx")
    assert {"FusedConv", "FusedGemm"} <= set(operators(optimised))
    expected = ["Conv", "Relu", "Conv", "Add", "LeakyRelu", "GlobalAveragePool", "Flatten"]
    assert_same_outputs(optimised, [*expected, "Gemm", "Sigmoid", "Gemm"])
