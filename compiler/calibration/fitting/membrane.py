"""What each neuron saw at calibration, small enough for the report: a histogram of its membrane
potential, with the thresholds and levels that came of it.

1. Potentials are in units of theta (MultiThresholdFire) or scale (ScaleFire), each channel in its
   own, so that one set of thresholds holds for all channels: x / theta[c].
2. The histogram is the one that the neuron was fitted to (``signed_histogram.py``), at first in
   :data:`_FINE` equal bins over the thresholds and half their range to either side, as far as there
   are values; what lies outside is counted as below or above. The values of a bin count as spread
   evenly (``distributions.py``, rule 1).
3. What happens to the neuron later is followed: a searched scale stretches the axis, levels that do
   not occur go.
4. The shares of the levels are those of the fine bins between thresholds, so they are good to
   1 / 2,048 of the range, and a value on a threshold counts on either side of it. How often levels
   occur on test data is for the evaluation to count.
5. The report gets :data:`BINS` bins, and thresholds and levels unless there are more than
   :data:`MOST_LEVELS`: at most some 10 kB a neuron, whatever the samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ....passes.neurons.neuron import Neuron, SingleNeuron
from ...running.signed_histogram import SignedHistogram
from .distributions import spread_bins

#: Bins of a histogram in the report.
BINS = 64
#: Thresholds that a report lists, at most.
MOST_LEVELS = 256

_FINE = 2048
#: Points that the values of a bin are spread over.
_PARTS = 4


@dataclass
class MembraneHistogram:
    """The membrane potential of a neuron on the calibration samples, in units of theta or scale.

    Attributes:
        unit: "theta" or "scale".
        low: where the first bin begins.
        high: where the last bin ends.
        shares: share of the values in each of the :data:`BINS` equal bins.
        below: share of the values below ``low``.
        above: share of the values above ``high``.
        thresholds: ascending; empty where there are more than :data:`MOST_LEVELS`.
        levels: what the neuron gives below the first threshold, between them, and above the last.
        level_shares: share of the values on each of the levels.
    """

    unit: str
    low: float
    high: float
    shares: list[float] = field(default_factory=list)
    below: float = 0.0
    above: float = 0.0
    thresholds: list[float] = field(default_factory=list)
    levels: list[float] = field(default_factory=list)
    level_shares: list[float] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether it holds what is said above; one that was read from a file may not."""
        few = len(self.thresholds) <= MOST_LEVELS
        matching = len(self.levels) == len(self.level_shares) == len(self.thresholds) + 1
        none = not (self.thresholds or self.levels or self.level_shares)
        values = [self.low, self.high, self.below, self.above]
        values += [*self.shares, *self.thresholds, *self.levels, *self.level_shares]
        drawn = (
            len(self.shares) == BINS and bool(np.isfinite(values).all()) and self.low < self.high
        )
        return drawn and few and (matching or none) and sorted(self.thresholds) == self.thresholds


@dataclass(frozen=True)
class Bins:
    """Values in fine bins, those outside at the outermost.

    Attributes:
        middles: float64 [n], in units of the neuron, ascending.
        width: of a bin.
        counts: float64 [n].
    """

    middles: np.ndarray
    width: float
    counts: np.ndarray


class Membrane:
    """The membrane potential that an activation's neuron was fitted to.

    Attributes:
        parts: by polarity of a DualNeuron, "positive" and "negative"; of others under "".
    """

    def __init__(self, histogram: SignedHistogram, neuron: Neuron) -> None:
        self.parts = {
            polarity: _Potential(histogram, part) for polarity, part in neuron.parts.items()
        }

    def describe(self, neuron: Neuron) -> dict[str, MembraneHistogram]:
        """By polarity, the histogram in units of the neuron as it is by now."""
        return {
            polarity: self.parts[polarity].describe(part) for polarity, part in neuron.parts.items()
        }

    def bins(self, neuron: Neuron) -> dict[str, Bins]:
        """By polarity, the values in fine bins, in units of the neuron as it is by now."""
        return {
            polarity: self.parts[polarity].bins(part) for polarity, part in neuron.parts.items()
        }


class _Potential:
    """A histogram in fine bins, in units of the scale that the neuron was first given."""

    def __init__(self, histogram: SignedHistogram, neuron: SingleNeuron):
        rows, means, counts = histogram.occupied()
        spread = spread_bins(means, counts.astype(np.float64), histogram.leading)
        scale = neuron.unit.astype(np.float64)
        unit = scale[rows] if scale.ndim else scale
        # Outer bins are spread beyond what was seen.
        ends = [histogram.minima.astype(np.float64), histogram.maxima.astype(np.float64)]
        seen = np.isfinite(ends[0])
        least = (ends[0][seen] / _per_row(scale, seen)).min(initial=np.inf)
        most = (ends[1][seen] / _per_row(scale, seen)).max(initial=-np.inf)
        self._scale = float(scale.reshape(-1)[0])
        self.low, self.high = _range(neuron.staircase()[0], least, most)
        width = (self.high - self.low) / _FINE
        self.counts = np.zeros(_FINE + 2)
        for part in range(_PARTS):
            offset = (part + 0.5) / _PARTS
            values = (spread.low + (spread.high - spread.low) * offset) / unit
            values = np.clip(values, least, most)
            # The largest value is in the last bin, not above it.
            bins = np.floor((values - self.low) / width)
            bins = np.where((bins == _FINE) & (values <= self.high), _FINE - 1, bins)
            at = np.clip(bins, -1, _FINE).astype(np.int64) + 1
            self.counts += np.bincount(at, weights=spread.counts / _PARTS, minlength=_FINE + 2)

    def _ends(self, neuron: SingleNeuron) -> tuple[float, float]:
        stretch = self._scale / float(neuron.unit.reshape(-1)[0])
        return self.low * stretch, self.high * stretch

    def bins(self, neuron: SingleNeuron) -> Bins:
        """In the units of the neuron as it is by now."""
        low, high = self._ends(neuron)
        return Bins(_middles(low, high), (high - low) / _FINE, self.counts)

    def describe(self, neuron: SingleNeuron) -> MembraneHistogram:
        """In the units, and with the levels, of the neuron as it is by now."""
        low, high = self._ends(neuron)
        shares = self.counts / max(self.counts.sum(), 1.0)
        thresholds, levels = neuron.staircase()
        few = len(thresholds) <= MOST_LEVELS
        level_of = np.searchsorted(thresholds, _middles(low, high), side="right")
        on_levels = np.bincount(level_of, weights=shares, minlength=len(levels))
        return MembraneHistogram(
            unit=neuron.unit_name,
            low=_round(low),
            high=_round(high),
            shares=[_round(x) for x in shares[1:-1].reshape(BINS, -1).sum(axis=1)],
            below=_round(shares[0]),
            above=_round(shares[-1]),
            thresholds=[_round(x) for x in thresholds] if few else [],
            levels=[_round(x) for x in levels] if few else [],
            level_shares=[_round(x) for x in on_levels] if few else [],
        )


def _per_row(scale: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return scale[rows] if scale.ndim else scale


def _range(thresholds: np.ndarray, least: float, most: float) -> tuple[float, float]:
    """The thresholds and half their range to either side, as far as there are values."""
    if len(thresholds) == 0:  # of a neuron that fires the same at every potential
        thresholds = np.zeros(1)
    first, last = float(thresholds[0]), float(thresholds[-1])
    margin = (last - first or abs(first) or 1.0) / 2
    low, high = first - margin, last + margin
    if least <= most:
        low, high = max(low, min(least, first)), min(high, max(most, last))
    if not low < high:
        low, high = first - margin, last + margin
    return low, high


def _middles(low: float, high: float) -> np.ndarray:
    """The middles of the fine bins, and a value on either side of them."""
    width = (high - low) / _FINE
    return low + width * (np.arange(-1, _FINE + 1) + 0.5)


def _round(value: float) -> float:
    """Six digits are enough to draw."""
    return float(f"{value:.6g}")
