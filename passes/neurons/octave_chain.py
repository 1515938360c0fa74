"""The octave neuron in standard operators: how it is written and how it is recognised.

    c = Clip(x / scale, -top_neg, top_pos)          x * (1 / scale)
    S = M = Max(c * (2^24 / m), 1.5 * 2^23)         where top_neg = 0
    S = Sign(c) * M, M = Max(|c| * (2^24 / m), 1.5 * 2^23)      elsewhere
    y = scale * (S - (S - c))

These are the operations of ScaleFire's definition in the same order, so that the chain and the
neuron give the same bits. Where asked, a scale of 1 multiplies nothing.

:func:`match_octave` goes by structure and constants alone. It refuses a scale that is not one value
per channel of one axis, constants that are not those of an m, bounds that are no levels, and
tensors that something else reads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...runtime_ops.scale_fire import MAX_LINEAR, is_level
from ..graph.graph import Graph, Node, Tensor, is_constant, is_standard, rank_of, values_of
from .chain import Chain, per_channel, producer, reciprocal, sole_producer, usable_steps

#: Float32's whole numbers, and where those begin that lie one apart, with room on either side.
WHOLE, FLOOR = 2.0**24, 1.5 * 2.0**23


class OctaveChain(NamedTuple):
    """An octave neuron of the tensor ``x``; see ``OctaveNeuron`` for the others."""

    x: Tensor
    scale: np.ndarray
    linear: int
    top_pos: int
    top_neg: int
    axis: int


def emit_octave(
    graph: Graph, octave: OctaveChain, output: Tensor, name: str, short: bool = False
) -> Node:
    """Write the chain from ``octave.x`` to ``output``; returns its last node, ``name``.

    Args:
        graph: the scope of both.
        octave: what is written.
        output: nothing makes it yet.
        name: free.
        short: leave out products with 1.
    """
    chain = Chain(graph, octave.x, output)
    scale = chain.aligned(octave.scale, octave.axis)
    whole = short and bool(np.all(scale == 1))
    scaled = octave.x
    if not whole:
        scaled = chain.emit("Mul", "scaled", scaled, chain.constant("per_scale", reciprocal(scale)))
    bounds = chain.constant("lowest", -octave.top_neg), chain.constant("highest", octave.top_pos)
    clipped = magnitude = chain.emit("Clip", "clipped", scaled, *bounds)
    if octave.top_neg:
        magnitude = chain.emit("Abs", "magnitude", clipped)
    per_octave = chain.constant("per_octave", np.float32(WHOLE) / np.float32(octave.linear))
    grown = chain.emit("Mul", "grown", magnitude, per_octave)
    shift = chain.emit("Max", "shift", grown, chain.constant("floor", FLOOR))
    if octave.top_neg:
        shift = chain.emit("Mul", "signed_shift", chain.emit("Sign", "sign", clipped), shift)
    shifted = chain.emit("Sub", "shifted", shift, clipped)
    if whole:
        return chain.end("Sub", name, shift, shifted)
    level = chain.emit("Sub", "level", shift, shifted)
    return chain.end("Mul", name, level, chain.constant("scale", scale))


def match_octave(graph: Graph, last: Node) -> OctaveChain | None:
    """The octave neuron that ends in ``last``, or None. ``graph`` is the scope of the node."""
    level: Node | None = last
    scale = np.ones((), np.float32)
    if last.op == "Mul":
        factor = last.inputs[1]
        if not is_constant(factor):
            return None
        level, scale = sole_producer(graph, last.inputs[0], "Sub"), factor.values
    if level is None or level.op != "Sub" or not is_standard(level):
        return None
    shifted = sole_producer(graph, level.inputs[1], "Sub")
    if shifted is None or shifted.inputs[0] is not level.inputs[0]:
        return None
    shift, clipped = shifted.inputs
    found = _factor(graph, shift, clipped)
    if found is None:
        return None
    per_octave, signed = found
    clip = producer(graph, clipped, ("Clip",), readers=3 if signed else 2)
    if clip is None or len(clip.inputs) != 3:
        return None
    if not all(is_constant(bound) for bound in clip.inputs[1:]):
        return None
    x = clip.inputs[0]
    if level is not last:
        scaled = sole_producer(graph, x, "Mul")
        if scaled is None or not is_constant(scaled.inputs[1]):
            return None
        if not np.array_equal(scaled.inputs[1].values, reciprocal(scale)):
            return None
        x = scaled.inputs[0]
    steps, axis = per_channel(scale, rank_of(x))
    if steps is None or not usable_steps(steps):
        return None
    lowest, highest = (float(values_of(bound).reshape(())) for bound in clip.inputs[1:])
    linear = round(WHOLE / per_octave)
    if not 1 <= linear <= MAX_LINEAR or np.float32(WHOLE) / np.float32(linear) != per_octave:
        return None
    if signed != (lowest < 0) or not lowest <= 0 <= highest or lowest == highest:
        return None
    if not all(
        bound == int(bound) and is_level(linear, int(bound)) for bound in (-lowest, highest)
    ):
        return None
    return OctaveChain(x, steps, linear, int(highest), int(-lowest), axis)


def _factor(graph: Graph, shift: Tensor, clipped: Tensor) -> tuple[float, bool] | None:
    """2^24 / m of the shift M or sign * M of a clipped value, and whether it is signed."""
    signed = producer(graph, shift, ("Mul",), readers=2)
    if signed is None:
        most = producer(graph, shift, ("Max",), readers=2)
    else:
        sign = sole_producer(graph, signed.inputs[0], "Sign")
        if sign is None or sign.inputs[0] is not clipped:
            return None
        most = sole_producer(graph, signed.inputs[1], "Max")
    if most is None or len(most.inputs) != 2 or not is_constant(most.inputs[1]):
        return None
    grown = sole_producer(graph, most.inputs[0], "Mul")
    if grown is None or not is_constant(grown.inputs[1]):
        return None
    if signed is not None:
        absolute = sole_producer(graph, grown.inputs[0], "Abs")
        if absolute is None:
            return None
        magnitude = absolute.inputs[0]
    else:
        magnitude = grown.inputs[0]
    factor, floor = grown.inputs[1].values, most.inputs[1].values
    if magnitude is not clipped or factor.size != 1 or floor.size != 1 or floor.item() != FLOOR:
        return None
    return float(factor.item()), signed is not None
