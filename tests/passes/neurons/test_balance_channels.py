"""Channels with one range: the same function, with scales in the layers around an activation."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import model_from_text, run_model
from snn_compile.passes.graph.network import detach
from snn_compile.passes.graph.surgeon import export_network, import_model, infer_shapes
from snn_compile.passes.neurons.balance_channels import balance_channels

SCALE = np.float64([0.25, 1.0, 3.7, 0.01])
HEAD = """g (float[N,4,6,6] x) => (float[N,a,b,c] y) <float[4,4,1,1] w, float[4] b,
float[5,4,3,3] v, float[4,1,3,3] d, float[4,4,2,2] t> {"""
TAKEN = {
    "Conv and Conv": "p = Conv (x, w, b) r = Relu (p) y = Conv (r, v)",
    "depthwise": "p = Conv (x, w, b) r = Relu (p) y = Conv <group=4> (r, d)",
    "ConvTranspose": "p = Conv (x, w) r = Relu (p) y = ConvTranspose (r, t)",
    "two readers": "p = Conv (x, w, b) r = Relu (p) s = Conv (r, w) u = Conv (r, w) y = Add (s, u)",
}
DIVIDED = {
    "what is read by others too": "p = Conv (x, w, b) r = Relu (p) q = Conv (r, w) y = Add (q, p)",
    "a sum": "p = Conv (x, w, b) s = Add (p, x) r = Relu (s) y = Conv (r, v)",
}
LEFT = {
    "a shortcut reads it": "p = Conv (x, w, b) r = Relu (p) s = Conv (r, w) y = Add (s, r)",
    "it is returned": "p = Conv (x, w, b) y = Relu (p)",
    "channels move": "p = Conv (x, w, b) r = Relu (p) "
    "m = Transpose <perm=[0,2,3,1]> (r) y = Conv (m, z)",
}


def balanced(body, divide):
    text = HEAD if "z)" not in body else HEAD.replace("> {", ", float[2,6,1,1] z> {")
    model = model_from_text(text + body + "}")
    name = "y" if "y = Relu" in body else "r"
    graph = infer_shapes(import_model(detach(model)))
    result = balance_channels(graph, {name: SCALE}, divide)
    found = export_network(result.graph).attached()
    x = np.random.default_rng(3).standard_normal([2, 4, 6, 6]).astype(np.float32)
    (before,) = run_model(model, {"x": x})
    (after,) = run_model(found, {"x": x})
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5 * np.abs(before).max())
    with_inner = found.__class__.FromString(found.SerializeToString())
    with_inner.graph.output[0].name = name
    with_inner.graph.output[0].type.tensor_type.ClearField("shape")
    (inner,) = run_model(with_inner, {"x": x})
    original = model.__class__.FromString(model.SerializeToString())
    original.graph.output[0].name = name
    original.graph.output[0].type.tensor_type.ClearField("shape")
    (outer,) = run_model(original, {"x": x})
    return result.changes, [n.op_type for n in found.graph.node], inner, outer


@pytest.mark.parametrize("divide", [False, True])
@pytest.mark.parametrize("name", TAKEN)
def test_channels_are_divided_and_the_network_is_the_same(name, divide):
    changes, ops, inner, outer = balanced(TAKEN[name], divide)
    assert "4 channels" in changes[0]
    assert "Mul" not in ops
    np.testing.assert_allclose(inner, outer / SCALE.reshape(-1, 1, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", DIVIDED)
def test_what_no_layer_in_front_takes_is_divided_where_asked(name):
    changes, ops, inner, outer = balanced(DIVIDED[name], True)
    assert len(changes) == 1
    assert "Mul" in ops
    np.testing.assert_allclose(inner, outer / SCALE.reshape(-1, 1, 1), rtol=1e-4, atol=1e-4)
    changes, ops, inner, outer = balanced(DIVIDED[name], False)
    assert not changes
    assert "Mul" not in ops


@pytest.mark.parametrize("name", LEFT)
def test_the_rest_is_left_as_it_is(name):
    changes, _, inner, outer = balanced(LEFT[name], True)
    assert not changes
    np.testing.assert_array_equal(inner, outer)
