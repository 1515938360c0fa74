"""Both commands as a user meets them: results, refusals, exit codes, nothing half-written."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from conftest import MODELS
from helpers import model_from_text
from snn_compile.compiler import cli, pipeline

DIGITS = MODELS / "digits_resnet_dynamo.onnx"
CALIBRATION = MODELS / "digits_calibration.npz"
TEST = MODELS / "digits_test.npz"


def run(command, *arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def snn_compile(*arguments):
    return run(cli.main, *arguments)


def test_compiles_and_reports(tmp_path):
    output, report = tmp_path / "snn.onnx", tmp_path / "report.json"
    result = snn_compile(
        DIGITS, "-o", output, "--calibration", CALIBRATION, "--report", report, "--levels", 16
    )
    assert result.exit_code == 0, result.output
    onnx.checker.check_model(output, full_check=True)
    assert json.loads(report.read_text())["settings"]["levels"] == 16
    assert "6 neurons" in result.stdout
    assert "spiking MACs: 98.3% of " in result.stdout
    assert "agree bit for bit" in result.stdout
    assert f"wrote {output}" in result.stdout
    assert f"the report {report}" in result.stdout
    assert "warning" not in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "snn.onnx"]


def test_installed_command_exits_cleanly(tmp_path):
    """In a process of its own: libraries that crash while they are unloaded show only here."""
    command = [sys.executable, "-c", "from snn_compile.compiler.cli import main; main()"]
    result = subprocess.run(
        [*command, str(DIGITS), "-o", str(tmp_path / "snn.onnx")], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "wrote" in result.stdout


def test_synthetic_calibration_is_said_loudly(tmp_path):
    result = snn_compile(DIGITS, "-o", tmp_path / "snn.onnx")
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: no calibration data")


def test_two_runs_write_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        assert (
            snn_compile(DIGITS, "-o", tmp_path / name, "--calibration", CALIBRATION).exit_code == 0
        )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_options_reach_the_compiler(tmp_path):
    report = tmp_path / "r.json"
    arguments = ["--calibrator", "percentile", "--percentile", 99, "--granularity", "tensor"]
    arguments += ["--encode", "activations", "--neuron", "multi-threshold"]
    arguments += ["--shortcuts", "spikes", "--no-sequential", "--no-compensation", "--scale", 0.5]
    arguments += ["--binary-spikes", "bits", "--dump-dir", tmp_path / "steps"]
    result = snn_compile(
        DIGITS, "-o", tmp_path / "s.onnx", "--report", report, "--seed", 5, *arguments
    )
    assert result.exit_code == 0
    assert json.loads(report.read_text())["settings"] == {
        "levels": 32,
        "seed": 5,
        "neuron": "multi-threshold",
        "calibrator": "percentile",
        "percentile": 99.0,
        "granularity": "tensor",
        "encode": "activations",
        "exclude": [],
        "encode_input": False,
        "levels_budget": None,
        "scale": 0.5,
        "search_scale": False,
        "trials": None,
        "spike_weight": None,
        "sequential": False,
        "bias_correction": True,
        "compensation": False,
        "shortcuts": "spikes",
        "timesteps": 1,
        "firing": None,
        "time_axis": False,
        "target": "onnxruntime",
        "opset": None,
        "batch": None,
        "power_of_two": None,
        "int8_weights": None,
        "qonnx_form": None,
        "weight_bits": None,
        "binary_spikes": "bits",
        "threads": None,
        "memory": 0.25,
        "workers": None,
        "scheduler": None,
        "strict": False,
        "min_agreement": None,
        "layer_errors": False,
        "dump_dir": str(tmp_path / "steps"),
    }


def test_defaults_of_the_command_are_those_of_the_library(tmp_path):
    report = tmp_path / "r.json"
    model = model_from_text("g (float[N,3] x) => (float[N,3] y) { y = Relu (x) }")
    onnx.save(model, tmp_path / "m.onnx")
    assert (
        snn_compile(tmp_path / "m.onnx", "-o", tmp_path / "s.onnx", "--report", report).exit_code
        == 0
    )
    expected = json.loads(pipeline.compile_model(model).report.to_json())["settings"]
    assert json.loads(report.read_text())["settings"] == expected


@pytest.fixture
def bad(tmp_path):
    """A folder with one of everything that is refused."""
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "text.onnx").write_text("hello")
    linear = model_from_text("g (float[N,3] x) => (float[N,3] y) { y = Neg (x) }")
    onnx.save(linear, folder / "linear.onnx")
    (folder / "empty.npz").write_bytes(b"")
    np.savez(folder / "wrong_name.npz", picture=np.zeros((4, 1, 8, 8), np.float32))
    np.savez(folder / "wrong_shape.npz", image=np.zeros((4, 8, 8, 1), np.float32))
    np.savez(folder / "wrong_type.npz", image=np.zeros((4, 1, 8, 8), np.int32))
    np.savez(folder / "nan.npz", image=np.full((4, 1, 8, 8), np.nan, np.float32))
    np.savez(folder / "none.npz", image=np.zeros((0, 1, 8, 8), np.float32))
    return folder


@pytest.mark.parametrize(
    ("model", "arguments", "code", "message"),
    [
        (DIGITS, ["-o", "{out}", "-v", "-q"], 2, "exclude each other"),
        (DIGITS, ["-o", "{out}", "--levels", "0"], 2, "--levels"),
        (DIGITS, ["-o", "{out}", "--levels", "many"], 2, "--levels"),
        (DIGITS, ["-o", "{out}", "--calibrator", "guess"], 2, "--calibrator"),
        (DIGITS, ["-o", "{out}", "--neuron", "guess"], 2, "--neuron"),
        (DIGITS, ["-o", "{out}", "--shortcuts", "guess"], 2, "--shortcuts"),
        (DIGITS, ["-o", "{out}", "--neuron", "scale", "--levels", "256"], 2, "at most 255"),
        (
            DIGITS,
            ["-o", "{out}", "--neuron", "multi-threshold", "--calibrator", "density"],
            2,
            "use mse, or scale or staircase neurons",
        ),
        (DIGITS, ["-o", "{out}", "--min-agreement", "2"], 2, "--min-agreement"),
        (DIGITS, ["-o", "{out}", "--scale", "0"], 2, "--scale"),
        (DIGITS, ["-o", "{out}", "--scale", "2", "--search-scale"], 2, "searched and given"),
        (DIGITS, ["-o", "{bad}"], 2, "is a folder"),
        (DIGITS, ["-o", "{bad}/no/snn.onnx"], 2, "does not exist"),
        (DIGITS, ["-o", "{out}", "--report", "{bad}/no/r.json"], 2, "does not exist"),
        (DIGITS, ["-o", "{out}", "--report", "{out}"], 2, "is the output too"),
        (DIGITS, ["-o", "{out}", "--dump-dir", "{bad}/text.onnx"], 2, "cannot be used as a folder"),
        ("{bad}/linear.onnx", ["-o", "{bad}/linear.onnx"], 2, "is the model itself"),
        ("{bad}/no.onnx", ["-o", "{out}"], 3, "no such file"),
        ("{bad}", ["-o", "{out}"], 3, "is a folder"),
        ("{bad}/empty.onnx", ["-o", "{out}"], 3, "empty"),
        ("{bad}/text.onnx", ["-o", "{out}"], 3, "ONNX"),
        ("{bad}/linear.onnx", ["-o", "{out}"], 3, "nothing to convert"),
        (DIGITS, ["-o", "{out}", "--calibration", "{bad}/no.npz"], 4, "no such file"),
        (DIGITS, ["-o", "{out}", "--calibration", "{bad}/empty.npz"], 4, "not a readable"),
        (DIGITS, ["-o", "{out}", "--calibration", "{bad}/wrong_name.npz"], 4, "rename 'picture'"),
        (DIGITS, ["-o", "{out}", "--calibration", "{bad}/wrong_shape.npz"], 4, "does not fit"),
        (DIGITS, ["-o", "{out}", "--calibration", "{bad}/wrong_type.npz"], 4, "element type"),
        (DIGITS, ["-o", "{out}", "--calibration", "{bad}/nan.npz"], 4, "NaN or inf in sample 0"),
        (DIGITS, ["-o", "{out}", "--calibration", "{bad}/none.npz"], 4, "no samples"),
        (DIGITS, ["-o", "{out}", "--levels", "1", "--min-agreement", "1"], 5, "was asked for"),
    ],
)
def test_refusals_write_nothing_and_keep_the_old_file(
    tmp_path, bad, model, arguments, code, message
):
    out = tmp_path / "snn.onnx"
    out.write_bytes(b"old")
    fill = {"out": out, "bad": bad}
    before = sorted(path for path in tmp_path.rglob("*"))
    result = snn_compile(str(model).format(**fill), *(a.format(**fill) for a in arguments))
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert out.read_bytes() == b"old"
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_an_internal_error_exits_with_1_and_debug_shows_it(tmp_path, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(pipeline, "compile_model", broken)
    result = snn_compile(DIGITS, "-o", tmp_path / "s.onnx")
    assert result.exit_code == 1
    assert "internal error: ZeroDivisionError: a bug" in result.stderr
    assert "--debug" in result.stderr
    result = snn_compile(DIGITS, "-o", tmp_path / "s.onnx", "--debug")
    assert isinstance(result.exception, ZeroDivisionError)


def nameless_files(process, folder):
    """Open files of a process in a folder, of those that have no name there."""
    found = []
    for link in Path(f"/proc/{process}/fd").glob("*"):
        with contextlib.suppress(OSError):
            target = str(link.readlink())
            if target.startswith(str(folder)) and target.endswith("(deleted)"):
                found.append(target)
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs the kernel's list of open files")
@pytest.mark.parametrize("step", ["reference", "calibrate"])
def test_ctrl_c_leaves_nothing_behind(tmp_path, step):
    """A real interrupt in the middle of a step, on enough samples to last.

    What waits is in files without a name: the ANN's outputs, and while it is calibrated the spool.
    """
    np.savez(tmp_path / "big.npz", image=np.zeros((100_000, 1, 8, 8), np.float32))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    out = tmp_path / "snn.onnx"
    out.write_bytes(b"old")
    command = [sys.executable, "-c", "from snn_compile.compiler.cli import main; main()"]
    arguments = [DIGITS, "-o", out, "--calibration", tmp_path / "big.npz"]
    process = subprocess.Popen(
        [*command, *map(str, arguments), "--memory", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    wanted = 1 + (step == "calibrate")
    while len(nameless_files(process.pid, temporary)) < wanted:
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert process.wait(0.02) is None, process.stderr
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    assert out.read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {*("big.npz", "snn.onnx", "temporary")}
    # The runtime leaves an empty .ses of its own.
    assert [path for path in temporary.iterdir() if path.name != ".ses"] == []


def test_help_imports_neither_onnx_nor_onnxruntime():
    script = (
        "import sys; from snn_compile.compiler import cli, eval_cli;"
        "cli.main(['--help'], standalone_mode=False);"
        "eval_cli.main(['--help'], standalone_mode=False);"
        "assert not {'onnx', 'onnxruntime', 'numpy', 'rich'} & set(sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "Exit codes" in result.stdout
