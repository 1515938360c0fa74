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

import hashlib
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from ..errors import DataError
from .base import Feed, GivenSamples, InputSpec, Rows, inputs_without_batch
from .checks import as_type, check_arrays, missing, unread
from .stored import UNREADABLE, Header, Reader, labels_in, read_header


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
        return [(str(file), labels_in(file)) for file in self.files]

    def _blocks(self, size: int) -> Iterator[Feed]:
        yield from self._blocks_from(size, 0)

    def _blocks_from(self, size: int, start: int) -> Iterator[Feed]:
        for file, count in zip(self.files, self._counts, strict=True):
            position, start = min(start, count), max(start - count, 0)
            if position == count:
                continue
            with ExitStack() as stack:
                readers = {
                    spec.name: stack.enter_context(Reader(file, spec.name, self._one_each))
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


def _headers(file: Path, specs: list[InputSpec]) -> tuple[dict[str, Header], list[str]]:
    """Headers of the arrays that belong to the inputs, and the names of the others."""
    if file.suffix == ".npy":
        if len(specs) != 1:
            names = ", ".join(spec.name for spec in specs)
            raise DataError(f"{file}: the model has {len(specs)} inputs ({names}); give an .npz")
        with file.open("rb") as stream:
            return {specs[0].name: read_header(file, specs[0].name, stream)}, []
    try:
        with zipfile.ZipFile(file) as archive:
            found = {n[: -len(".npy")] for n in archive.namelist() if n.endswith(".npy")}
            for spec in specs:
                if spec.name not in found:
                    raise DataError(missing(str(file), spec.name, sorted(found)))
            headers = {}
            for spec in specs:
                with archive.open(f"{spec.name}.npy") as stream:
                    headers[spec.name] = read_header(file, spec.name, stream)
            return headers, sorted(found - set(headers))
    except UNREADABLE as error:
        raise DataError(
            f"{file}: not a readable .npz archive: {error}; save it again with numpy.savez"
        ) from error
