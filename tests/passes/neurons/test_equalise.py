"""Scales move between layers: where they can, what they are tied to, and where they cannot."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from conftest import REPOSITORY
from helpers import model_from_text, run_model
from onnx import ModelProto
from snn_compile.compiler.model_io.load import load_source
from snn_compile.passes.analysis.activations import find_activations
from snn_compile.passes.canonicalise.canonicalise import canonicalise
from snn_compile.passes.fold_batchnorm.fold_batchnorm import fold_batchnorm
from snn_compile.passes.graph.graph import Graph
from snn_compile.passes.graph.surgeon import export_model, import_model
from snn_compile.passes.neurons.encode_edges import encode_edges
from snn_compile.passes.neurons.equalise import (
    equalise,
    find_refusals,
    find_sites,
    joint_scales,
    own_norms,
    range_scales,
)
from snn_compile.passes.recognise.recognise import recognise

Scales = dict[str, np.ndarray]


def prepared(model: ModelProto, encode: bool = False, split: bool = False) -> Graph:
    graph = canonicalise(import_model(model)).graph
    if encode:
        graph = encode_edges(graph).graph
    return own_norms(graph).graph if split else graph


def net(nodes: str, weights: str, x: str = "N, 4, 6, 6", y: str = "N, A, B, C", opset: int = 17):
    text = f"g (float[{x}] x) => (float[{y}] y) <{weights}> {{ {nodes} }}"
    return model_from_text(text, opset)


def random_scales(graph: Graph, powers_of_two: bool = False) -> Scales:
    rng = np.random.default_rng(7)
    exponents = {site.output: rng.uniform(-3, 3, site.channels) for site in find_sites(graph)}
    if powers_of_two:
        exponents = {name: np.round(values) for name, values in exponents.items()}
    return {name: np.exp2(values).astype(np.float32) for name, values in exponents.items()}


def values(graph: Graph, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs of the network, then input and output of every neuron."""
    model = export_model(graph)
    names = [output.name for output in model.graph.output]
    for neuron in find_activations(graph)[0]:
        names += [neuron.input, neuron.output]
    names = list(dict.fromkeys(names))
    held = {output.name for output in model.graph.output}
    known = {value.name: value for value in model.graph.value_info}
    model.graph.output.extend(known[name] for name in names if name not in held)
    return dict(zip(names, run_model(model, feed), strict=True)) if names else {}


def as_shape(scales: np.ndarray, site, rank: int) -> np.ndarray:
    shape = [1] * rank
    for axis, size in zip(site.axes, site.sizes, strict=True):
        shape[axis] = size
    return scales.reshape(shape)


def assert_equalised(graph: Graph, feed: dict[str, np.ndarray], **scales: np.ndarray) -> list[str]:
    """The same function, and each site's input and output divided by the scales.

    Scales that are asked for are taken as they are; without any, every site asks for random ones,
    and once more for powers of two, where one site alone decides about each channel.
    """
    outputs = [tensor.name for tensor in graph.outputs]
    sites = find_sites(graph)
    assert sites
    before = values(graph, feed)
    wanted = dict(scales) or random_scales(graph)
    exact = all(np.all(np.log2(s) % 1 == 0) for s in wanted.values())
    used = joint_scales(sites, wanted)
    changes = equalise(graph, wanted).changes
    after = values(graph, feed)
    for name in outputs:
        if exact:
            np.testing.assert_array_equal(after[name], before[name])
        else:
            np.testing.assert_allclose(after[name], before[name], rtol=1e-4, atol=1e-5)
    for site in sites:
        for name in (site.input, site.output):
            s = as_shape(used[site.output], site, before[name].ndim)
            expected = before[name] / s
            rounding = 1e-5 * max(1.0, float(np.abs(expected).max()))
            np.testing.assert_allclose(after[name], expected, rtol=1e-4, atol=rounding)
    assert any(np.any(s != 1) for s in used.values())
    return changes


def refusal(graph: Graph, name: str) -> str:
    """Why a neuron is no site, by its output."""
    names = {neuron.name: neuron.output for neuron in find_activations(graph)[0]}
    return {names[kept.name]: kept.reason for kept in find_refusals(graph)}[name]


IMAGES = {"x": np.random.default_rng(0).standard_normal((2, 4, 6, 6)).astype(np.float32)}
TOKENS = {"x": np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)}
ROWS = {"x": np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)}

CONVS = "float[8, 4, 3, 3] w, float[6, 8, 3, 3] v, float[8] b, float[6] d"
HEAD = "float[8, 4, 3, 3] w, float[6, 8, 3, 3] v"

IMAGE_SITES = {
    "Conv": ("c = Conv(x, w, b) r = Relu(c) y = Conv(r, v, d)", CONVS),
    "Conv without a bias": ("c = Conv(x, w) r = Relu(c) y = Conv(r, v)", CONVS),
    "grouped Conv": (
        "c = Conv<group = 2>(x, w, b) r = Relu(c) y = Conv<group = 2>(r, v)",
        "float[8, 2, 3, 3] w, float[6, 4, 3, 3] v, float[8] b",
    ),
    "depthwise Conv": (
        "c = Conv<group = 4>(x, w, b) r = Relu(c) y = Conv<group = 8>(r, v)",
        "float[8, 1, 3, 3] w, float[8, 1, 3, 3] v, float[8] b",
    ),
    "ConvTranspose": (
        "c = ConvTranspose(x, w, b) r = Relu(c) y = ConvTranspose(r, v)",
        "float[4, 8, 3, 3] w, float[8, 6, 2, 2] v, float[8] b",
    ),
    "grouped ConvTranspose": (
        "c = ConvTranspose<group = 2>(x, w, b) r = Relu(c) y = ConvTranspose<group = 2>(r, v)",
        "float[4, 4, 3, 3] w, float[8, 3, 2, 2] v, float[8] b",
    ),
    "LeakyRelu": ("c = Conv(x, w, b) r = LeakyRelu<alpha = 0.2>(c) y = Conv(r, v)", CONVS),
    "PRelu": (
        "c = Conv(x, w, b) r = PRelu(c, slope) y = Conv(r, v)",
        f"{CONVS}, float[8, 1, 1] slope",
    ),
    "Clip without an upper bound": (
        "c = Conv(x, w, b) r = Clip(c, zero) y = Conv(r, v)",
        f"{CONVS}, float zero = {{0}}",
    ),
    "Clip at the largest float": (
        "c = Conv(x, w, b) r = Clip(c, zero, high) y = Conv(r, v)",
        f"{CONVS}, float zero = {{0}}, float high = {{3.4028235e38}}",
    ),
    "two readers": (
        "c = Conv(x, w) r = Relu(c) p = Conv(r, v) q = Conv(r, u) y = Sub(p, q)",
        f"{HEAD}, float[6, 8, 3, 3] u",
    ),
    "MaxPool": (
        "c = Conv(x, w, b) r = Relu(c) "
        "m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r) y = Conv(m, v)",
        "float[8, 4, 3, 3] w, float[6, 8, 1, 1] v, float[8] b",
    ),
    "AveragePool": (
        "c = Conv(x, w, b) r = Relu(c) m = AveragePool<kernel_shape = [2, 2]>(r) y = Conv(m, v)",
        CONVS,
    ),
    "GlobalAveragePool": (
        "c = Conv(x, w, b) r = Relu(c) m = GlobalAveragePool(r) y = Conv(m, v)",
        "float[8, 4, 3, 3] w, float[6, 8, 1, 1] v, float[8] b",
    ),
    "Pad": (
        "c = Conv(x, w, b) r = Relu(c) m = Pad(r, pads) y = Conv(m, v)",
        f"{CONVS}, int64[8] pads = {{0, 0, 1, 0, 0, 0, 0, 1}}",
    ),
    "Pad that repeats the border": (
        'c = Conv(x, w, b) r = Relu(c) m = Pad<mode = "edge">(r, pads) y = Conv(m, v)',
        f"{CONVS}, int64[8] pads = {{0, 0, 1, 0, 0, 0, 0, 1}}",
    ),
    "zeros as channels": (
        "c = Conv(x, w, b) r = Relu(c) m = Pad(r, pads) y = Conv(m, u)",
        f"{CONVS}, float[6, 11, 3, 3] u, int64[8] pads = {{0, 1, 0, 0, 0, 2, 0, 0}}",
    ),
    "Mul and Div": (
        "c = Conv(x, w, b) e = Mul(c, k) r = Relu(e) f = Div(r, k) y = Conv(f, v)",
        f"{CONVS}, float[8, 1, 1] k",
    ),
    "Add and Sub of constants": (
        "c = Conv(x, w) e = Add(k, c) f = Sub(e, one) r = Relu(f) y = Conv(r, v)",
        f"{CONVS}, float[8, 1, 1] k, float one = {{1}}",
    ),
    "a difference of two layers": (
        "c = Conv(x, w, b) e = Conv(x, u) f = Sub(c, e) r = Relu(f) y = Conv(r, v)",
        f"{CONVS}, float[8, 4, 3, 3] u",
    ),
    "Slice": (
        "c = Conv(x, w, b) r = Relu(c) s = Slice(r, from, to, axes, steps) y = Conv(s, u)",
        f"{CONVS}, float[6, 3, 3, 3] u, int64[2] from = {{1, 0}}, int64[2] to = {{7, 3}}, "
        "int64[2] axes = {1, 2}, int64[2] steps = {2, 1}",
    ),
    "Split": (
        "c = Conv(x, w, b) r = Relu(c) p, q = Split<axis = 1>(r, parts) "
        "e = Conv(p, u) f = Conv(q, t) y = Add(e, f)",
        f"{CONVS}, float[6, 3, 3, 3] u, float[6, 5, 3, 3] t, int64[2] parts = {{3, 5}}",
    ),
    "Gather": (
        "c = Conv(x, w, b) r = Relu(c) p = Gather<axis = 1>(r, order) y = Conv(p, u)",
        f"{CONVS}, float[6, 3, 3, 3] u, int64[3] order = {{5, 2, 2}}",
    ),
    "Gather of rows": (
        "c = Conv(x, w, b) r = Relu(c) p = Gather<axis = 2>(r, order) y = Conv(p, v)",
        f"{CONVS}, int64[3] order = {{0, 2, 1}}",
    ),
    "Split of rows": (
        "c = Conv(x, w, b) r = Relu(c) p, q = Split<axis = 3>(r, parts) "
        "e = Conv(p, u) f = Conv(q, u) y = Concat<axis = 3>(e, f)",
        f"{CONVS}, float[6, 8, 1, 1] u, int64[2] parts = {{3, 1}}",
    ),
    "a gate": (
        "c = Conv(x, w, b) r = Relu(c) e = Conv(x, w) g = Sigmoid(e) f = Mul(g, r) y = Conv(f, v)",
        CONVS,
    ),
    "Concat of channels": (
        "c = Conv(x, w, b) r = Relu(c) e = Conv(x, u) q = Relu(e) "
        "j = Concat<axis = 1>(r, q) y = Conv(j, t)",
        f"{CONVS}, float[2, 4, 3, 3] u, float[6, 10, 3, 3] t",
    ),
    "Concat along the rows": (
        "c = Conv(x, w, b) r = Relu(c) e = Conv(x, u) q = Relu(e) "
        "j = Concat<axis = 2>(r, q) y = Conv(j, v)",
        f"{CONVS}, float[8, 4, 3, 3] u",
    ),
    "channel shuffle": (
        "c = Conv(x, w, b) r = Relu(c) p = Reshape(r, apart) q = Transpose<perm = [0, 2, 1, 3, 4]>"
        "(p) s = Reshape(q, together) y = Conv(s, v)",
        f"{CONVS}, int64[5] apart = {{-1, 2, 4, 4, 4}}, int64[4] together = {{-1, 8, 4, 4}}",
    ),
    "InstanceNormalization": (
        "c = InstanceNormalization(x, g, k) r = Relu(c) y = Conv(r, u)",
        "float[4] g, float[4] k, float[6, 4, 3, 3] u",
    ),
    "a shape that is read": (
        "c = Conv(x, w, b) r = Relu(c) s = Shape(c) p = Reshape(r, s) y = Conv(p, v)",
        CONVS,
    ),
}


@pytest.mark.parametrize(("nodes", "weights"), IMAGE_SITES.values(), ids=IMAGE_SITES)
def test_channels_of_images_are_scaled(nodes, weights):
    model = net(nodes, weights)
    graph = prepared(model)
    sites = find_sites(graph)
    assert all(site.axis == 1 and (site.groups >= 0).all() for site in sites)
    assert_equalised(graph, IMAGES)
    graph = prepared(model)
    first = sites[0].output
    assert_equalised(graph, IMAGES, **{first: random_scales(graph, powers_of_two=True)[first]})


FLAT = "float[8, 4, 3, 3] w, float[128, 6] m, float[8, 6] n"
FLAT_SITES = {
    "Flatten": ("c = Conv(x, w) r = Relu(c) f = Flatten(r) y = MatMul(f, m)", FLAT, 8),
    "Reshape": (
        "c = Conv(x, w) r = Relu(c) f = Reshape(r, to) y = MatMul(f, m)",
        f"{FLAT}, int64[2] to = {{-1, 128}}",
        8,
    ),
    "a neuron behind Flatten": (
        "c = Conv(x, w) f = Flatten(c) r = Relu(f) y = MatMul(r, m)",
        FLAT,
        128,
    ),
    "Reshape to what a weight tells": (
        "c = Conv(x, w) r = Relu(c) g = GlobalAveragePool(r) s = Shape(x) "
        "n0 = Gather(s, first) to = Concat<axis = 0>(n0, rest) f = Reshape(g, to) y = MatMul(f, n)",
        f"{FLAT}, int64[1] first = {{0}}, int64[1] rest = {{-1}}",
        8,
    ),
    "ReduceMean": (
        "c = Conv(x, w) r = Relu(c) g = ReduceMean<axes = [2, 3], keepdims = 0>(r) "
        "y = MatMul(g, n)",
        FLAT,
        8,
    ),
    "Squeeze": (
        "c = Conv(x, w) r = Relu(c) g = GlobalMaxPool(r) q = Squeeze(g, last) y = MatMul(q, n)",
        f"{FLAT}, int64[2] last = {{2, 3}}",
        8,
    ),
    "Transpose": (
        "c = Conv(x, w) r = Relu(c) t = Transpose<perm = [0, 2, 3, 1]>(r) f = Flatten<axis = 3>(t) "
        "y = MatMul(f, n)",
        FLAT,
        8,
    ),
}


@pytest.mark.parametrize(("nodes", "weights", "channels"), FLAT_SITES.values(), ids=FLAT_SITES)
def test_channels_are_followed_through_shapes(nodes, weights, channels):
    graph = prepared(net(nodes, weights, y="N, K"))
    (site,) = find_sites(graph)
    assert site.channels == channels
    assert len(set(site.groups)) == 8
    assert_equalised(graph, IMAGES)


ROW_SITES = {
    "Gemm": ("g = Gemm(x, w, b) r = Relu(g) y = Gemm(r, v)", "float[8, 5] w, float[5] b"),
    "Gemm of transposed weights": (
        "g = Gemm<transB = 1>(x, w, b) r = Relu(g) y = Gemm<transB = 1>(r, u)",
        "float[5, 8] w, float[1, 5] b, float[7, 5] u",
    ),
    "Gemm with alpha and beta": (
        "g = Gemm<alpha = 0.5, beta = 2.0>(x, w, b) r = Relu(g) y = Gemm<alpha = 3.0>(r, v)",
        "float[8, 5] w, float[5] b",
    ),
    "Gemm with one bias for all": (
        "g = Gemm(x, w, b) r = Relu(g) y = Gemm(r, v)",
        "float[8, 5] w, float b",
    ),
    "MatMul": (
        "g = MatMul(x, w) h = Add(g, b) r = Relu(h) y = MatMul(r, v)",
        "float[8, 5] w, float[5] b",
    ),
}


@pytest.mark.parametrize(("nodes", "weights"), ROW_SITES.values(), ids=ROW_SITES)
@pytest.mark.parametrize("powers_of_two", [False, True])
def test_columns_of_matrices_are_scaled(nodes, weights, powers_of_two):
    graph = prepared(net(nodes, f"{weights}, float[5, 7] v", x="N, 8", y="N, 7"))
    (site,) = find_sites(graph)
    assert (site.axis, site.channels, site.tied) == (1, 5, ())
    assert_equalised(graph, ROWS, **random_scales(graph, powers_of_two))


NORM = "float[8] s, float[8] b, float[8, 6] w"


@pytest.mark.parametrize(
    ("nodes", "weights", "opset"),
    [
        ("n = LayerNormalization(x, s, b) r = Relu(n) y = MatMul(r, w)", NORM, 17),
        ("n = LayerNormalization(x, s) r = Relu(n) y = MatMul(r, w)", NORM, 17),
        ("n = RMSNormalization(x, s) r = Relu(n) y = MatMul(r, w)", NORM, 23),
        ("t = Transpose<perm = [0, 2, 1]>(x) m = GroupNormalization<num_groups = 2>(t, s, b) "
         "n = Transpose<perm = [0, 2, 1]>(m) r = Relu(n) y = MatMul(r, w)",
         f"{NORM}, float[N, 8, L] m", 21),
        ("t = Transpose<perm = [0, 2, 1]>(x) m = BatchNormalization(t, s, b, mean, somevar) "
         "n = Transpose<perm = [0, 2, 1]>(m) r = Relu(n) y = MatMul(r, w)",
         f"{NORM}, float[8] mean, float[8] somevar", 17),
    ],
)  # fmt: skip
def test_gain_and_bias_of_normalisations_are_scaled(nodes, weights, opset):
    graph = prepared(net(nodes, weights, x="N, L, 8", y="N, L, 6", opset=opset))
    (site,) = find_sites(graph)
    assert (site.axis, site.channels) == (2, 8)
    assert_equalised(graph, TOKENS)


def test_a_gain_over_several_axes_has_a_channel_for_each_of_its_values():
    nodes = "n = LayerNormalization<axis = 1>(x, s, b) r = Relu(n) "
    weights = "float[5, 8] s, float[5, 8] b, float[40, 6] w, float[8, 6] v, int64[2] to = {-1, 40}"
    graph = prepared(
        net(f"{nodes} f = Reshape(r, to) y = MatMul(f, w)", weights, "N, 5, 8", "N, 6")
    )
    (site,) = find_sites(graph)
    assert (site.axes, site.sizes, site.axis) == ((1, 2), (5, 8), None)
    assert_equalised(graph, TOKENS)
    # A product over the last axis has one weight for all rows.
    graph = prepared(net(f"{nodes} y = MatMul(r, v)", weights, "N, 5, 8", "N, 5, 6"))
    reason = "MatMul MatMul:y sums over another axis than that of the channels"
    assert refusal(graph, "r") == reason


def test_a_constant_on_the_left_mixes_rows_and_keeps_channels():
    nodes = "m = MatMul(x, w) r = Relu(m) p = MatMul(q, r) y = MatMul(p, v)"
    weights = "float[8, 6] w, float[3, 5] q, float[6, 2] v"
    graph = prepared(net(nodes, weights, "N, 5, 8", "N, 3, 2"))
    assert_equalised(graph, TOKENS)


def test_a_group_normalisation_with_a_gain_per_group_is_refused():
    nodes = """t = Transpose<perm = [0, 2, 1]>(x) m = GroupNormalization<num_groups = 2>(t, s, b)
        r = Relu(m) y = MatMul(w, r)"""
    weights = "float[8] s, float[8] b, float[3, 8] w, float[N, 8, L] m"
    graph = prepared(net(nodes, weights, "N, L, 8", "N, 3, L", opset=21))
    assert refusal(graph, "r") == "MatMul MatMul:y sums over the channels"
    graph.envelope.opset_import[0].version = 20
    assert refusal(graph, "r") == "it comes from GroupNormalization GroupNormalization:m"


def test_normalisations_spelled_as_functions_have_a_gain_too():
    nodes = """m = ReduceMean<axes = [-1]>(x) d = Sub(x, m) q = Pow(d, two) v = ReduceMean<axes =
    [-1]>(q) e = Add(v, epsilon) f = Sqrt(e) n = Div(d, f) g = Mul(n, s) h = Add(g, b)
    r = Relu(h) y = MatMul(r, w)"""
    weights = f"{NORM}, float two = {{2}}, float epsilon = {{1e-5}}"
    model = net(nodes, weights, x="N, L, 8", y="N, L, 6", opset=16)
    graph = recognise(prepared(model)).graph
    assert "LayerNormalization" in {node.op for node in graph.nodes}
    assert_equalised(graph, TOKENS)


REFUSED = [
    ("c = Conv(x, w) r = Sigmoid(c) y = Conv(r, v)", "", "Sigmoid Sigmoid:r is not homogeneous"),
    ("c = Conv(x, w) r = Clip(c, zero, six) y = Conv(r, v)", "", "Clip Clip:r is not homogeneous"),
    ("c = Conv(x, w) r = Clip(c, six) y = Conv(r, v)", "", "Clip Clip:r is not homogeneous"),
    ("r = Relu(x) y = Conv(r, u)", "", "it comes from the network's input x"),
    ("p = MaxPool<kernel_shape = [2, 2]>(x) r = Relu(p) y = Conv(r, u)", "",
     "it comes from the network's input x"),
    ("c = Conv(x, w) s = Softmax(c) r = Relu(s) y = Conv(r, v)", "",
     "it comes from Softmax Softmax:s"),
    ("c = Conv(x, w) r = Relu(c) y = MatMul(r, t)", "float[8, 4, 3] t",
     "the weight of MatMul MatMul:y is no matrix of float32"),
    ("c = Conv(x, w) r = Relu(c) e = Transpose<perm = [0, 2, 1, 3]>(r) "
     "d = Transpose<perm = [0, 2, 3, 1]>(c) y = MatMul(e, d)", "",
     "MatMul MatMul:y multiplies two signals with channels"),
    ("c = Conv(x, w) r = Relu(c) e = Transpose<perm = [0, 2, 1, 3]>(r) "
     "p = AveragePool<kernel_shape = [2, 2]>(e) y = Conv(p, t)", "float[2, 4, 2, 2] t",
     "AveragePool AveragePool:p combines its channels"),
    ("e = Conv(x, w) s = Softmax(e) c = Conv(x, w) f = Add(e, c) r = Relu(f) p = Conv(r, v) "
     "t = Conv(s, v) y = Add(p, t)", "", "Softmax Softmax:s reads it"),
    ("e = Conv(x, w) s = Softmax(e) c = Conv(x, w) r = Relu(c) f = Add(r, e) p = Conv(f, v) "
     "t = Conv(s, v) y = Add(p, t)", "", "Softmax Softmax:s reads it"),
    ("c = Conv(x, w) r = Relu(c) y = Slice(r, from, to, axes, back)",
     "int64[1] from = {-1}, int64[1] to = {-9}, int64[1] axes = {1}, int64[1] back = {-1}",
     "Slice Slice:y is not constant"),
    ("c = Conv(x, w) y = Relu(c)", "", "y is an output of the network"),
    ("c = Conv(x, w) r = Relu(c) p = MaxPool<kernel_shape = [2, 2]>(r) y = Relu(p)", "",
     "y is an output of the network"),
    ("c = Conv(x, w) r = Relu(c) y = Softmax(r)", "", "Softmax Softmax:y reads it"),
    ("c = Conv(x, w) r = Relu(c) s = Sigmoid(c) p = Conv(r, v) q = Conv(s, v) y = Add(p, q)", "",
     "Sigmoid Sigmoid:s is not homogeneous"),
    ("x0 = Pad(x, pads) c = Conv(x, w) r = Relu(c) e = Add(x0, r) y = Conv(e, v)",
     "int64[8] pads = {0, 2, -1, -1, 0, 2, -1, -1}",
     "Add Add:e adds x0: it comes from the network's input x"),
    ("c = Conv(x, w) r = Relu(c) e = Mul(r, r) y = Conv(e, v)", "",
     "Mul Mul:e combines it with another signal"),
    ("c = Conv(x, w) r = Relu(c) a = Abs(r) e = Div(one, a) y = Conv(e, v)", "",
     "Div Div:e combines it with another signal"),
    ("c = Conv(x, w) r = Relu(c) p = Pad(r, pads, one) y = Conv(p, v)",
     "int64[8] pads = {0, 0, 1, 0, 0, 0, 0, 1}", "Pad Pad:p adds other values than zeros"),
    ("c = Conv(x, w) r = Relu(c) p = Pad<mode = \"reflect\">(r, pads) y = Conv(p, t)",
     "int64[8] pads = {0, 1, 0, 0, 0, 0, 0, 0}, float[6, 9, 3, 3] t",
     "Pad Pad:p changes its channels"),
    ("c = Conv(x, w) r = Relu(c) s = ReduceMax<axes = [1]>(r) y = Conv(s, t)",
     "float[6, 1, 3, 3] t", "ReduceMax ReduceMax:s combines its channels"),
    ("c = Conv(x, w) r = Relu(c) t = Transpose<perm = [0, 1, 3, 2]>(r) y = MatMul(t, q)",
     "float[4, 3] q", "MatMul MatMul:y sums over another axis than that of the channels"),
    ("c = Conv(x, w) r = Relu(c) i = ArgMax<axis = 1>(r) k = Cast<to = 1>(i) "
     "s = Mul(r, k) y = Conv(s, v)", "", "ArgMax ArgMax:i reads it"),
    ("c = Conv(x, w) r = Relu(c) i = ArgMax<axis = 3>(x) j = Reshape(i, all) k = Gather(j, first) "
     "p = Gather<axis = 1>(r, k) y = Conv(p, t)",
     "int64[1] all = {-1}, int64[1] first = {0}, float[6, 1, 3, 3] t",
     "Gather Gather:p selects channels at run time"),
    ("c = Conv(x, w) r = Relu(c) t = Transpose<perm = [2, 0, 1, 3]>(r) s = Reshape(t, to) "
     "y = MatMul(s, q)", "int64[4] to = {4, 2, -1, 8}, float[8, 3] q",
     "where Reshape Reshape:s puts the channels is not known"),
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "weights", "reason"), REFUSED)
def test_what_is_refused_keeps_its_scale_and_is_listed(nodes, weights, reason):
    constants = "float[6, 4, 3, 3] u, float zero = {0}, float one = {1}, float six = {6}"
    model = net(nodes, ", ".join(filter(None, (HEAD, constants, weights))))
    graph = prepared(model)
    name = "y" if "y = Relu" in nodes else "r"
    assert refusal(graph, name) == reason
    assert name not in {site.output for site in find_sites(graph)}
    with pytest.raises(ValueError, match=f"no sites: {name}"):
        equalise(graph, {name: np.ones(8, np.float32)})
    changes = equalise(graph, {}).changes
    assert any(change.startswith("kept ") and change.endswith(reason) for change in changes)
    assert run_model(export_model(graph), IMAGES)[0].tobytes() == (
        run_model(model, IMAGES)[0].tobytes()
    )


VECTOR = "c = Conv(x, w) m = GlobalMaxPool(c) f = Reshape(m, eight) r = Relu(f)"
MATRIX = "c = Conv(x, w) f = Flatten(c) r = Relu(f)"
ODD = [
    (f"{MATRIX} y = Gemm<transA = 1>(r, t)", "float[1, 3] t", "128, 3",
     "Gemm Gemm:y transposes its input"),
    (f"{VECTOR} y = MatMul(t, r)", "float[5, 8] t", "5",
     "MatMul MatMul:y multiplies by a vector"),
    (f"{VECTOR} y = Conv(x, t, r)", "float[8, 4, 3, 3] t", "1, 8, 4, 4", "Conv Conv:y reads it"),
    (f"{VECTOR} y = Gemm(t, u, r)", "float[3, 4] t, float[4, 8] u", "3, 8",
     "Gemm Gemm:y reads it"),
    (f"{VECTOR} z = Conv(x, w) y = InstanceNormalization(z, r, t)", "float[8] t", "1, 8, 4, 4",
     "InstanceNormalization InstanceNormalization:y reads it"),
]  # fmt: skip


COMPUTED = """m = ReduceMax<keepdims = 0>(x) i = Cast<to = 7>(m) k = Reshape(i, one)
    c = Conv(x, w) r = Relu(c)"""
ODD += [
    (f"{COMPUTED} y = {slice_}", "int64[1] one = {1}, int64[4] four = {1, 1, 1, 1}", "A, B, C, D",
     "Slice Slice:y is not constant")
    for slice_ in ("Slice(r, k, eight, one)", "Slice(r, four, four, k)", "Slice(r, k, k)",
                   "Slice(r, one, eight, one, k)")
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "weights", "y", "reason"), ODD)
def test_what_is_read_in_odd_places_is_refused(nodes, weights, y, reason):
    weights = f"float[8, 4, 3, 3] w, int64[1] eight = {{8}}, {weights}"
    assert refusal(prepared(net(nodes, weights, "1, 4, 6, 6", y)), "r") == reason


def test_weights_that_are_computed_are_refused():
    nodes = "z = Identity(k) c = Conv(x, w) r = Relu(c) y = Conv(r, z)"
    inputs = "float[N, 4, 6, 6] x, float[6, 8, 3, 3] k"
    model = model_from_text(f"g ({inputs}) => (float[N, 6, 2, 2] y) <{HEAD}> {{{nodes}}}")
    assert refusal(prepared(model), "r") == "the weight of Conv Conv:y is not constant"


def test_a_layer_whose_bias_is_computed_is_refused():
    model = model_from_text(
        f"g (float[N, 4, 6, 6] x, float[8] k) => (float[N, 6, 2, 2] y) <{HEAD}> "
        "{ c = Conv(x, w, k) r = Relu(c) y = Conv(r, v) }"
    )
    assert refusal(prepared(model), "r") == "it comes from Conv Conv:c"


def test_bodies_are_left_alone_and_what_they_read_keeps_its_scale():
    model = model_from_text(
        f"""g (float[N, 4, 6, 6] x, bool flag) => (float[N, 8, 4, 4] y, float[N, 6, 2, 2] z)
        <{HEAD}> {{
          c = Conv(x, w)
          r = Relu(c)
          z = Conv(r, v)
          y = If (flag) <
            then_branch = one () => (float[N, 8, 4, 4] p) {{ p = LeakyRelu(c) }},
            else_branch = two () => (float[N, 8, 4, 4] q) {{ q = Neg(c) }}
          >
        }}"""
    )
    graph = prepared(model)
    assert find_sites(graph) == []
    assert refusal(graph, "r") == "a body of If If:y reads c"
    assert refusal(graph, "p") == "it is in a control-flow body"


def test_shared_weights_are_copied():
    nodes = "c = Conv(x, w) r = Relu(c) p = Conv(r, w) q = Relu(p) e = Conv(x, w) y = Conv(q, w)"
    model = net(nodes + " z = Relu(e)", "float[4, 4, 1, 1] w")
    model.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, ["N", 4, 6, 6]))
    graph = prepared(model)
    assert [site.output for site in find_sites(graph)] == ["r", "q"]
    assert_equalised(graph, IMAGES)
    weights = {tensor.name for node in graph.nodes for tensor in node.inputs[1:]}
    assert len(weights) == 4
    assert "w" in weights


RESIDUAL = """
  c = Conv<pads = [1, 1, 1, 1]>(x, w)
  r = Relu(c)
  d = Conv<pads = [1, 1, 1, 1]>(r, v)
  q = Relu(d)
  e = Conv<pads = [1, 1, 1, 1]>(q, u)
  f = Add(e, r)
  s = Relu(f)
  g = GlobalAveragePool(s)
  h = Flatten(g)
  y = MatMul(h, m)
"""
RESIDUAL_WEIGHTS = """float[8, 4, 3, 3] w, float[8, 8, 3, 3] v, float[8, 8, 3, 3] u,
    float[8, 3] m"""


def test_neurons_of_a_residual_sum_share_their_scales():
    model = net(RESIDUAL, RESIDUAL_WEIGHTS, y="N, 3")
    graph = prepared(model, encode=True)
    r, q, s, h = find_sites(graph)
    assert [site.output for site in (r, q, s, h)] == ["r", "q", "s", "h.encoded"]
    assert (r.tied, q.tied, h.op) == (("s", "h.encoded"), (), "Encoder")
    np.testing.assert_array_equal(r.groups, s.groups)
    assert not set(r.groups) & set(q.groups)
    ones = np.ones(8, np.float32)
    together = joint_scales([r, q, s, h], {"r": 2 * ones, "s": 8 * ones, "q": 3 * ones})
    for name, expected in (("r", 4), ("s", 4), ("h.encoded", 4), ("q", 3)):
        np.testing.assert_allclose(together[name], expected * ones, rtol=1e-6)
    assert_equalised(graph, IMAGES)


def test_channels_that_are_joined_with_others_are_tied_one_by_one():
    nodes = """c = Conv(x, w) r = Relu(c) p = Pad(r, pads) e = Conv(x, u) f = Add(e, p)
        s = Relu(f) y = Conv(s, v)"""
    weights = """float[3, 4, 3, 3] w, float[6, 4, 3, 3] u, float[2, 6, 3, 3] v,
        int64[8] pads = {0, 1, 0, 0, 0, 2, 0, 0}"""
    graph = prepared(net(nodes, weights))
    r, s = find_sites(graph)
    np.testing.assert_array_equal(s.groups[1:4], r.groups)
    assert len(set(s.groups)) == 6
    assert_equalised(graph, IMAGES)


def test_a_join_with_the_input_leaves_the_other_channels_free():
    nodes = "c = Conv(x, w) z = Slice(x, from, to, axes) j = Concat<axis = 1>(c, z) r = Relu(j) "
    weights = """float[8, 4, 3, 3] w, float[6, 12, 3, 3] v, int64[2] from = {0, 0},
        int64[2] to = {4, 4}, int64[2] axes = {2, 3}"""
    graph = prepared(net(f"{nodes} y = Conv(r, v)", weights))
    (site,) = find_sites(graph)
    np.testing.assert_array_equal(site.groups, [*range(8), -1, -1, -1, -1])
    scales = np.exp2(np.arange(12.0)).astype(np.float32)
    used = joint_scales([site], {"r": scales})["r"]
    np.testing.assert_array_equal(used, [*scales[:8], 1, 1, 1, 1])
    assert_equalised(graph, IMAGES, r=scales)


def test_a_scale_that_would_be_its_own_inverse_is_refused():
    nodes = """m = MatMul(x, w) r = Relu(m) t = Transpose<perm = [0, 2, 1]>(r) p = MatMul(r, t)
        y = Softmax(p)"""
    graph = prepared(net(nodes, "float[8, 6] w", x="N, L, 8", y="N, L, L"))
    assert refusal(graph, "r") == "its scale would be its own inverse"


ATTENTION = """
  k0 = MatMul(x, wk)  k1 = Reshape(k0, heads)  k = Transpose<perm = [0, 2, 3, 1]>(k1)
  q0 = MatMul(x, wq)  q1 = Add(q0, bq)  q2 = Reshape(q1, heads)
  q = Transpose<perm = [0, 2, 1, 3]>(q2)
  v0 = MatMul(x, wv)  v1 = Add(bv, v0)  v2 = Reshape(v1, heads)
  v = Transpose<perm = [0, 2, 1, 3]>(v2)
  s0 = MatMul(q, k)  s1 = Div(s0, two)  p = Softmax(s1)
  o0 = MatMul(p, v)  o1 = Transpose<perm = [0, 2, 1, 3]>(o0)  o = Reshape(o1, back)
  y = MatMul(o, wo)
"""
ATTENTION_WEIGHTS = """float[8, 12] wk, float[8, 12] wq, float[8, 12] wv, float[12] bq,
  float[12] bv, float[12, 6] wo, int64[4] heads = {0, 0, 3, 4}, int64[3] back = {0, 0, 12},
  float two = {2}"""


@pytest.mark.parametrize("asked", [(), ("v.encoded",), ("k.encoded",), ("q.encoded",)])
def test_attention(asked):
    graph = prepared(net(ATTENTION, ATTENTION_WEIGHTS, x="N, L, 8", y="N, L, 6"), encode=True)
    sites = {site.output: site for site in find_sites(graph)}
    assert set(sites) == {"q.encoded", "k.encoded", "v.encoded", "o.encoded"}
    q, k, v, o = (sites[f"{name}.encoded"] for name in "qkvo")
    assert (q.axes, q.sizes, q.axis, k.axes) == ((1, 3), (3, 4), None, (1, 2))
    np.testing.assert_array_equal(q.groups, k.groups)
    np.testing.assert_array_equal(q.powers, -k.powers)
    np.testing.assert_array_equal(v.groups, o.groups)
    assert v.tied == ("o.encoded",)
    assert (o.axis, o.channels) == (2, 12)
    assert refusal(graph, "p.encoded") == "it comes from Softmax Softmax:p"
    chosen = {name: random_scales(graph, powers_of_two=True)[name] for name in asked}
    assert_equalised(graph, TOKENS, **chosen)


def test_ranges_of_queries_and_keys_meet_in_the_middle():
    graph = prepared(net(ATTENTION, ATTENTION_WEIGHTS, x="N, L, 8", y="N, L, 6"), encode=True)
    wanted = {"q.encoded": np.full(12, 8.0), "k.encoded": np.full(12, 2.0)}
    used = joint_scales(find_sites(graph), wanted)
    np.testing.assert_allclose(used["q.encoded"], np.full(12, 2), rtol=1e-6)  # sqrt(8 / 2)
    np.testing.assert_allclose(used["k.encoded"], np.full(12, 0.5), rtol=1e-6)


POST_NORM = """
  n = LayerNormalization<epsilon = 0.01>(x, s, b)
  m = MatMul(n, w)
  z = Add(m, n)
  y = Softmax(z)
"""


def test_a_normalisation_that_a_sum_reads_too_is_copied_for_the_encoder():
    model = net(POST_NORM, f"{NORM.replace('[8, 6]', '[8, 8]')}", x="N, L, 8", y="N, L, 8")
    graph = prepared(model, encode=True)
    assert refusal(graph, "n.encoded") == "Softmax Softmax:y reads it"
    result = own_norms(graph)
    assert result.changes == [
        "LayerNormalization LayerNormalization:n: computed once more for 1 encoder"
    ]
    assert_same_bits(model, result.graph)
    (site,) = find_sites(graph)
    assert (site.output, site.axis) == ("n.encoded", 2)
    assert_equalised(graph, TOKENS)
    assert own_norms(graph).changes == []


def assert_same_bits(model: ModelProto, graph: Graph) -> None:
    expected, got = run_model(model, TOKENS)[0], run_model(export_model(graph), TOKENS)[0]
    np.testing.assert_array_equal(got, expected)


def test_a_normalisation_that_is_returned_is_copied_too_and_others_are_not():
    model = net("y = LayerNormalization(x, s, b) m = MatMul(y, w)", NORM, x="N, L, 8", y="N, L, 8")
    model.graph.output.append(onnx.helper.make_tensor_value_info("m", 1, ["N", "L", 6]))
    assert len(own_norms(prepared(model, encode=True)).changes) == 1
    model = net("n = LayerNormalization(x, s, b) y = MatMul(n, w)", NORM, x="N, L, 8", y="N, L, 6")
    assert own_norms(prepared(model, encode=True)).changes == []
    assert own_norms(prepared(model)).changes == []


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        (np.ones(7), r"r has 8 channels, not \[7\]"),
        (np.ones((8, 1)), r"r has 8 channels, not \[8, 1\]"),
        (np.zeros(8), "the scales of r are not finite and above 0"),
        (np.full(8, np.inf), "the scales of r are not finite and above 0"),
    ],
)
def test_scales_that_are_none_are_refused(scales, message):
    graph = prepared(net("c = Conv(x, w) r = Relu(c) y = Conv(r, v)", HEAD))
    with pytest.raises(ValueError, match=message):
        equalise(graph, {"r": scales})


def test_without_scales_nothing_changes():
    graph = prepared(net(RESIDUAL, RESIDUAL_WEIGHTS, y="N, 3"))
    before = export_model(graph).SerializeToString(deterministic=True)
    assert equalise(graph, {}).changes == []
    assert export_model(graph).SerializeToString(deterministic=True) == before


def test_what_was_scaled_is_said():
    graph = prepared(net("c = Conv(x, w) r = Relu(c) y = Conv(r, v)", HEAD))
    scales = np.array([0.25, 1, 1, 1, 1, 1, 1, 4], np.float32)
    assert equalise(graph, {"r": scales}).changes == ["Relu Relu:r: channels divided by 0.25 to 4"]


class TestRangeScales:
    def test_channels_get_one_range_which_is_the_geometric_mean(self):
        magnitudes = np.array([1.0, 4.0, 16.0])
        scales = range_scales(magnitudes)
        assert scales.dtype == np.float32
        np.testing.assert_allclose(scales, [0.25, 1, 4], rtol=1e-6)
        np.testing.assert_allclose(magnitudes / scales, 4, rtol=1e-6)

    def test_nearly_silent_channels_keep_1_and_have_no_part(self):
        np.testing.assert_allclose(range_scales(np.array([0, 2, 1e-6, 8])), [1, 0.5, 1, 2], 1e-6)
        np.testing.assert_array_equal(range_scales(np.zeros(3)), np.ones(3))
        assert range_scales(np.zeros(0)).shape == (0,)

    @pytest.mark.parametrize("value", [-1.0, np.inf, np.nan])
    def test_what_is_no_magnitude_is_refused(self, value):
        with pytest.raises(ValueError, match="finite and at least 0"):
            range_scales(np.array([1.0, value]))

    def test_one_threshold_then_serves_as_well_as_one_per_channel(self):
        graph = prepared(net("c = Conv(x, w, b) r = Relu(c) y = Conv(r, v)", CONVS))
        weight = next(node.inputs[1] for node in graph.nodes if node.op == "Conv")
        weight.values = weight.values * np.exp2(np.arange(8.0, dtype=np.float32)).reshape(
            8, 1, 1, 1
        )
        before = values(graph, IMAGES)["r"]
        magnitudes = before.max(axis=(0, 2, 3))
        equalise(graph, {"r": range_scales(magnitudes)})
        after = values(graph, IMAGES)["r"].max(axis=(0, 2, 3))
        assert magnitudes.max() > 20 * magnitudes.min()
        np.testing.assert_allclose(after, np.exp(np.log(magnitudes).mean()), rtol=1e-5)


MODELS = REPOSITORY.parent / "shared" / "data" / "models"
SHARED = {
    "cifar10_resnet20": (20, 0),
    "kws_mlperf_dscnn": (10, 0),
    "mnist_ccexam_cnn": (3, 0),
    "mnist_ccexam_cnn_dynamo": (3, 0),
    "imagenet_efficientnet_lite0": (16, 34),
}


@pytest.mark.skipif(not MODELS.is_dir(), reason="needs the shared networks, not here")
@pytest.mark.parametrize(("network", "counts"), SHARED.items(), ids=SHARED)
def test_shared_networks(network, counts):
    model = onnx.load(MODELS / f"{network}.onnx")
    graph = import_model(load_source(model).network)
    for step in (canonicalise, recognise, fold_batchnorm, encode_edges):
        graph = step(graph).graph
    sites, refused = find_sites(graph), find_refusals(graph)
    assert (len(sites), len(refused)) == counts
    shape = [dim.dim_value or 2 for dim in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    assert_equalised(graph, {model.graph.input[0].name: x})
