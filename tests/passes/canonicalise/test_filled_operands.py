"""Filled operands: which become scalars, and which shapes would change."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import export_model, model_from_text, run_model
from snn_compile.passes.canonicalise.canonicalise import canonicalise
from snn_compile.passes.graph.surgeon import import_model


def canonical(text):
    """The nodes, after checking that the outputs are the same and have the same shape."""
    model = model_from_text(text)
    after = export_model(canonicalise(import_model(model)).graph)
    onnx.checker.check_model(after, full_check=True)
    rng = np.random.default_rng(0)
    feed = {
        value.name: rng.standard_normal(
            [dim.dim_value or 3 for dim in value.type.tensor_type.shape.dim], np.float32
        )
        for value in model.graph.input
    }
    for expected, got in zip(run_model(model, feed), run_model(after, feed), strict=True):
        np.testing.assert_array_equal(got, expected)
    return [node.op_type for node in after.graph.node]


@pytest.mark.parametrize(
    "body",
    [
        "s = Shape (x)  z = ConstantOfShape (s)  y = Max (x, z)",
        # of what is computed from x, and the other way round
        "e = Exp (x)  s = Shape (e)  z = ConstantOfShape (s)  y = Max (x, z)",
        "s = Shape (x)  z = ConstantOfShape (s)  e = Exp (x)  f = Mul (e, x)  y = Max (f, z)",
        "s = Shape (x)  o = Expand (one, s)  y = Sub (o, x)",
        "s = Shape (x)  o = Expand (one, s)  m = Neg (o)  h = Mul (m, half)  y = Max (h, x)",
        "s = Shape (x)  z = ConstantOfShape (s)  o = Exp (z)  c = Cast <to = 11> (o)"
        "d = Cast <to = 1> (c)  y = Min (x, d)",
        "s = Shape (x)  z = ConstantOfShape (s)  k = Greater (x, z)  y = Where (k, x, z)",
        "s = Shape (x)  z = ConstantOfShape (s)  o = Expand (one, s)  k = Greater (x, z)"
        "y = Where (k, o, z)",
    ],
)
def test_a_tensor_filled_to_the_shape_of_another_operand(body):
    """The lengths have no names, so the construction alone tells."""
    text = (
        f"g (float[?,?] x) => (float[?,?] y) <float one = {{1}}, float half = {{0.5}}> {{ {body} }}"
    )
    assert not {"Shape", "ConstantOfShape", "Expand"} & set(canonical(text))


@pytest.mark.parametrize(
    ("x", "weights", "body"),
    [
        ("float[2,4]", "float[2,4] c = {1,1,1,1,1,1,1,1}", "y = Max (x, c)"),
        ("float[2,4]", "float[4] c = {1,1,1,1}", "k = Greater (c, x)  y = Where (k, c, x)"),
        ("float[2,4]", "float[2,4] c = {1,1,1,1,1,1,1,1}", "y = Sub (c, x)"),
        ("float[batch,4]", "float[1,4] c = {1,1,1,1}", "y = Min (c, x)"),
    ],
)
def test_a_constant_with_one_value(x, weights, body):
    text = f"g ({x} x) => ({x} y) <{weights}> {{ {body} }}"
    after = export_model(canonicalise(import_model(model_from_text(text))).graph)
    assert canonical(text)
    assert {onnx.numpy_helper.to_array(t).size for t in after.graph.initializer} == {1}


@pytest.mark.parametrize(
    ("x", "y", "weights", "body"),
    [
        # The filled tensor makes the result larger.
        (
            "float[1,4]",
            "float[3,4]",
            "int64[2] s = {3, 4}",
            "z = ConstantOfShape (s)  y = Max(x,z)",
        ),
        ("float[4]", "float[1,4]", "float[1,4] c = {1,1,1,1}", "y = Max (x, c)"),
        ("float[1,4]", "float[2,4]", "float[2,4] c = {1,1,1,1,1,1,1,1}", "y = Add (x, c)"),
        # A parameter per channel.
        ("float[2,4]", "float[2,4]", "float[4] c = {2,2,2,2}", "y = Mul (x, c)"),
        # Values that differ.
        ("float[2,4]", "float[2,4]", "float[4] c = {1,1,2,1}", "y = Max (x, c)"),
    ],
)
def test_what_shapes_the_result_stays(x, y, weights, body):
    text = f"g ({x} x) => ({y} y) <{weights}> {{ {body} }}"
    assert canonical(text)
    after = export_model(canonicalise(import_model(model_from_text(text))).graph)
    assert max(onnx.numpy_helper.to_array(t).size for t in after.graph.initializer) > 1


def test_the_shape_of_another_tensor_stays():
    text = """g (float[a,b] x, float[c,d] w) => (float[e,f] y) {
        s = Shape (w)  z = ConstantOfShape (s)  y = Max (x, z) }"""
    assert canonical(text) == ["Shape", "ConstantOfShape", "Max"]


def test_a_scalar_of_more_dimensions_is_another_shape():
    text = """g (float[4] x) => (float[1,4] y) <float[1,1] c = {2}, float zero = {0}> {
        m = Mul (x, c)  s = Shape (m)  z = ConstantOfShape (s)  y = Max (z, x) }"""
    assert canonical(text)
