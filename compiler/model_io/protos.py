"""Tensors, types and attributes of a model nobody vouches for, checked in Python.

1. A tensor has a known element type, dimensions that are not negative, fewer than 2**63 bytes, and
   exactly as much data as they declare, in one field. Data kept elsewhere (``EXTERNAL``) are not
   looked at: :mod:`.external_data` reads and checks them.
2. A sparse tensor has one value per index, and both are tensors by rule 1.
3. A type names a known element type; its fixed dimensions are not negative and not beyond 2**63
   bytes. A dimension of -1 is unknown, as some exporters write it.
4. An attribute has one value, of the type it declares; text is UTF-8. What native code divides by
   (strides, dilations, groups, ...) is positive.

Native code of onnx and onnxruntime takes some of these for granted, so they come first.
"""

from __future__ import annotations

import math

from onnx import AttributeProto, SparseTensorProto, TensorProto, TypeProto, helper

from ..errors import ModelError

_EXPORT = "export the model again"
_MAX_BYTES = 2**63 - 1
_MAX_STEP = 2**31 - 1

#: Bits per element of the types that share bytes, as far as the installed onnx knows them.
_PACKED_BITS = {
    TensorProto.DataType.Value(name): bits
    for bits, names in {
        2: ("INT2", "UINT2"),
        4: ("INT4", "UINT4", "FLOAT4E2M1"),
        6: ("FLOAT6E2M3", "FLOAT6E3M2"),
    }.items()
    for name in names
    if name in TensorProto.DataType.keys()  # noqa: SIM118 (an enum wrapper, not a dict)
}

#: Attributes that count, divide or step. Zero or less makes native code divide by zero or loop.
_POSITIVE = {
    *("kernel_shape", "strides", "dilations", "group", "blocksize", "num_groups", "num_heads"),
    *("q_num_heads", "kv_num_heads", "hidden_size", "size", "num_outputs", "num_scan_inputs"),
}

_VALUE_FIELDS = {
    AttributeProto.FLOAT: "f",
    AttributeProto.INT: "i",
    AttributeProto.STRING: "s",
    AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g",
    AttributeProto.SPARSE_TENSOR: "sparse_tensor",
    AttributeProto.TYPE_PROTO: "tp",
    AttributeProto.FLOATS: "floats",
    AttributeProto.INTS: "ints",
    AttributeProto.STRINGS: "strings",
    AttributeProto.TENSORS: "tensors",
    AttributeProto.GRAPHS: "graphs",
    AttributeProto.SPARSE_TENSORS: "sparse_tensors",
    AttributeProto.TYPE_PROTOS: "type_protos",
}
_MESSAGES = {"t", "g", "sparse_tensor", "tp"}
_SINGULAR = _MESSAGES | {"f", "i", "s"}  # scalars of value 0 may be left out
_DATA_FIELDS = (
    *("float_data", "int32_data", "string_data"),
    *("int64_data", "double_data", "uint64_data"),
)


def invalid(text: str) -> ModelError:
    """The error for a model that breaks the rules of ONNX."""
    return ModelError(f"the model is not valid ONNX: {text}")


def is_utf8(data: bytes) -> bool:
    """Whether the bytes are text, as ONNX writes it."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def element_bits(elem_type: int) -> int:
    """Bits that an element takes; 0 for strings and unknown types."""
    if elem_type in _PACKED_BITS:
        return _PACKED_BITS[elem_type]
    if elem_type in (TensorProto.UNDEFINED, TensorProto.STRING) or not _is_type(elem_type):
        return 0
    return int(helper.tensor_dtype_to_np_dtype(elem_type).itemsize) * 8


def data_bytes(tensor: TensorProto) -> int:
    """Bytes that the raw data of a tensor take which :func:`check_tensor` accepts."""
    count: int = math.prod(tensor.dims)
    return -(-count * element_bits(tensor.data_type) // 8)


def check_tensor(tensor: TensorProto, where: str) -> None:
    """Rule 1. ``where`` begins the message.

    Raises:
        ModelError: the tensor is not what it declares.
    """
    if not _is_type(tensor.data_type) or tensor.data_type == TensorProto.UNDEFINED:
        raise invalid(f"{where} has no known element type ({tensor.data_type}); {_EXPORT}")
    _check_dims(list(tensor.dims), tensor.data_type, where)
    if tensor.HasField("segment"):
        raise ModelError(f"{where} is a segment of a tensor, which no runtime reads; {_EXPORT}")
    if tensor.data_location == TensorProto.EXTERNAL:
        if tensor.data_type == TensorProto.STRING:
            raise invalid(f"{where} holds strings, which cannot be external data; {_EXPORT}")
        return
    filled = [field for field in _DATA_FIELDS if len(getattr(tensor, field))]
    if tensor.HasField("raw_data"):
        found, unit = len(tensor.raw_data), "bytes"
        wanted = data_bytes(tensor)
        fits = not filled and tensor.data_type != TensorProto.STRING and found == wanted
    else:
        field = helper.tensor_dtype_to_field(tensor.data_type)
        found, unit = len(getattr(tensor, field)), f"values in {field}"
        wanted = _field_length(tensor)
        fits = not set(filled) - {field} and found == wanted
    if not fits:
        raise invalid(
            f"{where} of shape {list(tensor.dims)} needs {wanted} {unit} and has {found}"
            f"{' and more in ' + ', '.join(filled) if filled else ''}; the file may be truncated, "
            f"or {_EXPORT}"
        )


def check_sparse(sparse: SparseTensorProto, where: str) -> None:
    """Rule 2.

    Raises:
        ModelError: values and indices do not belong together.
    """
    check_tensor(sparse.values, f"{where}, values,")
    check_tensor(sparse.indices, f"{where}, indices,")
    _check_dims(list(sparse.dims), sparse.values.data_type, where)
    values, indices = list(sparse.values.dims), list(sparse.indices.dims)
    rank = len(sparse.dims)
    if (
        len(values) != 1
        or sparse.indices.data_type != TensorProto.INT64
        or indices not in (values, [*values, rank])
        or not rank
    ):
        raise invalid(f"{where} of shape {list(sparse.dims)} has indices {indices}; {_EXPORT}")


def check_type(type_proto: TypeProto, where: str) -> None:
    """Rule 3, for the type of an input, an output or anything between; an absent type is fine.

    Raises:
        ModelError: the type is not a known one.
    """
    kind = type_proto.WhichOneof("value")
    if kind in ("tensor_type", "sparse_tensor_type"):
        tensor = getattr(type_proto, kind)
        if not _is_type(tensor.elem_type):
            raise invalid(f"{where} has no known element type ({tensor.elem_type}); {_EXPORT}")
        dims = [dim.dim_value for dim in tensor.shape.dim if dim.HasField("dim_value")]
        _check_dims([dim for dim in dims if dim != -1], tensor.elem_type, where)
    elif kind in ("sequence_type", "optional_type"):
        check_type(getattr(type_proto, kind).elem_type, where)
    elif kind == "map_type":
        check_type(type_proto.map_type.value_type, where)


def check_attribute(attribute: AttributeProto, where: str, *, in_function: bool) -> None:
    """Rule 4. Graphs inside are the caller's to check.

    Raises:
        ModelError: the value is not what the attribute declares.
    """
    where = f"attribute '{attribute.name}' of {where}"
    field = _VALUE_FIELDS.get(attribute.type)
    present = {
        name
        for name in _VALUE_FIELDS.values()
        if (attribute.HasField(name) if name in _SINGULAR else len(getattr(attribute, name)))
    }
    if attribute.ref_attr_name:
        if not in_function or present:
            raise invalid(f"{where} stands for an attribute of a function; {_EXPORT}")
        return
    if not attribute.name or field is None:
        raise invalid(f"{where} has no name or no type; {_EXPORT}")
    if present - {field} or (field in _MESSAGES and field not in present):
        raise invalid(f"{where} is declared {field} and holds {sorted(present)}; {_EXPORT}")
    for text in (attribute.s, *attribute.strings):
        if not is_utf8(text):
            raise invalid(f"{where} is text that is not UTF-8 ({text[:40]!r}); {_EXPORT}")
    if attribute.name in _POSITIVE and field in ("i", "ints"):
        steps = [attribute.i] if field == "i" else list(attribute.ints)
        if not all(0 < step <= _MAX_STEP for step in steps):
            raise invalid(f"{where} is {steps}, which must be positive; {_EXPORT}")
    if attribute.name == "pads" and not all(abs(pad) <= _MAX_STEP for pad in attribute.ints):
        raise invalid(f"{where} is {list(attribute.ints)}, which is out of range; {_EXPORT}")
    for tensor in [attribute.t] if field == "t" else attribute.tensors:
        check_tensor(tensor, f"the tensor in {where}")
    for sparse in [attribute.sparse_tensor] if field == "sparse_tensor" else []:
        check_sparse(sparse, f"the sparse tensor in {where}")
    for sparse in attribute.sparse_tensors:
        check_sparse(sparse, f"the sparse tensor in {where}")
    for type_proto in [attribute.tp] if field == "tp" else attribute.type_protos:
        check_type(type_proto, where)


def _is_type(elem_type: int) -> bool:
    return elem_type in TensorProto.DataType.values()


def _check_dims(dims: list[int], elem_type: int, where: str) -> None:
    # Zeros count as ones: native code multiplies the dimensions one after the other.
    size = math.prod(max(dim, 1) for dim in dims) * max(element_bits(elem_type), 8) // 8
    if any(dim < 0 for dim in dims):
        raise invalid(f"{where} has a negative dimension: {dims}; {_EXPORT}")
    if size > _MAX_BYTES:
        raise ModelError(f"{where} of shape {dims} is larger than any memory; {_EXPORT}")


def _field_length(tensor: TensorProto) -> int:
    """How many entries a typed data field holds: complex numbers take two, 2 and 4 bits share."""
    count: int = math.prod(tensor.dims)
    if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        return 2 * count
    return data_bytes(tensor) if element_bits(tensor.data_type) in (2, 4) else count
