"""Threads: sessions and BLAS have as many as are asked for, and the report says how many."""

from __future__ import annotations

import json
import threading
import time
from functools import partial

import numpy as np
import pytest
from helpers import model_from_text
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.running import threads
from snn_compile.compiler.running.session import make_session
from snn_compile.compiler.running.threads import (
    Threads,
    as_they_come,
    in_turn,
    of_sessions,
    processors,
    together,
    use_threads,
)
from threadpoolctl import threadpool_info, threadpool_limits

MODEL = """g (float[N,6] x) => (float[N,4] y) <float[6,8] w1, float[8,4] w2> {
    a = MatMul (x, w1) s = Relu (a) y = MatMul (s, w2) }"""


def of_blas():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def of_a_session():
    return make_session(model_from_text(MODEL)).get_session_options().intra_op_num_threads


@pytest.mark.parametrize(("asked", "blas"), [(1, 1), (2, 1), (3, 3)])
def test_asked_for_they_are_set_and_set_back(asked, blas):
    before = of_blas()
    with use_threads(asked) as found:
        assert found == Threads(asked, blas)
        assert of_sessions() == of_a_session() == asked
        assert of_blas() == {blas}
    assert of_sessions() == of_a_session() == processors()
    assert of_blas() == before


def test_otherwise_there_is_one_for_each_processor(monkeypatch):
    monkeypatch.setattr(threads, "processors", lambda: 5)
    with threadpool_limits(3, user_api="blas"), use_threads(None) as found:
        assert found == Threads(5, 3)  # no more of BLAS than the environment lets it have
        assert of_a_session() == 5


def test_within_others_they_are_those_asked_for_last():
    with use_threads(3):
        with use_threads(1):
            assert of_sessions() == 1
        with use_threads(None):
            assert of_sessions() == 3
        assert of_sessions() == 3


def test_calls_are_made_together_where_there_are_threads():
    def wait():
        return met.wait(timeout=30)

    for asked in (2, 3):
        met = threading.Barrier(2)
        with use_threads(asked):
            assert sorted(together(wait, wait)) == [0, 1]
    with use_threads(1):
        assert together(threading.get_ident, threading.get_ident) == [threading.get_ident()] * 2
    assert together(lambda: 3) == in_turn(lambda: 3) == [3]


def test_many_calls_are_made_by_as_many_threads_and_come_in_order():
    busy, most, lock = 0, 0, threading.Lock()

    def work(number):
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.02 if number % 2 else 0.001)
        with lock:
            busy -= 1
        return number

    for asked in (1, 2, 3):
        most = 0
        with use_threads(asked):
            calls = [partial(work, number) for number in range(9)]
            assert list(as_they_come(calls)) == list(range(9))
        assert most == asked


def test_with_one_thread_each_comes_before_the_next_is_made():
    made = []
    with use_threads(1):
        for count, _ in enumerate(as_they_come([partial(made.append, 0)] * 3), 1):
            assert len(made) == count


def test_what_goes_wrong_in_one_of_them_is_raised():
    def wrong():
        raise ZeroDivisionError

    with use_threads(2), pytest.raises(ZeroDivisionError):
        together(lambda: None, wrong)


def test_the_report_has_them_and_their_number_changes_nothing_that_is_counted(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(0, 1, (64, 6)).astype(np.float32))
    results = [
        compile_model(model_from_text(MODEL), tmp_path / "x.npy", CompileOptions(threads=asked))
        for asked in (1, 3, None)
    ]
    reports = [json.loads(result.report.to_json()) for result in results]
    assert [report["settings"]["threads"] for report in reports] == [1, 3, None]
    assert [report["threads"] for report in reports[:2]] == [
        {"runtime": 1, "blas": 1},
        {"runtime": 3, "blas": 3},
    ]
    assert reports[2]["threads"]["runtime"] == processors()
    levels = [[neuron["levels"] for neuron in report["neurons"]] for report in reports]
    assert levels[0] == levels[1] == levels[2]
