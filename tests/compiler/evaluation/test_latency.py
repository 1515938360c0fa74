"""Latency: which process runs when, what becomes of the figures, and processes that fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import model_from_text
from snn_compile.compiler.evaluation import latency
from snn_compile.compiler.evaluation.latency import (
    Candidate,
    LatencyOptions,
    batch_sizes,
    measure_latency,
    write_feeds,
)
from snn_compile.compiler.progress import Progress
from snn_compile.compiler.samples.base import input_specs
from snn_compile.compiler.samples.files import FileSamples

ANN, SNN = Candidate("ann", Path("a"), False), Candidate("snn", Path("s"), True)
TEXT = "g (float[N,3] x) => (float[N,3] y) { y = Relu (x) }"


@pytest.fixture
def processes(monkeypatch):
    """Processes that are not started; ``answers`` says what they would find, in turn."""

    class Processes:
        answers = ()
        started = ()
        clock = 0.0

        def measure(self, candidate, feed, _):
            self.started += ((candidate.name, feed),)
            seconds, wall = self.answers[len(self.started) - 1]
            self.clock += wall
            if seconds is None:
                raise latency._FailedError("broken")
            return seconds, 100 * len(self.started)

    made = Processes()
    monkeypatch.setattr(latency, "_measure", made.measure)
    monkeypatch.setattr(latency.time, "perf_counter", lambda: made.clock)
    return made


def measured(feeds, **options):
    results, problems = measure_latency([ANN, SNN], feeds, LatencyOptions(**options), Progress())
    return {(r.network, r.batch): r for r in results}, problems


def test_processes_take_turns_and_ratios_are_those_of_a_round(processes):
    # The machine is ten times slower in the second round.
    processes.answers = [(1, 0), (2, 0), (10, 0), (30, 0), (3, 0), (6, 0)]
    results, problems = measured({1: "f"}, rounds=3)
    assert processes.started == (("ann", "f"), ("snn", "f")) * 3
    assert problems == []
    assert (results["ann", 1].seconds, results["snn", 1].seconds) == (3, 6)
    assert results["ann", 1].ratio == 1
    assert results["snn", 1].ratio == 2
    assert results["snn", 1].peak_bytes == 600


def test_beside_a_figure_stand_the_least_and_the_largest(processes):
    processes.answers = [(1, 0), (2, 0), (10, 0), (30, 0), (3, 0), (6, 0)]
    results, _ = measured({1: "f"}, rounds=3)
    ann, snn = results["ann", 1], results["snn", 1]
    assert (ann.seconds_range, snn.seconds_range) == ((1, 10), (2, 30))
    assert (ann.ratio_range, snn.ratio_range) == ((1, 1), (2, 3))
    assert snn.spread == pytest.approx(28 / 6)
    processes.started, processes.answers = (), [(1, 0), (2, 0)]
    results, _ = measured({1: "f"}, rounds=1)
    assert (results["snn", 1].seconds_range, results["snn", 1].spread) == (None, None)


@pytest.mark.parametrize(
    ("running", "cores", "expected"),
    [
        (None, 2, None),
        (0.1, 2, None),
        (0.4, 2, None),
        (1.5, 2, "1.5 other tasks run on 2 cores"),
        (1.5, 16, None),
    ],
)
def test_a_busy_machine_is_told(monkeypatch, running, cores, expected):
    monkeypatch.setattr(latency, "_running_tasks", lambda: running)
    monkeypatch.setattr(latency.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    found = latency.busy_machine()
    assert found is None if expected is None else expected in found


def test_where_the_system_does_not_say_what_runs_the_load_counts(monkeypatch):
    class Nowhere:
        def __init__(self, _):
            pass

        def read_text(self, encoding):
            raise OSError(encoding)

    monkeypatch.setattr(latency, "Path", Nowhere)
    monkeypatch.setattr(latency.os, "getloadavg", lambda: (3.0, 2.0, 1.0), raising=False)
    assert latency._running_tasks() == 3.0


def test_what_runs_is_a_number_of_tasks(monkeypatch):
    monkeypatch.setattr(latency, "_MOMENT", 0)
    assert latency._running_tasks() >= 0


def test_a_slow_network_is_measured_once(processes):
    processes.answers = [(1, 1), (5, 11), (2, 1), (3, 1)]
    results, problems = measured({1: "f"}, rounds=3)
    assert [name for name, _ in processes.started] == ["ann", "snn", "ann", "ann"]
    assert (results["ann", 1].seconds, results["snn", 1].ratio) == (2, 5)
    assert problems == []


def test_where_the_ann_is_slow_all_are_measured_once_at_that_batch(processes):
    processes.answers = [(1, 1), (1, 1), (6, 11), (9, 1), (2, 1), (4, 1)]
    results, _ = measured({1: "one", 8: "eight"}, rounds=2)
    assert [feed for _, feed in processes.started] == ["one", "one", "eight", "eight", "one", "one"]
    assert results["snn", 8].ratio == 1.5


def test_a_batch_that_would_take_too_long_is_not_started(processes):
    processes.answers = [(1, 0), (3, 0), (8, 0)]
    results, problems = measured({1: "one", 8: "eight"}, rounds=1, limit=20)
    assert processes.started == (("ann", "one"), ("snn", "one"), ("ann", "eight"))
    assert set(results) == {("ann", 1), ("snn", 1), ("ann", 8)}
    assert problems == [
        "latency of snn at batch 8: a run would take about 24 s; give a smaller batch"
    ]


def test_a_network_that_fails_is_said_to_and_the_rest_goes_on(processes):
    processes.answers = [(1, 0), (None, 0), (1, 0)]
    results, problems = measured({1: "f"}, rounds=2)
    assert set(results) == {("ann", 1)}
    assert problems == ["latency of snn at batch 1: broken"]


def test_without_a_figure_of_the_ann_there_is_none(processes):
    processes.answers = [(None, 0)]
    results, problems = measured({1: "f"}, rounds=2)
    assert results == {}
    assert problems == ["latency of ann at batch 1: broken"]


@pytest.fixture
def model(tmp_path):
    """A small network, and 5 samples for it."""
    onnx.save(model_from_text(TEXT), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=np.arange(15, dtype=np.float32).reshape(5, 3))
    return tmp_path / "m.onnx"


def samples_for(model, text=TEXT):
    return FileSamples(model.with_name("d.npz"), input_specs(model_from_text(text)))


def test_batches_are_real_samples_repeated_where_they_do_not_suffice(model, tmp_path):
    paths = write_feeds(samples_for(model), [1, 8], tmp_path)
    rows = np.arange(15, dtype=np.float32).reshape(5, 3)
    for size, path in paths.items():
        with np.load(path) as feed:
            np.testing.assert_array_equal(feed["x"], rows[np.arange(size) % 5])


def test_the_batch_is_what_the_model_fixes(model, tmp_path):
    options = LatencyOptions(batch=8)
    assert batch_sizes(samples_for(model), options) == [1, 8]
    assert batch_sizes(samples_for(model), LatencyOptions(batch=1)) == [1]
    assert batch_sizes(samples_for(model, TEXT.replace("N", "2")), options) == [2]
    unbatched = samples_for(model, TEXT.replace("N,3", "3"))
    assert batch_sizes(unbatched, options) == [1]
    with np.load(write_feeds(unbatched, [1], tmp_path)[1]) as feed:
        np.testing.assert_array_equal(feed["x"], [0, 1, 2])


def measured_files(*paths, feed, **options):
    candidates = [Candidate(f"{i}", path, True) for i, path in zip(count(), paths)]
    options = LatencyOptions(rounds=1, seconds=0.02, **options)
    return measure_latency(candidates, {1: feed}, options, Progress())


def test_a_process_measures_and_imports_nothing_from_the_current_folder(
    model, tmp_path, monkeypatch
):
    for name in ("json", "numpy", "statistics"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('imported')")
    monkeypatch.chdir(tmp_path)
    feed = write_feeds(samples_for(model), [1], tmp_path)[1]
    (result,), problems = measured_files(model, feed=feed)
    assert problems == []
    assert 1e-7 < result.seconds < 1
    assert result.ratio == 1
    if os.path.exists("/proc/self/status"):  # noqa: PTH110 - of the system, not of a test
        assert 10 << 20 < result.peak_bytes < 4 << 30


def test_a_process_that_cannot_run_the_network_says_why(model, tmp_path):
    feed = write_feeds(samples_for(model), [1], tmp_path)[1]
    (tmp_path / "text.onnx").write_text("hello")
    results, problems = measured_files(model, tmp_path / "text.onnx", feed=feed)
    assert [result.network for result in results] == ["0"]
    assert len(problems) == 1
    assert "text.onnx" in problems[0]


def test_a_process_that_does_not_come_to_an_end_is_stopped(model, tmp_path):
    feed = write_feeds(samples_for(model), [1], tmp_path)[1]
    results, problems = measured_files(model, feed=feed, limit=0.01)
    assert results == []
    assert problems == ["latency of 0 at batch 1: no figure within 0.01 s; give a smaller batch"]


def test_a_process_ends_when_nobody_waits_for_it(model, tmp_path):
    request = {"path": str(model), "library": False, "threads": 1, "seconds": 1e6}
    request["feed"] = str(write_feeds(samples_for(model), [1], tmp_path)[1])
    command = [sys.executable, "-c", latency._START, json.dumps(request)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        process.stdin.close()
        assert process.wait(60) == 1
