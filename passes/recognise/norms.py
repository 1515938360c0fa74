"""Normalisations that exporters write as arithmetic.

    LayerNormalization:  (x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) * scale + bias
    RMSNormalization:    x / sqrt(mean(x^2) + epsilon) * scale

1. The means are over one or several trailing axes and keep them.
2. The division may be one, or a multiplication by a reciprocal (Reciprocal, 1 / .. or a power);
   the square may be Pow or Mul; x - mean(x) may be computed twice.
3. Scale and bias belong to it where they are constants of the normalised axes alone. Without a
   constant scale the normalised shape must be known, as the operator needs ones of that shape.
4. Casts to float around the arithmetic belong to it where they are undone at the end; the operator
   computes in float, whatever the element type of x is.
5. Keras' order: x * (scale / sqrt(..)) + (bias - mean * (scale / sqrt(..))), also as a sum with
   -mean.

It is found at the node that divides, in Keras' order at the last Add.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..graph.graph import Node, Tensor, is_constant, shape_of, values_of
from .patterns import Match, MatchScope, scalar, with_scalar

_FLOATS = (np.float16, np.float32, np.float64)


@dataclass(frozen=True)
class _Core:
    """x, normalised, before scale and bias."""

    x: Tensor
    centred: bool
    axes: tuple[int, ...]  # negative and ascending, the last one is -1
    epsilon: float
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
    for dividend, square_root, nodes in _quotients(scope, node):
        deviation = _deviation(scope, square_root)
        if deviation is None:
            continue
        squared, axes, epsilon, more = deviation
        core = _same_or_centred(scope, dividend, squared, axes)
        if core is not None:
            x, centred, rest = core
            return _Core(x, centred, axes, epsilon, _distinct(node, *nodes, *more, *rest))
    return None


def _distinct(*nodes: Node) -> tuple[Node, ...]:
    return tuple({id(node): node for node in nodes}.values())


def _quotients(scope: MatchScope, node: Node) -> list[tuple[Tensor, Tensor, tuple[Node, ...]]]:
    """(dividend, v, nodes) for each way to read the node as dividend / sqrt(v)."""
    if node.op == "Div":
        root = _root(scope, node.inputs[1], 0.5)
        return [] if root is None else [(node.inputs[0], *root)]
    found = []
    for dividend, factor in _both_orders(node):
        root = _inverse_root(scope, factor)
        if root is not None:
            found.append((dividend, *root))
    return found


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


def _deviation(
    scope: MatchScope, tensor: Tensor
) -> tuple[Tensor, tuple[int, ...], float, tuple[Node, ...]] | None:
    """(d, axes, epsilon, nodes) of mean(d^2, axes) + epsilon; exporters drop a tiny epsilon."""
    add = scope.producer(tensor, "Add")
    epsilon, nodes = 0.0, []
    if add is not None:
        tensor, epsilon = next(with_scalar(add), (tensor, -1.0))
        nodes.append(add)
    mean = scope.producer(tensor, "ReduceMean")
    if mean is None or epsilon < 0:
        return None
    axes, square = _axes(mean), scope.producer(mean.inputs[0], "Pow", "Mul")
    if axes is None or square is None:
        return None
    squared = square.inputs[0]
    if square.op == "Pow" and not _is_two(square.inputs[1]):
        return None
    if square.op == "Mul" and square.inputs[1] is not squared:
        return None
    return squared, axes, epsilon, (*nodes, mean, square)


def _is_two(tensor: Tensor) -> bool:
    return is_constant(tensor) and tensor.values.size == 1 and tensor.values.reshape(()) == 2


def _axes(mean: Node) -> tuple[int, ...] | None:
    """The axes of a ReduceMean counted from the end, if they are the trailing ones and kept."""
    if mean.attrs.get("keepdims", 1) != 1:
        return None
    axes = mean.attrs.get("axes")
    if axes is None and len(mean.inputs) > 1 and is_constant(mean.inputs[1]):
        axes = mean.inputs[1].values.tolist()
    if not axes:
        return None
    shape = mean.inputs[0].shape
    if shape is None and any(axis >= 0 for axis in axes):
        return None
    counted = sorted(axis if axis < 0 else axis - len(shape_of(mean.inputs[0])) for axis in axes)
    return tuple(counted) if counted == list(range(-len(counted), 0)) else None


def _same_or_centred(
    scope: MatchScope, dividend: Tensor, squared: Tensor, axes: tuple[int, ...]
) -> tuple[Tensor, bool, tuple[Node, ...]] | None:
    """(x, True, nodes) if both are x - mean(x); (x, False, nodes) if both are x itself."""
    divided, cast_before = _uncast(scope, dividend)
    measured, cast_after = _uncast(scope, squared)
    x = _centred(scope, divided, axes)
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
    mean = None if sub is None else scope.producer(sub.inputs[1], "ReduceMean")
    if sub is None or mean is None or mean.inputs[0] is not sub.inputs[0] or _axes(mean) != axes:
        return None
    return sub.inputs[0], (sub, mean)


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
    scale: Tensor | None = None
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
    known_rank = len(x.shape) if x.shape is not None else len(axes)
    return len(shape) <= known_rank and all(n == 1 for n in shape[: -len(axes)])


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
        values = values.reshape(values.shape[-len(core.axes) :])
        if np.broadcast_shapes(values.shape, shape) != shape:
            return None
        constants.append((what, np.broadcast_to(values, shape)))
    attributes = {"axes": core.axes, "epsilon": core.epsilon}
    op = "LayerNormalization" if core.centred else "RMSNormalization"
    return Match(op, [x], _distinct(*nodes), last, attributes, tuple(constants))


def _normalised_shape(
    x: Tensor, axes: tuple[int, ...], scale: Tensor | None
) -> tuple[int, ...] | None:
    if x.shape is not None:
        shape = tuple(dim for dim in x.shape[-len(axes) :] if isinstance(dim, int) and dim > 0)
        if len(shape) == min(len(axes), len(x.shape)):
            return shape
    # A scale that is not broadcast has the shape, unless a length of 1 hides it.
    values = np.ones(1) if scale is None else values_of(scale)
    if 1 in values.shape[-len(axes) :]:
        return None
    return values.shape if values.ndim == len(axes) else None


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
    scaling = scope.producer(inverse, "Mul")
    readings: list[tuple[Tensor, Tensor | None, tuple[Node, ...]]] = [(inverse, None, ())]
    if scaling is not None:
        readings = [(root, scale, (scaling,)) for root, scale in _both_orders(scaling)]
    for tensor, scale, factor in readings:
        root = _inverse_root(scope, tensor)
        deviation = None if root is None else _deviation(scope, root[0])
        if root is None or deviation is None:
            continue
        squared, axes, epsilon, more = deviation
        centred = _centred(scope, squared, axes)
        mean_of_x = scope.producer(mean, "ReduceMean")
        if centred is None or centred[0] is not x or mean_of_x is None:
            continue
        if mean_of_x.inputs[0] is not x or _axes(mean_of_x) != axes:
            continue
        if not all(_is_per_element(t, x, axes) for t in (scale, bias) if t is not None):
            continue
        involved = _distinct(*nodes, *factor, *root[1], *more, *centred[1], mean_of_x)
        return _norm(x, _Core(x, True, axes, epsilon, involved), scale, bias, involved, nodes[0])
    return None


def _both_orders(node: Node) -> list[tuple[Tensor, Tensor]]:
    first, second = node.inputs
    return [(first, second), (second, first)]
