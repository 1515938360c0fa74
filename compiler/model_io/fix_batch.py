"""Give a network with a dynamic batch axis a fixed one."""

from __future__ import annotations

import onnx
from onnx import TensorShapeProto

from ...passes.graph.network import Network
from ..errors import ModelError


def fix_batch(network: Network, batch: int) -> Network:
    """A network whose inputs have ``batch`` samples along their first axis.

    Every axis of the same name as the first axis of an input has that length too. What follows of
    the shapes of outputs is written there; shapes between operators are left out.

    Args:
        network: checked; left as it is.
        batch: 1 or more.

    Raises:
        ModelError: an input has another number of samples, or the network is not one for so many.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(network.proto)
    del proto.graph.value_info[:]
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in constants]
    shapes = [v.type.tensor_type.shape for v in (*inputs, *proto.graph.output)]
    named: set[str] = set()
    for value, shape in zip(inputs, shapes, strict=False):
        if not shape.dim:
            continue
        first = shape.dim[0]
        if first.HasField("dim_value") and first.dim_value >= 0 and first.dim_value != batch:
            raise ModelError(
                f"input '{value.name}' has a batch of {first.dim_value}; leave out --batch, or "
                "export the model with a dynamic batch axis"
            )
        named |= {first.dim_param} - {""}
        first.dim_value = batch
    for shape in shapes:
        _set_named(shape, named, batch)
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise ModelError(f"the model does not take a batch of {batch}: {error}") from error
    del proto.graph.output[:]
    proto.graph.output.extend(inferred.graph.output)
    return Network(proto, network.weights)


def _set_named(shape: TensorShapeProto, names: set[str], length: int) -> None:
    for dim in shape.dim:
        if dim.dim_param in names:
            dim.dim_value = length
