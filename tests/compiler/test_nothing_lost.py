"""What a model says besides its arithmetic is still there after compiling.

What changes, and must: the IR version and the opset where the neurons need newer ones, ``ai.snn``
in the opset imports, nodes (neurons for activations, encoders), metadata of our own under
``snn_compile.``, and what belonged to tensors and nodes that are gone.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from helpers import model_from_text
from onnx import TensorProto
from snn_compile.compiler import compile_model
from snn_compile.compiler.cli import main
from snn_compile.passes.graph.graph import METADATA_PREFIX
from snn_compile.passes.graph.protos import nodes_below

NET = """
    g (float[N,4] x, float[M,4] z) => (float[N,3] y, int64[N] best, float[M,3] u)
        <float[4,6] w, float[6,3] v> {
        [first] a = MatMul (x, w) [act] r = Relu (a) [last] y = MatMul (r, v)
        [arg] best = ArgMax <axis = 1, keepdims = 0> (y)
        [one] b = MatMul (z, w) [two] t = Tanh (b) [three] u = MatMul (t, v)
    }"""


def metadata(proto):
    """The user's own metadata."""
    return {p.key: p.value for p in proto.metadata_props if not p.key.startswith(METADATA_PREFIX)}


def node_named(model, name):
    return next(node for node in nodes_below(model.graph) if node.name == name)


def compiled(model):
    result = compile_model(model).model
    onnx.checker.check_model(result, full_check=True)
    return result


def test_inputs_and_outputs_keep_names_order_types_and_dynamic_axes():
    model = model_from_text(NET)
    dims = model.graph.input[1].type.tensor_type.shape.dim
    dims[0].ClearField("dim_param")  # dynamic without a name
    dims[0].denotation = "DATA_BATCH"
    model.graph.output[2].type.tensor_type.shape.dim[0].ClearField("dim_param")
    model.graph.input[0].type.denotation = "TENSOR"
    model.graph.input[0].doc_string = "what goes in"
    model.graph.output[1].doc_string = "what comes out"
    for value in (model.graph.input[0], model.graph.output[1]):
        value.metadata_props.add(key="unit", value="mV")
    result = compiled(model)
    assert list(result.graph.input) == list(model.graph.input)
    assert list(result.graph.output) == list(model.graph.output)


def test_a_dynamic_axis_that_is_written_as_minus_one_stays():
    model = model_from_text(NET)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = -1
    result = compile_model(model).model
    assert list(result.graph.input) == list(model.graph.input)
    assert list(result.graph.output) == list(model.graph.output)


@pytest.mark.parametrize("opset", [11, 17, 21])
def test_model_and_graph_keep_what_they_say_of_themselves(opset):
    model = model_from_text(NET, opset=opset)
    model.producer_name, model.producer_version = "trainer", "2.1"
    model.domain, model.model_version, model.doc_string = "org.example", 7, "a model"
    model.graph.doc_string = "a graph"
    model.metadata_props.add(key="author", value="me")
    model.graph.metadata_props.add(key="graph", value="mine")
    result = compiled(model)
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        assert getattr(result, name) == getattr(model, name), name
    assert (result.graph.name, result.graph.doc_string) == (model.graph.name, "a graph")
    assert metadata(result) == {"author": "me"}
    assert metadata(result.graph) == {"graph": "mine"}
    versions = {opset_id.domain: opset_id.version for opset_id in result.opset_import}
    assert versions == {"": max(opset, 15), "ai.snn": 1}


@pytest.mark.parametrize("opset", [11, 17])
def test_nodes_keep_name_doc_string_and_metadata(opset):
    model = model_from_text(NET, opset=opset)
    for node in model.graph.node:
        node.doc_string = f"doc of {node.name}"
        node.metadata_props.add(key="namespace", value=f"net/{node.name}")
    result = compiled(model)
    for name in ("first", "last", "arg", "one", "three"):
        node, source = node_named(result, name), node_named(model, name)
        assert (node.op_type, node.doc_string) == (source.op_type, source.doc_string)
        assert metadata(node) == metadata(source)
    neurons = [node for node in result.graph.node if node.domain == "ai.snn"]
    assert [metadata(node) for node in neurons] == [
        {"namespace": "net/act"},
        {"namespace": "net/two"},
    ]
    assert [node.doc_string for node in neurons] == ["doc of act", "doc of two"]


def test_tensors_keep_metadata_doc_strings_and_quantization_annotations():
    model = model_from_text(NET)
    value = onnx.helper.make_tensor_value_info("a", TensorProto.FLOAT, ["N", 6], "an intermediate")
    value.metadata_props.add(key="unit", value="mV")
    model.graph.value_info.append(value)
    gone = onnx.helper.make_tensor_value_info("nowhere", TensorProto.FLOAT, [1])
    model.graph.value_info.append(gone)
    weight = model.graph.initializer[0]
    weight.doc_string = "the first layer"
    weight.metadata_props.add(key="layer", value="1")
    for name in ("a", "w"):
        annotation = model.graph.quantization_annotation.add(tensor_name=name)
        annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="v")
    result = compiled(model)
    assert next(v for v in result.graph.value_info if v.name == "a") == value
    kept = next(tensor for tensor in result.graph.initializer if tensor.name == "w")
    assert metadata(kept) == {"layer": "1"}
    assert kept.doc_string == "the first layer"
    assert list(result.graph.quantization_annotation) == list(model.graph.quantization_annotation)


def test_large_weights_keep_their_metadata_and_doc_string():
    model = model_from_text(
        "g (float[N,64] x) => (float[N,64] y) <float[64,64] w> { a = MatMul (x, w) y = Relu (a) }"
    )
    model.graph.initializer[0].doc_string = "the first layer"
    model.graph.initializer[0].metadata_props.add(key="layer", value="1")
    [weight] = [t for t in compiled(model).graph.initializer if t.name == "w"]
    assert (weight.doc_string, metadata(weight)) == ("the first layer", {"layer": "1"})


def test_bodies_keep_names_doc_strings_and_metadata():
    model = model_from_text("""
        g (float[1,4] x, bool c) => (float[1,4] y) <float[4,4] w> {
            [choice] y = If (c) <
                then_branch = yes () => (float[1,4] p) {
                    [mul] m = MatMul (x, w) [act] p = Relu (m) },
                else_branch = no () => (float[1,4] q) { [neg] q = Neg (x) }
            > }""")
    choice = model.graph.node[0]
    choice.doc_string = "a choice"
    bodies = {attribute.name: attribute.g for attribute in choice.attribute}
    for name, body in bodies.items():
        body.doc_string = f"doc of {name}"
        body.metadata_props.add(key="branch", value=name)
        for node in body.node:
            node.doc_string = f"doc of {node.name}"
            node.metadata_props.add(key="namespace", value=node.name)
    annotation = bodies["then_branch"].quantization_annotation.add(tensor_name="m")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w")
    result = compiled(model)
    assert node_named(result, "choice").doc_string == "a choice"
    after = {a.name: a.g for a in node_named(result, "choice").attribute}
    for name, body in bodies.items():
        assert (after[name].name, after[name].doc_string) == (body.name, body.doc_string)
        assert metadata(after[name]) == {"branch": name}
        assert list(after[name].output) == list(body.output)
    assert list(after["then_branch"].quantization_annotation) == [annotation]
    for name in ("mul", "neg"):
        assert node_named(result, name).doc_string == f"doc of {name}"
        assert metadata(node_named(result, name)) == {"namespace": name}


def test_functions_that_stay_and_the_domains_that_only_they_use_stay_as_they_are():
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 17, "f" : 1, "only.inside" : 1]>
        g (float[N,4] x) => (float[N,4] y) { a = f.outer (x) y = Relu (a) }
        <domain: "f", opset_import: ["" : 17, "only.inside" : 1]>
        outer (x) => (y) { b = only.inside.half (x) y = Neg (b) }
        <domain: "only.inside", opset_import: ["" : 17]>
        half (x) => (y) { c = Constant <value = float {0.5}> () y = Mul (x, c) }""")
    for function in model.functions:
        function.doc_string = f"doc of {function.name}"
        function.metadata_props.add(key="k", value=function.name)
        function.node[0].metadata_props.add(key="namespace", value="inside")
        function.value_info.append(
            onnx.helper.make_tensor_value_info(function.node[0].output[0], TensorProto.FLOAT, None)
        )
    onnx.checker.check_model(model, full_check=True)
    result = compiled(model)
    own = [function for function in result.functions if function.domain != "ai.snn"]
    assert own == list(model.functions)
    domains = {opset_id.domain: opset_id.version for opset_id in result.opset_import}
    assert domains == {"": 17, "f": 1, "only.inside": 1, "ai.snn": 1}


def test_weights_in_external_files_are_written_to_one_beside_the_output(tmp_path):
    (tmp_path / "out").mkdir()
    model = model_from_text(
        "g (float[N,64] x) => (float[N,64] y) <float[64,64] w> { a = MatMul (x, w) y = Relu (a) }"
    )
    values = onnx.numpy_helper.to_array(model.graph.initializer[0])
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.weights")
    before = (tmp_path / "m.weights").read_bytes()
    out = tmp_path / "out" / "snn.onnx"
    assert CliRunner().invoke(main, [str(tmp_path / "m.onnx"), "-o", str(out)]).exit_code == 0
    assert {path.name for path in out.parent.iterdir()} == {"snn.onnx", "snn.onnx.data"}
    stored = onnx.load_model(out, load_external_data=False).graph.initializer
    assert [t.name for t in stored if t.data_location == TensorProto.EXTERNAL] == ["w"]
    [weight] = [t for t in onnx.load_model(out).graph.initializer if t.name == "w"]
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(weight), values)
    assert (tmp_path / "m.weights").read_bytes() == before
