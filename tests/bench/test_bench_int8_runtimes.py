"""The table of runtimes: its cells and what a process answers."""

from __future__ import annotations

import sys
from pathlib import Path

import bench_int8_runtimes
import numpy as np
import pytest
import runtimes_worker
from bench_int8_runtimes import Measured, cell, measure, run_python
from conftest import MODELS

OUTPUTS = np.eye(4)


def test_a_cell_has_agreement_and_the_ratio_to_the_ann():
    other = OUTPUTS.copy()
    other[0] = OUTPUTS[1]
    found = {"ANN": Measured(OUTPUTS, [2.0, 4.0, 5.0]), "int8": Measured(other, [1.0, 2.0, 4.0])}
    assert cell("int8", found, OUTPUTS) == "3/4, 0.50 (0.50 to 0.80)"
    # A slow runtime had fewer of the samples.
    found["int8"].outputs = other[:2]
    assert cell("int8", found, OUTPUTS).startswith("1/2, ")


def test_a_cell_says_why_there_is_no_figure():
    refused, long = Measured(reason="a |\nb"), Measured(reason="x" * 1000)
    runs = Measured(OUTPUTS, [1.0])
    assert cell("int8", {"ANN": runs, "int8": refused}, OUTPUTS) == "a / b"
    assert cell("int8", {"ANN": refused, "int8": runs}, OUTPUTS) == "4/4; ANN: a / b"
    both = cell("int8", {"ANN": refused, "int8": long}, OUTPUTS)
    assert both.startswith("the ANN is refused too: xx") and both.endswith("x...")


def test_files_take_turns_and_what_is_refused_is_not_asked_again():
    asked = []

    def run(model, _, outputs):
        asked.append((model.name, outputs))
        return Measured(reason="no") if model.name == "b" else Measured(OUTPUTS, [len(asked)])

    found = measure(run, {name: Path(name) for name in "abc"}, Path("x"), 2)
    assert asked == [("a", True), ("b", True), ("c", True), ("a", False), ("c", False)]
    assert (found["a"].times, found["c"].times) == ([1, 4], [3, 5])


@pytest.fixture
def feed(tmp_path):
    with np.load(MODELS / "digits_test.npz") as arrays:
        np.savez(tmp_path / "feed.npz", image=arrays["image"][:3])
    return tmp_path / "feed.npz"


def test_a_process_gives_outputs_and_cpu_time(feed, monkeypatch):
    monkeypatch.setattr(bench_int8_runtimes, "_TIME", 0.01)
    model = MODELS / "digits_resnet_dynamo.onnx"
    found = run_python("onnxruntime", sys.executable, model, feed, True)
    reference = run_python("onnx.reference", sys.executable, model, feed, True)
    assert found.reason == reference.reason == ""
    np.testing.assert_allclose(found.outputs, reference.outputs, rtol=1e-4, atol=1e-4)
    assert len(found.times) == 1 and found.times[0] > 0


def test_a_runtime_that_is_not_installed_is_absent(feed, monkeypatch):
    monkeypatch.setitem(runtimes_worker.RUNTIMES, "none", (lambda _: __import__("no_such"), "none"))
    request = {"runtime": "none", "model": "", "feed": str(feed)}
    assert runtimes_worker.answer(request) == {"absent": "no_such"}


def test_a_process_that_breaks_off_is_no_result(feed):
    found = run_python("no runtime", sys.executable, MODELS / "x.onnx", feed, True)
    assert found.reason == "ends with 1: KeyError: 'no runtime'"


def test_a_script_without_its_program_is_absent(monkeypatch):
    monkeypatch.setattr(bench_int8_runtimes.shutil, "which", lambda _: None)
    runners = bench_int8_runtimes._runners(["web", "node"], None)
    reasons = [run(Path("x"), Path("y"), True).reason for run in runners.values()]
    assert (
        reasons[0].startswith("absent: Chromium") and reasons[1] == "absent: node is not installed"
    )
