"""What a neuron fires in all, by a histogram of its levels: spikes, silent and clipped values.

``Observe`` makes the histogram inside the graph, so that no activation leaves the runtime and every
count is exact. ``neuron_spikes.py`` says what is counted.

1. Multiples of a step are observed, in bins of ``SignedHistogram`` of which each has one level: as
   few per octave as do. The value of a level is one rounded product, here as in the kernel.
2. The largest value is known, so ``Observe`` need not find it, and counts alone suffice.
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
from ...runtime_ops.staircase_fire import MAX_CELLS
from ..running.histograms import Watch
from ..running.signed_histogram import SignedHistogram
from .neuron_spikes import NeuronSpikes

#: Bins of either sign, at most: more take longer to add up than values take to count.
_MOST_BINS = 1 << 13
#: Bins per octave as a power of two: what ``Observe`` takes.
_MOST_LEADING = 10
_MANTISSA_BITS = 23


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
        k = neurons.levels(node)
        if len(k) <= MAX_CELLS:
            tensor, unit = neurons.watched(home, node)
            clipped = [k[0] - 1, k[-1] + 1] if self.clips else []
            self._seen = np.unique([*k, *clipped])
            self._values = np.float32(unit) * self._seen.astype(np.float32)
            bins = _bins(self._values)
            if bins is not None:
                self.levels = list(dict.fromkeys(k))
                self.watches = [Watch(tensor, None, 1, *bins)]
                return
        # Down from the largest there is, 2^24.
        self.watches = [Watch(neurons.code(home, node), None, 1, (7, 26))]
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
        # The least of a bin's values may stand for them: its level is the next one, away from 0.
        sides = [np.searchsorted(self._values, means, side) for side in ("left", "right")]
        k = self._seen[np.where(means > 0, sides[0], sides[1] - 1)]
        fired = np.clip(k, self.span.low, self.span.high)
        levels = np.zeros(len(self.levels), np.int64)
        np.add.at(levels, np.searchsorted(self.levels, fired), counts)
        clipped, silent = int(counts[fired != k].sum()), int(counts[fired == 0].sum())
        return Fired(values, int(np.abs(fired) @ counts), silent, clipped, levels.tolist())


def _bins(values: np.ndarray) -> tuple[tuple[int, int], int] | None:
    """Bins of which each has one of the values at most, ascending; None: they take too many.

    Returns:
        Bins per octave as a power of two, and octaves; the biased exponent of the largest.
    """
    bits = np.abs(values).view(np.int32)
    exponents = bits[bits > 0] >> _MANTISSA_BITS
    top, least = int(exponents.max(initial=1)), int(exponents.min(initial=254))
    octaves = max(top - least + 1, 1)
    for leading in range(_MOST_LEADING + 1):
        if octaves << leading > _MOST_BINS:
            return None
        distance = np.where(
            bits > 0, (bits >> (_MANTISSA_BITS - leading)) - (least << leading) + 1, 0
        )
        if np.all(np.diff(np.sign(values) * distance) > 0):
            return (leading, octaves), top
    return None


def _zeros(histogram: SignedHistogram) -> int:
    """How many values are 0."""
    means, counts = histogram.distribution(0)
    return int(counts[means == 0].sum())
