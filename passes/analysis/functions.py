"""What each activation computes, in numpy: what a staircase neuron's levels follow.

1. Standard operators and those of ``com.microsoft``, with their attributes or the defaults; the
   formulas are the operators' own. :data:`~.graph.ANN_DOMAIN`: the functions that stand for an
   activation the model's opset has no operator for.
2. float64 in, float64 out, element by element. The results stay accurate where the textbook
   formula overflows or cancels, and at infinity they are the function's limit.
3. Refused, with the reason: parameters that are not constants, not one number (PRelu with a slope
   per channel) or not finite; Clip with crossed bounds; an activation that is not listed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..graph.graph import (
    ANN_DOMAIN,
    Node,
    NodeExtras,
    Tensor,
    is_constant,
    is_standard,
    optional_input,
)

Function = Callable[[np.ndarray], np.ndarray]

_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class ActivationFunction:
    """The function that an activation applies to each element.

    Attributes:
        evaluate: float64 array of any shape -> float64 array of the same shape.
        homogeneous: whether f(a * x) = a * f(x) for every a > 0, so that a scale passes through.
    """

    evaluate: Function
    homogeneous: bool


class NotANeuron(Exception):
    """The node's function is not a known one of a single variable; the text is the reason."""


def activation_function(node: Node) -> ActivationFunction:
    """The function that ``node`` applies to its first input.

    Raises:
        NotANeuron: it is no function of that input alone, or not a known one.
    """
    if is_standard(node):
        known = _STANDARD
    elif node.domain == "com.microsoft":
        known = _MICROSOFT
    elif node.domain == ANN_DOMAIN:
        known = _ANN
    else:
        raise NotANeuron(f"operator of the domain {node.domain}")
    build = known.get(node.op)
    if build is None:
        raise NotANeuron(f"{node.op} is not a known activation function")
    return _quiet(build(node))


@dataclass
class _Described:
    """A node of no graph, without inputs."""

    op: str
    attrs: dict[str, Any]
    name: str = ""
    domain: str | None = None
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    extras: NodeExtras = field(default_factory=NodeExtras)


def function_of(op: str, **attributes: float) -> ActivationFunction:
    """What an operator of ONNX, or a function of :data:`~.graph.ANN_DOMAIN`, computes."""
    build = _ANN.get(op) or _STANDARD[op]
    return _quiet(build(_Described(op, attributes)))


def _quiet(function: ActivationFunction) -> ActivationFunction:
    evaluate = function.evaluate

    def quietly(x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):  # overflow and inf - inf in the branch not taken
            return evaluate(np.asarray(x, np.float64))

    return ActivationFunction(quietly, function.homogeneous)


def _attribute(node: Node, name: str, default: float) -> float:
    value = float(node.attrs.get(name, default))
    if not math.isfinite(value):
        raise NotANeuron(f"its {name} is {value}")
    return value


def _input(node: Node, index: int, name: str, default: float) -> float:
    """An optional constant input of one element."""
    tensor = optional_input(node, index)
    if tensor is None:
        return default
    if not is_constant(tensor):
        raise NotANeuron(f"its {name} is not constant")
    if tensor.values.size != 1:
        raise NotANeuron(f"its {name} is not a single value but has {tensor.values.size}")
    value = float(tensor.values.reshape(()))
    if math.isnan(value):
        raise NotANeuron(f"its {name} is nan")
    return value


def _gate(x: np.ndarray, gate: np.ndarray | float) -> np.ndarray:
    """``x * gate``, and 0 where the gate is closed even if x is infinite."""
    return np.where(gate == 0, 0.0, x * gate)


# The functions of fixed form.


def _erf(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.frompyfunc(math.erf, 1, 1)(x), np.float64)


def _erfc(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.frompyfunc(math.erfc, 1, 1)(x), np.float64)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    decay: np.ndarray = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1.0, decay) / (1.0 + decay))


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x))))


def _softsign(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.where(np.isinf(x), np.sign(x), x / (1.0 + np.abs(x))))


def _hard_swish(x: np.ndarray) -> np.ndarray:
    return _gate(x, np.clip(x / 6.0 + 0.5, 0.0, 1.0))


def _mish(x: np.ndarray) -> np.ndarray:
    return _gate(x, np.tanh(_softplus(x)))


def _gelu_erf(x: np.ndarray) -> np.ndarray:
    return _gate(x, 0.5 * _erfc(-x / math.sqrt(2.0)))


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    u = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)
    return _gate(x, _sigmoid(2.0 * u))  # (1 + tanh(u)) / 2, without its cancellation


# The functions of a node's attributes and constant inputs.


def _fixed(evaluate: Function, homogeneous: bool = False) -> Callable[[Node], ActivationFunction]:
    return lambda _node: ActivationFunction(evaluate, homogeneous)


def _clip(node: Node) -> ActivationFunction:
    low, high = _input(node, 1, "lower bound", -np.inf), _input(node, 2, "upper bound", np.inf)
    # The largest float32 is how exporters write 'no bound'.
    low = -np.inf if low <= -_FLOAT32_MAX else low
    high = np.inf if high >= _FLOAT32_MAX else high
    if low > high:
        raise NotANeuron(f"its lower bound {low:g} is above its upper bound {high:g}")
    homogeneous = low in (-np.inf, 0) and high in (np.inf, 0)
    return ActivationFunction(lambda x: np.clip(x, low, high), homogeneous)


def _leaky(slope: float) -> ActivationFunction:
    def evaluate(x: np.ndarray) -> np.ndarray:
        return np.where(x < 0, _gate(x, slope), x)

    return ActivationFunction(evaluate, homogeneous=True)


def _prelu(node: Node) -> ActivationFunction:
    slope = _input(node, 1, "slope", np.nan)
    if not math.isfinite(slope):
        raise NotANeuron(f"its slope is {slope}")
    return _leaky(slope)


def _thresholded_relu(node: Node) -> ActivationFunction:
    alpha = _attribute(node, "alpha", 1.0)
    return ActivationFunction(lambda x: np.where(x > alpha, x, 0.0), alpha == 0)


def _elu(node: Node) -> ActivationFunction:
    alpha = _attribute(node, "alpha", 1.0)
    return ActivationFunction(
        lambda x: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0.0)), x), alpha == 0
    )


def _selu(node: Node) -> ActivationFunction:
    alpha = _attribute(node, "alpha", 1.67326319217681884765625)
    gamma = _attribute(node, "gamma", 1.05070102214813232421875)
    return ActivationFunction(
        lambda x: gamma * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0))), alpha == 0
    )


def _celu(node: Node) -> ActivationFunction:
    alpha = _attribute(node, "alpha", 1.0)
    if alpha == 0:
        raise NotANeuron("its alpha is 0, which the operator divides by")
    return ActivationFunction(
        lambda x: np.maximum(x, 0.0) + np.minimum(alpha * np.expm1(x / alpha), 0.0), False
    )


def _hard_sigmoid(node: Node) -> ActivationFunction:
    alpha, beta = _attribute(node, "alpha", 0.2), _attribute(node, "beta", 0.5)
    return ActivationFunction(lambda x: np.clip(_gate(x, alpha) + beta, 0.0, 1.0), False)


def _swish_of(alpha: float) -> ActivationFunction:
    if alpha == 0:
        return ActivationFunction(lambda x: 0.5 * x, True)
    return ActivationFunction(lambda x: _gate(x, _sigmoid(alpha * x)), False)


def _swish(node: Node) -> ActivationFunction:
    return _swish_of(_attribute(node, "alpha", 1.0))


def _gelu(node: Node) -> ActivationFunction:
    approximate = node.attrs.get("approximate", "none")
    if approximate not in ("none", "tanh"):
        raise NotANeuron(f"its approximation {approximate!r} is unknown")
    return ActivationFunction(_gelu_tanh if approximate == "tanh" else _gelu_erf, False)


def _fast_gelu(node: Node) -> ActivationFunction:
    if any(not tensor.is_empty() for tensor in node.inputs[1:]):
        raise NotANeuron("it adds a bias of its own")
    return ActivationFunction(_gelu_tanh, False)


def _shrink(node: Node) -> ActivationFunction:
    lambd, bias = _attribute(node, "lambd", 0.5), _attribute(node, "bias", 0.0)

    def evaluate(x: np.ndarray) -> np.ndarray:
        return np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, 0.0))

    return ActivationFunction(evaluate, lambd == 0 and bias == 0)


_STANDARD: dict[str, Callable[[Node], ActivationFunction]] = {
    "Identity": _fixed(lambda x: x, homogeneous=True),
    "Relu": _fixed(lambda x: np.maximum(x, 0.0), homogeneous=True),
    "Clip": _clip,
    "LeakyRelu": lambda node: _leaky(_attribute(node, "alpha", 0.01)),
    "PRelu": _prelu,
    "ThresholdedRelu": _thresholded_relu,
    "Elu": _elu,
    "Selu": _selu,
    "Celu": _celu,
    "Softplus": _fixed(_softplus),
    "Softsign": _fixed(_softsign),
    "Sigmoid": _fixed(_sigmoid),
    "Tanh": _fixed(np.tanh),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _fixed(_hard_swish),
    "Swish": _swish,
    "Mish": _fixed(_mish),
    "Gelu": _gelu,
    "Erf": _fixed(_erf),
    "Shrink": _shrink,
}

_MICROSOFT: dict[str, Callable[[Node], ActivationFunction]] = {
    "Gelu": _fixed(_gelu_erf),
    "FastGelu": _fast_gelu,
    "QuickGelu": lambda node: _swish_of(_attribute(node, "alpha", 1.702)),
}

_ANN: dict[str, Callable[[Node], ActivationFunction]] = {
    "Gelu": _fixed(_gelu_erf),
    "GeluTanh": _fixed(_gelu_tanh),
    "Swish": _swish,
    "Mish": _fixed(_mish),
    "HardSwish": _fixed(_hard_swish),
}
