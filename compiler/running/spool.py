"""Tensors of many batches, kept in a temporary folder instead of memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format


class Spool:
    """Arrays by tensor name and batch."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="snn-compile-")
        self._numbers: dict[str, int] = {}
        self._batches: dict[str, set[int]] = {}

    def close(self) -> None:
        """Remove the files."""
        self._folder.cleanup()

    def put(self, name: str, batch: int, array: np.ndarray) -> None:
        """Keep an array; an earlier one of the same name and batch is replaced."""
        self._batches.setdefault(name, set()).add(batch)
        contiguous = np.ascontiguousarray(array).reshape(np.shape(array))
        with self._path(name, batch).open("wb") as file:
            header = npy_format.header_data_from_array_1_0(contiguous)
            npy_format.write_array_header_2_0(file, header)
            file.write(
                contiguous.reshape(-1).view(np.uint8).data
            )  # tofile loses the cause of errors

    def get(self, name: str, batch: int) -> np.ndarray:
        """The array that was kept.

        Raises:
            KeyError: none was.
        """
        if batch not in self._batches.get(name, ()):
            raise KeyError(name)
        with self._path(name, batch).open("rb") as file:
            array: np.ndarray = np.load(file, allow_pickle=False)
        return array

    def drop(self, name: str) -> None:
        """Forget every batch of a tensor."""
        for batch in self._batches.pop(name, ()):
            self._path(name, batch).unlink()

    def _path(self, name: str, batch: int) -> Path:
        number = self._numbers.setdefault(name, len(self._numbers))
        return Path(self._folder.name) / f"{number}.{batch}.npy"
