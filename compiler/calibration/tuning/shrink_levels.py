"""Shrink every neuron of a network to the levels that occur on the calibration samples.

The spiking network runs over the samples once and the membrane potential of each neuron is counted
inside the graph. On these potentials the shrunk neuron gives the same bits as before:

1. ThresholdNeuron, OctaveNeuron: the highest and the lowest level become the outermost ones that
   occur.
2. StaircaseNeuron: levels that do not occur go, but for 0, and of the thresholds between two levels
   that stay one stays.
3. DualNeuron: each of its neurons.
4. A histogram counts a bin for every level that its values may reach: more levels may stay than
   are used, never fewer.

Neurons with density-aware levels are left out: each of their levels was put where values are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ....passes.analysis.activations import Activation
from ....passes.graph.network import Network
from ....passes.neurons.neuron import Neuron, SingleNeuron
from ...options import DENSITY
from ...progress import Progress
from ...running.histograms import Watch, observe_samples
from ...running.signed_histogram import SignedHistogram
from ...samples.base import Samples
from ..fire import fire

_EXPONENT_BIAS = 127


def shrink_levels(
    network: Network,
    activations: Sequence[Activation],
    neurons: Mapping[str, Neuron],
    samples: Samples,
    size: int,
    progress: Progress,
) -> tuple[dict[str, Neuron], list[str]]:
    """Neurons without the levels that no sample reaches, and a line for each that changed.

    Args:
        network: the canonical ANN, its layers corrected.
        activations: what becomes a neuron.
        neurons: by the activation's output tensor.
        samples: calibration samples.
        size: how many run at a time.
        progress: told about batches done.
    """
    found = dict(neurons)
    wanted = [a for a in activations if not neurons[a.output].calibrator.startswith(DENSITY)]
    watches = {a.input: _watch(a, neurons[a.output]) for a in wanted}
    for activation in wanted:  # neurons of one tensor that differ in channels see it as a whole
        if _watch(activation, neurons[activation.output]) != watches[activation.input]:
            wanted = [a for a in wanted if a.input != activation.input]
    watches = {a.input: watches[a.input] for a in wanted}
    changes: list[str] = []
    if not watches:
        return found, changes
    observations = observe_samples(
        fire(network, neurons), list(watches.values()), samples, size, progress, "levels that occur"
    )
    for activation in wanted:
        before = neurons[activation.output]
        after = before.shrunk(count_levels(before, observations.histograms[activation.input]))
        if after.level_count < before.level_count:
            found[activation.output] = after
            changes.append(
                f"{activation.op} {activation.name}: {before.level_count} levels, "
                f"{after.level_count} of them occur"
            )
    return found, changes


def _watch(activation: Activation, neuron: Neuron) -> Watch:
    """The membrane potential, per channel where the neuron is."""
    return Watch(activation.input, neuron.axis if neuron.rows > 1 else None, neuron.rows)


def count_levels(neuron: Neuron, histogram: SignedHistogram) -> dict[str, np.ndarray]:
    """How many values may have reached each level, rule 4, as ``Neuron.shrunk`` takes them.

    Args:
        neuron: any kind.
        histogram: of its membrane potential; one row, or one per channel.

    Returns:
        int64 [levels, silence included] for each of the neuron's parts.

    Raises:
        ValueError: the neuron has another number of channels than the histogram.
    """
    return {name: _counts(part, histogram) for name, part in neuron.parts.items()}


def _counts(neuron: SingleNeuron, histogram: SignedHistogram) -> np.ndarray:
    rows = len(histogram.counts)
    if neuron.unit.ndim and neuron.unit.size != rows:
        raise ValueError(f"{neuron.unit.size} channels, the histogram has {rows} rows")
    counts = np.zeros(neuron.level_count + 2, np.int64)
    for row in range(rows):
        means, seen = histogram.distribution(row)
        if len(means) == 0:
            continue
        low, high = _bins(means, histogram, row)
        np.add.at(counts, neuron.level_of(low, row), seen)
        np.subtract.at(counts, neuron.level_of(high, row) + 1, seen)
    return np.cumsum(counts)[:-1]


def _bins(means: np.ndarray, histogram: SignedHistogram, row: int) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest float32 in the bins that have these means."""
    leading = histogram.leading
    mantissa, exponent = np.frexp(np.abs(means))
    part = np.floor((mantissa - 0.5) * (2 << leading))
    near = np.ldexp(0.5 + part / (2 << leading), exponent)
    far = np.ldexp(0.5 + (part + 1) / (2 << leading), exponent)
    # What is too small for a bin of its own counts as 0.
    smallest = np.ldexp(1.0, int(histogram.tops[row]) - histogram.octaves + 1 - _EXPONENT_BIAS)
    near = np.where(means == 0, -smallest, near).astype(np.float32)
    far = np.nextafter(np.where(means == 0, smallest, far).astype(np.float32), np.float32(0))
    low, high = np.where(means < 0, -far, near), np.where(means < 0, -near, far)
    return np.maximum(low, histogram.minima[row]), np.minimum(high, histogram.maxima[row])
