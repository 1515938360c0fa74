"""Made-up samples, and that they are given the scale and mean that a network was trained with."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import model_from_text, run_model
from onnx import numpy_helper
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.calibration.match_samples import matched_samples
from snn_compile.compiler.calibration.match_statistics import observed_in
from snn_compile.compiler.progress import Progress
from snn_compile.compiler.running.expose import with_outputs
from snn_compile.compiler.samples.base import InputSpec, input_specs
from snn_compile.compiler.samples.synthetic import Look, SyntheticSamples, draw_leaves
from snn_compile.passes.graph.network import Network, detach

F32 = np.dtype(np.float32)
IMAGE = InputSpec("image", F32, (None, 2, None))
MASK = InputSpec("mask", np.dtype(np.int64), (None,))

CONV = """g (float[N,3,16,16] x) => (float[N,8,12,12] y)
    <float[8,3,3,3] w1, float[8] b1, float[8,8,3,3] w2, float[8] b2>
    { z1 = Conv (x, w1, b1) a = Relu (z1) z2 = Conv (a, w2, b2) y = Relu (z2) }"""
BATCHNORM = """g (float[N,3,16,16] x) => (float[N,8,14,14] y)
    <float[8,3,3,3] w, float[8] gamma, float[8] beta, float[8] mu, float[8] v_var>
    { c = Conv (x, w) z = BatchNormalization (c, gamma, beta, mu, v_var) y = Relu (z) }"""
GEMM = """g (float[N,40] x) => (float[N,50] y)
    <float[40,50] w1, float[50] b1, float[50,50] w2, float[50] b2>
    { z1 = Gemm (x, w1, b1) a = Relu (z1) z2 = Gemm (a, w2, b2) y = Relu (z2) }"""
MATMUL = """g (float[N,40] x) => (float[N,50] y)
    <float[40,50] w1, float[50] b1, float[50,50] w2, float[50] b2>
    { m1 = MatMul (x, w1) z1 = Add (b1, m1) a = Relu (z1)
      m2 = MatMul (a, w2) z2 = Add (m2, b2) y = Relu (z2) }"""


def collect(samples, size):
    return [{k: v.copy() for k, v in feed.items()} for feed in samples.batches(size)]


def join(samples, name):
    return np.concatenate([feed[name] for feed in samples.batches(7)])


def match(model, seed=0, count=16, progress=None):
    return match_and_warn(model, seed, count, progress)[0]


def match_and_warn(model, seed=0, count=16, progress=None):
    network = model if isinstance(model, Network) else detach(model)
    return matched_samples(network, input_specs(network.proto), count, seed, progress or Progress())


def assert_standard_normal(samples, model):
    specs = input_specs(model)
    plain = SyntheticSamples(specs, samples.count, 0)
    for spec in specs:
        np.testing.assert_array_equal(join(samples, spec.name), join(plain, spec.name))


def values_of(model, name):
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    return numpy_helper.to_array(found[name])


def set_values(model, name, values):
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))


def moments(model, name, x):
    """Mean and variance per channel of a tensor."""
    z = run_model(with_outputs(detach(model), [name]).attached(), {"x": x})[0]
    rows = np.moveaxis(z, 1, 0).reshape(z.shape[1], -1)
    return rows.mean(axis=1), rows.var(axis=1)


def trained(text, scale, offset):
    """A model whose constants are as training on inputs of this scale and offset leaves them."""
    model = model_from_text(text)
    specs = input_specs(model)
    pattern = "leaves" if len(specs[0].shape) == 4 else "noise"
    looks = {"x": Look(pattern, scale, offset)}
    x = join(SyntheticSamples(specs, 64, seed=99, looks=looks), "x")
    if "BatchNormalization" in text:
        mean, variance = moments(model, "c", x)
        set_values(model, "mu", mean)
        set_values(model, "v_var", variance)
        return model
    for bias, z in (("b1", "z1"), ("b2", "z2")):
        beta = 0.3 * values_of(model, bias)
        set_values(model, bias, np.zeros(len(beta)))
        mean, variance = moments(model, z, x)
        set_values(model, bias, beta * np.sqrt(variance) - mean)
    return model


def test_samples_have_the_shape_of_the_inputs_and_repeat():
    specs = [IMAGE, MASK]
    first, second = (collect(SyntheticSamples(specs, 10, seed=3), 4) for _ in range(2))
    assert [feed["image"].shape for feed in first] == [(4, 2, 32), (4, 2, 32), (2, 2, 32)]
    assert first[0]["mask"].dtype == np.int64
    np.testing.assert_array_equal(first[1]["image"], second[1]["image"])
    other = collect(SyntheticSamples(specs, 10, seed=4), 4)
    assert not np.array_equal(first[0]["image"], other[0]["image"])


def test_samples_do_not_depend_on_the_batch():
    specs = [IMAGE, MASK]
    whole, parts = (collect(SyntheticSamples(specs, 10, seed=3), size) for size in (10, 3))
    for name in ("image", "mask"):
        np.testing.assert_array_equal(np.concatenate([f[name] for f in parts]), whole[0][name])


def test_fewer_samples_are_the_first_ones_and_fill_the_batch_that_the_model_fixes():
    specs = [IMAGE, MASK]
    samples = SyntheticSamples(specs, 10, seed=3)
    np.testing.assert_array_equal(join(samples.first(4), "image"), join(samples, "image")[:4])
    assert samples.first(4).origin.startswith("4 synthetic samples")
    assert samples.first(100).count == 10
    fixed = SyntheticSamples([InputSpec("x", F32, (4, 50))], 64, seed=3).first(18)
    assert fixed.count == 16


def test_inputs_without_a_look_are_standard_normal_and_integers_0_or_1():
    specs = [InputSpec("x", F32, (None, 50)), InputSpec("i", np.dtype(np.int8), (None, 50))]
    samples = SyntheticSamples(specs, 400, seed=0)
    x = join(samples, "x")
    assert abs(x.mean()) < 0.03
    assert abs(x.std() - 1) < 0.03
    assert set(np.unique(join(samples, "i"))) == {0, 1}
    assert samples.origin == "400 synthetic samples, seed 0"


def test_scalars_and_booleans_are_drawn_too():
    specs = [InputSpec("x", F32, ()), InputSpec("flag", np.dtype(bool), ())]
    feeds = collect(SyntheticSamples(specs, 8, seed=0), 4)
    assert len(feeds) == 8
    assert feeds[0]["x"].shape == ()
    assert {bool(feed["flag"]) for feed in feeds} == {False, True}


def test_looks_set_scale_mean_and_range():
    specs = [InputSpec("x", F32, (None, 50)), InputSpec("i", np.dtype(np.int64), (None, 50))]
    looks = {"x": Look("noise", 4.0, 2.0), "i": Look(low=3, rows=4)}
    samples = SyntheticSamples(specs, 400, 0, looks, "as wanted")
    x = join(samples, "x")
    assert x.mean() == pytest.approx(8, abs=0.1)
    assert x.std() == pytest.approx(4, abs=0.1)
    assert set(np.unique(join(samples, "i"))) == {3, 4, 5, 6}
    assert samples.origin == "400 synthetic samples, seed 0: as wanted"


@pytest.mark.parametrize("shape", [(3, 20, 30), (20, 30, 3), (1, 20, 30), (20, 30, 1)])
def test_leaves_are_flat_regions_of_unit_variance(shape):
    images = np.stack([draw_leaves(np.random.default_rng(i), shape) for i in range(200)])
    assert images.shape == (200, *shape)
    assert images.dtype == np.float32
    assert abs(images.mean()) < 0.15
    assert images.std() == pytest.approx(1, abs=0.1)
    along_rows = np.diff(images, axis=1 if shape[2] < shape[0] else 2)
    assert 0.6 < (along_rows == 0).mean() < 0.99


def test_channels_of_leaves_vary_together():
    images = np.stack([draw_leaves(np.random.default_rng(i), (3, 16, 16)) for i in range(200)])
    red, green = images[:, 0].ravel(), images[:, 1].ravel()
    assert np.corrcoef(red, green)[0, 1] == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize("shape", [(3, 600, 300), (0, 8, 8), (3, 0, 8), (2, 1, 1)])
def test_leaves_of_any_size_have_the_shape_asked_for(shape):
    assert draw_leaves(np.random.default_rng(0), shape).shape == shape


def test_large_images_are_drawn_small_and_their_pixels_repeated():
    image = draw_leaves(np.random.default_rng(0), (1, 600, 300))[0]
    np.testing.assert_array_equal(image[0::3, 0::2], image[2::3, 1::2])
    assert len(np.unique(image)) > 2


@pytest.mark.parametrize(("scale", "offset"), [(1 / 16, 0.0), (1.0, 0.0), (64.0, 0.0), (8.0, 1.0)])
@pytest.mark.parametrize("text", [CONV, GEMM, MATMUL], ids=["Conv", "Gemm", "MatMul"])
def test_biases_tell_the_scale(text, scale, offset):
    samples = match(trained(text, scale, offset), count=64)
    x = join(samples, "x")
    size = np.sqrt((x.astype(np.float64) ** 2).mean())
    wanted = scale * np.sqrt(1 + offset**2)
    assert wanted / 4 < size < wanted * 4
    assert "matched to the biases of 2 linear operators" in samples.origin


@pytest.mark.parametrize(("scale", "offset"), [(1 / 16, 0.0), (1.0, 0.0), (64.0, 0.0), (8.0, 1.0)])
def test_batch_normalisation_tells_scale_and_mean(scale, offset):
    samples = match(trained(BATCHNORM, scale, offset), count=64)
    x = join(samples, "x")
    assert scale / 1.5 < x.std() < scale * 1.5
    assert x.mean() == pytest.approx(scale * offset, abs=0.5 * scale)
    assert "matched to the statistics of 1 batch normalisations" in samples.origin


def test_origin_tells_what_the_samples_are():
    samples = match(trained(BATCHNORM, 8.0, 0.0))
    start = "16 synthetic samples, seed 0: dead leaves images of scale "
    assert samples.origin.startswith(start)
    scale = float(samples.origin[len(start) :].split()[0])
    assert 4 <= scale <= 16


def test_same_seed_same_samples_and_another_seed_others():
    model = trained(CONV, 4.0, 0.0)
    first, again, other = (match(model, seed) for seed in (0, 0, 1))
    assert first.origin == again.origin
    np.testing.assert_array_equal(join(first, "x"), join(again, "x"))
    assert not np.array_equal(join(first, "x"), join(other, "x"))


def test_a_network_that_tells_nothing_about_the_scale_gets_scale_1():
    model = model_from_text(
        """g (float[N,40] x) => (float[N,16] y)
        <float[40,16] w, float[16] b> { z = Gemm (x, w, b) y = Relu (z) }"""
    )
    set_values(model, "b", np.full(16, 1e-12))
    samples, warnings = match_and_warn(model)
    assert "do not tell the scale of its inputs" in samples.origin
    assert_standard_normal(samples, model)
    assert len(warnings) == 1
    assert "standard normal" in warnings[0]
    assert "--calibration" in warnings[0]


def test_large_weights_are_seen_where_they_are_held_apart():
    network = detach(trained(MATMUL, 32.0, 0.0))
    assert set(network.weights) == {"w1", "w2"}
    network.weights["b1"] = values_of(network.attached(), "b1")
    network.weights["b2"] = values_of(network.attached(), "b2")
    del network.proto.graph.initializer[:]
    assert observed_in(network)[1] == "the biases of 2 linear operators"


def test_a_fixed_batch_is_kept():
    model = trained(CONV, 16.0, 0.0)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 6
    samples = match(model)
    assert [len(feed["x"]) for feed in samples.batches(1)] == [6, 6]
    assert "matched to the biases" in samples.origin


def test_progress_is_told():
    class Spy(Progress):
        def __init__(self):
            self.seen = []

        def track(self, items, total, label):
            for item in items:
                self.seen.append((total, label))
                yield item

    spy = Spy()
    match(trained(GEMM, 1.0, 0.0), progress=spy)
    assert len(spy.seen) >= 15
    assert {label for _, label in spy.seen} == {"matching inputs"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            """g (float[N,4] x, float[N,4] u) => (float[N,4] y)
            <float[4,4] w, float[4] b> { s = Add (x, u) z = Gemm (s, w, b) y = Relu (z) }""",
            "other inputs than one of floats",
        ),
        (
            """g (int64[N,4] x) => (float[N,4] y) <float[4,4] w, float[4] b>
            { c = Cast <to = 1> (x) z = Gemm (c, w, b) y = Relu (z) }""",
            "other inputs than one of floats",
        ),
        ("g (float[N,4] x) => (float[N,4] y) { y = Relu (x) }", "no linear operator with a bias"),
        (
            "g (float[N,4] x) => (float[N,4] y) <float[4,4] w> { z = MatMul (x, w) y = Relu (z) }",
            "no linear operator with a bias",
        ),
        (
            """g (float[N,4] x) => (float[N,4] y) <float[4,4] w, float[4] b = {0, 0, 0, 0}>
            { z = Gemm (x, w, b) y = Relu (z) }""",
            "no linear operator with a bias",
        ),
        (
            """g (float[N,4] x) => (float[N,4] y) <float[4,4] w, float[4] b>
            { n = Sqrt (x) z = Gemm (n, w, b) y = Relu (z) }""",
            "not finite on any",
        ),
        (
            """g (float[N,M] x) => (float[N,4] y) <float[4,4] w, float[4] b>
            { z = Gemm (x, w, b) y = Relu (z) }""",
            "does not show its values",
        ),
        (
            """g (double[N,1] x) => (double[N,2] y) <double[1,2] w = {1, -1}, double[2] b = {1, 2}>
            { z = Gemm (x, w, b) y = Relu (z) }""",
            "does not show its values",
        ),
    ],
    ids=["floats", "integers", "no layer", "no bias", "zero", "nan", "does not run", "double"],
)
def test_standard_normal_samples_with_the_reason(text, reason):
    model = model_from_text(text)
    samples = match(model)
    assert "not matched to the network, which" in samples.origin or "whose" in samples.origin
    assert reason in samples.origin
    assert_standard_normal(samples, model)


LOOKUP = """g (int64[N,6] ids, int64[N,6] attention_mask, int64[N,6] other) => (float[N,6,4] y)
    <float[50,4] words, float[4,4] w, float[4] b>
    { c = Cast <to = 6> (ids) e = Gather (words, c) m = MatMul (e, w) z = Add (m, b)
      s = Add (attention_mask, other) f = Cast <to = 1> (s) k = Constant <value_ints = [2]> ()
      u = Unsqueeze (f, k) t = Mul (z, u) y = Relu (t) }"""


def test_integers_are_drawn_from_the_table_that_they_look_up_and_masks_are_1():
    samples = match(model_from_text(LOOKUP), count=200)
    ids = join(samples, "ids")
    assert ids.min() == 0
    assert ids.max() == 49
    assert (join(samples, "attention_mask") == 1).all()
    assert set(np.unique(join(samples, "other"))) == {0, 1}
    assert "integers of ids from 0 to 49" in samples.origin


@pytest.mark.parametrize(("axis", "last"), [(0, 4), (1, 8), (-1, 8)])
def test_rows_are_counted_along_the_axis_of_the_gather(axis, last):
    model = model_from_text(
        f"""g (int64[N] ids) => (float y) <float[5,9] table>
        {{ e = Gather <axis = {axis}> (table, ids) r = Relu (e)
           y = ReduceSum <keepdims = 0> (r) }}"""
    )
    assert join(match(model, count=300), "ids").max() == last


def test_integers_are_followed_through_what_moves_them():
    model = model_from_text(
        """g (int64[N,6] ids) => (float[K,N,4] y)
        <float[50,4] words, int64[1] one = {1}, int64[1] four = {4}>
        { s = Slice (ids, one, four, one) t = Transpose <perm = [1, 0]> (s)
          e = Gather (words, t) y = Relu (e) }"""
    )
    assert join(match(model, count=200), "ids").max() == 49


def test_the_shortest_of_several_tables_decides():
    model = model_from_text(
        """g (int64[N,2] ids) => (float[N,2,3] y) <float[9,3] long, float[4,3] short>
        { a = Gather (long, ids) b = Gather (short, ids) s = Add (a, b) y = Relu (s) }"""
    )
    assert join(match(model, count=100), "ids").max() == 3


def test_the_compiler_matches_the_samples_when_it_has_none():
    model = trained(CONV, 64.0, 0.0)
    report = compile_model(model, None, CompileOptions(seed=5)).report
    assert "match_samples" in [step.name for step in report.passes]
    assert report.calibration["origin"].startswith("64 synthetic samples, seed 5: dead leaves")
    assert "matched to the biases of 2 linear operators" in report.calibration["origin"]
