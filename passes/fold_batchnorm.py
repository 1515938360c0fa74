"""Fold BatchNormalization into the linear operator before it.

    s = scale / sqrt(var + epsilon)        t = bias - mean * s

Before: ``BatchNormalization(Linear(x, W, b))``    After: ``Linear(x, W * s, b * s + t)``

1. Conv: W [O, I/g, ...] times s along axis 0.
2. ConvTranspose: W [I, O/g, ...]; output channel j of group i is s[i * O/g + j].
3. Gemm: alpha * A @ B + beta * C becomes alpha * A @ (B * s) + (beta * C * s + t); B is
   scaled along its output axis, which transB decides.
4. MatMul with a constant [K, O] on the right, and MatMul followed by Add of a constant: as Gemm.
   Only where channels are the last axis (rank 2).
5. Anything else, and each case that is refused (weights shared with another node or not constant,
   intermediate result used elsewhere or a graph output) becomes Mul by s and Add of t, with the
   reason in the changes.
6. BatchNormalization in training mode normalises with batch statistics: kept, with the reason. So
   is one that cannot be folded and whose input has an unknown rank.

s and t are computed in float64 and rounded once. Statistics that are not constants are turned into
standard operators that compute s and t.

Precondition: shapes are inferred. Postcondition: no BatchNormalization is left but those of rule 6.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .graph import (
    Graph,
    Node,
    PassResult,
    Tensor,
    add_node,
    constant,
    is_constant,
    is_standard,
    tidy,
    unique_name,
    variable,
)

_UNKNOWN_RANK = "the rank of its input is unknown"


class _Affine(NamedTuple):
    scale: np.ndarray  # [C], float64
    shift: np.ndarray  # [C], float64


class _Refused(Exception):
    """A fold that is not possible; the text is the reason."""


def fold_batchnorm(graph: Graph) -> PassResult:
    """Apply the rules above to every BatchNormalization of the main graph."""
    changes: list[str] = []
    candidates = [node for node in graph.nodes if node.op == "BatchNormalization"]
    for node in filter(is_standard, candidates):
        if node.attrs.get("training_mode", 0):
            changes.append(f"kept BatchNormalization {node.name}: it is in training mode")
            continue
        constants = all(is_constant(tensor) for tensor in node.inputs[1:5])
        if not constants and node.inputs[0].shape is None:
            changes.append(f"kept BatchNormalization {node.name}: {_UNKNOWN_RANK}")
            continue
        if not constants:
            _emit_affine(graph, node)
            changes.append(
                f"BatchNormalization {node.name}: scale and shift computed at run time, "
                "its statistics are not constants"
            )
            continue
        affine = _affine(node)
        try:
            linear = _fold(graph, node, affine)
            changes.append(f"BatchNormalization {node.name}: folded into {linear.op} {linear.name}")
        except _Refused as reason:
            if node.inputs[0].shape is None:
                changes.append(f"kept BatchNormalization {node.name}: {reason}, {_UNKNOWN_RANK}")
                continue
            _rewrite_as_mul_add(graph, node, affine)
            changes.append(f"BatchNormalization {node.name}: now Mul and Add, {reason}")
    tidy(graph)
    return PassResult(graph, changes)


def _affine(node: Node) -> _Affine:
    scale, bias, mean, var = (tensor.values.astype(np.float64) for tensor in node.inputs[1:5])
    factor = scale / np.sqrt(var + node.attrs.get("epsilon", 1e-5))
    return _Affine(factor, bias - mean * factor)


def _producer(graph: Graph, tensor: Tensor, what: str) -> Node:
    """The node that makes ``tensor`` for the caller alone."""
    if not tensor.inputs:
        raise _Refused(f"{what} is not computed by a node")
    if tensor in graph.outputs or len(tensor.outputs) != 1:
        raise _Refused(f"{what} ({tensor.name}) is used elsewhere too")
    return tensor.inputs[0]


def _own_constant(tensor: Tensor, what: str) -> np.ndarray:
    """The values of a constant that no other node reads."""
    if not is_constant(tensor):
        raise _Refused(f"the {what} is not constant")
    if len(tensor.outputs) != 1:
        raise _Refused(f"the {what} {tensor.name} is shared with another node")
    values: np.ndarray = tensor.values
    return values


def _fold(graph: Graph, node: Node, affine: _Affine) -> Node:
    linear = _producer(graph, node.inputs[0], "its input")
    fold = {
        "Conv": _fold_conv,
        "ConvTranspose": _fold_conv,
        "Gemm": _fold_gemm,
        "MatMul": _fold_matmul,
        "Add": _fold_matmul_add,
    }.get(linear.op)
    if fold is None or not is_standard(linear):
        raise _Refused(f"its input comes from {linear.op} {linear.name}")
    folded = fold(graph, linear, affine)
    output = node.outputs[0]
    node.outputs.clear()
    folded.outputs[0] = output
    return linear


def _optional_bias(node: Node, channels: int, dtype: np.dtype) -> np.ndarray:
    if len(node.inputs) > 2 and not node.inputs[2].is_empty():
        return _own_constant(node.inputs[2], "bias")
    return np.zeros(channels, dtype)


def _set_constant(graph: Graph, node: Node, index: int, values: np.ndarray, suffix: str) -> None:
    tensor = constant(unique_name(graph, f"{node.name}.{suffix}"), values)
    while len(node.inputs) <= index:
        node.inputs.append(tensor)
    node.inputs[index] = tensor


def _fold_conv(graph: Graph, conv: Node, affine: _Affine) -> Node:
    weight = _own_constant(conv.inputs[1], "weight")
    channels = len(affine.scale)
    bias = _optional_bias(conv, channels, weight.dtype)
    if conv.op == "Conv":
        scaled = weight * affine.scale.reshape(-1, *[1] * (weight.ndim - 1))
    else:
        groups = conv.attrs.get("group", 1)
        grouped = weight.reshape(groups, -1, *weight.shape[1:])
        scaled = grouped * affine.scale.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
    _set_constant(graph, conv, 1, scaled.reshape(weight.shape).astype(weight.dtype), "weight")
    shift = bias * affine.scale + affine.shift
    _set_constant(graph, conv, 2, shift.astype(weight.dtype), "bias")
    return conv


def _fold_gemm(graph: Graph, gemm: Node, affine: _Affine) -> Node:
    weight = _own_constant(gemm.inputs[1], "weight")
    bias = _optional_bias(gemm, len(affine.scale), weight.dtype)
    factor = affine.scale[:, None] if gemm.attrs.get("transB", 0) else affine.scale
    shift = gemm.attrs.get("beta", 1.0) * bias * affine.scale + affine.shift
    _set_constant(graph, gemm, 1, (weight * factor).astype(weight.dtype), "weight")
    _set_constant(graph, gemm, 2, shift.astype(weight.dtype), "bias")
    gemm.attrs["beta"] = 1.0
    return gemm


def _matmul_weight(matmul: Node, affine: _Affine) -> np.ndarray:
    weight = _own_constant(matmul.inputs[1], "weight")
    shape = matmul.outputs[0].shape
    if weight.ndim != 2 or shape is None or len(shape) != 2:
        raise _Refused("channels are not the last axis of the MatMul")
    if weight.shape[1] != len(affine.scale):
        raise _Refused("the MatMul has another number of channels")
    return weight


def _fold_matmul(graph: Graph, matmul: Node, affine: _Affine) -> Node:
    weight = _matmul_weight(matmul, affine)
    _set_constant(graph, matmul, 1, (weight * affine.scale).astype(weight.dtype), "weight")
    total = variable(unique_name(graph, f"{matmul.name}.unbiased"), matmul.outputs[0])
    matmul.outputs[0] = total
    shift = constant(unique_name(graph, f"{matmul.name}.bias"), affine.shift.astype(weight.dtype))
    return add_node(
        graph, "Add", unique_name(graph, f"{matmul.name}.add"), [total, shift], variable("")
    )


def _fold_matmul_add(graph: Graph, add: Node, affine: _Affine) -> Node:
    operands = sorted(add.inputs, key=is_constant)  # the constant last, whichever side it is on
    bias = _own_constant(operands[1], "bias")
    matmul = _producer(graph, operands[0], "the sum's operand")
    if matmul.op != "MatMul" or not is_standard(matmul):
        raise _Refused(f"its input comes from Add of {matmul.op} {matmul.name}")
    weight = _matmul_weight(matmul, affine)
    shift = bias * affine.scale + affine.shift
    if shift.shape not in {affine.shift.shape, (1, *affine.shift.shape)}:
        raise _Refused("the bias is not one value per channel")
    _set_constant(graph, matmul, 1, (weight * affine.scale).astype(weight.dtype), "weight")
    position = next(i for i, tensor in enumerate(add.inputs) if tensor is operands[1])
    _set_constant(graph, add, position, shift.astype(weight.dtype), "bias")
    return add


def _channel_shape(node: Node, channels: int) -> list[int]:
    """[C, 1, ..., 1], so that it broadcasts along axis 1 of the input."""
    return [channels] + [1] * (len(node.inputs[0].shape) - 2)


def _rewrite_as_mul_add(graph: Graph, node: Node, affine: _Affine) -> None:
    dtype = node.inputs[1].values.dtype
    shape = _channel_shape(node, len(affine.scale))
    factors = [
        constant(unique_name(graph, f"{node.name}.{what}"), values.astype(dtype).reshape(shape))
        for what, values in (("scale", affine.scale), ("shift", affine.shift))
    ]
    _append_mul_add(graph, node, *factors)


def _append_mul_add(graph: Graph, node: Node, scale: Tensor, shift: Tensor) -> None:
    x, output = node.inputs[0], node.outputs[0]
    node.outputs.clear()
    scaled = variable(unique_name(graph, f"{node.name}.scaled"), output)
    add_node(graph, "Mul", unique_name(graph, f"{node.name}.mul"), [x, scale], scaled)
    add_node(graph, "Add", unique_name(graph, f"{node.name}.add"), [scaled, shift], output)


def _emit_affine(graph: Graph, node: Node) -> None:
    """The rule for statistics known only at run time: compute s and t with standard operators."""
    _, gamma, beta, mean, var = node.inputs[:5]

    def emit(op: str, what: str, *inputs: Tensor) -> Tensor:
        output = variable(unique_name(graph, f"{node.name}.{what}"))
        add_node(graph, op, unique_name(graph, f"{node.name}.{what}_op"), list(inputs), output)
        return output

    dtype = gamma.dtype or np.float32
    epsilon = constant(
        unique_name(graph, f"{node.name}.epsilon"),
        np.array(node.attrs.get("epsilon", 1e-5), dtype),
    )
    target = constant(
        unique_name(graph, f"{node.name}.channel_shape"),
        np.array(_channel_shape(node, -1), np.int64),
    )
    deviation = emit("Sqrt", "deviation", emit("Add", "variance", var, epsilon))
    scale = emit("Div", "scale", gamma, deviation)
    shift = emit("Sub", "shift", beta, emit("Mul", "offset", mean, scale))
    _append_mul_add(
        graph,
        node,
        emit("Reshape", "scale_shaped", scale, target),
        emit("Reshape", "shift_shaped", shift, target),
    )
