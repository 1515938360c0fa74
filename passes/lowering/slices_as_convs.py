"""Write what thins maps out and pads channels with zeros as convolutions.

Residual networks for small images shorten a map so where they widen it: every other place is taken,
and channels of zeros are put around those that there are. Hardware has no layer for either, but one
for this Conv. Slice, Pad and MaxPool in a row become one where together they are

    y[n, o, i, j] = x[n, c_o, s i, t j], or 0                   x [N, C, H, W], or of another rank

1. A Slice along the axes behind the channels begins at the first place and takes every s-th up to
   the last; one along the channels takes any of them, in their order.
2. A Pad puts zeros before and behind the channels alone.
3. A MaxPool has a kernel of 1, and no padding.

The kernel is 1, the weight is 0 or 1; of integers the result has the same bits.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

import numpy as np

from ..graph.graph import (
    Graph,
    Node,
    inherit,
    is_constant,
    is_standard,
    optional_input,
    rank_of,
    unique_name,
    values_of,
)
from ..graph.surgeon import add_node, constant

#: Stands for a channel of zeros.
_ZEROS = -1


@dataclass
class _Taken:
    """What is left of a tensor.

    Attributes:
        of: number of x's channels.
        channels: of x, one for each of y.
        strides: of the axes behind the channels.
        nodes: that take it, in their order.
    """

    of: int
    channels: np.ndarray
    strides: list[int]
    nodes: list[Node] = field(default_factory=list)


def slices_as_convs(graph: Graph, signals: Container[int]) -> list[Node]:
    """Apply the rules above to the main graph.

    Args:
        graph: shapes inferred.
        signals: the ``id`` of each tensor that holds float32 integers, or multiples of one number.

    Returns:
        The convolutions, their weights float32 [channels of y, channels of x, 1, ...].
    """
    convs = []
    done: set[int] = set()
    for node in list(graph.nodes):
        if id(node) in done or not node.inputs or id(node.inputs[0]) not in signals:
            continue
        taken = _taken(graph, node)
        if taken is not None:
            done.update(map(id, taken.nodes))
            convs.append(_write(graph, taken))
    return convs


def _taken(graph: Graph, node: Node) -> _Taken | None:
    """What a row of nodes takes from the first one's input; None where that is no such row."""
    x = node.inputs[0]
    rank = rank_of(x)
    if rank is None or rank < 3 or x.shape is None or not isinstance(x.shape[1], int):
        return None
    count = x.shape[1]
    taken = _Taken(count, np.arange(count), [1] * (rank - 2))
    while _take(node, taken):
        taken.nodes.append(node)
        output = node.outputs[0]
        if len(output.outputs) != 1 or output in graph.outputs:
            break
        node = output.outputs[0]
        if node.inputs[0] is not output:
            break
    return taken if taken.nodes else None


def _write(graph: Graph, taken: _Taken) -> Node:
    x, output = taken.nodes[0].inputs[0], taken.nodes[-1].outputs[0]
    weight = np.zeros((len(taken.channels), taken.of), np.float32)
    places = np.flatnonzero(taken.channels != _ZEROS)
    weight[places, taken.channels[places]] = 1
    ones = [1] * len(taken.strides)
    name = unique_name(graph, f"{taken.nodes[-1].name}.weight")
    held = constant(name, weight.reshape(*weight.shape, *ones))
    for node in taken.nodes:
        node.outputs.clear()
    attributes = {
        "kernel_shape": ones,
        "strides": taken.strides,
        "pads": [0] * (2 * len(ones)),
        "dilations": ones,
        "group": 1,
    }
    conv = add_node(graph, "Conv", taken.nodes[-1].name, [x, held], output, attributes)
    inherit(conv, taken.nodes[-1])
    return conv


def _take(node: Node, taken: _Taken) -> bool:
    """Take what a node leaves, where it is of those above."""
    if not is_standard(node) or len(node.outputs) != 1:
        return False
    if node.op == "MaxPool":
        return _pool(node, taken)
    return _pad(node, taken) if node.op == "Pad" else node.op == "Slice" and _slice(node, taken)


def _slice(node: Node, taken: _Taken) -> bool:
    """Rule 1."""
    rank, shape = len(taken.strides) + 2, node.inputs[0].shape
    starts, ends = _integers(node, 1), _integers(node, 2)
    if starts is None or ends is None or shape is None:
        return False
    axes = _integers(node, 3, list(range(len(starts))))
    steps = _integers(node, 4, [1] * len(starts))
    if axes is None or steps is None or any(step < 1 for step in steps):
        return False
    channels, strides = taken.channels, list(taken.strides)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis, length = axis % rank, shape[axis]
        if axis == 1:
            channels = channels[start:end:step]
            continue
        # Any length is below 2**31 - 1, which exporters write for 'to the end'.
        whole = end >= (length if isinstance(length, int) else 2**31 - 1)
        first = start == 0 or (isinstance(length, int) and start <= -length)
        if not whole or not first or (axis == 0 and step != 1):
            return False
        if axis:
            strides[axis - 2] *= step
    if not len(channels):
        return False
    taken.channels, taken.strides = channels, strides
    return True


def _pad(node: Node, taken: _Taken) -> bool:
    """Rule 2."""
    rank, pads = len(taken.strides) + 2, _integers(node, 1)
    axes = _integers(node, 3, list(range(rank)))
    value = optional_input(node, 2)
    if pads is None or axes is None or str(node.attrs.get("mode", "constant")) != "constant":
        return False
    if value is not None and not (is_constant(value) and not np.any(values_of(value))):
        return False
    before, behind = (
        dict(zip((axis % rank for axis in axes), part, strict=True))
        for part in (pads[: len(axes)], pads[len(axes) :])
    )
    around = (before.pop(1, 0), behind.pop(1, 0))
    if any(before.values()) or any(behind.values()) or min(around) < 0:
        return False
    taken.channels = np.pad(taken.channels, around, constant_values=_ZEROS)
    return True


def _pool(node: Node, taken: _Taken) -> bool:
    """Rule 3."""
    unusual = node.attrs.get("ceil_mode", 0)
    padded = node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    if unusual or padded or any(node.attrs.get("pads", ())):
        return False
    if set(node.attrs["kernel_shape"]) != {1}:
        return False
    strides = node.attrs.get("strides") or [1] * len(taken.strides)
    taken.strides = [a * int(b) for a, b in zip(taken.strides, strides, strict=True)]
    return True


def _integers(node: Node, position: int, absent: list[int] | None = None) -> list[int] | None:
    """A constant input; ``absent`` where there is none, None where it is computed."""
    tensor = optional_input(node, position)
    if tensor is None:
        return absent
    return [int(n) for n in values_of(tensor).reshape(-1)] if is_constant(tensor) else None
