"""Read a scalar where an operand has one value all over, as zeros_like and full_like make it.

1. Filled are: ConstantOfShape; a constant whose elements are all the same; what Expand, Tile,
   Reshape, Squeeze, Unsqueeze, Transpose, Flatten, Identity, Cast and CastLike make of a filled
   tensor, and element-wise operators of filled tensors.
2. An element-wise operator reads a scalar in its place where that does not change the shape of the
   result: another operand has the filled tensor's shape. A constant may also be broadcast into it,
   where it is compared or selected; as a summand or factor it may be a parameter per channel.
3. Shapes are the same where all lengths are, names of lengths included, or where one is by
   construction: the filled tensor's shape is Shape of a tensor that, by element-wise operators
   alone, depends on the same tensor as the operand.

Floats only; integers are shapes.
"""

from __future__ import annotations

import math

import numpy as np

from ..analysis.arithmetic import compute, computes
from ..analysis.functions import NotANeuron
from ..analysis.operators import Inputs, standard
from ..graph.graph import (
    Graph,
    Node,
    Tensor,
    is_constant,
    is_standard,
    scopes,
    unique_name,
)
from ..graph.surgeon import constant

#: How far to look back for what fills a tensor, and for where a shape comes from.
_DEPTH = 32
#: How much of that each arithmetic operator takes: it looks back twice.
_OF_ARITHMETIC = 8
_KEEPS_FILLED = frozenset(
    [
        *("Expand", "Tile", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Flatten", "Identity"),
        *("Cast", "CastLike"),
    ]
)


def filled_operands(graph: Graph) -> list[str]:
    """Apply the rules in every scope, in place; the dead nodes are for ``tidy`` to drop.

    Precondition: shapes are inferred.

    Returns:
        One line per operand.
    """
    changes = []
    shapes = _Shapes()
    for scope in [scope.graph for scope in scopes(graph)]:
        for node in scope.nodes:
            if not _broadcasts(node):
                continue
            for position, tensor in enumerate(node.inputs):
                value = None if _is_scalar(tensor) else _fill(tensor)
                if value is None or not _is_shaped_by_another(node, position, shapes):
                    continue
                name = unique_name(graph, f"{tensor.name}.scalar")
                node.inputs[position] = constant(name, value)
                changes.append(f"{node.op} {node.name}: reads {value} in place of {tensor.name}")
    return changes


def _broadcasts(node: Node) -> bool:
    what = standard(node)
    return what.elementwise and what.broadcasts and len(node.inputs) > 1


def _is_scalar(tensor: Tensor) -> bool:
    return is_constant(tensor) and math.prod(tensor.shape) == 1


def _producer(tensor: Tensor) -> Node | None:
    """The standard operator that computes the tensor as its only output."""
    node = tensor.inputs[0] if len(tensor.inputs) == 1 else None
    return node if node is not None and is_standard(node) and len(node.outputs) == 1 else None


def _fill(tensor: Tensor, depth: int = _DEPTH) -> np.ndarray | None:
    """The one value of a tensor, a scalar; None if it has several, or holds no floats."""
    dtype = tensor.dtype
    if depth == 0 or not isinstance(dtype, np.dtype) or dtype.kind not in "fiub":
        return None
    if is_constant(tensor):
        value = _only_value(tensor.values)
    elif (node := _producer(tensor)) is None:
        return None
    elif node.op == "ConstantOfShape":
        held = node.attrs.get("value")
        value = np.zeros(()) if held is None else held.values.reshape(())
    elif node.op in _KEEPS_FILLED:
        value = _fill(node.inputs[0], depth - 1)
    else:
        value = _computed(node, depth - _OF_ARITHMETIC)
    if value is None or (depth == _DEPTH and dtype.kind != "f"):
        return None
    return np.asarray(value, dtype)


def _computed(node: Node, depth: int) -> np.ndarray | None:
    """What an element-wise operator gives of filled tensors."""
    if depth <= 0 or not standard(node).elementwise or not computes(node):
        return None
    values = [_fill(tensor, depth) for tensor in node.inputs]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    try:
        floats = [v.astype(np.float64) if v.dtype.kind == "f" else v for v in known]
        return compute(node, floats)
    except NotANeuron:
        return None


def _only_value(values: np.ndarray) -> np.ndarray | None:
    if values.size == 0:
        return None
    first = values.flat[0]
    same = values.flat[values.size - 1] == first and np.all(values == first)
    return np.asarray(first) if same else None


def _is_shaped_by_another(node: Node, position: int, shapes: _Shapes) -> bool:
    """Whether the result has the same shape if the operand is a scalar."""
    filled = node.inputs[position]
    others = [t for i, t in enumerate(node.inputs) if i != position and not _is_scalar(t)]
    if not is_constant(filled):
        return any(shapes.same(filled, other) for other in others)
    if standard(node).affine in (None, Inputs.LATER):
        return any(_fits_into(filled, other) for other in others)
    return len(filled.shape) > 1 and any(_same_lengths(filled, other) for other in others)


def _same_lengths(one: Tensor, other: Tensor) -> bool:
    if one.shape is None or other.shape is None or len(one.shape) != len(other.shape):
        return False
    return all(n == m and n not in (None, "") for n, m in zip(one.shape, other.shape, strict=True))


def _fits_into(one: Tensor, other: Tensor) -> bool:
    """Whether to broadcast ``one`` to ``other`` leaves the shape of that."""
    if one.shape is not None and not one.shape:
        return True
    if one.shape is None or other.shape is None or len(one.shape) > len(other.shape):
        return False
    pairs = zip(reversed(one.shape), reversed(other.shape), strict=False)
    return all(n == 1 or (n == m and n not in (None, "")) for n, m in pairs)


class _Shapes:
    """Which tensors have the same shape by construction."""

    def __init__(self) -> None:
        self._roots: dict[int, Tensor] = {}
        self._seen: list[Tensor] = []  # keeps the ids valid

    def same(self, one: Tensor, other: Tensor) -> bool:
        """Whether both tensors are known to have one shape."""
        return _same_lengths(one, other) or self._root(one) is self._root(other)

    def _root(self, tensor: Tensor, depth: int = _DEPTH) -> Tensor:
        """The tensor whose shape this one has, whatever that is."""
        if id(tensor) not in self._roots:
            self._seen.append(tensor)
            before = self._before(tensor) if depth else []
            roots = {id(t): t for t in (self._root(read, depth - 1) for read in before)}
            self._roots[id(tensor)] = next(iter(roots.values())) if len(roots) == 1 else tensor
        return self._roots[id(tensor)]

    def _before(self, tensor: Tensor) -> list[Tensor]:
        """Tensors that its shape follows from, if there is one shape among them."""
        node = _producer(tensor)
        if node is None:
            return []
        if node.op in ("ConstantOfShape", "Expand"):
            fills = node.op == "ConstantOfShape" or _is_scalar(node.inputs[0])
            shape = _producer(node.inputs[-1])
            whole = shape is not None and shape.op == "Shape" and not shape.attrs
            return [shape.inputs[0]] if fills and whole and shape is not None else []
        if not standard(node).elementwise:
            return []
        read = node.inputs if standard(node).broadcasts else node.inputs[:1]
        signals = [t for t in read if not is_constant(t)]
        fitting = {id(t) for t in read if is_constant(t) and any(_fits_into(t, s) for s in signals)}
        return [t for t in read if id(t) not in fitting]
