"""From T timesteps back to one: every integrate-and-fire neuron becomes a multi-threshold neuron.

    IntegrateFire(x, theta, n+, n-, v0, T)  ->  MultiThresholdFire(x, theta / T, T n+, T n-, v0)

Nodes that ``spatial_to_temporal.py`` put in say so in their metadata; they are taken out again, and
inputs and outputs lose the axis that they got. What is left computes the spatial network, in which
theta / T may differ in the last bit from what it was where T is no power of two.

Refused: networks whose neurons disagree on T, or that have nodes over time of another origin, which
is found where the result is no valid network.
"""

from __future__ import annotations

import numpy as np

from ...runtime_ops.definition import DOMAIN
from ...runtime_ops.integrate_fire import INTEGRATE_FIRE
from ...runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE
from ..analysis.time_rules import NotOverTimeError
from ..graph.graph import (
    Graph,
    Node,
    PassResult,
    is_constant,
    metadata,
    replace_everywhere,
    tidy,
    unique_name,
)
from ..graph.surgeon import constant
from .time_apart import without_time
from .time_nodes import APART, INPUT_STEPS, OUTPUT, OUTPUT_STEPS, STANDS_FOR, TIME


def timesteps_of(graph: Graph) -> int:
    """T of the network's neurons; 1 where none fires over time.

    Raises:
        NotOverTimeError: they disagree.
    """
    found = {
        int(node.attrs.get("timesteps", INTEGRATE_FIRE.defaults["timesteps"]))
        for node in graph.nodes
        if node.domain == DOMAIN and node.op == INTEGRATE_FIRE.name
    }
    if len(found) > 1:
        listed = ", ".join(map(str, sorted(found)))
        raise NotOverTimeError(f"the neurons of the network fire over {listed} timesteps")
    return found.pop() if found else 1


def temporal_to_spatial(graph: Graph) -> PassResult:
    """Apply the rules above.

    Raises:
        NotOverTimeError: what is refused.
    """
    steps = timesteps_of(graph)
    changes = []
    for node in graph.nodes:
        if node.domain == DOMAIN and node.op == INTEGRATE_FIRE.name:
            _join_steps(graph, node, steps)
            changes.append(f"{node.op} {node.name}: one timestep")
        if metadata(node).get(TIME) == APART:
            without_time(graph, node)
            del metadata(node)[TIME]
    tensors = dict(graph.tensors())
    for node in list(graph.nodes):
        stands_for = metadata(node).get(STANDS_FOR)
        if stands_for is None:
            continue
        if stands_for not in tensors:
            raise NotOverTimeError(
                f"{node.op} '{node.name}' stands for '{stands_for}', which is gone"
            )
        inner, end = tensors[stands_for], node.outputs[0]
        purpose = metadata(node)[TIME]
        name = end.name
        replace_everywhere(graph, end, inner)
        node.outputs.clear()
        if purpose in (OUTPUT, OUTPUT_STEPS):
            inner.name = name
        tensors[name] = inner  # what stands for this one in turn
        if purpose in (INPUT_STEPS, OUTPUT_STEPS):
            declared = graph.interface[inner.name].type.tensor_type
            if declared.HasField("shape"):
                del declared.shape.dim[0]
    tidy(graph)
    return PassResult(graph, changes)


def _join_steps(graph: Graph, node: Node, steps: int) -> None:
    theta = node.inputs[1]
    if not is_constant(theta):
        raise NotOverTimeError(f"the threshold of {node.op} '{node.name}' is not constant")
    values = np.asarray(theta.values)
    shared = np.asarray(values / values.dtype.type(steps), values.dtype)
    node.inputs[1] = constant(unique_name(graph, f"{theta.name}.spatial"), shared)
    node.op = MULTI_THRESHOLD_FIRE.name
    node.attrs.pop("timesteps", None)
    for side in ("levels_pos", "levels_neg"):
        node.attrs[side] = steps * int(node.attrs.get(side, INTEGRATE_FIRE.defaults[side]))
