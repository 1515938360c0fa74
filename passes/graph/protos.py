"""Walks over nested protos: graphs, the bodies in their nodes' attributes, functions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
from onnx import GraphProto, NodeProto, helper


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """The attributes that the node has, by name."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def initializers_below(proto: GraphProto) -> Iterator[onnx.TensorProto]:
    """Every initializer of a graph, those of control-flow bodies included."""
    yield from proto.initializer
    for node in proto.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from initializers_below(attribute.g)


def nodes_below(proto: GraphProto) -> Iterator[NodeProto]:
    """Every node of a graph, those in control-flow bodies included."""
    for node in proto.node:
        yield node
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from nodes_below(body)


def graphs_below(proto: GraphProto) -> Iterator[GraphProto]:
    """A graph and every control-flow body below it."""
    yield proto
    for node in proto.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs_below(attribute.g)


def unused_prefix(proto: GraphProto, wanted: str) -> str:
    """``wanted``, or with underscores, such that no tensor's or node's name is behind its dot."""
    taken = {value.name for value in proto.input} | {t.name for t in initializers_below(proto)}
    for node in nodes_below(proto):
        taken |= {node.name, *node.input, *node.output}
    prefix = wanted
    while any(name.startswith(prefix + ".") for name in taken):
        prefix += "_"
    return prefix


def nodes_of(function: onnx.FunctionProto) -> Iterator[NodeProto]:
    """Every node of a function, those in control-flow bodies included."""
    yield from nodes_below(GraphProto(node=function.node))
