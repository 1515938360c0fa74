"""Write a network as one ONNX file without a second copy of its weights in memory.

Serialising a ``ModelProto`` with its weights inside needs them twice more. Here the message is put
together field by field: the small parts by protobuf, each weight straight from its array.
"""

from __future__ import annotations

from typing import IO

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto

from ...passes.graph.network import Network, copy_fields

_MODEL_GRAPH = ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_GRAPH_INITIALIZER = GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_TENSOR_RAW_DATA = TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number


def write_network(network: Network, stream: IO[bytes]) -> None:
    """Write the whole model; the same network gives the same bytes.

    Raises:
        OSError: the stream cannot take it.
    """
    model, graph = ModelProto(), GraphProto()
    copy_fields(network.proto, model, but="graph")
    copy_fields(network.proto.graph, graph, but="initializer")
    weights: list[tuple[bytes, np.ndarray]] = []
    for tensor in network.proto.graph.initializer:
        if tensor.name in network.weights:
            weights.append(_weight(tensor, network.weights[tensor.name]))
        else:
            graph.initializer.append(tensor)
    small = graph.SerializeToString(deterministic=True)
    length = len(small) + sum(len(head) + values.nbytes for head, values in weights)
    stream.write(model.SerializeToString(deterministic=True))
    stream.write(_field(_MODEL_GRAPH, length))
    stream.write(small)
    for head, values in weights:
        stream.write(head)
        stream.write(np.ascontiguousarray(values).data)


def _weight(tensor: TensorProto, values: np.ndarray) -> tuple[bytes, np.ndarray]:
    """What stands before the values of an initializer, and the values."""
    plain = TensorProto()
    plain.CopyFrom(tensor)
    plain.ClearField("external_data")
    plain.ClearField("data_location")
    inner = plain.SerializeToString(deterministic=True) + _field(_TENSOR_RAW_DATA, values.nbytes)
    return _field(_GRAPH_INITIALIZER, len(inner) + values.nbytes) + inner, values


def _field(number: int, length: int) -> bytes:
    """The start of a length-delimited field: its key and its length."""
    return _varint(number << 3 | 2) + _varint(length)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
