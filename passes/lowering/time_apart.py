"""Nodes whose inputs have an axis of timesteps in front: the same node, one axis further on.

    Transpose <perm> of [D, ...]  <->  Transpose <0, perm + 1> of [T, D, ...]

Axes that are counted from the end stay. Way back: :func:`without_time` undoes :func:`with_time`.
"""

from __future__ import annotations

from collections.abc import Callable
from string import ascii_letters

import numpy as np

from ..analysis.operators import properties
from ..analysis.rows import axes_of, padding
from ..analysis.time_rules import refused
from ..graph.graph import (
    Graph,
    Node,
    Tensor,
    dtype_of,
    is_constant,
    optional_input,
    rank_of,
    unique_name,
    values_of,
)
from ..graph.surgeon import constant

#: Inputs of a Pad without a list of axes.
_PADS_AND_VALUE = 3

#: Puts a length in front of a list of lengths that is computed while the network runs.
Prefix = Callable[[Tensor, int], Tensor]


def with_time(graph: Graph, node: Node, timed: set[int], steps: int, prefix: Prefix) -> None:
    """Let a node work on tensors that have T as first axis.

    Args:
        graph: that it is in.
        node: one that ``needs_time_apart``.
        timed: positions of its inputs that have the axis.
        steps: T.
        prefix: for lengths that are no constants.

    Raises:
        NotOverTimeError: what it works along is not known.
    """
    if node.op == "Transpose":
        order = node.attrs.get("perm", range(rank_of(node.inputs[0]) or 0)[::-1])
        node.attrs["perm"] = [0, *(int(axis) + 1 for axis in order)]
    elif node.op == "Einsum":
        node.attrs["equation"] = _labelled(str(node.attrs["equation"]), timed)
    elif node.op == "Pad":
        _set_pads(graph, node)
    elif node.op in ("Tile", "Reshape"):
        first = steps if node.op == "Reshape" else 1
        lengths = node.inputs[1]
        if is_constant(lengths):
            _set_constant(graph, node, 1, np.insert(lengths.values, 0, first))
        else:
            node.inputs[1] = prefix(lengths, first)
    elif node.op == "GatherND":
        node.attrs["batch_dims"] = int(node.attrs.get("batch_dims", 0)) + 1
    elif properties(node.op).axis is not None:
        _move_axis(node, 1)
    elif properties(node.op).axes_input is not None:
        _name_axes(graph, node)
        _move_axes(graph, node, 1)


def without_time(graph: Graph, node: Node) -> None:
    """Let a node work on the tensors of one step again."""
    if node.op == "Transpose":
        node.attrs["perm"] = [int(axis) - 1 for axis in node.attrs["perm"][1:]]
    elif node.op == "Einsum":
        terms, _, output = str(node.attrs["equation"]).partition("->")
        left = [term.removeprefix(output[0]) for term in terms.split(",")]
        node.attrs["equation"] = f"{','.join(left)}->{output[1:]}"
    elif node.op == "Pad":
        pads = padding(node, None)
        if pads is not None:
            _set_constant(graph, node, 1, pads[:, 1:].reshape(-1))
    elif node.op in ("Tile", "Reshape"):
        if is_constant(node.inputs[1]):
            _set_constant(graph, node, 1, node.inputs[1].values[1:])
    elif node.op == "GatherND":
        node.attrs["batch_dims"] = int(node.attrs["batch_dims"]) - 1
    elif properties(node.op).axis is not None:
        _move_axis(node, -1)
    elif properties(node.op).axes_input is not None:
        _move_axes(graph, node, -1)


def _labelled(equation: str, timed: set[int]) -> str:
    equation = equation.replace(" ", "")
    label = next(letter for letter in ascii_letters if letter not in equation)
    inputs, _, output = equation.partition("->")
    terms = [label * (at in timed) + term for at, term in enumerate(inputs.split(","))]
    return f"{','.join(terms)}->{label}{output}"


def _set_pads(graph: Graph, node: Node) -> None:
    """Nothing is put around T; axes that are listed become all axes."""
    pads = padding(node, rank_of(node.inputs[0]))
    assert pads is not None  # as `needs_time_apart` has looked at them
    every = np.concatenate([np.zeros((2, 1), np.int64), pads], axis=1)
    while len(node.inputs) > _PADS_AND_VALUE:
        node.inputs.pop()
    _set_constant(graph, node, 1, every.reshape(-1))


def _move_axis(node: Node, by: int) -> None:
    name, default = properties(node.op).axis or ("axis", 0)
    axis = int(node.attrs.get(name, default))
    node.attrs[name] = axis + by if axis >= 0 else axis


def _name_axes(graph: Graph, node: Node) -> None:
    """List the axes that a node works along where it leaves them out."""
    axes, position = axes_of(node), properties(node.op).axes_input
    if axes is None or position is None:
        raise refused(node, "its axes are not known")
    if "axes" not in node.attrs and optional_input(node, position) is None:
        kind = dtype_of(node.inputs[1]) if node.op == "Slice" else np.dtype(np.int64)
        _set_constant(graph, node, position, np.array(axes, kind))


def _move_axes(graph: Graph, node: Node, by: int) -> None:
    axes = axes_of(node)
    assert axes is not None
    moved = np.array([axis + by if axis >= 0 else axis for axis in axes])
    position = properties(node.op).axes_input
    assert position is not None
    if "axes" in node.attrs:
        node.attrs["axes"] = moved.tolist()
        return
    listed = values_of(node.inputs[position])  # of CumSum a scalar
    _set_constant(graph, node, position, moved.astype(listed.dtype).reshape(listed.shape))


def _set_constant(graph: Graph, node: Node, position: int, values: np.ndarray) -> None:
    name = unique_name(graph, f"{node.name}.input_{position}")
    tensor = constant(name, values)
    if position == len(node.inputs):
        node.inputs.append(tensor)
    else:
        node.inputs[position] = tensor
