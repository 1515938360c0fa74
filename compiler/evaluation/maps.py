"""Maps of counts: for each position of a code, sums over the samples, made inside the graph.

1. Axis 0 of a tensor counts samples where its length is a multiple of the number B of samples in
   the run, samples foremost: a position is a place in what is left of the shape. Otherwise, and
   where the caller says so, the run is one sample.
2. Only sums over samples leave the runtime: per table (``pack.py``) float32 [groups, positions],
   and the shape of the tensor.
3. Positions are kept apart by the shape of a sample: inputs of several sizes have maps of several
   sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, TensorProto

from ..errors import DataError
from ..twins import Twins
from .codes import Span
from .fan_out import Shape
from .pack import Table, samples_that_fit


@dataclass
class Totals:
    """What was counted at each position of samples of one shape.

    Attributes:
        samples: how many there were.
        counts: int64 [positions] by name, those that the tables have (``pack.py``).
    """

    samples: int
    counts: dict[str, np.ndarray]


class CountMap:
    """The counts of one tensor of spikes.

    Attributes:
        span: what it may hold.
        tables: that count it.
        fitting: samples in one sum.
        outputs: names of the tensors that a run has to give to :meth:`add`.
        packed: names of the tensors of packed counts, one per table.
        totals: by shape of a sample.
    """

    def __init__(
        self,
        twins: Twins,
        home: GraphProto,
        found: Sequence[Table],
        span: Span,
        batch: Batch | None,
    ) -> None:
        """Add what counts.

        Args:
            twins: adds to the model.
            home: graph that the tensor is in.
            found: tables that count it.
            span: what it may hold.
            batch: the samples of a run; None where axis 0 of the tensor is not theirs.
        """
        self.span = span
        self.tables = list(found)
        self.fitting = samples_that_fit(found)
        self.packed = []
        for table in found:
            thresholds = twins.constant(home, table.thresholds)
            levels = table.packed(self.fitting)
            self.packed.append(twins.staircase(home, table.tensor, thresholds, levels))
        shape = twins.node(home, "Shape", self.packed[0])
        if batch is None:
            rows = twins.constant(home, [1], np.int64)
            selection = twins.constant(home, [[1.0]])
        else:
            rows = batch.rows(twins, home, self.packed[0])
            selection = batch.selection(twins, home, rows, self.fitting)
        matrix = twins.node(home, "Concat", rows, twins.constant(home, [-1], np.int64), axis=0)
        sums = [
            twins.node(home, "MatMul", selection, twins.node(home, "Reshape", tensor, matrix))
            for tensor in self.packed
        ]
        layout = twins.node(home, "Concat", rows, shape, axis=0)
        # A float, as all that is to leave a body of If. Lengths above 2^24 are found out.
        self.outputs = [*sums, twins.node(home, "Cast", layout, to=TensorProto.FLOAT)]
        self.totals: dict[Shape, Totals] = {}

    def add(self, arrays: Sequence[np.ndarray]) -> None:
        """Add one run.

        Raises:
            DataError: a value was NaN.
        """
        *sums, layout = arrays
        if layout.size == 0:  # a branch that was not taken
            return
        rows, *shape = (int(length) for length in layout)
        sample = (shape[0] // rows, *shape[1:]) if shape else ()
        positions = math.prod(sample)
        who = f"neuron {', '.join(self.span.neurons)}"
        if any(part.shape[1] != positions for part in sums):
            raise DataError(f"{who}: its tensor of {shape} values is too large to count")
        if any(np.isnan(part.sum(dtype=np.float32)) for part in sums):
            raise DataError(
                f"{who}: its membrane potential is NaN on a sample, so its spikes cannot be "
                "counted; look for NaN or overflow in the data, and in the network on them"
            )
        if sample not in self.totals:
            names = {counted.name for table in self.tables for counted in table.fields}
            zeros = {name: np.zeros(positions, np.int64) for name in names}
            self.totals[sample] = Totals(0, zeros)
        totals = self.totals[sample]
        totals.samples += rows
        for table, part in zip(self.tables, sums, strict=True):
            for row in part.astype(np.int32):
                _unpack(table, self.fitting, row, totals.counts)

    def sum(self, name: str) -> int:
        """A count over all positions and samples."""
        return sum(int(totals.counts[name].sum()) for totals in self.totals.values())


def _unpack(table: Table, n: int, row: np.ndarray, counts: dict[str, np.ndarray]) -> None:
    """Add sums of packed counts, int32 [positions]; they are used up."""
    fields = list(zip(table.fields, table.radices(n), strict=True))
    for counted, radix in reversed(fields[1:]):
        above = row // np.int32(radix)
        row -= above * np.int32(radix)
        counts[counted.name] += row if counted.worth == 1 else row.astype(np.int64) * counted.worth
        row = above
    first = fields[0][0]
    counts[first.name] += row if first.worth == 1 else row.astype(np.int64) * first.worth


class Batch:
    """The samples of a run, as small tensors at the front of the main graph.

    Attributes:
        size: name of a float32 tensor [1], the number of samples B.
    """

    def __init__(self, twins: Twins, source: str | None) -> None:
        """Count along axis 0 of the network's input ``source``; None: a run is one sample."""
        self._twins = twins
        self._selections: dict[int, str] = {}
        graph = twins.proto.graph
        with twins.at_front():
            if source is None:
                self._samples = twins.constant(graph, [1], np.int64)
            else:
                counted = twins.node(graph, "Shape", source, start=0, end=1)
                one = twins.constant(graph, [1], np.int64)  # nothing is divided by 0
                self._samples = twins.node(graph, "Max", counted, one)
            self.size = twins.node(graph, "Cast", self._samples, to=TensorProto.FLOAT)

    def rows(self, twins: Twins, home: GraphProto, tensor: str) -> str:
        """B where axis 0 of a tensor counts samples, else 1: int64 [1]."""
        first = twins.node(home, "Shape", tensor, start=0, end=1)
        length = twins.node(home, "ReduceProd", first, keepdims=1)  # a scalar has none
        rest = twins.node(home, "Mod", length, self._samples)
        nothing, one = (twins.constant(home, [value], np.int64) for value in (0, 1))
        counts = twins.node(home, "Equal", rest, nothing)
        return twins.node(home, "Where", counts, self._samples, one)

    def selection(self, twins: Twins, home: GraphProto, rows: str, fitting: int) -> str:
        """Ones where sample r is in group g of ``fitting`` samples: float32 [groups, rows]."""
        if fitting not in self._selections:
            with twins.at_front():
                self._selections[fitting] = self._all_groups(twins, fitting)
        groups = _divided_up(twins, home, rows, fitting)
        ends = twins.node(home, "Concat", groups, rows, axis=0)
        starts, axes = (twins.constant(home, both, np.int64) for both in ([0, 0], [0, 1]))
        return twins.node(home, "Slice", self._selections[fitting], starts, ends, axes)

    def _all_groups(self, twins: Twins, fitting: int) -> str:
        graph = twins.proto.graph
        zero, one = (twins.constant(graph, value, np.int64) for value in (0, 1))
        counts = (self._samples, _divided_up(twins, graph, self._samples, fitting))
        axis = twins.constant(graph, [0], np.int64)
        samples, groups = (
            twins.node(graph, "Range", zero, twins.node(graph, "Squeeze", count, axis), one)
            for count in counts
        )
        size = twins.constant(graph, fitting, np.int64)
        own = twins.node(graph, "Div", samples, size)
        column = twins.node(graph, "Unsqueeze", groups, twins.constant(graph, [1], np.int64))
        same = twins.node(graph, "Equal", column, own)
        return twins.node(graph, "Cast", same, to=TensorProto.FLOAT)


def _divided_up(twins: Twins, home: GraphProto, count: str, size: int) -> str:
    """ceil(count / size): int64 [1]."""
    more, divisor = (twins.constant(home, [value], np.int64) for value in (size - 1, size))
    return twins.node(home, "Div", twins.node(home, "Add", count, more), divisor)
