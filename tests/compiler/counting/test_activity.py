"""What neurons do, counted inside the graph, against a count by hand: equal to the last value."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.counting.activity import ActivityMeter
from snn_compile.compiler.running.expose import with_outputs
from snn_compile.compiler.running.session import make_session
from snn_compile.passes.graph.network import detach
from snn_compile.runtime_ops.operators import neurons_of, register_schemas
from snn_compile.runtime_ops.scale_fire import octave_levels
from snn_compile.runtime_ops.staircase_fire import cell_of, spikes_of_levels

#: [N, 3, 5]; the middle axis is that of the channels.
SCALE_FIRE = """
    g (float[N, 3, 5] x) => (float[N, 3, 5] z) {{
        y = ai.snn.DualScaleFire <{attributes}> (x, step)
        z = Neg (y)
    }}"""
STAIRCASE_FIRE = """
    g (float[N, 3, 5] x) => (float[N, 3, 5] z) {{
        y = ai.snn.StaircaseFire <axis = {axis}, density = 2.0, start = -4.0> (x, step, table)
        z = Neg (y)
    }}"""
THRESHOLD_FIRE = """
    g (float[N, 3, 5] x) => (float[N, 3, 5] z) {{
        y = ai.snn.MultiThresholdFire <{attributes}> (x, step)
        z = Neg (y)
    }}"""
BODY = """
    g (float[N, 3, 5] x, bool c) => (float[N, 3, 5] z) {
        fired = ai.snn.MultiThresholdFire <levels_pos = 4> (x, step)
        z = If (c) <
            then_branch = taken () => (float[N, 3, 5] t) {
                t = ai.snn.ScaleFire <linear = 2, top_pos = 4> (x, step)
            },
            else_branch = left () => (float[N, 3, 5] e) {
                e = ai.snn.MultiThresholdFire <levels_pos = 2, levels_neg = 1> (x, step)
            }
        >
    }"""

STEPS = {"one": np.float32(0.3), "channels": np.float32([0.3, 1.7, 0.011])}
#: linear, top_pos, top_neg.
OCTAVE = 2, 4, 0
OCTAVE_ATTRIBUTES = "linear = 2, top_pos = 4"


def network(text, **constants):
    register_schemas()
    header = '<ir_version: 8, opset_import: ["" : 17, "ai.snn" : 1]>\n'
    model = onnx.parser.parse_model(header + text)
    for name, values in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    for number, node in enumerate(model.graph.node):
        node.name = f"node {number}"
    onnx.checker.check_model(model, full_check=True)
    return detach(model)


def measure(snn, *feeds, keep=("z",)):
    """Activity on the feeds, and what each run gives of ``keep``."""
    meter = ActivityMeter(snn, keep)
    session = make_session(meter.network)
    given = []
    for feed in feeds:
        outputs = session.run(None, feed)
        meter.add(outputs)
        given.append(outputs[: len(keep)])
    return meter.result(), given


def potentials(edges, seed=0):
    """[4, 3, 5]: values on the edges of a channel, just below them, and far away."""
    rng = np.random.default_rng(seed)
    edges = np.float32(edges).reshape(3, -1)
    below = np.nextafter(edges, np.float32(-np.inf))
    pool = np.concatenate([edges, below, -edges, edges * 9, edges * 0], axis=1)
    picked = [rng.choice(row, (4, 5)) for row in pool]
    return np.stack(picked, axis=1).astype(np.float32)


def spread(step):
    """A step for each value of [N, 3, 5]."""
    return np.broadcast_to(step if np.ndim(step) == 2 else np.reshape(step, (-1, 1)), (3, 5))


def octave_by_hand(x, step, linear, top, least):
    """Silent rate and mean spikes of a ScaleFire: the level next to the scaled potential."""
    levels = octave_levels(linear)
    levels = np.concatenate([-levels[(levels > 0) & (levels <= least)], levels[levels <= top]])
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.clip(x * (np.float32(1) / spread(step)), -least, top)[~np.isnan(x)]
    fired = abs(levels[abs(scaled[:, None] - levels).argmin(axis=1)])
    return (fired == 0).sum() / x.size, fired.sum() / x.size


def staircase_by_hand(x, step, levels):
    """Silent rate and mean spikes of a StaircaseFire: a few levels, distances in the least step."""
    level = levels[cell_of(x, spread(step), 2.0, -4.0, len(levels))][~np.isnan(x)]
    distinct = sorted(set(levels.tolist()))
    silent = min(levels.tolist(), key=abs)
    least = min(b - a for a, b in itertools.pairwise(distinct))
    spikes = np.array([round(abs(value - silent) / least) for value in level.tolist()])
    return (spikes == 0).sum() / x.size, spikes.sum() / x.size


def thresholds_by_hand(x, theta, most, least):
    """Clip rate, silent rate and mean spikes of a MultiThresholdFire."""
    known = ~np.isnan(x)
    fired = np.floor(abs(x) / spread(theta) + np.float32(0.5))[known]
    limit = np.where(x < 0, least, most)[known]
    spikes = np.minimum(fired, limit)
    clipped = (fired > limit) & (limit > 0)
    rates = clipped.sum() / x.size, (spikes == 0).sum() / x.size
    return *rates, spikes.sum(dtype=np.float64) / x.size


@pytest.mark.parametrize("levels", [(2, 8, 0), (4, 0, 6), (16, 64, 20), (2048, 2047, 2048)])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("axis", [1, -2])
def test_scale_fire(levels, step, axis):
    linear, top, least = levels
    step = STEPS[step]
    text = f"axis = {axis}, linear = {linear}, top_pos = {top}, top_neg = {least}"
    snn = network(SCALE_FIRE.format(attributes=text), step=step)
    # Not on thresholds, where the level that is next is the one with an even mantissa.
    edges = spread(step)[:, :1] * np.float32([0.3, 1, 2.3, 5.7, max(top, least) + 0.2])
    x = np.concatenate([potentials(edges, seed) for seed in range(20)])
    (neuron,), _ = measure(snn, {"x": x})
    assert neuron.name == "node 0"
    assert math.isnan(neuron.clip_rate)
    expected = octave_by_hand(x, step, *levels)
    assert (neuron.silent_values, neuron.spikes_per_value) == expected


STAIRCASES = {
    "relu": np.float32([0, 0, 0, 0, 0, 1, 1, 2, 2, 3]),
    "no level is 0": np.float32([-0.25, -0.125, -0.125, 0.5, 2]),
    "several levels are 0": np.float32([0, 0, 1, 0, -2, 0, 0.25]),
    "a level of its own for every cell": np.arange(4096, dtype=np.float32) * 3,
    "k of more than a grid": np.cumsum(np.arange(1, 129, dtype=np.float32)),
    "one level": np.float32([2, 2]),
}


@pytest.mark.parametrize("staircase", STAIRCASES)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("axis", [1, -2])
def test_staircase_fire(staircase, step, axis):
    table, step = STAIRCASES[staircase], STEPS[step]
    edges = spread(step)[:, :1] * np.arange(-4, len(table) - 4, max(len(table) // 9, 1)) / 2
    snn = network(STAIRCASE_FIRE.format(axis=axis), step=step, table=table)
    x = np.concatenate([potentials(edges, seed) for seed in range(20)])
    (neuron,), _ = measure(snn, {"x": x})
    expected = (1, 0) if staircase == "one level" else staircase_by_hand(x, step, table)
    assert (neuron.silent_values, neuron.spikes_per_value) == expected


@pytest.mark.parametrize(
    "step", [np.float32(2e-38), np.float32(8e37), np.float32([2e-38, 1, 8e37])]
)
def test_steps_at_the_ends_of_float32(step):
    edges = spread(step)[:, :1] * np.float32([0.25, 1, 2])
    x = np.repeat(np.concatenate([edges, edges / 2, edges[:, :1]], axis=1)[None, :, :5], 2, axis=0)
    (neuron,), _ = measure(
        network(SCALE_FIRE.format(attributes=OCTAVE_ATTRIBUTES), step=step), {"x": x}
    )
    expected = octave_by_hand(x, step, *OCTAVE)
    assert (neuron.silent_values, neuron.spikes_per_value) == expected
    table = np.float32([0, 0, 0, 0, 0, 1, 1, 2])
    (neuron,), _ = measure(network(STAIRCASE_FIRE.format(axis=1), step=step, table=table), {"x": x})
    expected = staircase_by_hand(x, step, table)
    assert (neuron.silent_values, neuron.spikes_per_value) == expected


@pytest.mark.parametrize("levels", [(4, 0), (0, 4), (3, 2), (1000, 700), (1 << 20, 0)])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("axis", [1, -2])
def test_multi_threshold_fire(levels, step, axis):
    most, least = levels
    step = STEPS[step]
    text = THRESHOLD_FIRE.format(
        attributes=f"levels_pos = {most}, levels_neg = {least}, axis = {axis}"
    )
    steps = np.arange(1, 1 + max(levels), max(levels) / 8) - np.float32(0.5)
    edges = spread(step)[:, :1] * np.append(steps, np.float32(levels) + np.float32(0.5))
    x = np.concatenate([potentials(edges, seed) for seed in range(20)])
    (neuron,), _ = measure(network(text, step=step), {"x": x})
    expected = thresholds_by_hand(x, step, most, least)
    assert expected[0] > 0
    assert (neuron.clip_rate, neuron.silent_values, neuron.spikes_per_value) == expected


@pytest.mark.parametrize("axis", [2, -1])
def test_channels_lie_along_the_neurons_axis(axis):
    step = np.float32([0.3, 0.5, 1, 3, 7])
    x = np.concatenate([potentials([0.52, 1.4, 3.4], seed) for seed in range(20)])
    text = SCALE_FIRE.format(attributes=f"{OCTAVE_ATTRIBUTES}, axis = {axis}")
    (scale,), _ = measure(network(text, step=step), {"x": x})
    expected = octave_by_hand(x, step[None], *OCTAVE)
    assert (scale.silent_values, scale.spikes_per_value) == expected
    text = THRESHOLD_FIRE.format(attributes=f"levels_pos = 3, axis = {axis}")
    (fire,), _ = measure(network(text, step=step), {"x": x})
    found = fire.clip_rate, fire.silent_values, fire.spikes_per_value
    assert found == thresholds_by_hand(x, step[None], 3, 0)


def test_attributes_that_a_neuron_leaves_out_have_their_default():
    x = potentials([0.1, 0.5, 1.5])
    snn = network(THRESHOLD_FIRE.format(attributes="axis = 1"), step=np.float32(1))
    (neuron,), _ = measure(snn, {"x": x})
    found = neuron.clip_rate, neuron.silent_values, neuron.spikes_per_value
    assert found == thresholds_by_hand(x, np.float32(1), 1, 0)


def test_initial_potential_is_the_neurons():
    attributes = "levels_pos = 4, v0 = 0.0"
    snn = network(THRESHOLD_FIRE.format(attributes=attributes), step=np.float32(1))
    (neuron,), _ = measure(snn, {"x": np.full((1, 3, 5), 4.75, np.float32)})
    assert (neuron.clip_rate, neuron.silent_values, neuron.spikes_per_value) == (0, 0, 4)


def test_infinities_saturate_and_nan_is_a_value_that_fires_nothing():
    x = np.zeros((2, 3, 5), np.float32)
    x[0, 0, :4] = np.inf, -np.inf, np.nan, 1
    one = np.float32(1)
    text = SCALE_FIRE.format(attributes=f"{OCTAVE_ATTRIBUTES}, top_neg = 1")
    (scale,), _ = measure(network(text, step=one), {"x": x})
    assert (scale.silent_values, scale.spikes_per_value) == (26 / 30, 6 / 30)
    table = np.float32([-1, 0, 0, 0, 0, 0, 2])
    (staircase,), _ = measure(
        network(STAIRCASE_FIRE.format(axis=1), step=one, table=table), {"x": x}
    )
    assert (staircase.silent_values, staircase.spikes_per_value) == (26 / 30, 5 / 30)
    text = THRESHOLD_FIRE.format(attributes="levels_pos = 3, levels_neg = 2")
    (fire,), _ = measure(network(text, step=one), {"x": x})
    assert (fire.clip_rate, fire.silent_values, fire.spikes_per_value) == (2 / 30, 26 / 30, 6 / 30)


def test_all_runs_are_counted():
    snn = network(SCALE_FIRE.format(attributes=OCTAVE_ATTRIBUTES), step=STEPS["one"])
    x = np.concatenate([potentials([0.11, 0.4, 1], seed) for seed in range(3)])
    feeds = [{"x": part} for part in (x[:5], x[5:10], x[10:])]
    (neuron,), _ = measure(snn, *feeds)
    expected = octave_by_hand(x, STEPS["one"], *OCTAVE)
    assert (neuron.silent_values, neuron.spikes_per_value) == expected


def test_large_tensors_are_counted_exactly():
    """Sums that float32 cannot hold."""
    x = np.full((70_000, 3, 5), 255, np.float32)
    x[0, 0, 0] = 254
    x[0, 1, 0] = 0
    wanted = Fraction(255 * (x.size - 1) - 1, x.size)
    for step in (np.float32(1), np.float32([1, 1, 1])):
        snn = network(SCALE_FIRE.format(attributes="linear = 256, top_pos = 255"), step=step)
        (neuron,), _ = measure(snn, {"x": x})
        assert neuron.spikes_per_value == float(wanted)
        assert neuron.silent_values == 1 / x.size


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("taken", [[True], [False], [True, False, True]])
def test_neurons_in_bodies_count_where_they_run(step, taken):
    step = STEPS[step]
    snn = network(BODY, step=step)
    edges = spread(step)[:, :1] * np.float32([0.4, 1.4, 3.4])
    xs = [potentials(edges, seed) for seed in range(len(taken))]
    feeds = [{"x": x, "c": np.array(c)} for x, c in zip(xs, taken, strict=True)]
    (first, scale, fire), given = measure(snn, *feeds)
    found = first.clip_rate, first.silent_values, first.spikes_per_value
    assert found == thresholds_by_hand(np.concatenate(xs), step, 4, 0)
    there = [x for x, c in zip(xs, taken, strict=True) if c]
    found = scale.silent_values, scale.spikes_per_value
    expected = octave_by_hand(np.concatenate(there), step, *OCTAVE) if there else (0, 0)
    assert found == expected
    there = [x for x, c in zip(xs, taken, strict=True) if not c]
    found = fire.clip_rate, fire.silent_values, fire.spikes_per_value
    expected = thresholds_by_hand(np.concatenate(there), step, 2, 1) if there else (0, 0, 0)
    assert found == expected
    session = make_session(snn)
    for feed, outputs in zip(feeds, given, strict=True):
        np.testing.assert_array_equal(outputs[0], session.run(None, feed)[0])


def test_steps_of_many_channels_are_held_apart():
    step = np.linspace(0.5, 2, 1500, dtype=np.float32)
    text = """g (float[N, 1500] x) => (float[N, 1500] z) {
        y = ai.snn.ScaleFire <linear = 2, top_pos = 4> (x, step)
        z = ai.snn.MultiThresholdFire <levels_pos = 4> (y, step)
    }"""
    snn = network(text, step=step)
    assert "step" in snn.weights
    x = np.broadcast_to(np.float32([[1.75], [9], [-1]]) * step, (3, 1500))
    (scale, fire), _ = measure(snn, {"x": x})
    assert (scale.silent_values, scale.spikes_per_value) == (1 / 3, 6 / 3)
    assert (fire.clip_rate, fire.silent_values, fire.spikes_per_value) == (0, 1 / 3, 6 / 3)


def test_the_network_stays_as_it_is_and_gives_what_is_kept():
    snn = network(SCALE_FIRE.format(attributes=OCTAVE_ATTRIBUTES), step=STEPS["one"])
    before = snn.proto.SerializeToString(deterministic=True)
    x = potentials([0.1, 0.4, 1])
    _, [[y, z]] = measure(snn, {"x": x}, keep=("y", "z"))
    np.testing.assert_array_equal(z, make_session(snn).run(None, {"x": x})[0])
    np.testing.assert_array_equal(y, -z)
    assert snn.proto.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("neuron", ["scale", "staircase", "multi-threshold"])
def test_verification_reports_it(neuron, digits, digits_calibration):
    plain = {"sequential": False, "bias_correction": False, "compensation": False}
    options = CompileOptions(neuron=neuron, **plain)
    result = compile_model(digits, digits_calibration, options)
    nodes = neurons_of(result.model)
    constants = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    names = list(dict.fromkeys(name for n in nodes for name in (n.input[0], n.output[0])))
    session = make_session(with_outputs(detach(result.model), names))
    given = session.run(None, {"image": np.load(digits_calibration)["image"]})
    found = dict(zip(names, given, strict=True))
    assert len(nodes) == len(result.report.verification.neurons) > 3
    for node, activity in zip(nodes, result.report.verification.neurons, strict=True):
        x, y = found[node.input[0]], found[node.output[0]]
        step, *table = (constants[name] for name in node.input[1:])
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        assert activity.name == node.name
        assert activity.silent_values == pytest.approx((y == 0).mean(), rel=1e-4)
        spikes = abs(y) / step
        if table:
            cells = len(table[0])
            cell = cell_of(x, step, attributes["density"], attributes["start"], cells)
            spikes = abs(spikes_of_levels(table[0]))[cell]
        elif "levels_pos" in attributes:
            limit = np.where(x < 0, attributes["levels_neg"], attributes["levels_pos"])
            beyond = (abs(x) > (limit + 0.5) * step) & (limit > 0)
            assert activity.clip_rate == pytest.approx(beyond.mean(), rel=0.02)
        assert activity.spikes_per_value == pytest.approx(spikes.mean(), rel=1e-4)


def test_names_of_the_model_are_not_used_again():
    snn = network(SCALE_FIRE.format(attributes=OCTAVE_ATTRIBUTES), step=np.float32(1))
    fire, negate = snn.proto.graph.node
    fire.name = fire.output[0] = negate.input[0] = "activity.1"
    (neuron,), _ = measure(snn, {"x": np.ones((1, 3, 5), np.float32)}, keep=("activity.1",))
    assert (neuron.name, neuron.spikes_per_value) == ("activity.1", 1)
