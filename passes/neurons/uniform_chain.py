"""The uniform neuron in standard operators: how it is written and how it is recognised.

    u = x / theta                       x * (1 / theta), where theta is a power of two
    k = Floor(Clip(u + v0, 0, N+))                                          where N- = 0
    k = Floor(Clip(u, 0, N+))                           where v0 = 0 too, and u is never -0
    k = Floor(Clip(u + v0, 0, N+)) - Floor(Clip(v0 - u, 0, N-))             elsewhere
    y = k * theta

These are the operations of MultiThresholdFire's definition in the same order, but that the bounds,
which are whole numbers, come before Floor: so the chain and the neuron give the same bits, and what
runtimes know how to do together comes together. What a threshold of 1 multiplies or divides stays
as it is; where N+ = 0 the first count is 0.

:func:`match_uniform` goes by structure and constants alone. It refuses a threshold that is not one
value per channel of one axis, bounds that are no numbers of levels, and tensors that something else
reads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...runtime_ops.definition import MAX_LEVELS
from ..graph.graph import Graph, Node, Tensor, is_constant, is_standard, rank_of, values_of
from .chain import (
    Chain,
    has_bias,
    per_channel,
    power_of_two,
    producer,
    reciprocal,
    usable_steps,
)


class UniformChain(NamedTuple):
    """A uniform neuron of the tensor ``x``; see ``ThresholdNeuron`` for the others."""

    x: Tensor
    theta: np.ndarray
    levels_pos: int
    levels_neg: int
    v0: float
    axis: int


def emit_uniform(graph: Graph, uniform: UniformChain, output: Tensor, name: str) -> Node:
    """Write the chain from ``uniform.x`` to ``output``; returns its last node, ``name``."""
    chain = Chain(graph, uniform.x, output)
    theta = chain.aligned(uniform.theta, uniform.axis)
    whole = bool(np.all(theta == 1))
    unit = None if whole else chain.constant("theta", theta)
    zero = chain.constant("zero", 0.0)
    scaled = uniform.x
    if unit is not None and power_of_two(theta):
        scaled = chain.emit("Mul", "scaled", scaled, chain.constant("per_theta", reciprocal(theta)))
    elif unit is not None:
        scaled = chain.emit("Div", "scaled", scaled, unit)
    v0 = chain.constant("v0", uniform.v0)
    above = below = None
    if uniform.levels_pos:
        charged = scaled
        if uniform.levels_neg or uniform.v0 != 0 or unit is not None or not has_bias(uniform.x):
            charged = chain.emit("Add", "charged", scaled, v0)
        bounds = zero, chain.constant("levels", uniform.levels_pos)
        above = chain.emit("Clip", "clipped", charged, *bounds)
    if uniform.levels_neg:
        charged = chain.emit("Sub", "opposite_charged", v0, scaled)
        bounds = zero, chain.constant("opposite_levels", uniform.levels_neg)
        below = chain.emit("Clip", "opposite_clipped", charged, *bounds)
    counted: tuple[str, list[Tensor]]
    if above is not None and below is None:
        counted = "Floor", [above]
    else:
        assert below is not None
        excitatory = zero if above is None else chain.emit("Floor", "excitatory", above)
        counted = "Sub", [excitatory, chain.emit("Floor", "inhibitory", below)]
    op, inputs = counted
    if unit is None:
        return chain.end(op, name, *inputs)
    return chain.end("Mul", name, chain.emit(op, "spikes", *inputs), unit)


def match_uniform(graph: Graph, last: Node) -> UniformChain | None:
    """The uniform neuron that ends in ``last``, or None. ``graph`` is the scope of the node."""
    count, theta = last, np.ones((), np.float32)
    if last.op == "Mul":
        factor = last.inputs[1]
        made = producer(graph, last.inputs[0], ("Floor", "Sub"))
        if made is None or not is_constant(factor):
            return None
        count, theta = made, values_of(factor)
    above = below = None
    if count.op == "Floor":
        above = _counted(graph, count)
    elif count.op == "Sub" and is_standard(count):
        first, second = count.inputs
        below = _counted(graph, producer(graph, second, ("Floor",)))
        if not is_constant(first):
            above = _counted(graph, producer(graph, first, ("Floor",)))
        elif first.values.size != 1 or first.values.item() != 0:
            return None
        if below is None or (above is None) != is_constant(first):
            return None
    sides = [side for side in (above, below) if side is not None]
    if not sides or any(side.scaled is not sides[0].scaled for side in sides):
        return None
    if any(side.v0 != sides[0].v0 for side in sides):
        return None
    if (above is not None and above.mirrored) or (below is not None and not below.mirrored):
        return None
    x = _unscaled(graph, sides[0].scaled, theta, readers=len(sides))
    if x is None:
        return None
    steps, axis = per_channel(theta, rank_of(last.outputs[0]))
    if steps is None or not usable_steps(steps):
        return None
    levels = [0 if side is None else side.levels for side in (above, below)]
    return UniformChain(x, steps, levels[0], levels[1], sides[0].v0, axis)


class _Side(NamedTuple):
    """Floor(Clip(scaled + v0, 0, levels)), or of v0 - scaled."""

    scaled: Tensor
    v0: float
    levels: int
    mirrored: bool


def _counted(graph: Graph, floor: Node | None) -> _Side | None:
    """What a Floor counts; None: no spikes."""
    if floor is None or not is_standard(floor):
        return None
    clip = producer(graph, floor.inputs[0], ("Clip",))
    if clip is None or len(clip.inputs) != 3:
        return None
    if not all(is_constant(bound) for bound in clip.inputs[1:]):
        return None
    low, high = (float(values_of(bound).reshape(())) for bound in clip.inputs[1:])
    if low != 0 or not 1 <= high <= MAX_LEVELS or high != int(high):
        return None
    charged = producer(graph, clip.inputs[0], ("Add", "Sub"))
    mirrored = charged is not None and charged.op == "Sub"
    scaled, v0 = clip.inputs[0], 0.0
    if charged is not None:
        terms = list(charged.inputs)
        first, second = reversed(terms) if mirrored else terms
        fraction = _fraction(second)
        if not is_constant(first) and fraction is not None:
            scaled, v0 = first, fraction
        elif mirrored:
            return None
    return _Side(scaled, v0, int(high), mirrored)


def _fraction(tensor: Tensor) -> float | None:
    """An initial potential, in [0, 1)."""
    if not is_constant(tensor) or tensor.values.size != 1:
        return None
    fraction = float(tensor.values.reshape(()))
    return fraction if 0 <= fraction < 1 else None


def _unscaled(graph: Graph, scaled: Tensor, theta: np.ndarray, readers: int) -> Tensor | None:
    """What was divided by the threshold; None where it was not."""
    if np.all(theta == 1):
        return scaled
    divided = producer(graph, scaled, ("Div", "Mul"), readers)
    if divided is None or not is_constant(divided.inputs[1]):
        return None
    by = values_of(divided.inputs[1])
    wanted = theta if divided.op == "Div" else reciprocal(theta)
    exact = divided.op == "Div" or power_of_two(theta)
    return divided.inputs[0] if exact and np.array_equal(by, wanted) else None
