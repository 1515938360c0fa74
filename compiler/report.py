"""The compile report: what was done to the model, what was not and why, and how well it works."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from ..passes.activations import Kept
from .verify import Verification


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
        source_node: the activation it replaces.
        source_op: that activation's operator.
        polarity: "positive" or "negative".
        levels: number of levels N.
        theta: the threshold, or its range over channels.
        calibrator: how theta was found.
        clip_rate: share of the calibration values above the highest level.
    """

    name: str
    source_node: str
    source_op: str
    polarity: str
    levels: int
    theta: str
    calibrator: str
    clip_rate: float


@dataclass
class CompileReport:
    """Everything the compiler can say about one run."""

    version: str
    model: dict[str, Any]
    settings: dict[str, Any]
    calibration: dict[str, Any]
    passes: list[PassReport] = field(default_factory=list)
    neurons: list[NeuronReport] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    verification: Verification | None = None
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """The report as indented JSON."""
        return json.dumps(asdict(self), indent=2) + "\n"
