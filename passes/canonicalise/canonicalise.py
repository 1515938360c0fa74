"""Canonicalise: one form for what exporters write in many.

1. Every node gets a name, so that reports and provenance can speak of it.
2. Operators in which a runtime's graph optimisation joined several become these again:
   ``split_fused.py``.
3. What depends on constants and static shapes alone is computed, and If with a constant condition
   becomes its branch: ``fold_constants.py``.
4. Operands with one value all over, such as zeros_like, become scalars: ``filled_operands.py``.
5. Operators that do nothing are removed, others take the form that later passes know:
   ``simplify.py``.
6. Nodes that no output needs are dropped.
7. Shapes and element types are inferred first, and again as constants become known.

All of it inside control-flow bodies too. The function computed is unchanged; inputs and outputs
keep names, order and types. Postcondition: the graph is sorted topologically.
"""

from __future__ import annotations

from ..graph.graph import Graph, PassResult, scopes, tidy, unique_name
from ..graph.surgeon import infer_shapes
from .filled_operands import filled_operands
from .fold_constants import budget_for, fold_constants
from .simplify import simplify
from .split_fused import split_fused

# Constants make shapes static, and static shapes make constants; two rounds are the most that an
# exporter was seen to need.
_ROUNDS = 3


def canonicalise(graph: Graph) -> PassResult:
    """Apply the rules above. The graph given is used up; the result is a new one."""
    changes: list[str] = []
    before = _count(graph)
    _name_nodes(graph)
    graph = infer_shapes(graph)
    split = split_fused(graph)
    if split:
        changes += split
        tidy(graph)
        graph = infer_shapes(graph)
    budget = budget_for(graph)
    for _ in range(_ROUNDS):
        nodes = _count(graph)
        changes += fold_constants(graph, budget)
        tidy(graph)
        changes += filled_operands(graph)
        changes += simplify(graph)
        tidy(graph)
        done = _count(graph) == nodes
        graph = infer_shapes(graph)
        if done:
            break
    _name_nodes(graph)
    after = _count(graph)
    if before != after:
        changes.append(f"{before} nodes became {after}")
    return PassResult(graph, changes)


def _count(graph: Graph) -> int:
    return sum(len(scope.graph.nodes) for scope in scopes(graph))


def _name_nodes(graph: Graph) -> None:
    for scope in scopes(graph):
        for node in scope.graph.nodes:
            if not node.name:
                first = node.outputs[0].name if node.outputs else "no_output"
                node.name = unique_name(graph, f"{node.op}:{first}")
