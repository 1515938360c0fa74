"""Networks of float16 and bfloat16 become networks of float32 that compute the same."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from helpers import run_model
from onnx import TensorProto, numpy_helper
from snn_compile.compiler import compile_model
from snn_compile.compiler.errors import ModelError
from snn_compile.compiler.model_io.load import load_source, read_model
from snn_compile.compiler.model_io.to_float32 import short_floats
from snn_compile.passes.graph.protos import graphs_below

HALF, BRAIN, FLOAT = TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT
KINDS = {HALF: np.dtype(np.float16), BRAIN: np.dtype(ml_dtypes.bfloat16)}


def model_of(text, weights=None, kind=HALF, opset=17):
    """A model whose 'half' stands for the type, with normal weights of these shapes."""
    text = text.replace("half", "float16" if kind == HALF else "bfloat16").replace(
        "HALF", str(kind)
    )
    imports = f'["" : {opset}, "f" : 1]'
    model = onnx.parser.parse_model(f"<ir_version: 8, opset_import: {imports}>\n{text}")
    rng = np.random.default_rng(1)
    for name, shape in (weights or {}).items():
        values = (0.4 * rng.standard_normal(shape)).astype(KINDS[kind])
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.checker.check_model(model, full_check=True)
    return model


def types(values):
    """Element types by name."""
    return {value.name: value.type.tensor_type.elem_type for value in values}


MLP = """g (half[n,8] x) => (half[n,4] y) {
    h = MatMul (x, a)  r = Relu (h)  y = MatMul (r, c) }"""
MLP_WEIGHTS = {"a": (8, 64), "c": (64, 4)}
# Constants in the text are bits: 14336 is 0.5, 16384 is 2.
NETWORKS = {
    "weights, some of them large": (MLP, {"a": (8, 4096), "c": (4096, 4)}, 17),
    "casts at its ends": (
        """g (float[n,8] x) => (float[n,4] y) {
            s = Cast <to = HALF> (x)  h = MatMul (s, a)  r = Relu (h)  t = MatMul (r, c)
            y = Cast <to = 1> (t) }""",
        MLP_WEIGHTS,
        17,
    ),
    "constants as nodes": (
        """g (half[n,8] x) => (half[n,8] y) {
            k = Constant <value = half[1] {14336}> ()  d = Mul (x, k)
            n8 = Constant <value = int64[1] {8}> ()
            e = ConstantOfShape <value = half[1] {16384}> (n8)
            f = Add (d, e)  y = Relu (f) }""",
        {},
        17,
    ),
    "a branch and a function": (
        """g (half[n,8] x, bool c) => (half[n,8] y) {
            y = If (c) <
                then_branch = t () => (half[n,8] p) { p = f.twice (x) },
                else_branch = e () => (half[n,8] q) { q = Relu (x) }
            > }
        <domain: "f", opset_import: ["" : 17]>
        twice (x) => (y) {
            k = Constant <value = half[1] {16384}> ()  m = Mul (x, k)  y = Relu (m) }""",
        {},
        17,
    ),
    "an output that is read, and one that is an input": (
        """g (half[n,8] x, half[n,8] z) => (half[n,8] y, half[n,8] v, half[n,8] z) {
            y = Relu (x)  v = Mul (y, z) }""",
        {},
        17,
    ),
}


@pytest.mark.parametrize(("text", "weights", "opset"), NETWORKS.values(), ids=NETWORKS)
def test_float16_is_computed_in_float32_and_the_interface_stays(text, weights, opset):
    model = model_of(text, weights, HALF, opset)
    source = load_source(model)
    read = source.network.attached()
    assert list(read.graph.input) == list(model.graph.input)
    assert list(read.graph.output) == list(model.graph.output)
    inner = {v.type.tensor_type.elem_type for g in graphs_below(read.graph) for v in g.value_info}
    assert inner <= {FLOAT, 0}
    assert {t.data_type for t in read.graph.initializer} <= {FLOAT, TensorProto.INT64}
    assert any("float16" in line for line in source.warnings)
    rng = np.random.default_rng(2)
    feed = {
        value.name: np.array(True)
        if value.type.tensor_type.elem_type == TensorProto.BOOL
        else rng.standard_normal((3, 8)).astype(
            np.float16 if value.type.tensor_type.elem_type == HALF else np.float32
        )
        for value in model.graph.input
    }
    for before, after in zip(run_model(model, feed), run_model(read, feed), strict=True):
        assert before.dtype == after.dtype
        np.testing.assert_allclose(after, before, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("case", ["weights, some of them large", "casts at its ends"])
def test_bfloat16_becomes_float32_throughout(case):
    text, weights, opset = NETWORKS[case]
    model = model_of(text, weights, BRAIN, opset)
    source = load_source(model)
    read = source.network.attached()
    assert types([*read.graph.input, *read.graph.output]) == {"x": FLOAT, "y": FLOAT}
    assert not short_floats(read)
    assert any("bfloat16" in line for line in source.warnings)
    x = np.random.default_rng(2).standard_normal((3, 8)).astype(np.float32)
    a, c = (numpy_helper.to_array(t).astype(np.float32) for t in model.graph.initializer)
    (y,) = run_model(read, {"x": x})
    np.testing.assert_allclose(y, np.maximum(x @ a, 0) @ c, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [HALF, BRAIN], ids=["float16", "bfloat16"])
def test_they_are_compiled(kind, tmp_path):
    model = model_of(MLP, MLP_WEIGHTS, kind)
    path, data = tmp_path / "short.onnx", tmp_path / "x.npz"
    onnx.save(model, path)
    rng = np.random.default_rng(3)
    x = rng.standard_normal((64, 8)).astype(np.float16 if kind == HALF else np.float32)
    np.savez(data, x=x)
    result = compile_model(path, data)
    lines = [f"{line.op} {line.status}" for line in result.report.coverage.lines]
    assert lines == ["MatMul kept", "Relu converted", "MatMul converted"]
    assert result.report.verification.outputs[0].relative_l2 < 0.05
    assert any("computed in float32" in warning for warning in result.report.warnings)
    (y,) = run_model(result.model, {"x": x[:3]})
    assert y.dtype == x.dtype


def test_a_model_in_memory_is_left_as_it_is():
    model = model_of(MLP, MLP_WEIGHTS)
    before = model.SerializeToString()
    load_source(model)
    assert model.SerializeToString() == before


def test_reading_for_comparison_changes_bfloat16_only(tmp_path):
    for kind, expected in ((HALF, HALF), (BRAIN, FLOAT)):
        onnx.save(model_of(MLP, MLP_WEIGHTS, kind), tmp_path / "m.onnx")
        network = read_model(tmp_path / "m.onnx")
        assert types(network.proto.graph.input) == {"x": expected}


def test_other_short_types_are_refused_by_name():
    text = "g (half[n,8] x) => (float[n,8] y) { h = Cast <to = 1> (x)  y = Relu (h) }"
    model = model_of(text, opset=19)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT8E4M3FN
    with pytest.raises(ModelError, match=r"input 'x' holds float8_e4m3fn.*float32"):
        compile_model(model)
