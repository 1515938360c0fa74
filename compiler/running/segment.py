"""Parts of a network that run on their own, from given tensors to wanted ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import ModelProto, ValueInfoProto, helper

from ...passes.graph.network import Network, copy_fields
from ...passes.graph.protos import reads


def segment(network: Network, inputs: Mapping[str, int], outputs: Sequence[str]) -> Network:
    """The nodes that compute ``outputs`` from ``inputs``, as a network of its own.

    Args:
        network: the whole network; nothing of it is changed.
        inputs: element type of each tensor that is given. Ranks are kept where they are known,
            lengths are free.
        outputs: tensors of the main graph that are wanted; one may be an input.

    Raises:
        KeyError: an output needs a tensor that is neither computed nor given.
    """
    graph = network.proto.graph
    producers = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    types = {v.name: v for v in (*graph.input, *graph.output, *graph.value_info)}
    kept: set[int] = set()
    used: set[str] = set()
    pending = list(outputs)
    while pending:
        name = pending.pop()
        if name in used:
            continue
        used.add(name)
        if name in inputs or name in constants:
            continue
        node = producers[name]
        if node not in kept:
            kept.add(node)
            pending += reads(graph.node[node])
    proto = ModelProto()
    copy_fields(network.proto, proto, but="graph")
    part = proto.graph
    part.name = graph.name
    part.node.extend(graph.node[i] for i in sorted(kept))
    part.initializer.extend(t for name, t in constants.items() if name in used)
    part.input.extend(_value(n, k, types.get(n)) for n, k in inputs.items() if n in used)
    part.output.extend(_output(name, inputs, types) for name in outputs)
    made = {name for i in kept for name in graph.node[i].output}
    part.value_info.extend(
        value for name, value in types.items() if name in made and name not in outputs
    )
    return Network(proto, {name: w for name, w in network.weights.items() if name in used})


def _output(
    name: str, inputs: Mapping[str, int], types: Mapping[str, ValueInfoProto]
) -> ValueInfoProto:
    """An output of free lengths; where nothing tells its element type the runtime infers it."""
    if name in inputs:
        return _value(name, inputs[name], types.get(name))
    if name in types:
        return _value(name, types[name].type.tensor_type.elem_type, types[name])
    return ValueInfoProto(name=name)


def _value(name: str, kind: int, known: ValueInfoProto | None) -> ValueInfoProto:
    """A tensor of free lengths, of the rank that is known."""
    shape: list[str | int | None] | None = None
    if known is not None and known.type.tensor_type.HasField("shape"):
        shape = [f"{name}.{axis}" for axis in range(len(known.type.tensor_type.shape.dim))]
    return helper.make_tensor_value_info(name, kind, shape)
