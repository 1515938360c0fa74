"""Maps of counts: for each position of a code, sums over the samples, made inside the graph.

1. A position is a place in what is left of the shape when the samples are taken apart
   (``batch.py``).
2. Only sums over samples leave the runtime: per table (``pack.py``) float32 [groups, positions],
   and the shape of the tensor.
3. Positions are kept apart by the shape of a sample: inputs of several sizes have maps of several
   sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from onnx import GraphProto, TensorProto

from ..errors import DataError
from .batch import Rows
from .codes import Span
from .fan_out import Shape
from .level_bins import INDEX, LevelBins, level_bins
from .pack import Field, Packed, Table
from .twins import Twins

#: Values that are taken apart at once, few enough for the cache, and rows of them whose sum an
#: int32 holds.
_MOST_WAITING = 1 << 16
_MOST_ROWS = 64


class Totals:
    """What was counted at each position of samples of one shape.

    Attributes:
        samples: how many there were.
    """

    def __init__(self, packed: Packed, positions: int, who: str) -> None:
        self.samples = 0
        self._packed, self._who = packed, who
        names = {counted.name for table in packed.tables for counted in table.fields}
        self._counts = {name: np.zeros(positions, np.int64) for name in names}
        self._waiting: list[list[np.ndarray]] = []

    def add(self, sums: list[np.ndarray], samples: int) -> None:
        """Add sums over so many samples, float32 [groups, positions] for each table.

        Raises:
            DataError: a value of these or of earlier ones is NaN.
        """
        self.samples += samples
        self._waiting.append(sums)
        if sums[0].size * len(self._waiting) >= _MOST_WAITING:
            self._unpack()

    @property
    def counts(self) -> dict[str, np.ndarray]:
        """int64 [positions] by name, those that the tables have (``pack.py``).

        Raises:
            DataError: a value that was added is NaN.
        """
        self._unpack()
        return self._counts

    def _unpack(self) -> None:
        """Take the fields of what waits apart: of many sums at once, for the sake of small ones."""
        columns, self._waiting = list(zip(*self._waiting, strict=True)), []
        for table, parts in zip(self._packed.tables, columns, strict=bool(columns)):
            floats = np.concatenate(parts)
            if np.isnan(floats.sum()):
                raise DataError(
                    f"{self._who}: its membrane potential is NaN on a sample, so its spikes cannot "
                    "be counted; look for NaN or overflow in the data, and in the network on them"
                )
            sums = floats.astype(np.int32)
            first, *others = zip(table.fields, table.radices(self._packed.fitting), strict=True)
            for counted, radix in reversed(others):
                above = sums // np.int32(radix)
                sums -= above * np.int32(radix)
                self._add(counted, sums)
                sums = above
            self._add(first[0], sums)

    def _add(self, counted: Field, sums: np.ndarray) -> None:
        # A count is below 2^24 and no more than _MOST_ROWS are summed.
        for start in range(0, len(sums), _MOST_ROWS):
            total = sums[start : start + _MOST_ROWS].sum(axis=0, dtype=np.int32)
            self._counts[counted.name] += total.astype(np.int64) * counted.worth


class CountMap:
    """The counts of one tensor of spikes.

    Attributes:
        span: what it may hold.
        packed: its packed counts.
        outputs: names of the tensors that a run has to give to :meth:`add`.
        levels: how levels are told apart; None where they are not.
        observed: name of the tensor to observe for it.
        totals: by shape of a sample.
    """

    def __init__(
        self,
        twins: Twins,
        home: GraphProto,
        packed: Packed,
        span: Span,
        rows: Rows,
        observed: bool = False,
    ) -> None:
        """Add what counts.

        Args:
            twins: adds to the model.
            home: graph that the tensor is in.
            packed: its packed counts.
            span: what it may hold.
            rows: its samples.
            observed: whether levels are to be told apart too.
        """
        self.span, self.packed, self._rows = span, packed, rows
        self.levels, self.observed = None, ""
        if observed and len(packed.tables) == 1:
            self.levels, self.observed = _observe(twins, home, packed.tables[0])
        flat = [twins.node(home, "Reshape", tensor, rows.matrix) for tensor in packed.tensors]
        selection = rows.selection(packed.fitting)
        sums = [twins.node(home, "MatMul", selection, tensor) for tensor in flat]
        shape = twins.node(home, "Shape", packed.tensors[0])
        # A float, as all that is to leave a body of If. Lengths above 2^24 are found out.
        if home is not twins.proto.graph:
            shape = twins.node(home, "Cast", shape, to=TensorProto.FLOAT)
        self.outputs = [*sums, rows.lengths, shape]
        self.totals: dict[Shape, Totals] = {}
        self._seen: dict[bytes, tuple[Totals, int]] = {}  # by lengths: most runs have the same

    def add(self, arrays: Sequence[np.ndarray]) -> None:
        """Add one run.

        Raises:
            DataError: a value was NaN, in this run or an earlier one, or lengths are not those that
                the model declares.
        """
        *sums, lengths, shape = arrays
        if lengths.size == 0:  # a branch that was not taken
            return
        key = lengths.tobytes() + shape.tobytes()
        if key not in self._seen:
            batch, rows, *sizes = (int(length) for length in (*lengths, *shape))
            self._seen[key] = self._place(sums, batch, rows, sizes)
        totals, rows = self._seen[key]
        totals.add(sums, rows)

    def _place(
        self, sums: Sequence[np.ndarray], batch: int, rows: int, shape: Sequence[int]
    ) -> tuple[Totals, int]:
        """Where sums over a tensor of this shape are added, and how many rows they are of."""
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
        if sample not in self.totals:
            self.totals[sample] = Totals(self.packed, positions, who)
        return self.totals[sample], rows

    def sum(self, name: str) -> int:
        """A count over all positions and samples."""
        return sum(int(totals.counts[name].sum()) for totals in self.totals.values())


def _observe(twins: Twins, home: GraphProto, table: Table) -> tuple[LevelBins | None, str]:
    """How the levels of a table are told apart, and the tensor to observe for it."""
    if table.values is None or table.k is None:
        return None, ""
    bins = level_bins(table.values, table.k)
    if bins is not None:
        return bins, table.tensor
    index = INDEX + np.arange(len(table.k))
    thresholds = twins.constant(home, table.thresholds)
    own = twins.staircase(home, table.tensor, thresholds, index)
    return level_bins(index, table.k), own
