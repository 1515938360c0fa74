"""Evaluating what ``--target int8`` writes: the file runs, its spiking form counts."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from helpers import full_weights, model_from_text, run_model
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.cli import main as compile_main
from snn_compile.compiler.counting.spikes import SpikeMeter
from snn_compile.compiler.eval_cli import main
from snn_compile.compiler.evaluation.evaluate import EvaluationOptions, evaluate
from snn_compile.compiler.evaluation.latency import LatencyOptions
from snn_compile.compiler.model_io.load import read_model
from snn_compile.compiler.progress import Progress
from snn_compile.compiler.running.session import make_session
from snn_compile.passes.graph.network import constants_of
from snn_compile.passes.lowering.spikes_of_integers import integers_by_neuron
from snn_compile.passes.lowering.spiking_form import spiking_form

NET = """g (float[N,4,6,6] x) => (float[N,3] y)
    <float[4,4,3,3] w, float[4] b, float[4,4,3,3] v, float[3,4] m> {
    a = Conv <pads=[1,1,1,1]> (x, w, b) r = Relu (a) c = Conv <pads=[1,1,1,1]> (r, v)
    s = Add (c, r) t = Relu (s) h = GlobalAveragePool (t) i = Flatten (h)
    y = Gemm <transB=1> (i, m) }"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A residual network, samples, and the int8 files of 255 and 32 levels."""
    path = tmp_path_factory.mktemp("int8")
    rng = np.random.default_rng(0)
    onnx.save(model_from_text(NET), path / "ann.onnx")
    x = rng.standard_normal((64, 4, 6, 6)).astype(np.float32)
    np.savez(path / "calibration.npz", x=x[:32])
    np.savez(path / "test.npz", x=x[32:], labels=rng.integers(0, 3, 32))
    for levels in (255, 32):
        arguments = ["ann.onnx", "-o", f"{levels}.onnx", "--calibration", "calibration.npz"]
        arguments = [str(path / a) if "." in a else a for a in arguments]
        arguments += ["--target", "int8", "--levels", str(levels)]
        arguments += ["--report", str(path / f"{levels}.json")]
        result = CliRunner().invoke(compile_main, arguments)
        assert result.exit_code == 0, result.output
    return path


def snn_eval(folder, *arguments, levels=255):
    common = [folder / "ann.onnx", folder / f"{levels}.onnx", "--data", folder / "test.npz"]
    result = CliRunner().invoke(main, [str(a) for a in (*common, *arguments)])
    assert result.exit_code == 0, result.output
    return result


def samples_of(folder):
    with np.load(folder / "test.npz") as data:
        return {"x": data["x"]}, data["labels"]


def integers(network, feed):
    """Integers less the zero point by neuron, as the file has them without optimisation."""
    held, constants = integers_by_neuron(network), constants_of(network)
    zeros = {
        node.name: int(constants[node.input[2]])
        for node in network.proto.graph.node
        if node.op_type == "QuantizeLinear"
    }
    model = network.attached()
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in held.values())
    values = run_model(model, feed)[1:]
    return {name: q.astype(np.int64) - zeros[name] for name, q in zip(held, values, strict=True)}


@pytest.mark.parametrize("levels", [255, 32])
def test_counts_equal_those_of_the_exposed_integers(folder, levels):
    network, (feed, _) = read_model(folder / f"{levels}.onnx"), samples_of(folder)
    fired = integers(network, feed)
    meter = SpikeMeter(spiking_form(network), [])
    meter.add(make_session(meter.network, optimise=False).run(None, feed))
    neurons, synapses = meter.result()
    assert [neuron.name for neuron in neurons] == list(fired)
    for neuron in neurons:
        k = fired[neuron.name]
        assert neuron.spikes == pytest.approx(np.abs(k).sum() / len(k))
        assert neuron.active == pytest.approx(np.mean(k != 0))
        assert neuron.neurons == k[0].size
        of_levels = dict(zip(neuron.level_spikes, neuron.level_counts, strict=True))
        found, counts = np.unique(k, return_counts=True)
        assert {i: n for i, n in of_levels.items() if n} == dict(zip(found, counts, strict=True))
    gemm = next(synapse for synapse in synapses if synapse.op == "Gemm")
    (weight,) = (
        values
        for name, values in constants_of(network).items()
        if values.dtype == np.int8 and values.shape == (3, 4)
    )
    k = np.abs(fired[gemm.inputs[0]]).reshape(len(feed["x"]), -1)
    assert gemm.unary == pytest.approx((k @ (weight != 0).sum(axis=0)).mean())
    assert all(synapse.analog == "" for synapse in synapses)


@pytest.mark.parametrize("levels", [255, 32])
def test_what_is_clipped_is_counted_before_it_is_rounded(folder, levels):
    network, (feed, _) = read_model(folder / f"{levels}.onnx"), samples_of(folder)
    feed = {"x": np.float32(4) * feed["x"]}
    encoder = next(n for n in network.proto.graph.node if n.op_type == "QuantizeLinear")
    theta, zero = (constants_of(network)[name] for name in encoder.input[1:])
    meter = SpikeMeter(spiking_form(network), [])
    meter.add(make_session(meter.network).run(None, feed))
    rounded = np.rint(feed["x"] / theta) + zero
    expected = np.mean((rounded < 0) | (rounded > 255))
    assert expected > 0.1
    assert meter.result()[0][0].clip_rate == pytest.approx(expected)


def test_outputs_are_those_of_the_file_as_users_run_it(folder):
    feed, labels = samples_of(folder)
    found = json.loads(snn_eval(folder, "--json", "--no-latency", "--no-flips").stdout)
    assert found["warnings"] == []
    ann, snn = (
        run_model(onnx.load(folder / name), feed, optimise=True)[0]
        for name in ("ann.onnx", "255.onnx")
    )
    (output,) = found["outputs"]
    assert output["agreement"]["value"] == (ann.argmax(1) == snn.argmax(1)).mean()
    assert output["top1"]["value"] == (snn.argmax(1) == labels).mean()
    assert output["max_abs"] == pytest.approx(np.abs(ann - snn).max(), rel=1e-3)
    assert found["snn"]["integers"] is True
    assert found["snn"]["metadata"]["target"] == "int8"
    assert found["snn"]["neurons"] == len(found["neurons"]) > 4
    assert "Membrane" in {neuron["source_op"] for neuron in found["neurons"]}


def test_energy_says_whose_it_is_and_lists_no_rounding(folder):
    found = json.loads(snn_eval(folder, "--json", "--no-latency", "--no-flips").stdout)
    energy = found["energy"]
    assert any("integers of 8 bits" in note for note in energy["notes"])
    assert {one["op"] for one in energy["residue"]} == {"Add", "GlobalAveragePool"}
    pj, unary = energy["constants"]["int8_add"], sum(s["unary"] for s in energy["synapses"])
    assert energy["totals"]["unary_int8"] == pytest.approx(pj * unary)


def test_one_row_of_latency_and_flips_of_integers(folder):
    options = EvaluationOptions(latency=LatencyOptions(batch=1, rounds=1, seconds=0.01))
    paths = [folder / name for name in ("ann.onnx", "255.onnx", "test.npz")]
    found = evaluate(*paths, options, Progress())
    assert [one.network for one in found.latency] == ["ann", "snn"]
    assert found.called("snn") == "SNN"
    network, (feed, _) = read_model(paths[1]), samples_of(folder)
    first, second = (exposed(network, {"x": feed["x"][:8]}, optimise) for optimise in (True, False))
    shares = {name: np.mean(first[name] != second[name]) for name in first}
    assert {n.name: n.flips for n in found.neurons} == pytest.approx(shares)
    assert len(found.flips_outputs) == 1


def exposed(network, feed, optimise):
    """The integers of each neuron, one sample at a time."""
    held, model = integers_by_neuron(network), network.attached()
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in held.values())
    session = make_session(model, optimise=optimise)
    runs = [session.run(None, {"x": x[None]})[1:] for x in feed["x"]]
    return dict(zip(held, map(np.concatenate, zip(*runs, strict=True)), strict=True))


def test_the_baseline_in_the_same_run_says_where_it_may_saturate(folder):
    found = json.loads(
        snn_eval(
            folder, "--json", "--no-latency", "--no-flips",
            "--baseline", "int8", "--calibration", folder / "calibration.npz",
        ).stdout
    )  # fmt: skip
    assert [baseline["name"] for baseline in found["baselines"]] == ["int8"]
    (warning,) = found["warnings"]
    assert "saturate in 3 of 3 operators of onnxruntime's file" in warning


def test_a_sweep_is_of_the_same_target(folder):
    arguments = ["--no-latency", "--no-flips", "--calibration", folder / "calibration.npz"]
    sweep = ["--sweep", "levels=32,255", "--json"]
    found = json.loads(snn_eval(folder, *arguments, *sweep).stdout)
    few, many = found["sweep"]
    whole = json.loads(snn_eval(folder, "--json", "--no-latency", "--no-flips").stdout)
    totals = whole["energy"]["totals"]
    own = {name: pj for name, pj in totals.items() if f"{name}_int8" not in totals}
    assert many["energy"] == pytest.approx(own)
    (output,) = whole["outputs"]
    assert many["outputs"] == [output | {"confusion": None}]
    assert few["energy"]["unary_int8"] < many["energy"]["unary_int8"]
    paths = [folder / name for name in ("ann.onnx", "255.onnx")]
    refused = CliRunner().invoke(
        main,
        [*map(str, paths), "--data", str(folder / "test.npz"), *map(str, arguments),
         "--sweep", "levels=300"],
    )  # fmt: skip
    assert refused.exit_code == 2
    assert "levels=300: 300 levels: 8 bits hold 255" in refused.stderr


def test_the_range_of_weights_of_a_sweep_is_that_of_the_file(folder, tmp_path, monkeypatch):
    options = CompileOptions(target="int8", int8_weights="full")
    with full_weights():
        full = compile_model(folder / "ann.onnx", folder / "calibration.npz", options)
    onnx.save(full.model, tmp_path / "full.onnx")
    seen = []

    def sweep(*arguments):
        seen.append((arguments[0].target, arguments[0].int8_weights))
        return []

    monkeypatch.setattr("snn_compile.compiler.evaluation.evaluate.sweep", sweep)
    for snn in (folder / "255.onnx", tmp_path / "full.onnx"):
        evaluation = EvaluationOptions(
            calibration=folder / "calibration.npz", sweep=[object()], latency=None, flips=False
        )
        evaluate(folder / "ann.onnx", snn, folder / "test.npz", evaluation, Progress())
    assert seen == [("int8", None), ("int8", "full")]  # None becomes safe


@pytest.mark.parametrize("levels", [255, 32])
def test_tables_and_page(folder, levels):
    page = folder / f"{levels}.html"
    arguments = ["--html", page, "--compile-report", folder / f"{levels}.json", "--rounds", 1]
    text = snn_eval(folder, *arguments, "--batch", 1, levels=levels).output
    assert "to the ANN in int8" in text
    assert "function bodies" not in text
    assert "C++ kernels" not in text
    html = page.read_text()
    assert "function bodies" not in html
    assert "energy, float32" not in html
    assert "energy, int8" in html


def test_swapped_networks_are_told(folder):
    paths = [folder / name for name in ("255.onnx", "ann.onnx")]
    result = CliRunner().invoke(
        main,
        [*map(str, paths), "--data", str(folder / "test.npz"), "--no-latency", "--no-flips"],
    )
    assert result.exit_code == 0
    assert "is a spiking network, not an ANN" in result.stderr
    assert "has no spiking neurons" in result.stderr


# The compile report -----------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [255, 32])
def test_the_compile_report_knows_the_neurons(folder, levels):
    report = json.loads((folder / f"{levels}.json").read_text())
    quantisers = [
        node
        for node in onnx.load(folder / f"{levels}.onnx").graph.node
        if node.op_type == "QuantizeLinear"
    ]
    assert [neuron["name"] for neuron in report["neurons"]] == [n.name for n in quantisers]
    constants = constants_of(read_model(folder / f"{levels}.onnx"))
    least = [
        node for node in onnx.load(folder / f"{levels}.onnx").graph.node if node.op_type == "Min"
    ]
    tops = {node.input[0]: constants[node.input[1]] for node in least}
    assert bool(tops) == (levels == 32)
    activity = report["verification"]["neurons"]
    assert [neuron["name"] for neuron in activity] == [n.name for n in quantisers]
    for neuron, node, seen in zip(report["neurons"], quantisers, activity, strict=True):
        known = {p.key.removeprefix("snn_compile."): p.value for p in node.metadata_props}
        assert neuron["op"] == "MultiThresholdFire"
        assert neuron["source_op"] == known["source_op"]
        assert neuron["theta"] == [float(known["theta"])] * 2
        assert neuron["levels"] == tops.get(node.output[0], 255)
        assert 0 <= seen["clip_rate"] < 0.1
        assert seen["spikes_per_value"] > 0


def test_verified_outputs_are_those_of_the_file(folder):
    report = json.loads((folder / "255.json").read_text())
    with np.load(folder / "calibration.npz") as data:
        feed = {"x": data["x"]}
    ann, snn = (
        run_model(onnx.load(folder / name), feed, optimise=True)[0]
        for name in ("ann.onnx", "255.onnx")
    )
    (output,) = report["verification"]["outputs"]
    assert output["agreement"] == (ann.argmax(1) == snn.argmax(1)).mean()
    assert output["relative_l2"] == pytest.approx(
        np.linalg.norm(ann - snn) / np.linalg.norm(ann), rel=1e-3
    )
