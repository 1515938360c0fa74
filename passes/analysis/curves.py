"""Curves: subgraphs of element-wise operators that read one tensor, and constants besides.

An exporter may write any activation so: as a selection, a mask, a maximum, or arithmetic.

:func:`curves_ending_in` looks back from a node, for what could be replaced by one operator;
:func:`remaining_curves` lists what is left of curves in a graph, for the report.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..graph.graph import Constant, Graph, Node, Tensor, bodies, is_constant, scopes
from .activations import is_activation, is_encoder
from .arithmetic import compute, computes, differences
from .functions import NotANeuron
from .operators import Inputs, is_linear, moves_values, properties, standard

#: Larger expressions are somebody's arithmetic. The limits bound the time.
_MAX_NODES = 16
_MAX_CONSTANT = 1 << 16
_MAX_BREAKS = 32
#: Halvings of an interval of float32 that leave two neighbours.
_BISECTIONS = 200
#: Tensors behind a curve that are looked at for what normalises.
_MAX_SPREAD = 256

_MAGNITUDES = np.float32(10.0) ** np.arange(-8, 6.25, 0.25, dtype=np.float32)
_EVEN = np.linspace(-20, 20, 321, dtype=np.float32)


@dataclass(frozen=True)
class Curve:
    """A function of one value, as a subgraph.

    Attributes:
        source: what it reads.
        nodes: each behind those it reads from; the last one writes the result.
    """

    source: Tensor
    nodes: tuple[Node, ...]

    @property
    def last(self) -> Node:
        """The node that writes the result."""
        return self.nodes[-1]

    @cached_property
    def constants(self) -> list[np.ndarray]:
        """The values of the constants that it reads."""
        read = {id(t): t for node in self.nodes for t in node.inputs if is_constant(t)}
        return [tensor.values for tensor in read.values()]

    @property
    def is_scalar(self) -> bool:
        """Whether each of its constants is one value, so that it is one function everywhere."""
        return all(values.size == 1 for values in self.constants)

    @property
    def is_affine(self) -> bool:
        """Whether each of its operators is, so that it is, too."""
        return all(_is_affine(node) for node in self.nodes)

    @property
    def numbers(self) -> list[float]:
        """Its constants of one value that are finite floats."""
        floats = [v for v in self.constants if v.size == 1 and v.dtype.kind == "f"]
        return [float(v.reshape(())) for v in floats if np.isfinite(v).all()]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """What it gives of the values ``x`` [n]: [n], behind it the axes of its constants.

        Raises:
            NotANeuron: an operator is not known.
        """
        return self._values(x)[id(self.last.outputs[0])]

    def _values(self, x: np.ndarray) -> dict[int, np.ndarray]:
        axes = max((v.ndim for v in self.constants if v.size != 1), default=0)
        known = {id(self.source): x.astype(np.float64).reshape(-1, *[1] * axes)}
        for node in self.nodes:
            inputs = [known[id(t)] if id(t) in known else _values(t) for t in _given(node)]
            known[id(node.outputs[0])] = compute(node, inputs)
        return known

    @cached_property
    def grid(self) -> np.ndarray:
        """float32 values, ascending: many, its constants, and where it bends or jumps.

        Only where :attr:`is_scalar`.
        """
        own = np.array(self.numbers, np.float32)
        with np.errstate(over="ignore"):
            own = np.concatenate([own, own / 2, 2 * own])
        coarse = _ascending(_MAGNITUDES, -_MAGNITUDES, _EVEN, own, -own)
        fine = _neighbours(np.concatenate([self._breaks(coarse), own, -own]))
        return _ascending(coarse, fine)

    def _breaks(self, x: np.ndarray) -> np.ndarray:
        """The float32 values on either side of which an operator's result bends or jumps."""
        exact, brackets = [], []
        values = self._values(x)
        for place, node in enumerate(self.nodes):
            for at, sign in enumerate(_signs(node, values)):
                if sign.shape != x.shape:  # of constants alone
                    continue
                exact.append(x[sign == 0][:_MAX_BREAKS])
                changes = np.flatnonzero(sign[:-1] * sign[1:] < 0)
                brackets += [(place, at, sign[i], x[i], x[i + 1]) for i in changes]
        del brackets[_MAX_BREAKS:]
        below, above = (np.array([bracket[i] for bracket in brackets], x.dtype) for i in (3, 4))
        for _ in range(_BISECTIONS):
            middle = below / 2 + above / 2
            if np.all((middle == below) | (middle == above)):
                break
            values = self._values(middle)
            signs = [_signs(node, values) for node in self.nodes]
            is_below = [signs[place][at][i] == s for i, (place, at, s, *_) in enumerate(brackets)]
            below, above = np.where(is_below, middle, below), np.where(is_below, above, middle)
        return np.concatenate([below, above, *exact])


def _signs(node: Node, values: Mapping[int, np.ndarray]) -> list[np.ndarray]:
    inputs = [values[id(t)] if id(t) in values else _values(t) for t in _given(node)]
    with np.errstate(invalid="ignore"):
        return [np.sign(difference) for difference in differences(node, inputs)]


def _values(tensor: Tensor) -> np.ndarray:
    if not is_constant(tensor):
        raise NotANeuron(f"'{tensor.name}' is not known")
    values = tensor.values.reshape(()) if tensor.values.size == 1 else tensor.values
    if values.dtype.kind == "f":
        return values.astype(np.float64)
    return values if values.dtype.kind == "b" else values.astype(np.int64)


def _ascending(*parts: np.ndarray) -> np.ndarray:
    values = np.concatenate([*parts, [0]]).astype(np.float32)
    return np.unique(values[np.isfinite(values)])


def _neighbours(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore"):
        return np.concatenate([x, np.nextafter(x, -np.inf), np.nextafter(x, np.inf)])


def _given(node: Node) -> list[Tensor]:
    """The inputs whose values it computes with."""
    if node.op == "CastLike":
        return node.inputs[:1]
    return [tensor for tensor in node.inputs if not tensor.is_empty()]


def _signals(node: Node) -> list[Tensor]:
    """What it reads besides constants, each once."""
    return list({id(t): t for t in _given(node) if not is_constant(t)}.values())


def _is_part(node: Node) -> bool:
    """Whether a curve may go through the node."""
    if not computes(node) or len(node.outputs) != 1:
        return False
    return all(_is_small(tensor) for tensor in node.inputs if is_constant(tensor))


def _is_small(tensor: Constant) -> bool:
    numbers = isinstance(tensor.dtype, np.dtype) and tensor.dtype.kind in "fiub"
    return numbers and math.prod(tensor.shape) <= _MAX_CONSTANT


def curves_ending_in(
    last: Node, position: Mapping[int, int], is_hidden: Callable[[Tensor, list[Node]], bool]
) -> Iterator[Curve]:
    """The curves whose result ``last`` writes, the shortest first.

    Args:
        last: of a sorted graph.
        position: of the nodes that a curve may have, by id; those computed earlier are lower.
        is_hidden: whether nothing but these nodes uses the tensor.
    """
    if not _is_part(last):
        return
    region = [last]
    waiting = {id(tensor): tensor for tensor in _signals(last)}
    while waiting and len(region) <= _MAX_NODES:
        if len(waiting) == 1:
            [source] = waiting.values()
            yield Curve(source, tuple(sorted(region, key=lambda node: position[id(node)])))
        # What is computed last depends on no other, so it has to go first, or no other can.
        tensor = max(waiting.values(), key=lambda t: _made_at(t, position))
        if _made_at(tensor, position) < 0 or not is_hidden(tensor, region):
            return
        node = tensor.inputs[0]
        if not _is_part(node):
            return
        region.append(node)
        del waiting[id(tensor)]
        waiting |= {id(read): read for read in _signals(node)}


def _made_at(tensor: Tensor, position: Mapping[int, int]) -> int:
    return position.get(id(tensor.inputs[0]), -1) if len(tensor.inputs) == 1 else -1


@dataclass(frozen=True)
class RemainingCurve:
    """A curve that is no activation, and that a linear operator reads.

    Attributes:
        curve: as large as it is.
        normalises: whether it is part of a normalisation: it reads what a reduction gives, or what
            it gives is reduced and meets the values again that were reduced.
    """

    curve: Curve
    normalises: bool


def remaining_curves(graph: Graph) -> list[RemainingCurve]:
    """What is nonlinear in one value, but no activation, on the way to a linear operator.

    On its way it may be moved, combined with other values and reduced. What activations and
    normalisations read has its line there.

    Args:
        graph: main graph, sorted.
    """
    found = []
    for scope in scopes(graph):
        largest = _largest_curves(scope.graph)
        for curve in largest.values():
            readers = [
                n for n in curve.last.outputs[0].outputs if not _continues(n, curve, largest)
            ]
            if _is_float(curve.last.outputs[0]) and _reach_linear(readers) and _bends(curve):
                found.append(RemainingCurve(curve, _normalises(curve)))
    return found


def _largest_curves(graph: Graph) -> dict[int, Curve]:
    """For each tensor that a curve gives, by id, the curve that goes back as far as it can.

    It does not begin with a bias or a scale per channel.
    """
    position = {id(node): i for i, node in enumerate(graph.nodes)}
    curves: dict[int, Curve] = {}
    for node in graph.nodes:
        if is_encoder(node) or is_activation(node) or not _is_part(node):
            continue
        read = _signals(node)
        if not any(id(tensor) in curves for tensor in read) and _scales_channels(node):
            continue
        for known in (
            [curves.get(id(tensor), Curve(tensor, ())) for tensor in read],
            [Curve(tensor, ()) for tensor in read],
        ):
            sources = {id(curve.source): curve.source for curve in known}
            nodes = {id(n): n for n in (*(n for curve in known for n in curve.nodes), node)}
            if len(sources) != 1 or len(nodes) > _MAX_NODES:
                continue
            [source] = sources.values()
            if _is_float(source):
                order = sorted(nodes.values(), key=lambda n: position[id(n)])
                curves[id(node.outputs[0])] = Curve(source, tuple(order))
                break
    return curves


def _continues(node: Node, curve: Curve, whole: Mapping[int, Curve]) -> bool:
    """Whether a reader is part of a curve of the same tensor."""
    result = whole.get(id(node.outputs[0])) if node.outputs else None
    return result is not None and result.source is curve.source


def _is_float(tensor: Tensor) -> bool:
    return isinstance(tensor.dtype, np.dtype) and tensor.dtype.kind == "f"


def _bends(curve: Curve) -> bool:
    """Whether it is not affine."""
    if curve.is_affine:
        return False
    if not curve.is_scalar:
        return True
    try:
        x, y = curve.grid.astype(np.float64), curve(curve.grid)
    except NotANeuron:
        return True
    if y.shape != x.shape or not np.isfinite(y).all():
        return True
    offset, slope = y[x == 0][0], y[x == 1][0] - y[x == 0][0]
    bound = 1e-6 * (np.abs(offset) + np.abs(slope * x))
    return bool(np.any(np.abs(y - offset - slope * x) > bound))


def _scales_channels(node: Node) -> bool:
    """Whether it is a bias or a scale per channel, which is no part of what comes after it."""
    return _is_affine(node) and any(is_constant(t) and t.values.size > 1 for t in _given(node))


def _is_affine(node: Node) -> bool:
    affine, signals = standard(node).affine, [not is_constant(t) for t in _given(node)]
    if affine is Inputs.ONE:
        return sum(signals) == 1
    if affine is Inputs.FIRST:
        return not any(signals[1:]) and all(_is_float(t) for t in (node.inputs[0], node.outputs[0]))
    return affine is Inputs.ALL or (affine is Inputs.LATER and not signals[0])


def _reach_linear(readers: list[Node]) -> bool:
    """Whether what these nodes give gets to a linear operator, past no activation."""
    seen: set[int] = set()
    pending = list(readers)
    while pending:
        node = pending.pop()
        if is_linear(node):
            return True
        if id(node) in seen:
            continue
        seen.add(id(node))
        if properties(node.op).role is None and standard(node).signal and not bodies(node):
            pending += [reader for output in node.outputs for reader in output.outputs]
    return False


def _normalises(curve: Curve) -> bool:
    made_by = curve.source.inputs[0] if curve.source.inputs else None
    while made_by is not None and moves_values(made_by) and not _is_reduction(made_by):
        inputs = made_by.inputs[0].inputs
        made_by = inputs[0] if inputs else None
    if made_by is not None and _is_reduction(made_by):
        return True
    kept, _ = _spread([curve.source])
    _, reductions = _spread([curve.last.outputs[0]])
    reduced, _ = _spread([output for node in reductions for output in node.outputs])
    return any(
        any(id(t) in reduced for t in node.inputs) and any(id(t) in kept for t in node.inputs)
        for tensor in reduced.values()
        for node in tensor.outputs
        if standard(node).elementwise
    )


def _spread(tensors: list[Tensor]) -> tuple[dict[int, Tensor], list[Node]]:
    """What element-wise operators and moves make of the tensors, and the reductions after them."""
    found: dict[int, Tensor] = {}
    reductions = []
    pending = list(tensors)
    while pending and len(found) < _MAX_SPREAD:
        tensor = pending.pop()
        if id(tensor) in found:
            continue
        found[id(tensor)] = tensor
        for node in tensor.outputs:
            if _is_reduction(node):
                reductions.append(node)
            elif standard(node).elementwise or moves_values(node):
                pending += node.outputs
    return found, reductions


def _is_reduction(node: Node) -> bool:
    return node.op.startswith("Reduce")
