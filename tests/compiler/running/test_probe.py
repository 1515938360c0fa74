"""Shapes that a run of one sample tells."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import model_from_text
from snn_compile.compiler.errors import DataError
from snn_compile.compiler.running.probe import probe
from snn_compile.passes.graph.network import detach

MODEL = """
    g (float[N,K] x, bool c) => (float[N,M] y) <float[3,5] w> {
        a = MatMul (x, w)
        y = If (c) <
            then_branch = t () => (float[N,5] p) { b = Relu (a)  p = Neg (b) },
            else_branch = e () => (float[N,3] q) { d = Abs (x)  q = Neg (d) }
        >
    }"""


def network():
    return detach(model_from_text(MODEL))


@pytest.mark.parametrize("taken", [True, False])
def test_shapes_are_those_of_the_run_and_of_the_branch_that_was_taken(taken):
    feed = {"x": np.ones((2, 3), np.float32), "c": np.array(taken)}
    branch = {"b": (2, 5), "y": (2, 5)} if taken else {"d": (2, 3), "y": (2, 3)}
    # A name that is asked for twice is looked at once.
    found = probe(network(), ["x", "a", "b", "d", "y", "a"], feed)
    assert found == {"x": (2, 3), "a": (2, 5)} | branch


def test_nothing_runs_where_nothing_is_asked_for():
    assert probe(network(), [], {}) == {}


def test_what_cannot_be_seen_is_refused():
    feed = {"x": np.ones((2, 3), np.float32), "c": np.array(True)}
    with pytest.raises(KeyError):
        probe(network(), ["nowhere"], feed)
    with pytest.raises(DataError, match="does not run on inputs of shape"):
        probe(network(), ["a"], feed | {"x": np.ones((2, 4), np.float32)})
