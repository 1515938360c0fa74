"""Give each linear layer that calibration corrects a weight that no other node reads, and a bias.

Both can then be set by name; which layers these are, :mod:`..analysis.layers` says.

1. A weight or bias that something else reads too is copied.
2. A Conv, ConvTranspose or Gemm without a bias gets one of zeros.
3. A MatMul whose one reader adds a constant per output channel has that constant as its bias; any
   other MatMul gets an Add of zeros.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..analysis.layers import bias_add, layer_nodes, width
from ..graph.graph import (
    Graph,
    Node,
    PassResult,
    is_constant,
    optional_input,
    tidy,
    unique_name,
    values_of,
)
from ..graph.surgeon import add_node, constant, variable


def own_parameters(graph: Graph) -> PassResult:
    """Apply the rules above. The function computed is unchanged."""
    changes: list[str] = []
    for node in layer_nodes(graph):
        if node.op == "MatMul":
            found = bias_add(graph, node)
            if found is None:
                found = _append_bias(graph, node), 1
                changes.append(f"MatMul {node.name}: an Add of zeros is its bias")
            _own(graph, *found)
        elif optional_input(node, 2) is None:
            if len(node.inputs) > 2:
                del node.inputs[2]
            name = unique_name(graph, f"{node.name}.bias")
            node.inputs.append(constant(name, np.zeros(width(node), np.float32)))
            changes.append(f"{node.op} {node.name}: zeros are its bias")
        else:
            _own(graph, node, 2)
        _own(graph, node, 1)
    tidy(graph)
    return PassResult(graph, changes)


def set_parameters(graph: Graph, values: Mapping[str, np.ndarray]) -> None:
    """Give parameters of layers new values, by name."""
    tensors = graph.tensors()
    for name, array in values.items():
        tensor = tensors[name]
        assert is_constant(tensor)
        tensor.values = array


def _append_bias(graph: Graph, node: Node) -> Node:
    output = node.outputs[0]
    product = variable(unique_name(graph, f"{node.name}.product"), output)
    node.outputs[0] = product
    zeros = constant(unique_name(graph, f"{node.name}.bias"), np.zeros(width(node), np.float32))
    name = unique_name(graph, f"{node.name}.add_bias")
    return add_node(graph, "Add", name, [product, zeros], output)


def _own(graph: Graph, node: Node, position: int) -> None:
    """Rule 1."""
    tensor = node.inputs[position]
    if len(tensor.outputs) > 1 or tensor in graph.outputs:
        name = unique_name(graph, f"{node.name}.{tensor.name}")
        node.inputs[position] = constant(name, values_of(tensor).copy())
