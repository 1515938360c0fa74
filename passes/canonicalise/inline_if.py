"""Replace an If whose condition is constant by the branch that is taken.

1. The branch's nodes take the place of the If. Names that another tensor or node of the model also
   has are made unique; all others stay.
2. What the branch returns takes the names of the If's outputs. A branch that returns a constant,
   a tensor of the graphs around it, or one tensor twice, gets an Identity for that output.
3. Quantization annotations and the metadata and doc strings of initializers move along.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from ..graph.graph import (
    Graph,
    Node,
    Tensor,
    is_constant,
    replace_everywhere,
    scopes,
    unique_name,
    values_of,
)
from ..graph.surgeon import add_node


def inline_if(top: Graph, graph: Graph, node: Node) -> list[Node]:
    """Inline the branch in place.

    Args:
        top: the main graph.
        graph: the scope that holds ``node``.
        node: an If with a constant condition of one element.

    Returns:
        The nodes that came in, in their order.
    """
    taken = bool(np.all(values_of(node.inputs[0])))
    body = node.attrs["then_branch" if taken else "else_branch"]
    outputs = list(node.outputs)
    node.attrs.clear()
    node.inputs.clear()
    node.outputs.clear()
    _make_names_unique(top, body)

    position = next(i for i, other in enumerate(graph.nodes) if other is node)
    inside = {id(inner) for inner in body.nodes}
    nodes = list(body.nodes)
    graph.nodes[position : position + 1] = nodes
    handed_on: dict[int, Tensor] = {}
    for output, value in zip(outputs, list(body.outputs), strict=True):
        if output.is_empty():
            continue
        computed = value.inputs and id(value.inputs[0]) in inside and not is_constant(value)
        if computed and id(value) not in handed_on:
            _hand_on(body, value, output)
            handed_on[id(value)] = output
        else:
            source = handed_on.get(id(value), value)
            name = unique_name(top, f"Identity:{output.name}")
            nodes.append(add_node(graph, "Identity", name, [source], output))
    graph.extras.annotations += body.extras.annotations
    graph.extras.initializer_metadata.update(body.extras.initializer_metadata)
    graph.extras.initializer_docs.update(body.extras.initializer_docs)
    return nodes


def _hand_on(body: Graph, value: Tensor, output: Tensor) -> None:
    """Let the producer of ``value`` write ``output`` instead, and everybody read that."""
    producer = value.inputs[0]
    position = next(i for i, tensor in enumerate(producer.outputs) if tensor is value)
    producer.outputs[position] = output
    replace_everywhere(body, value, output)


def _make_names_unique(top: Graph, body: Graph) -> None:
    tensors = Counter(t.name for t in _unique(t for s in _all(top, body) for t in _tensors(s)))
    nodes = Counter(node.name for scope in _all(top, body) for node in scope.nodes)
    own = [scope.graph for scope in scopes(body)]
    for tensor in _unique(tensor for scope in own for tensor in _defined(scope)):
        if tensors[tensor.name] > 1:
            tensor.name = unique_name(top, tensor.name)
    for node in (node for scope in own for node in scope.nodes):
        if node.name and nodes[node.name] > 1:
            node.name = unique_name(top, node.name)


def _all(top: Graph, body: Graph) -> Iterator[Graph]:
    for root in (top, body):
        yield from (scope.graph for scope in scopes(root))


def _tensors(graph: Graph) -> Iterator[Tensor]:
    """Every tensor that the scope's own nodes mention."""
    yield from graph.inputs
    yield from graph.outputs
    for node in graph.nodes:
        yield from node.inputs
        yield from node.outputs


def _defined(graph: Graph) -> Iterator[Tensor]:
    """Those of them that belong to the scope, not to one around it."""
    yield from graph.inputs
    for node in graph.nodes:
        yield from node.outputs
        yield from filter(is_constant, node.inputs)


def _unique(tensors: Iterator[Tensor]) -> list[Tensor]:
    return list({id(t): t for t in tensors if not t.is_empty()}.values())
