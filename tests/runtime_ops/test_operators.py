"""Neurons are found wherever they are in a model, and bodies in the form that a model needs."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper, numpy_helper
from snn_compile.runtime_ops.definition import DOMAIN
from snn_compile.runtime_ops.integrate_fire import INTEGRATE_FIRE
from snn_compile.runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE
from snn_compile.runtime_ops.operators import OPERATORS, neurons_of
from snn_compile.runtime_ops.scale_fire import DUAL_SCALE_FIRE, SCALE_FIRE
from snn_compile.runtime_ops.staircase_fire import STAIRCASE_FIRE


@pytest.mark.parametrize("several", [False, True])
def test_neurons_of_bodies_are_found(several):
    neuron = helper.make_node("ScaleFire", ["x", "s"], ["y"], name="inside", domain=DOMAIN)
    body = GraphProto(name="body", node=[neuron])
    node = helper.make_node("Holds", [], ["z"], body=[body] if several else body)
    model = ModelProto(graph=GraphProto(node=[node, helper.make_node("Neg", ["z"], ["out"])]))
    assert [found.name for found in neurons_of(model)] == ["inside"]


def model_of(operator, *neurons):
    """A model with nodes of one operator, each (its second input's value, its attributes)."""
    graph = GraphProto(name="g")
    for i, (value, attributes) in enumerate(neurons):
        if value is not None:
            graph.initializer.append(numpy_helper.from_array(np.float32(value), f"c{i}"))
        inputs = [f"x{i}", f"c{i}"]
        graph.node.append(
            helper.make_node(operator.name, inputs, [f"y{i}"], domain=DOMAIN, **attributes)
        )
    return ModelProto(graph=graph)


@pytest.mark.parametrize(
    ("neurons", "aligned"),
    [
        ([], True),
        ([(1.0, {})], True),
        ([([1.0], {}), ([[1.0]], {"axis": 5})], True),
        ([(np.ones((3, 1, 1)), {}), (1.0, {})], True),
        ([(np.ones(3), {"axis": -1})], True),
        ([(np.ones(3), {})], False),
        ([(np.ones(0), {})], False),
        ([(1.0, {}), (np.ones(3), {"axis": 0})], False),
        ([(None, {"axis": -1})], True),
        ([(None, {})], False),
    ],
    ids=str,
)
def test_form_is_aligned_where_every_factor_lies_as_it_should(neurons, aligned):
    for operator in OPERATORS:
        assert operator.form_in(model_of(operator, *neurons))["aligned"] is aligned


def test_form_sees_constants_wherever_they_are():
    """As Constant nodes and around control-flow bodies; not where the caller may give another."""
    inside = helper.make_node("ScaleFire", ["x", "s"], ["y"], domain=DOMAIN)
    body = GraphProto(name="body", node=[inside])
    model = ModelProto(graph=GraphProto(name="g"))
    outer = model.graph
    outer.node.append(helper.make_node("Holds", [], ["z"], body=body))
    assert not SCALE_FIRE.form_in(model)["aligned"]
    for attributes in ({"value_float": 1.0}, {"value": numpy_helper.from_array(np.ones((2, 1)))}):
        del outer.node[1:]
        outer.node.append(helper.make_node("Constant", [], ["s"], **attributes))
        assert SCALE_FIRE.form_in(model)["aligned"]
    del outer.node[1:]
    outer.initializer.append(numpy_helper.from_array(np.float32(1), "s"))
    assert SCALE_FIRE.form_in(model)["aligned"]
    outer.input.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, []))
    assert not SCALE_FIRE.form_in(model)["aligned"]


@pytest.mark.parametrize(
    ("operator", "negative"),
    [
        (MULTI_THRESHOLD_FIRE, "levels_neg"),
        (INTEGRATE_FIRE, "levels_neg"),
        (SCALE_FIRE, "top_neg"),
    ],
    ids=str,
)
def test_form_is_signed_where_a_neuron_fires_below_0(operator, negative):
    for values, signed in [((0, 0), False), ((0, 3), True), ((3,), True)]:
        neurons = [(1.0, {negative: value}) for value in values]
        assert operator.form_in(model_of(operator, *neurons))["signed"] is signed
    assert not operator.form_in(model_of(operator, (1.0, {})))["signed"]


def operators_in(function):
    return [node.op_type for node in function.node if node.op_type != "Constant"]


def test_bodies_are_plain():
    """Elementwise arithmetic, and what makes scalars of attributes; literals are tensors."""
    plain = {"Div", "Neg", "Mul", "Sub", "Add", "Clip", "Max", "Abs", "Sign", "Floor", "Cast"}
    looks_up = {"Size", "IsNaN", "Where", "Gather"}
    for operator in OPERATORS:
        for element_type in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16):
            for signed in (False, True):
                body = operator.function_body(17, element_type, aligned=True, signed=signed)
                allowed = plain | looks_up if operator is STAIRCASE_FIRE else plain
                if operator is not INTEGRATE_FIRE:
                    assert set(operators_in(body)) <= allowed
                for node in body.node:
                    for attribute in node.attribute if node.op_type == "Constant" else ():
                        is_literal = attribute.type == AttributeProto.TENSOR
                        assert is_literal or attribute.ref_attr_name


def test_bodies_for_one_side_are_short():
    """What is computed for each element, in order."""

    def elementwise(operator, signed):
        body = operator.function_body(17, aligned=True, signed=signed)
        seen, found = {"X"}, []
        for node in body.node:
            if seen & set(node.input):
                seen |= set(node.output)
                found.append(node.op_type)
        return " ".join(found)

    assert elementwise(MULTI_THRESHOLD_FIRE, False) == "Div Add Floor Clip Mul"
    signed = "Div Add Floor Clip Sub Floor Clip Sub Mul"
    assert elementwise(MULTI_THRESHOLD_FIRE, True) == signed
    assert elementwise(SCALE_FIRE, False) == "Mul Clip Mul Max Sub Sub Mul"
    signed = "Mul Clip Abs Mul Max Sign Mul Sub Sub Mul"
    assert elementwise(SCALE_FIRE, True) == elementwise(DUAL_SCALE_FIRE, False) == signed
    staircase = "Mul Sub Clip IsNaN Where Cast Gather Mul Sub Add"
    assert elementwise(STAIRCASE_FIRE, False) == staircase
