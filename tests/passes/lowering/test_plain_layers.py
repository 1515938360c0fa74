"""Layers as tools for FPGAs read them: no bias in them, weights that are multiples of steps."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import model_from_text, run_model
from snn_compile.passes.graph.network import detach
from snn_compile.passes.graph.surgeon import export_network, import_model, infer_shapes
from snn_compile.passes.lowering.plain_layers import plain_layers

NETWORKS = {
    "Conv": (
        "float[N,4,6,6] x",
        "<float[8,4,3,3] w, float[8] b> { y = Conv <pads=[1,1,1,1]> (x, w, b) }",
        "Conv Add",
    ),
    "depthwise": (
        "float[N,4,6,6] x",
        "<float[4,1,3,3] w, float[4] b> { y = Conv <group=4> (x, w, b) }",
        "Conv Add",
    ),
    "over time": (
        "float[N,4,9] x",
        "<float[8,4,3] w, float[8] b> { y = Conv (x, w, b) }",
        "Conv Add",
    ),
    "ConvTranspose": (
        "float[N,4,6,6] x",
        "<float[4,5,2,2] w, float[5] b> { y = ConvTranspose <strides=[2,2]> (x, w, b) }",
        "ConvTranspose Add",
    ),
    "without a bias": (
        "float[N,4,6,6] x",
        "<float[8,4,1,1] w> { y = Conv (x, w) }",
        "Conv",
    ),
    "Gemm": (
        "float[N,6] x",
        "<float[5,6] w, float[5] b> { y = Gemm <transB=1> (x, w, b) }",
        "MatMul Add",
    ),
    "MatMul": (
        "float[N,7,6] x",
        "<float[6,5] w> { y = MatMul (x, w) }",
        "MatMul",
    ),
    "pool and Flatten": (
        "float[N,4,6,6] x",
        """<int64[2] to = {-1, 4}> { p = AveragePool <kernel_shape=[6,6]> (x)
        y = Reshape (p, to) }""",
        "GlobalAveragePool Flatten",
    ),
    "mean": (
        "float[N,4,6,6] x",
        "{ y = ReduceMean <axes=[-1,2], keepdims=0> (x) }",
        "GlobalAveragePool Flatten",
    ),
    "mean that keeps its axes": (
        "float[N,4,6,6] x",
        "{ y = ReduceMean <axes=[2,3]> (x) }",
        "GlobalAveragePool",
    ),
    "rows by their number": (
        "float[N,4,6,6] x",
        """<int64 first = {0}, int64[1] axis = {0}, int64[1] rest = {-1}> { s = Shape (x)
        n = Gather (s, first) m = Unsqueeze (n, axis) to = Concat <axis=0> (m, rest)
        y = Reshape (x, to) }""",
        "Flatten",
    ),
    "rows by a slice": (
        "float[N,4,6,6] x",
        """<int64[1] zero = {0}, int64[1] one = {1}, int64[1] rest = {-1}> { s = Shape (x)
        n = Slice (s, zero, one, zero) to = Concat <axis=0> (n, rest) y = Reshape (x, to) }""",
        "Flatten",
    ),
    "rows and channels by a slice": (
        "float[N,4,6,6] x",
        """<int64[1] zero = {0}, int64[1] two = {2}, int64[1] rest = {-1}> { s = Shape (x)
        n = Slice (s, zero, two, zero) to = Concat <axis=0> (n, rest) y = Reshape (x, to) }""",
        "Shape Slice Concat Reshape",
    ),
    "rows and channels by their numbers": (
        "float[N,4,6,6] x",
        """<int64[2] two = {0, 0}, int64[1] rest = {-1}> { s = Shape (x)
        n = Gather (s, two) to = Concat <axis=0> (n, rest) y = Reshape (x, to) }""",
        "Shape Gather Concat Reshape",
    ),
    "rows of another tensor": (
        "float[N,4,6,6] x",
        """<int64[1] zero = {0}, int64[1] rest = {-1}, int64[3] windows = {-1, 6, 6}> {
        s = Shape (x) n = Gather (s, zero) to = Concat <axis=0> (n, rest)
        w = Reshape (x, windows) y = Reshape (w, to) }""",
        "Shape Gather Concat Reshape Reshape",
    ),
    "rows by those of a tensor of as many": (
        "float[N,4,6,6] x",
        """<int64[1] zero = {0}, int64[1] rest = {-1}> { s = Shape (x) n = Gather (s, zero)
        to = Concat <axis=0> (n, rest) r = Relu (x) y = Reshape (r, to) }""",
        "Relu Flatten",
    ),
    "another shape": (
        "float[N,4,6,6] x",
        "<int64[2] to = {-1, 8}> { y = Reshape (x, to) }",
        "Reshape",
    ),
    "a pool of parts": (
        "float[N,4,6,6] x",
        "{ y = AveragePool <kernel_shape=[3,3]> (x) }",
        "AveragePool",
    ),
    "a padded pool": (
        "float[N,4,6,6] x",
        "{ y = AveragePool <kernel_shape=[6,6], pads=[1,1,0,0]> (x) }",
        "AveragePool",
    ),
}


def built(name):
    x, body, ops = NETWORKS[name]
    output = "float[N,a,b,c] y" if "Conv" in ops or "Pool" in ops.split()[-1] else "float[N,a] y"
    output = {"over time": "float[N,a,b] y", "MatMul": "float[N,7,5] y"}.get(name, output)
    output = "float[N,4,36] y" if name.startswith("rows and channels") else output
    model = model_from_text(f"g ({x}) => ({output}) {body}")
    shape = [d.dim_value or 3 for d in model.graph.input[0].type.tensor_type.shape.dim]
    feed = {"x": np.random.default_rng(2).standard_normal(shape).astype(np.float32)}
    return model, feed, ops.split()


def plain(model, steps=None, most=127):
    graph = infer_shapes(import_model(detach(model)))
    result, weights = plain_layers(graph, steps or {}, most)
    return export_network(result.graph), weights


@pytest.mark.parametrize("name", NETWORKS)
def test_operators_and_outputs(name):
    model, feed, ops = built(name)
    found, weights = plain(model)
    assert [node.op_type for node in found.proto.graph.node] == ops
    (exact,) = run_model(model, feed)
    (got,) = run_model(found.attached(), feed)
    assert got.shape == exact.shape
    bound = 0.01 * np.abs(exact).max() if weights else 1e-6
    assert np.abs(got - exact).max() <= bound


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("name", ["Conv", "depthwise", "ConvTranspose", "Gemm"])
def test_weights_are_integers_times_steps(name, bits):
    model, _, _ = built(name)
    most = 2 ** (bits - 1) - 1
    found, weights = plain(model, most=most)
    ((key, step),) = weights.items()
    (values,) = [t for t in found.proto.graph.initializer if t.name == key]
    values = np.frombuffer(values.raw_data, np.float32).reshape(values.dims)
    q = values / step
    assert np.abs(q).max() <= most + 1e-3
    np.testing.assert_allclose(q, np.rint(q), atol=1e-4)
    assert np.array_equal((np.rint(q) * step).astype(np.float32), values)
    assert np.rint(np.abs(q)).max() == most  # all of the range is used


def test_steps_that_calibration_found_are_kept():
    model, _, _ = built("Gemm")
    (weight,) = [t for t in model.graph.initializer if t.name == "w"]
    integers = np.arange(-15, 15).reshape(5, 6)
    step = np.float32([0.1, 0.2, 0.3, 0.4, 0.5])
    values = (integers * step[:, None]).astype(np.float32)
    weight.ClearField("float_data")
    weight.raw_data = values.tobytes()
    found, weights = plain(model, {"w": step})
    ((key, one),) = weights.items()
    assert np.array_equal(one.reshape(-1), step)
    (tensor,) = [t for t in found.proto.graph.initializer if t.name == key]
    kept = np.frombuffer(tensor.raw_data, np.float32).reshape(tensor.dims)
    assert np.array_equal(kept, values.T)
