"""Let neurons, and corrections of layers, be switched on and off while the network runs.

One network then serves for every mixture of ANN and SNN: no other has to be built for each.

1. Beside an activation y = f(x) stands a copy of it, and whatever reads or returns y takes
   Where(on, y, copy). A pass that comes later may turn y into a neuron. Of an encoder the copy is
   x itself.
2. Beside a node that reads parameters which have other values stands a copy that reads those, and
   whatever reads or returns its output y takes Where(on, copy, y). To switch the parameters alone
   would be less to compute, but runtimes are slow where weights are no constants.

Each ``on`` is an input of the network, bool and a scalar. Where picks values and computes nothing,
so with everything off the network gives the bits that it gave before, as long as the runtime does
not reorder arithmetic. The copy of an activation is no activation that becomes a neuron: these are
known by the names of their outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..analysis.activations import is_encoder
from ..graph.graph import (
    Graph,
    Node,
    NodeExtras,
    Tensor,
    bodies,
    replace_everywhere,
    scopes,
    tidy,
    unique_name,
)
from ..graph.surgeon import add_node, constant, variable


@dataclass(frozen=True)
class Switched:
    """A graph with switches.

    Attributes:
        graph: with an input for each.
        neurons: the input by the output of the activation, in the order in which they run.
        layers: the input by the output of the node that has parameters of two values.
        reads: outputs of the activations whose values this node reads, with nothing that fires
            between, likewise.
    """

    graph: Graph
    neurons: dict[str, str]
    layers: dict[str, str]
    reads: dict[str, set[str]]


def switch_neurons(
    graph: Graph, outputs: Sequence[str], parameters: Mapping[str, np.ndarray]
) -> Switched:
    """Apply the rules above.

    Args:
        graph: canonical; it is used up.
        outputs: of the activations that are to be switched.
        parameters: other values, by the name of a constant of the main graph.
    """
    wanted = set(outputs)
    found = [
        (home, node)
        for home, node in _in_order(graph)
        if node.outputs and node.outputs[0].name in wanted
    ]
    fired = {id(node): str(node.outputs[0].name) for _, node in found}
    tensors = graph.tensors()
    others: dict[int, Tensor] = {
        id(tensors[name]): constant(unique_name(graph, f"{name}.corrected"), values)
        for name, values in parameters.items()
    }
    readers = [node for node in graph.nodes if any(id(t) in others for t in node.inputs)]
    by_output = {str(node.outputs[0].name): node for node in readers}
    reads = {output: _nearest(node, fired) for output, node in by_output.items()}
    neurons = {fired[id(node)]: _switch_neuron(graph, home, node) for home, node in found}
    layers = {output: _switch_layer(graph, node, others) for output, node in by_output.items()}
    tidy(graph)
    return Switched(graph, neurons, layers, reads)


def _switch_neuron(main: Graph, home: Graph, node: Node) -> str:
    """Rule 1; the name of the switch."""
    output = node.outputs[0]
    result = _taken_instead(main, home, output)
    analog = node.inputs[0] if is_encoder(node) else _copy(main, home, node, list(node.inputs))
    return _pick(main, home, node, (output, analog), result)


def _switch_layer(graph: Graph, node: Node, others: Mapping[int, Tensor]) -> str:
    """Rule 2; the name of the switch."""
    output = node.outputs[0]
    result = _taken_instead(graph, graph, output)
    corrected = _copy(graph, graph, node, [others.get(id(t), t) for t in node.inputs])
    return _pick(graph, graph, node, (corrected, output), result)


def _taken_instead(main: Graph, home: Graph, output: Tensor) -> Tensor:
    """What is read and returned in place of an output."""
    result = variable(unique_name(main, f"{output.name}.switched"), output)
    replace_everywhere(home, output, result)
    return result


def _copy(main: Graph, home: Graph, node: Node, inputs: Sequence[Tensor]) -> Tensor:
    """What a copy of the node with these inputs computes."""
    output = node.outputs[0]
    result = variable(unique_name(main, f"{output.name}.other"), output)
    name, attributes = unique_name(main, f"{node.name}.other"), dict(node.attrs)
    copy = add_node(home, node.op, name, inputs, result, attributes, node.domain)
    copy.extras = NodeExtras(overload=node.extras.overload)
    return result


def _pick(
    main: Graph, home: Graph, node: Node, values: tuple[Tensor, Tensor], result: Tensor
) -> str:
    """Where(on, first, second); the name of ``on``."""
    switch = variable(unique_name(main, f"{node.outputs[0].name}.on"))
    switch.dtype, switch.shape = np.dtype(bool), ()
    main.inputs.append(switch)
    name = unique_name(main, f"{node.name}.switch")
    add_node(home, "Where", name, [switch, *values], result)
    return str(switch.name)


def _in_order(graph: Graph) -> Iterator[tuple[Graph, Node]]:
    """Each node of the graph and its bodies with its scope, in the order in which they run."""
    for node in list(graph.nodes):
        for body in bodies(node):
            yield from _in_order(body)
        yield graph, node


def _nearest(node: Node, fired: Mapping[int, str]) -> set[str]:
    """Outputs of the activations among the nodes before this one that are met first."""
    found: set[str] = set()
    seen: set[int] = set()
    pending = [producer for tensor in node.inputs for producer in tensor.inputs]
    while pending:
        one = pending.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if id(one) in fired:
            found.add(fired[id(one)])
            continue
        read = list(one.inputs)
        for body in bodies(one):
            for scope in scopes(body):
                read += [*scope.graph.outputs, *(t for n in scope.graph.nodes for t in n.inputs)]
        pending += [producer for tensor in read for producer in tensor.inputs]
    return found
