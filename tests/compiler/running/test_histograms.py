"""The operator Observe against its specification, and networks that observe themselves."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from helpers import model_from_text, run_model
from onnx import TensorProto, helper
from snn_compile.compiler.running.counted_histogram import CountedHistogram
from snn_compile.compiler.running.histograms import (
    TOOL_DOMAIN,
    Observations,
    Watch,
    with_histograms,
)
from snn_compile.compiler.running.session import make_session
from snn_compile.passes.graph.network import detach
from snn_compile.runtime_ops import register

OUTPUTS = {
    "counts": TensorProto.INT64,
    "rests": TensorProto.INT64,
    "tops": TensorProto.INT32,
    "moments": TensorProto.DOUBLE,
}


def observe(x, axis=-1, rows=1, threads=1, element=TensorProto.FLOAT, **attributes):
    """Outputs of one Observe node."""
    bins = CountedHistogram(1 if rows == 1 else 2)
    attributes = {"leading": bins.leading, "octaves": bins.octaves} | attributes
    node = helper.make_node(
        "Observe",
        ["x"],
        list(OUTPUTS),
        name="watch",
        domain=TOOL_DOMAIN,
        axis=axis,
        rows=rows,
        **attributes,
    )
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "g",
        [info("x", element, None)],
        [info(name, kind, None) for name, kind in OUTPUTS.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(TOOL_DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = register(ort.SessionOptions())
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    run_options = ort.RunOptions()
    run_options.log_severity_level = 4
    return session.run(None, {"x": x}, run_options)


def rows_of(x, axis):
    return x.reshape(1, -1) if axis < 0 else np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)


def outputs_of(histogram):
    """What an Observe node gives for what the histogram has counted."""
    moments = [histogram.sums, histogram.squares, histogram.minima, histogram.maxima]
    table = np.stack([*moments, histogram.not_finite], axis=1, dtype=np.float64)
    return [histogram.counts, histogram.rests, histogram.tops, table]


def assert_same_bits(got, expected):
    for a, b in zip(got, expected, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes()


def values(kind, shape):
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, shape, dtype=np.uint32)
    if kind == "any bits":
        return bits.view(np.float32)
    if kind == "denormal":
        return (bits & 0x807FFFFF).view(np.float32)
    if kind == "huge":
        return (bits & 0x807FFFFF | 0x7F000000).view(np.float32)
    if kind == "zeros":
        return (bits & 0x80000000).view(np.float32)
    scale = 4.0 ** rng.integers(-20, 20, shape)
    return (rng.standard_normal(shape) * (scale if kind == "many scales" else 1)).astype(np.float32)


SHAPES = [
    *[(1,), (7,), (1023,), (1024,), (1025,), (150_001,)],
    *[(33, 5), (2100, 70), (3, 1), (1, 3), (17, 3000)],
    *[(2, 40, 300), (70, 3, 33), (3, 5, 1)],
    *[(2, 33, 7, 7), (3, 4, 40, 60), (2, 3, 2, 20)],
]


@pytest.mark.parametrize("kind", ["any bits", "denormal", "huge", "zeros", "many scales", "normal"])
def test_computes_its_specification(kind):
    for shape in SHAPES:
        x = values(kind, shape)
        for axis in range(-1, len(shape)):
            rows = rows_of(x, axis)
            if len(rows) > 3000:
                continue
            histogram = CountedHistogram(len(rows))
            histogram.add(rows)
            for threads in (1, 2):
                got = observe(x, axis, len(rows), threads)
                assert_same_bits(got, outputs_of(histogram))


def test_counters_are_emptied_before_they_overflow():
    x = np.full((2, (1 << 21) + 5), np.float32(1.9999999), np.float32)
    for axis in (-1, 0):
        rows = rows_of(x, axis)
        histogram = CountedHistogram(len(rows))
        histogram.add(rows)
        for threads in (1, 2):
            assert_same_bits(observe(x, axis, len(rows), threads), outputs_of(histogram))


@pytest.mark.parametrize(("leading", "octaves"), [(0, 1), (0, 127), (10, 3), (5, 20)])
def test_other_bins(leading, octaves):
    x = values("any bits", (4, 3000))
    counts, rests, tops, moments = observe(x, 0, 4, leading=leading, octaves=octaves)
    assert counts.shape == rests.shape == (4, 2 * (octaves << leading) + 1)
    np.testing.assert_array_equal(counts.sum(axis=1) + moments[:, 4], 3000)
    largest = np.where(np.isfinite(x), np.abs(x), 0).max(axis=1)
    np.testing.assert_array_equal(tops, np.frexp(largest)[1] + 126)
    top = (np.abs(x) >= np.float32(2.0) ** (tops[:, None] - 127.0)) & np.isfinite(x)
    width = 1 << leading
    np.testing.assert_array_equal(counts[:, -width:].sum(axis=1), (top & (x > 0)).sum(axis=1))
    np.testing.assert_array_equal(counts[:, :width].sum(axis=1), (top & (x < 0)).sum(axis=1))


@pytest.mark.parametrize("count", [5, 3000, 300_000])
def test_a_top_that_is_known_is_not_looked_for(count):
    x = values("any bits", (1, count))
    top = 130  # the largest magnitudes are below 16
    small = np.where(np.abs(x) < 16, x, np.float32(0))  # NaN is not
    small[0, :2] = 15, -15
    histogram = CountedHistogram(1)
    histogram.add(small)
    x[0, :2] = 15, -15
    for threads in (1, 2):
        counts, rests, tops, moments = observe(x, threads=threads, top=top)
        np.testing.assert_array_equal(counts, histogram.counts)
        assert not rests.any()
        assert tops == histogram.tops == top
        np.testing.assert_array_equal(moments, outputs_of(CountedHistogram(1))[3])


@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0, 2)])
@pytest.mark.parametrize(("axis", "rows"), [(-1, 1), (1, 4), (7, 4)])
def test_empty_tensors_of_any_shape_give_empty_histograms(shape, axis, rows):
    got = observe(np.zeros(shape, np.float32), axis, rows)
    assert_same_bits(got, outputs_of(CountedHistogram(rows)))


def test_scalars_are_one_value():
    histogram = CountedHistogram(1)
    histogram.add(np.float32([[3]]))
    assert_same_bits(observe(np.array(3, np.float32)), outputs_of(histogram))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"axis": 1, "rows": 4}, "rows = 4 but axis = 1 of X has 3"),
        ({"axis": -1, "rows": 2}, "rows = 2 but axis = -1 of X has 1"),
        ({"axis": 2, "rows": 2}, "axis = 2 does not exist in X of rank 2"),
        ({"axis": -2}, r"axis = -2 must lie in -1\.\.31"),
        ({"axis": 32}, r"axis = 32 must lie in -1\.\.31"),
        ({"rows": 0}, r"rows = 0 must lie in 1\.\.16777216"),
        ({"rows": 1 << 25}, r"rows = 33554432 must lie in"),
        ({"rows": 2.0}, "attribute rows must be an integer, got the float 2"),
        ({"leading": -1}, r"leading = -1 must lie in 0\.\.10"),
        ({"leading": 11}, r"leading = 11 must lie in 0\.\.10"),
        ({"runs": 0}, r"runs = 0 must lie in 1\.\.2147483648"),
        ({"octaves": 0}, r"octaves = 0 must lie in 1\.\.127"),
        ({"octaves": 128}, r"octaves = 128 must lie in 1\.\.127"),
        ({"top": 255}, r"top = 255 must lie in 0\.\.254"),
    ],
)
def test_refuses(attributes, message):
    bins = {"leading": 4, "octaves": 16}
    with pytest.raises(Exception, match=f"Observe node 'watch': {message}"):
        observe(np.zeros((2, 3), np.float32), **(bins | attributes))


def test_takes_float32_only():
    with pytest.raises(Exception, match="Observe"):
        observe(np.zeros(3), element=TensorProto.DOUBLE)


NETWORK = """
    g (float[N,3,8,8] x) => (float[N,5] y)
    <float[4,3,3,3] w, float[64,5] v, int64[2] shape = {-1, 64}> {
        a = Conv (x, w)
        b = Relu (a)
        p = AveragePool <kernel_shape = [3,3]> (b)
        f = Reshape (p, shape)
        y = MatMul (f, v)
    }"""
WATCHED = [Watch("a", 1, 4), Watch("p", None, 1), Watch("y", 1, 5), Watch("x", 1, 3)]


def run_observed(session, x, size, kept=0):
    observations = Observations(WATCHED)
    for start in range(0, len(x), size):
        outputs = session.run(None, {"x": x[start : start + size]})
        observations.add(outputs[kept:])
    return observations


def test_histograms_do_not_depend_on_the_batch():
    network = detach(model_from_text(NETWORK))
    x = np.random.default_rng(0).standard_normal((15, 3, 8, 8)).astype(np.float32)
    session = make_session(with_histograms(network, WATCHED), library=True)
    one, seven = run_observed(session, x, 1), run_observed(session, x, 7)
    assert list(one.histograms) == [watch.tensor for watch in WATCHED]
    assert not one.not_finite
    for name, histogram in one.histograms.items():
        other = seven.histograms[name]
        for field in ["counts", "rests", "tops", "minima", "maxima", "values"]:
            np.testing.assert_array_equal(getattr(histogram, field), getattr(other, field))
        np.testing.assert_allclose(histogram.sums, other.sums, rtol=0, atol=1e-9)
        np.testing.assert_allclose(histogram.squares, other.squares, rtol=1e-12)


def test_outputs_may_come_with_the_last_of_several_runs():
    network = detach(model_from_text(NETWORK))
    x = np.random.default_rng(0).standard_normal((12, 3, 8, 8)).astype(np.float32)
    exponents = np.float32([-5, -30, 15, -20, 25, -25, -15, 20, -10, 0, 10, 5])
    x *= np.float32(4) ** exponents[:, None, None, None]
    x[3, 1, 2, 2] = np.nan
    each = make_session(with_histograms(network, WATCHED), library=True)
    third = make_session(with_histograms(network, WATCHED, ["y"], runs=3), library=True)
    for part in np.split(x, 2):  # six runs: twice three
        expected, got = Observations(WATCHED), Observations(WATCHED)
        for number, feed in enumerate(np.split(part, 3)):
            expected.add(each.run(None, {"x": feed}))
            y, *observed = third.run(None, {"x": feed})
            assert y.shape == (2, 5)
            assert {len(array) for array in observed} == ({0} if number < 2 else {1, 3, 4, 5})
            got.add(observed)
        assert got.not_finite == expected.not_finite
        for name, histogram in expected.histograms.items():
            assert_same_bits(outputs_of(got.histograms[name]), outputs_of(histogram))


def test_observes_what_would_be_copied_out_and_keeps_outputs_first():
    model = model_from_text(NETWORK)
    x = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)
    keep = ["y", "p", "x", "shape"]
    observing = with_histograms(detach(model), WATCHED, keep)
    y, p, same_x, shape, *observed = run_model(observing, {"x": x}, library=True)
    np.testing.assert_array_equal(y, run_model(model, {"x": x})[0])
    assert p.shape == (4, 4, 4, 4)
    np.testing.assert_array_equal(same_x, x)
    np.testing.assert_array_equal(shape, [-1, 64])
    observations = Observations(WATCHED)
    observations.add(observed)
    for name, tensor, axis in [("p", p, -1), ("y", y, 1), ("x", x, 1)]:
        expected = CountedHistogram(1 if axis < 0 else tensor.shape[axis])
        expected.add(rows_of(tensor, axis))
        assert_same_bits(outputs_of(observations.histograms[name]), outputs_of(expected))


def test_tensors_with_values_that_are_not_finite_are_named():
    observations = Observations([Watch("p", None, 1), Watch("q", 0, 2)])
    for bad in (np.float32(0), np.float32(np.nan)):
        p, q = CountedHistogram(1), CountedHistogram(2)
        p.add(np.float32([[1, 2]]))
        q.add(np.float32([[0], [bad]]))
        observations.add([*outputs_of(p), *outputs_of(q)])
    assert observations.not_finite == {"q"}


BRANCHES = """
    g (float[N,4] x, bool c) => (float[N,4] y) {
        before = Exp (x)
        y = If (c) <
            then_branch = t () => (float[N,4] p) { b = Neg (before) p = Exp (b) },
            else_branch = w () => (float[N,4] q) { f = Tanh (before) q = Neg (f) }
        >
    }"""


@pytest.mark.parametrize("taken", [True, False])
def test_a_branch_that_is_not_taken_has_no_values(taken):
    watched = [Watch("b", 1, 4), Watch("f", None, 1), Watch("before", 1, 4)]
    model = model_from_text(BRANCHES)
    model.graph.node[0].name = "observed.0"  # as the observers are called
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    feed = {"x": x, "c": np.array(taken)}
    y, kept, c, *observed = run_model(
        with_histograms(detach(model), watched, ["y", "b", "c"]), feed, library=True
    )
    np.testing.assert_array_equal(y, run_model(model, feed)[0])
    assert c == taken
    observations = Observations(watched)
    observations.add(observed)
    b, f, outer = observations.histograms.values()
    assert b.values.sum() == kept.size == (12 if taken else 0)
    assert f.values.sum() == (0 if taken else 12)
    assert outer.values.sum() == 12
    if taken:
        np.testing.assert_array_equal(b.minima, kept.min(axis=0))


def test_unknown_names_are_an_error():
    with pytest.raises(KeyError):
        with_histograms(detach(model_from_text(BRANCHES)), [Watch("nowhere", None, 1)])


def test_outputs_of_another_number_of_watches_are_an_error():
    with pytest.raises(ValueError, match="zip"):
        Observations([Watch("p", None, 1)]).add(2 * outputs_of(CountedHistogram(1)))
