"""A model whose large weights are held apart, as numpy arrays.

A ``ModelProto`` with its weights inside is copied whole whenever it is serialised, checked or
handed to a runtime, and protobuf ends at 2 GiB. Here the proto keeps the graph and small tensors
only: an initializer of more than :data:`LARGE` bytes has its name, type and shape there, is marked
as external data at :data:`DETACHED`, and its values are shared by every stage of the compiler.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from .protos import initializers_below

#: Bytes up to which an initializer stays in the proto, where checkers and shape inference read it.
LARGE = 4096

#: Location of the external data of a detached initializer. No file of that name is ever read.
DETACHED = "detached"

_HELD_APART = {
    *(TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16),
    *(TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64),
    *(TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64),
    TensorProto.BOOL,
}


@dataclass
class Network:
    """A model and its large weights.

    Attributes:
        proto: the model; initializers that :func:`is_detached` have no data.
        weights: values of these initializers by name.
    """

    proto: ModelProto
    weights: dict[str, np.ndarray] = field(default_factory=dict)

    def attached(self) -> ModelProto:
        """The whole model, a copy with its weights inside."""
        model = ModelProto()
        model.CopyFrom(self.proto)
        for tensor in model.graph.initializer:
            if is_detached(tensor):
                attach(tensor, self.weights[tensor.name])
        return model

    def nbytes(self) -> int:
        """Size of the whole model in bytes, serialised."""
        return int(self.proto.ByteSize()) + sum(array.nbytes for array in self.weights.values())

    def sha256(self) -> str:
        """Digest of the whole model."""
        digest = hashlib.sha256(self.proto.SerializeToString(deterministic=True))
        for name in sorted(self.weights):
            digest.update(np.ascontiguousarray(self.weights[name]).data)
        return digest.hexdigest()


def constant_of(network: Network, name: str) -> np.ndarray:
    """The values of an initializer, those of control-flow bodies included.

    Raises:
        KeyError: there is none of that name.
    """
    if name in network.weights:
        return network.weights[name]
    for tensor in initializers_below(network.proto.graph):
        if tensor.name == name:
            return numpy_helper.to_array(tensor)
    raise KeyError(name)


def constants_of(network: Network) -> dict[str, np.ndarray]:
    """The values of all initializers by name, those of control-flow bodies included."""
    small = [t for t in initializers_below(network.proto.graph) if not is_detached(t)]
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in small} | network.weights


def set_constant(network: Network, name: str, values: np.ndarray) -> None:
    """Give an initializer, of a body too, other values of the type and shape that it has."""
    if name in network.weights:
        network.weights[name] = values
        return
    for tensor in initializers_below(network.proto.graph):
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(values, name))


def check(proto: ModelProto) -> None:
    """``onnx.checker`` and strict shape inference, for a model with detached initializers.

    They are shown as inputs, since the checker would look for their data. Outputs declared without
    a shape, which runtimes accept, are shown with the one that is inferred.
    """
    shown = ModelProto()
    shown.CopyFrom(proto)
    del shown.graph.initializer[:]
    for tensor in proto.graph.initializer:
        if is_detached(tensor):
            shown.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
        else:
            shown.graph.initializer.append(tensor)
    if any(_lacks_shape(value) for value in shown.graph.output):
        shown = onnx.shape_inference.infer_shapes(shown)
        outputs = [value for value in shown.graph.output if not _lacks_shape(value)]
        del shown.graph.output[:]
        shown.graph.output.extend(outputs)
    onnx.checker.check_model(shown, full_check=True)


def _lacks_shape(value: onnx.ValueInfoProto) -> bool:
    kind = value.type
    return kind.HasField("tensor_type") and not kind.tensor_type.HasField("shape")


def is_detached(tensor: TensorProto) -> bool:
    """Whether the initializer's values are held apart."""
    return any(e.key == "location" and e.value == DETACHED for e in tensor.external_data)


def stub(name: str, values: np.ndarray) -> TensorProto:
    """An initializer of these values' type and shape, its data held apart."""
    tensor = TensorProto(
        name=name, data_type=helper.np_dtype_to_tensor_dtype(values.dtype), dims=values.shape
    )
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=DETACHED)
    return tensor


def attach(tensor: TensorProto, values: np.ndarray) -> None:
    """Put ``values`` into an initializer whose data were elsewhere."""
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.raw_data = numpy_helper.from_array(values).raw_data


def detach(model: ModelProto, given: Mapping[str, np.ndarray] | None = None) -> Network:
    """A network that shares nothing with ``model``, which is left as it is.

    Args:
        model: the model.
        given: values of initializers that have none in ``model``.
    """
    proto = ModelProto()
    copy_fields(model, proto, but="graph")
    copy_fields(model.graph, proto.graph, but="initializer")
    weights = {}
    for tensor in model.graph.initializer:
        values = (given or {}).get(tensor.name)
        if values is None and not is_large(tensor):
            proto.graph.initializer.append(tensor)
            continue
        if values is None:
            values = numpy_helper.to_array(tensor)
        held = proto.graph.initializer.add()
        if tensor.data_type in _HELD_APART and values.nbytes > LARGE:
            held.CopyFrom(stub(tensor.name, values))
            weights[tensor.name] = values
        else:
            held.CopyFrom(numpy_helper.from_array(values, tensor.name))
        held.doc_string = tensor.doc_string
        held.metadata_props.extend(tensor.metadata_props)
    return Network(proto, weights)


def is_large(tensor: TensorProto) -> bool:
    """Whether the tensor's values are worth holding apart."""
    if tensor.data_type not in _HELD_APART or tensor.data_location == TensorProto.EXTERNAL:
        return False
    itemsize = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return bool(np.prod(tensor.dims, dtype=np.float64) * itemsize > LARGE)


def copy_fields(source: ModelProto | GraphProto, target: ModelProto | GraphProto, but: str) -> None:
    """Copy every field that is set, except one."""
    for descriptor, value in source.ListFields():
        if descriptor.name == but:
            continue
        if isinstance(value, (int, str, bytes)):
            setattr(target, descriptor.name, value)
        elif hasattr(value, "CopyFrom") and not hasattr(value, "extend"):
            getattr(target, descriptor.name).CopyFrom(value)
        else:
            getattr(target, descriptor.name).extend(value)
