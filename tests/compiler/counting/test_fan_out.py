"""Fan-out against the operators themselves: what a 1 at one position gives, of weights 0 and 1."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper
from snn_compile.compiler.counting.fan_out import LinearOperator, NotCounted, total_fan_out


def impulses(op, attributes, shape, mask):
    """The sum of the output for each position of one sample; None where it does not run."""
    node = helper.make_node(op, ["x", "w"], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", 1, None)],
        [helper.make_tensor_value_info("y", 1, None)],
        [onnx.numpy_helper.from_array(mask.astype(np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    size = int(np.prod(shape))
    try:
        session = ort.InferenceSession(model.SerializeToString(), _options())
        y = session.run(None, {"x": np.eye(size, dtype=np.float32).reshape(size, *shape[1:])})[0]
    except Exception:  # the runtime's own types
        return None
    return y.reshape(size, -1).sum(1).reshape(shape)


def _options():
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return options


def as_read(attributes):
    return {k: v.encode() if isinstance(v, str) else v for k, v in attributes.items()}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_windows(data):
    draw = data.draw
    op = draw(st.sampled_from(["Conv", "ConvTranspose"]))
    spatial = draw(st.integers(1, 2))
    groups = draw(st.sampled_from([1, 2]))
    shape = (1, 4, *(draw(st.integers(3, 6)) for _ in range(spatial)))
    kernel = [draw(st.integers(1, 3)) for _ in range(spatial)]
    attributes = {
        "group": groups,
        "strides": [draw(st.integers(1, 3)) for _ in range(spatial)],
        "dilations": [draw(st.integers(1, 2)) for _ in range(spatial)],
    }
    auto = draw(st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    attributes["auto_pad"] = auto
    if auto == "NOTSET":
        attributes["pads"] = [draw(st.integers(0, 2)) for _ in range(2 * spatial)]
    if op == "ConvTranspose":
        extra = [draw(st.integers(0, stride - 1)) for stride in attributes["strides"]]
        attributes["output_padding"] = extra
        if draw(st.booleans()):
            full = [
                s * (n - 1) + e + (k - 1) * d + 1
                for s, n, e, k, d in zip(
                    attributes["strides"], shape[2:], extra, kernel, attributes["dilations"],
                    strict=True,
                )
            ]  # fmt: skip
            attributes["output_shape"] = [n - draw(st.integers(0, 2)) for n in full]
            attributes.pop("pads", None)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    mask = rng.random(((6, 4 // groups) if op == "Conv" else (4, 3)) + tuple(kernel)) < 0.7
    expected = impulses(op, attributes, shape, mask)
    assume(expected is not None)
    found = LinearOperator(op, as_read(attributes)).fan_out(0, shape, mask)
    np.testing.assert_array_equal(np.broadcast_to(found, shape), expected)
    assert total_fan_out(found, (3, *shape[1:])) == 3 * expected.sum()


def test_zeros_that_a_pad_puts_there_are_border_too():
    mask = np.random.default_rng(0).random((2, 3, 3, 2)) < 0.7
    attributes = {"strides": [2, 1], "pads": [1, 0, 0, 1]}
    padding = ((1, 2), (0, 3))
    linear = LinearOperator("Conv", attributes, padding)
    around = LinearOperator("Conv", attributes).fan_out(0, (1, 3, 4 + 3, 5 + 3), mask)
    found = linear.fan_out(0, (1, 3, 4, 5), mask)
    np.testing.assert_array_equal(found, around[:, :, 1:5, :5])


@pytest.mark.parametrize(
    ("shape", "mask_shape", "position"),
    [
        ((4,), (4, 3), 0),
        ((4,), (2, 4, 3), 0),
        ((4,), (3, 4), 1),
        ((4,), (2, 3, 4), 1),
        ((3, 4), (4,), 0),
        ((4, 3), (4,), 1),
        ((2, 1, 3, 4), (5, 4, 2), 0),
        ((5, 4, 2), (2, 1, 3, 4), 1),
    ],
)
def test_matmul_repeats_operands(shape, mask_shape, position):
    mask = np.random.default_rng(0).random(mask_shape) < 0.7
    expected = np.zeros(shape, np.int64)
    for at in np.ndindex(*shape):
        impulse = np.zeros(shape, np.int64)
        impulse[at] = 1
        operands = [impulse, mask.astype(np.int64)]
        expected[at] = np.matmul(*operands[:: 1 if position == 0 else -1]).sum()
    found = LinearOperator("MatMul", {}).fan_out(position, shape, mask)
    np.testing.assert_array_equal(np.broadcast_to(found, shape), expected)
    linear = LinearOperator("MatMul", {})
    shapes = (shape, mask_shape)[:: 1 if position == 0 else -1]
    assert linear.products(*shapes) == total_fan_out(
        linear.fan_out(position, shape, np.ones(mask_shape, bool)), shape
    )


def test_sums_of_products_above_int64_are_exact():
    many = np.full((2, 3), 1 << 40)
    assert LinearOperator("MatMul", {}).pairs(many, many) == 6 * (1 << 80)


def test_what_has_no_fan_out_says_so():
    ones = np.ones((2, 2), bool)
    for equation in (b"...i,ij->...j", b"ij,jk,kl->il", b"ii,ij->j"):
        with pytest.raises(NotCounted, match=r"^its equation"):
            LinearOperator("Einsum", {"equation": equation}).check()
    with pytest.raises(NotCounted, match="its weights are computed by the network"):
        LinearOperator("Conv", {}).fan_out(1, (1, 2, 2), ones)
