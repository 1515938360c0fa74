"""What the user may choose about calibration."""

from __future__ import annotations

from dataclasses import dataclass

from ...runtime_ops.scale_fire import MAX_THRESHOLDS
from ..errors import UsageError
from ..limits import MOST_TIMESTEPS
from .fitting.uniform_calibrators import UNIFORM_CALIBRATORS

#: Levels that follow the density of the values: ``staircase.py``.
DENSITY = "density"
CALIBRATORS = ("auto", DENSITY, *UNIFORM_CALIBRATORS)
SCALE, MULTI_THRESHOLD = "scale", "multi-threshold"
SIGNED = "signed"
NEURON_KINDS = ("auto", SCALE, MULTI_THRESHOLD, SIGNED)
#: When a neuron over several timesteps fires: as its input comes in, or once all of it is there.
IMMEDIATE, DELAYED = "immediate", "delayed"
FIRING = (IMMEDIATE, DELAYED)


@dataclass(frozen=True)
class CalibrationOptions:
    """How neurons are chosen and fitted.

    Attributes:
        levels: number of levels N of each neuron besides silence, in each timestep.
        calibrator: one of :data:`CALIBRATORS`.
        percentile: p of the percentile calibrator.
        per_channel: a threshold or scale per channel where the channels are known, instead of one
            per tensor.
        neuron: one of :data:`NEURON_KINDS`.
        timesteps: T; above 1 neurons integrate and fire.
        firing: one of :data:`FIRING`.
    """

    levels: int = 32
    calibrator: str = "auto"
    percentile: float = 99.9
    per_channel: bool = True
    neuron: str = "auto"
    timesteps: int = 1
    firing: str = IMMEDIATE

    @property
    def total_levels(self) -> int:
        """Levels over all timesteps."""
        return self.levels * self.timesteps

    @property
    def stepwise(self) -> bool:
        """Whether neurons see their predecessors' spikes one timestep after the other."""
        return self.timesteps > 1 and self.firing == IMMEDIATE

    @property
    def signed(self) -> bool:
        """Whether neurons take spikes back: those of every activation have both polarities."""
        return self.stepwise and self.neuron in ("auto", SIGNED)

    @property
    def kind(self) -> str:
        """The kind of neuron where both can be: "scale" or "multi-threshold"."""
        if self.timesteps > 1:
            return MULTI_THRESHOLD
        if self.neuron != "auto":
            return self.neuron
        return SCALE if self.levels <= MAX_THRESHOLDS else MULTI_THRESHOLD


@dataclass(frozen=True)
class Corrections:
    """Which errors are corrected.

    Attributes:
        sequential: fit neurons to what spiking predecessors give them and to the ANN's values, not
            to the latter alone.
        bias: correct the mean error of every layer.
        weights: compensate in the weights of every layer.
    """

    sequential: bool = True
    bias: bool = True
    weights: bool = True

    @property
    def layers(self) -> bool:
        """Whether linear layers are corrected."""
        return self.bias or self.weights

    @property
    def any(self) -> bool:
        """Whether anything is done beyond fitting neurons to the ANN's values."""
        return self.sequential or self.layers


def check_options(options: CalibrationOptions) -> None:
    """Refuse what does not go together.

    Raises:
        UsageError: an unknown name, a number out of range, more levels than the neuron has, or
            density-aware levels for neurons whose levels are equally far apart.
    """
    if options.calibrator not in CALIBRATORS:
        known = ", ".join(CALIBRATORS)
        raise UsageError(f"the calibrator {options.calibrator!r} is unknown, there are {known}")
    if options.neuron not in NEURON_KINDS:
        known = ", ".join(NEURON_KINDS)
        raise UsageError(f"the neuron {options.neuron!r} is unknown, there are {known}")
    if options.firing not in FIRING:
        known = ", ".join(FIRING)
        raise UsageError(f"the firing {options.firing!r} is unknown, there are {known}")
    if not 1 <= options.timesteps <= MOST_TIMESTEPS:
        raise UsageError(f"{options.timesteps} timesteps: there are 1 to {MOST_TIMESTEPS}")
    if options.neuron == SIGNED and not options.stepwise:
        raise UsageError(
            "signed neurons take back spikes of earlier timesteps; give --timesteps, and leave out "
            "--firing delayed"
        )
    if options.timesteps > 1 and options.neuron == SCALE:
        raise UsageError(
            "ScaleFire neurons fire in one timestep; leave out --timesteps, or use multi-threshold "
            "neurons, which become integrate-and-fire neurons"
        )
    if options.levels < 1:
        raise UsageError(f"{options.levels} levels: a neuron needs at least 1")
    if not 0 < options.percentile <= 100:
        raise UsageError(f"the percentile {options.percentile:g} is not above 0 and at most 100")
    if options.neuron == SCALE and options.levels > MAX_THRESHOLDS:
        raise UsageError(
            f"{options.levels} levels: a ScaleFire neuron has at most {MAX_THRESHOLDS}; "
            "use fewer, or multi-threshold neurons"
        )
    if options.calibrator == DENSITY and options.kind == MULTI_THRESHOLD:
        why = "" if options.neuron != "auto" else f", which {options.levels} levels need"
        raise UsageError(
            f"the calibrator density places levels freely, those of multi-threshold neurons{why} "
            "are multiples of one threshold; use mse, or scale neurons"
        )
