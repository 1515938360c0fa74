"""The structures that networks are made of, compiled whole: what is converted, what is encoded,
what is kept and why, and how close the outputs stay.

With N = 32 levels a neuron of least squared error on values of a bell-shaped distribution is off by
2 to 4 % of them (root mean square); independent errors of a few neurons in a row add up as squares.
``CLOSE`` leaves room for four such neurons.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from helpers import model_from_text, run_model
from onnx import defs
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.errors import ModelError, SnnCompileError
from snn_compile.compiler.model_io import load
from snn_compile.compiler.running.session import make_session
from snn_compile.passes.analysis.operators import Role, with_role
from snn_compile.passes.graph.protos import nodes_below

CLOSE = 0.08
ACTIVATIONS = with_role(Role.ACTIVATION)
CONVS = "float[4,4,3,3] w, float[4,4,3,3] v"


def compiled(model, feed=None, tmp_path=None, **options):
    """The result; valid, the same with kernels and function bodies, with the same interface."""
    samples = None
    if feed is not None:
        samples = tmp_path / "samples.npz"
        np.savez(samples, **feed)
    result = compile_model(model, samples, CompileOptions(**options))
    onnx.checker.check_model(result.model, full_check=True)
    assert list(result.model.graph.input) == list(model.graph.input)
    assert list(result.model.graph.output) == list(model.graph.output)
    assert result.report.verification.claims
    left = Counter(node.op_type for node in nodes_below(result.model.graph))
    analog = ("kept", "shortcut")
    kept = Counter(line.op for line in result.report.coverage.lines if line.status in analog)
    assert {op: left[op] for op in ACTIVATIONS if left[op]} == {
        op: kept[op] for op in ACTIVATIONS if kept[op]
    }
    return result


def lines(result):
    """The operators in their order, each with what became of it."""
    return [f"{line.op} {line.status}" for line in result.report.coverage.lines]


def reasons(result):
    return {line.op: line.reason for line in result.report.coverage.lines if line.reason}


def error(result):
    return max(output.relative_l2 for output in result.report.verification.outputs)


def between(body, weights="", dims="N,4,8,8"):
    """The body makes s from r, the spikes of a neuron; a convolution reads it."""
    return model_from_text(f"""
        g (float[{dims}] x) => (float[A,B,C,D] y) <{CONVS}{weights and ", " + weights}> {{
            a = Conv (x, w) r = Relu (a) {body} y = Conv (s, v) }}""")


#: Structures that hand spikes on, so that nothing is encoded.
MOVING = {
    "MaxPool": ("s = MaxPool <kernel_shape = [2,2], strides = [2,2]> (r)", ""),
    "Resize, nearest": ('s = Resize <mode = "nearest"> (r, , f)', "float[4] f = {1,1,2,2}"),
    "Pad": ("s = Pad (r, p)", "int64[8] p = {0,0,1,1,0,0,1,1}"),
    "Pad, reflect": ('s = Pad <mode = "reflect"> (r, p)', "int64[8] p = {0,0,1,1,0,0,1,1}"),
    "Transpose": ("s = Transpose <perm = [0,1,3,2]> (r)", ""),
    "Reshape": ("s = Reshape (r, d)", "int64[4] d = {0,4,4,9}"),
    "Slice": ("s = Slice (r, b, e, i)", "int64[1] b = {1}, int64[1] e = {6}, int64[1] i = {2}"),
    "Split and Concat": ("p, q = Split <axis = 1> (r) s = Concat <axis = 1> (q, p)", ""),
    "channel shuffle": (
        "h = Reshape (r, d) t = Transpose <perm = [0,2,1,3,4]> (h) s = Reshape (t, e)",
        "int64[5] d = {0,2,2,6,6}, int64[4] e = {0,4,6,6}",
    ),
    "DepthToSpace": (
        "c = Concat <axis = 1> (r, r, r, r) s = DepthToSpace <blocksize = 2> (c)",
        "",
    ),
}

#: Structures that combine values, so that what they make is encoded.
COMBINING = {
    "Add": ("s = Add (r, a)", ""),
    "AveragePool": ("s = AveragePool <kernel_shape = [2,2]> (r)", ""),
    "AveragePool, padded": (
        "s = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1], count_include_pad = 1> (r)",
        "",
    ),
    "Resize, linear": ('s = Resize <mode = "linear"> (r, , f)', "float[4] f = {1,1,2,2}"),
    "Mul by a gate": ("p = GlobalAveragePool (r) g = HardSigmoid (p) s = Mul (r, g)", ""),
    "InstanceNormalization": ("s = InstanceNormalization (r, i, j)", "float[4] i, float[4] j"),
    "LRN": ("s = LRN <size = 3> (r)", ""),
    "Pad with another value": (
        "s = Pad (r, p, c)",
        "int64[8] p = {0,0,1,1,0,0,1,1}, float c = {0.5}",
    ),
}


@pytest.mark.parametrize(("body", "weights"), MOVING.values(), ids=MOVING)
def test_spikes_that_are_only_moved_are_not_encoded_again(body, weights):
    result = compiled(between(body, weights))
    assert lines(result) == ["Conv kept", "Relu converted", "Conv converted"]
    assert reasons(result) == {"Conv": "reads the network's own input; --encode-input encodes it"}
    assert error(result) < CLOSE


@pytest.mark.parametrize(("body", "weights"), COMBINING.values(), ids=COMBINING)
def test_analog_values_are_encoded_for_the_convolution(body, weights):
    result = compiled(between(body, weights))
    assert [line for line in lines(result) if line.startswith("Conv")] == [
        "Conv kept",
        "Conv encoded",
    ]
    assert "Relu converted" in lines(result)
    assert error(result) < CLOSE
    alone = compiled(between(body, weights), encode="activations")
    assert lines(alone)[-1] == "Conv kept"
    assert "analog" in alone.report.coverage.lines[-1].reason


def test_of_a_concat_only_the_analog_part_is_encoded():
    result = compiled(
        model_from_text(f"""
        g (float[N,4,8,8] x) => (float[N,4,4,4] y) <{CONVS}, float[4,8,3,3] u> {{
            a = Conv (x, w) r = Relu (a) s = Concat <axis = 1> (r, a) y = Conv (s, u) }}""")
    )
    assert lines(result) == ["Conv kept", "Relu converted", "Conv encoded"]
    encoders = [n for n in result.report.neurons if n.source_op == "Encoder"]
    assert len(encoders) == 1
    assert error(result) < CLOSE


def test_residual_network():
    result = compiled(
        model_from_text("""
        g (float[N,3,8,8] x) => (float[N,5] y)
            <float[4,3,3,3] w, float[4,4,3,3] v, float[4,4,3,3] u, float[5,4] h, float[4] s,
             float[4] b, float[4] mean, float[4] var> {
            a = Conv <pads = [1,1,1,1]> (x, w) n = BatchNormalization (a, s, b, mean, var)
            r = Relu (n)
            c = Conv <pads = [1,1,1,1]> (r, v) m = BatchNormalization (c, s, b, mean, var)
            q = Relu (m) d = Conv <pads = [1,1,1,1]> (q, u) t = Add (d, r) z = Relu (t)
            p = GlobalAveragePool (z) f = Flatten (p) y = Gemm <transB = 1> (f, h) }""")
    )
    assert lines(result) == [
        *("Conv kept", "Relu shortcut", "Relu converted", "Conv converted", "Relu converted"),
        *("Conv converted", "Relu converted", "Gemm encoded"),
    ]
    assert error(result) < CLOSE


LINEAR = {
    "grouped Conv": ("y = Conv <group = 2> (r, w)", "float[6,2,3,3] w", "N,4,6,6"),
    "depthwise Conv": ("y = Conv <group = 4> (r, w)", "float[8,1,3,3] w", "N,4,6,6"),
    "dilated Conv": (
        "y = Conv <dilations = [2,2], pads = [1,2,1,2]> (r, w)",
        "float[4,4,3,3] w",
        "N,4,6,6",
    ),
    "Conv 1-D": ("y = Conv (r, w)", "float[4,4,3] w", "N,4,9"),
    "Conv 3-D": ("y = Conv (r, w)", "float[4,4,2,2,2] w", "N,4,4,4,4"),
    "ConvTranspose": (
        "y = ConvTranspose <strides = [2,2], output_padding = [1,1]> (r, w)",
        "float[4,3,3,3] w",
        "N,4,5,5",
    ),
    "grouped ConvTranspose": (
        "y = ConvTranspose <group = 2> (r, w)",
        "float[4,3,3,3] w",
        "N,4,5,5",
    ),
    "MatMul": ("y = MatMul (r, w)", "float[6,7] w", "N,5,6"),
    "MatMul of weights and a signal": ("y = MatMul (w, r)", "float[7,5] w", "N,5,6"),
    "Gemm": ("y = Gemm <alpha = 0.5, beta = 2.0> (r, w, b)", "float[6,7] w, float[7] b", "N,6"),
    "Einsum, a matrix product": (
        'y = Einsum <equation = "nij,jk->nik"> (r, w)',
        "float[6,7] w",
        "N,5,6",
    ),
    "Einsum, another": (
        'y = Einsum <equation = "nij,ij->ni"> (r, w)',
        "float[5,6] w",
        "N,5,6",
    ),
}


@pytest.mark.parametrize(("body", "weights", "dims"), LINEAR.values(), ids=LINEAR)
def test_linear_operators_read_spikes(body, weights, dims):
    rank = 2 if '->ni"' in body else len(dims.split(","))
    model = model_from_text(f"""
        g (float[{dims}] x) => (float[{",".join("ABCDE"[:rank])}] y) <{weights}> {{
            r = Softplus (x) {body} }}""")
    result = compiled(model)
    assert lines(result)[0] == "Softplus converted"
    assert lines(result)[1].endswith(" converted")
    assert result.report.coverage.spiking_share == 1
    assert error(result) < CLOSE


def test_attention_gets_spikes_at_both_inputs_of_its_products():
    result = compiled(
        model_from_text("""
        g (float[N,6,16] x) => (float[N,6,16] y)
            <float[16,16] wq, float[16,16] wk, float[16,16] wv, float[16,16] wo,
             float scale = {0.02}, float small = {0.05}, float[16] s, float[16] b> {
            n = LayerNormalization (x, s, b)
            q = MatMul (n, wq) k = MatMul (n, wk) v = MatMul (n, wv)
            t = Transpose <perm = [0,2,1]> (k) m = MatMul (q, t) c = Mul (m, scale)
            p = Softmax (c) o = MatMul (p, v) e = MatMul (o, wo) u = Mul (e, small)
            z = Add (u, x) y = Tanh (z) }""")
    )
    assert lines(result) == [
        *("LayerNormalization encoded", "MatMul encoded", "MatMul encoded", "MatMul encoded"),
        *("MatMul encoded", "Softmax encoded", "MatMul encoded", "MatMul encoded"),
        "Tanh converted",
    ]
    # n, q, k, Softmax, v, and the product before the last
    assert sum(n.source_op == "Encoder" for n in result.report.neurons) == 6
    products = [n for n in result.model.graph.node if n.op_type == "MatMul"]
    made = {o: n for n in result.model.graph.node for o in n.output}

    def spikes(name):
        node = made[name]
        return node.domain == "ai.snn" or (node.op_type == "Transpose" and spikes(node.input[0]))

    weights = {tensor.name for tensor in result.model.graph.initializer}
    assert all(spikes(name) for n in products for name in n.input if name not in weights)
    assert error(result) < 0.12  # a chain of seven neurons


def test_several_inputs_and_outputs(tmp_path):
    model = model_from_text("""
        g (float[N,6] x, float[N,4] z, int64[N] i) => (float[N,3] y, int64[N,1] best, float[N,3] u)
            <float[6,8] w, float[4,8] v, float[8,3] h, float[5,8] table> {
            a = MatMul (x, w) b = MatMul (z, v) e = Gather (table, i)
            c = Sigmoid (a) d = Selu (b) m = Mul (c, d) s = Add (m, e)
            y = MatMul (s, h) best = ArgMax <axis = 1> (y) u = MatMul (c, h) }""")
    rng = np.random.default_rng(1)
    feed = {
        "x": rng.standard_normal((64, 6)).astype(np.float32),
        "z": rng.standard_normal((64, 4)).astype(np.float32),
        "i": rng.integers(0, 5, 64),
    }
    result = compiled(model, feed, tmp_path)
    assert lines(result) == [
        *("MatMul kept", "MatMul kept", "Sigmoid converted", "Selu converted", "Sigmoid shortcut"),
        *("MatMul encoded", "MatMul converted"),
    ]
    assert [output.name for output in result.report.verification.outputs] == ["y", "u"]
    assert error(result) < CLOSE


def test_detection_head_with_what_follows_it(tmp_path):
    """Boxes, the best scores, and suppression of overlaps."""
    model = model_from_text("""
        g (float[1,3,8,8] x) => (float[1,128,4] boxes, float[1,3,5] top, int64[K,3] kept)
            <float[8,3,3,3] w, float[14,8,1,1] v, int64[5] d = {1,2,7,8,8},
             int64[3] flat = {1,-1,7},
             int64[3] parts = {2,2,3}, int64[2] sizes = {4,3}, int64[1] five = {5},
             float two = {2}, float half = {0.5},
             int64[1] ten = {10}, float[1] overlap = {0.5}, float[1] least = {0.5}> {
            a = Conv <pads = [1,1,1,1]> (x, w) g = Sigmoid (a) s = Mul (a, g)
            h = Conv (s, v) r = Reshape (h, d) t = Transpose <perm = [0,1,3,4,2]> (r)
            o = Sigmoid (t) xy, wh, score = Split <axis = 4> (o, parts)
            xy2 = Mul (xy, two) xy3 = Sub (xy2, half) wh2 = Mul (wh, two) wh3 = Mul (wh2, wh2)
            all = Concat <axis = 4> (xy3, wh3, score) rows = Reshape (all, flat)
            boxes, rest = Split <axis = 2> (rows, sizes)
            scores = Transpose <perm = [0,2,1]> (rest)
            top, where = TopK (scores, five)
            kept = NonMaxSuppression (boxes, scores, ten, overlap, least) }""")
    images = np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32)
    result = compiled(model, {"x": images}, tmp_path)
    assert lines(result) == ["Conv kept", "Swish converted", "Conv converted", "Sigmoid converted"]
    boxes, top = result.report.verification.outputs[:2]
    assert boxes.relative_l2 < CLOSE
    assert top.relative_l2 < CLOSE


IF = """
    g (float[N,4] x) => (float[N,3] y) <float[4,6] w, float[6,3] v, float zero = {0}> {
        a = MatMul (x, w) r = Relu (a) t = ReduceSum <keepdims = 0> (x) c = Greater (t, zero)
        y = If (c) <
            then_branch = yes () => (float[N,3] p) { s = Add (r, a) p = MatMul (s, v) },
            else_branch = no () => (float[N,3] q) {
                u = ReduceMax <keepdims = 0> (a) d = Greater (u, zero)
                q = If (d) <
                    then_branch = deep () => (float[N,3] m) { k = MatMul (r, v) m = Tanh (k) },
                    else_branch = deeper () => (float[N,3] n) { l = MatMul (r, v) n = Elu (l) }
                >
            }
        > }"""


def test_branches_of_if_are_compiled_inside_with_tensors_from_outside(tmp_path):
    model = model_from_text(IF)
    rng = np.random.default_rng(0)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    feed = {"x": rng.standard_normal((24, 4)).astype(np.float32)}
    result = compiled(model, feed, tmp_path)
    assert lines(result) == [
        *("MatMul kept", "Relu shortcut", "Relu converted", "MatMul encoded"),
        *("MatMul converted", "Tanh converted", "MatMul converted", "Elu converted"),
    ]
    assert error(result) < CLOSE
    branches = [n.op_type for n in nodes_below(result.model.graph)]
    assert branches.count("If") == 2
    sessions = [make_session(m, library=False) for m in (model, result.model)]
    taken = feed["x"].sum(axis=1) > 0
    for rows in (feed["x"][taken], feed["x"][~taken]):
        assert len(rows) > 4
        wanted, got = (np.array([s.run(None, {"x": x[None]})[0] for x in rows]) for s in sessions)
        assert np.linalg.norm(got - wanted) < CLOSE * np.linalg.norm(wanted)


KEPT = {
    "Loop": (
        """z = Loop (n, go, r) <body = b (int64 i, bool c, float[1,4] p) => (bool d, float[1,4] q) {
            d = Identity (c) m = MatMul (p, v) q = Tanh (m) }>""",
        "float[4,4] v, int64 n = {3}, bool go = {1}",
        {"MatMul": "inside the body of Loop", "Tanh": "inside the body of Loop"},
    ),
    "Scan": (
        """f, z = Scan <num_scan_inputs = 1, body = b (float[4] p, float[4] e)
            => (float[4] o, float[4] q) { o = Add (p, e) q = Sigmoid (o) }> (start, r)""",
        "float[4] start",
        {"Sigmoid": "inside the body of Scan"},
    ),
    "LSTM": (
        "k = Unsqueeze (r, zero) l = LSTM <hidden_size = 4> (k, v, u) z = Squeeze (l, zero)",
        "int64[1] zero = {0}, float[1,16,4] v, float[1,16,4] u",
        {"LSTM": "a recurrent layer"},
    ),
    "GRU": (
        "k = Unsqueeze (r, zero) l = GRU <hidden_size = 4> (k, v, u) z = Squeeze (l, zero)",
        "int64[1] zero = {0}, float[1,12,4] v, float[1,12,4] u",
        {"GRU": "a recurrent layer"},
    ),
    "RNN": (
        "k = Unsqueeze (r, zero) l = RNN <hidden_size = 4> (k, v, u) z = Squeeze (l, zero)",
        "int64[1] zero = {0}, float[1,4,4] v, float[1,4,4] u",
        {"RNN": "a recurrent layer"},
    ),
}


@pytest.mark.parametrize(("body", "weights", "expected"), KEPT.values(), ids=KEPT)
def test_what_is_kept_is_listed_with_the_reason(body, weights, expected):
    dims = "1,1,4" if "Squeeze" in body else "1,4"
    model = model_from_text(f"""
        g (float[1,4] x) => (float[{dims}] y) <float[4,4] w, {weights}> {{
            a = MatMul (x, w) r = Relu (a) {body} y = Abs (z) }}""")
    result = compiled(model)
    found = {op: reason for op, reason in reasons(result).items() if op in expected}
    assert found.keys() == expected.keys()
    for op, reason in expected.items():
        assert reason in found[op]
    assert "Relu converted" in lines(result)
    assert error(result) < 2 * CLOSE  # what comes back into a loop adds up
    with pytest.raises(ModelError, match="--strict allows none"):
        compiled(model, strict=True)


def with_functions(text):
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model, full_check=True)
    return model


HEADER = '<ir_version: 8, opset_import: ["" : 17, "f" : 1]>'


def test_functions_are_inlined_for_each_call_nested_and_with_attributes():
    model = with_functions(f"""{HEADER}
        g (float[N,4] x) => (float[N,4] y) {{
            [one] a = f.block <slope = 0.5> (x) [two] b = f.block <slope = 0.1> (a)
            [three] y = f.soft (b) }}
        <domain: "f", opset_import: ["" : 17, "f" : 1]>
        block <slope> (x) => (y) {{
            d = f.soft (x) s = Sub (x, d) y = LeakyRelu <alpha : float = @slope> (s) }}
        <domain: "f", opset_import: ["" : 17]>
        soft (x) => (y) {{ y = Softplus (x) }}""")
    result = compiled(model)
    assert Counter(lines(result)) == {"Softplus converted": 3, "LeakyRelu converted": 2}
    assert not [f for f in result.model.functions if f.domain == "f"]
    changes = next(p.changes for p in result.report.passes if p.name == "load")
    assert any("block one: inlined" in change for change in changes)
    assert error(result) < 2 * CLOSE


def test_a_function_without_activations_stays_a_function():
    model = with_functions(f"""{HEADER}
        g (float[N,4] x) => (float[N,4] y) {{ a = f.half (x) b = Relu (a) y = f.half (b) }}
        <domain: "f", opset_import: ["" : 17]>
        half (x) => (y) {{ c = Constant <value = float {{0.5}}> () y = Mul (x, c) }}""")
    result = compiled(model)
    assert lines(result) == ["Relu converted"]
    assert [f.name for f in result.model.functions if f.domain == "f"] == ["half"]
    assert [n.op_type for n in result.model.graph.node] == ["half", "ScaleFire", "half"]


def test_a_function_that_cannot_be_inlined_stays_and_is_reported(monkeypatch):
    """The inliner is native code and may refuse; what else the model has is compiled."""

    def refuse(*_):
        raise RuntimeError("no inlining today")

    monkeypatch.setattr(load.inliner, "inline_selected_functions", refuse)
    model = with_functions(f"""{HEADER}
        g (float[N,4] x) => (float[N,4] y) {{ a = f.soft (x) y = Relu (a) }}
        <domain: "f", opset_import: ["" : 17]>
        soft (x) => (y) {{ y = Softplus (x) }}""")
    result = compile_model(model)
    assert Counter(lines(result)) == {"Relu converted": 1, "Softplus kept": 1}
    assert "function" in reasons(result)["Softplus"]
    changes = next(p.changes for p in result.report.passes if p.name == "load")
    assert any("no inlining today" in change for change in changes)
    assert [f.name for f in result.model.functions if f.domain == "f"] == ["soft"]


FORMS = {
    "Relu": "Relu (x)",
    "Clip to 6": "Clip (x, zero, six)",
    "Clip to -1 and 2": "Clip (x, minus, two)",
    "Clip above": "Clip (x, , two)",
    "LeakyRelu": "LeakyRelu <alpha = 0.3> (x)",
    "PRelu": "PRelu (x, slope)",
    "Elu": "Elu <alpha = 0.6> (x)",
    "Selu": "Selu <alpha = 1.2, gamma = 0.8> (x)",
    "Celu": "Celu <alpha = 0.7> (x)",
    "ThresholdedRelu": "ThresholdedRelu <alpha = 0.4> (x)",
    "Softplus": "Softplus (x)",
    "Softsign": "Softsign (x)",
    "Sigmoid": "Sigmoid (x)",
    "Tanh": "Tanh (x)",
    "HardSigmoid": "HardSigmoid <alpha = 0.3, beta = 0.4> (x)",
    "HardSwish": "HardSwish (x)",
    "Shrink": "Shrink <lambd = 0.4, bias = 0.2> (x)",
    "Erf": "Erf (x)",
    "Mish": "Mish (x)",
    "Gelu": "Gelu (x)",
    "Gelu, tanh": 'Gelu <approximate = "tanh"> (x)',
    "Swish": "Swish <alpha = 1.5> (x)",
    "FastGelu": "com.microsoft.FastGelu (x)",
    "QuickGelu": "com.microsoft.QuickGelu <alpha = 1.3> (x)",
}


@pytest.mark.parametrize("call", FORMS.values(), ids=FORMS)
def test_no_activation_is_left_and_the_neuron_follows_it(call):
    opset = min(24, newest_opset())
    if "Swish <" in call and opset < 24:
        pytest.skip("the installed onnx or runtime does not know Swish")
    model = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>
        g (float[N,3,16] x) => (float[N,3,16] y) <float zero = {{0}}, float six = {{6}},
            float minus = {{-1}}, float two = {{2}}, float[3,1] slope = {{0.1, 0.2, 0.3}}> {{
            y = {call} }}""")
    result = compiled(model)
    assert lines(result) == [f"{model.graph.node[0].op_type} converted"]
    domains = {n.domain for n in result.model.graph.node if n.op_type in ACTIVATIONS}
    assert not domains
    assert {n.op_type for n in result.model.graph.node} & {
        "StaircaseFire",
        "ScaleFire",
        "DualScaleFire",
    }
    assert error(result) < 0.04  # one neuron; standard normal values


def newest_opset():
    """The newest that the installed onnx knows and the installed runtime runs."""
    for opset in range(defs.onnx_opset_version(), 17, -1):
        model = onnx.parser.parse_model(f"""
            <ir_version: 8, opset_import: ["" : {opset}]>
            g (float[1] x) => (float[1] y) {{ y = Neg (x) }}""")
        try:
            make_session(model, library=False)
        except SnnCompileError:
            continue
        return opset
    return 17


def cnn(opset):
    """A small network, in the spelling of an opset."""
    bounds = "<min = 0.0, max = 6.0> (c)" if opset < 11 else "(c, zero, six)"
    halve = "(d, factors)" if 9 <= opset < 11 else "(d, , factors)"
    names = {7: "Upsample <scales = [1.0, 1.0, 2.0, 2.0]> (d)", 9: f"Upsample {halve}"}
    names[11] = "Resize (d, factors, factors)"  # which demands a region, and ignores it here
    scaled = names.get(opset, "Resize (d, , factors)")
    constants = "float[4] factors = {1,1,2,2}, float zero = {0}, float six = {6}"
    return onnx.parser.parse_model(f"""
        <ir_version: {3 if opset < 9 else min(8, onnx.IR_VERSION)}, opset_import: ["" : {opset}]>
        g (float[N,3,8,8] x) => (float[N,4] y) <{constants}> {{
            a = Conv (x, w) n = BatchNormalization (a, s, b, mean, var) r = Relu (n)
            p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (r)
            c = Conv (p, v) q = Clip {bounds} m = GlobalAveragePool (q) d = Elu <alpha = 0.5> (c)
            e = {scaled} k = Conv (e, u) t = Sigmoid (k) z = Mul (t, m)
            i = GlobalAveragePool (z) f = Flatten (i) y = Gemm <transB = 1> (f, h, g) }}""")


def with_weights(model, as_inputs=False):
    rng = np.random.default_rng(0)
    shapes = dict.fromkeys(("s", "b", "mean", "var", "g"), (4,))
    shapes |= {"w": (4, 3, 3, 3), "v": (6, 4, 2, 2), "u": (6, 6, 1, 1), "h": (4, 6)}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape).astype(np.float32)
        values = np.abs(values) + np.float32(0.1) if name == "var" else values
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    if as_inputs:  # as IR version 3 demands
        for tensor in model.graph.initializer:
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            model.graph.input.append(value)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 15, 17, 21, "newest"])
def test_a_network_of_any_opset(opset):
    opset = newest_opset() if opset == "newest" else opset
    model = with_weights(cnn(opset), as_inputs=opset < 9)
    data_input = list(model.graph.input)[:1]
    result = compile_model(model)
    onnx.checker.check_model(result.model, full_check=True)
    assert list(result.model.graph.input) == data_input  # weights are constants now
    assert list(result.model.graph.output) == list(model.graph.output)
    assert lines(result) == [
        *("Conv kept", "Relu converted", "Conv converted", "Clip converted", "Elu converted"),
        *("Conv converted", "Sigmoid converted", "Gemm encoded"),
    ]
    assert error(result) < CLOSE


def test_what_keras_writes_for_a_normalisation_and_a_gelu_between_transposes():
    """tf2onnx leaves Transposes inside of what it could not turn to channels first."""
    result = compiled(
        model_from_text("""
        g (float[N,4,5,8] x) => (float[N,8,4,5] y)
            <float[8] scale, float[8] bias, float eps = {0.001}, float[8,8] w, float half = {0.5},
             float three = {3}, float c = {0.044715}, float p = {0.7978845834732056},
             float[1,1,1,1] one = {1}, float[8,8,1,1] v> {
            m = ReduceMean <axes = [-1]> (x) d = Sub (x, m) s = Mul (d, d)
            a = ReduceMean <axes = [-1]> (s) e = Add (a, eps) r = Sqrt (e) i = Reciprocal (r)
            f = Mul (i, scale) o = Mul (x, f) n = Neg (m) q = Mul (n, f) b = Add (q, bias)
            z = Add (o, b) k = MatMul (z, w)
            t0 = Transpose <perm = [0,3,1,2]> (k) u = Conv (t0, v) h = Mul (half, u)
            t1 = Transpose <perm = [0,2,3,1]> (u) t2 = Pow (t1, three) t3 = Mul (c, t2)
            t4 = Transpose <perm = [0,3,1,2]> (t3) t5 = Add (u, t4) t6 = Mul (p, t5)
            t7 = Tanh (t6) t8 = Add (one, t7) g1 = Mul (h, t8) y = Conv (g1, v) }""")
    )
    assert lines(result) == [
        *("LayerNormalization encoded", "MatMul encoded", "Conv encoded", "GeluTanh converted"),
        "Conv converted",
    ]
    assert error(result) < CLOSE


@pytest.mark.parametrize(
    "body",
    [
        "c = Mul (b, four) z = Identity (b)",  # read by two
        "c = Mul (b, each) z = Identity (x)",  # a constant per channel
        "c = Softmax <axis = 1> (b) z = Identity (x)",  # not element by element
        "e = Exp (x) c = Mul (b, e) z = Identity (x)",  # a second operand
    ],
)
def test_transposes_around_anything_else_stay(body):
    model = model_from_text(f"""
        g (float[N,3,3,3] x) => (float[N,3,3,3] y, float[N,3,3,3] u)
            <float four = {{4}}, float[3] each = {{1,2,3}}> {{
            r = Relu (x) a = Transpose <perm = [0,2,3,1]> (r) b = Sqrt (a) {body}
            y = Transpose <perm = [0,3,1,2]> (c) u = Neg (z) }}""")
    result = compiled(model)
    assert [n.op_type for n in result.model.graph.node].count("Transpose") == 2
    assert error(result) < CLOSE


def test_a_classifier_with_labels_and_a_map_of_probabilities(tmp_path):
    """As scikit-learn's converter writes it: no output is a tensor of floats."""
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
        g (float[N,4] x) => (int64[N] label, seq(map(int64, float)) probability)
            <int64[3] classes = {3, 5, 7}> {
            a = MatMul (x, w) r = Relu (a) b = MatMul (r, v) p = Softmax (b)
            i = ArgMax <axis = 1, keepdims = 0> (p) label = Gather (classes, i)
            probability = ai.onnx.ml.ZipMap <classlabels_int64s = [3, 5, 7]> (p) }""")
    rng = np.random.default_rng(0)
    for name, shape in (("w", (4, 6)), ("v", (6, 3))):
        values = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    x = rng.standard_normal((64, 4)).astype(np.float32)
    result = compiled(model, {"x": x}, tmp_path)
    assert lines(result) == [
        *("MatMul kept", "Relu converted", "MatMul converted", "Softmax kept"),
    ]
    assert result.report.verification.outputs == []
    wanted, got = (run_model(m, {"x": x}) for m in (model, result.model))
    assert np.mean(wanted[0] == got[0]) > 0.9
    differences = [abs(p[k] - q[k]) for p, q in zip(wanted[1], got[1], strict=True) for k in p]
    assert np.sqrt(np.mean(np.square(differences))) < 0.05
