"""The premise checker: its figures against a count by loops, and networks inside the premise."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from conftest import MODELS
from onnx import ModelProto, helper, numpy_helper
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.errors import ModelError
from snn_compile.compiler.eval_cli import main
from snn_compile.compiler.evaluation import premise
from snn_compile.compiler.evaluation.level_bound import Levels, level_bounds
from snn_compile.compiler.evaluation.premise import check_premise
from snn_compile.compiler.evaluation.time_pair import pair_neurons
from snn_compile.compiler.progress import Progress
from snn_compile.compiler.running.expose import with_outputs
from snn_compile.compiler.running.session import make_session
from snn_compile.compiler.samples.base import input_specs
from snn_compile.compiler.samples.files import FileSamples
from snn_compile.passes.graph.network import Network, set_constant
from snn_compile.passes.graph.surgeon import export_network, import_model
from snn_compile.passes.lowering.spatial_to_temporal import spatial_to_temporal
from snn_compile.runtime_ops.operators import neurons_of
from spikes_by_hand import network

STEPS = 4
MTN, IF = "ai.snn.MultiThresholdFire", "ai.snn.IntegrateFire"
#: A layer of one polarity, with a threshold for each channel, and one of both.
SPATIAL = f"""g (float[N,3] x) => (float[N,2] z) {{
    a = MatMul (x, v)
    b = {MTN} <levels_pos = 4, v0 = 0.25> (a, theta_b)
    c = MatMul (b, w)
    d = {MTN} <levels_pos = 8, levels_neg = 4> (c, theta_d)
    z = MatMul (d, u) }}"""
TEMPORAL = f"""g (float[N,3] x) => (float[N,2] z) {{
    a = MatMul (x, v)
    a_steps = Tile (a, repeats)
    b = {IF} <levels_pos = 1, v0 = 0.25, timesteps = 4> (a_steps, theta_b)
    c = MatMul (b, w)
    d = {IF} <levels_pos = 2, levels_neg = 1, timesteps = 4> (c, theta_d)
    by_step = Reshape (d, shape)
    mean = ReduceMean <axes = [0], keepdims = 0> (by_step)
    z = MatMul (mean, u) }}"""
V = np.float32([[1, -0.5, 0.25, 1], [0.5, 1, 2, -1], [-0.25, 0.5, 1, 0.5]])
W = np.float32([[1, -0.5], [-2, 1], [0.5, 1], [0.25, -1]])
U = np.float32([[1, 2], [-1, 0.5]])
THETA_B, THETA_D = np.float32([0.5, 0.25, 0.125, 0.25]), np.float32(0.1875)  # theta_M
SPATIAL_WEIGHTS = {"v": V, "w": W, "u": U, "theta_b": THETA_B, "theta_d": THETA_D}
TEMPORAL_WEIGHTS = SPATIAL_WEIGHTS | {
    "theta_b": 4 * THETA_B, "theta_d": 4 * THETA_D,
    "repeats": np.int64([4, 1]), "shape": np.int64([4, -1, 2]),
}  # fmt: skip


@pytest.fixture
def samples(tmp_path):
    x = np.random.default_rng(0).integers(-16, 33, (30, 3)).astype(np.float32) / 16
    np.savez(tmp_path / "data.npz", x=x)
    return FileSamples(tmp_path / "data.npz", input_specs(spatial().proto))


def spatial(text=SPATIAL, **changed):
    return named(network(text, **SPATIAL_WEIGHTS | changed))


def temporal(text=TEMPORAL, **changed):
    return named(network(text, **TEMPORAL_WEIGHTS | changed))


def named(net):
    """Nodes named after what they give."""
    for node in net.proto.graph.node:
        node.name = node.output[0]
    return net


def over_time(source, steps, **options):
    return export_network(spatial_to_temporal(import_model(source), steps, **options).graph)


def checked(one, many, samples):
    return check_premise(one, many, samples, Progress())


def fire(u, theta, up, down, v0):
    """Spikes by the formula, one value."""
    count = int(np.floor(abs(u) / theta + v0))
    return min(count, up) if u >= 0 else -min(count, down)


def by_loops(x):
    """Inputs and spikes of every neuron: [T, samples, neurons] over time, [...] in one step."""
    x = x.astype(np.float64)
    found = {}
    step_inputs = np.broadcast_to(x @ V, (STEPS, len(x), 4))
    single_input = x @ V
    for name, theta, (up, down, v0), weights in (
        ("b", THETA_B.astype(np.float64), (1, 0, 0.25), W),
        ("d", np.full(2, np.float64(THETA_D)), (2, 1, 0.5), U),
    ):
        spikes, single = np.zeros(step_inputs.shape), np.zeros(single_input.shape)
        for at in np.ndindex(single_input.shape):
            rest, own = 0.0, STEPS * theta[at[1]]
            for t in range(STEPS):
                u = rest + step_inputs[t][at]
                spikes[t][at] = fire(u, own, up, down, v0)
                rest = u - own * spikes[t][at]
            one = STEPS * up, STEPS * down, v0
            single[at] = fire(single_input[at], theta[at[1]], *one)
        found[name] = step_inputs, spikes, single
        step_inputs = (STEPS * theta * spikes) @ weights.astype(np.float64)
        single_input = (theta * single) @ weights.astype(np.float64)
    return found


def test_figures_equal_a_count_by_loops(samples):
    x = next(samples.batches(30))["x"]
    expected = by_loops(x)
    result = checked(spatial(), temporal(), samples)
    assert (result.timesteps, result.samples) == (STEPS, 30)
    levels = {"b": Levels(1, 0, 0.25), "d": Levels(2, 1, 0.5)}
    thetas = {"b": THETA_B, "d": np.repeat(THETA_D, 2)}
    for neuron, name in zip(result.neurons, ("b", "d"), strict=True):
        inputs, spikes, single = expected[name]
        own, theta = levels[name], thetas[name]
        assert neuron.name == name
        assert (neuron.neurons, neuron.v0) == (len(theta), own.v0)
        assert neuron.levels == (own.negative, own.positive)
        scaled = inputs / (STEPS * theta)
        below, above = scaled < -own.negative, scaled > own.positive
        assert (neuron.below, neuron.above) == (below.mean(), above.mean())
        outside = (below | above).any(axis=0)
        assert neuron.outside == outside.mean()
        assert 0 < neuron.outside < 1
        one = np.vectorize(
            lambda u, t, o=own: fire(u, t, STEPS * o.positive, STEPS * o.negative, o.v0)
        )
        level = one(inputs.mean(axis=0), theta)
        sums = np.cumsum(inputs, axis=0) / (STEPS * theta)
        low, high = level_bounds(sums, own, spikes)
        count = spikes.sum(axis=0)
        for found, values in (
            (neuron.own, np.abs(count - level)),
            (neuron.bound, np.maximum(high - level, level - low)),
            (neuron.total, np.abs(count - single)),
        ):
            assert found.share == (values > 0).mean()
            assert found.mean == pytest.approx(values.mean())
            assert found.largest == values.max()
        assert neuron.inside_differing == ((count != level) & ~outside).sum()
    assert result.neurons[1].own.share > 0.05 and result.neurons[1].above > 0.01


def test_the_pass_makes_the_network_written_by_hand(samples):
    by_hand = checked(spatial(), temporal(), samples)
    assert checked(spatial(), over_time(spatial(), STEPS), samples) == by_hand


def test_delayed_firing_is_one_step(samples):
    result = checked(spatial(), over_time(spatial(), STEPS, delayed=True), samples)
    for neuron in result.neurons:
        assert neuron.own.largest == neuron.total.largest == 0
        assert neuron.outside > 0
    assert result.outputs[0].max_abs == 0


def test_values_that_are_not_finite_are_left_out(samples, tmp_path):
    x = next(samples.batches(30))["x"].copy()
    x[3] = 3e38
    np.savez(tmp_path / "large.npz", x=x)
    large = FileSamples(tmp_path / "large.npz", input_specs(spatial().proto))
    result = checked(spatial(), temporal(), large)
    counts = [neuron.left_out for neuron in result.neurons]
    with np.errstate(over="ignore"):
        # A sum that overflows saturates its neuron, so what the next one reads is finite.
        assert counts == [int(np.isinf(x @ V).sum()), 0]
    assert counts[0] >= 1
    (warning,) = premise.premise_warnings(result)
    assert f"{counts[0]} neurons with an input that is not finite" in warning


def test_neurons_are_run_in_groups_that_fit_into_memory(samples, monkeypatch):
    whole = checked(spatial(), temporal(), samples)
    seen = []

    def counting(session, feed, what):
        seen.append((what, len(feed["x"]), len(session.get_outputs())))
        return run(session, feed, what)

    run = premise.run_samples
    monkeypatch.setattr(premise, "run_samples", counting)
    monkeypatch.setattr(premise, "ACTIVATION_BUDGET", 8)
    assert checked(spatial(), temporal(), samples) == whole
    # Each neuron in a run of its own; the first run also gives the output.
    many = [line for line in seen if line[0] == "the T-step network"]
    assert {outputs for *_, outputs in many} == {3, 2}


def test_the_first_samples_are_run(samples, tmp_path, monkeypatch):
    monkeypatch.setattr(premise, "SAMPLES", 8)
    result = checked(spatial(), temporal(), samples)
    assert result.samples == 8
    np.savez(tmp_path / "first.npz", x=next(samples.batches(8))["x"])
    first = FileSamples(tmp_path / "first.npz", input_specs(spatial().proto))
    assert checked(spatial(), temporal(), first) == result


# A whole network inside the premise ---------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    """The bundled network with 32 levels."""
    options = CompileOptions(
        levels=32,
        neuron="multi-threshold",
        sequential=False,
        bias_correction=False,
        compensation=False,
    )
    source = MODELS / "digits_resnet_dynamo.onnx"
    return compile_model(source, MODELS / "digits_calibration.npz", options).network


def constants(model):
    held = {t.name: numpy_helper.to_array(t) for t in model.proto.graph.initializer
            if t.name not in model.weights}  # fmt: skip
    return held | model.weights


def forced_inside(model, image):
    """The network with weights that are not negative, and thresholds above all inputs they can sum.

    Weights, biases and thresholds become multiples of powers of two, so that float32 is exact.
    """
    forced = export_network(import_model(model))
    neurons = neurons_of(forced.proto)
    thetas = [node.input[1] for node in neurons]
    for name, values in constants(forced).items():
        if values.dtype == np.float32 and values.size > 1 and name not in thetas:
            unit = 2.0 ** np.ceil(np.log2(np.abs(values).max())) / 64
            set_constant(forced, name, np.float32(np.rint(np.abs(values) / unit) * unit))
    # From the first neuron on: the largest input comes with all before it at their highest level.
    highest = Network(ModelProto(), forced.weights)
    highest.proto.CopyFrom(forced.proto)
    for node, copy in zip(neurons, neurons_of(highest.proto), strict=True):
        session = make_session(with_outputs(highest, [node.input[0]]))
        inputs = session.run(None, {"image": image})[0]
        largest = inputs.max(axis=tuple(range(2, inputs.ndim)), keepdims=True)
        threshold = 2.0 ** np.ceil(np.log2(largest)) / 32
        set_constant(forced, node.input[1], np.float32(threshold.reshape(-1)))
        ceiling = f"ceiling of {node.name}"
        highest.proto.graph.initializer.append(
            numpy_helper.from_array(np.float32(32 * threshold), ceiling)
        )
        copy.CopyFrom(helper.make_node("Max", [copy.input[0], ceiling], copy.output))
    return forced


@pytest.mark.parametrize(("steps", "per_step"), [(32, 1), (8, 4)])
def test_a_network_forced_inside_the_premise_has_every_spike_count(
    digits, steps, per_step, monkeypatch
):
    monkeypatch.setattr(premise, "SAMPLES", 32)
    forced = forced_inside(digits, np.ones((1, 1, 8, 8), np.float32))
    samples = FileSamples(MODELS / "digits_test.npz", input_specs(forced.proto))
    result = checked(forced, over_time(forced, steps), samples)
    assert len(result.neurons) == 6
    for neuron in result.neurons:
        assert neuron.levels[1] in (per_step, 2 * per_step)  # the encoder has twice the levels
        assert neuron.outside == 0
        assert neuron.own.largest == neuron.total.largest == neuron.inside_differing == 0
    assert result.outputs[0].relative_l2 < 1e-6  # sums of another order
    session = make_session(with_outputs(forced, [n.output[0] for n in neurons_of(forced.proto)]))
    for values in session.run(None, next(samples.batches(64))):
        assert len(np.unique(values)) > 1  # it does fire


def test_a_compiled_network_differs_within_the_bound(digits):
    samples = FileSamples(MODELS / "digits_test.npz", input_specs(digits.proto))
    result = checked(digits, over_time(digits, 8), samples)
    assert result.neurons[0].own.largest == 0  # reads the image, which is the same at every step
    for neuron in result.neurons:
        assert neuron.own.mean <= neuron.bound.mean <= 1.2 * neuron.own.mean + 1e-3
        assert neuron.own.largest <= neuron.bound.largest
        assert neuron.inside_differing == 0
    assert max(neuron.own.share for neuron in result.neurons) > 0.005


# The command ------------------------------------------------------------------------------------


@pytest.fixture
def files(digits, tmp_path):
    paths = tmp_path / "spatial.onnx", tmp_path / "temporal.onnx"
    for path, net in zip(paths, (digits, over_time(digits, 8)), strict=True):
        onnx.save(net.attached(), path)
    return paths


def snn_eval(ann, snn, *options):
    data = MODELS / "digits_test.npz"
    arguments = [ann, snn, "--data", data, "--premise", "--no-latency", "--no-flips", *options]
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_takes_an_ann_or_the_network_of_one_step(files):
    found = []
    for ann, origin in ((MODELS / "digits_resnet_dynamo.onnx", "made"), (files[0], "ann")):
        result = snn_eval(ann, files[1], "--json")
        assert result.exit_code == 0, result.output
        evaluation = json.loads(result.stdout)
        assert not [w for w in evaluation["warnings"] if "swapped" in w or "another" in w]
        assert evaluation["premise"].pop("spatial") == origin
        found.append(evaluation["premise"])
    assert found[0] == found[1]
    assert (found[0]["timesteps"], found[0]["samples"]) == (8, premise.SAMPLES)
    assert found[0]["neurons"][1]["own"]["share"] > 0


def test_the_command_shows_a_table(files):
    result = snn_eval(*files, "-v")
    assert "8 timesteps against one (ANN), first 64 samples" in result.stdout
    assert "against the network of one step" in result.stdout
    rows = [line for line in result.stdout.splitlines() if "node_relu_1 " in line]
    every = [[cell.strip() for cell in row.strip("│").split("│")] for row in rows]
    (cells,) = [cells for cells in every if cells[1] == "4"]
    assert float(cells[4].rstrip("%")) > 0


def test_networks_of_different_sources_are_warned_of(files, monkeypatch):
    monkeypatch.setattr(premise, "SAMPLES", 1)
    model = onnx.load(files[0])
    for entry in model.metadata_props:
        if entry.key.endswith("source_digest"):
            entry.value = "0" * 64
    onnx.save(model, files[0])
    assert "were compiled from different networks" in snn_eval(*files).stderr


def test_the_command_refuses_networks_of_one_step(files):
    for ann, hint in ((MODELS / "digits_resnet_dynamo.onnx", "--timesteps"), (files[1], "swapped")):
        result = snn_eval(ann, files[0])
        assert result.exit_code == 3
        assert "the SNN has no IntegrateFire" in result.stderr and hint in result.stderr
        assert result.stdout == ""


def test_the_command_wants_an_snn():
    data = ["--data", MODELS / "digits_test.npz", "--calibration", MODELS / "digits_test.npz"]
    arguments = [MODELS / "digits_resnet_dynamo.onnx", *data, "--premise"]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 2
    assert "--premise is about a network of several timesteps: give the SNN" in result.stderr


@pytest.mark.parametrize(
    ("one", "many", "message"),
    [
        (
            {"text": SPATIAL.replace(f"d = {MTN}", "d = Identity (c) e = Identity (c)\nf = "
                                     f"{MTN}").replace("(d, u)", "(f, u)")},
            {},
            "'d' is in the T-step network only (2 neurons against 2)",
        ),
        ({}, {"theta_b": 2 * THETA_B}, "theta of 'b' is [1, 0.5, 0.25, ...] over"),
        ({}, {"theta_d": 4.001 * THETA_D}, "0.7501875 over 4 timesteps and 0.1875 in one"),
        ({"theta_b": THETA_B[:1].repeat(3)}, {}, "theta of"),
        ({}, {"text": TEMPORAL.replace("levels_pos = 2", "levels_pos = 3")}, "12 positive and 4"),
        ({}, {"text": TEMPORAL.replace("v0 = 0.25", "v0 = 0.5")}, "levels, v0 0.25 in one"),
        (
            {},
            {"text": TEMPORAL.replace("1, timesteps = 4", "1, timesteps = 2")},
            "neurons fire over [2, 4] timesteps",
        ),
        (
            {},
            {"text": TEMPORAL.replace("(c, theta_d)", "(c, two)").replace(
                "c = MatMul", "two = Add (theta_d, theta_d) c = MatMul")},
            "is computed while the network runs",
        ),
    ],
)  # fmt: skip
def test_networks_that_do_not_belong_together_are_refused(one, many, message):
    with pytest.raises(ModelError) as refusal:
        pair_neurons(spatial(**one), temporal(**many))
    assert message in str(refusal.value)
