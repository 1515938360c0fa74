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

from ..graph.graph import Node, Tensor, bodies, is_constant, is_standard, optional_input, rank_of
from .operators import Inputs, Role, properties, standard


class NotOverTimeError(ValueError):
    """A node that cannot be computed over several timesteps; the text names it and says why.

    Attributes:
        stepwise: it is in the way only where neurons fire as spikes come in, not of delayed ones.
    """

    def __init__(self, text: str, *, stepwise: bool = True) -> None:
        super().__init__(text)
        self.stepwise = stepwise


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
    what = standard(node)
    foreign = properties(node.op).role in (Role.ACTIVATION, Role.NORMALISATION)
    if not is_standard(node) and not foreign:
        raise _refused(node, f"an operator of the domain {node.domain}")
    _check_rows(node, timed)
    if not is_standard(node):
        return False
    if not what.per_row:
        raise _refused(node, "how it treats the rows of a batch is not known")
    if what.affine is None:
        return False
    if what.affine is Inputs.ALL:
        return True
    if what.affine is Inputs.ONE:
        return len(timed) == 1
    if what.affine is Inputs.LATER:
        return 0 not in timed
    if timed == {0}:
        casts = node.op in ("Cast", "CastLike")
        return not casts or (is_float(node.inputs[0]) and is_float(node.outputs[0]))
    if what.role is Role.LINEAR:
        raise _refused(node, "its weights or bias depend on time")
    if node.op in ("Div", "GatherElements") or (node.op == "Gather" and timed == {1}):
        return False
    raise _refused(node, "its parameters depend on time")


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
    if op == "Trilu" and (first is None or first == 2):
        raise _refused(node, mixes if first else "its rank is not known")
    if op == "Einsum":
        _check_einsum(node, timed)
    if op == "Transpose" and rank_of(node.outputs[0]) is None:
        raise _refused(node, "its rank is not known")
    along = properties(op).axis
    if along is not None and not moves_rows(node, timed):
        axis = int(node.attrs.get(*along))
        rank = next((rank for rank in ranks.values() if rank is not None), None)
        if op == "Gather" and timed == {1}:
            if axis != 0:
                raise _refused(node, mixes)
        elif axis == 0 or (axis < 0 and (rank is None or axis + rank == 0)):
            raise _refused(node, mixes if rank is not None else "its rank is not known")
    listed = properties(op).axes_input
    if listed is not None:
        grown = op == "Unsqueeze"
        axes = _axes(node, listed)
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
    if len(node.inputs) < 2 or not properties(node.op).broadcasts:
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


def _axes(node: Node, position: int) -> list[int] | None:
    """The axes that an input or attribute lists; None where they are not known, or are all."""
    axes = node.attrs.get("axes")
    tensor = optional_input(node, position)
    if axes is None and tensor is not None and is_constant(tensor):
        axes = tensor.values
    return None if axes is None else [int(axis) for axis in np.atleast_1d(np.asarray(axes))]
