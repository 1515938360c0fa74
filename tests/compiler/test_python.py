"""The package as Python code uses it: its names, compile, evaluate, save and what they print."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
import snn_compile
from helpers import model_from_text, run_model
from snn_compile import CompileOptions, DataError, EvaluationOptions, UsageError
from snn_compile.compiler.options import OPTIONS

NET = """g (float[N,6] x) => (float[N,4] y) <float[6,8] w, float[8,4] v> {
    a = MatMul (x, w) b = Relu (a) y = MatMul (b, v) }"""
RNG = np.random.default_rng(0)
X = RNG.standard_normal((64, 6)).astype(np.float32)
FAST = EvaluationOptions(latency=None, flips=False)


@pytest.fixture(scope="module")
def net():
    return model_from_text(NET)


@pytest.fixture(scope="module")
def compiled(net):
    return snn_compile.compile(net, X, levels=16)


def test_all_names_are_there_and_listed():
    for name in snn_compile.__all__:
        assert getattr(snn_compile, name).__doc__ or name in ("CORRECTION_OPTIONS", "__version__")
    assert set(snn_compile.__all__) <= set(dir(snn_compile))
    assert set(snn_compile.CORRECTION_OPTIONS) <= set(OPTIONS)
    with pytest.raises(AttributeError, match="no attribute 'compil'"):
        _ = snn_compile.compil
    errors = (snn_compile.DataError, snn_compile.ModelError, snn_compile.VerificationError)
    assert all(issubclass(error, snn_compile.SnnCompileError) for error in errors)


def test_importing_it_imports_nothing_large():
    code = "import sys, snn_compile; print({'numpy', 'onnx', 'rich', 'click'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


def test_data_of_every_form_give_the_same_bytes(net, compiled):
    expected = compiled.model.SerializeToString()
    for data in ({"x": X}, [X[:10], X[10:]], iter(X), ((x, 0) for x in X)):
        found = snn_compile.compile(net, data, levels=16)
        assert found.model.SerializeToString() == expected


def test_options_are_given_whole_or_one_by_one(net):
    given = CompileOptions(levels=8, compensation=False)
    result = snn_compile.compile(net, X, given, bias_correction=False)
    settings = result.report.settings
    names = ("levels", "compensation", "bias_correction")
    assert [settings[name] for name in names] == [8, False, False]
    with pytest.raises(UsageError, match="no option is called 'level'; is it 'levels'"):
        snn_compile.compile(net, X, level=3)


def test_columns_reach_both(net, compiled):
    rows = [{"pixels": x, "label": 0} for x in X]
    columns = {"x": "pixels", "labels": "label"}
    again = snn_compile.compile(net, rows, columns=columns, levels=16)
    assert again.model.SerializeToString() == compiled.model.SerializeToString()
    result = snn_compile.evaluate(net, again, rows, FAST, columns=columns)
    assert result.outputs[0].top1 is not None


def test_saving(tmp_path, compiled):
    compiled.save(tmp_path / "snn.onnx")
    compiled.save(str(tmp_path / "snn.onnx"))  # again, by a name
    assert [path.name for path in tmp_path.iterdir()] == ["snn.onnx"]
    saved = onnx.load(tmp_path / "snn.onnx")
    expected, found = (run_model(model, {"x": X})[0] for model in (compiled.model, saved))
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(UsageError, match="create it first"):
        compiled.save(tmp_path / "none" / "snn.onnx")


def test_saving_keeps_the_source(tmp_path, net):
    onnx.save(net, tmp_path / "net.onnx")
    result = snn_compile.compile(tmp_path / "net.onnx", X)
    before = (tmp_path / "net.onnx").read_bytes()
    with pytest.raises(UsageError, match="is the model itself"):
        result.save(tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").read_bytes() == before


def test_weights_in_a_file_of_their_own_stay_in_one(tmp_path):
    net = model_from_text(NET.replace("8", "300"))
    onnx.save(net, tmp_path / "net.onnx", save_as_external_data=True, location="net.bin")
    result = snn_compile.compile(tmp_path / "net.onnx", X)
    result.save(tmp_path / "snn.onnx")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"net.onnx", "net.bin", "snn.onnx", "snn.onnx.data"}


def test_evaluation_of_networks_in_memory_and_in_files(tmp_path, net, compiled):
    onnx.save(net, tmp_path / "net.onnx")
    compiled.save(tmp_path / "snn.onnx")
    labels = run_model(net, {"x": X})[0].argmax(1)
    data = {"x": X, "labels": labels}
    results = [
        snn_compile.evaluate(net, compiled, data, FAST),
        snn_compile.evaluate(tmp_path / "net.onnx", compiled.model, data, FAST),
        snn_compile.evaluate(str(tmp_path / "net.onnx"), tmp_path / "snn.onnx", data, FAST),
        snn_compile.evaluate(net, compiled, zip(X, labels, strict=True), FAST),
    ]
    assert len({repr(result.outputs) for result in results}) == 1
    assert results[0].outputs[0].ann_top1.value == 1
    assert [results[0].ann["file"], results[0].snn["file"]] == ["in memory", "in memory"]
    assert results[2].snn["file"] == str(tmp_path / "snn.onnx")
    assert [result.data["file"] for result in results[2:]] == ["the arrays", "the zip"]


def test_evaluation_without_an_snn_reads_an_iterator_once(net):
    options = EvaluationOptions(
        calibration=iter([X[:32], X[32:]]), baselines=["int8"], latency=None, flips=False
    )
    result = snn_compile.evaluate(net, data=X, options=options)
    assert [one.name for one in result.baselines] == ["int8"]
    assert not any("other samples than the SNN" in text for text in result.warnings)


def test_evaluation_refuses(net, compiled):
    with pytest.raises(UsageError, match="give data="):
        snn_compile.evaluate(net, compiled)
    with pytest.raises(DataError, match=r"the array: array 'x' float32 .* does not fit"):
        snn_compile.evaluate(net, compiled, X[:, :2], FAST)
    with pytest.raises(UsageError, match="needs --calibration"):
        snn_compile.evaluate(net, data=X, options=FAST)


def test_results_print_in_a_few_lines(net, compiled):
    shown = repr(compiled)
    assert shown.startswith("CompileResult(target onnxruntime; 1 neurons; y: agreement ")
    assert len(shown) < 200
    shown = repr(snn_compile.evaluate(net, compiled, {"x": X, "labels": [0] * 64}, FAST))
    assert shown.startswith("EvaluationResult(64 samples; y: agreement ")
    assert "top-1 of the ANN" in shown and len(shown) < 250


def test_progress_is_told(net):
    seen = []

    class Told(snn_compile.Progress):
        def track(self, items, total, label):
            seen.append(label)
            return super().track(items, total, label)

    result = snn_compile.compile(net, [X], progress=Told())
    snn_compile.evaluate(net, result, X, FAST, Told())
    assert {"reading", "evaluating"} <= set(seen)
