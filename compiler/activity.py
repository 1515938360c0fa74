"""What each neuron of a spiking network does on the samples: clipped, silent, spikes.

It is counted inside the graph, so that no activation leaves the runtime, and every count is exact.

1. Beside a neuron, in the same graph or body, stands a twin: an operator of the same kind that sees
   the same membrane potential and makes the same comparisons, but gives other values. ``Observe``
   makes their histogram.
2. The twin of a ScaleFire gives a code of the level: c = 1 + its distance from the silent level,
   negative where the neuron's output is 0. Codes are 1..256, and the histogram has a bin for each:

       spikes = sum of (|c| - 1)    silent = how often c < 0

   A step that all channels share moves into the twin's thresholds, rounded as the kernel rounds
   their product. Otherwise the twin's values, multiples of the channel's step, are divided by it.
   Roundings reach no other bin: codes are a quarter above an integer.
3. The outputs of a MultiThresholdFire are divided by theta and rounded: the spikes k. Its twin has
   one level more on each side that has any, and a value is clipped where the two differ.
4. Of a branch of If that is not taken nothing is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from ..passes.graph import initializers_below, unused_prefix
from ..passes.network import Network, is_detached
from ..runtime_ops.definition import DOMAIN, MAX_LEVELS
from ..runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE
from ..runtime_ops.scale_fire import SCALE_FIRE
from .calibration.histogram import SignedHistogram
from .calibration.observe import Observations, Watch, with_histograms

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
        proto = ModelProto()
        proto.CopyFrom(snn.proto)
        twins = _Twins(proto, _constants(snn))
        self._counters = [twins.add(graph, neuron) for graph, neuron in _neurons_below(proto.graph)]
        watches = [
            Watch(tensor, None, 1) for counter in self._counters for tensor in counter.tensors
        ]
        self.network = with_histograms(Network(proto, snn.weights), watches, keep)
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
    """A MultiThresholdFire: the tensors of its spikes, and of what one more level would add."""

    name: str
    spikes: str
    beyond: str

    @property
    def tensors(self) -> tuple[str, ...]:
        return (self.spikes, self.beyond)

    def read(self, histograms: Mapping[str, SignedHistogram]) -> NeuronActivity:
        histogram = histograms[self.spikes]
        total = _total(histogram)
        means, counts = histogram.distribution(0)
        _, clipped = _zeros_and_others(histograms[self.beyond])
        silent, _ = _zeros_and_others(histogram)
        spikes = np.rint(np.abs(means) * counts).sum()
        return NeuronActivity(self.name, clipped / total, silent / total, float(spikes / total))


def _total(histogram: SignedHistogram) -> int:
    """How many values the neuron had, NaN among them; at least 1."""
    return max(int(histogram.values[0] + histogram.not_finite[0]), 1)


def _zeros_and_others(histogram: SignedHistogram) -> tuple[int, int]:
    """How many values are 0, and how many are not."""
    means, counts = histogram.distribution(0)
    zeros = int(counts[means == 0].sum())
    return zeros, int(counts.sum()) - zeros


class _Twins:
    """Adds twins and what makes them countable to the graphs of a model.

    Args:
        proto: the model.
        constants: small initializers and detached weights by name.
    """

    def __init__(self, proto: ModelProto, constants: Mapping[str, np.ndarray]) -> None:
        self._constants = constants
        self._prefix = unused_prefix(proto.graph, "activity")
        self._made = 0

    def add(self, graph: GraphProto, neuron: NodeProto) -> _ScaleCounter | _ThresholdCounter:
        """Count a neuron of ``graph``, which is a body or the main graph."""
        if neuron.op_type == MULTI_THRESHOLD_FIRE.name:
            return self._add_threshold(graph, neuron)
        return self._add_scale(graph, neuron)

    def _add_scale(self, graph: GraphProto, neuron: NodeProto) -> _ScaleCounter:
        scale, thresholds, levels = (self._constants[name] for name in neuron.input[1:])
        distance = np.abs(np.arange(len(levels)) - int(np.abs(levels).argmin()))
        codes = np.where(levels == 0, -1, 1) * (1 + distance + _ABOVE) / _UNIT
        if scale.size > 1:
            scaled = self._scale_fire(graph, neuron, neuron.input[2], codes)
            return _ScaleCounter(
                neuron.name, self._node(graph, "Div", scaled, self._steps(graph, neuron))
            )
        own = self._constant(graph, (scale * thresholds).reshape(-1))
        return _ScaleCounter(neuron.name, self._scale_fire(graph, neuron, own, codes, step=1.0))

    def _add_threshold(self, graph: GraphProto, neuron: NodeProto) -> _ThresholdCounter:
        fired, theta = neuron.output[0], neuron.input[1]
        if self._constants[theta].size > 1:
            theta = self._steps(graph, neuron)
        spikes = self._node(graph, "Round", self._node(graph, "Div", fired, theta))
        attributes = MULTI_THRESHOLD_FIRE.defaults | _attributes(neuron)
        for side in ("levels_pos", "levels_neg"):
            # A side without levels is cut off by the function, it does not saturate.
            attributes[side] = min(attributes[side] + (attributes[side] > 0), MAX_LEVELS)
        raised = self._neuron(graph, neuron.op_type, list(neuron.input), attributes)
        return _ThresholdCounter(neuron.name, spikes, self._node(graph, "Sub", raised, fired))

    def _steps(self, graph: GraphProto, neuron: NodeProto) -> str:
        """The step or threshold of each of the neuron's values."""
        nothing = self._constant(graph, [0.0])
        return self._scale_fire(graph, neuron, nothing, [1.0, 1.0])

    def _scale_fire(
        self,
        graph: GraphProto,
        neuron: NodeProto,
        thresholds: str,
        levels: ArrayLike,
        step: float | None = None,
    ) -> str:
        """A ScaleFire of the neuron's membrane potential, and of its step if none is given."""
        own = neuron.input[1] if step is None else self._constant(graph, step)
        inputs = [neuron.input[0], own, thresholds, self._constant(graph, levels)]
        axis = {name: value for name, value in _attributes(neuron).items() if name == "axis"}
        return self._neuron(graph, SCALE_FIRE.name, inputs, axis)

    def _neuron(
        self, graph: GraphProto, op: str, inputs: list[str], attributes: dict[str, Any]
    ) -> str:
        return self._node(graph, op, *inputs, domain=DOMAIN, **attributes)

    def _node(self, graph: GraphProto, op: str, *inputs: str, **attributes: Any) -> str:
        name = self._name()
        graph.node.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def _constant(self, graph: GraphProto, values: ArrayLike) -> str:
        name = self._name()
        graph.initializer.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def _name(self) -> str:
        self._made += 1
        return f"{self._prefix}.{self._made}"


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _constants(network: Network) -> dict[str, np.ndarray]:
    """The values of all initializers by name, wherever they are held."""
    values = dict(network.weights)
    for tensor in initializers_below(network.proto.graph):
        if not is_detached(tensor):
            values[tensor.name] = numpy_helper.to_array(tensor)
    return values


def _neurons_below(graph: GraphProto) -> Iterator[tuple[GraphProto, NodeProto]]:
    """Each neuron and the graph or body that it is in; nodes may be added meanwhile."""
    for node in list(graph.node):
        if node.domain == DOMAIN:
            yield graph, node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _neurons_below(attribute.g)
