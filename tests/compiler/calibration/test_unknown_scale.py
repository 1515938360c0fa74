"""Networks that do not tell the scale of their inputs: samples of all, neurons that suit all."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import model_from_text, run_model
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.calibration.fitting.distributions import Distribution
from snn_compile.compiler.calibration.fitting.octave import find_octave
from snn_compile.compiler.calibration.match_samples import matched_samples
from snn_compile.compiler.calibration.plausible_scales import plausible_scales
from snn_compile.compiler.options import MULTI_THRESHOLD
from snn_compile.compiler.progress import Progress
from snn_compile.compiler.samples.base import input_specs
from snn_compile.compiler.samples.part import Part
from snn_compile.compiler.samples.synthetic import Look, SyntheticSamples
from snn_compile.passes.graph.network import detach
from snn_compile.runtime_ops.scale_fire import octave_levels

FEATURES = """g (float[N,40] x) => (float[N,60] a) <float[40,60] w, float[60] b>
    { z = Gemm (x, w, b) a = Relu (z) }"""
RAW = """g (float[N,40] x) => (float[N,10] y)
    <float[40,60] w, float[60] b, float[10,60] r, float[10] c>
    { z = Gemm (x, w, b) a = Relu (z) y = Gemm <transB = 1> (a, r, c) }"""
SOFTMAX = """g (float[N,40] x) => (float[N,10] y)
    <float[40,60] w, float[60] b, float[60,10] r, float[10] c>
    { z = Gemm (x, w, b) a = Relu (z) m = MatMul (a, r) l = Add (c, m) y = Softmax (l) }"""
CONVOLVED = """g (float[N,2,8,8] x) => (float[N,10] y)
    <float[60,2,3,3] w, float[60] b, float[60,10] r, float[10] c>
    { z = Conv (x, w, b) a = Relu (z) p = GlobalAveragePool (a) f = Flatten (p)
      y = Gemm (f, r, c) }"""
# The read-out reads what goes around the normalisations.
NORMALISED = """g (float[N,6,8] x) => (float[N,5] y)
    <float[8,16] p, float[16] pb, float[16] g, float[16] o, float[16,32] u, float[32] ub,
     float[32,16] d, float[16,5] r, float[5] c, int64[1] time = {1}>
    { e0 = MatMul (x, p) e = Add (e0, pb) n = LayerNormalization (e, g, o)
      h0 = MatMul (n, u) h1 = Add (h0, ub) h = Relu (h1) k = MatMul (h, d) s = Add (e, k)
      m = ReduceMean <axes = [1], keepdims = 0> (s) l = MatMul (m, r) y = Add (l, c) }"""
ROOT_MEAN_SQUARE = """g (float[N,6,8] x) => (float[N,5] y)
    <float[8,16] p, float[16] pb, float[16,16] q, float[16,16] v, float[96,5] r, float[5] c,
     float tiny = {1e-6}>
    { e0 = MatMul (x, p) e = Add (e0, pb) s = Mul (e, e)
      m = ReduceMean <axes = [-1], keepdims = 1> (s) f = Add (m, tiny) t = Sqrt (f)
      n = Div (e, t) k0 = MatMul (n, q) a = Relu (k0) k = MatMul (a, v) z = Add (e, k)
      h = Flatten (z) y = Gemm (h, r, c) }"""
MIXED = """g (float[N,1,8,8] x) => (float[N,5] y)
    <float[12,1,2,2] p, float[12] pb, float[12] g, float[12] o, float[16,32] u, float[32,16] d,
     float[12,5] r, int64[3] shape = {0, 12, 16}>
    { e0 = Conv <strides = [2, 2]> (x, p, pb) e1 = Reshape (e0, shape)
      e = Transpose <perm = [0, 2, 1]> (e1) n = LayerNormalization (e, g, o)
      t = Transpose <perm = [0, 2, 1]> (n) h0 = MatMul (t, u) h = Relu (h0) k0 = MatMul (h, d)
      k = Transpose <perm = [0, 2, 1]> (k0) s = Add (e, k)
      f = ReduceMean <axes = [1], keepdims = 0> (s) y = MatMul (f, r) }"""


def model_of(text, seed=0, **constants):
    """A model; a number multiplies the standard normal weights of that name."""
    model = model_from_text(text, seed=seed)
    for tensor in model.graph.initializer:
        given = constants.get(tensor.name)
        if given is not None:
            values = onnx.numpy_helper.to_array(tensor)
            values = values * np.float32(given) if np.ndim(given) == 0 else given
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32(values), tensor.name))
    return model


def classifier(text, scale):
    """A network with logits as trained ones have, on inputs of this scale."""
    fan_in, gain = (18, 60) if text is CONVOLVED else (40, 12)
    return model_of(text, w=1 / scale / fan_in**0.5, b=0.05, r=gain / 60**0.5, c=0.1)


def plausible(model, seed=0):
    network = detach(model)
    spec = input_specs(network.proto)[0]
    return plausible_scales(network, spec, Look("any"), seed, Progress())


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("text", [RAW, SOFTMAX, CONVOLVED], ids=["Gemm", "Softmax", "pooled"])
@pytest.mark.parametrize("octave", [-4, 0, 3, 7])
def test_the_answers_of_a_classifier_rule_scales_out(text, octave, seed):
    least, most = plausible(classifier(text, 2.0**octave), seed)
    assert least <= octave <= most
    assert most - least < 6


@pytest.mark.parametrize("gain", [0.5, 1e-5, 1e5], ids=["some units", "tiny", "huge"])
def test_answers_that_rule_out_all_scales_or_none_tell_nothing(gain):
    text = """g (float[N,40] x) => (float[N,10] y)
        <float[40] g = {@ones}, float[40] o = {@zeros}, float[40,60] w, float[60,10] r>
        { n = LayerNormalization (x, g, o) z = MatMul (n, w) a = Relu (z) l = MatMul (a, r)
          y = Softmax (l) }"""
    text = text.replace("@ones", ", ".join(["1"] * 40)).replace("@zeros", ", ".join(["0"] * 40))
    assert plausible(model_of(text, w=0.2, r=gain)) == (-5, 9)


def fitted(scale, kind):
    """Random features with a read-out fitted to classes, by least squares or logistically."""
    rng = np.random.default_rng(0)
    constants = {"w": 1 / scale / 40**0.5, "b": 0.1}
    features = model_of(FEATURES, **constants)
    patterns, labels = rng.standard_normal((10, 40)), rng.integers(0, 10, 800)
    x = scale * (patterns[labels] + 1.5 * rng.standard_normal((800, 40)))
    (h,) = run_model(features, {"x": x.astype(np.float32)})
    h1, targets = np.c_[h, np.ones(len(h))].astype(float), np.eye(10)[labels]
    weights = np.zeros((61, 10))
    if kind == "logistic":
        for _ in range(300):
            z = np.exp(h1 @ weights - (h1 @ weights).max(axis=1, keepdims=True))
            weights += 0.3 / len(h) * h1.T @ (targets - z / z.sum(axis=1, keepdims=True))
    else:
        ridge = np.diag([*[1.0] * 60, 1.0 if kind == "ridge" else 0.0])
        targets = 2 * targets - 1 if kind == "signs" else targets
        weights = np.linalg.solve(h1.T @ h1 + ridge, h1.T @ targets)
    return model_of(RAW, **constants, r=weights[:-1].T, c=weights[-1])


@pytest.mark.parametrize("kind", ["least squares", "ridge", "signs"])
@pytest.mark.parametrize("octave", [-3, 0, 4])
def test_weights_that_cancel_were_fitted_by_least_squares(kind, octave):
    least, most = plausible(fitted(2.0**octave, kind))
    assert least <= octave <= most
    assert most - least < 6


@pytest.mark.parametrize("octave", [-3, 0, 4])
def test_where_biases_cancel_too_it_may_be_a_logistic_regression(octave):
    least, most = plausible(fitted(2.0**octave, "logistic"))
    assert least <= octave <= most


def test_what_is_no_classifier_stays_standard_normal():
    model = model_of(
        """g (float[N,3,8] x) => (float[N,3,4] y) <float[8,4] w> { z = MatMul (x, w)
           y = Relu (z) }"""
    )
    assert plausible(model) is None
    samples, _ = match(model)
    assert "not matched to the network" in samples.origin
    assert samples.ends() is None
    assert samples.count == 64


def test_a_softmax_of_features_is_no_classifier():
    model = model_of(
        """g (float[N,3,4,4] x) => (float[N,3,4,4] y) <float[3,3,1,1] w>
        { z = Conv (x, w) r = Relu (z) s = Sqrt (r) y = Softmax <axis = 1> (s) }"""
    )
    assert plausible(model) is None


def test_a_read_out_may_be_a_convolution():
    model = model_of(
        """g (float[N,3,8,8] x) => (float[N,5] y) <float[8,3,3,3] w, float[5,8,1,1] v, float[5] c>
        { z = Conv (x, w) r = Relu (z) m = Conv (r, v, c) p = GlobalAveragePool (m)
          f = Flatten (p) y = Softmax (f) }""",
        w=0.2,
    )
    assert plausible(model) is not None


def match(model, seed=0):
    network = detach(model)
    return matched_samples(network, input_specs(network.proto), 64, seed, Progress(), wide=True)


def join(samples):
    return np.concatenate([feed["x"] for feed in samples.batches(16)])


@pytest.mark.parametrize("octave", [-4, 0, 4])
def test_samples_are_of_all_plausible_scales_and_of_1(octave):
    samples, warnings = match(classifier(RAW, 2.0**octave))
    sizes = np.sqrt((join(samples) ** 2).mean(axis=1))
    assert samples.count == 128
    assert sizes.min() < min(1, 2.0**octave)
    assert sizes.max() > max(1, 2.0**octave)
    assert "all that are plausible" in samples.origin
    assert "--calibration" in warnings[0]
    least, most = (np.sqrt((join(end) ** 2).mean()) for end in samples.ends())
    assert least < 2 * sizes.min()
    assert most > sizes.max() / 4
    assert Part(samples, 4, held=True).ends() is not None


def test_samples_of_any_pattern_have_means_and_are_of_scale_1():
    specs = input_specs(classifier(CONVOLVED, 1))
    samples = SyntheticSamples(specs, 400, 0, {"x": Look("any")})
    x = join(samples)
    assert abs((x**2).mean() - 1) < 0.15
    assert 0.4 < x.mean(axis=(1, 2, 3)).std() < 1.0
    flat = (np.diff(x, axis=3) == 0).mean(axis=(1, 2, 3)) > 0.2
    assert 0.35 < flat.mean() < 0.65


def test_a_match_of_biases_that_the_answers_contradict_is_none():
    # Biases that cancel the means of inputs of scale 1, answers as on inputs of scale 32.
    model = model_of(RAW, w=1 / 40**0.5, r=12 / 32 / 60**0.5, b=0.05, c=0.1)
    samples, _ = match(model)
    assert "all that are plausible" in samples.origin


def normal(deviations):
    """Values of these deviations, as many of each."""
    quantiles = np.random.default_rng(0).standard_normal(2000)
    values = np.sort(np.concatenate([deviation * quantiles for deviation in deviations]))
    return Distribution(values, values, values, np.ones(len(values)))


def error_of(found, deviation):
    """Relative error of an octave neuron on normal values."""
    x = normal([deviation]).means
    below, above = (octave_levels(found.linear, top) for top in (found.top_neg, found.top_pos))
    table = float(found.scale) * np.concatenate([-below[:0:-1], above])
    y = table[np.abs(x[:, None] - table).argmin(axis=1)]
    return np.linalg.norm(x - y) / np.linalg.norm(x)


def test_levels_are_relatively_close_to_values_of_all_scales():
    deviations = 2.0 ** np.arange(8)
    values = normal(deviations)
    wide = find_octave([values.relative_above(1.0)], 64)
    assert max(error_of(wide, deviation) for deviation in deviations) < 0.1
    assert error_of(find_octave([values], 64), 1.0) > 0.3


def test_values_of_one_scale_are_fitted_about_as_well_as_without_weights():
    values = normal([3.0])
    wide, plain = find_octave([values.relative_above(9.0)], 64), find_octave([values], 64)
    assert error_of(wide, 3.0) < 1.35 * error_of(plain, 3.0)
    assert not normal([0.0]).relative_above(0.0).power


@pytest.mark.parametrize("text", [NORMALISED, ROOT_MEAN_SQUARE, MIXED], ids=range(3))
def test_the_encoder_of_the_read_out_is_left_out_where_it_follows_the_scale(text, tmp_path):
    model = model_of(text, p=0.3, q=0.3, v=0.3, u=0.3, d=0.3, r=0.5, c=0.1)
    result = compile_model(model)
    warned = [w for w in result.report.warnings if "is left out" in w]
    assert len(warned) == 1
    assert "no neuron is behind it" in warned[0]
    rng = np.random.default_rng(1)
    shape = (200, *[dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]])
    normal_samples = rng.standard_normal((64, *shape[1:]), np.float32)
    np.save(tmp_path / "x.npy", normal_samples)
    given = compile_model(model, tmp_path / "x.npy")
    assert not any("is left out" in w for w in given.report.warnings)
    for octave in (-4, 0, 4, 7):
        x = np.float32(2.0**octave) * (rng.standard_normal(shape, np.float32) + np.float32(0.5))
        ann, snn = (run_model(m, {"x": x})[0] for m in (model, result.model))
        assert np.linalg.norm(snn - ann) < 0.06 * np.linalg.norm(ann)


@pytest.mark.parametrize("text", [RAW, SOFTMAX, CONVOLVED], ids=["Gemm", "Softmax", "pooled"])
@pytest.mark.parametrize("octave", [-4, 3, 7])
def test_answers_are_kept_whatever_the_scale_was(text, octave):
    model = classifier(text, 2.0**octave)
    result = compile_model(model)
    rng = np.random.default_rng(1)
    shape = (500, *[dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]])
    x = np.float32(2.0**octave) * rng.standard_normal(shape, np.float32)
    ann, snn = (run_model(m, {"x": x})[0] for m in (model, result.model))
    assert (ann.argmax(axis=1) == snn.argmax(axis=1)).mean() > 0.9


def test_layers_are_not_corrected_where_the_scale_is_not_known(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((64, 40), np.float32))
    model, lines = classifier(RAW, 16.0), []
    for calibration in (None, tmp_path / "x.npy"):
        passes = compile_model(model, calibration).report.passes
        lines += [" ".join(one.changes) for one in passes if one.name == "calibrate"]
    assert "no layer is corrected" in lines[0]
    assert "no layer is corrected" not in lines[1]


@pytest.mark.parametrize(
    "options",
    [
        {"neuron": MULTI_THRESHOLD},
        {"target": "int8"},
        {"levels": 8},
        {"calibrator": "mse"},
        {"timesteps": 4},
    ],
    ids=lambda options: next(iter(options)),
)
def test_levels_equally_far_apart_keep_to_fewer_scales(options):
    report = compile_model(classifier(RAW, 16.0), options=CompileOptions(**options)).report
    assert "plausible" not in report.calibration["origin"]
    assert "matched to the spread of the logits" in report.calibration["origin"]


def test_where_large_samples_overflow_there_are_none():
    model = model_of(
        """g (float[N,40] x) => (float[N,10] y)
        <float[40,60] w, float[60,10] r, float[10,10] q, float big = {1e35}>
        { z = MatMul (x, w) a = Relu (z) b = Mul (a, big) m = MatMul (b, r) c = Sigmoid (m)
          y = MatMul (c, q) }"""
    )
    options = CompileOptions(compensation=False, bias_correction=False)
    report = compile_model(model, options=options).report
    assert "whose values overflow" in report.calibration["origin"]
