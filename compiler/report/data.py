"""The compile report: what was done to the model, what was not and why, and how well it works."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

from ..calibration.fitting.membrane import MembraneHistogram
from ..calibration.tuning.levels_budget import BudgetReport
from ..calibration.tuning.search_scale import SearchReport
from ..errors import readable
from ..running.layer_errors import LayerErrors
from ..running.threads import Threads
from ..verify import Verification
from .coverage import Coverage
from .hints import LevelsEstimate


@dataclass
class PassReport:
    """One step of the pipeline: its name, wall-clock seconds and changes."""

    name: str
    seconds: float
    changes: list[str]


@dataclass
class NeuronReport:
    """One neuron as it stands in the compiled model.

    Attributes:
        name: node name.
        op: the operator of domain ai.snn.
        source_node: the activation it replaces.
        source_op: that activation's operator, or "Encoder".
        polarity: "positive" or "negative" branch, "both" of a MultiThresholdFire with levels on
            both sides, or "staircase".
        levels: number of levels N besides silence.
        theta: [least, largest] over channels of the threshold of a MultiThresholdFire, the scale
            of others; None for a quantiser of the source model.
        channels: how many have one of their own; 1 where all have the same.
        calibrator: how it was found.
        clip_rate: share of the calibration values above the highest level, of a MultiThresholdFire.
        error: relative error to be expected, from the calibration values; nan for a quantiser of
            the source model.
        membrane: what it saw at calibration; None for a quantiser of the source model.
    """

    name: str
    op: str
    source_node: str
    source_op: str
    polarity: str
    levels: int
    theta: list[float] | None
    channels: int
    calibrator: str
    clip_rate: float
    error: float
    membrane: MembraneHistogram | None = None

    @property
    def theta_text(self) -> str:
        """Theta with four digits."""
        if self.theta is None:
            return "of the source model"
        if self.channels == 1:
            return f"{self.theta[0]:.4g}"
        return f"{self.theta[0]:.4g}..{self.theta[1]:.4g}"


@dataclass
class CompileReport:
    """Everything the compiler can say about one run.

    Attributes:
        version: of the compiler.
        model: file, producer and digest of the source.
        settings: every option, with the value that it had.
        calibration: how many samples, their origin, and whether they were made up.
        passes: the steps.
        neurons: as they stand in the compiled model.
        coverage: what was converted.
        levels_budget: how levels were planned, if they were.
        search: how a scale was searched, if it was.
        verification: None before it.
        layer_errors: None where they were not asked for.
        other_levels: what half and twice the levels would do, an estimate; empty where it is not
            known.
        warnings: what the user should know.
        options: the fewest options from which all settings follow, but for those that only check or
            show; the compiled model records them.
    """

    version: str
    model: dict[str, Any]
    settings: dict[str, Any]
    calibration: dict[str, Any]
    passes: list[PassReport] = field(default_factory=list)
    neurons: list[NeuronReport] = field(default_factory=list)
    coverage: Coverage = field(default_factory=Coverage)
    levels_budget: BudgetReport | None = None
    search: SearchReport | None = None
    threads: Threads | None = None
    verification: Verification | None = None
    layer_errors: LayerErrors | None = None
    other_levels: list[LevelsEstimate] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    def provenance(self) -> dict[str, str]:
        """What a compiled model says of how it was made."""
        model, settings, calibration = self.model, self.settings, self.calibration
        of_target = ("target", "int8_weights", "weight_bits")
        own = {key: str(settings[key]) for key in of_target if settings.get(key)}
        if "preprocessing" in calibration:
            own["preprocessing"] = json.dumps(calibration["preprocessing"])
        if settings.get("exclude"):
            own["exclude"] = " ".join(settings["exclude"])
        return {
            "version": self.version,
            "source_sha256": str(model.get("sha256")),
            "source_digest": str(model.get("digest")),
            "levels": str(settings.get("levels")),
            "timesteps": str(settings.get("timesteps")),
            "calibrator": str(settings.get("calibrator")),
            "calibration": str(calibration.get("origin")),
            "calibration_is_synthetic": str(calibration.get("synthetic")).lower(),
            "options": json.dumps(self.options, sort_keys=True),
            **own,
        }

    def to_json(self) -> str:
        """The report as indented JSON."""
        content = asdict(self)
        content["coverage"]["spiking_share"] = self.coverage.spiking_share
        return json.dumps(finite(content), indent=2, allow_nan=False) + "\n"


def finite(value: Any) -> Any:
    """JSON knows no NaN: what does not apply is null. File names are shown as UTF-8."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    if isinstance(value, str):
        return readable(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
