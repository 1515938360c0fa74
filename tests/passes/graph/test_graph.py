"""What passes use of a graph: names, replacing, tidying."""

from __future__ import annotations

import pytest
from helpers import export_model, model_from_text
from snn_compile.passes.graph.graph import (
    bodies,
    dtype_of,
    is_constant,
    may_be_float,
    optional_input,
    rank_of,
    replace_everywhere,
    scopes,
    shape_of,
    tidy,
    type_name,
    unique_name,
    values_of,
)
from snn_compile.passes.graph.surgeon import add_node, import_model, variable

TEXT = """
    g (float[N,3] x, bool c) => (float[N,3] y) <float[3,3] w> {
        a = MatMul (x, w)
        b = If (c) <
            then_branch = t () => (float[N,3] p) { p = Relu (a) },
            else_branch = e () => (float[N,3] q) { q = Tanh (a) }
        >
        y = Neg (b)
    }"""


@pytest.fixture
def graph():
    return import_model(model_from_text(TEXT))


def ops(graph):
    return [node.op for scope in scopes(graph) for node in scope.graph.nodes]


def test_unique_names_avoid_subgraphs_too(graph):
    assert unique_name(graph, "p") == "p_1"
    assert unique_name(graph, "p") == "p_2"
    assert unique_name(graph, "fresh") == "fresh"
    assert unique_name(bodies(graph.nodes[1])[0], "fresh") == "fresh_1"


def test_what_is_known_of_a_tensor(graph):
    x, w = graph.nodes[0].inputs
    assert is_constant(w) and not is_constant(x)
    assert values_of(w).shape == (3, 3)
    assert (list(shape_of(x)), rank_of(x), dtype_of(x)) == (["N", 3], 2, "float32")
    assert may_be_float(x) and not may_be_float(graph.inputs[1])
    unknown = variable("unknown")
    assert (rank_of(unknown), may_be_float(unknown), type_name(unknown)) == (None, True, "unknown")
    for known, tensor in ((values_of, x), (shape_of, unknown), (dtype_of, unknown)):
        with pytest.raises(AssertionError, match=f"'{tensor.name}'"):
            known(tensor)


def test_a_type_that_numpy_lacks_has_a_name():
    graph = import_model(model_from_text("g (bfloat16[N] x) => (bfloat16[N] y) { y = Neg (x) }"))
    x = graph.inputs[0]
    assert type_name(x) == "bfloat16"
    assert may_be_float(x)


def test_an_input_that_is_left_out_is_none():
    text = "g (float[N] x, float h) => (float[N] y) { y = Clip (x, , h) }"
    clip = import_model(model_from_text(text)).nodes[0]
    assert optional_input(clip, 1) is None and optional_input(clip, 3) is None
    assert optional_input(clip, 2).name == "h"


def test_replaced_where_it_is_read_and_returned_in_bodies_too(graph):
    matmul, branch, _ = graph.nodes
    a = matmul.outputs[0]
    then, otherwise = bodies(branch)
    then.outputs[0] = a
    new = variable("new", a)
    add_node(graph, "Abs", "abs", [graph.inputs[0]], new)
    replace_everywhere(graph, a, new)
    assert then.outputs[0] is new
    assert otherwise.nodes[0].inputs[0] is new
    assert matmul.outputs[0] is a and not a.outputs
    tidy(graph)
    assert ops(graph) == ["Abs", "If", "Neg", "Tanh"]


def test_tidy_drops_what_nothing_needs_and_sorts(graph):
    first = graph.nodes[0]
    late = variable("late", first.outputs[0])
    add_node(graph, "Exp", "exp", [graph.inputs[0]], late)
    first.inputs[0] = late
    add_node(graph, "Abs", "unused", [late], variable("unread"))
    then = bodies(graph.nodes[1])[0]
    add_node(then, "Cos", "unused inside", [late], variable("unread inside"))
    tidy(graph)
    assert ops(graph) == ["Exp", "MatMul", "If", "Neg", "Relu", "Tanh"]
    assert [reader.op for reader in late.outputs] == ["MatMul"]
    export_model(graph)


def test_tidy_keeps_what_only_a_body_returns(graph):
    branch = graph.nodes[1]
    for body in bodies(branch):
        body.outputs[0] = graph.nodes[0].outputs[0]
    tidy(graph)
    assert ops(graph) == ["MatMul", "If", "Neg"]


def test_tidy_raises_on_an_output_that_nothing_computes(graph):
    graph.nodes[2].outputs.clear()
    with pytest.raises(AssertionError, match="'y', which graph 'g' returns"):
        tidy(graph)


def test_tidy_raises_on_an_output_of_a_body_that_nothing_computes(graph):
    bodies(graph.nodes[1])[0].nodes[0].outputs.clear()
    with pytest.raises(AssertionError, match="'p', which graph 't' returns"):
        tidy(graph)


def test_tidy_raises_on_an_input_that_nothing_computes(graph):
    graph.nodes[2].inputs[0] = variable("lost")
    graph.nodes[2].name = "last"
    with pytest.raises(AssertionError, match="'lost', which Neg 'last' reads"):
        tidy(graph)


def test_tidy_raises_on_a_tensor_of_a_body_that_is_read_outside(graph):
    graph.nodes[2].inputs[0] = bodies(graph.nodes[1])[0].outputs[0]
    bodies(graph.nodes[1])[0].outputs[0] = graph.nodes[0].outputs[0]
    with pytest.raises(AssertionError, match="'p', which Neg '' reads"):
        tidy(graph)


def test_tidy_raises_on_a_cycle(graph):
    graph.nodes[0].inputs[0] = graph.nodes[2].outputs[0]
    with pytest.raises(AssertionError, match="not computed before"):
        tidy(graph)
