"""Write linear layers as the tools for FPGAs read them, their weights as multiples of steps.

1. A Conv or ConvTranspose has no bias: an Add of [1, C, 1, ...] follows it. Gemm becomes MatMul and
   an Add, its weight the other way round where transB says so.
2. The weight of a linear operator that multiplies a signal by a constant becomes step * q, q an
   integer of so many bits, with a step per output channel.
3. An AveragePool of a whole map, and a ReduceMean of all axes behind the channels, become
   GlobalAveragePool, with Flatten behind it where the axes are dropped; a Reshape that keeps the
   first axis and joins all others becomes Flatten.
4. What operators mean by default is written (:mod:`.written_out`).

Rounding apart (rule 2, and the order of a sum with its bias), the function computed is the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ..analysis.layers import multiplies, width
from ..analysis.operators import standard
from ..graph.graph import (
    Graph,
    Node,
    PassResult,
    Tensor,
    inherit,
    is_constant,
    is_standard,
    optional_input,
    rank_of,
    tidy,
    unique_name,
    values_of,
)
from ..graph.surgeon import add_node, constant, variable
from .quantise_linear import rows_of, weight_axis, weight_steps
from .written_out import written_out


def plain_layers(
    graph: Graph, steps: Mapping[str, np.ndarray], most: int
) -> tuple[PassResult, dict[str, np.ndarray]]:
    """Apply the rules above to the main graph.

    Args:
        graph: a network in standard operators, or with neurons.
        steps: of weights that are multiples of theirs, by the weight's name, float32 [O]; others
            are rounded to the nearest here.
        most: largest integer of a weight.

    Returns:
        The graph, and the steps of its weights by name: float32, of the weight's rank, their length
        along the axis of the output channels and 1 along all others.
    """
    changes: list[str] = []
    found: dict[str, np.ndarray] = {}
    for node in list(graph.nodes):
        if multiplies(node):
            found.update(_layer(graph, node, steps, most))
        elif node.op == "AveragePool" and _is_global(node):
            changes.append(f"AveragePool {node.name}: of the whole map")
            node.op, node.attrs = "GlobalAveragePool", {}
        elif node.op == "ReduceMean" and _averages_maps(node):
            changes.append(f"ReduceMean {node.name}: now GlobalAveragePool")
            _as_pool(graph, node)
        elif node.op == "Reshape" and _flattens(node):
            changes.append(f"Reshape {node.name}: now Flatten")
            node.op, node.attrs = "Flatten", {"axis": 1}
            node.inputs.pop()
    written_out(graph)
    tidy(graph)
    return PassResult(graph, changes), found


def _layer(
    graph: Graph, node: Node, steps: Mapping[str, np.ndarray], most: int
) -> dict[str, np.ndarray]:
    """Rules 1 and 2."""
    tensor, axis = node.inputs[1], weight_axis(node)
    values = values_of(tensor)
    bias = optional_input(node, 2)
    step = steps.get(tensor.name)
    if step is None:
        step = weight_steps(rows_of(values, axis).astype(np.float64), most, np.zeros(1))
    shape = [1] * values.ndim
    shape[axis] = len(step)
    step = step.reshape(shape)
    integers = np.clip(np.rint(values.astype(np.float64) / step), -most, most)
    if node.op == "Gemm":
        if node.attrs.get("transB", 0):
            step, integers = step.T, integers.T
        node.op, node.attrs = "MatMul", {}
    rounded = (integers.astype(np.float32) * step).astype(np.float32)
    name = unique_name(graph, f"{node.name}.weight")
    node.inputs[1] = constant(name, rounded)
    if bias is not None:
        _add_bias(graph, node, bias)
    return {name: step}


def _add_bias(graph: Graph, node: Node, bias: Tensor) -> None:
    node.inputs.pop()
    if is_constant(bias):
        if not np.any(values_of(bias)):
            return
        rank = rank_of(node.outputs[0]) or rank_of(node.inputs[1]) or 2
        convolves = standard(node).convolves
        values = values_of(bias)
        shape = (1, -1, *[1] * (rank - 2)) if convolves else values.shape
        values = np.broadcast_to(values.reshape(-1), width(node)) if convolves else values
        bias = constant(unique_name(graph, f"{node.name}.bias"), values.reshape(shape))
    output = node.outputs[0]
    sum_ = variable(unique_name(graph, f"{output.name}.product"), output)
    node.outputs[0] = sum_
    name = unique_name(graph, f"{node.name}.add")
    inherit(add_node(graph, "Add", name, [sum_, bias], output), node)


def _is_global(node: Node) -> bool:
    """Whether a pool sees every map whole, once."""
    shape = node.inputs[0].shape
    if not is_standard(node) or shape is None or any(node.attrs.get("pads", ())):
        return False
    kernel = list(node.attrs.get("kernel_shape", ()))
    unusual = str(node.attrs.get("auto_pad", "NOTSET")) not in ("NOTSET", "VALID")
    return kernel == list(shape[2:]) and not unusual


def _averages_maps(node: Node) -> bool:
    """Whether a ReduceMean is over all axes behind the channels."""
    rank = rank_of(node.inputs[0])
    if not is_standard(node) or rank is None or rank < 3:
        return False
    axes = node.attrs.get("axes")
    if axes is None and optional_input(node, 1) is not None and is_constant(node.inputs[1]):
        axes = values_of(node.inputs[1]).reshape(-1)
    return axes is not None and sorted(int(a) % rank for a in axes) == list(range(2, rank))


def _as_pool(graph: Graph, node: Node) -> None:
    x, output, keeps = node.inputs[0], node.outputs[0], node.attrs.get("keepdims", 1)
    shape = x.shape
    node.op, node.attrs = "GlobalAveragePool", {}
    while len(node.inputs) > 1:
        node.inputs.pop()
    if keeps or shape is None:
        return
    pooled = variable(unique_name(graph, f"{output.name}.pooled"), output)
    pooled.shape = [*shape[:2], *[1] * (len(shape) - 2)]
    node.outputs[0] = pooled
    name = unique_name(graph, f"{node.name}.flatten")
    add_node(graph, "Flatten", name, [pooled], output, {"axis": 1})


def _flattens(node: Node) -> bool:
    """Whether the first axis stays and all others become one."""
    x, shape = node.inputs
    if not is_standard(node) or x.shape is None or len(x.shape) < 2:
        return False
    lengths = [n for n in x.shape[1:] if isinstance(n, int)]
    size = math.prod(lengths) if len(lengths) == len(x.shape) - 1 else None
    if is_constant(shape):
        wanted = [int(n) for n in values_of(shape).reshape(-1)]
        if len(wanted) != 2:
            return False
        first, second = wanted
        keeps = first in (-1, x.shape[0]) or (first == 0 and not node.attrs.get("allowzero", 0))
        return keeps and (second == size or (second == -1 and first != -1))
    if len(shape.inputs) != 1 or shape.inputs[0].op != "Concat" or len(shape.inputs[0].inputs) != 2:
        return False
    first_, second_ = shape.inputs[0].inputs
    if not is_constant(second_) or values_of(second_).size != 1:
        return False
    batched = _has_batch(first_)
    if batched is None:
        return False
    # Of another tensor the first axis may be another: [B * windows, ...] as [B, -1].
    rows = batched.shape[0] if batched.shape else None
    same = batched is x or (rows is not None and rows == x.shape[0])
    second = int(values_of(second_).item())
    return second == size or (second == -1 and same)


def _has_batch(length: Tensor) -> Tensor | None:
    """The tensor of which another is the length of the first axis, and nothing else."""
    node = _made_by(length)
    while node is not None and node.op in ("Unsqueeze", "Squeeze", "Reshape", "Cast"):
        node = _made_by(node.inputs[0])
    if node is None or node.op not in ("Gather", "Slice", "Shape"):
        return None
    if node.op == "Shape":
        first = int(node.attrs.get("start", 0)) == 0 and int(node.attrs.get("end", 0)) == 1
        return node.inputs[0] if first else None
    source = _made_by(node.inputs[0])
    if source is None or source.op != "Shape" or source.attrs:
        return None
    wanted = [[0], [1]] if node.op == "Slice" else [[0]]  # of a Slice the start and the end
    bounds = node.inputs[1 : 1 + len(wanted)]
    found = [
        values_of(bound).reshape(-1).tolist() if is_constant(bound) else [] for bound in bounds
    ]
    return source.inputs[0] if found == wanted else None


def _made_by(tensor: Tensor) -> Node | None:
    return tensor.inputs[0] if tensor.inputs else None
