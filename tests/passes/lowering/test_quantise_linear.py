"""Spikes and weights as integers: each rule against the network it stands for."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import export_model, model_from_text, run_model
from onnx import helper, numpy_helper
from snn_compile.passes.graph.surgeon import import_model, infer_shapes
from snn_compile.passes.lowering.quantise_linear import (
    quantise_linear,
    safe_weight,
    weight_steps,
)
from snn_compile.runtime_ops.definition import DOMAIN
from snn_compile.runtime_ops.operators import register_schemas

HALF = np.float32(0.5)
register_schemas()


def spiking(nodes, weights="", outputs="float[N,C,H,W] y", inputs="float[N,4,6,6] x", **neuron):
    """A network in which ``Fire (x)`` is a MultiThresholdFire of threshold 1/2."""
    text = f"g ({inputs}) => ({outputs}) <{weights}> {{ {nodes.replace('Fire', 'Abs')} }}"
    model = model_from_text(text)
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    attributes = {"levels_pos": 255, "levels_neg": 0, "axis": 1, "v0": 0.5} | neuron
    for node in model.graph.node:
        if node.op_type == "Abs":
            node.op_type, node.domain = "MultiThresholdFire", DOMAIN
            node.name = f"fire_{node.output[0]}"
            node.input.append("half")
            node.attribute.extend(helper.make_attribute(*pair) for pair in attributes.items())
    model.graph.initializer.append(numpy_helper.from_array(HALF, "half"))
    return model


def lowered(model, steps=None, full=False):
    found = quantise_linear(infer_shapes(import_model(model)), steps or {}, full)
    changed = export_model(found.graph)
    onnx.checker.check_model(changed, full_check=True)
    assert not any(node.domain == DOMAIN for node in changed.graph.node)
    return changed, found.changes


def ops(model):
    return [node.op_type for node in model.graph.node]


def constants(model):
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def values(*shape, unit=0.125, largest=40, seed=0):
    """Multiples of a power of two: sums are exact in any order.

    A tie goes to the even spike here and away from 0 in the neuron: none is among them.
    """
    rng = np.random.default_rng(seed)
    x = (rng.integers(-largest, largest + 1, shape) * unit).astype(np.float32)
    return np.where(x % HALF == HALF / 2, x + np.float32(unit), x)


def assert_same(model, changed, x):
    for one, other in zip(
        run_model(model, {"x": x}, library=True), run_model(changed, {"x": x}), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("above", "below"), [(255, 0), (200, 55), (0, 255), (10, 0), (3, 4)])
def test_a_neuron_is_quantisation_with_a_zero_point_and_a_minimum_only_below_255_levels(
    above, below
):
    model = spiking("y = Fire (x)", levels_pos=above, levels_neg=below)
    changed, _ = lowered(model)
    least = [] if above + below == 255 else ["Min"]
    assert ops(changed) == ["QuantizeLinear", *least, "DequantizeLinear"]
    assert changed.graph.node[0].name == "fire_y"
    assert constants(changed)[changed.graph.node[0].input[2]] == below
    assert constants(changed)[changed.graph.node[0].input[1]].shape == ()
    assert_same(model, changed, values(2, 4, 6, 6, largest=2000))


@pytest.mark.parametrize(
    ("nodes", "weights", "moved"),
    [
        ("y = Slice (a, b, e, c)", "int64[1] b = {1}, int64[1] e = {5}, int64[1] c = {2}", "Slice"),
        ("y = Pad (a, p)", "int64[8] p = {0,1,2,0,0,0,1,3}", "Pad"),
        ('y = Pad <mode = "reflect"> (a, p)', "int64[8] p = {0,0,2,0,0,0,1,3}", "Pad"),
        ("y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)", "", "MaxPool"),
        ("y = Transpose <perm = [0, 1, 3, 2]> (a)", "", "Transpose"),
        (
            'y = Resize <mode = "nearest"> (a, , f)',
            "float[4] f = {1.0, 1.0, 2.0, 2.0}",
            "Resize",
        ),
    ],
)
def test_what_moves_values_moves_integers(nodes, weights, moved):
    model = spiking(f"a = Fire (x) {nodes}", weights, levels_pos=200, levels_neg=55)
    changed, _ = lowered(model)
    assert ops(changed) == ["QuantizeLinear", moved, "DequantizeLinear"]
    assert_same(model, changed, values(2, 4, 6, 6))


def test_a_pad_of_zeros_that_convolutions_alone_read_is_their_padding():
    nodes = """a = Fire (x) p = Pad (a, pads)
               b = Conv <pads = [1, 0, 0, 2]> (p, w) c = Conv (p, w) y = Add (b, c)"""
    weights = "int64[8] pads = {0,0,1,2,0,0,1,0}, float[4,4,3,3] w"
    model = spiking(nodes.replace("pads = [1, 0, 0, 2]", "pads = [0, 0, 0, 0]"), weights)
    changed, _ = lowered(model)
    assert "Pad" not in ops(changed)
    pads = [
        helper.get_node_attr_value(n, "pads") for n in changed.graph.node if n.op_type == "Conv"
    ]
    assert pads == [[1, 2, 1, 0]] * 2


@pytest.mark.parametrize(
    ("nodes", "weight", "axis"),
    [
        ("y = Conv <group = 2> (a, w, b)", (6, 2, 3, 3), 0),
        ("y = Conv <group = 4> (a, w, b)", (4, 1, 3, 3), 0),
        ("y = ConvTranspose (a, w, b)", (4, 6, 2, 2), 1),
        ("y = ConvTranspose <group = 2> (a, w, b)", (4, 3, 2, 2), 1),
    ],
)
def test_weights_and_biases_are_integers_per_output_channel(nodes, weight, axis):
    outputs = weight[axis] * (2 if "ConvTranspose <group = 2>" in nodes else 1)
    shape = ",".join(map(str, weight))
    model = spiking(f"a = Fire (x) {nodes}", f"float[{shape}] w, float[{outputs}] b")
    changed, _ = lowered(model)
    held, given = constants(changed), constants(model)
    w, step = held["w_1"] if "w_1" in held else held["w"], held["w_1.step"]
    assert (w.dtype, step.shape, held["b_1"].dtype) == (np.int8, (weight[axis],), np.int32)
    shaped = step.reshape([-1 if i == axis else 1 for i in range(len(weight))])
    assert np.abs(w).max() == 64
    np.testing.assert_array_less(
        np.abs(w * shaped - given["w"]), 0.5001 * np.broadcast_to(shaped, weight)
    )
    np.testing.assert_array_equal(held["b_1.step"], np.tile(step * HALF, outputs // len(step)))
    assert (
        np.abs(held["b_1"] * held["b_1.step"] - given["b"]).max() <= 0.51 * held["b_1.step"].max()
    )
    x = values(2, 4, 6, 6)
    exact, rounded = (run_model(m, {"x": x}, library=True)[0] for m in (model, changed))
    assert 0 < np.linalg.norm(exact - rounded) < 0.03 * np.linalg.norm(exact)


def test_weights_that_are_rounded_already_are_taken_as_they_are():
    model = spiking("a = Fire (x) y = Conv (a, w)", "float[4,4,1,1] w")
    rng = np.random.default_rng(0)
    integers = rng.integers(-20, 21, (4, 4, 1, 1))
    step = np.array([0.5, 0.25, 2, 1], np.float32)
    weight = (integers * step.reshape(-1, 1, 1, 1)).astype(np.float32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    changed, _ = lowered(model, {"w": step})
    np.testing.assert_array_equal(constants(changed)["w_1"], integers)
    assert_same(model, changed, values(2, 4, 6, 6))


def test_a_matrix_product_of_rank_2_and_its_bias_become_gemm_one_of_rank_3_keeps_it_in_float():
    weights = "float[6,5] w, float[5] b"
    flat = spiking(
        "a = Fire (x) m = MatMul (a, w) y = Add (m, b)", weights, "float[N,5] y", "float[N,6] x"
    )
    assert ops(lowered(flat)[0]).count("Gemm") == 1
    deep = spiking(
        "a = Fire (x) m = MatMul (a, w) y = Add (m, b)", weights, "float[N,3,5] y", "float[N,3,6] x"
    )
    changed, changes = lowered(deep)
    assert ops(changed)[-2:] == ["MatMul", "Add"]
    assert "in float: 1 Add, what it reads is in float" in changes
    for model, shape in ((flat, (2, 6)), (deep, (2, 3, 6))):
        x = values(*shape)
        exact, rounded = (
            run_model(m, {"x": x}, library=True)[0] for m in (model, lowered(model)[0])
        )
        np.testing.assert_allclose(rounded, exact, atol=0.02 * np.abs(exact).max())


def test_safe_weights_keep_the_sum_of_two_products_within_16_bits():
    for top in range(1, 256):
        most = safe_weight(top)
        assert 2 * most * top <= 32767
        assert most == 127 or 2 * (most + 1) * top > 32767
    assert [safe_weight(top) for top in (32, 129, 255)] == [127, 127, 64]


@pytest.mark.parametrize(
    ("levels", "full", "most"), [(255, False, 64), (255, True, 127), (32, False, 127)]
)
def test_the_largest_weight_depends_on_the_largest_integer_that_is_read(levels, full, most):
    model = spiking("a = Fire (x) y = Conv (a, w)", "float[4,4,1,1] w", levels_pos=levels)
    changed, _ = lowered(model, full=full)
    assert np.abs(constants(changed)["w_1"]).max(axis=(1, 2, 3)).tolist() == [most] * 4


def test_a_large_bias_and_a_channel_of_zeros_have_steps_that_hold_them():
    rows = np.array([[1e-6, -1e-6], [0, 0], [0, 0], [2, 1]])
    offset = np.array([1e9, 0, 4.0, 0.0])
    step = weight_steps(rows, 64, offset)
    assert np.all(offset / step <= 2.0**30 * (1 + 1e-6))
    assert step[1] == 1
    assert step[3] == np.float32(2 / 64)


def test_an_embedding_becomes_integers_with_a_step_per_row():
    text = "g (int64[N,L] x) => (float[N,L,8] y) <float[50,8] table> { y = Gather (table, x) }"
    model = model_from_text(text)
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    changed, changes = lowered(model)
    assert ops(changed).count("Gather") == 2
    assert changes[0] == "Gather : in float, its table alone is of integers"
    x = np.arange(50).reshape(5, 10)
    exact, rounded = (run_model(m, {"x": x})[0] for m in (model, changed))
    table = constants(model)["table"]
    bound = np.abs(table).max(axis=1) / 127 * 0.51
    assert np.all(np.abs(exact - rounded) <= bound[x][..., None])
    assert max(t.data_type for t in changed.graph.initializer if t.dims[:1] == [50]) == 3


def test_what_stays_in_float_is_listed_with_the_reason():
    nodes = (
        """a = Fire (x) s = Softmax (a) t = Sigmoid (a) u = Add (s, t) y = ConvTranspose (a, w)"""
    )
    model = spiking(nodes, "float[4,4,1,1] w", "float[N,C,H,W] y, float[N,4,H,W] u")
    _, changes = lowered(model)
    assert [line for line in changes if line.startswith("in float")] == [
        "in float: 1 Softmax, no kernel normalises integers",
        "in float: 1 Sigmoid, what it gives is not linear on either side of 0 with one step",
        "in float: 1 Add, what it reads is in float",
        "in float: 1 ConvTranspose, no kernel adds up its integers",
    ]
