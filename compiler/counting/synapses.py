"""Synaptic operations: where the spikes go, and how many products they take part in.

For each linear operator (Conv, ConvTranspose, Gemm, MatMul, Einsum; see ``fan_out.py``), with k the
spikes at its own input (``codes.py``) and f the fan-out:

1. One operand spikes, the other is constant:
       events = sum [k_j is not 0]         unary = sum |k_j| f_j
       graded = sum [k_j is not 0] f_j     bit-serial = sum popcount(|k_j|) f_j
2. Both operands spike (a of one, b of the other, as in attention): over all products a_ik b_kj
       unary = sum |a_ik| |b_kj|           bit-serial = sum popcount(|a_ik|) popcount(|b_kj|)
       graded = number of products of two events
   and events are those of both operands.
3. Otherwise the operator is analog, with the reason, and its multiply-accumulates are counted.
   So are those of every other operator: products whose weight is not 0 and whose input is no
   padding, what the ANN computes at the same place, once where it is computed at every timestep. In
   rule 2 it is all products.
4. Weights computed while the network runs count as not 0. An operator that reads constants alone is
   none of the network's. Operators in bodies of Loop and Scan are listed and not counted.

All counts are integers, exact. Of spikes over T timesteps they are sums over the steps: running
means of spikes are analog (rule 3), and what reads them computes all its products T times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from onnx import GraphProto, TensorProto

from ...passes.analysis.edges import Carries
from ...passes.analysis.operators import (
    is_linear,
    moved,
    moves_values,
    properties,
    signal_inputs,
)
from ...passes.graph.graph import Node, Tensor, is_constant, is_standard, optional_input, scopes
from ...passes.graph.protos import attributes_of
from ..errors import DataError
from .codes import Codes
from .fan_out import LinearOperator, NotCounted, Shape, total_fan_out
from .insertion import Insertion
from .maps import CountMap, CountMaps
from .neuron_spikes import Span
from .pack import EXACT, apart
from .results import SynapseResult
from .spans import Spans

_SUMS = {"unary": "spikes", "bit_serial": "bits", "graded": "events"}


class SynapseCounter(Protocol):
    """Counts one operator.

    Attributes:
        outputs: names of the tensors that a run has to give to :meth:`add`.
    """

    outputs: list[str]

    def add(self, arrays: Sequence[np.ndarray]) -> None:
        """Add one run."""

    def state(self) -> Any:
        """What :meth:`merge` takes."""

    def merge(self, state: Any) -> None:
        """Add what was counted of samples behind these."""

    def clear(self) -> None:
        """Forget what was counted."""

    def result(self, samples: int) -> SynapseResult:
        """Means over so many samples."""


@dataclass
class _Operator:
    """A linear operator and what is known of its operands.

    Attributes:
        name: node name.
        linear: its products.
        masks: bool, where an operand is not 0; None of what is not constant.
        repeats: T where it is computed at every timestep.
    """

    name: str
    linear: LinearOperator
    masks: list[np.ndarray | None]
    repeats: int = 1

    def result(self, macs: float, spans: Sequence[Span] = (), analog: str = "") -> SynapseResult:
        neurons = list(dict.fromkeys(name for span in spans for name in span.neurons))
        bits = max(((sum(s.levels) * s.timesteps).bit_length() for s in spans), default=0)
        return SynapseResult(
            self.name, self.linear.op, neurons, analog, macs, bits=bits, repeats=self.repeats
        )

    def macs(self, shapes: Sequence[Shape]) -> int:
        """Multiply-accumulates for operands of these shapes."""
        first, second = self.masks
        if second is not None or properties(self.linear.op).convolves:
            mask = np.ones(shapes[1], bool) if second is None else second
            return total_fan_out(self.linear.fan_out(0, shapes[0], mask), shapes[0])
        if first is not None:
            return total_fan_out(self.linear.fan_out(1, shapes[1], first), shapes[1])
        return self.linear.products(shapes[0], shapes[1])


@dataclass
class _Uncounted:
    """An operator of which nothing is known but that it is there."""

    operator: _Operator
    reason: str
    outputs: list[str] = field(default_factory=list)

    def add(self, arrays: Sequence[np.ndarray]) -> None:
        """Nothing to add."""

    def state(self) -> None:
        """Nothing."""

    def merge(self, state: None) -> None:
        """Nothing to add."""

    def clear(self) -> None:
        """Nothing to forget."""

    def result(self, samples: int) -> SynapseResult:  # noqa: ARG002 it has no counts
        return self.operator.result(0.0, analog=f"not counted: {self.reason}")


class _Analog:
    """Rule 3: the shapes of the operands are seen."""

    def __init__(
        self,
        insert: Insertion,
        home: GraphProto,
        operator: _Operator,
        operands: Sequence[Tensor],
        reason: str,
    ) -> None:
        self._operator, self._reason = operator, reason
        self.outputs = [_shape_of(insert, home, str(tensor.name)) for tensor in operands]
        self._runs: dict[tuple[Shape, ...], int] = {}

    def add(self, arrays: Sequence[np.ndarray]) -> None:
        if all(array.size for array in arrays):  # the branch was taken
            shapes = tuple(_as_shape(array) for array in arrays)
            self._runs[shapes] = self._runs.get(shapes, 0) + 1

    def state(self) -> list[list[Any]]:
        """Shapes of the operands, and how many runs had them."""
        return [[[list(one) for one in shapes], runs] for shapes, runs in self._runs.items()]

    def merge(self, state: Sequence[Sequence[Any]]) -> None:
        for shapes, runs in state:
            key = tuple(tuple(one) for one in shapes)
            self._runs[key] = self._runs.get(key, 0) + runs

    def clear(self) -> None:
        self._runs.clear()

    def result(self, samples: int) -> SynapseResult:
        macs = sum(runs * self._operator.macs(shapes) for shapes, runs in self._runs.items())
        once = macs / self._operator.repeats / samples
        return self._operator.result(once, analog=self._reason)


class _Weighted:
    """Rule 1: a map of counts, and the weights."""

    def __init__(
        self, operator: _Operator, position: int, counts: CountMap, weights: str | None
    ) -> None:
        """``weights``: name of the shape of weights that are computed; None: they are constant."""
        self._operator, self._position, self._counts = operator, position, counts
        self._mask = operator.masks[1 - position]
        self.outputs = [] if weights is None else [weights]

    def add(self, arrays: Sequence[np.ndarray]) -> None:
        for shape in arrays:
            if shape.size:
                self._mask = np.ones(_as_shape(shape), bool)

    def state(self) -> list[int] | None:
        """The shape of weights that are computed, where it was seen."""
        return list(self._mask.shape) if self.outputs and self._mask is not None else None

    def merge(self, state: Sequence[int] | None) -> None:
        if state is not None:
            self._mask = np.ones(tuple(state), bool)

    def clear(self) -> None:
        """The shape stays: it is the next one's until that is seen."""

    def result(self, samples: int) -> SynapseResult:
        macs, sums = 0, dict.fromkeys(_SUMS, 0)
        for shape, totals in self._counts.totals.items():
            assert self._mask is not None  # it came with the counts
            fan_out = self._operator.linear.fan_out(self._position, shape, self._mask)
            macs += totals.samples * total_fan_out(fan_out, shape)
            every = np.broadcast_to(fan_out, shape).reshape(-1)
            for name, count in _SUMS.items():
                sums[name] += int(totals.counts[count] @ every)
        span = self._counts.span
        steps = max(self._operator.repeats, span.timesteps)
        result = self._operator.result(macs / steps / samples, [span])
        result.events = self._counts.sum("events") / samples
        for name, total in sums.items():
            setattr(result, name, total / samples)
        return result


class _Pair:
    """Rule 2: both operands, summed over the indices that the other one does not have."""

    def __init__(
        self,
        insert: Insertion,
        home: GraphProto,
        operator: _Operator,
        counts: Sequence[Mapping[str, str]],
        spans: Sequence[Span],
        ranks: Sequence[int | None],
    ) -> None:
        """``counts``: of each operand, the tensors with its counts by name (``pack.py``)."""
        self._operator, self._spans = operator, list(spans)
        self.outputs = []
        for position, rank in enumerate(ranks):
            axes = operator.linear.own_axes(position, rank)
            own = insert.constant(home, axes, np.int64)
            for name in _SUMS.values():
                sums = counts[position][name]
                if axes:
                    sums = insert.node(home, "ReduceSum", sums, own, keepdims=0)
                self.outputs.append(sums)
            self.outputs.append(_shape_of(insert, home, counts[position]["spikes"]))
        self._totals = dict.fromkeys((*_SUMS, "macs", "events"), 0)

    def add(self, arrays: Sequence[np.ndarray]) -> None:
        if arrays[-1].size == 0:  # a branch that was not taken
            return
        half = len(arrays) // 2
        counts, shapes = [], []
        for *sums, shape in (arrays[:half], arrays[half:]):
            counts.append(dict(zip(_SUMS.values(), map(self._exact, sums), strict=True)))
            shapes.append(_as_shape(shape))
        for name, count in _SUMS.items():
            pairs = self._operator.linear.pairs(counts[0][count], counts[1][count])
            self._totals[name] += pairs
        self._totals["events"] += sum(int(sums["events"].sum()) for sums in counts)
        self._totals["macs"] += self._operator.linear.products(shapes[0], shapes[1])

    def state(self) -> dict[str, int]:
        return dict(self._totals)

    def merge(self, state: Mapping[str, int]) -> None:
        for name, total in state.items():
            self._totals[name] += total

    def clear(self) -> None:
        self._totals = dict.fromkeys(self._totals, 0)

    def _exact(self, sums: np.ndarray) -> np.ndarray:
        if not np.all(sums < EXACT):
            raise DataError(
                f"{self._operator.linear.op} '{self._operator.name}': the spikes that it reads "
                "are NaN on a sample, or more than 2^24 in one sum, and cannot be counted"
            )
        return sums.astype(np.int64)

    def result(self, samples: int) -> SynapseResult:
        once = self._totals["macs"] / self._operator.repeats / samples
        result = self._operator.result(once, self._spans)
        for name in ("events", *_SUMS):
            setattr(result, name, self._totals[name] / samples)
        return result


class Synapses:
    """Finds the linear operators of a network and puts beside each what counts it.

    Args:
        insert: adds to the model.
        codes: of the same model.
        spans: likewise.
        maps: those of the neurons; others are added.
    """

    def __init__(self, insert: Insertion, codes: Codes, spans: Spans, maps: CountMaps) -> None:
        self._insert, self._codes, self._spans, self._maps = insert, codes, spans, maps

    def counters(self) -> Iterator[SynapseCounter]:
        """One for each operator, in order."""
        for scope in scopes(self._spans.graph):
            for node in list(scope.graph.nodes):
                if is_linear(node):
                    counter = self._counter(node, scope.closed)
                    if counter is not None:
                        yield counter

    def _counter(self, node: Node, closed: str) -> SynapseCounter | None:
        home, stored = self._spans.proto(node)
        operands = [node.inputs[position] for position in signal_inputs(node)]
        padding: tuple[tuple[int, int], ...] = ()
        convolves = properties(node.op).convolves
        if convolves:
            operands[0], padding = _without_padding(operands[0])
        linear = LinearOperator(str(node.op), attributes_of(stored), padding)
        if all(self._spans.is_constant(tensor) for tensor in operands):
            return None
        repeats = max(self._spans.timesteps_of(tensor) for tensor in operands)
        masks = [_mask(tensor) for tensor in operands[:2]]
        operator = _Operator(stored.name, linear, masks, repeats)
        try:
            linear.check()
        except NotCounted as refused:
            return _Uncounted(operator, str(refused))
        if closed:
            return _Uncounted(operator, closed)
        spans = [self._spans.of(tensor) for tensor in operands]
        analog = [
            tensor
            for tensor, span in zip(operands, spans, strict=True)
            if span is None and not self._spans.is_constant(tensor)
        ]
        if analog:
            return _Analog(self._insert, home, operator, operands, self._why(analog[0]))
        if convolves and spans[1] is not None:
            reason = "its weights are computed from spikes"
            return _Analog(self._insert, home, operator, operands, reason)
        ranks = [None if t.shape is None else len(t.shape) for t in operands]
        if spans[0] is not None and spans[1] is not None:
            counted = [apart(self._insert, self._codes, home, tensor) for tensor in operands]
            return _Pair(self._insert, home, operator, counted, [spans[0], spans[1]], ranks)
        position = 0 if spans[0] is not None else 1
        mask = operator.masks[1 - position]
        other = mask.ndim if mask is not None else ranks[1 - position] or 2
        fixed = linear.varies_along_first(position, ranks[position], other)
        counts = self._maps.of(home, operands[position], fixed)
        weights = None
        if mask is None:
            weights = _shape_of(self._insert, home, str(operands[1 - position].name))
        return _Weighted(operator, position, counts, weights)

    def _why(self, tensor: Tensor) -> str:
        """Why a tensor is analog."""
        if self._spans.analysis.of(tensor) == Carries.INPUT:
            return "reads the network's own input"
        producer = tensor.inputs[0] if tensor.inputs else None
        if producer is None:
            return "reads analog values"
        if moves_values(producer) and is_standard(producer):
            for part in moved(producer):
                if not self._spans.is_constant(part) and self._spans.of(part) is None:
                    return self._why(part)
        return f"reads values that {producer.op} '{producer.name}' computes"


def _without_padding(tensor: Tensor) -> tuple[Tensor, tuple[tuple[int, int], ...]]:
    """What a Pad puts zeros around along spatial axes, and how many; else the tensor itself."""
    node = tensor.inputs[0] if tensor.inputs else None
    if node is None or node.op != "Pad" or not moves_values(node) or len(node.inputs) < 2:
        return tensor, ()
    if (
        optional_input(node, 3)
        or not is_constant(node.inputs[1])
        or node.attrs.get("mode", "constant") != "constant"
    ):
        return tensor, ()
    before, after = np.asarray(node.inputs[1].values).reshape(2, -1).tolist()
    if any(before[:2] + after[:2]) or min(before + after) < 0:
        return tensor, ()
    return node.inputs[0], tuple(zip(before[2:], after[2:], strict=True))


def _mask(tensor: Tensor) -> np.ndarray | None:
    """Where a constant is not 0; None where its values are not known."""
    return np.asarray(tensor.values != 0) if is_constant(tensor) else None


def _shape_of(insert: Insertion, home: GraphProto, name: str) -> str:
    """The shape of a tensor as float32, as all that is to leave a body of If.

    A 1 in front tells the shape of a scalar from that of a branch that was not taken.
    """
    one = insert.constant(home, [1], np.int64)
    shape = insert.node(home, "Concat", one, insert.node(home, "Shape", name), axis=0)
    return insert.node(home, "Cast", shape, to=TensorProto.FLOAT)


def _as_shape(array: np.ndarray) -> Shape:
    return tuple(int(length) for length in array[1:])
