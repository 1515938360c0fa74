"""The bundled vision transformer, whole: every target, several timesteps, the commands."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from conftest import MODELS
from helpers import export_model, run_model
from snn_compile.compiler import CompileOptions, cli, compile_model, eval_cli
from snn_compile.compiler.errors import ModelError
from snn_compile.passes.graph.surgeon import import_model
from snn_compile.passes.lowering.temporal_to_spatial import temporal_to_spatial
from stepwise_reference import stepwise

NETWORKS = ("digits_vit_torchscript", "digits_vit_dynamo")
STEPS = 4


@pytest.fixture(params=NETWORKS)
def ann(request):
    return onnx.load(MODELS / f"{request.param}.onnx")


@pytest.fixture
def images():
    with np.load(MODELS / "digits_test.npz") as data:
        return {"image": data["image"][:6]}


@pytest.mark.parametrize("target", ["onnxruntime", "standard", "int8", "qonnx"])
def test_targets(ann, target, digits_calibration):
    """Each proves its claims while it compiles."""
    result = compile_model(ann, digits_calibration, target=target)
    assert result.report.coverage.spiking_share > 0.99
    assert len(result.report.neurons) >= 17
    assert result.report.verification.agreement > 0.95


def test_nir_says_what_it_cannot_express(ann, digits_calibration):
    with pytest.raises(ModelError, match=r"NIR cannot express the network: .*Softmax"):
        compile_model(ann, digits_calibration, target="nir")


def test_several_timesteps_are_the_step_by_step_reference(ann, digits_calibration, images):
    snn = compile_model(ann, digits_calibration, CompileOptions(timesteps=STEPS)).model
    spatial = export_model(temporal_to_spatial(import_model(snn)).graph)
    (got,), (expected,) = run_model(snn, images), stepwise(spatial, images, STEPS)
    assert sum(node.op_type == "IntegrateFire" for node in snn.graph.node) >= 15
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_a_newcomer_tries_it(tmp_path):
    ann, snn = str(MODELS / "digits_vit_dynamo.onnx"), str(tmp_path / "snn.onnx")
    arguments = [ann, "-o", snn, "--calibration", str(MODELS / "digits_calibration.npz")]
    compiled = CliRunner().invoke(cli.main, arguments)
    assert compiled.exit_code == 0, compiled.output
    arguments = [ann, snn, "--data", str(MODELS / "digits_test.npz"), "--no-latency", "--json"]
    evaluated = CliRunner().invoke(eval_cli.main, arguments)
    assert evaluated.exit_code == 0, evaluated.output
    found = json.loads(evaluated.stdout)
    (output,) = found["outputs"]
    assert output["top1"]["value"] > 0.94 and output["agreement"]["value"] > 0.97
    # Of attention both operands spike, and are counted so.
    both = [s for s in found["energy"]["synapses"] if len(set(s["inputs"])) == 2]
    assert len(both) == 4 and all(not s["analog"] and s["unary"] > 0 for s in both)
