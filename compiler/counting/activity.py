"""What each neuron of a spiking network does on the samples: clipped, silent, spikes.

It is counted inside the graph, so that no activation leaves the runtime, and every count is exact.

1. Beside a neuron stands a twin (``twins.py``, which also defines the spikes k). ``Observe`` makes
   the histogram of its values.
2. The twin of a ScaleFire gives a code of the level: c = 1 + |k|, negative where the neuron's
   output is 0. Codes are 1..256, and the histogram has a bin for each:

       spikes = sum of (|c| - 1)    silent = how often c < 0

   A step that all channels share moves into the twin's thresholds, rounded as the kernel rounds
   their product. Otherwise the twin's values, multiples of the channel's step, are divided by it.
   Roundings reach no other bin: codes are a quarter above an integer.
3. The outputs of a MultiThresholdFire are divided by theta and rounded: the spikes k. Its twin has
   one level more on each side that has any, and a value is clipped where the two differ.
4. The outputs of an IntegrateFire are divided by theta and rounded too: the spikes of one timestep,
   which shares and means are of. What it could not fire it may fire later: no value is clipped.
5. Of a branch of If that is not taken nothing is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, NodeProto

from ...passes.graph.network import Network
from ...passes.graph.protos import nodes_with_graphs
from ...runtime_ops.definition import DOMAIN
from ...runtime_ops.integrate_fire import INTEGRATE_FIRE
from ...runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE
from ...runtime_ops.scale_fire import spikes_of_levels
from ..running.histograms import Observations, Watch, with_histograms
from ..running.signed_histogram import SignedHistogram
from .twins import Twins, raised_attributes

#: What a code is above an integer, so that rounding errors on either side keep its bin.
_ABOVE = 0.25
#: Codes are divided by a power of two that keeps them near 1: no step times a code overflows.
_UNIT = 256


@dataclass
class NeuronActivity:
    """What one neuron did on the samples, as shares and means over all its values.

    Attributes:
        name: node name.
        clip_rate: share beyond the highest level of a MultiThresholdFire; nan for a ScaleFire,
            whose outer levels have no end.
        silent_rate: share that fires no spike: the output is 0.
        mean_spikes: mean number of spikes |k|; of a ScaleFire, levels away from the silent one.
    """

    name: str
    clip_rate: float
    silent_rate: float
    mean_spikes: float


class ActivityMeter:
    """Counts what the neurons of a network do while it runs.

    Attributes:
        network: a copy of the network that counts, for a session that has the library. Its outputs
            are the tensors ``keep``, and behind them the counts.
    """

    def __init__(self, snn: Network, keep: Sequence[str]) -> None:
        """Put twins beside the neurons.

        Args:
            snn: spiking network with float32 neurons.
            keep: names of tensors to give out too.
        """
        twins = Twins(snn, "activity")
        counting = _Counting(twins)
        self._counters = [
            counting.add(home, node)
            for home, node in nodes_with_graphs(twins.proto.graph)
            if node.domain == DOMAIN
        ]
        watches = [
            Watch(tensor, None, 1) for counter in self._counters for tensor in counter.tensors
        ]
        self.network = with_histograms(Network(twins.proto, snn.weights), watches, keep)
        self._kept = len(keep)
        self._observations = Observations(watches)

    def add(self, outputs: Sequence[np.ndarray]) -> None:
        """Add what one run of :attr:`network` gave."""
        self._observations.add(outputs[self._kept :])

    def result(self) -> list[NeuronActivity]:
        """The activity of each neuron, those in control-flow bodies included."""
        return [counter.read(self._observations.histograms) for counter in self._counters]


@dataclass(frozen=True)
class _ScaleCounter:
    """A ScaleFire: the tensor of its codes."""

    name: str
    codes: str

    @property
    def tensors(self) -> tuple[str, ...]:
        return (self.codes,)

    def read(self, histograms: Mapping[str, SignedHistogram]) -> NeuronActivity:
        histogram = histograms[self.codes]
        total = _total(histogram)
        means, counts = histogram.distribution(0)
        codes = np.floor(np.abs(means) * _UNIT)
        silent = counts[means < 0].sum()
        spikes = counts @ (codes - 1)
        return NeuronActivity(self.name, float("nan"), silent / total, spikes / total)


@dataclass(frozen=True)
class _ThresholdCounter:
    """The tensors of the spikes, and, of a MultiThresholdFire, of what one more level would add."""

    name: str
    spikes: str
    beyond: str | None

    @property
    def tensors(self) -> tuple[str, ...]:
        return (self.spikes,) if self.beyond is None else (self.spikes, self.beyond)

    def read(self, histograms: Mapping[str, SignedHistogram]) -> NeuronActivity:
        histogram = histograms[self.spikes]
        total = _total(histogram)
        means, counts = histogram.distribution(0)
        clip_rate = float("nan")
        if self.beyond is not None:
            clip_rate = _zeros_and_others(histograms[self.beyond])[1] / total
        silent, _ = _zeros_and_others(histogram)
        spikes = np.rint(np.abs(means) * counts).sum()
        return NeuronActivity(self.name, clip_rate, silent / total, float(spikes / total))


def _total(histogram: SignedHistogram) -> int:
    """How many values the neuron had, NaN among them; at least 1."""
    return max(int(histogram.values[0] + histogram.not_finite[0]), 1)


def _zeros_and_others(histogram: SignedHistogram) -> tuple[int, int]:
    """How many values are 0, and how many are not."""
    means, counts = histogram.distribution(0)
    zeros = int(counts[means == 0].sum())
    return zeros, int(counts.sum()) - zeros


class _Counting:
    """Puts beside each neuron what counts it."""

    def __init__(self, twins: Twins) -> None:
        self._twins = twins

    def add(self, graph: GraphProto, neuron: NodeProto) -> _ScaleCounter | _ThresholdCounter:
        """Count a neuron of ``graph``, which is a body or the main graph."""
        if neuron.op_type in (MULTI_THRESHOLD_FIRE.name, INTEGRATE_FIRE.name):
            return self._add_threshold(graph, neuron)
        return self._add_scale(graph, neuron)

    def _add_scale(self, graph: GraphProto, neuron: NodeProto) -> _ScaleCounter:
        scale, _, levels = self._twins.parameters(neuron)
        distance = np.abs(spikes_of_levels(levels))
        codes = np.where(levels == 0, -1, 1) * (1 + distance + _ABOVE) / _UNIT
        if scale.size > 1:
            scaled = self._twins.scaled_staircase(graph, neuron, neuron.input[2], codes)
            codes_of_channels = self._twins.node(graph, "Div", scaled, self._steps(graph, neuron))
            return _ScaleCounter(neuron.name, codes_of_channels)
        return _ScaleCounter(neuron.name, self._twins.of_scale_fire(graph, neuron, codes))

    def _add_threshold(self, graph: GraphProto, neuron: NodeProto) -> _ThresholdCounter:
        twins, fired, theta = self._twins, neuron.output[0], neuron.input[1]
        if twins.parameters(neuron)[0].size > 1:
            theta = self._steps(graph, neuron)
        spikes = twins.node(graph, "Round", twins.node(graph, "Div", fired, theta))
        if neuron.op_type == INTEGRATE_FIRE.name:
            return _ThresholdCounter(neuron.name, spikes, None)
        attributes = raised_attributes(neuron)
        raised = twins.neuron(graph, neuron.op_type, *neuron.input, **attributes)
        return _ThresholdCounter(neuron.name, spikes, twins.node(graph, "Sub", raised, fired))

    def _steps(self, graph: GraphProto, neuron: NodeProto) -> str:
        """The step or threshold of each of the neuron's values."""
        nothing = self._twins.constant(graph, [0.0])
        return self._twins.scaled_staircase(graph, neuron, nothing, [1.0, 1.0])
