"""Import and export of the graph: nothing of the user's model is lost on the way."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import export_model, model_from_text
from onnx import helper
from snn_compile.passes.graph.surgeon import import_model

TEXT = """
    g (float[N,3] x, bool c) => (float[N,3] y) <float[3,3] w> {
        a = MatMul (x, w)
        b = If (c) <
            then_branch = t () => (float[N,3] p) { p = Relu (a) },
            else_branch = e () => (float[N,3] q) { q = Tanh (a) }
        >
        y = local.Twice (b)
    }"""


def decorated():
    """A model that uses every field that the graph library is known to drop."""
    text = TEXT.replace("y = local.Twice (b)", "y = Neg (b)")
    model = model_from_text(text)
    twice = onnx.parser.parse_function(
        '<opset_import: ["" : 17], domain: "local"> Twice (X) => (Y) { Y = Add (X, X) }'
    )
    model.functions.append(twice)
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.graph.node[2].op_type, model.graph.node[2].domain = "Twice", "local"
    model.doc_string, model.domain, model.model_version = "model doc", "org.example", 3
    model.producer_name, model.producer_version = "someone", "1.2"
    model.metadata_props.add(key="license", value="free")
    graph = model.graph
    graph.doc_string = "graph doc"
    graph.metadata_props.add(key="graph key", value="graph value")
    graph.input[0].doc_string = "input doc"
    graph.input[0].type.denotation = "TENSOR"
    graph.input[0].metadata_props.add(key="input key", value="input value")
    graph.output[0].doc_string = "output doc"
    graph.initializer[0].doc_string = "weight doc"
    graph.initializer[0].metadata_props.add(key="weight key", value="weight value")
    for node in graph.node:
        node.doc_string = f"doc of {node.op_type}"
        node.name = f"node {node.op_type}"
        node.metadata_props.add(key="source", value=f"line of {node.op_type}")
    inner = graph.node[1].attribute[0].g
    inner.node[0].doc_string = "inner doc"
    inner.node[0].metadata_props.add(key="inner", value="kept")
    inner.metadata_props.add(key="subgraph", value="kept")
    graph.quantization_annotation.add(tensor_name="a").quant_parameter_tensor_names.add(
        key="SCALE_TENSOR", value="w"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def test_round_trip_is_the_identity():
    model = decorated()
    before = model.SerializeToString(deterministic=True)
    after = export_model(import_model(model))
    assert model.SerializeToString(deterministic=True) == before  # the source is untouched
    for field in ("doc_string", "domain", "model_version", "producer_name", "producer_version"):
        assert getattr(after, field) == getattr(model, field)
    assert after == model


def test_rare_attribute_types_survive():
    model = model_from_text("g (float[N] x) => (float[N] y) { y = Relu (x) }")
    tensors = [helper.make_tensor("t", 1, [1], [2.0])]
    model.graph.node[0].attribute.append(helper.make_attribute("rare", tensors))
    after = export_model(import_model(model))
    assert after.graph.node[0].attribute[0].tensors[0].float_data == [2.0]


@pytest.mark.parametrize("text", ["int8", "bfloat16", "float16"])
def test_foreign_element_types_survive(text):
    model = model_from_text(f"g ({text}[N] x) => ({text}[N] y) {{ y = Identity (x) }}")
    values = np.array([1, 2], np.float32)
    element = onnx.TensorProto.DataType.Value(text.upper())
    model.graph.initializer.append(helper.make_tensor("w", element, [2], values))
    model.graph.node[0].input[0] = "w"
    after = export_model(import_model(model))
    assert after.graph.initializer[0].data_type == element
    assert after.graph.output[0].type.tensor_type.elem_type == element
