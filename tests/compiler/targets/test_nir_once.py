"""Export to NIR over one step: neurons that fire at most once, against the ONNX network."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from snn_compile.compiler.errors import ModelError
from snn_compile.compiler.running.expose import with_outputs
from snn_compile.compiler.running.session import make_session
from snn_compile.passes.lowering.function_bodies import function_bodies
from spikes_by_hand import network

nir = pytest.importorskip("nir", reason="needs the extra 'nir'")
nir_by_hand = pytest.importorskip("nir_by_hand")
from snn_compile.compiler.targets.nir.once import first_to_fire, scale_and_bias  # noqa: E402
from snn_compile.compiler.targets.nir.package import nir_bytes  # noqa: E402
from snn_compile.compiler.targets.nir.translate import summary, to_nir  # noqa: E402

SNN_MLIR = shutil.which("snn-mlir")
FIRE = "ai.snn.MultiThresholdFire <levels_pos = 5, v0 = {v0}>"
IMAGE = "float[N, 3, 6, 6] x"


def grid(*shape, seed=0, unit=1 / 8, largest=16):
    """Multiples of a power of two, so that sums of products are exact in any order."""
    rng = np.random.default_rng(seed)
    return (rng.integers(-largest, largest + 1, shape) * unit).astype(np.float32)


def powers(*shape, seed=0):
    return np.float32(2) ** np.random.default_rng(seed).integers(-2, 2, shape).astype(np.float32)


def images(text, v0=0.5, **constants):
    """x -> Conv -> neuron r of 4 channels -> the text given, which makes z."""
    used = {"w": grid(4, 3, 3, 3), "b": grid(4, seed=1), "theta": powers(4, seed=2)}
    used |= {"other": np.float32(0.5), **constants}
    return network(
        f"""g ({IMAGE}) => (float[N, C, H, W] z) {{
            a = Conv <pads = [1, 1, 1, 1]> (x, w, b) r = {FIRE.format(v0=v0)} (a, theta)
            {text.replace("FIRE", FIRE.format(v0=v0))} }}""",
        **{
            name: value
            for name, value in used.items()
            if name in ("w", "b", "theta") or name in text
        },
    )


FEED = {"x": grid(3, 3, 6, 6, seed=9, unit=1 / 16)}
CONSTANTS = {
    "v": grid(6, 4, 3, 3, seed=3),
    "u": grid(4, 4, 1, 1, seed=4),
    "deep": grid(8, 1, 3, 3, seed=5),
    "paired": grid(6, 2, 3, 3, seed=13),
    "row": grid(4, 4, 1, 3, seed=14),
    "column": grid(4, 4, 5, 1, seed=15),
    "even": grid(4, 4, 2, 3, seed=16),
    "halves": np.float32(0.5),
    "factors": powers(4, 1, 1, seed=6),
    "signed": np.float32([1, -1, 2, 0.5]).reshape(4, 1, 1),
    "wide": grid(2, 8, 1, 1, seed=7),
    "narrow": grid(2, 2, 1, 1, seed=8),
    "none": np.array([0]),
    "two": np.array([2]),
    "one": np.array([1]),
    "border": np.array([0, 0, 1, 0, 0, 0, 1, 2]),
    "around": np.array([0, 1, 0, 0, 0, 1, 0, 0]),
    "six": grid(5, 6, 1, 1, seed=10),
    "features": grid(144, 7, seed=11, unit=1 / 64),
    "last": grid(7, 3, seed=12),
}
POOL = "MaxPool <kernel_shape = [2, 2], strides = [2, 2]>"
WIDE = "MaxPool <kernel_shape = [4, 4], strides = [2, 2]>"
CHAINS = {
    "convolution": "c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (r, v) z = FIRE (c, other)",
    "spikes given": "z = Identity (r)",
    "average": "p = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (r) z = Conv (p, u)",
    "mean": "p = AveragePool <kernel_shape = [4, 4], strides = [2, 2]> (r) "
    "z = GlobalAveragePool (p)",
    "largest": f"p = {POOL} (r) c = Conv (p, u) z = FIRE (c, other)",
    "largest, twice": f"p = {POOL} (r) q = MaxPool <kernel_shape = [3, 3]> (p) z = Conv (q, u)",
    "largest of all": "z = GlobalMaxPool (r)",
    "largest, padded": "z = MaxPool <kernel_shape = [3, 5], pads = [1, 2, 1, 2]> (r)",
    "largest, the same": 'z = MaxPool <kernel_shape = [3, 3], auto_pad = "SAME_UPPER"> (r)',
    "largest in front": f"c = Conv (r, u) p = {POOL} (c) z = FIRE (p, other)",
    "largest of a shifted one": f"s = Add (r, halves) p = {POOL} (s) z = Conv (p, u)",
    "scaled": "m = Mul (r, signed) d = Div (m, halves) c = Conv (d, u) z = FIRE (c, other)",
    "shifted": "s = Add (r, factors) z = Conv (s, u)",
    "mean of largest": f"p = {WIDE} (r) z = GlobalAveragePool (p)",
    "groups": "z = Conv <group = 4, pads = [1, 1, 1, 1]> (r, deep)",
    "groups of more": "z = Conv <group = 2> (r, paired)",
    "dilations": "z = Conv <dilations = [2, 1], pads = [2, 1, 2, 1]> (r, v)",
    "a row": "z = Conv <pads = [0, 1, 0, 1]> (r, row)",
    "a long column": "z = Conv <pads = [1, 0, 1, 0], strides = [2, 2]> (r, column)",
    "even and odd": "z = Conv <strides = [2, 2], pads = [0, 1, 0, 1]> (r, even)",
    "bordered": "p = Pad (r, border) z = Conv (p, u)",
}
OTHERS = {
    "identity": "c = Conv (r, u) d = Add (c, r) z = FIRE (d, other)",
    "two branches": "c = Conv (r, u) d = Conv (r, u) s = Sub (c, d) z = Add (s, r)",
    "largest of a sum": f"c = Conv (r, u) d = Add (c, r) p = {POOL} (d) z = FIRE (p, other)",
    "joined": "c = Conv (r, u) j = Concat <axis = 1> (c, r) z = Conv (j, wide)",
    "selected": "s = Slice (r, none, two, one) z = Conv (s, narrow)",
    "largest of some": f"s = Slice (r, none, two, one) p = {POOL} (s) z = Conv (p, narrow)",
    "more channels": "p = Pad (r, around) z = Conv (p, six)",
    "negative": "n = Sub (halves, r) c = Conv (r, u) z = Add (n, c)",
}


def of_onnx(spatial, feed):
    """Number of spikes of each neuron, by its name, and the outputs."""
    whole = function_bodies(spatial)
    fired = [node for node in spatial.proto.graph.node if node.domain == "ai.snn"]
    outputs = [output.name for output in spatial.proto.graph.output]
    session = make_session(with_outputs(whole, [n.output[0] for n in fired] + outputs))
    seen = session.run(None, feed)
    weights = {tensor.name: tensor for tensor in spatial.proto.graph.initializer}
    counts = {}
    for node, y in zip(fired, seen, strict=False):
        theta = np.frombuffer(weights[node.input[1]].raw_data, np.float32)
        counts[node.name] = np.rint(y / theta.reshape(-1, *[1] * (y.ndim - 2)))
    return counts, seen[len(fired) :]


def assert_same(spatial, feed):
    """Export and run, whether or not equality fires; returns the graph."""
    graph = to_nir(spatial, 1)
    counts, outputs = of_onnx(spatial, feed)
    for strictly in (False, True):
        found = nir_by_hand.Simulation(graph, strictly=strictly).run({"input": feed["x"]}, 1)
        names = nir_by_hand.neurons(graph)
        assert set(names) == set(counts)
        for neuron, name in names.items():
            spikes = found[name][0]
            levels = graph.nodes[name].metadata["levels"]
            planes = spikes.reshape(len(spikes), -1, levels, *spikes.shape[2:])
            assert np.all(np.diff(planes, axis=2) <= 0), "a higher level fires without a lower one"
            if counts[neuron].shape == planes.sum(2).shape:  # else pooled on the way
                np.testing.assert_array_equal(planes.sum(2), counts[neuron], err_msg=neuron)
                assert len(np.unique(counts[neuron])) > 2, f"{neuron} shows nothing"
        ports = [name for name, node in graph.nodes.items() if isinstance(node, nir.Output)]
        for port, output in zip(ports, outputs, strict=True):
            np.testing.assert_array_equal(found[port][0], output)
            assert np.ptp(output) > 0
    return graph


def assert_chain(graph):
    """What snn-mlir 1.0.0 asks for, without it."""
    order = list(graph.nodes)
    assert (order[0], order[-1]) == ("input", "output")
    assert graph.edges == nir_by_hand.pairs(order)
    for node in graph.nodes.values():
        if isinstance(node, nir.IF):
            assert len(np.unique(node.v_threshold)) == 1 and np.all(node.r == 1)
            assert not np.any(getattr(node, "v_reset", 0))
        if isinstance(node, nir.Conv2d):
            assert node.groups == 1 and set(node.dilation) == {1}
    last = graph.nodes[order[-2]]
    assert isinstance(last, nir.I) and np.all(last.r == 1), "what it gives is of a neuron"


@pytest.mark.parametrize("v0", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("name", CHAINS)
def test_chains(name, v0):
    used = {key: value for key, value in CONSTANTS.items() if key in CHAINS[name]}
    graph = assert_same(images(CHAINS[name], v0, **used), FEED)
    assert_chain(graph)
    assert summary(graph)[-1] == "the graph is a chain"


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_chain_is_written_too(name):
    used = {key: value for key, value in CONSTANTS.items() if key in OTHERS[name]}
    assert_same(images(OTHERS[name], **used), FEED)


def test_the_report_says_what_is_no_chain():
    graph = to_nir(images(OTHERS["identity"], u=CONSTANTS["u"]), 1)
    (line,) = (line for line in summary(graph) if "chain" in line)
    assert line.startswith("the graph is no chain, n0003_if_MultiThresholdFire_of_r is read by 2")
    both = network(
        f"""g (float[N, 4] x, float[N, 4] x2) => (float[N, 4] z) {{
            s = Add (x, x2) z = {FIRE.format(v0=0.5)} (s, theta) }}""",
        theta=powers(4),
    )
    assert "reads 2 nodes" in summary(to_nir(both, 1))[-1]


@pytest.mark.parametrize(
    "middle",
    [
        "f = Flatten (r) g = Gemm (f, features)",
        "f = Reshape (r, rows) g = MatMul (f, features)",
        f"p = {POOL} (r) f = Flatten (p) g = Gemm <transB = 1> (f, turned)",
        "p = GlobalMaxPool (r) f = Flatten (p) q = Mul (f, four) g = MatMul (q, small)",
    ],
)
@pytest.mark.parametrize("end", ["", "y = Softmax <axis = -1> (z)", "y = LogSoftmax (z)"])
def test_features_behind_images(middle, end):
    text = f"""g ({IMAGE}) => (float[N, 3] {"y" if end else "z"}) {{
        a = Conv <pads = [1, 1, 1, 1]> (x, w, b) r = FIRE (a, theta) {middle}
        h = FIRE (g, other) z = Gemm (h, last) {end} }}"""
    features = CONSTANTS["features"]
    constants = {
        "features": features,
        "rows": np.array([0, -1]),
        "four": grid(4),
        "turned": features[:36].T.copy(),
        "small": features[:4] * 16,
    }
    spatial = network(
        text.replace("FIRE", FIRE.format(v0=0.5)),
        w=grid(4, 3, 3, 3),
        b=grid(4, seed=1),
        theta=powers(4, seed=2),
        other=powers(7),
        last=CONSTANTS["last"],
        **{name: value for name, value in constants.items() if name in middle},
    )
    graph = to_nir(spatial, 1)
    assert_chain(graph)
    (scores,) = make_session(with_outputs(function_bodies(spatial), ["z"])).run(["z"], FEED)
    found = nir_by_hand.Simulation(graph).run({"input": FEED["x"]}, 1)["output"][0]
    np.testing.assert_array_equal(found, scores)
    assert np.ptp(scores) > 0
    assert ("left_out" in graph.metadata) == bool(end)
    told = [line for line in summary(graph) if "is left out: the graph gives scores" in line]
    assert len(told) == bool(end)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize(
    ("shape", "node"),
    [
        ("6, 5, 3", "t = Transpose <perm = [0, 3, 1, 2]> (x)"),
        ("6, 5, 1", "t = Reshape (x, channels)"),
        ("30, 1, 1", "t = Reshape (x, image)"),
    ],
)
def test_channels_last_are_moved_outside(shape, node, steps):
    if steps > 1 and "v_reset" in nir.IF.__dataclass_fields__:
        pytest.skip("this release has no neurons that are reset by subtraction")
    channels = 3 if shape.endswith("3") else 1
    constants = {"channels": np.array([0, 1, 6, 5]), "image": np.array([-1, 1, 6, 5])}
    spatial = network(
        f"""g (float[N, {shape}] x) => (float[N, 4, H, W] z) {{
            {node} a = Conv (t, w) z = {FIRE.format(v0=0.0)} (a, theta) }}""",
        w=grid(4, channels, 3, 3),
        theta=powers(4),
        **{name: value for name, value in constants.items() if name in node},
    )
    graph = to_nir(spatial, steps)
    assert tuple(graph.nodes["input"].input_type["input"]) == (channels, 6, 5)
    assert f"is left out: the graph reads [{channels}, 6, 5]" in graph.metadata["left_out"]
    x = grid(2, *(int(length) for length in shape.split(",")), seed=3)
    session = make_session(with_outputs(function_bodies(spatial), ["t", "z"]))
    t, expected = session.run(["t", "z"], {"x": x})
    found = nir_by_hand.Simulation(graph).run({"input": t}, steps)["output"]
    if steps == 1:
        np.testing.assert_array_equal(found[0], expected)
        assert np.ptp(expected) > 0


@pytest.mark.parametrize(
    "text",
    [
        "t = Transpose <perm = [0, 1, 3, 2]> (r) z = Conv (t, u)",
        "t = Transpose <perm = [0, 1, 3, 2]> (x) z = Conv <pads = [1, 1, 1, 1]> (t, w)",
        "t = Transpose (x) z = Identity (t)",
    ],
)
def test_other_transposes_are_refused(text):  # r reads x too
    used = {"u": CONSTANTS["u"]} if "u)" in text else {}
    with pytest.raises(ModelError, match="moves axes"):
        to_nir(images(text, **used), 1)


def test_several_outputs():
    spatial = network(
        f"""g (float[N, 4] x) => (float[N, 4] r, float[N, 3] z) {{
            r = {FIRE.format(v0=0.5)} (x, theta) z = MatMul (r, v) }}""",
        theta=powers(4),
        v=grid(4, 3),
    )
    graph = assert_same(spatial, {"x": grid(5, 4, seed=1)})
    assert sum(isinstance(node, nir.I) for node in graph.nodes.values()) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"c = Conv (r, u) z = {POOL} (c)", "the output 'z': reads the largest of values"),
        (f"c = Conv (r, u) p = {POOL} (c) z = Conv (p, u)", "Conv of z' reads the largest"),
        (f"m = Mul (r, signed) p = {POOL} (m) z = Conv (p, u)", "Conv of z' reads the largest"),
        ("z = MaxPool <kernel_shape = [3, 3], pads = [0, 1, 1, 1]> (r)", "another padding"),
        ("z = MaxPool <kernel_shape = [2, 2], dilations = [2, 2]> (r)", "with dilations"),
        (
            "z = MaxPool <kernel_shape = [4, 4], strides = [4, 4], ceil_mode = 1> (r)",
            "ceil_mode",
        ),
        ("z = Conv (r, even)", "has a kernel of 2 x 3, which nir from 1.0.5 on cannot read"),
        ("z = Softmax <axis = 1> (r)", "is not over the classes of an output"),
        ("s = Softmax (r) z = Conv (s, u)", "is not over the classes of an output"),
        ("z = ai.snn.MultiThresholdFire <levels_pos = 2, levels_neg = 2> (r, other)", "below 0"),
        ("z = ai.snn.ScaleFire (r, other)", "compile with --neuron multi-threshold"),
        ("z = ReduceMax <axes = [2, 3]> (r)", "takes an extreme"),
    ],
)
def test_refusals(text, words):
    used = {key: value for key, value in CONSTANTS.items() if key in text}
    with pytest.raises(ModelError, match=f"NIR cannot express the network: .*{words}"):
        to_nir(images(text, **used), 1)


def test_thresholds_beyond_float32_are_refused():
    tiny = np.float32([1e-38, 1, 1, 1])
    with pytest.raises(ModelError, match="thresholds beyond float32"):
        to_nir(images("z = FIRE (r, theta2)", theta2=tiny), 1)


FLOATS = st.floats(2.0**-100, 2.0**100, width=32)


@given(FLOATS, st.sampled_from([0.0, 0.1, 0.5, 0.75, 0.999]), st.integers(1, 40), st.data())
def test_the_same_values_fire_to_the_last_bit(theta, v0, levels, data):
    theta = np.float32(theta)
    thresholds = first_to_fire(theta.reshape(1), levels, v0)[0]
    scale, bias = (values.astype(np.float32) for values in scale_and_bias(thresholds))
    near = thresholds.view(np.int32) + data.draw(st.integers(-3, 3))
    anywhere = np.float32(data.draw(st.floats(-1e6, 1e6, width=32))) * theta
    for x in (near.view(np.float32), np.full(levels, anywhere)):
        k = np.floor(x / theta + np.float32(v0))
        potential = (scale * x).astype(np.float32) + bias
        expected = k >= np.arange(1, levels + 1)
        np.testing.assert_array_equal(potential > 1 - 2.0**-24, expected)
        np.testing.assert_array_equal(potential >= 1 - 2.0**-24, expected)


# snn-mlir ---------------------------------------------------------------------------------------


@pytest.mark.skipif(SNN_MLIR is None, reason="needs the command snn-mlir, from PyPI")
@pytest.mark.parametrize("name", CHAINS)
def test_snn_mlir_takes_chains(name, tmp_path):
    used = {key: value for key, value in CONSTANTS.items() if key in CHAINS[name]}
    path = tmp_path / "model.nir"
    path.write_bytes(nir_bytes(to_nir(images(CHAINS[name], **used), 1)))
    for command in ("check", "export"):
        done = subprocess.run([SNN_MLIR, command, path], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "model.mlir").read_text("utf-8")
    assert text.count("out(%output)") == 1
    thresholds = {part.split()[0] for part in text.split("threshold_float = ")[1:]}
    assert thresholds <= {"9.9999994040e-01", "5.0000000000e-01"}, "1 - 2^-24 in float32, 1 / 2"


@pytest.mark.skipif(SNN_MLIR is None, reason="needs the command snn-mlir, from PyPI")
def test_snn_mlir_refuses_shortcuts(tmp_path):
    path = tmp_path / "model.nir"
    path.write_bytes(nir_bytes(to_nir(images(OTHERS["identity"], u=CONSTANTS["u"]), 1)))
    done = subprocess.run([SNN_MLIR, "check", path], capture_output=True, text=True)
    assert done.returncode == 1 and "has 2 successors" in done.stdout
