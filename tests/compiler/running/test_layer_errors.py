"""The error of each neuron by itself and of all up to it, against networks made by hand."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from helpers import model_from_text
from onnx import numpy_helper
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.cli import main
from snn_compile.compiler.progress import Progress
from snn_compile.compiler.report.reader import read_report
from snn_compile.compiler.running.layer_errors import samples_for

CHAIN = """
    g (float[N,6] x) => (float[N,4] y) <float[6,8] u, float[8,8] v, float[8,4] w, float[4] c> {
        a = MatMul (x, u) [one] r = Relu (a) b = MatMul (r, v) [two] s = Relu (b)
        y = Gemm (s, w, c)
    }"""
RESIDUAL = """
    g (float[N,4,6,6] x) => (float[N,3] y, float[N,4,6,6] map)
    <float[4,4,3,3] u, float[4,4,3,3] v, float[4,3] w> {
        a = Conv <pads = [1,1,1,1]> (x, u) [one] r = Relu (a)
        b = Conv <pads = [1,1,1,1]> (r, v) s = Add (b, r) [two] map = LeakyRelu (s)
        p = GlobalAveragePool (map) f = Flatten (p) [three] g = Sigmoid (f) y = MatMul (g, w)
    }"""
BRANCH = """
    g (float[N,3] x, bool b) => (float[N,3] y) <float[3,3] w> {
        z = MatMul (x, w)
        y = If (b) <
            then_branch = t () => (float[N,3] p) { q = Relu (z) p = Neg (q) },
            else_branch = e () => (float[N,3] r) { r = Relu (z) }
        >
    }"""
PLAIN = {"sequential": False, "bias_correction": False, "compensation": False}


class Told(Progress):
    """Keeps what is said."""

    def __init__(self):
        self.lines = []

    def tell(self, text):
        self.lines.append(text)


@pytest.fixture
def compiled(tmp_path):
    def compile_text(text, *, feeds=None, told=None, **options):
        rng = np.random.default_rng(1)
        if feeds is None:
            shape = (4, 6, 6) if "6,6] x" in text else (6,)
            feeds = {"x": rng.normal(size=(64, *shape)).astype(np.float32)}
        np.savez(tmp_path / "calibration.npz", **feeds)
        options = CompileOptions(layer_errors=True, **options)
        model = model_from_text(text)
        return compile_model(model, tmp_path / "calibration.npz", options, told).report

    return compile_text


@pytest.mark.parametrize(
    "options",
    [
        {"levels": 4},
        {"levels": 4, **PLAIN},
        {"levels": 6, "neuron": "multi-threshold"},
        {"levels": 6, "neuron": "staircase"},
        {"target": "standard", "levels": 5},
        {"target": "qonnx", "levels": 3, "weight_bits": 4},
    ],
)
@pytest.mark.parametrize("text", [CHAIN, RESIDUAL])
def test_with_all_neurons_the_error_is_that_of_the_snn(compiled, text, options):
    shape = (4, 6, 6) if text is RESIDUAL else (6,)
    rng = np.random.default_rng(2)
    feeds = {"x": rng.normal(size=(32, *shape)).astype(np.float32)}  # all of them are run
    report = compiled(text, feeds=feeds, **options)
    whole = [output.relative_l2 for output in report.verification.outputs]
    found = report.layer_errors
    assert found.samples == 32
    expected = np.sqrt(np.mean(np.square(whole)))
    # The ANN is folded, and scales are folded in the SNN alone: roundings apart.
    assert found.neurons[-1].cumulative == pytest.approx(expected, rel=1e-3)
    assert found.neurons[-1].cumulative_agreement == report.verification.agreement


def test_the_error_of_one_neuron_is_that_of_a_network_with_it_alone(compiled):
    given = {"levels": 4, "neuron": "multi-threshold", "granularity": "tensor"}
    report = compiled(CHAIN, **given, **PLAIN)
    model = model_from_text(CHAIN)
    x = np.random.default_rng(1).normal(size=(64, 6)).astype(np.float32)
    u, v, w, c = (numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    theta = [np.float32(neuron.theta[0]) for neuron in report.neurons]

    def output(*spiking):
        r = np.maximum(x @ u, 0)
        r = fire(r, theta[0], report.neurons[0].levels) if 0 in spiking else r
        s = np.maximum(r @ v, 0)
        s = fire(s, theta[1], report.neurons[1].levels) if 1 in spiking else s
        return s @ w + c

    ann = output()
    one, two = report.layer_errors.neurons
    assert (one.name, one.op, two.name) == ("one", "Relu", "two")
    kept = slice(32, 64)  # one batch of two
    assert one.single == pytest.approx(relative(output(0)[kept], ann[kept]), rel=1e-3)
    assert one.cumulative == pytest.approx(one.single, rel=1e-3)
    assert two.single == pytest.approx(relative(output(1)[kept], ann[kept]), rel=1e-3)
    assert two.cumulative == pytest.approx(relative(output(0, 1)[kept], ann[kept]), rel=1e-3)
    agreeing = (output(0, 1)[kept].argmax(1) == ann[kept].argmax(1)).mean()
    assert two.cumulative_agreement == pytest.approx(agreeing)


def fire(values, theta, levels):
    return theta * np.clip(np.floor(values / theta + np.float32(0.5)), 0, levels)


def relative(got, expected):
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def test_corrections_are_in_the_cumulative_error_alone(compiled):
    corrected = compiled(CHAIN, levels=3, neuron="multi-threshold", sequential=False)
    plain = compiled(CHAIN, levels=3, neuron="multi-threshold", **PLAIN)
    for with_them, without in zip(
        corrected.layer_errors.neurons, plain.layer_errors.neurons, strict=True
    ):
        assert with_them.single == pytest.approx(without.single, rel=1e-6)
        assert with_them.cumulative < without.cumulative


def test_how_long_it_takes_is_said_beforehand(compiled):
    told = Told()
    report = compiled(CHAIN, told=told, levels=4)
    (line,) = told.lines
    assert line.startswith("measuring 2 neurons one by one on 32 samples, about ")
    assert line.endswith(" s") and report.layer_errors.samples == 32


def test_neurons_of_a_branch_that_is_not_taken_change_nothing(compiled):
    x = np.random.default_rng(0).normal(size=(8, 1, 3)).astype(np.float32)
    report = compiled(BRANCH, feeds={"x": x, "b": np.ones(8, bool)}, levels=2, **PLAIN)
    taken, other = sorted(report.layer_errors.neurons, key=lambda n: n.single, reverse=True)
    assert taken.single > 0.01 and other.single == 0


def test_it_is_of_one_timestep_over_several(compiled):
    report = compiled(CHAIN, levels=2, timesteps=4)
    assert len(report.layer_errors.neurons) == 2
    assert 0 < report.layer_errors.neurons[-1].cumulative < 1


def test_command_line_and_json(tmp_path):
    onnx.save(model_from_text(CHAIN), tmp_path / "m.onnx")
    x = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
    np.save(tmp_path / "c.npy", x)
    command = [tmp_path / "m.onnx", "-o", tmp_path / "s.onnx", "--calibration", tmp_path / "c.npy"]
    more = ["--layer-errors", "--levels", "4", "--report", tmp_path / "r.json"]
    result = CliRunner().invoke(main, [str(part) for part in (*command, *more)])
    assert result.exit_code == 0, result.output
    assert "measuring 2 neurons one by one on 32 samples" in result.stderr
    assert "alone" in result.stdout
    found = json.loads((tmp_path / "r.json").read_text())["layer_errors"]
    assert [one["name"] for one in found["neurons"]] == ["one", "two"]
    assert 0 < found["neurons"][0]["single"] < 1
    read = read_report(tmp_path / "r.json").layer_errors
    assert read.neurons[1].cumulative == found["neurons"][1]["cumulative"]
    plain = CliRunner().invoke(main, [str(part) for part in command])
    assert plain.exit_code == 0 and "measuring" not in plain.stderr


def test_large_networks_are_run_on_fewer_samples():
    assert samples_for(1e6, 20) == 32
    assert samples_for(0, 20) == samples_for(1e6, 0) == 32
    assert 8 < samples_for(4e8, 50) < 32
    assert samples_for(1e12, 50) == 8
