"""Remove operators that do nothing, and write the rest in the form that later passes know.

Removed, where shapes and constants prove that the output is the input (x):

1. Identity, Dropout in inference or of nothing, Cast and CastLike to the type that x has.
2. Reshape, Flatten, Squeeze, Unsqueeze and Expand to the shape that x has; Transpose that keeps the
   order; Tile by 1; Pad by zeros; Slice of everything.
3. Concat, Sum, Max, Min and Mean of one input; Clip without bounds.
4. Mul and Div by 1, Add and Sub of 0, where the constant does not broadcast x to more.
5. MaxPool and AveragePool of one element with stride 1.

When the output is a graph output, its name moves to the producer; from a graph input, a constant or
a tensor of another scope straight to a graph output the operator stays.

Rewritten:

6. Sum of several becomes a chain of Adds, in the order in which Sum adds.
7. Transpose of a Transpose becomes one; Reshape of a Reshape the second. Transposes around
   element-wise operators that take each other back go: ``transposed_chain.py``.
8. Einsum of two operands that is a matrix product becomes MatMul, between Transposes where the axes
   are in another order: the output's letters are those of both operands (batch) first or, without
   batch, those of the first operand; one letter is summed; with a batch each operand has one letter
   of its own, without one the second operand has at most one. No letter twice, no ellipsis.

The function computed is unchanged; -0.0 + 0 is 0.0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx import helper

from ..analysis.unfit import drops
from ..graph.graph import (
    Graph,
    Node,
    Tensor,
    inherit,
    is_constant,
    is_standard,
    optional_input,
    rank_of,
    replace_everywhere,
    scopes,
    unique_name,
)
from ..graph.surgeon import add_node, variable
from .transposed_chain import join_transposes


def simplify(graph: Graph) -> list[str]:
    """Apply the rules in every scope, in place; the dead nodes are for ``tidy`` to drop.

    Precondition: shapes are inferred, nodes are sorted.

    Returns:
        One line per operator that was removed or rewritten.
    """
    changes: list[str] = []
    for scope in [scope.graph for scope in scopes(graph)]:
        for node in list(scope.nodes):
            if not is_standard(node) or not node.outputs or not node.inputs:
                continue
            rewrite = _REWRITES.get(node.op)
            if rewrite is not None:
                changes += rewrite(scope, node)
            does_nothing = _DOES_NOTHING.get(node.op)
            if does_nothing is None:
                continue
            source = does_nothing(node)
            if source is not None and _bypass(scope, node, source):
                changes.append(f"{node.op} {node.name}: removed, it passes its input on")
    return changes


def _bypass(graph: Graph, node: Node, source: Tensor) -> bool:
    result = node.outputs[0]
    if any(result is output for output in graph.outputs):
        is_interface = any(source is other for other in [*graph.inputs, *graph.outputs])
        if is_interface or is_constant(source) or not source.inputs:
            return False
        producer = source.inputs[0]
        if not any(producer is other for other in graph.nodes):  # computed outside this scope
            return False
        node.inputs.clear()
        node.outputs.clear()
        position = next(i for i, tensor in enumerate(producer.outputs) if tensor is source)
        producer.outputs[position] = result
        replace_everywhere(graph, source, result)
        return True
    if not is_constant(source) and source.shape is None:
        source.shape = result.shape
    if not is_constant(source) and source.dtype is None:
        source.dtype = result.dtype
    replace_everywhere(graph, result, source)
    node.inputs.clear()
    node.outputs.clear()
    return True


def _integers(tensor: Tensor | None) -> list[int] | None:
    if tensor is None or not is_constant(tensor):
        return None
    values: list[int] = tensor.values.reshape(-1).tolist()
    return values


def _static(tensor: Tensor) -> list[int] | None:
    if tensor.shape is None:
        return None
    known = [dim for dim in tensor.shape if isinstance(dim, int) and dim >= 0]
    return known if len(known) == len(tensor.shape) else None


def _first(node: Node) -> Tensor:
    return node.inputs[0]


def _when(holds: bool, node: Node) -> Tensor | None:
    return node.inputs[0] if holds else None


def _dropout(node: Node) -> Tensor | None:
    mask_used = len(node.outputs) > 1 and bool(node.outputs[1].outputs)
    return _when(not drops(node) and not mask_used, node)


def _cast(node: Node) -> Tensor | None:
    dtype = node.inputs[0].dtype
    if not isinstance(dtype, np.dtype) or dtype.kind not in "fiub":
        return None
    return _when(helper.np_dtype_to_tensor_dtype(dtype) == node.attrs.get("to"), node)


def _cast_like(node: Node) -> Tensor | None:
    first, second = node.inputs[0].dtype, node.inputs[1].dtype
    known = isinstance(first, np.dtype) and isinstance(second, np.dtype)
    return _when(known and first == second, node)


def _same_shape(node: Node) -> Tensor | None:
    shape = _static(node.inputs[0])
    return _when(shape is not None and shape == _static(node.outputs[0]), node)


def _reshape(node: Node) -> Tensor | None:
    if _same_shape(node) is not None:
        return node.inputs[0]
    shape, target = node.inputs[0].shape, _integers(optional_input(node, 1))
    if shape is None or target is None or len(shape) != len(target) or 0 in shape:
        return None
    copies = not node.attrs.get("allowzero", 0)
    kept = [(t == 0 and copies) or t == dim for t, dim in zip(target, shape, strict=True)]
    unknown = [t for t, keep in zip(target, kept, strict=True) if not keep]
    return _when(unknown in ([], [-1]), node)


def _squeeze(node: Node) -> Tensor | None:
    shape = _static(node.inputs[0])  # without axes every 1 goes, also one that is not known yet
    return _when(shape is not None and 1 not in shape, node)


def _same_rank(node: Node) -> Tensor | None:
    rank = rank_of(node.inputs[0])
    return _when(rank is not None and rank == rank_of(node.outputs[0]), node)


def _flatten(node: Node) -> Tensor | None:
    two = rank_of(node.inputs[0]) == 2 and node.attrs.get("axis", 1) in (1, -1)
    return _when(two, node) or _same_shape(node)


def _expand(node: Node) -> Tensor | None:
    target, rank = _integers(optional_input(node, 1)), rank_of(node.inputs[0])
    ones = target is not None and rank is not None and len(target) <= rank and set(target) <= {1}
    return _when(ones, node) or _same_shape(node)


def _transpose(node: Node) -> Tensor | None:
    rank = rank_of(node.inputs[0])
    perm = node.attrs.get("perm")
    if perm is None:
        return _when(rank is not None and rank < 2, node)
    return _when(list(perm) == sorted(perm), node)


def _tile(node: Node) -> Tensor | None:
    repeats = _integers(optional_input(node, 1))
    return _when(repeats is not None and set(repeats) <= {1}, node)


def _pad(node: Node) -> Tensor | None:
    pads = _integers(optional_input(node, 1))
    return _when(pads is not None and set(pads) <= {0}, node)


def _slice(node: Node) -> Tensor | None:
    starts, ends = _integers(optional_input(node, 1)), _integers(optional_input(node, 2))
    shape = node.inputs[0].shape
    if starts is None or ends is None or shape is None:
        return None
    axes, steps = optional_input(node, 3), optional_input(node, 4)
    along = list(range(len(starts))) if axes is None else _integers(axes)
    by = [1] * len(starts) if steps is None else _integers(steps)
    if along is None or by is None:
        return None
    for start, end, axis, step in zip(starts, ends, along, by, strict=True):
        dim = shape[axis]
        # Any dimension is below 2**31 - 1, which exporters write for 'to the end'.
        to_the_end = end >= (dim if isinstance(dim, int) else 2**31 - 1)
        from_the_start = start == 0 or (isinstance(dim, int) and start <= -dim)
        if step != 1 or not to_the_end or not from_the_start:
            return None
    return node.inputs[0]


def _single(node: Node) -> Tensor | None:
    return _when(len(node.inputs) == 1, node)


def _clip(node: Node) -> Tensor | None:
    return _when(optional_input(node, 1) is None and optional_input(node, 2) is None, node)


def _neutral(value: float, commutes: bool) -> Callable[[Node], Tensor | None]:
    """Operators that do nothing with the constant ``value`` on one side."""

    def check(node: Node) -> Tensor | None:
        pairs = [(node.inputs[0], node.inputs[1])]
        if commutes:
            pairs.append((node.inputs[1], node.inputs[0]))
        for x, other in pairs:
            if not is_constant(other) or is_constant(x) or x.shape is None:
                continue
            if not isinstance(other.dtype, np.dtype) or other.dtype.kind not in "fiu":
                continue
            if _broadcasts_into(other.values.shape, x.shape) and np.all(other.values == value):
                return x
        return None

    return check


def _broadcasts_into(shape: Sequence[int], into: Sequence[int | str | None]) -> bool:
    if len(shape) > len(into):
        return False
    return all(
        dim in (1, other) for dim, other in zip(reversed(shape), reversed(into), strict=False)
    )


def _pool(node: Node) -> Tensor | None:
    attributes = node.attrs
    one = set(attributes.get("kernel_shape", [])) == {1}
    one = one and set(attributes.get("strides", [])) <= {1} and not any(attributes.get("pads", []))
    indices = len(node.outputs) > 1 and bool(node.outputs[1].outputs)
    return _when(one and not indices, node)


def _sum(graph: Graph, node: Node) -> list[str]:
    if len(node.inputs) < 2:
        return []
    if len(node.inputs) == 2:
        node.op = "Add"
        return [f"Sum {node.name}: now Add"]
    total, *others, last = node.inputs
    for i, term in enumerate(others, start=1):
        partial = variable(unique_name(graph, f"{node.name}.partial"))
        partial.dtype = node.outputs[0].dtype
        add_node(graph, "Add", unique_name(graph, f"{node.name}.add{i}"), [total, term], partial)
        total = partial
    node.op = "Add"
    node.inputs = [total, last]
    return [f"Sum {node.name}: now {len(others) + 1} Adds"]


def _transpose_of_transpose(graph: Graph, node: Node) -> list[str]:
    first = _computed_by(node.inputs[0], "Transpose")
    if first is None:
        return join_transposes(graph, node)
    if "perm" not in node.attrs or "perm" not in first.attrs:
        return []
    node.attrs["perm"] = [first.attrs["perm"][axis] for axis in node.attrs["perm"]]
    node.inputs[0] = first.inputs[0]
    return [f"Transpose {node.name}: joined with Transpose {first.name}"]


def _reshape_of_reshape(_: Graph, node: Node) -> list[str]:
    first = _computed_by(node.inputs[0], "Reshape")
    target = _integers(optional_input(node, 1))
    if first is None or target is None or 0 in target:  # 0 copies a dimension of its input
        return []
    node.inputs[0] = first.inputs[0]
    return [f"Reshape {node.name}: reads what Reshape {first.name} reads"]


def _computed_by(tensor: Tensor, op: str) -> Node | None:
    if len(tensor.inputs) == 1 and tensor.inputs[0].op == op and is_standard(tensor.inputs[0]):
        return tensor.inputs[0]
    return None


def _einsum(graph: Graph, node: Node) -> list[str]:
    plan = _matmul_plan(node.attrs.get("equation", ""))
    if plan is None or len(node.inputs) != 2:
        return []
    equation = node.attrs["equation"]
    (left, right), order = plan
    output, operands = node.outputs[0], list(node.inputs)
    terms = equation.replace(" ", "").split("->")[0].split(",")
    node.outputs.clear()
    node.inputs.clear()
    inputs = [
        _transposed(graph, f"{node.name}.{side}", tensor, [term.index(c) for c in wanted])
        for side, tensor, term, wanted in zip(
            ("left", "right"), operands, terms, (left, right), strict=True
        )
    ]
    product, back = output, None
    if order != sorted(order):
        product = variable(unique_name(graph, f"{node.name}.product"))
        product.dtype = output.dtype
        back = order
    matmul = add_node(graph, "MatMul", unique_name(graph, f"{node.name}.matmul"), inputs, product)
    inherit(matmul, node)
    if back is not None:
        name = unique_name(graph, f"{node.name}.transpose")
        add_node(graph, "Transpose", name, [product], output, {"perm": back})
    return [f"Einsum {node.name} ({equation}): now MatMul {matmul.name}"]


def _matmul_plan(equation: str) -> tuple[tuple[str, str], list[int]] | None:
    """The letters of both operands in MatMul's order, and where the output's letters are then."""
    terms, arrow, out = equation.replace(" ", "").partition("->")
    operands = terms.split(",")
    if not arrow or len(operands) != 2 or not all(map(str.isalpha, operands)):
        return None
    a, b = operands
    if any(len(set(term)) != len(term) for term in (a, b, out)):
        return None
    summed = [c for c in a if c in b and c not in out]
    batch = [c for c in out if c in a and c in b]
    rows = [c for c in out if c in a and c not in b]
    columns = [c for c in out if c in b and c not in a]
    if len(summed) != 1 or {*batch, *rows, *summed} != set(a) or len(columns) > 1:
        return None
    if {*batch, *columns, *summed} != set(b) or len(batch + rows + columns) != len(out):
        return None
    if batch and (len(rows) != 1 or len(columns) != 1):
        return None
    if not rows and not columns:
        return None
    product = batch + rows + columns
    left, right = "".join(batch + rows + summed), "".join(batch + summed + columns)
    return (left, right), [product.index(c) for c in out]


def _transposed(graph: Graph, name: str, tensor: Tensor, perm: list[int]) -> Tensor:
    if perm == sorted(perm):
        return tensor
    result = variable(unique_name(graph, name))
    result.dtype = tensor.dtype
    op_name = unique_name(graph, f"{name}.transpose")
    add_node(graph, "Transpose", op_name, [tensor], result, {"perm": perm})
    return result


_DOES_NOTHING: dict[str, Callable[[Node], Tensor | None]] = {
    "Identity": _first,
    "Dropout": _dropout,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _same_rank,
    "Expand": _expand,
    "Transpose": _transpose,
    "Tile": _tile,
    "Pad": _pad,
    "Slice": _slice,
    "Concat": _single,
    "Sum": _single,
    "Max": _single,
    "Min": _single,
    "Mean": _single,
    "Clip": _clip,
    "Mul": _neutral(1.0, commutes=True),
    "Div": _neutral(1.0, commutes=False),
    "Add": _neutral(0.0, commutes=True),
    "Sub": _neutral(0.0, commutes=False),
    "MaxPool": _pool,
    "AveragePool": _pool,
}

_REWRITES: dict[str, Callable[[Graph, Node], list[str]]] = {
    "Sum": _sum,
    "Transpose": _transpose_of_transpose,
    "Reshape": _reshape_of_reshape,
    "Einsum": _einsum,
}
