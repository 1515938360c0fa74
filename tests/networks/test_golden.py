"""The bundled networks give the stored outputs, compiled and not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from conftest import MODELS
from helpers import run_model
from snn_compile.compiler import CompileOptions, compile_model

NETWORKS = [
    *("digits_resnet_torchscript", "digits_resnet_dynamo"),
    *("digits_vit_torchscript", "digits_vit_dynamo"),
]
#: Logits apart; below it a level more or less may decide which is the largest.
CLEAR = 0.5


@pytest.fixture(params=NETWORKS)
def network(request):
    """The ANN and its golden inputs and outputs."""
    with np.load(MODELS / f"{request.param}_golden.npz") as golden:
        return onnx.load(MODELS / f"{request.param}.onnx"), dict(golden)


def same_answers(outputs, golden):
    """Whether the largest is the same wherever the golden outputs leave no doubt which it is."""
    highest = np.sort(golden, axis=1)
    clear = highest[:, -1] - highest[:, -2] > CLEAR
    assert clear.mean() >= 0.9
    return np.array_equal(outputs.argmax(1)[clear], golden.argmax(1)[clear])


def test_ann_gives_the_golden_outputs(network):
    ann, golden = network
    outputs = run_model(ann, {"image": golden["image"]})[0]
    np.testing.assert_allclose(outputs, golden["ann"], rtol=1e-5, atol=1e-5)


def test_compiled_snn_gives_the_golden_outputs(network):
    """Equal but for level flips: another processor sums a convolution in another order, and one ULP
    at a threshold is one level. One level moves a logit by far less than the quantisation does."""
    ann, golden = network
    options = CompileOptions(compensation=False, levels_budget=0.0)  # as in make_golden.py
    snn = compile_model(ann, MODELS / "digits_calibration.npz", options).model
    for library in (True, False):
        outputs = run_model(snn, {"image": golden["image"]}, library=library)[0]
        equal = np.isclose(outputs, golden["snn"], rtol=1e-5, atol=1e-5).all(axis=1)
        assert equal.mean() >= 0.75
        quantisation = np.abs(golden["snn"] - golden["ann"]).max()
        assert np.abs(outputs - golden["snn"]).max() <= quantisation / 2
        assert same_answers(outputs, golden["snn"])


def test_integers_give_the_golden_outputs(network):
    """But for level flips, of which a network of integers has more: every tensor is rounded, and
    what is left in float between them (LayerNormalization, Softmax) is the processor's."""
    ann, golden = network
    options = CompileOptions(target="int8", compensation=False)
    integers = compile_model(ann, MODELS / "digits_calibration.npz", options).model
    outputs = run_model(integers, {"image": golden["image"]})[0]
    quantisation = np.abs(golden["int8"] - golden["ann"]).max()
    assert np.abs(outputs - golden["int8"]).max() <= quantisation
    assert same_answers(outputs, golden["int8"])


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
    assert same_answers(outputs, golden["ann"])


def test_examples_stay_small_and_hold_what_the_readme_says():
    assert sum(path.stat().st_size for path in MODELS.iterdir() if path.is_file()) < 1_000_000
    assert all(path.stat().st_size < 300_000 for path in MODELS.glob("*.onnx"))
    ops = {
        name: {node.op_type for node in onnx.load(MODELS / f"{name}.onnx").graph.node}
        for name in NETWORKS
    }
    assert "BatchNormalization" in ops["digits_resnet_torchscript"]
    assert "BatchNormalization" not in ops["digits_resnet_dynamo"]
    assert "Add" in ops["digits_resnet_torchscript"]  # residual connections
    for name in ("digits_vit_torchscript", "digits_vit_dynamo"):
        assert {"MatMul", "Softmax", "LayerNormalization", "Transpose"} <= ops[name]
        assert ops[name] & {"Gelu", "Erf"}
