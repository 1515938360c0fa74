"""canonicalise: one case per rule, and what must stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import model_from_text, run_model
from snn_compile.passes.canonicalise import canonicalise
from snn_compile.passes.graph import export_model, import_model


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
