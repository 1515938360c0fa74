"""The form of a compiled network in which its spikes are counted: with neurons."""

from __future__ import annotations

from ...runtime_ops.definition import MIN_OPSET
from ..graph.network import Network
from ..graph.surgeon import export_network, import_model, infer_shapes
from .multi_threshold import holds_multi_thresholds
from .spikes_of_integers import holds_integers, spikes_of_integers
from .spikes_of_thresholds import spikes_of_thresholds
from .standard_ops import holds_chains, spikes_of_standard


def spiking_form(network: Network) -> Network:
    """The network with neurons and float spikes.

    Itself where it holds neither integers of ours, nor neurons as chains of standard operators or
    as thresholds. It has the opset that counting needs: what was written at an older one is the
    same there.
    """
    if holds_integers(network):
        back = spikes_of_integers
    elif holds_chains(network):
        back = spikes_of_standard
    elif holds_multi_thresholds(network):
        back = spikes_of_thresholds
    else:
        return network
    graph = infer_shapes(import_model(network))  # the file leaves them out
    spiking = export_network(back(graph).graph)
    for imported in spiking.proto.opset_import:
        if imported.domain in ("", "ai.onnx"):
            imported.version = max(imported.version, MIN_OPSET)
    return spiking
