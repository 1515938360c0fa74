"""The N up to which spikes take less than the ANN, against networks compiled with other N."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from conftest import MODELS
from snn_compile.compiler import compile_model
from snn_compile.compiler.eval_cli import main


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """With as many levels for each neuron: a budget lets other neurons fire the spikes."""
    ann, snn = MODELS / "digits_resnet_dynamo.onnx", tmp_path_factory.mktemp("snn") / "snn.onnx"
    compile_model(ann, MODELS / "digits_calibration.npz", levels_budget=0.0).save(snn)
    arguments = [
        *(str(ann), str(snn), "--data", str(MODELS / "digits_test.npz")),
        *("--calibration", str(MODELS / "digits_calibration.npz"), "--sweep", "levels=8,16"),
        *("--no-latency", "--no-flips", "--json"),
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_networks_of_other_levels_spend_what_was_estimated(found, precision):
    """Within a fifth: rounding to fewer levels keeps the mean of values, not their shares."""
    energy, unary = found["energy"], "unary" if precision == "fp32" else "unary_int8"
    assert energy["levels"] == 32
    ann = energy["totals"][f"ann_{precision}"]
    analog = sum(s["energy"][unary] for s in energy["synapses"] if s["analog"])
    slope = (ann - analog) / energy["cheaper_up_to"][precision]
    for point in found["sweep"]:
        estimate = analog + slope * point["setting"]["levels"]
        assert point["energy"][unary] == pytest.approx(estimate, rel=0.2)
        assert (point["energy"][unary] < ann) == (
            point["setting"]["levels"] < energy["cheaper_up_to"][precision]
        )


def test_what_is_said_of_each_layer(found):
    rates = {rate["name"]: rate for rate in found["energy"]["rates"]}
    spiking = {s["name"]: s for s in found["energy"]["synapses"] if not s["analog"]}
    assert rates.keys() == spiking.keys()
    for name, rate in rates.items():
        assert rate["events"] == pytest.approx(spiking[name]["graded"] / spiking[name]["macs"])
        assert 0 < rate["events_break_even_memory"] < rate["events_break_even"]
        assert 0 < rate["spikes_break_even_memory"] < rate["spikes_break_even"]
    assert 0 < found["energy"]["neurobench"]["activation_sparsity"] < 1
