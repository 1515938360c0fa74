"""8-bit files on a processor without 8-bit dot products; the benchmark's lines and refusals."""

from __future__ import annotations

from pathlib import Path

import bench_haswell
import numpy as np
import onnx
import pytest
from conftest import MODELS
from onnx import numpy_helper
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.model_io.save import save_network


@pytest.fixture
def emulator():
    reason = bench_haswell.missing()
    if reason:
        pytest.skip(reason)


def saturating(path: Path) -> Path:
    """Eight channels, q = 255 and w = 127: 8 * 255 * 127 * 1e-3, or less in 16 bits."""
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 13]>
        g (float[N, 8, 2, 2] x) => (float[N, 16, 2, 2] y)
        <float s = {1.0}, uint8 z = {0}, float t = {1e-3}, int8 u = {0}, float v = {2.0}> {
            q = QuantizeLinear(x, s, z)
            d = DequantizeLinear(q, s, z)
            w = DequantizeLinear(wq, t, u)
            c = Conv(d, w)
            cq = QuantizeLinear(c, v, z)
            y = DequantizeLinear(cq, v, z)
        }
    """)
    weight = np.full((16, 8, 1, 1), 127, np.int8)
    model.graph.initializer.append(numpy_helper.from_array(weight, "wq"))
    onnx.save(model, path)
    return path


@pytest.mark.slow
@pytest.mark.usefixtures("emulator")
def test_the_emulated_processor_saturates(tmp_path):
    model = saturating(tmp_path / "model.onnx")
    np.savez(tmp_path / "x.npz", x=np.full((1, 8, 2, 2), 255, np.float32))
    emulated = bench_haswell.outputs(model, tmp_path / "x.npz", emulated=True)
    np.testing.assert_array_equal(emulated, 2 * np.rint(4 * 32767e-3 / 2))


@pytest.mark.slow
@pytest.mark.usefixtures("emulator")
def test_a_compiled_file_is_right_without_8_bit_dot_products(tmp_path):
    result = compile_model(
        MODELS / "digits_resnet_dynamo.onnx",
        MODELS / "digits_calibration.npz",
        CompileOptions(target="int8"),
    )
    save_network(result.network, tmp_path / "snn.onnx")
    with np.load(MODELS / "digits_test.npz") as arrays:
        np.savez(tmp_path / "x.npz", image=arrays["image"][:64])
    native, emulated = (
        bench_haswell.outputs(tmp_path / "snn.onnx", tmp_path / "x.npz", emulated=emulated)
        for emulated in (False, True)
    )
    np.testing.assert_array_equal(emulated.argmax(1), native.argmax(1))
    assert bench_haswell.relative_error(emulated, native) < 1e-3


def test_without_the_emulator_it_says_so_in_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(bench_haswell.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(bench_haswell.sys, "platform", "linux")
    monkeypatch.setattr(bench_haswell.shutil, "which", lambda _: None)
    with pytest.raises(SystemExit) as stop:
        bench_haswell.main(["--data", str(tmp_path)])
    assert stop.value.code == 77
    error = capsys.readouterr().err
    assert "qemu-x86_64-static is not installed" in error and error.count("\n") == 1


@pytest.mark.parametrize(("emulated", "good"), [(1.1, True), (1.1009, True), (1.102, False)])
def test_an_error_of_ours_may_be_one_per_cent_off(emulated, good, monkeypatch, capsys):
    values = {"ann": (1.0, 1.0), "ours": (1.1, emulated), "theirs": (1.2, 9.0)}
    monkeypatch.setattr(
        bench_haswell,
        "outputs",
        lambda model, _, *, emulated: np.full((2, 3), values[model.name][emulated]),
    )
    files = {"ours": Path("ours"), "theirs": Path("theirs")}
    assert bench_haswell.compare(files, Path("ann"), Path("x.npz"), "net") is good
    ours, theirs = capsys.readouterr().out.splitlines()
    assert ours.split()[:3] == ["net", "ours", "0.1000"]
    assert theirs.split()[4] == "40.0000"


def test_a_model_that_does_not_run_is_reported_with_the_reason(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"?")
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 1)))
    with pytest.raises(RuntimeError, match=r"model.onnx: .*refused"):
        bench_haswell.outputs(tmp_path / "model.onnx", tmp_path / "x.npz", emulated=False)
