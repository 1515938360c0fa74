"""simplify: each operator that does nothing, the nearest ones that do something, and rewrites."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import export_model, model_from_text, run_model
from snn_compile.passes.canonicalise.canonicalise import canonicalise
from snn_compile.passes.graph.surgeon import import_model

S = "float[2,3,4,5]"
X = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)


def rewritten(model):
    result = canonicalise(import_model(model))
    exported = export_model(result.graph)
    onnx.checker.check_model(exported, full_check=True)
    assert [value.name for value in exported.graph.output] == [v.name for v in model.graph.output]
    return exported, result.changes


def ops(model):
    return [node.op_type for node in model.graph.node]


def between(body, weights="", dims="N,3,4,5"):
    """The body makes b from a, between two operators that stay."""
    weights = f"<{weights}>" if weights else ""
    return model_from_text(f"""
        g (float[{dims}] x) => (float[A,B,C,D] y) {weights}
        {{ a = Neg (x) {body} y = Abs (b) }}""")


def assert_same_outputs(before, after, feed=None, rtol=0.0):
    feed = feed or {"x": X}
    for old, new in zip(run_model(before, feed), run_model(after, feed), strict=True):
        np.testing.assert_allclose(new, old, rtol=rtol, atol=rtol)


NOTHING = {
    "Identity": ("b = Identity (a)", ""),
    "Dropout": ("b = Dropout (a)", ""),
    "Cast": ("b = Cast <to = 1> (a)", ""),
    "Reshape by zeros": ("b = Reshape (a, s)", "int64[4] s = {0, 0, 0, 0}"),
    "Reshape with a batch of -1": ("b = Reshape (a, s)", "int64[4] s = {-1, 3, 4, 5}"),
    "Reshape, copied batch": ("b = Reshape (a, s)", "int64[4] s = {0, 3, -1, 5}"),
    "Transpose": ("b = Transpose <perm = [0, 1, 2, 3]> (a)", ""),
    "Expand": ("b = Expand (a, s)", "int64[2] s = {1, 1}"),
    "Tile": ("b = Tile (a, s)", "int64[4] s = {1, 1, 1, 1}"),
    "Pad": ("b = Pad (a, s)", "int64[8] s = {0, 0, 0, 0, 0, 0, 0, 0}"),
    "Slice to the end": (
        "b = Slice (a, s, e)",
        "int64[2] s = {0, 0}, int64[2] e = {9223372036854775807, 9223372036854775807}",
    ),
    "Slice of a static axis": (
        "b = Slice (a, s, e, axes, steps)",
        "int64[1] s = {-5}, int64[1] e = {5}, int64[1] axes = {-1}, int64[1] steps = {1}",
    ),
    "Concat": ("b = Concat <axis = 1> (a)", ""),
    "Sum": ("b = Sum (a)", ""),
    "Max": ("b = Max (a)", ""),
    "Min": ("b = Min (a)", ""),
    "Mean": ("b = Mean (a)", ""),
    "Clip": ("b = Clip (a)", ""),
    "Mul": ("b = Mul (a, s)", "float s = {1}"),
    "Mul from the left": ("b = Mul (s, a)", "float[5] s = {1, 1, 1, 1, 1}"),
    "Div": ("b = Div (a, s)", "float[1, 1] s = {1}"),
    "Add": ("b = Add (a, s)", "float[3, 1, 1] s = {0, 0, 0}"),
    "Sub": ("b = Sub (a, s)", "float s = {0}"),
    "MaxPool": ("b = MaxPool <kernel_shape = [1, 1]> (a)", ""),
    "AveragePool": ("b = AveragePool <kernel_shape = [1, 1], strides = [1, 1]> (a)", ""),
}


@pytest.mark.parametrize("name", NOTHING)
def test_operators_that_do_nothing_are_removed(name):
    body, weights = NOTHING[name]
    model = between(body, weights)
    after, changes = rewritten(model)
    assert ops(after) == ["Neg", "Abs"]
    assert any("removed, it passes its input on" in line for line in changes)
    assert_same_outputs(model, after)


SOMETHING = {
    "Cast": ("c = Cast <to = 10> (a) b = Cast <to = 1> (c)", ""),
    "Reshape": ("b = Reshape (a, s)", "int64[4] s = {0, 4, 3, 5}"),
    "Reshape of a dynamic shape": ("b = Reshape (a, s)", "int64[4] s = {2, 3, 4, 5}"),
    "Transpose": ("b = Transpose <perm = [0, 1, 3, 2]> (a)", ""),
    "Expand": ("b = Expand (a, s)", "int64[5] s = {1, 1, 1, 1, 1}"),
    "Tile": ("b = Tile (a, s)", "int64[4] s = {1, 2, 1, 1}"),
    "Pad": ("b = Pad (a, s)", "int64[8] s = {0, 0, 0, 0, 0, 0, 0, 1}"),
    "Slice": ("b = Slice (a, s, e)", "int64[1] s = {0}, int64[1] e = {1}"),
    "Slice backwards": (
        "b = Slice (a, s, e, axes, steps)",
        "int64[1] s = {-1}, int64[1] e = {-100}, int64[1] axes = {3}, int64[1] steps = {-1}",
    ),
    "Concat": ("b = Concat <axis = 1> (a, a)", ""),
    "Clip": ("b = Clip (a, s)", "float s = {0}"),
    "Mul": ("b = Mul (a, s)", "float[5] s = {1, 1, 1, 1, 2}"),
    "Mul that broadcasts": ("b = Mul (a, s)", "float[1, 1, 1, 1, 1] s = {1}"),
    "Div of 1": ("b = Div (s, a)", "float s = {1}"),
    "Sub from 0": ("b = Sub (s, a)", "float s = {0}"),
    "MaxPool with a stride": ("b = MaxPool <kernel_shape = [1, 1], strides = [2, 2]> (a)", ""),
    "AveragePool that pads": (
        "b = AveragePool <kernel_shape = [1, 1], pads = [0, 0, 0, 0], strides = [1, 2]> (a)",
        "",
    ),
}


@pytest.mark.parametrize("name", SOMETHING)
def test_operators_that_do_something_stay(name):
    body, weights = SOMETHING[name]
    outputs = (
        "float[A,B,C,D,E] y" if name in ("Expand", "Mul that broadcasts") else "float[A,B,C,D] y"
    )
    weights = f"<{weights}>" if weights else ""
    model = model_from_text(
        f"g (float[N,3,4,5] x) => ({outputs}) {weights} {{ a = Neg (x) {body} y = Abs (b) }}"
    )
    after, changes = rewritten(model)
    assert ops(after) == ops(model)
    assert changes == []
    assert_same_outputs(model, after)


def test_broadcast_over_a_dimension_of_one_is_kept():
    model = model_from_text("""
        g (float[N,1] x) => (float[N,4] y) <float[4] s = {0,0,0,0}>
        { a = Neg (x) b = Add (a, s) y = Abs (b) }""")
    after, _ = rewritten(model)
    assert ops(after) == ["Neg", "Add", "Abs"]


@pytest.mark.parametrize(
    ("dims", "body", "expected"),
    [
        ("N,3", "b = Flatten (a)", ["Neg", "Abs"]),
        ("2,3", "b = Squeeze (a)", ["Neg", "Abs"]),
        ("N,3", "b = Squeeze (a)", ["Neg", "Squeeze", "Abs"]),
        ("1,3", "b = Squeeze (a)", ["Neg", "Squeeze", "Abs"]),
        ("N,3", "b = Flatten <axis = 0> (a)", ["Neg", "Flatten", "Abs"]),
        ("N,3,1", "b = Flatten (a)", ["Neg", "Flatten", "Abs"]),
    ],
)
def test_rank_two_stays_rank_two(dims, body, expected):
    rank = "[A]" if dims == "1,3" else "[A,B]"
    model = model_from_text(
        f"g (float[{dims}] x) => (float{rank} y) {{ a = Neg (x) {body} y = Abs (b) }}"
    )
    after, _ = rewritten(model)
    assert ops(after) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Reshape (x, s)", ["Reshape"]),
        ("a = Neg (x) y = Reshape (a, s)", ["Neg"]),
        ("a = Reshape (x, s) y = Neg (a)", ["Neg"]),
    ],
    ids=["input to output", "before an output", "behind an input"],
)
def test_names_of_inputs_and_outputs_stay(body, expected):
    model = model_from_text(
        f"g (float[2,3] x) => (float[2,3] y) <int64[2] s = {{2, 3}}> {{ {body} }}"
    )
    after, _ = rewritten(model)
    assert ops(after) == expected
    assert_same_outputs(model, after, {"x": X[:, :, 0, 0]})


def test_constant_to_output_stays():
    model = model_from_text("""
        g (float[2] x) => (float[2] y, float[2] z) <float[2] w = {1, 2}>
        { y = Identity (w) z = Neg (x) }""")
    after, _ = rewritten(model)
    assert_same_outputs(model, after, {"x": np.ones(2, np.float32)})


@pytest.mark.parametrize("count", [2, 3, 5])
def test_sum_becomes_adds_in_its_order(count):
    inputs = ", ".join(f"float[2,3] x{i}" for i in range(count))
    names = ", ".join(f"x{i}" for i in range(count))
    model = model_from_text(f"g ({inputs}) => (float[2,3] y) {{ y = Sum ({names}) }}")
    after, changes = rewritten(model)
    assert ops(after) == ["Add"] * (count - 1)
    assert any("Add" in line for line in changes)
    rng = np.random.default_rng(1)
    feed = {f"x{i}": (rng.random((2, 3)) * 10.0**i).astype(np.float32) for i in range(count)}
    assert_same_outputs(model, after, feed)


TO_THE_BACK = "c = Transpose <perm = [0,2,3,1]> (a) "
TO_THE_FRONT = " b = Transpose <perm = [0,3,1,2]> (d)"


@pytest.mark.parametrize(
    "chain",
    [
        "s = Sigmoid (c) d = Mul (c, s)",
        "d = Sin (c)",
        "e = Floor (c) f = Sign (e) d = Softsign (f)",
        "d = Where (yes, c, k)",
        "d = Celu (c)",
        "d = CastLike (c, k)",
    ],
)
def test_transposes_around_element_wise_operators_go(chain):
    """All that the table of operators calls element-wise, as long as nothing else is read."""
    model = between(TO_THE_BACK + chain + TO_THE_FRONT, "float k = {3}, bool yes = {1}")
    after, _ = rewritten(model)
    assert ops(after).count("Transpose") == (2 if "Mul" in chain else 0)
    assert_same_outputs(model, after)


def test_the_type_of_a_tensor_is_no_operand():
    """CastLike of a constant has the constant's shape, whatever tells the type."""
    nodes = "d = CastLike (k, c) e = Transpose <perm = [0,3,1,2]> (d) b = Add (a, e)"
    model = between(TO_THE_BACK + nodes, "double[1,1,1,1] k = {3}")
    after, _ = rewritten(model)
    assert_same_outputs(model, after)


def test_transposes_join_and_cancel():
    model = between(
        "c = Transpose <perm = [0,2,3,1]> (a) d = Transpose <perm = [0,3,1,2]> (c) b = Neg (d)"
    )
    after, _ = rewritten(model)
    assert ops(after) == ["Neg", "Neg", "Abs"]
    assert_same_outputs(model, after)
    model = between(
        "c = Transpose <perm = [0,2,3,1]> (a) e = Neg (c) d = Transpose <perm = [1,2,0,3]> (c)"
        " f = Transpose <perm = [2,0,1,3]> (d) b = Add (e, f)"
    )
    after, _ = rewritten(model)
    assert ops(after).count("Transpose") <= 2
    assert_same_outputs(model, after)


def test_reshape_of_reshape_is_one():
    model = between(
        "c = Reshape (a, s) b = Reshape (c, t)",
        "int64[2] s = {-1, 60}, int64[4] t = {-1, 5, 4, 3}",
    )
    after, _ = rewritten(model)
    assert ops(after) == ["Neg", "Reshape", "Abs"]
    assert_same_outputs(model, after)


def test_reshape_that_copies_from_a_reshape_stays():
    model = between(
        "c = Reshape (a, s) b = Reshape (c, t)",
        "int64[4] s = {-1, 4, 3, 5}, int64[4] t = {0, 0, 5, 3}",
    )
    after, _ = rewritten(model)
    assert ops(after) == ["Neg", "Reshape", "Reshape", "Abs"]
    assert_same_outputs(model, after)


MATRIX_PRODUCTS = [
    ("ij,jk->ik", (2, 3), (3, 4)),
    ("ij,kj->ik", (2, 3), (4, 3)),
    ("ij,jk->ki", (2, 3), (3, 4)),
    ("bij,bjk->bik", (5, 2, 3), (5, 3, 4)),
    ("bij,jk->bik", (5, 2, 3), (3, 4)),
    ("bhqd,bhkd->bhqk", (2, 3, 4, 5), (2, 3, 6, 5)),
    ("bqhd,bkhd->bhqk", (2, 4, 3, 5), (2, 6, 3, 5)),
    ("bhqk,bkhd->bqhd", (2, 3, 4, 6), (2, 6, 3, 5)),
    ("ij,j->i", (2, 3), (3,)),
    (" b i j , b j k -> b k i ", (5, 2, 3), (5, 3, 4)),
]


def einsum(equation, *shapes):
    declared = ", ".join(
        f"float[{','.join(map(str, shape))}] x{i}" for i, shape in enumerate(shapes)
    )
    rank = len(equation.replace(" ", "").split("->")[1])
    dims = ",".join(f"D{i}" for i in range(rank))
    names = ", ".join(f"x{i}" for i in range(len(shapes)))
    model = model_from_text(f"""
        g ({declared}) => (float[{dims}] y) {{ y = Einsum <equation = "{equation}"> ({names}) }}""")
    rng = np.random.default_rng(2)
    feed = {f"x{i}": rng.standard_normal(s).astype(np.float32) for i, s in enumerate(shapes)}
    return model, feed


@pytest.mark.parametrize(("equation", "left", "right"), MATRIX_PRODUCTS)
def test_einsum_that_is_a_matrix_product(equation, left, right):
    model, feed = einsum(equation, left, right)
    after, changes = rewritten(model)
    assert set(ops(after)) <= {"MatMul", "Transpose"}
    assert any(line.startswith("Einsum") for line in changes)
    assert_same_outputs(model, after, feed, rtol=1e-5)


OTHERS = [
    ("ij,ij->ij", ((2, 3), (2, 3))),
    ("ij,ij->i", ((2, 3), (2, 3))),
    ("ii,ij->ij", ((3, 3), (3, 4))),
    ("ijk,jkl->il", ((2, 3, 4), (3, 4, 5))),
    ("ij,jkl->ikl", ((2, 3), (3, 4, 5))),
    ("ij,kl->ijkl", ((2, 3), (4, 5))),
    ("ij,jk->i", ((2, 3), (3, 4))),
    ("ij->ji", ((2, 3),)),
    ("ij,jk,kl->il", ((2, 3), (3, 4), (4, 5))),
]


@pytest.mark.parametrize(("equation", "shapes"), OTHERS)
def test_other_einsums_stay(equation, shapes):
    model, feed = einsum(equation, *shapes)
    after, _ = rewritten(model)
    assert ops(after) == ["Einsum"]
    assert_same_outputs(model, after, feed)


def test_einsum_with_an_ellipsis_stays():
    model = model_from_text("""
        g (float[2,3] a, float[3,4] b) => (float[2,4] y)
        { y = Einsum <equation = "...j,jk->...k"> (a, b) }""")
    after, _ = rewritten(model)
    assert ops(after) == ["Einsum"]


def test_bodies_are_simplified_too():
    model = model_from_text(f"""
        g ({S} x, bool c) => ({S} y) {{
            y = If (c) <
                then_branch = t () => ({S} p) {{ a = Identity (x) b = Neg (a) p = Sum (b, b) }},
                else_branch = e () => ({S} q) {{ q = Identity (x) }}
            >
        }}""")
    after, _ = rewritten(model)
    then, other = (attribute.g for attribute in after.graph.node[0].attribute)
    branches = {then.name: then, other.name: other}
    assert [node.op_type for node in branches["t"].node] == ["Neg", "Add"]
    assert [node.op_type for node in branches["e"].node] == ["Identity"]
    for condition in (True, False):
        assert_same_outputs(model, after, {"x": X, "c": np.array(condition)})


def test_operators_of_other_domains_are_left_alone():
    model = between("b = Identity (a)")
    model.opset_import.append(onnx.helper.make_opsetid("other", 1))
    model.graph.node[1].domain = "other"
    after, _ = rewritten(model)
    assert ops(after) == ["Neg", "Identity", "Abs"]
