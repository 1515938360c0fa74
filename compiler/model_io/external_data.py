"""Weights that a model keeps in files of their own, read without trusting the model.

A tensor names a file by a path relative to the model's folder, with an optional offset and length:

1. The path stays below the folder: not absolute, no drive, no ``..``; no part of it is a symbolic
   link; the file is a regular one with a single name (no hard link).
2. Offset and length are numbers within the file, and the length is what shape and type need.

Where the system can (POSIX), the folders on the way are opened one inside the other, none through a
link, and what is checked is the open file that is then read, so that nobody can exchange it in
between. Elsewhere the path is checked before it is opened.
"""

from __future__ import annotations

import math
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    SparseTensorProto,
    TensorProto,
    numpy_helper,
)
from onnx.helper import tensor_dtype_to_np_dtype

from ...passes.graph.protos import bodies_of
from ..errors import ModelError
from .protos import data_bytes, element_bits

_BY_DESCRIPTOR = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
_MAX_DIGITS = 19  # of a 64-bit number


def external_tensors(model: ModelProto) -> list[TensorProto]:
    """Every tensor that keeps its data elsewhere: in graphs, nodes, functions, sparse ones too."""
    graphs = [model.graph]
    for info in model.training_info:
        graphs += [info.initialization, info.algorithm]
    found = [tensor for graph in graphs for tensor in _in_graph(graph)]
    for function in model.functions:
        found += _in_attributes(function.attribute_proto)
        found += [t for node in function.node for t in _in_attributes(node.attribute)]
    return [tensor for tensor in found if tensor.data_location == TensorProto.EXTERNAL]


def read_external(tensor: TensorProto, folder: Path) -> np.ndarray:
    """Read the data of one tensor that :mod:`.structure` accepted.

    Args:
        tensor: a tensor whose ``data_location`` is EXTERNAL.
        folder: the model's folder; only files below it are read.

    Returns:
        The values, of the tensor's shape and type, in memory of their own.

    Raises:
        ModelError: the place is unsafe, or the file does not hold the tensor.
    """
    keys = [entry.key for entry in tensor.external_data]
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    where = f"tensor '{tensor.name}' keeps its data in '{location}'"
    if len(set(keys)) != len(keys):
        raise ModelError(f"{where} and says so twice; export the model again")
    if not element_bits(tensor.data_type):
        raise ModelError(f"{where}, which cannot hold its type; export the model again")
    size = data_bytes(tensor)
    offset = _number(entries, "offset", 0, where)
    length = _number(entries, "length", size, where)
    if length != size:
        raise ModelError(
            f"{where}, {length} bytes, but its shape {list(tensor.dims)} needs {size}; "
            "export the model again"
        )
    try:
        descriptor = _open(folder, _parts(location, where), where)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            status = os.fstat(descriptor)
            _require_plain(status, where)
            if offset + size > status.st_size:
                raise ModelError(
                    f"{where}, bytes {offset} to {offset + size}, but the file ends at "
                    f"{status.st_size}; it is truncated or belongs to another model"
                )
            file.seek(offset)
            data = np.empty(size, np.uint8)
            filled = 0
            while filled < size:
                count = file.readinto(data[filled:].data)
                if not count:
                    raise ModelError(f"{where}, which became shorter while it was read; try again")
                filled += count
    except FileNotFoundError as error:
        raise ModelError(f"{where}, which is missing; keep it beside the model") from error
    except (OSError, ValueError) as error:  # ValueError: a name no file can have
        raise ModelError(f"{where}, which cannot be read ({error})") from error
    return _decode(data, tensor)


def _in_graph(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    yield from _in_sparse(graph.sparse_initializer)
    for node in graph.node:
        yield from _in_attributes(node.attribute)


def _in_attributes(attributes: Iterable[AttributeProto]) -> Iterator[TensorProto]:
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("sparse_tensor"):
            yield from _in_sparse([attribute.sparse_tensor])
        yield from _in_sparse(attribute.sparse_tensors)
        for graph in bodies_of(attribute):
            yield from _in_graph(graph)


def _in_sparse(tensors: Iterable[SparseTensorProto]) -> Iterator[TensorProto]:
    for sparse in tensors:
        yield sparse.values
        yield sparse.indices


def _number(entries: dict[str, str], key: str, default: int, where: str) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise ModelError(f"{where} with the {key} '{text[:40]}'; export the model again")
    return int(text)


def _parts(location: str, where: str) -> tuple[str, ...]:
    """The folders and the file of a path that stays below the model's folder."""
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    outside = posix.is_absolute() or windows.is_absolute() or windows.drive or windows.root
    if not posix.parts or outside or ".." in {*posix.parts, *windows.parts}:
        raise ModelError(f"{where}, outside the model's folder; refused")
    return posix.parts


def _open(folder: Path, parts: tuple[str, ...], where: str) -> int:
    """A descriptor of the file, no link followed on the way."""
    if not _BY_DESCRIPTOR:
        path = folder
        for part in parts:
            path = path / part
            _require_no_link(path.lstat(), where)
        _require_plain(path.lstat(), where)
        return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for position, part in enumerate(parts):
            status = os.stat(part, dir_fd=here, follow_symlinks=False)  # for the message, and
            _require_no_link(status, where)  # because opening a device may do something already
            last = position == len(parts) - 1
            if last:
                _require_plain(status, where)
            kind = os.O_NONBLOCK if last else os.O_DIRECTORY  # a FIFO would wait for a writer
            below = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | kind, dir_fd=here)
            os.close(here)
            here = below
    except BaseException:
        os.close(here)
        raise
    return here


def _require_no_link(status: os.stat_result, where: str) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise ModelError(f"{where}, which is a symbolic link; put the file itself there")


def _require_plain(status: os.stat_result, where: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"{where}, which is not a regular file; put the file itself there")
    if status.st_nlink > 1:
        raise ModelError(f"{where}, which is a hard link; put a copy of the file there")


def _decode(data: np.ndarray, tensor: TensorProto) -> np.ndarray:
    shape = tuple(tensor.dims)
    dtype = np.dtype(tensor_dtype_to_np_dtype(tensor.data_type))
    if element_bits(tensor.data_type) < 8:  # several in a byte, onnx knows how
        packed = TensorProto(data_type=tensor.data_type, dims=shape, raw_data=data.tobytes())
        return np.array(numpy_helper.to_array(packed))
    values = data.view(dtype).reshape(shape) if math.prod(shape) else np.empty(shape, dtype)
    return values if sys.byteorder == "little" else values.byteswap()
