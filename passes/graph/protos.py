"""Walks over nested protos: graphs, the bodies in their nodes' attributes, functions.

Nothing else looks for bodies in attributes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto, helper


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """The attributes that the node has, by name."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def bodies_of(attribute: AttributeProto) -> list[GraphProto]:
    """The graphs that an attribute holds, not those below them."""
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def bodies_in(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs in a node's attributes, not those below them."""
    for attribute in node.attribute:
        yield from bodies_of(attribute)


def graphs_below(proto: GraphProto) -> Iterator[GraphProto]:
    """A graph and every control-flow body below it."""
    yield proto
    for node in proto.node:
        for body in bodies_in(node):
            yield from graphs_below(body)


def nodes_with_graphs(proto: GraphProto) -> Iterator[tuple[GraphProto, NodeProto]]:
    """Every node and the graph or body that it is in; nodes may be added meanwhile."""
    for node in list(proto.node):
        yield proto, node
        for body in bodies_in(node):
            yield from nodes_with_graphs(body)


def nodes_below(proto: GraphProto | FunctionProto) -> Iterator[NodeProto]:
    """Every node of a graph or function, those in control-flow bodies included."""
    for node in proto.node:
        yield node
        for body in bodies_in(node):
            yield from nodes_below(body)


def initializers_below(proto: GraphProto) -> Iterator[TensorProto]:
    """Every initializer of a graph, those of control-flow bodies included."""
    for graph in graphs_below(proto):
        yield from graph.initializer


def reads(node: NodeProto) -> Iterator[str]:
    """Names of the tensors a node reads, those its bodies take from outside included."""
    yield from (name for name in node.input if name)
    for body in bodies_in(node):
        own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
        own |= {sparse.values.name for sparse in body.sparse_initializer}
        own |= {name for inner in body.node for name in inner.output}
        wanted = [name for inner in body.node for name in reads(inner)]
        wanted += [value.name for value in body.output]
        yield from (name for name in wanted if name not in own)


def names_below(proto: GraphProto | FunctionProto) -> set[str]:
    """Names of all tensors and nodes of a graph or function, those in bodies included."""
    names: set[str] = set()
    for node in proto.node:
        names.update([node.name, *node.input, *node.output])
        for body in bodies_in(node):
            names |= names_below(body)
    if isinstance(proto, FunctionProto):
        return names.union(proto.input, proto.output)
    names.update(value.name for value in (*proto.input, *proto.output, *proto.initializer))
    return names.union(sparse.values.name for sparse in proto.sparse_initializer)


def unused_prefix(proto: GraphProto, wanted: str) -> str:
    """``wanted``, or with underscores, such that no tensor's or node's name is behind its dot."""
    taken = names_below(proto)
    prefix = wanted
    while any(name.startswith(prefix + ".") for name in taken):
        prefix += "_"
    return prefix
