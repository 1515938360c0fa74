"""The largest sums that a network of integers can come to, whatever the samples.

1. x86 processors without VNNI add two products of uint8 and int8 in 16 bits, which saturate in
   silence. The largest such sum is 2 top max|w|, with top the largest integer that is read.
2. All kernels add up in 32 bits, at most top sum|w| + |bias| for an output channel.

Both are seen from the weights and the neurons alone. It concerns every operator with a weight of
int8, those in control-flow bodies included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ....passes.graph.network import Network
from .form import WeightedOperator, weighted_operators

#: What fits into 16 and 32 bits.
MOST_PAIR, MOST_TOTAL = 2**15 - 1, 2**31 - 1


@dataclass(frozen=True)
class LargestSums:
    """The largest sums of one operator.

    Attributes:
        operator: its type and its node's name.
        pair: magnitude of the sum of two products.
        total: magnitude of the sum of all products of an output channel and its bias.
    """

    operator: str
    pair: int
    total: int


def largest_sums(network: Network) -> list[LargestSums]:
    """Of each operator with a weight of int8.

    Args:
        network: in the form that ``quantise_linear.py`` writes.
    """
    return [_largest(operator) for operator in weighted_operators(network)]


def _largest(operator: WeightedOperator) -> LargestSums:
    weight, top = operator.weight, operator.signal.top
    assert weight.values is not None
    rows = np.moveaxis(np.abs(weight.values), weight.axis, 0)
    totals = top * rows.reshape(len(rows), -1).sum(axis=1, dtype=np.int64)
    if operator.bias is not None and operator.bias.values is not None:
        bias = np.abs(operator.bias.values.astype(np.int64)).reshape(-1)
        totals = totals + (bias if bias.size == totals.size else bias.max(initial=0))
    pair = 2 * top * int(rows.max(initial=0))
    name = f"{operator.node.op_type} {operator.node.name}"
    return LargestSums(name, pair, int(totals.max(initial=0)))
