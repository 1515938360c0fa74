"""Let shortcuts carry membrane potentials instead of spikes.

In a residual network one activation is read twice: by the linear operator that comes next and, past
it, by the sum at the end of the block. A neuron in its place quantises both, and the error on the
shortcut is never multiplied by a weight that could make up for it: it adds up from block to block.
Only the linear operator needs spikes. So where

1. an activation is read by linear operators and also by others that compute, such as Add, directly
   or through operators that only move values, and
2. it is in the main graph or in a body of If,

a copy of the activation serves the others. The neuron takes the place of the original; the copy
stays in float: it is no multiply-accumulate, and the sum that reads it is in float in any case.
Readers that move values to both kinds of operators read the spikes.

Where the activation is Relu or Clip from 0, which change nothing that has passed them, the neuron
of one timestep reads the copy: with one reader the sum in front is fused with its convolution, as
it is in the ANN. Over several timesteps currents below 0 count, and the neuron reads them itself.

Linear bottlenecks and transformers have them by themselves: no activation feeds their sums. The
membrane shortcut is known from spiking residual networks that are trained as such.
"""

from __future__ import annotations

from ..analysis.activations import find_activations, is_activation, mark_shortcut
from ..analysis.operators import is_linear, moved, moves_values, standard
from ..graph.graph import Graph, Node, PassResult, Tensor, redirect, scopes, tidy, unique_name
from ..graph.surgeon import add_node, variable


def membrane_shortcuts(graph: Graph, one_step: bool = True) -> PassResult:
    """Apply the rules above. The function computed is unchanged.

    Args:
        graph: canonical.
        one_step: neurons fire in one timestep.
    """
    changes = []
    neurons = {activation.output: activation for activation in find_activations(graph)[0]}
    for scope in [scope.graph for scope in scopes(graph) if not scope.closed]:
        for node in [node for node in scope.nodes if is_activation(node)]:
            activation = neurons.get(str(node.outputs[0].name))
            if activation is None:
                continue
            copy = _split(scope, node)
            if copy is not None:
                if one_step and activation.linear and not activation.signed:
                    node.inputs[0] = copy
                changes.append(f"{node.op} {node.name}: shortcuts read a copy of it")
    tidy(graph)
    return PassResult(graph, changes)


def _split(graph: Graph, node: Node) -> Tensor | None:
    """The output of the copy, where there has to be one."""
    output = node.outputs[0]
    readers = {id(reader): reader for reader in output.outputs}
    kinds = {key: _kinds(graph, reader, output) for key, reader in readers.items()}
    analog = [readers[key] for key, found in kinds.items() if found == {False}]
    if not analog or not any(True in found for found in kinds.values()):
        return None
    copy = variable(unique_name(graph, f"{output.name}.shortcut"), output)
    name = unique_name(graph, f"{node.name}.shortcut")
    attributes = dict(node.attrs)
    clone = add_node(graph, node.op, name, list(node.inputs), copy, attributes, node.domain)
    mark_shortcut(clone)
    redirect(analog, output, copy)
    return copy


def _kinds(graph: Graph, reader: Node, read: Tensor) -> set[bool]:
    """Whether what computes with the tensor, behind this reader, is linear: one or both answers."""
    found: set[bool] = set()
    pending = [(reader, read)]
    seen: set[int] = set()
    while pending:
        node, tensor = pending.pop()
        if id(node) in seen or standard(node).shape_only:
            continue
        seen.add(id(node))
        if moves_values(node) and any(tensor is source for source in moved(node)):
            outputs = list(node.outputs)
            if any(output in graph.outputs for output in outputs):
                found.add(True)  # the network's own output is what the neuron gives
            pending += [(consumer, output) for output in outputs for consumer in output.outputs]
        else:
            found.add(is_linear(node))
    return found
