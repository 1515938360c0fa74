"""Planes of binary spikes: the bits of the network without them, and the spikes in them."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from conftest import MODELS
from helpers import export_model
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from operators import operator_model, session
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.cli import main
from snn_compile.compiler.errors import ModelError, UsageError
from snn_compile.compiler.evaluation.evaluate import EvaluationOptions, evaluate
from snn_compile.compiler.progress import Progress
from snn_compile.compiler.running.planes import with_planes, without_planes
from snn_compile.passes.graph.network import Network
from snn_compile.passes.graph.protos import nodes_below
from snn_compile.passes.graph.surgeon import import_model
from snn_compile.passes.lowering.binary_spikes import KINDS, MARK, MAX_UNARY, PLANES
from snn_compile.passes.lowering.spatial_to_temporal import spatial_to_temporal
from snn_compile.runtime_ops.integrate_fire import INTEGRATE_FIRE
from snn_compile.runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE
from snn_compile.runtime_ops.operators import register_schemas
from snn_compile.runtime_ops.scale_fire import DUAL_SCALE_FIRE, fire_octave
from snn_compile.runtime_ops.staircase_fire import STAIRCASE_FIRE, cell_of

OPERATORS = (MULTI_THRESHOLD_FIRE, INTEGRATE_FIRE, DUAL_SCALE_FIRE, STAIRCASE_FIRE)
#: Quiet and signalling NaN of either sign, with payloads.
NANS = np.array([0x7FC00001, 0xFFC00002, 0x7F800003, 0xFF800004], np.uint32).view(np.float32)
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, 1e-45, -1e-45, 3e38, -3e38, *NANS], np.float32)


def expanded(model, kind):
    """The model with planes, and the lines about it."""
    result = with_planes(import_model(model), kind)
    changed = export_model(result.graph)
    onnx.checker.check_model(changed, full_check=True)
    return changed, result.changes


def planes_of(model):
    """Names of the tensors that hold planes, by the neuron's output and polarity."""
    found = {}
    for node in nodes_below(model.graph):
        entries = {p.key: p.value for p in node.metadata_props}
        if PLANES in entries:
            (name,) = node.output
            found[name.rsplit(".", 1)[0], entries[PLANES]] = name
    return found


def giving(model, names):
    """The model with tensors among its outputs."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return shown


def popcount(k):
    return np.array([int(value).bit_count() for value in np.abs(k).ravel()]).reshape(k.shape)


@st.composite
def neurons(draw):
    """A neuron, its input, and the spikes that it should fire, counted here."""
    operator = draw(st.sampled_from(OPERATORS))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    axis, wide = draw(st.sampled_from([1, 2, -1])), draw(st.booleans())
    channels = (3, 4)[axis != 1] if wide else 1
    step = np.exp2(rng.uniform(-12, 12, channels)).astype(np.float32)
    steps = step.reshape(-1, 1) if axis == 1 else step
    attributes = {"axis": axis}
    if operator is STAIRCASE_FIRE:
        # Few distinct values: levels repeat, and several may be silent.
        digits = draw(st.sampled_from([0, 1]))
        levels = rng.normal(draw(st.sampled_from([0, 2])), 2, draw(st.sampled_from([2, 8, 41])))
        levels = np.round(levels, digits).astype(np.float32) + np.float32(
            draw(st.sampled_from([0.0, -0.0]))
        )
        if len(set(levels)) == 1:
            levels[-1] += 1
        attributes |= {"density": draw(st.sampled_from([1.0, 3.0])), "start": rng.normal(0, 5)}
        inputs = {"scale": step, "table": levels}
    elif operator is DUAL_SCALE_FIRE:
        high, low = draw(st.sampled_from([(1, 0), (6, 0), (0, 3), (8, 16), (64, 192)]))
        attributes |= {"linear": 32 if high == 64 else 4, "top_pos": high, "top_neg": low}
        inputs = {"scale": step}
    else:
        high, low = draw(st.sampled_from([(1, 0), (5, 0), (0, 3), (7, 8), (40, 2), (255, 255)]))
        attributes |= {"levels_pos": high, "levels_neg": low}
        attributes["v0"] = draw(st.sampled_from([0.0, 0.5, 0.75]))
        inputs = {"theta": step}
        if operator is INTEGRATE_FIRE:
            attributes["timesteps"] = draw(st.sampled_from([1, 4]))
    if not wide:
        inputs[next(iter(inputs))] = step[0]
    x = rng.normal(0, draw(st.sampled_from([1, 30, 300])), (8, 3, 4)).astype(np.float32) * steps
    x.ravel()[: len(SPECIAL)] = SPECIAL
    x[-2:] = np.round(x[-2:] / steps * 2) / 2 * steps  # on thresholds
    return operator_model(operator, inputs, shape=["B", 3, 4], **attributes), x, steps, inputs


def spikes_fired(model, x, steps, inputs):
    """k of each value; 0 of NaN. Of IntegrateFire it is read from its output."""
    (node,) = model.graph.node
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "StaircaseFire":
        table = inputs["table"]
        cell = cell_of(x, steps, attributes["density"], attributes["start"], len(table))
        distance = table - min(table, key=abs)
        k = np.rint(distance / np.diff(np.unique(table)).min())[cell]
    elif node.op_type == "DualScaleFire":
        limits = (attributes[name] for name in ("linear", "top_pos", "top_neg"))
        k = fire_octave(x, steps, *limits)
    elif node.op_type == "MultiThresholdFire":
        with np.errstate(all="ignore"):
            fired = np.floor(np.abs(x) / steps + np.float32(attributes["v0"]))
            most = np.where(x < 0, attributes["levels_neg"], attributes["levels_pos"])
            k = np.sign(x) * np.minimum(fired, most)
    else:
        k = np.round(session(model, library=True).run(None, {"X": x})[0] / steps)
    return np.where(np.isnan(x) | np.isnan(k), 0, k)


def most_spikes(model, table=None, **_):
    """The largest |k| that a neuron can fire."""
    if table is not None:
        distance = np.abs(table - min(table, key=abs))
        return np.rint(distance.max() / np.diff(np.unique(table)).min())
    given = {a.name: helper.get_attribute_value(a) for a in model.graph.node[0].attribute}
    return max(given.get(name, 0) for name in ("levels_pos", "levels_neg", "top_pos", "top_neg"))


@settings(max_examples=25, deadline=None)
@given(neurons(), st.sampled_from(KINDS))
def test_a_neuron_keeps_its_bits_and_its_planes_hold_its_spikes(neuron, kind):
    model, x, *parameters = neuron
    if kind == "unary" and most_spikes(model, **parameters[1]) > MAX_UNARY:
        with pytest.raises(ModelError, match="ask for bit planes"):
            expanded(model, kind)
        return
    changed, lines = expanded(model, kind)
    if "its spikes are binary" in lines[0]:
        assert not planes_of(changed)
        return
    names = planes_of(changed)
    assert names
    shown = giving(changed, names.values())
    k = spikes_fired(model, x, *parameters)
    shown.graph.node.add().CopyFrom(model.graph.node[0])
    shown.graph.node[-1].MergeFrom(onnx.NodeProto(name="source"))
    shown.graph.node[-1].output[0] = "expected"
    held = {tensor.name for tensor in shown.graph.initializer}
    shown.graph.initializer.extend(t for t in model.graph.initializer if t.name not in held)
    shown.graph.output.append(onnx.ValueInfoProto(name="expected"))
    for library, optimise in ((True, False), (False, False), (True, True)):
        running = session(shown, library=library, optimise=optimise, threads=1)
        for feed in ({"X": x}, {"X": x[:0]}):
            y, *planes, expected = running.run(None, feed)
            assert (y.shape, y.tobytes()) == (expected.shape, expected.tobytes())
            assert all(set(np.unique(plane)) <= {0, 1} for plane in planes)
            assert not any(np.signbit(plane).any() for plane in planes)
            assert all(plane.shape[:-1] == y.shape for plane in planes)
            ones = dict(zip(names, (plane.sum(-1) for plane in planes), strict=True))
            counted = np.abs(k) if kind == "unary" else popcount(k)
            for polarity, sign in (("positive", 1), ("negative", -1)):
                wanted = np.where(sign * k > 0, counted, 0)[: len(feed["X"])]
                np.testing.assert_array_equal(ones.get(("Y", polarity), 0 * wanted), wanted)
    for tensor in model.graph.initializer:  # of a table with -0 one with +0 comes back
        if tensor.name == "table" and tensor.name not in held:
            return
    joined, source = without_planes(Network(changed)).proto, export_model(import_model(model))
    assert list(joined.graph.node) == list(source.graph.node)
    constants = [{t.name: t.raw_data for t in m.graph.initializer} for m in (joined, source)]
    assert constants[0] == constants[1]


def masked(model, name):
    """The model in which planes arrive times a mask, an input."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.graph.input.append(
        helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, [None])
    )
    for node in changed.graph.node:
        node.input[:] = ["masked" if read == name else read for read in node.input]
    position = next(i for i, n in enumerate(changed.graph.node) if name in n.output)
    cut = helper.make_node("Mul", [name, "mask"], ["masked"])
    changed.graph.node.insert(position + 1, cut)
    return changed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_output_comes_from_the_planes(operator, kind):
    """Each plane that is cut off changes the output, and the result is not taken for its source."""
    if operator is STAIRCASE_FIRE:
        inputs = {"scale": 0.5, "table": np.arange(-5.0, 6) * 3}
        model = operator_model(operator, inputs, shape=[11], start=-5.5)
    elif operator is DUAL_SCALE_FIRE:
        sides = {"linear": 6, "top_pos": 5, "top_neg": 5}
        model = operator_model(operator, {"scale": 0.5}, shape=[11], **sides)
    else:
        sides = {"levels_pos": 5, "levels_neg": 5}
        model = operator_model(operator, {"theta": 0.5}, shape=[11], **sides)
    changed, _ = expanded(model, kind)
    x = np.arange(-5, 6, dtype=np.float32) / 2
    (expected,) = session(model, library=True).run(None, {"X": x})
    for polarity, side in (("positive", x > 0), ("negative", x < 0)):
        cut = masked(changed, planes_of(changed)["Y", polarity])
        with pytest.raises(ModelError, match="evaluate the network as it was compiled"):
            without_planes(Network(cut))
        running = session(cut, library=True)
        ones = np.ones(5 if kind == "unary" else 3, np.float32)
        assert running.run(None, {"X": x, "mask": ones})[0].tobytes() == expected.tobytes()
        for plane in range(len(ones)):
            mask = np.where(np.arange(len(ones)) == plane, np.float32(0), ones)
            (y,) = running.run(None, {"X": x, "mask": mask})
            assert np.any(y[side] != expected[side])
            np.testing.assert_array_equal(y[~side], expected[~side])


BODIES = """<ir_version: 8, opset_import: ["" : 17, "ai.snn" : 1]>
g (float[N,3] x, bool c) => (float[N,3] y, float[N,3] z)
<float t = {0.25}, float[3] u = {1, 2, 3}, int64 n = {2}> {
    before = ai.snn.MultiThresholdFire <levels_pos = 4> (x, t)
    y = If (c) <
        then_branch = a () => (float[N,3] p) {
            [deep] p = ai.snn.MultiThresholdFire <levels_pos = 9, levels_neg = 2> (x, u)
        },
        else_branch = b () => (float[N,3] q) { q = Neg (before) }
    >
    z = Loop (n, c, before) <body = l (int64 i, bool go, float[N,3] r) => (bool on, float[N,3] s) {
        on = Identity (go)
        [looped] s = ai.snn.MultiThresholdFire <levels_pos = 3> (r, t)
    }>
}"""


@pytest.mark.parametrize("kind", KINDS)
def test_bodies_of_if_are_expanded_and_those_of_loop_are_listed(kind):
    register_schemas()
    model = onnx.parser.parse_model(BODIES)
    changed, lines = expanded(model, kind)
    assert sum("not expanded: inside the body of Loop" in line for line in lines) == 1
    assert sorted(planes_of(changed)) == [
        ("before", "positive"), ("p", "negative"), ("p", "positive")
    ]  # fmt: skip
    x = np.random.default_rng(0).normal(0, 4, (64, 3)).astype(np.float32)
    for taken in (True, False):
        feed = {"x": x, "c": np.array(taken)}
        pair = [session(m, library=True).run(None, feed) for m in (model, changed)]
        for expected, got in zip(*pair, strict=True):
            assert got.tobytes() == expected.tobytes()
    joined = without_planes(Network(changed)).proto
    marks = [p.key for node in nodes_below(joined.graph) for p in node.metadata_props]
    assert MARK not in marks


STEPS = """<ir_version: 8, opset_import: ["" : 17, "ai.snn" : 1]>
g (float[N,2,5,5] x) => (float[N,3,5,5] y)
<float[3,2,1,1] w = {1, -2, 3, 4, -5, 6}, float[3] t = {1, 2, 0.5}, float[3,3,1,1] v = {1, 2, 3, 4,
 5, 6, 7, 8, 9}> {
    a = Conv (x, w)
    b = ai.snn.MultiThresholdFire <levels_pos = 8, levels_neg = 4> (a, t)
    c = Conv (b, v)
    y = ai.snn.MultiThresholdFire <levels_pos = 12> (c, t)
}"""


@pytest.mark.parametrize("kind", KINDS)
def test_several_spikes_of_one_timestep_are_planes_too(kind):
    """The pass over time drops shapes; channels are found all the same."""
    register_schemas()
    model = onnx.parser.parse_model(STEPS)
    timed = export_model(spatial_to_temporal(import_model(model), 4).graph)
    changed, lines = expanded(timed, kind)
    assert [line.split(" as ")[1] for line in lines] == {
        "unary": ["3 binary planes (unary)", "3 binary planes (unary)"],
        "bits": ["3 binary planes (bits)", "2 binary planes (bits)"],
    }[kind]
    x = np.random.default_rng(1).normal(0, 2, (3, 2, 5, 5)).astype(np.float32)
    (expected,) = session(timed, library=True).run(None, {"x": x})
    names = planes_of(changed)
    y, *planes = session(giving(changed, names.values()), library=True).run(None, {"x": x})
    assert y.tobytes() == expected.tobytes()
    assert all(len(plane) == 4 * len(x) and 0 < plane.mean() < 1 for plane in planes)


@pytest.mark.parametrize(
    ("operator", "inputs", "options", "reason"),
    [
        (INTEGRATE_FIRE, {"theta": 1.0}, {"timesteps": 4}, "its spikes are binary"),
        (STAIRCASE_FIRE, {"scale": 1.0, "table": [2, 2]}, {}, "it never fires"),
        (STAIRCASE_FIRE, {"scale": 1.0, "table": [0, 1.5, 2.5]}, {}, "same number of spikes"),
        (STAIRCASE_FIRE, {"scale": 1e-38, "table": [0, 1e-8]}, {}, "scale vanishes"),
        (MULTI_THRESHOLD_FIRE, {"theta": 2e38}, {"levels_pos": 2}, "2 spikes overflows"),
        (MULTI_THRESHOLD_FIRE, {"theta": 1.0}, {"element_type": 11}, "element type is float64"),
        (MULTI_THRESHOLD_FIRE, {"theta": 1.0}, {"at_run_time": ["theta"]}, "is not constant"),
        (MULTI_THRESHOLD_FIRE, {"theta": [1.0, 2]}, {"shape": None}, "its rank is not known"),
        (MULTI_THRESHOLD_FIRE, {"theta": [1.0, 2]}, {"axis": 0}, "axis 0 of 1"),
    ],
)
def test_what_is_left_is_listed(operator, inputs, options, reason):
    model = operator_model(operator, inputs, **({"shape": [2]} | options))
    result = with_planes(import_model(model), "unary")
    (line,) = result.changes
    assert line.startswith(f"{operator.name} neuron: not expanded: ")
    assert reason in line
    assert [node.op_type for node in export_model(result.graph).graph.node] == [operator.name]


def test_planes_are_made_once():
    model = operator_model(MULTI_THRESHOLD_FIRE, {"theta": 1.0}, shape=[2], levels_pos=3)
    once, _ = expanded(model, "bits")
    twice, lines = expanded(once, "unary")
    assert "in planes already" in lines[0]
    assert len(twice.graph.node) == len(once.graph.node)


@pytest.mark.parametrize(("kind", "most"), [("unary", 255), ("bits", (1 << 17) - 1)])
def test_the_number_of_planes_is_bounded(kind, most):
    model, beyond = (
        operator_model(MULTI_THRESHOLD_FIRE, {"theta": 0.3}, shape=["N"], levels_pos=levels)
        for levels in (most, most + 1)
    )
    with pytest.raises(ModelError, match=f"'neuron' fires up to {most + 1} unit spikes.*ask for"):
        with_planes(import_model(beyond), kind)
    changed, _ = expanded(model, kind)
    feed = {"X": np.float32(0.3) * np.arange(0, most + 2, dtype=np.float32)}
    pair = [session(m, library=True).run(None, feed)[0].tobytes() for m in (model, changed)]
    assert pair[0] == pair[1]


def test_unary_spikes_of_too_many_levels_are_refused_before_any_work(tmp_path):
    for options in (
        CompileOptions(levels=256, binary_spikes="unary"),
        CompileOptions(binary_spikes="ternary"),
    ):
        with pytest.raises(UsageError, match="bits"):
            compile_model(tmp_path / "not_read.onnx", options=options)


def count_ones(ann, path, kind):
    """The output of a compiled digits network; ones in its planes are what snn-eval counts."""
    test = MODELS / "digits_test.npz"
    model = onnx.load(path)
    names = planes_of(model)
    running = session(giving(model, names.values()), library=True)
    y, *planes = running.run(None, {"image": np.load(test)["image"]})
    ones = Counter()
    for (tensor, _), plane in zip(names, planes, strict=True):
        ones[tensor] += int(plane.sum(dtype=np.float64))

    found = evaluate(ann, path, test, EvaluationOptions(flips=False, latency=None), Progress())
    assert not found.warnings
    # A neuron's output is where the planes lead: its own is called after it.
    fired = {node.name: node.output[0].split(".fired")[0] for node in nodes_below(model.graph)}
    for result in found.neurons:
        k = np.array(result.level_spikes)
        counted = np.abs(k) if kind == "unary" else popcount(k)
        # Two graphs, each optimised in its own way: a sum that ends on the other side of a
        # threshold by its last bit is a spike more, and moves others behind it: a few, of 186,620
        # that all fire and 16,467 of one.
        expected = pytest.approx(int((counted * result.level_counts).sum()), rel=1e-4, abs=4)
        assert 0 < ones[fired[result.name]] == expected
        if kind == "unary":
            rate = ones[fired[result.name]] / sum(result.level_counts)
            assert rate == pytest.approx(result.spikes_per_value, rel=1e-4)
    assert len(found.neurons) == len(ones) > 4
    return y


CALIBRATION = MODELS / "digits_calibration.npz"
PLAIN = {"sequential": False, "bias_correction": False, "compensation": False}


def test_unary_planes_of_a_network_from_the_command_line(tmp_path):
    ann = MODELS / "digits_resnet_dynamo.onnx"
    path, report = tmp_path / "snn.onnx", tmp_path / "report.json"
    command = [ann, "-o", path, "--calibration", CALIBRATION, "--binary-spikes", "unary"]
    command += ["--levels", "9", "--report", report, "--no-sequential"]
    command += ["--no-bias-correction", "--no-compensation"]
    ran = CliRunner().invoke(main, [str(part) for part in command])
    assert ran.exit_code == 0, ran.output
    with_option = json.loads(report.read_text())
    assert with_option["verification"]["claims"]

    plain = compile_model(
        ann, CALIBRATION, CompileOptions(levels=9, neuron="multi-threshold", **PLAIN)
    )
    assert not planes_of(plain.model)
    without = json.loads(plain.report.to_json())
    for same in ("neurons", "coverage", "verification"):
        assert with_option[same] == without[same]
    images = np.load(MODELS / "digits_test.npz")["image"]
    (expected,) = session(plain.model, library=True).run(None, {"image": images})
    assert count_ones(ann, path, "unary").tobytes() == expected.tobytes()


@pytest.mark.parametrize("neuron", ["multi-threshold", "scale", "staircase"])
def test_bit_planes_of_a_network(tmp_path, neuron):
    options = CompileOptions(levels=9, neuron=neuron, **PLAIN, binary_spikes="bits")
    ann = MODELS / "digits_resnet_torchscript.onnx"
    result = compile_model(ann, CALIBRATION, options)
    assert result.report.verification.claims
    onnx.save(result.model, tmp_path / "snn.onnx")
    count_ones(ann, tmp_path / "snn.onnx", "bits")

    for weights in result.model.graph.initializer:  # of what the receiver makes of the bits
        if weights.name.endswith(".positive_weights"):
            weights.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(weights) / 2, weights.name)
            )
    onnx.save(result.model, tmp_path / "changed.onnx")
    test, options = MODELS / "digits_test.npz", EvaluationOptions(flips=False, latency=None)
    found = evaluate(ann, tmp_path / "changed.onnx", test, options, Progress())
    assert not found.neurons
    assert "not as snn-compile made them" in found.warnings[0]
    assert found.outputs[0].relative_l2 > 0.3
