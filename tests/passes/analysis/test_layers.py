"""Linear layers get parameters of their own, and the function computed stays the same."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import export_model, model_from_text, run_model
from onnx import ModelProto
from snn_compile.passes.analysis.layers import find_layers
from snn_compile.passes.graph.surgeon import import_model, infer_shapes
from snn_compile.passes.neurons.own_parameters import own_parameters, set_parameters

CONV = """
net (float[B, 3, 6, 5] x) => (float[B, 4, 6, 5] y)
<float[4, 3, 3, 3] w, float[4, 4, 3, 3] v, float[4] b>
{
  a = Relu(x)
  c = Conv<pads = [1, 1, 1, 1]>(a, w)
  r = Relu(c)
  d = Conv<pads = [1, 1, 1, 1]>(r, v, b)
  y = Add(d, r)
}
"""


def feed(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


def rewritten(model: ModelProto) -> ModelProto:
    graph = infer_shapes(import_model(model))
    own_parameters(graph)
    return export_model(graph)


def test_a_conv_without_bias_gets_zeros_and_layers_are_described():
    model = model_from_text(CONV)
    graph = infer_shapes(import_model(model))
    own_parameters(graph)
    first, second = find_layers(graph)
    assert (first.input, first.weight, first.output, first.total) == ("a", "w", "c", "c")
    assert first.residual is None
    assert (second.bias, second.output, second.total, second.residual) == ("b", "d", "y", "r")
    assert second.geometry is not None
    assert second.geometry.pads == (1, 1, 1, 1)
    assert second.channel_axis == 1
    x = feed((2, 3, 6, 5))
    np.testing.assert_array_equal(run_model(model, x)[0], run_model(export_model(graph), x)[0])


@pytest.mark.parametrize(
    ("nodes", "outputs", "weights"),
    [
        ("a = Relu(x) y = MatMul(a, w)", "y", "float[5, 7] w"),
        ("a = Relu(x) m = MatMul(a, w) y = Add(m, b)", "y", "float[5, 7] w, float[7] b"),
        ("a = Relu(x) m = MatMul(a, w) y = Add(b, m)", "y", "float[5, 7] w, float[7] b"),
        ("a = Relu(x) m = MatMul(a, w) y = Add(m, b)", "y", "float[5, 7] w, float[4, 7] b"),
        ("a = Relu(x) y = Gemm(a, w)", "y", "float[5, 7] w"),
        ("a = Relu(x) y = Gemm<transB = 1>(a, w, b)", "y", "float[7, 5] w, float[7] b"),
        ("a = Relu(x) m = MatMul(a, w) n = MatMul(m, v) y = Add(n, m)", "y",
         "float[5, 7] w, float[7, 7] v"),
    ],
)  # fmt: skip
def test_every_form_keeps_its_function(nodes: str, outputs: str, weights: str):
    text = f"net (float[4, 5] x) => (float[4, 7] {outputs}) <{weights}> {{ {nodes} }}"
    model = model_from_text(text)
    after = rewritten(model)
    x = feed((4, 5))
    np.testing.assert_array_equal(run_model(model, x)[0], run_model(after, x)[0])
    graph = infer_shapes(import_model(after))
    for layer in find_layers(graph):
        width = 7
        assert graph.tensors()[layer.bias].values.shape == (width,)


def test_shared_parameters_are_copied():
    model = model_from_text(
        """net (float[4, 5] x) => (float[4, 5] y) <float[5, 5] w, float[5] b>
        { a = Relu(x) c = Gemm(a, w, b) d = Relu(c) y = Gemm(d, w, b) }"""
    )
    graph = infer_shapes(import_model(model))
    own_parameters(graph)
    layers = find_layers(graph)
    assert len({layer.weight for layer in layers}) == 2
    assert len({layer.bias for layer in layers}) == 2
    x = feed((4, 5))
    np.testing.assert_array_equal(run_model(model, x)[0], run_model(export_model(graph), x)[0])
    set_parameters(graph, {layers[0].bias: np.full(5, 3, np.float32)})
    changed = run_model(export_model(graph), x)[0]
    w, b = (graph.tensors()[name].values for name in (layers[1].weight, layers[1].bias))
    first = np.maximum(np.maximum(x["x"], 0) @ w + 3, 0)
    np.testing.assert_allclose(changed, first @ w + b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "nodes",
    [
        "a = Relu(x) y = Gemm<alpha = 2.0>(a, w, b)",
        "a = Relu(x) y = Gemm<beta = 2.0>(a, w, b)",
        "a = Relu(x) t = Transpose(a) y = Gemm<transA = 1>(t, w, b)",
        "y = Gemm(x, w, b)",  # nothing fires before it
        "a = Relu(x) y = MatMul(w, a)",
        "a = Relu(x) c = Relu(b) y = Gemm(a, w, c)",
    ],
)
def test_what_is_no_layer_is_left_as_it_is(nodes: str):
    text = f"net (float[5, 5] x) => (float[5, 5] y) <float[5, 5] w, float[5] b> {{ {nodes} }}"
    model = model_from_text(text)
    graph = infer_shapes(import_model(model))
    result = own_parameters(graph)
    assert not result.changes
    assert not find_layers(graph)
    assert [node.op for node in graph.nodes] == [node.op_type for node in model.graph.node]


def test_a_convtranspose_has_the_channels_of_all_groups_and_no_geometry():
    model = model_from_text(
        """net (float[1, 4, 5] x) => (float[1, 6, 6] y) <float[4, 3, 2] w>
        { a = Relu(x) y = ConvTranspose<group = 2>(a, w) }"""
    )
    graph = infer_shapes(import_model(model))
    own_parameters(graph)
    (layer,) = find_layers(graph)
    assert layer.geometry is None
    assert graph.tensors()[layer.bias].values.shape == (6,)


def test_a_sum_with_other_shapes_or_readers_is_no_residual():
    model = model_from_text(
        """net (float[4, 5] x, float[1, 5] r) => (float[4, 5] y, float[4, 5] z)
        <float[5, 5] w, float[5] b, float[5, 5] v, float[5] c>
        { a = Relu(x) m = Gemm(a, w, b) y = Add(m, r) n = Gemm(a, v, c) s = Add(n, x)
          t = Neg(n) z = Add(s, t) }"""
    )
    graph = infer_shapes(import_model(model))
    own_parameters(graph)
    assert [layer.residual for layer in find_layers(graph)] == [None, None]
