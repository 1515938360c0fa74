"""Make tensors inside a model visible as outputs, those inside bodies of If too.

A tensor in a body becomes an output of that body and of its If; the other branch gives an empty
tensor in its place. So what is observed of a branch that was not taken has no values.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from ...passes.graph.network import Network
from ...passes.graph.protos import bodies_in


def with_outputs(network: Network, names: Sequence[str]) -> Network:
    """A copy with these tensors as its only outputs, in this order.

    Outputs that the model has keep their type; other tensors must be float32.

    Raises:
        KeyError: no tensor of that name can be observed.
    """
    proto = ModelProto()
    proto.CopyFrom(network.proto)
    graph = proto.graph
    own = {output.name: output for output in network.proto.graph.output}
    visible = _visible(graph)
    outputs = []
    for name in names:
        if name in visible:
            found = name
        else:
            found = _lift(graph, name) or ""
            if not found:
                raise KeyError(name)
        outputs.append(own.get(found) or _value(found))
    del graph.output[:]
    graph.output.extend(outputs)
    return Network(proto, network.weights)


def _visible(graph: GraphProto) -> set[str]:
    made = {name for node in graph.node for name in node.output}
    return made | {i.name for i in graph.input} | {t.name for t in graph.initializer}


def _value(name: str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def _lift(graph: GraphProto, name: str) -> str | None:
    """Make a tensor of a body below ``graph`` visible in ``graph``; returns its name there."""
    for node in graph.node:
        if node.op_type != "If":
            continue
        for body in bodies_in(node):
            inner = name if name in _visible(body) else _lift(body, name)
            if inner is not None:
                return _add_output(node, body, inner)
    return None


def _add_output(node: NodeProto, branch: GraphProto, inner: str) -> str:
    outer = f"{inner}.observed"
    for body in bodies_in(node):
        if body is branch and any(own.name == inner for own in body.output):
            # Of two outputs of a body that are one tensor the runtime fills only the first.
            copy = f"{outer}.copy"
            body.node.append(helper.make_node("Identity", [inner], [copy]))
            body.output.append(_value(copy))
        elif body is branch:
            body.output.append(_value(inner))
        else:
            empty = f"{outer}.absent"
            values = helper.make_tensor(empty, TensorProto.FLOAT, [0], [])
            body.node.append(helper.make_node("Constant", [], [empty], value=values))
            body.output.append(_value(empty))
    node.output.append(outer)
    return outer
