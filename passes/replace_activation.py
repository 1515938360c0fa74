"""Replace each quantised activation by one spiking neuron: the SNN.

Matched by structure and constants alone, so the rewrite is exact whoever wrote the chain:

    act -> Div(theta) -> Add(v0) -> Floor -> Clip(0, N) -> Mul(theta)

1. act is Relu, or Clip with lower bound 0 and an upper bound that still reaches level N: the chain
   becomes MultiThresholdFire(x, theta, levels_pos = N, levels_neg = 0).
2. Neg -> Relu -> chain -> Neg becomes
   MultiThresholdFire(x, theta, levels_pos = 0, levels_neg = N).
3. Not matched: two different thetas, N not a positive integer, v0 outside [0, 1), theta not one
   value per channel of one axis, not finite or not above 0, a tensor of the chain used elsewhere.
   The chain stays as it is.

4. A staircase, the chain of ``staircase.py``, becomes ScaleFire(x, scale, thresholds, levels).

The neuron takes the metadata of the last Mul and the name of the activation. Both models agree bit
for bit on finite inputs as long as the runtime does not reorder arithmetic. Control-flow bodies are
rewritten where :func:`graph.scopes` says they may be.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..runtime_ops.definition import DOMAIN, MAX_LEVELS
from ..runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE
from ..runtime_ops.scale_fire import SCALE_FIRE
from .graph import (
    METADATA_PREFIX,
    Graph,
    Node,
    PassResult,
    Tensor,
    add_node,
    constant,
    inherit,
    is_constant,
    is_standard,
    metadata,
    scopes,
    tidy,
    unique_name,
)
from .staircase import match_staircase, per_channel


class _Chain(NamedTuple):
    activation: Node
    theta: np.ndarray  # () or [C]
    axis: int
    levels: int
    v0: float


def replace_activation(graph: Graph) -> PassResult:
    """Apply the rules above to the graph and its open bodies."""
    changes = []
    for scope in [scope.graph for scope in scopes(graph) if not scope.closed]:
        for last in [node for node in scope.nodes if node.op == "Mul"]:
            neuron = _replace_staircase(scope, last) or _replace_chain(scope, last)
            if neuron is not None:
                source = metadata(last).get(METADATA_PREFIX + "source_op", "quantiser")
                changes.append(f"{source} {neuron.name}: now {neuron.op} {neuron.name}")
    tidy(graph)
    return PassResult(graph, changes)


def _replace_staircase(graph: Graph, last: Node) -> Node | None:
    """Rule 4."""
    staircase = match_staircase(graph, last)
    if staircase is None:
        return None
    output = last.outputs[0]
    output.inputs.clear()
    arrays = {
        what: constant(unique_name(graph, f"{output.name}.{what}"), values)
        for what, values in (
            ("scale", staircase.scale),
            ("thresholds", staircase.thresholds),
            ("levels", staircase.levels),
        )
    }
    name = metadata(last).get(METADATA_PREFIX + "source_node", last.name)
    neuron = add_node(
        graph,
        SCALE_FIRE.name,
        name,
        [staircase.x, *arrays.values()],
        output,
        {"axis": staircase.axis},
        DOMAIN,
    )
    inherit(neuron, last)
    return neuron


def _replace_chain(graph: Graph, last: Node) -> Node | None:
    """Rules 1 to 3."""
    chain = _match(graph, last)
    if chain is None:
        return None
    x, end, negative = chain.activation.inputs[0], last, False
    mirror = x.inputs[0] if x.inputs else None
    consumers = last.outputs[0].outputs
    if (
        chain.activation.op == "Relu"
        and mirror is not None
        and mirror.op == "Neg"
        and is_standard(mirror)
        and last.outputs[0] not in graph.outputs
        and [consumer.op for consumer in consumers] == ["Neg"]
        and is_standard(consumers[0])
    ):
        x, end, negative = mirror.inputs[0], consumers[0], True
    neuron = _emit_neuron(graph, chain, x, end.outputs[0], negative)
    inherit(neuron, last)
    return neuron


def _emit_neuron(graph: Graph, chain: _Chain, x: Tensor, output: Tensor, negative: bool) -> Node:
    attributes = {
        "axis": chain.axis,
        "levels_pos": 0 if negative else chain.levels,
        "levels_neg": chain.levels if negative else 0,
        "v0": chain.v0,
    }
    output.inputs.clear()
    theta = constant(unique_name(graph, f"{output.name}.threshold"), chain.theta)
    name = chain.activation.name  # free: the activation goes with its chain
    return add_node(graph, MULTI_THRESHOLD_FIRE.name, name, [x, theta], output, attributes, DOMAIN)


def _match(graph: Graph, last: Node) -> _Chain | None:
    """The chain that ends in ``last``, or None."""
    clip, theta = _step(graph, last, "Mul", commutes=True)
    floor, bounds = _step(graph, clip, "Clip")
    add, _ = _step(graph, floor, "Floor")
    div, v0 = _step(graph, add, "Add", commutes=True)
    if div is None:  # a v0 of 0 need not be written
        div, v0 = add, [np.zeros((), np.float32)]
    activation, divisor = _step(graph, div, "Div")
    if activation is None or not is_standard(activation):
        return None
    if not (theta and divisor and v0 and len(bounds) == 2):
        return None
    if not np.array_equal(theta[0], divisor[0]) or v0[0].size != 1:
        return None
    low, high = (float(bound.reshape(())) for bound in bounds)
    fraction = float(v0[0].reshape(()))
    if low != 0 or high != int(high) or not 1 <= high <= MAX_LEVELS or not 0 <= fraction < 1:
        return None
    values, axis = per_channel(theta[0], last.outputs[0].shape)
    if values is None or not np.all(np.isfinite(values)) or not np.all(values > 0):
        return None
    if not _reaches(activation, values, fraction, high):
        return None
    return _Chain(activation, values, axis, int(high), fraction)


def _step(
    graph: Graph, node: Node | None, op: str, commutes: bool = False
) -> tuple[Node | None, list[np.ndarray]]:
    """If ``node`` is ``op``: the node before it and the constants it uses; else (None, [])."""
    if node is None or node.op != op or not is_standard(node):
        return None, []
    inputs = sorted(node.inputs, key=is_constant) if commutes else list(node.inputs)
    first, constants = inputs[0], inputs[1:]
    if not all(is_constant(tensor) for tensor in constants):
        return None, []
    if len(first.outputs) != 1 or first in graph.outputs or not first.inputs:
        return None, []
    return first.inputs[0], [tensor.values for tensor in constants]


def _reaches(activation: Node, theta: np.ndarray, v0: float, levels: float) -> bool:
    """Whether the neuron alone gives what activation and chain give together.

    What Clip cuts off at its upper bound must saturate in the chain too: the bound itself, in the
    chain's own arithmetic, has to fire all N levels.
    """
    if activation.op == "Relu":
        return True
    if activation.op != "Clip" or not all(is_constant(t) for t in activation.inputs[1:]):
        return False
    bounds = [float(tensor.values.reshape(())) for tensor in activation.inputs[1:]]
    if not bounds or bounds[0] != 0:
        return False
    upper = np.float32(bounds[1] if len(bounds) > 1 else np.inf)
    return bool(np.all(np.floor(upper / theta + np.float32(v0)) >= levels))
