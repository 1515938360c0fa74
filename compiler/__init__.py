"""The compiler: pipeline, calibration, verification, reports and the command line.

from snn_compile.compiler import compile_model
result = compile_model("model.onnx", calibration="calib.npz")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .options import CompileOptions

if TYPE_CHECKING:
    from .pipeline import CompileResult, compile_model

__all__ = ["CompileOptions", "CompileResult", "compile_model"]


def __getattr__(name: str) -> Any:
    # onnx and onnxruntime take half a second to import; `snn-compile --help` needs neither.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import pipeline

    return getattr(pipeline, name)
