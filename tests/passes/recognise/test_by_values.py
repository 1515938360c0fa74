"""Activations known by their values: written as selections, masks, maxima or arithmetic."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import export_model, model_from_text, run_model
from snn_compile.passes.canonicalise.canonicalise import canonicalise
from snn_compile.passes.graph.surgeon import import_model
from snn_compile.passes.recognise.recognise import recognise

_CONSTANTS = {
    "zero": 0,
    "one": 1,
    "minus_one": -1,
    "two": 2,
    "half": 0.5,
    "minus_half": -0.5,
    "three": 3,
    "minus_three": -3,
    "six": 6,
    "sixth": 1 / 6,
    "tenth": 0.1,
    "gamma": 1.0507009873554805,
    "alpha": 1.6732632423543772,
    "both": 1.0507009873554805 * 1.6732632423543772,
    "large": 1e8,
}


def _model(body: str, weights: str = "", x: str = "float[batch,8]") -> onnx.ModelProto:
    """``x => y`` with the constants above, and ``weights``."""
    constants = ", ".join(f"float {name} = {{{v:.9g}}}" for name, v in _CONSTANTS.items())
    constants = f"{constants}, {weights}" if weights else constants
    return model_from_text(f"g ({x} x) => ({x} y) <{constants}> {{ {body} }}")


def _recognised(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes; the outputs are the same, also where the function bends or jumps."""
    graph = recognise(canonicalise(import_model(model)).graph).graph
    after = export_model(graph)
    onnx.checker.check_model(after, full_check=True)
    steps = np.array([0, 0.1, 0.5, 1, 3, 6], np.float32)
    near = np.concatenate([np.nextafter(steps, -np.inf), steps, np.nextafter(steps, np.inf)])
    near = np.concatenate([near, -near, np.linspace(-9, 9, 99, dtype=np.float32)])
    near = near.astype(np.float32)
    x = np.resize(near, (18, 8))
    expected, got = run_model(model, {"x": x})[0], run_model(after, {"x": x})[0]
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=1e-6)
    return list(after.graph.node)


def _attributes(node: onnx.NodeProto) -> dict[str, float]:
    return {a.name: a.f for a in node.attribute if a.type == onnx.AttributeProto.FLOAT}


SPELLINGS = {
    "Relu": [
        "k = Greater (x, zero)  f = Cast <to = 1> (k)  y = Mul (x, f)",
        "k = GreaterOrEqual (x, zero)  b = Cast <to = 6> (k)  f = Cast <to = 1> (b)y = Mul (f, x)",
        "k = LessOrEqual (x, zero)  o = Not (k)  y = Where (o, x, zero)",
        "k = Less (zero, x)  f = CastLike (k, x)  y = Mul (f, x)",
        "d = Sub (x, x)  k = Greater (x, d)  y = Where (k, x, d)",
        "d = Mul (x, zero)  y = Max (d, x)",
        "s = Sign (x)  t = Add (s, one)  m = Mul (x, t)  y = Mul (m, half)",
        "s = Abs (x)  t = Add (s, x)  y = Div (t, two)",
        "m = Max (x, zero)  e = Equal (m, x)  f = Cast <to = 1> (e)  y = Mul (f, x)",
        "k = IsNaN (x)  w = Where (k, zero, x)  y = Max (w, zero)",
    ],
    "Clip": [
        "k = Less (x, zero)  g = Greater (x, one)  t = Where (g, one, x)  y = Where (k, zero, t)",
        "g = Greater (x, one)  t = Where (g, one, x)  k = Less (t, minus_one)"
        "y = Where (k, minus_one, t)",
        "g = GreaterOrEqual (x, six)  r = Relu (x)  y = Where (g, six, r)",
        "g = Greater (x, one)  k = Less (x, minus_one)  o = Or (g, k)  i = Not (o)  s = Sign (x)"
        "y = Where (i, x, s)",
        "a = Abs (x)  m = Sub (x, six)  b = Abs (m)  d = Sub (a, b)  e = Add (d, six)"
        "y = Mul (e, half)",
        "l = LessOrEqual (x, one)  g = GreaterOrEqual (x, minus_one)  i = And (l, g)  s = Sign (x)"
        "y = Where (i, x, s)",
        "k = Greater (x, large)  t = Where (k, large, x)  y = Max (t, zero)",
    ],
    "LeakyRelu": [
        "k = Greater (x, zero)  f = Cast <to = 1> (k)  g = Sub (one, f)  p = Mul (x, f)"
        "q = Mul (x, g)  r = Mul (q, tenth)  y = Add (p, r)",
        "p = Relu (x)  m = Neg (x)  q = Relu (m)  r = Mul (q, tenth)  y = Sub (p, r)",
        "p = Max (x, zero)  q = Min (x, zero)  r = Mul (q, tenth)  y = Add (p, r)",
        "k = Less (x, zero)  w = Where (k, tenth, one)  y = Mul (x, w)",
    ],
    "Elu": [
        "k = Greater (x, zero)  e = Exp (x)  m = Sub (e, one)  y = Where (k, x, m)",
        "k = Greater (x, zero)  w = Where (k, zero, x)  e = Exp (w)  m = Sub (e, one)"
        "y = Where (k, x, m)",
        "w = Min (x, zero)  e = Exp (w)  m = Sub (e, one)  t = Mul (m, tenth)  r = Relu (x)"
        "y = Add (r, t)",
        "k = Greater (x, zero)  f = Cast <to = 1> (k)  w = Min (zero, x)  e = Exp (w)"
        "m = Sub (e, one)  p = Mul (f, x)  y = Add (p, m)",
    ],
    "Selu": [
        "k = LessOrEqual (x, zero)  e = Exp (x)  m = Sub (e, one)  t = Mul (m, both)"
        "p = Mul (x, gamma)  y = Where (k, t, p)",
        "k = Greater (x, zero)  e = Exp (x)  m = Sub (e, one)  t = Mul (m, alpha)"
        "w = Where (k, x, t)  y = Mul (w, gamma)",
        "p = Max (x, zero)  w = Min (x, zero)  e = Exp (w)  m = Sub (e, one)  t = Mul (alpha, m)"
        "s = Add (p, t)  y = Mul (gamma, s)",
    ],
    "Celu": [
        "p = Max (x, zero)  d = Div (x, two)  e = Exp (d)  m = Sub (e, one)  t = Mul (m, two)"
        "q = Min (t, zero)  y = Add (p, q)",
        "k = Greater (x, zero)  d = Mul (x, half)  e = Exp (d)  m = Sub (e, one)  t = Mul (m, two)"
        "y = Where (k, x, t)",
        "k = Less (x, zero)  d = Div (x, two)  i = Elu (d)  t = Mul (i, two)  y = Where (k, t, x)",
    ],
    "ThresholdedRelu": [
        "k = Greater (x, tenth)  f = Cast <to = 1> (k)  y = Mul (x, f)",
        "k = GreaterOrEqual (x, half)  y = Where (k, x, zero)",  # above the float before 0.5
        "k = LessOrEqual (x, three)  o = Not (k)  f = Cast <to = 1> (o)  y = Mul (f, x)",
    ],
    "Shrink": [
        "a = Abs (x)  k = Less (a, half)  y = Where (k, zero, x)",
        "a = Abs (x)  k = Greater (a, half)  f = Cast <to = 1> (k)  y = Mul (x, f)",
        "a = Abs (x)  d = Sub (a, half)  r = Max (d, zero)  s = Sign (x)  y = Mul (s, r)",
        "d = Sub (x, half)  p = Relu (d)  m = Neg (x)  e = Sub (m, half)  q = Relu (e)"
        "y = Sub (p, q)",
        "c = Clip (x, minus_half, half)  y = Sub (x, c)",
        "k = Greater (x, half)  l = Less (x, minus_half)  p = Sub (x, half)  q = Add (x, half)"
        "i = Where (l, q, zero)  y = Where (k, p, i)",
    ],
    "HardSwish": [
        "a = Add (x, three)  k = Less (a, zero)  b = Where (k, zero, a)  g = Greater (b, six)"
        "c = Where (g, six, b)  m = Mul (x, c)  y = Mul (m, sixth)",
        "k = LessOrEqual (x, minus_three)  g = GreaterOrEqual (x, three)  a = Add (x, three)"
        "m = Mul (x, a)  q = Div (m, six)  i = Where (g, x, q)  y = Where (k, zero, i)",
        "h = Div (x, six)  a = Add (h, half)  b = Min (a, one)  g = Greater (b, zero)"
        "f = Cast <to = 1> (g)  c = Mul (b, f)  y = Mul (c, x)",
    ],
    "HardSigmoid": [
        "h = Div (x, six)  a = Add (h, half)  k = Less (a, zero)  b = Where (k, zero, a)"
        "g = Greater (b, one)  y = Where (g, one, b)",
        "k = Less (x, minus_three)  g = Greater (x, three)  a = Add (x, three)  q = Div (a, six)"
        "i = Where (g, one, q)  y = Where (k, zero, i)",
        "a = Add (x, three)  r = Relu (a)  b = Sub (x, three)  s = Relu (b)  d = Sub (r, s)"
        "y = Mul (d, sixth)",
    ],
    "Sigmoid": [
        "a = Abs (x)  m = Neg (a)  e = Exp (m)  d = Add (e, one)  k = GreaterOrEqual (x, zero)"
        "u = Where (k, one, e)  y = Div (u, d)",
        "h = Mul (x, half)  t = Tanh (h)  a = Add (t, one)  y = Mul (a, half)",
        "e = Exp (x)  d = Add (e, one)  y = Div (e, d)",
    ],
    "Tanh": [
        "h = Mul (x, two)  s = Sigmoid (h)  a = Mul (s, two)  y = Sub (a, one)",
        "e = Exp (x)  m = Neg (x)  f = Exp (m)  p = Sub (e, f)  q = Add (e, f)  y = Div (p, q)",
        "h = Mul (x, two)  e = Exp (h)  p = Sub (e, one)  q = Add (e, one)  y = Div (p, q)",
    ],
    "Softplus": [
        "a = Abs (x)  m = Neg (a)  e = Exp (m)  d = Add (e, one)  l = Log (d)  r = Max (x, zero)"
        "y = Add (r, l)",
        "m = Max (x, zero)  p = Sub (x, m)  q = Neg (m)  e = Exp (p)  f = Exp (q)  s = Add (e, f)"
        "l = Log (s)  y = Add (m, l)",
        "r = Relu (x)  a = Abs (x)  m = Neg (a)  e = Exp (m)  d = Add (one, e)  l = Log (d)"
        "y = Add (l, r)",
    ],
    "Swish": [
        "h = Mul (x, half)  t = Tanh (h)  a = Add (t, one)  m = Mul (x, a)  y = Mul (m, half)",
        "t = Tanh (x)  a = Add (t, one)  m = Mul (x, a)  y = Mul (half, m)",
        "e = Exp (x)  m = Mul (x, e)  d = Add (e, one)  y = Div (m, d)",
    ],
    "Mish": [
        "e = Exp (x)  p = Add (e, one)  q = Mul (p, p)  r = Add (q, one)  s = Sub (q, one)"
        "t = Div (s, r)  y = Mul (x, t)",
        "s = Softplus (x)  h = Mul (s, two)  g = Sigmoid (h)  a = Mul (g, two)  t = Sub (a, one)"
        "y = Mul (t, x)",
        "a = Abs (x)  m = Neg (a)  e = Exp (m)  d = Add (e, one)  l = Log (d)  r = Relu (x)"
        "s = Add (r, l)  t = Tanh (s)  y = Mul (x, t)",
    ],
}
_CASES = [(op, body) for op, bodies in SPELLINGS.items() for body in bodies]


@pytest.mark.parametrize(("op", "body"), _CASES)
def test_every_spelling_becomes_one_node(op: str, body: str) -> None:
    [node] = _recognised(_model(body))
    assert node.op_type == op


#: How exporters fill a tensor; {x} has the shape, {v} is the value.
FILLED = [
    "s{i} = Shape ({x})  {o} = ConstantOfShape <value = float[1] {{ {v} }}> (s{i})",
    "s{i} = Shape ({x})  c{i} = Constant <value_float = {v}.0> ()  {o} = Expand (c{i}, s{i})",
    "s{i} = Shape ({x})  c{i} = ConstantOfShape <value = int64[1] {{ {v} }}> (s{i})"
    "{o} = Cast <to = 1> (c{i})",
    "s{i} = Shape ({x})  j{i} = Constant <value_ints = [0]> ()  a{i} = Gather (s{i}, j{i})"
    "w{i} = Constant <value_ints = [8]> ()  t{i} = Concat <axis = 0> (a{i}, w{i})"
    "{o} = ConstantOfShape <value = float[1] {{ {v} }}> (t{i})",
]


def _fill(how: int, out: str, of: str, value: int) -> str:
    return FILLED[how].format(i=out, o=out, x=of, v=value)


@pytest.mark.parametrize("how", range(len(FILLED)))
@pytest.mark.parametrize(
    ("op", "body"),
    [
        ("Relu", "{zeros}  k = Less (x, z)  y = Where (k, z, x)"),
        ("Relu", "{zeros}  y = Max (z, x)"),
        (
            "Relu",
            "{ones}  k = Less (x, zero)  f = Cast <to = 1> (k)  g = Sub (o, f)  y = Mul (x, g)",
        ),
        ("Clip", "{zeros}  {ones}  a = Max (x, z)  y = Min (a, o)"),
        (
            "Clip",
            "{ones}  m = Neg (o)  g = Greater (x, o)  t = Where (g, o, x)  k = Less (t, m)"
            "y = Where (k, m, t)",
        ),
        (
            "Elu",
            "{zeros}  {ones}  k = Greater (x, z)  w = Where (k, z, x)  e = Exp (w)"
            "m = Sub (e, o)  y = Where (k, x, m)",
        ),
    ],
)
@pytest.mark.parametrize("x", ["float[batch,8]", "float[18,8]"])
def test_filled_tensors_are_scalars(how: int, op: str, body: str, x: str) -> None:
    zeros, ones = _fill(how, "z", "x", 0), _fill(how, "o", "x", 1)
    [node] = _recognised(_model(body.format(zeros=zeros, ones=ones), x=x))
    assert node.op_type == op


@pytest.mark.parametrize(
    "body",
    [
        "k = Greater (x, zero)  m = Mul (x, slope)  y = Where (k, x, m)",
        "p = Relu (x)  m = Neg (x)  q = Relu (m)  r = Mul (q, slope)  y = Sub (p, r)",
        "p = Max (x, zero)  q = Min (x, zero)  r = Mul (slope, q)  y = Add (p, r)",
        "k = Less (x, zero)  w = Where (k, slope, one)  y = Mul (w, x)",
    ],
)
def test_a_slope_per_channel_is_that_of_a_prelu(body: str) -> None:
    [node] = _recognised(_model(body, "float[8] slope"))
    assert node.op_type == "PRelu"


def test_parameters() -> None:
    def parameters(body: str) -> dict[str, float]:
        return {k: round(v, 6) for k, v in _attributes(_recognised(_model(body))[0]).items()}

    assert parameters(SPELLINGS["LeakyRelu"][1]) == {"alpha": 0.1}
    assert parameters(SPELLINGS["Elu"][2]) == {"alpha": 0.1}
    assert parameters(SPELLINGS["Selu"][1]) == {"alpha": 1.673263, "gamma": 1.050701}
    assert parameters(SPELLINGS["Celu"][0]) == {"alpha": 2.0}
    assert parameters(SPELLINGS["HardSigmoid"][0]) == {"alpha": 0.166667, "beta": 0.5}
    assert parameters(SPELLINGS["Shrink"][2]) == {"lambd": 0.5, "bias": 0.5}
    assert parameters(SPELLINGS["Swish"][1]) == {"alpha": 2.0}


def test_the_side_that_equality_falls_on() -> None:
    [node] = _recognised(_model(SPELLINGS["ThresholdedRelu"][1]))
    assert np.float32(_attributes(node)["alpha"]) == np.nextafter(np.float32(0.5), np.float32(0))


@pytest.mark.parametrize(
    "body",
    [
        "y = Abs (x)",
        "y = Sin (x)",
        "m = Mul (x, x)  o = Neg (m)  y = Exp (o)",
        "s = Sin (x)  q = Mul (s, s)  y = Add (x, q)",
        "k = Greater (x, zero)  y = Cast <to = 1> (k)",
        "k = Greater (x, half)  y = Where (k, x, half)  ",  # a clip, checked below
        "k = Greater (x, half)  y = Where (k, half, one)",
        "k = Greater (x, zero)  e = Exp (x)  y = Where (k, x, e)",  # jumps at 0
        "k = Greater (x, one)  e = Exp (x)  m = Sub (e, one)  y = Where (k, x, m)",
        "k = Equal (x, three)  r = Relu (x)  y = Where (k, one, r)",  # one value apart
        "k = Greater (x, large)  r = Relu (x)  y = Where (k, zero, r)",  # far out
        "r = Relu (x)  s = Mul (r, large)  t = Sin (s)  u = Mul (t, tenth)  y = Add (r, u)",
        "m = Mul (x, slope)  k = Greater (x, zero)  y = Where (k, m, x)",
        "k = Greater (x, slope)  y = Where (k, x, zero)",
        "a = Mul (x, two)  y = Max (x, a)",
    ],
)
def test_what_is_no_activation_stays(body: str) -> None:
    before = [n.op_type for n in _model(body, "float[8] slope").graph.node]
    after = [node.op_type for node in _recognised(_model(body, "float[8] slope"))]
    assert after == (["Clip"] if "Where (k, x, half)" in body else before)


@pytest.mark.parametrize(
    ("body", "ops"),
    [
        # A neuron of Relu is not given up for a Clip that is none.
        ("m = Neg (x)  r = Relu (m)  y = Neg (r)", ["Neg", "Relu", "Neg"]),
        # What others read stays, and what it would have been is not computed twice.
        (
            "k = Greater (x, zero)  f = Cast <to = 1> (k)  m = Mul (x, f)  g = Add (f, x)"
            "y = Mul (m, g)",
            ["Greater", "Cast", "Mul", "Add", "Mul"],
        ),
        # Arithmetic around it stays arithmetic.
        (
            "a = Mul (x, three)  k = Less (a, zero)  w = Where (k, zero, a)  y = Sub (w, one)",
            ["Mul", "Relu", "Sub"],
        ),
    ],
)
def test_what_stays_around_it(body: str, ops: list[str]) -> None:
    assert [node.op_type for node in _recognised(_model(body))] == ops


def test_only_float32() -> None:
    body = "k = Greater (x, zero)  f = Cast <to = 11> (k)  y = Mul (x, f)"
    model = model_from_text(f"g (double[4] x) => (double[4] y) <double zero = {{0}}> {{ {body} }}")
    graph = recognise(canonicalise(import_model(model)).graph).graph
    assert [node.op for node in graph.nodes] == ["Greater", "Cast", "Mul"]
