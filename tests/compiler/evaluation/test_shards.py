"""Samples in shards: the same result on workers, in one process, and after an interruption."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict, replace

import numpy as np
import onnx
import pytest
from helpers import model_from_text
from inline_cluster import InlineCluster
from snn_compile.compiler import CompileOptions, TaskOptions, compile_model
from snn_compile.compiler.errors import DataError, UsageError
from snn_compile.compiler.evaluation import shards, side_by_side
from snn_compile.compiler.evaluation.evaluate import EvaluationOptions, evaluate
from snn_compile.compiler.evaluation.partial import packed, unpacked
from snn_compile.compiler.evaluation.shards import Shards
from snn_compile.compiler.evaluation.sweep import parse_sweep
from snn_compile.compiler.progress import Progress
from snn_compile.compiler.samples.source import Source

#: Workers keep the files open that they have not read to the end.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

RNG = np.random.default_rng(5)
FAST = CompileOptions(sequential=False, bias_correction=False, compensation=False)
OPTIONS = EvaluationOptions(latency=None, flips=False, threads=1)

CONV = """g (float[N,2,8,8] x) => (float[N,6] y, float[N,3,8,8] map)
    <float[3,2,3,3] w, float[3,3,3,3] v, float[3,6] u> {
    a = Conv <pads = [1, 1, 1, 1]> (x, w)  b = Relu (a)  map = Conv <pads = [1, 1, 1, 1]> (b, v)
    c = Relu (map)  d = GlobalAveragePool (c)  e = Flatten (d)  y = MatMul (e, u) }"""
ATTENTION = """g (float[N,4,6] x) => (float[N,4] y) <float[6,6] w, float[6,6] v, float[6] u> {
    a = MatMul (x, w)  q = Relu (a)  b = MatMul (x, v)  k = Relu (b)
    t = Transpose <perm = [0, 2, 1]> (k)  s = MatMul (q, t)  r = Relu (s)
    o = MatMul (r, q)  z = Relu (o)  y = MatMul (z, u) }"""
ROWS = """g (float[N,5] x) => (float[N,1] y) <float[5,7] w, float[7,1] v> {
    a = MatMul (x, w)  b = Relu (a)  y = MatMul (b, v) }"""
FIXED = ROWS.replace("[N,", "[3,").replace("float[3,1] y", "float[3,4] y").replace("7,1", "7,4")
ALONE = """g (float[5] x) => (float[4] y) <float[5,7] w, float[7,4] v> {
    a = MatMul (x, w)  b = Relu (a)  y = MatMul (b, v) }"""
BOXES = "g (float[N,8,3,3] x) => (float[N,8,3,3] y) { b = Relu (x)  y = Sub (b, x) }"
SQRT = """g (float[N,5] x) => (float[N,7] y) <float[5,7] w> {
    a = MatMul (x, w)  b = Sqrt (a)  y = Relu (b) }"""


def images(count, *shape):
    return RNG.standard_normal((count, *shape)).astype(np.float32)


def of(text, arrays, compiled=FAST, **options):
    return text, arrays, compiled, replace(OPTIONS, **options)


KINDS = {
    "classes, maps and spikes": lambda: of(
        CONV, {"x": images(205, 2, 8, 8), "labels": RNG.integers(0, 6, 205)}
    ),
    "without labels": lambda: of(CONV, {"x": images(70, 2, 8, 8)}),
    "pixels": lambda: of(
        CONV, {"x": images(100, 2, 8, 8), "labels": RNG.integers(0, 4, (100, 8, 8))},
        task=TaskOptions(ignore=3),
    ),
    "regression": lambda: of(ROWS, {"x": images(150, 5), "labels": images(150)}),
    "pairs in batches of three": lambda: of(
        FIXED, {"x": images(126, 5), "labels": images(63)}
    ),
    "pairs, one sample at a time": lambda: of(
        ALONE, {"x": images(90, 5), "labels": images(45)}
    ),
    "boxes": lambda: of(
        BOXES,
        {
            "x": images(80, 8, 3, 3),
            "labels": np.array([[[i % 3, 0, 0, 1, 2]] for i in range(80)], np.float64),
        },
        task=TaskOptions("detection"),
    ),
    "products of spikes": lambda: of(ATTENTION, {"x": images(120, 4, 6)}),
    "several timesteps": lambda: of(
        CONV, {"x": images(70, 2, 8, 8)}, CompileOptions(timesteps=4)
    ),
    "integers": lambda: of(
        CONV, {"x": images(70, 2, 8, 8)}, CompileOptions(target="int8")
    ),
    "a baseline": lambda: of(
        CONV, {"x": images(100, 2, 8, 8)}, baselines=["int8"], calibration={"x": images(8, 2, 8, 8)}
    ),
    "potentials that are NaN": lambda: of(SQRT, {"x": images(100, 5)}),
}  # fmt: skip


@pytest.fixture(params=KINDS, ids=str)
def kind(request, tmp_path):
    """Files of a pair and of samples, and options."""
    text, arrays, compiled, options = KINDS[request.param]()
    model = model_from_text(text)
    onnx.save(model, tmp_path / "ann.onnx")
    if request.param == "potentials that are NaN":
        model = model_from_text(text.replace("Sqrt", "Abs"))
    snn = compile_model(model, {"x": arrays["x"][:16]}, compiled).model
    for node in snn.graph.node:
        if request.param == "potentials that are NaN" and node.op_type == "Abs":
            node.op_type = "Sqrt"
    onnx.save(snn, tmp_path / "snn.onnx")
    np.savez(tmp_path / "d.npz", **arrays)
    return tmp_path, options


def found(folder, options, progress=None):
    result = evaluate(
        folder / "ann.onnx", folder / "snn.onnx", folder / "d.npz", options, progress or Progress()
    )
    return json.dumps(asdict(result))


@pytest.mark.parametrize("most", [64, 3], ids=["many shards", "few shards"])
def test_everything_is_the_same_on_workers_and_after_an_interruption(kind, monkeypatch, most):
    monkeypatch.setattr(shards, "SHARDS", most)
    folder, options = kind
    alone = found(folder, options)
    assert found(folder, replace(options, cluster=InlineCluster())) == alone

    kept = folder / "partial.npz"
    for cluster in (InlineCluster(1), InlineCluster(0), None):
        going_on = replace(options, resume=kept, cluster=cluster)
        if cluster is not None:
            with pytest.raises(KeyboardInterrupt):
                found(folder, going_on)
            assert kept.exists()
    ran = []
    whole = side_by_side.SideBySide.run

    def run(sides, number, feeds):
        ran.append(number)
        return whole(sides, number, feeds)

    monkeypatch.setattr(side_by_side.SideBySide, "run", run)
    assert found(folder, going_on) == alone
    assert ran == list(range(1, len(ran) + 1))
    assert not kept.exists()


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [
        (7, 32, (32, 1, 1, 1)),
        (200, 32, (32, 7, 1, 7)),
        (2048, 32, (32, 64, 1, 64)),
        (2049, 32, (32, 65, 2, 33)),
        (50_000, 32, (32, 1563, 16, 98)),
        (100, 1, (1, 100, 2, 50)),
        (1000, 3, (3, 334, 6, 56)),
    ],
)
def test_shards_depend_on_the_number_of_samples(count, size, expected):
    found = Shards.of(Counted(count), size)
    assert (found.size, found.batches, found.runs, found.count) == expected
    assert sum(found.runs_of(number) for number in range(found.count)) == found.batches
    assert found.size % 2 == 0 or found.runs % 2 == 0


class Counted:
    fixed_batch = None

    def __init__(self, count):
        self.count = count

    def batch_count(self, size):
        return -(-self.count // size)


def test_plain_data_survive_the_file():
    value = {
        "array": np.arange(3, dtype=np.uint8),
        "mapping": [None, 1.5, np.float64(0.1), {"a": np.zeros((0, 2)), "b": np.inf}, (1, "x")],
    }
    arrays = {}
    text = json.dumps(packed(value, arrays))
    again = unpacked(json.loads(text), arrays)
    assert again["array"].dtype == np.uint8
    assert again["mapping"][1:3] == [1.5, 0.1]
    assert again["mapping"][3]["b"] == np.inf
    assert again["mapping"][3]["a"].shape == (0, 2)
    assert again["mapping"][4] == [1, "x"]


@pytest.mark.parametrize("swept", [["levels=4,300", "calibrator=density,max"], ["scale=0.5,1"]])
def test_a_sweep_is_the_same_on_workers(tmp_path, swept):
    """Points that are refused among them."""
    model = model_from_text(CONV)
    onnx.save(model, tmp_path / "ann.onnx")
    onnx.save(compile_model(model, {"x": images(8, 2, 8, 8)}, FAST).model, tmp_path / "snn.onnx")
    np.savez(tmp_path / "d.npz", x=images(40, 2, 8, 8), labels=RNG.integers(0, 6, 40))
    np.savez(tmp_path / "c.npz", x=images(8, 2, 8, 8))
    options = replace(OPTIONS, calibration=tmp_path / "c.npz", sweep=parse_sweep(swept))
    alone = found(tmp_path, options)
    with closing(InlineCluster()) as cluster:
        assert found(tmp_path, replace(options, cluster=cluster)) == alone
    refused = [bool(point["refused"]) for point in json.loads(alone)["sweep"]]
    assert (any(refused), all(refused)) == (len(swept) == 2, False)


# What is refused --------------------------------------------------------------------------------


@pytest.fixture
def begun(tmp_path):
    """An evaluation that was interrupted."""
    model = model_from_text(ROWS)
    onnx.save(model, tmp_path / "ann.onnx")
    onnx.save(compile_model(model, {"x": images(16, 5)}, FAST).model, tmp_path / "snn.onnx")
    np.savez(tmp_path / "d.npz", x=images(100, 5))
    options = replace(OPTIONS, resume=tmp_path / "p.npz")
    with pytest.raises(KeyboardInterrupt):
        found(tmp_path, replace(options, cluster=InlineCluster(2)))
    return tmp_path, options


def changed_model(folder):
    onnx.save(model_from_text(ROWS, seed=9), folder / "ann.onnx")


def changed_snn(folder):
    model = model_from_text(ROWS)
    snn = compile_model(model, {"x": images(16, 5)}, replace(FAST, levels=8)).model
    onnx.save(snn, folder / "snn.onnx")


def changed_data(folder):
    np.savez(folder / "d.npz", x=images(100, 5))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (changed_model, {}, "another ANN"),
        (changed_snn, {}, "another SNN"),
        (changed_data, {}, "another samples"),
        (None, {"threads": 2}, "another number of threads .then 1, now 2"),
        (None, {"labels": "labels.npy"}, "another labels"),
    ],
)
def test_a_run_of_something_else_does_not_go_on(begun, change, options, message):
    folder, known = begun
    if change is not None:
        change(folder)
    if "labels" in options:
        np.save(folder / "labels.npy", images(100))
        options = {"labels": folder / "labels.npy"}
    before = (folder / "p.npz").read_bytes()
    with pytest.raises(UsageError, match=message):
        found(folder, replace(known, **options))
    assert (folder / "p.npz").read_bytes() == before


def test_another_version_of_our_code_does_not_go_on(begun, monkeypatch):
    from snn_compile.compiler.evaluation import partial

    own = {**partial.versions(), "code of snn-compile": "0"}
    monkeypatch.setattr(partial, "versions", lambda: own)
    with pytest.raises(UsageError, match=r"another versions .code of snn-compile: then"):
        found(*begun)


def test_a_file_that_is_none_of_ours_is_neither_read_nor_replaced(begun):
    folder, options = begun
    whole = (folder / "p.npz").read_bytes()
    for content in (b"my thesis", b"", whole[:-40], (folder / "d.npz").read_bytes()):
        (folder / "p.npz").write_bytes(content)
        with pytest.raises(UsageError, match="is no file that snn-eval keeps results in"):
            found(folder, options)
        assert (folder / "p.npz").read_bytes() == content


def test_a_file_of_other_tallies_is_said_to_be_damaged(begun):
    folder, options = begun
    with np.load(folder / "p.npz") as archive:
        arrays = dict(archive)
    content = json.loads(arrays["json"].tobytes())
    content["state"]["mapping"]["tallies"] = {"mapping": {}}
    arrays["json"] = np.frombuffer(json.dumps(content).encode(), np.uint8)
    np.savez(folder / "p.npz", **arrays)
    with pytest.raises(UsageError, match=r"p\.npz: is damaged .KeyError"):
        found(folder, options)


def test_spikes_that_cannot_be_counted_are_warned_of_once(tmp_path):
    """Neurons of float16: their networks count in no session."""
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "ai.snn" : 1]>
        g (float16[N,3] x) => (float16[N,3] y) <float16 theta = {1}> {
            [fire] y = ai.snn.MultiThresholdFire <levels_pos = 9> (x, theta) }""")
    for name in ("ann", "snn"):
        onnx.save(model, tmp_path / f"{name}.onnx")
    np.savez(tmp_path / "d.npz", x=np.ones((70, 3), np.float16))
    alone = found(tmp_path, OPTIONS)
    assert alone.count("spikes are not counted") == 1
    assert found(tmp_path, replace(OPTIONS, cluster=InlineCluster())) == alone
    assert found(tmp_path, replace(OPTIONS, resume=tmp_path / "p.npz")) == alone


def test_where_an_interrupted_run_goes_on_is_said(begun):
    texts = []

    class Told(Progress):
        def tell(self, text):
            texts.append(text)

    folder, options = begun
    with pytest.raises(KeyboardInterrupt):
        found(folder, replace(options, cluster=InlineCluster(1)), Told())
    assert texts == [f"{folder / 'p.npz'} has 3 of 4 parts: the same command goes on from there"]


# Workers and data -------------------------------------------------------------------------------


def test_workers_read_files_alone(begun):
    folder, options = begun
    options = replace(options, resume=None, cluster=InlineCluster())
    data = {"x": images(40, 5)}
    with pytest.raises(UsageError, match="workers read samples from files"):
        evaluate(folder / "ann.onnx", folder / "snn.onnx", data, options, Progress())


def test_a_file_that_a_worker_sees_otherwise_is_refused(begun, monkeypatch):
    from snn_compile.compiler.evaluation import on_workers

    folder, options = begun
    options = replace(options, resume=None, cluster=InlineCluster())
    whole = on_workers.Place.open

    def opened(place, specs):
        np.savez(folder / "d.npz", x=images(50, 5))
        return whole(place, specs)

    monkeypatch.setattr(on_workers.Place, "open", opened)
    with pytest.raises(DataError, match=r"on worker .*d\.npz has d\.npz of \d+ bytes, where this"):
        found(folder, options)

    def gone(place, specs):
        (folder / "d.npz").unlink()
        return whole(place, specs)

    monkeypatch.setattr(on_workers.Place, "open", gone)
    with pytest.raises(DataError, match=r"on worker .*no such file or folder"):
        found(folder, options)


def test_a_sample_that_is_nan_is_refused_on_a_worker_as_here(begun):
    folder, options = begun
    x = images(100, 5)
    x[70, 2] = np.nan
    np.savez(folder / "d.npz", x=x)
    for cluster in (None, InlineCluster()):
        with pytest.raises(DataError, match="array 'x' has NaN or inf in sample 70"):
            found(folder, replace(options, resume=None, cluster=cluster))


def test_images_are_decoded_by_whoever_runs_them(tmp_path):
    from PIL import Image

    (tmp_path / "images").mkdir()
    for i in range(70):
        pixels = RNG.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i:02}.png")
    text = CONV.replace("N,2,8,8", "N,3,8,8").replace("[3,2,3,3]", "[3,3,3,3]")
    onnx.save(model_from_text(text), tmp_path / "ann.onnx")
    snn = compile_model(model_from_text(text), {"x": images(8, 3, 8, 8)}, FAST).model
    onnx.save(snn, tmp_path / "snn.onnx")
    results = []
    for cluster in (None, InlineCluster()):
        from snn_compile.compiler.samples.image_options import ImageOptions

        source = Source(tmp_path / "images", images=ImageOptions(preset="imagenet"))
        options = replace(OPTIONS, cluster=cluster)
        models = tmp_path / "ann.onnx", tmp_path / "snn.onnx"
        results.append(asdict(evaluate(*models, source, options, Progress())))
        source.close()
    assert results[0] == results[1]
