"""Normalisations that exporters write as arithmetic.

    LayerNormalization:  (x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) * scale + bias
    RMSNormalization:    x / sqrt(mean(x^2) + epsilon) * scale

1. The means are over one or several neighbouring axes, the trailing ones or, as for channels that
   are axis 1, others but the first. They keep the axes, or Unsqueeze or Reshape puts them back. A
   mean may be a sum over the number of elements, and be expanded to the shape of x.
2. The division may be one, or a multiplication by a reciprocal (Reciprocal, 1 / .. or a power),
   times the scale or not; the square may be Pow or Mul; x - mean(x) may be computed twice. The
   variance may be mean(x^2) - mean(x)^2, as flax writes it, with 0 as the least.
3. Scale and bias belong to it where they are constants of the normalised axes alone. Without a
   constant scale the normalised shape must be known, as the operator needs ones of that shape.
4. Casts to float around the arithmetic belong to it where they are undone at the end; the operator
   computes in float, whatever the element type of x is.
5. Keras' order: x * (scale / sqrt(..)) + (bias - mean * (scale / sqrt(..))), also as a sum with
   -mean.

It is found at the node that divides, in Keras' order at the last Add.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..graph.graph import Node, Tensor, is_constant, rank_of, values_of
from .patterns import Match, MatchScope, clamp, is_exactly, scalar, with_scalar

_FLOATS = (np.float16, np.float32, np.float64)
_REDUCTIONS, _SHAPES = ("ReduceMean", "ReduceSum"), ("Unsqueeze", "Reshape", "Expand")
#: Nodes of a mean that is a sum, divided and brought into shape.
_MOST_OF_A_MEAN = 5


@dataclass(frozen=True)
class _Core:
    """x, normalised, before scale and bias."""

    x: Tensor
    centred: bool
    axes: tuple[int, ...]  # negative and ascending by 1
    epsilon: float
    nodes: tuple[Node, ...]
    scale: Tensor | None = None


class _Spread(NamedTuple):
    """mean(of^2, axes) + epsilon, or with ``centred`` the variance of it + epsilon."""

    of: Tensor
    centred: bool
    axes: tuple[int, ...]
    epsilon: float
    nodes: tuple[Node, ...]


class _Mean(NamedTuple):
    """mean(of, axes), with axes of length 1 or of their own length in their place."""

    of: Tensor
    axes: tuple[int, ...]
    nodes: tuple[Node, ...]


def match_norm(scope: MatchScope, node: Node) -> Match | None:
    """The normalisation that divides in ``node``, with the scale and bias after it."""
    if node.op == "Add":
        return _keras(scope, node)
    if node.op not in ("Mul", "Div"):
        return None
    core = _core(scope, node)
    if core is None:
        return None
    for with_casts in (True, False):
        match = _with_scale_and_bias(scope, core, node, with_casts)
        if match is not None and scope.is_closed(match):
            return match
    return None


def _core(scope: MatchScope, node: Node) -> _Core | None:
    for dividend, square_root, scale, nodes in _quotients(scope, node):
        spread = _spread(scope, square_root)
        if spread is None:
            continue
        core = _same_or_centred(scope, dividend, spread)
        if core is None:
            continue
        x, centred, rest = core
        if scale is not None and not _is_per_element(scale, x, spread.axes):
            continue
        involved = _distinct(node, *nodes, *spread.nodes, *rest)
        return _Core(x, centred, spread.axes, spread.epsilon, involved, scale)
    return None


def _distinct(*nodes: Node) -> tuple[Node, ...]:
    return tuple({id(node): node for node in nodes}.values())


def _quotients(
    scope: MatchScope, node: Node
) -> list[tuple[Tensor, Tensor, Tensor | None, tuple[Node, ...]]]:
    """(dividend, v, scale, nodes) for each way to read the node as dividend * scale / sqrt(v)."""
    if node.op == "Div":
        root = _root(scope, node.inputs[1], 0.5)
        return [] if root is None else [(node.inputs[0], root[0], None, root[1])]
    found: list[tuple[Tensor, Tensor, Tensor | None, tuple[Node, ...]]] = []
    for dividend, factor in _both_orders(node):
        for tensor, scale, nodes in _scaled(scope, factor):
            root = _inverse_root(scope, tensor)
            if root is not None:
                found.append((dividend, root[0], scale, (*nodes, *root[1])))
    return found


def _scaled(
    scope: MatchScope, tensor: Tensor
) -> list[tuple[Tensor, Tensor | None, tuple[Node, ...]]]:
    """(factor, scale, nodes) for each way to read the tensor as a factor times a scale."""
    product = scope.producer(tensor, "Mul")
    if product is None:
        return [(tensor, None, ())]
    return [(factor, scale, (product,)) for factor, scale in _both_orders(product)]


def _root(
    scope: MatchScope, tensor: Tensor, power: float
) -> tuple[Tensor, tuple[Node, ...]] | None:
    node = scope.producer(tensor, "Sqrt", "Pow")
    if node is None or (node.op == "Sqrt" and power != 0.5):
        return None
    if node.op == "Pow" and scalar(node.inputs[1]) != power:
        return None
    return node.inputs[0], (node,)


def _inverse_root(scope: MatchScope, tensor: Tensor) -> tuple[Tensor, tuple[Node, ...]] | None:
    node = scope.producer(tensor, "Reciprocal", "Div")
    if node is None:
        return _root(scope, tensor, -0.5)
    if node.op == "Div" and scalar(node.inputs[0]) != 1:
        return None
    root = _root(scope, node.inputs[-1], 0.5)
    return None if root is None else (root[0], (node, *root[1]))


def _spread(scope: MatchScope, tensor: Tensor) -> _Spread | None:
    """What is under the root; exporters drop a tiny epsilon."""
    add = scope.producer(tensor, "Add")
    epsilon, nodes = 0.0, []
    if add is not None:
        tensor, epsilon = next(with_scalar(add), (tensor, -1.0))
        nodes.append(add)
    if epsilon < 0:
        return None
    moment = _moment(scope, tensor)
    if moment is not None:
        return _Spread(moment.of, False, moment.axes, epsilon, (*nodes, *moment.nodes))
    variance = _variance(scope, tensor)
    if variance is None:
        return None
    return _Spread(variance.of, True, variance.axes, epsilon, (*nodes, *variance.nodes))


def _moment(scope: MatchScope, tensor: Tensor) -> _Mean | None:
    """mean(d^2) as a mean of d."""
    mean = _mean(scope, tensor)
    square = None if mean is None else _square(scope, mean.of)
    if mean is None or square is None:
        return None
    return _Mean(square[0], mean.axes, (*mean.nodes, square[1]))


def _variance(scope: MatchScope, tensor: Tensor) -> _Mean | None:
    """mean(x^2) - mean(x)^2, or 0 if that is larger, as a mean of x."""
    nodes: tuple[Node, ...] = ()
    least = clamp(scope, tensor)
    if least is not None and (least.low, least.high) == (0, np.inf):
        tensor, nodes = least.base, least.nodes
    sub = scope.producer(tensor, "Sub")
    if sub is None:
        return None
    moment, square = _moment(scope, sub.inputs[0]), _square(scope, sub.inputs[1])
    mean = None if square is None else _mean(scope, square[0])
    if moment is None or mean is None or square is None:
        return None
    if moment.of is not mean.of or moment.axes != mean.axes:
        return None
    return _Mean(mean.of, mean.axes, (*nodes, sub, *moment.nodes, square[1], *mean.nodes))


def _square(scope: MatchScope, tensor: Tensor) -> tuple[Tensor, Node] | None:
    square = scope.producer(tensor, "Pow", "Mul")
    if square is None:
        return None
    base, other = square.inputs
    is_square = _is_two(other) if square.op == "Pow" else other is base
    return (base, square) if is_square else None


def _mean(scope: MatchScope, tensor: Tensor) -> _Mean | None:
    nodes: list[Node] = []
    reached, factor, reshaped = tensor, 1.0, False
    while True:
        node = scope.producer(reached, *_REDUCTIONS, *_SHAPES, "Mul", "Div")
        if node is None or len(nodes) == _MOST_OF_A_MEAN:
            return None
        nodes.append(node)
        if node.op in _REDUCTIONS:
            break
        reached = node.inputs[0]
        if node.op in _SHAPES:
            reshaped = True
            continue
        reached, by = next(with_scalar(node), (reached, 0.0))
        if by == 0 or (node.op == "Div" and reached is not node.inputs[0]):
            return None
        factor *= by if node.op == "Mul" else 1 / by
    x, axes = node.inputs[0], _axes(node)
    if axes is None:
        return None
    if node.op == "ReduceSum":
        factor *= math.prod(_lengths(x, axes) or (0,))
    in_place = _has_ones(tensor, x, axes) if reshaped else node.attrs.get("keepdims", 1) == 1
    return _Mean(x, axes, tuple(nodes)) if in_place and is_exactly(factor, 1) else None


def _lengths(x: Tensor, axes: tuple[int, ...]) -> tuple[int, ...] | None:
    if x.shape is None or len(x.shape) < -axes[0]:
        return None
    lengths = [x.shape[axis] for axis in axes]
    known = tuple(length for length in lengths if isinstance(length, int) and length > 0)
    return known if len(known) == len(axes) else None


def _has_ones(mean: Tensor, x: Tensor, axes: tuple[int, ...]) -> bool:
    """Whether the mean has the shape of x, but for the axes, which may have length 1."""
    if mean.shape is None or x.shape is None or len(mean.shape) != len(x.shape):
        return False
    rank = len(x.shape)
    return all(
        (n == m and n is not None) or (i - rank in axes and n == 1)
        for i, (n, m) in enumerate(zip(mean.shape, x.shape, strict=True))
    )


def _is_two(tensor: Tensor) -> bool:
    return is_constant(tensor) and tensor.values.size == 1 and tensor.values.reshape(()) == 2


def _axes(reduction: Node) -> tuple[int, ...] | None:
    """The axes of a reduction counted from the end, if they are as rule 1 says."""
    axes = reduction.attrs.get("axes")
    if axes is None and len(reduction.inputs) > 1 and is_constant(reduction.inputs[1]):
        axes = reduction.inputs[1].values.tolist()
    if not axes:
        return None
    rank = rank_of(reduction.inputs[0])
    if rank is None and any(axis >= 0 for axis in axes):
        return None
    counted = sorted(axis if axis < 0 else axis - (rank or 0) for axis in axes)
    if counted != list(range(counted[0], counted[0] + len(counted))):
        return None
    is_trailing = counted[-1] == -1
    return tuple(counted) if is_trailing or (rank is not None and counted[0] > -rank) else None


def _same_or_centred(
    scope: MatchScope, dividend: Tensor, spread: _Spread
) -> tuple[Tensor, bool, tuple[Node, ...]] | None:
    """(x, True, nodes) if both are of x - mean(x); (x, False, nodes) if both are of x itself."""
    squared, axes = spread.of, spread.axes
    divided, cast_before = _uncast(scope, dividend)
    measured, cast_after = _uncast(scope, squared)
    x = _centred(scope, divided, axes)
    if spread.centred:
        same = x is not None and x[0] is squared
        return (squared, True, (*cast_before, *x[1])) if x is not None and same else None
    y = _centred(scope, measured, axes)
    if x is not None and y is not None and x[0] is y[0]:
        return x[0], True, (*cast_before, *cast_after, *x[1], *y[1])
    if dividend is squared:
        return dividend, False, ()
    if divided is measured:
        return divided, False, (*cast_before, *cast_after)
    return None


def _uncast(scope: MatchScope, tensor: Tensor) -> tuple[Tensor, tuple[Node, ...]]:
    cast = scope.producer(tensor, "Cast")
    if cast is None or cast.inputs[0].dtype not in _FLOATS:
        return tensor, ()
    return cast.inputs[0], (cast,)


def _centred(
    scope: MatchScope, tensor: Tensor, axes: tuple[int, ...]
) -> tuple[Tensor, tuple[Node, ...]] | None:
    sub = scope.producer(tensor, "Sub")
    mean = None if sub is None else _mean(scope, sub.inputs[1])
    if sub is None or mean is None or mean.of is not sub.inputs[0] or mean.axes != axes:
        return None
    return sub.inputs[0], (sub, *mean.nodes)


def _with_scale_and_bias(
    scope: MatchScope, core: _Core, node: Node, with_casts: bool
) -> Match | None:
    """The match, with Cast, Mul and Add after the division as far as they belong to it."""
    x, nodes, last = core.x, [*core.nodes], node
    if with_casts:
        cast = scope.producer(x, "Cast")
        if cast is None or not scope.used_only_by(x, core.nodes):
            return None
        x = cast.inputs[0]
        nodes.append(cast)
    scale: Tensor | None = core.scale
    bias: Tensor | None = None
    while (after := scope.consumer(last.outputs[0], "Mul", "Add", "Cast")) is not None:
        if after.op == "Cast":
            if not with_casts or last.outputs[0].dtype == x.dtype:
                break
        else:
            first, second = after.inputs
            other = second if first is last.outputs[0] else first
            if not _is_per_element(other, x, core.axes):
                break
            if after.op == "Mul" and scale is None and bias is None:
                scale = other
            elif after.op == "Add" and core.centred and bias is None:
                bias = other
            else:
                break
        nodes.append(after)
        last = after
    return _norm(x, core, scale, bias, tuple(nodes), last)


def _is_per_element(tensor: Tensor, x: Tensor, axes: tuple[int, ...]) -> bool:
    """Whether the tensor is a constant that varies along the normalised axes alone."""
    if not is_constant(tensor) or tensor.values.dtype not in _FLOATS:
        return False
    shape = tensor.values.shape
    known_rank = len(x.shape) if x.shape is not None else -axes[0]
    others = [n for i, n in enumerate(shape) if i - len(shape) not in axes]
    return len(shape) <= known_rank and all(n == 1 for n in others)


def _norm(
    x: Tensor,
    core: _Core,
    scale: Tensor | None,
    bias: Tensor | None,
    nodes: tuple[Node, ...],
    last: Node,
) -> Match | None:
    if x.dtype not in _FLOATS or last.outputs[0].dtype != x.dtype:
        return None
    shape = _normalised_shape(x, core.axes, scale)
    if shape is None:
        return None
    constants = []
    for what, tensor in (("scale", scale), ("bias", bias)):
        if tensor is None and what == "bias":
            continue
        values = np.ones(1) if tensor is None else values_of(tensor)
        values = values.reshape(values.shape[core.axes[0] :])
        if np.broadcast_shapes(values.shape, shape) != shape:
            return None
        constants.append((what, np.broadcast_to(values, shape)))
    attributes = {"axes": core.axes, "epsilon": core.epsilon}
    op = "LayerNormalization" if core.centred else "RMSNormalization"
    return Match(op, [x], _distinct(*nodes), last, attributes, tuple(constants))


def _normalised_shape(
    x: Tensor, axes: tuple[int, ...], scale: Tensor | None
) -> tuple[int, ...] | None:
    """The lengths of the axes, with 1 for those behind them."""
    behind = (1,) * (-1 - axes[-1])
    lengths = _lengths(x, axes)
    if lengths is not None:
        return lengths + behind
    # A scale that is not broadcast has the shape, unless a length of 1 hides it.
    values = np.ones(1) if scale is None else values_of(scale)
    shape = tuple(values.shape)
    if len(shape) != -axes[0] or 1 in shape[: len(axes)]:
        return None
    return shape


def _keras(scope: MatchScope, last: Node) -> Match | None:
    """x * inverse + (bias - mean * inverse), inverse = scale / sqrt(..)."""
    for left, right in _both_orders(last):
        multiply = scope.producer(left, "Mul")
        if multiply is None:
            continue
        for shift, negated, bias, involved in _shifts(scope, right):
            nodes = (last, multiply, *involved)
            for x, inverse in _both_orders(multiply):
                for mean, same in _both_orders(shift):
                    if same is not inverse:
                        continue
                    match = _keras_core(scope, x, inverse, (mean, negated), bias, nodes)
                    if match is not None:
                        return match
    return None


def _shifts(scope: MatchScope, tensor: Tensor) -> list[tuple[Node, bool, Tensor, tuple[Node, ...]]]:
    """(product, negated, bias, nodes): bias - product, or bias + product of a negated factor."""
    sub, add = scope.producer(tensor, "Sub"), scope.producer(tensor, "Add")
    found: list[tuple[Node, bool, Tensor, tuple[Node, ...]]] = []
    if sub is not None:
        product = scope.producer(sub.inputs[1], "Mul")
        if product is not None:
            found.append((product, False, sub.inputs[0], (sub, product)))
    for factor, bias in [] if add is None else _both_orders(add):
        product = scope.producer(factor, "Mul")
        if add is not None and product is not None:
            found.append((product, True, bias, (add, product)))
    return found


def _keras_core(
    scope: MatchScope,
    x: Tensor,
    inverse: Tensor,
    subtrahend: tuple[Tensor, bool],
    bias: Tensor,
    nodes: tuple[Node, ...],
) -> Match | None:
    mean, negated = subtrahend
    if negated:
        negation = scope.producer(mean, "Neg")
        if negation is None:
            return None
        mean, nodes = negation.inputs[0], (*nodes, negation)
    for tensor, scale, factor in _scaled(scope, inverse):
        root = _inverse_root(scope, tensor)
        spread = None if root is None else _spread(scope, root[0])
        if root is None or spread is None:
            continue
        axes, more = spread.axes, spread.nodes
        centred = (spread.of, ()) if spread.centred else _centred(scope, spread.of, axes)
        mean_of_x = _mean(scope, mean)
        if centred is None or centred[0] is not x or mean_of_x is None:
            continue
        if mean_of_x.of is not x or mean_of_x.axes != axes:
            continue
        if not all(_is_per_element(t, x, axes) for t in (scale, bias) if t is not None):
            continue
        involved = _distinct(*nodes, *factor, *root[1], *more, *centred[1], *mean_of_x.nodes)
        core = _Core(x, True, axes, spread.epsilon, involved)
        return _norm(x, core, scale, bias, involved, nodes[0])
    return None


def _both_orders(node: Node) -> list[tuple[Tensor, Tensor]]:
    first, second = node.inputs
    return [(first, second), (second, first)]
