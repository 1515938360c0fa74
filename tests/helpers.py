"""Small models written as text, and how tests run them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx
import pytest
from onnx import ModelProto
from snn_compile.compiler.errors import ModelError, VerificationError
from snn_compile.compiler.front_end import FRONT_END, apply_passes
from snn_compile.compiler.model_io.load import load_source
from snn_compile.compiler.options import CompileOptions
from snn_compile.compiler.running.session import make_session
from snn_compile.compiler.steps import Steps
from snn_compile.compiler.targets import resolve
from snn_compile.passes.graph.graph import Graph
from snn_compile.passes.graph.surgeon import export_network, import_model
from snn_compile.passes.neurons.neuron import Neuron, SingleNeuron


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


def level_counts(neuron: Neuron, x: np.ndarray) -> dict[str, np.ndarray]:
    """How often each level of a neuron, or of its parts, occurs for membrane potentials."""
    return {name: _level_counts(part, x) for name, part in neuron.parts.items()}


def _level_counts(neuron: SingleNeuron, x: np.ndarray) -> np.ndarray:
    rows = np.moveaxis(x, neuron.axis, 0) if neuron.rows > 1 else [x]
    reached = [neuron.level_of(values, row).reshape(-1) for row, values in enumerate(rows)]
    return np.bincount(np.concatenate(reached), minlength=neuron.level_count + 1)


def run_model(
    model: ModelProto, feed: dict[str, np.ndarray], *, library: bool = False, optimise: bool = False
) -> list[np.ndarray]:
    """Outputs of a model, by default in the order of arithmetic that the file has."""
    try:
        session = make_session(model, library=library, optimise=optimise)
    except ModelError as error:
        if "Current official support for domain" in str(error):
            pytest.skip("this onnxruntime is older than the model's opset")
        raise
    return list(session.run(None, feed))


def export_model(graph: Graph) -> ModelProto:
    """The model of a graph, with all weights inside."""
    return export_network(graph).attached()


def resolved(**options: object) -> CompileOptions:
    """Options as the stages of the compiler get them."""
    return resolve(CompileOptions(**options))


@contextmanager
def full_weights() -> Iterator[None]:
    """Skip what the compiler refuses on a processor whose sums of full int8 weights saturate."""
    try:
        yield
    except VerificationError as error:
        if "this processor's sums saturate" not in str(error):
            raise
        pytest.skip("needs a processor with VNNI, or Arm")


def assert_front_end_keeps_the_function(model: ModelProto, feed: dict[str, np.ndarray]) -> None:
    """The passes before the neurons may change an output by 1e-5 of its largest value at most.

    Folding BatchNormalization changes weights by a rounding each. Where sums cancel, that is much
    of a small value and little of the largest one, so the bound is one for the whole output. A
    Sigmoid near 0 is made of values near 1/2, which are 2^-25 apart: no bound is below 2^-23.
    """
    graph = import_model(load_source(model).network)
    graph = apply_passes(graph, FRONT_END, resolved(), Steps())
    before, after = run_model(model, feed), run_model(export_network(graph), feed)
    for expected, got in zip(before, after, strict=True):
        largest = float(np.abs(expected).max(initial=0))
        np.testing.assert_allclose(got, expected, rtol=0, atol=max(1e-5 * largest, 2**-23))
