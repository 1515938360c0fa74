"""Replace each quantised activation by one spiking neuron: the SNN.

Matched by structure and constants alone, so the rewrite is exact whoever wrote the chain:

    act -> Div(theta) -> Add(v0) -> Floor -> Clip(0, N) -> Mul(theta)

1. act is Relu, or Clip with lower bound 0 and an upper bound that still reaches level N: the chain
   becomes MultiThresholdFire(x, theta, levels_pos = N, levels_neg = 0).
2. Neg -> Relu -> chain -> Neg becomes
   MultiThresholdFire(x, theta, levels_pos = 0, levels_neg = N).
3. Two chains of Relu(x) and Relu(Neg(x)) with one theta and one v0, of which only the difference of
   the counts is multiplied by theta, become
   MultiThresholdFire(x, theta, levels_pos = N+, levels_neg = N-). One of the N may be 0.
4. The chain of ``octave_chain.py`` becomes ScaleFire(x, scale), or DualScaleFire where it has
   levels on both sides of 0 or below it; that of ``staircase_chain.py`` becomes
   StaircaseFire(x, scale, table).
5. Not matched: two different thetas, N not a positive integer, v0 outside [0, 1), theta not one
   value per channel of one axis, not finite or not above 0, a tensor of the chain used elsewhere.
   The chain stays as it is.

The neuron takes the metadata of the last Mul and the name of the activation. Thresholds and scales
per channel have the shape [C, 1, ..., 1], which broadcasts against x. Both models agree bit
for bit on finite inputs as long as the runtime does not reorder arithmetic. Control-flow bodies are
rewritten where :func:`graph.scopes` says they may be.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...runtime_ops.definition import DOMAIN, MAX_LEVELS
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
    is_constant,
    is_standard,
    metadata,
    rank_of,
    scopes,
    tidy,
    unique_name,
    values_of,
)
from ..graph.surgeon import add_node, constant
from .chain import broadcast, per_channel, usable_steps
from .insert_quant_clip import WHOLE
from .octave_chain import OctaveChain, match_octave
from .staircase_chain import StaircaseChain, match_staircase


class _Count(NamedTuple):
    """act -> Div(theta) -> Add(v0) -> Floor -> Clip(0, N)"""

    activation: Node
    theta: np.ndarray  # as it stands in the graph
    levels: int
    v0: float


class Fire(NamedTuple):
    """What a MultiThresholdFire computes of ``x``."""

    x: Tensor
    theta: np.ndarray  # () or as it broadcasts against x
    axis: int
    levels_pos: int
    levels_neg: int
    v0: float


def replace_activation(graph: Graph) -> PassResult:
    """Apply the rules above to the graph and its open bodies."""
    changes = []
    for scope in [scope.graph for scope in scopes(graph) if not scope.closed]:
        for last in [node for node in scope.nodes if node.op == "Mul"]:
            neuron = (
                replace_levels(scope, last)
                or _replace_chain(scope, last)
                or _replace_signed_chain(scope, last)
            )
            if neuron is not None:
                source = metadata(last).get(METADATA_PREFIX + "source_op", "quantiser")
                changes.append(f"{source} {neuron.name}: now {neuron.op} {neuron.name}")
    tidy(graph)
    return PassResult(graph, changes)


def replace_levels(graph: Graph, last: Node) -> Node | None:
    """The neuron in place of an octave chain or a staircase that ends in ``last``: rule 4."""
    found = match_octave(graph, last) or match_staircase(graph, last)
    return None if found is None else emit_levels(graph, last, found)


def emit_levels(graph: Graph, last: Node, found: OctaveChain | StaircaseChain) -> Node:
    """The neuron in place of the chain ``found`` that ends in ``last``."""
    scale = values_of(last.inputs[1]) if last.op == "Mul" else found.scale
    arrays = {"scale": broadcast(scale)}
    attributes: dict[str, float] = {"axis": found.axis}
    if isinstance(found, OctaveChain):
        operator = DUAL_SCALE_FIRE if found.top_neg else SCALE_FIRE
        attributes |= {
            "linear": found.linear,
            "top_pos": found.top_pos,
            "top_neg": found.top_neg,
        }
    else:
        operator = STAIRCASE_FIRE
        arrays["table"] = found.table
        attributes |= {"density": found.density, "start": found.start}
    output = last.outputs[0]
    output.inputs.clear()
    inputs = [
        constant(unique_name(graph, f"{output.name}.{what}"), values)
        for what, values in arrays.items()
    ]
    name = last.name
    if metadata(last).get(METADATA_PREFIX + "polarity") == WHOLE:
        name = metadata(last).get(METADATA_PREFIX + "source_node", last.name)
    neuron = add_node(graph, operator.name, name, [found.x, *inputs], output, attributes, DOMAIN)
    inherit(neuron, last)
    return neuron


def _replace_chain(graph: Graph, last: Node) -> Node | None:
    """Rules 1 and 2."""
    clip, theta = _step(graph, last, "Mul", commutes=True)
    count = _count(graph, clip)
    if count is None or count.levels < 1 or not np.array_equal(theta[0], count.theta):
        return None
    values, axis = _usable(theta[0], rank_of(last.outputs[0]))
    if values is None or not _reaches(count, values):
        return None
    x, end, negative = count.activation.inputs[0], last, False
    mirror = x.inputs[0] if x.inputs else None
    consumers = last.outputs[0].outputs
    if (
        count.activation.op == "Relu"
        and mirror is not None
        and _is(mirror, "Neg")
        and last.outputs[0] not in graph.outputs
        and len(consumers) == 1
        and _is(consumers[0], "Neg")
    ):
        x, end, negative = mirror.inputs[0], consumers[0], True
    levels = (0, count.levels) if negative else (count.levels, 0)
    neuron = Fire(x, values, axis, *levels, count.v0)
    # The name is free: the activation goes with its chain.
    return emit_fire(graph, neuron, last, end.outputs[0], count.activation.name)


def _replace_signed_chain(graph: Graph, last: Node) -> Node | None:
    """Rule 3."""
    difference, theta = _step(graph, last, "Mul", commutes=True)
    if difference is None or not _is(difference, "Sub"):
        return None
    clips = [_sole_producer(graph, tensor) for tensor in difference.inputs]
    above, below = (_count(graph, clip) for clip in clips)
    if above is None or below is None or above.v0 != below.v0:
        return None
    if not _is(above.activation, "Relu") or not _is(below.activation, "Relu"):
        return None
    if above.levels + below.levels < 1:
        return None
    mirrored = below.activation.inputs[0]
    mirror = mirrored.inputs[0] if mirrored.inputs else None
    x = above.activation.inputs[0]
    if mirror is None or not _is(mirror, "Neg") or mirror.inputs[0] is not x:
        return None
    if not all(np.array_equal(theta[0], count.theta) for count in (above, below)):
        return None
    values, axis = _usable(theta[0], rank_of(last.outputs[0]))
    if values is None:
        return None
    neuron = Fire(x, values, axis, above.levels, below.levels, above.v0)
    name = metadata(last).get(METADATA_PREFIX + "source_node", last.name)
    return emit_fire(graph, neuron, last, last.outputs[0], name)


def emit_fire(graph: Graph, neuron: Fire, source: Node, output: Tensor, name: str) -> Node:
    """Let the neuron compute ``output`` in place of ``source``."""
    attributes = {
        "axis": neuron.axis,
        "levels_pos": neuron.levels_pos,
        "levels_neg": neuron.levels_neg,
        "v0": neuron.v0,
    }
    output.inputs.clear()
    theta = constant(unique_name(graph, f"{output.name}.threshold"), neuron.theta)
    operator = MULTI_THRESHOLD_FIRE.name
    node = add_node(graph, operator, name, [neuron.x, theta], output, attributes, DOMAIN)
    inherit(node, source)
    return node


def _count(graph: Graph, clip: Node | None) -> _Count | None:
    """The chain that ends in ``clip``, or None."""
    floor, bounds = _step(graph, clip, "Clip")
    add, _ = _step(graph, floor, "Floor")
    div, v0 = _step(graph, add, "Add", commutes=True)
    if div is None:  # a v0 of 0 need not be written
        div, v0 = add, [np.zeros((), np.float32)]
    activation, divisor = _step(graph, div, "Div")
    if activation is None or not is_standard(activation):
        return None
    if not (divisor and v0 and len(bounds) == 2) or v0[0].size != 1:
        return None
    low, high = (float(bound.reshape(())) for bound in bounds)
    fraction = float(v0[0].reshape(()))
    if low != 0 or not 0 <= high <= MAX_LEVELS or high != int(high) or not 0 <= fraction < 1:
        return None
    return _Count(activation, divisor[0], int(high), fraction)


def _usable(theta: np.ndarray, rank: int | None) -> tuple[np.ndarray | None, int]:
    """The threshold as the neuron has it, and its axis; None where it cannot be one."""
    values, axis = per_channel(theta, rank)
    if values is None or not usable_steps(values):
        return None, axis
    return broadcast(theta), axis


def _is(node: Node, op: str) -> bool:
    return bool(node.op == op and is_standard(node))


def _sole_producer(graph: Graph, tensor: Tensor) -> Node | None:
    """The node that makes the tensor for one reader alone."""
    if is_constant(tensor) or len(tensor.outputs) != 1 or tensor in graph.outputs:
        return None
    return tensor.inputs[0] if tensor.inputs else None


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
    producer = _sole_producer(graph, first)
    if producer is None:
        return None, []
    return producer, [values_of(tensor) for tensor in constants]


def _reaches(count: _Count, theta: np.ndarray) -> bool:
    """Whether the neuron alone gives what activation and chain give together.

    What Clip cuts off at its upper bound must saturate in the chain too: the bound itself, in the
    chain's own arithmetic, has to fire all N levels.
    """
    activation = count.activation
    if activation.op == "Relu":
        return True
    if activation.op != "Clip" or not all(is_constant(t) for t in activation.inputs[1:]):
        return False
    bounds = [float(values_of(tensor).reshape(())) for tensor in activation.inputs[1:]]
    if not bounds or bounds[0] != 0:
        return False
    upper = np.float32(bounds[1] if len(bounds) > 1 else np.inf)
    return bool(np.all(np.floor(upper / theta + np.float32(count.v0)) >= count.levels))
