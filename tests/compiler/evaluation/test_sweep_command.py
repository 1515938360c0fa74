"""``snn-eval`` with everything: spikes, energy, a sweep, the page, and what it refuses of these."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from helpers import model_from_text
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.eval_cli import main
from snn_compile.compiler.evaluation import evaluate
from snn_compile.compiler.evaluation.energy import ACCOUNTINGS, HOROWITZ_45_NM

NET = """
    g (float[N,6] x) => (float[N,3] y)
    <float[6,8] w = {%s}, float[8,3] v = {%s}> { a = MatMul (x, w) b = Relu (a) y = MatMul (b, v) }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network of two products, samples and a compiled network."""
    path = tmp_path_factory.mktemp("sweep")
    rng = np.random.default_rng(0)
    weights = [", ".join(f"{value:.3f}" for value in rng.normal(size=n)) for n in (48, 24)]
    onnx.save(model_from_text(NET % tuple(weights)), path / "ann.onnx")
    x = rng.normal(size=(64, 6)).astype(np.float32)
    np.savez(path / "calibration.npz", x=x[:32])
    np.savez(path / "test.npz", x=x[32:], labels=rng.integers(0, 3, 32))
    return path


def snn_eval(folder, *arguments):
    common = [folder / "ann.onnx", "--data", folder / "test.npz", "--no-latency", "--no-flips"]
    return CliRunner().invoke(main, [str(a) for a in (*common, *arguments)])


@pytest.fixture(scope="module")
def everything(folder):
    """An SNN that is compiled on the way, a baseline, a sweep, and the page."""
    result = snn_eval(
        folder, "--calibration", folder / "calibration.npz", "--baseline", "int8",
        "--sweep", "levels=2,16", "--html", folder / "page.html", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_an_snn_that_is_not_given_is_compiled(everything):
    assert everything["snn"]["file"] == "compiled with default options"
    assert [neuron["levels"] for neuron in everything["neurons"]] == [[0, 32]]
    assert everything["outputs"][0]["relative_l2"] < 0.1


def test_energy_comes_from_counted_spikes(everything):
    (neuron,), energy = everything["neurons"], everything["energy"]
    first, second = energy["synapses"]
    assert first["analog"] and first["macs"] == 48
    # Every value of the hidden layer meets three weights.
    assert second["unary"] == pytest.approx(3 * 8 * neuron["spikes_per_value"])
    assert second["graded"] == pytest.approx(3 * 8 * neuron["active"])
    constants = HOROWITZ_45_NM.constants
    expected = constants["fp32_mac"] * 48 + constants["fp32_add"] * second["unary"]
    assert energy["totals"]["unary"] == pytest.approx(expected)
    assert set(energy["totals"]) == set(ACCOUNTINGS)


def test_a_sweep_compares_each_network_and_marks_the_front(everything):
    few, many = everything["sweep"]
    assert [few["label"], few["setting"]] == ["levels=2", {"levels": 2}]
    assert many["setting"] == {"levels": 16}
    assert few["outputs"][0]["relative_l2"] > 2 * many["outputs"][0]["relative_l2"]
    assert few["energy"]["unary"] < many["energy"]["unary"]
    assert few["pareto"] == ["unary", "unary_int8"]  # of the least energy
    better = many["outputs"][0]["top1"]["value"] > few["outputs"][0]["top1"]["value"]
    assert bool(many["pareto"]) == better


def test_the_page_has_the_sweep_with_the_baseline(everything, folder):
    page = (folder / "page.html").read_text("utf-8")
    assert '<section id="sweep"' in page and '<section id="energy"' in page
    assert "levels=16" in page and "int8" in page
    assert everything["command"].startswith("snn-eval ")


def test_tables_show_the_sweep(folder):
    result = snn_eval(
        folder, "--calibration", folder / "calibration.npz", "--sweep", "levels=4",
        "--sweep", "scale=0.5,1",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "scale=0.5" in result.stdout and "scale=1" in result.stdout
    assert "Pareto front" in result.stdout and "top-1, %" in result.stdout


def test_a_sweep_starts_from_the_options_of_the_snn(folder):
    options = CompileOptions(levels=5, neuron="multi-threshold", compensation=False)
    compiled = compile_model(folder / "ann.onnx", folder / "calibration.npz", options)
    onnx.save(compiled.model, folder / "five.onnx")
    data = ["--calibration", folder / "calibration.npz", "--json"]
    found = json.loads(snn_eval(folder, folder / "five.onnx", *data, "--sweep", "scale=1,2").stdout)
    same, other = found["sweep"]
    (output,) = found["outputs"]
    assert same["outputs"] == [output | {"confusion": None}] != other["outputs"]
    assert found["warnings"] == []


def test_a_sweep_over_targets_and_what_is_refused_of_it(folder):
    sweep = ["--sweep", "target=onnxruntime,int8", "--sweep", "neuron=scale,multi-threshold"]
    data = ["--calibration", folder / "calibration.npz", *sweep]
    page = folder / "targets.html"
    found = json.loads(snn_eval(folder, *data, "--json", "--html", page).stdout)
    refused = {point["label"]: point["refused"] for point in found["sweep"]}
    assert list(refused) == [
        f"target={target} neuron={neuron}"
        for target in ("onnxruntime", "int8")
        for neuron in ("scale", "multi-threshold")
    ]
    assert [bool(reason) for reason in refused.values()] == [False, False, True, False]
    *_, integers = found["sweep"]
    assert integers["integers"] and "unary" not in integers["energy"]
    text = snn_eval(folder, *data).stdout
    assert "target=int8 neuron=scale: refused: the spikes of int8 are multiples" in text
    html = page.read_text("utf-8")
    assert "Settings that cannot be compiled" in html and "unary, int8" in html


def test_the_energy_table_can_be_replaced(folder, everything):
    constants = {"fp32_mac": 1.0, "fp32_add": 0.0, "int8_mac": 0.0, "int8_add": 0.0}
    table = folder / "table.json"
    table.write_text(json.dumps({**constants, "source": "made up"}))
    result = snn_eval(
        folder, "--calibration", folder / "calibration.npz", "--sweep", "levels=2",
        "--energy-table", table, "--json",
    )  # fmt: skip
    energy = json.loads(result.stdout)["energy"]
    assert energy["constants_source"] == "made up"
    assert energy["totals"]["unary"] == 48  # the analog layer
    assert energy["totals"]["unary"] < everything["energy"]["totals"]["unary"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "an SNN that is not given needs --calibration"),
        (["{calibration}", "--sweep", "levels=4"], "--sweep needs --calibration"),
        (["--calibration", "{calibration}", "--sweep", "depth=4"], "expected levels=4,8,16"),
        (["--calibration", "{calibration}", "--sweep", "levels=0"], "'0' is not a whole number"),
        (["--calibration", "{calibration}", "--energy-table", "none.json"], "none.json"),
        (["--calibration", "{calibration}", "--html", "{ann}"], "ann.onnx"),
        (["--calibration", "{calibration}", "--html", "{test}"], "test.npz"),
        (["--calibration", "{calibration}", "--html", "missing/page.html"], "missing"),
        (["--calibration", "{calibration}", "--compile-report", "r.json"], "serves --html only"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(folder, arguments, message):
    names = {name: folder / f"{name}.npz" for name in ("calibration", "test")}
    names["ann"] = folder / "ann.onnx"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    result = snn_eval(folder, *(argument.format(**names) for argument in arguments))
    assert result.exit_code == 2, result.output
    assert message in result.stderr and result.stdout == ""
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_calibration_samples_of_a_sweep_are_looked_at_before_any_work(folder, monkeypatch):
    compiled = folder / "compiled.onnx"
    onnx.save(compile_model(folder / "ann.onnx", folder / "calibration.npz").model, compiled)
    monkeypatch.setattr(evaluate, "compare", pytest.fail)
    missing = ["--calibration", folder / "missing.npz", "--sweep", "levels=4"]
    result = snn_eval(folder, compiled, *missing)
    assert result.exit_code == 4, result.output
    assert "missing.npz: no such file" in result.stderr


def test_the_report_of_another_snn_is_refused(folder):
    plain = CompileOptions(
        sequential=False, bias_correction=False, compensation=False, levels_budget=0.0
    )
    for name, options in {
        "own": plain,
        "levels": replace(plain, levels=9),
        "kind": replace(plain, neuron="multi-threshold"),
        "encoded": replace(plain, encode_input=True),
    }.items():
        compiled = compile_model(folder / "ann.onnx", folder / "calibration.npz", options)
        (folder / f"{name}.json").write_text(compiled.report.to_json())
        onnx.save(compiled.model, folder / f"{name}.onnx")
    page = ["--html", folder / "with_report.html", "--compile-report"]
    assert snn_eval(folder, folder / "own.onnx", *page, folder / "own.json").exit_code == 0
    for name, message in (
        ("levels", "'levels' is 9, of the SNN 32"),
        ("kind", "MultiThresholdFire 'Relu:b' is in one of the two only"),
        ("encoded", "DualScaleFire 'x.encoder' is in one of the two only"),
    ):
        result = snn_eval(folder, folder / "own.onnx", *page, folder / f"{name}.json")
        assert result.exit_code == 2, result.output
        assert f"the compile report is of another SNN: {message}" in result.stderr
