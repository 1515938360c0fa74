"""Progress: one bar is left, whatever ran within it."""

from __future__ import annotations

import io
import sys

import pytest
from snn_compile.compiler.terminal import progress_bar


def left(monkeypatch, work):
    """What a run leaves on a stderr that is no terminal."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar() as progress:
        work(progress)
    return [line.split("━")[0].strip() for line in stream.getvalue().splitlines() if line.strip()]


def test_a_sweep_leaves_one_bar(monkeypatch):
    def sweep(progress):
        for _ in progress.track(range(4), 4, "sweep"):
            for _ in progress.track(range(3), 3, "calibrating"):
                list(progress.track(range(2), 2, "thresholds"))
            list(progress.track(range(2), 2, "verifying"))

    assert left(monkeypatch, sweep) == ["sweep"]


def test_steps_in_a_row_leave_the_last(monkeypatch):
    def steps(progress):
        for label in ("running the ANN", "calibrating", "verifying"):
            list(progress.track(range(2), 2, label))

    assert left(monkeypatch, steps) == ["verifying"]


def test_a_step_that_is_left_early_or_fails_leaves_no_bar_behind(monkeypatch):
    def steps(progress):
        for _ in progress.track(range(2), 2, "sweep"):
            next(progress.track(range(5), 5, "abandoned"))
            with pytest.raises(ZeroDivisionError):
                list(progress.track((1 // 0 for _ in range(2)), 2, "failing"))

    assert left(monkeypatch, steps) == ["sweep"]


def test_nothing_is_shown_where_nothing_is_to_be_said(capsys):
    with progress_bar(False) as progress:
        assert list(progress.track(range(3), 3, "calibrating")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
