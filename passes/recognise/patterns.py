"""What recognition reads a graph with: scalars, affine chains, clamps and polynomials of tensors.

Exporters spell one function in many ways: operands in either order, a division by 2 or a
multiplication by 0.5, x * x * x or Pow. These views give all spellings the same value, so that a
pattern is written once:

1. ``Affine``: scale * base + offset, through Add, Sub, Mul, Div and Neg with scalar constants.
2. ``Clamp``: min(max(base, low), high), through Clip, Min, Max and Relu with scalar constants.
3. ``Polynomial``: sums of products of tensors, through the same arithmetic, Pow and Reciprocal.

A view looks through a tensor only if nothing outside the view uses it. Each carries the nodes it
went through; :class:`Match` is checked as a whole before anything is rewritten.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..graph.graph import Graph, Node, Tensor, is_constant, is_standard

_FLOAT_TYPES = (np.float16, np.float32, np.float64)

# Patterns are small; larger expressions are somebody's arithmetic. The limits bound the time.
_MAX_NODES = 8
_MAX_TERMS = 6
_MAX_DEGREE = 4

_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Match:
    """One node's worth of nodes.

    Attributes:
        op: what they compute; the names that ``recognise`` can emit.
        inputs: what the new node reads; the first one is what the function is applied to.
        nodes: the nodes it replaces, the one that writes the result included.
        last: that node.
        attributes: of the new node.
        constants: further inputs, (what it is, values); None is one that is left out.
    """

    op: str
    inputs: list[Tensor]
    nodes: tuple[Node, ...]
    last: Node
    attributes: dict[str, Any] = field(default_factory=dict)
    constants: tuple[tuple[str, np.ndarray] | None, ...] = ()


class Affine(NamedTuple):
    """``scale * base + offset``."""

    scale: float
    offset: float
    base: Tensor
    nodes: tuple[Node, ...]


class Clamp(NamedTuple):
    """``min(max(base, low), high)``."""

    low: float
    high: float
    base: Tensor
    nodes: tuple[Node, ...]


class Polynomial(NamedTuple):
    """A sum of products.

    ``terms`` maps a product, the sorted ids of its tensors, to its coefficient. A negative id is
    the reciprocal of the tensor with that id.
    """

    terms: dict[tuple[int, ...], float]
    tensors: dict[int, Tensor]
    nodes: tuple[Node, ...]


class MatchScope:
    """The nodes of one graph or subgraph, and which tensors others can see.

    Args:
        graph: the graph or subgraph whose nodes are matched.
        visible: ids of the output tensors of every graph and subgraph of the model.
    """

    def __init__(self, graph: Graph, visible: set[int]) -> None:
        self.graph = graph
        self.visible = visible
        self._members = {id(node) for node in graph.nodes}

    def holds(self, node: Node) -> bool:
        """Whether the node is of this graph itself and was not removed."""
        return id(node) in self._members

    def producer(self, tensor: Tensor, *ops: str) -> Node | None:
        """The node of this scope that computes ``tensor`` as its only output, if it is one of ops.

        Only standard operators count.
        """
        return self._one_of(tensor.inputs[0], ops) if len(tensor.inputs) == 1 else None

    def forget(self, nodes: tuple[Node, ...]) -> None:
        """Match nothing with these nodes any more."""
        self._members -= {id(node) for node in nodes}

    def has_one_reader(self, tensor: Tensor) -> bool:
        """Whether one input of one node reads the tensor, and no graph output."""
        return len(tensor.outputs) == 1 and id(tensor) not in self.visible

    def used_only_by(self, tensor: Tensor, nodes: tuple[Node, ...] | list[Node]) -> bool:
        """Whether no other node and no graph output reads the tensor."""
        if id(tensor) in self.visible:
            return False
        allowed = {id(node) for node in nodes}
        return all(id(consumer) in allowed for consumer in tensor.outputs)

    def consumer(self, tensor: Tensor, *ops: str) -> Node | None:
        """The only node that reads ``tensor``, if it is one of ops and of this scope."""
        return self._one_of(tensor.outputs[0], ops) if self.has_one_reader(tensor) else None

    def _one_of(self, node: Node, ops: tuple[str, ...]) -> Node | None:
        if node.op not in ops or not is_standard(node) or len(node.outputs) != 1:
            return None
        return node if self.holds(node) else None

    def is_closed(self, match: Match) -> bool:
        """Whether all that is lost by replacing the match is used by the match alone.

        Also: none of its inputs is something that it computes.
        """
        members = {id(node) for node in match.nodes}
        if any(id(tensor.inputs[0]) in members for tensor in match.inputs if tensor.inputs):
            return False
        return all(
            node is match.last or self.used_only_by(node.outputs[0], match.nodes)
            for node in match.nodes
        )


def is_elementwise(match: Match) -> bool:
    """Whether the match maps float32 to float32 of the same shape, with finite attributes.

    A constant of more dimensions than the input would give the result more. Other element types
    are left alone: neurons are float32, and runtimes lack kernels of these operators for them.
    """
    x = match.inputs[0]
    rank = 0 if x.shape is None else len(x.shape)
    constants = [t for node in match.nodes for t in node.inputs if is_constant(t)]
    finite = all(abs(value) <= _FLOAT32_MAX for value in match.attributes.values())
    return x.dtype == np.float32 and finite and all(t.values.ndim <= rank for t in constants)


def detach(nodes: list[Node]) -> None:
    """Let the nodes read and write nothing, whatever graph they were in.

    The graph library's own way compares them by content with every other reader of a tensor, which
    takes a second for a thousand readers of one constant.
    """
    removed = {id(node) for node in nodes}
    touched = {id(tensor): tensor for node in nodes for tensor in node.inputs}
    for tensor in touched.values():
        readers = [node for node in tensor.outputs if id(node) not in removed]
        list.clear(tensor.outputs)
        list.extend(tensor.outputs, readers)
    for node in nodes:
        list.clear(node.inputs)
        node.outputs.clear()


def scalar(tensor: Tensor) -> float | None:
    """The value of a float constant of one element."""
    if not is_constant(tensor):
        return None
    values = tensor.values
    if values.size != 1 or values.dtype not in _FLOAT_TYPES:
        return None
    return float(values.reshape(()))


def is_about(value: float, wanted: float, tolerance: float) -> bool:
    """Whether ``value`` is ``wanted`` within a relative tolerance."""
    return abs(value - wanted) <= tolerance * abs(wanted)


def is_exactly(value: float, wanted: float) -> bool:
    """Whether ``value`` is ``wanted``, up to the rounding of a float32 or two."""
    return is_about(value, wanted, 1e-6)


def with_scalar(node: Node) -> Iterator[tuple[Tensor, float]]:
    """The ways to read a node of two operands as (operand, scalar constant)."""
    if len(node.inputs) == 2:
        for operand, other in (node.inputs, reversed(node.inputs)):
            value = scalar(other)
            if value is not None and not is_constant(operand):
                yield operand, value


def affine(scope: MatchScope, tensor: Tensor) -> Affine:
    """Look through every Add, Sub, Mul, Div and Neg that has a scalar constant operand.

    The tensor itself and those behind it must have one reader each.
    """
    scale, offset = 1.0, 0.0
    nodes: list[Node] = []
    while (node := scope.producer(tensor, "Add", "Sub", "Mul", "Div", "Neg")) is not None:
        step = _affine_step(node)
        if step is None or not scope.has_one_reader(tensor) or len(nodes) == _MAX_NODES:
            break
        factor, shift, operand = step
        offset += scale * shift
        scale *= factor
        nodes.append(node)
        tensor = operand
    return Affine(scale, offset, tensor, tuple(nodes))


def one_plus(scope: MatchScope, tensor: Tensor, op: str) -> tuple[Tensor, tuple[Node, ...]] | None:
    """(argument, nodes) of 1 + op(argument)."""
    inner = affine(scope, tensor)
    node = scope.producer(inner.base, op)
    if node is None or inner.scale != 1 or inner.offset != 1:
        return None
    return node.inputs[0], (*inner.nodes, node)


def _affine_step(node: Node) -> tuple[float, float, Tensor] | None:
    """(factor, shift, operand) of a node that computes factor * operand + shift."""
    if node.op == "Neg":
        return -1.0, 0.0, node.inputs[0]
    for operand, value in with_scalar(node):
        is_first = operand is node.inputs[0]
        if node.op == "Add":
            return 1.0, value, operand
        if node.op == "Sub":
            return (1.0, -value, operand) if is_first else (-1.0, value, operand)
        if node.op == "Mul":
            return value, 0.0, operand
        if is_first and value != 0:
            return 1.0 / value, 0.0, operand
    return None


def clamp(scope: MatchScope, tensor: Tensor) -> Clamp | None:
    """Look through Clip, Min, Max and Relu; None if there is none or the bounds are disjoint."""
    low, high = -np.inf, np.inf
    nodes: list[Node] = []
    while (node := scope.producer(tensor, "Clip", "Min", "Max", "Relu")) is not None:
        if len(nodes) == _MAX_NODES or (nodes and not scope.has_one_reader(tensor)):
            break
        bounds = _bounds(node)
        if bounds is None or not bounds[0] <= bounds[1]:
            break
        if bounds[0] > high or bounds[1] < low:
            return None
        low, high = max(low, bounds[0]), min(high, bounds[1])
        nodes.append(node)
        turned = node.op in ("Min", "Max") and is_constant(node.inputs[0])
        tensor = node.inputs[1 if turned else 0]
    return Clamp(low, high, tensor, tuple(nodes)) if nodes else None


def _bounds(node: Node) -> tuple[float, float] | None:
    if node.op == "Relu":
        return 0.0, np.inf
    if node.op == "Clip":
        bounds = [-np.inf, np.inf]
        for i, tensor in enumerate(node.inputs[1:3]):
            if not tensor.is_empty():
                value = scalar(tensor)
                if value is None:
                    return None
                bounds[i] = value
        return bounds[0], bounds[1]
    _, value = next(with_scalar(node), (None, None))
    if value is None:
        return None
    return (value, np.inf) if node.op == "Max" else (-np.inf, value)


class _TooLargeError(Exception):
    """More terms or factors than any pattern has."""


_Product = tuple[int, ...]
_Terms = dict[_Product, float]

_ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Neg", "Pow", "Reciprocal")


def polynomial(scope: MatchScope, last: Node | None) -> Polynomial | None:
    """What ``last`` computes, as a polynomial of tensors that are computed otherwise."""
    if last is None or not _is_arithmetic(last):
        return None
    region = _arithmetic_region(scope, last)
    members = {id(node) for node in region}
    tensors: dict[int, Tensor] = {}

    def of(tensor: Tensor) -> _Terms:
        value = scalar(tensor)
        if value is not None:
            return {(): value}
        if tensor.inputs and id(tensor.inputs[0]) in members:
            return of_node(tensor.inputs[0])
        tensors[id(tensor)] = tensor
        return {(id(tensor),): 1.0}

    def inverse(tensor: Tensor) -> _Terms:
        value = scalar(tensor)
        if value is not None:
            return {(): 1.0 / value if value else np.inf}
        tensors[id(tensor)] = tensor
        return {(-id(tensor),): 1.0}

    def of_node(node: Node) -> _Terms:
        if node.op == "Reciprocal":
            return inverse(node.inputs[0])
        first = of(node.inputs[0])
        if node.op == "Neg":
            return _multiply(first, {(): -1.0})
        if node.op == "Pow":
            square = _multiply(first, first)
            return square if scalar(node.inputs[1]) == 2 else _multiply(square, first)
        if node.op == "Div":
            return _multiply(first, inverse(node.inputs[1]))
        second = of(node.inputs[1])
        if node.op == "Mul":
            return _multiply(first, second)
        return _add(first, second, 1.0 if node.op == "Add" else -1.0)

    try:
        return Polynomial(of_node(last), tensors, tuple(region))
    except _TooLargeError:
        return None


def _add(left: _Terms, right: _Terms, sign: float) -> _Terms:
    total = dict(left)
    for product, coefficient in right.items():
        total[product] = total.get(product, 0.0) + sign * coefficient
    if len(total) > _MAX_TERMS:
        raise _TooLargeError
    return total


def _multiply(left: _Terms, right: _Terms) -> _Terms:
    if len(left) * len(right) > _MAX_TERMS:
        raise _TooLargeError
    total: _Terms = {}
    for a, x in left.items():
        for b, y in right.items():
            if len(a) + len(b) > _MAX_DEGREE:
                raise _TooLargeError
            product = tuple(sorted(a + b))
            total[product] = total.get(product, 0.0) + x * y
    return total


def _is_arithmetic(node: Node) -> bool:
    if node.op not in _ARITHMETIC or not is_standard(node):
        return False
    return node.op != "Pow" or scalar(node.inputs[1]) in (2, 3)


def _arithmetic_region(scope: MatchScope, last: Node) -> list[Node]:
    """``last`` and the arithmetic before it whose results nothing else uses."""
    region = [last]
    open_tensors = _expandable_inputs(last)
    grown = True
    while grown and len(region) < _MAX_NODES:
        grown, shared = False, []
        for tensor in open_tensors:
            before = scope.producer(tensor, *_ARITHMETIC)
            if before is None or not _is_arithmetic(before) or any(before is n for n in region):
                continue
            if scope.used_only_by(tensor, region):
                region.append(before)
                shared += _expandable_inputs(before)
                grown = True
            else:
                shared.append(tensor)  # until its other reader is in the region too
        open_tensors = shared
    return region


def _expandable_inputs(node: Node) -> list[Tensor]:
    """The inputs whose polynomials make the node's: a divisor stays a tensor of its own."""
    count = {"Div": 1, "Pow": 1, "Reciprocal": 0}.get(node.op)
    return [tensor for tensor in node.inputs[:count] if tensor.inputs]
