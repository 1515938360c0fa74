"""Training mode and randomness: computed where all is constant, refused by name elsewhere."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import model_from_text, run_model
from snn_compile.compiler import compile_model
from snn_compile.compiler.errors import ModelError

HEAD = "g (float[n,4,8,8] x) => (float[n,3,h,w2] y)"
CONVS = "float[6,4,3,3] w, float[3,6,1,1] v"


def lines(result):
    return [f"{line.op} {line.status}" for line in result.report.coverage.lines]


STANDARDISED = {
    "rows of a matrix, torch": """<float[1,6,36] m, float[6] s, float[6] z, float[6] o,
            int64[4] shape = {6,4,3,3}, float[3,6,1,1] v> {
        k, a, b = BatchNormalization <training_mode = 1, epsilon = 0.000001> (m, s, z, z, o)
        w = Reshape (k, shape)""",
    "with a gain, of a transposed weight": """<float[4,36,6] m, float[36] s, float[36] z,
            float[36] o, float gain = {0.2}, int64[4] shape = {6,4,3,3}, float[3,6,1,1] v> {
        k, a, b = BatchNormalization <training_mode = 1> (m, s, z, z, o)
        g0 = Mul (k, gain)
        h0 = ReduceMean <axes = [0], keepdims = 0> (g0)
        t = Transpose <perm = [1, 0]> (h0)
        w = Reshape (t, shape)""",
    "through a dropout of nothing": """<float[6,4,3,3] m, float none = {0}, bool on = {1},
            float[4] s, float[4] z, float[4] o, float[3,6,1,1] v> {
        k, a, b = BatchNormalization <training_mode = 1> (m, s, z, z, o)
        w = Dropout (k, none, on)""",
}


@pytest.mark.parametrize("weights", STANDARDISED.values(), ids=STANDARDISED)
def test_batch_normalisation_of_constants_is_a_constant(weights):
    model = model_from_text(f"{HEAD} {weights}  c = Conv (x, w)  r = Relu (c)  y = Conv (r, v) }}")
    result = compile_model(model)
    assert lines(result) == ["Conv kept", "Relu converted", "Conv converted"]
    assert [node.op_type for node in result.model.graph.node] == ["Conv", "ScaleFire", "Conv"]
    held = {tensor.name for tensor in result.model.graph.initializer}
    assert all(node.input[1] in held for node in result.model.graph.node)
    assert max(output.relative_l2 for output in result.report.verification.outputs) < 0.08


OFF = {
    "no mode": "d = Dropout (r)",
    "mode false": "d = Dropout (r, half, off)",
    "mode computed": "t = Not (on)  d = Dropout (r, half, t)",
    "a ratio of 0": "d = Dropout (r, none, on)",
    "a ratio of 0, mode unknown": "m = ReduceL1 <keepdims = 0> (x)  "
    "u = Cast <to = 9> (m)  d = Dropout (r, none, u)",
}
DROPOUTS = f"<{CONVS}, float half = {{0.5}}, float none = {{0}}, bool on = {{1}}, bool off = {{0}}>"


@pytest.mark.parametrize("dropout", OFF.values(), ids=OFF)
def test_dropout_that_drops_nothing_goes(dropout):
    body = f"c = Conv (x, w)  r = Relu (c)  {dropout}  y = Conv (d, v)"
    result = compile_model(model_from_text(f"{HEAD} {DROPOUTS} {{ {body} }}"))
    assert lines(result) == ["Conv kept", "Relu converted", "Conv converted"]


BRANCHES = """d = If (c0) <
    then_branch = t () => (float[n,6,6,6] e) { e = Dropout (r, half, on) },
    else_branch = f () => (float[n,6,6,6] i) { i = Identity (r) }>"""
REFUSED = {
    "Dropout, half by default": ("d = Dropout (r, , on)", "Dropout .* model.eval"),
    "Dropout": ("d = Dropout (r, half, on)", "Dropout 'Dropout:d' in training mode.*model.eval"),
    "Dropout, mask too": ("d, k = Dropout (r, half, on)", "Dropout .*model.eval"),
    "Dropout by a signal": (
        "m = ReduceMax <keepdims = 0> (x)  t = Cast <to = 9> (m)  d = Dropout (r, half, t)",
        "Dropout .*model.eval",
    ),
    "Dropout in a branch": (
        f"m = ReduceMax <keepdims = 0> (x)  c0 = Cast <to = 9> (m)  {BRANCHES}",
        "Dropout 'Dropout:e' in training mode",
    ),
    "RandomNormalLike": (
        "z = RandomNormalLike <scale = 0.1> (r)  d = Add (r, z)",
        "RandomNormalLike 'RandomNormalLike:z' draws random numbers",
    ),
    "RandomUniformLike": ("z = RandomUniformLike (r)  d = Mul (r, z)", "RandomUniformLike 'Random"),
    "RandomNormal": ("z = RandomNormal <shape = [6, 1, 1]> ()  d = Add (r, z)", "RandomNormal '"),
    "RandomUniform, seeded": (
        "z = RandomUniform <shape = [1], seed = 1.0> ()  d = Add (r, z)",
        "RandomUniform '.*draws random numbers",
    ),
    "Bernoulli": ("s = Sigmoid (c)  z = Bernoulli (s)  d = Mul (r, z)", "Bernoulli '"),
    "BatchNormalization": (
        "d, a, b = BatchNormalization <training_mode = 1> (r, s6, b6, m6, o6var)",
        "BatchNormalization 'BatchNormalization:d' in training mode.*model.eval",
    ),
}
PARAMETERS = "float[6] s6, float[6] b6, float[6] m6, float[6] o6var"


@pytest.mark.parametrize(("body", "says"), REFUSED.values(), ids=REFUSED)
def test_what_differs_from_run_to_run_is_refused_by_name(body, says):
    weights = f"{DROPOUTS[:-1]}, {PARAMETERS}>"
    text = f"c = Conv (x, w)  r = Relu (c)  {body}  y = Conv (d, v)"
    with pytest.raises(ModelError, match=says) as error:
        compile_model(model_from_text(f"{HEAD} {weights} {{ {text} }}"))
    assert error.value.exit_code == 3


def test_functions_of_the_model_are_looked_into():
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "f" : 1]>
        g (float[n,4] x) => (float[n,4] y) { r = Relu (x)  y = f.noisy (r) }
        <domain: "f", opset_import: ["" : 17]>
        noisy (x) => (y) { z = RandomNormalLike (x)  y = Add (x, z) }""")
    with pytest.raises(ModelError, match=r"RandomNormalLike '.*draws random numbers"):
        compile_model(model)


def test_random_numbers_that_no_output_needs_are_none():
    body = "c = Conv (x, w)  r = Relu (c)  z = RandomNormalLike (r)  y = Conv (r, v)"
    model = model_from_text(f"{HEAD} <{CONVS}> {{ {body} }}")
    x = np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)
    result = compile_model(model)
    np.testing.assert_array_equal(
        run_model(result.model, {"x": x}), run_model(result.model, {"x": x})
    )
