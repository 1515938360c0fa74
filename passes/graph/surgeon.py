"""The graph is onnx-graphsurgeon's, with what that loses carried across.

This is the only file that imports onnx-graphsurgeon. Its import and export drop model, graph and
node metadata, doc strings, the model's domain and version, quantization annotations, node
attributes of rare types and the details of value infos. :func:`import_model` keeps them beside the
graph and its nodes, :func:`export_network` puts them back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto
from onnx_graphsurgeon.logger import G_LOGGER

from .graph import (
    ANN_DOMAIN,
    Constant,
    Graph,
    GraphExtras,
    Node,
    NodeExtras,
    Tensor,
    is_constant,
    paired_scopes,
    scopes,
)
from .network import LARGE, Network, copy_fields, stub
from .protos import nodes_below

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


def constant(name: str, values: np.ndarray) -> Constant:
    """A constant tensor (an initializer of the exported model)."""
    tensor: Constant = gs.Constant(name, values)
    return tensor


def variable(name: str, like: Tensor | None = None) -> Tensor:
    """A tensor computed at run time; type and shape are taken from ``like`` when given."""
    tensor: Tensor = gs.Variable(name)
    if like is not None:
        tensor.dtype, tensor.shape = like.dtype, like.shape
    return tensor


def add_node(
    graph: Graph,
    op: str,
    name: str,
    inputs: Sequence[Tensor],
    output: Tensor,
    attributes: Mapping[str, object] | None = None,
    domain: str | None = None,
) -> Node:
    """Append a node with one output. Call ``tidy`` when the pass is done."""
    node: Node = gs.Node(op, name, dict(attributes or {}), list(inputs), [output], domain)
    node.extras = NodeExtras()
    graph.nodes.append(node)
    return node


def node_proto(node: Node) -> NodeProto:
    """The node as it would be exported, without metadata and attributes of rare types."""
    proto: NodeProto = gs.exporters.onnx_exporter.OnnxExporter.export_node(node)
    return proto


def make_constant(tensor: Tensor, values: np.ndarray | Constant) -> None:
    """Turn a tensor that a node computed into a constant; its consumers see the change.

    Args:
        tensor: what becomes constant.
        values: an array, or a constant whose values are taken over.
    """
    held = values if isinstance(values, np.ndarray) else _own(values)._values
    if not isinstance(held, np.ndarray) and isinstance(held.dtype, np.dtype):
        held = held.load() if held.nbytes > LARGE and held.dtype.kind in "fiub" else held
    tensor.inputs.clear()
    _own(tensor).to_constant(held)


def _own(thing: Graph | Tensor) -> Any:
    """The same, with what only onnx-graphsurgeon knows of it."""
    return thing


def import_model(model: ModelProto | Network) -> Graph:
    """Turn a checked model into a graph. The weights are shared, not copied."""
    network = model if isinstance(model, Network) else Network(model)
    proto = network.proto
    imported = gs.import_onnx(proto)
    graph: Graph = imported
    for name, tensor in graph.tensors().items():
        if name in network.weights and is_constant(tensor):
            tensor.values, _own(tensor).data_location = network.weights[name], None
    envelope = ModelProto()
    copy_fields(proto, envelope, but="graph")
    imported.import_domains = list(envelope.opset_import)
    imported.functions = []  # kept whole in the envelope
    interface = {value.name: value for value in (*proto.graph.input, *proto.graph.output)}
    taken: set[str] = set()
    for scope, stored in paired_scopes(graph, proto.graph):
        _attach_extras(scope, stored)
        scope.envelope, scope.interface, scope.taken_names = envelope, interface, taken
        taken |= set(scope.tensors()) | {node.name for node in scope.nodes}
    return graph


def infer_shapes(graph: Graph) -> Graph:
    """A new graph whose tensors have the types and shapes that onnx can infer.

    The model's inputs and outputs are exported as they were declared, whatever is inferred. Where
    what they declare contradicts the model, what is known stays as it is.
    """
    network = export_network(graph)
    if network.proto.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
        return import_model(network)  # inference serialises the model; protobuf ends at 2 GiB
    try:
        inferred = onnx.shape_inference.infer_shapes(network.proto, data_prop=True)
    except onnx.shape_inference.InferenceError:
        inferred = network.proto
    result = import_model(Network(inferred, network.weights))
    for scope in scopes(result):
        scope.graph.interface = graph.interface
    return result


def export_network(graph: Graph) -> Network:
    """Turn the graph back into a model, with everything :func:`import_model` kept."""
    weights = _large_constants(graph)
    for tensor, values in weights:  # exported as they are: the library takes lazy values whole
        _own(tensor).values = gs.ir.tensor.LazyValues(stub(tensor.name, values))
    try:
        exported = gs.export_onnx(graph, do_type_check=False)
    finally:
        for tensor, values in weights:
            tensor.values = values
    for scope, stored in paired_scopes(graph, exported.graph):
        _restore_extras(scope, stored)
    for value in (*exported.graph.input, *exported.graph.output):
        value.CopyFrom(graph.interface.get(value.name, value))
    model = ModelProto()
    model.CopyFrom(graph.envelope)
    del model.opset_import[:]
    model.opset_import.extend(exported.opset_import)
    model.graph.CopyFrom(exported.graph)
    _drop_unused_functions(model)
    kept = {tensor.name for tensor in model.graph.initializer}
    return Network(model, {t.name: values for t, values in weights if t.name in kept})


def _large_constants(graph: Graph) -> list[tuple[Constant, np.ndarray]]:
    found = []
    for tensor in filter(is_constant, graph.tensors().values()):
        values, dtype = _own(tensor)._values, _own(tensor).export_dtype
        large = isinstance(values, np.ndarray) and values.nbytes > LARGE
        if large and values.dtype.kind in "fiub" and values.dtype == dtype:
            found.append((tensor, values))
    return found


def _drop_unused_functions(model: ModelProto) -> None:
    """Of the functions that :func:`define_function` added, keep what a node still calls."""
    called = {n.op_type for n in nodes_below(model.graph) if n.domain == ANN_DOMAIN}
    kept = [f for f in model.functions if f.domain != ANN_DOMAIN or f.name in called]
    if len(kept) == len(model.functions):
        return
    del model.functions[:]
    model.functions.extend(kept)
    if not called:
        imports = [opset for opset in model.opset_import if opset.domain != ANN_DOMAIN]
        del model.opset_import[:]
        model.opset_import.extend(imports)


def _attach_extras(graph: Graph, proto: GraphProto) -> None:
    infos = [*proto.input, *proto.output, *proto.value_info]
    for tensor in graph.tensors().values():
        kind = getattr(tensor, "type", "tensor_type")
        if kind not in ("tensor_type", "sequence_type"):
            tensor.dtype = None  # the library cannot write the type; it comes back from `infos`
    graph.extras = GraphExtras(
        [(p.key, p.value) for p in proto.metadata_props],
        list(proto.quantization_annotation),
        {info.name: info for info in infos},
        {
            tensor.name: [(p.key, p.value) for p in tensor.metadata_props]
            for tensor in proto.initializer
            if tensor.metadata_props
        },
        {tensor.name: tensor.doc_string for tensor in proto.initializer if tensor.doc_string},
    )
    for node, node_proto in zip(graph.nodes, proto.node, strict=True):
        node.extras = NodeExtras(
            node_proto.doc_string,
            node_proto.overload,
            {p.key: p.value for p in node_proto.metadata_props},
            [a for a in node_proto.attribute if a.type not in _KNOWN_ATTRIBUTES],
        )


def _restore_extras(graph: Graph, proto: GraphProto) -> None:
    for node, node_proto in zip(graph.nodes, proto.node, strict=True):
        extras = node.extras
        if extras.doc_string:
            node_proto.doc_string = extras.doc_string
        if extras.overload:
            node_proto.overload = extras.overload
        for key, value in extras.metadata.items():
            node_proto.metadata_props.add(key=key, value=value)
        node_proto.attribute.extend(extras.attributes)
    graph_extras = graph.extras
    if not proto.doc_string:
        proto.ClearField("doc_string")  # empty is how the graph library writes 'none'
    for key, value in graph_extras.metadata:
        proto.metadata_props.add(key=key, value=value)
    for infos in (proto.input, proto.output, proto.value_info):
        for info in infos:
            if info.name in graph_extras.value_infos:
                info.CopyFrom(graph_extras.value_infos[info.name])
    for tensor in proto.initializer:
        if tensor.name in graph_extras.initializer_docs:
            tensor.doc_string = graph_extras.initializer_docs[tensor.name]
        if not tensor.metadata_props:
            for key, value in graph_extras.initializer_metadata.get(tensor.name, []):
                tensor.metadata_props.add(key=key, value=value)
    known = {tensor.name for tensor in proto.initializer} | set(graph.tensors())
    proto.quantization_annotation.extend(
        annotation for annotation in graph_extras.annotations if annotation.tensor_name in known
    )
