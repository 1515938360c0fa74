"""Ways to damage a model: its bytes, or what they say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper
from snn_compile.passes.graph.protos import graphs_below

Random = np.random.Generator

_OPS = (
    *("Relu", "Clip", "Sigmoid", "Softmax", "Conv", "Gemm", "MatMul", "Add", "Div", "Mod", "Mul"),
    *("Reshape", "Transpose", "Concat", "Split", "Slice", "Gather", "Pad", "Resize", "MaxPool"),
    *("AveragePool", "BatchNormalization", "LSTM", "GRU", "If", "Loop", "Scan", "Identity", "Cast"),
    *("Range", "Expand", "Tile", "ConstantOfShape", "Shape", "TopK", "NonZero", "Einsum", "Erf"),
    *("DepthToSpace", "Squeeze", "Unsqueeze", "ReduceSum", "GlobalAveragePool", "PRelu", "Nope"),
    *("QuantizeLinear", "SequenceConstruct", "Gelu", "Upsample", "Dropout", "LayerNormalization"),
)
_NUMBERS = (0, 1, -1, 2, 3, 7, 100, 65536, 2**31 - 1, 2**31, -(2**31), 2**62, -(2**62), 2**63 - 1)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-38, 1e38, -1e38, np.inf, -np.inf, np.nan)


def mutate(models: list[ModelProto], rng: Random) -> bytes:
    """A damaged model."""
    model = ModelProto()
    model.CopyFrom(_pick(models, rng))
    if rng.random() < 0.3:
        return _mutate_bytes(model.SerializeToString(), _pick(models, rng).SerializeToString(), rng)
    for _ in range(int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))):
        mutation = _MUTATIONS[rng.integers(len(_MUTATIONS))]
        try:
            mutation(model, rng)
        except Exception:
            continue  # nothing there to damage this way
    return model.SerializeToString()


def _pick(items, rng: Random):
    items = list(items)
    if not items:
        raise IndexError("nothing to pick from")
    return items[rng.integers(len(items))]


def _mutate_bytes(data: bytes, other: bytes, rng: Random) -> bytes:
    for _ in range(int(rng.integers(1, 5))):
        if not data:
            return data
        kind, at = int(rng.integers(6)), int(rng.integers(len(data)))
        size = int(rng.integers(1, 32))
        if kind == 0:
            data = data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + data[at + size :]
        elif kind == 2:
            data = data[:at] + rng.bytes(size) + data[at:]
        elif kind == 3:
            data = data[:at]
        elif kind == 4:
            data = data[:at] + data[at : at + size] * 2 + data[at + size :]
        else:
            data = data[:at] + other[int(rng.integers(len(other))) :]
    return data


# Structure: each takes the model and changes one thing about it ------------------------------


def _graphs(model: ModelProto) -> list[GraphProto]:
    return list(graphs_below(model.graph))


def _node(model: ModelProto, rng: Random) -> NodeProto:
    nodes = [node for graph in _graphs(model) for node in graph.node]
    return _pick([*nodes, *(node for function in model.functions for node in function.node)], rng)


def _tensor(model: ModelProto, rng: Random) -> TensorProto:
    tensors = [tensor for graph in _graphs(model) for tensor in graph.initializer]
    for graph in _graphs(model):
        tensors += [a.t for n in graph.node for a in n.attribute if a.HasField("t")]
    return _pick(tensors, rng)


def _name(model: ModelProto, rng: Random) -> str:
    names = {name for graph in _graphs(model) for n in graph.node for name in (*n.input, *n.output)}
    return str(_pick(sorted(names | {"nowhere", ""}), rng))


def _value(model: ModelProto, rng: Random):
    return _pick(
        [v for g in _graphs(model) for v in (*g.input, *g.output, *g.value_info)], rng
    ).type.tensor_type


def drop_node(model: ModelProto, rng: Random) -> None:
    graph = _pick(_graphs(model), rng)
    del graph.node[int(rng.integers(len(graph.node)))]


def duplicate_node(model: ModelProto, rng: Random) -> None:
    graph = _pick(_graphs(model), rng)
    graph.node.append(_pick(graph.node, rng))


def swap_nodes(model: ModelProto, rng: Random) -> None:
    graph = _pick(_graphs(model), rng)
    nodes = list(graph.node)
    i, j = rng.integers(len(nodes), size=2)
    nodes[i], nodes[j] = nodes[j], nodes[i]
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def rewire_input(model: ModelProto, rng: Random) -> None:
    node = _node(model, rng)
    node.input[int(rng.integers(len(node.input)))] = _name(model, rng)


def rename_output(model: ModelProto, rng: Random) -> None:
    node = _node(model, rng)
    node.output[int(rng.integers(len(node.output)))] = _name(model, rng)


def make_cycle(model: ModelProto, rng: Random) -> None:
    graph = _pick(_graphs(model), rng)
    first, last = sorted(rng.integers(len(graph.node), size=2))
    graph.node[first].input[0] = graph.node[last].output[0]


def add_or_drop_input(model: ModelProto, rng: Random) -> None:
    node = _node(model, rng)
    if rng.random() < 0.5:
        node.input.append(_name(model, rng))
    else:
        node.input.pop()


def add_or_drop_output(model: ModelProto, rng: Random) -> None:
    node = _node(model, rng)
    if rng.random() < 0.5:
        node.output.append(f"extra{rng.integers(100)}")
    else:
        node.output.pop()


def change_operator(model: ModelProto, rng: Random) -> None:
    _node(model, rng).op_type = _pick(_OPS, rng)


def change_domain(model: ModelProto, rng: Random) -> None:
    domains = ("ai.onnx", "com.microsoft", "ai.onnx.ml", "ai.snn", "my", "org.nobody")
    _node(model, rng).domain = _pick(domains, rng)


def insert_node(model: ModelProto, rng: Random) -> None:
    """On the way into another node, so that something comes of it."""
    graph = _pick(_graphs(model), rng)
    position = int(rng.integers(len(graph.node)))
    node = graph.node[position]
    slot = int(rng.integers(len(node.input)))
    new = NodeProto(op_type=_pick(_OPS, rng), input=[node.input[slot]], output=[f"new{position}"])
    for _ in range(int(rng.integers(3))):
        new.input.append(_name(model, rng))
    node.input[slot] = new.output[0]
    nodes = [NodeProto.FromString(n.SerializeToString()) for n in graph.node]
    del graph.node[:]
    graph.node.extend([*nodes[:position], new, *nodes[position:]])


def change_attribute(model: ModelProto, rng: Random) -> None:
    nodes = [n for g in _graphs(model) for n in g.node if n.attribute]
    attribute = _pick(_pick(nodes, rng).attribute, rng)
    number, choice = int(_pick(_NUMBERS, rng)), rng.random()
    if choice < 0.15:
        attribute.type = _pick(AttributeProto.AttributeType.values(), rng)
    elif choice < 0.25:
        attribute.name = _pick(("axis", "value", "body", "pads", "perm", "kernel_shape", ""), rng)
    elif attribute.type == AttributeProto.INT:
        attribute.i = number
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = _pick(_FLOATS, rng)
    elif attribute.type == AttributeProto.INTS and rng.random() < 0.7:
        attribute.ints[int(rng.integers(len(attribute.ints)))] = number
    elif attribute.type == AttributeProto.INTS:
        attribute.ints.append(number)
    elif attribute.type == AttributeProto.STRING:
        attribute.s = rng.bytes(4)


def add_attribute(model: ModelProto, rng: Random) -> None:
    name = _pick(
        (
            *("axis", "alpha", "perm", "group", "strides", "pads", "dilations", "auto_pad", "mode"),
            *("keepdims", "to", "epsilon", "transA", "value", "ceil_mode", "storage_order"),
        ),
        rng,
    )
    attribute = _node(model, rng).attribute.add(name=name)
    number = int(_pick(_NUMBERS, rng))
    if rng.random() < 0.5:
        attribute.type, attribute.i = AttributeProto.INT, number
    else:
        attribute.type = AttributeProto.INTS
        attribute.ints.extend([number] * int(rng.integers(1, 5)))


def drop_attribute(model: ModelProto, rng: Random) -> None:
    node = _pick([n for g in _graphs(model) for n in g.node if n.attribute], rng)
    del node.attribute[int(rng.integers(len(node.attribute)))]


def change_element_type(model: ModelProto, rng: Random) -> None:
    _value(model, rng).elem_type = int(rng.integers(0, 30))


def change_dimension(model: ModelProto, rng: Random) -> None:
    dim = _pick(_value(model, rng).shape.dim, rng)
    if rng.random() < 0.2:
        dim.Clear()
    elif rng.random() < 0.2:
        dim.dim_param = _pick(("N", "M", ""), rng)
    else:
        dim.dim_value = int(_pick(_NUMBERS, rng))


def change_rank(model: ModelProto, rng: Random) -> None:
    value = _value(model, rng)
    choice = rng.random()
    if choice < 0.2:
        value.ClearField("shape")
    elif choice < 0.6:
        value.shape.dim.add(dim_value=int(rng.integers(0, 4)))
    else:
        del value.shape.dim[0]


def change_opset(model: ModelProto, rng: Random) -> None:
    opset = _pick(model.opset_import, rng)
    opset.version = int(_pick((*range(1, 29), 0, -1, 100, 2**62), rng))


def change_ir_version(model: ModelProto, rng: Random) -> None:
    model.ir_version = int(_pick((*range(1, 15), 0, -1, 100, 2**62), rng))


def drop_initializer(model: ModelProto, rng: Random) -> None:
    graph = _pick(_graphs(model), rng)
    del graph.initializer[int(rng.integers(len(graph.initializer)))]


def rename_initializer(model: ModelProto, rng: Random) -> None:
    _tensor(model, rng).name = _name(model, rng)


def change_values(model: ModelProto, rng: Random) -> None:
    """NaN, infinity, huge and negative numbers, where there were reasonable ones."""
    tensor = _tensor(model, rng)
    values = numpy_helper.to_array(tensor).copy()
    flat = values.reshape(-1)
    where = slice(None) if rng.random() < 0.3 else int(rng.integers(len(flat)))
    number = _pick(_FLOATS if values.dtype.kind == "f" else (*_NUMBERS[:9], 0), rng)
    flat[where] = np.array(number).astype(values.dtype)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def change_tensor_shape(model: ModelProto, rng: Random) -> None:
    tensor = _tensor(model, rng)
    values = numpy_helper.to_array(tensor)
    if rng.random() < 0.5:  # consistent, but not what the node expects
        shapes = [values.reshape(-1), values[None], values[..., None], values[:0], values[:1]]
        tensor.CopyFrom(numpy_helper.from_array(_pick(shapes, rng), tensor.name))
    else:
        tensor.dims[int(rng.integers(len(tensor.dims)))] = int(_pick(_NUMBERS, rng))


def change_tensor_type(model: ModelProto, rng: Random) -> None:
    tensor = _tensor(model, rng)
    if rng.random() < 0.5:
        tensor.data_type = int(rng.integers(0, 30))
    else:
        dtype = _pick((np.float16, np.float64, np.int32, np.int64, np.bool_, np.uint8), rng)
        values = np.nan_to_num(numpy_helper.to_array(tensor)).astype(dtype)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def change_external_data(model: ModelProto, rng: Random) -> None:
    tensor = _pick([t for t in model.graph.initializer if t.external_data], rng)
    entry = _pick(tensor.external_data, rng)
    places = ("../weights.bin", "/etc/hostname", "weights.bin", ".", "*/_ORT_MEM_ADDR_/*", "a/b")
    entry.value = _pick((*places, "-1", "4", "99999", str(2**63), "detached", ""), rng)


def make_external(model: ModelProto, rng: Random) -> None:
    tensor = _tensor(model, rng)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    place = _pick(("*/_ORT_MEM_ADDR_/*", "../weights.bin", "detached", "weights.bin"), rng)
    tensor.external_data.add(key="location", value=place)


def drop_output(model: ModelProto, rng: Random) -> None:
    graph = _pick(_graphs(model), rng)
    del graph.output[int(rng.integers(len(graph.output)))]


def rename_interface(model: ModelProto, rng: Random) -> None:
    graph = _pick(_graphs(model), rng)
    _pick([*graph.input, *graph.output], rng).name = _name(model, rng)


def drop_input(model: ModelProto, rng: Random) -> None:
    graph = _pick(_graphs(model), rng)
    del graph.input[int(rng.integers(len(graph.input)))]


def weight_as_input(model: ModelProto, rng: Random) -> None:
    tensor = _pick(model.graph.initializer, rng)
    info = model.graph.input.add(name=tensor.name)
    info.type.tensor_type.elem_type = tensor.data_type
    for dim in tensor.dims:
        info.type.tensor_type.shape.dim.add(dim_value=dim)
    if rng.random() < 0.5:
        model.graph.initializer.remove(tensor)


def extra_output(model: ModelProto, rng: Random) -> None:
    info = model.graph.output.add(name=_name(model, rng))
    info.type.tensor_type.elem_type = TensorProto.FLOAT
    info.type.tensor_type.shape.SetInParent()


def graft_branch(model: ModelProto, rng: Random) -> None:
    """A graph inside itself."""
    node = _pick(model.graph.node, rng)
    body = node.attribute.add(
        name=_pick(("body", "then_branch", "x"), rng), type=AttributeProto.GRAPH
    )
    body.g.CopyFrom(GraphProto.FromString(model.graph.SerializeToString()))


def rename_function(model: ModelProto, rng: Random) -> None:
    function = _pick(model.functions, rng)
    function.name = _pick(("outer", "inner", "Relu", ""), rng)


_MUTATIONS: tuple[Callable[[ModelProto, Random], None], ...] = (
    *(drop_node, duplicate_node, swap_nodes, rewire_input, rewire_input, rename_output),
    *(make_cycle, add_or_drop_input, add_or_drop_output, change_operator, change_operator),
    *(change_domain, insert_node, insert_node, insert_node, change_attribute, change_attribute),
    *(change_attribute, add_attribute, drop_attribute, change_element_type, change_dimension),
    *(change_rank, change_opset, change_ir_version, drop_initializer, rename_initializer),
    *(change_values, change_values, change_tensor_shape, change_tensor_shape, change_tensor_type),
    *(change_external_data, make_external, drop_output, rename_interface, drop_input),
    *(weight_as_input, extra_output, graft_branch, rename_function),
)
