"""From one timestep to T and back, against a simulation step by step in Python."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import export_model, run_model
from snn_compile.passes.analysis.time_rules import NotOverTimeError
from snn_compile.passes.graph.network import Network
from snn_compile.passes.graph.surgeon import import_model
from snn_compile.passes.lowering.function_bodies import function_bodies
from snn_compile.passes.lowering.spatial_to_temporal import spatial_to_temporal
from snn_compile.passes.lowering.temporal_to_spatial import temporal_to_spatial, timesteps_of
from snn_compile.runtime_ops.operators import register_schemas

STEPS = 4


def net(nodes, weights="", inputs="float[B,2,4,4] x", outputs="float[B,K] y", opset=17, **arrays):
    """A network of neurons as text; weights are multiples of 1/8 below 1, thresholds given."""
    register_schemas()
    domains = f'["" : {opset}, "ai.snn" : 1]'
    text = f"<ir_version: 8, opset_import: {domains}> g ({inputs}) => ({outputs}) <{weights}> "
    model = onnx.parser.parse_model(text + f"{{ {nodes} }}")
    rng = np.random.default_rng(0)
    for value in list(model.graph.value_info):
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        drawn = (rng.integers(-7, 8, shape) / 8).astype(np.float32)
        values = arrays.get(value.name, drawn)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, value.name))
        model.graph.value_info.remove(value)
    return model


def dyadic(*shape, seed=1, low=-8, high=24):
    """Inputs whose sums are exact: multiples of 1/8."""
    return (np.random.default_rng(seed).integers(low, high, shape) / 8).astype(np.float32)


def timed(model, **options):
    """The network over time, and the lines about it."""
    result = spatial_to_temporal(import_model(model), STEPS, **options)
    return function_bodies(Network(export_model(result.graph))).proto, result.changes


def both_ways(model, feed):
    """What a network gives on the kernels; its function bodies give the same."""
    got = run_model(model, feed, library=True)
    for ours, bodies in zip(got, run_model(model, feed), strict=True):
        np.testing.assert_array_equal(ours, bodies)
    return got


class Neuron:
    """An integrate-and-fire neuron in float64, reset by subtraction."""

    def __init__(self, theta, positive, negative=0, v0=0.5):
        self.theta, self.levels, self.v0 = theta * STEPS, (positive, negative), v0
        self.rest = 0.0

    def __call__(self, current):
        u = self.rest + current
        limit = np.where(u >= 0, *(n // STEPS for n in self.levels))
        spikes = np.sign(u) * np.minimum(np.floor(np.abs(u) / self.theta + self.v0), limit)
        self.rest = u - self.theta * spikes
        return self.theta * spikes


def convolve(x, w):
    """[B, C, H, W] with [O, C, 3, 3], padded by 1, in float64."""
    padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)]).astype(np.float64)
    rows, columns = x.shape[2:]
    patches = [padded[:, :, i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
    return np.einsum("kbchw,ock->bohw", np.stack(patches), w.reshape(*w.shape[:2], 9))


TWO_LAYERS = """
    a = Conv <pads = [1, 1, 1, 1]> (x, w)
    [first] s = ai.snn.MultiThresholdFire <levels_pos = 8> (a, t)
    b = Conv <pads = [1, 1, 1, 1]> (s, v)
    [second] y = ai.snn.MultiThresholdFire <levels_pos = 4, levels_neg = 4> (b, u)
"""
WEIGHTS = "float[3,2,3,3] w, float t, float[2,3,3,3] v, float[2] u"
THETAS = {"t": np.float32(0.25), "u": np.array([0.25, 0.5], np.float32)}


def two_layers():
    return net(TWO_LAYERS, WEIGHTS, outputs="float[B,2,4,4] y", **THETAS)


def weights_of(model):
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def simulate(model, frames):
    """Outputs at every step for inputs [T, B, ...]."""
    arrays = weights_of(model)
    first = Neuron(0.25, 8)
    second = Neuron(np.array([0.25, 0.5])[:, None, None], 4, 4)
    return np.stack(
        [second(convolve(first(convolve(x, arrays["w"])), arrays["v"])) for x in frames]
    )


def test_a_time_axis_gives_what_a_simulation_gives_at_every_step():
    """Inputs that differ from step to step; exactly."""
    model, frames = two_layers(), dyadic(STEPS, 3, 2, 4, 4)
    over_time, changes = timed(model, time_axis=True)
    (got,) = both_ways(over_time, {"x": frames})
    np.testing.assert_array_equal(got, simulate(model, frames))
    assert len(np.unique(got)) > 3
    assert not changes
    shape = over_time.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value or d.dim_param for d in shape] == [STEPS, "B", 2, 4, 4]


def test_the_mean_over_steps_is_the_output_and_the_first_layer_is_computed_once():
    model, image = two_layers(), dyadic(3, 2, 4, 4)
    over_time, _ = timed(model)
    (got,) = both_ways(over_time, {"x": image})
    expected = simulate(model, [image] * STEPS).mean(axis=0)
    np.testing.assert_array_equal(got, expected)
    producers = {node.output[0]: node for node in over_time.graph.node}
    tile = producers[next(n for n in over_time.graph.node if n.name == "first").input[0]]
    assert tile.op_type == "Tile"
    assert producers[tile.input[0]].op_type == "Conv"


def test_delayed_firing_gives_what_one_timestep_gives():
    """Whatever the inputs: each neuron sees the same current at every step."""
    model, image = two_layers(), dyadic(5, 2, 4, 4, low=-40, high=80)
    over_time, _ = timed(model, delayed=True)
    assert timesteps_of(import_model(over_time)) == STEPS
    (got,) = both_ways(over_time, {"x": image})
    np.testing.assert_array_equal(got, run_model(model, {"x": image}, library=True)[0])


@pytest.mark.parametrize("steps", [2, 8, 11, 12, 32, 33])
def test_the_mean_is_taken_over_any_number_of_steps(steps):
    model = net(
        f"y = ai.snn.MultiThresholdFire <levels_pos = {steps}, levels_neg = {steps}> (x, theta)",
        "float theta",
        inputs="float[B,3] x",
        outputs="float[B,3] y",
        theta=np.array(1, np.float32),
    )
    over_time = spatial_to_temporal(import_model(model), steps).graph
    x = np.random.default_rng(steps).uniform(-2 * steps, 2 * steps, (5, 3)).astype(np.float32)
    (got,) = both_ways(function_bodies(Network(export_model(over_time))).proto, {"x": x})
    expected = run_model(model, {"x": x}, library=True)[0]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"delayed": True}, {"time_axis": True}])
def test_the_way_back_gives_the_network_again(options):
    model, image = two_layers(), dyadic(3, 2, 4, 4)
    over_time, _ = timed(model, **options)
    back = export_model(temporal_to_spatial(import_model(over_time)).graph)
    assert [n.op_type for n in back.graph.node] == [n.op_type for n in model.graph.node]
    assert [v.SerializeToString() for v in (*back.graph.input, *back.graph.output)] == [
        v.SerializeToString() for v in (*model.graph.input, *model.graph.output)
    ]
    np.testing.assert_array_equal(
        run_model(back, {"x": image}, library=True)[0],
        run_model(model, {"x": image}, library=True)[0],
    )


SPIKES = "[n] s = ai.snn.MultiThresholdFire <levels_pos = 4> (x, t) "
CHOSEN = np.random.default_rng(3).integers(0, 4, (3, 2, 4, 4))
STEPWISE = {
    "sum": ("y = Add (s, x)", lambda s, x: s + x),
    "constant operand with rows": ("y = Mul (s, x)", lambda s, x: s * x),
    "concatenation": ("y = Concat <axis = 1> (x, s)", lambda s, x: np.concatenate([x, s], 1)),
    "average": ("y = GlobalAveragePool (s)", lambda s, _: s.mean((2, 3), keepdims=True)),
    "movement": (
        "y = Transpose <perm = [0, 2, 3, 1]> (s)",
        lambda s, _: s.transpose(0, 2, 3, 1),
    ),
    "movement of rows": (
        "y = Transpose <perm = [2, 0, 3, 1]> (s)",
        lambda s, _: s.transpose(2, 0, 3, 1),
    ),
    "choice of rows": (
        "r = Transpose <perm = [1, 0, 2, 3]> (s) y = Gather <axis = 0> (r, one)",
        lambda s, _: s[:, 1],
    ),
    "padding": (
        "y = Pad (s, p)",
        lambda s, _: np.pad(s, [(0, 0), (0, 0), (1, 0), (0, 2)]),
    ),
    "shape of rows": (
        "h = Shape <start = 0, end = 1> (s) m = Constant <value_ints = [-1]> () "
        "q = Concat <axis = 0> (h, m) y = Reshape (s, q)",
        lambda s, _: s.reshape(len(s), -1),
    ),
    "shape of features": (
        "h = Shape <start = 1> (s) m = Constant <value_ints = [-1]> () "
        "q = Concat <axis = 0> (m, h) y = Reshape (s, q)",
        lambda s, _: s,
    ),
    "zero keeps the rows": (
        "q = Constant <value_ints = [0, -1]> () y = Reshape (s, q)",
        lambda s, _: s.reshape(len(s), -1),
    ),
    "rows by number": (
        "q = Constant <value_ints = [3, 32]> () y = Reshape (s, q)",
        lambda s, _: s.reshape(len(s), -1),
    ),
    "flat": ("y = Flatten (s)", lambda s, _: s.reshape(len(s), -1)),
    "running sums": ("y = CumSum (s, one)", lambda s, _: s.cumsum(1)),
    "lower triangle": ("y = Trilu <upper = 0> (s)", lambda s, _: np.tril(s)),
    "choice of elements": (
        "y = GatherElements <axis = 3> (s, k)",
        lambda s, _: np.take_along_axis(s, CHOSEN, 3),
    ),
    "as another type": ("y = CastLike (s, t)", lambda s, _: s),
    "mean of rows": (
        "y = ReduceMean <axes = [2, 3], keepdims = 0> (s)",
        lambda s, _: s.mean((2, 3)),
    ),
}


@pytest.mark.parametrize("case", STEPWISE)
def test_affine_operators_take_steps(case):
    nodes, expected = STEPWISE[case]
    pads = np.array([0, 0, 1, 0, 0, 0, 0, 2])
    weights = {
        "padding": ", int64[8] p",
        "choice of rows": ", int64 one",
        "running sums": ", int64 one",
        "choice of elements": ", int64[3,2,4,4] k",
    }.get(case, "")
    arrays = {"t": np.float32(0.25), "p": pads, "one": np.array(1), "k": CHOSEN}
    model = net(SPIKES + nodes, "float t" + weights, outputs="float y", **arrays)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    image = dyadic(3, 2, 4, 4)
    over_time, changes = timed(model)
    neuron = Neuron(0.25, 4)
    steps = [expected(neuron(image), image) for _ in range(STEPS)]
    (got,) = both_ways(over_time, {"x": image})
    np.testing.assert_array_equal(got, np.mean(steps, axis=0))
    assert not changes


MEANS = {
    "maximum": ("y = MaxPool <kernel_shape = [2, 2]> (s)", "MaxPool"),
    "activation": ("z = Sub (s, x) y = Relu (z)", "Relu"),
    "product": ("y = Mul (s, s)", "Mul"),
    "softmax": ("y = Softmax <axis = 1> (s)", "Softmax"),
    "attention": ("y = MatMul (s, s)", "MatMul"),
}


def test_rows_that_move_come_back():
    nodes = "r = Transpose <perm = [1, 0, 2, 3]> (s) y = Transpose <perm = [1, 0, 2, 3]> (r)"
    model = net(SPIKES + nodes, "float t", outputs="float[B,2,4,4] y", t=np.float32(0.25))
    over_time, _ = timed(model)
    image = dyadic(3, 2, 4, 4)
    (got,) = both_ways(over_time, {"x": image})
    neuron = Neuron(0.25, 4)
    np.testing.assert_array_equal(got, np.mean([neuron(image) for _ in range(STEPS)], axis=0))
    back = export_model(temporal_to_spatial(import_model(over_time)).graph)
    assert [n.op_type for n in back.graph.node] == [n.op_type for n in model.graph.node]
    np.testing.assert_array_equal(
        run_model(back, {"x": image}, library=True)[0],
        run_model(model, {"x": image}, library=True)[0],
    )


@pytest.mark.parametrize("case", MEANS)
def test_other_operators_take_the_running_mean_and_are_listed(case):
    """Their last running mean is the operator of the mean over all steps."""
    nodes, op = MEANS[case]
    model = net(SPIKES + nodes, "float t", outputs="float[B,K,L,M] y", t=np.float32(0.25))
    image = dyadic(3, 2, 4, 4)
    over_time, changes = timed(model)
    (got,) = both_ways(over_time, {"x": image})
    (expected,) = run_model(model, {"x": image}, library=True)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert [line for line in changes if "running mean" in line and line.startswith(op)]


def test_neurons_read_steps_of_a_running_mean():
    """m_t t - m_(t-1) (t - 1), behind a MaxPool, at every step of a time axis."""
    nodes = """[n] s = ai.snn.MultiThresholdFire <levels_pos = 4> (x, t)
        p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (s)
        [m] y = ai.snn.MultiThresholdFire <levels_pos = 4, levels_neg = 4> (p, t)"""
    model = net(nodes, "float t", outputs="float[B,2,2,2] y", t=np.float32(0.25))
    frames = dyadic(STEPS, 3, 2, 4, 4)
    over_time, _ = timed(model, time_axis=True)
    (got,) = both_ways(over_time, {"x": frames})
    first, second = Neuron(0.25, 4), Neuron(0.25, 4, 4)
    total, before, expected = 0.0, 0.0, []
    for step, frame in enumerate(frames, start=1):
        total = total + first(frame)
        pooled = step * (total / step).reshape(3, 2, 2, 2, 2, 2).max(axis=(3, 5))
        expected.append(second(pooled - before))
        before = pooled
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


REFUSED = {
    "rows are joined": ("y = Concat <axis = 0> (s, x)", "mixes the rows"),
    "rows are summed": ("y = ReduceSum <keepdims = 1> (s)", "axes are not known"),
    "rows are flattened": ("y = Flatten <axis = 0> (s)", "mixes the rows"),
    "rows in a normalisation": ("y = MeanVarianceNormalization (s)", "is not known"),
    "rows in a triangle": ("f = Flatten (s) y = Trilu (f)", "mixes the rows"),
    "levels": (
        "[m] y = ai.snn.MultiThresholdFire <levels_pos = 6> (s, t)",
        "6 positive and 0 negative levels, which 4 timesteps cannot share",
    ),
    "free levels": (
        "[m] y = ai.snn.ScaleFire (s, t, v, w)",
        "levels that are no multiples of one threshold",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_the_node_and_the_reason(case):
    nodes, reason = REFUSED[case]
    weights = {"t": np.float32(0.25), "v": np.array([0.5], np.float32)}
    weights["w"] = np.array([0, 1], np.float32)
    declared = "float t" if "ScaleFire" not in nodes else "float t, float[1] v, float[2] w"
    model = net(SPIKES + nodes, declared, outputs="float[B,K,L,M] y", **weights)
    with pytest.raises(NotOverTimeError, match=reason):
        timed(model)
