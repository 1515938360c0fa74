"""Maps of counts: for each position of a code, sums over the samples, made inside the graph.

1. A position is a place in what is left of the shape when the samples are taken apart
   (``batch.py``).
2. Only sums over samples leave the runtime: per table (``pack.py``) float32 [groups, positions],
   and the shape of the tensor. The same product with a matrix that sums makes the joint values
   (``joint.py``) of a neuron.
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
from .batch import Rows
from .codes import Span
from .fan_out import Shape
from .joint import joint_of
from .pack import Field, Table, samples_that_fit


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
        joint: how levels are told apart; None where they are not.
        joined: name of the tensor to observe for it.
        totals: by shape of a sample.
    """

    def __init__(
        self,
        twins: Twins,
        home: GraphProto,
        found: Sequence[Table],
        span: Span,
        rows: Rows,
        observed: bool = False,
    ) -> None:
        """Add what counts.

        Args:
            twins: adds to the model.
            home: graph that the tensor is in.
            found: tables that count it.
            span: what it may hold.
            rows: its samples.
            observed: whether levels are to be told apart too.
        """
        self.span, self._rows = span, rows
        self.tables = list(found)
        self.fitting = samples_that_fit(found)
        self.joint, self.joined = None, ""
        if observed and len(found) == 1 and found[0].k is not None:
            self.joint = joint_of(found[0].packed(self.fitting), found[0].k)
        packed = []
        for table in found:
            thresholds = twins.constant(home, table.thresholds)
            levels = table.packed(self.fitting)
            packed.append(twins.staircase(home, table.tensor, thresholds, levels))
        shape = twins.node(home, "Shape", packed[0])
        flat = [twins.node(home, "Reshape", tensor, rows.matrix) for tensor in packed]
        selection = rows.selection(self.fitting, self.joint)
        if self.joint is None:
            sums = [twins.node(home, "MatMul", selection.matrix, tensor) for tensor in flat]
        else:
            self.joined = twins.node(home, "Gemm", selection.matrix, flat[0], selection.offsets)
            ends = (twins.constant(home, [0], np.int64), selection.groups)
            sums = [twins.node(home, "Slice", self.joined, *ends)]
        layout = twins.node(home, "Concat", rows.samples, rows.count, shape, axis=0)
        # A float, as all that is to leave a body of If. Lengths above 2^24 are found out.
        self.outputs = [*sums, twins.node(home, "Cast", layout, to=TensorProto.FLOAT)]
        self.totals: dict[Shape, Totals] = {}

    def add(self, arrays: Sequence[np.ndarray]) -> None:
        """Add one run.

        Raises:
            DataError: a value was NaN, or lengths are not those that the model declares.
        """
        *sums, layout = arrays
        if layout.size == 0:  # a branch that was not taken
            return
        batch, rows, *shape = (int(length) for length in layout)
        who = f"neuron {', '.join(self.span.neurons)}"
        if rows != self._rows.expected(batch, shape):
            raise DataError(
                f"{who}: its tensor is {shape}, which is not as the model declares it; correct or "
                "remove the shapes that it declares of inner tensors"
            )
        sample = (shape[0] // rows, *shape[1:]) if shape else ()
        positions = math.prod(sample)
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
            _unpack(table, self.fitting, part.astype(np.int32), totals.counts)

    def sum(self, name: str) -> int:
        """A count over all positions and samples."""
        return sum(int(totals.counts[name].sum()) for totals in self.totals.values())


def _unpack(table: Table, n: int, sums: np.ndarray, counts: dict[str, np.ndarray]) -> None:
    """Add sums of packed counts, int32 [groups, positions]; they are used up."""
    first, *others = zip(table.fields, table.radices(n), strict=True)
    for counted, radix in reversed(others):
        above = sums // np.int32(radix)
        sums -= above * np.int32(radix)
        _add(counted, sums, counts)
        sums = above
    _add(first[0], sums, counts)


def _add(counted: Field, sums: np.ndarray, counts: dict[str, np.ndarray]) -> None:
    total = sums.sum(axis=0, dtype=np.int64)
    counts[counted.name] += total if counted.worth == 1 else total * counted.worth
