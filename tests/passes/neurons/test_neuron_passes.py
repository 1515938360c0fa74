"""From activations to neurons: what is found, the quantised ANN, the SNN, and that both agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from helpers import export_model, model_from_text, run_model
from snn_compile.compiler.report.neurons import neuron_reports
from snn_compile.passes.analysis.activations import find_activations
from snn_compile.passes.canonicalise.canonicalise import canonicalise
from snn_compile.passes.graph.network import Network
from snn_compile.passes.graph.surgeon import export_network, import_model
from snn_compile.passes.lowering.function_bodies import function_bodies
from snn_compile.passes.neurons.encode_edges import encode_edges
from snn_compile.passes.neurons.insert_quant_clip import insert_quant_clip
from snn_compile.passes.neurons.neuron import (
    DualNeuron,
    OctaveNeuron,
    StaircaseNeuron,
    ThresholdNeuron,
)
from snn_compile.passes.neurons.replace_activation import replace_activation

CONV = "float[4,3,1,1] w"


def found(model):
    return find_activations(canonicalise(import_model(model)).graph)


def one_activation(activation, weights="", extra_inputs=""):
    return model_from_text(f"""
        g (float[N,4,5,5] x{extra_inputs}) => (float[N,4,5,5] y) <float four = {{4.0}}{weights}> {{
            a = Mul (x, four)
            y = {activation}
        }}""")


def neuron(theta, negative=None, levels=8, axis=1):
    def side(values, **sides):
        theta = np.asarray(values, np.float32)
        return ThresholdNeuron(theta, **sides, clip_rate=0.25, axis=axis, calibrator="test")

    positive = side(theta, levels_pos=levels)
    if negative is None:
        return positive
    other = side(negative, levels_pos=0, levels_neg=levels)
    return DualNeuron(positive, other, axis=axis, calibrator="test")


def compiled(model, **neurons):
    """The quantised ANN and the SNN, for neurons keyed by output tensor."""
    graph = canonicalise(import_model(model)).graph
    graph = insert_quant_clip(graph, neurons).graph
    quantised = export_model(graph)
    result = replace_activation(graph)
    snn = function_bodies(export_network(result.graph)).attached()
    for stage in (quantised, snn):
        onnx.checker.check_model(stage, full_check=True)
    return quantised, snn, result.changes


def feed(seed=0, shape=(3, 4, 5, 5)):
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    x.reshape(-1)[:6] = [0.0, -0.0, 1e-40, -1e-40, 1e30, -1e30]
    return {"x": x}


def ops(model):
    return [node.op_type for node in model.graph.node]


def assert_bit_exact(quantised, snn, inputs):
    expected = run_model(quantised, inputs)[0]
    for library in (True, False):
        got = run_model(snn, inputs, library=library)[0]
        np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))
    return expected


# --- which activations become neurons -------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "weights", "upper", "signed", "values"),
    [
        ("Relu (a)", "", np.inf, False, [0, 9]),
        ("Clip (a, lo, hi)", ", float lo = {0}, float hi = {6}", 6.0, False, [0, 6]),
        ("Clip (a, lo)", ", float lo = {0}", np.inf, False, [0, 9]),
        ("Clip (a, lo, hi)", ", float lo = {0}, float hi = {3.4028235e38}", np.inf, False, [0, 9]),
        ("LeakyRelu <alpha = 0.125> (a)", "", np.inf, True, [-1, 9]),
        ("PRelu (a, slope)", ", float[1] slope = {0.25}", np.inf, True, [-2, 9]),
        ("PRelu (a, slope)", ", float[4,1,1] slope", np.inf, True, None),
    ],
)
def test_finds(activation, weights, upper, signed, values):
    """``values``: of the function at -8 and 9."""
    neurons, kept = found(one_activation(activation, weights))
    assert not kept
    assert [(n.upper, n.signed, n.output, n.axis, n.channels) for n in neurons] == [
        (upper, signed, "y", 1, 4)
    ]
    function = neurons[0].function
    assert neurons[0].linear
    assert (None if function is None else function.evaluate(np.array([-8, 9])).tolist()) == values


@pytest.mark.parametrize(
    ("activation", "weights", "x", "value"),
    [
        ("Clip (a, lo, hi)", ", float lo = {-1}, float hi = {1}", -3.0, -1.0),
        ("Clip (a, , hi)", ", float hi = {1}", -3.0, -3.0),
        ("Sigmoid (a)", "", 0.0, 0.5),
        ("Elu (a)", "", -100.0, -1.0),
        ("HardSwish (a)", "", 3.0, 3.0),
    ],
)
def test_finds_functions_that_a_staircase_follows(activation, weights, x, value):
    neurons, kept = found(one_activation(activation, weights))
    assert not kept
    function = neurons[0].function
    assert not neurons[0].linear
    assert function is not None
    assert function.evaluate(np.array([x]))[0] == value


@pytest.mark.parametrize(
    ("activation", "weights", "inputs", "reason"),
    [
        ("Clip (a, lo, hi)", ", float lo = {1}, float hi = {0}", "", "bound"),
        ("Clip (a, lo, hi)", ", float lo = {0}", ", float hi", "not constant"),
        ("Clip (a, lo, hi)", ", float lo = {0}, float hi = {1e-35}", "", "too small"),
        ("LeakyRelu (a)", "", "", "slope is not finite"),
        ("PRelu (a, s)", ", float s = {inf}", "", "slope is not finite"),
    ],
)
def test_keeps_with_a_reason(activation, weights, inputs, reason):
    model = one_activation(activation, weights, inputs)
    if activation.startswith("Leaky"):
        model.graph.node[-1].attribute.append(onnx.helper.make_attribute("alpha", float("nan")))
    neurons, kept = found(model)
    assert not neurons
    assert len(kept) == 1
    assert reason in kept[0].reason


@pytest.mark.parametrize("reader", ["Log (s)", "Reciprocal (s)", "Div (x, s)"])
def test_keeps_what_must_not_be_silent(reader):
    neurons, kept = found(
        model_from_text(f"g (float[N,3] x) => (float[N,3] y) {{ s = Sigmoid (x) y = {reader} }}")
    )
    assert not neurons
    assert "infinite at a level of 0" in kept[0].reason
    neurons, _ = found(
        model_from_text("g (float[N,3] x) => (float[N,3] y) { s = Sigmoid (x) y = Div (s, x) }")
    )
    assert len(neurons) == 1


def test_integers_are_no_activations():
    neurons, kept = found(
        model_from_text("g (int32[N,3] x, int32 lo) => (int32[N,3] y) { y = Clip (x, lo) }")
    )
    assert not neurons
    assert not kept


def test_keeps_other_element_types():
    neurons, kept = found(model_from_text("g (double[N,3] x) => (double[N,3] y) { y = Relu (x) }"))
    assert not neurons
    assert "float64" in kept[0].reason


def test_finds_activations_in_both_branches_of_if():
    neurons, kept = found(
        model_from_text("""
        g (float[N,3] x, bool c) => (float[N,3] y) {
            y = If (c) <
                then_branch = t () => (float[N,3] p) { p = Relu (x) },
                else_branch = e () => (float[N,3] q) { q = Tanh (x) }
            >
        }""")
    )
    assert not kept
    assert sorted((item.op, item.output) for item in neurons) == [("Relu", "p"), ("Tanh", "q")]


def test_keeps_activations_in_the_body_of_a_loop():
    neurons, kept = found(
        model_from_text("""
        g (float[3] x, int64 n, bool c) => (float[3] y) {
            y = Loop (n, c, x) <body = b (int64 i, bool go, float[3] p) => (bool on, float[3] q) {
                on = Identity (go)
                q = Relu (p)
            }>
        }""")
    )
    assert not neurons
    assert kept[0].op == "Relu"
    assert "inside the body of Loop" in kept[0].reason


@pytest.mark.parametrize("arithmetic", ["", "n = Neg (a)", "n = Mean (a, b)"])
def test_channels_are_the_last_axis_behind_a_matmul(arithmetic):
    model = model_from_text(f"""
        g (float[N,7,3] x) => (float[N,7,4] y) <float[3,4] w, float[4] b> {{
            m = MatMul (x, w)
            a = Add (m, b)
            {arithmetic}
            y = Relu ({"n" if arithmetic else "a"})
        }}""")
    neurons, _ = found(model)
    assert (neurons[0].axis, neurons[0].channels) == (2, 4)


def test_unknown_channels_fall_back_to_the_tensor():
    model = model_from_text("g (float[N,C,7] x) => (float[N,C,7] y) { y = Relu (x) }")
    neurons, _ = found(model)
    assert (neurons[0].axis, neurons[0].channels) == (None, None)


# --- the two stages -----------------------------------------------------------------------------

CASES = {
    "relu": ("Relu (a)", "", neuron(0.7)),
    "relu per channel": ("Relu (a)", "", neuron([0.1, 0.5, 1.0, 3.0])),
    "one level": ("Relu (a)", "", neuron(1.0, levels=1)),
    "relu6": ("Clip (a, lo, hi)", ", float lo = {0}, float hi = {6}", neuron(0.75)),
    "relu6 per channel": (
        "Clip (a, lo, hi)",
        ", float lo = {0}, float hi = {6}",
        neuron([0.1, 0.5, 0.2, 0.75]),
    ),
    "clip without bound": ("Clip (a, lo)", ", float lo = {0}", neuron(0.3)),
    "leaky relu": ("LeakyRelu <alpha = 0.1> (a)", "", neuron(0.7, 1.3)),
    "prelu": ("PRelu (a, slope)", ", float[4,1,1] slope", neuron([0.1, 0.5, 1.0, 3.0], 0.4)),
    "prelu per channel": (
        "PRelu (a, slope)",
        ", float[4,1,1] slope = {0.25, 0, -0.5, 1.5}",
        neuron(0.5, [0.1, 0.2, 0.3, 0.4]),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_stages_agree_bit_for_bit(case):
    activation, weights, cell = CASES[case]
    quantised, snn, _ = compiled(one_activation(activation, weights), y=cell)
    assert "MultiThresholdFire" not in ops(quantised)
    assert {"Floor", "Clip"} <= set(ops(quantised))
    assert not {"Floor", "Clip", "Relu", "LeakyRelu", "PRelu"} & set(ops(snn))
    expected = assert_bit_exact(quantised, snn, feed())
    assert len(np.unique(expected)) > 2 or case == "one level"


# --- neurons with levels on both sides of 0 ------------------------------------------------------


def encoder_of(cell):
    """An encoder in front of a product, as both stages have it."""
    model = model_from_text("""
        g (float[N,4,5,5] x) => (float[N,4,5,5] y, float[N,2,5,5] z) <float[2,4,1,1] w> {
            a = Sin (x)
            z = Conv (a, w)
            y = Neg (a)
        }""")
    graph = encode_edges(canonicalise(import_model(model)).graph).graph
    activations, _ = find_activations(graph)
    assert [item.op for item in activations] == ["Encoder"]
    graph = insert_quant_clip(graph, {activations[0].output: cell}).graph
    quantised = export_model(graph)
    result = replace_activation(graph)
    snn = function_bodies(export_network(result.graph)).attached()
    for stage in (quantised, snn):
        onnx.checker.check_model(stage, full_check=True)
    return activations[0], quantised, snn


def both_sides(theta, levels_pos, levels_neg):
    theta = np.asarray(theta, np.float32)
    return ThresholdNeuron(theta, levels_pos, levels_neg, axis=1, calibrator="test")


def with_outputs(model, *names):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    for name in names:
        copy.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
    return copy


@pytest.mark.parametrize("theta", [0.21, [0.05, 0.1, 0.2, 0.7]], ids=["tensor", "channels"])
@pytest.mark.parametrize("sides", [(3, 2), (8, 0), (0, 5), (1, 1), (40, 7)], ids=str)
def test_encoder_of_either_sign_is_one_neuron(theta, sides):
    activation, quantised, snn = encoder_of(both_sides(theta, *sides))
    nodes = [node for node in snn.graph.node if node.op_type == "MultiThresholdFire"]
    assert [node.name for node in nodes] == [activation.name]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in nodes[0].attribute}
    assert (attributes["levels_pos"], attributes["levels_neg"]) == sides
    assert not {"Floor", "Relu", "Sub"} & set(ops(snn))
    assert "MultiThresholdFire" not in ops(quantised)
    x = feed(seed=3)
    x["x"].reshape(-1)[:4] = [0.0, -0.0, -1e-40, -0.01]  # silent: +0 in both
    stages = [
        with_outputs(stage, activation.input, activation.output) for stage in (quantised, snn)
    ]
    potential, expected = run_model(stages[0], x)
    for library in (True, False):
        got = run_model(stages[1], x, library=library)[1]
        np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))
    step = np.asarray(theta, np.float32).reshape(-1, 1, 1)
    spikes = np.minimum(
        np.floor(np.abs(potential) / step + np.float32(0.5)),
        np.where(potential < 0, sides[1], sides[0]),
    )
    np.testing.assert_array_equal(expected, (step * np.sign(potential) * spikes).astype(np.float32))


def test_provenance_of_an_encoder_of_either_sign():
    activation, _, snn = encoder_of(both_sides(0.5, 3, 2))
    node = next(node for node in snn.graph.node if node.op_type == "MultiThresholdFire")
    found = {p.key.removeprefix("snn_compile."): p.value for p in node.metadata_props}
    assert found["source_op"] == "Encoder"
    assert found["source_node"] == activation.name
    assert found["polarity"] == "both"
    report = neuron_reports(Network(snn))[0]
    assert (report.levels, report.polarity, report.source_op) == (5, "both", "Encoder")


SIGNED = """
    g (float[N,4,5,5] x{inputs}) => (float[N,4,5,5] y{outputs})
    <float theta = {{0.5}}, float other = {{0.25}}, float v0 = {{0.5}}, float v1 = {{{v1}}},
     float zero = {{0}}, float six = {{6}}, float n = {{{n}}}, float m = {{{m}}}> {{
        a = {above}
        d = Div (a, theta)
        s = Add (d, v0)
        f = Floor (s)
        c = Clip (f, zero, n)
        i = Neg ({mirrored})
        ai = {below}
        di = Div (ai, {divisor})
        si = Add (di, v1)
        fi = Floor (si)
        ci = Clip (fi, zero, m)
        k = {difference}
        y = Mul ({factors})
        {more}
    }}"""
SIGNED_EXACT = {
    "inputs": "",
    "outputs": "",
    "v1": "0.5",
    "n": "4",
    "m": "2",
    "above": "Relu (x)",
    "mirrored": "x",
    "below": "Relu (i)",
    "divisor": "theta",
    "difference": "Sub (c, ci)",
    "factors": "k, theta",
    "more": "",
}


@pytest.mark.parametrize("change", [{}, {"factors": "theta, k"}, {"n": "0"}, {"m": "0"}], ids=str)
def test_replaces_signed_chains_whoever_wrote_them(change):
    model = model_from_text(SIGNED.format(**{**SIGNED_EXACT, **change}))
    result = replace_activation(import_model(model))
    snn = function_bodies(export_network(result.graph)).attached()
    assert ops(snn) == ["MultiThresholdFire"]
    assert_bit_exact(model, snn, feed())


@pytest.mark.parametrize(
    "change",
    [
        {"v1": "0.25"},
        {"n": "0", "m": "0"},
        {"n": "2.5"},
        {"n": "inf"},
        {"m": "-1"},
        {"divisor": "other"},
        {"factors": "k, other"},
        {"difference": "Sub (ci, c)"},
        {"difference": "Add (c, ci)"},
        {"above": "Clip (x, zero, six)"},
        {"below": "Abs (i)"},
        {"inputs": ", float[N,4,5,5] x2", "mirrored": "x2"},
        {"outputs": ", float[N,4,5,5] z", "more": "z = Neg (k)"},
        {"outputs": ", float[N,4,5,5] z", "more": "z = Neg (ci)"},
    ],
    ids=str,
)
def test_leaves_signed_chains_that_mean_something_else(change):
    model = model_from_text(SIGNED.format(**{**SIGNED_EXACT, **change}))
    result = replace_activation(import_model(model))
    assert not [line for line in result.changes if " y" in line]
    snn = function_bodies(export_network(result.graph)).attached()
    assert not any(
        node.op_type == "MultiThresholdFire" and "y" in node.output for node in snn.graph.node
    )


@pytest.mark.parametrize(
    "scale", [np.float32(0.7), np.float32([0.5, 1, 2, 3])], ids=["one", "many"]
)
def test_two_staircases_give_the_bits_of_their_chains(scale):
    thresholds, levels = np.float32([0.25, 1, 2]), np.float32([0, 0.5, 1.25, 3])
    given = {"axis": 1, "calibrator": "by hand"}
    scale = np.asarray(scale)
    positive = StaircaseNeuron.of_staircase(scale, thresholds, levels, **given)
    negative = StaircaseNeuron.of_staircase(scale, -thresholds[::-1], -levels[::-1], **given)
    cell = DualNeuron(positive, negative, axis=1, calibrator="by hand")
    model = one_activation("PRelu (a, slope)", ", float[4,1,1] slope = {0.25, 0, -0.5, 1.5}")
    quantised, snn, changes = compiled(model, y=cell)
    assert ops(snn).count("StaircaseFire") == 2
    assert not {"PRelu", "Gather", "Relu"} & set(ops(snn))
    y = assert_bit_exact(quantised, snn, feed())
    assert len(np.unique(y)) > 4
    assert {line.polarity for line in neuron_reports(Network(snn))} == {"positive", "negative"}
    assert len([line for line in changes if "now StaircaseFire" in line]) == 2


@pytest.mark.parametrize("case", CASES)
def test_error_is_at_most_half_a_step_below_the_ceiling(case):
    """|y - q| <= theta / 2 for a potential in [0, N * theta]; the slope scales the other side."""
    activation, weights, cell = CASES[case]
    model = one_activation(activation, weights)
    _, snn, _ = compiled(model, y=cell)
    inputs = feed(seed=1)
    error = np.abs(run_model(model, inputs)[0] - run_model(snn, inputs)[0])
    potential = 4 * inputs["x"]

    def along_channels(values):
        return values if values.ndim == 0 else values.reshape(-1, 1, 1)

    positive = cell.positive if isinstance(cell, DualNeuron) else cell
    step = along_channels(positive.theta)
    inside = (potential >= 0) & (potential <= positive.levels_pos * step)
    assert inside.sum() > 20
    assert (error <= step / 2 * (1 + 1e-5))[inside].all()
    if isinstance(cell, DualNeuron):
        names = {tensor.name: tensor for tensor in model.graph.initializer}
        slope = onnx.numpy_helper.to_array(names["slope"]) if "slope" in names else np.float32(0.1)
        step = along_channels(cell.negative.theta)
        inside = (potential < 0) & (-potential <= cell.negative.levels_neg * step)
        assert inside.sum() > 20
        assert (error <= np.abs(slope) * step / 2 * (1 + 1e-5) + 1e-7)[inside].all()


def test_signed_neuron_has_negative_levels_of_its_own():
    _, snn, _ = compiled(one_activation("LeakyRelu <alpha = 0.1> (a)"), y=neuron(0.5, 2.0))
    levels = {
        tuple(
            a.i for name in ("levels_pos", "levels_neg") for a in node.attribute if a.name == name
        )
        for node in snn.graph.node
        if node.op_type == "MultiThresholdFire"
    }
    assert levels == {(8, 0), (0, 8)}
    x = np.full((1, 4, 5, 5), -1.0, np.float32)  # a = -4: two spikes of -2, times 0.1
    np.testing.assert_array_equal(run_model(snn, {"x": x}, library=True)[0], np.float32(0.1) * -4)


def test_provenance_is_on_the_neuron_and_the_users_metadata_stays():
    model = one_activation("Relu (a)")
    model.graph.node[1].name = "act"
    model.graph.node[1].metadata_props.add(key="pkg.user", value="kept")
    model.graph.node[1].doc_string = "the user's words"
    cell = replace(neuron([0.25, 0.5, 0.25, 0.5]), reason="the least error", error=0.125)
    _, snn, changes = compiled(model, y=cell)
    node = next(node for node in snn.graph.node if node.op_type == "MultiThresholdFire")
    assert node.name == "act"
    assert node.doc_string == "the user's words"
    assert {p.key: p.value for p in node.metadata_props} == {
        "pkg.user": "kept",
        "snn_compile.source_node": "act",
        "snn_compile.source_op": "Relu",
        "snn_compile.calibrator": "test",
        "snn_compile.theta": "0.25..0.5 over 4 channels",
        "snn_compile.clip_rate": "0.25",
        "snn_compile.error": "0.125",
        "snn_compile.reason": "the least error",
        "snn_compile.polarity": "positive",
    }
    assert changes == ["Relu act: now MultiThresholdFire act"]


def test_activation_that_is_an_output_and_read_inside():
    model = model_from_text("""
        g (float[N,4,5,5] x) => (float[N,4,5,5] y, float[N,4,5,5] z) {
            y = Relu (x)
            z = Neg (y)
        }""")
    quantised, snn, _ = compiled(model, y=neuron(0.5))
    assert [output.name for output in snn.graph.output] == ["y", "z"]
    for old, new in zip(run_model(quantised, feed()), run_model(snn, feed()), strict=True):
        np.testing.assert_array_equal(old, new)


CHAIN = """
    g (float[N,4,5,5] x) => (float[N,4,5,5] y{outputs})
    <float theta = {{0.5}}, float other = {{0.25}}, float v0 = {{{v0}}}, float zero = {{0}},
     float low = {{{low}}}, float n = {{{n}}}, float six = {{{six}}}>
    {{
        a = {act}
        d = Div (a, theta)
        s = Add ({add})
        f = Floor (s)
        c = Clip (f, low, n)
        y = Mul ({mul})
        {more}
    }}"""
EXACT = {
    "outputs": "",
    "v0": "0.5",
    "low": "0",
    "n": "4",
    "six": "6",
    "act": "Relu (x)",
    "add": "d, v0",
    "mul": "c, theta",
    "more": "",
}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"mul": "theta, c"},
        {"add": "v0, d"},
        {"v0": "0"},
        {"act": "Clip (x, zero, six)"},
        {"act": "Clip (x, zero, six)", "six": "1.75"},  # 1.75 / 0.5 + 0.5 fires level 4
    ],
    ids=str,
)
def test_replaces_equal_chains_whoever_wrote_them(change):
    model = model_from_text(CHAIN.format(**{**EXACT, **change}))
    result = replace_activation(canonicalise(import_model(model)).graph)
    snn = function_bodies(export_network(result.graph)).attached()
    assert ops(snn) == ["MultiThresholdFire"]
    assert_bit_exact(model, snn, feed())


@pytest.mark.parametrize(
    "change",
    [
        {"mul": "c, other"},
        {"n": "3.5"},
        {"n": "0"},
        {"low": "-1"},
        {"v0": "1"},
        {"v0": "-0.5"},
        {"act": "Abs (x)"},
        {"act": "Clip (x, zero, six)", "six": "1.7"},
        {"act": "Clip (x, other, six)"},
        {"more": "z = Neg (f)", "outputs": ", float[N,4,5,5] z"},
    ],
    ids=str,
)
def test_leaves_chains_that_mean_something_else(change):
    model = model_from_text(CHAIN.format(**{**EXACT, **change}))
    result = replace_activation(canonicalise(import_model(model)).graph)
    snn = function_bodies(export_network(result.graph)).attached()
    assert "MultiThresholdFire" not in ops(snn)
    assert not result.changes
    assert_bit_exact(model, snn, feed())


def test_function_bodies_raise_the_ir_version_only_where_needed():
    plain = one_activation("Relu (a)")
    plain.ir_version = 7
    assert function_bodies(Network(plain)).proto.ir_version == 7
    assert not plain.functions
    _, snn, _ = compiled(one_activation("Relu (a)"), y=neuron(0.5))
    assert [function.name for function in snn.functions] == ["MultiThresholdFire"]
    assert len(function_bodies(Network(snn)).proto.functions) == 1


THRESHOLDS = np.float32([-1, 0.25, 0.5, 2])
STAIRCASE = StaircaseNeuron.of_staircase(
    scale=np.float32([0.5, 1, 2, 3]),
    thresholds=THRESHOLDS,
    levels=np.float32([-1.5, 0, 0.5, 0.25, 3]),
    axis=1,
    calibrator="by hand",
    error=0.125,
)


@pytest.mark.parametrize(
    ("activation", "scale"),
    [
        ("Sigmoid (a)", STAIRCASE.scale),
        ("Sigmoid (a)", np.float32(0.7)),
        ("Relu (a)", np.float32(2)),
    ],
)
def test_staircase_neurons_give_the_bits_of_their_chain(activation, scale):
    neuron = replace(STAIRCASE, scale=np.array(scale))
    quantised, snn, changes = compiled(one_activation(activation), y=neuron)
    assert "StaircaseFire" in ops(snn)
    assert activation.split()[0] not in ops(quantised)
    assert_bit_exact(quantised, snn, feed())
    assert "now StaircaseFire" in changes[-1]
    node = next(node for node in snn.graph.node if node.op_type == "StaircaseFire")
    properties = {p.key: p.value for p in node.metadata_props}
    assert properties["snn_compile.source_op"] == activation.split()[0]
    assert properties["snn_compile.error"] == "0.125"


def test_a_staircase_is_the_table_of_its_levels():
    quantised, _, _ = compiled(
        one_activation("Sigmoid (a)"), y=replace(STAIRCASE, scale=np.ones((), np.float32))
    )
    model = onnx.ModelProto()
    model.CopyFrom(quantised)
    model.graph.output.append(onnx.helper.make_tensor_value_info("a", 1, None))
    y, a = run_model(model, feed())
    expected = STAIRCASE.levels[np.searchsorted(THRESHOLDS, a, side="right")]
    np.testing.assert_array_equal(y, expected)


STEPS = """
    g (float[N,4,5,5] x{inputs}) => (float[N,4,5,5] y{outputs})
        <float s = {{0.5}}, float rate = {{{rate}}}, float start = {{-1}}, float zero = {{0}},
         float three = {{{last}}}, float[4] table = {{{table}}}> {{
        scaled = Mul (x, rate)
        moved = Sub (scaled, {start})
        clipped = Clip (moved, {first}, three)
        cell = Cast <to = {type}> (clipped)
        level = Gather <axis = 0> (table, cell)
        y = Mul (level, s)
        {more}
    }}"""
STEPS_EXACT = {
    "inputs": "",
    "outputs": "",
    "rate": "4",
    "last": "3",
    "table": "-1, 0, 1, 5",
    "start": "start",
    "first": "zero",
    "type": "6",
    "more": "",
}


@pytest.mark.parametrize("change", [{}, {"rate": "0.3"}, {"table": "1, 1, 1, 1"}], ids=str)
def test_replaces_staircases_whoever_wrote_them(change):
    model = model_from_text(STEPS.format(**{**STEPS_EXACT, **change}))
    graph = import_model(model)
    snn = function_bodies(export_network(replace_activation(graph).graph)).attached()
    assert ops(snn) == ["StaircaseFire"]
    assert_bit_exact(model, snn, feed())


@pytest.mark.parametrize(
    "change",
    [
        {"last": "2"},
        {"rate": "-1"},
        {"type": "7"},
        {"table": "0, 1, inf, 2"},
        {"inputs": ", float z", "start": "z"},
        {"inputs": ", float z", "first": "z"},
        {"outputs": ", float[N,4,5,5] z", "more": "z = Neg (moved)"},
    ],
    ids=str,
)
def test_leaves_staircases_that_mean_something_else(change):
    model = model_from_text(STEPS.format(**{**STEPS_EXACT, **change}))
    result = replace_activation(import_model(model))
    assert not result.changes


OCTAVE = OctaveNeuron(
    scale=np.float32([0.5, 1, 2, 3]),
    linear=4,
    top_pos=12,
    axis=1,
    calibrator="by hand",
    error=0.125,
)


@pytest.mark.parametrize("scale", [OCTAVE.scale, np.float32(0.7)], ids=["channels", "one"])
@pytest.mark.parametrize("tops", [(12, 0), (6, 2), (0, 8)], ids=str)
def test_octave_neurons_give_the_bits_of_their_chain(scale, tops):
    above, below = tops
    neuron = replace(OCTAVE, scale=np.array(scale), top_pos=above, top_neg=below)
    quantised, snn, changes = compiled(one_activation("Relu (a)"), y=neuron)
    operator = "DualScaleFire" if below else "ScaleFire"
    assert ops(snn)[-1] == operator and "Relu" not in ops(quantised)
    y = assert_bit_exact(quantised, snn, feed())
    np.testing.assert_array_equal(
        y, on_levels(neuron, run_model(one_activation("Identity (a)"), feed())[0])
    )
    assert f"now {operator}" in changes[-1]
    properties = {p.key: p.value for p in snn.graph.node[-1].metadata_props}
    assert properties["snn_compile.source_op"] == "Relu"
    assert properties["snn_compile.error"] == "0.125"


def on_levels(neuron, x):
    """Scale times level, by the neuron's own account of its levels."""
    _, levels = neuron.staircase()
    y = np.empty_like(x)
    for channel in range(x.shape[1]):
        row = channel if neuron.scale.ndim else 0
        level = levels[neuron.level_of(x[:, channel], row)]
        y[:, channel] = neuron.unit_of(row) * level.astype(np.float32)
    return y


def test_two_octave_neurons_stand_for_a_leaky_relu():
    above = replace(OCTAVE, scale=np.array(0.3, np.float32))
    cell = DualNeuron(above, above.mirrored(), axis=1, calibrator="by hand")
    model = one_activation("LeakyRelu <alpha = 0.25> (a)")
    quantised, snn, _ = compiled(model, y=cell)
    assert {"ScaleFire", "DualScaleFire"} <= set(ops(snn))
    assert_bit_exact(quantised, snn, feed())


OCTAVES = """
    g (float[N,4,5,5] x{inputs}) => (float[N,4,5,5] y{outputs})
        <float s = {{{s}}}, float r = {{{r}}}, float low = {{{low}}}, float high = {{{high}}},
         float g = {{{g}}}, float least = {{{least}}}> {{
        t = Mul (x, r)
        c = Clip (t, low, high)
        {size}
        w = Mul ({magnitude}, g)
        m = Max (w, least)
        {sign}
        d = Sub ({shift}, {behind})
        k = Sub ({shift}, d)
        y = Mul (k, s)
        {more}
    }}"""
OCTAVES_EXACT = {
    "inputs": "",
    "outputs": "",
    "s": "0.5",
    "r": "2",
    "low": "0",
    "high": "12",
    "g": "4194304",
    "least": "12582912",
    "size": "",
    "magnitude": "c",
    "sign": "",
    "shift": "m",
    "behind": "c",
    "more": "",
}
BOTH_SIGNS = {
    "low": "-6",
    "size": "a = Abs (c)",
    "magnitude": "a",
    "sign": "p = Sign (c) n = Mul (p, m)",
    "shift": "n",
}


@pytest.mark.parametrize("change", [{}, BOTH_SIGNS, BOTH_SIGNS | {"high": "0"}], ids=str)
def test_replaces_octaves_whoever_wrote_them(change):
    model = model_from_text(OCTAVES.format(**{**OCTAVES_EXACT, **change}))
    graph = import_model(model)
    snn = function_bodies(export_network(replace_activation(graph).graph)).attached()
    assert ops(snn) == ["DualScaleFire" if change else "ScaleFire"]
    assert_bit_exact(model, snn, feed())


@pytest.mark.parametrize(
    "change",
    [
        {"r": "1.9"},
        {"s": "-0.5", "r": "-2"},
        {"high": "11"},
        {"high": "0"},
        {"low": "-6"},
        {"g": "4194303"},
        {"g": "4096"},
        {"least": "8388608"},
        {"behind": "t"},
        {"magnitude": "t"},
        BOTH_SIGNS | {"low": "0"},
        BOTH_SIGNS | {"sign": "p = Sign (x) n = Mul (p, m)"},
        BOTH_SIGNS | {"size": "a = Abs (x)"},
        {"outputs": ", float[N,4,5,5] z", "more": "z = Neg (d)"},
        {"outputs": ", float[N,4,5,5] c"},
        {"outputs": ", float[N,4,5,5] z", "more": "z = Neg (c)"},
    ],
    ids=str,
)
def test_leaves_octaves_that_mean_something_else(change):
    model = model_from_text(OCTAVES.format(**{**OCTAVES_EXACT, **change}))
    result = replace_activation(import_model(model))
    assert not result.changes


def test_neurons_inside_if_give_the_bits_of_their_chains():
    model = model_from_text("""
        g (float[N,4] x, bool c) => (float[N,4] y) {
            y = If (c) <
                then_branch = t () => (float[N,4] p) { p = Relu (x) },
                else_branch = e () => (float[N,4] q) { q = Tanh (x) }
            >
        }""")
    quantised, snn, _ = compiled(model, p=neuron(0.5), q=STAIRCASE)
    inner = [n.op_type for a in snn.graph.node[-1].attribute for n in a.g.node]
    assert sorted(inner) == ["MultiThresholdFire", "StaircaseFire"]
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    for condition in (True, False):
        assert_bit_exact(quantised, snn, {"x": x, "c": np.array(condition)})
