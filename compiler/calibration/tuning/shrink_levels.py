"""Shrink every neuron of a network to the levels that occur on the calibration samples.

The spiking network runs over the samples once and the membrane potential of each neuron is counted
inside the graph. Neurons with density-aware levels are left out: each of their levels was put where
values are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ....passes.analysis.activations import Activation
from ....passes.graph.network import Network
from ....passes.neurons.neuron import DualNeuron, Neuron, StaircaseNeuron, ThresholdNeuron
from ...options import DENSITY
from ...progress import Progress
from ...running.histograms import Watch, observe_samples
from ...samples.files import Samples
from ..fire import fire
from .shrink import count_levels_in, shrink


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
        histogram = observations.histograms[activation.input]
        after = shrink(before, count_levels_in(before, histogram))
        if _levels(after) < _levels(before):
            found[activation.output] = after
            changes.append(
                f"{activation.op} {activation.name}: {_levels(before)} levels, "
                f"{_levels(after)} of them occur"
            )
    return found, changes


def _watch(activation: Activation, neuron: Neuron) -> Watch:
    """The membrane potential, per channel where the neuron is."""
    rows = _rows(neuron)
    return Watch(activation.input, neuron.axis if rows > 1 else None, rows)


def _rows(neuron: Neuron) -> int:
    if isinstance(neuron, DualNeuron):
        return max(_rows(neuron.positive), _rows(neuron.negative))
    assert isinstance(neuron, (StaircaseNeuron, ThresholdNeuron))
    scale = neuron.scale if isinstance(neuron, StaircaseNeuron) else neuron.theta
    return int(np.size(scale))


def _levels(neuron: Neuron) -> int:
    """Levels besides silence."""
    if isinstance(neuron, DualNeuron):
        return _levels(neuron.positive) + _levels(neuron.negative)
    if isinstance(neuron, StaircaseNeuron):
        return len(neuron.thresholds)
    assert isinstance(neuron, ThresholdNeuron)
    return neuron.levels_pos + neuron.levels_neg
