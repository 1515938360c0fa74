"""What a neuron fires in all, by a histogram of its levels: spikes, silent and clipped values.

``Observe`` makes the histogram inside the graph, so that no activation leaves the runtime and every
count is exact. ``neuron_spikes.py`` says what is counted.

1. Multiples of a step are observed, in bins of a histogram that tell the levels apart: k and the
   next lower level are in different bins where a bin's width is less than their distance, so it has
   2^p bins per octave with 2^p above the largest k / distance. Values of either are rounded by far
   less than what lies between.
2. The largest value is known, so ``Observe`` need not find it.
3. Where that takes more than :data:`_MOST_BINS` of either sign, there are too many levels to tell.
   The code is observed then: the means of bins are exact, so spikes and silent values are. What is
   clipped is observed apart.
4. NaN fires nothing, but is a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, NodeProto

from ...runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE
from ..running.histograms import Watch
from ..running.signed_histogram import SignedHistogram
from .neuron_spikes import NeuronSpikes

#: Bins of either sign, at most: more take longer to add up than values take to count.
_MOST_BINS = 1 << 13
#: Bins per octave as a power of two: what ``Observe`` takes, and where levels are not told apart.
_MOST_LEADING, _MEANS_LEADING = 10, 7
_EXPONENT_BIAS = 126  # of a mantissa from 1/2 to 1


@dataclass(frozen=True)
class Fired:
    """Counts over all values of a neuron; at several timesteps, of every step.

    Attributes:
        values: how many there were, NaN among them.
        spikes: sum of |k|.
        silent: how many fired none.
        clipped: how many are beyond the highest level.
        level_counts: how often each level was seen, from the lowest k to the highest; empty where
            there are too many to tell.
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
        levels: the k of each level, ascending; empty where there are too many to tell.
        watches: what is to be observed.
    """

    def __init__(self, neurons: NeuronSpikes, home: GraphProto, node: NodeProto) -> None:
        """Add what makes the tensors that are observed to the neuron's graph."""
        self.node, self.span = node, neurons.span(node)
        self.levels: list[int] = []
        self._unit = 1.0
        k = neurons.levels(node)
        if k is not None:
            tensor, unit = neurons.watched(home, node)
            clipped = [self.span.low - 1, self.span.high + 1] if self.clips else []
            leading, octaves, top = _bins(np.append(k, clipped), unit)
            if leading <= _MOST_LEADING and octaves << leading <= _MOST_BINS:
                self.levels, self._unit = k.tolist(), unit
                self.watches = [Watch(tensor, None, 1, (leading, octaves), top)]
                return
        _, octaves, top = _bins(np.array([self.span.low, self.span.high]), 1.0)
        bins = _MEANS_LEADING, octaves
        self.watches = [Watch(neurons.code(home, node), None, 1, bins, top)]
        if self.clips:
            self.watches.append(Watch(neurons.clipped(home, node), None, 1))

    @property
    def clips(self) -> bool:
        """Whether the neuron is one whose values may be clipped."""
        return bool(self.node.op_type == MULTI_THRESHOLD_FIRE.name)

    def read(self, histograms: Mapping[str, SignedHistogram]) -> Fired:
        """What was observed."""
        first, *others = (histograms[watch.tensor] for watch in self.watches)
        values = int(first.values[0] + first.not_finite[0])
        means, counts = first.distribution(0)
        if not self.levels:
            spikes = int(np.rint(np.abs(means) * counts).sum())
            clipped = sum(int(other.values[0]) - _zeros(other) for other in others)
            return Fired(values, spikes, _zeros(first), clipped, [])
        k = np.rint(means / self._unit).astype(np.int64)
        fired = np.clip(k, self.span.low, self.span.high)
        levels = np.zeros(len(self.levels), np.int64)
        np.add.at(levels, np.searchsorted(self.levels, fired), counts)
        clipped, silent = int(counts[fired != k].sum()), int(counts[fired == 0].sum())
        return Fired(values, int(np.abs(fired) @ counts), silent, clipped, levels.tolist())


def _bins(k: np.ndarray, unit: float) -> tuple[int, int, int]:
    """What tells multiples ``unit * k`` apart, rule 1.

    Returns:
        Bins per octave as a power of two, octaves, and the biased exponent of the largest.
    """
    magnitudes = np.unique(np.append(np.abs(k), [0, 1]))
    nearest = int((magnitudes[1:] // np.diff(magnitudes)).max())
    ends = np.float32(unit) * magnitudes[[1, -1]].astype(np.float32)
    least, most = np.frexp(ends)[1].tolist()
    return nearest.bit_length(), most - least + 1, most + _EXPONENT_BIAS


def _zeros(histogram: SignedHistogram) -> int:
    """How many values are 0."""
    means, counts = histogram.distribution(0)
    return int(counts[means == 0].sum())
