"""ONNX Runtime sessions, made in one place."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import ModelProto

from ..runtime_ops import register
from .errors import ModelError


def make_session(
    model: ModelProto, *, library: bool = True, optimise: bool = True
) -> ort.InferenceSession:
    """A CPU session for ``model``.

    Args:
        model: any valid model. The runtime is only ever handed bytes, or a file we wrote, so it
            never follows a path that the model names.
        library: run the C++ kernels; otherwise the function bodies.
        optimise: ORT_ENABLE_ALL; otherwise ORT_DISABLE_ALL, which keeps the order of arithmetic.

    Raises:
        ModelError: the runtime cannot execute the model.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only: unused initializers are not the user's concern
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    if library:
        register(options)
    if model.ByteSize() < onnx.checker.MAXIMUM_PROTOBUF:
        return _open(model.SerializeToString(), options)
    copy = ModelProto()
    copy.CopyFrom(model)  # saving with external data moves the weights out of the model
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        onnx.save_model(copy, path, save_as_external_data=True, location="model.data")
        del copy
        return _open(path, options)


def _open(source: bytes | str, options: ort.SessionOptions) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(source, options, ["CPUExecutionProvider"])
    except Exception as error:  # the runtime raises types of its own, outside any hierarchy
        raise ModelError(f"onnxruntime {ort.__version__} cannot run the model: {error}") from error
