"""What operators do to a tensor that depends on time: the rules of ``spatial_to_temporal.py``.

A node is looked at as it stands in the spatial network. What it does to the rows of the batch is
told by ``rows.py``; those that mix them, or of which it is not known, are refused with the reason.

1. Affine: the mean over steps of what it gives is what it gives of the mean. Conv, ConvTranspose,
   Gemm, MatMul and Einsum with constant weights; sums; products with, and quotients by, what does
   not depend on time; averages; operators that move values.
2. Not affine: everything else that is known. Activations, MaxPool, Softmax, normalisations,
   products of two signals, comparisons.

Steps are joined with axis 0, [T * D, ...], where a node treats what lies along it apart from one
another. Where it does not, time is an axis of its own, [T, D, ...] (:func:`needs_time_apart`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from ..graph.graph import Graph, Node, Tensor, bodies, is_standard, optional_input, rank_of
from .operators import Inputs, Role, properties, standard
from .rows import (
    Found,
    RowsMixedError,
    axes_of,
    axis_of,
    follow_rows,
    padding,
    rows_behind,
    rows_of_input,
)

#: Operators that treat nothing along axis 0 apart, and take an axis in front of it.
_WHOLE = ("Tile", "GatherND")


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
        NotOverTimeError: what it does is not known, or nothing that can be done over time.
    """
    if bodies(node):
        raise refused(node, "it has control flow")
    what = standard(node)
    foreign = properties(node.op).role in (Role.ACTIVATION, Role.NORMALISATION)
    if not is_standard(node) and not foreign:
        raise refused(node, f"an operator of the domain {node.domain}")
    if not is_standard(node):
        return False
    if not what.per_row and node.op not in _WHOLE:
        raise refused(node, "how it treats the rows of a batch is not known")
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
        raise refused(node, "its weights or bias depend on time")
    if node.op in ("Div", "GatherElements") or (node.op == "Gather" and timed == {1}):
        return False
    raise refused(node, "its parameters depend on time")


def rows_over_time(node: Node, timed: set[int], rows: dict[int, Found]) -> list[Found]:
    """Follow the rows of the batch through a node.

    Args:
        node: of the main graph.
        timed: positions of the inputs that depend on time; all others count as parameters.
        rows: by the id of a tensor; what the node gives is added.

    Returns:
        Those of its inputs.

    Raises:
        NotOverTimeError: it mixes them.
    """
    own = [rows.get(id(tensor)) for tensor in node.inputs]
    try:
        found = rows_behind(node, [its if at in timed else None for at, its in enumerate(own)])
    except RowsMixedError as error:
        raise refused(node, str(error)) from error
    rows.update((id(tensor), its) for tensor, its in zip(node.outputs, found, strict=True))
    return own


def check_over_time(graph: Graph, fired: Collection[str]) -> None:
    """Refuse early what cannot be computed step by step; control flow is left for later.

    Args:
        graph: a network with known shapes.
        fired: tensors that neurons will give.

    Raises:
        NotOverTimeError: names the node.
    """
    rows = {id(tensor): rows_of_input(tensor) for tensor in graph.inputs}
    over_time: set[int] = set()
    for node in graph.nodes:
        timed = {at for at, tensor in enumerate(node.inputs) if id(tensor) in over_time}
        fires = {tensor.name for tensor in node.outputs} & set(fired)
        if node.op in ("Shape", "Size"):
            continue
        if fires or not timed:
            follow_rows(node, rows)
        elif not bodies(node):
            is_affine(node, timed)
            needs_time_apart(node, timed, rows_over_time(node, timed, rows))
        if fires or timed:
            over_time.update(id(tensor) for tensor in node.outputs)


def needs_time_apart(node: Node, timed: set[int], rows: Sequence[Found]) -> bool:
    """Whether a node does not treat what lies along axis 0 apart, so that steps must not join it.

    Args:
        node: one that :func:`is_affine` does not refuse.
        timed: positions of the inputs that depend on time.
        rows: of its inputs.

    Raises:
        NotOverTimeError: that is not known, or it can take no axis in front of others.
    """
    op, first = node.op, rank_of(node.inputs[0])
    what = standard(node)
    scalars = [*(node.inputs[at] for at in timed), *(node.outputs if op == "Reshape" else ())]
    if op in _WHOLE or any(rank_of(tensor) == 0 for tensor in scalars):
        return True
    if op == "Transpose":
        return _moves_first(node)
    if op == "Gemm" and node.attrs.get("transA", 0):
        raise refused(node, "it transposes it")
    if op == "Einsum":
        return _einsum_needs_it(node, timed)
    if op == "Trilu":
        return first is None or first == 2
    if op == "Expand":
        return _grows(node)
    if op == "Pad":
        pads = padding(node, first)
        if pads is None:
            raise refused(node, "how much it pads is not known")
        return bool(pads[:, 0].any())
    if what.broadcasts and len(node.inputs) > 1:
        return _broadcast_needs_it(node, timed, rows)
    if what.axis is not None:
        return _axis_needs_it(node, timed, rows)
    if what.axes_input is not None:
        return _axes_need_it(node)
    return False


def refused(node: Node, why: str) -> NotOverTimeError:
    """That a node cannot be computed over time; ``why`` stands behind "and"."""
    return NotOverTimeError(f"{node.op} '{node.name}' depends on time, and {why}")


def is_float(tensor: Tensor) -> bool:
    """Whether a tensor is known to hold floats."""
    return isinstance(tensor.dtype, np.dtype) and tensor.dtype.kind == "f"


def same_first(tensors: Sequence[Tensor], rows: Sequence[Found]) -> bool:
    """Whether tensors are known to have axis 0 of the same length.

    Args:
        tensors: of one rank.
        rows: of them.
    """
    if all(found is not None and found.axis == 0 for found in rows):
        return True
    lengths = {(tensor.shape or [None])[0] for tensor in tensors}
    return len(lengths) == 1 and lengths.pop() not in (None, "")


def _moves_first(node: Node) -> bool:
    order = node.attrs.get("perm")
    if order is None and rank_of(node.inputs[0]) is None:
        raise refused(node, "its rank is not known")
    return order is None or int(order[0]) != 0


def _einsum_needs_it(node: Node, timed: set[int]) -> bool:
    equation = str(node.attrs["equation"])
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    if not arrow:
        raise refused(node, f"its equation {equation} does not say what it gives")
    terms = inputs.split(",")
    labels = {terms[at][:1] for at in timed}
    return "..." in inputs or len(labels) != 1 or output[:1] not in labels


def _grows(node: Node) -> bool:
    """Whether an Expand puts axes in front, or makes the first one longer."""
    before, after = node.inputs[0].shape, node.outputs[0].shape
    if before is None or after is None:
        raise refused(node, "its rank is not known")
    return len(after) > len(before) or before[0] in (None, "", 1)


def _broadcast_needs_it(node: Node, timed: set[int], rows: Sequence[Found]) -> bool:
    """Unless axis 0 of every input that depends on time is axis 0 of what the node gives."""
    ranks = [rank_of(tensor) for tensor in node.inputs]
    if None in ranks:
        raise refused(node, "its rank is not known")
    largest = max(rank for rank in ranks if rank is not None)
    if node.op == "MatMul":
        _check_vectors(node, timed)
        if timed == {0} and ranks[1] in (1, 2):
            return ranks[0] == 1
        if largest == 2:
            return True
    whole = [
        at
        for at, tensor in enumerate(node.inputs)
        if at in timed or (ranks[at] == largest and (tensor.shape or [1])[0] != 1)
    ]
    if any(ranks[at] != largest for at in timed):
        return True
    return len(whole) > 1 and not same_first(
        [node.inputs[at] for at in whole], [rows[at] for at in whole]
    )


def _check_vectors(node: Node, timed: set[int]) -> None:
    """A MatMul has other rules for vectors; with an axis in front they are none any more."""
    first, second = (rank_of(tensor) for tensor in node.inputs[:2])
    if (first == 1 and 0 in timed and (second or 0) > 2) or (second == 1 and 1 in timed):
        raise refused(node, "it is a vector")


def _axis_needs_it(node: Node, timed: set[int], rows: Sequence[Found]) -> bool:
    at = 1 if node.op == "Gather" and timed == {1} else min(timed)
    rank = rank_of(node.inputs[at])
    axis = axis_of(node, rank)
    if node.op == "Gather" and at:
        if axis != 0:
            raise refused(node, "it selects along another axis than the first")
        return False
    if node.op == "GatherElements" and not same_first(node.inputs, rows):
        return True
    return axis in (0, None)  # one from the end needs no rank where time is apart


def _axes_need_it(node: Node) -> bool:
    axes, rank = axes_of(node), rank_of(node.inputs[0])
    if axes is None:
        if node.attrs.get("noop_with_empty_axes", 0) and optional_input(node, 1) is None:
            return False
        raise refused(node, "its axes are not known")
    if rank is None:
        return any(axis <= 0 for axis in axes)
    if node.op == "Unsqueeze":
        rank += len(axes)
    return any(axis in (0, -rank) for axis in axes)
