"""Tensors of many batches: in memory up to a bound, in a temporary file beyond.

The file has no name, so that nothing is left of it however the process ends. It is one for all
tensors: a part of it that is free again is given to the next array that fits, the smallest that
does, so that it grows to what waits at once, not to what has ever waited.
"""

from __future__ import annotations

import bisect
import os
import tempfile
from dataclasses import dataclass
from threading import Lock
from typing import IO

import numpy as np


@dataclass(frozen=True)
class _Place:
    """An array in the file: where it is, how many bytes it may have, and what it is."""

    offset: int
    size: int
    dtype: np.dtype
    shape: tuple[int, ...]


class Spool:
    """Arrays by tensor name and batch, for several threads.

    Args:
        memory: how many bytes of them are kept in memory.
    """

    def __init__(self, memory: int = 0) -> None:
        self._memory, self._held = memory, 0
        self._arrays: dict[str, dict[int, np.ndarray | _Place]] = {}
        self._file: IO[bytes] | None = None
        self._end = 0
        self._free: list[tuple[int, int]] = []  # size and offset, ascending
        self._lock = Lock()

    def close(self) -> None:
        """Forget everything."""
        self._arrays.clear()
        if self._file is not None:
            self._file.close()

    def __len__(self) -> int:
        """How many arrays are kept."""
        return sum(len(kept) for kept in self._arrays.values())

    def put(self, name: str, batch: int, array: np.ndarray) -> None:
        """Keep an array, which must not change; one of the same name and batch is replaced."""
        self.drop(name, batch)
        with self._lock:
            kept = self._arrays.setdefault(name, {})
            if self._held + array.nbytes <= self._memory:
                self._held += array.nbytes
                kept[batch] = array
                return
            place = kept[batch] = self._place(array)
            file = self._opened()
        if array.size:
            contiguous = np.ascontiguousarray(array)
            _write(file, contiguous.reshape(-1).view(np.uint8).data, place.offset)

    def get(self, name: str, batch: int) -> np.ndarray:
        """The array that was kept, not to be changed.

        Raises:
            KeyError: none was.
        """
        with self._lock:
            kept = self._arrays[name][batch]
            if isinstance(kept, np.ndarray):
                return kept
            file = self._opened()
        array: np.ndarray = np.empty(kept.shape, kept.dtype)
        if array.size:
            _read(file, array.reshape(-1).view(np.uint8).data, kept.offset)
        return array

    def drop(self, name: str, batch: int | None = None) -> None:
        """Forget one batch of a tensor, or all of them."""
        with self._lock:
            kept = self._arrays.get(name, {})
            for number in [batch] if batch is not None else list(kept):
                found = kept.pop(number, None)
                if isinstance(found, np.ndarray):
                    self._held -= found.nbytes
                elif found is not None:
                    bisect.insort(self._free, (found.size, found.offset))
            if not kept:
                self._arrays.pop(name, None)

    def _place(self, array: np.ndarray) -> _Place:
        """The smallest part that is free and fits; where none does, a new one at the end."""
        at = bisect.bisect_left(self._free, (array.nbytes, 0))
        if at < len(self._free):
            size, offset = self._free.pop(at)
        else:
            size, offset = array.nbytes, self._end
            self._end += size
        return _Place(offset, size, array.dtype, array.shape)

    def _opened(self) -> IO[bytes]:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="snn-compile-")  # noqa: SIM115 - by close
        return self._file


def _write(file: IO[bytes], content: memoryview, offset: int) -> None:
    """All of it: the system may take less at a time."""
    while content:
        written = os.pwrite(file.fileno(), content, offset)
        content, offset = content[written:], offset + written


def _read(file: IO[bytes], content: memoryview, offset: int) -> None:
    while content:
        read = os.preadv(file.fileno(), [content], offset)
        if not read:
            raise OSError("a temporary file is shorter than what was written to it")
        content, offset = content[read:], offset + read
