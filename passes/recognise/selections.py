"""Activations that exporters write with comparisons: one function per pattern.

A comparison may be any of >, >=, < and <=, with the constant on either side, negated by swapped
branches. Where the function jumps at the threshold, the side that equality falls on must be right.

1. Relu:            where(x > 0, x, 0)
2. LeakyRelu:       where(x > 0, x, alpha x)
3. ThresholdedRelu: where(x > c, x, 0)
4. Shrink:          where(|x| > c, x, 0) or where(x > c or x < -c, x, 0);
                    where(|x| > c, x - c sign(x), 0 x) or
                    where(x > c, x - c, 0) + where(x < -c, x + c, 0)
5. Softplus:        where(x > c, x, softplus(x)), c at least 15: a guard against overflow. With a
                    factor, where(b x > c, x, softplus(b x) / b), the guard goes and the rest stays.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..graph.graph import Node, Tensor
from .patterns import Match, MatchScope, affine, is_elementwise, scalar, with_scalar

#: softplus(x) - x above it is below 4e-7, less than a unit in the last place of a float32 x.
_SOFTPLUS_IS_LINEAR_FROM = 15.0


class _Selection(NamedTuple):
    """``above`` where the tensor is greater than the threshold, else ``below``."""

    tensor: Tensor
    threshold: float
    strict: bool  # equality selects below
    above: Tensor
    below: Tensor
    nodes: tuple[Node, ...]


def match_selection(scope: MatchScope, last: Node) -> Match | None:
    """The activation whose result ``last``, a Where or an Add, writes, if it is one of these."""
    match = _two_sided_softshrink(scope, last) if last.op == "Add" else _match_where(scope, last)
    return match if match is not None and is_elementwise(match) else None


def _match_where(scope: MatchScope, last: Node) -> Match | None:
    selection = _selection(scope, last)
    if selection is None:
        return _two_sided_hardshrink(scope, last)
    return (
        _rectified(selection, last)
        or _leaky_relu(scope, selection, last)
        or _shrink(scope, selection, last)
        or _guarded_softplus(scope, selection, last)
    )


def _selection(scope: MatchScope, where: Node) -> _Selection | None:
    condition, chosen, other = where.inputs
    compare = scope.producer(condition, "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
    read = None if compare is None else next(with_scalar(compare), None)
    if compare is None or read is None:
        return None
    tensor, threshold = read
    # chosen where tensor > threshold, unless 'Less' and a constant on the left each turn it round
    is_greater = compare.op.startswith("Greater") == (compare.inputs[0] is tensor)
    takes_equal = compare.op.endswith("OrEqual")
    nodes = (where, compare)
    if is_greater:
        return _Selection(tensor, threshold, not takes_equal, chosen, other, nodes)
    return _Selection(tensor, threshold, takes_equal, other, chosen, nodes)


def _rectified(selection: _Selection, last: Node) -> Match | None:
    x, threshold = selection.tensor, selection.threshold
    if selection.above is not x or scalar(selection.below) != 0:
        return None
    if threshold == 0:
        return Match("Relu", [x], selection.nodes, last)
    if not selection.strict:
        return None
    return Match("ThresholdedRelu", [x], selection.nodes, last, {"alpha": threshold})


def _leaky_relu(scope: MatchScope, selection: _Selection, last: Node) -> Match | None:
    x = selection.tensor
    below = affine(scope, selection.below)
    if selection.above is not x or selection.threshold != 0:
        return None
    if below.base is not x or below.offset != 0 or not below.nodes:
        return None
    nodes = (*selection.nodes, *below.nodes)
    return Match("LeakyRelu", [x], nodes, last, {"alpha": below.scale})


def _shrink(scope: MatchScope, selection: _Selection, last: Node) -> Match | None:
    """|x| compared with a threshold, in one comparison."""
    absolute = scope.producer(selection.tensor, "Abs")
    if absolute is None or not selection.strict or selection.threshold < 0:
        return None
    x, nodes = absolute.inputs[0], (*selection.nodes, absolute)
    attributes = {"lambd": selection.threshold, "bias": 0.0}
    zero = _is_zero(scope, selection.below, x)
    if zero is None:
        return None
    if selection.above is x:
        return Match("Shrink", [x], (*nodes, *zero), last, attributes)
    sub = scope.producer(selection.above, "Sub")
    if sub is None or sub.inputs[0] is not x:
        return None
    step = affine(scope, sub.inputs[1])
    sign = scope.producer(step.base, "Sign")
    if sign is None or sign.inputs[0] is not x or step.offset != 0:
        return None
    attributes["bias"] = step.scale
    return Match("Shrink", [x], (*nodes, *zero, sub, *step.nodes, sign), last, attributes)


def _is_zero(scope: MatchScope, tensor: Tensor, x: Tensor) -> tuple[Node, ...] | None:
    """The nodes that compute 0, or 0 * x as some write it; None if it is something else."""
    if scalar(tensor) == 0:
        return ()
    inner = affine(scope, tensor)
    return inner.nodes if inner.base is x and inner.scale == 0 and inner.offset == 0 else None


def _two_sided_hardshrink(scope: MatchScope, last: Node) -> Match | None:
    either = scope.producer(last.inputs[0], "Or")
    if either is None or scalar(last.inputs[2]) != 0:
        return None
    x, nodes, bounds = last.inputs[1], [last, either], {}
    for tensor in either.inputs:
        cast = scope.producer(tensor, "Cast")
        if cast is not None and cast.inputs[0].dtype == np.bool_:
            nodes.append(cast)
            tensor = cast.inputs[0]
        compare = scope.producer(tensor, "Greater", "Less")
        if compare is None or compare.inputs[0] is not x:
            return None
        nodes.append(compare)
        bounds[compare.op] = scalar(compare.inputs[1])
    threshold, mirrored = bounds.get("Greater"), bounds.get("Less")
    if threshold is None or mirrored is None or threshold < 0 or mirrored != -threshold:
        return None
    return Match("Shrink", [x], tuple(nodes), last, {"lambd": threshold, "bias": 0.0})


def _two_sided_softshrink(scope: MatchScope, last: Node) -> Match | None:
    sides = [_one_sided_softshrink(scope, tensor) for tensor in last.inputs]
    if len(sides) != 2 or sides[0] is None or sides[1] is None:
        return None
    (x, threshold, nodes), (y, other, more) = sides[0], sides[1]
    if x is not y or threshold != -other:
        return None
    attributes = {"lambd": abs(threshold), "bias": abs(threshold)}
    return Match("Shrink", [x], (last, *nodes, *more), last, attributes)


def _one_sided_softshrink(
    scope: MatchScope, tensor: Tensor
) -> tuple[Tensor, float, tuple[Node, ...]] | None:
    """where(x > c, x - c, 0) for c > 0, where(x < c, x - c, 0) for c < 0."""
    where = scope.producer(tensor, "Where")
    selection = None if where is None else _selection(scope, where)
    if selection is None or selection.threshold == 0:
        return None
    x, threshold = selection.tensor, selection.threshold
    moved, zero = selection.above, selection.below
    if threshold < 0:
        moved, zero = zero, moved
    inner = affine(scope, moved)
    if scalar(zero) != 0 or inner.base is not x:
        return None
    if inner.scale != 1 or inner.offset != -threshold:
        return None
    return x, threshold, (*selection.nodes, *inner.nodes)


def guarded_softplus(scope: MatchScope, last: Node) -> Match | None:
    """Pattern 5, for patterns that have a Softplus inside."""
    selection = _selection(scope, last)
    return None if selection is None else _guarded_softplus(scope, selection, last)


def _guarded_softplus(scope: MatchScope, selection: _Selection, last: Node) -> Match | None:
    if selection.threshold < _SOFTPLUS_IS_LINEAR_FROM:
        return None
    tensor, nodes = selection.tensor, selection.nodes
    softplus = scope.producer(selection.below, "Softplus")
    if softplus is not None and softplus.inputs[0] is tensor and selection.above is tensor:
        return Match("Softplus", [tensor], (*nodes, softplus), last)
    divide = scope.producer(selection.below, "Div")
    times = scope.producer(tensor, "Mul")
    if divide is None or times is None:
        return None
    softplus = scope.producer(divide.inputs[0], "Softplus")
    if softplus is None or softplus.inputs[0] is not tensor:
        return None
    factor = scalar(divide.inputs[1])
    if factor is None or factor <= 0 or (selection.above, factor) not in with_scalar(times):
        return None
    return Match("Div", list(divide.inputs), (*nodes, divide), last)
