"""Recognition: every spelling of a function becomes one node, and nothing else does."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import export_model, model_from_text, run_model
from snn_compile.passes.graph.graph import ANN_DOMAIN
from snn_compile.passes.graph.surgeon import import_model
from snn_compile.passes.recognise.recognise import recognise

_CONSTANTS = {
    "zero": 0,
    "half": 0.5,
    "one": 1,
    "minus_one": -1,
    "two": 2,
    "three": 3,
    "six": 6,
    "sixth": 1 / 6,
    "third": 1 / 3,
    "fifth": 0.2,
    "twenty": 20,
    "minus_half": -0.5,
    "root2": 2**0.5,
    "root_half": 0.5**0.5,
    "about_root2": 1.4142,
    "slope": (2 / np.pi) ** 0.5,
    "cubic": 0.044715,
    "both": 0.0356774081,
    "quick": 1.702,
    "twice_slope": 2 * (2 / np.pi) ** 0.5,
    "tenth": 0.1,
    "eps": 1e-5,
    "minus_tenth": -0.1,
}


def _weights(element: str, ranks: tuple[int, ...] = (0,)) -> str:
    """The constants above, of the ranks given in turn."""
    shapes = [f"[{','.join(['1'] * rank)}]" if rank else "" for rank in ranks]
    return ", ".join(
        f"{element}{shapes[i % len(shapes)]} {name} = {{{value:.9g}}}"
        for i, (name, value) in enumerate(_CONSTANTS.items())
    )


def _model(
    body: str,
    opset: int = 17,
    x: str = "float[2,3,8]",
    y: str = "",
    weights: str = "",
    ranks: tuple[int, ...] = (0,),
) -> onnx.ModelProto:
    """``x => y`` with the constants above, in x's element type, and ``weights``."""
    constants = _weights(x[: x.index("[")], ranks)
    constants = f"{constants}, {weights}" if weights else constants
    return model_from_text(f"g ({x} x) => ({y or x} y) <{constants}> {{ {body} }}", opset)


def _recognised(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    result = recognise(import_model(onnx.shape_inference.infer_shapes(model)))
    rewritten = export_model(result.graph)
    onnx.checker.check_model(rewritten, full_check=True)
    return rewritten, result.changes


def _same_outputs(
    before: onnx.ModelProto, after: onnx.ModelProto, rtol: float = 1e-4, atol: float = 1e-5
) -> None:
    rng = np.random.default_rng(3)
    feed = {}
    for value in before.graph.input:
        shape = [dim.dim_value or 2 for dim in value.type.tensor_type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        feed[value.name] = np.asarray(3 * rng.standard_normal(shape), dtype)
    for y, z in zip(run_model(before, feed), run_model(after, feed), strict=True):
        assert y.dtype == z.dtype
        np.testing.assert_allclose(z, y, rtol=rtol, atol=atol)


def _becomes(op: str, model: onnx.ModelProto, rtol: float = 1e-4) -> onnx.NodeProto:
    after, changes = _recognised(model)
    assert [node.op_type for node in after.graph.node] == [op]
    assert len(changes) == 1
    _same_outputs(model, after, rtol)
    return after.graph.node[0]


def _stays(model: onnx.ModelProto) -> None:
    after, changes = _recognised(model)
    assert not changes
    assert [n.op_type for n in after.graph.node] == [n.op_type for n in model.graph.node]


# As the exporters of PyTorch write them (each opset from 13 to 20) unless a comment says otherwise.
SPELLINGS = {
    "Gelu": [
        "a = Div (x, root2)  e = Erf (a)  b = Add (e, one)  c = Mul (x, b)  y = Mul (c, half)",
        # 0.5 * x * (1 + erf(..)) written by hand
        "h = Mul (x, half)  a = Div (x, root2)  e = Erf (a)  b = Add (one, e)  y = Mul (h, b)",
        # tf2onnx
        "a = Mul (x, root_half)  e = Erf (a)  b = Add (e, one)  c = Mul (half, b)  y = Mul (x, c)",
        "a = Mul (root_half, x)  e = Erf (a)  b = Add (one, e)  c = Mul (b, x)  y = Div (c, two)",
        # three digits, and the product written out
        "a = Div (x, about_root2)  e = Erf (a)  h = Mul (x, half)  b = Mul (h, e)  y = Add (h, b)",
        "a = Div (x, root2)  e = Erf (a)  b = Sub (e, minus_one)  c = Mul (x, b)y = Mul (half, c)",
    ],
    "GeluTanh": [
        # TorchScript
        "s = Mul (x, x)  c = Mul (x, s)  d = Mul (cubic, c)  a = Add (x, d)  u = Mul (slope, a)"
        "t = Tanh (u)  b = Add (one, t)  g = Mul (x, b)  y = Mul (half, g)",
        # torch.export
        "c = Pow (x, three)  d = Mul (cubic, c)  a = Add (x, d)  u = Mul (slope, a)"
        "t = Tanh (u)  b = Add (t, one)  g = Mul (half, b)  y = Mul (x, g)",
        # Hugging Face 'gelu_new'
        "h = Mul (x, half)  c = Pow (x, three)  d = Mul (c, cubic)  a = Add (x, d)"
        "u = Mul (a, slope)  t = Tanh (u)  b = Add (t, one)  y = Mul (h, b)",
        # Hugging Face 'gelu_fast', factored
        "h = Mul (x, half)  p = Mul (x, slope)  q = Mul (x, cubic)  r = Mul (q, x)"
        "f = Add (r, one)  u = Mul (p, f)  t = Tanh (u)  b = Add (t, one)  y = Mul (h, b)",
        # with x^2 by Pow, and everything multiplied out
        "s = Pow (x, two)  q = Mul (s, cubic)  f = Add (one, q)  r = Mul (x, f)  u = Mul (r, slope)"
        "t = Tanh (u)  b = Add (t, one)  g = Mul (x, b)  y = Mul (g, half)",
        "c = Pow (x, three)  d = Mul (c, both)  a = Mul (x, slope)  u = Add (a, d)"
        "t = Tanh (u)  b = Add (t, one)  g = Mul (b, x)  y = Div (g, two)",
        # by sigmoid, as JAX and others write it
        "c = Pow (x, three)  d = Mul (c, cubic)  a = Add (x, d)  u = Mul (a, twice_slope)"
        "t = Sigmoid (u)  y = Mul (x, t)",
    ],
    "Swish": [
        "s = Sigmoid (x)  y = Mul (x, s)",
        "s = Sigmoid (x)  y = Mul (s, x)",
        "a = Mul (x, quick)  s = Sigmoid (a)  y = Mul (x, s)",
        "a = Div (x, half)  s = Sigmoid (a)  y = Mul (x, s)",
        "n = Neg (x)  e = Exp (n)  d = Add (e, one)  y = Div (x, d)",
        "n = Mul (minus_one, x)  e = Exp (n)  d = Add (one, e)  r = Reciprocal (d)  y = Mul (r, x)",
        "n = Neg (x)  e = Exp (n)  d = Add (one, e)  s = Div (one, d)  y = Mul (x, s)",
    ],
    "HardSwish": [
        # opset below 14
        "g = HardSigmoid <alpha: float = 0.16666667> (x)  y = Mul (x, g)",
        # by hand, torch.export, PaddlePaddle
        "a = Add (x, three)  c = Clip (a, zero, six)  m = Mul (x, c)  y = Div (m, six)",
        "a = Add (three, x)  c = Clip (a, zero, six)  d = Div (c, six)  y = Mul (d, x)",
        "a = Add (x, three)  c = Clip (a, zero, six)  d = Mul (c, sixth)  y = Mul (x, d)",
        "d = Mul (x, sixth)  a = Add (x, three)  c = Clip (a, zero, six)  y = Mul (d, c)",
        # tf2onnx: relu6 as Relu and Min
        "a = Add (x, three)  r = Relu (a)  c = Min (r, six)  m = Mul (x, c)  y = Mul (m, sixth)",
        "a = Sub (x, minus_one)  b = Add (a, two)  r = Max (zero, b)  c = Min (six, r)"
        "m = Mul (x, c)  y = Div (m, six)",
        "d = Mul (x, sixth)  a = Add (d, half)  c = Clip (a, zero, one)  y = Mul (x, c)",
    ],
    "HardSigmoid": [
        "a = Add (x, three)  c = Clip (a, zero, six)  y = Div (c, six)",
        "a = Add (x, three)  r = Relu (a)  c = Min (r, six)  y = Mul (sixth, c)",
        # Keras and others
        "a = Mul (x, fifth)  b = Add (a, half)  y = Clip (b, zero, one)",
        "a = Mul (fifth, x)  b = Add (half, a)  m = Max (b, zero)  y = Min (m, one)",
        "a = Div (x, six)  b = Add (a, half)  r = Relu (b)  y = Clip (r, , one)",
        "b = Sub (half, x)  y = Clip (b, zero, one)",
    ],
    "Mish": [
        "s = Softplus (x)  t = Tanh (s)  y = Mul (x, t)",
        "e = Exp (x)  a = Add (e, one)  s = Log (a)  t = Tanh (s)  y = Mul (t, x)",
        # torch.export
        "s = Softplus (x)  c = Greater (x, twenty)  w = Where (c, x, s)  t = Tanh (w)"
        "y = Mul (x, t)",
    ],
    "Softplus": [
        "e = Exp (x)  a = Add (e, one)  y = Log (a)",
        "e = Exp (x)  a = Add (one, e)  y = Log (a)",
        # torch.export
        "s = Softplus (x)  c = Greater (x, twenty)  y = Where (c, x, s)",
    ],
    "Sigmoid": [
        "n = Neg (x)  e = Exp (n)  a = Add (e, one)  y = Reciprocal (a)",
        "n = Neg (x)  e = Exp (n)  a = Add (one, e)  y = Div (one, a)",
        "n = Mul (x, minus_one)  e = Exp (n)  a = Sub (e, minus_one)  y = Div (one, a)",
    ],
    "Softsign": [
        "a = Abs (x)  b = Add (a, one)  y = Div (x, b)",
        "a = Abs (x)  b = Add (one, a)  r = Reciprocal (b)  y = Mul (r, x)",
    ],
    "Relu": [
        "y = Max (x, zero)",
        "y = Max (zero, x)",
        # torch.export: threshold of 0
        "c = LessOrEqual (x, zero)  y = Where (c, zero, x)",
        "c = Less (x, zero)  y = Where (c, zero, x)",
        "c = Greater (x, zero)  y = Where (c, x, zero)",
        "c = GreaterOrEqual (zero, x)  y = Where (c, zero, x)",
    ],
    "Clip": [
        "y = Min (x, six)",
        "y = Max (x, minus_one)",
        "a = Max (x, minus_one)  y = Min (a, two)",
        "a = Min (two, x)  y = Max (a, minus_one)",
        "a = Relu (x)  y = Min (a, six)",
        "a = Clip (x, minus_one, six)  y = Min (a, two)",
    ],
    "LeakyRelu": [
        "a = Mul (x, tenth)  y = Max (x, a)",
        "a = Mul (tenth, x)  y = Max (a, x)",
        "c = Greater (x, zero)  a = Mul (x, tenth)  y = Where (c, x, a)",
        "c = Less (x, zero)  a = Mul (x, minus_tenth)  y = Where (c, a, x)",
    ],
    "ThresholdedRelu": [
        "c = LessOrEqual (x, half)  y = Where (c, zero, x)",
        "c = Greater (x, half)  y = Where (c, x, zero)",
        "c = Less (half, x)  y = Where (c, x, zero)",
    ],
    "Shrink": [
        # nn.Hardshrink: torch.export, TorchScript
        "a = Abs (x)  c = LessOrEqual (a, half)  y = Where (c, zero, x)",
        "p = Greater (x, half)  q = Less (x, minus_half)  p1 = Cast <to = 9> (p)"
        "q1 = Cast <to = 9> (q)  o = Or (p1, q1)  y = Where (o, x, zero)",
        "p = Greater (x, half)  q = Less (x, minus_half)  o = Or (q, p)  y = Where (o, x, zero)",
        # nn.Softshrink: torch.export, TorchScript
        "a = Abs (x)  c = Greater (a, half)  s = Sign (x)  m = Mul (s, half)  d = Sub (x, m)"
        "z = Mul (x, zero)  y = Where (c, d, z)",
        "p = Greater (x, half)  d = Sub (x, half)  u = Where (p, d, zero)"
        "q = Less (x, minus_half)  s = Add (x, half)  v = Where (q, s, zero)  y = Add (u, v)",
    ],
}
_CASES = [(op, spelling) for op, spellings in SPELLINGS.items() for spelling in spellings]


@pytest.mark.parametrize(("op", "body"), _CASES)
def test_every_spelling_becomes_one_node(op: str, body: str) -> None:
    _becomes(op, _model(body))


@pytest.mark.parametrize(("op", "body"), _CASES)
def test_scalars_of_any_shape(op: str, body: str) -> None:
    if "Clip (" in body:
        pytest.skip("Clip's bounds have no shape but []")
    _becomes(op, _model(body, ranks=(0, 1, 2, 3)))


@pytest.mark.parametrize("body", [body for _, body in _CASES])
def test_runs_wherever_its_parts_ran(body: str) -> None:
    """No runtime has every operator in double precision, so those models stay as they are."""
    _stays(_model(body, x="double[2,3,8]"))


_BODIES = [body for _, body in _CASES]


def _add_output(model: onnx.ModelProto, name: str) -> None:
    inferred = onnx.shape_inference.infer_shapes(model)
    [info] = [value for value in inferred.graph.value_info if value.name == name]
    model.graph.output.append(info)


@pytest.mark.parametrize("op", SPELLINGS)
def test_an_intermediate_result_that_is_an_output_stays(op: str) -> None:
    body = SPELLINGS[op][-1]
    for name in [node.output[0] for node in _model(body).graph.node[:-1]]:
        model = _model(body)
        _add_output(model, name)
        after, _ = _recognised(model)
        assert name in {node.output[0] for node in after.graph.node}
        assert len(after.graph.node) > 1
        _same_outputs(model, after)


@pytest.mark.parametrize("body", _BODIES)
def test_an_intermediate_result_that_another_node_reads_stays(body: str) -> None:
    plain = _model(body)
    for name in [node.output[0] for node in plain.graph.node[:-1]]:
        model = _model(body)
        _add_output(model, name)
        model.graph.output[1].name = "watched"
        model.graph.node.append(onnx.helper.make_node("Identity", [name], ["watched"]))
        after, _ = _recognised(model)
        assert name in {node.output[0] for node in after.graph.node}
        _same_outputs(model, after)


def _constants_of(body: str) -> list[str]:
    return [name for name in _CONSTANTS if f"({name}," in body or f" {name})" in body]


@pytest.mark.parametrize("body", [body for body in _BODIES if _constants_of(body)])
@pytest.mark.parametrize("factor", [1.01, -1])
def test_another_constant_is_another_function(body: str, factor: float) -> None:
    """Whatever it is recognised as, if at all, computes the same."""
    for name in _constants_of(body):
        model = _model(body)
        [tensor] = [tensor for tensor in model.graph.initializer if tensor.name == name]
        value = np.float32(_CONSTANTS[name] * factor if _CONSTANTS[name] else factor - 1)
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(value), name))
        after, _ = _recognised(model)
        _same_outputs(model, after)


@pytest.mark.parametrize("body", [body for body in _BODIES if _constants_of(body)])
def test_what_is_computed_at_run_time_is_no_constant(body: str) -> None:
    for name in _constants_of(body):
        model = _model(body)
        model.graph.input.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [])
        )
        [index] = [i for i, t in enumerate(model.graph.initializer) if t.name == name]
        del model.graph.initializer[index]
        after, _ = _recognised(model)
        assert any(name in node.input for node in after.graph.node)
        _same_outputs(model, after)


@pytest.mark.parametrize("body", _BODIES)
def test_a_constant_of_more_dimensions_makes_another_shape(body: str) -> None:
    """x has rank 1, the constants rank 2: so has the result, and no activation does that."""
    if not _constants_of(body) or "Clip (" in body:
        pytest.skip("nothing to broadcast")
    model = _model(body, x="float[8]", y="float[1,8]", ranks=(2,))
    after, _ = _recognised(model)
    assert len(after.graph.node) > 1 or after.graph.node[0] == model.graph.node[0]
    _same_outputs(model, after)


@pytest.mark.parametrize("body", _BODIES)
def test_constants_per_channel_are_no_scalars(body: str) -> None:
    if "Clip (" in body:
        pytest.skip("Clip's bounds have no shape but []")
    for name in _constants_of(body):
        model = _model(body)
        [tensor] = [tensor for tensor in model.graph.initializer if tensor.name == name]
        values = np.float32(_CONSTANTS[name]) + np.linspace(0, 1, 8, dtype=np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
        after, _ = _recognised(model)
        ops = [node.op_type for node in after.graph.node]
        assert ops == ["PRelu"] or any(name in node.input for node in after.graph.node)
        _same_outputs(model, after)


@pytest.mark.parametrize(
    ("op", "body", "since"),
    [
        ("Gelu", SPELLINGS["Gelu"][0], 20),
        ("GeluTanh", SPELLINGS["GeluTanh"][0], 20),
        ("Mish", SPELLINGS["Mish"][0], 18),
        ("Swish", SPELLINGS["Swish"][2], np.inf),  # onnxruntime lacks it in most opsets
    ],
)
@pytest.mark.parametrize("opset", [15, 16, 17, 18, 19, 20, 21, 22, 25])
def test_the_standard_operator_where_the_opset_has_it(
    op: str, body: str, since: float, opset: int
) -> None:
    model = _model(body, opset)
    after, _ = _recognised(model)
    [node] = after.graph.node
    if opset >= since:
        assert not node.domain
        assert node.op_type == ("Gelu" if op == "GeluTanh" else op)
        assert not after.functions
    else:
        assert (node.domain, node.op_type) == (ANN_DOMAIN, op)
        assert [(f.domain, f.name) for f in after.functions] == [(ANN_DOMAIN, op)]
        assert [o.version for o in after.functions[0].opset_import] == [opset]
    _same_outputs(model, after)


def test_attributes() -> None:
    def attributes(body: str) -> dict[str, float]:
        after, _ = _recognised(_model(body))
        return {a.name: round(a.f, 6) for a in after.graph.node[0].attribute}

    assert attributes("a = Mul (x, quick)  s = Sigmoid (a)  y = Mul (x, s)") == {"alpha": 1.702}
    assert attributes("a = Mul (x, fifth)  b = Add (a, half)  y = Clip (b, zero, one)") == {
        "alpha": 0.2,
        "beta": 0.5,
    }
    assert attributes("a = Mul (x, tenth)  y = Max (x, a)") == {"alpha": 0.1}
    assert attributes("c = Greater (x, half)  y = Where (c, x, zero)") == {"alpha": 0.5}
    body = "a = Abs (x)  c = LessOrEqual (a, half)  y = Where (c, zero, x)"
    assert attributes(body) == {"lambd": 0.5, "bias": 0.0}


def test_name_metadata_and_report() -> None:
    model = _model('["first"] s = Sigmoid (x)  ["last"] y = Mul (x, s)')
    model.graph.node[1].doc_string = "the activation"
    model.graph.node[1].metadata_props.add(key="source", value="net.py:12")
    after, changes = _recognised(model)
    [node] = after.graph.node
    assert node.name == "last"
    assert node.doc_string == "the activation"
    assert [(p.key, p.value) for p in node.metadata_props] == [("source", "net.py:12")]
    assert changes == ["Swish last: recognised in 2 nodes (Sigmoid, Mul)"]


@pytest.mark.parametrize(
    "body",
    [
        "a = Clip (x, zero, six)  y = Identity (a)",  # it is one operator already
        "a = Mul (x, half)  y = Clip (a, zero, one)",  # a scale is linear, Clip is known
        "s = Sigmoid (x)  y = Add (x, s)",
        "s = Sigmoid (x)  t = Mul (s, s)  y = Mul (x, t)",
        "a = Add (x, one)  s = Sigmoid (a)  y = Mul (x, s)",  # not of x but of x + 1
        "n = Add (x, one)  s = Sigmoid (x)  y = Mul (n, s)",
        "e = Erf (x)  a = Add (e, one)  b = Mul (x, a)  y = Mul (half, b)",
        "e = Exp (x)  a = Add (e, two)  y = Log (a)",
        "e = Exp (x)  a = Mul (e, two)  b = Add (a, one)  y = Log (b)",
        "e = Exp (x)  a = Add (e, one)  y = Reciprocal (a)",  # sigmoid(-x) is no Sigmoid(x)
        "s = Softplus (x)  t = Tanh (s)  y = Mul (s, t)",
        "a = Mul (x, two)  y = Max (x, a)",  # a slope above 1 turns LeakyRelu round
        "c = Greater (x, one)  a = Mul (x, tenth)  y = Where (c, x, a)",
        "c = Greater (x, half)  y = Where (c, x, one)",
        "c = Greater (x, half)  y = Where (c, half, x)",
        "p = Greater (x, half)  q = Less (x, minus_one)  o = Or (p, q)  y = Where (o, x, zero)",
        "s = Softplus (x)  c = Greater (x, three)  y = Where (c, x, s)",  # 0.05 off at 3
        "z = Add (x, tenth)  a = Div (z, root2)  e = Erf (a)  b = Add (e, one)  c = Mul (x, b)"
        "y = Mul (c, half)",
        "n = Neg (x)  s = Softplus (n)  t = Tanh (s)  y = Mul (x, t)",
        "p = Greater (x, half)  d = Sub (x, half)  u = Where (p, d, zero)  q = Less (x, minus_one)"
        "s = Add (x, one)  v = Where (q, s, zero)  y = Add (u, v)",
        "a = Abs (x)  b = Add (a, two)  y = Div (x, b)",
        "a = Min (x, minus_one)  y = Max (a, six)",  # disjoint: a constant
    ],
)
def test_almost_but_not(body: str) -> None:
    after, changes = _recognised(_model(body))
    assert not [line for line in changes if not line.startswith(("Clip", "Relu"))]
    _same_outputs(_model(body), after)


def test_gated_by_another_tensor_is_no_swish() -> None:
    model = model_from_text(
        "g (float[2,8] x, float[2,8] z) => (float[2,8] y) { s = Sigmoid (z)  y = Mul (x, s) }"
    )
    _stays(model)


def test_integers_are_left_alone() -> None:
    model = model_from_text(
        "g (int32[2,8] x) => (int32[2,8] y) <int32 zero = {0}, int32 six = {6}>"
        "{ a = Max (x, zero)  y = Min (a, six) }"
    )
    _stays(model)


def test_operators_of_another_domain_are_left_alone() -> None:
    model = _model("s = Sigmoid (x)  y = Mul (x, s)")
    model.opset_import.add(domain="org.example", version=1)
    model.graph.node[0].domain = "org.example"
    graph = import_model(model)
    assert not recognise(graph).changes


def test_models_of_old_opsets_are_left_as_they_are() -> None:
    after, changes = _recognised(_model("s = Sigmoid (x)  y = Mul (x, s)", opset=14))
    assert changes == ["decomposed activations: left as they are in opset 14"]
    assert [node.op_type for node in after.graph.node] == ["Sigmoid", "Mul"]


def test_the_largest_pattern_wins() -> None:
    """The Softplus inside Mish and the Clip inside HardSwish are not taken on their own."""
    model = _model(
        "e = Exp (x)  a = Add (e, one)  s = Log (a)  t = Tanh (s)  m = Mul (x, t)"
        "b = Add (m, three)  r = Max (b, zero)  c = Min (r, six)  d = Div (c, six)  y = Mul (m, d)"
    )
    after, changes = _recognised(model)
    assert [node.op_type for node in after.graph.node] == ["Mish", "HardSwish"]
    assert [line.split(":")[1] for line in changes] == [
        " recognised in 5 nodes (Exp, Add, Log, Tanh, Mul)",
        " recognised in 5 nodes (Add, Max, Min, Div, Mul)",
    ]
    _same_outputs(model, after)


def test_a_factor_after_the_activation_stays() -> None:
    gelu = "a = Div (x, root2)  e = Erf (a)  b = Add (e, one)  c = Mul (x, b)  d = Mul (c, half)"
    model = _model(f"{gelu}  y = Mul (d, three)")
    after, _ = _recognised(model)
    assert [node.op_type for node in after.graph.node] == ["Gelu", "Mul"]
    _same_outputs(model, after)


def test_softplus_with_beta_loses_its_guard_only() -> None:
    """torch.export writes where(beta x > 20, x, softplus(beta x) / beta)."""
    model = _model(
        "a = Mul (x, two)  s = Softplus (a)  d = Div (s, two)  c = Greater (a, twenty)"
        "y = Where (c, x, d)"
    )
    after, _ = _recognised(model)
    assert [node.op_type for node in after.graph.node] == ["Mul", "Softplus", "Div"]
    _same_outputs(model, after)


def test_two_of_a_kind_share_one_function() -> None:
    model = _model("s = Sigmoid (x)  a = Mul (x, s)  t = Sigmoid (a)  y = Mul (a, t)")
    after, changes = _recognised(model)
    assert [node.op_type for node in after.graph.node] == ["Swish", "Swish"]
    assert len(after.functions) == 1
    assert len(changes) == 2
    _same_outputs(model, after)


def _with_branches(then: str, before: str = "") -> onnx.ModelProto:
    return model_from_text(
        f"""g (float[2,8] x, bool flag) => (float[2,8] y) <float one = {{1}}> {{
            {before}
            y = If (flag) <
                then_branch = a () => (float[2,8] u) {{ {then} }},
                else_branch = b () => (float[2,8] v) {{ v = Neg (x) }}
            >
        }}"""
    )


def _branch(model: onnx.ModelProto) -> list[str]:
    [node] = [node for node in model.graph.node if node.op_type == "If"]
    graphs = {attribute.name: attribute.g for attribute in node.attribute}
    return [node.op_type for node in graphs["then_branch"].node]


def _run_branches(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    x = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)
    for flag in (True, False):
        feed = {"x": x, "flag": np.array(flag)}
        for y, z in zip(run_model(before, feed), run_model(after, feed), strict=True):
            np.testing.assert_allclose(z, y, rtol=1e-4, atol=1e-5)


def test_bodies_are_rewritten_inside() -> None:
    model = _with_branches("s = Sigmoid (x)  u = Mul (x, s)")
    after, changes = _recognised(model)
    assert _branch(after) == ["Swish"]
    assert len(after.functions) == 1
    assert len(changes) == 1
    _run_branches(model, after)


def test_a_pattern_across_the_border_of_a_body_stays() -> None:
    model = _with_branches("u = Mul (x, s)", before="s = Sigmoid (x)")
    after, changes = _recognised(model)
    assert _branch(after) == ["Mul"]
    assert not changes


def test_what_a_body_reads_is_not_taken_away() -> None:
    """exp(x) is in the middle of a Softplus outside and read inside."""
    outside = "e = Exp (x)  a = Add (e, one)  s = Log (a)"
    model = _with_branches("u = Mul (s, e)", before=outside)
    after, changes = _recognised(model)
    assert not changes
    _run_branches(model, after)


def test_a_loop_body() -> None:
    model = model_from_text(
        """g (float[2,8] x, int64 trips, bool go) => (float[2,8] y) {
            y = Loop (trips, go, x) <
                body = b (int64 i, bool c, float[2,8] h) => (bool d, float[2,8] k) {
                    d = Identity (c)  s = Sigmoid (h)  k = Mul (s, h) }
            >
        }"""
    )
    after, changes = _recognised(model)
    body = after.graph.node[0].attribute[0].g
    assert [node.op_type for node in body.node] == ["Identity", "Swish"]
    feed = {
        "x": np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32),
        "trips": np.array(3),
        "go": np.array(True),
    }
    np.testing.assert_allclose(run_model(after, feed)[0], run_model(model, feed)[0], rtol=1e-5)
    assert len(changes) == 1


# Normalisations. x has the shape [2, 3, 8]; the axes are attributes up to opset 17.
_NORMALISE = {
    "TorchScript": "m = ReduceMean <axes = [-1]> (x)  d = Sub (x, m)  s = Pow (d, two)"
    "v = ReduceMean <axes = [-1]> (s)  a = Add (v, eps)  r = Sqrt (a)  n = Div (d, r)",
    "x - mean twice": "m = ReduceMean <axes = [-1]> (x)  d = Sub (x, m)  d2 = Sub (x, m)"
    "s = Pow (d2, two)  v = ReduceMean <axes = [2]> (s)  a = Add (v, eps)  r = Sqrt (a)"
    "n = Div (d, r)",
    "everything twice": "m = ReduceMean <axes = [-1]> (x)  m2 = ReduceMean <axes = [2]> (x)"
    "d = Sub (x, m)  d2 = Sub (x, m2)  s = Mul (d2, d2)  v = ReduceMean <axes = [2]> (s)"
    "a = Add (eps, v)  r = Sqrt (a)  n = Div (d, r)",
    "reciprocal": "m = ReduceMean <axes = [2], keepdims = 1> (x)  d = Sub (x, m)  s = Mul (d, d)"
    "v = ReduceMean <axes = [2], keepdims = 1> (s)  a = Add (v, eps)  r = Sqrt (a)"
    "i = Reciprocal (r)  n = Mul (i, d)",
    "1 over": "m = ReduceMean <axes = [-1]> (x)  d = Sub (x, m)  s = Mul (d, d)"
    "v = ReduceMean <axes = [-1]> (s)  a = Add (v, eps)  r = Sqrt (a)  i = Div (one, r)"
    "n = Mul (d, i)",
    "powers": "m = ReduceMean <axes = [-1]> (x)  d = Sub (x, m)  s = Mul (d, d)"
    "v = ReduceMean <axes = [-1]> (s)  a = Add (v, eps)  r = Pow (a, half)  n = Div (d, r)",
    "negative power": "m = ReduceMean <axes = [-1]> (x)  d = Sub (x, m)  s = Mul (d, d)"
    "v = ReduceMean <axes = [-1]> (s)  a = Add (v, eps)  r = Pow (a, minus_half)"
    "n = Mul (d, r)",
    "cast before Pow": "m = ReduceMean <axes = [-1]> (x)  d = Sub (x, m)  f = Cast <to = 1> (d)"
    "s = Pow (f, two)  v = ReduceMean <axes = [-1]> (s)  a = Add (v, eps)  r = Sqrt (a)"
    "n = Div (d, r)",
}
_SCALE_AND_BIAS = {
    "both": ("t = Mul (n, scale)  y = Add (t, bias)", "float[8] scale, float[8] bias"),
    "swapped": ("t = Mul (scale, n)  y = Add (bias, t)", "float[8] scale, float[8] bias"),
    "ranks": ("t = Mul (n, scale)  y = Add (t, bias)", "float[1,1,8] scale, float[1,8] bias"),
    "one scale": ("t = Mul (n, scale)  y = Add (t, bias)", "float[1] scale, float[8] bias"),
    "scale": ("y = Mul (n, scale)", "float[8] scale"),
    "bias": ("y = Add (n, bias)", "float[8] bias"),
}


@pytest.mark.parametrize("opset", [15, 17])
@pytest.mark.parametrize("after_it", _SCALE_AND_BIAS)
@pytest.mark.parametrize("spelling", _NORMALISE)
def test_layer_normalization(spelling: str, after_it: str, opset: int) -> None:
    body, weights = _SCALE_AND_BIAS[after_it]
    model = _model(f"{_NORMALISE[spelling]}  {body}", opset, weights=weights)
    node = _becomes("LayerNormalization", model)
    assert node.domain == ("" if opset == 17 else ANN_DOMAIN)


@pytest.mark.parametrize("opset", [16, 17])
@pytest.mark.parametrize("spelling", _NORMALISE)
def test_layer_normalization_alone(spelling: str, opset: int) -> None:
    body = _NORMALISE[spelling].replace("n = ", "y = ")
    _becomes("LayerNormalization", _model(body, opset))


_RMS = {
    "torch.export": "s = Pow (x, two)  v = ReduceMean (s, last)  a = Add (v, eps)  r = Sqrt (a)"
    "i = Reciprocal (r)  n = Mul (x, i)  y = Mul (n, scale)",
    "TorchScript": "s = Mul (x, x)  v = ReduceMean (s, last)  a = Add (v, eps)  r = Sqrt (a)"
    "i = Div (one, r)  n = Mul (i, x)  y = Mul (scale, n)",
    "division": "s = Mul (x, x)  v = ReduceMean (s, last)  a = Add (v, eps)  r = Sqrt (a)"
    "n = Div (x, r)  y = Mul (scale, n)",
}


@pytest.mark.parametrize("opset", [18, 22])
@pytest.mark.parametrize("spelling", _RMS)
def test_rms_normalization(spelling: str, opset: int) -> None:
    weights = "float[8] scale, int64[1] last = {-1}"
    node = _becomes("RMSNormalization", _model(_RMS[spelling], opset, weights=weights))
    assert node.domain == ANN_DOMAIN


def test_rms_normalization_is_an_operator_since_opset_23() -> None:
    weights = "float[8] scale, int64[1] last = {-1}"
    after, _ = _recognised(_model(_RMS["torch.export"], 23, weights=weights))
    assert [(node.domain, node.op_type) for node in after.graph.node] == [("", "RMSNormalization")]
    assert not after.functions


_LAYER = (
    "m = ReduceMean {axes} (x)  d = Sub (x, m)  s = Mul (d, d)  v = ReduceMean {axes} (s)"
    "a = Add (v, eps)  r = Sqrt (a)  n = Div (d, r)"
)


@pytest.mark.parametrize("axes", ["[1,2]", "[-1,-2]", "[2,-2]"])
@pytest.mark.parametrize("opset", [15, 17])
def test_several_trailing_axes(axes: str, opset: int) -> None:
    body = _LAYER.replace("{axes}", f"<axes = {axes}>")
    weights = "float[3,8] scale, float[3,8] bias"
    model = _model(f"{body} t = Mul (n, scale)  y = Add (t, bias)", opset, weights=weights)
    node = _becomes("LayerNormalization", model)
    if opset == 17:
        assert {a.name: a.i for a in node.attribute if a.name == "axis"} == {"axis": -2}


def test_a_scale_along_one_of_two_axes_is_broadcast() -> None:
    body = _LAYER.replace("{axes}", "<axes = [1,2]>")
    model = _model(f"{body} y = Mul (n, scale)", weights="float[3,1] scale")
    _becomes("LayerNormalization", model)


def test_dynamic_axes_but_a_known_scale() -> None:
    body = _LAYER.replace("{axes}", "<axes = [-1]>")
    for x in ("float[batch,tokens,8]", "float[batch,tokens,width]"):
        model = _model(f"{body} y = Mul (n, scale)", x=x, weights="float[8] scale")
        after, _ = _recognised(model)
        assert [node.op_type for node in after.graph.node] == ["LayerNormalization"]


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("y = Identity (n)", ""),  # no scale says how long the axis is
        ("y = Mul (n, scale)", "float[1] scale"),
    ],
)
def test_an_axis_of_unknown_length_without_a_scale(body: str, weights: str) -> None:
    layer = _LAYER.replace("{axes}", "<axes = [-1]>")
    _stays(_model(f"{layer} {body}", x="float[batch,tokens,width]", weights=weights))


def test_keras_order() -> None:
    model = _model(
        "m = ReduceMean <axes = [-1]> (x)  d = Sub (x, m)  s = Mul (d, d)"
        "v = ReduceMean <axes = [-1]> (s)  a = Add (v, eps)  r = Sqrt (a)  i = Reciprocal (r)"
        "f = Mul (i, scale)  p = Mul (x, f)  q = Mul (m, f)  b = Sub (bias, q)  y = Add (p, b)",
        weights="float[8] scale, float[8] bias",
    )
    _becomes("LayerNormalization", model)


def test_keras_order_without_a_scale() -> None:
    model = _model(
        "m = ReduceMean <axes = [-1]> (x)  d = Sub (x, m)  s = Mul (d, d)"
        "v = ReduceMean <axes = [-1]> (s)  a = Add (v, eps)  r = Sqrt (a)  f = Reciprocal (r)"
        "p = Mul (f, x)  q = Mul (f, m)  b = Sub (bias, q)  y = Add (b, p)",
        weights="float[8] bias",
    )
    _becomes("LayerNormalization", model)


def test_half_precision_that_is_computed_in_float() -> None:
    """As language models write it: the casts belong to the normalisation."""
    body = (
        "f = Cast <to = 1> (x)  s = Pow (f, two)  v = ReduceMean (s, last)  a = Add (v, eps)"
        "r = Sqrt (a)  i = Reciprocal (r)  n = Mul (f, i)  h = Cast <to = 10> (n)"
        "y = Mul (scale, h)"
    )
    text = (
        "g (float16[2,3,8] x) => (float16[2,3,8] y) <float two = {2}, float eps = {0.00001},"
        f"int64[1] last = {{-1}}, float16[8] scale = {{1,2,3,4,5,6,7,8}}> {{ {body} }}"
    )
    model = model_from_text(text, 18)
    _becomes("RMSNormalization", model, rtol=2e-3)


@pytest.mark.parametrize("opset", [15, 17])
def test_normalisations_in_double_precision(opset: int) -> None:
    body = _LAYER.replace("{axes}", "<axes = [-1]>") + "y = Add (n, half)"
    _becomes("LayerNormalization", _model(body, opset, x="double[2,3,8]"))


def test_the_function_computes_double_precision_in_double() -> None:
    """A function that computed in float would be off by 1e-7."""
    body = _LAYER.replace("{axes}", "<axes = [-1]>") + "y = Add (n, half)"
    model = _model(body, 15, x="double[2,3,8]")
    model.graph.initializer.remove(next(t for t in model.graph.initializer if t.name == "eps"))
    epsilon = np.array(np.float32(1e-5), np.float64)  # attributes are float32
    model.graph.initializer.append(onnx.numpy_helper.from_array(epsilon, "eps"))
    _same_outputs(model, _recognised(model)[0], rtol=1e-12, atol=1e-12)


def test_readers_of_shared_tensors_are_up_to_date() -> None:
    """Passes that come later ask who reads a tensor."""
    body = "a = Max (x, zero)  b = Add (a, half)  c = Mul (x, half)  y = Sub (b, c)"
    graph = import_model(onnx.shape_inference.infer_shapes(_model(body)))
    recognise(graph)
    tensors = graph.tensors()
    assert sorted(node.op for node in tensors["x"].outputs) == ["Mul", "Relu"]
    assert [node.op for node in tensors["a"].inputs] == ["Relu"]


def test_a_constant_shared_with_what_stays_keeps_that_reader() -> None:
    body = "h = Mul (x, half)  a = Div (h, root2)  e = Erf (a)  b = Add (e, one)  c = Mul (h, b)"
    graph = import_model(onnx.shape_inference.infer_shapes(_model(f"{body}  y = Mul (c, half)")))
    half = graph.tensors()["half"]
    recognise(graph)
    assert [node.outputs[0].name for node in half.outputs] == ["h"]


_AT_AXIS_1 = {
    "ConvNeXt": _LAYER.replace("{axes}", "<axes = [1], keepdims = 1>"),
    "x - mean twice": "m = ReduceMean <axes = [-3]> (x)  d = Sub (x, m)  d2 = Sub (x, m)"
    "s = Pow (d2, two)  v = ReduceMean <axes = [1]> (s)  a = Add (v, eps)  r = Sqrt (a)"
    "n = Div (d, r)",
    "flax": "m = ReduceMean <axes = [1]> (x)  s = Mul (x, x)  v = ReduceMean <axes = [1]> (s)"
    "q = Mul (m, m)  w = Sub (v, q)  c = Max (w, zero)  a = Add (c, eps)  r = Sqrt (a)"
    "i = Reciprocal (r)  d = Sub (x, m)  n = Mul (d, i)",
}


@pytest.mark.parametrize("opset", [15, 17])
@pytest.mark.parametrize("spelling", _AT_AXIS_1)
@pytest.mark.parametrize("x", ["float[2,8,3,5]", "float[batch,8,height,width]"])
def test_channels_that_are_axis_1(spelling: str, opset: int, x: str) -> None:
    """ONNX's operator has no such axis, so the function stands for it."""
    weights = "float[8,1,1] scale, float[8,1,1] bias"
    body = f"{_AT_AXIS_1[spelling]}  t = Mul (scale, n)  y = Add (t, bias)"
    node = _becomes("LayerNormalization", _model(body, opset, x=x, weights=weights))
    assert node.domain == ANN_DOMAIN
    _becomes("LayerNormalization", _model(_AT_AXIS_1[spelling].replace("n =", "y ="), opset, x=x))


@pytest.mark.parametrize("opset", [16, 23])
def test_root_mean_square_of_channels_that_are_axis_1(opset: int) -> None:
    mean = "ReduceMean <axes = [1]> (s)" if opset < 18 else "ReduceMean (s, channels)"
    body = f"s = Mul (x, x)  v = {mean}  a = Add (v, eps)  r = Sqrt (a)  n = Div (x, r)"
    weights = "float[8,1] scale, int64[1] channels = {1}"
    model = _model(f"{body}  y = Mul (n, scale)", opset, x="float[2,8,6]", weights=weights)
    assert _becomes("RMSNormalization", model).domain == ANN_DOMAIN


def test_a_scale_behind_the_channels_is_none_of_the_channels() -> None:
    layer = _AT_AXIS_1["ConvNeXt"]
    model = _model(f"{layer} y = Mul (n, scale)", x="float[2,8,8,8]", weights="float[8] scale")
    after, _ = _recognised(model)
    assert [node.op_type for node in after.graph.node] == ["LayerNormalization", "Mul"]
    _same_outputs(model, after)


_MEAN = "m = ReduceMean <axes = [2]> (x)"
_SQUARES = "s = Mul (x, x)  v = ReduceMean <axes = [2]> (s)  q = Mul (m, m)  w = Sub (v, q)"
_OF_SUMS = (
    "u0 = ReduceSum <keepdims = 0> (x, last)  u = Div (u0, eight)  m = Unsqueeze (u, last)"
    "s = Mul (x, x)  v0 = ReduceSum <keepdims = 0> (s, last)  v1 = Unsqueeze (v0, last)"
    "v = Mul (v1, eighth)"
)
_FLAX = {
    "the least is 0": f"{_MEAN} {_SQUARES} c = Max (zero, w)  a = Add (c, eps)  r = Sqrt (a)"
    "i = Reciprocal (r)  f = Mul (i, scale)  d = Sub (x, m)  n = Mul (d, f)  y = Add (n, bias)",
    "Relu": f"{_MEAN} {_SQUARES} c = Relu (w)  a = Add (c, eps)  r = Sqrt (a)"
    "i = Div (one, r)  d = Sub (x, m)  f = Mul (scale, i)  n = Mul (f, d)  y = Add (n, bias)",
    "no least": f"{_MEAN} {_SQUARES} a = Add (w, eps)  r = Sqrt (a)  d = Sub (x, m)"
    "n = Div (d, r)  t = Mul (n, scale)  y = Add (t, bias)",
    "Pow": f"{_MEAN} s = Pow (x, two)  v = ReduceMean <axes = [-1]> (s)  q = Pow (m, two)"
    "w = Sub (v, q)  a = Add (w, eps)  r = Pow (a, minus_half)  d = Sub (x, m)  n = Mul (d, r)"
    "t = Mul (n, scale)  y = Add (t, bias)",
    "sums": f"{_OF_SUMS} q = Mul (m, m)  w = Sub (v, q)  c = Max (w, zero)  a = Add (c, eps)"
    "r = Sqrt (a)  i = Reciprocal (r)  f = Mul (i, scale)  d = Sub (x, m)  n = Mul (d, f)"
    "y = Add (n, bias)",
    "Keras' order": f"{_MEAN} {_SQUARES} a = Add (w, eps)  r = Sqrt (a)  i = Reciprocal (r)"
    "f = Mul (i, scale)  p = Mul (x, f)  g = Mul (m, f)  b = Sub (bias, g)  y = Add (p, b)",
}


@pytest.mark.parametrize("opset", [15, 17])
@pytest.mark.parametrize("spelling", _FLAX)
def test_the_variance_as_a_difference_of_means(spelling: str, opset: int) -> None:
    weights = "float[8] scale, float[8] bias, float eight = {8}, float eighth = {0.125}"
    model = _model(_FLAX[spelling], opset, weights=f"{weights}, int64[1] last = {{2}}")
    _becomes("LayerNormalization", model)


@pytest.mark.parametrize(
    "means",
    [
        "m0 = ReduceMean <axes = [2], keepdims = 0> (x)  m = Unsqueeze (m0, last)  d = Sub (x, m)"
        "s = Mul (d, d)  v0 = ReduceMean <axes = [2], keepdims = 0> (s)  v = Unsqueeze (v0, last)",
        "m0 = ReduceMean <axes = [2], keepdims = 0> (x)  m1 = Reshape (m0, ones)"
        "m = Expand (m1, whole)  d = Sub (x, m)  s = Mul (d, d)"
        "v0 = ReduceMean <axes = [2], keepdims = 0> (s)  v = Reshape (v0, ones)",
        "m0 = ReduceSum (x, last)  m = Mul (m0, eighth)  d = Sub (x, m)  s = Pow (d, two)"
        "v0 = ReduceSum (s, last)  v = Div (v0, eight)",
    ],
)
def test_means_as_jax_writes_them(means: str) -> None:
    model = _model(
        f"{means}  a = Add (v, eps)  r = Sqrt (a)  n = Div (d, r)  t = Mul (n, scale)"
        "y = Add (t, bias)",
        weights="float[8] scale, float[8] bias, float eight = {8}, float eighth = {0.125},"
        "int64[1] last = {2}, int64[3] ones = {2, 3, 1}, int64[3] whole = {2, 3, 8}",
    )
    _becomes("LayerNormalization", model)


@pytest.mark.parametrize(
    ("reason", "body", "weights"),
    [
        ("the first axis", _LAYER.replace("{axes}", "<axes = [0]>") + "y = Neg (n)", ""),
        (
            "a sum that is no mean",
            "u = ReduceSum (x, last)  m = Div (u, six)  d = Sub (x, m)  s = Mul (d, d)"
            "v = ReduceMean <axes = [2]> (s)  a = Add (v, eps)  r = Sqrt (a)  y = Div (d, r)",
            "int64[1] last = {2}",
        ),
        (
            "the variance of something else",
            "m = ReduceMean <axes = [2]> (x)  z = Neg (x)  s = Mul (z, z)"
            "v = ReduceMean <axes = [2]> (s)  q = Mul (m, m)  w = Sub (v, q)  a = Add (w, eps)"
            "r = Sqrt (a)  d = Sub (x, m)  y = Div (d, r)",
            "",
        ),
        (
            "a mean that is broadcast along another axis",
            "u = ReduceMean <axes = [2], keepdims = 0> (x)  m = Unsqueeze (u, first)"
            "d = Sub (x, m)  s = Mul (d, d)  v = ReduceMean <axes = [2]> (s)  a = Add (v, eps)"
            "r = Sqrt (a)  y = Div (d, r)",
            "int64[1] first = {0}",
        ),
        (
            "two axes with one between",
            _LAYER.replace("{axes}", "<axes = [0,2]>") + "y = Neg (n)",
            "",
        ),
        (
            "different axes",
            "m = ReduceMean <axes = [1,2]> (x)  d = Sub (x, m)  s = Mul (d, d)"
            "v = ReduceMean <axes = [2]> (s)  a = Add (v, eps)  r = Sqrt (a)  y = Div (d, r)",
            "",
        ),
        (
            "the mean of something else",
            "z = Neg (x)  m = ReduceMean <axes = [2]> (z)  d = Sub (x, m)  s = Mul (d, d)"
            "v = ReduceMean <axes = [2]> (s)  a = Add (v, eps)  r = Sqrt (a)  y = Div (d, r)",
            "",
        ),
        (
            "x divided, not its deviation",
            "m = ReduceMean <axes = [2]> (x)  d = Sub (x, m)  s = Mul (d, d)"
            "v = ReduceMean <axes = [2]> (s)  a = Add (v, eps)  r = Sqrt (a)  y = Div (x, r)",
            "",
        ),
        (
            "epsilon outside the root",
            "m = ReduceMean <axes = [2]> (x)  d = Sub (x, m)  s = Mul (d, d)"
            "v = ReduceMean <axes = [2]> (s)  r = Sqrt (v)  a = Add (r, eps)  y = Div (d, a)",
            "",
        ),
        (
            "a cube",
            "m = ReduceMean <axes = [2]> (x)  d = Sub (x, m)  s = Pow (d, three)"
            "v = ReduceMean <axes = [2]> (s)  a = Add (v, eps)  r = Sqrt (a)  y = Div (d, r)",
            "",
        ),
        (
            "no dimension kept",
            "m = ReduceMean <axes = [0,1,2], keepdims = 0> (x)  d = Sub (x, m)  s = Mul (d, d)"
            "v = ReduceMean <axes = [0,1,2], keepdims = 0> (s)  a = Add (v, eps)  r = Sqrt (a)"
            "y = Div (d, r)",
            "",
        ),
        (
            "epsilon per element",
            "m = ReduceMean <axes = [2]> (x)  d = Sub (x, m)  s = Mul (d, d)"
            "v = ReduceMean <axes = [2]> (s)  a = Add (v, e)  r = Sqrt (a)  y = Div (d, r)",
            "float[3,1] e = {0.1, 0.2, 0.3}",
        ),
    ],
)
def test_other_normalisations_stay(reason: str, body: str, weights: str) -> None:
    """What divides by its own root mean square is an RMSNormalization even so."""
    square = reason == "a mean that is broadcast along another axis"
    model = _model(body, weights=weights, x="float[8,8,8]" if square else "float[2,3,8]")
    after, _ = _recognised(model)
    is_rms = reason in ("different axes", "the mean of something else", "a sum that is no mean")
    is_rms = is_rms or square
    ops = [node.op_type for node in after.graph.node]
    assert "LayerNormalization" not in ops
    assert ("RMSNormalization" in ops) == is_rms
    _same_outputs(model, after)


@pytest.mark.parametrize(
    ("body", "ops"),
    [
        ("t = Mul (n, scale)  y = Add (t, per_token)", ["LayerNormalization", "Add"]),
        ("t = Mul (n, per_token)  y = Add (t, bias)", ["LayerNormalization", "Mul", "Add"]),
        ("t = Add (n, bias)  y = Mul (t, scale)", ["LayerNormalization", "Mul"]),
        ("t = Mul (n, n)  y = Add (t, bias)", ["LayerNormalization", "Mul", "Add"]),
        ("t = Mul (n, x)  y = Add (t, bias)", ["LayerNormalization", "Mul", "Add"]),
    ],
)
def test_what_follows_but_is_no_scale_or_bias_stays(body: str, ops: list[str]) -> None:
    weights = "float[8] scale, float[8] bias, float[3,1] per_token"
    body = f"{_NORMALISE['TorchScript']} {body}"
    model = _model(body, weights=weights)
    after, _ = _recognised(model)
    assert [node.op_type for node in after.graph.node] == ops
    _same_outputs(model, after)


def test_a_deviation_that_is_used_elsewhere_stays() -> None:
    _stays(_model(f"{_NORMALISE['TorchScript']} y = Add (n, d)"))
