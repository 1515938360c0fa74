"""A staircase in standard operators: how it is written and how it is recognised.

    rate = density / scale
    y = scale * table[Cast(Clip(x * rate - start, 0, cells - 1))]

These are the operations of StaircaseFire's definition in the same order, so that the chain and the
neuron give the same bits for every x that is not NaN. Where asked, a scale of 1
multiplies nothing. Gather, not GatherElements: onnxruntime alone is faster with that, and
onnx.reference and IREE do not take it (docs/kernels.md).

:func:`match_staircase` goes by structure and constants alone. It refuses a scale or rate that is
not one value per channel of one axis, a rate that is not that of a scale (the Cast truncates, as
the neuron does), a longer table than StaircaseFire takes, and tensors that something else reads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from onnx import TensorProto

from ...runtime_ops.staircase_fire import MAX_CELLS
from ..graph.graph import Graph, Node, Tensor, is_constant, is_standard, rank_of, values_of
from .chain import Chain, per_channel, reciprocal, sole_producer, usable_steps

#: Last places that a quotient of rounded numbers may be off by.
_ROUNDINGS = 3


class StaircaseChain(NamedTuple):
    """A staircase of the tensor ``x``; see ``StaircaseNeuron`` for the others."""

    x: Tensor
    scale: np.ndarray
    density: float
    start: float
    table: np.ndarray
    axis: int


def emit_staircase(
    graph: Graph, staircase: StaircaseChain, output: Tensor, name: str, short: bool = False
) -> Node:
    """Write the chain from ``staircase.x`` to ``output``; returns its last node, ``name``.

    Args:
        graph: the scope of both.
        staircase: what is written.
        output: nothing makes it yet.
        name: free.
        short: leave out a product with 1.
    """
    chain = Chain(graph, staircase.x, output)
    scale = chain.aligned(staircase.scale, staircase.axis)
    rate = reciprocal(scale) * np.float32(staircase.density)
    scaled = chain.emit("Mul", "scaled", staircase.x, chain.constant("rate", rate))
    start = chain.constant("start", staircase.start)
    moved = chain.emit("Sub", "moved", scaled, start)
    bounds = chain.constant("first", 0.0), chain.constant("last", len(staircase.table) - 1)
    clipped = chain.emit("Clip", "clipped", moved, *bounds)
    cell = chain.emit("Cast", "cell", clipped, to=TensorProto.INT32)
    table = chain.constant("table", staircase.table)
    if short and np.all(scale == 1):
        return chain.end("Gather", name, table, cell)
    level = chain.emit("Gather", "level", table, cell)
    return chain.end("Mul", name, level, chain.constant("scale", scale))


def match_staircase(graph: Graph, last: Node) -> StaircaseChain | None:
    """The staircase that ends in ``last``, or None. ``graph`` is the scope of the node."""
    gather: Node | None = last
    factor = np.ones((), np.float32)
    if last.op == "Mul":
        if not is_constant(last.inputs[1]):
            return None
        gather, factor = sole_producer(graph, last.inputs[0], "Gather"), last.inputs[1].values
    if gather is None or gather.op != "Gather" or not is_standard(gather):
        return None
    if not is_constant(gather.inputs[0]) or gather.attrs.get("axis", 0):
        return None
    cast = sole_producer(graph, gather.inputs[1], "Cast")
    clip = sole_producer(graph, cast.inputs[0], "Clip") if cast is not None else None
    moved = sole_producer(graph, clip.inputs[0], "Sub") if clip is not None else None
    scaled = sole_producer(graph, moved.inputs[0], "Mul") if moved is not None else None
    if cast is None or clip is None or moved is None or scaled is None:
        return None
    if cast.attrs.get("to") != TensorProto.INT32 or len(clip.inputs) != 3:
        return None
    constants = [*clip.inputs[1:], moved.inputs[1], scaled.inputs[1], gather.inputs[0]]
    if not all(is_constant(tensor) for tensor in constants):
        return None
    first, end, start, rate, table = (values_of(tensor) for tensor in constants)
    x = scaled.inputs[0]
    scale, axis = per_channel(factor, rank_of(x))
    if scale is None or not usable_steps(scale) or any(v.size != 1 for v in (first, end, start)):
        return None
    if table.ndim != 1 or len(table) > MAX_CELLS or not np.all(np.isfinite(table)):
        return None
    if first.item() != 0 or end.item() != len(table) - 1:
        return None
    density = _density(rate, factor)
    if density is None:
        return None
    return StaircaseChain(x, scale, density, start.item(), table, axis)


def _density(rate: np.ndarray, scale: np.ndarray) -> float | None:
    """The density that gives this rate with this scale, exactly."""
    if rate.dtype != np.float32 or rate.shape != scale.shape or not np.all(rate > 0):
        return None
    near = np.float32(rate.flat[0] * scale.flat[0])
    for away in range(-_ROUNDINGS, _ROUNDINGS + 1):
        density = (near.view(np.int32) + np.int32(away)).view(np.float32)
        if np.array_equal(reciprocal(scale) * density, rate):
            return float(density)
    return None
