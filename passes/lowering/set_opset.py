"""Write a network at the lowest opset that its operators have, or at another one.

1. A node stays as it is at opset K where the operator of K takes its attributes, as many inputs and
   outputs, and their element types. Later versions of most operators only take more; what means
   something else without looking otherwise (:data:`_CHANGED`, and modes of others) keeps the
   version that it is written for.
2. Below opset 18 constant axes of the reductions are an attribute, and Split into equal parts has
   no ``num_outputs``.
3. The IR version is the oldest that goes with the opset.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, helper
from onnx.defs import OpSchema, SchemaError, get_schema

from ..graph.network import Network, constants_of
from ..graph.protos import graphs_below, nodes_below

#: Operators of which a later version means something else.
_CHANGED = frozenset({"DFT", "GridSample", "GroupNormalization", "RoiAlign"})
#: Axes are an attribute before 18.
_REDUCTIONS = frozenset(
    {
        *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
        *("ReduceMin", "ReduceProd", "ReduceSumSquare"),
    }
)
_AXES_ARE_INPUT = 18
#: Modes that only later versions know, and pools whose rounding up became another one.
_LATE_MODES = {
    "Pad": {b"wrap"},
    "Resize": {b"half_pixel_symmetric"},
    "ScatterElements": {b"max", b"min"},
    "ScatterND": {b"max", b"min"},
}
_POOLS = ("AveragePool", "LpPool", "MaxPool")


@dataclass(frozen=True)
class _Model:
    """What is known of all tensors.

    Attributes:
        types: element types by name.
        shapes: of those that are static or partly so, None for a length that is not known.
        constants: values by name.
    """

    types: Mapping[str, str]
    shapes: Mapping[str, list[int | None]]
    constants: Mapping[str, np.ndarray]


class OpsetError(ValueError):
    """An operator is not what it is at the opset asked for; the text names it."""


def lowest_opset(network: Network, oldest: int) -> int:
    """The lowest opset from ``oldest`` on that all operators of the network have.

    Args:
        network: of standard operators alone.
        oldest: 13 or newer.
    """
    model, nodes, current = _known(network), list(nodes_below(network.proto.graph)), _opset(network)
    for opset in range(oldest, current):
        if all(_same_at(node, opset, current, model) for node in nodes):
            return opset
    return current


def require_opset(network: Network, opset: int) -> None:
    """Refuse an opset that an operator of the network does not have.

    Raises:
        OpsetError: names the node.
    """
    model, current = _known(network), _opset(network)
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise OpsetError(f"opset {opset} is newer than the installed onnx knows, {newest}")
    for node in nodes_below(network.proto.graph):
        if not _same_at(node, opset, current, model):
            raise OpsetError(f"{node.op_type} {node.name} is not the same at opset {opset}")


def set_opset(network: Network, opset: int) -> Network:
    """The network at that opset, in place; it is one that :func:`require_opset` takes."""
    proto = network.proto
    constants = constants_of(network)
    if opset < _AXES_ARE_INPUT:
        for node in nodes_below(proto.graph):
            if node.op_type in _REDUCTIONS:
                _axes_as_attribute(node, constants)
            elif node.op_type == "Split":
                _drop(node, "num_outputs")
    _drop_unread(network)
    for imported in proto.opset_import:
        if imported.domain in ("", "ai.onnx"):
            imported.version = opset
    proto.ir_version = helper.find_min_ir_version_for(proto.opset_import)
    return network


def _known(network: Network) -> _Model:
    inferred = onnx.shape_inference.infer_shapes(network.proto)
    types: dict[str, str] = {}
    shapes: dict[str, list[int | None]] = {}
    for graph in graphs_below(inferred.graph):
        for tensor in graph.initializer:
            types[tensor.name] = _type_name(tensor.data_type)
        for value in (*graph.input, *graph.output, *graph.value_info):
            kind = value.type.tensor_type
            if kind.elem_type:
                types[value.name] = _type_name(kind.elem_type)
            if kind.HasField("shape"):
                dims = kind.shape.dim
                shapes[value.name] = [
                    d.dim_value if d.HasField("dim_value") else None for d in dims
                ]
    return _Model(types, shapes, constants_of(network))


def _type_name(elements: int) -> str:
    return f"tensor({helper.tensor_dtype_to_string(elements).removeprefix('TensorProto.').lower()})"


def _same_at(node: NodeProto, opset: int, current: int, model: _Model) -> bool:
    """Whether a node, with what rule 2 does, means at an opset what it means at the current one."""
    try:
        then, now = (get_schema(node.op_type, version, "") for version in (opset, current))
    except SchemaError:
        return False
    if then.since_version == now.since_version:
        return not then.deprecated
    if then.deprecated or node.op_type in _CHANGED or _has_late_mode(node):
        return False
    inputs, attributes = list(node.input), {attribute.name for attribute in node.attribute}
    if opset < _AXES_ARE_INPUT <= current:
        if node.op_type in _REDUCTIONS:
            if not _axes_are_known(node, model):
                return False
            inputs, attributes = inputs[:1], attributes - {"noop_with_empty_axes"}
        elif node.op_type == "Split" and _splits_evenly(node, model):
            attributes -= {"num_outputs"}
    if not attributes <= set(then.attributes):
        return False
    return _takes(then.inputs, inputs, then.min_input, then.max_input, model) and _takes(
        then.outputs, node.output, then.min_output, then.max_output, model
    )


def _takes(
    formals: Iterable[OpSchema.FormalParameter],
    names: Iterable[str],
    least: int,
    most: int,
    model: _Model,
) -> bool:
    """Whether parameters are as many tensors, of these element types."""
    declared, given = list(formals), list(names)
    if not least <= len(given) <= most:
        return False
    for position, name in enumerate(given):
        formal = declared[min(position, len(declared) - 1)]
        if name and model.types.get(name) not in formal.types:
            return False
    return True


def _has_late_mode(node: NodeProto) -> bool:
    late = _LATE_MODES.get(node.op_type, set())
    pools_up = node.op_type in _POOLS
    return any(
        attribute.s in late or (pools_up and attribute.name == "ceil_mode" and attribute.i)
        for attribute in node.attribute
    )


def _splits_evenly(node: NodeProto, model: _Model) -> bool:
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    shape = model.shapes.get(node.input[0], [])
    length = shape[axis] if -len(shape) <= axis < len(shape) else None
    return length is not None and length % len(node.output) == 0


def _axes_are_known(node: NodeProto, model: _Model) -> bool:
    """Whether the axes of a reduction are constants, or all."""
    axes = node.input[1] if len(node.input) > 1 else ""
    none_if_empty = any(a.name == "noop_with_empty_axes" and a.i for a in node.attribute)
    if not axes:
        return not none_if_empty
    return axes in model.constants and not (none_if_empty and model.constants[axes].size == 0)


def _axes_as_attribute(node: NodeProto, constants: Mapping[str, np.ndarray]) -> None:
    _drop(node, "noop_with_empty_axes")
    if len(node.input) > 1:
        axes = constants[node.input[1]] if node.input[1] else np.zeros(0)
        if axes.size:  # none: all
            node.attribute.append(helper.make_attribute("axes", [int(axis) for axis in axes]))
        del node.input[1:]


def _drop(node: NodeProto, name: str) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)


def _drop_unread(network: Network) -> None:
    """Initializers that nothing reads any more."""
    graph = network.proto.graph
    read = {name for node in nodes_below(graph) for name in node.input}
    read |= {value.name for value in graph.output}
    for position in reversed(range(len(graph.initializer))):
        name = graph.initializer[position].name
        if name not in read:
            del graph.initializer[position]
            network.weights.pop(name, None)


def _opset(network: Network) -> int:
    imports = network.proto.opset_import
    return next(int(o.version) for o in imports if o.domain in ("", "ai.onnx"))
