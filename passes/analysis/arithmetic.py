"""What element-wise operators compute, in numpy: how a curve is known by its values.

1. The standard operators of the table below, and activations, which ``functions.py`` has. Floats
   are float64 whatever they are in the model, integers int64.
2. Refused: operators that are not listed, casts to floats that are less precise than float32,
   divisions of integers, which round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx import helper

from ..graph.graph import Node, is_standard
from .functions import NotANeuron, activation_function
from .operators import Role, properties

_Function = Callable[..., np.ndarray]


def _sum(*x: np.ndarray) -> np.ndarray:
    return np.asarray(sum(x[1:], x[0]))


def _mean(*x: np.ndarray) -> np.ndarray:
    return _sum(*x) / len(x)


def _largest(*x: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum.reduce(np.broadcast_arrays(*x)))


def _smallest(*x: np.ndarray) -> np.ndarray:
    return np.asarray(np.minimum.reduce(np.broadcast_arrays(*x)))


_FUNCTIONS: dict[str, _Function] = {
    "Identity": np.asarray,
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Sum": _sum,
    "Mean": _mean,
    "Max": _largest,
    "Min": _smallest,
    "Neg": np.negative,
    "Abs": np.abs,
    "Sign": np.sign,
    "Reciprocal": np.reciprocal,
    "Sqrt": np.sqrt,
    "Exp": np.exp,
    "Log": np.log,
    "Floor": np.floor,
    "Ceil": np.ceil,
    "Round": np.rint,
    "Sin": np.sin,
    "Cos": np.cos,
    "Tan": np.tan,
    "Asin": np.arcsin,
    "Acos": np.arccos,
    "Atan": np.arctan,
    "Sinh": np.sinh,
    "Cosh": np.cosh,
    "Asinh": np.arcsinh,
    "Acosh": np.arccosh,
    "Atanh": np.arctanh,
    "Where": np.where,
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Xor": np.logical_xor,
    "Not": np.logical_not,
    "IsNaN": np.isnan,
    "IsInf": np.isinf,
}
#: What they give bends or jumps where their operands are equal, or their operand is 0.
_OF_TWO = ("Max", "Min", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
_OF_ONE = ("Abs", "Sign", "Relu", "LeakyRelu", "Cast")


def computes(node: Node) -> bool:
    """Whether :func:`compute` knows the operator; of a known one it may still refuse the node."""
    if properties(node.op).role is Role.ACTIVATION:
        return True
    return is_standard(node) and (node.op in _FUNCTIONS or node.op in ("Cast", "CastLike"))


def compute(node: Node, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """What the node gives of these inputs, which are float64, int64 or bool.

    Raises:
        NotANeuron: see rule 2.
    """
    if properties(node.op).role is Role.ACTIVATION:
        return activation_function(node).evaluate(inputs[0])
    if not computes(node):
        raise NotANeuron(f"what {node.op} computes is not known")
    if node.op in ("Cast", "CastLike"):
        return _cast(node, inputs[0])
    if any(x.dtype.kind == "i" for x in inputs) and node.op in ("Div", "Pow", "Reciprocal", "Mean"):
        raise NotANeuron(f"{node.op} of integers rounds")
    with np.errstate(all="ignore"):
        return np.asarray(_FUNCTIONS[node.op](*inputs))


def differences(node: Node, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Arrays that change their sign where the node's result may bend or jump."""
    if node.op in _OF_ONE:
        return [inputs[0].astype(float)]
    if node.op not in _OF_TWO:
        return []
    with np.errstate(all="ignore"):
        return [inputs[0].astype(float) - other.astype(float) for other in inputs[1:]]


def _cast(node: Node, x: np.ndarray) -> np.ndarray:
    if node.op == "Cast":
        dtype = helper.tensor_dtype_to_np_dtype(int(node.attrs["to"]))
    else:
        like = node.inputs[1].dtype
        dtype = like if isinstance(like, np.dtype) else np.dtype(object)
    if dtype.kind == "b":
        return np.asarray(x != 0)
    if dtype.kind in "iu":
        with np.errstate(all="ignore"):
            return np.asarray(np.trunc(x.astype(float))).astype(np.int64)
    if dtype.kind != "f" or dtype.itemsize < 4:
        raise NotANeuron(f"it casts to {dtype}")
    return x.astype(np.float64)
