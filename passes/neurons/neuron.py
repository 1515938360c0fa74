"""A calibrated neuron: what calibration decides and the passes write into the graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Initial membrane potential as a fraction of theta: half a threshold turns floor into
#: round-half-up and so halves the error, |x - y| <= theta / 2 inside the range.
V0 = 0.5


@dataclass(frozen=True, kw_only=True)
class Neuron:
    """What every neuron records; one of the classes below says what it does.

    Attributes:
        axis: channel axis when theta or scale is per channel.
        calibrator: how it was found, for provenance.
        reason: why this calibrator and this kind of neuron; empty where both were asked for.
        error: relative error ||f(x) - y|| / ||f(x)|| to be expected, from the calibration values.
    """

    axis: int
    calibrator: str
    reason: str = ""
    error: float = float("nan")


@dataclass(frozen=True)
class ThresholdNeuron(Neuron):
    """MultiThresholdFire: its levels are multiples of a threshold, in either direction.

        k = sign(x) * min(floor(|x| / theta + v0), levels_pos if x >= 0 else levels_neg)
        y = theta * k

    It stands for Relu, Clip from 0 and encoders.

    Attributes:
        theta: float32 threshold, scalar () or per channel [C]; finite and greater than 0.
        levels_pos: number of positive levels; 0 if it fires below 0 only.
        levels_neg: number of negative levels.
        clip_rate: share of the calibration values beyond the outermost levels.
        v0: initial membrane potential as a fraction of theta, in [0, 1).
    """

    theta: np.ndarray
    levels_pos: int
    levels_neg: int = 0
    clip_rate: float = 0.0
    v0: float = V0


@dataclass(frozen=True)
class StaircaseNeuron(Neuron):
    """ScaleFire: its levels follow any function, y = scale * levels[#{i: x >= scale * t_i}].

    Attributes:
        scale: float32, scalar () or per channel [C]; finite and greater than 0.
        thresholds: float32 [K], t_i, ascending.
        levels: float32 [K + 1].
    """

    scale: np.ndarray
    thresholds: np.ndarray
    levels: np.ndarray


@dataclass(frozen=True)
class DualNeuron(Neuron):
    """Two neurons, of LeakyRelu and PRelu: y = positive(x) + slope * negative(x).

    Attributes:
        positive: 0 below 0; a ThresholdNeuron has positive levels only.
        negative: 0 above 0, and below it follows x; a ThresholdNeuron has negative levels only.
    """

    positive: ThresholdNeuron | StaircaseNeuron
    negative: ThresholdNeuron | StaircaseNeuron


def describe_range(theta: np.ndarray) -> str:
    """A threshold or scale as provenance shows it: the value, or the range over channels."""
    if theta.ndim == 0:
        return repr(float(theta))
    return f"{float(theta.min())!r}..{float(theta.max())!r} over {theta.size} channels"
