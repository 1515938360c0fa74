"""Which neurons meet: their spikes are added up or joined, and have to count in one unit.

A sum of integers is one of floats as well where both sides have the same step; in hardware, and in
formats of integers, no multiplication is then left on the way.

1. An Add or Concat brings together the neurons that fire its operands, where all operands that are
   no constants are spikes.
2. Through operators that only move values spikes stay spikes of the same neuron.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ..graph.graph import Graph, Node, Tensor, is_constant, is_standard
from .operators import moved, moves_values

_SUMS = ("Add", "Concat")


def meetings(graph: Graph, fired: Collection[str]) -> list[list[str]]:
    """Groups of neurons that meet, directly or by way of others.

    Args:
        graph: canonical.
        fired: names of the tensors that neurons write.

    Returns:
        Names of tensors, of two neurons or more each, in the order of the graph.
    """
    groups: dict[str, list[str]] = {}
    for node in graph.nodes:
        together = _neurons_of(node, fired)
        joined = list(dict.fromkeys(one for name in together for one in groups.get(name, [name])))
        groups.update(dict.fromkeys(joined, joined))
    distinct = {id(group): group for group in groups.values()}
    return [group for group in distinct.values() if len(group) > 1]


def _neurons_of(node: Node, fired: Collection[str]) -> list[str]:
    """Rule 1."""
    if node.op not in _SUMS or not is_standard(node):
        return []
    operands = [tensor for tensor in node.inputs if not is_constant(tensor)]
    found = [list(_sources(tensor, fired)) for tensor in operands]
    return [name for names in found for name in names] if all(found) else []


def _sources(tensor: Tensor, fired: Collection[str]) -> Iterator[str]:
    """Rule 2: nothing where one of the sources is no neuron."""
    pending, found = [tensor], []
    while pending:
        one = pending.pop()
        if one.name in fired:
            found.append(one.name)
        elif one.inputs and moves_values(one.inputs[0]):
            pending += [each for each in moved(one.inputs[0]) if not is_constant(each)]
        else:
            return
    yield from found
