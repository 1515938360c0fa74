"""Give a network the definitions of the custom operators that it uses.

Each becomes a model-local function in standard operators, so that a runtime without our library
executes that; one that has the library registered runs the C++ kernels instead. Functions need IR
version 8.
"""

from __future__ import annotations

from ...runtime_ops.definition import DOMAIN, MIN_IR_VERSION
from ...runtime_ops.operators import OPERATORS
from ..graph.network import Network


def function_bodies(network: Network) -> Network:
    """Attach function bodies in place and return the network; others are left as they are."""
    model = network.proto
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    defined = {f.name for f in model.functions if f.domain == DOMAIN}
    for operator in OPERATORS:
        if operator.nodes_of(model) and operator.name not in defined:
            model.functions.append(operator.function_body(opset, **operator.form_in(model)))
            model.ir_version = max(model.ir_version, MIN_IR_VERSION)
    return network
