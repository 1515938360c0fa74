"""Write results so that an interrupted or failed run leaves the old files as they were.

Everything goes to temporary files beside the targets first. Once all are complete and on the disk
they take the targets' places together; where one cannot, those before it are put back.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import onnx
from onnx import ModelProto, TensorProto

from ...passes.graph.network import Network, is_detached
from ..errors import UsageError, readable
from .stream import write_network

_ALIGNMENT = 4096  # of tensors in a data file, so that runtimes can map them


def check_output(path: Path, model: Path | None, *others: Path) -> None:
    """Refuse an output path early, before any long work.

    Args:
        path: the file to write.
        model: the model that is read; None: it is no file.
        others: other files that are read.

    Raises:
        UsageError: the path is a file that is read, a folder or a device, or its folder cannot be
            written to.
    """
    try:
        if path.is_dir():
            raise UsageError(f"{path}: is a folder; name a file")
        if not path.parent.is_dir():
            raise UsageError(f"{path}: the folder {path.parent} does not exist; create it first")
        if not os.access(path.parent, os.W_OK):
            raise UsageError(f"{path}: the folder {path.parent} is not writable")
        if path.exists() and not path.is_file():
            raise UsageError(f"{path}: is not a regular file and would be replaced; name a file")
        if model is not None and _is_one_of(path, [model]):
            raise UsageError(f"{path}: is the model itself; write the result to another file")
        if _is_one_of(path, others):
            raise UsageError(f"{path}: is read too; write the result to another file")
    except OSError as error:  # a name too long, a folder that may not be looked into
        raise UsageError(f"{path}: cannot be written ({error.strerror or error})") from error


def check_folder(path: Path) -> None:
    """Create a folder for results.

    Raises:
        UsageError: it cannot be created, or is not a folder.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path}: cannot be used as a folder ({error.strerror})") from error


def save_network(network: Network, path: Path) -> None:
    """Write a model. Above 2 GB its weights go to ``<name>.data`` beside it.

    Raises:
        UsageError: the disk is full or the file cannot be written; the old file is unchanged.
    """
    save_files({path: network})


def save_files(
    contents: Mapping[Path, Network | bytes],
    *,
    external_data: bool = False,
    keep: Collection[Path] = (),
) -> None:
    """Write models and other files: all or none.

    Args:
        contents: what goes where; the last one takes its place last.
        external_data: whether weights go to ``<name>.data`` beside their model; above 2 GB they do
            in any case.
        keep: files that are never replaced, such as the data files of the source.

    Raises:
        UsageError: one of them cannot be written; old files are unchanged.
    """
    data_files = {
        path: path.with_name(readable(path.name) + ".data")  # the model names it, in UTF-8
        for path, content in contents.items()
        if isinstance(content, Network) and _goes_apart(content, external_data)
    }
    targets = [*data_files.values(), *contents]
    for target in targets:
        if _is_one_of(target, keep):
            raise UsageError(f"{target}: holds data of the source; give the output another name")
    for data in data_files.values():
        if data in contents or (data.exists() and not data.is_file()):
            raise UsageError(f"{data}: is where the weights go; give the output another name")
    with _replacing(targets) as temporary:
        for path, content in contents.items():
            if isinstance(content, bytes):
                with _naming(path):
                    temporary[path].write_bytes(content)
                continue
            network = content
            if path in data_files:
                data = data_files[path]
                with _naming(data):
                    network = Network(_write_weights(network, temporary[data], data.name))
            with _naming(path), temporary[path].open("wb") as stream:
                write_network(network, stream)


def _goes_apart(network: Network, asked: bool) -> bool:
    """Whether weights get a file of their own; not when every tensor is small."""
    large = network.nbytes() >= onnx.checker.MAXIMUM_PROTOBUF
    return bool(network.weights) and (asked or large)


def _is_one_of(path: Path, others: Collection[Path]) -> bool:
    return path.exists() and any(other.exists() and path.samefile(other) for other in others)


def _write_weights(network: Network, file: Path, location: str) -> ModelProto:
    """Write the large weights, and give the model that finds them at ``location``."""
    model = ModelProto()
    model.CopyFrom(network.proto)
    with file.open("wb") as stream:
        for tensor in model.graph.initializer:
            if is_detached(tensor):
                _append(tensor, network.weights[tensor.name], location, stream)
    return model


def _append(tensor: TensorProto, values: np.ndarray, location: str, stream: IO[bytes]) -> None:
    """Write the values behind what the file holds, and their place into the tensor."""
    stream.write(bytes(-stream.tell() % _ALIGNMENT))
    place = {"location": location, "offset": str(stream.tell()), "length": str(values.nbytes)}
    del tensor.external_data[:]
    for key, value in place.items():
        tensor.external_data.add(key=key, value=value)
    stream.write(np.ascontiguousarray(values).data)


@contextmanager
def _replacing(targets: list[Path]) -> Iterator[dict[Path, Path]]:
    """Temporary files by target, which take the targets' places when the block ends well."""
    with ExitStack() as stack:
        temporary = {target: stack.enter_context(_temporary(target)) for target in targets}
        yield temporary
        for target in targets:
            with _naming(target):
                _sync(temporary[target])
        with _naming(targets[-1]):
            _commit(temporary)


@contextmanager
def _naming(target: Path) -> Iterator[None]:
    """Whatever goes wrong with a file is said of the target."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{target}: cannot be written ({error.strerror or error})") from error


def _commit(temporary: dict[Path, Path]) -> None:
    """Move every file to its target; the old ones come back if that does not work out."""
    *others, last = temporary
    backups = {target: temporary[target].with_suffix(".old") for target in others}
    new = {target for target in others if not target.exists()}
    try:
        for target in others:
            if target not in new:
                target.replace(backups[target])
            temporary[target].replace(target)
        temporary[last].replace(last)
    except BaseException:
        if temporary[last].exists():  # else an interrupt came just too late
            for target in others:
                if target in new:
                    target.unlink(missing_ok=True)
                elif backups[target].exists():
                    backups[target].replace(target)
        raise
    finally:
        for backup in backups.values():
            backup.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Have the file on the disk before its name is; some disks are found full only now."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """A file beside ``target``, gone afterwards whatever happens."""
    with _naming(target):
        descriptor, name = tempfile.mkstemp(prefix=".snn-compile-", dir=target.parent)
    temporary = Path(name)
    try:
        os.close(descriptor)
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp is private; a result is an ordinary file
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
