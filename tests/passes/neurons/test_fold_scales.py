"""Scales of octave neurons in the weights around them: the same function, where it can be."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import export_model, model_from_text, run_model
from snn_compile.passes.canonicalise.canonicalise import canonicalise
from snn_compile.passes.graph.surgeon import import_model
from snn_compile.passes.neurons.fold_scales import fold_scales
from snn_compile.passes.neurons.insert_quant_clip import insert_quant_clip
from snn_compile.passes.neurons.neuron import OctaveNeuron, ThresholdNeuron


def octave(scale, axis=1, **known):
    known = {"linear": 8, "top_pos": 24} | known
    return OctaveNeuron(np.asarray(scale, np.float32), axis=axis, calibrator="test", **known)


def canonical(model):
    return canonicalise(import_model(model)).graph


def threshold(theta, axis=1, **known):
    theta = np.asarray(theta, np.float32)
    return ThresholdNeuron(theta=theta, levels_pos=8, axis=axis, calibrator="test", **known)


def folded(model, thresholds=False, **neurons):
    """The outputs of the quantised ANN without and with folding, and whether each was folded."""
    plain = export_model(insert_quant_clip(canonical(model), neurons).graph)
    result, changed = fold_scales(canonical(model), neurons, thresholds)
    after = export_model(insert_quant_clip(result.graph, changed).graph)
    onnx.checker.check_model(after, full_check=True)
    rng = np.random.default_rng(0)
    shapes = {
        value.name: [d.dim_value or 2 for d in value.type.tensor_type.shape.dim]
        for value in model.graph.input
    }
    feed = {k: 3 * rng.standard_normal(shape).astype(np.float32) for k, shape in shapes.items()}
    for got, expected in zip(run_model(after, feed), run_model(plain, feed), strict=True):
        # A value next to a threshold may fall on its other side: one level, of few values.
        apart = np.abs(got - expected) > 1e-4 * np.abs(expected).max()
        assert apart.mean() < 0.01
    is_one = {key: not np.any(neuron.unit != 1) for key, neuron in changed.items()}
    assert len(result.changes) == sum(is_one.values())
    return is_one


PER_CHANNEL = [0.1, 0.3, 0.05, 0.2]


@pytest.mark.parametrize("scale", [0.1, PER_CHANNEL], ids=["scalar", "channels"])
@pytest.mark.parametrize(
    ("front", "behind"),
    [
        ("Conv (x, v, c)", "Conv (r, w)"),
        ("Conv (x, v)", "Conv <group = 2> (r, w2, b)"),
        ("ConvTranspose (x, t, c)", "ConvTranspose (r, w, b)"),
        ("Conv <group = 2> (x2, v2, c)", "ConvTranspose <group = 2> (r, wt, b)"),
        ("ConvTranspose <group = 2> (x2, t2, c)", "Conv (r, w)"),
    ],
)
def test_convolutions(front, behind, scale):
    model = model_from_text(f"""
        g (float[2,3,6,6] x, float[2,4,6,6] x2) => (float[a,b,c,d] y, float[e,f,h,i] z)
        <float[4,3,3,3] v, float[4,2,3,3] v2, float[3,4,3,3] t, float[4,2,3,3] t2, float[4] c,
         float[4,4,3,3] w, float[4,2,3,3] w2, float[4,2,3,3] wt, float[4] b> {{
            a = {front}
            r = Relu (a)
            y = {behind}
            z = Identity (x2)
            u = Identity (x)
        }}""")
    assert folded(model, r=octave(scale)) == {"r": True}


@pytest.mark.parametrize("scale", [0.1, PER_CHANNEL], ids=["scalar", "channels"])
@pytest.mark.parametrize(
    ("front", "behind"),
    [
        ("Gemm (x, v, c)", "Gemm (r, w, b)"),
        ("Gemm <transB = 1> (x, vt, c)", "Gemm <transB = 1> (r, wt)"),
        ("Gemm (x, v)", "MatMul (r, w)"),
    ],
)
def test_matrices(front, behind, scale):
    model = model_from_text(f"""
        g (float[2,3] x) => (float[2,5] y)
        <float[3,4] v, float[4,3] vt, float[4] c, float[4,5] w, float[5,4] wt, float[5] b> {{
            a = {front}
            r = Relu (a)
            y = {behind}
        }}""")
    assert folded(model, r=octave(scale)) == {"r": True}


def test_a_bias_behind_a_matmul():
    model = model_from_text("""
        g (float[2,7,3] x) => (float[2,7,5] y) <float[3,4] v, float[4] c, float[4,5] w> {
            p = MatMul (x, v)
            a = Add (c, p)
            r = Relu (a)
            y = MatMul (r, w)
        }""")
    assert folded(model, r=octave(PER_CHANNEL, axis=2)) == {"r": True}
    assert folded(model, r=octave([0.1] * 7, axis=1)) == {"r": False}


def test_spikes_that_are_moved_and_read_twice():
    """A weight that two layers share is copied, and each gets its scale once."""
    model = model_from_text("""
        g (float[2,3,6,6] x) => (float[2,4,1,1] y, float[2,4,6,6] z)
        <float[4,3,1,1] v, float[4,4,1,1] w, float[4] b> {
            a = Conv (x, v, b)
            r = Relu (a)
            p = MaxPool <kernel_shape = [6, 6]> (r)
            y = Conv (p, w, b)
            z = Conv (r, w, b)
        }""")
    assert folded(model, r=octave(0.25)) == {"r": True}
    assert folded(model, r=octave(PER_CHANNEL)) == {"r": False}


@pytest.mark.parametrize(
    "lines",
    [
        "r = Relu (a)  y = Add (r, r)",
        "r = Relu (a)  s = Conv (r, w)  y = Add (s, a)",
        "r = Relu (a)  s = Conv (r, w)  y = Add (s, r)",
        "r = Relu (a)  m = GlobalAveragePool (r)  y = Conv (m, w)",
        "n = Neg (a)  r = Relu (n)  y = Conv (r, w)",
        "r = Relu (a)  y = Conv (a, r)",
    ],
    ids=["no layer", "x read twice", "spikes read twice", "mean", "no layer in front", "as weight"],
)
def test_stays_where_anything_else_is_around(lines):
    model = model_from_text(f"""
        g (float[4,4,1,1] x) => (float[4,4,h,l] y) <float[4,4,1,1] v, float[4,4,1,1] w> {{
            a = Conv (x, v)
            {lines}
        }}""")
    assert folded(model, r=octave(0.1)) == {"r": False}


def test_stays_where_the_spikes_are_an_output_or_the_neuron_is_another():
    text = """
        g (float[2,4,1,1] x) => ({outputs}) <float[4,4,1,1] v, float[4,4,1,1] w> {{
            a = Conv (x, v)
            r = Relu (a)
            y = Conv (r, w)
        }}"""
    both = model_from_text(text.format(outputs="float[2,4,1,1] y, float[2,4,1,1] r"))
    assert folded(both, r=octave(0.1)) == {"r": False}
    one = model_from_text(text.format(outputs="float[2,4,1,1] y"))
    threshold = ThresholdNeuron(np.float32(0.1), levels_pos=8, axis=1, calibrator="test")
    assert folded(one, r=threshold) == {"r": False}
    assert folded(one, r=octave(0.1)) == {"r": True}


@pytest.mark.parametrize("scale", [1e-38, 1e38])
def test_stays_where_parameters_would_not_be_normal_numbers(scale):
    model = model_from_text("""
        g (float[2,1,1,1] x) => (float[2,1,1,1] y)
        <float[1,1,1,1] v = {4.0}, float[1,1,1,1] w = {4.0}> {
            a = Conv (x, v)
            r = Relu (a)
            y = Conv (r, w)
        }""")
    assert folded(model, r=octave(scale)) == {"r": False}


@pytest.mark.parametrize(("width", "is_folded"), [(1023, True), (1024, False)])
def test_large_weights_stay(width, is_folded):
    model = model_from_text(f"""
        g (float[2,3] x) => (float[2,{width}] y)
        <float[3,{width}] v, float[{width},{width}] w> {{
            a = Gemm (x, v)
            r = Relu (a)
            y = MatMul (r, w)
        }}""")
    assert folded(model, r=octave(0.1)) == {"r": is_folded}


@pytest.mark.parametrize("theta", [0.3, 0.25, PER_CHANNEL], ids=["scalar", "power", "channels"])
@pytest.mark.parametrize("levels_neg", [0, 3])
@pytest.mark.parametrize("activation", ["Relu (a)", "Clip (a, zero, six)"])
@pytest.mark.parametrize("also", ["", "z = Add (y, a)"], ids=["both sides", "behind alone"])
def test_thresholds_where_they_are_asked_for(also, activation, levels_neg, theta):
    """Clip ends above the highest level; what else reads the potential still reads all of it."""
    output = "z" if also else "y"
    model = model_from_text(f"""
        g (float[2,3,6,6] x) => (float[2,4,6,6] {output})
        <float[4,3,1,1] v, float[4] c, float[4,4,1,1] w, float zero = {{0}}, float six = {{6}}> {{
            a = Conv (x, v, c)
            r = {activation}
            y = Conv (r, w)
            {also}
        }}""")
    neuron = threshold(theta, levels_neg=levels_neg)
    assert folded(model, r=neuron) == {"r": False}
    assert folded(model, thresholds=True, r=neuron) == {"r": True}


def test_a_threshold_stays_where_what_reads_the_spikes_is_no_layer():
    model = model_from_text("""
        g (float[2,4,6,6] x) => (float[2,4,6,6] y) <float[4,4,1,1] v> {
            a = Conv (x, v)
            r = Relu (a)
            y = Softmax (r)
        }""")
    assert folded(model, thresholds=True, r=threshold(0.1)) == {"r": False}
