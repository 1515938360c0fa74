"""Write every neuron as static standard operators with constants, and read them back.

1. MultiThresholdFire becomes the chain of ``uniform_chain.py``, ScaleFire and DualScaleFire that of
   ``octave_chain.py``, or of ``rounded_chain.py`` where they have no octaves, StaircaseFire that of
   ``staircase_chain.py``: the operations of the neuron's definition in the same order, what is
   known at compile time computed. So neuron and chain give the same bits, of a StaircaseFire for
   every potential that is not NaN.
2. The last node of a chain has the neuron's name, metadata and output, and says which neuron it is.
   By that :func:`spikes_of_standard` knows it; what the neuron is it reads from the chain.

A file so written holds no function and no operator of our domain. Neurons over several timesteps
stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ...runtime_ops.definition import DOMAIN
from ...runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE
from ...runtime_ops.scale_fire import DUAL_SCALE_FIRE, SCALE_FIRE
from ...runtime_ops.staircase_fire import STAIRCASE_FIRE
from ..graph.graph import (
    METADATA_PREFIX,
    Graph,
    Node,
    PassResult,
    Tensor,
    inherit,
    metadata,
    rank_of,
    scopes,
    tidy,
    values_of,
)
from ..graph.network import Network
from ..graph.protos import nodes_below
from ..neurons.chain import broadcast, reciprocal
from ..neurons.octave_chain import OctaveChain, emit_octave
from ..neurons.replace_activation import Fire, emit_fire, emit_levels, replace_levels
from ..neurons.rounded_chain import emit_rounded, match_rounded, only_rounds
from ..neurons.staircase_chain import StaircaseChain, emit_staircase
from ..neurons.uniform_chain import UniformChain, emit_uniform, match_uniform

#: Of the last node of a chain: which operator it stands for.
_NEURON = METADATA_PREFIX + "neuron"


def standard_ops(graph: Graph) -> PassResult:
    """Apply the rules above to the graph and its open bodies."""
    changes = []
    for scope in [scope.graph for scope in scopes(graph) if not scope.closed]:
        for node in [node for node in scope.nodes if node.domain == DOMAIN]:
            last = _written(scope, node)
            if last is not None:
                changes.append(f"{node.op} {last.name}: written as standard operators")
    tidy(graph)
    return PassResult(graph, changes)


def _written(graph: Graph, node: Node) -> Node | None:
    """The last node of the chain that a neuron became; None where it has none."""
    writer = _WRITERS.get(node.op)
    if writer is None:
        return None
    output = node.outputs[0]
    output.inputs.clear()
    last = writer(graph, node, output)
    inherit(last, node)
    metadata(last)[_NEURON] = node.op
    return last


def _uniform(graph: Graph, node: Node, output: Tensor) -> Node:
    given = MULTI_THRESHOLD_FIRE.defaults | node.attrs
    x, theta = node.inputs[0], values_of(node.inputs[1])
    levels = int(given["levels_pos"]), int(given["levels_neg"])
    uniform = UniformChain(x, theta, *levels, float(given["v0"]), int(given["axis"]))
    return emit_uniform(graph, uniform, output, node.name)


def _octave(graph: Graph, node: Node, output: Tensor) -> Node:
    given = SCALE_FIRE.defaults | node.attrs
    x, scale = node.inputs[0], values_of(node.inputs[1])
    linear, top_pos, top_neg = (int(given[name]) for name in ("linear", "top_pos", "top_neg"))
    octave = OctaveChain(x, scale, linear, top_pos, top_neg, int(given["axis"]))
    if only_rounds(linear, top_pos, top_neg):
        return emit_rounded(graph, octave, output, node.name)
    return emit_octave(graph, octave, output, node.name, short=True)


def _staircase(graph: Graph, node: Node, output: Tensor) -> Node:
    """One scale for all goes into the table, with the product's rounding."""
    given = STAIRCASE_FIRE.defaults | node.attrs
    x, scale, table = node.inputs[0], values_of(node.inputs[1]), values_of(node.inputs[2])
    density = np.float32(given["density"])
    if scale.size == 1:
        scale = scale.reshape(())
        density, table = np.float32(reciprocal(scale) * density), scale * table
        scale = np.ones((), np.float32)
    grid = float(density), float(given["start"]), table
    staircase = StaircaseChain(x, scale, *grid, int(given["axis"]))
    return emit_staircase(graph, staircase, output, node.name, short=True)


_WRITERS: Mapping[str, Callable[[Graph, Node, Tensor], Node]] = {
    MULTI_THRESHOLD_FIRE.name: _uniform,
    SCALE_FIRE.name: _octave,
    DUAL_SCALE_FIRE.name: _octave,
    STAIRCASE_FIRE.name: _staircase,
}


def holds_chains(network: Network) -> bool:
    """Whether a network is what :func:`standard_ops` made of one."""
    return any(
        entry.key == _NEURON
        for node in nodes_below(network.proto.graph)
        for entry in node.metadata_props
    )


def spikes_of_standard(graph: Graph) -> PassResult:
    """The neurons in place of the chains that say so, in the graph and its open bodies.

    Args:
        graph: shapes inferred.
    """
    changes = []
    for scope in [scope.graph for scope in scopes(graph) if not scope.closed]:
        for last in [node for node in scope.nodes if _NEURON in metadata(node)]:
            rounded = match_rounded(scope, last)
            neuron = (
                emit_levels(scope, last, rounded)
                if rounded is not None
                else replace_levels(scope, last) or _replace_uniform(scope, last)
            )
            if neuron is not None:
                del metadata(neuron)[_NEURON]
                changes.append(f"{last.name}: now {neuron.op}")
    tidy(graph)
    return PassResult(graph, changes)


def _replace_uniform(graph: Graph, last: Node) -> Node | None:
    found = match_uniform(graph, last)
    if found is None:
        return None
    theta, rank = found.theta, rank_of(last.outputs[0])
    if theta.ndim and rank is not None:
        theta = broadcast(theta.reshape(-1, *[1] * (rank - found.axis - 1)))
    neuron = Fire(
        found.x,
        np.asarray(theta),
        found.axis,
        found.levels_pos,
        found.levels_neg,
        found.v0,
    )
    return emit_fire(graph, neuron, last, last.outputs[0], last.name)
