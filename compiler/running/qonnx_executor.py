"""Run a network in QONNX with its tools' own executor, which runs one operator after the other."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

from ...passes.graph.network import Network
from ..samples.base import Feed


class NotRunError(Exception):
    """The executor does not run the network; says why."""


def has_qonnx() -> bool:
    """Whether the package is installed (extra ``qonnx``)."""
    return find_spec("qonnx") is not None


def run_in_qonnx(network: Network, feed: Feed) -> list[np.ndarray]:
    """Its outputs, in their order.

    Args:
        network: in QONNX.
        feed: one batch; all lengths of the network become those that it gives.

    Raises:
        NotRunError: the package cannot.
    """
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    proto = network.attached()
    rows = {name: len(array) for name, array in feed.items() if array.ndim}
    for value in proto.graph.output:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].dim_value:
            dims[0].dim_value = next(iter(rows.values()), 1)
    try:
        model = ModelWrapper(proto)
        for name, array in feed.items():
            model.set_tensor_shape(name, list(array.shape))
        model = model.transform(InferShapes())
        outputs = execute_onnx(model, feed)
    except Exception as error:  # whatever the package raises
        raise NotRunError(f"{type(error).__name__}: {error}".splitlines()[0]) from error
    return [outputs[value.name] for value in proto.graph.output]
