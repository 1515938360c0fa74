"""Opsets: the lowest that a network has, what changes on the way, and what is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import model_from_text, run_model
from onnx import helper, numpy_helper
from snn_compile.passes.graph.network import check, detach
from snn_compile.passes.lowering.set_opset import (
    OpsetError,
    lowest_opset,
    require_opset,
    set_opset,
)

IMAGE = "g (float[N,4,6,6] x) => (float[N,A,B,D] y)"
ROWS = "g (float[N,6] x) => (float[N,A] y)"
GRAPHS = {
    "what only takes more types": (
        f"{IMAGE} <float[4,4,3,3] w> {{ a = Conv (x, w) r = Relu (a) y = Add (r, r) }}",
        (20, 13),
    ),
    "axes that become an attribute": (
        f"{IMAGE} <int64[2] axes = {{2, 3}}> {{ y = ReduceMean (x, axes) }}",
        (18, 13),
    ),
    "a reduction of everything": (f"{ROWS} {{ a = ReduceMax (x) y = Sub (x, a) }}", (20, 13)),
    "axes that are computed": (
        """g (float[N,6] x, int64[1] axes) => (float[A,B] y) { y = ReduceMean (x, axes) }""",
        (18, 18),
    ),
    "none of the axes": (
        f"{ROWS} {{ y = ReduceMean <noop_with_empty_axes = 1> (x) }}",
        (18, 18),
    ),
    "a normalisation": (
        f"{ROWS} <float[6] g> {{ y = LayerNormalization (x, g) }}",
        (18, 17),
    ),
    "a curve": (f"{ROWS} {{ y = Gelu (x) }}", (22, 20)),
    "equal parts": (f"{ROWS} {{ y, b = Split <axis = 1, num_outputs = 2> (x) }}", (18, 13)),
    "unequal parts": (f"{ROWS} {{ y, b, c, d = Split <axis = 1, num_outputs = 4> (x) }}", (18, 18)),
    "parts of a length that is not known": (
        f"{ROWS} {{ y, b = Split <num_outputs = 2> (x) }}",
        (18, 18),
    ),
    "another meaning": (
        """g (float[N,4,6] x) => (float[N,4,6] y) <float[4] s, float[4] b> {
           y = GroupNormalization <num_groups = 2> (x, s, b) }""",
        (21, 21),
    ),
    "a later mode": (
        """g (float[N,6] x) => (float[N,A] y) <int64[4] p = {0, 1, 0, 1}> {
           y = Pad <mode = "wrap"> (x, p) }""",
        (20, 19),
    ),
    "a pool that rounds up": (
        f"{IMAGE} {{ y = AveragePool <kernel_shape = [2, 2], ceil_mode = 1> (x) }}",
        (20, 19),
    ),
    "integers of an operator of floats": (
        """g (int32[N,6] x) => (int32[N,6] y) { y = Relu (x) }""",
        (17, 14),
    ),
    "a branch": (
        f"""{ROWS} <bool c = {{1}}> {{ y = If (c) <
            then_branch = t () => (float[N,6] p) {{ p = HardSwish (x) }},
            else_branch = e () => (float[N,6] q) {{ q = Relu (x) }}> }}""",
        (17, 14),
    ),
}


def network(name):
    text, (opset, lowest) = GRAPHS[name]
    return detach(model_from_text(text, opset)), lowest


@pytest.mark.parametrize("name", GRAPHS)
def test_the_lowest_opset_and_the_same_values(name):
    given, lowest = network(name)
    before = given.attached()
    assert lowest_opset(given, 13) == lowest
    require_opset(given, lowest)
    if lowest > 13:
        with pytest.raises(OpsetError, match=rf"is not the same at opset {lowest - 1}"):
            require_opset(given, lowest - 1)
    set_opset(given, lowest)
    (imported,) = given.proto.opset_import
    assert imported.version == lowest
    assert given.proto.ir_version == helper.find_min_ir_version_for([imported])
    check(given.proto)
    read = {name for node in given.proto.graph.node for name in node.input}
    assert {t.name for t in given.proto.graph.initializer} <= read
    rng, feed = np.random.default_rng(0), {}
    for value in before.graph.input:
        kind = value.type.tensor_type
        shape = [dim.dim_value or 2 for dim in kind.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        feed[value.name] = rng.integers(-3, 4, shape).astype(dtype)
    if "axes" in feed:
        feed["axes"] = np.int64([1])
    for got, expected in zip(
        run_model(given.attached(), feed), run_model(before, feed), strict=True
    ):
        np.testing.assert_array_equal(got, expected)


def test_a_newer_opset_where_nothing_changes_and_none_that_is_not_known():
    given, _ = network("what only takes more types")
    require_opset(given, 22)
    newest = onnx.defs.onnx_opset_version()
    with pytest.raises(OpsetError, match=f"newer than the installed onnx knows, {newest}"):
        require_opset(given, newest + 1)
    old = detach(model_from_text(f"{IMAGE} {{ y = ReduceMean <axes = [1]> (x) }}", 17))
    with pytest.raises(OpsetError, match="ReduceMean"):
        require_opset(old, 18)
    assert set_opset(old, 13).proto.opset_import[0].version == 13


def test_large_axes_that_nothing_reads_any_more_are_gone():
    given, _ = network("axes that become an attribute")
    unused = np.zeros(5000, np.float32)
    given.proto.graph.initializer.append(numpy_helper.from_array(unused, "unused"))
    held = detach(given.proto)
    assert "unused" in held.weights
    set_opset(held, 13)
    assert not held.weights
    assert not held.proto.graph.initializer
