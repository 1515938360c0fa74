"""An octave neuron without octaves in standard operators: how it is written and recognised.

    c = Clip(x / scale, 0, top_pos)                 x * (1 / scale); where top_neg = 0
    y = scale * Round(c)
    c = Clip(x / scale, -top_neg, top_pos)          elsewhere
    y = scale * (Round(c) + 0)

Where all levels lie one step apart and below 3/4 m, ScaleFire's shift is 1.5 * 2^23 for every
potential, and taking a potential from it and the rest from it again is rounding to the nearest
whole number, ties to even: what Round does. A neuron gives +0 where it is silent and Round keeps
the sign of a zero, hence the sum with 0; where top_neg = 0 it comes before Clip, and is left out
where no potential is -0. Runtimes may leave such a sum out: no later value changes by that. A scale
of 1 multiplies nothing.

:func:`match_rounded` goes by structure and constants alone. It refuses a scale that is not one
value per channel of one axis, bounds that are no numbers of levels, and tensors that something else
reads.
"""

from __future__ import annotations

import numpy as np

from ..graph.graph import Graph, Node, Tensor, is_constant, rank_of, values_of
from .chain import Chain, has_bias, per_channel, producer, reciprocal, sole_producer, usable_steps
from .octave_chain import OctaveChain

#: m over the highest level, from which one shift serves all potentials.
_ROOM = 4 / 3


def linear_of(top: int) -> int:
    """An m whose neuron has all levels up to ``top`` and rounds to them: even."""
    return 2 * int(np.ceil(top * _ROOM / 2))


def only_rounds(linear: int, top_pos: int, top_neg: int) -> bool:
    """Whether an octave neuron is the chain above, bit for bit."""
    return max(top_pos, top_neg) * _ROOM <= linear


def emit_rounded(graph: Graph, octave: OctaveChain, output: Tensor, name: str) -> Node:
    """Write the chain from ``octave.x`` to ``output``; returns its last node, ``name``."""
    chain = Chain(graph, octave.x, output)
    scale = chain.aligned(octave.scale, octave.axis)
    whole = bool(np.all(scale == 1))
    potential = octave.x
    if not whole:
        per_scale = chain.constant("per_scale", reciprocal(scale))
        potential = chain.emit("Mul", "scaled", potential, per_scale)
    zero = chain.constant("zero", 0.0)
    if not octave.top_neg and not (whole and has_bias(octave.x)):
        potential = chain.emit("Add", "unsigned_zero", potential, zero)
    bounds = chain.constant("lowest", -octave.top_neg), chain.constant("highest", octave.top_pos)
    clipped = chain.emit("Clip", "clipped", potential, *bounds)
    if not octave.top_neg and whole:
        return chain.end("Round", name, clipped)
    level = chain.emit("Round", "level", clipped)
    if octave.top_neg and whole:
        return chain.end("Add", name, level, zero)
    if octave.top_neg:
        level = chain.emit("Add", "unsigned_level", level, zero)
    return chain.end("Mul", name, level, chain.constant("scale", scale))


def match_rounded(graph: Graph, last: Node) -> OctaveChain | None:
    """The neuron that ends in ``last``, or None. ``graph`` is the scope of the node."""
    rounding: Node | None = last
    scale = np.ones((), np.float32)
    if last.op == "Mul":
        if not is_constant(last.inputs[1]):
            return None
        scale = last.inputs[1].values
        rounding = producer(graph, last.inputs[0], ("Round", "Add"))
    if rounding is not None and rounding.op == "Add":
        if not _is_zero(rounding.inputs[1]):
            return None
        rounding = sole_producer(graph, rounding.inputs[0], "Round")
    if rounding is None or rounding.op != "Round":
        return None
    clip = sole_producer(graph, rounding.inputs[0], "Clip")
    if clip is None or len(clip.inputs) != 3 or not all(map(is_constant, clip.inputs[1:])):
        return None
    lowest, highest = (float(values_of(bound).reshape(())) for bound in clip.inputs[1:])
    tops = int(highest), int(-lowest)
    if (highest, -lowest) != tops or min(tops) < 0 or max(tops) < 1:
        return None
    x = clip.inputs[0]
    added = sole_producer(graph, x, "Add")
    if added is not None and _is_zero(added.inputs[1]):
        x = added.inputs[0]
    if last.op == "Mul":
        scaled = sole_producer(graph, x, "Mul")
        if scaled is None or not is_constant(scaled.inputs[1]):
            return None
        if not np.array_equal(scaled.inputs[1].values, reciprocal(scale)):
            return None
        x = scaled.inputs[0]
    steps, axis = per_channel(scale, rank_of(last.outputs[0]))
    if steps is None or not usable_steps(steps):
        return None
    return OctaveChain(x, steps, linear_of(max(tops)), *tops, axis)


def _is_zero(tensor: Tensor) -> bool:
    return is_constant(tensor) and tensor.values.size == 1 and not np.any(tensor.values)
