"""Element types and shapes of tensors that onnx cannot infer, from the runtime.

onnx knows nothing of what operators of other domains give (``com.microsoft``), nor of some of its
own (GroupNormalization from opset 21 on). The runtime, which has to know, is asked: a session of
the graph whose outputs are these tensors, which is never run. Bodies of If, Loop and Scan are asked
about each as a graph of its own, whose inputs are also what it reads from outside.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnxruntime as ort
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, helper

from ...passes.analysis.operators import Role, properties
from ...passes.graph.network import Network, copy_fields, is_detached
from ...passes.graph.protos import bodies_in, graphs_below, reads
from ..errors import ModelError
from .session import make_session

#: The runtime's names of element types, as onnx numbers them.
_ELEMENT_TYPES = {
    "float": TensorProto.FLOAT,
    "double": TensorProto.DOUBLE,
    **{
        name.lower(): number
        for name, number in TensorProto.DataType.items()
        if name not in ("FLOAT", "DOUBLE", "UNDEFINED")
    },
}

#: Roles of operators whose first output has the shape of the first input.
_KEEPS_SHAPE = (Role.ACTIVATION, Role.NORMALISATION)

_Types = dict[str, TypeProto]


def with_types(network: Network) -> Network:
    """The network with the types of all tensors that onnx or the runtime can tell.

    Args:
        network: one that the runtime accepts; returned as it is where onnx infers every type.
    """
    if network.proto.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
        return network
    try:
        inferred = onnx.shape_inference.infer_shapes(network.proto, data_prop=True)
    except onnx.shape_inference.InferenceError:
        return network
    if not any(_untyped(graph) for graph in graphs_below(inferred.graph)):
        return network
    proto = ModelProto()
    proto.CopyFrom(network.proto)
    _complete(proto.graph, inferred, inferred.graph, {})
    return Network(proto, network.weights)


def _complete(graph: GraphProto, model: ModelProto, inferred: GraphProto, outer: _Types) -> None:
    """Write the missing types of a graph and of the bodies below it, as value infos.

    Args:
        graph: is written to.
        model: what onnx infers.
        inferred: the same graph in it.
        outer: types of the tensors that enclosing graphs have.
    """
    types = outer | _known(inferred)
    found = _asked(model, inferred, _untyped(inferred), types)
    types |= {value.name: value.type for value in found}
    _keep_shapes(graph, types, {value.name: value for value in found})
    kept = [value for value in graph.value_info if _typed(value)]
    del graph.value_info[:]
    graph.value_info.extend([*kept, *found])
    for node, same in zip(graph.node, inferred.node, strict=True):
        for body, inner in zip(bodies_in(node), bodies_in(same), strict=True):
            _complete(body, model, inner, types)


def _keep_shapes(graph: GraphProto, types: _Types, found: dict[str, ValueInfoProto]) -> None:
    """Give what activations and normalisations make the shape that they read.

    The runtime tells no lengths of GroupNormalization, where neurons look for their channels.
    """
    for node in graph.node:
        if properties(node.op_type).role not in _KEEPS_SHAPE or node.output[0] not in found:
            continue
        read = types.get(node.input[0], TypeProto()).tensor_type
        if read.HasField("shape"):
            made = found[node.output[0]].type
            made.tensor_type.shape.CopyFrom(read.shape)
            types[node.output[0]] = made


def _untyped(graph: GraphProto) -> list[str]:
    """What the graph's own nodes compute that has no type."""
    types = _known(graph)
    return [name for node in graph.node for name in node.output if name and name not in types]


def _typed(value: ValueInfoProto) -> bool:
    kind = value.type.WhichOneof("value")
    return kind is not None and (kind != "tensor_type" or bool(value.type.tensor_type.elem_type))


def _known(graph: GraphProto) -> _Types:
    values = [v for v in (*graph.input, *graph.output, *graph.value_info) if _typed(v)]
    constants = {
        tensor.name: helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
        for tensor in graph.initializer
    }
    return constants | {value.name: value.type for value in values}


def _asked(
    model: ModelProto, graph: GraphProto, names: list[str], types: _Types
) -> list[ValueInfoProto]:
    """What the runtime says of these tensors; nothing where it does not take the graph alone."""
    if not names:
        return []
    shown = ModelProto()
    copy_fields(model, shown, but="graph")
    copy_fields(graph, shown.graph, but="initializer")
    small = [tensor for tensor in graph.initializer if not is_detached(tensor)]
    shown.graph.initializer.extend(small)
    made = {value.name for value in graph.input} | {tensor.name for tensor in small}
    made |= {name for node in graph.node for name in node.output}
    given = [name for name in _read_by(graph.node) if name not in made]
    if any(name not in types for name in given):
        return []
    shown.graph.input.extend(ValueInfoProto(name=name, type=types[name]) for name in given)
    del shown.graph.output[:]
    shown.graph.output.extend(ValueInfoProto(name=name) for name in names)
    try:
        session = make_session(Network(shown, {}), library=False, optimise=False)
    except ModelError:
        return []
    dimensions = {d.dim_param for t in types.values() for d in t.tensor_type.shape.dim}
    return [v for output in session.get_outputs() for v in _value(output, dimensions - {""})]


def _read_by(nodes: Iterable[NodeProto]) -> list[str]:
    return list(dict.fromkeys(name for node in nodes for name in reads(node)))


def _value(output: ort.NodeArg, dimensions: set[str]) -> list[ValueInfoProto]:
    """A tensor as the runtime describes it; its names of lengths count where the model has them."""
    kind, _, element = output.type.removesuffix(")").partition("(")
    if kind != "tensor" or element not in _ELEMENT_TYPES:
        return []
    shape: list[int | str | None] | None = None
    if output.shape:  # a scalar's looks like that of a tensor of unknown rank
        shape = [dim if isinstance(dim, int) or dim in dimensions else None for dim in output.shape]
    return [helper.make_tensor_value_info(output.name, _ELEMENT_TYPES[element], shape)]
