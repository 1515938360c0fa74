"""Encoders: which tensors get one, and who reads it."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import export_model, model_from_text, run_model
from snn_compile.passes.analysis.activations import find_activations
from snn_compile.passes.canonicalise.canonicalise import canonicalise
from snn_compile.passes.graph.surgeon import import_model
from snn_compile.passes.neurons.encode_edges import encode_edges


def encoded(model, encode_input=False):
    """The model with its encoders, and what each encodes."""
    graph = canonicalise(import_model(model)).graph
    graph = encode_edges(graph, encode_input).graph
    activations, _ = find_activations(graph)
    encoders = [a for a in activations if a.op == "Encoder"]
    return export_model(graph), {a.input: a for a in encoders}


def assert_same_function(model, changed, **feed):
    for before, after in zip(run_model(model, feed), run_model(changed, feed), strict=True):
        np.testing.assert_array_equal(before, after)


def reads(model, op):
    """The first inputs of the operators of a kind, in order."""
    return [node.input[0] for node in model.graph.node if node.op_type == op]


IMAGES = np.random.default_rng(0).standard_normal((2, 4, 6, 6)).astype(np.float32)
CONVS = "float[4,4,1,1] w, float[4,4,1,1] v, float[4,4,1,1] u"


def net(nodes, weights=CONVS, inputs="", outputs="float[N,4,H,W] y"):
    return model_from_text(f"g (float[N,4,6,6] x{inputs}) => ({outputs}) <{weights}> {{ {nodes} }}")


def test_a_linear_bottleneck_is_encoded_and_the_networks_input_is_not():
    model = net("a = Conv (x, w) y = Conv (a, v)")
    changed, encoders = encoded(model)
    assert list(encoders) == ["a"]
    assert reads(changed, "Conv") == ["x", "a.encoded"]
    assert encoders["a"].channels is None
    assert_same_function(model, changed, x=IMAGES)


@pytest.mark.parametrize("last", ["Div (s, m)", "Mean (s, m)", "Where (yes, s, m)"])
def test_the_networks_input_is_encoded_when_asked(last):
    """Arithmetic with constants leaves it the input."""
    weights = CONVS + ", float m = {3}, bool yes = {1}"
    model = net(f"s = Sub (x, m) d = {last} y = Conv (d, w)", weights)
    assert not encoded(model)[1]
    changed, encoders = encoded(model, encode_input=True)
    assert list(encoders) == ["d"]
    assert_same_function(model, changed, x=IMAGES)


def test_a_residual_sum_is_encoded_for_the_convolution_and_stays_analog_for_the_sum():
    model = net("""
        r = Relu (x) a = Conv (r, w) s = Add (a, r)
        b = Conv (s, v) t = Add (b, s) y = Relu (t)""")
    changed, encoders = encoded(model)
    assert list(encoders) == ["s"]
    sums = [list(node.input) for node in changed.graph.node if node.op_type == "Add"]
    assert sums == [["a", "r"], ["b", "s"]]
    assert_same_function(model, changed, x=IMAGES)


def test_one_encoder_serves_all_linear_operators_that_read_a_tensor():
    model = net(
        "a = Conv (x, w) y = Conv (a, v) z = Conv (a, u)",
        outputs="float[N,4,H,W] y, float[N,4,H,W] z",
    )
    changed, encoders = encoded(model)
    assert list(encoders) == ["a"]
    assert reads(changed, "Conv") == ["x", "a.encoded", "a.encoded"]


@pytest.mark.parametrize(
    "moving",
    [
        "m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)",
        "p = Pad (r, pads) m = Transpose <perm = [0, 1, 3, 2]> (p)",
        "p = Reshape (r, shape) m = Transpose <perm = [0, 1, 3, 2]> (p)",
        "m = Concat <axis = 2> (r, r)",
        "p, q = Split <axis = 2> (r, halves) m = Max (p, q)",
        'm = Resize <mode = "nearest"> (r, , scales)',
    ],
)
def test_spikes_that_only_move_are_not_encoded_again(moving):
    weights = (
        CONVS
        + """, int64[8] pads = {0,0,1,1,0,0,1,1}, int64[4] shape = {0,4,9,4},
        int64[2] halves = {3,3}, float[4] scales = {1,1,2,2}"""
    )
    model = net(f"r = Relu (x) {moving} y = Conv (m, w)", weights)
    changed, encoders = encoded(model)
    assert not encoders
    assert_same_function(model, changed, x=IMAGES)


@pytest.mark.parametrize(
    "mixing",
    [
        "m = AveragePool <kernel_shape = [2, 2]> (r)",
        "m = GlobalAveragePool (r)",
        "p = Pad (r, pads, one) m = Transpose <perm = [0, 1, 3, 2]> (p)",
        'm = Resize <mode = "linear"> (r, , scales)',
        "m = Softmax (r)",
        "m = Mul (r, r)",
        "m = Mul (r, x)",
        "e = Exp (x) m = Add (e, one)",
    ],
)
def test_what_is_no_longer_spikes_is_encoded(mixing):
    weights = (
        CONVS
        + """, int64[8] pads = {0,0,1,1,0,0,1,1}, float one = {1},
        float[4] scales = {1,1,2,2}"""
    )
    model = net(f"r = Relu (x) {mixing} y = Conv (m, w)", weights)
    changed, encoders = encoded(model)
    assert list(encoders) == ["m"]
    assert_same_function(model, changed, x=IMAGES)


def test_where_spikes_and_analog_values_are_joined_only_the_analog_part_is_encoded():
    model = net(
        """
        r = Relu (x) a = Conv (r, w)
        c = Concat <axis = 1> (r, a) t = Transpose <perm = [0, 1, 3, 2]> (c)
        y = Conv (t, k) z = Neg (t)""",
        CONVS + ", float[4,8,1,1] k",
        outputs="float[N,4,H,W] y, float[N,8,H,W] z",
    )
    changed, encoders = encoded(model)
    assert list(encoders) == ["a"]
    joined = [list(node.input) for node in changed.graph.node if node.op_type == "Concat"]
    assert joined == [["r", "a"], ["r", "a.encoded"]] or joined == [["r", "a.encoded"], ["r", "a"]]
    assert_same_function(model, changed, x=IMAGES)


def test_both_operands_of_an_attention_product_are_encoded():
    model = model_from_text("""
        g (float[N,6,6] x) => (float[N,6,6] y) <float[6,6] q, float[6,6] k, float[6,6] v> {
            e = Relu (x)
            a = MatMul (e, q) b = MatMul (e, k) c = MatMul (e, v)
            t = Transpose <perm = [0, 2, 1]> (b)
            s = MatMul (a, t)
            p = Softmax (s)
            y = MatMul (p, c)
        }""")
    changed, encoders = encoded(model)
    assert sorted(encoders) == ["a", "c", "p", "t"]
    assert encoders["p"].axis is None  # of a product of two activations no axis is a channel
    assert_same_function(model, changed, x=IMAGES[:, 0])


def test_gemm_and_einsum_count_as_linear():
    model = model_from_text("""
        g (float[N,4] x) => (float[N,4] y) <float[4,4] w, float[4,4] v, float[4] b> {
            a = Gemm (x, w, b)
            c = Gemm <transB = 1> (a, v, b)
            y = Einsum <equation = "ni,nj->nj"> (c, a)
        }""")
    _, encoders = encoded(model)
    assert sorted(encoders) == ["a", "c"]
    assert encoders["c"].channels is None  # an operand of Einsum


def test_constants_and_other_types_are_left_alone():
    model = model_from_text("""
        g (double[N,1] x, int32[N,1] i) => (double[N,1] y, int32[N,1] j)
            <double[1,1] w = {2}, int32[1,1] k = {3}> {
            a = Exp (x) y = MatMul (a, w)
            b = Neg (i) j = MatMul (b, k)
        }""")
    assert not encoded(model)[1]


def test_an_encoder_inside_if_serves_its_branch_only():
    model = net(
        """
        a = Exp (x)
        y = If (c) <
            then_branch = t () => (float[N,4,6,6] p) { b = Exp (a) p = Conv (b, w) },
            else_branch = e () => (float[N,4,6,6] q) { q = Conv (a, v) }
        >""",
        inputs=", bool c",
    )
    changed, encoders = encoded(model)
    assert sorted(encoders) == ["a", "b"]
    assert "a.encoded" in {name for node in changed.graph.node for name in node.output}
    for taken in (True, False):
        assert_same_function(model, changed, x=IMAGES, c=np.array(taken))


def test_nothing_is_put_into_the_body_of_a_loop():
    model = model_from_text("""
        g (float[4,4] x, int64 n, bool c) => (float[4,4] y) <float[4,4] w> {
            y = Loop (n, c, x) <body = b (int64 i, bool g, float[4,4] p) => (bool o, float[4,4] q) {
                o = Identity (g)
                e = Exp (p)
                q = MatMul (e, w)
            }>
        }""")
    assert not encoded(model)[1]


def test_what_ids_select_from_a_table_is_encoded():
    model = model_from_text("""
        g (int64[N] ids) => (float[N,3] y) <float[9,4] table, float[4,3] w> {
            e = Gather (table, ids)
            y = MatMul (e, w)
        }""")
    changed, encoders = encoded(model)
    assert list(encoders) == ["e"]
    assert_same_function(model, changed, ids=np.array([3, 0, 8]))


def test_channels_are_what_a_weight_matrix_sums_over():
    model = model_from_text("""
        g (float[N,6,4] x) => (float[N,6,5] y) <float[4,4] w, float[4,5] v> {
            a = MatMul (x, w) y = MatMul (a, v)
        }""")
    _, encoders = encoded(model)
    assert (encoders["a"].axis, encoders["a"].channels) == (2, 4)
