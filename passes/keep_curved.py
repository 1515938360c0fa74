"""Keep curved activations in float, where neurons integrate and fire over several timesteps.

A step fires multiples of one threshold, whose sum follows Relu, Clip from 0, LeakyRelu and PRelu.
Of any other function the neuron of one timestep follows the curve with its levels, which steps
cannot share. So

1. an activation with a function of its own stays, computed on the running mean over steps;
2. what linear operators read of it is encoded like every other analog value (``encode_edges.py``).
"""

from __future__ import annotations

from .activations import find_activations, is_encoder, mark_kept
from .graph import Graph, PassResult, scopes

_REASON = "over several timesteps it stays in float; what linear operators read of it is encoded"


def keep_curved(graph: Graph) -> PassResult:
    """Mark the activations of rule 1."""
    curved = {a.output for a in find_activations(graph)[0] if a.function is not None}
    changes = []
    for scope in scopes(graph):
        for node in scope.graph.nodes:
            if node.outputs and node.outputs[0].name in curved and not is_encoder(node):
                mark_kept(node, _REASON)
                changes.append(f"{node.op} {node.name}: stays in float")
    return PassResult(graph, changes)
