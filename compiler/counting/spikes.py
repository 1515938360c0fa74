"""What the neurons of a spiking network fire on the samples, and where their spikes go.

All of it is counted inside the graph while the network runs, exactly; no activation leaves the
runtime. ``neuron_spikes.py`` says what is counted, ``fired.py`` counts over all values of a neuron,
``maps.py`` sums over samples at each position, ``synapses.py`` puts maps and fan-out together.

1. A neuron is a position of a neuron node's tensor within a sample. It is silent if it fires on no
   sample, saturated if it is at an outermost level on every sample, at every timestep. Where inputs
   come in several sizes, positions of each size are neurons of their own.
2. Of neurons with too many levels to tell (``fired.py``; a MultiThresholdFire: more than 1,023)
   level counts are empty and the entropy is nan.
3. Of a branch of If that is not taken nothing is counted; shares over no values are 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from ...passes.graph.graph import METADATA_PREFIX
from ...passes.graph.network import Network
from ..errors import DataError
from ..running.histograms import Observations, with_histograms
from .batch import Batch
from .codes import Codes
from .fired import Fired, FiredCounter
from .insertion import Insertion
from .maps import CountMap, CountMaps
from .neuron_spikes import NeuronSpikes
from .results import NeuronResult, SynapseResult
from .spans import Spans
from .synapses import SynapseCounter, Synapses


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
        """Count at the neurons, and at the inputs of the linear operators.

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
        insert = Insertion(snn, "counted")
        of_neurons = NeuronSpikes(insert)
        spans = Spans(insert, of_neurons)
        codes = Codes(insert, of_neurons, spans)
        maps = CountMaps(insert, codes, spans, Batch(insert, _batched_input(snn, unbatched)))
        self._neurons = [
            (FiredCounter(of_neurons, home, node), maps.of(home, tensor))
            for home, node, tensor in spans.neurons()
        ]
        self._synapses = list(Synapses(insert, codes, spans, maps).counters())
        self._maps = maps.made
        self._parts: list[CountMap | SynapseCounter] = [*self._maps, *self._synapses]
        names = [maps.batch_size, *(name for part in self._parts for name in part.outputs)]
        self._distinct = list(dict.fromkeys(names))
        self._kept = len(keep)
        self._watches = watches = [w for counter, _ in self._neurons for w in counter.watches]
        self._observations = Observations(watches)
        self.network = with_histograms(insert.finish(), watches, [*keep, *self._distinct], runs)

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

    def settle(self) -> None:
        """Look at all that was added.

        Raises:
            DataError: a membrane potential was NaN.
        """
        for part in self._maps:
            for totals in part.totals.values():
                _ = totals.counts

    def state(self) -> dict[str, Any]:
        """What :meth:`merge` takes: all that was added since the last :meth:`clear`.

        All of it are integers, so it does not matter in what parts samples are counted.

        Raises:
            DataError: a membrane potential was NaN.
        """
        return {
            "samples": self.samples,
            "parts": [part.state() for part in self._parts],
            "observations": self._observations.state(),
        }

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add what a meter of the same network has counted of samples behind these."""
        self.samples += state["samples"]
        for part, own in zip(self._parts, state["parts"], strict=True):
            part.merge(own)
        self._observations.merge(state["observations"])

    def clear(self) -> None:
        """Forget what was added."""
        self.samples = 0
        for part in self._parts:
            part.clear()
        self._observations = Observations(self._watches)

    def result(self) -> tuple[list[NeuronResult], list[SynapseResult]]:
        """Each neuron node and each linear operator, in order, those in bodies of If included.

        Raises:
            DataError: nothing was added, or a membrane potential was NaN.
        """
        if not self.samples:
            raise DataError("no sample was run, so there are no spikes to count; give samples")
        neurons = []
        for counter, counts in self._neurons:
            fired = counter.read(self._observations.histograms)
            neurons.append(_neuron_result(counter, counts, fired, self.samples))
        return neurons, [synapse.result(self.samples) for synapse in self._synapses]


def _neuron_result(
    counter: FiredCounter, counts: CountMap, fired: Fired, samples: int
) -> NeuronResult:
    """Both counts of a neuron node, put together.

    Raises:
        ValueError: they are not of as many values; not all runs were made that belong together.
    """
    node, span = counter.node, counter.span
    silent, saturated, positions, total = _shares(counts)
    if fired.values != total:
        raise ValueError(f"{total} values were counted, and {fired.values} were observed")
    values = max(total, 1)
    shares = np.array([count for count in fired.level_counts if count]) / values
    entropy = float(abs((shares * np.log2(shares)).sum()))
    source = {p.key: p.value for p in node.metadata_props}
    return NeuronResult(
        name=node.name,
        op=node.op_type,
        source_node=source.get(METADATA_PREFIX + "source_node", ""),
        source_op=source.get(METADATA_PREFIX + "source_op", ""),
        neurons=positions,
        levels=span.levels,
        spike_range=(span.low, span.high),
        spikes_per_value=fired.spikes / values,
        active=(total - fired.silent) / values,
        silent_neurons=silent,
        saturated_neurons=saturated,
        clip_rate=fired.clipped / values if counter.clips else None,
        entropy=entropy if counter.levels else float("nan"),
        level_counts=fired.level_counts,
        level_spikes=counter.levels,
        timesteps=span.timesteps,
        spikes=fired.spikes / samples,
    )


def _shares(counts: CountMap) -> tuple[float, float, int, int]:
    """Shares of silent and of saturated neurons, how many there are, and how many values."""
    silent = saturated = positions = values = 0
    most = max(counts.span.high, -counts.span.low, 1)
    for totals in counts.totals.values():
        found = totals.counts
        positions += len(found["events"])
        values += len(found["events"]) * totals.samples
        silent += int((found["events"] == 0).sum())
        # Of one sign all are outermost if the spikes are as many as there can be.
        outermost = found.get("outermost", found["spikes"] // most)
        saturated += int((outermost == totals.samples).sum())
    return silent / max(positions, 1), saturated / max(positions, 1), positions, values


def _batched_input(snn: Network, unbatched: Set[str]) -> str | None:
    """The first input with a batch axis."""
    initialised = {tensor.name for tensor in snn.proto.graph.initializer}
    for value in snn.proto.graph.input:
        known = value.type.tensor_type.shape.dim
        if value.name not in initialised and value.name not in unbatched and len(known):
            return str(value.name)
    return None
