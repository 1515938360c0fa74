"""The counts in the terms of NeuroBench (Nat. Commun. 16:1545, 2025), as its harness defines them.

Activation sparsity is the share of activations that are 0, over all layers, timesteps and samples.
Synaptic operations are dense (all of them), or effective: those of an activation and a weight that
are not 0; accumulates (ACs) where activations are binary, else multiply-accumulates (MACs).
Ours are means per sample and leave weights that are 0 out of the dense ones too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..counting.results import NeuronResult, SynapseResult


def neurobench_terms(
    neurons: Sequence[NeuronResult], synapses: Sequence[SynapseResult]
) -> dict[str, float]:
    """What NeuroBench would call our counts.

    Returns:
        "activation_sparsity"; "dense"; "effective_macs" of the network as it is, with spikes of
        several sizes; "effective_acs" of the same network with binary spikes, and
        "effective_macs_of_binary", what of it still multiplies. Operators that read no spikes are
        in the MACs with all their products: whether their input is 0 is not counted.
    """
    values = sum(neuron.neurons * neuron.timesteps for neuron in neurons)
    fired = math.fsum(neuron.active * neuron.neurons * neuron.timesteps for neuron in neurons)
    analog = math.fsum(s.macs * s.repeats for s in synapses if s.analog)
    return {
        "activation_sparsity": 1 - fired / values if values else 0.0,
        "dense": math.fsum(synapse.macs * synapse.repeats for synapse in synapses),
        "effective_macs": math.fsum(synapse.graded for synapse in synapses) + analog,
        "effective_acs": math.fsum(synapse.unary for synapse in synapses),
        "effective_macs_of_binary": analog,
    }
