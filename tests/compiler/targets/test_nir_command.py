"""``--target nir``: the file, what the report says of it, and refusals that write nothing."""

from __future__ import annotations

import importlib
import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from helpers import model_from_text, run_model
from snn_compile.compiler import cli
from snn_compile.compiler.targets.nir import package

nir = pytest.importorskip("nir", reason="needs the extra 'nir'")
nir_by_hand = pytest.importorskip("nir_by_hand")

BLOCK = """g (float[N, 2, 6, 6] x) => (float[N, 3] y)
    <float[4,2,3,3] w, float[4,4,3,3] v, float[8,4,2,2] u, float[8,3] last> {
    [c1] a = Conv <pads = [1, 1, 1, 1]> (x, w) [r1] b = Relu (a)
    [c2] c = Conv <pads = [1, 1, 1, 1]> (b, v) [add] d = Add (c, b) [r2] e = Relu (d)
    TAIL [pool] p = GlobalAveragePool (f) [flat] q = Flatten (p) [fc] y = Gemm (q, last) }"""
PLAIN = "[c3] h = Conv <strides = [2, 2]> (e, u) [r3] f = Relu (h)"
POOLED = "[pool0] g = MaxPool <kernel_shape = [2, 2]> (e) [c3] h = Conv (g, u) [r3] f = Relu (h)"
SIGNED = "[c3] h = Conv <strides = [2, 2]> (e, u) [r3] f = LeakyRelu (h)"


@pytest.fixture
def folder(tmp_path):
    """Models and samples for them."""
    for name, tail in (("plain", PLAIN), ("pooled", POOLED), ("signed", SIGNED)):
        onnx.save(model_from_text(BLOCK.replace("TAIL", tail)), tmp_path / f"{name}.onnx")
    x = np.random.default_rng(0).standard_normal((12, 2, 6, 6)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", x=x)
    return tmp_path


def snn_compile(folder, model, output, *options):
    arguments = [folder / model, "-o", folder / output, "--calibration", folder / "samples.npz"]
    return CliRunner().invoke(cli.main, [str(argument) for argument in (*arguments, *options)])


def test_the_file_is_the_network_over_time(folder):
    options = ("--timesteps", 4, "--shortcuts", "spikes", "--encode", "activations")
    options += ("--neuron", "multi-threshold")
    assert snn_compile(folder, "plain.onnx", "snn.onnx", *options).exit_code == 0
    report = folder / "report.json"
    options = ("--timesteps", 4, "--target", "nir", "--report", report)
    result = snn_compile(folder, "plain.onnx", "snn.nir", *options)
    assert result.exit_code == 0, result.output
    assert "72 neurons n0003_if_start are put in" in result.stdout
    assert json.loads(report.read_text())["settings"]["target"] == "nir"

    graph = nir.read(folder / "snn.nir")
    assert (
        set(nir_by_hand.neurons(graph)) == {"r1", "r2", "r3"} and graph.metadata["timesteps"] == 4
    )
    with np.load(folder / "samples.npz") as samples:
        feed = dict(samples)
    (expected,) = run_model(onnx.load(folder / "snn.onnx"), feed, library=True)
    found = nir_by_hand.Simulation(graph).run({"input": feed["x"]}, 4)["output"].mean(0)
    same = np.all(np.isclose(found, expected, rtol=1e-5, atol=1e-5), axis=1)
    assert same.mean() > 0.8, "a sample differs only where a potential meets its threshold"
    assert np.ptp(expected) > 0.1


@pytest.mark.parametrize(
    ("model", "options", "code", "words"),
    [
        ("pooled.onnx", [], 3, "MaxPool 'pool0' takes an extreme of several values"),
        ("signed.onnx", [], 3, "r3"),
        ("plain.onnx", ["--shortcuts", "membrane"], 3, "compile with --shortcuts spikes"),
        ("plain.onnx", ["--levels", 2], 2, "at most once in each; leave out --levels"),
        ("plain.onnx", ["--timesteps", 1, "--neuron", "scale"], 2, "has no scale neurons"),
        ("plain.onnx", ["--firing", "delayed"], 2, "fire immediately"),
        ("plain.onnx", ["--time-axis"], 2, "--time-axis"),
        ("plain.onnx", ["--neuron", "signed"], 2, "no negative spikes; use multi-threshold"),
        ("plain.onnx", ["--binary-spikes", "unary"], 2, "leave out --binary-spikes"),
    ],
)
def test_refusals_write_nothing(folder, model, options, code, words):
    (folder / "snn.nir").write_bytes(b"old")
    before = sorted(path.name for path in folder.iterdir())
    arguments = ["--timesteps", 4, "--target", "nir", "--report", folder / "r.json", *options]
    result = snn_compile(folder, model, "snn.nir", *arguments)
    assert (result.exit_code, words in result.stderr) == (code, True), result.stderr
    assert (folder / "snn.nir").read_bytes() == b"old"
    assert sorted(path.name for path in folder.iterdir()) == before


def test_operators_are_refused_before_calibration(folder, monkeypatch):
    def calibrated(*_):
        raise AssertionError("calibrated a network that cannot be written")

    monkeypatch.setattr("snn_compile.compiler.choose_neurons.calibrate", calibrated)
    result = snn_compile(folder, "pooled.onnx", "snn.nir", "--timesteps", 4, "--target", "nir")
    assert result.exit_code == 3 and "MaxPool 'pool0'" in result.stderr


def test_without_the_package(folder, monkeypatch):
    found = importlib.import_module

    def missing(name, *within):
        if name == "nir":
            raise ImportError(name)
        return found(name, *within)

    monkeypatch.setattr(package.importlib, "import_module", missing)
    result = snn_compile(folder, "plain.onnx", "snn.nir", "--timesteps", 4, "--target", "nir")
    assert result.exit_code == 2
    assert "pip install 'snn-compile[nir]'" in result.stderr
    assert importlib.util.find_spec("nir") is not None


CHAIN = """g (float[N, 2, 8, 8] x) => (float[N, 3] y)
    <float[4,2,3,3] w, float[5,4,3,3] v, float[20,6] u, float[6,3] last> {
    [c1] a = Conv <pads = [1, 1, 1, 1]> (x, w) [r1] b = Relu (a)
    [p1] c = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (b)
    [c2] d = Conv <pads = [1, 1, 1, 1]> (c, v)
    [p2] e = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (d) [r2] f = Relu (e)
    [flat] h = Flatten (f) [g1] i = Gemm (h, u) [r3] j = Relu (i)
    [fc] k = Gemm (j, last) [probabilities] y = Softmax <axis = -1> (k) }"""


def test_over_one_step_pools_and_softmax_are_taken(tmp_path):
    onnx.save(model_from_text(CHAIN), tmp_path / "chain.onnx")
    x = np.random.default_rng(0).standard_normal((12, 2, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", x=x)
    options = ("--neuron", "multi-threshold", "--levels", 6, "--shortcuts", "spikes")
    options += ("--encode", "activations")
    assert snn_compile(tmp_path, "chain.onnx", "snn.onnx", *options).exit_code == 0
    result = snn_compile(tmp_path, "chain.onnx", "snn.nir", "--target", "nir", "--levels", 6)
    assert result.exit_code == 0, result.output
    assert "agree bit for bit" in result.stdout
    assert "Softmax 'probabilities' is left out: the graph gives scores" in result.stdout
    assert "the graph is a chain" in result.stdout

    graph = nir.read(tmp_path / "snn.nir")
    assert graph.metadata["timesteps"] == 1
    assert set(nir_by_hand.neurons(graph)) == {"r1", "r2", "r3"}
    (expected,) = run_model(onnx.load(tmp_path / "snn.onnx"), {"x": x}, library=True)
    scores = nir_by_hand.Simulation(graph).run({"input": x}, 1)["output"][0]
    found = np.exp(scores - scores.max(1, keepdims=True))
    found /= found.sum(1, keepdims=True)
    same = np.all(np.isclose(found, expected, rtol=1e-5, atol=1e-5), axis=1)
    assert same.mean() > 0.8, "a sample differs only where a potential meets its threshold"
    assert np.ptp(expected) > 0.1


def test_a_shortcut_is_written_and_told(folder):
    result = snn_compile(folder, "plain.onnx", "snn.nir", "--target", "nir")
    assert result.exit_code == 0, result.output
    assert "the graph is no chain" in result.stdout
    result = snn_compile(folder, "pooled.onnx", "snn.nir", "--target", "nir")
    assert result.exit_code == 0 and "SumPool2d" in result.stdout
