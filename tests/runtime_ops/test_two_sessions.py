"""Sessions that run at the same time, on threads of one process, do not disturb each other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
from operators import assert_same_bits, operator_model, session
from snn_compile.compiler.running.session import make_session
from snn_compile.runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE

RUNS = 20
# More than one parallel chunk, so that both sessions' pools of threads are at work.
X = np.random.default_rng(0).normal(0, 3, (4, 5, 4000)).astype(np.float32)

MODELS = [
    operator_model(MULTI_THRESHOLD_FIRE, {"theta": 0.5}, levels_pos=4, levels_neg=2),
    operator_model(MULTI_THRESHOLD_FIRE, {"theta": [0.1, 0.2, 0.3, 0.4, 0.5]}, levels_pos=9),
]


def at_once(*tasks):
    """What the tasks return, each on a thread of its own, started together."""
    barrier = Barrier(len(tasks))

    def start(task):
        barrier.wait()
        return task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(start, tasks))


def runs_of(runner):
    return lambda: [runner.run(None, {"X": X})[0] for _ in range(RUNS)]


@pytest.mark.parametrize("second", [0, 1], ids=["same model", "another model"])
def test_two_sessions_at_once(second):
    runners = [session(MODELS[0], library=True), session(MODELS[second], library=True)]
    expected = [runner.run(None, {"X": X})[0] for runner in runners]
    for results, alone in zip(at_once(*map(runs_of, runners)), expected, strict=True):
        for result in results:
            assert_same_bits(result, alone)


def test_one_session_run_from_two_threads():
    runner = session(MODELS[1], library=True)
    alone = runner.run(None, {"X": X})[0]
    for results in at_once(runs_of(runner), runs_of(runner)):
        for result in results:
            assert_same_bits(result, alone)


def test_sessions_made_at_once():
    """Registration and creation race as well."""

    def make_and_run(model):
        return lambda: session(model, library=True).run(None, {"X": X})[0]

    expected = [make_and_run(model)() for model in MODELS]
    for _ in range(5):
        for result, alone in zip(at_once(*map(make_and_run, MODELS)), expected, strict=True):
            assert_same_bits(result, alone)


def test_threads_of_a_session_that_waits_leave_the_processor_to_others():
    options = make_session(MODELS[0]).get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
