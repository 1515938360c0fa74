"""Write results so that an interrupted or failed run leaves the old file as it was."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnx import ModelProto

from .errors import UsageError


def check_output(path: Path, model: Path) -> None:
    """Refuse an output path early, before any long work.

    Raises:
        UsageError: the path is the model itself or a folder, or its folder cannot be written to.
    """
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name a file")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist; create it first")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path}: the folder {path.parent} is not writable")
    if path.exists() and model.exists() and path.samefile(model):
        raise UsageError(f"{path}: is the model itself; write the result to another file")


def check_folder(path: Path) -> None:
    """Create a folder for results.

    Raises:
        UsageError: it cannot be created, or is not a folder.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path}: cannot be used as a folder ({error.strerror})") from error


def save_model(model: ModelProto, path: Path, *, external_data: bool = False) -> None:
    """Write a model. Weights go to ``<name>.data`` beside it when asked, or above 2 GB.

    Raises:
        UsageError: the disk is full or the file cannot be written; the old file is unchanged.
    """
    if external_data or model.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
        _save_with_data_file(model, path)
    else:
        write_bytes(path, model.SerializeToString(deterministic=True))


def save_result(
    model: ModelProto, path: Path, *, external_data: bool, report: str, report_path: Path | None
) -> None:
    """Write a model and, where a path is given, its report: both or neither.

    Raises:
        UsageError: one of them cannot be written; old files are unchanged.
    """
    if report_path is None:
        save_model(model, path, external_data=external_data)
        return
    with _writing(report_path) as temporary:
        temporary.write_text(report, encoding="utf-8")
        save_model(model, path, external_data=external_data)
        temporary.replace(report_path)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        UsageError: it cannot be written.
    """
    with _writing(path) as temporary:
        temporary.write_bytes(data)
        temporary.replace(path)


def _save_with_data_file(model: ModelProto, path: Path) -> None:
    copy = ModelProto()
    copy.CopyFrom(model)  # onnx moves the weights out of the model that it saves
    data = path.with_name(path.name + ".data")
    with _writing(path) as temporary, tempfile.TemporaryDirectory(dir=path.parent) as folder:
        onnx.save_model(
            copy, str(Path(folder) / path.name), save_as_external_data=True, location=data.name
        )
        if (Path(folder) / data.name).exists():  # not when every tensor is small
            (Path(folder) / data.name).replace(data)
        (Path(folder) / path.name).replace(temporary)
        temporary.replace(path)


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path``, gone afterwards whatever happens."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror})") from error
    os.close(descriptor)
    temporary = Path(name)
    try:
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp is private; a result is an ordinary file
        yield temporary
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)
