"""A calibrated neuron: what calibration decides and the passes write into the graph."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

#: Initial membrane potential as a fraction of theta: half a threshold turns floor into
#: round-half-up and so halves the error, |x - y| <= theta / 2 inside the range.
V0 = 0.5


@dataclass(frozen=True)
class Branch:
    """One polarity of a neuron.

    Attributes:
        theta: float32 threshold, scalar () or per channel [C]; finite and greater than 0.
        clip_rate: share of the calibration values whose level exceeds ``levels``.
    """

    theta: np.ndarray
    clip_rate: float


@dataclass(frozen=True)
class Neuron:
    """A neuron whose levels are multiples of a threshold, for piecewise linear activations.

    Attributes:
        positive: branch for inputs above 0.
        negative: branch for inputs below 0, for LeakyRelu and PRelu.
        levels: number of levels N of each branch.
        axis: channel axis when theta is per channel.
        calibrator: how theta was found, for provenance.
    """

    positive: Branch
    negative: Branch | None
    levels: int
    axis: int
    calibrator: str


@dataclass(frozen=True)
class StaircaseNeuron:
    """A neuron whose levels follow any function: y = scale * levels[#{i: x >= scale * t_i}].

    Attributes:
        scale: float32, scalar () or per channel [C]; finite and greater than 0.
        thresholds: float32 [K], t_i, ascending.
        levels: float32 [K + 1].
        axis: channel axis when scale is per channel.
        calibrator: how thresholds and levels were found, for provenance.
        error: relative error ||f(x) - y|| / ||f(x)|| on the calibration values.
    """

    scale: np.ndarray
    thresholds: np.ndarray
    levels: np.ndarray
    axis: int
    calibrator: str
    error: float


@dataclass
class PassContext:
    """What a pass may read besides the graph.

    Attributes:
        neurons: calibrated neurons, keyed by the output tensor's name of the activation.
    """

    neurons: dict[str, Neuron | StaircaseNeuron] = field(default_factory=dict)


def describe_range(theta: np.ndarray) -> str:
    """A threshold or scale as provenance shows it: the value, or the range over channels."""
    if theta.ndim == 0:
        return repr(float(theta))
    return f"{float(theta.min())!r}..{float(theta.max())!r} over {theta.size} channels"
