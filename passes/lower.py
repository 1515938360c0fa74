"""Lower the graph's operators to what a runtime executes: the last step of the compiler.

Target ``portable``, the only one so far: each custom operator used gets its definition in standard
operators as a model-local function, so that the file runs in any ONNX runtime; one that has our
library registered runs the C++ kernels instead. Functions need IR version 8.
"""

from __future__ import annotations

from onnx import ModelProto

from ..runtime_ops.definition import DOMAIN, MIN_IR_VERSION
from ..runtime_ops.operators import OPERATORS


def lower(model: ModelProto) -> ModelProto:
    """Attach function bodies to ``model`` in place and return it; others are left as they are."""
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    defined = {f.name for f in model.functions if f.domain == DOMAIN}
    for operator in OPERATORS:
        if operator.nodes_of(model) and operator.name not in defined:
            model.functions.append(operator.function_body(opset))
            model.ir_version = max(model.ir_version, MIN_IR_VERSION)
    return model
