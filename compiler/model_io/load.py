"""Read a model that nobody vouches for.

Nothing outside the model's folder is read, nothing named by the model is imported or executed, and
every refusal says what is wrong, where, and what to do. The structure is checked in Python before
anything native sees the model (``structure.py``).

Functions of the model's own that hold an activation, a linear operator or a recurrent layer are
inlined, so that each call has neurons of its own; other functions stay. A function that cannot be
inlined stays too, and its activations are reported as kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import FunctionProto, ModelProto, TensorProto, inliner

from ...passes.analysis.operators import OPERATORS, Role, with_role
from ...passes.graph.network import Network, attach, check, detach
from ...passes.graph.protos import nodes_below
from ..errors import ModelError
from .external_data import external_tensors, read_external
from .structure import check_source, check_structure
from .to_float32 import short_floats, to_float32
from .upgrade import overridable_inputs, upgrade

#: What has a line in the report, or is refused.
_WORTH_INLINING = with_role(
    *(Role.ACTIVATION, Role.NORMALISATION, Role.RECURRENT, Role.LINEAR, Role.FUSED)
) | {name for name, what in OPERATORS.items() if what.random}

_HDF5 = b"\x89HDF\r\n\x1a\n"


@dataclass
class LoadedModel:
    """A network to compile.

    Attributes:
        network: checked, of an opset that the operators' function bodies can use.
        external_data: the files that held its weights, if it kept them outside.
        changes: what loading changed, one line each.
        warnings: what the user should know of it.
        sha256: of the file as it was given, or of a model in memory as it would be saved; of the
            files of external data nothing.
        digest: of graph and weights as they are compiled, however they were saved.
    """

    network: Network
    external_data: list[Path]
    changes: list[str]
    warnings: list[str]
    sha256: str
    digest: str


def load_source(model: Path | ModelProto) -> LoadedModel:
    """Load and check a network to compile, weights included; a model in memory stays as it is.

    Raises:
        ModelError: the file is missing, not a valid ONNX model, unsafe to read, or not a network
            that can be compiled.
    """
    if isinstance(model, ModelProto):
        check_source(model)
        if external_tensors(model):
            raise ModelError(
                "the model in memory has not read its external data; onnx.load reads them, "
                "or give the path of the file"
            )
        network, external_data = detach(model), []
        sha256 = hashlib.sha256(model.SerializeToString()).hexdigest()
    else:
        proto = _read(model)
        sha256 = file_sha256(model)
        check_source(proto)
        external_data = _data_files(proto, model.resolve().parent)
        network = _with_weights(proto, model.resolve().parent)
    changes: list[str] = []
    warnings = to_float32(network)
    _spell_domain(network.proto)
    overridable = overridable_inputs(network.proto)
    before = _opset(network.proto)
    upgrade(network.proto)
    after = _opset(network.proto)
    if after != before:
        changes.append(f"opset {before} became {after}")
    network = Network(_inline_functions(network.proto, changes), network.weights)
    _check(network.proto)
    warnings += [f"input '{name}' has a default and is now a constant" for name in overridable]
    return LoadedModel(network, external_data, changes, warnings, sha256, network.sha256())


def file_sha256(path: Path) -> str:
    """Of the bytes of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def read_model(path: Path) -> Network:
    """Read any ONNX model, compiled ones included, weights included.

    One with bfloat16, which the runtime cannot be fed, is brought to float32.

    Raises:
        ModelError: the file is missing, not an ONNX model, or unsafe to read.
    """
    proto = _read(path)
    check_structure(proto)
    network = _with_weights(proto, path.resolve().parent)
    if "bfloat16" in short_floats(network.proto):
        to_float32(network)
    return network


def bytes_on_disk(path: Path) -> int:
    """Size of a model's file and of those that hold its external data.

    Raises:
        ModelError: the file cannot be read.
    """
    files = [path, *_data_files(_read(path), path.parent)]
    return sum(file.stat().st_size for file in files)


def is_hdf5(path: Path) -> bool:
    """Whether a file begins as HDF5 does, in which NIR graphs are kept; if it can be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(_HDF5)) == _HDF5
    except OSError:  # who reads on is told why
        return False


def _read(path: Path) -> ModelProto:
    if path.is_dir():
        raise ModelError(f"{path}: is a folder; name the .onnx file in it")
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise ModelError(f"{path}: the file is empty; export or copy the model again")
    if is_hdf5(path):
        raise ModelError(
            f"{path}: is HDF5, such as a NIR graph, and no ONNX model; snn-compile --inspect shows "
            "what a NIR graph holds"
        )
    try:
        model = onnx.load_model(path, format="protobuf", load_external_data=False)
    except DecodeError as error:
        raise ModelError(
            f"{path}: not an ONNX model, or truncated ({error}); export or copy it again"
        ) from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error})") from error
    if not model.graph.node:
        raise ModelError(f"{path}: the model has no nodes; is it really an ONNX model?")
    return model


def _with_weights(proto: ModelProto, folder: Path) -> Network:
    """The weights, read from external files where they are there, held apart from the graph."""
    weights: dict[str, np.ndarray] = {}
    for tensor in proto.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            weights[tensor.name] = read_external(tensor, folder)
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
    for tensor in external_tensors(proto):
        attach(tensor, read_external(tensor, folder))
    return detach(proto, weights)


def _data_files(proto: ModelProto, folder: Path) -> list[Path]:
    places = {
        entry.value
        for tensor in external_tensors(proto)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [folder / place for place in sorted(places)]


def _opset(model: ModelProto) -> int:
    return next((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def _spell_domain(model: ModelProto) -> None:
    """The standard operators' domain has two names, and onnx's checker wants one of them."""
    for node in nodes_below(model.graph):
        if node.domain == "ai.onnx":
            node.domain = ""
    imported = {opset.domain for opset in model.opset_import}
    for opset in list(model.opset_import):
        if opset.domain == "ai.onnx" and "" in imported:
            model.opset_import.remove(opset)
        elif opset.domain == "ai.onnx":
            opset.domain = ""


def _inline_functions(model: ModelProto, changes: list[str]) -> ModelProto:
    wanted = _worth_inlining(model.functions)
    if not wanted:
        return model
    try:
        inlined = inliner.inline_selected_functions(model, sorted(wanted))
        check(inlined)
    except Exception as error:  # native code; what it raises is not documented
        changes.append(f"functions stay as they are, they cannot be inlined: {error}")
        return model
    calls = [node for node in nodes_below(model.graph) if (node.domain, node.op_type) in wanted]
    changes += [f"{node.op_type} {node.name}: inlined, a function of the model" for node in calls]
    return inlined


def _worth_inlining(functions: Iterable[FunctionProto]) -> set[tuple[str, str]]:
    """Functions that hold something to convert, or call one that does."""
    bodies = {(f.domain, f.name): list(nodes_below(f)) for f in functions}
    found = {
        key for key, nodes in bodies.items() if any(n.op_type in _WORTH_INLINING for n in nodes)
    }
    while True:
        more = {
            key
            for key, nodes in bodies.items()
            if key not in found and any((n.domain, n.op_type) in found for n in nodes)
        }
        if not more:
            return found
        found |= more


def _check(model: ModelProto) -> None:
    """What ``onnx`` itself has to say about the model; detached weights are only shapes to it."""
    try:
        check(model)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"the model is not valid ONNX: {error}") from error
    except (RuntimeError, ValueError, TypeError, UnicodeDecodeError) as error:
        raise ModelError(f"onnx cannot check the model: {error}") from error
