"""What the neurons of a spiking network fire on the samples, and where their spikes go.

All of it is counted inside the graph while the network runs, exactly; no activation leaves the
runtime. Codes of the spikes (``codes.py``) are summed over samples (``maps.py``); ``Observe`` makes
the histograms of levels; ``synapses.py`` puts counts and fan-out together.

1. A neuron is a position of a neuron node's tensor within a sample. It is silent if it fires on no
   sample, saturated if it is at an outermost level on every sample, at every timestep. Where inputs
   come in several sizes, positions of each size are neurons of their own.
2. A value is clipped if one level more would have changed it; of MultiThresholdFire only, since the
   outer levels of a ScaleFire have no end, and an IntegrateFire carries over what it did not fire.
3. Of neurons with more than 256 levels (a MultiThresholdFire: 254) level counts are empty and the
   entropy is nan.
4. Of a branch of If that is not taken nothing is counted; shares over no values are 0.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

import numpy as np
from onnx import NodeProto

from ...passes.graph.graph import METADATA_PREFIX
from ...passes.graph.network import Network
from ...runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE
from ..errors import DataError
from ..running.histograms import Observations, Watch, with_histograms
from ..running.signed_histogram import SignedHistogram
from .batch import Batch
from .codes import Codes
from .maps import CountMap
from .pack import Packed, tables_of_neuron
from .results import NeuronResult, SynapseResult
from .synapses import SynapseCounter, Synapses
from .twins import Twins


class SpikeMeter:
    """Counts spikes and synaptic operations of a network while it runs.

    Attributes:
        network: a copy of the network that counts, for a session that has the library. Its outputs
            are the tensors ``keep``, and behind them the counts.
        samples: how many were added.
    """

    def __init__(
        self,
        snn: Network,
        keep: Sequence[str],
        unbatched: Set[str] = frozenset(),
        runs: int = 1,
    ) -> None:
        """Put twins beside the neurons, and beside the linear operators what counts their input.

        Args:
            snn: spiking network with float32 neurons; of IntegrateFire, every step is counted.
            keep: names of tensors to give out too.
            unbatched: inputs without a batch axis (``Samples.unbatched``). Samples are counted
                along axis 0 of the first input that is none of them.
            runs: how many runs follow on one another until there is a result; level counts come
                with the last of as many, all at once.

        Raises:
            ModelError: its inputs have an axis of timesteps, or a neuron's levels are not constant.
        """
        self.samples = 0
        twins = Twins(snn, "counted")
        codes = Codes(twins)
        batch = Batch(twins, _batched_input(snn, unbatched))
        maps: dict[tuple[int, str, bool], CountMap] = {}
        self._neurons = []
        for home, node, tensor in codes.neurons():
            packed = Packed.of(twins, home, tables_of_neuron(twins, codes, home, node))
            span = codes.span_of(node)
            rows = batch.rows(home, packed.tensors[0], codes.length_of(tensor), span.timesteps)
            counts = CountMap(twins, home, packed, span, rows, observed=True)
            maps[id(home), node.output[0], False] = counts
            self._neurons.append(_Neuron(node, counts))
        self._synapses = list(Synapses(twins, codes, batch, maps).counters())
        self._maps = list(maps.values())
        self._parts: list[CountMap | SynapseCounter] = [*self._maps, *self._synapses]
        names = [batch.size, *(name for part in self._parts for name in part.outputs)]
        self._distinct = list(dict.fromkeys(names))
        self._kept = len(keep)
        watches = [watch for neuron in self._neurons for watch in neuron.watches()]
        self._observations = Observations(watches)
        self.network = with_histograms(twins.finish(), watches, [*keep, *self._distinct], runs)

    def add(self, outputs: Sequence[np.ndarray]) -> None:
        """Add what one run of :attr:`network` gave.

        Raises:
            DataError: a membrane potential was NaN, in this run or an earlier one.
        """
        end = self._kept + len(self._distinct)
        counts = dict(zip(self._distinct, outputs[self._kept : end], strict=True))
        self.samples += int(counts[self._distinct[0]][0])
        for part in self._parts:
            part.add([counts[name] for name in part.outputs])
        self._observations.add(outputs[end:])

    def result(self) -> tuple[list[NeuronResult], list[SynapseResult]]:
        """Each neuron node and each linear operator, in order, those in bodies of If included.

        Raises:
            DataError: nothing was added, or a membrane potential was NaN.
        """
        if not self.samples:
            raise DataError("no sample was run, so there are no spikes to count; give samples")
        neurons = [
            neuron.result(self._observations.histograms, self.samples) for neuron in self._neurons
        ]
        return neurons, [synapse.result(self.samples) for synapse in self._synapses]


class _Neuron:
    """A neuron node, what counts it and what is observed of it."""

    def __init__(self, node: NodeProto, counts: CountMap) -> None:
        self._node, self._counts, self._span = node, counts, counts.span

    def watches(self) -> list[Watch]:
        """The tensor by which a histogram tells the levels apart, if one does."""
        levels, tensor = self._counts.levels, self._counts.observed
        return [] if levels is None else [Watch(tensor, None, 1, levels.bins, levels.top)]

    def result(self, histograms: dict[str, SignedHistogram], samples: int) -> NeuronResult:
        counts, span = self._counts, self._span
        silent, saturated, positions = self._shares()
        total = sum(len(t.counts["events"]) * t.samples for t in counts.totals.values())
        values = max(total, 1)
        levels = []
        if counts.levels is not None:
            seen = counts.levels.level_counts(histograms[counts.observed], span.low, total)
            levels = [int(count) for count in seen]
        shares = np.array([count for count in levels if count]) / values
        entropy = float(abs((shares * np.log2(shares)).sum()))
        source = {p.key: p.value for p in self._node.metadata_props}
        clips = self._node.op_type == MULTI_THRESHOLD_FIRE.name
        return NeuronResult(
            name=self._node.name,
            op=self._node.op_type,
            source_node=source.get(METADATA_PREFIX + "source_node", ""),
            source_op=source.get(METADATA_PREFIX + "source_op", ""),
            neurons=positions,
            levels=(-span.low, span.high),
            firing_rate=counts.sum("spikes") / values,
            active=counts.sum("events") / values,
            silent_neurons=silent,
            saturated_neurons=saturated,
            clip_rate=counts.sum("clipped") / values if clips else None,
            entropy=float("nan") if counts.levels is None else entropy,
            level_counts=levels,
            lowest_level=span.low,
            timesteps=span.timesteps,
            spikes=counts.sum("spikes") / samples,
        )

    def _shares(self) -> tuple[float, float, int]:
        """Shares of silent and of saturated neurons, and how many there are."""
        silent = saturated = positions = 0
        low, high = -self._span.low, self._span.high
        for totals in self._counts.totals.values():
            events = totals.counts["events"]
            positions += len(events)
            silent += int((events == 0).sum())
            # The most it may have fired on samples of the signs that it had.
            one_sign = 0 if high else totals.samples
            negative = totals.counts.get("negative", one_sign)
            most = low * negative + high * (totals.samples - negative)
            saturated += int(((totals.counts["spikes"] == most) & (events > 0)).sum())
        return silent / max(positions, 1), saturated / max(positions, 1), positions


def _batched_input(snn: Network, unbatched: Set[str]) -> str | None:
    """The first input with a batch axis."""
    initialised = {tensor.name for tensor in snn.proto.graph.initializer}
    for value in snn.proto.graph.input:
        known = value.type.tensor_type.shape.dim
        if value.name not in initialised and value.name not in unbatched and len(known):
            return str(value.name)
    return None
