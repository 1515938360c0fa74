"""What a neuron fires in all, by a histogram of its levels: spikes, silent and clipped values.

``Observe`` makes the histogram inside the graph, so that no activation leaves the runtime and every
count is exact. ``neuron_spikes.py`` says what is counted.

1. Of a neuron whose levels a tensor tells apart that tensor is observed, in bins that tell them
   apart too (``level_bins.py``); where there are no such bins, the indices of the levels are.
2. Of one with more levels (256; of a MultiThresholdFire 254) the spikes are observed: the means of
   bins are exact, so spikes and silent values are. What is clipped is observed apart.
3. NaN fires nothing, but is a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, NodeProto

from ...runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE
from ..running.histograms import Watch
from ..running.signed_histogram import SignedHistogram
from .insertion import Insertion
from .level_bins import INDEX, LevelBins, level_bins
from .neuron_spikes import NeuronSpikes


@dataclass(frozen=True)
class Fired:
    """Counts over all values of a neuron; at several timesteps, of every step.

    Attributes:
        values: how many there were, NaN among them.
        spikes: sum of |k|.
        silent: how many fired none.
        clipped: how many are beyond the highest level.
        level_counts: how often each k was seen, from the lowest k to the highest; empty where there
            are too many to tell.
    """

    values: int
    spikes: int
    silent: int
    clipped: int
    level_counts: list[int]


class FiredCounter:
    """Observes one neuron.

    Attributes:
        node: the neuron.
        span: what it may fire.
        watches: what is to be observed.
    """

    def __init__(
        self, insert: Insertion, neurons: NeuronSpikes, home: GraphProto, node: NodeProto
    ) -> None:
        """Add what makes the tensors that are observed to the neuron's graph."""
        self.node, self.span = node, neurons.span(node)
        levels = neurons.levels(home, node)
        self._bins: LevelBins | None = None
        if levels is None:
            self.watches = [Watch(neurons.code(home, node), None, 1)]
            if self.clips:
                self.watches.append(Watch(neurons.clipped(home, node), None, 1))
            return
        tensor, bins = levels.tensor, level_bins(levels.values, levels.k)
        if bins is None:
            index = INDEX + np.arange(len(levels.k))
            tensor, bins = levels.map(insert, home, index), level_bins(index, levels.k)
        assert bins is not None  # indices have some
        self._bins = bins
        self.watches = [Watch(tensor, None, 1, bins.bins, bins.top)]

    @property
    def tells_levels(self) -> bool:
        """Whether there are level counts."""
        return self._bins is not None

    @property
    def clips(self) -> bool:
        """Whether the neuron is one whose values may be clipped."""
        return bool(self.node.op_type == MULTI_THRESHOLD_FIRE.name)

    def read(self, histograms: Mapping[str, SignedHistogram]) -> Fired:
        """What was observed."""
        first, *others = (histograms[watch.tensor] for watch in self.watches)
        values = int(first.values[0] + first.not_finite[0])
        if self._bins is None:
            means, counts = first.distribution(0)
            spikes = int(np.rint(np.abs(means) * counts).sum())
            clipped = sum(int(other.values[0]) - _zeros(other) for other in others)
            return Fired(values, spikes, _zeros(first), clipped, [])
        k, counts = self._bins.spikes(first)
        fired = np.clip(k, self.span.low, self.span.high)
        levels = np.zeros(self.span.levels + 1, np.int64)
        np.add.at(levels, fired - self.span.low, counts)
        clipped = int(counts[fired != k].sum())
        silent = int(levels[-self.span.low])
        return Fired(values, int(np.abs(fired) @ counts), silent, clipped, levels.tolist())


def _zeros(histogram: SignedHistogram) -> int:
    """How many values are 0."""
    means, counts = histogram.distribution(0)
    return int(counts[means == 0].sum())
