"""Fixed front ends up to a logarithm: what is one, and that nothing of it becomes a neuron."""

from __future__ import annotations

import pytest
from helpers import model_from_text
from snn_compile.compiler.front_end import FRONT_END, apply_passes
from snn_compile.compiler.options import CompileOptions
from snn_compile.compiler.steps import Steps
from snn_compile.compiler.targets import resolve
from snn_compile.passes.analysis.activations import find_activations
from snn_compile.passes.graph.surgeon import import_model
from snn_compile.passes.neurons.keep_preprocessing import is_preprocessing

WEIGHTS = """float[16,1,8] fourier, float[5,4] mel_var, float[3,5,3] k, float[5,5] dct,
    float[8,1,3] low, float[1,1,3] emphasis, float eps = {0.0001}, float two = {2},
    float tenth = {0.1}, float least = {0.001}, float third = {0.3333}, float decibel = {4.3429},
    float minus = {-0.98}, float half = {0.5}, float one = {1}, int64[1] first = {1},
    int64[4] pairs = {0,8,2,-1}, int64[1] last = {2}, int64[1] minus_one = {-1},
    int64[2] halves = {8,8}, int64[3] frames = {-1,8,8}, float[8,8] cosine, float[8,8] sine,
    float[8,5] bank_var, int64 eight = {8}, int64[1] zero = {0}, int64[1] one_past = {5},
    float[5] window_var, float[5,5,1] smooth_var, float[1,5] start_var,
    float[8,6] filters_var, float[3,6,3] k6"""

#: What follows every front end here: ``l``, [N, bands, frames].
NETWORK = "c = Conv (l, k) r = Relu (c) y = GlobalAveragePool (r)"
POWER = """s = Conv <strides = [4]> (x, fourier) re, im = Split <axis = 1> (s, halves)
    rr = Mul (re, re) ii = Mul (im, im) p = Add (rr, ii)
    t = Transpose <perm = [0, 2, 1]> (p) m = MatMul (t, bank_var)
    e = Transpose <perm = [0, 2, 1]> (m)"""


def prepared(nodes, outputs="float[N,3,1] y", opset=17, **options):
    model = model_from_text(
        f"g (float[N,1,64] x) => ({outputs}) <{WEIGHTS}> {{ {nodes} }}", opset=opset
    )
    options = resolve(CompileOptions(**options))
    return apply_passes(import_model(model), FRONT_END, options, Steps())


def encoded(graph):
    """What is encoded, and what else became a neuron."""
    found = find_activations(graph)[0]
    return {a.input for a in found if a.encodes}, {a.op for a in found if not a.encodes}


def kept(graph):
    return [node.name for node in graph.nodes if is_preprocessing(node)]


FRONT_ENDS = {
    "decibels of a power spectrogram": POWER + " f = Max (e, eps) g = Log (f) l = Mul (g, decibel)",
    "magnitudes": """h = Conv <pads = [1, 1]> (x, emphasis)
        s = Conv <strides = [4]> (h, fourier) q = Pow (s, two)
        re, im = Split <axis = 1> (q, halves) p = Add (re, im) a = Sqrt (p)
        t = Transpose <perm = [0, 2, 1]> (a) m = MatMul (t, bank_var)
        e = Add (m, eps) g = Log (e) l = Transpose <perm = [0, 2, 1]> (g)""",
    "frames and a Fourier matrix": """f = Reshape (x, frames) c0 = MatMul (f, cosine)
        s0 = MatMul (f, sine) cc = Mul (c0, c0) ss = Pow (s0, two) p = Sum (cc, ss)
        m = MatMul (p, bank_var) e = Add (m, eps) g = Log (e)
        l = Transpose <perm = [0, 2, 1]> (g)""",
    "normalised waveform": """a = Abs (x) v = ReduceMax <axes = [2]> (a) n = Div (x, v)
        s = Conv <strides = [4]> (n, fourier) re, im = Split <axis = 1> (s, halves)
        b = Concat <axis = 1> (re, im) q = Mul (b, b) rr, ii = Split <axis = 1> (q, halves)
        p = Add (rr, ii) t = Transpose <perm = [0, 2, 1]> (p) m = MatMul (t, bank_var)
        o = Add (m, one) g = Log (o) l = Transpose <perm = [0, 2, 1]> (g)""",
    "floor that is moved": POWER
    + """ f = Clip (e, eps) u = Unsqueeze (f, zero)
        v = Squeeze (u, zero) l = Log (v)""",
    "cube root": POWER + " l = Pow (e, third)",
    "energies per channel by powers": POWER
    + """ w = Conv (e, smooth_var) o = Add (w, eps) h = Pow (o, minus) i = Mul (e, h)
        j = Add (i, two) n = Pow (j, half) l = Sub (n, one)""",
    "energies per channel by logarithms": POWER
    + """ w = Conv (e, smooth_var) b = Div (w, eps) o = Add (b, one) h = Log (o)
        z = Mul (h, minus) z2 = Exp (z) i = Mul (e, z2) j = Add (i, two) n = Sqrt (j)
        l = Sub (n, one)""",
    "smoothed in a loop": POWER
    + """ w, d = Scan <num_scan_inputs = 1, scan_input_axes = [2], scan_output_axes = [2], body = b
            (float[1,5] past, float[N,5] now) => (float[1,5] past2, float[N,5] out) {
                past2 = Identity (past) h0 = Mul (now, half) out = Add (h0, past)
            }> (start_var, e)
        o = Add (d, eps) h = Pow (o, minus) i = Mul (e, h) j = Add (i, two) l = Pow (j, half)""",
}


@pytest.mark.parametrize("spelling", FRONT_ENDS)
def test_nothing_of_a_front_end_is_encoded_before_its_logarithm(spelling):
    graph = prepared(f"{FRONT_ENDS[spelling]} {NETWORK}")
    inputs, others = encoded(graph)
    assert inputs == {"l"}
    assert others == {"Relu"}
    assert kept(graph)


def test_transforms_as_operators():
    stft = """f = Squeeze (x, first) t = Reshape (f, rows)
        s = STFT <onesided = 1> (t, four, window, eight) q = ReduceSumSquare <axes = [3]> (s)
        m = MatMul (q, mel) e = Add (m, eps) g = Log (e) l = Transpose <perm = [0, 2, 1]> (g)"""
    dft = """f = Reshape (x, frames) w = Mul (f, window) u = Unsqueeze (w, axes)
        s = DFT <axis = 2, onesided = 1> (u) q = ReduceL2 <axes = [3], keepdims = 0> (s)
        m = MatMul (q, mel) e = Max (m, eps) g = Log (e) l = Transpose <perm = [0, 2, 1]> (g)"""
    weights = """float[5,5] mel, float[8] window, float eps = {0.001}, float[3,5,3] k,
        int64 four = {4}, int64 eight = {8}, int64[3] frames = {-1,8,8}, int64[1] axes = {3},
        int64[1] first = {1}, int64[3] rows = {-1,64,1}"""
    stft = stft.replace("axes = [3]", "axes = [3], keepdims = 0")
    for nodes in (stft, dft):
        text = f"g (float[N,1,64] x) => (float[N,3,1] y) <{weights}> {{ {nodes} {NETWORK} }}"
        options = resolve(CompileOptions())
        graph = apply_passes(import_model(model_from_text(text)), FRONT_END, options, Steps())
        assert encoded(graph) == ({"l"}, {"Relu"})
        assert "MatMul:m" in kept(graph)


def test_what_comes_behind_the_logarithm_is_encoded():
    graph = prepared(f"""{POWER} f = Max (e, eps) g = Log (f)
        t2 = Transpose <perm = [0, 2, 1]> (g) d = MatMul (t2, dct)
        l = Transpose <perm = [0, 2, 1]> (d) {NETWORK}""")
    assert encoded(graph)[0] == {"g", "l"}


def test_all_is_encoded_when_the_input_shall_be():
    graph = prepared(f"{FRONT_ENDS['cube root']} {NETWORK}", encode_input=True)
    assert encoded(graph)[0] == {"x", "t", "l"}
    assert kept(graph) == []


@pytest.mark.parametrize(
    "nodes",
    [
        # Read past the logarithm as well.
        POWER + " f = Max (e, eps) g = Log (f) l = Add (g, e) " + NETWORK,
        # A magnitude, which grows with the waveform.
        POWER + " f = Add (e, eps) l = Sqrt (f) " + NETWORK,
        # Learned features of an activation.
        POWER.replace("re, im", "s2 = Relu (s) re, im").replace("(s, halves)", "(s2, halves)")
        + " f = Max (e, eps) l = Log (f) "
        + NETWORK,
        # No network behind it.
        POWER + " f = Max (e, eps) g = Log (f) y = GlobalAveragePool (g)",
    ],
)
def test_what_is_no_front_end(nodes):
    outputs = "float[N,3,1] y" if NETWORK in nodes else "float[N,5,1] y"
    graph = prepared(nodes, outputs)
    assert encoded(graph)[0] >= {"t"}
    assert not kept(graph)


def test_a_front_end_that_is_returned_is_none():
    graph = prepared(
        f"{POWER} f = Max (e, eps) l = Log (f) {NETWORK}", "float[N,3,1] y, float[N,5,15] e"
    )
    assert "t" in encoded(graph)[0]
    assert not kept(graph)
