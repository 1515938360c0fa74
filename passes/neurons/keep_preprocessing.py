"""Keep a fixed front end up to a Log in float: it is preprocessing.

Which operators belong to it, :mod:`..analysis.preprocessing` says. Linear ones get no encoders
(``encode_edges.py``), floors become no neurons, and its curves are no activations in the report.
"""

from __future__ import annotations

from ..analysis.activations import is_activation, mark_kept, why_kept
from ..analysis.operators import is_linear
from ..analysis.preprocessing import find_preprocessing
from ..graph.graph import Graph, Node, PassResult

_PREPROCESSING = "preprocessing, up to "


def keep_preprocessing(graph: Graph) -> PassResult:
    """Mark them."""
    changes = []
    for node, compression in find_preprocessing(graph).nodes:
        mark_kept(node, f"{_PREPROCESSING}{compression.op} {compression.name}")
        if is_linear(node) or is_activation(node):
            changes.append(f"{node.op} {node.name}: preprocessing, stays in float")
    return PassResult(graph, changes)


def is_preprocessing(node: Node) -> bool:
    """Whether the pass marked a node."""
    return why_kept(node).startswith(_PREPROCESSING)
