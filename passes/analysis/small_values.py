"""Where small values count as much as large ones: in front of Log, Reciprocal and divisors.

A neuron is fitted to small squared error, which is of the size of its largest values. Operators
that are singular at 0 (Log, ReduceLogSum, Reciprocal, a divisor, powers below 1 but for the root)
make much of what is lost of small ones, and normalisations make small samples as large as others.

1. Close: a singular operator reads a tensor through operators that move values and arithmetic with
   constants, and gets values near 0 of it. A constant that is added may keep them away from 0.
2. Far: what a neuron fires reaches a singular operator, or a division by a signal, through linear
   operators, arithmetic, powers, reductions and pools alone; or, from an encoder whose values
   follow the size of the network's input, a normalisation.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..graph.graph import Node, Tensor, is_constant, is_standard, optional_input
from .operators import is_arithmetic, is_linear, moves_values, properties, standard

#: Values below it are near 0, where the others are of about 1.
_NEAR = 0.01


def is_singular(node: Node, read: Tensor) -> bool:
    """Whether an operator is infinite, or infinitely steep, where ``read`` is 0."""
    if not is_standard(node):
        return False
    if node.op in ("Log", "ReduceLogSum"):
        return True
    if (standard(node).power or 0) < 0:
        return True
    if node.op == "Pow" and is_constant(node.inputs[1]):
        exponents = node.inputs[1].values
        return bool(np.any((exponents < 1) & (exponents != 0.5) & (exponents != 0)))
    return node.op == "Div" and node.inputs[1] is read


def close_reader(tensor: Tensor, values: np.ndarray) -> Node | None:
    """Rule 1: the singular operator, None if there is none.

    Args:
        tensor: any.
        values: those that it may have, of about 1 and less, or some of them.
    """
    for reader in tensor.outputs:
        if is_singular(reader, tensor):
            if np.abs(values).min() <= _NEAR * min(np.abs(values).max(), 1.0):
                return reader
            continue
        if not reader.outputs or not is_standard(reader):
            continue
        made = values if moves_values(reader) and reader.op not in ("Max", "Min") else None
        made = _made(reader, tensor, values) if made is None else made
        found = None if made is None else close_reader(reader.outputs[0], made)
        if found is not None:
            return found
    return None


def _made(node: Node, read: Tensor, values: np.ndarray) -> np.ndarray | None:
    """What arithmetic with constants makes of values; None of other operators."""
    others = [t for t in node.inputs if t is not read and not t.is_empty()]
    constants = [t.values for t in others if is_constant(t) and t.values.size]
    if len(constants) < len(others):
        return None
    if node.op == "Neg":
        return -values
    if node.op == "Clip":
        low = optional_input(node, 1)
        return values if low is None else np.maximum(values, float(constants[0].min()))
    if len(constants) != 1:
        return None
    ends = np.array([[float(constants[0].min())], [float(constants[0].max())]])
    made = _arithmetic(node.op, values, ends, node.inputs[0] is read)
    return None if made is None else made.reshape(-1)


def _arithmetic(op: str, x: np.ndarray, c: np.ndarray, first: bool) -> np.ndarray | None:
    result: np.ndarray | None = None
    if op == "Add":
        result = x + c
    elif op == "Sub":
        result = x - c if first else c - x
    elif op == "Mul":
        result = x * c
    elif op == "Div" and first and c.all():
        result = x / c
    elif op == "Max":
        result = np.maximum(x, c)
    return result


def far_reader(fired: Tensor, neurons: set[str], sized: bool) -> Node | None:
    """Rule 2: the operator, None if there is none.

    Args:
        fired: what a neuron writes.
        neurons: names of the tensors that neurons of activations write; encoders are passed.
        sized: whether it is an encoder whose values follow the size of the network's input.
    """
    seen: set[int] = set()
    pending = [fired]
    while pending:
        tensor = pending.pop()
        for reader in tensor.outputs:
            if is_singular(reader, tensor) or _divides_by_signal(reader):
                return reader
            if sized and properties(reader.op).power == 0:  # in any domain: it has a role
                return reader
            if id(reader) not in seen and _goes_on(reader, neurons):
                seen.add(id(reader))
                pending += reader.outputs
    return None


def _goes_on(node: Node, neurons: Iterable[str]) -> bool:
    if not node.outputs or node.outputs[0].name in neurons or not is_standard(node):
        return False
    what = standard(node)
    if node.op in ("Clip", "Relu"):  # kept in float
        return True
    if what.role is not None and not is_linear(node):
        return False
    return (what.affine or what.power) is not None or moves_values(node) or node.op == "Pow"


def divided(tensor: Tensor) -> bool:
    """Whether a tensor, moved or with constants, is divided by a signal."""
    for reader in tensor.outputs:
        if _divides_by_signal(reader):
            return True
        others = [t for t in reader.inputs if t is not tensor]
        plain = is_arithmetic(reader) and all(map(is_constant, others))
        if (plain or moves_values(reader)) and any(map(divided, reader.outputs)):
            return True
    return False


def _divides_by_signal(node: Node) -> bool:
    return node.op == "Div" and is_standard(node) and not is_constant(node.inputs[1])
