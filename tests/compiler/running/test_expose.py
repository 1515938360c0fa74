"""Tensors inside a model seen from outside, bodies of If included."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import model_from_text, run_model
from snn_compile.compiler.running.expose import with_outputs
from snn_compile.passes.graph.network import detach

NESTED = """
    g (float[N,4] x, bool c, bool d) => (float[N,4] y) {
        a = Exp (x)
        y = If (c) <
            then_branch = t () => (float[N,4] p) {
                b = Neg (a)
                p = If (d) <
                    then_branch = u () => (float[N,4] r) { e = Abs (b) r = Exp (e) },
                    else_branch = v () => (float[N,4] s) { s = Neg (b) }
                >
            },
            else_branch = w () => (float[N,4] q) { f = Tanh (a) q = Neg (f) }
        >
    }"""


@pytest.mark.parametrize("taken", [(True, True), (True, False), (False, True)])
def test_observes_every_branch_and_leaves_the_outputs_alone(taken):
    model = model_from_text(NESTED)
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    feed = {"x": x, "c": np.array(taken[0]), "d": np.array(taken[1])}
    names = ["e", "a", "f", "b", "y", "x"]
    got = dict(zip(names, run_model(with_outputs(detach(model), names), feed), strict=True))
    a = np.exp(x)
    np.testing.assert_allclose(got["a"], a, rtol=1e-6)
    np.testing.assert_array_equal(got["x"], x)
    np.testing.assert_array_equal(got["y"], run_model(model, feed)[0])
    expected = {
        "b": -got["a"] if taken[0] else [],
        "e": got["a"] if all(taken) else [],
        "f": [] if taken[0] else np.tanh(got["a"]),
    }
    for name, values in expected.items():
        assert got[name].size == np.size(values)
        if got[name].size:
            np.testing.assert_allclose(got[name], values, rtol=1e-6)


def test_unknown_names_are_an_error():
    with pytest.raises(KeyError):
        with_outputs(detach(model_from_text(NESTED)), ["nowhere"])


@pytest.mark.parametrize("taken", [True, False])
def test_the_output_of_a_branch_can_be_observed_too(taken):
    model = model_from_text(NESTED)
    feed = {"x": np.ones((3, 4), np.float32), "c": np.array(taken), "d": np.array(True)}
    y, p, q, r = run_model(with_outputs(detach(model), ["y", "p", "q", "r"]), feed)
    for name, found, there in (("p", p, taken), ("q", q, not taken), ("r", r, taken)):
        np.testing.assert_array_equal(found, y if there else [], err_msg=name)
