"""Options."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from .calibration.options import CalibrationOptions, Corrections
from .calibration.options import check_options as check_calibration
from .calibration.tuning.levels_budget import check_budget
from .calibration.tuning.search_scale import SearchOptions, check_search
from .errors import UsageError
from .running.planes import check_kind

TARGETS = ("onnxruntime", "nir")


@dataclass(frozen=True)
class CompileOptions:
    """What the user may choose.

    Attributes:
        calibration: how neurons are chosen and fitted.
        corrections: which errors of spiking are corrected.
        shortcuts: "membrane": the sums of residual blocks read membrane potentials; "spikes": they
            read what the neurons fire.
        encode: "all": encode every analog edge into a linear operator; "activations": only replace
            activations.
        encode_input: encode the network's own input too.
        strict: refuse a model of which an activation would be kept.
        seed: seed of the synthetic samples.
        scale: multiplies the steps of the neurons whose steps may be scaled: a lambda that is
            known, where ``search`` finds one; 1 leaves them as calibrated.
        time_axis: inputs and outputs have the timesteps as their first axis.
        target: "onnxruntime": ONNX alone; "nir": the network over time as a NIR graph too.
        min_agreement: lowest share of samples on which ANN and SNN must give the same argmax.
        binary_spikes: "unary" or "bits": neurons send planes of binary spikes; None: they send
            levels.
        dump_dir: folder that gets the model after each step.
    """

    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    corrections: Corrections = field(default_factory=Corrections)
    shortcuts: str = "membrane"
    encode: str = "all"
    encode_input: bool = False
    strict: bool = False
    seed: int = 0
    scale: float = 1.0
    levels_budget: float | None = None
    search: SearchOptions | None = None
    time_axis: bool = False
    target: str = "onnxruntime"
    min_agreement: float | None = None
    binary_spikes: str | None = None
    dump_dir: Path | None = None


def check_scale(options: CompileOptions) -> None:
    """Refuse a scale that is none, or is given where one is searched.

    Raises:
        UsageError: it is not a finite number above 0, or a search is asked for too.
    """
    if not 0 < options.scale < math.inf:
        raise UsageError(f"the scale {options.scale:g} is not a finite number above 0")
    if options.search is not None and options.scale != 1:
        raise UsageError("a scale is searched and given; leave one of them out")


def check_time(options: CompileOptions) -> None:
    """Refuse what is not done over several timesteps, and a time axis without them.

    Raises:
        UsageError: the options do not go together.
    """
    calibration = options.calibration
    if options.time_axis and not calibration.stepwise:
        raise UsageError(
            "a time axis needs neurons that fire immediately over several timesteps; give "
            "--timesteps, and leave out --firing delayed"
        )
    if calibration.timesteps > 1 and (options.search or options.levels_budget is not None):
        raise UsageError("levels and scales are searched for networks of one timestep only")


def check_options(options: CompileOptions) -> None:
    """All checks."""
    check_calibration(options.calibration)
    check_scale(options)
    check_time(options)
    if options.target not in TARGETS:
        raise UsageError(f"the target {options.target!r} is unknown, there are {TARGETS}")
    if options.levels_budget is not None:
        check_budget(options.levels_budget)
    if options.search is not None:
        check_search(options.search)
    if options.binary_spikes is not None:
        check_kind(options.binary_spikes, options.calibration.levels)
