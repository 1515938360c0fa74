"""What each neuron of a spiking network does on the samples: clipped, silent, spikes.

It is counted inside the graph (``fired.py``). Of an IntegrateFire shares and means are of the
spikes of one timestep. Of a branch of If that is not taken nothing is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from ...passes.graph.network import Network
from ..running.histograms import Observations, with_histograms
from .fired import Fired, FiredCounter
from .insertion import Insertion
from .neuron_spikes import NeuronSpikes, neurons_with_graphs


@dataclass
class NeuronActivity:
    """What one neuron did on the samples, as shares and means over all its values.

    Attributes:
        name: node name.
        clip_rate: share beyond the highest level of a MultiThresholdFire; nan for other neurons.
        silent_values: share that fires no spike.
        spikes_per_value: mean number of unit spikes |k|.
    """

    name: str
    clip_rate: float
    silent_values: float
    spikes_per_value: float


class ActivityMeter:
    """Counts what the neurons of a network do while it runs.

    Attributes:
        network: a copy of the network that counts, for a session that has the library. Its outputs
            are the tensors ``keep``, and behind them the counts.
    """

    def __init__(self, snn: Network, keep: Sequence[str], runs: int = 1) -> None:
        """Observe the neurons.

        Args:
            snn: spiking network with float32 neurons.
            keep: names of tensors to give out too.
            runs: the counts come with the last of so many runs, all at once.

        Raises:
            ModelError: a neuron's levels are not constant.
        """
        insert = Insertion(snn, "activity")
        neurons = NeuronSpikes(insert)
        self._counters = [
            FiredCounter(neurons, *found) for found in neurons_with_graphs(insert.proto.graph)
        ]
        # NaN is told from silence only where the largest value is looked for.
        watches = [replace(w, top=0) for counter in self._counters for w in counter.watches]
        self.network = with_histograms(insert.finish(), watches, keep, runs)
        self._kept = len(keep)
        self._observations = Observations(watches)

    def add(self, outputs: Sequence[np.ndarray]) -> None:
        """Add what one run of :attr:`network` gave."""
        self._observations.add(outputs[self._kept :])

    def fired(self) -> list[tuple[NodeProto, Fired]]:
        """Each neuron with its counts, those in control-flow bodies included."""
        histograms = self._observations.histograms
        return [(counter.node, counter.read(histograms)) for counter in self._counters]

    def result(self) -> list[NeuronActivity]:
        """The activity of each neuron, in the same order."""
        return [
            _activity(counter, counter.read(self._observations.histograms))
            for counter in self._counters
        ]


def _activity(counter: FiredCounter, fired: Fired) -> NeuronActivity:
    values = max(fired.values, 1)
    clipped = fired.clipped / values if counter.clips else float("nan")
    return NeuronActivity(counter.node.name, clipped, fired.silent / values, fired.spikes / values)
