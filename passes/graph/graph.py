"""The graph that passes rewrite: onnx-graphsurgeon's, with what it loses carried across.

This is the only file that imports onnx-graphsurgeon. Its import and export drop model, graph and
node metadata, doc strings, the model's domain and version, quantization annotations, node
attributes of rare types and the details of value infos. :func:`import_model` keeps them beside the
graph and its nodes, :func:`export_network` puts them back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto
from onnx_graphsurgeon.logger import G_LOGGER

from .network import LARGE, Network, copy_fields, stub
from .protos import nodes_below

# The package ships no types; these aliases are what the passes speak of.
Graph: TypeAlias = Any
Node: TypeAlias = Any
Tensor: TypeAlias = Any

#: Prefix of every metadata key this project writes; keys of others are never touched.
METADATA_PREFIX = "snn_compile."

#: Domain of the functions that stand for activations and normalisations which the model's opset
#: has no operator for, such as Swish before 24. They are defined in the model that calls them.
ANN_DOMAIN = "ai.snn.ann"

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
    initializer_docs: dict[str, str]


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


def define_function(graph: Graph, function: onnx.FunctionProto) -> None:
    """Let nodes of the graph call ``function``, of :data:`ANN_DOMAIN`; defining it again is fine.

    Exported models hold only those of these functions that a node still calls.
    """
    known = {(f.domain, f.name) for f in graph.envelope.functions}
    if (function.domain, function.name) not in known:
        graph.envelope.functions.append(function)


def opset_version(graph: Graph) -> int:
    """Version of the standard operators that the model imports."""
    imports = graph.envelope.opset_import
    return next(int(opset.version) for opset in imports if opset.domain in ("", "ai.onnx"))


@dataclass(frozen=True)
class Scope:
    """A graph or control-flow body.

    Attributes:
        graph: its nodes; tensors of outer scopes are the same objects there.
        closed: why passes leave it alone; empty where they may rewrite it.
    """

    graph: Graph
    closed: str


def scopes(graph: Graph, closed: str = "") -> Iterator[Scope]:
    """The graph, and below it every control-flow body.

    Bodies of If are open. Bodies of Loop and Scan are closed: what they compute at each iteration
    cannot be observed from outside.
    """
    yield Scope(graph, closed)
    for node in graph.nodes:
        for body in bodies(node):
            reason = "" if node.op == "If" else f"inside the body of {node.op} {node.name}"
            yield from scopes(body, closed or reason)


def bodies(node: Node) -> list[Graph]:
    """The control-flow bodies of a node."""
    return [value for value in node.attrs.values() if isinstance(value, gs.Graph)]


def tidy(graph: Graph) -> None:
    """Drop nodes and tensors that no output needs, and sort the rest topologically."""
    graph.cleanup(remove_unused_graph_inputs=False)
    for scope in [graph, *graph.subgraphs(recursive=True)]:
        _sort(scope)


def _sort(graph: Graph) -> None:
    """Put each node behind those it reads from, else in the order they have.

    The library's own sort recurses as deep as the graph and exceeds Python's limit.
    """
    own = {id(node) for node in graph.nodes}
    done: set[int] = set()
    ordered: list[Node] = []
    for root in graph.nodes:
        stack = [(root, False)]
        while stack:
            node, inputs_done = stack.pop()
            if inputs_done:
                ordered.append(node)
            elif id(node) not in done:
                done.add(id(node))
                stack.append((node, True))
                producers = [p for tensor in _reads(node) for p in tensor.inputs]
                stack += [(p, False) for p in reversed(producers) if id(p) in own]
    graph.nodes[:] = ordered


def _reads(node: Node) -> Iterator[Tensor]:
    """Every tensor that the node reads, in its bodies too."""
    yield from node.inputs
    for body in bodies(node):
        yield from body.outputs
        for inner in body.nodes:
            yield from _reads(inner)


def node_proto(node: Node) -> NodeProto:
    """The node as it would be exported, without metadata and attributes of rare types."""
    proto: NodeProto = gs.exporters.onnx_exporter.OnnxExporter.export_node(node)
    return proto


def make_constant(tensor: Tensor, values: np.ndarray | Tensor) -> None:
    """Turn a tensor that a node computed into a constant; its consumers see the change.

    Args:
        tensor: what becomes constant.
        values: an array, or a constant whose values are taken over.
    """
    held = values if isinstance(values, np.ndarray) else values._values
    if not isinstance(held, np.ndarray) and isinstance(held.dtype, np.dtype):
        held = held.load() if held.nbytes > LARGE and held.dtype.kind in "fiub" else held
    tensor.inputs.clear()
    tensor.to_constant(held)


def is_standard(node: Node) -> bool:
    """Whether the operator is one of ONNX itself, not another domain's of the same name."""
    return node.domain in (None, "", "ai.onnx")


def is_constant(tensor: Tensor) -> bool:
    """Whether the tensor's values are known at compile time."""
    return isinstance(tensor, gs.Constant)


def unique_name(graph: Graph, wanted: str) -> str:
    """``wanted``, or ``wanted_1``, ... if a tensor or node of any scope already has that name."""
    taken: set[str] = graph.taken_names
    name, count = wanted, 0
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    taken.add(name)
    return name


def _share_taken_names(graph: Graph) -> None:
    """Names are unique over all scopes, so all of them look into one set."""
    every = [graph, *graph.subgraphs(recursive=True)]
    taken: set[str] = set()
    for scope in every:
        taken |= set(scope.tensors()) | {node.name for node in scope.nodes}
        scope.taken_names = taken


def replace_everywhere(graph: Graph, old: Tensor, new: Tensor) -> None:
    """Let every consumer of ``old``, subgraphs included, read ``new`` instead."""
    for consumer in list(old.outputs):
        for i, tensor in enumerate(consumer.inputs):
            if tensor is old:
                consumer.inputs[i] = new
    for i, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[i] = new


def import_model(model: ModelProto | Network) -> Graph:
    """Turn a checked model into a graph. The weights are shared, not copied."""
    network = model if isinstance(model, Network) else Network(model)
    proto = network.proto
    graph = gs.import_onnx(proto)
    for name, tensor in graph.tensors().items():
        if name in network.weights:
            tensor.values, tensor.data_location = network.weights[name], None
    graph.envelope = ModelProto()
    copy_fields(proto, graph.envelope, but="graph")
    graph.import_domains = list(graph.envelope.opset_import)
    graph.functions = []  # kept whole in the envelope
    _attach_extras(graph, proto.graph)
    _share_taken_names(graph)
    graph.interface = {v.name: v for v in (*proto.graph.input, *proto.graph.output)}
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
    result.interface = graph.interface
    return result


def export_network(graph: Graph) -> Network:
    """Turn the graph back into a model, with everything :func:`import_model` kept."""
    weights = _large_constants(graph)
    for tensor, values in weights:  # exported as they are: the library takes lazy values whole
        tensor.values = gs.ir.tensor.LazyValues(stub(tensor.name, values))
    try:
        exported = gs.export_onnx(graph, do_type_check=False)
    finally:
        for tensor, values in weights:
            tensor.values = values
    _restore_extras(graph, exported.graph)
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


def _large_constants(graph: Graph) -> list[tuple[Tensor, np.ndarray]]:
    return [
        (tensor, tensor.values)
        for tensor in graph.tensors().values()
        if is_constant(tensor)
        and isinstance(tensor._values, np.ndarray)
        and tensor._values.nbytes > LARGE
        and tensor._values.dtype.kind in "fiub"
        and tensor.export_dtype == tensor._values.dtype
    ]


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


def _pairs(graph: Graph, proto: GraphProto) -> Iterator[tuple[Node, NodeProto]]:
    return zip(graph.nodes, proto.node, strict=True)


def _subgraphs(node: Node, proto: NodeProto) -> Iterator[tuple[Graph, GraphProto]]:
    for attribute in proto.attribute:
        if attribute.type == AttributeProto.GRAPH and not attribute.ref_attr_name:
            yield node.attrs[attribute.name], attribute.g


def _attach_extras(graph: Graph, proto: GraphProto) -> None:
    infos = [*proto.input, *proto.output, *proto.value_info]
    for tensor in graph.tensors().values():
        if getattr(tensor, "type", "tensor_type") not in ("tensor_type", "sequence_type"):
            tensor.dtype = None  # the library cannot write the type; it comes back from `infos`
    graph.extras = _GraphExtras(
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
        if tensor.name in graph_extras.initializer_docs:
            tensor.doc_string = graph_extras.initializer_docs[tensor.name]
        if not tensor.metadata_props:
            for key, value in graph_extras.initializer_metadata.get(tensor.name, []):
                tensor.metadata_props.add(key=key, value=value)
    known = {tensor.name for tensor in proto.initializer} | set(graph.tensors())
    proto.quantization_annotation.extend(
        annotation for annotation in graph_extras.annotations if annotation.tensor_name in known
    )
