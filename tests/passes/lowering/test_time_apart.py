"""Operators that work along axis 0, over several timesteps: against one array per step."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import export_model, run_model
from snn_compile.passes.analysis.time_rules import NotOverTimeError
from snn_compile.passes.graph.network import Network
from snn_compile.passes.graph.surgeon import import_model
from snn_compile.passes.lowering.function_bodies import function_bodies
from snn_compile.passes.lowering.spatial_to_temporal import spatial_to_temporal
from snn_compile.passes.lowering.temporal_to_spatial import temporal_to_spatial
from snn_compile.runtime_ops.operators import register_schemas
from stepwise_reference import stepwise

STEPS = 4
BATCH = 5
FIRE = "ai.snn.MultiThresholdFire <levels_pos = 4, levels_neg = 4>"
#: Values that make axes, lengths and orders readable below; text has no other way to give lists.
LISTS = {
    "zero": [0],
    "one": [1],
    "two": [2],
    "minus_1": [-1],
    "last": [-2],
    "all": [2**31 - 1],
    "everywhere": [0, 0, 1],
    "ends": [2**31 - 1, 2**63 - 1, 2**31 - 1],
    "thirds": [1, 1, 1],
    "halves": [2, 2],
    "three": [3],
    "backwards": [3, 1, 2],
}


def network(nodes, batch="B", features="4,6", opset=18, **arrays):
    """x [batch, features], a neuron s, the nodes from s to r, and a second neuron and r itself."""
    register_schemas()
    text = f"""<ir_version: 9, opset_import: ["" : {opset}, "ai.snn" : 1]>
        g (float[{batch},{features}] x) => (float y, float r) {{
            [first] s = {FIRE} (x, theta) {nodes} [second] y = {FIRE} (r, theta) }}"""
    model = onnx.parser.parse_model(text)
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    used = {name for node in model.graph.node for name in node.input}
    given = {**{name: np.array(v, np.int64) for name, v in LISTS.items()}, **arrays}
    given["theta"] = np.float32(0.25)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(v), name)
        for name, v in given.items()
        if name in used
    )
    return model


def weights(*shape, seed=0):
    """Multiples of 1/8, so that sums are exact."""
    return (np.random.default_rng(seed).integers(-7, 8, shape) / 8).astype(np.float32)


def check(model, shape, rtol=0.0):
    """Kernels and bodies of the network over time give what the reference gives.

    So do the steps of a network with a time axis on average; and the way back.

    Returns:
        The lines of the pass.
    """
    x = (np.random.default_rng(1).integers(-9, 10, shape) / 8).astype(np.float32)
    result = spatial_to_temporal(import_model(model), STEPS)
    over_time = function_bodies(Network(export_model(result.graph))).proto
    expected = stepwise(model, {"x": x}, STEPS)
    for library in (True, False):
        got = run_model(over_time, {"x": x}, library=library)
        for ours, theirs in zip(got, expected, strict=True):
            assert ours.shape == theirs.shape
            np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol)
    assert any(np.unique(array).size > 1 for array in expected)
    streamed = spatial_to_temporal(import_model(model), STEPS, time_axis=True).graph
    streamed = function_bodies(Network(export_model(streamed))).proto
    steps = run_model(streamed, {"x": np.stack([x] * STEPS)}, library=True)
    for ours, theirs in zip(steps, expected, strict=True):
        np.testing.assert_allclose(ours.mean(axis=0), theirs, rtol=1e-5, atol=1e-5)
    back = export_model(temporal_to_spatial(import_model(streamed)).graph)
    assert [n.op_type for n in back.graph.node] == [n.op_type for n in model.graph.node]
    back = export_model(temporal_to_spatial(import_model(over_time)).graph)
    assert [n.op_type for n in back.graph.node] == [n.op_type for n in model.graph.node]
    for ours, theirs in zip(
        run_model(back, {"x": x}, library=True),
        run_model(model, {"x": x}, library=True),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
    return result.changes


MOVED = {
    "Slice of everything": "r = Slice (s, everywhere, ends)",
    "Slice of all rows": "a = Slice (s, zero, all, zero) r = Slice (a, one, all, two)",
    "Slice of all rows, counted from the end": "r = Slice (s, zero, all, minus_3)",
    "Slice of channels in front": """t = Transpose <perm = [1, 0, 2]> (s)
        r = Slice (t, one, three, zero, one)""",
    "Slice by int32": """t = Transpose <perm = [2, 1, 0]> (s)
        r = Slice (t, from_here, to_there)""",
    "Slice backwards": """t = Transpose <perm = [2, 1, 0]> (s)
        r = Slice (t, three, zero, zero, minus_1)""",
    "Split of channels in front": """t = Transpose <perm = [1, 0, 2]> (s)
        a, b = Split <axis = 0> (t, halves) r = Sub (a, b)""",
    "Split by a number of parts": """t = Transpose <perm = [2, 0, 1]> (s)
        a, b, c = Split <axis = -3, num_outputs = 3> (t) d = Add (a, c) r = Sub (d, b)""",
    "Gather of one": """t = Transpose <perm = [2, 0, 1]> (s) a = Gather <axis = 0> (t, index)
        r = Mul (a, a)""",
    "Gather of several": "t = Transpose <perm = [1, 2, 0]> (s) r = Gather (t, backwards)",
    "GatherElements": """t = Transpose <perm = [1, 0, 2]> (s)
        r = GatherElements <axis = 0> (t, elements)""",
    "GatherND": "t = Transpose <perm = [1, 2, 0]> (s) r = GatherND (t, pairs)",
    "an axis in front and away": """u = Unsqueeze (s, zero) t = Transpose <perm = [1, 0, 2, 3]> (u)
        r = Squeeze (t, one)""",
    "an axis in front, from the end": "u = Unsqueeze (s, minus_4) r = Squeeze (u, zero)",
    "Squeeze of what has one": """u = Unsqueeze (s, zero) t = Transpose <perm = [2, 0, 1, 3]> (u)
        a = Gather (t, zero) r = Squeeze (a, zero)""",
    "Concat in front": """t = Transpose <perm = [1, 0, 2]> (s)
        c = Concat <axis = 0> (t, t) r = Transpose <perm = [1, 0, 2]> (c)""",
    "Concat with what has no time": """t = Transpose <perm = [1, 0, 2]> (s)
        u = Transpose <perm = [1, 0, 2]> (x) r = Concat <axis = -3> (u, t)""",
    "stacked": """a = Unsqueeze (s, zero) b = Unsqueeze (x, zero) c = Concat <axis = 0> (a, b)
        r = ReduceSum <keepdims = 0> (c, zero)""",
    "Expand to more axes": "r = Expand (s, stack)",
    "Expand of an axis in front": "u = Unsqueeze (s, zero) r = Expand (u, stack)",
    "Tile": "t = Transpose <perm = [1, 0, 2]> (s) r = Tile (t, repeats)",
    "Pad": "t = Transpose <perm = [1, 0, 2]> (s) r = Pad (t, pads)",
    "Pad along listed axes": "t = Transpose <perm = [1, 0, 2]> (s) r = Pad (t, pad, nothing, zero)",
    "sums along an axis in front": """t = Transpose <perm = [2, 0, 1]> (s)
        r = CumSum (t, first)""",
    "mean of channels in front": """t = Transpose <perm = [1, 0, 2]> (s)
        r = ReduceMean <keepdims = 1> (t, zero)""",
    "lower triangle": """t = Transpose <perm = [1, 2, 0]> (s) a = Gather <axis = 0> (t, index)
        b = Transpose <perm = [1, 0]> (a) u = Unsqueeze (b, two) r = Trilu (u)""",
    "sum of different ranks": """m = ReduceMean <keepdims = 0> (s, one)
        k = Transpose <perm = [1, 0, 2]> (s) r = Add (k, m)""",
    "product with a matrix in front": """t = Transpose <perm = [1, 2, 0]> (s)
        m = ReduceMean <keepdims = 0> (t, one) r = MatMul (w, m)""",
    "product in another order": 'r = Einsum <equation = "blc,kl->ckb"> (s, w)',
    "heads in the batch": """f = Reshape (s, heads) t = Transpose <perm = [0, 2, 1, 3]> (f)
        h = Reshape (t, joined) a, b = Split <axis = -1> (h, first_two) g = Concat <axis = 2> (b, a)
        v = Reshape (g, parted) p = Transpose <perm = [0, 2, 1, 3]> (v) r = Reshape (p, back)""",
    "flat": "t = Transpose <perm = [1, 0, 2]> (s) r = Flatten <axis = 1> (t)",
    "shape from the end": "h = Shape <start = -3> (s) f = Flatten (s) r = Reshape (f, h)",
    "shape of what moved": """t = Transpose <perm = [1, 0, 2]> (s) h = Shape (t)
        f = Flatten <axis = 2> (t) r = Reshape (f, h)""",
}
GIVEN = {
    "minus_3": np.array([-3]),
    "minus_4": np.array([-4]),
    "from_here": np.array([1, 0], np.int32),
    "to_there": np.array([4, 3], np.int32),
    "first": np.array(0),
    "index": np.array(1),
    "elements": np.random.default_rng(0).integers(0, 4, (2, BATCH, 6)),
    "pairs": np.array([[0, 1], [3, 5]]),
    "stack": np.array([3, 1, 1, 1]),
    "repeats": np.array([2, 1, 1]),
    "pads": np.array([1, 0, 0, 2, 0, 0]),
    "pad": np.array([1, 2]),
    "nothing": np.float32(0),
    "w": weights(3, 4),
    "heads": np.array([0, 0, 2, 3]),
    "joined": np.array([-1, 4, 3]),
    "first_two": np.array([2, 1]),
    "parted": np.array([-1, 2, 4, 3]),
    "back": np.array([-1, 4, 6]),
}
#: By case: how many running means it takes.
AVERAGED = {"Gather of one": 1}


@pytest.mark.parametrize("batch", ["B", BATCH])
@pytest.mark.parametrize("case", MOVED)
def test_what_works_along_axis_0_has_time_apart(case, batch):
    """Sums are exact, so all values are."""
    changes = check(network(MOVED[case], batch, **GIVEN), (BATCH, 4, 6))
    assert len(changes) == AVERAGED.get(case, 0)


OLD = {
    "mean of channels in front": """t = Transpose <perm = [1, 0, 2]> (s)
        m = ReduceMean <axes = [0], keepdims = 1> (t) r = Add (t, m)""",
    "sum of different ranks": """m = ReduceMean <axes = [1], keepdims = 0> (s)
        k = Transpose <perm = [1, 0, 2]> (s) r = Add (k, m)""",
    "largest of an axis in front": """t = Transpose <perm = [2, 0, 1]> (s)
        r = ReduceMax <axes = [-3], keepdims = 0> (t)""",
    "Split of equal parts": """t = Transpose <perm = [1, 0, 2]> (s) a, b = Split <axis = 0> (t)
        r = Sub (a, b)""",
}


@pytest.mark.parametrize("case", OLD)
def test_before_opset_18_axes_are_attributes(case):
    check(network(OLD[case], BATCH, opset=15), (BATCH, 4, 6), rtol=1e-6)


SINGLE = {
    "Flatten from axis 0": "f = Flatten <axis = 0> (s) r = MatMul (f, w)",
    "Flatten from the end": "f = Flatten <axis = -3> (s) r = MatMul (f, w)",
    "no batch axis": """q = Squeeze (s, zero) k = Transpose <perm = [1, 0]> (q)
        p = MatMul (q, k) a = Softmax (p) o = MatMul (a, q) r = Unsqueeze (o, zero)""",
    "a softmax of columns": """q = Squeeze (s, zero) a = Softmax <axis = 0> (q)
        r = Unsqueeze (a, zero)""",
    "what has one squeezed": "q = Squeeze (s) r = Unsqueeze (q, zero)",
    "a scalar": """q = Squeeze (s, zero) a = Gather (q, index) b = Gather (a, index)
        e = Mul (b, b) m = Mul (e, s) r = Add (m, s)""",
    "a scalar in a new shape": """f = Reshape (s, minus_1) b = Gather (f, index)
        n = Reshape (b, ones) r = Sub (s, n)""",
    "rows of one broadcast": """q = Transpose <perm = [1, 0, 2]> (s)
        p = Mul (q, s) r = ReduceSum <keepdims = 1> (p, zero)""",
    "a vector": """q = Squeeze (s, zero) a = Gather (q, index) b = MatMul (a, v)
        r = Unsqueeze (b, zero)""",
}


@pytest.mark.parametrize("case", SINGLE)
def test_a_batch_of_one_is_no_batch(case):
    given = {"w": weights(24, 3), "v": weights(6, 3), "ones": np.array([1, 1])}
    model = network(SINGLE[case], 1, **{**GIVEN, **given})
    check(model, (1, 4, 6), rtol=2e-6)


MASKED = {
    "selected": "m = Where (mask, lowest, s) r = Softmax <axis = -1> (m)",
    "added": "m = Add (s, lowest_row) r = Softmax <axis = -1> (m)",
    "selected by the network": """n = Shape (s) l = ConstantOfShape <value = float[1] {-3e38}> (n)
        m = Where (mask, s, l) r = Softmax <axis = -1> (m)""",
}


@pytest.mark.parametrize("case", MASKED)
def test_masks_do_not_overflow(case):
    """A row that is masked as a whole: sums over steps of the lowest float are infinite."""
    lowest = np.finfo(np.float32).min
    row = np.where(np.arange(4)[:, None] < 2, lowest, np.zeros((4, 6), np.float32))
    mask = np.isin(np.arange(24).reshape(4, 6), [0, 1, 2, 3, 4, 5, 9, 14])
    given = {"lowest": lowest, "lowest_row": row.astype(np.float32), "mask": mask}
    model = network(MASKED[case], **given)
    x = (np.random.default_rng(1).integers(-9, 10, (BATCH, 4, 6)) / 8).astype(np.float32)
    result = spatial_to_temporal(import_model(model), STEPS)
    over_time = function_bodies(Network(export_model(result.graph))).proto
    (_, got), (_, one_step) = (run_model(m, {"x": x}, library=True) for m in (over_time, model))
    np.testing.assert_allclose(got, one_step, rtol=1e-5, atol=1e-6)


MIXED = {
    "half of the rows": ("r = Slice (s, zero, two, zero)", "Slice"),
    "rows split": ("r, q = Split <axis = 0, num_outputs = 2> (s)", "Split"),
    "rows joined": ("r = Concat <axis = 0> (s, s)", "Concat"),
    "rows joined behind": (
        "t = Transpose <perm = [1, 0, 2]> (s) r = Concat <axis = 1> (t, t)",
        "Concat",
    ),
    "mean of rows": ("r = ReduceMean <keepdims = 1> (s, zero)", "ReduceMean"),
    "mean of rows that moved": (
        "t = Transpose <perm = [1, 2, 0]> (s) r = ReduceMean <keepdims = 1> (t, minus_1)",
        "ReduceMean",
    ),
    "softmax of rows": (
        "t = Transpose <perm = [2, 1, 0]> (s) r = Softmax <axis = -1> (t)",
        "Softmax",
    ),
    "rows with each other": (
        "f = Flatten (s) t = Transpose <perm = [1, 0]> (f) r = MatMul (f, t)",
        "MatMul",
    ),
    "rows broadcast to each other": (
        "m = ReduceMean <keepdims = 0> (s, two) a = Unsqueeze (m, one) r = Sub (a, m)",
        "Sub",
    ),
    "rows as channels": (
        "t = Transpose <perm = [1, 0, 2]> (s) r = Conv <kernel_shape = [1]> (t, kernel)",
        "Conv",
    ),
    "rows summed by name": ('r = Einsum <equation = "blc,kl->ck"> (s, w)', "Einsum"),
    "heads in the batch, summed": (
        """f = Reshape (s, heads) t = Transpose <perm = [0, 2, 1, 3]> (f) h = Reshape (t, joined)
        r = ReduceMean <keepdims = 1> (h, zero)""",
        "ReduceMean",
    ),
    "rows flat": ("r = Flatten <axis = 0> (s)", "Flatten"),
    "rows padded": ("r = Pad (s, pads)", "Pad"),
}


@pytest.mark.parametrize("case", MIXED)
def test_what_mixes_rows_is_refused_by_name(case):
    nodes, op = MIXED[case]
    model = network(nodes, **GIVEN, kernel=weights(2, BATCH, 1))
    with pytest.raises(NotOverTimeError, match=f"^{op} '.*' depends on time, and .*mixes the rows"):
        spatial_to_temporal(import_model(model), STEPS)


def test_parts_of_a_network_may_have_the_rows_anywhere():
    model = network("r = ReduceMean <keepdims = 1> (s, zero)")
    result = spatial_to_temporal(import_model(model), STEPS, kept=["r"])
    assert result.timed == {"r"}
