"""What half or twice the levels would do to the neurons, from what they saw at calibration.

Nothing is run or fitted: it takes milliseconds.

1. Half: every second level stays, counted from the silent one, and the outermost. Twice: a level in
   the middle between any two. Thresholds lie half-way between levels. The range stays, so a
   neuron that is fitted anew errs a little less than this.
2. The expected squared error is that over the histogram of the membrane potential, its bins spread
   evenly, what lies outside at its ends; values of the sign that a neuron never fires count as 0,
   as Relu has them. Of a StaircaseFire, whose levels follow a curve, steps twice as large err four
   times as much.
3. Errors are summed as shares of the neurons' powers: what each does to the output is not known.
4. Spikes are |level| in units of the smallest step. Those of a StaircaseFire do not follow N; a
   network with one has no estimate of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ...passes.neurons.neuron import Neuron, SingleNeuron, StaircaseNeuron
from .fitting.membrane import Bins, Membrane


@dataclass(frozen=True)
class Ratios:
    """What other levels would do, to what the levels there are do.

    Attributes:
        error: relative error of the neurons.
        spikes: unit spikes; None where it is not known.
    """

    error: float
    spikes: float | None


def half_and_double(
    neurons: Mapping[str, Neuron], membranes: Mapping[str, Membrane]
) -> tuple[Ratios, Ratios] | None:
    """Ratios for half and for twice the levels; None where nothing fired.

    Args:
        neurons: by the activation's output tensor.
        membranes: what they saw, keyed likewise.
    """
    found = [
        [_of_neuron(neuron, bins, times) for neuron, bins in _parts(neurons, membranes)]
        for times in (0.5, 1.0, 2.0)
    ]
    half, own, double = ([sum(column) for column in zip(*rows, strict=True)] for rows in found)
    if not own or not own[0]:
        return None
    half_, double_ = (
        Ratios(math.sqrt(one[0] / own[0]), one[1] / own[1] if own[1] else None)
        for one in (half, double)
    )
    curved = any(isinstance(neuron, StaircaseNeuron) for neuron, _ in _parts(neurons, membranes))
    if curved:
        return Ratios(half_.error, None), Ratios(double_.error, None)
    return half_, double_


def _parts(
    neurons: Mapping[str, Neuron], membranes: Mapping[str, Membrane]
) -> Iterable[tuple[SingleNeuron, Bins]]:
    for output, neuron in neurons.items():
        if output in membranes:
            for polarity, bins in membranes[output].bins(neuron).items():
                yield neuron.parts[polarity], bins


def _of_neuron(neuron: SingleNeuron, bins: Bins, times: float) -> tuple[float, float]:
    """Squared error as a share of the power, and unit spikes, with ``times`` as many levels."""
    if isinstance(neuron, StaircaseNeuron):
        share = neuron.error**2 if math.isfinite(neuron.error) else 0.0
        return share / times**2, 0.0
    levels = _levels(neuron.staircase()[1], times)
    wanted = np.clip(bins.middles, None if levels[0] < 0 else 0, None if levels[-1] > 0 else 0)
    given = levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, wanted, side="right")]
    spread = np.where(wanted == 0, 0, bins.width**2 / 12)
    error = float(bins.counts @ ((wanted - given) ** 2 + spread))
    power = float(bins.counts @ wanted**2)
    return error / power if power else 0.0, times * float(bins.counts @ np.abs(given))


def _levels(levels: np.ndarray, times: float) -> np.ndarray:
    """Half or twice as many of them, silence among them; ascending."""
    if times == 1:
        return levels
    if times > 1:
        return np.sort(np.concatenate([levels, (levels[1:] + levels[:-1]) / 2]))
    silent = int(np.abs(levels).argmin())
    kept = {*range(silent, len(levels), 2), *range(silent, -1, -2), 0, len(levels) - 1}
    return levels[sorted(kept)]
