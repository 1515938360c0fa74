"""MaxPool in front of the neuron: where it goes there, that nothing changes, and what it saves."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import export_model, model_from_text, run_model
from onnx import numpy_helper
from snn_compile.compiler import compile_model, front_end
from snn_compile.passes.canonicalise.canonicalise import canonicalise
from snn_compile.passes.graph.surgeon import import_model
from snn_compile.passes.neurons.pool_first import pool_first

IMAGES = np.random.default_rng(0).standard_normal((3, 4, 9, 8)).astype(np.float32)


def net(nodes, outputs="float[N,4,H,W] y", weights="float low = {0.0}, float high = {0.5}"):
    return model_from_text(f"g (float[N,4,9,8] x) => ({outputs}) <{weights}> {{ {nodes} }}")


def moved(model):
    """The operators in their order, and the pass's lines; the outputs are the same."""
    result = pool_first(canonicalise(import_model(model)).graph)
    changed = export_model(result.graph)
    pairs = zip(run_model(model, {"x": IMAGES}), run_model(changed, {"x": IMAGES}), strict=True)
    for expected, got in pairs:
        np.testing.assert_array_equal(got, expected)
    return [node.op_type for node in changed.graph.node], result.changes


@pytest.mark.parametrize("activation", ["Relu (x)", "Clip (x, low, high)", "LeakyRelu (x)"])
@pytest.mark.parametrize(
    "pool",
    [
        "MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)",
        "MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (a)",
        "MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (a)",
        "GlobalMaxPool (a)",
    ],
)
def test_pool_comes_first_and_nothing_changes(activation, pool):
    ops, lines = moved(net(f"a = {activation} y = {pool}"))
    assert ops == [pool.split()[0], activation.split()[0]]
    [line] = lines
    assert line.startswith(f"{activation.split()[0]} ") and "comes first" in line


def test_pools_in_a_row_all_come_first():
    pool = "MaxPool <kernel_shape = [2, 2]>"
    ops, lines = moved(net(f"a = Relu (x) b = {pool} (a) y = {pool} (b)"))
    assert ops == ["MaxPool", "MaxPool", "Relu"] and len(lines) == 2


POOL = "MaxPool <kernel_shape = [2, 2]>"
TWO = "a = Relu (x) b = Neg (x) c = LeakyRelu (b)"


@pytest.mark.parametrize("pool", [POOL, "GlobalMaxPool"])
def test_joined_channels_are_pooled_one_by_one(pool):
    op = pool.split()[0]
    nodes = f"{TWO} d = Concat <axis = 1> (a, c) y = {pool} (d)"
    ops, lines = moved(net(nodes, "float[N,8,H,W] y"))
    assert sorted(ops) == sorted(["Neg", op, op, "Relu", "LeakyRelu", "Concat"])
    assert ops[-1] == "Concat" and len(lines) == 3
    nodes = f"{TWO} d = Concat <axis = 1> (a, c) e = {POOL} (d) y = {pool} (e)"
    ops, lines = moved(net(nodes, "float[N,8,H,W] y"))
    assert ops[-1] == "Concat" and len(lines) == 6


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        (f"y = Relu (x) z = {POOL} (y)", "float[N,4,H,W] y, float[N,4,I,J] z"),
        (f"a = Relu (x) b = {POOL} (a) c = Add (a, low) z = Neg (b) y = Neg (c)",
         "float[N,4,H,W] y, float[N,4,I,J] z"),
        ("a = Relu (x) y, at = MaxPool <kernel_shape = [2, 2]> (a)",
         "float[N,4,H,W] y, int64[N,4,H,W] at"),
        ("a = Relu (x) y = MaxPool <kernel_shape = [2, 2], dilations = [2, 2]> (a)",
         "float[N,4,H,W] y"),
        ("a = Relu (x) y = AveragePool <kernel_shape = [2, 2]> (a)", "float[N,4,H,W] y"),
        (f"a = LeakyRelu <alpha = -0.5> (x) y = {POOL} (a)", "float[N,4,H,W] y"),
        (f"{TWO} d = Concat <axis = 2> (a, c) y = {POOL} (d)", "float[N,4,H,W] y"),
        (f"{TWO} d = Concat <axis = 1> (a, b) y = {POOL} (d)", "float[N,8,H,W] y"),
        (f"{TWO} d = Concat <axis = 1> (a, a) y = {POOL} (d)", "float[N,8,H,W] y"),
        (f"a = Abs (x) y = {POOL} (a)", "float[N,4,H,W] y"),
    ],
    ids=["output", "second reader", "positions", "dilated", "average", "turned",
         "rows joined", "a part is no neuron", "a part twice", "no neuron"],
)  # fmt: skip
def test_what_stays_where_it_is(nodes, outputs):
    model = net(nodes, outputs)
    before = export_model(canonicalise(import_model(model)).graph)
    assert moved(model) == ([node.op_type for node in before.graph.node], [])


NET = """
    g (float[N,4,9,8] x) => (float[N,4,H,W] y) <float[4,4,3,3] w, float[4] b, float[4,4,3,3] v> {
        a = Conv (x, w, b) r = Relu (a) p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
        y = Conv (p, v)
    }"""


@pytest.fixture(scope="module")
def both():
    """Compiled as it is by default, and with the neuron in front of the pool."""
    samples = np.random.default_rng(1).standard_normal((64, 4, 9, 8)).astype(np.float32)
    options = {"levels_budget": 0.0, "compensation": False}
    model = model_from_text(NET)
    first = compile_model(model, {"x": samples}, **options)
    kept = front_end.PLACEMENT
    front_end.PLACEMENT = tuple(one for one in kept if one.name != "pool_first")
    try:
        second = compile_model(model, {"x": samples}, **options)
    finally:
        front_end.PLACEMENT = kept
    return model, samples, first, second


def test_neuron_behind_the_pool_fires_less_at_no_more_error(both):
    _, samples, first, second = both
    assert [node.op_type for node in first.model.graph.node] == [
        "Conv", "MaxPool", "ScaleFire", "Conv",
    ]  # fmt: skip
    fired = []
    for one in (first, second):
        network = onnx.ModelProto()
        network.CopyFrom(one.model)
        [neuron] = [node for node in network.graph.node if node.op_type == "ScaleFire"]
        spikes = onnx.helper.make_tensor_value_info(neuron.output[0], 1, None)
        network.graph.output.append(spikes)
        fired.append(np.abs(run_model(network, {"x": samples})[1]).sum())  # of scale 1: K
    assert fired[0] < 0.6 * fired[1]
    errors = [one.report.verification.outputs[0].relative_l2 for one in (first, second)]
    assert errors[0] < 1.1 * errors[1]


def test_its_scale_is_in_the_layers_on_both_sides(both):
    _, _, first, _ = both
    [step] = [step for step in first.report.passes if step.name == "fold_scales"]
    assert step.changes == ["Relu Relu:r: its scale is in the layers around it"]
    values = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in first.model.graph.initializer
    }
    [neuron] = [node for node in first.model.graph.node if node.op_type == "ScaleFire"]
    assert values[neuron.input[1]] == 1
