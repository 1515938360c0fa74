"""Keep activations in float whose neurons only follow what they give.

1. Curved activations. The levels of ScaleFire, and what a step of several fires, are multiples of
   one step, which follow Relu, Clip from 0, LeakyRelu and PRelu. Any other function only a
   StaircaseFire follows, with its levels.
2. Over several timesteps all activations, where neurons shall be signed. What a Relu lets through
   early may prove too much once later, negative currents have come; a neuron that only fires
   positive spikes cannot take it back. So the activation is computed on the running mean of its
   current, and a neuron of both polarities follows that: its negative spikes take back earlier
   ones, and the spikes fired so far stay within half a threshold of the activation unless it moves
   by more than a step can fire. Neurons with such a memory are known; this is our form of them.

What linear operators read of either is encoded like every other analog value
(``encode_edges.py``).
"""

from __future__ import annotations

from ..analysis.activations import find_activations, is_encoder, mark_kept
from ..graph.graph import Graph, PassResult, scopes

_CURVED = "it stays in float; what linear operators read of it is encoded"
_SIGNED = "on the running mean of its current; a signed neuron follows it where it is read"
#: What is said of activations that this pass keeps: a neuron follows them wherever they are read.
FOLLOWED = frozenset({_CURVED, _SIGNED})


def keep_activations(graph: Graph, signed: bool = False, one_step: bool = False) -> PassResult:
    """Mark the activations of rule 1, or with ``signed`` those of rule 2.

    Args:
        graph: canonical.
        signed: neurons shall be signed.
        one_step: the levels of either sign are multiples of one step: LeakyRelu and PRelu, whose
            levels have two, are kept like curved activations.
    """
    found = find_activations(graph)[0]
    wanted = {a.output for a in found if signed or not a.linear or (one_step and a.signed)}
    changes = []
    for scope in scopes(graph):
        for node in scope.graph.nodes:
            if node.outputs and node.outputs[0].name in wanted and not is_encoder(node):
                mark_kept(node, _SIGNED if signed else _CURVED)
                changes.append(f"{node.op} {node.name}: stays in float")
    return PassResult(graph, changes)
