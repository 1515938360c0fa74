"""What operators mean by default, written: for readers that know no defaults."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import model_from_text, run_model
from onnx import helper
from snn_compile.passes.graph.network import detach
from snn_compile.passes.graph.surgeon import export_network, import_model, infer_shapes
from snn_compile.passes.lowering.written_out import written_out

CONV = {"kernel_shape": [3, 3], "strides": [1, 1], "dilations": [1, 1], "group": 1}
CASES = {
    "Conv": (
        "float[N,2,9,8] x",
        "<float[4,2,3,3] w> { y = Conv (x, w) }",
        CONV | {"pads": [0, 0, 0, 0]},
    ),
    "SAME, more behind": (
        "float[N,2,9,8] x",
        '<float[4,2,3,3] w> { y = Conv <auto_pad="SAME_UPPER", strides=[2,2]> (x, w) }',
        CONV | {"strides": [2, 2], "pads": [1, 0, 1, 1]},
    ),
    "SAME, more before": (
        "float[N,2,9,8] x",
        '<float[4,2,3,3] w> { y = Conv <auto_pad="SAME_LOWER", strides=[3,2]> (x, w) }',
        CONV | {"strides": [3, 2], "pads": [0, 1, 0, 0]},
    ),
    "SAME, an even kernel": (
        "float[N,2,9,8] x",
        '<float[4,2,3,2] w> { y = Conv <auto_pad="SAME_UPPER"> (x, w) }',
        CONV | {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1]},
    ),
    "VALID": (
        "float[N,4,9] x",
        '<float[4,1,3] w> { y = Conv <auto_pad="VALID", group=4> (x, w) }',
        {"kernel_shape": [3], "strides": [1], "dilations": [1], "group": 4, "pads": [0, 0]},
    ),
    "MaxPool": (
        "float[N,2,9,8] x",
        '{ y = MaxPool <kernel_shape=[2,2], auto_pad="SAME_UPPER"> (x) }',
        {"kernel_shape": [2, 2], "strides": [1, 1], "pads": [0, 0, 1, 1]},
    ),
    "AveragePool": (
        "float[N,2,9,8] x",
        "{ y = AveragePool <kernel_shape=[2,2], strides=[2,2]> (x) }",
        {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 0, 0, 0]},
    ),
    "Transpose": ("float[N,2,9] x", "{ y = Transpose (x) }", {"perm": [2, 1, 0]}),
}


def written(x, text):
    output = f"float[{','.join('abcd'[: x.count(',') + 1])}] y"
    model = model_from_text(f"g ({x}) => ({output}) {text}")
    graph = infer_shapes(import_model(detach(model)))
    written_out(graph)
    return model, export_network(graph).attached()


@pytest.mark.parametrize("name", CASES)
def test_attributes(name):
    x, text, expected = CASES[name]
    model, found = written(x, text)
    (node,) = found.graph.node
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    assert attributes == expected
    shape = [d.dim_value or 3 for d in model.graph.input[0].type.tensor_type.shape.dim]
    feed = {"x": np.random.default_rng(4).standard_normal(shape).astype(np.float32)}
    (before,), (after,) = run_model(model, feed), run_model(found, feed)
    assert np.array_equal(before, after)


def test_padding_that_depends_on_lengths_stays_where_they_are_unknown():
    text = '<float[4,2,3,3] w> { y = Conv <auto_pad="SAME_UPPER", strides=[2,2]> (x, w) }'
    (node,) = written("float[N,2,H,W] x", text)[1].graph.node
    assert b"SAME_UPPER" in [a.s for a in node.attribute if a.name == "auto_pad"]
    (node,) = written("float[N,2,H,W] x", text.replace("2,2]>", "1,1]>"))[1].graph.node
    assert "auto_pad" not in [a.name for a in node.attribute]


@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_constants_stand_second(op):
    text = f"<float[4] c> {{ a = {op} (c, x) y = {op} (x, a) }}"
    model, found = written("float[N,4] x", text)
    first, second = found.graph.node
    assert list(first.input) == ["x", "c"] and list(second.input) == ["x", first.output[0]]
    feed = {"x": np.random.default_rng(4).standard_normal((3, 4)).astype(np.float32)}
    assert np.array_equal(run_model(model, feed)[0], run_model(found, feed)[0])


@pytest.mark.parametrize("op", ["Sub", "Div"])
def test_operands_that_do_not_commute_stay(op):
    (node,) = written("float[N,4] x", f"<float[4] c> {{ y = {op} (c, x) }}")[1].graph.node
    assert list(node.input) == ["c", "x"]
