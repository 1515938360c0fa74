"""The spiking form of an int8 file gives the file's bits and holds its integers."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from helpers import model_from_text, run_model
from onnx import TensorProto, helper, numpy_helper
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.running.expose import with_outputs
from snn_compile.passes.graph.network import check, constants_of, detach
from snn_compile.passes.graph.protos import nodes_below
from snn_compile.passes.lowering.spikes_of_integers import (
    holds_integers,
    integers_by_neuron,
)
from snn_compile.passes.lowering.spiking_form import spiking_form
from snn_compile.runtime_ops import register
from snn_compile.runtime_ops.operators import neurons_of

IMAGE = "g (float[N,4,8,8] x) => (float[N,5] y)"
NETWORKS = {
    "residual, Slice and Pad on channels": f"""{IMAGE}
        <float[6,4,3,3] w, float[6] b, float[6,6,3,3] v, float[8,8,3,3] u, float[5,8] m,
         int64[8] pads = {{0,1,0,0,0,1,0,0}}, int64[2] starts = {{0,0}}, int64[2] ends = {{9,9}},
         int64[2] axes = {{2,3}}, int64[2] steps = {{2,2}}> {{
        a = Conv <pads=[1,1,1,1]> (x, w, b) r = Relu (a)
        c = Conv <pads=[1,1,1,1]> (r, v) s = Add (c, r) t = Relu (s)
        p = Slice (t, starts, ends, axes, steps) q = Pad (p, pads)
        d = Conv <pads=[1,1,1,1]> (q, u) e = Add (d, q) f = Relu (e)
        h = GlobalAveragePool (f) i = Flatten (h) y = Gemm <transB=1> (i, m) }}""",
    "MaxPool, Concat and depthwise": f"""{IMAGE}
        <float[6,4,3,3] w, float[6,1,3,3] v, float[6] b, float[5,192] m, float[5] k> {{
        a = Conv (x, w) r = Relu (a) p = MaxPool <kernel_shape=[2,2], strides=[1,1]> (r)
        d = Conv <group=6, pads=[1,1,1,1]> (p, v, b) l = LeakyRelu <alpha=0.1> (d)
        o = MaxPool <kernel_shape=[2,2], strides=[1,1], pads=[1,1,0,0]> (l)
        c = Concat <axis=1> (p, o) n = MaxPool <kernel_shape=[2,2], strides=[1,1]> (c)
        e = Slice (n, starts, ends, axes) i = Flatten (e) y = Gemm <transB=1> (i, m, k) }}""",
    "MatMul of three dimensions and of two": """g (float[N,3,7] x) => (float[N,5] y)
        <float[7,6] w, float[6] b, float[18,5] m> {
        a = MatMul (x, w) c = Add (a, b) r = Relu (c) i = Flatten (r) y = MatMul (i, m) }""",
    "product of two signals": """g (float[N,3,8] x) => (float[N,3,5] y)
        <float[8,8] q, float[8,8] k, float[8,5] m> {
        a = MatMul (x, q) b = MatMul (x, k) t = Transpose <perm=[0,2,1]> (b)
        s = MatMul (a, t) p = Softmax (s) o = MatMul (p, x) r = Relu (o) y = MatMul (r, m) }""",
    "one-sided Clip and Split": """g (float[N,8,5] x) => (float[N,6,3] y)
        <float[6,8,3] w, float zero = {0}, float six = {6}, int64[2] parts = {2,4},
         float[6,4,1] v> {
        a = Conv (x, w) r = Clip (a, zero, six) s, t = Split <axis=1> (r, parts)
        y = Conv (t, v) }""",
}
CONSTANTS = {
    "starts": np.int64([0, 0]),
    "ends": np.int64([4, 4]),
    "axes": np.int64([2, 3]),
}


def source(name):
    text = NETWORKS[name]
    if "starts, ends, axes)" in text:
        declared = "".join(f", int64[2] {key} = {{{v[0]},{v[1]}}}" for key, v in CONSTANTS.items())
        text = text.replace("float[5] k>", f"float[5] k{declared}>")
    return model_from_text(text)


def samples(model, count=24, seed=1):
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    x = np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)
    return {"x": np.float32(1.5) * x}


@pytest.fixture(scope="module", params=[(n, k) for n in NETWORKS for k in (255, 32)], ids=str)
def compiled(request, tmp_path_factory):
    """A source and its int8 file."""
    name, levels = request.param
    model = source(name)
    path = tmp_path_factory.mktemp("calibration") / "x.npz"
    np.savez(path, **samples(model))
    options = CompileOptions(target="int8", levels=levels)
    return model, compile_model(model, path, options).network


def plain(network, names, feed):
    """What a network gives without graph optimisation."""
    return run_model(with_outputs(network, names).attached(), feed, library=True)


def test_outputs_are_those_of_the_file_bit_for_bit(compiled):
    model, network = compiled
    feed, form = samples(model, 16, seed=2), spiking_form(network)
    assert form is not network
    check(form.proto)
    (expected,), (found,) = (plain(net, ["y"], feed) for net in (network, form))
    assert np.abs(expected).max() > 0
    assert found.tobytes() == expected.tobytes()


def test_every_neuron_fires_the_integer_less_the_zero_point(compiled):
    model, network = compiled
    feed, form = samples(model, 16, seed=2), spiking_form(network)
    neurons, held, constants = (
        neurons_of(form.proto),
        integers_by_neuron(network),
        constants_of(network),
    )
    quantisers = {n.name: n for n in network.proto.graph.node if n.op_type == "QuantizeLinear"}
    assert [neuron.name for neuron in neurons] == list(quantisers) == list(held)
    spikes = plain(form, [neuron.output[0] for neuron in neurons], feed)
    visible = onnx.ModelProto()
    visible.CopyFrom(network.attached())
    del visible.graph.output[:]
    visible.graph.output.extend(onnx.ValueInfoProto(name=name) for name in held.values())
    for neuron, y, q in zip(neurons, spikes, run_model(visible, feed), strict=True):
        theta, zero = (constants[name] for name in quantisers[neuron.name].input[1:])
        k = q.astype(np.int32) - int(zero)
        np.testing.assert_array_equal(y, theta * k.astype(np.float32))
        levels = {a.name: a.i for a in neuron.attribute}
        assert levels["levels_neg"] == zero
        assert k.max() <= levels["levels_pos"]


def test_neurons_keep_what_is_known_of_them(compiled):
    _, network = compiled
    known = {
        node.name: {(p.key, p.value) for p in node.metadata_props}
        for node in network.proto.graph.node
        if node.op_type == "QuantizeLinear"
    }
    for neuron in neurons_of(spiking_form(network).proto):
        assert neuron.op_type == "MultiThresholdFire"
        assert {(p.key, p.value) for p in neuron.metadata_props} == known[neuron.name]
        assert known[neuron.name]


def test_nothing_of_integers_is_left(compiled):
    form = spiking_form(compiled[1])
    ops = {node.op_type for node in form.proto.graph.node}
    assert not ops & {"QuantizeLinear", "DequantizeLinear"}
    assert not any(values.dtype in (np.int8, np.uint8) for values in constants_of(form).values())


def test_products_of_many_inputs_differ_by_how_the_runtime_packs_constants_alone():
    model = model_from_text("""g (float[N,300] x) => (float[N,5] y) <float[5,300] m> {
        y = Gemm <transB=1> (x, m) }""")
    network = compile_model(model, None, CompileOptions(target="int8")).network
    feed, form = samples(model), spiking_form(network)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    register(options)
    found = [
        ort.InferenceSession(net.attached().SerializeToString(), options).run(None, feed)[0]
        for net in (network, form)
    ]
    assert found[0].tobytes() == found[1].tobytes()


# Files by hand ----------------------------------------------------------------------------------


def by_hand(*nodes, named=True, **constants):
    """A network of one quantiser and what is behind it."""
    quantiser = helper.make_node("QuantizeLinear", ["x", "theta", "zero"], ["q"], name="neuron")
    if named:
        quantiser.metadata_props.add(key="snn_compile.source_node", value="relu")
    values = {"theta": np.float32(0.75), "zero": np.uint8(3)} | constants
    graph = helper.make_graph(
        [quantiser, *nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["M"])],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in values.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    return detach(helper.make_model(graph, ir_version=8, opset_imports=opsets))


def dequantise(q, output="y"):
    return helper.make_node("DequantizeLinear", [q, "theta", "zero"], [output])


TOP = helper.make_node("Min", ["q", "top"], ["least"])
EDGES = np.float32([0.5, 1.5, 2.5, -0.5, -1.5, -3.5, 7.5, 251.5, 252.5, np.inf, -np.inf, 0])


@pytest.mark.parametrize("top", [None, 9])
def test_ties_infinities_and_ends(top):
    constants = {} if top is None else {"top": np.uint8(top)}
    nodes = [dequantise("q")] if top is None else [TOP, dequantise("least")]
    network = by_hand(*nodes, **constants)
    x = np.concatenate([EDGES * np.float32(0.75), np.nextafter(EDGES, 0) * np.float32(0.75)])
    (expected,), (found,) = (plain(n, ["y"], {"x": x}) for n in (network, spiking_form(network)))
    assert found.tobytes() == expected.tobytes()
    assert (expected.min(), expected.max()) == (-2.25, 0.75 * ((top or 255) - 3))


def test_integers_that_are_read_twice_and_moved_before_they_are_dequantised():
    nodes = [
        helper.make_node("Pad", ["q", "pads", "zero"], ["p"]),
        helper.make_node("Slice", ["p", "one", "end"], ["s"]),
        dequantise("s", "first"),
        dequantise("s", "second"),
        dequantise("q", "third"),
        helper.make_node("Concat", ["first", "second", "third"], ["y"], axis=0),
    ]
    constants = {"pads": np.int64([2, 1]), "one": np.int64([1]), "end": np.int64([9])}
    network = by_hand(*nodes, **constants)
    x = np.float32([-5, -0.1, 0.4, 1, 30])
    (expected,), (found,) = (plain(n, ["y"], {"x": x}) for n in (network, spiking_form(network)))
    assert found.tobytes() == expected.tobytes()
    assert expected[0] == 0  # padding is silence
    assert integers_by_neuron(network) == {"neuron": "q"}


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_weights_are_what_the_runtime_makes_of_them(axis):
    rng = np.random.default_rng(0)
    shape = (4, 6)
    weight = rng.integers(-127, 128, shape).astype(np.int8)
    step = rng.uniform(1e-4, 1, shape[axis]).astype(np.float32)
    nodes = [
        dequantise("q", "f"),
        helper.make_node("DequantizeLinear", ["weight", "step", "none"], ["w"], axis=axis),
        helper.make_node("DequantizeLinear", ["bias", "unit"], ["b"], axis=0),
        helper.make_node("ReduceSum", ["w"], ["sums"], keepdims=0),
        helper.make_node("Add", ["b", "sums"], ["c"]),
        helper.make_node("Add", ["f", "c"], ["y"]),
    ]
    bias = rng.integers(-(1 << 30), 1 << 30, 5).astype(np.int32)
    constants = {"weight": weight, "step": step, "none": np.zeros(len(step), np.int8)}
    constants |= {"bias": bias, "unit": rng.uniform(1e-9, 1e-8, 5).astype(np.float32)}
    network = by_hand(*nodes, **constants)
    form, feed = spiking_form(network), {"x": np.zeros(5, np.float32)}
    for name in ("w", "b"):
        (expected,) = plain(network, [name], feed)
        assert constants_of(form)[name].tobytes() == expected.tobytes()


def test_neurons_in_a_branch():
    branch = [*by_hand(dequantise("q")).proto.graph.node]
    yes = helper.make_graph(branch, "yes", [], [onnx.ValueInfoProto(name="y")])
    no = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["n"])], "no", [], [onnx.ValueInfoProto(name="n")]
    )
    chosen = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Cast", ["m"], ["c"], to=TensorProto.BOOL),
        helper.make_node("If", ["c"], ["z"], then_branch=yes, else_branch=no),
    ]
    network = by_hand(dequantise("q"))
    del network.proto.graph.node[:]
    network.proto.graph.node.extend(chosen)
    network.proto.graph.output[0].name = "z"
    form = spiking_form(network)
    assert [node.name for node in neurons_of(form.proto)] == ["neuron"]
    for x in (np.float32([1, -9, 3]), np.float32([0, 0, 0])):
        (expected,), (found,) = (
            run_model(n.attached(), {"x": x}, library=True) for n in (network, form)
        )
        np.testing.assert_array_equal(found, expected)


# Others -----------------------------------------------------------------------------------------


def test_other_networks_are_returned_as_they_are():
    model = model_from_text("""g (float[N,3] x) => (float[N,2] y) <float[3,2] w> {
        r = Relu (x) y = MatMul (r, w) }""")
    snn = compile_model(model, None, CompileOptions()).network
    others = by_hand(dequantise("q"), named=False)  # quantised by someone else
    for network in (detach(model), snn, others):
        assert not holds_integers(network)
        assert spiking_form(network) is network


def test_parts_of_neurons_say_so(compiled):
    form = spiking_form(compiled[1])
    names = {neuron.name for neuron in neurons_of(form.proto)}
    parts = [
        (node.op_type, p.value)
        for node in nodes_below(form.proto.graph)
        for p in node.metadata_props
        if p.key == "snn_compile.part_of_neuron"
    ]
    assert sorted(parts) == sorted((op, name) for name in names for op in ("Div", "Round", "Mul"))
