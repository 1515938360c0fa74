"""Parts of a network, and the order in which they are calibrated."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import model_from_text, run_model
from onnx import TensorProto
from snn_compile.compiler.calibration.sequence.schedule import make_schedule
from snn_compile.compiler.running.segment import segment
from snn_compile.passes.analysis.activations import find_activations
from snn_compile.passes.analysis.layers import find_layers
from snn_compile.passes.graph.network import Network, detach
from snn_compile.passes.graph.surgeon import export_network, import_model, infer_shapes
from snn_compile.passes.neurons.own_parameters import own_parameters

RESIDUAL = """
net (float[B, 8] x) => (float[B, 8] y)
<float[8, 8] w, float[8] b, float[8, 8] v, float[8] c, float[40, 8] u>
{
  a = Relu(x)
  m = Gemm(a, w, b)
  r = Relu(m)
  n = Gemm(r, v, c)
  s = Add(n, a)
  y = Relu(s)
}
"""


def test_a_segment_computes_what_the_whole_does():
    model = model_from_text(RESIDUAL)
    network = detach(model)
    x = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    whole = segment(network, {"x": TensorProto.FLOAT}, ["a", "r", "y"])
    a, r, y = run_model(whole.attached(), {"x": x})
    np.testing.assert_array_equal(y, run_model(model, {"x": x})[0])
    tail = segment(network, {"a": TensorProto.FLOAT, "r": TensorProto.FLOAT}, ["y", "n"])
    assert [node.output[0] for node in tail.proto.graph.node] == ["n", "s", "y"]
    assert {t.name for t in tail.proto.graph.initializer} == {"v", "c"}
    np.testing.assert_array_equal(run_model(tail.attached(), {"a": a, "r": r})[0], y)


def test_inputs_that_nothing_needs_are_left_out_and_missing_ones_are_an_error():
    network = detach(model_from_text(RESIDUAL))
    part = segment(network, {"a": TensorProto.FLOAT, "r": TensorProto.FLOAT}, ["n"])
    assert [value.name for value in part.proto.graph.input] == ["r"]
    with pytest.raises(KeyError, match="x"):
        segment(network, {}, ["m"])


def test_what_a_body_takes_from_outside_comes_along():
    model = model_from_text(
        """net (float[4] x, bool c) => (float[4] y) <float[4] w>
        { a = Relu(x) b = Neg(a)
          y = If (c) <
            then_branch = then () => (float[4] t) { t = Add(b, w) },
            else_branch = else () => (float[4] e) { e = Identity(a) }
          > }"""
    )
    network = detach(model)
    given = {"a": TensorProto.FLOAT, "c": TensorProto.BOOL}
    part = segment(network, given, ["y"])
    a = np.ones(4, np.float32)
    for condition in (True, False):
        (got,) = run_model(part.attached(), {"a": a, "c": np.array(condition)})
        expected = run_model(model, {"x": a, "c": np.array(condition)})[0]
        np.testing.assert_array_equal(got, expected)


def test_lengths_are_free():
    model = model_from_text("net (float[2, 3] x) => (float[2, 3] y) { a = Relu(x) y = Neg(a) }")
    part = segment(detach(model), {"a": TensorProto.FLOAT}, ["y"])
    x = np.ones((5, 7), np.float32)
    np.testing.assert_array_equal(run_model(part.attached(), {"a": x})[0], -x)


def schedule_of(text: str, with_layers: bool):
    graph = infer_shapes(import_model(model_from_text(text)))
    own_parameters(graph)
    activations, _ = find_activations(graph)
    network: Network = export_network(graph)
    return make_schedule(network.proto, activations, find_layers(graph) if with_layers else [])


def test_rounds_follow_the_events_and_keep_what_is_read_later():
    schedule = schedule_of(RESIDUAL, with_layers=True)
    names = [
        ([a.output for a in r.neurons], [layer.output for layer in r.layers])
        for r in schedule.rounds
    ]
    assert names == [(["a"], []), ([], ["m"]), (["r"], []), ([], ["n"]), (["y"], [])]
    assert [list(r.frontier) for r in schedule.rounds] == [
        ["x"], ["a"], ["m", "a"], ["r", "a"], ["s"]
    ]  # fmt: skip
    assert schedule.stages == {"x": 0, "a": 1, "m": 2, "r": 3, "n": 4, "s": 4, "y": 5}
    assert schedule.spiking == {"a", "m", "r", "n", "s", "y"}


def test_without_layers_only_neurons_make_rounds():
    schedule = schedule_of(RESIDUAL, with_layers=False)
    assert [[a.output for a in r.neurons] for r in schedule.rounds] == [["a"], ["r"], ["y"]]


def test_parallel_neurons_share_a_round_and_what_no_neuron_made_is_not_spiking():
    schedule = schedule_of(
        """net (float[4] x) => (float[4] y)
        { n = Neg(x) a = Relu(x) b = Sigmoid(n) s = Add(a, b) y = Mul(s, n) }""",
        with_layers=True,
    )
    assert [[a.output for a in r.neurons] for r in schedule.rounds] == [["a", "b"]]
    assert set(schedule.rounds[0].frontier) == {"x", "n"}
    assert schedule.spiking == {"a", "b", "s", "y"}


def test_a_network_without_events_has_no_rounds():
    schedule = schedule_of("net (float[4] x) => (float[4] y) { y = Neg(x) }", with_layers=True)
    assert schedule.rounds == []


def test_an_output_of_the_whole_keeps_its_shape_inside_a_segment():
    model = model_from_text(
        "g (float[B, 8] x) => (float[B, 8] a, float[B, 8] y) { a = Relu(x) y = Neg(a) }"
    )
    part = segment(detach(model), {"x": TensorProto.FLOAT}, ["y"])
    (a,) = part.proto.graph.value_info
    assert (a.name, len(a.type.tensor_type.shape.dim)) == ("a", 2)


def test_of_a_tensor_that_joins_others_these_are_kept_once():
    """Each layer reads what all before it gave; what a neuron reads itself is kept as it is."""
    schedule = schedule_of(
        """net (float[4] x) => (float[32] y) {
            a = Neg (x) p = Relu (a) c = Concat <axis = 0> (a, p) n = Neg (c)
            q = Relu (n) d = Concat <axis = 0> (c, q) e = Relu (d) y = Concat <axis = 0> (d, e)
        }""",
        with_layers=False,
    )
    assert [set(r.frontier) for r in schedule.rounds] == [
        {"a"},
        {"a", "p", "n"},
        {"d", "a", "p", "q"},
    ]
