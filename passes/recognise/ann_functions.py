"""What the functions of :data:`~.graph.ANN_DOMAIN` compute, in standard operators.

They stand for an activation or a normalisation where the model's opset has no operator for it, and
have the operator's name, inputs and formula:

* Gelu(X), GeluTanh(X), Swish<alpha>(X), Mish(X): elementwise, in X's element type.
* LayerNormalization<axes, epsilon, stash_type>(X, Scale, Bias) and
  RMSNormalization<axes, epsilon, stash_type>(X, Scale): over ``axes``, which are negative and
  neighbours; Scale and Bias are broadcast to X; ``stash_type`` is the element type that is computed
  in, an ONNX type number.

The bodies use operators of opset 15 and newer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from onnx import FunctionProto, TensorProto, parser

from ..graph.graph import ANN_DOMAIN, Graph, define_function, opset_version

#: Opset in which ONNX got the operator; the others are as old as the oldest opset we rewrite.
_SINCE = {
    "LayerNormalization": 17,
    "Mish": 18,
    "Gelu": 20,
    "GeluTanh": 20,
    "RMSNormalization": 23,
    # ONNX has it since 24, but onnxruntime, 1.32 too, runs it in models of opset 24 alone.
    "Swish": math.inf,
}

_SIGNATURES = {
    "Gelu": "Gelu (X)",
    "GeluTanh": "GeluTanh (X)",
    "Swish": "Swish <alpha: float = 1.0> (X)",
    "Mish": "Mish (X)",
    "LayerNormalization": "LayerNormalization <axes: ints, epsilon: float = 1e-5, "
    "stash_type: int = 1> (X, Scale, Bias)",
    "RMSNormalization": "RMSNormalization <axes: ints, epsilon: float = 1e-5, "
    "stash_type: int = 1> (X, Scale)",
}

_BODIES = {
    "Gelu": """
        root = Constant <value_float: float = 1.4142135623730951> ()
        root_like = CastLike (root, X)
        scaled = Div (X, root_like)
        error = Erf (scaled)
        one = Constant <value_float: float = 1.0> ()
        one_like = CastLike (one, X)
        gate = Add (error, one_like)
        half = Constant <value_float: float = 0.5> ()
        half_like = CastLike (half, X)
        halved = Mul (X, half_like)
        Y = Mul (halved, gate)""",
    "GeluTanh": """
        cubic = Constant <value_float: float = 0.044715> ()
        cubic_like = CastLike (cubic, X)
        root = Constant <value_float: float = 0.7978845608028654> ()
        root_like = CastLike (root, X)
        one = Constant <value_float: float = 1.0> ()
        one_like = CastLike (one, X)
        half = Constant <value_float: float = 0.5> ()
        half_like = CastLike (half, X)
        square = Mul (X, X)
        cubic_share = Mul (square, cubic_like)
        factor = Add (cubic_share, one_like)
        stretched = Mul (X, factor)
        argument = Mul (stretched, root_like)
        bent = Tanh (argument)
        gate = Add (bent, one_like)
        halved = Mul (X, half_like)
        Y = Mul (halved, gate)""",
    "Swish": """
        alpha = Constant <value_float: float = @alpha> ()
        alpha_like = CastLike (alpha, X)
        scaled = Mul (X, alpha_like)
        gate = Sigmoid (scaled)
        Y = Mul (X, gate)""",
    "Mish": """
        smooth = Softplus (X)
        gate = Tanh (smooth)
        Y = Mul (X, gate)""",
    "LayerNormalization": """
        x = Cast <to: int = @stash_type> (X)
        mean = {mean of x}
        deviation = Sub (x, mean)
        two = Constant <value_float: float = 2.0> ()
        two_like = CastLike (two, x)
        square = Pow (deviation, two_like)
        variance = {mean of square}
        epsilon = Constant <value_float: float = @epsilon> ()
        epsilon_like = CastLike (epsilon, x)
        shifted = Add (variance, epsilon_like)
        spread = Sqrt (shifted)
        normal = Div (deviation, spread)
        normal_like = CastLike (normal, X)
        scaled = Mul (normal_like, Scale)
        Y = Add (scaled, Bias)""",
    "RMSNormalization": """
        x = Cast <to: int = @stash_type> (X)
        two = Constant <value_float: float = 2.0> ()
        two_like = CastLike (two, x)
        square = Pow (x, two_like)
        mean = {mean of square}
        epsilon = Constant <value_float: float = @epsilon> ()
        epsilon_like = CastLike (epsilon, x)
        shifted = Add (mean, epsilon_like)
        spread = Sqrt (shifted)
        normal = Div (x, spread)
        normal_like = CastLike (normal, X)
        Y = Mul (normal_like, Scale)""",
}

# Since opset 18 the axes of a mean are an input.
_AXES_ARE_AN_INPUT = 18


def ann_function(name: str, opset: int) -> FunctionProto:
    """The definition of one of the functions above, for a model of this opset (at least 15)."""
    body = _BODIES[name]
    for tensor in ("x", "square"):
        if opset < _AXES_ARE_AN_INPUT:
            mean = f"ReduceMean <axes: ints = @axes> ({tensor})"
        else:
            mean = f"ReduceMean ({tensor}, axes)"
        body = body.replace(f"{{mean of {tensor}}}", mean)
    if "ReduceMean" in body and opset >= _AXES_ARE_AN_INPUT:
        body = "\n        axes = Constant <value_ints: ints = @axes> ()" + body
    text = f'<domain: "{ANN_DOMAIN}", opset_import: ["" : {opset}]>\n{_SIGNATURES[name]} => (Y)'
    return parser.parse_function(f"{text}\n{{{body}\n}}")


class Spelled(NamedTuple):
    """How a node of a model calls an activation or a normalisation."""

    op: str
    attributes: dict[str, Any]
    domain: str | None


def spelled(graph: Graph, op: str, attributes: Mapping[str, Any], dtype: object) -> Spelled:
    """The operator, where the model's opset has it, else the function, which is defined there.

    Args:
        graph: of the model, whose opset is 15 or newer.
        op: an operator of ONNX of any opset, or GeluTanh.
        attributes: the operator's; of normalisations ``axes``, negative, and ``epsilon``.
        dtype: element type of what it is applied to.
    """
    opset, given = opset_version(graph), dict(attributes)
    axes = given.pop("axes", None)
    # ONNX normalises the last axes alone, the function any.
    is_function = opset < _SINCE.get(op, 0) or (axes is not None and axes[-1] != -1)
    if is_function:
        define_function(graph, ann_function(op, opset))
    if op == "GeluTanh" and not is_function:
        op, given = "Gelu", {"approximate": "tanh"}
    if axes is not None:
        if is_function:
            stash_type = TensorProto.DOUBLE if dtype == np.float64 else TensorProto.FLOAT
            given |= {"axes": list(axes), "stash_type": stash_type}
        else:
            given["axis"] = axes[0]
    return Spelled(op, given, ANN_DOMAIN if is_function else None)
