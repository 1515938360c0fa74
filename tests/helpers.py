"""Small models written as text, and how tests run them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto
from snn_compile.compiler.session import make_session


def model_from_text(text: str, opset: int = 17, seed: int = 0) -> ModelProto:
    """A checked model from ONNX text: ``graph_name (inputs) => (outputs) <weights> { nodes }``.

    Weights declared without a value get normal ones; names that end in 'var' get positive ones.
    """
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n' + text)
    rng = np.random.default_rng(seed)
    computed = {name for node in model.graph.node for name in node.output}
    for value in [value for value in model.graph.value_info if value.name not in computed]:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        weights = rng.standard_normal(shape).astype(np.float32)
        if value.name.endswith("var"):
            weights = np.abs(weights) + np.float32(0.1)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights, value.name))
        model.graph.value_info.remove(value)
    onnx.checker.check_model(model, full_check=True)
    return model


def run_model(
    model: ModelProto, feed: dict[str, np.ndarray], *, library: bool = False, optimise: bool = False
) -> list[np.ndarray]:
    """Outputs of a model, by default in the order of arithmetic that the file has."""
    return list(make_session(model, library=library, optimise=optimise).run(None, feed))
