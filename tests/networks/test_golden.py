"""The bundled networks give the stored outputs, compiled and not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from conftest import MODELS
from helpers import run_model
from snn_compile.compiler import CompileOptions, compile_model

NETWORKS = ["digits_resnet_torchscript", "digits_resnet_dynamo"]


@pytest.fixture(params=NETWORKS)
def network(request):
    """The ANN and its golden inputs and outputs."""
    with np.load(MODELS / f"{request.param}_golden.npz") as golden:
        return onnx.load(MODELS / f"{request.param}.onnx"), dict(golden)


def test_ann_gives_the_golden_outputs(network):
    ann, golden = network
    outputs = run_model(ann, {"image": golden["image"]})[0]
    np.testing.assert_allclose(outputs, golden["ann"], rtol=1e-5, atol=1e-5)


def test_compiled_snn_gives_the_golden_outputs(network):
    """Equal but for level flips: another processor sums a convolution in another order, and one ULP
    at a threshold is one level. One level moves a logit by far less than the quantisation does."""
    ann, golden = network
    options = CompileOptions(compensation=False)  # as in make_golden.py
    snn = compile_model(ann, MODELS / "digits_calibration.npz", options).model
    for library in (True, False):
        outputs = run_model(snn, {"image": golden["image"]}, library=library)[0]
        equal = np.isclose(outputs, golden["snn"], rtol=1e-5, atol=1e-5).all(axis=1)
        assert equal.mean() >= 0.75
        quantisation = np.abs(golden["snn"] - golden["ann"]).max()
        assert np.abs(outputs - golden["snn"]).max() <= quantisation / 2
        np.testing.assert_array_equal(outputs.argmax(1), golden["snn"].argmax(1))


def test_compensation_in_weights_stays_as_close_to_the_ann(network):
    """Which processor solved for the weights decides on levels, but not on how close the result is
    (an error of about 4 %) and not on the answers."""
    ann, golden = network
    snn = compile_model(ann, MODELS / "digits_calibration.npz").model
    outputs = run_model(snn, {"image": golden["image"]})[0]
    error, golden_error = (
        np.linalg.norm(other - golden["ann"]) for other in (outputs, golden["snn"])
    )
    assert error <= 1.25 * golden_error
    np.testing.assert_array_equal(outputs.argmax(1), golden["ann"].argmax(1))


def test_examples_stay_small_and_hold_what_the_readme_says():
    assert sum(path.stat().st_size for path in MODELS.iterdir() if path.is_file()) < 1_000_000
    ops = {
        name: {node.op_type for node in onnx.load(MODELS / f"{name}.onnx").graph.node}
        for name in NETWORKS
    }
    assert "BatchNormalization" in ops["digits_resnet_torchscript"]
    assert "BatchNormalization" not in ops["digits_resnet_dynamo"]
    assert "Add" in ops["digits_resnet_torchscript"]  # residual connections
