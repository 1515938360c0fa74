"""Arrays in .npz and .npy files, read row by row as they lie there.

Memory does not grow with their length.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.lib import format as npy_format

from ..errors import DataError
from .base import LABELS, Rows

#: What reading a damaged, encrypted or foreign archive raises.
UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError),
    *(NotImplementedError, RuntimeError),
)

#: Bytes that are read at a time where rows are passed over.
_SKIPPED = 1 << 24

#: Bytes of the header of a member of an archive, and the flag of those that are encrypted.
_LOCAL_HEADER, _ENCRYPTED = 30, 1


class Header(NamedTuple):
    """What is known of an array before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def as_row(self) -> Header:
        """Of the array with an axis for one sample in front."""
        return self._replace(shape=(1, *self.shape))


def read_header(file: Path, name: str, stream: IO[bytes]) -> Header:
    """Of an array of which the stream is at the beginning.

    Raises:
        DataError: it is unreadable, or of a kind that cannot be read row by row.
    """
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


class Reader:
    """Reads the rows of one array in order."""

    def __init__(self, file: Path, name: str, one_sample: bool) -> None:
        self._file, self._name, self._one_sample = file, name, one_sample

    def __enter__(self) -> Reader:
        """Open the file."""
        self._archive = zipfile.ZipFile(self._file) if self._file.suffix == ".npz" else None
        self._direct = False  # whether the archive's own file is read, past its member
        archive, member = self._archive, f"{self._name}.npy"
        self._stream = self._file.open("rb") if archive is None else archive.open(member)
        header = read_header(self._file, self._name, self._stream)
        self.header = header.as_row() if self._one_sample else header
        self._left = self.header.shape[0]
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
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
        self._reader: Reader | None = None
        self._position = 0
        with Reader(file, name, False) as reader:
            self.shape, self.dtype = reader.header

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """Rows that follow each other."""
        start, stop, _ = rows.indices(self.shape[0])
        if self._reader is None or start < self._position:
            self.close()
            self._reader = Reader(self._file, self._name, False).__enter__()
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


def labels_in(file: Path) -> Rows | None:
    """The labels of an .npz; None where there are none.

    Raises:
        DataError: they are not readable.
    """
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
        return len(read_header(file, LABELS, stream).shape)
