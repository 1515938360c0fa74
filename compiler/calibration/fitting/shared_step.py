"""Neurons whose spikes meet in a sum, fitted together: one step for all of them.

The step is that of the least squared error of all of them together, as errors that meet in a sum
add up. It is settled when the first of them is: what that one sees in the spiking network is known
then, what the others see in the ANN alone. How many levels a neuron has on either side of 0 follows
from the ANN's values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ....passes.analysis.activations import Activation
from ....passes.neurons.neuron import ThresholdNeuron
from ...running.signed_histogram import SignedHistogram
from .distributions import Distribution
from .rows import distributions, pool
from .uniform_calibrators import Uniform, clip_rate, find_shared_step, squared_error


@dataclass
class SharedStep:
    """Neurons with one step.

    Attributes:
        members: by the tensors that they write: the activation, what it sees in the ANN, and N_pos
            and N_neg.
        step: float32; None until the first is fitted.
    """

    members: Mapping[str, tuple[Activation, Distribution, tuple[int, int]]]
    step: np.float32 | None = None

    def neuron(self, activation: Activation, histogram: SignedHistogram) -> ThresholdNeuron:
        """The neuron of one of them."""
        own = seen_by(activation, histogram)
        if self.step is None:
            self.step = self._settle({activation.output: own})
        above, below = self.members[activation.output][2]
        quantiser = Uniform(float(self.step), above, below)
        power = float(own.power)
        error = squared_error(own, quantiser)
        return ThresholdNeuron(
            theta=np.asarray(self.step, np.float32),
            levels_pos=above,
            levels_neg=below,
            axis=1,
            clip_rate=clip_rate(own, quantiser),
            calibrator="mse, per tensor",
            reason=f"one step for {len(self.members)} neurons whose spikes meet",
            error=float(np.sqrt(error / power)) if power > 0 else 0.0,
        )

    def _settle(self, known: Mapping[str, Distribution]) -> np.float32:
        seen = [
            (known.get(name, distribution), levels)
            for name, (_, distribution, levels) in self.members.items()
        ]
        limits = [
            activation.upper / levels[0]
            for activation, _, levels in self.members.values()
            if levels[0] and np.isfinite(activation.upper)
        ]
        step = np.float32(max(find_shared_step(seen), float(np.finfo(np.float32).tiny)))
        while any(float(step) > limit for limit in limits):  # of a Clip
            step = np.nextafter(min(step, np.float32(min(limits))), np.float32(0))
        return step


def seen_by(activation: Activation, histogram: SignedHistogram) -> Distribution:
    """The values that a neuron follows, all channels together."""
    assert activation.function is not None  # only linear activations meet as integers
    rows = distributions(histogram).of(activation.function.evaluate)
    return rows[0] if len(rows) == 1 else pool(rows)


def share_steps(
    groups: Sequence[Sequence[Activation]],
    histograms: Mapping[str, SignedHistogram],
    levels: Callable[[Activation, Distribution], tuple[int, int]],
) -> dict[str, SharedStep]:
    """One step for each group, by the tensors that its neurons write.

    Args:
        groups: neurons that meet.
        histograms: what they see in the ANN, by their inputs.
        levels: N_pos and N_neg of a neuron.
    """
    shared: dict[str, SharedStep] = {}
    for group in groups:
        members = {}
        for activation in group:
            seen = seen_by(activation, histograms[activation.input])
            members[activation.output] = activation, seen, levels(activation, seen)
        shared.update(dict.fromkeys(members, SharedStep(members)))
    return shared
