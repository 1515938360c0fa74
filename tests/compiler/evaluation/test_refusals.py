"""What ``snn-eval`` refuses: exit code, message, nothing on stdout, nothing left behind."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from helpers import model_from_text
from snn_compile.compiler.eval_cli import main
from snn_compile.compiler.evaluation import evaluate

NET = "g (float[N,3] x) => (float[N,4] y) <float[3,4] w> { a = MatMul (x, w) y = Relu (a) }"
X = np.ones((8, 3), np.float32)


@pytest.fixture
def folder(tmp_path):
    """A network, and data that fit it."""
    onnx.save(model_from_text(NET), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=X, labels=np.zeros(8, int))
    return tmp_path


def refused(folder, code, message, *arguments):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NET.replace("4]", "5]"), "'y' is [8, 4] of one and [8, 5] of the other"),
        (NET.replace("N,3", "N,2").replace("[3,4]", "[2,4]"), "x float32[?, 3]'] and ['x float32["),
        (NET.replace("N,3", "2,3"), "have different inputs"),
        (NET.replace("x)", "z)").replace("(x", "(z"), "have different inputs"),
        (NET.replace("(float[N,3] x)", "(float[N,3] x, float[N] z)"), "have different inputs"),
        (NET.replace(" y", " q"), "have different outputs: ['y'] and ['q']"),
        (
            NET.replace("=> (float", "=> (double").replace(
                "y = Relu (a)", "y = Cast <to = 11> (a)"
            ),
            "have different outputs: ['y'] and ['y double']",
        ),
        (
            NET.replace("y)", "y, float[N,4] a)"),
            "have different outputs: ['y'] and ['y', 'a']; give the SNN that was compiled from",
        ),
        ("g (float[N,3] x) => (float[M,N] y) { r = Relu (x) y = Transpose (r) }", "[8, 4] of one"),
    ],
)
def test_networks_that_are_not_one_pair(folder, text, message):
    onnx.save(model_from_text(text), folder / "other.onnx")
    models = [folder / "net.onnx", folder / "other.onnx"]
    refused(folder, 3, message, *models, "--data", folder / "data.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.full((8, 3), np.nan, np.float32)}, "has NaN or inf in sample 0"),
        ({"x": np.float32([[1, 2, 3], [1, -np.inf, 3]])}, "has NaN or inf in sample 1"),
        ({"x": np.ones((8, 2), np.float32)}, "does not fit the input"),
        ({"x": np.ones((8, 3), np.int32)}, "has another element type"),
        ({"x": np.zeros((0, 3), np.float32)}, "no samples, the arrays are empty"),
        ({"labels": np.zeros(8, np.int64)}, "no array named 'x'"),
        ({"image": np.ones((8, 1, 8, 8), np.float32)}, "rename 'image'"),
        ({}, "no array named 'x'"),
        ({"x": X, "labels": np.zeros(7, int)}, "'labels' is int64 [7], expected 8 integers"),
        ({"x": X, "labels": np.zeros(8)}, "'labels' is float64 [8], expected 8 integers"),
        ({"x": X, "labels": np.zeros((8, 4), int)}, "one class index per sample"),
        ({"x": X, "labels": np.array(3)}, "'labels' is int64 [], expected 8 integers"),
        ({"x": X, "labels": np.array(["cat"] * 8)}, "expected 8 integers"),
        ({"x": X, "labels": np.arange(8) - 3}, "'labels' has -3 at sample 0"),
        (
            {"x": X, "labels": np.array([0, 4] + [0] * 6)},
            "'labels' has 4 at sample 1, but of the networks' outputs 'y' has 4 classes",
        ),
        ({"x": X, "labels": np.full(8, 2**64 - 1, np.uint64)}, "which is no class"),
    ],
)
def test_data_that_do_not_fit(folder, arrays, message):
    np.savez(folder / "data.npz", **arrays)
    models = [folder / "net.onnx", folder / "net.onnx"]
    refused(folder, 4, message, *models, "--data", folder / "data.npz", "--no-latency")


def test_data_that_are_no_data(folder):
    models = [folder / "net.onnx", folder / "net.onnx", "--no-latency"]
    (folder / "empty.npz").write_bytes(b"")
    (folder / "text.npz").write_text("hello")
    (folder / "text.txt").write_text("hello")
    whole = (folder / "data.npz").read_bytes()
    (folder / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (folder / "none").mkdir()
    np.savez(folder / "objects.npz", x=X, labels=np.array([{}] * 8), allow_pickle=True)
    for name, message in {
        "no.npz": "no such file",
        "empty.npz": "not a readable .npz",
        "text.npz": "not a readable .npz",
        "text.txt": "hello, which is no .npz or .npy file",
        "cut.npz": "not a readable .npz",
        "none": "holds no .npz or .npy file",
        "objects.npz": "'labels' is not readable",
    }.items():
        refused(folder, 4, message, *models, "--data", folder / name)


def test_a_folder_in_which_some_files_lack_labels(folder):
    (folder / "parts").mkdir()
    np.savez(folder / "parts" / "a.npz", x=X, labels=np.zeros(8, int))
    np.savez(folder / "parts" / "b.npz", x=X)
    message = "b.npz: holds no 'labels', but other files of the folder do"
    models = [folder / "net.onnx", folder / "net.onnx"]
    refused(folder, 4, message, *models, "--data", folder / "parts", "--no-latency")


def test_models_that_are_no_models(folder):
    (folder / "text.onnx").write_text("hello")
    for pair in (("no.onnx", "net.onnx"), ("net.onnx", "no.onnx")):
        models = [folder / name for name in pair]
        refused(folder, 3, "no such file", *models, "--data", folder / "data.npz")
    models = [folder / "net.onnx", folder / "text.onnx"]
    refused(folder, 3, "not an ONNX model", *models, "--data", folder / "data.npz")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--baseline", "int8"], "--baseline needs --calibration"),
        (["--calibration", "{data}"], "--calibration serves --baseline and --sweep only"),
        (["--baseline", "int4", "--calibration", "{data}"], "'int4'"),
        (["--batch", "0"], "--batch"),
        (["--rounds", "0"], "--rounds"),
    ],
)
def test_options_that_make_no_sense(folder, arguments, message):
    given = [argument.format(data=folder / "data.npz") for argument in arguments]
    models = [folder / "net.onnx", folder / "net.onnx"]
    refused(folder, 2, message, *models, "--data", folder / "data.npz", *given)


def test_data_are_needed(folder):
    refused(folder, 2, "Missing option '--data'", folder / "net.onnx", folder / "net.onnx")


def test_calibration_samples_of_another_network(folder):
    np.savez(folder / "calib.npz", x=np.ones((8, 2), np.float32))
    models = [folder / "net.onnx", folder / "net.onnx"]
    baseline = ["--baseline", "int8", "--calibration", folder / "calib.npz"]
    refused(folder, 4, "does not fit", *models, "--data", folder / "data.npz", *baseline)


def test_a_network_that_cannot_be_quantised(folder, monkeypatch):
    def fail(*_, **__):
        print("chatter")  # noqa: T201 - what the quantiser does
        raise RuntimeError("no such operator")

    monkeypatch.setattr("snn_compile.compiler.evaluation.int8_baseline.quantize_static", fail)
    models = [folder / "net.onnx", folder / "net.onnx", "--data", folder / "data.npz"]
    baseline = ["--baseline", "int8", "--calibration", folder / "data.npz"]
    refused(folder, 3, "onnxruntime cannot quantise the ANN: no such operator", *models, *baseline)


def test_an_internal_error_exits_with_1_and_debug_shows_it(folder, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(evaluate, "read_pair", broken)
    arguments = [folder / "net.onnx", folder / "net.onnx", "--data", folder / "data.npz"]
    refused(folder, 1, "internal error: ZeroDivisionError: a bug", *arguments)
    result = CliRunner().invoke(main, [*map(str, arguments), "--debug"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_json_is_all_that_goes_to_stdout(folder):
    arguments = [folder / "net.onnx", folder / "net.onnx", "--data", folder / "data.npz"]
    arguments += ["--json", "--no-latency", "--baseline", "int8"]
    arguments += ["--calibration", folder / "data.npz"]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert json.loads(result.stdout)["samples"] == 8
