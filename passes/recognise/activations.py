"""Activations that exporters write as arithmetic: one function per pattern.

Constants that are irrational may be off by 2e-4, as people round them; the others are exact.

1. Gelu:        x (1 + erf(x / sqrt 2)) / 2
   GeluTanh:    x (1 + tanh(u)) / 2 or x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3)
2. Swish:       x sigmoid(alpha x)
3. Mish:        x tanh(softplus(x))
4. HardSwish:   x clip(x / 6 + 1 / 2, 0, 1), clip(x + 3, 0, 6) / 6 or HardSigmoid in its place
5. HardSigmoid: clip(alpha x + beta, 0, 1), also with scaled bounds. Where beta is 0 it stays Clip.
6. Sigmoid:     1 / (1 + exp(-x))
7. Softplus:    log(1 + exp(x))
8. Softsign:    x / (1 + |x|)
9. Relu, Clip:  max and min with constants
10. LeakyRelu:  max(x, alpha x), 0 < alpha < 1

Each function takes the node that writes the result and returns a match or None. What it returns
is not yet checked for other users of the tensors in between.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ..graph.graph import Node, Tensor, is_constant
from .patterns import (
    Affine,
    Match,
    MatchScope,
    Polynomial,
    affine,
    clamp,
    is_about,
    is_elementwise,
    is_exactly,
    one_plus,
    polynomial,
)
from .selections import guarded_softplus

_IRRATIONAL = 2e-4


def match_activation(scope: MatchScope, last: Node) -> Match | None:
    """The activation whose result ``last`` writes, if it is one of the above."""
    match = _match(scope, last)
    return match if match is not None and is_elementwise(match) else None


def _match(scope: MatchScope, last: Node) -> Match | None:
    if last.op in ("Clip", "Min", "Max"):
        return _clamp(scope, last) or _leaky_relu(scope, last)
    if last.op == "Log":
        return _softplus(scope, last)
    whole = polynomial(scope, last)
    if whole is None:
        return None
    if len(whole.terms) == 2:
        return _gelu(scope, last, whole)
    if len(whole.terms) == 1:
        [(product, coefficient)] = whole.terms.items()
        if len(product) == 1:
            return _one_factor(scope, last, whole, product[0], coefficient)
        if len(product) == 2:
            return _gated(scope, last, whole, product, coefficient)
    return None


def _gelu(scope: MatchScope, last: Node, whole: Polynomial) -> Match | None:
    """x / 2 + x f(u) / 2."""
    linear, mixed = sorted(whole.terms, key=len)
    if len(linear) != 1 or len(mixed) != 2 or linear[0] not in mixed:
        return None
    x, gate = whole.tensors.get(linear[0]), whole.tensors.get(sum(mixed) - linear[0])
    if x is None or gate is None or not all(is_exactly(c, 0.5) for c in whole.terms.values()):
        return None
    function = scope.producer(gate, "Erf", "Tanh")
    if function is None:
        return None
    if function.op == "Erf":
        inner = affine(scope, function.inputs[0])
        if not _is_multiple(inner, x, math.sqrt(0.5)):
            return None
        return Match("Gelu", [x], (*whole.nodes, function, *inner.nodes), last)
    nodes = _gelu_tanh_argument(scope, function.inputs[0], x, 1.0)
    if nodes is None:
        return None
    return Match("GeluTanh", [x], (*whole.nodes, function, *nodes), last)


def _gelu_tanh_argument(
    scope: MatchScope, tensor: Tensor, x: Tensor, factor: float
) -> tuple[Node, ...] | None:
    """The nodes that compute factor * sqrt(2 / pi) * (x + 0.044715 x^3), if they do."""
    inner = polynomial(scope, tensor.inputs[0] if tensor.inputs else None)
    if inner is None or set(inner.terms) != {(id(x),), (id(x),) * 3}:
        return None
    slope, cubic = inner.terms[(id(x),)], inner.terms[(id(x),) * 3]
    if not is_about(slope, factor * math.sqrt(2 / math.pi), _IRRATIONAL):
        return None
    return inner.nodes if is_about(cubic, slope * 0.044715, _IRRATIONAL) else None


def _is_multiple(inner: Affine, x: Tensor, factor: float) -> bool:
    return inner.base is x and inner.offset == 0 and is_about(inner.scale, factor, _IRRATIONAL)


def _gated(
    scope: MatchScope, last: Node, whole: Polynomial, product: tuple[int, ...], coefficient: float
) -> Match | None:
    """coefficient * x * gate(x)."""
    for first, second in (product, product[::-1]):
        x = whole.tensors.get(first)
        if x is None:
            continue
        found = (
            _swish(scope, x, whole, second, coefficient)
            or _mish(scope, x, whole, second, coefficient)
            or _hard_swish(scope, x, whole, second, coefficient)
            or _softsign(scope, x, whole, second, coefficient)
        )
        if found is not None:
            op, attributes, nodes = found
            return Match(op, [x], (*whole.nodes, *nodes), last, attributes)
    return None


_Found = tuple[str, dict[str, float], tuple[Node, ...]]


def _swish(
    scope: MatchScope, x: Tensor, whole: Polynomial, gate: int, factor: float
) -> _Found | None:
    if not is_exactly(factor, 1):
        return None
    function = _sigmoid_of(scope, whole, gate)
    if function is None:
        return None
    argument, sign, nodes = function
    cubic = _gelu_tanh_argument(scope, argument, x, 2.0 * sign)
    if cubic is not None:
        return "GeluTanh", {}, (*nodes, *cubic)
    inner = affine(scope, argument)
    if inner.base is not x or inner.offset != 0:
        return None
    return "Swish", {"alpha": sign * inner.scale}, (*nodes, *inner.nodes)


def _sigmoid_of(
    scope: MatchScope, whole: Polynomial, factor: int
) -> tuple[Tensor, float, tuple[Node, ...]] | None:
    """(argument, sign, nodes) of sigmoid(sign * argument): Sigmoid, or 1 / (1 + exp(..))."""
    if factor in whole.tensors:
        sigmoid = scope.producer(whole.tensors[factor], "Sigmoid")
        return None if sigmoid is None else (sigmoid.inputs[0], 1.0, (sigmoid,))
    divisor = one_plus(scope, whole.tensors[-factor], "Exp")
    return None if divisor is None else (divisor[0], -1.0, divisor[1])


def _mish(
    scope: MatchScope, x: Tensor, whole: Polynomial, gate: int, factor: float
) -> _Found | None:
    if gate not in whole.tensors or not is_exactly(factor, 1):
        return None
    tanh = scope.producer(whole.tensors[gate], "Tanh")
    if tanh is None:
        return None
    softplus = _softplus_of(scope, tanh.inputs[0])
    if softplus is None or softplus[0] is not x:
        return None
    return "Mish", {}, (tanh, *softplus[1])


def _softplus_of(scope: MatchScope, tensor: Tensor) -> tuple[Tensor, tuple[Node, ...]] | None:
    """(argument, nodes) of Softplus, log(1 + exp(..)) or either with a guard against overflow."""
    where = scope.producer(tensor, "Where")
    if where is not None:
        guarded = guarded_softplus(scope, where)
        if guarded is None or guarded.op != "Softplus":
            return None
        return guarded.inputs[0], guarded.nodes
    softplus = scope.producer(tensor, "Softplus")
    if softplus is not None:
        return softplus.inputs[0], (softplus,)
    log = scope.producer(tensor, "Log")
    inner = None if log is None else one_plus(scope, log.inputs[0], "Exp")
    return None if log is None or inner is None else (inner[0], (log, *inner[1]))


def _softplus(scope: MatchScope, last: Node) -> Match | None:
    found = _softplus_of(scope, last.outputs[0])
    return None if found is None else Match("Softplus", [found[0]], found[1], last)


def _unit_clamps(scope: MatchScope, tensor: Tensor, factor: float) -> Iterator[Affine]:
    """The ways to read factor * tensor as clip(scale * base + offset, 0, 1), outermost last."""
    hard = scope.producer(tensor, "HardSigmoid")
    if hard is not None and factor == 1:
        alpha, beta = hard.attrs.get("alpha", 0.2), hard.attrs.get("beta", 0.5)
        inner = affine(scope, hard.inputs[0])
        offset = alpha * inner.offset + beta
        yield Affine(alpha * inner.scale, offset, inner.base, (hard, *inner.nodes))
    clamped = clamp(scope, tensor)
    if clamped is not None and clamped.low == 0 and is_about(factor * clamped.high, 1, 1e-3):
        if not is_exactly(factor * clamped.high, 1):
            return
        inner = affine(scope, clamped.base)
        nodes = (*clamped.nodes, *inner.nodes)
        yield Affine(factor * inner.scale, factor * inner.offset, inner.base, nodes)


def _hard_swish(
    scope: MatchScope, x: Tensor, whole: Polynomial, gate: int, factor: float
) -> _Found | None:
    if gate not in whole.tensors:
        return None
    for inner in _unit_clamps(scope, whole.tensors[gate], factor):
        exact = is_exactly(inner.scale, 1 / 6) and is_exactly(inner.offset, 0.5)
        if inner.base is x and exact:
            return "HardSwish", {}, inner.nodes
    return None


def _softsign(
    scope: MatchScope, x: Tensor, whole: Polynomial, gate: int, factor: float
) -> _Found | None:
    if gate in whole.tensors or not is_exactly(factor, 1):
        return None
    divisor = one_plus(scope, whole.tensors[-gate], "Abs")
    return None if divisor is None or divisor[0] is not x else ("Softsign", {}, divisor[1])


def _one_factor(
    scope: MatchScope, last: Node, whole: Polynomial, factor: int, coefficient: float
) -> Match | None:
    """coefficient * f(x): Sigmoid as a reciprocal, HardSigmoid as a scaled Clip."""
    if factor in whole.tensors:
        tensor = whole.tensors[factor]
        return _hard_sigmoid(scope, last, tensor, coefficient, whole.nodes)
    sigmoid = _sigmoid_of(scope, whole, factor)
    if sigmoid is None or coefficient != 1:
        return None
    argument, sign, nodes = sigmoid
    inner = affine(scope, argument)
    if inner.offset != 0 or sign * inner.scale != 1:
        return None
    return Match("Sigmoid", [inner.base], (*whole.nodes, *nodes, *inner.nodes), last)


def _hard_sigmoid(
    scope: MatchScope, last: Node, tensor: Tensor, factor: float, nodes: tuple[Node, ...]
) -> Match | None:
    if scope.producer(tensor, "HardSigmoid") is not None:
        return None
    for inner in _unit_clamps(scope, tensor, factor):
        if inner.scale != 0 and inner.offset != 0:
            attributes = {"alpha": inner.scale, "beta": inner.offset}
            return Match("HardSigmoid", [inner.base], (*nodes, *inner.nodes), last, attributes)
    return None


def _clamp(scope: MatchScope, last: Node) -> Match | None:
    result = last.outputs[0]
    hard_sigmoid = _hard_sigmoid(scope, last, result, 1.0, ())
    if hard_sigmoid is not None:
        return hard_sigmoid
    clamped = clamp(scope, result)
    if clamped is None or [node.op for node in clamped.nodes] == ["Clip"]:
        return None
    if (clamped.low, clamped.high) == (0, np.inf):
        return Match("Relu", [clamped.base], clamped.nodes, last)
    low = None if clamped.low == -np.inf else ("low", np.array(clamped.low))
    bounds = (low,) if clamped.high == np.inf else (low, ("high", np.array(clamped.high)))
    return Match("Clip", [clamped.base], clamped.nodes, last, {}, bounds)


def _leaky_relu(scope: MatchScope, last: Node) -> Match | None:
    if last.op != "Max" or len(last.inputs) != 2:
        return None
    for x, other in (last.inputs, last.inputs[::-1]):
        if is_constant(other):
            continue
        inner = affine(scope, other)
        if inner.base is x and inner.nodes and inner.offset == 0 and 0 < inner.scale < 1:
            return Match("LeakyRelu", [x], (last, *inner.nodes), last, {"alpha": inner.scale})
    return None
