"""ONNX Runtime sessions, made and run in one place."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime as ort
from onnx import ModelProto

from ..passes.network import Network, detach
from ..runtime_ops import register
from .errors import DataError, ModelError
from .samples import Feed

#: Bytes of activations per batch that may leave the runtime at once.
ACTIVATION_BUDGET = 64 << 20


def make_session(
    network: Network | ModelProto, *, library: bool = True, optimise: bool = True
) -> ort.InferenceSession:
    """A CPU session. The runtime is only ever handed bytes, so it never follows a path that the
    model names; it makes the one copy of the large weights.

    Args:
        network: any valid model.
        library: run the C++ kernels; otherwise the function bodies.
        optimise: ORT_ENABLE_ALL; otherwise ORT_DISABLE_ALL, which keeps the order of arithmetic.

    Raises:
        ModelError: the runtime cannot execute the model.
    """
    if isinstance(network, ModelProto):
        network = detach(network)
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only: unused initializers are not the user's concern
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    # Without optimisation thousands of small nodes remain, and planning which of their outputs may
    # share memory takes time quadratic in that number (28 s for 65 neurons).
    options.enable_mem_reuse = optimise
    if library:
        register(options)
    try:
        if network.weights:
            # Of an array that is not contiguous the runtime would hold a copy that it cannot share.
            arrays = [np.ascontiguousarray(array) for array in network.weights.values()]
            values = [ort.OrtValue.ortvalue_from_numpy(array) for array in arrays]
            options.add_external_initializers(list(network.weights), values)
        return ort.InferenceSession(
            network.proto.SerializeToString(), options, ["CPUExecutionProvider"]
        )
    except Exception as error:  # the runtime raises types of its own, outside any hierarchy
        raise ModelError(f"onnxruntime {ort.__version__} cannot run the model: {error}") from error


def batch_size(outputs: Sequence[np.ndarray]) -> int:
    """Samples per batch that keep the activations of one sample within the budget."""
    per_sample = sum(array.nbytes for array in outputs)
    return int(np.clip(ACTIVATION_BUDGET // max(per_sample, 1), 1, 32))


def run_samples(session: ort.InferenceSession, feed: Feed, what: str) -> list[np.ndarray]:
    """Run a session on one feed, so that Ctrl-C stops it at the next node.

    Raises:
        DataError: the runtime refuses the feed; its message is passed on.
    """
    options = ort.RunOptions()
    with ThreadPoolExecutor(1) as thread:
        run = thread.submit(session.run, None, feed, options)
        try:
            return list(run.result())
        except Exception as error:  # the runtime raises types of its own, outside any hierarchy
            shapes = {name: list(array.shape) for name, array in feed.items()}
            raise DataError(f"{what} does not run on inputs of shape {shapes}: {error}") from error
        except BaseException:
            options.terminate = True  # the runtime itself does not see the signal
            raise
