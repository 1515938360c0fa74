"""Maps of counts: for each position of a code, sums over the samples, made inside the graph.

1. A position is a place in what is left of the shape when the samples are taken apart
   (``batch.py``).
2. Only sums over samples leave the runtime: packed counts (``pack.py``), float32 [groups,
   positions], and the shape of the tensor. They are a product with a matrix of ones and zeros, a
   row per group of as many samples as fit into one sum.
3. Positions are kept apart by the shape of a sample: inputs of several sizes have maps of several
   sizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, TensorProto

from ...passes.graph.graph import Tensor
from ..errors import DataError
from .batch import Batch, Rows
from .codes import Codes
from .fan_out import Shape
from .insertion import Insertion
from .neuron_spikes import Span
from .pack import Packed, pack
from .spans import Spans

#: Values that are taken apart at once, few enough for the cache, and rows of counts below 2^24
#: whose sum an int32 holds: numpy adds int32 four times as fast as it adds them to int64.
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
        names = [name for counts in packed.tensors.values() for name in counts]
        self._counts = {name: np.zeros(positions, np.int64) for name in names}
        self._waiting: list[list[np.ndarray]] = []

    def add(self, sums: list[np.ndarray], samples: int) -> None:
        """Add sums over so many samples, float32 [groups, positions] for each packed tensor.

        Raises:
            DataError: a value of these or of earlier ones is NaN.
        """
        self.samples += samples
        self._waiting.append(sums)
        if sums[0].size * len(self._waiting) >= _MOST_WAITING:
            self._take_apart()

    @property
    def counts(self) -> dict[str, np.ndarray]:
        """int64 [positions] by name, those that are packed (``pack.py``).

        Raises:
            DataError: a value that was added is NaN.
        """
        self._take_apart()
        return self._counts

    def state(self) -> dict[str, Any]:
        """What :meth:`merge` takes: counts in as few bytes as hold them.

        Raises:
            DataError: a value that was added is NaN.
        """
        counts = {name: narrow(count) for name, count in self.counts.items()}
        return {"samples": self.samples, "counts": counts}

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add what was counted of other samples."""
        self.samples += state["samples"]
        for name, count in state["counts"].items():
            self._counts[name] += count

    def _take_apart(self) -> None:
        """Take the counts of what waits apart: of many sums at once, for the sake of small ones."""
        columns, self._waiting = list(zip(*self._waiting, strict=True)), []
        for tensor, parts in zip(self._packed.tensors, columns, strict=bool(columns)):
            sums = np.concatenate(parts)
            if np.isnan(sums.sum()):
                raise DataError(
                    f"{self._who}: its membrane potential is NaN on a sample, so its spikes cannot "
                    "be counted; look for NaN or overflow in the data, and in the network on them"
                )
            for name, count in self._packed.take_apart(sums.astype(np.int32), tensor).items():
                for start in range(0, len(count), _MOST_ROWS):
                    total = count[start : start + _MOST_ROWS].sum(axis=0, dtype=np.int32)
                    self._counts[name] += total


def narrow(counts: np.ndarray) -> np.ndarray:
    """Counts, none of them negative, in the smallest type that holds them."""
    return counts.astype(np.min_scalar_type(int(counts.max(initial=0))))


class CountMap:
    """The counts of one tensor of spikes.

    Attributes:
        span: what it may hold.
        outputs: names of the tensors that a run has to give to :meth:`add`.
        totals: by shape of a sample.
    """

    def __init__(
        self, insert: Insertion, home: GraphProto, packed: Packed, span: Span, rows: Rows
    ) -> None:
        """Add what counts.

        Args:
            insert: adds to the model.
            home: graph that the tensor is in.
            packed: its packed counts.
            span: what it may hold.
            rows: its samples.
        """
        self.span, self._packed, self._rows = span, packed, rows
        flat = [insert.node(home, "Reshape", tensor, rows.matrix) for tensor in packed.tensors]
        selection = rows.selection(packed.fitting)
        sums = [insert.node(home, "MatMul", selection, tensor) for tensor in flat]
        shape = insert.node(home, "Shape", next(iter(packed.tensors)))
        # A float, as all that is to leave a body of If. Lengths above 2^24 are found out.
        if home is not insert.proto.graph:
            shape = insert.node(home, "Cast", shape, to=TensorProto.FLOAT)
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

    def state(self) -> list[list[Any]]:
        """What :meth:`merge` takes: shapes of samples, and their counts.

        Raises:
            DataError: a value that was added is NaN.
        """
        return [[list(shape), totals.state()] for shape, totals in self.totals.items()]

    def merge(self, state: Sequence[Sequence[Any]]) -> None:
        """Add what was counted of other samples."""
        for shape, own in state:
            self._of(tuple(shape)).merge(own)

    def clear(self) -> None:
        """Forget what was counted."""
        self.totals.clear()
        self._seen.clear()

    def _of(self, sample: Shape) -> Totals:
        """Where samples of a shape are added."""
        if sample not in self.totals:
            who = f"neuron {', '.join(self.span.neurons)}"
            self.totals[sample] = Totals(self._packed, math.prod(sample), who)
        return self.totals[sample]

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
        return self._of(sample), rows

    def sum(self, name: str) -> int:
        """A count over all positions and samples."""
        return sum(int(totals.counts[name].sum()) for totals in self.totals.values())


class CountMaps:
    """Makes the map of each tensor of spikes once.

    Attributes:
        batch_size: name of a float32 tensor [1], the number of samples of a run.
    """

    def __init__(self, insert: Insertion, codes: Codes, spans: Spans, batch: Batch) -> None:
        self._insert, self._codes, self._spans, self._batch = insert, codes, spans, batch
        self.batch_size = batch.size
        self._of: dict[tuple[int, str, bool], CountMap] = {}

    @property
    def made(self) -> list[CountMap]:
        """In order."""
        return list(self._of.values())

    def of(self, home: GraphProto, tensor: Tensor, fixed: bool = False) -> CountMap:
        """The map of a tensor.

        Args:
            home: the graph to make it in.
            tensor: of spikes.
            fixed: axis 0 has no samples, the run is one.
        """
        key = id(home), str(tensor.name), fixed
        if key not in self._of:
            span, length = self._codes.span(tensor), self._spans.length_of(tensor)
            packed = pack(self._insert, self._codes, home, tensor)
            first = next(iter(packed.tensors))
            rows = self._batch.rows(home, first, length, span.timesteps, fixed)
            self._of[key] = CountMap(self._insert, home, packed, span, rows)
        return self._of[key]
