"""What the LeakyRelus and PRelus of a network compute, for staircases that follow them."""

from __future__ import annotations

from ....passes.analysis.functions import ActivationFunction, NotANeuron, activation_function
from ....passes.graph.graph import scopes
from ....passes.graph.network import Network
from ....passes.graph.surgeon import import_model


def leaky_functions(network: Network) -> dict[str, ActivationFunction]:
    """The function of each LeakyRelu, and PRelu of one slope, by the tensor it writes.

    Args:
        network: the canonical ANN.
    """
    found = {}
    for scope in scopes(import_model(network)):
        for node in scope.graph.nodes:
            if node.op not in ("LeakyRelu", "PRelu"):
                continue
            try:
                found[node.outputs[0].name] = activation_function(node)
            except NotANeuron:  # a slope per channel, or one that is computed
                continue
    return found
