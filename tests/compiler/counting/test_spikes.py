"""Spikes and synaptic operations counted inside the graph, against loops: equal to the last one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from snn_compile.compiler.counting.spikes import SpikeMeter
from snn_compile.compiler.errors import DataError, ModelError
from snn_compile.compiler.running.session import make_session
from snn_compile.runtime_ops.scale_fire import octave_levels
from spikes_by_hand import assert_counted, count, measure, network, spikes_of_values, values_of

#: No multiple of one is a multiple of another.
STEPS = np.sqrt(np.float32([0.11, 0.53, 3.7]))
#: Levels that are multiples of nothing, of both signs, and their cells; the smallest step is 0.4.
LEVELS = np.float32([-2.1, -0.9, 0, 0.4, 1.7, 3.2])
CELLS = [0, 1, 1, 2, 2, 3, 4, 4, 4, 5]
TABLE = LEVELS[CELLS]
STAIRCASE = dict(zip([-5, -2, 0, 1, 4, 8], map(float, LEVELS), strict=True))
STAIRCASE_FIRE = "ai.snn.StaircaseFire <density = 2.0, start = -4.0>"
#: K of an octave neuron.
OCTAVE = {k: k for k in (-6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12, 16)}
DUAL_SCALE_FIRE = "ai.snn.DualScaleFire <linear = 4, top_pos = 16, top_neg = 6>"


def multiples(low, high):
    return {k: k for k in range(low, high + 1)}


def sparse(rng, *shape):
    """Weights of which a third is 0."""
    weights = rng.standard_normal(shape).astype(np.float32)
    return np.where(rng.random(shape) < 1 / 3, np.float32(0), weights)


def potentials(rng, *shape):
    return (rng.standard_normal(shape) * 2).astype(np.float32)


CONVOLUTIONS = {
    "plain": ("Conv", "strides = [1, 1]", (2, 3, 2, 2)),
    "border": ("Conv", "pads = [1, 2, 0, 1]", (2, 3, 3, 3)),
    "stride": ("Conv", "strides = [2, 3], pads = [1, 1, 1, 1]", (2, 3, 3, 2)),
    "dilation": ("Conv", "dilations = [2, 1], pads = [2, 0, 1, 0]", (2, 3, 2, 3)),
    "groups": ("Conv", "group = 3, pads = [1, 1, 1, 1]", (6, 1, 3, 3)),
    "transposed": ("ConvTranspose", "strides = [2, 2], pads = [1, 0, 2, 1]", (3, 2, 3, 2)),
    "transposed groups": (
        "ConvTranspose",
        "group = 3, dilations = [2, 1], strides = [1, 3], output_padding = [0, 2]",
        (3, 2, 2, 2),
    ),
}


@pytest.mark.parametrize("convolution", CONVOLUTIONS)
@pytest.mark.parametrize("step", ["one", "channels"])
@pytest.mark.parametrize("neuron", ["StaircaseFire", "DualScaleFire"])
def test_convolution_of_a_scale_and_fire_neuron(convolution, step, neuron):
    op, attributes, shape = CONVOLUTIONS[convolution]
    levels, fire, bits = STAIRCASE, f"{STAIRCASE_FIRE} (x, step, table)", 3
    if neuron == "DualScaleFire":
        levels, fire, bits = OCTAVE, f"{DUAL_SCALE_FIRE} (x, step)", 4
    rng = np.random.default_rng(len(convolution))
    step, weights = STEPS[:1].reshape(()) if step == "one" else STEPS, sparse(rng, *shape)
    snn = network(
        f"""g (float[N, 3, 5, 4] x) => (float[N, C, H, W] z) {{
            y = {fire}
            z = {op} <{attributes}> (y, w)
        }}""",
        step=step, table=TABLE, w=weights,
    )  # fmt: skip
    x = potentials(rng, 3, 3, 5, 4)
    _, synapses = measure(snn, {"x": x})
    k = spikes_of_values((step, levels))(values_of(snn, ["y"], {"x": x})[0])
    synapse = synapses[f"{op} of z"]
    assert_counted(synapse, count(snn.proto.graph.node[1], k, weights), 3)
    assert (synapse.op, synapse.inputs, synapse.bits) == (op, [f"{neuron} of y"], bits)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_convolution_of_a_multi_threshold_fire(data):
    draw = data.draw
    kernel, stride, dilation = (draw(st.integers(1, 3)) for _ in range(3))
    pads = [draw(st.integers(0, 2)) for _ in range(2)]
    groups = draw(st.sampled_from([1, 3]))
    transposed = draw(st.booleans())
    levels = draw(st.sampled_from([(1, 0), (7, 5), (0, 3), (255, 0), (300, 200)]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    op = "ConvTranspose" if transposed else "Conv"
    shape = (3, 2, kernel) if transposed else (2 * groups, 3 // groups, kernel)
    weights, theta = sparse(rng, *shape), np.float32([0.3, 0.71, 1.9]) / max(levels)
    snn = network(
        f"""g (float[N, 3, 9] x) => (float[N, C, W] z) {{
            y = ai.snn.MultiThresholdFire
                <levels_pos = {levels[0]}, levels_neg = {levels[1]}> (x, theta)
            z = {op} <group = {groups}, strides = [{stride}], dilations = [{dilation}],
                pads = {pads}> (y, w)
        }}""",
        theta=theta, w=weights,
    )  # fmt: skip
    x = potentials(rng, 2, 3, 9)
    _, synapses = measure(snn, {"x": x})
    k = np.rint(values_of(snn, ["y"], {"x": x})[0] / theta[:, None]).astype(np.int64)
    assert_counted(synapses[f"{op} of z"], count(snn.proto.graph.node[1], k, weights), 2)


FIRE = "y = ai.snn.MultiThresholdFire <levels_pos = 5, levels_neg = 3> (x, theta)"
FIRED = spikes_of_values((STEPS, multiples(-3, 5)))

#: Moving operators between the neurons (y, and v, a StaircaseFire) and the operator that reads m.
MOVED = {
    "Pad": ("m = Pad (y, pads)", {"pads": np.int64([0, 0, 1, 2, 0, 0, 0, 1])}, 3),
    "Pad of channels": ("m = Pad (y, pads)", {"pads": np.int64([0, 0, 1, 2, 0, 1, 0, 1])}, 4),
    "Pad by reflection": (
        'm = Pad <mode = "reflect"> (y, pads)',
        {"pads": np.int64([0, 0, 1, 1, 0, 0, 1, 1])},
        3,
    ),
    "Concat": ("m = Concat <axis = 1> (y, v, y)", {}, 9),
    "Concat of other spans": (
        "b = ai.snn.MultiThresholdFire <levels_pos = 1> (x, theta) m = Concat <axis = 1> (b, y)",
        {},
        6,
    ),
    "Concat with a constant": (
        "m = Concat <axis = 1> (y, one)",
        {"one": np.ones((4, 1, 6, 4), np.float32)},
        4,
    ),
    "Slice": (
        "m = Slice (y, at, end, axes)",
        {"at": np.int64([1]), "end": np.int64([5]), "axes": np.int64([2])},
        3,
    ),
    "Transpose": (
        "t = Transpose <perm = [0, 1, 3, 2]> (y) m = Slice (t, at, end, axes)",
        {"at": np.int64([1]), "end": np.int64([5]), "axes": np.int64([3])},
        3,
    ),
    "Reshape": ("m = Reshape (y, shape)", {"shape": np.int64([0, 2, 12, 3])}, 2),
    "Split": ("a, b = Split <axis = 2> (y) m = Concat <axis = 1> (b, a)", {}, 6),
    "Resize": (
        'm = Resize <mode = "nearest"> (y, , twice)',
        {"twice": np.float32([1, 1, 2, 2])},
        3,
    ),
    "MaxPool": (
        "m = MaxPool <kernel_shape = [2, 3], strides = [2, 1], pads = [1, 1, 0, 1]> (y)",
        {},
        3,
    ),
    "MaxPool of several": (
        "c = Concat <axis = 1> (y, v) a = MaxPool <kernel_shape = [2, 2]> (c) "
        "m = MaxPool <kernel_shape = [2, 2]> (a)",
        {},
        6,
    ),
    "MaxPool by columns": ("m, i = MaxPool <kernel_shape = [2, 2], storage_order = 1> (y)", {}, 3),
    "MaxPool of steps mixed": (
        "t = Transpose <perm = [0, 2, 1, 3]> (y) m = MaxPool <kernel_shape = [2, 2]> (t)",
        {},
        6,
    ),
    "GlobalMaxPool": ("m = GlobalMaxPool (y)", {}, 3),
    "ReduceMax": ("m = ReduceMax <axes = [1], keepdims = 1> (y)", {}, 1),
    "ReduceMax to another rank": (
        "r = ReduceMax <axes = [1, 2], keepdims = 0> (y) "
        "u = Unsqueeze (r, axes) m = Unsqueeze (u, axes)",
        {"axes": np.int64([1])},
        1,
    ),
    "Max": ("m = Max (y, v)", {}, 3),
    "Min": ("m = Min (v, y)", {}, 3),
    "Max with a constant": ("m = Max (y, nothing)", {"nothing": np.float32(0)}, 3),
}


@pytest.mark.parametrize("moved", MOVED)
@pytest.mark.parametrize("steps", ["one", "channels", "channels as they lie"])
def test_spikes_are_counted_where_they_are_moved_to(moved, steps):
    nodes, constants, channels = MOVED[moved]
    theta = STEPS[0] if steps == "one" else STEPS
    theta = theta.reshape(-1, 1, 1) if "lie" in steps else theta
    rng = np.random.default_rng(len(moved))
    size = 1 if moved.startswith(("Global", "ReduceMax to")) else 2
    weights = sparse(rng, 2, channels, size, size)
    snn = network(
        f"""g (float[4, 3, 6, 4] x) => (float[N, C, H, W] z) {{
            {FIRE}
            v = {STAIRCASE_FIRE} (x, step, table)
            {nodes}
            z = Conv <pads = [1, 0, 0, 0]> (m, w)
        }}""",
        theta=theta, step=np.float32(0.53), table=TABLE, w=weights,
        **constants,
    )  # fmt: skip
    feeds = [{"x": potentials(rng, 4, 3, 6, 4)} for _ in range(2)]
    _, synapses = measure(snn, *feeds)
    moved_values = [values_of(snn, ["m"], feed)[0] for feed in feeds]
    both = spikes_of_values((theta, multiples(-3, 5)), (0.53, STAIRCASE), (0, {0: 1}))
    values = np.concatenate(moved_values)
    if "constant" in moved:
        values = np.where(values == 1, np.float32(0), values)
    expected = count(snn.proto.graph.node[-1], both(values), weights)
    if moved == "Pad":  # what it adds is border, like the operator's own
        inside = np.zeros(values.shape, np.int64)
        inside[:, :, 1:, 2:-1] = 1
        expected["macs"] = count(snn.proto.graph.node[-1], inside, weights)["graded"]
    assert_counted(synapses["Conv of z"], expected, 8)
    neurons = {f"MultiThresholdFire of {name}" for name in "yb"} | {"StaircaseFire of v"}
    assert set(synapses["Conv of z"].inputs) <= neurons


PRODUCTS = {
    "tokens": ("MatMul (y, w)", (2, 3, 4), (4, 3)),
    "no batch in the weights' way": ("MatMul (y, w)", (2, 3, 3, 4), (3, 4, 2)),
    "weights per sample": ("MatMul (y, w)", (2, 3, 4), (2, 4, 2)),
    "repeated for the weights": ("MatMul (y, w)", (1, 3, 4), (3, 4, 2)),
    "weights first": ("MatMul (w, y)", (2, 3, 4), (5, 3)),
    "weights first, batched": ("MatMul (w, y)", (2, 3, 4), (2, 5, 3)),
    "weights first, rows": ("MatMul (w, y)", (3, 4), (5, 3)),
    "Gemm": ("Gemm (y, w, bias)", (2, 3), (3, 4)),
    "Gemm, transposed": ("Gemm <transB = 1, alpha = 0.5> (y, w)", (2, 3), (4, 3)),
    "Gemm, columns": ("Gemm <transA = 1> (y, w)", (2, 3), (2, 4)),
    "Gemm, weights first": ("Gemm <transA = 1> (w, y)", (2, 3), (2, 4)),
    "Gemm, weights first, rows": ("Gemm <transB = 1> (w, y)", (2, 3), (4, 3)),
    "Einsum": ('Einsum <equation = "bct,dc->bdt"> (y, w)', (2, 3, 4), (5, 3)),
    "Einsum, weights first": ('Einsum <equation = "dct,bct->bd"> (w, y)', (2, 3, 4), (5, 3, 4)),
}


@pytest.mark.parametrize("inferred", [True, False])
@pytest.mark.parametrize("product", PRODUCTS)
def test_product_with_weights(product, inferred):
    node, shape, weights_shape = PRODUCTS[product]
    rng = np.random.default_rng(len(product))
    axis = shape.index(3)
    weights = sparse(rng, *weights_shape)
    declared = ", ".join(map(str, ("N", *shape[1:])))
    snn = network(
        f"""g (float[{declared}] x) => (z) {{
            y = ai.snn.MultiThresholdFire
                <levels_pos = 5, levels_neg = 3, axis = {axis}> (x, theta)
            z = {node}
        }}""".replace("(z)", f"(float[{', '.join('PQRS'[: _rank(node, shape, weights)])}] z)"),
        inferred=inferred, theta=STEPS, w=weights, bias=np.zeros(4, np.float32),
    )  # fmt: skip
    x = potentials(rng, *shape)
    _, synapses = measure(snn, {"x": x})
    k = FIRED(values_of(snn, ["y"], {"x": x})[0])
    operands = (weights, k) if "(w" in node else (k, weights)
    expected = count(snn.proto.graph.node[1], *operands)
    assert_counted(synapses[f"{node.split()[0]} of z"], expected, shape[0])


def _rank(node, shape, weights):
    if node.startswith("Einsum"):
        return len(node.split("->")[1].split('"')[0])
    return max(len(shape), weights.ndim)


TRANSPOSED = "t = Transpose <perm = [0, 1, 3, 2]> (v) "
PAIRS = {
    "MatMul": (TRANSPOSED + "z = MatMul (y, t)", 4),
    "repeated": (TRANSPOSED + "r = Slice (t, at, end, axes) z = MatMul (y, r)", 4),
    "Einsum": ('z = Einsum <equation = "bhtd,bhsd->bhts"> (y, v)', 4),
    "Einsum, labels in another order": (
        't = Transpose <perm = [3, 1, 2, 0]> (v) z = Einsum <equation = "bhtd,dhsb->tbs"> (y, t)',
        3,
    ),
    "Gemm": ("a = Reshape (y, rows) b = Reshape (v, rows) z = Gemm <transB = 1> (a, b)", 2),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("levels", [5, 1000])
def test_product_of_spikes(pair, levels):
    nodes, rank = PAIRS[pair]
    rng = np.random.default_rng(len(pair))
    snn = network(
        f"""g (float[N, 3, 4, 2] x, float[N, 3, 4, 2] u) => (float[{", ".join("PQRS"[:rank])}] z)
        {{
            y = ai.snn.MultiThresholdFire <levels_pos = {levels}, levels_neg = 3> (x, theta)
            v = {STAIRCASE_FIRE} (u, step, table)
            {nodes}
        }}""",
        theta=STEPS * np.float32(5 / levels), step=np.float32(0.53), table=TABLE,
        at=np.int64([0]), end=np.int64([1]), axes=np.int64([1]), rows=np.int64([-1, 2]),
    )  # fmt: skip
    shape = (2, 3, 4, 2)
    feed = {"x": potentials(rng, *shape), "u": potentials(rng, *shape)}
    _, synapses = measure(snn, feed)
    node = snn.proto.graph.node[-1]
    both = spikes_of_values(
        (STEPS * np.float32(5 / levels), multiples(-3, levels)), (0.53, STAIRCASE)
    )
    spikes = [both(value) for value in values_of(snn, list(node.input), feed)]
    synapse = synapses[f"{node.op_type} of z"]
    assert_counted(synapse, count(node, *spikes), 2)
    assert synapse.inputs == ["MultiThresholdFire of y", "StaircaseFire of v"]


@pytest.mark.parametrize("slope", ["slope", "slopes"])
def test_neurons_of_both_polarities_on_one_potential_are_one_source(slope):
    rng = np.random.default_rng(3)
    weights = sparse(rng, 2, 3, 2)
    snn = network(
        f"""g (float[N, 3, 6] x) => (float[N, C, W] z) {{
            above = ai.snn.MultiThresholdFire <levels_pos = 4> (x, theta)
            below = ai.snn.MultiThresholdFire <levels_pos = 0, levels_neg = 3> (x, thetas)
            scaled = Mul (below, {slope})
            y = Add (scaled, above)
            z = Conv (y, w)
        }}""",
        theta=np.float32(0.31), thetas=STEPS, slope=np.float32(0.1),
        slopes=np.float32([[0.1], [0.2], [0.3]]), w=weights,
    )  # fmt: skip
    x = potentials(rng, 5, 3, 6)
    _, synapses = measure(snn, {"x": x})
    above, below = values_of(snn, ["above", "below"], {"x": x})
    k = np.rint(above / np.float32(0.31) + below / STEPS[:, None]).astype(np.int64)
    assert_counted(synapses["Conv of z"], count(snn.proto.graph.node[-1], k, weights), 5)


@pytest.mark.parametrize("pool", ["MaxPool <kernel_shape = [3]>", "GlobalMaxPool"])
def test_pools_of_levels_that_do_not_ascend(pool):
    """As those of GELU do not: the highest value has not the highest k."""
    rng = np.random.default_rng(2)
    levels = np.float32([0, -0.3, -0.1, 0.6, 0.5, 2])
    k_of_levels = [0, -3, -1, 6, 5, 20]
    weights = sparse(rng, 2, 3, 1)
    snn = network(
        f"""g (float[N, 3, 9] x) => (float[N, C, W] z) {{
            y = {STAIRCASE_FIRE} (x, step, table)
            m = {pool} (y)
            z = Conv (m, w)
        }}""",
        step=STEPS, table=levels[CELLS], w=weights,
    )  # fmt: skip
    x = potentials(rng, 5, 3, 9) - 1
    _, synapses = measure(snn, {"x": x})
    spikes = spikes_of_values((STEPS, dict(zip(k_of_levels, map(float, levels), strict=True))))
    k = spikes(values_of(snn, ["m"], {"x": x})[0])
    assert_counted(synapses["Conv of z"], count(snn.proto.graph.node[-1], k, weights), 5)


def test_a_sum_of_neurons_that_may_both_fire_is_analog():
    snn = network(
        """g (float[N, 3, 6] x) => (float[N, C, W] z) {
            above = ai.snn.MultiThresholdFire <levels_pos = 4> (x, theta)
            below = ai.snn.MultiThresholdFire <levels_pos = 2, levels_neg = 3> (x, theta)
            y = Add (below, above)
            z = Conv (y, w)
        }""",
        theta=np.float32(0.31), w=np.ones((2, 3, 2), np.float32),
    )  # fmt: skip
    _, synapses = measure(snn, {"x": np.ones((1, 3, 6), np.float32)})
    found = synapses["Conv of z"]
    assert (found.analog, found.macs) == ("reads values that Add 'Add of y' computes", 60)
    assert (found.unary, found.inputs) == (0, [])


def test_analog_operators_say_why():
    snn = network(
        """g (float[N, 3, 6] x, float[N, 3, 3] u) => (float[N, 2, 3] z) {
            a = Conv (x, w)
            p = Pad (x, pads)
            b = Conv <group = 3> (p, w1)
            y = ai.snn.MultiThresholdFire <levels_pos = 4> (a, theta)
            s = Softmax (y)
            t = Transpose (s)
            t2 = Transpose <perm = [2, 1, 0]> (t)
            c = MatMul (y, d)
            d = MatMul (u, w2)
            z = MatMul (t2, d)
        }""".replace("c = MatMul (y, d)\n", ""),
        w=np.float32([[[1, 0, 0, 2]] * 3] * 2), w1=np.float32([[[1, 0, 0, 2]]] * 3),
        w2=np.ones((3, 3), np.float32), pads=np.int64([0, 0, 2, 0, 0, 1]), theta=np.float32(1),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    feed = {"x": potentials(rng, 2, 3, 6), "u": potentials(rng, 2, 3, 3)}
    _, found = measure(snn, feed)
    own = "reads the network's own input"
    softmax = "reads values that Softmax 'Softmax of s' computes"
    assert {name: (s.analog, s.macs) for name, s in found.items()} == {
        "Conv of a": (own, 2 * 3 * 2 * 3),
        # Windows of 4 over 6 positions with 2 and 1 of padding: 4 and 5 products within.
        "Conv of b": (own, 3 * (4 + 5)),
        "MatMul of d": (own, 27),
        "MatMul of z": (softmax, 2 * 3 * 3),
    }


BODY = """
    g (float[N, 3, 6] x, bool c) => (float[N, 2, 5] z) {
        y = ai.snn.MultiThresholdFire <levels_pos = 5, levels_neg = 3> (x, theta)
        m = If (c) <
            then_branch = taken () => (float[N, 3, 6] t) {
                t = ai.snn.StaircaseFire <density = 2.0, start = -4.0> (x, step, table)
            },
            else_branch = left () => (float[N, 3, 6] e) {
                e = Neg (y)
            }
        >
        z = If (c) <
            then_branch = taken2 () => (float[N, 2, 5] t2) {
                p = MaxPool <kernel_shape = [2], strides = [1], pads = [0, 1]> (y)
                t2 = Conv (p, w)
            },
            else_branch = left2 () => (float[N, 2, 5] e2) {
                e2 = Conv (m, w)
            }
        >
    }"""


@pytest.mark.parametrize("taken", [[True], [False], [True, False, True]])
@pytest.mark.parametrize("spikes", [True, False])
def test_bodies_count_where_they_run(taken, spikes):
    rng = np.random.default_rng(5)
    weights = sparse(rng, 2, 3, 2)
    text = BODY.replace("Neg (y)", "Identity (y)") if spikes else BODY
    snn = network(text, theta=STEPS, step=np.float32(0.53), table=TABLE, w=weights)
    for number, body in enumerate(snn.proto.graph.node[2].attribute):
        body.g.node[-1].name = f"conv {number}"
    feeds = [{"x": potentials(rng, 2, 3, 6), "c": np.array(c)} for c in taken]
    meter = SpikeMeter(snn, ["z"])
    session = make_session(meter.network)
    for feed in feeds:
        meter.add(session.run(None, feed))
    neurons, synapses = meter.result()
    y = np.concatenate([values_of(snn, ["y"], feed)[0] for feed in feeds])
    assert neurons[0].spikes_per_value == np.abs(FIRED(y)).sum() / y.size
    found = {synapse.name: synapse for synapse in synapses}
    convolution = snn.proto.graph.node[2].attribute[0].g.node[-1]
    for name, wanted in (("conv 0", True), ("conv 1", False)):
        there = [FIRED(values_of(snn, ["y"], f)[0]) for f in feeds if bool(f["c"]) is wanted]
        if not spikes and not wanted:
            assert found[name].analog == "reads values that If 'If of m' computes"
            continue
        spread = np.concatenate(there) if there else np.zeros((0, 3, 6), np.int64)
        if wanted and there:
            values = [values_of(snn, ["y"], f)[0] for f in feeds if bool(f["c"])]
            padded = np.pad(np.concatenate(values), [(0, 0), (0, 0), (0, 1)], constant_values=-9e9)
            spread = FIRED(np.maximum(padded[..., 1:], padded[..., :-1]))
        expected = count(convolution, spread, weights)
        assert_counted(found[name], expected, 2 * len(taken))


def test_all_batches_and_sizes_are_counted():
    """Runs of many sizes, more samples than one sum holds, and inputs of two shapes."""
    rng = np.random.default_rng(7)
    weights = sparse(rng, 2, 3, 3)
    snn = network(
        """g (float[N, 3, W] x) => (float[N, 2, W2] z) {
            y = ai.snn.MultiThresholdFire <levels_pos = 250> (x, theta)
            z = Conv <pads = [1, 1]> (y, w)
        }""",
        theta=np.float32(0.01), w=weights,
    )  # fmt: skip
    shapes = [(37, 3, 4), (1, 3, 4), (8, 3, 7), (5, 3, 4)]
    feeds = [{"x": potentials(rng, *shape)} for shape in shapes]
    for feed in feeds:
        feed["x"][:, 0, 0], feed["x"][:, 1, 1] = 9, -1
    neurons, synapses = measure(snn, *feeds)
    spikes = [np.rint(values_of(snn, ["y"], f)[0] / np.float32(0.01)).astype(int) for f in feeds]
    expected = Counter()
    for k in spikes:
        expected.update(count(snn.proto.graph.node[1], k, weights))
    assert_counted(synapses["Conv of z"], expected, 51)
    (neuron,) = neurons.values()
    flat = np.concatenate([k.reshape(-1) for k in spikes])
    np.testing.assert_array_equal(neuron.level_counts, np.bincount(flat, minlength=251))
    narrow = np.concatenate([k for k in spikes if k.shape[2] == 4])
    wide = spikes[2]
    positions = [*narrow.reshape(-1, 12).T, *wide.reshape(-1, 21).T]
    assert neuron.neurons == len(positions) == 33
    assert neuron.silent_neurons == sum(not p.any() for p in positions) / 33 > 0
    assert neuron.saturated_neurons == sum((p == 250).all() for p in positions) / 33 > 0


NEURONS = {
    "one sign": ("MultiThresholdFire <levels_pos = 6>", multiples(0, 6)),
    "the other sign": ("MultiThresholdFire <levels_pos = 0, levels_neg = 6>", multiples(-6, 0)),
    "both signs": ("MultiThresholdFire <levels_pos = 6, levels_neg = 2>", multiples(-2, 6)),
    "as many as are told apart": (
        "MultiThresholdFire <levels_pos = 1023, levels_neg = 126>",
        multiples(-126, 1023),
    ),
    "more than are told apart": (
        "MultiThresholdFire <levels_pos = 1024, levels_neg = 127>",
        multiples(-127, 1024),
    ),
    "many more": (
        "MultiThresholdFire <levels_pos = 70000, levels_neg = 9>",
        multiples(-9, 70000),
    ),
    "octaves": ("ScaleFire <linear = 4, top_pos = 16>", {k: k for k in OCTAVE if k >= 0}),
    "octaves of both signs": (DUAL_SCALE_FIRE.removeprefix("ai.snn."), OCTAVE),
    "octaves of one level each": (
        "ScaleFire <linear = 2, top_pos = 8192>",
        {k: k for k in (0, *(2**i for i in range(14)))},
    ),
    "octaves that are not told apart": (
        "ScaleFire <linear = 2048, top_pos = 16777216>",
        {k: k for k in octave_levels(2048).astype(int).tolist()},
    ),
    "staircase": (STAIRCASE_FIRE.removeprefix("ai.snn."), STAIRCASE),
}


@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("steps", ["one", "channels", "channels as they lie"])
def test_what_a_neuron_did(neuron, steps):
    text, levels = NEURONS[neuron]
    thresholds = text.startswith("MultiThresholdFire")
    rng = np.random.default_rng(len(neuron))
    most = max(map(abs, levels))
    step = (STEPS[:1] if steps == "one" else STEPS) * np.float32(4 / most)
    inputs = "x, step, table" if neuron == "staircase" else "x, step"
    snn = network(
        f"g (float[N, 3, 5] x) => (float[N, 3, 5] z) {{ z = ai.snn.{text} ({inputs}) }}",
        step=step.reshape(-1, 1) if "lie" in steps else step.reshape(-1), table=TABLE,
    )  # fmt: skip
    x = potentials(rng, 20, 3, 5) * 3
    x[:, 0, 0], x[:, 0, 1], x[:, 1, 0], x[::2, 1, 0] = 99, -99, 99, -99
    x[:, 2, 0] = 0
    neurons, _ = measure(snn, {"x": x})
    (found,) = neurons.values()
    z = values_of(snn, ["z"], {"x": x})[0]
    low, high = min(levels), max(levels)
    if neuron == "staircase":
        k = spikes_of_values((step, STAIRCASE))(z)
    else:
        k = np.rint(z / step.reshape(-1, 1)).astype(np.int64)
    if high == 1 << 24:  # near there the quotient is no whole number
        places = np.searchsorted(list(levels), k * (1 - 1e-6))
        k = np.array(list(levels))[places]
    assert set(np.unique(k)) <= set(levels)
    assert (found.spike_range, found.neurons) == ((low, high), 15)
    assert found.levels == (sum(k < 0 for k in levels), sum(k > 0 for k in levels))
    assert found.spikes_per_value == np.abs(k).sum() / k.size
    assert found.active == (k != 0).mean()
    assert found.silent_neurons == (k == 0).all(0).mean() > 0
    outermost = ((k == low) & (low < 0)) | ((k == high) & (high > 0))
    assert found.saturated_neurons == outermost.all(0).mean() > 0
    if thresholds:
        beyond = np.floor(np.abs(x) / step.reshape(-1, 1) + np.float32(0.5)) > np.abs(k)
        beyond &= np.where(x < 0, low, high) != 0
        assert found.clip_rate == beyond.mean() > 0
    else:
        assert found.clip_rate is None
    if len(levels) <= 1150:
        assert found.level_spikes == sorted(levels)
        seen = [(k == i).sum() for i in sorted(levels)]
        np.testing.assert_array_equal(found.level_counts, seen)
        shares = np.unique(k, return_counts=True)[1] / k.size
        assert found.entropy == pytest.approx(-(shares * np.log2(shares)).sum())
    else:
        assert found.level_counts == found.level_spikes == []
        assert np.isnan(found.entropy)


@pytest.mark.parametrize("timesteps", [2, 4, 16])
def test_unary_operations_are_those_of_an_integrate_and_fire_network(timesteps):
    """Inside the premise of the temporal-to-spatial equivalence: currents in [0, threshold].

    Values are multiples of a power of two, so no sum is rounded.
    """
    rng = np.random.default_rng(timesteps)
    w1 = rng.integers(0, 3, (4, 2, 3)).astype(np.float32) / 16
    w2 = rng.integers(0, 2, (3, 4, 3)).astype(np.float32) / 16
    network_text = """g (float[N, 2, 9] x) => (float[N, 3, W] z) {{
        a = {first} (x, theta)
        b = Conv <pads = [1, 1]> (a, w1)
        c = {second} (b, theta)
        z = Conv <strides = [2], pads = [1, 0]> (c, w2)
    }}"""
    one = f"ai.snn.MultiThresholdFire <levels_pos = {timesteps}>"
    many = f"ai.snn.IntegrateFire <levels_pos = 1, timesteps = {timesteps}>"
    theta = np.float32(1)
    text = network_text.format(first=one, second=one)
    snn = network(text, theta=theta / timesteps, w1=w1, w2=w2)
    temporal = network(network_text.format(first=many, second=many), theta=theta, w1=w1, w2=w2)
    x = rng.integers(0, 65, (5, 2, 9)).astype(np.float32) / 64
    repeated = {"x": np.concatenate([x] * timesteps)}  # a constant current, time-major
    _, synapses = measure(snn, {"x": x})
    for source, operator, weights in (("a", "b", w1), ("c", "z", w2)):
        spikes, current = values_of(temporal, [source, "b"], repeated)
        assert set(np.unique(spikes)) <= {0, 1}
        assert 0 <= current.min() <= current.max() <= theta
        node = next(n for n in temporal.proto.graph.node if n.output[0] == operator)
        sent = count(node, spikes.astype(np.int64), weights)
        assert synapses[f"Conv of {operator}"].unary == sent["unary"] / 5 > 0


def test_inputs_without_a_batch_axis_are_one_sample():
    snn = network(
        """g (float[4, 3] x) => (float[4, 2] z) {
            y = ai.snn.MultiThresholdFire <levels_pos = 5> (x, theta)
            z = MatMul (y, w)
        }""",
        theta=np.float32(0.3), w=np.float32([[1, 0], [2, 3], [0, 0]]),
    )  # fmt: skip
    x = np.float32([[0.3, 0.6, 9]] * 4)
    neurons, synapses = measure(snn, {"x": x}, {"x": x}, unbatched=frozenset(["x"]))
    assert synapses["MatMul of z"].unary == 4 * (1 * 1 + 2 * 2 + 5 * 0)
    assert neurons["MultiThresholdFire of y"].neurons == 12


def test_tensors_whose_first_axis_is_not_that_of_the_samples():
    rng = np.random.default_rng(0)
    weights = sparse(rng, 3, 2)
    snn = network(
        """g (float[N, 3, 4] x) => (float[1, M, 2] z) {
            rows = Reshape (x, shape)
            y = ai.snn.MultiThresholdFire <levels_pos = 5, levels_neg = 3, axis = 2> (rows, theta)
            z = MatMul (y, w)
        }""",
        shape=np.int64([1, -1, 3]), theta=STEPS, w=weights,
    )  # fmt: skip
    feeds = [{"x": potentials(rng, size, 3, 4)} for size in (2, 2, 5)]
    neurons, synapses = measure(snn, *feeds)
    expected = Counter()
    for feed in feeds:
        k = FIRED(values_of(snn, ["y"], feed)[0])
        expected.update(count(snn.proto.graph.node[-1], k, weights))
    assert_counted(synapses["MatMul of z"], expected, 9)
    assert neurons["MultiThresholdFire of y"].neurons == 2 * 12 + 5 * 12


def test_what_cannot_be_counted_is_refused():
    text = "g (float[N, 3] x) => (float[N, 3] z) {{ z = ai.snn.{} (x, theta) }}"
    temporal = network(
        text.format("IntegrateFire <timesteps = 2, levels_pos = 2000000>"), theta=np.float32(1)
    )
    with pytest.raises(ModelError, match="IntegrateFire of z' has more than 1048576 levels per"):
        SpikeMeter(temporal, ["z"])
    computed = network(
        "g (float[N, 3] x, float t) => (float[N, 3] z) { z = ai.snn.MultiThresholdFire (x, t) }"
    )
    with pytest.raises(ModelError, match="MultiThresholdFire of z': t is not constant"):
        SpikeMeter(computed, ["z"])
    snn = network(text.format("MultiThresholdFire"), theta=np.float32(1))
    meter = SpikeMeter(snn, ["z"])
    with pytest.raises(DataError, match="no sample was run"):
        meter.result()
    outputs = make_session(meter.network).run(None, {"x": np.float32([[1, np.nan, 1]])})
    meter.add(outputs)
    with pytest.raises(DataError, match="MultiThresholdFire of z: its membrane potential is NaN"):
        meter.result()


def test_operators_that_cannot_be_counted_are_listed():
    snn = network(
        """g (float[N, 3, 3] x) => (float[N, 3, 3] z) {
            y = ai.snn.MultiThresholdFire <levels_pos = 5> (x, theta)
            a = Einsum <equation = "...ij,jk->...ik"> (y, w)
            trips = Constant <value_int = 2> ()
            z = Loop (trips, , a) <body = step (int64 i, bool going, float[N, 3, 3] carried) =>
                (bool go_on, float[N, 3, 3] next) {
                go_on = Identity (going)
                next = MatMul (carried, w)
            }>
        }""",
        theta=np.float32(0.3), w=np.ones((3, 3), np.float32),
    )  # fmt: skip
    _, synapses = measure(snn, {"x": np.ones((2, 3, 3), np.float32)})
    assert [s.analog for s in synapses.values()] == [
        "not counted: its equation ...ij,jk->...ik is not of two operands with all labels",
        "not counted: inside the body of Loop Loop of z",
    ]


def test_a_compiled_network_gives_the_same_outputs_and_its_names_are_left_alone():
    snn = network(
        "g (float[N, 3] x) => (float[N, 3] z) { z = ai.snn.MultiThresholdFire (x, theta) }",
        theta=np.float32(1),
    )
    snn.proto.graph.node[0].name = "counted.1"
    before = snn.proto.SerializeToString(deterministic=True)
    neurons, _ = measure(snn, {"x": np.float32([[1, 0, 1]])})
    assert list(neurons) == ["counted.1"]
    assert snn.proto.SerializeToString(deterministic=True) == before


def test_lengths_that_a_model_declares_wrongly_are_found_out():
    snn = network(
        """g (float[N, 3, 4] x) => (float[N, K] z) {
            y = ai.snn.MultiThresholdFire <levels_pos = 5> (x, theta)
            rows = Reshape (x, shape)
            v = ai.snn.MultiThresholdFire <levels_pos = 5> (rows, theta)
            z = Flatten (v)
        }""",
        inferred=False, theta=np.float32(0.3), shape=np.int64([1, -1, 4]),
    )  # fmt: skip
    for name in ("y", "v"):
        shape = ["N", 3, 4] if name == "y" else ["N", None, 4]
        snn.proto.graph.value_info.append(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        )
    meter = SpikeMeter(snn, ["z"])
    outputs = make_session(meter.network).run(None, {"x": np.ones((2, 3, 4), np.float32)})
    with pytest.raises(DataError, match=r"MultiThresholdFire of v: its tensor is \[1, 6, 4\]"):
        meter.add(outputs)


def test_level_counts_come_with_the_last_run():
    snn = network(
        "g (float[N, 3] x) => (float[N, 3] z) "
        "{ z = ai.snn.MultiThresholdFire <levels_pos = 2> (x, theta) }",
        theta=np.float32(1),
    )
    meter = SpikeMeter(snn, ["z"], runs=2)
    session = make_session(meter.network)
    meter.add(session.run(None, {"x": np.float32([[1, 0, 2], [1, 1, 9], [0, 0, 0]])}))
    with pytest.raises(ValueError, match="9 values were counted, and 0 were observed"):
        meter.result()
    meter.add(session.run(None, {"x": np.float32([[2, 1, 0]])}))
    assert meter.result()[0][0].level_counts == [5, 4, 3]
