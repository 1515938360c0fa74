"""All operators of the domain, for what concerns each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .definition import Operator, neurons_below
from .integrate_fire import INTEGRATE_FIRE
from .multi_threshold_fire import MULTI_THRESHOLD_FIRE
from .scale_fire import DUAL_SCALE_FIRE, SCALE_FIRE
from .staircase_fire import STAIRCASE_FIRE

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

OPERATORS: tuple[Operator, ...] = (
    MULTI_THRESHOLD_FIRE,
    SCALE_FIRE,
    DUAL_SCALE_FIRE,
    STAIRCASE_FIRE,
    INTEGRATE_FIRE,
)


def register_schemas() -> None:
    """Make ``onnx.checker`` and ``onnx.shape_inference`` know the operators (idempotent)."""
    for operator in OPERATORS:
        operator.register_schema_once()


def neurons_of(model: ModelProto) -> list[NodeProto]:
    """The nodes that are neurons, those in control-flow bodies included, in order."""
    return list(neurons_below(model.graph))
