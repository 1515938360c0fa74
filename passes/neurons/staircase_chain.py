"""A staircase in standard operators: how it is written and how it is recognised.

    level = levels[0]
    level = levels[i + 1] where x >= scale * thresholds[i], for each i in order
    y = scale * level

Both products are those of ScaleFire's definition, so that the chain and the neuron give the same
bits for every finite x. It costs two operators per threshold, which is why it serves as the
quantised network that the neuron is compared with, not as the neuron.

:func:`match_staircase` goes by structure and constants alone. It refuses thresholds that do not
ascend, more of them than ScaleFire takes, a scale that is not one value per channel of one axis,
and chains with a tensor that something else reads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...runtime_ops.scale_fire import MAX_THRESHOLDS
from ..graph.graph import (
    Graph,
    Node,
    Tensor,
    is_constant,
    is_standard,
    rank_of,
    shape_of,
    unique_name,
)
from ..graph.surgeon import add_node, constant, variable


class StaircaseChain(NamedTuple):
    """A staircase of the tensor ``x``; see ``StaircaseNeuron`` for the arrays."""

    x: Tensor
    scale: np.ndarray
    thresholds: np.ndarray
    levels: np.ndarray
    axis: int


def emit_staircase(graph: Graph, staircase: StaircaseChain, output: Tensor, name: str) -> Node:
    """Write the chain from ``staircase.x`` to ``output``; returns its last node, ``name``."""

    def scalar(what: str, value: np.ndarray) -> Tensor:
        return constant(unique_name(graph, f"{output.name}.{what}"), np.asarray(value))

    def emit(op: str, what: str, *inputs: Tensor) -> Tensor:
        result = variable(unique_name(graph, f"{output.name}.{what}"))
        add_node(graph, op, result.name, list(inputs), result)
        return result

    x, scale = staircase.x, staircase.scale
    if scale.ndim:  # [C] broadcasts along the channel axis as [C, 1, ..., 1]
        scale = scale.reshape(-1, *[1] * (len(shape_of(x)) - staircase.axis - 1))
    factor = scalar("scale", scale)
    level = scalar("level_0", staircase.levels[0])
    for i, (threshold, value) in enumerate(
        zip(staircase.thresholds, staircase.levels[1:], strict=True), start=1
    ):
        bound = emit("Mul", f"bound_{i}", factor, scalar(f"threshold_{i}", threshold))
        reached = emit("GreaterOrEqual", f"reached_{i}", x, bound)
        level = emit("Where", f"at_least_{i}", reached, scalar(f"level_{i}", value), level)
    return add_node(graph, "Mul", name, [factor, level], output)


def match_staircase(graph: Graph, last: Node) -> StaircaseChain | None:
    """The staircase that ends in ``last``, or None. ``graph`` is the scope of the node."""
    if last.op != "Mul" or not is_standard(last) or len(last.inputs) != 2:
        return None
    factor, level = last.inputs
    if not is_constant(factor) or is_constant(level):
        return None
    x: Tensor | None = None
    thresholds: list[np.ndarray] = []
    levels: list[np.ndarray] = []
    while not is_constant(level):
        step = _step(graph, level, factor, x)
        if step is None:
            return None
        x, threshold, value, level = step
        thresholds.append(threshold)
        levels.append(value)
    levels.append(level.values)
    if x is None or any(value.size != 1 for value in (*thresholds, *levels)):
        return None
    # The chain was walked from its end.
    ascending, reached = (
        np.array(values, np.float32).reshape(-1)[::-1] for values in (thresholds, levels)
    )
    scale, axis = per_channel(factor.values, rank_of(x))
    if scale is None or not _usable(scale, ascending, reached):
        return None
    return StaircaseChain(x, scale, ascending, reached, axis)


def _step(
    graph: Graph, level: Tensor, factor: Tensor, x: Tensor | None
) -> tuple[Tensor, np.ndarray, np.ndarray, Tensor] | None:
    """One ``Where(x >= factor * threshold, value, before)``: x, threshold, value, before."""
    where = _sole_producer(graph, level, "Where")
    if where is None or not is_constant(where.inputs[1]):
        return None
    reached = _sole_producer(graph, where.inputs[0], "GreaterOrEqual")
    if reached is None or (x is not None and reached.inputs[0] is not x):
        return None
    bound = _sole_producer(graph, reached.inputs[1], "Mul")
    if bound is None or bound.inputs[0] is not factor or not is_constant(bound.inputs[1]):
        return None
    threshold, value = bound.inputs[1].values, where.inputs[1].values
    if threshold.dtype != np.float32 or value.dtype != np.float32:
        return None
    return reached.inputs[0], threshold, value, where.inputs[2]


def _sole_producer(graph: Graph, tensor: Tensor, op: str) -> Node | None:
    """The ``op`` node that makes the tensor for one reader alone."""
    if len(tensor.inputs) != 1 or len(tensor.outputs) != 1 or tensor in graph.outputs:
        return None
    node = tensor.inputs[0]
    return node if node.op == op and is_standard(node) else None


def _usable(scale: np.ndarray, thresholds: np.ndarray, levels: np.ndarray) -> bool:
    return bool(
        scale.dtype == np.float32
        and np.all(scale > 0)
        and all(np.all(np.isfinite(values)) for values in (scale, thresholds, levels))
        and np.all(np.diff(thresholds) >= 0)
        and len(thresholds) <= MAX_THRESHOLDS
    )


def per_channel(values: np.ndarray, rank: int | None) -> tuple[np.ndarray | None, int]:
    """``values`` as () or [C], and the channel axis that their broadcast shape speaks of."""
    if values.size == 1:
        return values.reshape(()), 1
    wide = [i for i, length in enumerate(values.shape) if length != 1]
    if rank is None or len(wide) != 1 or values.ndim > rank:
        return None, 1
    return values.reshape(-1), rank - values.ndim + wide[0]
