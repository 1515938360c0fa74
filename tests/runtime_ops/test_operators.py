"""Neurons are found wherever they are in a model."""

from __future__ import annotations

import pytest
from onnx import GraphProto, ModelProto, helper
from snn_compile.runtime_ops.definition import DOMAIN
from snn_compile.runtime_ops.operators import neurons_of


@pytest.mark.parametrize("several", [False, True])
def test_neurons_of_bodies_are_found(several):
    neuron = helper.make_node("ScaleFire", ["x", "s"], ["y"], name="inside", domain=DOMAIN)
    body = GraphProto(name="body", node=[neuron])
    node = helper.make_node("Holds", [], ["z"], body=[body] if several else body)
    model = ModelProto(graph=GraphProto(node=[node, helper.make_node("Neg", ["z"], ["out"])]))
    assert [found.name for found in neurons_of(model)] == ["inside"]
