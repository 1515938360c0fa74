"""Networks that are valid and unusual: they compile, or keep what cannot be converted."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import model_from_text
from onnx import TensorProto, helper
from snn_compile.compiler.model_io.save import save_network
from snn_compile.compiler.pipeline import compile_model
from snn_compile.compiler.running.fidelity import FidelityMeter
from snn_compile.passes.fold_batchnorm.fold_batchnorm import fold_batchnorm
from snn_compile.passes.graph.surgeon import import_model

_ROWS = helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", 3])


@pytest.mark.parametrize(
    ("nodes", "result"),
    [
        ([("ArgMax", ["y"], ["q"])], helper.make_tensor_type_proto(TensorProto.INT64, [1, 3])),
        (
            [("Cast", ["y"], ["q"], TensorProto.STRING)],
            helper.make_tensor_type_proto(TensorProto.STRING, ["N", 3]),
        ),
        ([("SequenceConstruct", ["y"], ["q"])], helper.make_sequence_type_proto(_ROWS)),
        ([("Optional", ["y"], ["q"])], helper.make_optional_type_proto(_ROWS)),
        ([("Optional", ["y"], ["o"]), ("OptionalGetElement", ["o"], ["q"])], _ROWS),
    ],
    ids=["classes", "text", "sequence", "optional", "optional inside"],
)
def test_outputs_that_are_no_scores(tmp_path, nodes, result):
    made = [helper.make_node("Relu", ["x"], ["y"])]
    for op, inputs, outputs, *to in nodes:
        made.append(helper.make_node(op, inputs, outputs, **({"to": to[0]} if to else {})))
    graph = helper.make_graph(
        made,
        "g",
        [helper.make_value_info("x", _ROWS)],
        [helper.make_value_info("q", result)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    compiled = compile_model(model)
    save_network(compiled.network, tmp_path / "s.onnx")
    onnx.checker.check_model(tmp_path / "s.onnx", full_check=True)
    assert compiled.model.graph.output[0] == model.graph.output[0]
    floats = result.tensor_type.elem_type == TensorProto.FLOAT
    assert [o.name for o in compiled.report.verification.outputs] == (["q"] if floats else [])


def test_a_body_need_not_declare_types():
    model = model_from_text("""
        g (float[2,3] x) => (float[2,3] y) <float[3,3] w> {
            r = Relu (x)
            count = Constant <value = int64 {2}> ()
            go = Constant <value = bool {1}> ()
            y = Loop (count, go, r) <body = b (int64 i, bool c, float[2,3] s)
                => (bool c2, float[2,3] s2) { c2 = Identity (c) m = MatMul (s, w) s2 = Relu (m) }>
        }""")
    body = model.graph.node[-1].attribute[0].g
    body.input[2].ClearField("type")
    compiled = compile_model(model)
    assert compiled.report.verification.claims


@pytest.mark.parametrize(
    ("linear", "weights"),
    [
        ("Conv (x, w, b)", "float[4,3,1,1] w, float[2] b"),
        ("Conv <group = 3> (x, w)", "float[4,1,1,1] w"),
        ("ConvTranspose <group = 2> (x, w)", "float[3,2,1,1] w"),
    ],
)
def test_weights_that_contradict_the_operator_are_left_alone(linear, weights):
    """onnx checks them neither with shapes nor without; the runtime says what is wrong."""
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,C,H,W] x) => (float[N,D,E,F] y)
        <{weights}, float[4] g1, float[4] b1, float[4] m1, float[4] v1> {{
            a = {linear} y = BatchNormalization (a, g1, b1, m1, v1) }}""")
    for value in list(model.graph.value_info):
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        values = np.ones(shape, np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, value.name))
    del model.graph.value_info[:]
    changes = fold_batchnorm(import_model(model)).changes
    assert len(changes) == 1
    assert "fit" in changes[0]


def meter(reference, other):
    found = FidelityMeter("y")
    found.add(np.array(reference, np.float32), np.array(other, np.float32))
    return found.result()


def test_fidelity_of_values_that_are_not_finite():
    same = meter([[1, np.inf, np.nan]], [[1, np.inf, np.nan]])
    assert (same.max_abs, same.relative_l2) == (0, 0)
    for other in ([[1, np.nan]], [[1, -np.inf]], [[1, 5]]):
        assert meter([[1, np.inf]], other).max_abs == np.inf
    assert meter([[1, 2]], [[1, np.nan]]).max_abs == np.inf


def test_fidelity_of_outputs_whose_length_depends_on_the_data():
    found = meter([[1, 2], [3, 4]], [[1, 2]])
    assert (found.max_abs, found.relative_l2, found.agreement) == (np.inf, np.inf, None)
