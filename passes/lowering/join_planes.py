"""Undo ``binary_spikes``: each neuron gives its output itself again, without planes.

1. Found: a Where with the mark of ``binary_spikes`` that reads the output of a neuron. The neuron
   gives what the Where gave.
2. A StaircaseFire gets back the table that the decoder gathers from.
3. What nothing needs any more is dropped.

The marks are believed; :func:`same_tensor` checks what was found: expand the result again, and
compare each output with the one that the network has.
"""

from __future__ import annotations

import numpy as np

from ...runtime_ops.definition import DOMAIN
from ...runtime_ops.staircase_fire import STAIRCASE_FIRE
from ..graph.graph import (
    Graph,
    Node,
    PassResult,
    Tensor,
    is_constant,
    metadata,
    scopes,
    tidy,
    values_of,
)
from .binary_spikes import MARK


def join_planes(graph: Graph) -> PassResult:
    """Apply the rules above."""
    changes = []
    for scope in scopes(graph):
        for node in list(scope.graph.nodes):
            neuron = _neuron_of(node)
            if neuron is None:
                continue
            if neuron.op == STAIRCASE_FIRE.name:
                _restore_table(neuron, node)
            output = node.outputs[0]
            node.outputs.clear()
            neuron.outputs[0] = output
            changes.append(f"{neuron.op} {neuron.name}: planes joined")
    tidy(graph)
    return PassResult(graph, changes)


def decoded_tensors(graph: Graph) -> dict[str, Tensor]:
    """The outputs of expanded neurons, by name, those in bodies included."""
    nodes = [node for scope in scopes(graph) for node in scope.graph.nodes]
    return {node.outputs[0].name: node.outputs[0] for node in nodes if _neuron_of(node)}


def same_tensor(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two tensors are computed alike, from the neurons' inputs on, whatever their names.

    Args:
        ours: of :func:`decoded_tensors`, of a network that we expanded: it bounds the walk.
        theirs: of any network.
    """
    if is_constant(ours) or is_constant(theirs):
        return is_constant(ours) and is_constant(theirs) and _same_values(ours, theirs)
    if not ours.inputs or not theirs.inputs:
        return not ours.inputs and not theirs.inputs and bool(ours.name == theirs.name)
    first, second = ours.inputs[0], theirs.inputs[0]
    if (first.op, first.domain, first.attrs) != (second.op, second.domain, second.attrs):
        return False
    if len(first.inputs) != len(second.inputs):
        return False
    inputs = list(zip(first.inputs, second.inputs, strict=True))
    if first.domain == DOMAIN:  # what comes before is not of the expansion
        (x, other), *inputs = inputs
        if x.name != other.name:
            return False
    return all(same_tensor(*pair) for pair in inputs)


def _neuron_of(node: Node) -> Node | None:
    """The neuron whose output the node decodes: rule 1."""
    if node.op != "Where" or MARK not in metadata(node) or len(node.inputs) != 3:
        return None
    fired = node.inputs[1]
    producer = fired.inputs[0] if fired.inputs else None
    return producer if producer is not None and producer.domain == DOMAIN else None


def _restore_table(neuron: Node, where: Node) -> None:
    """Rule 2."""
    decoded = where.inputs[2].inputs
    level = decoded[0].inputs[-1].inputs if decoded and decoded[0].inputs else []
    if level and level[0].op == "Gather" and len(neuron.inputs) == 3:
        neuron.inputs[2] = level[0].inputs[0]


def _same_values(ours: Tensor, theirs: Tensor) -> bool:
    first, second = (np.ascontiguousarray(values_of(tensor)) for tensor in (ours, theirs))
    return (first.dtype, first.shape) == (second.dtype, second.shape) and (
        first.tobytes() == second.tobytes()
    )
