"""Recognise: one node for each activation and normalisation that exporters write as arithmetic.

1. The patterns are those of ``activations``, ``selections`` and ``norms``, in every spelling that
   exporters use; ``by_values`` knows activations however they are written.
2. The new node is the standard operator, where the model's opset has it; otherwise it calls a
   function of :data:`~.graph.ANN_DOMAIN`, defined by ``ann_functions``. It has the name, metadata
   and output tensor of the last node it replaces.
3. Larger ones come first: nodes are visited from the outputs to the inputs, and of a pattern and
   what values tell the one with more nodes is taken.
4. Left as it is: whatever has an intermediate result that another node, a body or a graph output
   reads, a constant that is none or has another value, or another element type than float32 (for
   normalisations: float16 and float64 as well).
5. Bodies of If, Loop and Scan are rewritten like the main graph. A pattern is never taken apart by
   the border of a body.

The function computed is unchanged but for rounding. Precondition: element types are inferred.
Models of an opset below 15 are left as they are, with a line in the changes. Postcondition: a
graph that is sorted topologically stays so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ..graph.graph import (
    ANN_DOMAIN,
    Graph,
    Node,
    PassResult,
    dtype_of,
    inherit,
    opset_version,
    scopes,
    unique_name,
)
from ..graph.surgeon import add_node, constant, variable
from .activations import match_activation
from .ann_functions import spelled
from .by_values import match_values
from .norms import match_norm
from .patterns import Match, MatchScope, detach
from .selections import match_selection

#: The functions and HardSwish need operators of this opset.
_OLDEST_OPSET = 15

_PATTERNS: dict[str, tuple[Callable[[MatchScope, Node], Match | None], ...]] = {
    "Add": (match_activation, match_norm, match_selection),
    "Sub": (match_activation,),
    "Mul": (match_activation, match_norm),
    "Div": (match_activation, match_norm),
    "Reciprocal": (match_activation,),
    "Log": (match_activation,),
    "Clip": (match_activation,),
    "Min": (match_activation,),
    "Max": (match_activation,),
    "Where": (match_selection,),
}


def recognise(graph: Graph) -> PassResult:
    """Apply the rules above to the main graph and to the bodies inside it."""
    opset = opset_version(graph)
    if opset < _OLDEST_OPSET:
        return PassResult(graph, [f"decomposed activations: left as they are in opset {opset}"])
    every = [scope.graph for scope in scopes(graph)]
    visible = {id(tensor) for scope in every for tensor in scope.outputs}
    changes: list[str] = []
    for scope in every:
        changes += _recognise_in(graph, MatchScope(scope, visible))
    return PassResult(graph, changes)


def _recognise_in(main: Graph, scope: MatchScope) -> list[str]:
    """Rewrite one graph; ``main`` knows the opset and the names that are taken."""
    nodes = scope.graph.nodes
    position = {id(node): i for i, node in enumerate(nodes)}
    changes: list[str] = []
    removed: list[Node] = []
    for node in list(reversed(nodes)):
        match = _find(scope, node, position)
        if match is None:
            continue
        replaced = sorted(match.nodes, key=lambda node: position[id(node)])
        ops = ", ".join(node.op for node in replaced)
        new = _emit(main, scope, match)
        nodes[position[id(match.last)]] = new
        scope.forget(match.nodes)
        removed += replaced
        count = f"{len(replaced)} nodes" if len(replaced) > 1 else "1 node"
        changes.append(f"{new.op} {new.name}: recognised in {count} ({ops})")
    gone = {id(node) for node in removed}
    nodes[:] = [node for node in nodes if id(node) not in gone]
    detach(removed)
    return changes[::-1]


def _find(scope: MatchScope, node: Node, position: Mapping[int, int]) -> Match | None:
    """The largest match that ends in or, for normalisations, divides in ``node``."""
    if not scope.holds(node):
        return None
    found = match_values(scope, node, position)
    for pattern in _PATTERNS.get(node.op, ()):
        match = pattern(scope, node)
        if match is not None and scope.is_closed(match):
            smaller = found is not None and len(match.nodes) < len(found.nodes)
            return found if smaller else match
    return found


def _emit(main: Graph, scope: MatchScope, match: Match) -> Node:
    """The node that stands for the match; it is in no list of nodes yet."""
    x, last, constants = match.inputs[0], match.last, list(match.constants)
    op, attributes, domain = spelled(main, match.op, match.attributes, x.dtype)
    if domain == ANN_DOMAIN and op == "LayerNormalization" and len(constants) == 1:
        constants.append(("bias", np.zeros(1)))
    inputs = list(match.inputs)
    for item in constants:
        if item is None:
            inputs.append(variable(""))
        else:
            what, values = item
            name = unique_name(main, f"{last.name}.{what}")
            inputs.append(constant(name, values.astype(dtype_of(x))))
    result = last.outputs[0]
    result.inputs.clear()
    new = add_node(scope.graph, op, last.name, inputs, result, attributes, domain)
    scope.graph.nodes.pop()  # it takes the place of the last node instead
    inherit(new, last)
    return new
