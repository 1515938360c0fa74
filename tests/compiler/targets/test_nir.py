"""Export to NIR: every spike of every neuron at every step, against the T-step ONNX network."""

from __future__ import annotations

import io
import re
import warnings

import numpy as np
import pytest
from conftest import MODELS, REPOSITORY
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.errors import ModelError, UsageError
from snn_compile.compiler.running.expose import with_outputs
from snn_compile.compiler.running.session import make_session
from snn_compile.passes.graph.network import constant_of
from snn_compile.passes.graph.surgeon import export_network, import_model
from snn_compile.passes.lowering.function_bodies import function_bodies
from snn_compile.passes.lowering.spatial_to_temporal import spatial_to_temporal
from spikes_by_hand import network

nir = pytest.importorskip("nir", reason="needs the extra 'nir'")
nir_by_hand = pytest.importorskip("nir_by_hand")
from snn_compile.compiler.targets.nir.package import nir_bytes  # noqa: E402
from snn_compile.compiler.targets.nir.translate import to_nir  # noqa: E402


def grid(*shape, seed=0, unit=1 / 8, largest=16):
    """Multiples of a power of two, so that sums of products are exact in any order."""
    rng = np.random.default_rng(seed)
    return (rng.integers(-largest, largest + 1, shape) * unit).astype(np.float32)


def powers(*shape, seed=0):
    return np.float32(2) ** np.random.default_rng(seed).integers(-2, 2, shape).astype(np.float32)


def spikes_of(spatial, timesteps, feed):
    """Spikes [T, B, ...] by the neuron's name, and the outputs."""
    temporal = spatial_to_temporal(import_model(spatial), timesteps)
    timed = function_bodies(export_network(temporal.graph))
    graph = timed.proto.graph
    fired = [node for node in graph.node if node.op_type == "IntegrateFire"]
    outputs = [output.name for output in graph.output]
    tensors = [node.output[0] for node in fired]
    seen = make_session(with_outputs(timed, tensors + outputs), optimise=False).run(None, feed)
    spikes = {}
    for node, y in zip(fired, seen, strict=False):
        threshold = constant_of(timed, node.input[1])
        threshold = threshold.reshape(-1, *[1] * (y.ndim - 2)) if threshold.ndim else threshold
        k = y / threshold
        assert set(np.unique(k)) <= {0.0, 1.0}
        spikes[node.name] = k.reshape(timesteps, -1, *y.shape[1:])
    return spikes, seen[len(fired) :]


def written(graph):
    """The graph as it is after a file."""
    return nir.read(io.BytesIO(nir_bytes(graph)))


def assert_same_spikes(spatial, timesteps, feed, **options):
    """Export and run; returns the graph."""
    graph = to_nir(spatial, timesteps)
    expected, outputs = spikes_of(spatial, timesteps, feed)
    ports = [name for name, node in graph.nodes.items() if isinstance(node, nir.Input)]
    inputs = dict(zip(ports, feed.values(), strict=True))
    found = nir_by_hand.Simulation(graph, **options).run(inputs, timesteps)
    names = nir_by_hand.neurons(graph)
    assert set(names) == set(expected)
    for neuron, name in names.items():
        np.testing.assert_array_equal(found[name], expected[neuron], err_msg=neuron)
        assert expected[neuron].any() and not expected[neuron].all(), f"{neuron} shows nothing"
    for value, output in zip(spatial.proto.graph.output, outputs, strict=True):
        port = "output" if len(outputs) == 1 else f"output_{value.name}"
        np.testing.assert_array_equal(found[port].mean(0, dtype=np.float32), output)
    return graph


def kinds(graph):
    """How many nodes there are of each kind."""
    names = [type(node).__name__ for node in graph.nodes.values()]
    return {name: names.count(name) for name in names}


FIRE = "ai.snn.MultiThresholdFire <levels_pos = 4, v0 = {v0}>"
IMAGE = "float[N, 3, 6, 6] x"


def convolutions(head="", v0=0.0, attributes="pads = [1, 1, 1, 1]", **constants):
    """x -> Conv -> neuron -> the text given, which makes y of r -> neuron z."""
    fire = FIRE.format(v0=v0)
    return network(
        f"""g ({IMAGE}) => (float[N, C, H, W] z) {{
            a = Conv <{attributes}> (x, w, b) r = {fire} (a, theta) {head} z = {fire} (y, other)
        }}""",
        **{
            "w": grid(4, 3, 3, 3),
            "b": grid(4, seed=1),
            "theta": powers(4),
            "other": np.float32(0.5),
            "v": grid(4, 4, 1, 1, seed=2),
            **constants,
        },
    )


FEED = {"x": grid(2, 3, 6, 6, seed=9, unit=1 / 16)}
NEXT = "y = Conv (r, v)"


@pytest.mark.parametrize("v0", [0.0, 0.5, 0.25])
def test_convolutions_and_neurons(v0):
    graph = assert_same_spikes(convolutions(NEXT, v0), 4, FEED)
    assert kinds(graph)["IF"] == (2 if v0 == 0 else 3)
    assert graph.metadata["timesteps"] == 4
    neuron = graph.nodes[nir_by_hand.neurons(graph)["MultiThresholdFire of r"]]
    np.testing.assert_array_equal(neuron.v_threshold[:, 0, 0], 4 * powers(4))
    assert neuron.metadata["v0"] == v0 and np.all(neuron.r == 1)


def test_without_an_initial_potential_there_is_nothing_but_the_network():
    graph = to_nir(convolutions(NEXT), 4)
    assert list(graph.nodes) == [
        "input",
        "n0001_conv2d_Conv_of_a",
        "n0002_if_MultiThresholdFire_of_r",
        "n0003_conv2d_Conv_of_y",
        "n0004_if_MultiThresholdFire_of_z",
        "n0005_conv2d_z_scale",  # what the network gives are thetas, not ones
        "output",
    ]
    assert graph.edges == nir_by_hand.pairs(graph.nodes)


def test_the_threshold_of_spikes_is_in_the_weights_that_read_them():
    graph = to_nir(convolutions(NEXT), 4)
    expected = grid(4, 4, 1, 1, seed=2) * (4 * powers(4))[:, None, None]
    np.testing.assert_array_equal(graph.nodes["n0003_conv2d_Conv_of_y"].weight, expected)
    np.testing.assert_array_equal(graph.nodes["n0003_conv2d_Conv_of_y"].bias, np.zeros(4))


def test_weights_are_rounded_once():
    theta, weights = np.float32([0.3, 0.7, 1.1, 0.013]), np.float32(1 / 3) * grid(4, 4, 1, 1)
    graph = to_nir(convolutions("y = Conv (r, v)", theta=theta, v=weights), 4)
    factor = (theta * np.float32(4)).astype(np.float64)
    expected = (weights.astype(np.float64) * factor[:, None, None]).astype(np.float32)
    np.testing.assert_array_equal(graph.nodes["n0003_conv2d_Conv_of_y"].weight, expected)


@pytest.mark.parametrize(
    ("attributes", "w"),
    [
        ("strides = [2, 1], pads = [1, 0, 1, 0]", (4, 3, 3, 3)),
        ("dilations = [2, 1], pads = [2, 1, 2, 1]", (4, 3, 3, 3)),
        ("group = 3", (6, 1, 3, 2)),
        ('auto_pad = "SAME_UPPER"', (4, 3, 3, 1)),
        ('auto_pad = "SAME_UPPER", strides = [2, 1]', (4, 3, 3, 2)),
        ('auto_pad = "SAME_LOWER", strides = [1, 2]', (4, 3, 2, 3)),
        ("pads = [0, 2, 1, 0], strides = [2, 2]", (4, 3, 3, 3)),
        ("pads = [0, 1, 2, 1], dilations = [2, 1]", (4, 3, 2, 3)),
        ('auto_pad = "VALID", strides = [3, 3]', (4, 3, 2, 3)),
    ],
)
def test_geometries(attributes, w):
    channels = w[0]
    constants = {
        "w": grid(*w),
        "b": grid(channels),
        "theta": powers(channels),
        "v": grid(2, channels // 2, 1, 1),
    }
    spatial = convolutions("y = Conv <group = 2> (r, v)", 0.5, attributes, **constants)
    assert_same_spikes(spatial, 4, FEED)


BLOCKS = {
    "identity": ("c = Conv (r, v) y = Add (c, r)", {}),
    "identity, first operand": ("c = Conv (r, v) y = Add (r, c)", {}),
    "projection": ("c = Conv (r, v) d = Conv (r, u) y = Add (c, d)", {}),
    "twice": ("y = Add (r, r)", {}),
    "difference": ("c = Conv (r, v) y = Sub (c, r)", {}),
    "three": ("c = Conv (r, v) d = Add (c, r) e = Conv (r, u) y = Add (d, e)", {}),
    "sum read twice": ("c = Conv (r, v) s = Add (c, r) d = Conv (s, u) y = Add (d, s)", {}),
    "scaled": ("m = Mul (r, factors) d = Div (m, halves) c = Conv (d, v) y = Add (c, d)", {}),
    "shifted": ("s = Add (r, factors) t = Sub (s, halves) y = Conv <pads=[1,1,1,1]> (t, v)", {}),
    "negated": ("n = Sub (halves, r) c = Conv (r, v) y = Add (n, c)", {}),
    "bias of its own": ("c = Conv (r, v) y = Add (c, factors)", {}),
    "shift of a sum": ("c = Conv (r, v) s = Add (c, r) y = Add (s, factors)", {}),
    "shift of spikes": ("y = Sub (r, halves)", {}),
    "pooled": ("y = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (r)", {}),
    "pooled sum": ("s = Add (r, r) p = GlobalAveragePool (s) y = Conv (p, v)", {}),
    "mean": ("y = ReduceMean <axes = [2, 3]> (r)", {"other": np.float32(0.5)}),
    "joined": ("c = Conv (r, v) j = Concat <axis = 1> (c, r) y = Conv (j, wide)", {}),
    "subsampled": (
        """s = Slice (r, zeros, ends, axes, steps) p = Pad (s, pads)
        c = Conv <strides = [2, 3]> (r, tall) y = Add (c, p)""",
        {},
    ),
    "bordered": ("p = Pad (r, border) y = Conv <pads = [0, 1, 1, 0]> (p, square)", {}),
    "selected": ("s = Slice (r, zeros, two, one) y = Conv (s, narrow)", {}),
    "nothing": ("i = Identity (r) d = Dropout (i) y = Conv (d, v)", {}),
}
CONSTANTS = {
    "u": grid(4, 4, 1, 1, seed=3),
    "factors": powers(4, 1, 1, seed=4),
    "halves": np.float32(0.5),
    "wide": grid(2, 8, 1, 1, seed=5),
    "narrow": grid(2, 2, 1, 1, seed=5),
    "tall": grid(6, 4, 1, 1, seed=6),
    "zeros": np.array([0, 0]),
    "border": np.array([0, 0, 1, 0, 0, 0, 0, 2]),
    "square": grid(2, 4, 3, 2, seed=7),
    "two": np.array([2]),
    "one": np.array([1]),
    "ends": np.array([6, 6]),
    "axes": np.array([2, 3]),
    "steps": np.array([2, 3]),
    "pads": np.array([0, 1, 0, 0, 0, 1, 0, 0]),
}


@pytest.mark.parametrize("v0", [0.0, 0.5])
@pytest.mark.parametrize("name", BLOCKS)
def test_sums_factors_pools_and_selections(name, v0):
    text, constants = BLOCKS[name]
    used = {key: CONSTANTS[key] for key in re.findall(r"\w+", text) if key in CONSTANTS}
    if name in ("selected", "one"):
        used["zeros"] = np.array([0])
    assert_same_spikes(convolutions(text, v0, **used, **constants), 4, FEED)


def test_an_identity_shortcut_is_one_edge():
    graph = to_nir(convolutions(BLOCKS["identity"][0]), 4)
    assert ("if_MultiThresholdFire_of_r", "if_MultiThresholdFire_of_z") in nir_by_hand.edge_names(
        graph
    )
    assert kinds(graph)["Conv2d"] == 3  # a, c, and the scale of the output


PERCEPTRON = """g (float[N, 8] x) => (float[N, 3] logits) {{
    a = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, w, b) r = {fire} (a, theta)
    m = MatMul (r, v) c = Add (m, c0) s = {fire} (c, other)
    t = Add (s, r) logits = Gemm (t, u) }}"""


def perceptron(v0=0.0, **constants):
    return network(
        PERCEPTRON.format(fire=FIRE.format(v0=v0)),
        **{
            "w": grid(6, 8),
            "b": grid(6, seed=1),
            "theta": powers(6),
            "v": grid(6, 6, seed=2),
            "c0": grid(6, seed=3),
            "other": np.float32(0.25),
            "u": grid(6, 3, seed=4),
            **constants,
        },
    )


VECTORS = {"x": grid(5, 8, seed=9, unit=1 / 16)}


@pytest.mark.parametrize("v0", [0.0, 0.5])
def test_perceptrons(v0):
    graph = assert_same_spikes(perceptron(v0), 4, VECTORS)
    assert "Conv2d" not in kinds(graph)


def test_softmax_at_the_end_is_left_out():
    text = f"""g (float[N, 4] x) => (float[N, 4] y) {{
        r = {FIRE.format(v0=0.0)} (x, theta) y = Softmax (r) }}"""
    graph = to_nir(network(text, theta=powers(4)), 4)
    assert "Softmax 'Softmax of y' is left out" in graph.metadata["left_out"]


@pytest.mark.parametrize("flatten", ["f = Flatten (p)", "f = Reshape (p, rows)"])
def test_features_behind_images(flatten):
    spatial = network(
        f"""g (float[N, 2, 6, 5] x) => (float[N, 3] logits, float[N, 12] f) {{
            a = Conv (x, w) r = {FIRE.format(v0=0.5)} (a, theta)
            p = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (r) {flatten}
            g = Gemm (f, v) s = {FIRE.format(v0=0.5)} (g, half) logits = Gemm (s, u) }}""",
        w=grid(3, 2, 3, 1),
        theta=powers(3),
        rows=np.array([0, -1]),
        v=grid(12, 4),
        u=grid(4, 3),
        half=np.float32(0.5),
    )
    graph = assert_same_spikes(spatial, 4, {"x": grid(2, 2, 6, 5, seed=9, unit=1 / 16)})
    assert kinds(graph)["SumPool2d"] == 1 and kinds(graph)["Output"] == 2


def test_inputs_that_are_added():
    text = f"""g (float[N, 2, 3, 3] x, float[N, 2, 3, 3] x2) => (float[N, 2, 3, 3] z) {{
        s = Add (x, x2) z = {FIRE.format(v0=0.5)} (s, theta) }}"""
    feed = {"x": grid(2, 2, 3, 3, seed=1), "x2": grid(2, 2, 3, 3, seed=2)}
    graph = assert_same_spikes(network(text, theta=powers(2)), 4, feed)
    assert [name for name in graph.nodes if name.startswith("input")] == ["input_x", "input_x2"]


def test_the_start_pulse_holds_whether_equality_fires_or_not():
    spatial = perceptron(0.5)
    graph = to_nir(spatial, 4)
    feed = {"input": VECTORS["x"]}
    for strictly in (False, True):
        values = nir_by_hand.Simulation(graph, strictly=strictly).run(feed, 64)
        (start,) = (name for name in values if name.endswith("_if_start"))
        np.testing.assert_array_equal(values[start][:, 0, 0], np.ones(64))
        np.testing.assert_array_equal(values[start][:, 0, 1], np.arange(64) > 0)


def test_a_file_holds_the_graph():
    graph = to_nir(convolutions(BLOCKS["pooled"][0], 0.5), 4)
    read = written(graph)
    assert (list(read.nodes), read.edges, read.metadata) == (
        list(graph.nodes),
        graph.edges,
        graph.metadata,
    )
    values = nir_by_hand.Simulation(graph).run({"input": FEED["x"]}, 4)
    again = nir_by_hand.Simulation(read).run({"input": FEED["x"]}, 4)
    for name, array in values.items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)
    for name, node in graph.nodes.items():
        assert type(read.nodes[name]) is type(node)
        if isinstance(node, nir.IF):
            assert read.nodes[name].metadata == node.metadata


def test_the_same_network_gives_the_same_bytes():
    first, second = (nir_bytes(to_nir(convolutions(NEXT, 0.5), 4)) for _ in range(2))
    assert first == second and first.startswith(b"\x89HDF")


def test_names_are_fit_for_files_and_python():
    spatial = convolutions(NEXT)
    for node, name in zip(spatial.proto.graph.node, ["/a/b.c", "été", "", "_a_b.c/"], strict=True):
        node.name = name
    names = list(written(to_nir(spatial, 4)).nodes)
    assert all(re.fullmatch(r"[a-z]\w*", name, re.ASCII) for name in names)
    assert names == sorted(names), "HDF5 sorts them: each has to come behind what it reads"


# Refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "y = MaxPool <kernel_shape = [2, 2]> (r)",
            "MaxPool 'MaxPool of y' takes an extreme.*leave out --timesteps",
        ),
        ("c = Conv (r, v) y = Relu (c)", "Relu 'Relu of y' is an activation in float"),
        ("y = Softmax (r)", "is not over the classes of an output"),
        ("y = Transpose <perm = [0, 1, 3, 2]> (r)", "moves axes"),
        ("y = Mul (r, r)", "is a product of two signals"),
        ("y = Abs (r)", "no node of NIR stands for"),
        ("y = Conv <pads = [0, 0, 1, 2], dilations = [2, 2]> (r, v)", "pads 0 and 1 zeros"),
        (
            "y = AveragePool <kernel_shape = [2, 2], pads = [1, 1, 1, 1]> (r)",
            "with padding or dilations",
        ),
        (
            "y = AveragePool <kernel_shape = [4, 4], strides = [4, 4], ceil_mode = 1> (r)",
            "ceil_mode",
        ),
        ("y = ReduceMean <axes = [1]> (r)", "other axes than rows and columns"),
        ("y = Concat <axis = 2> (r, r)", "another axis than the channels"),
        ("y = Slice (r, one, two, two)", "cuts rows or columns off"),
        ("y = Pad (r, border)", "reads zeros that Pad put around it"),
        ("p = Pad (r, border) y = Add (p, p)", "reads zeros that Pad put around it"),
        ("y = Pad (r, border, halves)", "something else than zeros"),
        ("y = Add (r, plane)", "not one value per channel"),
        ("y = Reshape (r, folded)", "only all axes but the samples' can become one"),
        (
            "y = ai.snn.MultiThresholdFire <levels_pos = 4, levels_neg = 4> (r, other)",
            "fires below 0 too",
        ),
        (
            "y = ai.snn.MultiThresholdFire <levels_pos = 8> (r, other)",
            "has 8 levels, and IF neurons fire once a step, so 4 times in 4 steps",
        ),
        ("y = ai.snn.ScaleFire (r, other)", "compile with --neuron multi-threshold"),
        ("y = ai.snn.DualScaleFire (r, other)", "compile with --neuron multi-threshold"),
        ("y = ai.snn.StaircaseFire (r, other, values)", "compile with --neuron multi-threshold"),
    ],
)
def test_what_nir_cannot_express(text, words):
    constants = {
        **CONSTANTS,
        "plane": grid(6, 6),
        "folded": np.array([0, 4, 9, 4]),
        "values": np.float32([0, 1]),
    }
    used = {key: constants[key] for key in re.findall(r"\w+", text) if key in constants}
    spatial = convolutions(text, **used)
    with pytest.raises(ModelError, match=f"NIR cannot express the network: .*{words}"):
        to_nir(spatial, 4)


def test_everything_that_is_refused_is_listed_at_once():
    spatial = convolutions("c = Relu (r) d = MaxPool <kernel_shape = [2, 2]> (c) y = Abs (d)")
    with pytest.raises(ModelError, match=r"Relu of c.*MaxPool of d.*Abs of y"):
        to_nir(spatial, 4)
    both = """c = Slice (r, one, two, axes) d = Pad (c, border) e = Slice (r, one, two, axes)
        f = Pad (e, border) y = Add (d, f)"""
    used = {"one": np.array([1, 1]), "two": np.array([3, 3])}
    used |= {key: CONSTANTS[key] for key in ("border", "axes")}
    with pytest.raises(ModelError, match=r"Slice of c.*Slice of e") as refusal:
        to_nir(convolutions(both, **used), 4)
    assert "Add" not in str(refusal.value), "what is behind a refused node is not known"


@pytest.mark.parametrize("shape", ["N, 3, H, 6", "N, 3, 6", "N, 3, 6, 6, 1"])
def test_inputs_of_other_shapes(shape):
    spatial = network(f"g (float[{shape}] x) => (float[{shape}] z) {{ z = Identity (x) }}")
    with pytest.raises(ModelError, match=r"the input 'x' is float32 \[\?, 3.*known lengths"):
        to_nir(spatial, 4)


def test_a_shortcut_in_float_says_what_to_do():
    spatial = convolutions("c = Conv (r, v) d = Relu (a) y = Add (c, d)")
    (relu,) = (node for node in spatial.proto.graph.node if node.op_type == "Relu")
    relu.metadata_props.add(key="snn_compile.shortcut", value="true")  # as membrane_shortcuts does
    with pytest.raises(
        ModelError, match=r"Relu of d' is a copy .* compile with --shortcuts spikes"
    ):
        to_nir(spatial, 4)


def test_a_release_whose_neurons_are_reset_to_a_value(monkeypatch):
    class Reset:
        __dataclass_fields__ = ("r", "v_threshold", "v_reset")

    monkeypatch.setattr(nir, "IF", Reset)
    with pytest.raises(UsageError, match=r"reset to v_reset.*pip install 'nir<1.0.6'"):
        to_nir(convolutions(NEXT), 4)


# A trained network, and other simulators --------------------------------------------------------

STEPS = 8


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The bundled network compiled for 8 steps, and samples."""
    calibration = tmp_path_factory.mktemp("digits") / "few.npz"
    with np.load(MODELS / "digits_calibration.npz") as samples:
        np.savez(calibration, image=samples["image"][:32])
    options = CompileOptions(
        levels=STEPS,
        neuron="multi-threshold",
        sequential=False,
        bias_correction=False,
        compensation=False,
        shortcuts="spikes",
        encode="activations",
    )
    spatial = compile_model(MODELS / "digits_resnet_dynamo.onnx", calibration, options).network
    with np.load(MODELS / "digits_test.npz") as samples:
        return spatial, {"image": samples["image"][:5].astype(np.float32)}


def test_a_trained_network_differs_at_ties_only(digits):
    spatial, feed = digits
    graph = to_nir(spatial, STEPS)
    expected, (logits,) = spikes_of(spatial, STEPS, feed)
    values = nir_by_hand.Simulation(graph).run({"input": feed["image"]}, STEPS)
    same = np.ones(len(feed["image"]), bool)  # samples of which no layer before differs
    for neuron, name in nir_by_hand.neurons(graph).items():
        potential = nir_by_hand.potential(graph, values, name) / graph.nodes[name].v_threshold
        differs = values[name] != expected[neuron]
        first = differs & (np.cumsum(differs, axis=0) == 1)
        np.testing.assert_allclose(potential[:, same][first[:, same]], 1, rtol=1e-6)
        same &= ~differs.any((0, *range(2, differs.ndim)))
    assert same.sum() >= 3, "ties are rare"
    scores = values["output"].mean(0)
    np.testing.assert_allclose(scores[same], logits[same], rtol=1e-5, atol=1e-5)


def snippet(marker):
    """The Python code of docs/nir.md that has the marker in it."""
    page = (REPOSITORY / "docs" / "nir.md").read_text("utf-8")
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if marker in c)
    return code


def test_sinabs_gives_the_same_spikes_by_the_code_of_the_documentation(tmp_path, monkeypatch):
    pytest.importorskip("sinabs", reason="needs sinabs and torch")
    fire = FIRE.format(v0=0.5)
    spatial = network(
        f"""g ({IMAGE}) => (float[N, 5] logits) {{
            a = Conv <pads = [1, 1, 1, 1]> (x, w, b) r = {fire} (a, theta)
            c = Conv <pads = [1, 1, 1, 1]> (r, v) d = Add (c, r) s = {fire} (d, other)
            e = Conv <strides = [2, 2]> (s, u) f = Conv <strides = [2, 2]> (s, t)
            g = Add (e, f) h = {fire} (g, half) p = GlobalAveragePool (h) q = Flatten (p)
            logits = Gemm (q, last) }}""",
        w=grid(4, 3, 3, 3),
        b=grid(4, seed=1),
        v=grid(4, 4, 3, 3, seed=2),
        u=grid(6, 4, 1, 1, seed=3),
        t=grid(6, 4, 2, 2, seed=4),
        theta=powers(4),
        other=powers(4, seed=5),
        half=np.float32(0.5),
        last=grid(6, 5, seed=6),
    )
    (tmp_path / "model.nir").write_bytes(nir_bytes(to_nir(spatial, 4)))
    np.savez(tmp_path / "images.npz", images=FEED["x"])
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of nirtorch, in sinabs
        exec(snippet("sinabs.nir"), names)
    expected, (logits,) = spikes_of(spatial, 4, FEED)
    neurons = nir_by_hand.neurons(names["graph"])
    assert set(neurons) == set(expected)
    for neuron, name in neurons.items():
        by_step = expected[neuron].swapaxes(0, 1)
        np.testing.assert_array_equal(
            names["spikes"][name].numpy().reshape(by_step.shape), by_step, err_msg=neuron
        )
        assert by_step.any() and not by_step.all()
    # The mean of a pool over 9 pixels is the only sum that is rounded.
    np.testing.assert_allclose(names["scores"].numpy(), logits, rtol=1e-6, atol=1e-6)


def graph_of(node, read, given):
    """A graph of one node."""
    ports = {
        "input": nir.Input(input_type={"input": np.array(read)}),
        "output": nir.Output(output_type={"output": np.array(given)}),
    }
    return nir.NIRGraph(nodes={**ports, "n": node}, edges=[("input", "n"), ("n", "output")])


def conv(groups):
    weight, bias = np.ones((2, 2 // groups, 1, 1), np.float32), np.zeros(2, np.float32)
    return nir.Conv2d((2, 2), weight, (1, 1), (0, 0), (1, 1), groups, bias)


def test_what_the_documentation_says_of_sinabs():
    pytest.importorskip("sinabs", reason="needs sinabs and torch")
    torch = pytest.importorskip("torch")
    from sinabs.nir import from_nir

    def run(graph, values):
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", DeprecationWarning)  # of nirtorch
            return from_nir(graph, num_timesteps=3)(torch.tensor(values))[0].numpy()

    one = np.ones(1, np.float32)
    neuron = graph_of(nir.IF(r=one, v_threshold=one), [1], [1])
    np.testing.assert_array_equal(run(neuron, [[1.0], [2.5], [0.25]]), [[1], [2], [0]])
    np.testing.assert_array_equal(run(neuron, [[0.75], [0.75], [0.5]]), [[0], [1], [1]])
    np.testing.assert_array_equal(run(neuron, [[-9.0], [2.0], [0.0]]), [[0], [1], [0]])

    image = np.ones((3, 2, 2, 2), np.float32)
    np.testing.assert_array_equal(run(graph_of(conv(1), [2, 2, 2], [2, 2, 2]), image), image * 2)
    with pytest.raises(ValueError, match="divisible by groups"):
        run(graph_of(conv(2), [2, 2, 2], [2, 2, 2]), image)
    two = np.array([2, 2])
    unknown = {
        "Linear": (nir.Linear(weight=np.ones((2, 2), np.float32)), np.ones((3, 2), np.float32)),
        "Scale": (nir.Scale(scale=np.ones(2, np.float32)), np.ones((3, 2), np.float32)),
        "AvgPool2d": (nir.AvgPool2d(two, two, two * 0), image),
    }
    for node, values in unknown.values():
        with pytest.raises(ValueError, match="empty graph"):
            run(graph_of(node, values.shape[1:], values.shape[1:]), values)

    eye = np.eye(2, dtype=np.float32)
    branches = graph_of(nir.Affine(eye, eye[0] * 0), [2], [2])
    branches.nodes |= {name: nir.Affine(eye, eye[0] * 0) for name in ("other", "sum")}
    branches.edges = [
        *[("input", "n"), ("input", "other"), ("n", "sum"), ("other", "sum"), ("sum", "output")]
    ]
    # One branch of the two, which would give 2.
    np.testing.assert_array_equal(run(branches, np.ones((3, 2), np.float32)), np.ones((3, 2)))


def test_snntorch_gives_the_same_spikes_once_its_neurons_do_not_leak():
    snntorch = pytest.importorskip("snntorch", reason="needs snntorch and torch")
    torch = pytest.importorskip("torch")
    from snntorch.import_nir import import_from_nir

    # snnTorch fires at v > threshold: odd multiples of 2^-8 never add up to the threshold.
    spatial = network(
        f"""g (float[N, 8] x) => (float[N, 3] logits) {{
            a = Gemm (x, w, b) r = {FIRE.format(v0=0.0)} (a, half) logits = Gemm (r, v) }}""",
        w=grid(8, 6),
        b=np.full(6, 2**-10, np.float32),
        half=np.float32(0.5),
        v=grid(6, 3),
    )
    expected, (logits,) = spikes_of(spatial, 4, VECTORS)
    graph = written(to_nir(spatial, 4))
    module = import_from_nir(graph)
    x = torch.from_numpy(VECTORS["x"])
    with pytest.raises(TypeError, match="must be Tensor, not tuple"):
        module(x)  # as snnTorch 1.0.0 reads IF
    (leaky,) = (m for m in module.modules() if isinstance(m, snntorch.Leaky))
    assert float(leaky.beta) == pytest.approx(0.9)
    found = []
    for beta in (0.9, 1.0):
        leaky.init_hidden, leaky.beta = True, torch.tensor(beta)
        leaky.reset_mem()
        spikes, outputs = [], []
        hook = leaky.register_forward_hook(lambda *seen, into=spikes: into.append(seen[2]))
        outputs = [module(x)[0] for _ in range(4)]
        hook.remove()
        found.append(np.stack([each.detach().numpy() for each in spikes]))
    (expected_spikes,) = expected.values()
    assert not np.array_equal(found[0], expected_spikes)
    np.testing.assert_array_equal(found[1], expected_spikes)
    np.testing.assert_array_equal(torch.stack(outputs).mean(0).detach().numpy(), logits)
