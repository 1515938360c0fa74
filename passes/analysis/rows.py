"""Where the rows of the batch are in a tensor: one rule per operator.

What is known of a tensor is the axis that the rows lie along, and how often they lie along it, one
batch after the other: of [B, heads, L, D] seen as [B * heads, L, D] axis 0, once; of [3, B, C] seen
as [3 * B, C] axis 0, three times. None where there are no rows (a batch of fixed size, parameters)
or where they are is not known.

Rows are mixed where a value of one depends on values of another: what reduces, normalises, sums,
joins or takes apart the axis that they lie along. A Gather along it is no mixture, it selects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..graph.graph import Node, Tensor, is_constant, is_standard, optional_input, rank_of
from .operators import properties

#: Of [L, B, C].
_SEQUENCE_RANK = 3
#: Inputs of a Slice. Ends from here on are those of any axis.
_BOUNDS, _STEP = (1, 2), 4
_END = 2**31 - 1


@dataclass(frozen=True)
class Rows:
    """The rows of the batch in a tensor.

    Attributes:
        axis: that they lie along, from 0.
        before: how many batches lie along it one after the other.
    """

    axis: int
    before: int = 1


Found = Rows | None


class RowsMixedError(ValueError):
    """An operator mixes the rows of the batch; the text says why, to stand behind "and"."""

    def __init__(self, text: str = "it mixes the rows of the batch") -> None:
        super().__init__(text)


def rows_of_input(tensor: Tensor) -> Found:
    """The rows of an input of the network: along axis 0, unless it is one, or may be a sequence.

    Of three axes the first may be the sequence, [L, B, C], where its length is fixed.
    """
    if not tensor.shape or tensor.shape[0] == 1:
        return None
    sequence = len(tensor.shape) == _SEQUENCE_RANK and isinstance(tensor.shape[0], int)
    return None if sequence else Rows(0)


def rows_behind(node: Node, rows: Sequence[Found]) -> list[Found]:
    """Where the rows are in what a node gives.

    Args:
        node: of the main graph.
        rows: of its inputs; None also of those that count as parameters.

    Raises:
        RowsMixedError: it mixes them.
    """
    known = [at for at, found in enumerate(rows) if found is not None]
    if not known or any(node.inputs[at].shape is None for at in known):
        return [None] * len(node.outputs)
    if not is_standard(node):  # neurons, and what is fused around an activation or a last axis
        return [rows[0]] * len(node.outputs)
    what = properties(node.op)
    rule = _RULES.get(node.op)
    if rule is None and what.axis is not None:
        rule = _along_axis
    elif rule is None and what.axes_input is not None:
        rule = _along_axes
    elif rule is None:
        rule = _broadcast if what.elementwise else _per_sample
    return [rule(node, rows)] * len(node.outputs)


def follow_rows(node: Node, rows: dict[int, Found]) -> None:
    """Through a node that does not depend on time and may do what it likes.

    Args:
        node: of the main graph.
        rows: by the id of a tensor; what the node gives is added.
    """
    try:
        found = rows_behind(node, [rows.get(id(tensor)) for tensor in node.inputs])
    except RowsMixedError:
        return
    rows.update((id(tensor), its) for tensor, its in zip(node.outputs, found, strict=True))


# What axes an operator works along ---------------------------------------------------------------


def axis_of(node: Node, rank: int | None) -> int | None:
    """The axis that an attribute names, from 0; None where the rank is needed and not known."""
    along = properties(node.op).axis
    assert along is not None
    axis = int(node.attrs.get(*along))
    if axis >= 0:
        return axis
    return None if rank is None else axis + rank


def axes_of(node: Node) -> list[int] | None:
    """The axes that an input or attribute lists, as listed; None: not known, or none listed.

    Slice without axes starts with axis 0.
    """
    position = properties(node.op).axes_input
    assert position is not None
    axes = node.attrs.get("axes")
    tensor = optional_input(node, position)
    if axes is None and tensor is not None:
        axes = tensor.values if is_constant(tensor) else None
    elif axes is None and node.op == "Slice":
        (count,) = node.inputs[1].shape or (None,)
        axes = range(count) if isinstance(count, int) else None
    elif axes is None and node.op == "Squeeze":
        lengths = node.inputs[0].shape
        if lengths is not None and all(isinstance(length, int) for length in lengths):
            axes = [at for at, length in enumerate(lengths) if length == 1]
    return None if axes is None else [int(axis) for axis in np.atleast_1d(np.asarray(axes))]


def takes_everything(node: Node, axis: int, rank: int) -> bool:
    """Whether a Slice takes all of an axis, in order."""
    axes = axes_of(node)
    if axes is None:
        return False
    at = next((at for at, listed in enumerate(axes) if listed % rank == axis), None)
    if at is None:
        return True
    start, end = (_listed(node, position, at) for position in _BOUNDS)
    step = 1 if optional_input(node, _STEP) is None else _listed(node, _STEP, at)
    length = (node.inputs[0].shape or [None] * rank)[axis]
    last = length if isinstance(length, int) else _END
    return start == 0 and step == 1 and end is not None and end >= last


def _listed(node: Node, position: int, at: int) -> int | None:
    tensor = node.inputs[position]
    return int(tensor.values.reshape(-1)[at]) if is_constant(tensor) else None


# Rules --------------------------------------------------------------------------------------------


def _first(rows: Sequence[Found]) -> Rows:
    return next(found for found in rows if found is not None)


def _rank(tensor: Tensor) -> int:
    assert tensor.shape is not None
    return len(tensor.shape)


def _joined(results: Sequence[Rows]) -> Rows:
    """Rows of one output, found from several inputs: along one axis, or each meets each."""
    if len({found.axis for found in results}) > 1:
        raise RowsMixedError
    return max(results, key=lambda found: found.before)


def _broadcast(node: Node, rows: Sequence[Found]) -> Found:
    ranks = [rank_of(tensor) for tensor in node.inputs if not tensor.is_empty()]
    if None in ranks:
        return None
    largest = max(rank for rank in ranks if rank is not None)
    return _joined(
        [
            replace(found, axis=found.axis + largest - _rank(tensor))
            for found, tensor in zip(rows, node.inputs, strict=True)
            if found is not None
        ]
    )


def _per_sample(node: Node, rows: Sequence[Found]) -> Found:
    """What computes on samples: axis 0 is kept apart, and axis 1 where channels do not meet."""
    what, found = properties(node.op), _first(rows)
    if not what.per_row:
        return None
    if found.axis == 0 or (what.role is None and found.axis == 1):
        return found
    if what.moves is not None and what.affine is not None:
        return None
    raise RowsMixedError


def _along_axis(node: Node, rows: Sequence[Found]) -> Found:
    """Softmax, TopK and others; ArgMax drops its axis."""
    found, rank = _first(rows), _rank(node.inputs[0])
    axis = axis_of(node, rank)
    assert axis is not None
    if axis == found.axis or (node.op == "LayerNormalization" and axis < found.axis):
        raise RowsMixedError
    return _behind(node, found, [axis])


def _along_axes(node: Node, rows: Sequence[Found]) -> Found:
    """Reductions and CumSum."""
    found, rank = _first(rows), _rank(node.inputs[0])
    axes = axes_of(node)
    if axes is None:
        if node.attrs.get("noop_with_empty_axes", 0) and optional_input(node, 1) is None:
            return found
        raise RowsMixedError("its axes are not known to be others than that of the rows")
    axes = [axis % rank for axis in axes]
    if found.axis in axes:
        raise RowsMixedError
    return _behind(node, found, axes)


def _behind(node: Node, found: Rows, axes: list[int]) -> Found:
    """The rows where what a node gives may have these axes no more."""
    before, after = rank_of(node.inputs[0]), rank_of(node.outputs[0])
    if after is None:
        return None
    return _without(found, axes) if after != before else found


def _without(found: Rows, axes: Sequence[int]) -> Rows:
    return replace(found, axis=found.axis - sum(axis < found.axis for axis in axes))


def _transpose(node: Node, rows: Sequence[Found]) -> Found:
    found, rank = _first(rows), _rank(node.inputs[0])
    order = list(node.attrs.get("perm", range(rank)[::-1]))
    return replace(found, axis=order.index(found.axis))


def _squeeze(node: Node, rows: Sequence[Found]) -> Found:
    found, rank = _first(rows), _rank(node.inputs[0])
    axes = axes_of(node)
    if axes is None:
        return None
    axes = [axis % rank for axis in axes]
    return None if found.axis in axes else _without(found, axes)


def _unsqueeze(node: Node, rows: Sequence[Found]) -> Found:
    found, axes = _first(rows), axes_of(node)
    if axes is None:
        return None
    rank = _rank(node.inputs[0]) + len(axes)
    new = {axis % rank for axis in axes}
    old = [axis for axis in range(rank) if axis not in new]
    return replace(found, axis=old[found.axis])


def _reshape(node: Node, rows: Sequence[Found]) -> Found:
    """What lies before the rows, as a number and names of lengths, lies before them again."""
    found = rows[0]
    lengths, shape = node.inputs[0].shape, node.outputs[0].shape
    if found is None or lengths is None or shape is None:
        return None
    outside = lengths[: found.axis]
    if not all(outside):
        return None
    names = [length for length in outside if isinstance(length, str)]
    left = found.before * int(np.prod([n for n in outside if isinstance(n, int)], dtype=np.int64))
    for axis, length in enumerate(shape):
        if isinstance(length, str) and length in names:
            names.remove(length)
        elif isinstance(length, int) and length and left % length == 0:
            left //= length
        elif names:
            return None
        elif left == 1:
            return Rows(axis)
        else:
            merged = isinstance(length, int) and length % left == 0
            return Rows(axis, left) if merged else None
    return None


def _flatten(node: Node, rows: Sequence[Found]) -> Found:
    """What several axes become has no rows that can be told apart any more."""
    found, rank = _first(rows), _rank(node.inputs[0])
    axis = axis_of(node, rank)
    if axis == 0:
        raise RowsMixedError
    return _reshape(node, rows) if found.axis else Rows(0, found.before)


def _expand(node: Node, rows: Sequence[Found]) -> Found:
    found, rank = rows[0], rank_of(node.outputs[0])
    if found is None or rank is None:
        return None
    return replace(found, axis=found.axis + rank - _rank(node.inputs[0]))


def _slice(node: Node, rows: Sequence[Found]) -> Found:
    found, rank = _first(rows), _rank(node.inputs[0])
    if takes_everything(node, found.axis, rank):
        return found
    if found.before == 1:
        raise RowsMixedError
    return None


def _split(node: Node, rows: Sequence[Found]) -> Found:
    found, count = _first(rows), len(node.outputs)
    if axis_of(node, _rank(node.inputs[0])) != found.axis or count == 1:
        return found
    if found.before == 1:
        raise RowsMixedError
    return replace(found, before=found.before // count) if found.before % count == 0 else None


def _concat(node: Node, rows: Sequence[Found]) -> Found:
    found = _joined([row for row in rows if row is not None])
    if axis_of(node, _rank(node.inputs[rows.index(found)])) != found.axis or len(rows) == 1:
        return found
    if found.before == 1:
        raise RowsMixedError
    return None


def _gather(node: Node, rows: Sequence[Found]) -> Found:
    data, indices = node.inputs
    axis = axis_of(node, rank_of(data))
    of_data, of_indices = rows
    if axis is None or indices.shape is None:
        return None
    if of_data is None:
        return replace(_first(rows), axis=axis + _first(rows).axis)
    if of_indices is not None or of_data.axis == axis:
        return None
    behind = of_data.axis > axis
    return replace(of_data, axis=of_data.axis + (len(indices.shape) - 1 if behind else 0))


def _nowhere(_: Node, __: Sequence[Found]) -> Found:
    return None


def _pad(node: Node, rows: Sequence[Found]) -> Found:
    found, rank = rows[0], rank_of(node.inputs[0])
    pads = padding(node, rank)
    if found is None or pads is None:
        return None
    if pads[:, found.axis].any():
        raise RowsMixedError
    return found


def padding(node: Node, rank: int | None) -> np.ndarray | None:
    """How much a Pad puts in front of and behind each axis, [2, rank]; None where not known."""
    if not is_constant(node.inputs[1]):
        return None
    values = np.asarray(node.inputs[1].values).reshape(2, -1)
    axes = optional_input(node, 3)
    if axes is None:
        return values
    if rank is None or not is_constant(axes):
        return None
    every = np.zeros((2, rank), np.int64)
    every[:, np.asarray(axes.values).reshape(-1) % rank] = values
    return every


def _trilu(node: Node, rows: Sequence[Found]) -> Found:
    found = _first(rows)
    if found.axis >= _rank(node.inputs[0]) - 2:
        raise RowsMixedError
    return found


def _matmul(node: Node, rows: Sequence[Found]) -> Found:
    ranks = [rank_of(tensor) for tensor in node.inputs]
    first, second = ranks
    if first is None or second is None or 1 in ranks:
        if any(row and rank == 1 for row, rank in zip(rows, ranks, strict=True)):
            raise RowsMixedError
        return None if None in ranks else rows[0] if second == 1 else rows[1]
    largest, results = max(first, second), []
    for found, rank, summed in ((rows[0], first, first - 1), (rows[1], second, second - 2)):
        if found is not None:
            if found.axis == summed:
                raise RowsMixedError
            results.append(replace(found, axis=found.axis + largest - rank))
    return _joined(results)


def _gemm(node: Node, rows: Sequence[Found]) -> Found:
    results = []
    for position, turned in ((0, "transA"), (1, "transB")):
        found = rows[position]
        if found is None:
            continue
        axis = 1 - found.axis if node.attrs.get(turned, 0) else found.axis
        if axis != position:
            raise RowsMixedError
        results.append(replace(found, axis=axis))
    return _joined(results) if results else None


def _einsum(node: Node, rows: Sequence[Found]) -> Found:
    inputs, arrow, output = str(node.attrs["equation"]).replace(" ", "").partition("->")
    if "..." in inputs or not arrow:
        return None
    terms = inputs.split(",")
    labels = {term[found.axis] for term, found in zip(terms, rows, strict=True) if found}
    (label,) = labels if len(labels) == 1 else ("",)
    if not label or label not in output:
        raise RowsMixedError(f"its equation {node.attrs['equation']} mixes the rows of the batch")
    return replace(_first(rows), axis=output.index(label))


def _batch_norm(_: Node, rows: Sequence[Found]) -> Found:
    found = _first(rows)
    if found.axis == 1:
        raise RowsMixedError
    return found


_RULES: Mapping[str, Callable[[Node, Sequence[Found]], Found]] = {
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Expand": _expand,
    "Tile": _expand,
    "Slice": _slice,
    "Split": _split,
    "Concat": _concat,
    "Gather": _gather,
    "GatherElements": _nowhere,
    "GatherND": _nowhere,
    "Pad": _pad,
    "Trilu": _trilu,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "BatchNormalization": _batch_norm,
}
