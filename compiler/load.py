"""Read a model that nobody vouches for.

Nothing outside the model's folder is read, nothing named by the model is imported or executed, and
every refusal says what is wrong, where, and what to do.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, version_converter
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from ..runtime_ops.definition import DOMAIN, MIN_OPSET
from .errors import ModelError


def load_model(path: Path) -> ModelProto:
    """Load and check a network to compile, weights included.

    Raises:
        ModelError: the file is missing, not a valid ONNX model, unsafe to read, or not a network
            that can be compiled.
    """
    return check_model(read_model(path))


def read_model(path: Path) -> ModelProto:
    """Read any ONNX model, weights included.

    Raises:
        ModelError: the file is missing, not an ONNX model, or unsafe to read.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise ModelError(f"{path}: the file is empty")
    try:
        model = onnx.load_model(path, format="protobuf", load_external_data=False)
    except DecodeError as error:
        raise ModelError(f"{path}: not an ONNX model, or truncated ({error})") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error})") from error
    if not model.graph.node:
        raise ModelError(f"{path}: the model has no nodes; is it really an ONNX model?")
    _load_external_data(model, path.resolve().parent)
    return model


def keeps_external_data(path: Path) -> bool:
    """Whether a model that :func:`load_model` accepts keeps weights in files of their own."""
    return bool(_tensors(onnx.load_model(path, format="protobuf", load_external_data=False)))


def check_model(model: ModelProto) -> ModelProto:
    """Check a model in memory and bring its opset to what the operators need.

    Raises:
        ModelError: the model is invalid or already spiking.
    """
    if any(node.domain == DOMAIN for node in model.graph.node):
        raise ModelError(
            f"the model already contains {DOMAIN} operators; compile the original network"
        )
    if not any(opset.domain in ("", "ai.onnx") for opset in model.opset_import):
        raise ModelError("the model imports no version of the standard operators")
    try:
        if model.ByteSize() < onnx.checker.MAXIMUM_PROTOBUF:
            onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"the model is not valid ONNX: {error}") from error
    return _raise_opset(model)


def _tensors(model: ModelProto) -> list[TensorProto]:
    return [tensor for tensor in model.graph.initializer if uses_external_data(tensor)] + [
        attribute.t
        for node in model.graph.node
        for attribute in node.attribute
        if attribute.HasField("t") and uses_external_data(attribute.t)
    ]


def _load_external_data(model: ModelProto, folder: Path) -> None:
    """Read external weights, from plain files below the model's folder only."""
    for tensor in _tensors(model):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        where = f"tensor '{tensor.name}' keeps its data in '{location}'"
        parts = {*PurePosixPath(location).parts, *PureWindowsPath(location).parts}
        absolute = PurePosixPath(location).is_absolute() or PureWindowsPath(location).is_absolute()
        if not location or absolute or ".." in parts or PureWindowsPath(location).drive:
            raise ModelError(f"{where}, outside the model's folder; refused")
        file = folder
        for part in PurePosixPath(location).parts:
            file = file / part
            if file.is_symlink():
                raise ModelError(f"{where}, which is a symbolic link; put the file itself there")
        if not file.is_file():
            raise ModelError(f"{where}, which is missing; keep it beside the model")
        if file.stat().st_nlink > 1:
            raise ModelError(f"{where}, which is a hard link; put a copy of the file there")
    try:
        load_external_data_for_model(model, str(folder))
    except (OSError, ValueError, RuntimeError, onnx.checker.ValidationError) as error:
        raise ModelError(f"external data cannot be read: {error}") from error


def _raise_opset(model: ModelProto) -> ModelProto:
    """Convert older models to the opset that the function bodies need."""
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if opset >= MIN_OPSET:
        return model
    advice = f"export it with opset {MIN_OPSET} or newer"
    if model.functions:
        raise ModelError(f"opset {opset} with model-local functions cannot be converted; {advice}")
    try:
        converted = version_converter.convert_version(model, MIN_OPSET)
        onnx.checker.check_model(converted, full_check=True)
    except Exception as error:  # the converter raises plain RuntimeError and others from C++
        raise ModelError(
            f"opset {opset} cannot be converted to {MIN_OPSET}: {error}; {advice}"
        ) from error
    _carry_over(model, converted)
    return converted


def _carry_over(source: ModelProto, converted: ModelProto) -> None:
    """The converter drops doc strings and metadata; nodes are matched by their first output."""
    for key in ("doc_string", "domain", "producer_name", "producer_version", "model_version"):
        setattr(converted, key, getattr(source, key))
    for holder, other in ((source, converted), (source.graph, converted.graph)):
        del other.metadata_props[:]
        other.metadata_props.extend(holder.metadata_props)
    converted.graph.doc_string = source.graph.doc_string
    del converted.graph.quantization_annotation[:]
    converted.graph.quantization_annotation.extend(source.graph.quantization_annotation)
    nodes = {node.output[0]: node for node in source.graph.node if node.output}
    for node in converted.graph.node:
        original = nodes.get(node.output[0]) if node.output else None
        if original is not None and original.op_type == node.op_type:
            node.name, node.doc_string = original.name, original.doc_string
            del node.metadata_props[:]
            node.metadata_props.extend(original.metadata_props)
    for infos, others in (
        (source.graph.input, converted.graph.input),
        (source.graph.output, converted.graph.output),
    ):
        kept = {info.name: info for info in infos}
        for info in others:
            if info.name in kept:
                info.CopyFrom(kept[info.name])
