"""What the two sides of sequential calibration tell each other.

The side of the samples (``shard.py``) runs the networks on some of the samples, or all, and sums
what it sees. The side of the network (``settling.py``) fits neurons and corrects layers to these
sums. All of this can be sent from one process to another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ....passes.analysis.layers import Layer
from ....passes.graph.network import Network, constant_of
from ....passes.lowering.quantise_linear import largest_weight
from ....passes.neurons.neuron import Neuron, ThresholdNeuron
from ...options import FULL, CompileOptions
from ...running.histograms import Watch
from ...running.signed_histogram import SignedHistogram
from .compensate import LayerErrors, Rounding
from .schedule import Schedule
from .sums import Summed

_ALL = (-np.inf, np.inf)


@dataclass(frozen=True)
class Job:
    """What is calibrated, the same for all samples.

    Attributes:
        network: the canonical ANN; its layers have parameters of their own.
        schedule: its rounds.
        watches: what is observed in each of them.
        options: resolved.
        settled: neurons inside bodies, fitted before.
        batches: number of batches of all samples.
        full: how many of them have as many samples as the first.
    """

    network: Network
    schedule: Schedule
    watches: Sequence[Sequence[Watch]]
    options: CompileOptions
    settled: Mapping[str, Neuron]
    batches: int
    full: int

    @property
    def timesteps(self) -> int:
        """That the spiking network is run over."""
        return self.options.timesteps if self.options.stepwise else 1

    def watched(self, layer: Layer, stage: int) -> str:
        """Where the error of a layer is watched: behind the residual if that is settled."""
        known = layer.residual is not None and self.schedule.stages[layer.residual] <= stage
        return layer.total if known else layer.output

    def errors(
        self, stage: int, neurons: Mapping[str, Neuron], before: int = 0, apart: bool = False
    ) -> list[LayerErrors]:
        """Empty sums of errors, one for each layer that reads a stage.

        Args:
            stage: its number.
            neurons: that are settled, by the activation's output tensor.
            before: number of batches in front of those to come.
            apart: whether each batch is summed for itself.
        """
        return [
            LayerErrors(
                layer,
                constant_of(self.network, layer.weight),
                self.batches,
                self.options.compensation,
                position,
                self._rounding(layer, neurons),
                layer.bounds if self.watched(layer, stage) == layer.total else _ALL,
                constant_of(self.network, layer.bias),
                before,
                apart,
            )
            for position, layer in enumerate(self.schedule.rounds[stage].layers)
        ]

    def _rounding(self, layer: Layer, neurons: Mapping[str, Neuron]) -> Rounding | None:
        """How its weights are rounded, where they are and one neuron fires what it reads."""
        if not self.options.integers:
            return None
        makers = {name: node for node in self.network.proto.graph.node for name in node.output}
        name = layer.input
        while name not in neurons and name in makers:
            name = makers[name].input[0]
        neuron = neurons.get(name)
        if not isinstance(neuron, ThresholdNeuron):
            return None
        most = self.options.most_of_bits
        if most is None:
            most = largest_weight(neuron.level_count, self.options.int8_weights == FULL)
        return Rounding(most, float(neuron.theta))


@dataclass(frozen=True)
class Settled:
    """What was settled in one round.

    Attributes:
        neurons: by the activation's output tensor.
        parameters: corrected weights and biases by name.
    """

    neurons: Mapping[str, Neuron]
    parameters: Mapping[str, np.ndarray]


@dataclass
class Seen:
    """What was seen of one stage, on some of the samples.

    Attributes:
        histograms: what neurons saw, by tensor.
        errors: sums of the errors of layers, by the layer's name.
        currents: what neurons that fire step by step read, of each of the first batches, by tensor
            and number of the batch.
        not_finite: tensors that a neuron reads and that had NaN or inf; then nothing else is known.
    """

    histograms: dict[str, SignedHistogram] = field(default_factory=dict)
    errors: dict[str, Summed] = field(default_factory=dict)
    currents: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    not_finite: frozenset[str] = frozenset()

    def merge(self, other: Seen) -> None:
        """Add what was seen of the same stage on other samples; ``other`` is used up."""
        self.not_finite |= other.not_finite
        if self.not_finite:
            return
        for name, histogram in other.histograms.items():
            self.histograms[name].merge(histogram)
        for name, errors in other.errors.items():
            self.errors[name].merge(errors)
        for name, arrays in other.currents.items():
            self.currents[name].update(arrays)


class Side(Protocol):
    """The side of the samples: of all of them, wherever they are."""

    def start(self) -> Seen:
        """Compute stage 0, in which nothing spikes."""
        ...

    def advance(self, settled: Settled) -> Seen:
        """Compute the next stage, with what was settled of the last one."""
        ...

    def close(self) -> None:
        """End what still runs, and forget the tensors."""
        ...


#: Makes the side of the samples of a job.
Opener = Callable[[Job], Side]
