"""Write out what operators mean by default, for tools that read no defaults: qonnx and FINN.

1. Conv, MaxPool and AveragePool have ``strides`` and ``pads``, Conv its kernel, dilations and group
   too. ``auto_pad`` becomes pads; where a length is not known that they depend on, it stays.
2. Transpose has ``perm``.
3. A constant operand of Add and Mul is the second one.

No value changes.
"""

from __future__ import annotations

from ..graph.graph import Graph, Node, is_constant, is_standard, rank_of, values_of


def written_out(graph: Graph) -> None:
    """Apply the rules above to the main graph, in place.

    Args:
        graph: shapes inferred where they can be.
    """
    for node in graph.nodes:
        if not is_standard(node):
            continue
        if node.op in ("Conv", "MaxPool", "AveragePool"):
            _window(node)
        elif node.op == "Transpose" and "perm" not in node.attrs:
            rank = rank_of(node.inputs[0])
            if rank is not None:
                node.attrs["perm"] = list(reversed(range(rank)))
        elif node.op in ("Add", "Mul") and is_constant(node.inputs[0]):
            first, second = node.inputs
            node.inputs[0], node.inputs[1] = second, first


def _window(node: Node) -> None:
    """Rule 1."""
    kernel = node.attrs.get("kernel_shape")
    if node.op == "Conv":
        weight = node.inputs[1]
        kernel = list(values_of(weight).shape[2:]) if is_constant(weight) else kernel
        node.attrs.setdefault("group", 1)
    if not kernel:
        return
    ones = [1] * len(kernel)
    node.attrs["kernel_shape"] = kernel
    node.attrs["strides"] = strides = node.attrs.get("strides") or ones
    dilations = node.attrs.get("dilations") or ones
    if node.op == "Conv":
        node.attrs["dilations"] = dilations
    auto = str(node.attrs.get("auto_pad", "NOTSET"))
    if auto in ("NOTSET", "VALID"):
        pads = node.attrs.get("pads") if auto == "NOTSET" else None
        pads = pads or [0] * (2 * len(kernel))
    else:
        reach = [(int(k) - 1) * int(d) + 1 for k, d in zip(kernel, dilations, strict=True)]
        totals = _totals(node, reach, [int(s) for s in strides])
        if totals is None:
            return
        less, more = [total // 2 for total in totals], [-(-total // 2) for total in totals]
        pads = [*less, *more] if auto == "SAME_UPPER" else [*more, *less]
    node.attrs.pop("auto_pad", None)
    node.attrs["pads"] = pads


def _totals(node: Node, reach: list[int], strides: list[int]) -> list[int] | None:
    """Padding along each axis with which a window gives ceil(length / stride) values."""
    shape = node.inputs[0].shape
    if shape is None:
        return None
    totals = []
    for length, window, stride in zip(shape[2:], reach, strides, strict=True):
        if stride == 1:
            totals.append(window - 1)
        elif isinstance(length, int):
            totals.append(max((-(-length // stride) - 1) * stride + window - length, 0))
        else:
            return None
    return totals
