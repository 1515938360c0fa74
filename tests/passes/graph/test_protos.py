"""Walks over protos reach bodies in attributes of both kinds, one graph and several."""

from __future__ import annotations

import pytest
from helpers import model_from_text
from onnx import FunctionProto, GraphProto, NodeProto, helper
from snn_compile.passes.graph.protos import (
    bodies_in,
    bodies_of,
    graphs_below,
    initializers_below,
    names_below,
    nodes_below,
    nodes_with_graphs,
    reads,
    unused_prefix,
)

INNER = """
    inner (float[N] given) => (float[N] z) <float[1] w = {2}, float[N] outer> {
        s = Mul (given, w)
        z = Add (s, outer)
    }"""


def body(name, text=INNER):
    graph = model_from_text(text).graph
    graph.name = name
    for tensor in list(graph.initializer):
        if tensor.name == "outer":
            graph.initializer.remove(tensor)
    return graph


@pytest.fixture(params=["g", "graphs"])
def graph(request):
    """A graph of an operator that holds a body, as one graph or as the last of several."""
    several = [GraphProto(name="empty"), body("inner")]
    held = body("inner") if request.param == "g" else several
    node = helper.make_node("Holds", ["x"], ["y"], name="holder", body=held)
    last = helper.make_node("Neg", ["y"], ["out"], name="last")
    return GraphProto(name="main", node=[node, last])


def test_bodies(graph):
    attribute = graph.node[0].attribute[0]
    assert [held.name for held in bodies_of(attribute)][-1] == "inner"
    assert list(bodies_in(graph.node[0])) == bodies_of(attribute)
    assert list(bodies_in(graph.node[1])) == []


def test_graphs_nodes_and_initializers(graph):
    names = [held.name for held in graphs_below(graph)]
    assert (names[0], names[-1]) == ("main", "inner")
    assert [node.op_type for node in nodes_below(graph)] == ["Holds", "Mul", "Add", "Neg"]
    assert [tensor.name for tensor in initializers_below(graph)] == ["w"]


def test_nodes_of_a_function(graph):
    function = FunctionProto(name="f", node=graph.node, input=["never_read"])
    assert [node.op_type for node in nodes_below(function)] == ["Holds", "Mul", "Add", "Neg"]
    assert {"never_read", "holder", "given", "w", "s"} <= names_below(function)


def test_nodes_may_be_added_on_the_way(graph):
    seen = []
    for home, node in nodes_with_graphs(graph):
        seen.append((home.name, node.op_type))
        home.node.append(NodeProto(op_type="Added"))
    assert seen == [("main", "Holds"), ("inner", "Mul"), ("inner", "Add"), ("main", "Neg")]


def test_a_node_reads_what_its_bodies_take_from_outside(graph):
    assert list(reads(graph.node[0])) == ["x", "outer"]


def test_names_of_bodies_are_taken(graph):
    assert names_below(graph) == {
        *("holder", "last", "x", "y", "out", "given", "w", "outer", "s", "z", ""),
    }
    assert unused_prefix(graph, "w") == "w"
    list(graphs_below(graph))[-1].input[0].name = "w.given"
    assert unused_prefix(graph, "w") == "w_"
