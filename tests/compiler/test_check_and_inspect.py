"""``--check``: what would become of a model; ``--inspect``: what a model holds."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from conftest import MODELS
from helpers import model_from_text
from snn_compile.compiler import CompileOptions, cli, compile_model
from snn_compile.compiler.evaluation.inspect_file import inspect_file
from snn_compile.compiler.front_end import check_model
from snn_compile.compiler.targets import resolve

DIGITS, CALIBRATION = MODELS / "digits_resnet_dynamo.onnx", MODELS / "digits_calibration.npz"
TARGETS = ["onnxruntime", "standard", "int8", "qonnx"]


def run(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")
    for target in TARGETS:
        result = run(DIGITS, "-o", folder / f"{target}.onnx", "--target", target, "-q",
                     "--calibration", CALIBRATION)  # fmt: skip
        assert result.exit_code == 0, result.output
    return folder


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target": "int8"},
        {"encode": "activations"},
        {"exclude": ("*relu_1",)},
        {"timesteps": 2},
    ],
    ids=str,
)
def test_a_check_says_what_a_compilation_does(options):
    given = CompileOptions(**options)
    checked = check_model(DIGITS, None, resolve(given, synthetic=True))
    done = compile_model(DIGITS, CALIBRATION, given).report
    assert checked.coverage == done.coverage
    assert len(checked.activations) == len({neuron.source_node for neuron in done.neurons})


def test_a_check_shows_coverage_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("--check", DIGITS)
    assert result.exit_code == 0, result.output
    assert "can be compiled; nothing was calibrated or written" in " ".join(result.stdout.split())
    assert "6 neurons would be made: 5 Relu, 1 Encoder" in result.stdout
    assert "reads the network's own input" in result.stdout
    assert result.stderr == ""
    full = run("--check", DIGITS, "-v", "--calibration", CALIBRATION)
    assert "coverage: " in full.stdout and "│ node_relu_1" in full.stdout
    quiet = run("--check", DIGITS, "-q")
    assert (quiet.exit_code, quiet.output) == (0, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{linear}", "--check"], 3, "nothing to convert"),
        (["{digits}", "--check", "--strict"], 0, "can be compiled"),
        (["{softmax}", "--check", "--strict"], 3, "--strict allows none"),
        (["{softmax}", "--check", "--target", "nir"], 3, ""),
        (["{text}", "--check"], 3, "ONNX"),
        (["{missing}", "--check"], 3, "no such file"),
        (["{digits}", "--check", "--calibration", "{missing}"], 4, "no such file"),
        (["{digits}", "--check", "--exclude", "no"], 2, "no activation and no encoder is called"),
        (["{digits}", "--check", "-o", "s.onnx"], 2, "--output has no effect with --check"),
        (["{digits}", "--check", "--report", "r.json"], 2, "--report has no effect"),
        (["{digits}", "--check", "--levels", "300", "--neuron", "scale"], 2, "at most 255"),
        (["{digits}", "--check", "--inspect"], 2, "exclude each other"),
        (["{digits}", "--inspect", "--levels", "8"], 2, "--levels has no effect with --inspect"),
        (["{text}", "--inspect"], 3, "ONNX"),
        (["{missing}", "--inspect"], 3, "no such file"),
    ],
)  # fmt: skip
def test_exit_codes(tmp_path, arguments, code, message):
    linear = model_from_text("g (float[N,3] x) => (float[N,3] y) { y = Neg (x) }")
    onnx.save(linear, tmp_path / "linear.onnx")
    softmax = model_from_text(
        "g (float[N,3] x) => (float[N,3] y) <float[3,3] w> "
        "{ s = Softmax (x) m = MatMul (s, w) r = Relu (m) c = Cos (r) y = Softmax (c) }"
    )
    onnx.save(softmax, tmp_path / "softmax.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    fill = {"digits": DIGITS, "missing": tmp_path / "no"}
    fill |= {name: tmp_path / f"{name}.onnx" for name in ("linear", "softmax", "text")}
    result = run(*(argument.format(**fill) for argument in arguments))
    assert result.exit_code == code, result.output
    assert message in result.output


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_is_inspected(compiled, target):
    path = compiled / f"{target}.onnx"
    found = inspect_file(path)
    assert found.provenance["target"] == target
    assert found.provenance["calibration"].startswith("256 samples, sha256 ")
    assert {neuron.source_op for neuron in found.neurons} >= {"Relu", "Encoder"}
    levels = {neuron.levels for neuron in found.neurons if neuron.source_op == "Relu"}
    assert int(found.provenance["levels"]) in levels
    result = run("--inspect", path)
    assert result.exit_code == 0 and "a runtime needs:" in result.stdout
    assert f"target: {target}" in result.stdout
    neurons = run("--inspect", path, "-v").stdout
    assert all(neuron.name in neurons for neuron in found.neurons)
    assert run("--inspect", path, "-q").output == ""


def test_what_a_runtime_needs(compiled, tmp_path):
    needs = {target: inspect_file(compiled / f"{target}.onnx").needs for target in TARGETS}
    assert len(needs["standard"]) == 1 and needs["standard"][0].startswith("opset ")
    (library,) = needs["onnxruntime"][1:]
    assert "functions in the file define it; the library" in library and "optional" in library
    assert all("functions in the file define it" in text for text in needs["qonnx"][1:])
    model = onnx.load(compiled / "onnxruntime.onnx")
    del model.functions[:]
    onnx.save(model, tmp_path / "bare.onnx")
    bare = inspect_file(tmp_path / "bare.onnx").needs[1]
    assert "ai.snn: the library of this package, for " in bare
    other = model_from_text("g (float[N,3] x) => (float[N,3] y) { y = Relu (x) }")
    other.graph.node[0].op_type, other.graph.node[0].domain = "Gelu", "com.microsoft"
    other.opset_import.add(domain="com.microsoft", version=1)
    onnx.save(other, tmp_path / "other.onnx")
    (text,) = inspect_file(tmp_path / "other.onnx").needs[1:]
    assert text == "domain com.microsoft: a runtime that has Gelu"


def test_an_ann_is_inspected_with_its_metadata(tmp_path):
    model = model_from_text(
        "g (float[N,3] x, int64[2] i) => (float[N,3] y, bool[N,3] z) { y = Relu (x) z = IsNaN (x) }"
    )
    model.metadata_props.add(key="author", value="line one\nline two " + "long " * 40)
    onnx.save(model, tmp_path / "ann.onnx")
    found = inspect_file(tmp_path / "ann.onnx")
    assert found.inputs == ["x float[N, 3]", "i int64[2]"]
    assert found.outputs == ["y float[N, 3]", "z bool[N, 3]"]
    assert found.operators == {"Relu": 1, "IsNaN": 1} and found.neurons == []
    result = run("--inspect", tmp_path / "ann.onnx")
    assert "not compiled by snn-compile" in result.stdout
    assert "metadata author: line one\\nline two" in result.stdout and "…" in result.stdout
    assert run("--inspect", tmp_path / "ann.onnx", "-v").stdout.count("long") == 40


@pytest.mark.skipif(importlib.util.find_spec("nir") is None, reason="needs nir")
def test_a_nir_graph_is_inspected(tmp_path):
    model = model_from_text(
        "g (float[N,4] x) => (float[N,3] y) <float[4,4] w, float[4,3] v> "
        "{ m = MatMul (x, w) r = Relu (m) y = MatMul (r, v) }"
    )
    rng = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        values = rng.uniform(0.1, 1, tuple(tensor.dims)).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", rng.uniform(0, 1, (16, 4)).astype(np.float32))
    arguments = ["--calibration", tmp_path / "x.npy", "--target", "nir", "-q"]
    result = run(tmp_path / "m.onnx", "-o", tmp_path / "m.nir", *arguments)
    assert result.exit_code == 0, result.output
    found = inspect_file(tmp_path / "m.nir")
    assert found.kind == "NIR" and found.operators["IF"] >= 1
    assert run("--inspect", tmp_path / "m.nir").exit_code == 0
    (tmp_path / "broken.nir").write_bytes((tmp_path / "m.nir").read_bytes()[:100])
    assert run("--inspect", tmp_path / "broken.nir").exit_code == 3


@pytest.mark.parametrize("name", ["w.data", "weights"])
def test_the_size_is_that_of_the_files(tmp_path, name):
    model = onnx.load(DIGITS)
    onnx.save(model, tmp_path / "m.onnx")
    assert inspect_file(tmp_path / "m.onnx").bytes == (tmp_path / "m.onnx").stat().st_size
    outside = {"save_as_external_data": True, "location": name, "size_threshold": 0}
    onnx.save(model, tmp_path / "e.onnx", **outside)
    sizes = [(tmp_path / file).stat().st_size for file in ("e.onnx", name)]
    assert inspect_file(tmp_path / "e.onnx").bytes == sum(sizes) and min(sizes) > 0


def test_a_nir_graph_in_place_of_a_model_is_named(tmp_path):
    path = tmp_path / "m.nir"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(90))
    result = run(path, "--check")
    assert result.exit_code == 3 and "is HDF5, such as a NIR graph" in result.stderr
