"""canonicalise: one case per rule, and what must stay."""

from __future__ import annotations

import tracemalloc

import numpy as np
import onnx
import pytest
from helpers import export_model, model_from_text, run_model
from snn_compile.passes.canonicalise import fold_constants as module
from snn_compile.passes.canonicalise.canonicalise import canonicalise
from snn_compile.passes.graph.surgeon import import_model


def rewritten(model):
    result = canonicalise(import_model(model))
    exported = export_model(result.graph)
    onnx.checker.check_model(exported, full_check=True)
    return exported, result.changes


def ops(model):
    return [node.op_type for node in model.graph.node]


X = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)


def assert_same_outputs(before, after, feed=None):
    feed = feed or {"x": X}
    for old, new in zip(run_model(before, feed), run_model(after, feed), strict=True):
        np.testing.assert_array_equal(old, new)


def test_constants_are_folded():
    model = model_from_text("""
        g (float[N, 3] x) => (float[N, 3] y) {
            one = Constant <value_float = 1.0> ()
            two = Add (one, one)
            y = Mul (x, two)
        }""")
    after, _ = rewritten(model)
    assert ops(after) == ["Mul"]
    assert_same_outputs(model, after)


def test_a_normalisation_of_constants_is_folded():
    model = model_from_text("""
        g (float[2,3] x) => (float[2,3] y)
        <float[2,3] c, float[3] gamma, float[3] beta, float[3] mean, float[3] one = {1, 1, 1}>
        { n = BatchNormalization (c, gamma, beta, mean, one) y = Add (x, n) }""")
    after, _ = rewritten(model)
    assert ops(after) == ["Add"]
    assert_same_outputs(model, after)


def test_static_shapes_are_folded():
    model = model_from_text("""
        g (float[2, 3, 4] x) => (int64[2] y, int64[1] z, float[2, 3, 4] r) {
            y = Shape <start = 1> (x)
            z = Shape <start = -9, end = -2> (x)
            r = Relu (x)
        }""")
    after, _ = rewritten(model)
    assert "Shape" not in ops(after)
    assert_same_outputs(model, after, {"x": np.ones((2, 3, 4), np.float32)})


def test_float_arithmetic_on_shapes_stays_float():
    """Folding must not pull the casts off: half of 3 is 1 here, and 0.5 as an integer is 0."""
    model = model_from_text("""
        g (float[N, 3] x) => (int64[2] y) {
            half = Constant <value_float = 0.5> ()
            s = Shape (x)
            f = Cast <to = 1> (s)
            h = Mul (f, half)
            y = Cast <to = 7> (h)
        }""")
    after, _ = rewritten(model)
    assert_same_outputs(model, after)


def test_shape_arithmetic_of_a_padding_chain_is_folded():
    """The shape of the chain that the TorchScript exporter writes for a static F.pad."""
    model = model_from_text("""
        g (float[N, 3] x) => (float[N, 5] y)
        <int64[2] last = {1, 1}, int64[1] n = {2}, int64[2] two = {2, 2},
         int64[1] start = {-1}, int64[1] end = {-9223372036854775807},
         int64[1] axis = {0}, int64[1] step = {-1}, int64[1] flat = {-1}, float pad_value = {0}>
        {
            zeros = ConstantOfShape <value = int64[1] {0}> (n)
            pairs = Concat <axis = 0> (last, zeros)
            matrix = Reshape (pairs, two)
            reverse = Slice (matrix, start, end, axis, step)
            transposed = Transpose <perm = [1, 0]> (reverse)
            pads = Reshape (transposed, flat)
            y = Pad (x, pads, pad_value)
        }""")
    after, _ = rewritten(model)
    assert ops(after) == ["Pad"]
    assert_same_outputs(model, after)


def test_identity_inside_is_bypassed():
    model = model_from_text("""
        g (float[N, 3] x) => (float[N, 3] y) {
            a = Relu (x)
            b = Identity (a)
            y = Neg (b)
        }""")
    after, changes = rewritten(model)
    assert ops(after) == ["Relu", "Neg"]
    assert len([line for line in changes if line.startswith("Identity")]) == 1
    assert_same_outputs(model, after)


def test_identity_before_an_output_hands_on_the_name():
    model = model_from_text("""
        g (float[N, 3] x) => (float[N, 3] y, float[N, 3] z) {
            a = Relu (x)
            y = Identity (a)
            z = Neg (a)
        }""")
    after, _ = rewritten(model)
    assert sorted(ops(after)) == ["Neg", "Relu"]
    assert [output.name for output in after.graph.output] == ["y", "z"]
    assert_same_outputs(model, after)


def test_identity_between_two_outputs_stays():
    model = model_from_text("""
        g (float[N, 3] x) => (float[N, 3] y, float[N, 3] z) {
            y = Relu (x)
            z = Identity (y)
        }""")
    after, _ = rewritten(model)
    assert ops(after) == ["Relu", "Identity"]
    assert_same_outputs(model, after)


def test_identity_from_input_to_output_stays():
    model = model_from_text("""
        g (float[N, 3] x) => (float[N, 3] y, float[N, 3] z) {
            y = Identity (x)
            z = Relu (x)
        }""")
    after, _ = rewritten(model)
    assert sorted(ops(after)) == ["Identity", "Relu"]
    assert_same_outputs(model, after)


def test_dropout_in_inference_is_bypassed():
    model = model_from_text("""
        g (float[N, 3] x) => (float[N, 3] y) <float ratio = {0.5}> {
            a = Dropout (x, ratio)
            y = Relu (a)
        }""")
    after, _ = rewritten(model)
    assert ops(after) == ["Relu"]
    assert_same_outputs(model, after)


@pytest.mark.parametrize(
    "body",
    [
        "a, mask = Dropout (x) y = Relu (a) z = Cast <to = 1> (mask)",
        "a, mask = Dropout (x, ratio, off) y = Relu (a) z = Cast <to = 1> (mask)",
        "a = Dropout (x, ratio, training) y = Relu (a) z = Neg (x)",
    ],
    ids=["mask used", "mask used, not training", "training mode"],
)
def test_dropout_that_does_something_stays(body):
    model = model_from_text(f"""
        g (float[N, 3] x, bool training) => (float[N, 3] y, float[N, 3] z)
        <float ratio = {{0.5}}, bool off = {{0}}> {{ {body} }}""")
    after, _ = rewritten(model)
    assert "Dropout" in ops(after)


def test_dead_nodes_are_dropped():
    model = model_from_text("""
        g (float[N, 3] x) => (float[N, 3] y) {
            unused = Neg (x)
            y = Relu (x)
        }""")
    after, changes = rewritten(model)
    assert ops(after) == ["Relu"]
    assert changes == ["2 nodes became 1"]


def test_unused_inputs_stay():
    model = model_from_text("""
        g (float[N, 3] x, float[N] spare) => (float[N, 3] y) { y = Relu (x) }""")
    after, _ = rewritten(model)
    assert [value.name for value in after.graph.input] == ["x", "spare"]


def test_nodes_get_unique_names():
    model = model_from_text("""
        g (float[N, 3] x) => (float[N, 3] y) { a = Relu (x) b = Neg (a) y = Relu (b) }""")
    model.graph.node[1].name = "Relu:a"
    after, _ = rewritten(model)
    names = [node.name for node in after.graph.node]
    assert names[1] == "Relu:a"
    assert len(set(names)) == 3
    assert all(names)


def test_identity_that_a_subgraph_reads_is_bypassed_there_too():
    model = model_from_text("""
        g (float[N, 3] x, bool c) => (float[N, 3] y) {
            a = Relu (x)
            b = Identity (a)
            y = If (c) <
                then_branch = t () => (float[N, 3] p) { p = Neg (b) },
                else_branch = e () => (float[N, 3] q) { q = Abs (b) }
            >
        }""")
    after, _ = rewritten(model)
    assert ops(after) == ["Relu", "If"]
    assert_same_outputs(model, after, {"x": X, "c": np.array(True)})
    assert_same_outputs(model, after, {"x": X, "c": np.array(False)})


def test_shapes_are_inferred():
    model = model_from_text("""
        g (float[N, 3] x) => (float[N, 4] y) <float[3, 4] w> { a = MatMul (x, w) y = Relu (a) }""")
    result = canonicalise(import_model(model))
    assert result.graph.nodes[0].outputs[0].shape == ["N", 4]


def test_constants_keep_their_types():
    model = model_from_text("""
        g (float[N, 3] x) => (float[N, 3] y, float[2] f, int64[2] i, double[1] d, bool[1] b) {
            y = Relu (x)
            f = Constant <value_floats = [0.5, 1.5]> ()
            i = Constant <value_ints = [1, 2]> ()
            d = Constant <value = double[1] {0.5}> ()
            zero = Constant <value = float[1] {0}> ()
            b = Cast <to = 9> (zero)
        }""")
    after, _ = rewritten(model)
    assert ops(after) == ["Relu"]
    assert_same_outputs(model, after)


def test_constants_that_graphs_cannot_hold_stay_nodes():
    model = model_from_text("""
        g (float[N, 3] x) => (float[N, 3] y, string s) {
            y = Relu (x)
            s = Constant <value_string = "text"> ()
        }""")
    after, _ = rewritten(model)
    assert ops(after) == ["Relu", "Constant"]


def test_known_dimensions_of_a_dynamic_shape_are_folded():
    model = model_from_text("""
        g (float[N, 3, 4] x) => (float[A, B] y, int64[1] d)
        <int64 two = {2}, int64[1] one = {1}, int64[1] three = {3}, int64[1] zero = {0},
         int64[1] minus = {-1}> {
            shape = Shape (x)
            last = Gather (shape, two)
            last_1d = Unsqueeze (last, zero)
            middle = Slice (shape, one, three)
            product = ReduceProd <keepdims = 1> (middle)
            batch = Slice (shape, zero, one)
            target = Concat <axis = 0> (minus, product)
            y = Reshape (x, target)
            d = Add (batch, last_1d)
        }""")
    after, _ = rewritten(model)
    assert sorted(ops(after)) == ["Add", "Reshape", "Shape", "Slice"]
    assert_same_outputs(model, after, {"x": np.ones((2, 3, 4), np.float32)})


def test_weights_of_constant_of_shape_are_constants():
    model = model_from_text("""
        g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) {
            shape = Constant <value_ints = [4, 3, 3, 3]> ()
            w = ConstantOfShape <value = float[1] {0.25}> (shape)
            y = Conv (x, w)
        }""")
    after, _ = rewritten(model)
    assert ops(after) == ["Conv"]
    assert_same_outputs(model, after, {"x": np.ones((1, 3, 8, 8), np.float32)})


@pytest.mark.parametrize(
    "body",
    [
        "r = Expand (one, shape)",
        "r = Tile (one, shape)",
        "r = ConstantOfShape (shape)",
        "r = Range (zero, huge, one_f)",
        "small = ConstantOfShape (half) r = Concat <axis = 0> (small, small, small, small)",
        "a = ConstantOfShape (half) b = ConstantOfShape (half) r = Add (a, b)",
    ],
    ids=["Expand", "Tile", "ConstantOfShape", "Range", "Concat", "many"],
)
def test_small_files_do_not_become_huge(body):
    model = model_from_text(f"""
        g (float[N, 3] x) => (float[N, 3] y)
        <int64[4] shape = {{1000, 1000, 1000, 1000}}, float[1,1,1,1] one = {{1}},
         int64[4] half = {{600, 1000, 300, 1}}, float zero = {{0}}, float huge = {{1e12}},
         float one_f = {{1}}> {{
            {body}
            first = Shape (x)
            s = ReduceMax <keepdims = 0> (r)
            y = Add (x, s)
        }}""")
    tracemalloc.start()
    after, _ = rewritten(model)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50 << 20
    assert after.ByteSize() < 10_000


@pytest.mark.parametrize(
    "node",
    [
        "r = RandomNormal <shape = [3], seed = 1.0> ()",
        "r = RandomUniformLike <seed = 1.0> (w)",
        "b = Bernoulli <seed = 1.0> (w) r = Neg (b)",
        "q = QuantizeLinear (w, s, z) r = DequantizeLinear (q, s, z)",
    ],
)
def test_what_constants_do_not_determine_is_not_folded(node):
    model = model_from_text(f"""
        g (float[N, 3] x) => (float[N, 3] y)
        <float[3] w = {{0.5, 0.5, 0.5}}, float s = {{1}}, int8 z = {{0}}>
        {{ {node} y = Add (x, r) }}""")
    after, _ = rewritten(model)
    assert ops(after) == ops(model)


def test_operators_without_a_kernel_stay():
    """The runtime refuses the values: the node stays, and so does the runtime's message."""
    model = model_from_text("""
        g (float[N, 3] x) => (float[N, 3] y) <float[3] w = {1, 2, 3}, int64[1] at = {7}> {
            picked = Gather (w, at)
            y = Add (x, picked)
        }""")
    after, _ = rewritten(model)
    assert ops(after) == ["Gather", "Add"]


def test_if_with_a_constant_condition_becomes_its_branch():
    model = model_from_text("""
        g (float[N, 3] x) => (float[N, 3] y) <bool yes = {1}, float[3] w = {1, 2, 3}> {
            no = Not (yes)
            a = If (yes) <
                then_branch = t () => (float[N, 3] r) {
                    k = Constant <value_float = 2.0> ()
                    b = Mul (x, k)
                    r = If (no) <
                        then_branch = tt () => (float[N, 3] p) { p = Neg (b) },
                        else_branch = te () => (float[N, 3] q) { q = Add (b, w) }
                    >
                },
                else_branch = e () => (float[N, 3] u) { u = Identity (x) }
            >
            y = Relu (a)
        }""")
    after, changes = rewritten(model)
    assert ops(after) == ["Mul", "Add", "Relu"]
    assert len([line for line in changes if "branch inlined" in line]) == 2
    assert_same_outputs(model, after)


@pytest.mark.parametrize(
    ("branch", "expected"),
    [
        ("() => (float[N,3] p, float[N,3] q) { p = Neg (x) q = Abs (x) }", ["Neg", "Abs"]),
        ("() => (float[N,3] p, float[N,3] p2) { p = Neg (x) p2 = Identity (p) }", None),
        ("() => (float[N,3] p, float[N,3] q) { p = Identity (x) q = Identity (a) }", None),
        (
            "() => (float[N,3] p, float[1,3] q)"
            " { p = Neg (x) q = Constant <value = float[1,3] {1,2,3}> () }",
            None,
        ),
    ],
    ids=["two nodes", "one tensor twice", "tensors from outside", "a constant"],
)
def test_whatever_a_branch_returns(branch, expected):
    model = model_from_text(f"""
        g (float[N, 3] x) => (float[N, 3] y, float[N, 3] z) <bool yes = {{1}}> {{
            a = Relu (x)
            y, z = If (yes) <
                then_branch = t {branch},
                else_branch = e () => (float[N, 3] u, float[N, 3] v) {{ u = Abs (a) v = Neg (a) }}
            >
        }}""")
    after, _ = rewritten(model)
    assert "If" not in ops(after)
    assert [output.name for output in after.graph.output] == ["y", "z"]
    if expected is not None:
        assert ops(after) == expected
    assert_same_outputs(model, after, {"x": X[:1]})


def test_names_of_two_branches_do_not_collide():
    branch = """() => (float[N, 3] r) {
        k = Constant <value_float = 2.0> () hidden = Mul (x, k) r = Abs (hidden) }"""
    model = model_from_text(f"""
        g (float[N, 3] x) => (float[N, 3] y) <bool yes = {{1}}> {{
            a = If (yes) < then_branch = t {branch}, else_branch = e {branch} >
            b = If (yes) < then_branch = t {branch}, else_branch = e {branch} >
            y = Sub (a, b)
        }}""")
    for node in model.graph.node[:2]:
        for attribute in node.attribute:
            attribute.g.node[1].name = "same"
    after, _ = rewritten(model)
    assert sorted(ops(after)) == ["Abs", "Abs", "Mul", "Mul", "Sub"]
    names = [node.name for node in after.graph.node]
    assert len(set(names)) == len(names)
    assert_same_outputs(model, after)


def test_constants_inside_bodies_are_folded():
    model = model_from_text("""
        g (float[N, 3] x, bool c) => (float[N, 3] y) <float[3] w = {1, 2, 3}> {
            y = If (c) <
                then_branch = t () => (float[N, 3] p) {
                    k = Constant <value_float = 2.0> ()
                    s = Mul (w, k)
                    p = Mul (x, s)
                },
                else_branch = e () => (float[1, 3] q) {
                    one = Constant <value_ints = [1, 3]> ()
                    q = ConstantOfShape <value = float[1] {5}> (one)
                }
            >
        }""")
    after, _ = rewritten(model)
    bodies = {attribute.name: attribute.g for attribute in after.graph.node[0].attribute}
    assert [node.op_type for node in bodies["then_branch"].node] == ["Mul"]
    assert [node.op_type for node in bodies["else_branch"].node] == ["Identity"]
    for condition in (True, False):
        assert_same_outputs(model, after, {"x": X, "c": np.array(condition)})


def test_bodies_of_loops_are_folded():
    model = model_from_text("""
        g (float[2, 3] x, int64 trips) => (float[2, 3] y) <bool yes = {1}> {
            y = Loop (trips, yes, x) <body = b (int64 i, bool c, float[2, 3] v)
                => (bool again, float[2, 3] w) {
                two = Constant <value_float = 2.0> ()
                four = Mul (two, two)
                w = Mul (v, four)
                again = Identity (c)
            }>
        }""")
    after, _ = rewritten(model)
    body = after.graph.node[0].attribute[0].g
    assert sorted(node.op_type for node in body.node) == ["Identity", "Mul"]
    assert_same_outputs(model, after, {"x": X, "trips": np.array(3, np.int64)})


def test_an_input_that_is_left_out_is_no_obstacle():
    model = model_from_text("""
        g (float[N, 3] x) => (float[N, 3] y) <float[3] w = {-1, 0, 1}, float high = {0.5}> {
            bounded = Clip (w, , high)
            y = Mul (x, bounded)
        }""")
    after, _ = rewritten(model)
    assert ops(after) == ["Mul"]
    assert_same_outputs(model, after)


def test_everything_around_the_nodes_survives():
    model = model_from_text("""
        g (float[N, 3] x) => (float[N, 3] y) <bool yes = {1}> {
            a = If (yes) <
                then_branch = t () => (float[N, 3] r) { s = Relu (x) r = Identity (s) },
                else_branch = e () => (float[N, 3] u) { u = Identity (x) }
            >
            y = Neg (a)
        }""")
    model.doc_string, model.graph.doc_string = "whole", "graph"
    model.metadata_props.add(key="k", value="v")
    model.graph.metadata_props.add(key="gk", value="gv")
    inner = model.graph.node[0].attribute[0].g.node[0]
    inner.name, inner.doc_string = "inner", "hinge"
    inner.metadata_props.add(key="nk", value="nv")
    after, _ = rewritten(model)
    relu = after.graph.node[0]
    assert (relu.op_type, relu.name, relu.doc_string) == ("Relu", "inner", "hinge")
    assert relu.metadata_props[0].value == "nv"
    assert (after.doc_string, after.graph.doc_string) == ("whole", "graph")
    assert after.metadata_props[0].value == "v"
    assert after.graph.metadata_props[0].value == "gv"
    assert list(after.graph.input) == list(model.graph.input)
    assert list(after.graph.output) == list(model.graph.output)


def test_all_results_together_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "_LARGEST_TOTAL", 400)
    model = model_from_text("""
        g (float[N, 8] x) => (float[N, 8] y) <float[8] w> {
            a = Exp (w) b = Add (x, a)
            c = Abs (w) d = Add (b, c)
            e = Ceil (w) f = Add (d, e)
            shape = Constant <value_ints = [10, 8]> ()
            h = Expand (w, shape)
            i = ReduceMax <keepdims = 0> (h)
            y = Add (f, i)
        }""")
    after, _ = rewritten(model)
    assert ops(after).count("Add") == 4
    assert "Expand" in ops(after)
    assert "Exp" not in ops(after)
    assert_same_outputs(model, after, {"x": np.ones((1, 8), np.float32)})


def test_a_branch_that_returns_one_tensor_twice():
    model = model_from_text("""
        g (float[N, 3] x) => (float[N, 3] y, float[N, 3] z) <bool yes = {1}> {
            y, z = If (yes) <
                then_branch = t () => (float[N, 3] p, float[N, 3] q) { p = Neg (x) q = Abs (x) },
                else_branch = e () => (float[N, 3] u, float[N, 3] v) { u = Abs (x) v = Neg (x) }
            >
        }""")
    branch = next(a.g for a in model.graph.node[0].attribute if a.name == "then_branch")
    branch.output[1].name = "p"
    after, _ = rewritten(model)
    assert ops(after) == ["Neg", "Identity"]
    for result in run_model(after, {"x": X}):
        np.testing.assert_array_equal(result, -X)
