"""What the scale of a network's inputs does to its neurons, where that scale is not known.

Samples are then of all scales that are plausible (``plausible_scales.py``), and what counts is the
error relative to what a sample makes of a tensor:

1. An error of a value x counts as 1 / (x^2 + m): m the mean square of the tensor on samples of the
   least scale. For values whose deviation is spread evenly over octaves that is what the mean of
   1 / deviation^2 is for samples that have such a value. Where the scale of the inputs does not
   reach, as behind a normalisation, values hardly exceed m, and errors count about alike.
2. A neuron follows the scale if its values are more than four times as large on samples of the
   largest scale as on those of the least. Its levels are then relatively close, but coarse. That
   costs most in front of the read-out, whose weights may rely on small differences, and whose
   errors nothing levels out: an encoder that follows the scale, with no other neuron between it and
   the outputs, is left out. In a network that normalises its inputs it is often the only neuron
   that follows it.
3. Layers are not corrected: their errors are those of the largest samples, of no use to others.
4. Where what a neuron reads overflows on samples of the largest scale, there are no such samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...passes.analysis.activations import Activation, find_activations
from ...passes.graph.graph import Graph, Tensor, bodies, readers_behind
from ...passes.graph.network import Network
from ...passes.graph.surgeon import export_network
from ..progress import Progress
from ..running.histograms import Observations, Watch, observe_samples
from ..samples.base import Samples

#: Times its values on samples of the least scale, above which a neuron follows the scale.
_FOLLOWS = 4.0
#: Samples that run at a time.
_BATCH = 16


def mean_squares(
    network: Network, activations: Sequence[Activation], samples: Samples
) -> dict[str, float]:
    """Mean squares of what the activations read, by tensor; 0 where no value is finite."""
    return {
        name: float(histogram.squares.sum() / max(int(histogram.values.sum()), 1))
        for name, histogram in _observed(network, activations, samples).histograms.items()
    }


def overflows(graph: Graph, samples: Samples) -> bool:
    """Rule 4: of samples whose scale is not known, in a graph whose encoders are in place."""
    ends = samples.ends()
    if ends is None:
        return False
    activations, _ = find_activations(graph)
    if not activations:
        return False
    return bool(_observed(export_network(graph), activations, ends[1]).not_finite)


def _observed(
    network: Network, activations: Sequence[Activation], samples: Samples
) -> Observations:
    watches = [Watch(name, None, 1) for name in dict.fromkeys(a.input for a in activations)]
    return observe_samples(network, watches, samples, _BATCH, Progress(), "scales")


def without_range(graph: Graph, samples: Samples) -> dict[str, str]:
    """Rule 2: encoders to leave out, by the tensors that they write, and why.

    Args:
        graph: canonical, its encoders in place.
        samples: of calibration.

    Returns:
        Nothing where the scale of the samples is known.
    """
    ends = samples.ends()
    if ends is None:
        return {}
    activations, _ = find_activations(graph)
    last = _last_encoders(graph, activations)
    if not last or len(last) == len(activations):
        return {}
    network = export_network(graph)
    least, most = (mean_squares(network, last, end) for end in ends)
    return {
        a.output: f"encoder {a.name} is left out: no neuron is behind it, and the scale of what it "
        f"reads is not known ({np.sqrt(least[a.input]):.3g} to {np.sqrt(most[a.input]):.3g})"
        for a in last
        if most[a.input] > _FOLLOWS**2 * least[a.input]
    }


def _last_encoders(graph: Graph, activations: Sequence[Activation]) -> list[Activation]:
    """Encoders of the main graph with no neuron between them and the outputs."""
    tensors = graph.tensors()
    fired = {activation.output for activation in activations}
    there = [a for a in activations if a.encodes and a.output in tensors]
    return [a for a in there if not _reaches(tensors[a.output], fired)]


def _reaches(tensor: Tensor, fired: set[str]) -> bool:
    """Whether a neuron depends on a tensor."""
    return any(
        bodies(reader) or fired.intersection(made.name for made in reader.outputs)
        for reader in readers_behind(tensor, lambda _: True)
    )
