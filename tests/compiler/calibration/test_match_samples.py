"""What made-up samples are matched to where biases tell nothing, and what they never cost."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import model_from_text, run_model
from onnx import numpy_helper
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.calibration import probes
from snn_compile.compiler.calibration.match_samples import matched_samples
from snn_compile.compiler.progress import Progress
from snn_compile.compiler.samples.base import input_specs
from snn_compile.compiler.samples.synthetic import SyntheticSamples
from snn_compile.passes.graph.network import detach


def match(model, seed=0, count=64):
    network = detach(model)
    return matched_samples(network, input_specs(network.proto), count, seed, Progress())


def join(samples, name="x"):
    return np.concatenate([feed[name] for feed in samples.batches(16)])


def model_of(text, **scales):
    """A model whose weights, drawn standard normal, are multiplied by ``scales``."""
    model = model_from_text(text)
    for tensor in model.graph.initializer:
        if tensor.name in scales:
            values = numpy_helper.to_array(tensor) * np.float32(scales[tensor.name])
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model


# Random features with small biases, as in networks trained without batch normalisation.
CONV = model_of(
    """g (float[N,3,12,12] x) => (float[N,16,6,6] y)
    <float[8,3,3,3] w1, float[8] b1, float[16,8,3,3] w2, float[16] b2, float[16,16,3,3] w3,
     float[16] b3>
    { a = Conv (x, w1, b1) b = Relu (a) c = Conv (b, w2, b2) d = Relu (c) e = Conv (d, w3, b3)
      y = Relu (e) }""",
    w1=0.27,
    w2=0.17,
    w3=0.12,
    b1=0.15,
    b2=0.15,
    b3=0.15,
)
TEMPORAL = model_of(
    """g (float[N,4,32] x) => (float[N,12,32] y)
    <float[12,4,1] w0, float[12] b0, float[12,12,3] w1, float[12] b1, float[12,12,3] w2,
     float[12] b2>
    { a = Conv (x, w0, b0) b = Conv <pads = [2, 0]> (a, w1, b1) c = Relu (b) d = Add (a, c)
      e = Conv <dilations = [2], pads = [4, 0]> (d, w2, b2) f = Relu (e) y = Add (d, f) }""",
    w0=0.7,
    w1=0.24,
    w2=0.24,
    b0=0.15,
    b1=0.15,
    b2=0.15,
)
ATTENTION = model_of(
    """g (float[N,10,6] x) => (float[N,10,8] y)
    <float[6,8] p, float[8] pb, float[8,8] q, float[8] qb, float[8,8] k, float[8] kb, float[8,8] v,
     float[8] vb>
    { a0 = MatMul (x, p) a = Add (pb, a0) q0 = MatMul (a, q) q1 = Add (q0, qb)
      k0 = MatMul (a, k) k1 = Add (k0, kb) v0 = MatMul (a, v) v1 = Add (v0, vb)
      t = Transpose <perm = [0, 2, 1]> (k1) s = MatMul (q1, t) w = Softmax (s)
      o = MatMul (w, v1) r = Add (a, o) y = Relu (r) }""",
    p=0.5,
    q=0.3,
    k=0.3,
    v=0.3,
    pb=0.1,
    qb=0.1,
    kb=0.1,
    vb=0.1,
)
MIXER = model_of(
    """g (float[N,10,6] x) => (float[N,10,8] y)
    <float[6,8] p, float[8] pb, float[10,20] u, float[20] ub, float[20,10] v, float[10] vb>
    { a0 = MatMul (x, p) a = Add (a0, pb) t = Transpose <perm = [0, 2, 1]> (a)
      u0 = MatMul (t, u) u1 = Add (u0, ub) r = Relu (u1) v0 = MatMul (r, v) v1 = Add (v0, vb)
      b = Transpose <perm = [0, 2, 1]> (v1) s = Add (a, b) y = Relu (s) }""",
    p=0.5,
    u=0.4,
    v=0.3,
    pb=0.1,
    ub=0.1,
    vb=0.1,
)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("model", [CONV, TEMPORAL, ATTENTION, MIXER], ids=range(4))
def test_a_mismatch_no_less_than_at_infinite_scale_is_no_match(model, seed):
    samples, warnings = match(model, seed)
    plain = SyntheticSamples(input_specs(model), 64, seed)
    np.testing.assert_array_equal(join(samples), join(plain))
    assert "do not tell the scale of its inputs" in samples.origin
    assert "standard normal" in warnings[0]
    assert "give real samples with --calibration" in warnings[0]
    assert "\n" not in warnings[0]


def test_the_report_warns_and_the_snn_is_as_good_as_with_standard_normal_samples(tmp_path):
    report = compile_model(CONV, None).report
    assert any("standard normal, not matched to the network" in w for w in report.warnings)
    normal = np.random.default_rng(5).standard_normal((64, 3, 12, 12), np.float32)
    np.save(tmp_path / "x.npy", normal)
    errors = []
    for calibration in (None, tmp_path / "x.npy"):
        result = compile_model(CONV, calibration)
        x = np.random.default_rng(7).standard_normal((32, 3, 12, 12), np.float32)
        ann, snn = (run_model(model, {"x": x})[0] for model in (CONV, result.model))
        errors.append(np.linalg.norm(snn - ann) / np.linalg.norm(ann))
    assert errors[0] < 1.1 * errors[1]


# Classifiers of inputs of deviation 1 / first: the read-out has the gain of a trained one.
RAW = """g (float[N,40] x) => (float[N,10] y)
    <float[40,60] w, float[60] b, float[10,60] r, float[10] c>
    { z = Gemm (x, w, b) a = Relu (z) y = Gemm <transB = 1> (a, r, c) }"""
SOFTMAX = """g (float[N,40] x) => (float[N,10] y)
    <float[40,60] w, float[60] b, float[60,10] r, float[10] c>
    { z = Gemm (x, w, b) a = Relu (z) m = MatMul (a, r) l = Add (c, m) y = Softmax (l) }"""
POOLED = """g (float[N,4,30] x) => (float[N,10] y)
    <float[60,4,9] w, float[60] b, float[60,10] r, float[10] c, int64[1] axis = {2}>
    { z = Conv (x, w, b) a = Relu (z) p = ReduceMean <axes = [2], keepdims = 0> (a)
      m = MatMul (p, r) y = Add (m, c) }"""


def classifier(text, first, gain=12.0):
    fan_in, gain = (36, 5 * gain) if text is POOLED else (40, gain)  # the mean varies less
    return model_of(text, w=first / fan_in**0.5, b=1e-3, r=gain / 60**0.5, c=0.1)


@pytest.mark.parametrize("text", [RAW, SOFTMAX, POOLED], ids=["Gemm", "Softmax", "pooled"])
@pytest.mark.parametrize("first", [1 / 20, 1 / 100])
def test_the_spread_of_the_answers_tells_that_inputs_are_large(text, first):
    samples, warnings = match(classifier(text, first))
    sizes = join(samples).reshape(samples.count, -1).std(axis=1)
    assert "matched to the spread of the logits" in samples.origin
    if first == 1 / 20:  # between 1 and the match, as far as is bridged
        assert sizes.min() < 1.5
        assert 6 < sizes.max() < 9
    else:
        assert 0.5 / first < sizes.max() < 32 / first
        assert sizes.max() / sizes.min() < 6
    assert "to be sure" in warnings[0]


@pytest.mark.parametrize("text", [RAW, SOFTMAX], ids=["Gemm", "Softmax"])
def test_the_spread_of_the_answers_tells_that_inputs_are_small(text):
    samples, _ = match(classifier(text, 5.0))
    assert "matched to the spread of the logits" in samples.origin
    sizes = join(samples).std(axis=1)
    assert sizes.max() < 1.3
    assert sizes.min() < 0.4


@pytest.mark.parametrize("text", [RAW, SOFTMAX, POOLED], ids=["Gemm", "Softmax", "pooled"])
@pytest.mark.parametrize(("first", "gain"), [(1.0, 12.0), (0.02, 0.02)], ids=["suits", "fitted"])
def test_answers_that_suit_scale_1_or_are_no_logits_change_nothing(text, first, gain):
    samples, _ = match(classifier(text, first, gain))
    assert "not matched to the network" in samples.origin
    assert abs(join(samples).std() - 1) < 0.05


def test_answers_behind_a_normalisation_do_not_tell():
    text = """g (float[N,40] x) => (float[N,10] y)
        <float[40,60] w, float[60] b, float[60] g = {@ones}, float[60] o, float[60,10] r,
         float[10] c>
        { z = Gemm (x, w, b) n = LayerNormalization (z, g, o) a = Relu (n) m = MatMul (a, r)
          y = Add (m, c) }""".replace("@ones", ", ".join(["1"] * 60))
    samples, _ = match(model_of(text, w=0.01, b=1e-4, o=0.1, r=0.06, c=0.1))
    assert "not matched to the network" in samples.origin


@pytest.mark.parametrize(
    "tail",
    [
        "s = ReduceSum <keepdims = 0> (m) y = Sigmoid (s)",
        "k = Constant <value_ints = [0, 10]> () s = Reshape <allowzero = 1> (e, k) y = Softmax (s)",
        "z = Sub (m, m) y = Softmax (z)",
        "k = Constant <value_float = 0.0> () z = Div (m, k) y = Softmax (z)",
        "k = Constant <value_ints = [-1]> () s = Reshape (m, k) y = Softmax (s)",
        "y = Softmax <axis = 4294967297> (m)",  # the runtime reads it as 1
    ],
    ids=["scalar", "empty", "constant", "infinite", "flat", "no such axis"],
)
def test_odd_answers_do_not_tell(tail):
    result = "float y" if "ReduceSum" in tail else "float[A,B] y"
    result = "float[A] y" if "[-1]" in tail else result
    model = model_from_text(
        f"""g (float[N,40] x) => ({result})
        <float[40,60] w, float[60,10] r, int64[1] none = {{0}}, int64[1] one = {{1}}>
        {{ z0 = MatMul (x, w) a = Relu (z0) m = MatMul (a, r)
           e = Slice (m, none, none, none) {tail} }}"""
    )
    samples, _ = match(model)
    assert "not matched to the network" in samples.origin


def scaled(head, values):
    """A network that begins with ``head``, from x to s, and constants with these values."""
    constants = "".join(f", float{shape} {name} = {{{text}}}" for name, shape, text in values)
    return model_from_text(
        f"""g (float[N,3,8,8] x) => (float[N,4,6,6] y) <float[4,3,3,3] w{constants}>
        {{ {head} z = Conv (s, w) y = Relu (z) }}"""
    )


@pytest.mark.parametrize(
    ("model", "mean", "deviation"),
    [
        (scaled("s = Div (x, k)", [("k", "", "255.")]), 0, 255),
        (scaled("s = Mul (x, k)", [("k", "[1]", "0.0078125")]), 0, 128),
        (
            scaled("d = Sub (x, m) s = Div (d, k)", [("m", "", "127."), ("k", "", "128.")]),
            127,
            128,
        ),
        (
            scaled(
                "c = Cast <to = 1> (x) d = Mul (k, c) s = Add (m, d)",
                [("k", "", "0.5"), ("m", "", "-1.")],
            ),
            2,
            2,
        ),
        (scaled("s = Sub (m, x)", [("m", "", "3.")]), 3, 1),
        (
            scaled(
                "d = Div (x, k) e = Sub (d, m) s = Div (e, v)",
                [
                    ("k", "", "255."),
                    ("m", "[1,3,1,1]", "0.5, 0.25, 0.25"),
                    ("v", "[3,1,1]", "0.25, 0.5, 0.25"),
                ],
            ),
            [127.5, 63.75, 63.75],
            [63.75, 127.5, 63.75],
        ),
    ],
    ids=["Div", "Mul", "Sub Div", "Mul Add", "negative", "channels"],
)
def test_the_scaling_with_which_a_network_begins_is_undone(model, mean, deviation):
    samples, warnings = match(model, count=200)
    x = join(samples)
    np.testing.assert_allclose(x.mean(axis=(0, 2, 3)), mean, atol=0.1 * np.max(deviation))
    np.testing.assert_allclose(x.std(axis=(0, 2, 3)), np.broadcast_to(deviation, 3), rtol=0.1)
    assert "behind the network's own scaling of its input" in samples.origin
    assert "standard normal behind the network's own scaling" in warnings[0]


@pytest.mark.parametrize(
    "model",
    [
        scaled("s = Add (x, k)", [("k", "[8,8]", ", ".join(["1"] * 64))]),
        scaled("s = Mul (x, k)", [("k", "", "0.")]),
        scaled("r = Relu (x) s = Div (r, k)", [("k", "", "255.")]),
        scaled("s = Div (k, x)", [("k", "", "255.")]),
        scaled("d = Div (x, k) s = Add (x, d)", [("k", "", "255.")]),
    ],
    ids=["positions", "zero", "after", "reciprocal", "beside"],
)
def test_other_operators_at_the_beginning_are_no_scaling(model):
    samples, _ = match(model)
    assert abs(join(samples).std() - 1) < 0.05
    assert "scaling" not in samples.origin


def test_channels_are_averaged_once_they_have_moved():
    model = model_from_text(
        """g (float[N,8,8,3] x) => (float[N,4,6,6] y)
        <float[4,3,3,3] w, float[1,3,1,1] k = {100, 200, 300}>
        { t = Transpose <perm = [0, 3, 1, 2]> (x) s = Div (t, k) z = Conv (s, w) y = Relu (z) }"""
    )
    assert abs(join(match(model)[0]).std() - 200) < 10


IMAGE_TAILS = {
    "NHWC": """g (uint8[N,9,12,3] x) => (float[N,4,7,10] y) <float[4,3,3,3] w>
        { f = Cast <to = 1> (x) t = Transpose <perm = [0, 3, 1, 2]> (f) z = Conv (t, w)
          y = Relu (z) }""",
    "NCHW": """g (uint8[N,1,9,12] x) => (float[N,4,7,10] y) <float[4,1,3,3] w>
        { f = Cast <to = 1> (x) z = Conv (f, w) y = Relu (z) }""",
    "fixed": """g (uint8[2,3,9,12] x) => (float[2,4,7,10] y) <float[4,3,3,3] w, float k = {255}>
        { f = Cast <to = 1> (x) d = Div (f, k) z = Conv (d, w) y = Relu (z) }""",
    "dynamic": """g (uint8[N,H,W,3] x) => (float[N,4,I,J] y) <float[4,3,3,3] w>
        { t = Transpose <perm = [0, 3, 1, 2]> (x) f = Cast <to = 1> (t) z = Conv (f, w)
          y = Relu (z) }""",
}


@pytest.mark.parametrize("text", IMAGE_TAILS.values(), ids=IMAGE_TAILS)
def test_bytes_of_rank_4_are_images(text):
    model = model_from_text(text)
    samples, warnings = match(model, count=200)
    x = join(samples)
    assert x.dtype == np.uint8
    assert abs(x.mean() - 127.5) < 15
    assert abs(x.std() - 74) < 8
    assert x.min() < 8
    assert x.max() > 247
    assert "dead leaves images of x from 0 to 255" in samples.origin
    assert not warnings
    assert any("synthetic" in w for w in compile_model(model).report.warnings)


@pytest.mark.parametrize("kind", ["int64[N,4]", "int8[N,1,2,4]", "uint8[N,2,4]", "int32[N,4]"])
def test_integers_of_unknown_meaning_are_warned_of(kind):
    model = model_from_text(
        f"""g ({kind} x) => (float y) <float[4,4] w>
        {{ f = Cast <to = 1> (x) z = MatMul (f, w) r = Relu (z)
           y = ReduceSum <keepdims = 0> (r) }}"""
    )
    samples, warnings = match(model)
    assert set(np.unique(join(samples))) == {0, 1}
    assert len(warnings) == 1
    assert "integers of input 'x'" in warnings[0]
    assert "--calibration" in warnings[0]


FIXED = {
    "Gemm": """g (float[20000,10] x) => (float[20000,1] y)
        <float[10,32] w, float[32] b, float[32,1] v, float[1] c>
        { a = Gemm (x, w, b) r = Relu (a) l = Gemm (r, v, c) y = Sigmoid (l) }""",
    "Conv": """g (float[3000,2,6] x) => (float[3000,4,4] y) <float[4,2,3] w, float[4] b>
        { a = Conv (x, w, b) y = Relu (a) }""",
    "Reshape": """g (float[5000,2,6] x) => (float[5000,4] y)
        <float[12,4] w, float[4] b, int64[2] shape = {5000, 12}>
        { f = Reshape (x, shape) a = MatMul (f, w) z = Add (a, b) y = Relu (z) }""",
}


@pytest.mark.parametrize(("name", "text"), FIXED.items(), ids=FIXED)
def test_work_without_data_is_bounded_whatever_the_fixed_batch(name, text, monkeypatch):
    model = model_from_text(text)
    rows = []
    run_samples = probes.run_samples

    def counted(session, feed, what):
        rows.append(len(feed["x"]))
        return run_samples(session, feed, what)

    monkeypatch.setattr(probes, "run_samples", counted)
    samples, _ = match(model)
    batch = input_specs(model)[0].shape[0]
    assert max(rows) <= 32
    assert samples.count == batch
    feeds = list(samples.batches(1))
    assert [len(feed["x"]) for feed in feeds] == [batch]
    assert len(np.unique(feeds[0]["x"].reshape(batch, -1), axis=0)) == 64
    if name == "Reshape":
        assert f"has a batch of {batch} and does not run on fewer" in samples.origin


def test_a_large_fixed_batch_compiles():
    report = compile_model(model_from_text(FIXED["Gemm"]), None, CompileOptions(seed=3)).report
    assert report.calibration["samples"] == 20000
