"""Samples in memory, or spooled: arrays that are sliced, part after part.

Batches that come one after the other are written to temporary files as they come, and read from
there as often as they are wanted, so memory does not grow with their number. The files have no
names, so that they are gone with the process, however it ends.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO

import numpy as np

from .base import LABELS, Feed, GivenSamples, InputSpec, Rows
from .checks import as_type, check_arrays


class ArraySamples(GivenSamples):
    """Samples from arrays: one for each input, and the labels among them if there are.

    Args:
        name: of the data, in messages and results.
        parts: arrays by name, samples along their first axes; the shapes of samples may differ from
            part to part.
        specs: the inputs.
        digest: SHA-256 of the samples; None: it is computed.
        warnings: what the user should know of them.

    Raises:
        DataError: the arrays do not fit the inputs, or there are no samples.
    """

    def __init__(
        self,
        name: str,
        parts: Sequence[Mapping[str, Rows]],
        specs: list[InputSpec],
        digest: str | None = None,
        warnings: Sequence[str] = (),
    ) -> None:
        self.name, self._parts, self._specs, self.warnings = name, parts, specs, warnings
        found = [check_arrays(name, specs, part) for part in parts]
        self.sha256 = digest or _digest(parts, specs)
        self._settle(name, specs, found)
        self._inputs = {spec.name for spec in specs}

    def label_parts(self) -> list[tuple[str, Rows | None]]:
        """Those of each part."""
        if LABELS in self._inputs or LABELS not in self._parts[0]:
            return [(self.name, None)]
        return [(self.name, _labels(part[LABELS])) for part in self._parts]

    def _blocks(self, size: int) -> Iterator[Feed]:
        yield from self._blocks_from(size, 0)

    def _blocks_from(self, size: int, start: int) -> Iterator[Feed]:
        position = 0
        for part in self._parts:
            count = part[self._specs[0].name].shape[0]
            for first in range(max(start - position, 0), count, size):
                rows = slice(first, min(first + size, count))
                yield {
                    spec.name: as_type(
                        part[spec.name][rows],
                        spec,
                        f"{self.name}: array '{spec.name}'",
                        position + first,
                    )
                    for spec in self._specs
                }
            position += count


def _labels(rows: Rows) -> Rows:
    """One per sample is read at once: it is nothing beside the samples."""
    if rows.shape:
        return rows if len(rows.shape) > 1 else rows[:]
    return np.asarray(rows)


class Digest:
    """SHA-256 of samples, the same whatever batches they come in."""

    def __init__(self, names: Iterable[str]) -> None:
        self._hashes = {name: hashlib.sha256() for name in names}
        self._kinds: dict[str, str] = {}

    def add(self, arrays: Mapping[str, np.ndarray]) -> None:
        """The next samples."""
        for name, own in self._hashes.items():
            array = arrays[name]
            kind = f"{array.dtype.str}{list(array.shape[1:])}"
            if self._kinds.get(name) != kind:
                own.update(kind.encode())
                self._kinds[name] = kind
            own.update(np.ascontiguousarray(array).data)

    def hexdigest(self) -> str:
        """Of all samples so far."""
        whole = hashlib.sha256()
        for name, own in self._hashes.items():
            whole.update(name.encode() + b"\0" + own.digest())
        return whole.hexdigest()


#: Bytes that are looked at at a time.
_CHUNK = 1 << 24


def _digest(parts: Sequence[Mapping[str, Rows]], specs: list[InputSpec]) -> str:
    digest = Digest(spec.name for spec in specs)
    for part in parts:
        arrays = {spec.name: part[spec.name] for spec in specs}
        count = next(iter(arrays.values())).shape[0]
        row = sum(array[0:1].nbytes for array in arrays.values())
        step = max(_CHUNK // max(row, 1), 1)
        for start in range(0, count, step):
            digest.add({name: array[start : start + step] for name, array in arrays.items()})
    return digest.hexdigest()


class Spool:
    """Batches in temporary files without names, one for each array.

    Args:
        names: of the arrays that batches have.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._files: dict[str, IO[bytes]] = {}
        self._parts: list[dict[str, _Stored]] = []
        for name in names:
            self._files[name] = tempfile.TemporaryFile(prefix="snn-compile-")  # noqa: SIM115
        self._names = names

    def close(self) -> None:
        """Give the disk space back."""
        for file in self._files.values():
            file.close()

    def add(self, batch: Mapping[str, np.ndarray]) -> None:
        """Keep a batch behind those before it: one array for each name."""
        part = {}
        for name in self._names:
            array, file = np.ascontiguousarray(batch[name]), self._files[name]
            offset = file.seek(0, 2)
            file.write(array.reshape(-1).view(np.uint8).data)
            part[name] = _Stored(file, offset, array.shape, array.dtype)
        last = self._parts[-1] if self._parts else None
        if last is not None and all(last[name].goes_on_in(part[name]) for name in self._names):
            for name, stored in part.items():
                last[name] = last[name].longer(stored.shape[0])
        else:
            self._parts.append(part)

    def parts(self) -> list[dict[str, Rows]]:
        """What was kept: a part for all batches in a row whose samples have one shape and type."""
        return [dict(part) for part in self._parts]


@dataclass(frozen=True)
class _Stored:
    """An array in a file, whose rows are read when they are wanted."""

    file: IO[bytes]
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        start, stop, _ = rows.indices(self.shape[0])
        shape = (max(stop - start, 0), *self.shape[1:])
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        self.file.seek(self.offset + start * row)
        return np.frombuffer(self.file.read(shape[0] * row), self.dtype).reshape(shape)

    def goes_on_in(self, other: _Stored) -> bool:
        """Whether the two are one array, as far as the kind of their rows says."""
        return self.shape[1:] == other.shape[1:] and self.dtype == other.dtype

    def longer(self, rows: int) -> _Stored:
        """With so many rows more, which follow in the file."""
        return replace(self, shape=(self.shape[0] + rows, *self.shape[1:]))
