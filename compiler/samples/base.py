"""What samples are: batches for the inputs of a model, that can be read more than once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
from onnx import ModelProto, helper

from ..errors import DataError, ModelError

Feed = dict[str, np.ndarray]

#: The array of class indices; evaluation reads it, calibration does not.
LABELS = "labels"


class InputSpec(NamedTuple):
    """One input of a model: name, element type, and dimensions (None where dynamic)."""

    name: str
    dtype: np.dtype
    shape: tuple[int | None, ...]


def input_specs(model: ModelProto) -> list[InputSpec]:
    """The inputs a caller has to feed.

    Raises:
        ModelError: an input is not a tensor of numbers with a known rank.
    """
    initialised = {tensor.name for tensor in model.graph.initializer}
    specs = []
    for value in model.graph.input:
        if value.name in initialised:
            continue
        kind = value.type.WhichOneof("value")
        tensor = value.type.tensor_type
        if kind != "tensor_type" or not tensor.HasField("shape"):
            what = f"of type {kind}" if kind != "tensor_type" else "of unknown rank"
            raise ModelError(f"input '{value.name}' is {what}; only tensors of known rank are fed")
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        if dtype.kind not in "fiub":
            raise ModelError(
                f"input '{value.name}' holds {dtype}; only numbers that NumPy has can be fed: "
                "export the model with an input of float32 and a Cast behind it"
            )
        # Some exporters write -1 for a dynamic dimension.
        dims = tuple(
            dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None
            for dim in tensor.shape.dim
        )
        if dims[:1] == (0,):
            raise ModelError(
                f"input '{value.name}' has the shape {list(dims)}, so there is nothing to feed; "
                "export with samples in the batch, or a dynamic batch axis"
            )
        specs.append(InputSpec(value.name, dtype, dims))
    if not specs:
        raise ModelError("the model has no inputs, so there is nothing to feed")
    return specs


class Samples(ABC):
    """A set of samples that can be read more than once.

    Attributes:
        count: number of samples.
        origin: what they are, for reports and provenance.
        synthetic: whether they were made up.
        fixed_batch: the model's batch size, or None if it is dynamic.
        unbatched: inputs without a batch axis; then ``fixed_batch`` is 1.
        warnings: what the user should know of them.
    """

    count: int
    origin: str
    synthetic: bool
    fixed_batch: int | None
    unbatched: frozenset[str]
    warnings: Sequence[str] = ()

    @abstractmethod
    def _blocks(self, size: int) -> Iterator[Feed]:
        """Blocks of at most ``size`` samples, in order."""

    def _blocks_from(self, size: int, start: int) -> Iterator[Feed]:
        """Likewise, without the first ``start`` samples; override it where they can be skipped."""
        for block in self._blocks(size):
            rows = len(next(iter(block.values())))
            if start < rows:
                yield {name: array[start:] for name, array in block.items()} if start else block
            start = max(start - rows, 0)

    def batches(self, size: int, start: int = 0) -> Iterator[Feed]:
        """Feeds of ``size`` samples, or of the model's fixed batch size.

        A remainder that does not fill a fixed batch is left out.

        Args:
            size: of a feed.
            start: number of the first sample.
        """
        wanted = self.fixed_batch or size
        pending: list[Feed] = []
        held = 0
        for block in self._blocks_from(wanted, start) if start else self._blocks(wanted):
            pending.append(block)
            held += len(next(iter(block.values())))
            if held >= wanted:
                joined = _join(pending)
                yield self._feed({name: array[:wanted] for name, array in joined.items()})
                held -= wanted
                rest = {name: array[wanted:] for name, array in joined.items()}
                pending = [rest] if held else []
        if held and self.fixed_batch is None:
            yield self._feed(_join(pending))

    def ends(self) -> tuple[Samples, Samples] | None:
        """A few samples of the least scale and of the largest, where the scale is not known."""
        return None

    def _feed(self, batch: Feed) -> Feed:
        return {k: array[0, ...] if k in self.unbatched else array for k, array in batch.items()}

    def count_in(self, feed: Feed) -> int:
        """How many samples a feed holds."""
        return 1 if self.unbatched else len(next(iter(feed.values())))

    def batch_count(self, size: int) -> int:
        """How many feeds :meth:`batches` gives."""
        wanted = self.fixed_batch or size
        return self.count // wanted if self.fixed_batch else -(-self.count // wanted)

    def spread(self, size: int, most: int) -> set[int]:
        """Which of the feeds of :meth:`batches` to take, evenly spread, for about ``most`` samples.

        A batch that the model fixes is never split, so there may be more.
        """
        there = self.batch_count(size)
        wanted = min(max(most // (self.fixed_batch or size), 1), there)
        return {(2 * position + 1) * there // (2 * wanted) for position in range(wanted)}


def _join(blocks: list[Feed]) -> Feed:
    if len(blocks) == 1:
        return blocks[0]
    joined = {}
    for name in blocks[0]:
        arrays = [block[name] for block in blocks]
        lengths = sorted({array.shape[1:] for array in arrays})
        if len(lengths) > 1:
            raise DataError(
                f"'{name}': samples of shapes {list(lengths[0])} and {list(lengths[-1])} do not go "
                "into one batch; pad them to one shape"
            )
        joined[name] = np.concatenate(arrays)
    return joined


class GivenSamples(Samples):
    """Samples that the user gives.

    Attributes:
        name: what results call them: their file or folder, or what kind of object they are.
        sha256: of what they hold.
        preprocessing: how pixels became values, by option; empty where values came as they are.
        classes: names of the classes in the order of their indices, where labels are names.
    """

    synthetic = False
    name: str
    sha256: str
    preprocessing: Mapping[str, Any] = MappingProxyType({})
    classes: Sequence[str] = ()

    @abstractmethod
    def label_parts(self) -> list[tuple[str, Rows | None]]:
        """Labels as they were given, part after part: where they are, and None if they are not."""

    def _settle(
        self, place: object, specs: list[InputSpec], parts: Iterable[tuple[int, set[str]]]
    ) -> None:
        """Number of samples, batch and origin.

        Args:
            place: of the samples, for messages.
            specs: the inputs.
            parts: of each the number of samples, and the inputs without batch axis.

        Raises:
            DataError: there are no samples, or fewer than the model's batch.
        """
        counts: list[int] = []
        unbatched: set[str] = set()
        for count, without in parts:
            counts.append(count)
            unbatched |= without
        self.count = sum(counts)
        self.unbatched = frozenset(unbatched)
        self.fixed_batch = fixed_batch(specs, self.unbatched)
        if self.count == 0:
            names = ", ".join(f"'{spec.name}'" for spec in specs)
            raise DataError(f"{place}: no samples, the arrays are empty ({names}); give some")
        if self.fixed_batch and self.count < self.fixed_batch:
            raise DataError(
                f"{place}: {self.count} samples do not fill one batch of {self.fixed_batch}, "
                "which the model fixes; give more samples or export with a dynamic batch axis"
            )
        self.origin = f"{self.count} samples, sha256 {self.sha256[:16]}"


class Array(Protocol):
    """An array, or what is known of it before it is read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of its axes, the first for the samples."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Its element type."""
        ...


class Rows(Array, Protocol):
    """An array that gives its rows, in memory or not."""

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """Rows that follow each other."""
        ...


def inputs_without_batch(specs: list[InputSpec]) -> frozenset[str]:
    """Inputs without a batch axis: scalars, and all where the first dimensions differ."""
    sizes = {spec.shape[0] if spec.shape else 1 for spec in specs} - {None}
    return frozenset(spec.name for spec in specs if not spec.shape or len(sizes) > 1)


def fixed_batch(specs: list[InputSpec], unbatched: frozenset[str]) -> int | None:
    """1 sample at a time for inputs without a batch axis, else the fixed first dimension."""
    sizes = {1 if spec.name in unbatched else spec.shape[0] for spec in specs} - {None}
    if len(sizes) > 1:
        wrong = [spec.name for spec in specs if spec.name not in unbatched]
        raise DataError(
            f"the model fixes the first dimension of {', '.join(wrong)}, so it is no batch axis "
            "there: give their arrays one dimension more, the first for the samples"
        )
    return sizes.pop() if sizes else None
