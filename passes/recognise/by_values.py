"""Activations that are known by their values, however they are written.

A subgraph of element-wise operators that reads one tensor, and constants of one value, is a curve
(``curves.py``). It is evaluated in float64 and compared with the activations below, whose
parameters are read from a few of its values.

1. Relu, Clip, LeakyRelu, ThresholdedRelu, Shrink, Elu, Celu, Selu, Sigmoid, HardSigmoid, Tanh,
   Softplus, Softsign, Erf, HardSwish, Swish, Mish, Gelu, GeluTanh.
2. PRelu with a slope per channel: the one curve whose constants may have several values.
3. It is one of them if it agrees to the rounding of its float32 constants at all values of a grid
   up to a million, its own constants and the neighbours of all values at which one of its operators
   bends or jumps. Where it jumps, the side that equality falls on follows from that.
4. Beyond 80 values that are not finite are left out: exp overflows there, where the activation has
   its limit. Nor are nan and infinity tried: a selection may give 0 of nan, and a mask nan of
   infinity, where the activation gives nan and its limit.
5. Left as they are: one activation alone; a neuron of Relu's kind inside, if the whole has none;
   what is about an activation in front of a Log or a divisor, which show a floor of 1e-7.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from ..analysis.curves import Curve, curves_ending_in
from ..analysis.functions import Function, NotANeuron, function_of
from ..analysis.operators import Role, properties
from ..analysis.small_values import close_reader
from ..graph.graph import Node, Tensor
from .patterns import Match, MatchScope, is_elementwise

_Constants = tuple[tuple[str, np.ndarray] | None, ...]

#: What tells the activations apart; the grid decides.
_PROBE = np.array([-1e6, -50, -5, -3, -2, -1, -0.5, 0, 0.5, 1, 2, 3, 5, 50, 1e6], np.float32)
_FIXED = (
    *("Sigmoid", "Tanh", "Softplus", "Softsign", "Erf"),
    *("HardSwish", "Mish", "Gelu", "GeluTanh"),
)
_OVERFLOWS_FROM = 80.0
#: Larger bounds are how exporters write that there is none.
_NO_BOUND = 1e30
#: Constants are float32, and irrational ones rounded: what that may change, relative and where
#: terms cancel.
_RELATIVE, _ABSOLUTE = 2e-6, 3e-7
#: What cancels in sums of float64.
_ROUNDING = 1e-13
_FROM_0_TO_1 = np.linspace(0.0, 1.0, 11)


@dataclass(frozen=True)
class _Candidate:
    """An activation with its parameters.

    Attributes:
        op: a name that ``recognise`` can emit.
        function: what it computes.
        attributes: of the new node.
        constants: its further inputs.
        slack: by how much values may differ where terms cancel; 0 where they are exact.
    """

    op: str
    function: Function
    attributes: Mapping[str, float] = field(default_factory=dict)
    constants: _Constants = ()
    slack: float = 0.0

    def agrees(self, x: np.ndarray, y: np.ndarray) -> bool:
        """Whether the activation gives ``y`` of ``x``."""
        x = x.astype(np.float64)
        with np.errstate(all="ignore"):
            own = self.function(x)
            relative = _RELATIVE if self.slack else _ROUNDING
            bound = relative * np.abs(own) + _ROUNDING * (np.abs(x) + 1) + self.slack
            close = np.abs(y - own) <= bound
        overflown = ~np.isfinite(y) & (np.abs(x) >= _OVERFLOWS_FROM)
        return bool(np.all(close | overflown))


def match_values(scope: MatchScope, last: Node, position: Mapping[int, int]) -> Match | None:
    """The activation whose result ``last`` writes, of the largest curve that is one.

    Args:
        scope: of the node.
        last: any node.
        position: of the scope's nodes, by id.
    """

    def is_hidden(tensor: Tensor, nodes: list[Node]) -> bool:
        return scope.holds(tensor.inputs[0]) and scope.used_only_by(tensor, nodes)

    found = None
    for curve in curves_ending_in(last, position, is_hidden):
        if len(curve.nodes) == 1 and properties(last.op).role is Role.ACTIVATION:
            continue
        if curve.is_affine:
            continue
        try:
            one = _named(curve)
        except NotANeuron:
            break
        if one is None or _loses_a_neuron(curve, one):
            continue
        if one.slack and close_reader(last.outputs[0], _FROM_0_TO_1) is not None:
            continue
        attributes = dict(one.attributes)
        match = Match(one.op, [curve.source], curve.nodes, last, attributes, one.constants)
        if is_elementwise(match):
            found = match
    return found


def _named(curve: Curve) -> _Candidate | None:
    if not curve.is_scalar:
        return _prelu(curve)
    y = curve(_PROBE)
    if y.shape != _PROBE.shape or y.dtype.kind != "f":
        return None
    likely = [one for one in _candidates(curve, y) if one.agrees(_PROBE, y)]
    if not likely:
        return None
    x, y = curve.grid, curve(curve.grid)
    return next((one for one in likely if one.agrees(x, y)), None)


def _candidates(curve: Curve, y: np.ndarray) -> Iterator[_Candidate]:
    """The activations, with the parameters that the values ``y`` of the probe tell."""
    f = dict(zip(_PROBE.tolist(), y.tolist(), strict=True))
    yield from _candidate("Relu", 0.0)
    yield from _clips(curve)
    slope = -f[-1]
    if slope > 0 and slope != 1:
        yield from _candidate("LeakyRelu", 0.0, alpha=slope)
        yield from _exponential(f)
    for op in _FIXED:
        yield from _candidate(op)
    if 0 < f[1] < 1 and f[1] != 0.5:
        yield from _candidate("Swish", alpha=math.log(f[1] / (1 - f[1])))
    if 0 < f[0] < 1:
        step = 2**-14
        near = float(curve(np.array([step]))[0])
        yield from _candidate("HardSigmoid", alpha=(near - f[0]) / step, beta=f[0])
    if f[0] == 0:
        yield from _thresholded(curve, f)


def _candidate(op: str, slack: float = _ABSOLUTE, **attributes: float) -> Iterator[_Candidate]:
    """One, or none if that has no such parameters."""
    with np.errstate(over="ignore"):
        rounded = {name: float(np.float32(value)) for name, value in attributes.items()}
    try:
        function = function_of(op, **rounded)
    except NotANeuron:
        return
    yield _Candidate(op, function.evaluate, rounded, slack=slack)


def _clips(curve: Curve) -> Iterator[_Candidate]:
    far = max([1e6, *(4 * abs(number) for number in curve.numbers if abs(number) < _NO_BOUND)])
    low, high = curve(np.array([-far, far])).tolist()
    low, high = -np.inf if low == -far else low, np.inf if high == far else high
    if low < high and np.isfinite([low, high]).any():
        first = None if low == -np.inf else ("low", np.array(low))
        bounds = (first,) if high == np.inf else (first, ("high", np.array(high)))
        yield _Candidate("Clip", lambda x: np.clip(x, low, high), {}, bounds)


def _exponential(f: Mapping[float, float]) -> Iterator[_Candidate]:
    alpha, gamma = f[-1] / math.expm1(-1), f[1]
    yield from _candidate("Elu", _ABSOLUTE * alpha, alpha=alpha)
    if gamma > 0:
        yield from _candidate(
            "Selu", _ABSOLUTE * min(alpha, gamma), alpha=alpha / gamma, gamma=gamma
        )
    if math.isfinite(f[-1e6]) and f[-1e6] < 0:
        yield from _candidate("Celu", _ABSOLUTE * -f[-1e6], alpha=-f[-1e6])


def _thresholded(curve: Curve, f: Mapping[float, float]) -> Iterator[_Candidate]:
    """What is 0 up to a threshold, on one side or on both."""
    if not (0.5e6 < f[1e6] < 2e6 and f[-1e6] in (0, -f[1e6])):
        return
    zero = (curve.grid > 0) & (curve(curve.grid) == 0)
    if not zero.any():
        return
    threshold, bias = float(curve.grid[zero].max()), 1e6 - f[1e6]
    yield from _candidate("ThresholdedRelu", 0.0, alpha=threshold)
    if math.isfinite(bias):
        yield from _candidate("Shrink", 0.0, lambd=threshold, bias=bias)


def _prelu(curve: Curve) -> _Candidate | None:
    x = _PROBE.astype(np.float64)
    y = curve(_PROBE)
    if y.dtype.kind != "f":
        return None
    slope = -y[_PROBE == -1][0]
    shape = slope.shape
    known = curve.source.shape
    if known is None or len(shape) > len(known) or not np.isfinite(slope).all():
        return None
    if any(n not in (1, dim) for n, dim in zip(shape[::-1], known[::-1], strict=False)):
        return None
    x = x.reshape(-1, *[1] * len(shape))
    expected = np.where(x < 0, slope * x, x)
    if y.shape != expected.shape or not np.allclose(y, expected, rtol=1e-12, atol=0):
        return None
    return _Candidate("PRelu", lambda x: x, {}, (("slope", slope),))


def _loses_a_neuron(curve: Curve, one: _Candidate) -> bool:
    """Whether a Relu, which is a neuron, would go into a Clip on one side, which is none."""
    one_sided = one.op == "Clip" and (len(one.constants) < 2 or one.constants[0] is None)
    return one_sided and any(node.op in ("Relu", "LeakyRelu") for node in curve.nodes)
