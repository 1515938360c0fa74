"""Write the functions that front-end passes put into a model as the operators that they stand for.

Runtimes other than ONNX Runtime often take no functions. Those of :data:`ANN_DOMAIN` are written
so; a model's own, which loading could not or need not inline, stay unless all are asked for.
"""

from __future__ import annotations

from onnx import inliner

from ..graph.graph import ANN_DOMAIN
from ..graph.network import Network
from ..graph.protos import nodes_below


def inline_functions(network: Network, every: bool = False) -> Network:
    """The network without these functions; the same where it has none.

    Args:
        network: any.
        every: those of the model's own too; one that cannot be inlined stays.
    """
    model = network.proto
    chosen = [(f.domain, f.name) for f in model.functions if every or f.domain == ANN_DOMAIN]
    if not chosen:
        return network
    inlined = inliner.inline_selected_functions(model, chosen)
    left = {node.domain for node in nodes_below(inlined.graph)} if every else set()
    gone = {domain for domain, _ in chosen} - left
    for kept in (inlined.functions, inlined.opset_import):
        remaining = [item for item in kept if item.domain not in gone]
        del kept[:]
        kept.extend(remaining)
    return Network(inlined, network.weights)
