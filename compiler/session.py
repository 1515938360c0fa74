"""ONNX Runtime sessions, made and run in one place."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, TensorProto, helper

from ..runtime_ops import register
from .errors import DataError, ModelError
from .samples import Feed

#: Bytes of activations per batch that may leave the runtime at once.
ACTIVATION_BUDGET = 64 << 20


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


def with_outputs(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """A copy of ``model`` with these tensors as its only outputs, in this order.

    Outputs that the model has keep their type; other tensors must be float32.
    """
    observed = ModelProto()
    observed.CopyFrom(model)
    del observed.graph.output[:]
    own = {output.name: output for output in model.graph.output}
    for name in names:
        value = own.get(name) or helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        observed.graph.output.append(value)
    return observed


def batch_size(outputs: Sequence[np.ndarray]) -> int:
    """Samples per batch that keep the activations of one sample within the budget."""
    per_sample = sum(array.nbytes for array in outputs)
    return int(np.clip(ACTIVATION_BUDGET // max(per_sample, 1), 1, 32))


def run_samples(session: ort.InferenceSession, feed: Feed, what: str) -> list[np.ndarray]:
    """Run a session on one feed.

    Raises:
        DataError: the runtime refuses the feed; its message is passed on.
    """
    try:
        return list(session.run(None, feed))
    except Exception as error:  # the runtime raises types of its own, outside any hierarchy
        shapes = {name: list(array.shape) for name, array in feed.items()}
        raise DataError(f"{what} does not run on inputs of shape {shapes}: {error}") from error
