"""Membranes: which edges get one, who reads it, and that the function stays the same."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import export_model, model_from_text, run_model
from snn_compile.passes.analysis.activations import find_activations
from snn_compile.passes.canonicalise.canonicalise import canonicalise
from snn_compile.passes.graph.surgeon import import_model
from snn_compile.passes.neurons.encode_edges import encode_edges
from snn_compile.passes.neurons.integer_edges import integer_edges
from snn_compile.passes.neurons.membrane_shortcuts import membrane_shortcuts

IMAGES = np.random.default_rng(0).standard_normal((2, 4, 6, 6)).astype(np.float32)
CONVS = "float[4,4,1,1] w, float[4,4,1,1] v, float[4,4,1,1] u"


def net(nodes, weights=CONVS, outputs="float[N,4,H,W] y"):
    return model_from_text(f"g (float[N,4,6,6] x) => ({outputs}) <{weights}> {{ {nodes} }}")


def edges(model, alike=True):
    """The model with its membranes, and the activations by the tensors that they read."""
    graph = canonicalise(import_model(model)).graph
    if not alike:
        graph = membrane_shortcuts(graph).graph
    graph = integer_edges(encode_edges(graph, True).graph, alike).graph
    changed = export_model(graph)
    for before, after in zip(
        run_model(model, {"x": IMAGES}), run_model(changed, {"x": IMAGES}), strict=True
    ):
        np.testing.assert_array_equal(before, after)
    return changed, {a.input: a for a in find_activations(import_model(changed))[0]}


def kinds(activations):
    return {name: (a.op, a.membrane) for name, a in activations.items()}


def reads(model, op):
    return [list(node.input) for node in model.graph.node if node.op_type == op]


def test_a_chain_of_convolutions_and_activations_needs_none_but_for_input_and_output():
    found = edges(net("a = Conv (x, w) r = Relu (a) y = Conv (r, v)"))[1]
    assert kinds(found) == {
        "x": ("Membrane", True),
        "a": ("Relu", False),
        "y.analog": ("Membrane", True),
    }


def test_a_residual_sum_reads_membranes_of_both_sides():
    model, found = edges(
        net("a = Conv (x, w) r = Relu (a) b = Conv (r, v) s = Add (b, r) y = Relu (s)")
    )
    assert kinds(found) == {
        "x": ("Membrane", True),
        "a": ("Relu", False),
        "b.analog": ("Membrane", True),
        "s": ("Relu", False),
    }
    assert reads(model, "Add") == [["b", "r"]]


def test_with_fewer_levels_shortcuts_read_a_membrane_and_the_neuron_reads_it_too():
    model, found = edges(
        net("a = Conv (x, w) r = Relu (a) b = Conv (r, v) s = Add (b, r) y = Relu (s)"), False
    )
    assert kinds(found)["a"] == ("Relu", True)
    assert kinds(found)["r.shortcut"] == ("Relu", False)
    assert reads(model, "Add") == [["b", "r.shortcut"]]
    assert reads(model, "Conv") == [["x.encoded", "w"], ["r", "v"]]


@pytest.mark.parametrize("alike", [True, False])
def test_a_linear_bottleneck_has_one_neuron_of_255_levels_or_another_behind_it(alike):
    model, found = edges(
        net("""a = Conv (x, w) s = Conv (a, v) t = Add (a, s) y = Conv (t, u)"""), alike
    )
    if alike:
        assert kinds(found) == {
            "x": ("Membrane", True),
            "a.analog": ("Membrane", True),
            "s.analog": ("Membrane", True),
            "t": ("Encoder", False),
            "y.analog": ("Membrane", True),
        }
    else:
        assert kinds(found)["a"] == ("Encoder", False)
        assert kinds(found)["a.analog"] == ("Membrane", True)
    assert reads(model, "Add") == [["a", "s"]]


def test_joined_spikes_get_one_threshold():
    weights = "float[4,4,1,1] w, float[4,4,1,1] v, float[4,8,1,1] u"
    nodes = """a = Conv (x, w) p = Relu (a) b = Conv (x, v) q = Relu (b)
               c = Concat <axis = 1> (p, q) y = Conv (c, u)"""
    model, found = edges(net(nodes, weights))
    assert kinds(found)["c.analog"] == ("Membrane", True)
    assert reads(model, "Conv")[-1] == ["c", "u"]


def test_sums_in_float_of_matrix_products_stay_in_float():
    text = """g (float[N,4] x) => (float[N,4] y)
              <float[4,4] w, float[4,4] v, float[4] scale>
              { a = MatMul (x, w) s = Add (a, x) n = LayerNormalization (s, scale)
                b = MatMul (n, v) y = Add (b, s) }"""
    graph = canonicalise(import_model(model_from_text(text))).graph
    graph = integer_edges(encode_edges(graph, True).graph, True).graph
    found = kinds({a.input: a for a in find_activations(graph)[0]})
    assert found == {"x": ("Membrane", True), "n": ("Encoder", False)}


def test_what_other_operators_have_moved_is_encoded_again():
    nodes = """a = Conv (x, w) r = Relu (a) t = Tile (r, ones) y = Conv (t, v)"""
    weights = CONVS + ", int64[4] ones = {1,1,1,2}"
    model, found = edges(net(nodes, weights))
    assert kinds(found)["t"] == ("Membrane", True)
    assert reads(model, "Conv")[-1] == ["t.membrane", "v"]


def test_encoders_go_in_front_of_what_moves_values():
    nodes = """p = Pad (x, pads) a = Conv (p, w) r = Relu (a) g = GlobalAveragePool (r)
               f = Flatten (g) y = MatMul (f, m)"""
    weights = CONVS + ", int64[8] pads = {0,0,1,1,0,0,1,1}, float[4,3] m"
    model, found = edges(net(nodes, weights, "float[N,3] y"))
    assert kinds(found) == {
        "x": ("Membrane", True),
        "a": ("Relu", False),
        "g": ("Encoder", False),
    }
    assert [n.op_type for n in model.graph.node] == [
        *("Identity", "Pad", "Conv", "Relu", "GlobalAveragePool", "Identity", "Flatten", "MatMul")
    ]


def test_a_mask_of_another_kind_and_constants_leave_a_product_in_float():
    nodes = "a = Conv (x, w) r = Relu (a) s = Mul (r, half) y = Conv (s, v)"
    found = edges(net(nodes, CONVS + ", float half = {0.5}"))[1]
    assert kinds(found) == {
        "x": ("Membrane", True),
        "a": ("Relu", False),
        "s": ("Encoder", False),
        "y.analog": ("Membrane", True),
    }
