"""Parts of a network over several timesteps, as sequential calibration runs them.

Neurons that fire immediately do not only round: spikes come unevenly, and what came too early
cannot be taken back. So that the layers behind them make up for that as well, the spiking twin runs
step by step, T times the rows, and what is fitted and corrected sees means over steps.

A neuron that was fitted to means is then settled on the steps themselves: of :data:`FACTORS` times
its threshold and of the initial membrane potentials :data:`CHARGES` the pair is taken whose mean
spikes have the least squared error against the activation of the mean current, on a sample of
:data:`SERIES` of the membrane potentials. What comes unevenly fires too early and too often, which
a lower initial potential makes up for. One of the two is chosen after the other, twice. A neuron of
both polarities keeps v0 = 1/2, which treats them alike.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
from onnx import ValueInfoProto, helper

from ....passes.graph.network import Network
from ....passes.graph.surgeon import export_network, import_model
from ....passes.lowering.spatial_to_temporal import spatial_to_temporal
from ....passes.neurons.neuron import ThresholdNeuron
from ...running.histograms import Watch

#: What is tried.
FACTORS = (0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.4)
CHARGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
SERIES = 20_000
_TURNS = 2

_MEAN = ".mean_of_steps"


def over_time(
    part: Network,
    timesteps: int,
    timed: Collection[str],
    kept: Sequence[str],
    watches: Sequence[Watch],
) -> tuple[Network, list[Watch], set[str]]:
    """A spiking part step by step.

    Args:
        part: with multi-threshold neurons in it; it is changed.
        timesteps: T.
        timed: inputs that are given step by step, with T times the rows.
        kept: outputs that are wanted like that; all others are means over steps.
        watches: what is observed of means over steps.

    Returns:
        The part, the watches of the tensors there, and those of ``kept`` that depend on time.
    """
    moved = []
    for watch in watches:
        mean = watch.tensor + _MEAN
        part.proto.graph.node.append(helper.make_node("Identity", [watch.tensor], [mean], mean))
        part.proto.graph.output.append(ValueInfoProto(name=mean))
        moved.append(replace(watch, tensor=mean))
    result = spatial_to_temporal(import_model(part), timesteps, timed=timed, kept=kept)
    return export_network(result.graph), moved, result.timed


def by_steps(array: np.ndarray, timesteps: int) -> np.ndarray:
    """Args: array [T * B, ...], time-major. Returns: [T, B, ...]."""
    return array.reshape(timesteps, -1, *array.shape[1:])


def settle(
    neuron: ThresholdNeuron, stepwise: np.ndarray, upper: float, seed: int
) -> ThresholdNeuron:
    """The neuron with the threshold and the initial potential that suit its input over time.

    Args:
        neuron: fitted to means over steps.
        stepwise: its input, [T, B, ...].
        upper: largest value that the activation gives.
        seed: of the sample.
    """
    channels: np.ndarray = np.zeros((), np.int64)
    if neuron.theta.ndim:
        shape = [1] * (stepwise.ndim - 1)
        shape[neuron.axis] = -1
        channels = np.arange(neuron.theta.size).reshape(shape)
    channels = np.broadcast_to(channels, stepwise.shape[1:]).reshape(-1)
    stepwise = stepwise.reshape(len(stepwise), -1)
    if stepwise.shape[1] > SERIES:
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.choice(stepwise.shape[1], SERIES, replace=False))
        stepwise, channels = stepwise[:, chosen], channels[chosen]
    low = -np.inf if neuron.levels_neg else 0.0
    high = upper if neuron.levels_pos else 0.0
    wanted = np.clip(stepwise.mean(axis=0), low, high)
    theta = neuron.theta.reshape(-1)[channels].astype(np.float32)

    def error(factor: float, v0: float) -> float:
        fired = _mean_fired(neuron, stepwise, theta * np.float32(factor), np.float32(v0))
        return float(np.square(fired - wanted, dtype=np.float64).sum())

    both = neuron.levels_pos and neuron.levels_neg
    charges = (neuron.v0,) if both else CHARGES
    # The outermost level is one that the activation gives.
    largest = upper * (1 + 1e-6) / max(neuron.levels_pos * float(neuron.theta.max()), 1e-30)
    factors = [factor for factor in FACTORS if factor <= largest] or [1.0]
    factor, v0 = 1.0, neuron.v0
    for _ in range(_TURNS):
        v0 = min(charges, key=lambda tried: error(factor, tried))
        factor = min(factors, key=lambda tried: error(tried, v0))
    scaled = np.asarray(neuron.theta * np.float32(factor), np.float32)
    return replace(neuron, theta=scaled, v0=v0)


def _mean_fired(
    neuron: ThresholdNeuron, stepwise: np.ndarray, theta: np.ndarray, v0: np.float32
) -> np.ndarray:
    """What an IntegrateFire gives, averaged over the steps."""
    timesteps = len(stepwise)
    theta = theta * np.float32(timesteps)
    positive, negative = (n // timesteps for n in (neuron.levels_pos, neuron.levels_neg))
    rest, total = np.zeros_like(theta), np.zeros_like(theta)
    for current in stepwise:
        u = rest + current
        spikes = np.clip(
            np.copysign(np.floor(np.abs(u) / theta + v0), u), np.float32(-negative), positive
        )
        rest = u - theta * spikes
        total += spikes
    return np.asarray(theta * total / np.float32(timesteps))
