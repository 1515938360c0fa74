"""Write the functions that front-end passes put into a model as the operators that they stand for.

Runtimes other than ONNX Runtime often take no functions. Only those of :data:`ANN_DOMAIN` are
written so; a model's own, which loading could not inline, stay.
"""

from __future__ import annotations

from onnx import inliner

from ..graph.graph import ANN_DOMAIN
from ..graph.network import Network


def inline_functions(network: Network) -> Network:
    """The network without these functions; the same where it has none."""
    model = network.proto
    chosen = [(f.domain, f.name) for f in model.functions if f.domain == ANN_DOMAIN]
    if not chosen:
        return network
    inlined = inliner.inline_selected_functions(model, chosen)
    for kept in (inlined.functions, inlined.opset_import):
        remaining = [item for item in kept if item.domain != ANN_DOMAIN]
        del kept[:]
        kept.extend(remaining)
    return Network(inlined, network.weights)
