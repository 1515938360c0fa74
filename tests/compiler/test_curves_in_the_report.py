"""Nothing is silent: whatever is nonlinear in one value has a line, and --strict sees it."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import model_from_text
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.errors import ModelError

NET = """g (float[N,6] x) => (float[N,3] y)
    <float[6,8] w, float[8] b, float[8,3] v, float zero = {{0}}, float one = {{1}},
     float half = {{0.5}}, float two = {{2}}, float eps = {{0.000001}}, float[8] slope,
     int64[1] last = {{-1}}{weights}> {{
    a = MatMul (x, w)  h = Add (a, b)  {body}  y = MatMul (r, v) }}"""


def network(body, weights=""):
    return model_from_text(NET.format(body=body, weights=weights))


def lines(body, **options):
    """Of the activations and normalisations: what became of each."""
    report = compile_model(network(body), options=CompileOptions(**options)).report
    found = [line for line in report.coverage.lines if line.kind != "linear"]
    return [f"{line.kind} {line.op} {line.status}" for line in found], report.coverage


@pytest.mark.parametrize(
    ("body", "op"),
    [
        ("s = Shape (h)  z = ConstantOfShape (s)  k = Less (h, z)  r = Where (k, z, h)", "Relu"),
        ("k = Greater (h, zero)  f = Cast <to = 1> (k)  r = Mul (h, f)", "Relu"),
        (
            "g = Greater (h, one)  t = Where (g, one, h)  k = Less (t, zero)  r = Where(k,zero,t)",
            "Clip",
        ),
        (
            "k = Greater (h, zero)  m = Min (h, zero)  e = Exp (m)  d = Sub (e, one)"
            "r = Where (k, h, d)",
            "Elu",
        ),
    ],
)
def test_a_recognised_selection_is_a_neuron(body, op):
    found, coverage = lines(body, strict=True, neuron="staircase")
    assert found == [f"activation {op} converted"]
    assert coverage.spiking_macs == 8 * 3
    assert compile_model(network(body), options=CompileOptions(encode="activations"))


@pytest.mark.parametrize(
    ("body", "op"),
    [
        ("r = Sin (h)", "Sin"),
        ("r = Abs (h)", "Abs"),
        ("q = Mul (h, h)  n = Neg (q)  r = Exp (n)", "Exp"),
        ("k = Greater (h, slope)  r = Where (k, h, zero)", "Where"),
        ("k = Greater (h, zero)  r = Cast <to = 1> (k)", "Cast"),
        ("m = Mul (h, two)  f = Floor (m)  r = Mul (f, half)", "Mul"),
        ("p = Relu (h)  r = Pow (p, two)", "Pow"),
        ("s = Sin (h)  q = Mul (s, s)  r = Add (q, h)", "Add"),
        # on the way it is moved, or meets another value
        ("s = Cos (h)  t = Concat <axis = 1> (s, s)  r, u = Split <axis = 1> (t)", "Cos"),
        ("s = Tanh (h)  c = Cos (h)  r = Mul (c, s)", "Cos"),
    ],
)
def test_a_curve_that_is_no_activation_is_kept_with_the_reason(body, op):
    found, coverage = lines(body)
    assert f"activation {op} kept" in found
    [reason] = [line.reason for line in coverage.lines if (line.op, line.status) == (op, "kept")]
    assert "no known activation" in reason
    with pytest.raises(ModelError, match=f"1 activations would be kept.*{op}"):
        compile_model(network(body), options=CompileOptions(strict=True))


@pytest.mark.parametrize(
    "body",
    [
        "m = Mul (h, two)  n = Sub (m, one)  d = Div (n, two)  r = Neg (d)",
        "k = IsNaN (h)  r = Where (k, zero, h)",
        "d = Sub (h, h)  r = Add (h, d)",
        "m = Max (h, h)  r = Mul (m, half)",
    ],
)
def test_what_is_affine_has_no_line(body):
    assert lines(body)[0] == []


@pytest.mark.parametrize(
    "body",
    [
        "m = ReduceMax <axes = [1]> (h)  d = Sub (h, m)  e = Exp (d)  s = ReduceSum (e, last)"
        "r = Div (e, s)",
        "q = Mul (h, h)  s = ReduceSum (q, last)  t = Sqrt (s)  u = Add (t, one)  r = Div (h, u)",
        "q = Abs (h)  s = ReduceMax <axes = [1]> (q)  i = Reciprocal (s)  r = Mul (h, i)",
    ],
)
def test_parts_of_a_normalisation_are_no_activations(body):
    found, _ = lines(body, strict=True)
    assert found
    assert {line.split()[0] for line in found} == {"normalisation"}
    assert {line.split()[2] for line in found} == {"encoded"}


def test_a_curve_of_shapes_is_none():
    body = """s = Shape (h)  c = Cast <to = 1> (s)  e = Sqrt (c)  f = ReduceSum (e, last)
        t = Relu (h)  r = Mul (t, f)"""
    assert lines(body)[0] == ["activation Relu converted"]


def test_a_curve_in_a_closed_body_says_so():
    model = model_from_text("""g (float[N,6] x) => (float[N,6] y)
        <float[6,6] w, float[6,6] v, int64 trips = {2}, bool go = {1}> {
        a = MatMul (x, w)  r = Relu (a)  b = MatMul (r, v)
        y = Loop (trips, go, b) <body = step (int64 i, bool c, float[N,6] h)
            => (bool d, float[N,6] k) { d = Identity (c)  s = Sin (h)  k = MatMul (s, w) }> }""")
    report = compile_model(model).report
    [line] = [line for line in report.coverage.lines if line.op == "Sin"]
    assert (line.kind, line.status) == ("activation", "kept")
    assert "body of Loop" in line.reason


def test_a_clip_in_float_over_timesteps():
    """Comparisons have no mean over steps; the activation has a neuron."""
    body = """p = Relu (h)  q = MatMul (p, u)  g = Greater (q, one)  t = Where (g, one, q)
        k = Less (q, zero)  r = Where (k, zero, t)"""
    model = network(body, ", float[8,8] u")
    report = compile_model(model, options=CompileOptions(timesteps=4)).report
    assert [line.op for line in report.coverage.lines if line.kind == "activation"] == [
        "Relu",
        "Clip",
    ]


def test_a_relu_whose_root_divides_is_no_neuron():
    """flax's variance over groups, which no operator stands for: at 0 its root would divide."""
    body = """t = Reshape (h, groups)  m = ReduceMean <axes = [1, 3]> (t)  s = Mul (t, t)
        e = ReduceMean <axes = [1, 3]> (s)  q = Mul (m, m)  d = Sub (e, q)  c = Max (d, zero)
        o = Add (c, eps)  f = Sqrt (o)  i = Reciprocal (f)  j = Sub (t, m)  n = Mul (j, i)
        z = Reshape (n, flat)  r = Relu (z)"""
    weights = ", int64[4] groups = {0, 2, 2, 2}, int64[2] flat = {0, 8}"
    result = compile_model(network(body, weights))
    found = {line.name: line for line in result.report.coverage.lines if line.op == "Relu"}
    assert [line.status for line in found.values()] == ["kept", "converted"]
    assert "its root divides" in next(iter(found.values())).reason
    assert result.report.verification.outputs[0].relative_l2 < 0.2


def test_convnext_as_torch_writes_it():
    """The scale first: not every product in front of an Add is a linear operator."""
    model = model_from_text("""g (float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[6,3,1,1] w, float[6,1,1] scale, float[6,1,1] bias, float[4,6,1,1] v,
         float two = {2}, float eps = {0.000001}> {
        h = Conv (x, w)  m = ReduceMean <axes = [1]> (h)  d = Sub (h, m)  s = Pow (d, two)
        e = ReduceMean <axes = [1]> (s)  a = Add (e, eps)  q = Sqrt (a)  n = Div (d, q)
        t = Mul (scale, n)  z = Add (t, bias)  r = Relu (z)  y = Conv (r, v) }""")
    report = compile_model(model).report
    assert [f"{line.op} {line.status}" for line in report.coverage.lines] == [
        "Conv kept",
        "LayerNormalization kept",
        "Relu converted",
        "Conv converted",
    ]


def test_channels_between_transposes():
    model = model_from_text("""g (float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[6,3,1,1] w, float[6] scale, float[6] bias, float[4,6,1,1] v> {
        h = Conv (x, w)  t = Transpose <perm = [0,2,3,1]> (h)
        n = LayerNormalization (t, scale, bias)  u = Transpose <perm = [0,3,1,2]> (n)
        y = Conv (u, v) }""")
    report = compile_model(model).report
    assert "normalisation encoded" in {f"{x.kind} {x.status}" for x in report.coverage.lines}
    assert report.verification.outputs[0].relative_l2 < np.float32(0.1)
