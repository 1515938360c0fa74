"""What thins maps out and widens them becomes a convolution with the same bits."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import model_from_text, run_model
from snn_compile.passes.graph.graph import is_constant, tidy, values_of
from snn_compile.passes.graph.network import detach
from snn_compile.passes.graph.surgeon import export_network, import_model, infer_shapes
from snn_compile.passes.lowering.slices_as_convs import slices_as_convs

LAST = 2**63 - 1
#: Input, text, opset and the convolutions' strides.
TAKEN = {
    "one axis after the other, then zeros on both sides": (
        "float[N,4,7,6] x",
        f"""<int64[1] a = {{0}}, int64[1] b = {{{LAST}}}, int64[1] h = {{2}}, int64[1] w = {{3}},
        int64[1] by = {{2}}, int64[8] pads = {{0, 2, 0, 0, 0, 2, 0, 0}}, float zero = {{0}}> {{
        s = Slice (x, a, b, h, by) t = Slice (s, a, b, w, by) y = Pad (t, pads, zero) }}""",
        17,
        [[2, 2]],
    ),
    "both axes at once, counted from the end": (
        "float[N,4,7,6] x",
        """<int64[2] a = {0, -7}, int64[2] b = {6, 7}, int64[2] axes = {-1, -2},
        int64[2] by = {3, 2}> { y = Slice (x, a, b, axes, by) }""",
        17,
        [[2, 3]],
    ),
    "all axes named by their place": (
        "float[N,4,6,6] x",
        f"""<int64[4] a = {{0, 0, 0, 0}}, int64[4] b = {{{LAST}, {LAST}, {LAST}, {LAST}}},
        int64[4] axes = {{0, 1, 2, 3}}, int64[4] by = {{1, 1, 2, 2}}>
        {{ y = Slice (x, a, b, axes, by) }}""",
        17,
        [[2, 2]],
    ),
    "zeros behind the channels, their axis named": (
        "float[N,4,5,5] x",
        """<int64[2] pads = {0, 3}, int64[1] axes = {1}, float zero = {0}>
        { y = Pad (x, pads, zero, axes) }""",
        18,
        [[1, 1]],
    ),
    "every other channel, then zeros": (
        "float[N,6,5,5] x",
        """<int64[1] a = {1}, int64[1] b = {5}, int64[1] axes = {1}, int64[1] by = {2},
        int64[8] pads = {0, 1, 0, 0, 0, 0, 0, 0}>
        { s = Slice (x, a, b, axes, by) y = Pad (s, pads) }""",
        17,
        [[1, 1]],
    ),
    "a pool of single places": (
        "float[N,4,7,7] x",
        "{ y = MaxPool <kernel_shape=[1,1], strides=[2,2]> (x) }",
        17,
        [[2, 2]],
    ),
    "along time": (
        "float[N,4,9] x",
        f"""<int64[1] a = {{0}}, int64[1] b = {{{LAST}}}, int64[1] axes = {{2}},
        int64[1] by = {{4}}> {{ y = Slice (x, a, b, axes, by) }}""",
        17,
        [[4]],
    ),
    "two readers between": (
        "float[N,4,6,6] x",
        f"""<int64[2] a = {{0, 0}}, int64[2] b = {{{LAST}, {LAST}}}, int64[2] axes = {{2, 3}},
        int64[2] by = {{2, 2}}, int64[8] pads = {{0, 0, 0, 0, 0, 4, 0, 0}}> {{
        s = Slice (x, a, b, axes, by) p = Pad (s, pads) m = Neg (s)
        y = Concat <axis=1> (p, m) }}""",
        17,
        [[2, 2]],
    ),
}

SLICE = (
    "<int64[1] a = {{{}}}, int64[1] b = {{{}}}, int64[1] axes = {{{}}}, int64[1] by = {{{}}}>"
    " {{ y = Slice (x, a, b, axes, by) }}"
)
KEPT = {
    "from the second place": SLICE.format(1, LAST, 2, 2),
    "not to the end": SLICE.format(0, 5, 2, 2),
    "backwards": SLICE.format(-1, -9, 2, -1),
    "samples": SLICE.format(0, LAST, 0, 2),
    "zeros around the map": "<int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}> { y = Pad (x, p) }",
    "ones": "<int64[8] p = {0, 1, 0, 0, 0, 0, 0, 0}, float v = {1}> { y = Pad (x, p, v) }",
    "repeated": '<int64[8] p = {0, 1, 0, 0, 0, 0, 0, 0}> { y = Pad <mode="edge"> (x, p) }',
    "channels taken away": "<int64[8] p = {0, -1, 0, 0, 0, 0, 0, 0}> { y = Pad (x, p) }",
    "a pool of pairs": "{ y = MaxPool <kernel_shape=[2,2], strides=[2,2]> (x) }",
    "a pool rounded up": "{ y = MaxPool <kernel_shape=[1,1], strides=[2,2], ceil_mode=1> (x) }",
    "a negated map": "{ y = Neg (x) }",
}


def taken(text, x, opset, signal=True):
    rank = x.count(",") + 1
    output = f"float[{','.join('abcd'[:rank])}] y"
    model = model_from_text(f"g ({x}) => ({output}) {text}", opset)
    graph = infer_shapes(import_model(detach(model)))
    convs = slices_as_convs(graph, {id(graph.inputs[0])} if signal else set())
    tidy(graph)
    strides = [conv.attrs["strides"] for conv in convs]
    for conv in convs:
        assert is_constant(conv.inputs[1]) and set(values_of(conv.inputs[1]).flat) <= {0, 1}
    return model, export_network(graph).attached(), strides


@pytest.mark.parametrize("name", TAKEN)
def test_same_bits_of_integers(name):
    x, text, opset, strides = TAKEN[name]
    model, found, got = taken(text, x, opset)
    assert got == strides
    assert found.graph.node[0].op_type == "Conv"
    onnx.checker.check_model(found, full_check=True)
    shape = [d.dim_value or 3 for d in model.graph.input[0].type.tensor_type.shape.dim]
    feed = {"x": np.random.default_rng(1).integers(-127, 255, shape).astype(np.float32)}
    (expected,), (output,) = run_model(model, feed), run_model(found, feed)
    assert np.array_equal(output, expected)


@pytest.mark.parametrize("name", KEPT)
def test_the_rest_stays(name):
    model, found, strides = taken(KEPT[name], "float[8,4,8,8] x", 17)
    assert strides == []
    assert [n.op_type for n in found.graph.node] == [n.op_type for n in model.graph.node]


def test_other_tensors_are_left_alone():
    x, text, opset, _ = TAKEN["a pool of single places"]
    assert taken(text, x, opset, signal=False)[2] == []


def test_channels_that_are_not_known_stay():
    text = "<int64[8] p = {0, 1, 0, 0, 0, 0, 0, 0}> { y = Pad (x, p) }"
    assert taken(text, "float[N,C,8,8] x", 17)[2] == []
