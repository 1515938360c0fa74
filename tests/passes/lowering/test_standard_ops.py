"""Neurons as standard operators: the bits of kernel and function body, and how they are read."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import run_model
from onnx import TensorProto, helper, numpy_helper
from snn_compile.passes.graph.network import check, detach
from snn_compile.passes.graph.protos import nodes_below
from snn_compile.passes.graph.surgeon import export_network, import_model
from snn_compile.passes.lowering.function_bodies import function_bodies
from snn_compile.passes.lowering.spiking_form import spiking_form
from snn_compile.passes.lowering.standard_ops import holds_chains, standard_ops
from snn_compile.runtime_ops.definition import DOMAIN
from snn_compile.runtime_ops.operators import neurons_of, register_schemas

C = 3
CHANNELS = [0.3, 1.7, 0.11]
POWERS = [0.25, 8.0, 1.0]
TABLE = np.float32([-1, 0, 0, 1, 1, 2, 5, 3])
TIES = (np.arange(-400, 401) / 8).astype(np.float32)

NEURONS = {
    "uniform": ("MultiThresholdFire", 0.3, {"levels_pos": 7}, "Div Add Clip Floor Mul"),
    "uniform, per channel": (
        *("MultiThresholdFire", CHANNELS, {"levels_pos": 7, "v0": 0.25}),
        "Div Add Clip Floor Mul",
    ),
    "uniform, powers of two": (
        *("MultiThresholdFire", POWERS, {"levels_pos": 7}),
        "Mul Add Clip Floor Mul",
    ),
    "uniform, of threshold 1": (
        *("MultiThresholdFire", 1.0, {"levels_pos": 7}),
        "Add Clip Floor",
    ),
    "signed": (
        *("MultiThresholdFire", CHANNELS, {"levels_pos": 7, "levels_neg": 3}),
        "Div Add Clip Floor Sub Clip Floor Sub Mul",
    ),
    "signed, of threshold 1": (
        *("MultiThresholdFire", 1.0, {"levels_pos": 7, "levels_neg": 3, "v0": 0.0}),
        "Add Clip Floor Sub Clip Floor Sub",
    ),
    "negative": (
        *("MultiThresholdFire", 0.3, {"levels_pos": 0, "levels_neg": 3}),
        "Div Sub Clip Floor Sub Mul",
    ),
    "octave": (
        *("ScaleFire", CHANNELS, {"linear": 4, "top_pos": 24}),
        "Mul Clip Mul Max Sub Sub Mul",
    ),
    "octave, of scale 1": (
        *("ScaleFire", 1.0, {"linear": 4, "top_pos": 24}),
        "Clip Mul Max Sub Sub",
    ),
    "dual octave": (
        *("DualScaleFire", 0.3, {"linear": 4, "top_pos": 24, "top_neg": 8}),
        "Mul Clip Abs Mul Max Sign Mul Sub Sub Mul",
    ),
    "dual octave, of scale 1": (
        *("DualScaleFire", 1.0, {"linear": 4, "top_pos": 24, "top_neg": 8}),
        "Clip Abs Mul Max Sign Mul Sub Sub",
    ),
    "rounded": (
        *("ScaleFire", CHANNELS, {"linear": 10, "top_pos": 7}),
        "Mul Add Clip Round Mul",
    ),
    "rounded, of scale 1": (
        *("ScaleFire", 1.0, {"linear": 10, "top_pos": 7}),
        "Add Clip Round",
    ),
    "dual rounded": (
        *("DualScaleFire", 0.3, {"linear": 10, "top_pos": 7, "top_neg": 3}),
        "Mul Clip Round Add Mul",
    ),
    "dual rounded, of scale 1": (
        *("DualScaleFire", 1.0, {"linear": 14, "top_pos": 7, "top_neg": 10}),
        "Clip Round Add",
    ),
    "below m, where ties may go the other way": (
        *("ScaleFire", 1.0, {"linear": 8, "top_pos": 7}),
        "Clip Mul Max Sub Sub",
    ),
    "staircase": (
        *("StaircaseFire", 0.3, {"density": 1.3, "start": -2.0}),
        "Mul Sub Clip Cast Gather",
    ),
    "staircase, per channel": (
        *("StaircaseFire", CHANNELS, {"density": 1.3, "start": -2.0}),
        "Mul Sub Clip Cast Gather Mul",
    ),
}


def network(op, step, attributes, x="x"):
    """One neuron, its threshold or scale as it broadcasts against [N, C, L]."""
    register_schemas()
    steps = np.float32(step)
    constants = [numpy_helper.from_array(steps.reshape(-1, 1) if steps.ndim else steps, "step")]
    inputs = [x, "step"]
    if op == "StaircaseFire":
        constants.append(numpy_helper.from_array(TABLE, "table"))
        inputs.append("table")
    node = helper.make_node(op, inputs, ["y"], name="neuron", domain=DOMAIN, **attributes)
    node.metadata_props.add(key="snn_compile.source_node", value="relu")
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", C, "L"]) for name in "xy"
    ]
    graph = helper.make_graph([node], "g", values[:1], values[1:], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    return detach(helper.make_model(graph, ir_version=8, opset_imports=opsets))


def potentials():
    """Ties and random values, zeros of both signs, and what lies beyond all levels."""
    rng = np.random.default_rng(0)
    odd = np.float32([0, -0.0, 1e-45, -1e-45, 3e38, -3e38, np.inf, -np.inf])
    rows = [
        np.concatenate(
            [step * TIES, rng.normal(0, 4, 2000).astype(np.float32), np.nextafter(TIES, 9), odd]
        )
        for step in np.float32(CHANNELS)
    ]
    return np.stack(rows)[None].astype(np.float32)


def as_standard(given):
    return export_network(standard_ops(import_model(given)).graph)


@pytest.mark.parametrize("name", NEURONS)
def test_the_bits_of_kernel_and_body(name):
    op, step, attributes, ops = NEURONS[name]
    given = network(op, step, attributes)
    written = as_standard(given)
    check(written.proto)
    assert " ".join(sorted(n.op_type for n in written.proto.graph.node)) == " ".join(
        sorted(ops.split())
    )
    feed = {"x": potentials()}
    (found,) = run_model(written.attached(), feed)
    model = function_bodies(given).attached()
    for library in (True, False):
        (expected,) = run_model(model, feed, library=library)
        assert found.tobytes() == expected.tobytes()
    (optimised,) = run_model(written.attached(), feed, optimise=True)
    if "rounded" in name:  # a sum with 0 is left out, and a silent neuron may give -0
        optimised = optimised + np.float32(0)
    assert optimised.tobytes() == found.tobytes()


@pytest.mark.parametrize("name", [name for name in NEURONS if "staircase" not in name])
def test_nan_stays_nan(name):
    given = network(*NEURONS[name][:3])
    (found,) = run_model(as_standard(given).attached(), {"x": np.full([1, C, 1], np.nan, "f")})
    assert np.isnan(found).all()


@pytest.mark.parametrize("name", NEURONS)
def test_it_is_read_back(name):
    op, step, attributes, _ = NEURONS[name]
    written = as_standard(network(op, step, attributes))
    assert holds_chains(written)
    spiking = spiking_form(written)
    (neuron,) = neurons_of(spiking.proto)
    assert len(spiking.proto.graph.node) == 1
    assert (neuron.op_type, neuron.name) == (op, "neuron")
    assert {p.key: p.value for p in neuron.metadata_props} == {"snn_compile.source_node": "relu"}
    found = {a.name: helper.get_attribute_value(a) for a in neuron.attribute}
    if name == "staircase":  # the scale is in the table and the density
        found["density"] = np.float32(found["density"]) * np.float32(step)
    assert {key: found[key] for key in attributes} == pytest.approx(attributes)
    feed = {"x": potentials()}
    (expected,) = run_model(written.attached(), feed)
    (got,) = run_model(spiking.attached(), feed, library=True)
    assert got.tobytes() == expected.tobytes()


CHANGES = {
    "another threshold": ("uniform", lambda t: t.endswith("theta"), 0.4),
    "no number of levels": ("uniform", lambda t: t.endswith("levels"), 2.5),
    "v0 of 1": ("uniform", lambda t: t.endswith("v0"), 1.0),
    "a bound below 0": ("uniform", lambda t: t.endswith("zero"), -1.0),
    "a reciprocal that is none": ("octave", lambda t: t.endswith("per_scale"), 2.0),
    "no levels": ("octave", lambda t: t.endswith("highest"), 23.0),
    "half a level": ("dual rounded", lambda t: t.endswith("highest"), 7.5),
    "another level of silence": ("dual rounded", lambda t: t.endswith("zero"), 1.0),
    "another scale": ("rounded", lambda t: t.endswith("per_scale"), 2.0),
    "a longer table": ("staircase", lambda t: t.endswith("last"), 9.0),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_chain_that_means_something_else_stays(what):
    name, changed, value = CHANGES[what]
    written = as_standard(network(*NEURONS[name][:3]))
    if what == "another threshold":  # of the last product alone
        last = written.proto.graph.node[-1]
        constant = numpy_helper.from_array(np.float32(value), "other")
        written.proto.graph.initializer.append(constant)
        last.input[1] = "other"
    else:
        (tensor,) = [t for t in written.proto.graph.initializer if changed(t.name)]
        like = np.full_like(numpy_helper.to_array(tensor), value)
        tensor.CopyFrom(numpy_helper.from_array(like, tensor.name))
    spiking = spiking_form(written)
    assert not neurons_of(spiking.proto)
    assert len(spiking.proto.graph.node) == len(written.proto.graph.node)


def test_what_else_reads_a_chain_keeps_it():
    written = as_standard(network(*NEURONS["uniform"][:3]))
    inner = next(n for n in written.proto.graph.node if n.op_type == "Clip").output[0]
    value = helper.make_tensor_value_info(inner, TensorProto.FLOAT, ["N", C, "L"])
    written.proto.graph.output.append(value)
    assert not neurons_of(spiking_form(written).proto)


@pytest.mark.parametrize("bias", [0.0, 0.5, -0.0, None])
def test_nothing_is_added_to_what_is_never_minus_zero(bias):
    """A v0 of 0 makes +0 of -0, which no sum with another constant is."""
    op, step, attributes, _ = NEURONS["uniform, of threshold 1"]
    given = network(op, step, attributes | {"v0": 0.0}, x="u")
    constants = {"w": np.ones([C, C, 1], np.float32)}
    if bias is not None:
        constants["b"] = np.full(C, bias, np.float32)
    held = [numpy_helper.from_array(values, name) for name, values in constants.items()]
    given.proto.graph.initializer.extend(held)
    conv = helper.make_node("Conv", ["x", *constants], ["u"], name="conv")
    given.proto.graph.node.insert(0, conv)
    written = as_standard(given)
    adds = bias is None or bool(np.signbit(bias))
    expected = ["Conv", *["Add"] * adds, "Clip", "Floor"]
    assert [node.op_type for node in written.proto.graph.node] == expected
    spiking = spiking_form(written)
    (neuron,) = neurons_of(spiking.proto)
    assert [node.op_type for node in spiking.proto.graph.node] == ["Conv", op]
    assert next(a.f for a in neuron.attribute if a.name == "v0") == 0
    feed = {"x": np.float32([[[-0.0, 0.0, -1.0, 0.4]] * C])}
    (found,) = run_model(written.attached(), feed)
    for library in (True, False):
        (wanted,) = run_model(function_bodies(given).attached(), feed, library=library)
        assert found.tobytes() == wanted.tobytes()


def test_neurons_over_time_and_other_networks_stay():
    given = network("IntegrateFire", 0.5, {"timesteps": 1})
    written = as_standard(given)
    assert [n.op_type for n in nodes_below(written.proto.graph)] == ["IntegrateFire"]
    assert spiking_form(written) is written


def test_branches_are_written_too():
    given = network(*NEURONS["uniform"][:3])
    graph = given.proto.graph
    (node,) = graph.node
    node.output[0] = "p"
    output = helper.make_tensor_value_info("p", TensorProto.FLOAT, ["N", C, "L"])
    then = helper.make_graph([node], "then", [], [output])
    other = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["q"], name="neg")],
        "else",
        [],
        [helper.make_tensor_value_info("q", TensorProto.FLOAT, ["N", C, "L"])],
    )
    branch = helper.make_node("If", ["c"], ["y"], name="if", then_branch=then, else_branch=other)
    del graph.node[:]
    graph.node.append(branch)
    graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, [1]))
    written = as_standard(given)
    onnx.checker.check_model(written.attached())
    assert not neurons_of(written.proto)
    feed = {"x": potentials(), "c": np.array([True])}
    (found,) = run_model(written.attached(), feed)
    (expected,) = run_model(given.attached(), feed, library=True)
    assert found.tobytes() == expected.tobytes()
    assert len(neurons_of(spiking_form(written).proto)) == 1
