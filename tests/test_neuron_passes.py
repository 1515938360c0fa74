"""From activations to neurons: what is found, the quantised ANN, the SNN, and that both agree."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import model_from_text, run_model
from snn_compile.passes.activations import find_activations
from snn_compile.passes.canonicalise import canonicalise
from snn_compile.passes.graph import export_model, import_model
from snn_compile.passes.insert_quant_clip import insert_quant_clip
from snn_compile.passes.lower import lower
from snn_compile.passes.neuron import Branch, Neuron, PassContext
from snn_compile.passes.replace_activation import replace_activation

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
    def branch(values):
        return Branch(np.asarray(values, np.float32), 0.25)

    other = None if negative is None else branch(negative)
    return Neuron(branch(theta), other, levels, axis, "test")


def compiled(model, **neurons):
    """The quantised ANN and the SNN, for neurons keyed by output tensor."""
    graph = canonicalise(import_model(model)).graph
    graph = insert_quant_clip(graph, PassContext(neurons)).graph
    quantised = export_model(graph)
    result = replace_activation(graph)
    snn = lower(export_model(result.graph))
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
    ("activation", "weights", "upper", "signed"),
    [
        ("Relu (a)", "", np.inf, False),
        ("Clip (a, lo, hi)", ", float lo = {0}, float hi = {6}", 6.0, False),
        ("Clip (a, lo)", ", float lo = {0}", np.inf, False),
        ("Clip (a, lo, hi)", ", float lo = {0}, float hi = {3.4028235e38}", np.inf, False),
        ("LeakyRelu <alpha = 0.1> (a)", "", np.inf, True),
        ("PRelu (a, slope)", ", float[4,1,1] slope", np.inf, True),
    ],
)
def test_finds(activation, weights, upper, signed):
    neurons, kept = found(one_activation(activation, weights))
    assert not kept
    assert [(n.upper, n.signed, n.output, n.axis, n.channels) for n in neurons] == [
        (upper, signed, "y", 1, 4)
    ]


@pytest.mark.parametrize(
    ("activation", "weights", "inputs", "reason"),
    [
        ("Clip (a, lo, hi)", ", float lo = {-1}, float hi = {1}", "", "lower bound is -1"),
        ("Clip (a, , hi)", ", float hi = {1}", "", "lower bound is -inf"),
        ("Clip (a, lo, hi)", ", float lo = {0}, float hi = {0}", "", "not above 0"),
        ("Clip (a, lo, hi)", ", float lo = {0}", ", float hi", "not constant"),
        ("Sigmoid (a)", "", "", "no neuron for Sigmoid"),
        ("Softmax (a)", "", "", "no neuron for Softmax"),
        ("Elu (a)", "", "", "no neuron for Elu"),
    ],
)
def test_keeps_with_a_reason(activation, weights, inputs, reason):
    neurons, kept = found(one_activation(activation, weights, inputs))
    assert not neurons
    assert len(kept) == 1
    assert reason in kept[0].reason


def test_keeps_other_element_types():
    neurons, kept = found(model_from_text("g (double[N,3] x) => (double[N,3] y) { y = Relu (x) }"))
    assert not neurons
    assert "float64" in kept[0].reason


def test_lists_activations_in_subgraphs():
    model = model_from_text("""
        g (float[N,3] x, bool c) => (float[N,3] y) {
            y = If (c) <
                then_branch = t () => (float[N,3] p) { p = Relu (x) },
                else_branch = e () => (float[N,3] q) { q = Tanh (x) }
            >
        }""")
    neurons, kept = found(model)
    assert not neurons
    assert sorted((item.op, item.reason) for item in kept) == [
        ("Relu", "inside a control-flow body"),
        ("Tanh", "inside a control-flow body"),
    ]


def test_channels_are_the_last_axis_behind_a_matmul():
    model = model_from_text("""
        g (float[N,7,3] x) => (float[N,7,4] y) <float[3,4] w, float[4] b> {
            m = MatMul (x, w)
            a = Add (m, b)
            y = Relu (a)
        }""")
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
    assert len(np.unique(expected)) > 2 or cell.levels == 1


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

    step = along_channels(cell.positive.theta)
    inside = (potential >= 0) & (potential <= cell.levels * step)
    assert inside.sum() > 20
    assert (error <= step / 2 * (1 + 1e-5))[inside].all()
    if cell.negative is not None:
        names = {tensor.name: tensor for tensor in model.graph.initializer}
        slope = onnx.numpy_helper.to_array(names["slope"]) if "slope" in names else np.float32(0.1)
        step = along_channels(cell.negative.theta)
        inside = (potential < 0) & (-potential <= cell.levels * step)
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
    _, snn, changes = compiled(model, y=neuron([0.25, 0.5, 0.25, 0.5]))
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
    snn = lower(export_model(result.graph))
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
    snn = lower(export_model(result.graph))
    assert "MultiThresholdFire" not in ops(snn)
    assert not result.changes
    assert_bit_exact(model, snn, feed())


def test_lower_raises_the_ir_version_only_where_needed():
    plain = one_activation("Relu (a)")
    plain.ir_version = 7
    assert lower(plain).ir_version == 7
    assert not plain.functions
    _, snn, _ = compiled(one_activation("Relu (a)"), y=neuron(0.5))
    assert [function.name for function in snn.functions] == ["MultiThresholdFire"]
    assert len(lower(snn).functions) == 1
