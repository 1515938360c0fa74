"""``snn-eval`` on networks that belong together: its figures against a count by hand."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from conftest import MODELS
from helpers import model_from_text
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.eval_cli import main
from snn_compile.compiler.evaluation import latency
from snn_compile.compiler.evaluation.evaluate import EvaluationOptions, evaluate
from snn_compile.compiler.model_io.load import read_model
from snn_compile.compiler.progress import Progress
from snn_compile.compiler.running.session import make_session
from snn_compile.compiler.running.threads import processors

DIGITS = MODELS / "digits_resnet_dynamo.onnx"
CALIBRATION = MODELS / "digits_calibration.npz"
TEST = MODELS / "digits_test.npz"

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs signals and /proc")

BUSY = "snn_compile.compiler.evaluation.evaluate.busy_machine"

FAST = CompileOptions(sequential=False, bias_correction=False, compensation=False)


def snn_eval(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def evaluated(*arguments):
    """What the command prints as JSON, without latency."""
    result = snn_eval(*arguments, "--json", "--no-latency")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout, parse_constant=pytest.fail)
    assert all(f"warning: {text}" in result.stderr for text in found["warnings"])
    return found


@pytest.fixture(scope="module")
def snn(tmp_path_factory):
    """The bundled network, compiled."""
    path = tmp_path_factory.mktemp("compiled") / "snn.onnx"
    onnx.save(compile_model(DIGITS, CALIBRATION, FAST).model, path)
    return path


@pytest.fixture
def pair(tmp_path):
    """Makes the two files of a network given as text."""

    def make(text, **weights):
        model = model_from_text(text)
        for tensor in model.graph.initializer:
            if tensor.name in weights:
                values = np.asarray(weights[tensor.name], np.float32)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        onnx.save(model, tmp_path / "ann.onnx")
        onnx.save(compile_model(model, None, FAST).model, tmp_path / "snn.onnx")
        return tmp_path / "ann.onnx", tmp_path / "snn.onnx"

    return make


def run(path, feed):
    session = make_session(read_model(path))
    outputs = session.run(None, feed)
    return {o.name: y for o, y in zip(session.get_outputs(), outputs, strict=True)}


# What is measured -------------------------------------------------------------------------------


def test_figures_equal_a_count_by_hand(snn):
    found = evaluated(DIGITS, snn, "--data", TEST)
    with np.load(TEST) as data:
        images, labels = data["image"], data["labels"]
    scores = [run(path, {"image": images})["logits"] for path in (DIGITS, snn)]
    ann, other = (np.argsort(-values, axis=1, kind="stable") for values in scores)
    (output,) = found["outputs"]
    assert (found["samples"], output["name"]) == (360, "logits")
    # Batches of another size may round another way: one image of 360 may tip.
    one = {"abs": 1.1 / 360}
    right = [order[:, 0] == labels for order in (ann, other)]
    assert output["ann_top1"]["value"] == pytest.approx(right[0].mean(), **one)
    assert output["top1"]["value"] == pytest.approx(right[1].mean(), **one)
    assert output["drop"]["value"] == pytest.approx(right[0].mean() - right[1].mean(), **one)
    assert output["agreement"]["value"] == pytest.approx((ann == other)[:, 0].mean(), **one)
    for name, order in (("ann_top5", ann), ("top5", other)):
        five = (order[:, :5] == labels[:, None]).any(axis=1).mean()
        assert output[name]["value"] == pytest.approx(five, **one)
        assert output[name]["low"] < output[name]["value"] <= output[name]["high"]
    assert output["drop"]["low"] < output["drop"]["value"] < output["drop"]["high"]
    a, b = (values.astype(float) for values in scores)
    error = np.linalg.norm(a - b) / np.linalg.norm(a)
    assert output["relative_l2"] == pytest.approx(error, rel=0.02)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    assert output["cosine"] == pytest.approx(((a * b).sum(axis=1) / norms).mean(), abs=1e-4)


def test_the_result_says_what_was_compared(snn):
    found = evaluated(DIGITS, snn, "--data", TEST, "--no-flips")
    assert found["ann"]["sha256"] == sha256(DIGITS)
    assert found["snn"]["sha256"] == sha256(snn)
    assert found["snn"]["neurons"] == 6
    assert found["snn"]["metadata"]["levels"] == "32"
    assert found["data"] == {
        "file": str(TEST), "sha256": sha256(TEST), "samples": 360, "labels": True
    }  # fmt: skip
    arguments = f"{DIGITS} {snn} --data {TEST} --no-flips --json --no-latency"
    assert found["command"] == f"snn-eval {arguments}"
    assert found["versions"]["onnx"] == onnx.__version__
    assert found["warnings"] == []
    assert found["latency"] == found["flips_outputs"] == found["baselines"] == []


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_without_labels_there_is_agreement_only(snn):
    found = evaluated(DIGITS, snn, "--data", CALIBRATION)
    (output,) = found["outputs"]
    assert found["data"]["labels"] is False
    assert output["ann_top1"] is output["top5"] is output["drop"] is None
    assert output["agreement"]["value"] > 0.9


def test_level_flips_are_compared(snn):
    (output,) = evaluated(DIGITS, snn, "--data", TEST)["flips_outputs"]
    assert output["relative_l2"] < 0.05
    assert output["cosine"] > 0.99


MANY = """g (float[N,3] x, float[N,2] z) => (float[N,7] scores, int64[N] best, float[N,2,2] maps)
    <float[3,7] w, float[2,4] v, int64[3] s = {0, 2, 2}> {
        r = Relu (x) scores = MatMul (r, w) best = ArgMax <axis = 1, keepdims = 0> (scores)
        t = Relu (z) u = MatMul (t, v) maps = Reshape (u, s) }"""


def test_several_inputs_and_outputs(tmp_path, pair):
    ann, snn = pair(MANY)
    rng = np.random.default_rng(0)
    feed = {"x": rng.standard_normal((40, 3)), "z": rng.standard_normal((40, 2))}
    feed = {name: array.astype(np.float32) for name, array in feed.items()}
    a, b = run(ann, feed), run(snn, feed)
    np.savez(tmp_path / "d.npz", labels=a["best"], **feed)
    found = evaluated(ann, snn, "--data", tmp_path / "d.npz")
    scores, maps = found["outputs"]
    assert (scores["name"], maps["name"]) == ("scores", "maps")
    assert scores["ann_top1"]["value"] == 1
    assert scores["top1"]["value"] == scores["agreement"]["value"]
    assert scores["top1"]["value"] == (a["best"] == b["best"]).mean()
    assert maps["agreement"] is maps["top1"] is None
    assert maps["max_abs"] == pytest.approx(np.abs(a["maps"] - b["maps"]).max(), rel=1e-4)
    one, other = (given["maps"].reshape(40, -1).astype(float) for given in (a, b))
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosines = np.where(norms > 0, (one * other).sum(axis=1) / np.where(norms > 0, norms, 1), 0)
    same = (one == other).all(axis=1)
    assert maps["cosine"] == pytest.approx(np.where(same, 1, cosines).mean(), abs=1e-6)


def test_labels_belong_to_the_outputs_that_have_these_classes(tmp_path, pair):
    ann, snn = pair("""g (float[N,3] x) => (float[N,2] few, float[N,9] many)
        <float[3,2] w, float[3,9] v> { r = Relu (x) few = MatMul (r, w) many = MatMul (r, v) }""")
    np.savez(tmp_path / "d.npz", x=np.ones((4, 3), np.float32), labels=[0, 1, 2, 8])
    few, many = evaluated(ann, snn, "--data", tmp_path / "d.npz")["outputs"]
    assert few["top1"] is None
    assert few["agreement"]["value"] == 1
    assert many["ann_top1"]["value"] in (0, 0.25)


def test_an_input_that_is_called_labels_is_none(tmp_path, pair):
    text = "g (float[N,3] labels) => (float[N,3] y) { y = Relu (labels) }"
    np.savez(tmp_path / "d.npz", labels=np.ones((4, 3), np.float32))
    found = evaluated(*pair(text), "--data", tmp_path / "d.npz")
    assert found["data"]["labels"] is False
    assert found["outputs"][0]["top1"] is None


def test_a_model_without_a_batch_axis(tmp_path, pair):
    ann, snn = pair("""g (float[3] x) => (float[4] y) <float[3,4] w> {
        r = Relu (x) y = MatMul (r, w) }""")
    x = np.random.default_rng(0).standard_normal((30, 3)).astype(np.float32)
    scores = [np.array([run(path, {"x": row})["y"] for row in x]) for path in (ann, snn)]
    labels = scores[0].argmax(axis=1)
    np.savez(tmp_path / "d.npz", x=x, labels=labels)
    found = evaluated(ann, snn, "--data", tmp_path / "d.npz")
    (output,) = found["outputs"]
    assert found["samples"] == 30
    assert output["ann_top1"]["value"] == 1
    assert output["top1"]["value"] == pytest.approx((scores[1].argmax(axis=1) == labels).mean())


def test_outputs_whose_length_depends_on_the_data(tmp_path, pair):
    ann, snn = pair("""g (float[N,3] x) => (float[M,3] y) {
        r = Relu (x) m = ReduceMax <axes = [1], keepdims = 0> (x)
        z = Constant <value = float {0}> () k = Greater (m, z) y = Compress <axis = 0> (r, k) }""")
    x = np.float32([[1, 2, 3], [-1, -2, -3], [4, 5, 6]])
    np.savez(tmp_path / "d.npz", x=x)
    (output,) = evaluated(ann, snn, "--data", tmp_path / "d.npz")["outputs"]
    assert output["agreement"] is None
    assert output["cosine"] > 0.9


def test_labels_of_a_folder(tmp_path, snn):
    (tmp_path / "data").mkdir()
    with np.load(TEST) as data:
        for i, part in enumerate((slice(0, 100), slice(100, 360))):
            arrays = {"image": data["image"][part], "labels": data["labels"][part]}
            np.savez(tmp_path / "data" / f"{i}.npz", **arrays)
    whole, parts = (
        evaluated(DIGITS, snn, "--data", data, "--no-flips")["outputs"][0]
        for data in (TEST, tmp_path / "data")
    )
    assert parts["top1"] == whole["top1"]


def test_threads_are_those_asked_for_and_in_the_result(snn, monkeypatch):
    seen = []

    def measured(*arguments):
        seen.append(arguments[2].threads)
        return [], []

    monkeypatch.setattr("snn_compile.compiler.evaluation.evaluate.measure_latency", measured)
    arguments = [DIGITS, snn, "--data", TEST, "--no-flips", "--json"]
    for threads in (1, 3):
        result = snn_eval(*arguments, "--threads", threads)
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["threads"] == threads
    assert seen == [1, 3]
    alone = json.loads(snn_eval(*arguments, "--no-latency").stdout)
    assert alone["threads"] == processors()
    assert snn_eval(*arguments, "--threads", 0).exit_code == 2


def test_a_rest_that_fills_no_batch_is_left_out(tmp_path, pair, monkeypatch):
    monkeypatch.setattr(BUSY, lambda: "the machine is busy")
    ann, snn = pair("""g (float[4,3] x) => (float[4,2] y) <float[3,2] w> {
        r = Relu (x) y = MatMul (r, w) }""")
    labels = np.array([0, 0, 0, 0, 1, 1])
    np.savez(tmp_path / "d.npz", x=np.zeros((6, 3), np.float32), labels=labels)
    options = EvaluationOptions(latency=latency.LatencyOptions(rounds=1, seconds=0.01))
    found = evaluate(ann, snn, tmp_path / "d.npz", options, Progress())
    assert (found.samples, found.outputs[0].top1.value) == (4, 1)
    assert found.warnings == [
        "the last 2 samples were left out: they do not fill a batch of 4, which the model fixes",
        "latency is measured at batch 4 only, which the model fixes",
        "the machine is busy",
    ]
    assert [one.network for one in found.latency] == ["ann", "snn", "snn_functions"]
    assert {one.batch for one in found.latency} == {4}


# Baseline and latency ---------------------------------------------------------------------------


def test_the_int8_baseline_is_another_network_on_the_same_samples(snn):
    found = evaluated(
        DIGITS, snn, "--data", TEST, "--baseline", "int8", "--calibration", CALIBRATION
    )
    (baseline,) = found["baselines"]
    (output,) = baseline["outputs"]
    assert baseline["name"] == "int8"
    assert output["ann_top1"] == found["outputs"][0]["ann_top1"]
    assert output["top1"]["value"] > 0.97
    # 8 bits leave an error, and less than the 5 bits of the SNN.
    assert 0.001 < output["relative_l2"] < found["outputs"][0]["relative_l2"]
    (warning,) = found["warnings"]
    assert "may saturate in 7 of 7 operators" in warning


def test_other_calibration_samples_than_those_of_the_snn_are_warned_of(tmp_path, snn):
    with np.load(CALIBRATION) as data:
        np.savez(tmp_path / "few.npz", image=data["image"][:8])
    arguments = ["--baseline", "int8", "--calibration", tmp_path / "few.npz", "--no-flips"]
    warning, saturation = evaluated(DIGITS, snn, "--data", TEST, *arguments)["warnings"]
    assert "7 of 7 operators" in saturation
    assert warning.startswith("int8 is calibrated on other samples than the SNN: 8 samples, sha256")
    assert "the SNN on 256 samples" in warning


def test_tables_and_latency_of_everything(snn, monkeypatch):
    quick = partial(latency.LatencyOptions, seconds=0.01)
    monkeypatch.setattr(latency, "LatencyOptions", quick)
    monkeypatch.setattr(BUSY, lambda: None)
    arguments = ["--baseline", "int8", "--calibration", CALIBRATION, "--batch", 1, "--rounds", 1]
    result = snn_eval(DIGITS, snn, "--data", TEST, "--verbose", *arguments)
    assert result.exit_code == 0, result.output
    assert "360 samples" in result.stdout
    assert "98.89 [97.2, 99.6]" in result.stdout  # ANN top-1, as models/README.md has it
    table = result.stdout[result.stdout.index("latency") :]
    for name in ("ANN", "SNN, C++ kernels", "SNN, function bodies", "int8"):
        rows = [row.split("│")[1:-1] for row in table.splitlines() if f"│ {name} " in row]
        assert [row[1].strip() for row in rows] == ["1"]
        assert all(row[2].strip()[-1] == "s" and row[3].strip()[-1] == "x" for row in rows)
    assert result.stderr.count("warning") == 1
    assert "may saturate in 7 of 7 operators" in result.stderr


@linux
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_no_file_and_no_process_behind(tmp_path, snn, sign):
    process, child = evaluating(tmp_path, snn)
    process.send_signal(sign)  # to it alone, not to the process that it started
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + sign, stderr
    assert stdout == ""
    assert "Traceback" not in stderr
    assert ends(child)
    # The runtime leaves an empty .ses of its own.
    assert [path for path in tmp_path.iterdir() if path.name != ".ses"] == []


def evaluating(folder, snn):
    """The command while it measures latency, and a file descriptor of the process that does."""
    command = [sys.executable, "-c", "from snn_compile.compiler.eval_cli import main; main()"]
    arguments = [DIGITS, snn, "--data", TEST, "--no-flips", "--rounds", 1000]
    process = subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert process.wait(0.02) is None, process.communicate()
        with contextlib.suppress(ProcessLookupError, IndexError):
            return process, os.pidfd_open(int(children.read_text().split()[0]))


def ends(child):
    ended, _, _ = select.select([child], [], [], 60)
    os.close(child)
    return bool(ended)


# What does not look right -----------------------------------------------------------------------

RELU = "g (float[N,3] x) => (float[N,3] y) { y = Relu (x) }"


@pytest.fixture
def samples(tmp_path):
    """Samples for networks with an input x."""
    np.savez(tmp_path / "d.npz", x=np.full((8, 3), -1, np.float32))
    return tmp_path / "d.npz"


def warnings_of(*arguments):
    return evaluated(*arguments)["warnings"]


def test_networks_that_give_nan_are_warned_of(tmp_path, samples):
    onnx.save(model_from_text(RELU.replace("Relu", "Sqrt")), tmp_path / "nan.onnx")
    onnx.save(model_from_text(RELU.replace("Relu", "Abs")), tmp_path / "abs.onnx")
    found = evaluated(tmp_path / "abs.onnx", tmp_path / "nan.onnx", "--data", samples)
    assert found["outputs"][0]["max_abs"] is None
    assert found["outputs"][0]["cosine"] == 0
    assert "output 'y' of the SNN is NaN in 8 samples" in found["warnings"]
    found = warnings_of(tmp_path / "nan.onnx", tmp_path / "abs.onnx", "--data", samples)
    assert "output 'y' of the ANN is NaN in 8 samples" in found


def test_spikes_of_a_potential_that_is_nan_are_not_counted_and_all_else_is(tmp_path):
    text = """g (float[N,3] x) => (float[N,2] y) <float[3,2] w>
        { l = Log (x) r = Relu (l) y = MatMul (r, w) }"""
    onnx.save(model_from_text(text), tmp_path / "ann.onnx")
    x = np.random.default_rng(0).uniform(1, 3, (40, 3)).astype(np.float32)
    np.savez(tmp_path / "calibration.npz", x=x)
    onnx.save(
        compile_model(tmp_path / "ann.onnx", tmp_path / "calibration.npz", FAST).model,
        tmp_path / "snn.onnx",
    )
    x[35] = -1  # in the second batch
    np.savez(tmp_path / "test.npz", x=x)
    found = evaluated(
        tmp_path / "ann.onnx", tmp_path / "snn.onnx", "--data", tmp_path / "test.npz"
    )  # fmt: skip
    assert found["samples"] == 40 and found["outputs"][0]["agreement"] is not None
    assert found["neurons"] == [] and found["energy"] is None
    assert "its membrane potential is NaN on a sample" in found["warnings"][0]
    assert found["warnings"][0].startswith("spikes are not counted: neuron Relu:r")


def test_an_snn_without_neurons_and_an_ann_with_them_are_warned_of(pair, samples):
    ann, snn = pair(RELU)
    assert warnings_of(ann, snn, "--data", samples) == []
    assert warnings_of(ann, ann, "--data", samples) == [
        f"{ann} has no spiking neurons: it is not a compiled network"
    ]
    swapped = warnings_of(snn, ann, "--data", samples)
    assert swapped[0] == f"{snn} is a spiking network, not an ANN; are the two swapped?"


def test_an_snn_of_another_network_is_warned_of(tmp_path, pair, samples):
    text = "g (float[N,3] x) => (float[N,3] y) <float[3,3] w> { a = MatMul (x, w) y = Relu (a) }"
    _, snn = pair(text)
    onnx.save(model_from_text(text, seed=1), tmp_path / "other.onnx")
    assert warnings_of(tmp_path / "other.onnx", snn, "--data", samples) == [
        f"{snn} was compiled from another network than {tmp_path / 'other.onnx'}, as its metadata "
        "say"
    ]


def test_an_snn_of_another_version_is_warned_of(pair, samples):
    ann, snn = pair(RELU)
    model = onnx.load(snn)
    (entry,) = [p for p in model.metadata_props if p.key == "snn_compile.version"]
    entry.value = "0.0"
    onnx.save(model, snn)
    (warning,) = warnings_of(ann, snn, "--data", samples)
    assert "was compiled by version 0.0, this is" in warning


def test_neurons_that_cannot_be_seen_are_warned_of(tmp_path):
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "ai.snn" : 1]>
        g (float16[N,3] x, bool c) => (float16[N,3] y) <float16 theta = {1}> {
            y = If (c) <
                then_branch = yes () => (float16[N,3] p) {
                    [fire] p = ai.snn.MultiThresholdFire <levels_pos = 9> (x, theta) },
                else_branch = no () => (float16[N,3] q) { q = Neg (x) }
            > }""")
    onnx.save(model, tmp_path / "snn.onnx")
    np.savez(tmp_path / "d.npz", x=np.ones((2, 1, 3), np.float16), c=np.array([True, False]))
    found = evaluated(tmp_path / "snn.onnx", tmp_path / "snn.onnx", "--data", tmp_path / "d.npz")
    assert found["warnings"][-1].startswith("level flips are not counted: onnxruntime")
    assert found["outputs"][0]["max_abs"] == 0


def test_labels_without_classes_are_warned_of(tmp_path, pair):
    ann, snn = pair(RELU.replace("N,3", "N,3,2"))
    np.savez(tmp_path / "d.npz", x=np.ones((4, 3, 2), np.float32), labels=np.zeros(4, int))
    found = evaluated(ann, snn, "--data", tmp_path / "d.npz")
    assert found["warnings"] == ["'labels' are not used: no output is [batch, classes]"]
    assert found["outputs"][0]["top1"] is None


def test_networks_without_a_float_output_are_warned_of(tmp_path, samples):
    text = "g (float[N,3] x) => (int64[N] y) { r = Relu (x) y = ArgMax <axis=1, keepdims=0> (r) }"
    onnx.save(model_from_text(text), tmp_path / "best.onnx")
    best = tmp_path / "best.onnx"
    found = evaluated(best, best, "--data", samples)
    assert "the networks have no floating-point output, so none is compared" in found["warnings"]
    assert found["outputs"] == []
