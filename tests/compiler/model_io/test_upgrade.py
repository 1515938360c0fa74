"""upgrade: each operator whose form changed, run before and after, and every refusal."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import run_model
from onnx import TensorProto
from snn_compile.compiler import compile_model
from snn_compile.compiler.errors import ModelError
from snn_compile.compiler.model_io.upgrade import (
    _ADAPTERS,
    OLDEST_OPSET,
    overridable_inputs,
    upgrade,
)
from snn_compile.runtime_ops.definition import MIN_OPSET


def model_of(text, opset, ir_version=4, weights=None):
    """A model as text, of an old opset; weights by name."""
    model = onnx.parser.parse_model(
        f'<ir_version: {ir_version}, opset_import: ["" : {opset}]> {text}'
    )
    for name, values in (weights or {}).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values), name))
        for value in [value for value in model.graph.value_info if value.name == name]:
            model.graph.value_info.remove(value)
    return model


def upgraded(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    result = upgrade(copy)
    onnx.checker.check_model(result, full_check=True)
    assert next(o.version for o in result.opset_import if o.domain == "") >= MIN_OPSET
    return result


def ops(model):
    return [node.op_type for node in model.graph.node if node.op_type != "Constant"]


X = np.random.default_rng(0).standard_normal((2, 3, 4, 6)).astype(np.float32)
S = "float[2,3,4,6]"

# Old form, opset, result's type.
CASES = {
    "Clip": (f"g ({S} x) => ({S} y) {{ y = Clip <min = -0.5, max = 0.25> (x) }}", 7),
    "Clip without a bound": (f"g ({S} x) => ({S} y) {{ y = Clip <max = 0.25> (x) }}", 10),
    "Dropout": (f"g ({S} x) => ({S} y) {{ a = Dropout <ratio = 0.3> (x) y = Neg (a) }}", 7),
    "Dropout with an unused mask": (
        f"g ({S} x) => ({S} y) {{ a, m = Dropout <ratio = 0.3> (x) y = Neg (a) }}",
        10,
    ),
    "Pad": (
        f"g ({S} x) => (float[A,B,C,D] y) {{ y = Pad <pads=[0,0,1,2,0,0,3,0], value=1.5> (x) }}",
        7,
    ),
    "Pad that reflects": (
        f"g ({S} x) => (float[A,B,C,D] y) "
        f'{{ y = Pad <mode="reflect", pads=[0,0,1,2,0,0,3,0]> (x) }}',
        10,
    ),
    "ReduceSum": (
        f"g ({S} x) => (float[A,B,C] y) {{ y = ReduceSum <axes=[1], keepdims=0> (x) }}",
        11,
    ),
    "ReduceSum of all": (f"g ({S} x) => (float[A,B,C,D] y) {{ y = ReduceSum (x) }}", 11),
    "Slice": (
        f"g ({S} x) => (float[A,B,C,D] y) "
        f"{{ y = Slice <starts=[1,-3], ends=[3,100], axes=[2,3]> (x) }}",
        9,
    ),
    "Slice without axes": (
        f"g ({S} x) => (float[A,B,C,D] y) {{ y = Slice <starts=[0,1], ends=[1,3]> (x) }}",
        7,
    ),
    "Split": (
        f"g ({S} x) => (float[A,B,C,D] y) {{ a, b = Split <axis=3, split=[2,4]> (x) y = Neg (b) }}",
        11,
    ),
    "Split in equal parts": (
        f"g ({S} x) => (float[A,B,C,D] y) {{ a, b = Split <axis=2> (x) y = Neg (b) }}",
        11,
    ),
    "Squeeze and Unsqueeze": (
        f"g ({S} x) => ({S} y) {{ a = Unsqueeze <axes=[0,3]> (x) y = Squeeze <axes=[0,3]> (a) }}",
        12,
    ),
    "Softmax over the last axis": (f"g ({S} x) => ({S} y) {{ y = Softmax <axis = 3> (x) }}", 11),
    "Softmax over several axes": (f"g ({S} x) => ({S} y) {{ y = Softmax (x) }}", 9),
    "LogSoftmax over several axes": (f"g ({S} x) => ({S} y) {{ y = LogSoftmax <axis=2> (x) }}", 12),
    "Hardmax over several axes": (f"g ({S} x) => ({S} y) {{ y = Hardmax <axis=2> (x) }}", 12),
    "TopK": (f"g ({S} x) => (float[A,B,C,D] y) {{ y, i = TopK <axis = 3, k = 2> (x) }}", 9),
    "Upsample": (
        f"g ({S} x) => (float[A,B,C,D] y) {{ y = Upsample <scales=[1.0,1.0,4.0,3.0]> (x) }}",
        7,
    ),
    "Upsample, linear": (
        f"g ({S} x) => (float[A,B,C,D] y) "
        f'{{ y = Upsample <mode="linear", scales=[1.0,1.0,2.0,2.0]> (x) }}',
        7,
    ),
    "Upsample with an input": (
        f"g ({S} x) => (float[A,B,C,D] y) <float[4] s = {{1,1,3,4}}> {{ y = Upsample (x, s) }}",
        9,
    ),
    "Resize that enlarges": (
        f"g ({S} x) => (float[A,B,C,D] y) <float[4] s = {{1,1,4,2}}> {{ y = Resize (x, s) }}",
        10,
    ),
    "Resize that shrinks": (
        f"g ({S} x) => (float[A,B,C,D] y) <float[4] s = {{1,1,0.5,0.6}}> {{ y = Resize (x, s) }}",
        10,
    ),
    "Resize, linear": (
        f"g ({S} x) => (float[A,B,C,D] y) <float[4] s = {{1,1,0.5,3}}>"
        f'{{ y = Resize <mode="linear"> (x, s) }}',
        10,
    ),
    "unchanged operators": (
        f"g ({S} x) => (float[A,B,C,D] y) {{ a = Relu (x) b = MaxPool <kernel_shape=[2,2]> (a)"
        f" c = Add (b, b) d = Concat <axis=1> (b, c) y = LeakyRelu (d) }}",
        7,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_new_form_computes_the_same(name):
    text, opset = CASES[name]
    model = model_of(text, opset)
    after = upgraded(model)
    for old, new in zip(run_model(model, {"x": X}), run_model(after, {"x": X}), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-6, atol=1e-7)


def test_bounds_have_the_type_of_what_they_bound():
    model = model_of(
        f"g ({S} x) => (double[2,3,4,6] y) {{ d = Cast <to = 11> (x) y = Clip <min = -0.5> (d) }}",
        9,
    )
    result = run_model(upgraded(model), {"x": X})[0]
    np.testing.assert_array_equal(result, np.maximum(X, -0.5).astype(np.float64))


def test_scatter_is_renamed():
    model = model_of(
        "g (float[3,3] x) => (float[3,3] y) <int64[1,3] i = {0,2,1}, float[1,3] u = {5,6,7}>"
        "{ y = Scatter <axis = 0> (x, i, u) }",
        9,
    )
    after = upgraded(model)
    assert ops(after) == ["ScatterElements"]
    feed = {"x": X[0, :, :3, 0]}
    np.testing.assert_array_equal(run_model(after, feed)[0], run_model(model, feed)[0])


def test_batch_normalization_per_element_becomes_arithmetic():
    rng = np.random.default_rng(1)
    values = {name: rng.random((3, 4)).astype(np.float32) + 0.5 for name in ("s", "b", "m", "v")}
    model = model_of(
        "g (float[2,3,4] x) => (float[2,3,4] y)"
        "<float[3,4] s, float[3,4] b, float[3,4] m, float[3,4] v>"
        "{ y = BatchNormalization <spatial = 0, epsilon = 0.125> (x, s, b, m, v) }",
        7,
        weights=values,
    )
    after = upgraded(model)
    assert "BatchNormalization" not in ops(after)
    x = X[:, :, :, 0]
    expected = (x - values["m"]) / np.sqrt(values["v"] + 0.125) * values["s"] + values["b"]
    np.testing.assert_allclose(run_model(after, {"x": x})[0], expected, rtol=1e-5, atol=1e-6)


def test_batch_normalization_loses_outputs_that_nobody_reads():
    ones = np.ones(3, np.float32)
    model = model_of(
        f"g ({S} x) => ({S} y) <float[3] s, float[3] b, float[3] m, float[3] v>"
        "{ y, a, c = BatchNormalization <spatial = 1> (x, s, b, m, v) }",
        7,
        weights=dict.fromkeys("sbmv", ones),
    )
    after = upgraded(model)
    assert list(after.graph.node[-1].output) == ["y"]
    assert [a.name for a in after.graph.node[-1].attribute] == []


def test_bodies_of_if_are_rewritten_too():
    model = model_of(
        f"""g ({S} x, bool c) => ({S} y) {{
            y = If (c) <
                then_branch = t () => ({S} p) {{ p = Softmax (x) }},
                else_branch = e () => ({S} q) {{ q = Clip <min = 0.0> (x) }}
            >
        }}""",
        10,
    )
    after = upgraded(model)
    for condition in (True, False):
        feed = {"x": X, "c": np.array(condition)}
        np.testing.assert_allclose(
            run_model(after, feed)[0], run_model(model, feed)[0], rtol=1e-6, atol=1e-7
        )


def test_functions_have_an_opset_of_their_own():
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (float[2,3] x) => (float[1,2,3] y) { y = own.pick <low = 0.0> (x) }
        <domain: "own", opset_import: ["" : 10]>
        pick <low> (x) => (y) { a = Clip <min: float = @low> (x) y = Unsqueeze <axes = [0]> (a) }
    """)
    after = upgraded(model)
    assert next(o.version for o in after.functions[0].opset_import if o.domain == "") == MIN_OPSET
    x = X[:, :, 0, 0]
    np.testing.assert_array_equal(run_model(after, {"x": x})[0], np.maximum(x, 0)[None])


@pytest.mark.parametrize(
    ("body", "weight", "reference"),
    [
        ("y = Add <broadcast=1, axis=1> (x, w)", (3,), lambda x, w: x + w[:, None, None]),
        ("y = Mul <broadcast=1, axis=-3> (x, w)", (3, 4), lambda x, w: x * w[:, :, None]),
        ("y = Sub <broadcast=1> (x, w)", (6,), lambda x, w: x - w),
        ("y = PRelu (x, w)", (3,), lambda x, w: np.where(x < 0, x * w[:, None, None], x)),
        ("y = PRelu (x, w)", (1,), lambda x, w: np.where(x < 0, x * w, x)),
    ],
)
def test_broadcast_of_opset_6(body, weight, reference):
    w = np.random.default_rng(2).random(weight).astype(np.float32)
    dims = ",".join(map(str, weight))
    model = model_of(f"g ({S} x) => ({S} y) <float[{dims}] w> {{ {body} }}", 6, weights={"w": w})
    result = run_model(upgraded(model), {"x": X})[0]
    np.testing.assert_allclose(result, reference(X, w), rtol=1e-6)


def test_other_attributes_of_opset_6():
    model = model_of(
        f"g ({S} x) => (float[A,B,C,D] y)"
        "{ a = Dropout <is_test = 1> (x)"
        '  y = Upsample <mode = "bilinear", height_scale = 2.0, width_scale = 1.0> (a) }',
        6,
    )
    after = upgraded(model)
    assert ops(after) == ["Dropout", "Resize"]
    assert run_model(after, {"x": X})[0].shape == (2, 3, 8, 6)


REFUSED = {
    "opset too old": (f"g ({S} x) => ({S} y) {{ y = Relu (x) }}", OLDEST_OPSET - 1, "too old"),
    "opset too new": (f"g ({S} x) => ({S} y) {{ y = Relu (x) }}", 999, "newer than the installed"),
    "mask": (f"g ({S} x) => ({S} y, {S} m) {{ y, m = Dropout (x) }}", 7, "its output m is used"),
    "training": (f"g ({S} x) => ({S} y) {{ y = Dropout (x) }}", 6, "training mode"),
    "Resize both ways": (
        f"g ({S} x) => (float[A,B,C,D] y) <float[4] s = {{1,1,0.5,2}}> {{ y = Resize (x, s) }}",
        10,
        "enlarges one axis and shrinks another",
    ),
    "Resize, unknown scales": (
        f"g ({S} x, float[4] s) => (float[A,B,C,D] y) {{ y = Resize (x, s) }}",
        10,
        "not constant",
    ),
    "statistics used": (
        "g (float[2,3,4] x, float[3] s) => (float[2,3,4] y, float[3] m)"
        "{ y, m, v = BatchNormalization (x, s, s, s, s) }",
        9,
        "its output m is used, which only training fills",
    ),
    "unknown rank": (
        "g (float x, float[3] w) => (float y)"
        "{ a = Unknown (x) y = Add <broadcast=1, axis=1> (a, w) }",
        6,
        "the rank of an operand is unknown",
    ),
    "Scan with a batch axis": (
        "g (float[2,3] s, float[2,2,3] x) => (float[2,3] y, float[2,2,3] z) {"
        " y, z = Scan <num_scan_inputs = 1, body = b (float[3] p, float[3] q)"
        " => (float[3] r, float[3] t) { r = Add (p, q) t = Identity (r) }> (, s, x) }",
        8,
        "batch axis",
    ),
}


@pytest.mark.parametrize("directions", ["", "directions = [1], "])
def test_scan_loses_a_batch_axis_of_one(directions):
    model = model_of(
        "g (float[1,3] s, float[1,2,3] x) => (float[1,3] y, float[1,2,3] z) {"
        f" y, z = Scan <num_scan_inputs = 1, {directions} body = b (float[3] p, float[3] q)"
        " => (float[3] r, float[3] t) { r = Add (p, q) t = Identity (r) }> (, s, x) }",
        8,
    )
    rng = np.random.default_rng(0)
    feed = {"s": rng.standard_normal((1, 3)), "x": rng.standard_normal((1, 2, 3))}
    feed = {name: values.astype(np.float32) for name, values in feed.items()}
    before = run_model(model, feed)
    upgraded = upgrade(model)
    onnx.checker.check_model(upgraded, full_check=True)
    for expected, got in zip(before, run_model(upgraded, feed), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_expressed_is_refused(name):
    text, opset, reason = REFUSED[name]
    with pytest.raises(ModelError, match=reason) as refusal:
        upgrade(model_of(text, opset))
    assert str(opset) in str(refusal.value)
    assert "export" in str(refusal.value)


def test_models_without_a_version_of_the_operators_are_refused():
    model = model_of(f"g ({S} x) => ({S} y) {{ y = Relu (x) }}", 17)
    del model.opset_import[:]
    with pytest.raises(ModelError, match="imports no version"):
        upgrade(model)


def test_weights_that_old_models_list_as_inputs_become_constants():
    text = """g (float[N,3] x, float[3,2] w, float[N,2] z) => (float[N,2] y) {
        a = MatMul (x, w) y = Add (a, z) }"""
    weights = {"w": np.ones((3, 2), np.float32)}
    old = model_of(text, 8, ir_version=3, weights=weights)
    assert overridable_inputs(old) == []
    assert [value.name for value in upgrade(old).graph.input] == ["x", "z"]
    newer = model_of(text, 17, ir_version=8, weights=weights)
    assert overridable_inputs(newer) == ["w"]
    after = upgrade(newer)
    assert [value.name for value in after.graph.input] == ["x", "z"]
    assert after.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert overridable_inputs(after) == []


def test_everything_else_survives():
    model = model_of(f"g ({S} x) => ({S} y) {{ a = Clip <min = 0.0> (x) y = Softmax (a) }}", 9)
    model.doc_string, model.domain, model.model_version = "whole", "org", 5
    model.metadata_props.add(key="k", value="v")
    model.graph.doc_string = "graph"
    model.graph.metadata_props.add(key="gk", value="gv")
    model.graph.node[0].name, model.graph.node[0].doc_string = "clip", "bounds"
    model.graph.node[0].metadata_props.add(key="nk", value="nv")
    model.graph.input[0].doc_string = "in"
    annotation = model.graph.quantization_annotation.add(tensor_name="a")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
    before = onnx.ModelProto()
    before.CopyFrom(model)
    after = upgraded(model)
    for key in ("doc_string", "domain", "model_version"):
        assert getattr(after, key) == getattr(before, key)
    assert list(after.metadata_props) == list(before.metadata_props)
    assert after.graph.doc_string == "graph"
    assert list(after.graph.metadata_props) == list(before.graph.metadata_props)
    assert list(after.graph.quantization_annotation) == list(before.graph.quantization_annotation)
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    clip = next(node for node in after.graph.node if node.op_type == "Clip")
    assert (clip.name, clip.doc_string, clip.metadata_props[0].value) == ("clip", "bounds", "nv")


def test_weights_without_data_are_not_touched():
    model = model_of("g (float[N,3] x) => (float[N,2] y) { a = MatMul (x, w) y = Softmax (a) }", 9)
    weight = model.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[3, 2])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="elsewhere")
    before = weight.SerializeToString()
    after = upgrade(model)
    assert after.graph.initializer[0].SerializeToString() == before
    assert ops(after) == ["MatMul", "Softmax"]


def test_new_names_do_not_collide():
    model = model_of(f"g ({S} x) => ({S} y) {{ a = Relu (x) y = Clip <min = 0.0> (a) }}", 7)
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "y.min"
    upgraded(model)


def test_models_that_are_new_enough_keep_their_opset():
    model = model_of(f"g ({S} x) => ({S} y) {{ y = Relu (x) }}", 21, ir_version=10)
    after = upgraded(model)
    assert after.opset_import[0].version == 21
    assert after.ir_version == 10


# Operators whose versions between the oldest opset and MIN_OPSET only add types, or attributes with
# the earlier behaviour as default, and those that only opset 7 changed.
WIDENED = {
    *("Abs", "Add", "And", "ArgMax", "ArgMin", "AveragePool", "Cast", "Ceil", "Compress", "Concat"),
    *("Constant", "Conv", "ConvTranspose", "CumSum", "DepthToSpace", "DequantizeLinear", "Div"),
    *("Equal", "Erf", "Exp", "Expand", "Flatten", "Floor", "GRU", "Gather", "GatherElements"),
    *("GatherND", "Gemm", "Greater", "Identity", "If", "IsNaN", "LRN", "LSTM", "Less", "Log"),
    *("Loop", "LpPool", "MatMul", "Max", "MaxPool", "MaxUnpool", "Mean", "Min", "Mod", "Mul"),
    *("MeanVarianceNormalization", "Neg", "NegativeLogLikelihoodLoss", "NonMaxSuppression"),
    *("NonZero", "OneHot", "Or", "PRelu", "Pow", "QuantizeLinear", "RNN", "Reciprocal", "ReduceL1"),
    *("ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
    *("ReduceProd", "ReduceSumSquare", "Relu", "Reshape", "ScatterElements", "ScatterND", "Shape"),
    *("Sigmoid", "Sign", "Size", "SoftmaxCrossEntropyLoss", "SpaceToDepth", "Sqrt", "Sub", "Sum"),
    *("Tanh", "Tile", "Transpose", "Xor"),
}


def test_every_operator_that_changed_is_known():
    versions: dict[str, list[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.since_version <= MIN_OPSET:
            versions.setdefault(schema.name, []).append(schema.since_version)
    changed = {
        name
        for name, since in versions.items()
        if any(v > OLDEST_OPSET for v in since) and (len(since) > 1)
    }
    assert changed - WIDENED == set(_ADAPTERS)


@pytest.mark.parametrize("operator", ["Softmax", "TopK", "BatchNormalization", "Upsample"])
def test_an_operator_without_operands_is_refused_not_rewritten(operator):
    model = model_of("g (float[2,3] x) => (float[2,3] y) { y = Relu (x) }", 8)
    model.graph.node.append(onnx.helper.make_node(operator, [], ["z"]))
    with pytest.raises(ModelError):
        compile_model(model)
