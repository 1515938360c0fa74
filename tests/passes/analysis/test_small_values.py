"""Where small values count: activations that stay, and what encoders are measured for."""

from __future__ import annotations

import pytest
from helpers import model_from_text
from snn_compile.compiler.calibration.costs import find_suspected
from snn_compile.compiler.front_end import PLACEMENT, RECOGNITION, apply_passes
from snn_compile.compiler.options import CompileOptions
from snn_compile.compiler.steps import Steps
from snn_compile.compiler.targets import resolve
from snn_compile.passes.analysis.activations import find_activations
from snn_compile.passes.analysis.layers import find_layers
from snn_compile.passes.graph.surgeon import import_model
from snn_compile.passes.neurons.own_parameters import own_parameters

WEIGHTS = """float[6,6] w, float[6,6] v, float[6,4] u, float[6,6] m_var, float[6] bias_var,
    float one = {1}, float half = {0.5}, float eps = {0.000001}, float high = {0.999999},
    float minus = {-1}, float third = {0.3333}, int64[1] last = {1}, float[6] small_var,
    float million = {1000000}, float tiny = {0.0000001}"""


def placed(nodes, outputs="float[N,4] y"):
    model = model_from_text(f"g (float[N,6] x) => ({outputs}) <{WEIGHTS}> {{ {nodes} }}")
    options = resolve(CompileOptions())
    return apply_passes(import_model(model), (*RECOGNITION, *PLACEMENT), options, Steps())


def suspected(graph):
    return find_suspected(graph, resolve(CompileOptions()))


@pytest.mark.parametrize(
    "nodes",
    [
        "s = Sigmoid (a) r = Sub (one, s) g = Log (r)",
        "s = Sigmoid (a) r = Clip (s, eps, high) g = Log (r)",
        "s = Sigmoid (a) r = Clip (s, tiny, one) g = Log (r)",
        "s = Relu (a) r = Add (s, eps) g = Log (r)",
        "s = Relu (a) r = Max (s, eps) g = Reciprocal (r)",
        "s = Tanh (a) r = Add (one, s) g = Pow (r, minus)",
        "s = Softplus (a) z = Div (small_var, million) r = Add (s, z) g = Div (a, r)",
        "s = Relu (a) t = Unsqueeze (s, last) q = Squeeze (t, last) g = Pow (q, third)",
    ],
)
def test_an_activation_whose_small_values_count_stays(nodes):
    graph = placed(f"a = MatMul (x, w) {nodes} b = MatMul (g, v) r2 = Relu (b) y = MatMul (r2, u)")
    neurons, kept = find_activations(graph)
    assert [a.op for a in neurons if not a.encodes] == ["Relu"]
    floors = [node for node in graph.nodes if node.op == "Clip"]
    assert len(floors) == sum(name in nodes for name in ("Clip", "Max"))
    assert kept
    assert all("level" in one.reason or "preprocessing" in one.reason for one in kept)


@pytest.mark.parametrize(
    "nodes",
    [
        "s = Relu (a) r = Add (s, one) g = Log (r)",
        "s = Sigmoid (a) r = Add (s, half) g = Reciprocal (r)",
        "s = Relu (a) r = Add (s, eps) g = Sqrt (r)",
        "s = Sigmoid (a) g = Sub (one, s)",
        "s = Relu (a) r = Exp (s) g = Log (r)",
    ],
)
def test_others_become_neurons(nodes):
    graph = placed(f"a = MatMul (x, w) {nodes} y = MatMul (g, u)")
    assert not find_activations(graph)[1]


BEHIND = "a = MatMul (x, w) r = Relu (a) b = MatMul (r, v)"


@pytest.mark.parametrize(
    ("nodes", "found"),
    [
        ("p = Softmax (b) m = MatMul (p, m_var) e = Add (m, eps) g = Log (e)", {"p"}),
        ("p = Mul (b, b) m = MatMul (p, m_var) e = Clip (m, eps) g = Reciprocal (e)", "rp"),
        ("d = MatMul (b, w) n = ReduceL2 <axes = [1]> (b) e = Add (n, eps) g = Div (d, e)", "rb"),
        ("q = Mul (b, b) s = ReduceSum (q, last) t = Sqrt (s) g = Div (b, t)", {"r"}),
        ("p = Exp (b) m = MatMul (p, m_var) g = Pow (m, third)", {"p"}),
        # Nothing of these makes much of small values.
        ("p = Softmax (b) m = MatMul (p, m_var) g = LogSoftmax (m)", {}),
        ("p = Softmax (b) m = MatMul (p, m_var) g = Sqrt (m)", {}),
        ("e = Exp (b) g = Add (e, one)", {}),
        ("g = LayerNormalization (b, bias_var)", {}),
    ],
)
def test_neurons_in_front_of_logarithms_and_divisions_are_suspected(nodes, found):
    graph = placed(f"{BEHIND} {nodes} y = MatMul (g, u)")
    assert {name.removesuffix(".encoded") for name in suspected(graph)} == set(found)


@pytest.mark.parametrize(
    "norm",
    [
        "g = LayerNormalization (b, bias_var)",
        "g = LpNormalization <axis = 1> (b)",
        "q = Mul (b, b) s = ReduceMean <axes = [1]> (q) t = Sqrt (s) g = Div (b, t)",
    ],
)
def test_a_normalisation_counts_where_values_follow_the_size_of_the_input(norm):
    graph = placed(f"a = MatMul (x, w) b = MatMul (a, v) {norm} y = MatMul (g, u)")
    assert set(suspected(graph)) == {"a.encoded"}


@pytest.mark.parametrize(
    "nodes",
    [
        "m = MatMul (r, m_var) e = Add (m, eps) g = Log (e)",
        "m = MatMul (r, m_var) t = Unsqueeze (m, last) s = Squeeze (t, last) g = Reciprocal (s)",
        "m = MatMul (r, m_var) s = ReduceL2 <axes = [1]> (a) g = Div (m, s)",
    ],
)
def test_least_squares_leave_such_layers_alone(nodes):
    graph = placed(f"a = MatMul (x, w) r = Relu (a) {nodes} y = MatMul (g, u)")
    own_parameters(graph)
    assert [layer.name for layer in find_layers(graph)] == ["MatMul:y"]
