"""Switched neurons: with all off the network is the ANN, with all on the SNN, and any mixture."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers import export_model, model_from_text, run_model
from onnx import numpy_helper
from snn_compile.passes.analysis.activations import find_activations
from snn_compile.passes.canonicalise.canonicalise import canonicalise
from snn_compile.passes.graph.surgeon import import_model
from snn_compile.passes.neurons.insert_quant_clip import insert_quant_clip
from snn_compile.passes.neurons.neuron import DualNeuron, ThresholdNeuron
from snn_compile.passes.neurons.replace_activation import replace_activation
from snn_compile.passes.neurons.switch_neurons import switch_neurons

X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
NEURON = ThresholdNeuron(np.array(0.5, np.float32), 3, axis=1, calibrator="by hand")

CHAIN = """
    g (float[N,3] x) => (float[N,2] y) <float[3,4] u, float[4,4] v, float[4,2] w, float[2] c> {
        a = MatMul (x, u) r = Relu (a) b = MatMul (r, v) s = Relu (b) d = Gemm (s, w, c)
        y = Neg (d)
    }"""
BRANCH = """
    g (float[N,3] x, bool b) => (float[N,3] y) <float[3,3] w> {
        z = MatMul (x, w)
        y = If (b) <
            then_branch = t () => (float[N,3] p) { q = Relu (z) p = Neg (q) },
            else_branch = e () => (float[N,3] r) { r = Relu (z) }
        >
    }"""
RETURNED = "g (float[N,3] x) => (float[N,3] r, float[N,3] y) { r = Relu (x) y = Exp (r) }"


def switched(model, neuron=NEURON, parameters=None, neurons=True):
    """The graph with its switches, of which every activation becomes the neuron."""
    graph = canonicalise(import_model(model)).graph
    outputs = [activation.output for activation in find_activations(graph)[0]]
    found = switch_neurons(graph, outputs, parameters or {})
    graph = found.graph
    if neurons:
        graph = replace_activation(insert_quant_clip(graph, dict.fromkeys(outputs, neuron)).graph)
        graph = graph.graph
    return found, export_model(graph)


def run(found, model, feed, on=()):
    switches = [*found.neurons.values(), *found.layers.values()]
    return run_model(model, feed | {name: np.array(name in on) for name in switches}, library=True)


def weights(model):
    return [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]


def spiking(values):
    return np.float32(0.5) * np.clip(np.floor(np.maximum(values, 0) / 0.5 + 0.5), 0, 3)


def test_every_mixture_is_what_the_switches_say():
    model = model_from_text(CHAIN)
    u, v, w, c = weights(model)
    found, changed = switched(model)
    first, second = found.neurons.values()
    for one, two in itertools.product((False, True), repeat=2):
        r = (spiking if one else lambda a: np.maximum(a, 0))(X @ u)
        s = (spiking if two else lambda a: np.maximum(a, 0))(r @ v)
        on = [name for name, wanted in ((first, one), (second, two)) if wanted]
        (got,) = run(found, changed, {"x": X}, on)
        np.testing.assert_allclose(got, -(s @ w + c), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("text", [CHAIN, RETURNED])
def test_with_everything_off_the_bits_are_those_of_before(text):
    model = model_from_text(text)
    found, changed = switched(model)
    for expected, got in zip(
        run_model(model, {"x": X}), run(found, changed, {"x": X}), strict=True
    ):
        np.testing.assert_array_equal(got, expected)


def test_a_neuron_that_is_an_output_is_switched_there_too():
    found, changed = switched(model_from_text(RETURNED))
    r, y = run(found, changed, {"x": X}, found.neurons.values())
    np.testing.assert_array_equal(r, spiking(X))
    np.testing.assert_allclose(y, np.exp(r), rtol=1e-6)


@pytest.mark.parametrize("taken", [False, True])
def test_neurons_in_branches_are_switched_by_inputs_of_the_model(taken):
    model = model_from_text(BRANCH)
    found, changed = switched(model)
    feed = {"x": X, "b": np.array(taken)}
    np.testing.assert_array_equal(
        run(found, changed, feed)[0], run_model(model, feed)[0], strict=True
    )
    (w,) = weights(model)
    expected = spiking(X @ w) * (-1 if taken else 1)
    np.testing.assert_allclose(run(found, changed, feed, found.neurons.values())[0], expected)


def test_neurons_of_both_signs_have_one_switch():
    text = "g (float[N,3] x) => (float[N,3] y) { a = LeakyRelu <alpha = 0.5> (x) y = Neg (a) }"
    model = model_from_text(text)
    found, changed = switched(
        model, DualNeuron(NEURON, NEURON.mirrored(), axis=1, calibrator="by hand")
    )
    assert len(found.neurons) == 1
    np.testing.assert_array_equal(run(found, changed, {"x": X})[0], run_model(model, {"x": X})[0])
    expected = -(spiking(X) - 0.5 * spiking(-X))
    np.testing.assert_allclose(run(found, changed, {"x": X}, found.neurons.values())[0], expected)


def test_layers_are_switched_and_say_which_neurons_they_read():
    model = model_from_text(CHAIN)
    u, v, w, c = weights(model)
    other = {"u": 2 * u, "w": -w, "c": c + 1}
    found, changed = switched(model, parameters=other, neurons=False)
    assert found.reads == {"a": set(), "d": {list(found.neurons)[1]}}
    np.testing.assert_array_equal(run(found, changed, {"x": X})[0], run_model(model, {"x": X})[0])
    s = np.maximum(np.maximum(X @ u, 0) @ v, 0)
    (got,) = run(found, changed, {"x": X}, [found.layers["d"]])
    np.testing.assert_allclose(got, -(s @ -w + c + 1), rtol=1e-5, atol=1e-5)
    s = np.maximum(np.maximum(X @ (2 * u), 0) @ v, 0)
    (got,) = run(found, changed, {"x": X}, [found.layers["a"]])
    np.testing.assert_allclose(got, -(s @ w + c), rtol=1e-5, atol=1e-5)


def test_a_layer_behind_a_sum_reads_all_neurons_that_are_summed():
    model = model_from_text("""
        g (float[N,3] x) => (float[N,2] y) <float[3,3] u, float[3,2] w> {
            r = Relu (x) a = MatMul (r, u) s = Relu (a) t = Add (r, s) y = MatMul (t, w)
        }""")
    found, _ = switched(model, parameters={"w": np.zeros((3, 2), np.float32)}, neurons=False)
    assert found.reads == {"y": set(found.neurons)}
