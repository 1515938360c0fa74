"""Neurons in QONNX: thresholds, Quant, what the definitions of both mean, and how they are read."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import run_model
from onnx import TensorProto, helper, numpy_helper
from snn_compile.passes.graph.network import detach
from snn_compile.passes.graph.surgeon import export_network, import_model, infer_shapes
from snn_compile.passes.lowering.function_bodies import function_bodies
from snn_compile.passes.lowering.multi_threshold import (
    QONNX_DOMAIN,
    find_thresholds,
    holds_multi_thresholds,
    integer_type,
    multi_threshold,
    qonnx_network,
)
from snn_compile.passes.lowering.spiking_form import spiking_form
from snn_compile.runtime_ops.definition import DOMAIN
from snn_compile.runtime_ops.operators import neurons_of, register_schemas

C = 3
FACTORS = np.float32([[[0.3], [1.0], [7.1]]])


def network(levels_pos, levels_neg, theta, before=(), behind=()):
    """x [N, C, L] -> operators -> neuron -> operators -> y."""
    register_schemas()
    constants = [
        numpy_helper.from_array(np.float32(theta), "theta"),
        numpy_helper.from_array(FACTORS, "factors"),
        numpy_helper.from_array(np.int64([0, 0, 1, 0, 0, 1]), "pads"),
        numpy_helper.from_array(np.int64([0, 1]), "places"),
    ]
    ops = [
        *before,
        ("MultiThresholdFire", ["theta"], {"levels_pos": levels_pos, "levels_neg": levels_neg}),
        *behind,
    ]
    nodes, last = [], "x"
    for number, (op, more, attributes) in enumerate(ops):
        domain = DOMAIN if op == "MultiThresholdFire" else ""
        output = "y" if number == len(ops) - 1 else f"t{number}"
        nodes.append(
            helper.make_node(op, [last, *more], [output], f"n{number}", domain=domain, **attributes)
        )
        last = output
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", C, length])
        for name, length in (("x", "L"), ("y", "M"))
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    return detach(helper.make_model(graph, ir_version=8, opset_imports=opsets))


def written(given, form="thresholds"):
    graph = infer_shapes(import_model(given))
    return qonnx_network(export_network(multi_threshold(graph, form).graph))


def potentials(theta):
    rng = np.random.default_rng(0)
    ties = np.float32(theta) * (np.arange(-80, 81) / 2).astype(np.float32)
    odd = np.float32([0, -0.0, 1e-45, -1e-45, 3e38, -3e38, np.inf, -np.inf])
    near = [np.nextafter(ties, np.float32(side)) for side in (-np.inf, np.inf)]
    row = np.concatenate([ties, *near, odd, rng.normal(0, 5 * theta, 3000).astype(np.float32)])
    with np.errstate(over="ignore"):
        return np.stack([row / factor for factor in FACTORS.reshape(-1)])[None].astype(np.float32)


def count_reached(x, thresholds, out_bias):
    """MultiThreshold as its authors define it."""
    reached = x[..., None] >= thresholds[:, None, :]
    return reached.sum(axis=-1).astype(np.float32) + np.float32(out_bias)


SCALED = [("Mul", ["factors"], {})]
RELU = [("Relu", [], {})]
CASES = {
    "one sign": (15, 0, 0.3, (), ()),
    "two signs": (15, 15, 1.7, (), ()),
    "divided as data asked": (4, 26, 0.11, (), ()),
    "below 0 alone": (0, 7, 0.3, (), ()),
    "channels scaled": (7, 3, 0.25, SCALED, ()),
    "channels scaled and Relu": (7, 0, 0.3, [*SCALED, *RELU], ()),
    "Relu, whose zeros stay": (7, 7, 0.3, RELU, ()),
    "moved": (15, 4, 0.3, (), [("Pad", ["pads"], {}), ("Gather", ["places"], {"axis": 2})]),
    "one level": (1, 0, 0.3, (), ()),
}


@pytest.mark.parametrize("name", CASES)
def test_thresholds_have_the_bits_of_the_neuron(name):
    given = network(*CASES[name])
    found = written(given)
    assert not neurons_of(found.proto)
    feed = {"x": potentials(CASES[name][2])}
    (expected,) = run_model(function_bodies(given).attached(), feed)
    (got,) = run_model(found.attached(), feed)
    assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", CASES)
def test_they_are_read_back_as_the_neuron(name):
    given = network(*CASES[name])
    found = written(given)
    assert holds_multi_thresholds(found)
    back = spiking_form(found)
    (neuron,) = neurons_of(back.proto)
    (own,) = neurons_of(given.proto)
    levels = [
        {a.name: a.i for a in node.attribute if a.name.startswith("levels")}
        for node in (neuron, own)
    ]
    assert neuron.name == own.name
    assert levels[0] == levels[1]
    assert {node.domain for node in back.proto.graph.node} <= {"", DOMAIN}
    feed = {"x": potentials(CASES[name][2])}
    (expected,) = run_model(found.attached(), feed)
    (got,) = run_model(function_bodies(back).attached(), feed)
    assert got.tobytes() == expected.tobytes()


def test_what_compares_is_what_the_neuron_reads_and_its_file_what_tools_expect():
    graph = written(network(*CASES["channels scaled and Relu"])).proto.graph
    assert [node.op_type for node in graph.node] == ["MultiThreshold", "Mul"]
    neuron, product = graph.node
    given = {a.name: helper.get_attribute_value(a) for a in neuron.attribute}
    assert neuron.domain == QONNX_DOMAIN
    assert given == {
        "out_bias": 0.0,
        "out_scale": 1.0,
        "out_dtype": b"UINT3",
        "data_layout": b"NCW",
    }
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert held[neuron.input[1]].shape == (C, 7)
    assert held[product.input[1]].shape == ()
    assert np.all(np.diff(held[neuron.input[1]], axis=1) > 0)


def test_the_definition_in_the_file_is_that_of_its_authors():
    found = written(network(*CASES["channels scaled"]))
    graph = found.proto.graph
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    neuron = next(node for node in graph.node if node.op_type == "MultiThreshold")
    bias = next(a.f for a in neuron.attribute if a.name == "out_bias")
    x = potentials(0.25)
    (got,) = run_model(found.attached(), {"x": x})
    expected = count_reached(x, held[neuron.input[1]], bias) * np.float32(0.25)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(("theta", "v0"), [(0.3, 0.5), (1e-30, 0.5), (3e30, 0.0), (1.0, 0.25)])
def test_each_threshold_is_the_first_number_of_its_level(theta, v0):
    factors = np.float32([1.0, 0.37])
    found = find_thresholds(theta, v0, 9, 4, factors)
    for row, factor in zip(found, factors, strict=True):
        for sign, x in ((0, np.nextafter(row, np.float32(-np.inf))), (1, row)):
            u = x * factor
            fired = np.floor(np.abs(u) / np.float32(theta) + np.float32(v0))
            k = np.where(u < 0, -np.minimum(fired, 4), np.minimum(fired, 9))
            np.testing.assert_array_equal(k + 4 >= np.arange(1, 14), bool(sign))


def test_a_level_beyond_all_numbers_is_that_of_infinity():
    (found,) = find_thresholds(3e38, 0.0, 3, 0, np.ones(1, np.float32))
    assert found.tolist() == [np.float32(3e38), np.inf, np.inf]


def test_a_level_that_no_number_reaches_is_refused():
    with pytest.raises(ValueError, match="at no float32"):
        find_thresholds(1.0, 0.5, 3, 0, np.zeros(1, np.float32))


@pytest.mark.parametrize(
    ("ends", "name"),
    [
        ((0, 1), "BINARY"),
        ((0, 3), "UINT2"),
        ((0, 15), "UINT4"),
        ((0, 255), "UINT8"),
        ((-1, 1), "INT2"),
        ((-15, 15), "INT5"),
        ((-16, 0), "INT5"),
        ((-17, 3), "INT6"),
        ((-128, 127), "INT8"),
        ((-128, 128), "INT9"),
    ],
)
def test_the_least_type_that_holds_all_levels(ends, name):
    assert integer_type(*ends) == name


@pytest.mark.parametrize("theta", [0.3, 0.25])
def test_a_neuron_of_one_sign_and_whole_bits_is_quant(theta):
    given = network(15, 0, theta)
    found = written(given, "quant")
    (node,) = found.proto.graph.node
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    assert (node.op_type, node.domain) == ("Quant", QONNX_DOMAIN)
    assert values == {"signed": 0, "narrow": 0, "rounding_mode": b"HALF_UP"}
    feed = {"x": potentials(theta)}
    (expected,) = run_model(function_bodies(given).attached(), feed)
    (got,) = run_model(found.attached(), feed)
    assert np.array_equal(got, expected)
    (neuron,) = neurons_of(spiking_form(found).proto)
    assert next(a.i for a in neuron.attribute if a.name == "levels_pos") == 15
    (read,) = run_model(function_bodies(spiking_form(found)).attached(), feed)
    assert read.tobytes() == expected.tobytes()


@pytest.mark.parametrize("levels", [(14, 0), (15, 15)])
def test_other_neurons_stay_thresholds_in_that_form(levels):
    found = written(network(*levels, 0.3), "quant")
    assert found.proto.graph.node[0].op_type == "MultiThreshold"


def test_thresholds_that_were_changed_are_no_neuron_any_more():
    found = written(network(*CASES["one sign"]))
    (table,) = [t for t in found.proto.graph.initializer if t.name.endswith("thresholds")]
    values = numpy_helper.to_array(table).copy()
    values[0, 3] *= 1.1
    table.CopyFrom(numpy_helper.from_array(values, table.name))
    assert not neurons_of(spiking_form(found).proto)


def test_the_file_is_valid():
    found = written(network(*CASES["moved"]))
    onnx.checker.check_model(found.attached(), full_check=True)
