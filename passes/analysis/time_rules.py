"""What operators do to a tensor that depends on time: the rules of ``spatial_to_temporal.py``.

A node is looked at as it stands in the spatial network, where axis 0 of what depends on time counts
rows. All operators here treat rows alike and apart from one another; those that do not, or are
not known, are refused with the reason.

1. Affine: the mean over steps of what it gives is what it gives of the mean. Conv, ConvTranspose,
   Gemm, MatMul and Einsum with constant weights; sums; products with, and quotients by, what does
   not depend on time; averages; operators that move values.
2. Not affine: everything else that is known. Activations, MaxPool, Softmax, normalisations,
   products of two signals, comparisons.
"""

from __future__ import annotations

import numpy as np

from ..graph.graph import (
    ANN_DOMAIN,
    Node,
    Tensor,
    bodies,
    is_constant,
    is_standard,
    optional_input,
    rank_of,
)
from .activations import ACTIVATION_OPS, NORMALISING_OPS


class NotOverTimeError(ValueError):
    """A node that cannot be computed over several timesteps; the text names it and says why.

    Attributes:
        stepwise: it is in the way only where neurons fire as spikes come in, not of delayed ones.
    """

    def __init__(self, text: str, *, stepwise: bool = True) -> None:
        super().__init__(text)
        self.stepwise = stepwise


#: Of one signal, element by element or within rows, whatever their attributes.
_AFFINE_ONE = frozenset(
    [
        *("Identity", "Neg", "Dropout", "AveragePool", "GlobalAveragePool", "BatchNormalization"),
        *("DepthToSpace", "SpaceToDepth", "Resize", "Upsample", "Reshape", "Expand", "Transpose"),
    ]
)
_SUMS = frozenset(["Add", "Sub", "Sum", "Mean"])
#: Element by element or within rows; axes that some of them have are checked.
_NOT_AFFINE = (
    ACTIVATION_OPS
    | NORMALISING_OPS
    | frozenset(
        [
            *("MaxPool", "GlobalMaxPool", "LpPool", "GlobalLpPool", "Max", "Min", "Pow", "Sqrt"),
            *("Exp", "Log", "Abs", "Reciprocal", "Sign", "Floor", "Ceil", "Round", "Mod", "Cast"),
            *("Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh"),
            *("Atanh", "IsNaN", "IsInf", "Not", "And", "Or", "Xor", "Equal", "Greater", "Less"),
            *("GreaterOrEqual", "LessOrEqual", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2"),
            *("ReduceProd", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare", "ArgMax"),
            *("ArgMin", "TopK", "CumSum", "Trilu", "GatherElements"),
        ]
    )
)
#: Their inputs are broadcast against each other.
BROADCASTING = _SUMS | frozenset(
    [
        *("Mul", "Div", "MatMul", "Max", "Min", "Pow", "Where", "Mod", "Equal", "Greater", "Less"),
        *("GreaterOrEqual", "LessOrEqual", "And", "Or", "Xor", "PRelu"),
    ]
)
_REDUCTIONS = frozenset(
    [
        *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2"),
        *("ReduceProd", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"),
    ]
)
#: Attribute of the axis that they work along, and its default.
_ALONG = {
    **dict.fromkeys(["Softmax", "LogSoftmax", "Hardmax", "LayerNormalization"], ("axis", -1)),
    **dict.fromkeys(["RMSNormalization", "TopK", "LpNormalization"], ("axis", -1)),
    **dict.fromkeys(["ArgMax", "ArgMin", "GatherElements", "Split", "Gather"], ("axis", 0)),
    "Concat": ("axis", 0),
    "Flatten": ("axis", 1),
}


def is_affine(node: Node, timed: set[int]) -> bool:
    """Whether a node follows rule 1, and not rule 2.

    Args:
        node: a node of the main graph, not a neuron.
        timed: positions of the inputs that depend on time.

    Raises:
        NotOverTimeError: it mixes rows, or what it does is not known.
    """
    if bodies(node):
        raise _refused(node, "it has control flow")
    standard = is_standard(node)
    if not standard and node.op not in ACTIVATION_OPS | NORMALISING_OPS:
        raise _refused(node, f"an operator of the domain {node.domain}")
    _check_rows(node, timed)
    if not standard or node.domain == ANN_DOMAIN:
        return False
    op, alone = node.op, len(timed) == 1
    if op in ("Conv", "ConvTranspose", "Gemm"):
        if timed != {0}:
            raise _refused(node, "its weights or bias depend on time")
        return True
    if op in ("MatMul", "Einsum", "Mul"):
        return alone
    if op == "Div":
        return timed == {0}
    if op == "Where":
        return 0 not in timed
    if op in _SUMS | {"Concat"}:
        return True
    if op == "Gather" and timed == {1}:
        return False
    if op in _AFFINE_ONE | {"Flatten", "Split", "Slice", "Gather", "Pad", "Squeeze", "Unsqueeze"}:
        if timed != {0}:
            raise _refused(node, "its parameters depend on time")
        return True
    if op in ("ReduceMean", "ReduceSum"):
        return True
    if op == "Cast" and is_float(node.inputs[0]) and is_float(node.outputs[0]):
        return True
    if op in _NOT_AFFINE:
        return False
    raise _refused(node, "how it treats the rows of a batch is not known")


def moves_rows(node: Node, timed: set[int]) -> bool:
    """Whether a node changes which axis the rows are, or selects some of them."""
    if node.op == "Transpose":
        order = node.attrs.get("perm")
        return order is None or int(order[0]) != 0
    return bool(node.op == "Gather" and timed == {0} and int(node.attrs.get("axis", 0)) == 0)


def _refused(node: Node, why: str) -> NotOverTimeError:
    return NotOverTimeError(f"{node.op} '{node.name}' depends on time, and {why}")


def is_float(tensor: Tensor) -> bool:
    """Whether a tensor is known to hold floats."""
    return isinstance(tensor.dtype, np.dtype) and tensor.dtype.kind == "f"


def _check_rows(node: Node, timed: set[int]) -> None:
    """Refuse what does not keep rows apart."""
    ranks = {at: rank_of(node.inputs[at]) for at in timed}
    if any(rank == 0 for rank in ranks.values()):
        raise _refused(node, "reads a scalar, which has no rows")
    mixes = "it mixes the rows of the batch"
    op, first = node.op, ranks.get(0)
    _check_broadcast(node, ranks)
    if op == "Gemm" and node.attrs.get("transA", 0):
        raise _refused(node, mixes)
    if op == "MatMul" and ranks.get(1) == 2:
        raise _refused(node, mixes)
    if op == "Einsum":
        _check_einsum(node, timed)
    if op == "Transpose" and rank_of(node.outputs[0]) is None:
        raise _refused(node, "its rank is not known")
    if op in _ALONG and not moves_rows(node, timed):
        name, default = _ALONG[op]
        axis = int(node.attrs.get(name, default))
        rank = next((rank for rank in ranks.values() if rank is not None), None)
        if op == "Gather" and timed == {1}:
            if axis != 0:
                raise _refused(node, mixes)
        elif axis == 0 or (axis < 0 and (rank is None or axis + rank == 0)):
            raise _refused(node, mixes if rank is not None else "its rank is not known")
    if op in _REDUCTIONS | {"Squeeze", "Unsqueeze", "Slice", "CumSum"}:
        grown = op == "Unsqueeze"
        axes = _axes(node)
        if axes is None:
            raise _refused(node, "its axes are not known")
        if any(
            axis == 0 or (axis < 0 and _reaches_first(axis, first, axes, grown)) for axis in axes
        ):
            raise _refused(node, mixes)
    if op == "Pad":
        _check_pad(node, mixes)
    if op == "Expand" and (first is None or rank_of(node.outputs[0]) != first):
        raise _refused(node, "it puts axes before the rows of the batch, or its rank is not known")


def _reaches_first(axis: int, rank: int | None, axes: list[int], grown: bool) -> bool:
    return rank is None or axis + rank + (len(axes) if grown else 0) <= 0


def _check_broadcast(node: Node, ranks: dict[int, int | None]) -> None:
    """Axis 0 of every input that depends on time has to be axis 0 of the output."""
    if len(node.inputs) < 2 or node.op not in BROADCASTING:
        return
    every = [rank_of(tensor) for tensor in node.inputs]
    if None in every:
        raise _refused(node, "its rank is not known")
    largest = max(rank for rank in every if rank is not None)
    if any(rank != largest for rank in ranks.values()):
        raise _refused(node, "its rows are not along axis 0 of what it gives")


def _check_einsum(node: Node, timed: set[int]) -> None:
    inputs, _, output = str(node.attrs["equation"]).replace(" ", "").partition("->")
    terms = inputs.split(",")
    labels = {terms[at][:1] for at in timed}
    if "..." in inputs or len(labels) != 1 or output[:1] not in labels:
        raise _refused(node, f"its equation {node.attrs['equation']} mixes the rows of the batch")


def _check_pad(node: Node, mixes: str) -> None:
    pads = optional_input(node, 1)
    if pads is None or not is_constant(pads) or len(node.inputs) > 3:
        raise _refused(node, "how much it pads is not known")
    values = np.asarray(pads.values).reshape(2, -1)
    if values[:, 0].any():
        raise _refused(node, mixes)


def _axes(node: Node) -> list[int] | None:
    """The axes of a node that works along some; None where they are not known, or are all."""
    axes = node.attrs.get("axes")
    tensor = optional_input(node, {"Slice": 3}.get(node.op, 1))
    if axes is None and tensor is not None and is_constant(tensor):
        axes = tensor.values
    return None if axes is None else [int(axis) for axis in np.atleast_1d(np.asarray(axes))]
