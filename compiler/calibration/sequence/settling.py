"""The side of the network: neurons are fitted, and layers corrected, to what was seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ....passes.analysis.activations import Activation
from ....passes.analysis.layers import Layer
from ....passes.graph.network import constant_of
from ....passes.neurons.neuron import Neuron, SingleNeuron, ThresholdNeuron
from ...running.threads import together
from ..fitting.membrane import Membrane
from ..fitting.watches import Fit, NotFiniteError
from .compensate import Correction, LayerErrors
from .exchange import Job, Seen, Settled
from .over_time import by_steps, settle


@dataclass
class Calibrated:
    """What calibration found.

    Attributes:
        neurons: keyed by the activation's output tensor.
        parameters: corrected weights and biases by name.
        weight_steps: of weights that are rounded, the step per output channel, by name.
        changes: one line per corrected layer.
        silent: activations that are 0 on every sample.
        membranes: what the neurons were fitted to, keyed like these.
    """

    neurons: dict[str, Neuron] = field(default_factory=dict)
    parameters: dict[str, np.ndarray] = field(default_factory=dict)
    weight_steps: dict[str, np.ndarray] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)
    silent: list[Activation] = field(default_factory=list)
    membranes: dict[str, Membrane] = field(default_factory=dict)


class Settling:
    """Settles one stage after the other.

    Args:
        job: what is calibrated.
        fit: how neurons are fitted.

    Attributes:
        result: what was settled so far.
    """

    def __init__(self, job: Job, fit: Fit) -> None:
        self._job, self._fit = job, fit
        self.result = Calibrated()

    def settle(self, stage: int, seen: Seen) -> Settled:
        """Fit the neurons and correct the layers that read a stage.

        Args:
            stage: its number.
            seen: of this stage, on all samples; it is used up.

        Raises:
            NotFiniteError: what a neuron sees is NaN or infinite.
        """
        if seen.not_finite:
            raise NotFiniteError(seen.not_finite)
        this = self._job.schedule.rounds[stage]
        # Roundings follow from what fires into a layer, which was settled before.
        errors = self._job.errors(stage, self.result.neurons)
        fits = [partial(self._fitted, activation, seen) for activation in this.neurons]
        solutions = [
            partial(self._solved, layer, summed, seen)
            for layer, summed in zip(this.layers, errors, strict=True)
        ]
        found: list[Any] = together(*fits, *solutions)
        neurons: dict[str, Neuron] = {}
        for activation, neuron in zip(this.neurons, found[: len(fits)], strict=True):
            if self._fit.silent(activation, seen.histograms[activation.input]):
                self.result.silent.append(activation)
            neurons[activation.output] = neuron
        self.result.neurons |= neurons
        parameters: dict[str, np.ndarray] = {}
        for layer, correction in zip(this.layers, found[len(fits) :], strict=True):
            parameters |= self._corrected(layer, correction)
        self.result.parameters |= parameters
        return Settled(neurons, parameters)

    def _fitted(self, activation: Activation, seen: Seen) -> Neuron:
        neuron = self._fit.neuron(activation, seen.histograms[activation.input])
        currents = seen.currents.get(activation.input)
        return self._over_time(activation, neuron, currents) if currents else neuron

    def _solved(self, layer: Layer, summed: LayerErrors, seen: Seen) -> Correction:
        summed.halves = seen.errors.pop(layer.name).total()
        bias = constant_of(self._job.network, layer.bias)
        correction = summed.solve(bias, self._job.options.bias_correction)
        summed.take()  # moments are large
        return correction

    def _over_time(
        self, activation: Activation, neuron: Neuron, currents: Mapping[int, np.ndarray]
    ) -> Neuron:
        """The neuron for the step by step input that it has."""
        timesteps = self._job.timesteps
        batches = [by_steps(array, timesteps) for _, array in sorted(currents.items())]
        joined = np.concatenate(batches, axis=1)

        def settled(_: str, part: SingleNeuron) -> SingleNeuron:
            assert isinstance(part, ThresholdNeuron)  # no other neuron fires step by step
            return settle(part, joined, activation.upper, self._job.batches)

        return neuron.changed(settled)

    def _corrected(self, layer: Layer, correction: Correction) -> dict[str, np.ndarray]:
        """The new parameters of a layer by name; none where it is left as it is."""
        if correction.steps is not None:
            self.result.weight_steps[layer.weight] = correction.steps
        elif correction.left:
            self.result.changes.append(f"{layer.op} {layer.name}: left as it is, {correction.left}")
            return {}
        what = "bias" if correction.ridge is None else f"weights (ridge {correction.ridge:g}), bias"
        self.result.changes.append(
            f"{layer.op} {layer.name}: {what} corrected, error "
            f"{correction.before:.4g} -> {correction.after:.4g}"
            + ("" if correction.rounding is None else f", rounding adds {correction.rounding:.4g}")
        )
        return {layer.weight: correction.weight, layer.bias: correction.bias}
