"""The tables of runtimes, what a process answers, and their environments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import bench_runtimes
import make_runtimes
import numpy as np
import pytest
import runtimes_worker
from bench_runtimes import available, expect, measure, run_python, targets_of, write_files
from conftest import MODELS
from runtimes_table import Cell, Expected, Measured, cell, short, table

OUTPUTS = np.eye(4)
EXPECTED = Expected(OUTPUTS, np.arange(4))


def test_a_cell_has_difference_classes_and_the_ratio_to_the_ann():
    ann = Measured(OUTPUTS, [2.0, 4.0, 5.0])
    one = cell(Measured(OUTPUTS, [1.0, 2.0, 4.0]), ann, EXPECTED)
    assert one == Cell("same bits, 4/4, 0.50 (0.50 to 0.80)", "", 1.0)
    other = OUTPUTS.copy()
    other[0] = OUTPUTS[1]
    assert cell(Measured(other, [1.0] * 3), ann, EXPECTED).text.startswith("1e+00, 3/4, ")
    # A slow runtime had fewer of the samples.
    assert cell(Measured(other[:2], [1.0] * 3), ann, EXPECTED).agreement == 0.5
    near = Measured(OUTPUTS + 2e-6, [1.0])
    ann = Measured(OUTPUTS, [2.0])
    assert cell(near, ann, Expected(4 * OUTPUTS, np.arange(4))).text.endswith(", 4/4, 0.50")
    assert cell(near, ann, EXPECTED).text == "2e-06, 4/4, 0.50"


def test_only_samples_on_which_onnxruntime_has_the_class_count():
    other = OUTPUTS.copy()
    other[1] = OUTPUTS[0]
    one = cell(Measured(other, [1.0]), Measured(OUTPUTS, [1.0]), Expected(other, np.arange(4)))
    assert one.text == "same bits, 3/3, 1.00"
    one = cell(Measured(OUTPUTS, [1.0]), Measured(OUTPUTS, [1.0]), Expected(other, np.arange(4)))
    assert one.text == "1e+00, 3/3, 1.00"


def test_a_cell_says_why_there_is_no_figure():
    refused, absent = Measured(reason="a |\nb"), Measured(reason="absent: x")
    runs = Measured(OUTPUTS, [1.0])
    assert cell(refused, runs, EXPECTED) == Cell("refused", "a |\nb")
    assert cell(absent, absent, EXPECTED) == Cell("not tried", "absent: x")
    assert cell(refused, absent, EXPECTED).reason.startswith("the ANN is refused too: a")
    one = cell(runs, refused, EXPECTED)
    assert one == Cell("same bits, 4/4, no time", "the ANN is refused: a |\nb", 1.0)
    assert cell(Measured(OUTPUTS[:, :3]), runs, EXPECTED) == Cell(
        "refused", "3 outputs instead of 4"
    )


def test_a_reason_is_one_line_without_folders():
    assert short("at /some/where/deep/file.cc:3:\n `x`") == "at file.cc:3: 'x'"
    assert short("a/b c") == "a/b c"
    assert short("x" * 1000).endswith("x...") and len(short("x" * 1000)) < 400
    assert short("Error: Exception from a/b.cpp:1:\nException from c.cpp:2: no") == "Error: no"
    assert short("no such node\nStack backtrace:\n 0: main") == "no such node"


def test_a_table_numbers_its_reasons_and_counts_the_runtimes():
    good, bad = Cell("same bits, 4/4, 1.00", "", 1.0), Cell("0.1, 3/4, 1.00", "", 0.75)
    refused = [Cell("refused", f"an operator that there is not: {node}") for node in ("a", "b")]
    absent = Cell("not tried", "absent: x")
    rows = {"a 1": [good, good], "b 2": [good, bad], "c": refused, "d": [absent, absent]}
    assert table({"one": "4/4", "two": "3/4"}, rows) == [
        "| runtime | one | two |",
        "| --- | --- | --- |",
        "| a 1 | same bits, 4/4, 1.00 | same bits, 4/4, 1.00 |",
        "| b 2 | same bits, 4/4, 1.00 | 0.1, 3/4, 1.00 |",
        "| c | refused [1] | refused [1] |",
        "| d | not tried [2] | not tried [2] |",
        "",
        "2 of 3 runtimes run all of these networks, 1 with the class on at least 99 % of the "
        "samples.",
        "",
        "With these files onnxruntime has the ANN's class on so many samples: one 4/4, two 3/4.",
        "",
        "1. c: `an operator that there is not: a`",
        "2. d: `absent: x`",
    ]


def test_files_take_turns_and_what_is_refused_is_not_asked_again():
    asked = []

    def run(model, _, outputs):
        asked.append((model.name, outputs))
        return Measured(reason="no") if model.name == "b" else Measured(OUTPUTS, [len(asked)])

    found = measure(run, {name: Path(name) for name in "abc"}, Path("x"), 2)
    assert asked == [("a", True), ("b", True), ("c", True), ("a", False), ("c", False)]
    assert (found["a"].times, found["c"].times) == ([1, 4], [3, 5])


def test_a_target_that_there_is_not_is_refused():
    assert targets_of(["int8", "quantize_static"]) == ["int8", "quantize_static"]
    with pytest.raises(ValueError, match=r"no target 'nir' in this checkout, only onnxruntime, "):
        targets_of(["nir"])


def test_available_targets_are_those_of_the_checkout(monkeypatch):
    monkeypatch.setattr(bench_runtimes, "TARGETS", {"onnxruntime": None, "nir": None})
    assert available() == ["onnxruntime"]
    monkeypatch.setattr(bench_runtimes, "TARGETS", {"int8": None, "standard": None})
    assert available() == ["standard", "int8"]


def test_a_page_without_a_table_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text("no markers", "utf-8")
    monkeypatch.setattr("sys.argv", ["bench", "--targets", "int8", "--out", str(page)])
    with pytest.raises(SystemExit):
        bench_runtimes.main()
    assert "the page needs <!-- table: int8 -->" in capsys.readouterr().err


@pytest.mark.slow
def test_a_page_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_runtimes, "_TIME", 0.01)
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- table: int8 -->\n<!-- end: int8 -->\nz\n", "utf-8")
    arguments = ["--targets", "int8", "--networks", "digits", "cifar10_resnet20"]
    arguments += ["--runtimes", "onnxruntime", "--samples", "5", "--out", str(page)]
    monkeypatch.setattr("sys.argv", ["bench", *arguments])
    bench_runtimes.main()
    text = page.read_text("utf-8")
    assert "| runtime | digits |" in text  # the other is left out, as there are no data
    assert "| same bits, 5/5, " in text and "1 of 1 runtimes run all" in text
    assert text.startswith("a\n") and text.endswith("z\n")


@pytest.mark.slow
def test_files_are_held_against_themselves_in_onnxruntime(tmp_path):
    files, feed = write_files("digits", ["int8"], None, 20, tmp_path)
    expected = expect(files, feed)
    assert list(expected) == ["ANN", "int8"]
    ann = expected["ANN"].outputs.argmax(1)
    for one in expected.values():
        np.testing.assert_array_equal(one.classes, ann)
    assert np.abs(expected["ANN"].outputs - expected["int8"].outputs).max() > 0
    files["int8"].write_bytes(b"no model")
    with pytest.raises(RuntimeError, match="onnxruntime: int8: "):
        expect(files, feed)


@pytest.fixture
def feed(tmp_path):
    with np.load(MODELS / "digits_test.npz") as arrays:
        np.savez(tmp_path / "feed.npz", image=arrays["image"][:3])
    return tmp_path / "feed.npz"


def test_a_process_gives_outputs_and_cpu_time(feed, monkeypatch):
    monkeypatch.setattr(bench_runtimes, "_TIME", 0.01)
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
    monkeypatch.setattr(bench_runtimes.shutil, "which", lambda _: None)
    runners = bench_runtimes._runners(["web", "node"], None)
    reasons = [run(Path("x"), Path("y"), True).reason for run in runners.values()]
    assert (
        reasons[0].startswith("absent: Chromium") and reasons[1] == "absent: node is not installed"
    )


@pytest.fixture
def pip(monkeypatch):
    """Environments without anything in them, and a pip that fails where told."""
    calls = []

    def create(folder, **_):
        (folder / "bin").mkdir(parents=True, exist_ok=True)

    def run(command, **_):
        calls.append(command)
        failed = "MNN==" in command[-1]
        return subprocess.CompletedProcess(command, int(failed), "", "a\nno such package\n")

    monkeypatch.setattr(make_runtimes.venv, "create", create)
    monkeypatch.setattr(make_runtimes.subprocess, "run", run)
    monkeypatch.setattr(make_runtimes.shutil, "which", lambda _: None)
    return calls


def test_an_environment_is_made_once(pip, tmp_path):
    assert make_runtimes.make("tract", tmp_path) is None
    assert make_runtimes.make("tract", tmp_path) is None
    assert len(pip) == 1 and pip[0][-1].startswith("tract==")


def test_what_cannot_be_installed_is_left_out(pip, tmp_path):
    assert make_runtimes.make("MNN", tmp_path) == "no such package"
    assert pip and not (tmp_path / "MNN").exists()


@pytest.mark.usefixtures("pip")
def test_a_runtime_that_needs_a_compiler_gets_one(tmp_path):
    assert make_runtimes.make("tinygrad", tmp_path) is None
    assert (tmp_path / "tinygrad" / "bin" / "clang").stat().st_mode & 0o111


def test_every_runtime_has_requirements_but_those_of_this_python():
    assert set(runtimes_worker.RUNTIMES) - set(make_runtimes.REQUIREMENTS) == {
        *("onnxruntime", "onnx.reference"),
    }
