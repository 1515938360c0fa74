"""Fold BatchNormalization into the linear operator before or after it.

    s = scale / sqrt(var + epsilon)        t = bias - mean * s

1. BatchNormalization after Conv, ConvTranspose, Gemm, or MatMul of rank 2 (with or without Add of a
   bias) goes into its weights; otherwise, before Conv, Gemm or MatMul of rank 2, into theirs.
   The formulas and what each needs are in ``channel_affine.py``.
2. Mul, Div, Add and Sub of constants, one per channel or one for all, after such an operator go
   into its weights too: that is how older exporters write BatchNormalization. Add after MatMul
   stays: it is the bias. What cannot be folded stays as it is, with the reason.
3. Any other BatchNormalization (rank 2 and higher), and each that is refused, becomes Mul by s and
   Add of t, with the reason in the changes.
4. BatchNormalization in training mode normalises with batch statistics: kept, with the reason. So
   is one that cannot be folded and whose input has an unknown rank.

s and t are computed in float64 and rounded once. Statistics that are not constants are turned into
standard operators that compute s and t. Control-flow bodies are treated as the main graph is.

Precondition: shapes are inferred, nodes are sorted. Postcondition: no BatchNormalization is left
but those of rule 4.
"""

from __future__ import annotations

import numpy as np

from ..graph.graph import (
    Graph,
    Node,
    PassResult,
    Tensor,
    dtype_of,
    is_constant,
    is_standard,
    scopes,
    shape_of,
    tidy,
    unique_name,
    values_of,
)
from ..graph.surgeon import add_node, constant, variable
from .channel_affine import (
    Affine,
    Linear,
    Refused,
    fold_into_consumer,
    fold_into_producer,
    linear_before,
)

_UNKNOWN_RANK = "the rank of its input is unknown"


def fold_batchnorm(graph: Graph) -> PassResult:
    """Apply the rules above to every scope."""
    changes: list[str] = []
    for scope in [scope.graph for scope in scopes(graph)]:
        for node in list(scope.nodes):
            if not is_standard(node) or not node.outputs:
                continue
            if node.op == "BatchNormalization":
                changes.append(_batchnorm(scope, node))
            elif node.op in ("Mul", "Div", "Add", "Sub"):
                changes += _arithmetic(scope, node)
    tidy(graph)
    return PassResult(graph, changes)


def _batchnorm(graph: Graph, node: Node) -> str:
    if node.attrs.get("training_mode", 0):
        return f"kept BatchNormalization {node.name}: it is in training mode"
    if not all(is_constant(tensor) for tensor in node.inputs[1:5]):
        if node.inputs[0].shape is None:
            return f"kept BatchNormalization {node.name}: {_UNKNOWN_RANK}"
        _emit_affine(graph, node)
        return (
            f"BatchNormalization {node.name}: scale and shift computed at run time, "
            "its statistics are not constants"
        )
    affine = _affine(node)
    try:
        linear = linear_before(graph, node.inputs[0])
        if linear.axis != 1:
            raise Refused(f"channels are not the last axis of the {linear.node.op}")
        _fold(graph, node, linear, affine)
        return f"BatchNormalization {node.name}: folded into {linear.node.op} {linear.node.name}"
    except Refused as refused:
        reason = str(refused)
    try:
        after = fold_into_consumer(graph, node.inputs[0], affine, node.outputs[0])
        _detach(node)
        return f"BatchNormalization {node.name}: folded into {after.op} {after.name} after it"
    except Refused as refused:
        reason = f"{reason}; {refused}"
    if node.inputs[0].shape is None:
        return f"kept BatchNormalization {node.name}: {reason}, {_UNKNOWN_RANK}"
    _rewrite_as_mul_add(graph, node, affine)
    return f"BatchNormalization {node.name}: now Mul and Add, {reason}"


def _fold(graph: Graph, node: Node, linear: Linear, affine: Affine) -> None:
    if affine.scale.size != linear.channels:
        raise Refused(f"the {linear.node.op} has another number of channels")
    fold_into_producer(graph, linear, affine, node.outputs[0])
    _detach(node)


def _detach(node: Node) -> None:
    node.inputs.clear()
    node.outputs.clear()


def _arithmetic(graph: Graph, node: Node) -> list[str]:
    """The rule for Mul, Div, Add and Sub; other arithmetic than a linear operator's is no news."""
    x, values, position = _operands(node)
    if x is None or values is None or (node.op == "Div" and position == 0):
        return []
    if node.op == "Add" and x.inputs and x.inputs[0].op == "MatMul":
        return []
    try:
        linear = linear_before(graph, x)
    except Refused:
        return []
    try:
        affine = _affine_of_arithmetic(node, position, _per_channel(linear, values))
        _fold(graph, node, linear, affine)
    except Refused as reason:
        return [f"kept {node.op} {node.name}: {reason}"]
    return [f"{node.op} {node.name}: folded into {linear.node.op} {linear.node.name}"]


def _operands(node: Node) -> tuple[Tensor | None, np.ndarray | None, int]:
    """The computed operand, the values of the constant one, and the position of the latter."""
    for position in (1, 0):
        other, x = node.inputs[position], node.inputs[1 - position]
        if is_constant(other) and not is_constant(x):
            is_float = isinstance(other.dtype, np.dtype) and other.dtype.kind == "f"
            return x, other.values if is_float else None, position
    return None, None, 0


def _per_channel(linear: Linear, values: np.ndarray) -> np.ndarray:
    """The constant as one value for each channel of the operator's result."""
    shape = values.shape
    rank = len(shape) if linear.rank is None else linear.rank
    if len(shape) > rank or (linear.rank is None and len(shape) > 1):
        raise Refused("the constant may have more dimensions than what it is combined with")
    padded = values.reshape((1,) * (rank - len(shape)) + shape)
    others = [dim for axis, dim in enumerate(padded.shape) if axis != linear.axis % max(rank, 1)]
    if any(dim != 1 for dim in others) or values.size not in (1, linear.channels):
        raise Refused("the constant is not one value per channel")
    return np.broadcast_to(values.astype(np.float64).reshape(-1), (linear.channels,))


def _affine_of_arithmetic(node: Node, position: int, values: np.ndarray) -> Affine:
    ones, zeros = np.ones(values.size), np.zeros(values.size)
    if node.op == "Mul":
        affine = Affine(values, zeros)
    elif node.op == "Div":
        if not np.all(values):
            raise Refused("it divides by zero")
        affine = Affine(1 / values, zeros)
    elif node.op == "Add":
        affine = Affine(ones, values)
    elif position == 1:
        affine = Affine(ones, -values)
    else:
        affine = Affine(-ones, values)
    if not all(np.all(np.isfinite(part)) for part in affine):
        raise Refused("the constant is not finite")
    return affine


def _affine(node: Node) -> Affine:
    scale, bias, mean, var = (values_of(tensor).astype(np.float64) for tensor in node.inputs[1:5])
    factor = scale / np.sqrt(var + node.attrs.get("epsilon", 1e-5))
    return Affine(factor, bias - mean * factor)


def _channel_shape(node: Node, channels: int) -> list[int]:
    """[C, 1, ..., 1], so that it broadcasts along axis 1 of the input."""
    return [channels] + [1] * (len(shape_of(node.inputs[0])) - 2)


def _rewrite_as_mul_add(graph: Graph, node: Node, affine: Affine) -> None:
    dtype = values_of(node.inputs[1]).dtype
    shape = _channel_shape(node, len(affine.scale))
    factors = [
        constant(unique_name(graph, f"{node.name}.{what}"), values.astype(dtype).reshape(shape))
        for what, values in (("scale", affine.scale), ("shift", affine.shift))
    ]
    _append_mul_add(graph, node, *factors)


def _append_mul_add(graph: Graph, node: Node, scale: Tensor, shift: Tensor) -> None:
    x, output = node.inputs[0], node.outputs[0]
    _detach(node)
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

    dtype = np.dtype(np.float32) if gamma.dtype is None else dtype_of(gamma)
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
