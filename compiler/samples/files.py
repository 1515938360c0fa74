"""Samples for calibration, verification and evaluation, streamed in batches.

Accepted: an .npz keyed by input name, an .npy for a model with one input, a folder of either, read
in name order, or a .txt that lists such files, one a line, from its own folder on. The first axis
of an array counts samples; where every .npy of a folder has one dimension less than the input, each
is one sample. Arrays are read straight from the file in blocks,
so memory does not grow with the number of samples.

Where an array has one dimension more than the model's input, the input has no batch axis and the
samples are fed one by one.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, NamedTuple, Protocol

import numpy as np
from numpy.lib import format as npy_format
from onnx import ModelProto, helper

from ..errors import DataError, ModelError

Feed = dict[str, np.ndarray]

#: What reading a damaged, encrypted or foreign archive raises.
UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError),
    *(NotImplementedError, RuntimeError),
)


#: What to do about inputs whose first dimension does not count samples.
NO_BATCH_AXIS = (
    "where the first dimension of an input is no batch axis, give the arrays of all inputs one "
    "dimension more, the first for the samples"
)

#: Bytes that are read at a time where rows are passed over.
_SKIPPED = 1 << 24

#: Bytes of the header of a member of an archive, and the flag of those that are encrypted.
_LOCAL_HEADER, _ENCRYPTED = 30, 1

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


class FileSamples(GivenSamples):
    """Samples for the inputs ``specs`` from a file or a folder of .npz and .npy files.

    Args:
        path: of the file or folder.
        specs: the inputs.
        known: SHA-256 of their bytes, where another process has read them all; empty: they are
            read.

    Attributes:
        files: those that hold them, in order.
        sha256: of the files' bytes, one after the other.

    Raises:
        DataError: a file is missing, unreadable or empty, or its arrays do not fit the inputs.
    """

    def __init__(self, path: Path, specs: list[InputSpec], known: str = "") -> None:
        self._specs, self.name = specs, str(path)
        self.files = _list_files(path)
        self._one_each = path.is_dir() and _one_sample_each(self.files, specs)
        parts = []
        digest = hashlib.sha256()
        for file in self.files:
            headers, others = _headers(file, specs)
            if self._one_each:
                headers = {name: header.as_row() for name, header in headers.items()}
            self.warnings = self.warnings or unread(str(file), others, specs)
            parts.append(check_arrays(str(file), specs, headers))
            if known:
                continue
            with file.open("rb") as stream:
                for chunk in iter(lambda: stream.read(1 << 20), b""):
                    digest.update(chunk)
        self.sha256 = known or digest.hexdigest()
        self._counts = [count for count, _ in parts]
        self._settle(path, specs, parts)

    def label_parts(self) -> list[tuple[str, Rows | None]]:
        """Those of each file; what has many values per sample is read when it is asked for."""
        return [(str(file), _labels_in(file)) for file in self.files]

    def _blocks(self, size: int) -> Iterator[Feed]:
        yield from self._blocks_from(size, 0)

    def _blocks_from(self, size: int, start: int) -> Iterator[Feed]:
        for file, count in zip(self.files, self._counts, strict=True):
            position, start = min(start, count), max(start - count, 0)
            if position == count:
                continue
            with ExitStack() as stack:
                readers = {
                    spec.name: stack.enter_context(_Reader(file, spec.name, self._one_each))
                    for spec in self._specs
                }
                for reader in readers.values():
                    reader.skip(position)
                while True:
                    block = {name: reader.read(size) for name, reader in readers.items()}
                    rows = len(next(iter(block.values())))
                    if rows == 0:
                        break
                    for spec in self._specs:
                        place = f"{file}: array '{spec.name}'"
                        block[spec.name] = as_type(block[spec.name], spec, place, position)
                    position += rows
                    yield block


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


def _list_files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in (".npz", ".npy") and p.is_file())
        if not files:
            raise DataError(
                f"{path}: the folder holds no .npz or .npy file, and no PNG or JPEG image; save "
                "samples in it"
            )
        return files
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    if path.suffix == ".txt":
        return _listed(path)
    if path.suffix not in (".npz", ".npy"):
        raise DataError(
            f"{path}: expected .npz, .npy, a folder of them or of images, a .txt that lists them, "
            "or a CSV that lists images; numpy.savez writes an .npz"
        )
    return [path]


def _listed(path: Path) -> list[Path]:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is no readable list of files: {error}") from error
    files = [path.parent / line.strip() for line in lines if line.strip()]
    for file in files:
        if file.suffix not in (".npz", ".npy") or not file.is_file():
            raise DataError(f"{path}: lists {file}, which is no .npz or .npy file")
    if not files:
        raise DataError(f"{path}: lists no file; write a path of an .npz or .npy on each line")
    return files


def _one_sample_each(files: list[Path], specs: list[InputSpec]) -> bool:
    """Whether each file of a folder is a sample of its own, without batch axis.

    Raises:
        DataError: some are, and some are not.
    """
    if len(specs) != 1 or any(file.suffix != ".npy" for file in files):
        return False
    (spec,) = specs
    if spec.name in inputs_without_batch(specs):
        return False
    ranks: dict[int, Path] = {}
    for file in files:
        ranks.setdefault(len(_headers(file, specs)[0][spec.name].shape), file)
    own = len(spec.shape) - 1
    if own in ranks and len(ranks) > 1:
        other = next(file for rank, file in ranks.items() if rank != own)
        raise DataError(
            f"{ranks[own]} is one sample without a batch axis, and {other} is not; save the arrays "
            "of a folder either all with a batch axis or all without"
        )
    return own in ranks


class Header(NamedTuple):
    """What is known of an array before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def as_row(self) -> Header:
        """Of the array with an axis for one sample in front."""
        return self._replace(shape=(1, *self.shape))


def _read_header(file: Path, name: str, stream: IO[bytes]) -> Header:
    try:
        version = npy_format.read_magic(stream)
        read = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}
        if version not in read:
            raise DataError(f"{file}: array '{name}' uses .npy version {version}; save it again")
        shape, fortran_order, dtype = read[version](stream)
    except UNREADABLE as error:
        raise DataError(
            f"{file}: array '{name}' is not readable: {error}; save it again"
        ) from error
    if dtype.hasobject:
        raise DataError(f"{file}: array '{name}' holds Python objects; save plain numbers")
    if fortran_order and len(shape) > 1:
        raise DataError(
            f"{file}: array '{name}' is stored column by column and cannot be streamed; "
            "save numpy.ascontiguousarray(array)"
        )
    return Header(shape, dtype)


def _headers(file: Path, specs: list[InputSpec]) -> tuple[dict[str, Header], list[str]]:
    """Headers of the arrays that belong to the inputs, and the names of the others."""
    if file.suffix == ".npy":
        if len(specs) != 1:
            names = ", ".join(spec.name for spec in specs)
            raise DataError(f"{file}: the model has {len(specs)} inputs ({names}); give an .npz")
        with file.open("rb") as stream:
            return {specs[0].name: _read_header(file, specs[0].name, stream)}, []
    try:
        with zipfile.ZipFile(file) as archive:
            found = {n[: -len(".npy")] for n in archive.namelist() if n.endswith(".npy")}
            for spec in specs:
                if spec.name not in found:
                    raise DataError(missing(str(file), spec.name, sorted(found)))
            headers = {}
            for spec in specs:
                with archive.open(f"{spec.name}.npy") as stream:
                    headers[spec.name] = _read_header(file, spec.name, stream)
            return headers, sorted(found - set(headers))
    except UNREADABLE as error:
        raise DataError(
            f"{file}: not a readable .npz archive: {error}; save it again with numpy.savez"
        ) from error


def unread(place: str, others: Iterable[str], specs: list[InputSpec]) -> list[str]:
    """A warning for each array that nothing reads."""
    known = [LABELS, *(spec.name for spec in specs)]
    warnings = []
    for name in others:
        if name == LABELS:
            continue
        close = difflib.get_close_matches(name.lower(), known, 1)
        hint = f"; is it '{close[0]}'?" if close else ""
        warnings.append(f"{place}: array '{name}' is not read, no input is called so{hint}")
    return warnings


def missing(place: str, name: str, found: list[str]) -> str:
    """That there is no array for an input, and which one may be meant."""
    message = f"{place}: no array named '{name}', which the model's input is called; found {found}"
    close = difflib.get_close_matches(name, found, 1)
    others = [key for key in found if key != LABELS]
    hint = close or (others if len(others) == 1 else [])
    return f"{message}; rename '{hint[0]}'" if hint else f"{message}; give it under that name"


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


def check_arrays(
    place: str, specs: list[InputSpec], arrays: Mapping[str, Array]
) -> tuple[int, set[str]]:
    """The number of samples in arrays that fit the inputs, and the inputs without batch axis.

    Args:
        place: of the arrays, for messages.
        specs: the inputs.
        arrays: one for each of them, by name; others are not looked at.

    Raises:
        DataError: one does not fit, or they have different numbers of samples.
    """
    rows = {spec.name: _check_array(place, spec, arrays[spec.name]) for spec in specs}
    if len(set(rows.values())) > 1:
        lengths = ", ".join(f"'{name}' {count}" for name, count in rows.items())
        raise DataError(
            f"{place}: the arrays have different numbers of samples, the lengths of their "
            f"first axes: {lengths}; give as many of each, or {NO_BATCH_AXIS}"
        )
    unbatched = {spec.name for spec in specs if len(arrays[spec.name].shape) > len(spec.shape)}
    return next(iter(rows.values())), unbatched


def _check_array(where: str, spec: InputSpec, header: Array) -> int:
    """The number of samples in an array that fits the input."""
    wanted = [dim if dim is not None else "?" for dim in spec.shape]
    place = f"{where}: array '{spec.name}' {header.dtype} {list(header.shape)}"
    rank = len(spec.shape)
    own = spec.shape[1:] if len(header.shape) == rank else spec.shape
    got = header.shape[1:]
    fits = len(header.shape) in (rank, rank + 1) and header.shape != ()
    if not fits or any(dim not in (None, n) for dim, n in zip(own, got, strict=True)):
        given = ", ".join(["samples", *map(str, wanted[1:])])
        raise DataError(
            f"{place} does not fit the input {spec.dtype} {wanted}; its first axis counts samples: "
            f"give it as [{given}]; {NO_BATCH_AXIS}"
        )
    both_float = header.dtype.kind == "f" and spec.dtype.kind == "f"
    if header.dtype != spec.dtype and not both_float:
        raise DataError(
            f"{place} has another element type than the input ({spec.dtype}); prepare the samples "
            "exactly as the network expects them (scaling, normalisation) and give "
            f"array.astype('{spec.dtype}')"
        )
    return header.shape[0]


def as_type(block: np.ndarray, spec: InputSpec, place: str, position: int) -> np.ndarray:
    """The samples in the input's element type, all of them finite.

    Args:
        block: the samples.
        spec: the input.
        place: of the array, for messages.
        position: of the first sample in it.

    Raises:
        DataError: a sample has NaN or inf, or is beyond the type.
    """
    if block.dtype.kind == "f":
        wrong = _first(~np.isfinite(block))
        if wrong is not None:
            raise DataError(
                f"{place} has NaN or inf in sample {position + wrong}; repair the sample, or leave "
                "it out"
            )
    with np.errstate(over="ignore"):
        converted = block.astype(spec.dtype, copy=False)
    if block.dtype.kind == "f" and converted is not block:
        wrong = _first(~np.isfinite(converted))
        if wrong is not None:
            raise DataError(
                f"{place} has {np.abs(block[wrong]).max():.3g} in sample {position + wrong}, "
                f"beyond {spec.dtype}, the element type of the input; scale the samples as the "
                "network expects them"
            )
    return converted


def _first(marked: np.ndarray) -> int | None:
    """The first row that has a mark."""
    rows = np.flatnonzero(marked.reshape(len(marked), -1).any(axis=1))
    return int(rows[0]) if rows.size else None


class _Reader:
    """Reads the rows of one array in order."""

    def __init__(self, file: Path, name: str, one_sample: bool) -> None:
        self._file, self._name, self._one_sample = file, name, one_sample

    def __enter__(self) -> _Reader:
        self._archive = zipfile.ZipFile(self._file) if self._file.suffix == ".npz" else None
        self._direct = False  # whether the archive's own file is read, past its member
        archive, member = self._archive, f"{self._name}.npy"
        self._stream = self._file.open("rb") if archive is None else archive.open(member)
        header = _read_header(self._file, self._name, self._stream)
        self.header = header.as_row() if self._one_sample else header
        self._left = self.header.shape[0]
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        if self._archive is not None:
            self._archive.close()

    def skip(self, rows: int) -> None:
        """Pass over rows; those of a compressed array are read for that."""
        rows = min(rows, self._left)
        row = math.prod(self.header.shape[1:]) * self.header.dtype.itemsize
        if rows and self._archive is not None and not self._direct:
            info = self._archive.getinfo(f"{self._name}.npy")
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & _ENCRYPTED:
                step = max(_SKIPPED // max(row, 1), 1)
                for start in range(0, rows, step):
                    self.read(min(step, rows - start))
                return
            stream = self._file.open("rb")
            stream.seek(_content_of(stream, info) + self._stream.tell())
            self._stream.close()
            self._stream, self._direct = stream, True
        self._left -= rows
        if rows:
            self._stream.seek(rows * row, 1)

    def read(self, rows: int) -> np.ndarray:
        """The next ``rows`` rows, fewer at the end."""
        rows = min(rows, self._left)
        self._left -= rows
        shape = (rows, *self.header.shape[1:])
        size = int(np.prod(shape, dtype=np.int64)) * self.header.dtype.itemsize
        try:
            data = self._stream.read(size)
        except UNREADABLE as error:
            raise DataError(
                f"{self._file}: array '{self._name}' is damaged: {error}; save it again"
            ) from error
        if len(data) != size:
            raise DataError(f"{self._file}: array '{self._name}' ends too early; save it again")
        return np.frombuffer(data, self.header.dtype).reshape(shape)


def _content_of(stream: IO[bytes], info: zipfile.ZipInfo) -> int:
    """Where the content of a member that is stored as it is begins in the archive."""
    stream.seek(info.header_offset)
    header = stream.read(_LOCAL_HEADER)
    # It ends with the lengths of the name and of the extra field behind it.
    name, extra = struct.unpack("<HH", header[-4:])
    return int(info.header_offset + _LOCAL_HEADER + name + extra)


class StoredRows:
    """An array in a file whose rows are read when they are asked for; in order is fastest.

    Args:
        file: an .npz, or an .npy.
        name: of the array.

    Raises:
        DataError: it cannot be read, or has no axis for rows.
    """

    def __init__(self, file: Path, name: str) -> None:
        self._file, self._name = file, name
        self._reader: _Reader | None = None
        self._position = 0
        with _Reader(file, name, False) as reader:
            self.shape, self.dtype = reader.header

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """Rows that follow each other."""
        start, stop, _ = rows.indices(self.shape[0])
        if self._reader is None or start < self._position:
            self.close()
            self._reader = _Reader(self._file, self._name, False).__enter__()
        self._reader.skip(start - self._position)
        self._position = max(self._position, start)
        found = self._reader.read(max(stop - start, 0))
        self._position += len(found)
        if self._position == self.shape[0]:
            self.close()
        return found

    def close(self) -> None:
        """Close the file; it is opened again when rows are asked for."""
        if self._reader is not None:
            self._reader.__exit__()
        self._reader, self._position = None, 0


def _labels_in(file: Path) -> Rows | None:
    if file.suffix != ".npz":
        return None
    try:
        with np.load(file, allow_pickle=False) as archive:
            if LABELS not in archive.files:
                return None
            if _rank(file) < 2:  # one per sample is nothing beside the samples
                labels: np.ndarray = archive[LABELS]
                return labels
        return StoredRows(file, LABELS)
    except (*UNREADABLE, DataError) as error:
        raise DataError(f"{file}: 'labels' is not readable: {error}; save it again") from error


def _rank(file: Path) -> int:
    with zipfile.ZipFile(file) as archive, archive.open(f"{LABELS}.npy") as stream:
        return len(_read_header(file, LABELS, stream).shape)
