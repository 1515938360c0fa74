"""From a calibrated network, or a part of one, to its spiking counterpart."""

from __future__ import annotations

from collections.abc import Mapping

from ...passes.graph.network import Network
from ...passes.graph.surgeon import export_network, import_model
from ...passes.neurons.insert_quant_clip import insert_quant_clip
from ...passes.neurons.neuron import Neuron
from ...passes.neurons.replace_activation import replace_activation


def fire(network: Network, neurons: Mapping[str, Neuron]) -> Network:
    """The network with neurons in place of the activations that have one.

    Args:
        network: canonical ANN; it stays as it is.
        neurons: by the activation's output tensor; others may be among them.
    """
    graph = insert_quant_clip(import_model(network), neurons).graph
    return export_network(replace_activation(graph).graph)
