"""The graph that passes rewrite: onnx-graphsurgeon's, with what it loses carried across.

This is the only file that imports onnx-graphsurgeon. Its import and export drop model, graph and
node metadata, doc strings, the model's domain and version, quantization annotations, node
attributes of rare types and the details of value infos. :func:`import_model` keeps them beside the
graph and its nodes, :func:`export_model` puts them back.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto
from onnx_graphsurgeon.logger import G_LOGGER

# The package ships no types; these aliases are what the passes speak of.
Graph: TypeAlias = Any
Node: TypeAlias = Any
Tensor: TypeAlias = Any

#: Prefix of every metadata key this project writes; keys of others are never touched.
METADATA_PREFIX = "snn_compile."

# Attribute types that onnx-graphsurgeon can hold; it drops the others with a log line.
_KNOWN_ATTRIBUTES = {
    AttributeProto.FLOAT,
    AttributeProto.INT,
    AttributeProto.STRING,
    AttributeProto.TENSOR,
    AttributeProto.GRAPH,
    AttributeProto.FLOATS,
    AttributeProto.INTS,
    AttributeProto.STRINGS,
}

# It also logs to the terminal; whatever matters is raised as an exception.
G_LOGGER.severity = G_LOGGER.CRITICAL


@dataclass
class PassResult:
    """What a pass returns.

    Attributes:
        graph: the rewritten graph, valid as a model of its own.
        changes: one line per rewrite or refusal, for the compile report.
    """

    graph: Graph
    changes: list[str] = field(default_factory=list)


@dataclass
class _NodeExtras:
    doc_string: str = ""
    overload: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    attributes: list[AttributeProto] = field(default_factory=list)


@dataclass
class _GraphExtras:
    metadata: list[tuple[str, str]]
    annotations: list[onnx.TensorAnnotation]
    value_infos: dict[str, onnx.ValueInfoProto]
    initializer_metadata: dict[str, list[tuple[str, str]]]


def _extras(node: Node) -> _NodeExtras:
    extras: _NodeExtras = node.__dict__.setdefault("extras", _NodeExtras())
    return extras


def metadata(node: Node) -> dict[str, str]:
    """The node's ``metadata_props`` as a dict that may be written to."""
    return _extras(node).metadata


def inherit(node: Node, source: Node) -> None:
    """Give ``node`` the metadata and doc string of the node that it stands for."""
    metadata(node).update(metadata(source))
    _extras(node).doc_string = _extras(source).doc_string


def constant(name: str, values: np.ndarray) -> Tensor:
    """A constant tensor (an initializer of the exported model)."""
    return gs.Constant(name, values)


def variable(name: str, like: Tensor | None = None) -> Tensor:
    """A tensor computed at run time; type and shape are taken from ``like`` when given."""
    if like is None:
        return gs.Variable(name)
    return gs.Variable(name, dtype=like.dtype, shape=like.shape)


def add_node(
    graph: Graph,
    op: str,
    name: str,
    inputs: list[Tensor],
    output: Tensor,
    attributes: dict[str, Any] | None = None,
    domain: str | None = None,
) -> Node:
    """Append a node with one output. Call :func:`tidy` when the pass is done."""
    node = gs.Node(op, name, attributes or {}, inputs, [output], domain)
    graph.nodes.append(node)
    return node


def tidy(graph: Graph) -> None:
    """Drop nodes and tensors that no output needs, and sort the rest topologically."""
    graph.cleanup(remove_unused_graph_inputs=False).toposort()


def fold_constants(graph: Graph) -> None:
    """Evaluate everything that depends on constants and static shapes alone, in place.

    onnx-graphsurgeon's own shape folding is off: it also removes casts to float around shape
    arithmetic and so turns a multiplication by 0.5 into one by 0.
    """
    for node in [*graph.nodes, *(n for g in graph.subgraphs(recursive=True) for n in g.nodes)]:
        if node.op == "Constant" and is_standard(node):
            _give_constant_its_type(node)
    for node in graph.nodes:
        if node.op == "Shape" and is_standard(node):
            _fold_shape(node)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy overflow in constants the model itself holds
        graph.fold_constants(fold_shapes=False, error_ok=True)


def _fold_shape(node: Node) -> None:
    shape = node.inputs[0].shape
    if shape is None or not all(isinstance(dim, int) for dim in shape):
        return
    part = shape[node.attrs.get("start", 0) : node.attrs.get("end", len(shape))]
    node.outputs[0].to_constant(np.array(part, np.int64))
    node.outputs.clear()


def _give_constant_its_type(node: Node) -> None:
    """onnx-graphsurgeon would fold ``value_float`` to float64; write it as a typed tensor."""
    types = {
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
    }
    for key, dtype in types.items():
        if key in node.attrs:
            node.attrs["value"] = gs.Constant("", np.array(node.attrs.pop(key), dtype))


def is_standard(node: Node) -> bool:
    """Whether the operator is one of ONNX itself, not another domain's of the same name."""
    return node.domain in (None, "", "ai.onnx")


def is_constant(tensor: Tensor) -> bool:
    """Whether the tensor's values are known at compile time."""
    return isinstance(tensor, gs.Constant)


def unique_name(graph: Graph, wanted: str) -> str:
    """``wanted``, or ``wanted_1``, ... if a tensor or node already has that name."""
    taken: set[str] | None = graph.__dict__.get("taken_names")
    if taken is None:
        taken = set(graph.tensors()) | {node.name for node in graph.nodes}
        for subgraph in graph.subgraphs(recursive=True):
            taken |= set(subgraph.tensors()) | {node.name for node in subgraph.nodes}
        graph.taken_names = taken
    name, count = wanted, 0
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    taken.add(name)
    return name


def replace_everywhere(graph: Graph, old: Tensor, new: Tensor) -> None:
    """Let every consumer of ``old``, subgraphs included, read ``new`` instead."""
    for consumer in list(old.outputs):
        for i, tensor in enumerate(consumer.inputs):
            if tensor is old:
                consumer.inputs[i] = new
    for i, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[i] = new


def import_model(model: ModelProto) -> Graph:
    """Turn a checked model into a graph. The model's weights are shared, not copied."""
    graph = gs.import_onnx(model)
    envelope = ModelProto()
    for descriptor, value in model.ListFields():
        if descriptor.name == "graph":
            continue
        if isinstance(value, (int, str, bytes)):
            setattr(envelope, descriptor.name, value)
        elif descriptor.is_repeated:
            getattr(envelope, descriptor.name).extend(value)
        else:
            getattr(envelope, descriptor.name).CopyFrom(value)
    graph.envelope = envelope
    graph.import_domains = list(envelope.opset_import)
    graph.functions = []  # kept whole in the envelope
    _attach_extras(graph, model.graph)
    return graph


def export_model(graph: Graph) -> ModelProto:
    """Turn the graph back into a model, with everything :func:`import_model` kept."""
    exported = gs.export_onnx(graph, do_type_check=False)
    _restore_extras(graph, exported.graph)
    model = ModelProto()
    model.CopyFrom(graph.envelope)
    del model.opset_import[:]
    model.opset_import.extend(exported.opset_import)
    model.graph.CopyFrom(exported.graph)
    return model


def _pairs(graph: Graph, proto: GraphProto) -> Iterator[tuple[Node, NodeProto]]:
    return zip(graph.nodes, proto.node, strict=True)


def _subgraphs(node: Node, proto: NodeProto) -> Iterator[tuple[Graph, GraphProto]]:
    for attribute in proto.attribute:
        if attribute.type == AttributeProto.GRAPH and not attribute.ref_attr_name:
            yield node.attrs[attribute.name], attribute.g


def _attach_extras(graph: Graph, proto: GraphProto) -> None:
    infos = [*proto.input, *proto.output, *proto.value_info]
    graph.extras = _GraphExtras(
        [(p.key, p.value) for p in proto.metadata_props],
        list(proto.quantization_annotation),
        {info.name: info for info in infos},
        {
            tensor.name: [(p.key, p.value) for p in tensor.metadata_props]
            for tensor in proto.initializer
            if tensor.metadata_props
        },
    )
    for node, node_proto in _pairs(graph, proto):
        node.extras = _NodeExtras(
            node_proto.doc_string,
            node_proto.overload,
            {p.key: p.value for p in node_proto.metadata_props},
            [a for a in node_proto.attribute if a.type not in _KNOWN_ATTRIBUTES],
        )
        for subgraph, subproto in _subgraphs(node, node_proto):
            _attach_extras(subgraph, subproto)


def _restore_extras(graph: Graph, proto: GraphProto) -> None:
    for node, node_proto in _pairs(graph, proto):
        extras = _extras(node)
        if extras.doc_string:
            node_proto.doc_string = extras.doc_string
        if extras.overload:
            node_proto.overload = extras.overload
        for key, value in extras.metadata.items():
            node_proto.metadata_props.add(key=key, value=value)
        node_proto.attribute.extend(extras.attributes)
        for subgraph, subproto in _subgraphs(node, node_proto):
            _restore_extras(subgraph, subproto)

    graph_extras: _GraphExtras | None = graph.__dict__.get("extras")
    if graph_extras is None:
        return
    if not proto.doc_string:
        proto.ClearField("doc_string")  # empty is how the graph library writes 'none'
    for key, value in graph_extras.metadata:
        proto.metadata_props.add(key=key, value=value)
    for infos in (proto.input, proto.output, proto.value_info):
        for info in infos:
            if info.name in graph_extras.value_infos:
                info.CopyFrom(graph_extras.value_infos[info.name])
    for tensor in proto.initializer:
        if not tensor.metadata_props:
            for key, value in graph_extras.initializer_metadata.get(tensor.name, []):
                tensor.metadata_props.add(key=key, value=value)
    known = {tensor.name for tensor in proto.initializer} | set(graph.tensors())
    proto.quantization_annotation.extend(
        annotation for annotation in graph_extras.annotations if annotation.tensor_name in known
    )
