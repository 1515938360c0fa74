"""Fold y = s * x + t, one s and one t per channel, into the linear operator before or after it.

Before (``fold_into_producer``): ``Linear(x, W, b)`` becomes ``Linear(x, W * s, b * s + t)``

1. Conv: W [O, I/g, ...] times s along axis 0. Channels are axis 1.
2. ConvTranspose: W [I, O/g, ...]; output channel j of group i is s[i * O/g + j].
3. Gemm: alpha * A @ B + beta * C becomes alpha * A @ (B * s) + (beta * C * s + t); B is
   scaled along its output axis, which transB decides.
4. MatMul with a constant [K, O] on the right, with or without an Add of a constant after it: as
   Gemm, t goes into the Add. Channels are the last axis.

After (``fold_into_consumer``): ``Linear(s * x + t, W, b)`` becomes ``Linear(x, W', b + W @ t)``

5. Conv: W' is W times s along the input channels. Zeros that Conv pads would have to become -t / s,
   so with padding only t = 0 is exact. ConvTranspose: likewise only t = 0, its sums at the border
   have fewer terms.
6. Gemm and MatMul of rank 2, whose left operand is x: W' is W times s along its rows.

Refused: weights that are not constant or that another node reads too, an intermediate result that
is used elsewhere or is an output, operators in different scopes. s and t are float64 and rounded
once, with the weight.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..analysis.operators import standard
from ..graph.graph import (
    Graph,
    Node,
    Tensor,
    is_constant,
    is_standard,
    optional_input,
    shape_of,
    unique_name,
    values_of,
)
from ..graph.surgeon import add_node, constant, variable


class Affine(NamedTuple):
    """Scale s and shift t, both [C] and float64."""

    scale: np.ndarray
    shift: np.ndarray


class Refused(Exception):
    """A fold that is not possible; the text is the reason."""


class Linear(NamedTuple):
    """A linear operator and, behind a MatMul, the Add of its bias."""

    node: Node
    add: Node | None
    channels: int
    axis: int
    rank: int | None


def is_output(graph: Graph, tensor: Tensor) -> bool:
    """Whether the scope returns the tensor."""
    return any(tensor is output for output in graph.outputs)


def linear_before(graph: Graph, tensor: Tensor) -> Linear:
    """The linear operator that makes ``tensor`` for one reader alone.

    Raises:
        Refused: there is none, or its weights are not constants.
    """
    node = _producer(graph, tensor, "its input")
    add = None
    if node.op == "Add" and is_standard(node):
        matmul = _left_of_bias(graph, node)
        if matmul is None:
            raise Refused(f"its input comes from {_sum_of(node)}")
        node, add = matmul, node
    if not standard(node).weighted:
        raise Refused(f"its input comes from {node.op} {node.name}")
    weight = node.inputs[1]
    if not is_constant(weight):
        raise Refused("the weight is not constant")
    shape = weight.shape
    if standard(node).convolves and shape[0] % node.attrs.get("group", 1):
        raise Refused(f"the weight {list(shape)} of {node.op} {node.name} does not fit its groups")
    if node.op == "Conv":
        return Linear(node, None, shape[0], 1, len(shape))
    if node.op == "ConvTranspose":
        return Linear(node, None, shape[1] * node.attrs.get("group", 1), 1, len(shape))
    if node.op == "Gemm":
        return Linear(node, None, shape[0 if node.attrs.get("transB", 0) else 1], 1, 2)
    if len(shape) != 2:
        raise Refused("the weight of the MatMul has another rank than 2")
    known = node.outputs[0].shape
    rank = None if known is None else len(known)
    return Linear(node, add, shape[1], -1 if rank is None else rank - 1, rank)


def fold_into_producer(graph: Graph, linear: Linear, affine: Affine, output: Tensor) -> None:
    """Let the operator compute ``output``, which was s * x + t of its result.

    Raises:
        Refused: weights are shared with another node.
    """
    node, add = linear.node, linear.add
    weight = _own(node.inputs[1], "weight") if np.any(affine.scale != 1) else None
    if standard(node).convolves:
        dtype = values_of(node.inputs[1]).dtype
        shift = _bias(node, linear.channels) * affine.scale + affine.shift
        if weight is not None:
            _set(graph, node, 1, _scaled(node, weight, affine.scale), "weight")
        _set(graph, node, 2, shift.astype(dtype), "bias")
        node.outputs[0] = output
    elif node.op == "Gemm":
        dtype = values_of(node.inputs[1]).dtype
        bias = _bias(node, linear.channels)
        shift = node.attrs.get("beta", 1.0) * bias * affine.scale + affine.shift
        if weight is not None:
            factor = affine.scale[:, None] if node.attrs.get("transB", 0) else affine.scale
            _set(graph, node, 1, (weight * factor).astype(dtype), "weight")
        _set(graph, node, 2, shift.astype(dtype), "bias")
        node.attrs["beta"] = 1.0
        node.outputs[0] = output
    else:
        _fold_into_matmul(graph, node, add, weight, affine, output)


def _fold_into_matmul(
    graph: Graph,
    matmul: Node,
    add: Node | None,
    weight: np.ndarray | None,
    affine: Affine,
    output: Tensor,
) -> None:
    dtype, shift = values_of(matmul.inputs[1]).dtype, affine.shift
    if add is not None:
        position = 0 if is_constant(add.inputs[0]) else 1
        shift = _own(add.inputs[position], "bias") * affine.scale + shift
    if weight is not None:
        _set(graph, matmul, 1, (weight * affine.scale).astype(dtype), "weight")
    if add is not None:
        _set(graph, add, position, shift.astype(dtype), "bias")
        add.outputs[0] = output
        return
    if not np.any(affine.shift):
        matmul.outputs[0] = output
        return
    total = variable(unique_name(graph, f"{matmul.name}.unbiased"), matmul.outputs[0])
    matmul.outputs[0] = total
    _append_shift(graph, matmul, total, affine.shift.astype(dtype), output)


def _append_shift(
    graph: Graph, matmul: Node, total: Tensor, values: np.ndarray, output: Tensor
) -> None:
    shift = constant(unique_name(graph, f"{matmul.name}.bias"), values)
    add_node(graph, "Add", unique_name(graph, f"{matmul.name}.add"), [total, shift], output)


def fold_into_consumer(graph: Graph, x: Tensor, affine: Affine, result: Tensor) -> Node:
    """Let the one operator that reads ``result``, which is s * x + t, read x instead.

    Raises:
        Refused: the reader is not a linear operator, or the result would not be the same.
    """
    if is_output(graph, result) or len(result.outputs) != 1:
        raise Refused("its result is not read by one operator alone")
    node = result.outputs[0]
    if not standard(node).weighted:
        raise Refused(f"its result goes to {node.op} {node.name}")
    if not any(node is other for other in graph.nodes):
        raise Refused(f"its result goes to {node.op} {node.name} in another scope")
    if node.inputs[0] is not result:
        raise Refused(f"it is not the first input of {node.op} {node.name}")
    weight = _own(node.inputs[1], "weight")
    convolves = standard(node).convolves
    if not convolves and (result.shape is None or len(result.shape) != 2 or weight.ndim != 2):
        raise Refused(f"channels are not what {node.op} {node.name} sums over")
    if _summed(node, weight.shape) != affine.scale.size:
        raise Refused(f"{node.op} {node.name} has another number of channels")
    if convolves:
        _fold_into_convolution(graph, node, weight, affine)
    elif node.op == "Gemm":
        _fold_into_gemm(graph, node, weight, affine)
    else:
        dtype = weight.dtype
        _set(graph, node, 1, (weight * affine.scale[:, None]).astype(dtype), "weight")
        output = node.outputs[0]
        total = variable(unique_name(graph, f"{node.name}.unbiased"), output)
        node.outputs[0] = total
        _append_shift(graph, node, total, (affine.shift @ weight).astype(dtype), output)
    node.inputs[0] = x
    return node


def _summed(node: Node, shape: tuple[int, ...]) -> int | None:
    """How many channels the operator sums over; None where the groups do not fit the weight."""
    groups = node.attrs.get("group", 1)
    if node.op == "Conv":
        return None if shape[0] % groups else shape[1] * groups
    if node.op == "Gemm" and node.attrs.get("transB", 0):
        return shape[1]
    return shape[0]


def _fold_into_convolution(graph: Graph, node: Node, weight: np.ndarray, affine: Affine) -> None:
    groups = node.attrs.get("group", 1)
    if node.op == "ConvTranspose":
        if np.any(affine.shift):
            raise Refused(f"{node.op} {node.name} sums fewer terms at the border")
        scaled = weight * affine.scale.reshape(-1, *[1] * (weight.ndim - 1))
        _set(graph, node, 1, scaled.astype(weight.dtype), "weight")
        return
    if np.any(affine.shift) and _pads(node):
        raise Refused(f"{node.op} {node.name} pads with zeros, which the shift does not reach")
    # [g, O/g, I/g, ...] with s and t as [g, 1, I/g, 1, ...]
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    shape = (groups, 1, -1, *[1] * (weight.ndim - 2))
    scaled = (grouped * affine.scale.reshape(shape)).reshape(weight.shape)
    terms = grouped * affine.shift.reshape(shape)
    shift = terms.reshape(weight.shape).sum(axis=tuple(range(1, weight.ndim)))
    bias = _bias(node, weight.shape[0]) + shift
    _set(graph, node, 1, scaled.astype(weight.dtype), "weight")
    _set(graph, node, 2, bias.astype(weight.dtype), "bias")


def _fold_into_gemm(graph: Graph, node: Node, weight: np.ndarray, affine: Affine) -> None:
    if node.attrs.get("transA", 0):
        raise Refused(f"Gemm {node.name} transposes its input")
    transposed = bool(node.attrs.get("transB", 0))
    matrix = weight.T if transposed else weight
    bias = node.attrs.get("beta", 1.0) * _bias(node, matrix.shape[1])
    bias = bias + node.attrs.get("alpha", 1.0) * (affine.shift @ matrix)
    factor = affine.scale if transposed else affine.scale[:, None]
    _set(graph, node, 1, (weight * factor).astype(weight.dtype), "weight")
    _set(graph, node, 2, bias.astype(weight.dtype), "bias")
    node.attrs["beta"] = 1.0


def _pads(conv: Node) -> bool:
    """Whether the operator may add zeros around its input."""
    auto = conv.attrs.get("auto_pad", "NOTSET")
    if auto == "NOTSET":
        return any(conv.attrs.get("pads", []))
    # SAME with a kernel of one element has nothing to pad.
    return auto != "VALID" and any(dim != 1 for dim in shape_of(conv.inputs[1])[2:])


def _producer(graph: Graph, tensor: Tensor, what: str) -> Node:
    """The node that makes ``tensor`` for the caller alone."""
    if not tensor.inputs:
        raise Refused(f"{what} is not computed by a node")
    if is_output(graph, tensor) or len(tensor.outputs) != 1:
        raise Refused(f"{what} ({tensor.name}) is used elsewhere too")
    if not any(tensor.inputs[0] is node for node in graph.nodes):
        raise Refused(f"{what} is computed in another scope")
    return tensor.inputs[0]


def _left_of_bias(graph: Graph, add: Node) -> Node | None:
    """The MatMul whose bias the Add adds; None if it is another sum."""
    operands = sorted(add.inputs, key=is_constant)  # the constant last, whichever side it is on
    if not is_constant(operands[1]) or is_constant(operands[0]) or not operands[0].inputs:
        return None
    if operands[0].inputs[0].op != "MatMul" or not is_standard(operands[0].inputs[0]):
        return None
    matmul = _producer(graph, operands[0], "the sum's operand")
    columns = matmul.inputs[1].shape[-1:] if is_constant(matmul.inputs[1]) else None
    known = matmul.outputs[0].shape
    shape = tuple(operands[1].shape)
    fits = known is not None and len(shape) <= len(known)
    one_each = shape[-1:] in ((), (1,), tuple(columns or ())) and not set(shape[:-1]) - {1}
    if columns is None or not fits or not one_each:
        raise Refused("the bias is not one value per channel")
    return matmul


def _sum_of(add: Node) -> str:
    made = [tensor.inputs[0] for tensor in add.inputs if tensor.inputs]
    return f"Add of {made[0].op} {made[0].name}" if made else f"Add {add.name}"


def _own(tensor: Tensor, what: str) -> np.ndarray:
    """The values of a constant that no other node reads."""
    if not is_constant(tensor):
        raise Refused(f"the {what} is not constant")
    if len(tensor.outputs) != 1:
        raise Refused(f"the {what} {tensor.name} is shared with another node")
    return tensor.values


def _bias(node: Node, channels: int) -> np.ndarray:
    tensor = optional_input(node, 2)
    if tensor is None:
        return np.zeros(channels)
    bias = _own(tensor, "bias")
    if bias.shape[-1:] not in ((), (1,), (channels,)):
        raise Refused(f"the bias is {list(bias.shape)} and does not fit {channels} channels")
    return bias


def _scaled(conv: Node, weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The weight of a convolution with its output channels scaled."""
    if conv.op == "Conv":
        scaled = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    else:
        groups = conv.attrs.get("group", 1)
        grouped = weight.reshape(groups, -1, *weight.shape[1:])
        scaled = grouped * scale.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
    result: np.ndarray = scaled.reshape(weight.shape).astype(weight.dtype)
    return result


def _set(graph: Graph, node: Node, index: int, values: np.ndarray, suffix: str) -> None:
    tensor = constant(unique_name(graph, f"{node.name}.{suffix}"), values)
    while len(node.inputs) <= index:
        node.inputs.append(tensor)
    node.inputs[index] = tensor
