"""Weights on grids: sums of layers are exact in float32, whatever their order."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import model_from_text, run_model
from onnx.reference import ReferenceEvaluator
from snn_compile.passes.graph.network import detach
from snn_compile.passes.graph.surgeon import export_network, import_model, infer_shapes
from snn_compile.passes.neurons.exact_sums import exact_sums
from snn_compile.passes.neurons.neuron import OctaveNeuron, ThresholdNeuron

HEAD = """g (float[N,4,6,6] x) => (float[N,a,b,c] y) <float[6,4,3,3] w, float[6] b,
float[6,6,1,1] u, float[6] c, float[4,1,3,3] d, float[4,3,2,2] t, float[6,5] m, float[5] e,
float[3,6] f, float[6,4,1,1] w1, float[4,4,3,3] d1, int64[8] pad = {0, 1, 0, 0, 0, 1, 0, 0}> {
k_x = Relu (x) """
EXACT = {
    "Conv": "y = Conv <pads=[1,1,1,1]> (k_x, w, b)",
    "depthwise": "y = Conv <group=4> (k_x, d)",
    "ConvTranspose": "y = ConvTranspose <strides=[2,2]> (k_x, t)",
    "Gemm": "p = GlobalMaxPool (k_x) q = Conv (p, w1) r = Flatten (q) k_r = Relu (r) "
    "y = Gemm <transB=1> (k_r, f)",
    "MatMul and bias": "p = GlobalMaxPool (k_x) q = Conv (p, w1) r = Flatten (q) k_r = Relu (r) "
    "s = MatMul (k_r, m) y = Add (s, e)",
    "moved": "p = MaxPool <kernel_shape=[2,2]> (k_x) y = Conv (p, w)",
    "a shortcut": "p = Conv <pads=[1,1,1,1]> (k_x, w, b) k_p = Relu (p) q = Conv (k_p, u, c) "
    "y = Add (q, k_p)",
    "layers that meet": "p = Conv <pads=[1,1,1,1]> (k_x, w, b) q = Conv <pads=[1,1,1,1]> (k_x, w) "
    "y = Add (p, q)",
    "a padded shortcut": "p = Conv <pads=[1,1,1,1]> (k_x, w, b) s = Pad (k_x, pad) y = Add (p, s)",
    "a sum of sums": "p = Conv <pads=[1,1,1,1]> (k_x, w, b) q = Conv <pads=[1,1,1,1]> (k_x, w) "
    "r = Add (p, q) k_p = Relu (r) s = Conv (k_p, u) v = Add (s, r) y = Add (v, k_p)",
}
NOT_EXACT = {
    "the input": "y = Conv (x, w, b)",
    "a curve": "h = Sigmoid (k_x) y = Conv (h, w, b)",
    "a sum with the input": "p = Conv <pads=[1,1,1,1]> (k_x, d1) y = Add (p, x)",
}
STEPS = np.float32([0.5, 0.125, 2.0, 0.0625])


def model_of(body):
    head = HEAD.replace("N,a,b,c", "N,a") if "Flatten" in body else HEAD
    return model_from_text(head + body + "}", seed=3)


def uniform(step):
    return ThresholdNeuron(np.asarray(step, np.float32), 15, axis=1, calibrator="mse")


def neurons_of(model, step):
    """Of all that a Relu writes; the first has the step, or steps, others one."""
    names = [node.output[0] for node in model.graph.node if node.op_type == "Relu"]
    neurons = {name: uniform(0.5) for name in names}
    scale = np.asarray(step, np.float32)
    neurons["k_x"] = OctaveNeuron(scale, 40, 30, 9, axis=1, calibrator="mse")
    return neurons


def rounded(body, step=0.25, quiet=1.0):
    """``quiet``: what the weights of the first channel of w are multiplied by."""
    model = model_of(body)
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == "w")
    weight = onnx.numpy_helper.to_array(tensor).copy()
    weight[0] *= np.float32(quiet)
    tensor.CopyFrom(onnx.numpy_helper.from_array(weight, "w"))
    graph = infer_shapes(import_model(detach(model)))
    neurons = neurons_of(model, step)
    if np.ndim(step):
        neurons |= {
            n: ThresholdNeuron(np.asarray(0.5, np.float32), 15, axis=1, calibrator="mse")
            for n in neurons
            if n != "k_x"
        }
    result = exact_sums(graph, neurons)
    return model, export_network(result.graph).attached(), result.changes, neurons


def with_spikes(model, neurons):
    """The network, its activations fed: spikes of neurons, drawn."""
    found = onnx.ModelProto.FromString(model.SerializeToString())
    kept = [node for node in found.graph.node if node.op_type != "Relu"]
    del found.graph.node[:]
    found.graph.node.extend(kept)
    rng, feed = np.random.default_rng(5), {}
    shapes = {"k_x": [3, 4, 6, 6], "k_p": [3, 6, 6, 6], "k_r": [3, 6]}
    read = {name for node in kept for name in node.input}
    for name, neuron in neurons.items():
        if name not in read:
            continue
        levels = neuron.staircase()[1]
        drawn = rng.choice(levels, shapes[name])
        unit = neuron.unit.reshape(-1, 1, 1) if neuron.unit.ndim else neuron.unit
        feed[name] = (drawn * unit).astype(np.float32)
    del found.graph.input[:]
    for name, values in feed.items():
        found.graph.input.append(onnx.helper.make_tensor_value_info(name, 1, values.shape))
    return found, feed


def weights_of(model):
    """Of the only layer."""
    (layer,) = (node for node in model.graph.node if node.op_type == "Conv")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    return onnx.numpy_helper.to_array(tensors[layer.input[1]])


def in_double(model, feed):
    """The same sums in float64, where none of them is rounded."""
    wide = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in wide.graph.initializer:
        if tensor.data_type == 1:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    for value in (*wide.graph.input, *wide.graph.output):
        value.type.tensor_type.elem_type = 11
    del wide.graph.value_info[:]
    feed = {name: values.astype(np.float64) for name, values in feed.items()}
    return ReferenceEvaluator(wide).run(None, feed)[0]


@pytest.mark.parametrize("step", [0.25, STEPS], ids=["one step", "steps per channel"])
@pytest.mark.parametrize("name", EXACT)
def test_float32_adds_up_as_exactly_as_float64(name, step):
    model, found, changes, neurons = rounded(EXACT[name], step)
    assert changes
    assert all(change.endswith("bits, exact") for change in changes)
    spiking, feed = with_spikes(found, neurons)
    exact = in_double(spiking, feed)
    (single,) = ReferenceEvaluator(spiking).run(None, feed)
    assert single.dtype == np.float32
    np.testing.assert_array_equal(single.astype(np.float64), exact)
    before, _ = with_spikes(model, neurons)
    analog = in_double(before, feed)
    assert 0 < np.abs(exact - analog).max() < 1e-3 * np.abs(analog).max()


def test_a_channel_of_small_weights_in_a_sum_of_large_values():
    """It has few steps of the grid, or none; the layer is rounded all the same."""
    body = EXACT["a padded shortcut"]
    _, found, changes, neurons = rounded(body, quiet=1e-7)
    assert all(change.endswith("bits, exact") for change in changes)
    spiking, feed = with_spikes(found, neurons)
    (single,) = ReferenceEvaluator(spiking).run(None, feed)
    np.testing.assert_array_equal(single.astype(np.float64), in_double(spiking, feed))


def test_a_sum_with_spikes_of_a_step_finer_than_its_bits_hold():
    """A neuron's step is not rounded, so that the sum has its grid, which is too fine here."""
    model = model_of(
        "p = Conv <pads=[1,1,1,1]> (k_x, w) k_p = Relu (p) "
        "q = Conv <pads=[1,1,1,1]> (k_x, w, b) y = Add (q, k_p)"
    )
    neurons = neurons_of(model, 0.25) | {"k_p": uniform(2.0**-30)}
    graph = infer_shapes(import_model(detach(model)))
    *layers, total = exact_sums(graph, neurons).changes
    assert all(change.endswith("bits, exact") for change in layers)
    assert total.endswith("its sums may depend on their order")


def test_groups_of_a_transposed_convolution():
    """By hand: onnx.reference does not compute it."""
    _, found, changes, neurons = rounded("y = ConvTranspose <group=2> (k_x, t)", STEPS)
    assert changes[0].endswith("bits, exact")
    spiking, feed = with_spikes(found, neurons)
    x = feed["k_x"].astype(np.float64)
    (layer,) = spiking.graph.node
    (weight,) = (t for t in spiking.graph.initializer if t.name == layer.input[1])
    weight = onnx.numpy_helper.to_array(weight).astype(np.float64)
    expected = np.zeros([3, 6, 7, 7])
    for group in range(2):
        ins, outs = slice(2 * group, 2 * group + 2), slice(3 * group, 3 * group + 3)
        for i, j in np.ndindex(2, 2):
            part = np.einsum("nchw,co->nohw", x[:, ins], weight[ins, :, i, j])
            expected[:, outs, i : i + 6, j : j + 6] += part
    (single,) = run_model(spiking, feed)
    np.testing.assert_array_equal(single.astype(np.float64), expected)


def test_sums_are_not_exact_without_it():
    """What the test above would miss if every sum were exact anyway."""
    model, _, _, neurons = rounded(EXACT["Conv"])
    spiking, feed = with_spikes(model, neurons)
    (single,) = ReferenceEvaluator(spiking).run(None, feed)
    assert np.any(single != in_double(spiking, feed))


@pytest.mark.parametrize("name", NOT_EXACT)
def test_what_has_no_grid_is_left_and_said(name):
    model, found, changes, _ = rounded(NOT_EXACT[name])
    assert changes[-1].endswith("its sums may depend on their order")
    if "Add" not in changes[-1]:
        np.testing.assert_array_equal(weights_of(found), weights_of(model))


def test_other_steps_have_no_grid():
    _, _, changes, _ = rounded(EXACT["Conv"], 0.3)
    (change,) = changes
    assert change.endswith("its sums may depend on their order")


def test_too_few_steps_leave_the_weights(monkeypatch):
    """A layer whose largest weight would have fewer than 16 steps."""
    monkeypatch.setattr("snn_compile.passes.neurons.exact_sums._BITS", 12)
    model, found, changes, _ = rounded(EXACT["Conv"])
    assert changes[0].endswith("its sums may depend on their order")
    before, after = (weights_of(m) for m in (model, found))
    np.testing.assert_array_equal(after, before)
