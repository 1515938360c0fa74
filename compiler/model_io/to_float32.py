"""Bring networks of float16 and bfloat16 to float32, in which neurons are fitted and run.

1. Weights, constants, declared types and the targets of Casts become float32, in bodies and
   functions too. Values stay what they are; what the network computes is no longer rounded to the
   short type at every step.
2. Inputs and outputs of float16 keep their type: a Cast follows or precedes them.
3. Inputs and outputs of bfloat16 become float32: neither NumPy nor the runtime's Python interface
   can feed or return them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    TypeProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from ...passes.graph.network import LARGE, Network, stub
from ...passes.graph.protos import graphs_below, names_below, nodes_below

_NAMES = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}
#: Attributes that hold the number of an element type.
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "stash_type")


def short_floats(model: ModelProto) -> list[str]:
    """Which of the two types the model's tensors and Casts have, by name."""
    found = {tensor.data_type for tensor in _tensors(model)}
    found |= {leaf.elem_type for leaf in _leaf_types(model)}
    found |= {attribute.i for attribute in _type_attributes(model)}
    return [name for number, name in _NAMES.items() if number in found]


def to_float32(network: Network) -> list[str]:
    """Apply the rules in place.

    Args:
        network: of any opset; its structure is checked.

    Returns:
        What the user should know, a line for each of the two types that the network has.
    """
    model = network.proto
    found = short_floats(model)
    if not found:
        return []
    kept = {value.name for value in _interface(model.graph) if _is_float16(value.type)}
    for graph in graphs_below(model.graph):
        _convert_initializers(graph, network.weights)
    for tensor in list(_tensors(model)):
        if tensor.data_type in _NAMES:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for leaf in _leaf_types(model):
        leaf.elem_type = TensorProto.FLOAT if leaf.elem_type in _NAMES else leaf.elem_type
    for attribute in _type_attributes(model):
        attribute.i = TensorProto.FLOAT if attribute.i in _NAMES else attribute.i
    _cast_interface(model.graph, kept, network.weights)
    faces = {
        "float16": "its inputs and outputs keep their type",
        "bfloat16": "its inputs and outputs of bfloat16 are float32 now",
    }
    return [
        f"the network holds {name}: it is computed in float32, where it rounds less than the "
        f"file; {faces[name]}"
        for name in found
    ]


def _interface(graph: GraphProto) -> list[ValueInfoProto]:
    """Inputs that are fed, and outputs."""
    weights = {tensor.name for tensor in graph.initializer}
    return [*(v for v in graph.input if v.name not in weights), *graph.output]


def _is_float16(kind: TypeProto) -> bool:
    return kind.HasField("tensor_type") and kind.tensor_type.elem_type == TensorProto.FLOAT16


def _convert_initializers(graph: GraphProto, weights: dict[str, np.ndarray]) -> None:
    """Those of the short types, whether their values are in the proto or held apart."""
    for tensor in graph.initializer:
        if tensor.data_type not in _NAMES:
            continue
        values = weights.get(tensor.name)
        values = numpy_helper.to_array(tensor) if values is None else values
        values = values.astype(np.float32)
        text, facts = tensor.doc_string, list(tensor.metadata_props)
        if values.nbytes > LARGE:
            weights[tensor.name] = values
            tensor.CopyFrom(stub(tensor.name, values))
        else:
            weights.pop(tensor.name, None)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        tensor.doc_string = text
        tensor.metadata_props.extend(facts)


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    yield from nodes_below(model.graph)
    for function in model.functions:
        yield from nodes_below(function)


def _attributes(model: ModelProto) -> Iterator[AttributeProto]:
    for node in _nodes(model):
        yield from node.attribute
    for function in model.functions:
        yield from function.attribute_proto


def _type_attributes(model: ModelProto) -> Iterator[AttributeProto]:
    for attribute in _attributes(model):
        if attribute.name in _TYPE_ATTRIBUTES and attribute.type == AttributeProto.INT:
            yield attribute


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Initializers and constants, sparse ones too."""
    for graph in graphs_below(model.graph):
        yield from graph.initializer
        yield from (sparse.values for sparse in graph.sparse_initializer)
    for attribute in _attributes(model):
        yield from [attribute.t] if attribute.HasField("t") else attribute.tensors
        if attribute.HasField("sparse_tensor"):
            yield attribute.sparse_tensor.values


def _leaf_types(model: ModelProto) -> Iterator[TypeProto.Tensor | TypeProto.SparseTensor]:
    """The types of tensors that are declared anywhere, those in sequences too."""
    for graph in graphs_below(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            yield from _leaves(value.type)
    for function in model.functions:
        for value in function.value_info:
            yield from _leaves(value.type)
    for attribute in _attributes(model):
        if attribute.HasField("tp"):
            yield from _leaves(attribute.tp)


def _leaves(kind: TypeProto) -> Iterator[TypeProto.Tensor | TypeProto.SparseTensor]:
    which = kind.WhichOneof("value")
    if which in ("tensor_type", "sparse_tensor_type"):
        yield getattr(kind, which)
    elif which in ("sequence_type", "optional_type"):
        yield from _leaves(getattr(kind, which).elem_type)
    elif which == "map_type":
        yield from _leaves(kind.map_type.value_type)


def _cast_interface(graph: GraphProto, kept: set[str], weights: dict[str, np.ndarray]) -> None:
    """Rule 2: give these inputs and outputs their type back."""
    taken, inner = names_below(graph), {}
    for name in sorted(kept):
        inner[name] = _unused(f"{name}.float32", taken)
    for inside in graphs_below(graph):
        _rename(inside, inner, is_body=inside is not graph)
    for tensor in graph.initializer:  # an output may be one
        old, tensor.name = tensor.name, inner.get(tensor.name, tensor.name)
        if old in weights:
            weights[tensor.name] = weights.pop(old)
    inputs = [value for value in graph.input if value.name in kept]
    outputs = [value for value in graph.output if value.name in kept]
    for value in (*inputs, *outputs):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    fed = {value.name for value in inputs}
    for name in sorted(fed):
        graph.node.insert(0, _cast(name, inner[name], TensorProto.FLOAT))
    for value in outputs:
        if value.name not in fed:  # otherwise the input itself is returned
            graph.node.append(_cast(inner[value.name], value.name, TensorProto.FLOAT16))


def _unused(wanted: str, taken: set[str]) -> str:
    name, count = wanted, 0
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    taken.add(name)
    return name


def _rename(graph: GraphProto, names: Mapping[str, str], *, is_body: bool) -> None:
    """Let the nodes of one graph, and what a body returns, use other names of tensors."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in graph.output if is_body else []:
        value.name = names.get(value.name, value.name)
    for value in graph.value_info:
        value.name = names.get(value.name, value.name)


def _cast(source: str, target: str, element_type: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], f"Cast:{target}", to=element_type)
