"""The compiler: pipeline, calibration, verification, reports and the command line.

import snn_compile
result = snn_compile.compile("model.onnx", calibration="calib.npz")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import DataError, ModelError, SnnCompileError, UsageError, VerificationError
from .options import CORRECTION_OPTIONS, CompileOptions
from .progress import Progress

if TYPE_CHECKING:
    from .evaluation.energy import EnergyTable
    from .evaluation.evaluate import EvaluationOptions
    from .evaluation.in_python import evaluate
    from .evaluation.latency import LatencyOptions
    from .evaluation.sweep import Setting
    from .evaluation.tasks.task import TaskOptions
    from .pipeline import CompileResult, compile_model
    from .pipeline import compile_model as compile
    from .report.data import CompileReport
    from .report.results import EvaluationResult
    from .samples.image_options import ImageOptions
    from .samples.source import Source

__all__ = [
    "CORRECTION_OPTIONS",
    "CompileOptions",
    "CompileReport",
    "CompileResult",
    "DataError",
    "EnergyTable",
    "EvaluationOptions",
    "EvaluationResult",
    "ImageOptions",
    "LatencyOptions",
    "ModelError",
    "Progress",
    "Setting",
    "SnnCompileError",
    "Source",
    "TaskOptions",
    "UsageError",
    "VerificationError",
    "compile",
    "compile_model",
    "evaluate",
]

#: Where the others are. onnx and onnxruntime take half a second to import; neither
#: ``import snn_compile`` nor ``snn-compile --help`` needs them.
_LATER = {
    "CompileReport": "report.data",
    "CompileResult": "pipeline",
    "EnergyTable": "evaluation.energy",
    "EvaluationOptions": "evaluation.evaluate",
    "EvaluationResult": "report.results",
    "ImageOptions": "samples.image_options",
    "LatencyOptions": "evaluation.latency",
    "Setting": "evaluation.sweep",
    "Source": "samples.source",
    "TaskOptions": "evaluation.tasks.task",
    "compile": "pipeline",
    "compile_model": "pipeline",
    "evaluate": "evaluation.in_python",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f".{_LATER[name]}", __name__)
    return getattr(module, "compile_model" if name == "compile" else name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
