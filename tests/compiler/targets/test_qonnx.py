"""Target qonnx from a model to a file: what is written, promised and refused, and its tools."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from helpers import model_from_text, resolved, run_model
from onnx import helper, numpy_helper
from snn_compile.compiler import CompileOptions, compile_model, verify
from snn_compile.compiler.cli import main
from snn_compile.compiler.errors import UsageError, VerificationError
from snn_compile.compiler.eval_cli import main as evaluate
from snn_compile.compiler.running.qonnx_executor import NotRunError, run_in_qonnx
from snn_compile.passes.lowering.multi_threshold import QONNX_DOMAIN
from snn_compile.runtime_ops.operators import neurons_of

MODELS = Path(__file__).parents[3] / "models"
DIGITS, CALIBRATION = MODELS / "digits_resnet_dynamo.onnx", MODELS / "digits_calibration.npz"
NETWORKS = {
    "residual": """g (float[N,3,8,8] x) => (float[N,5] y)
        <float[6,3,3,3] w, float[6] b, float[6,6,3,3] v, float[6] c, float[6,6,1,1] u, float[6] d,
         float[6,5] m, float[5] n> {
        p = Conv <pads=[1,1,1,1]> (x, w, b) r = Relu (p)
        q = Conv <pads=[1,1,1,1]> (r, v, c) s = Add (q, r) t = Relu (s)
        e = Conv (t, u, d) f = Add (e, t) h = Relu (f) a = GlobalAveragePool (h) z = Flatten (a)
        y = Gemm (z, m, n) }""",
    "depthwise": """g (float[N,4,9,9] x) => (float[N,5] y)
        <float[8,4,1,1] w, float[8] b, float[8,1,3,3] v, float[8] c, float[5,392] m> {
        p = Conv (x, w, b) r = Relu (p) q = Conv <group=8> (r, v, c) s = Relu (q)
        z = Flatten (s) y = Gemm <transB=1> (z, m) }""",
    "over time, and a curve": """g (float[N,4,20] x) => (float[N,3,18] y)
        <float[6,4,3] w, float[6] b, float[3,6,1] v> {
        p = Conv (x, w, b) h = Sigmoid (p) m = Mul (p, h) y = Conv (m, v) }""",
    "multilayer": """g (float[N,12] x) => (float[N,4] y)
        <float[12,10] w, float[10] b, float[10,4] v> {
        p = MatMul (x, w) a = Add (p, b) r = Relu (a) o = MatMul (r, v) y = Softmax (o) }""",
}


def compiled(name, folder, **options):
    model = model_from_text(NETWORKS[name])
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).standard_normal([64, *shape[1:]]).astype(np.float32)
    np.save(folder / "x.npy", x)
    result = compile_model(model, folder / "x.npy", CompileOptions(target="qonnx", **options))
    return model, x, result, result.artifact.files[""].attached()


def held_by(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("form", ["thresholds", "quant"])
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_written_has_the_bits_of_the_network_that_is_counted(name, form, tmp_path):
    ann, x, result, model = compiled(name, tmp_path, qonnx_form=form)
    claim, *_ = result.report.verification.claims
    assert "agree bit for bit" in claim
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {"", QONNX_DOMAIN}
    (got,) = run_model(model, {"x": x})
    (counted,) = run_model(result.model, {"x": x})  # whose weights are constants
    np.testing.assert_allclose(got, counted, atol=1e-5 * np.abs(counted).max())
    (exact,) = run_model(ann, {"x": x})
    assert np.linalg.norm(got - exact) < 0.35 * np.linalg.norm(exact)
    assert len(neurons_of(result.model)) == len(result.report.neurons)


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_every_weight_is_an_integer_of_so_many_bits(bits, tmp_path):
    _, _, result, model = compiled("residual", tmp_path, weight_bits=bits)
    held = held_by(model)
    weights = [n for n in model.graph.node if n.op_type == "Quant" and n.input[0] in held]
    layers = [n for n in model.graph.node if n.op_type in ("Conv", "MatMul")]
    assert {node.input[1] for node in layers} == {node.output[0] for node in weights}
    assert all(len(node.input) == 2 for node in layers)
    most = 2 ** (bits - 1) - 1
    for node in weights:
        values, step, zero, of_bits = (held[name] for name in node.input)
        q = np.rint(values / step)
        assert np.abs(q).max() <= most
        assert np.array_equal((q * step).astype(np.float32), values)
        assert (zero.item(), of_bits.item()) == (0, bits)
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        assert attributes == {"signed": 1, "narrow": 1, "rounding_mode": b"ROUND"}
    assert any("corrected" in line for step in result.report.passes for line in step.changes)


def test_few_bits_cost_more(tmp_path):
    errors = {}
    for bits in (8, 4, 2):
        ann, x, _, model = compiled("residual", tmp_path, weight_bits=bits, levels=255)
        errors[bits] = np.linalg.norm(run_model(model, {"x": x})[0] - run_model(ann, {"x": x})[0])
    assert errors[8] < errors[4] < errors[2]


def test_neurons_that_meet_have_one_step(tmp_path):
    _, _, result, model = compiled("residual", tmp_path)
    makers = {name: node for node in model.graph.node for name in node.output}
    held = held_by(model)
    sums = [
        node
        for node in model.graph.node
        if node.op_type == "Add" and not any(name in held for name in node.input)
    ]
    assert len(sums) == 2
    for node in sums:
        products = [makers[name] for name in node.input]
        assert [one.op_type for one in products] == ["Mul", "Mul"]
        first, second = (held[one.input[1]].item() for one in products)
        assert first == second
    reasons = [p.value for n in neurons_of(result.model) for p in n.metadata_props]
    assert any("one step for 2 neurons" in reason for reason in reasons)


def test_layers_that_are_no_hardware_are_named(tmp_path):
    _, _, result, _ = compiled("over time, and a curve", tmp_path)
    (step,) = [step for step in result.report.passes if step.name == "hardware"]
    assert step.changes[0].startswith("hardware: 4 of 6")
    assert any("no layer in hardware" in line for line in step.changes)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"levels": 16}, r"use --levels 15 or 31"),
        ({"levels": 100}, r"use --levels 63 or 127"),
        ({"levels": 511}, r"at most 255, 8 bits"),
        ({"timesteps": 4}, "one timestep"),
        ({"neuron": "scale"}, "scale neurons have others"),
        ({"binary_spikes": "bits"}, "leave out --binary-spikes"),
        ({"levels_budget": 1.0}, "leave out --levels-budget"),
        ({"granularity": "channel"}, "leave out --granularity"),
        ({"encode": "activations"}, "leave out --granularity and --encode"),
    ],
)
def test_options_that_do_not_go_with_it_are_refused(options, what):
    with pytest.raises(UsageError, match=what):
        resolved(target="qonnx", **options)


@pytest.mark.parametrize("target", ["onnxruntime", "standard", "int8"])
@pytest.mark.parametrize("options", [{"weight_bits": 4}, {"qonnx_form": "quant"}])
def test_its_options_have_no_effect_elsewhere(target, options):
    with pytest.raises(UsageError, match="only with --target qonnx"):
        resolved(target=target, **options)


def test_defaults():
    found = resolved(target="qonnx")
    assert (found.levels, found.weight_bits, found.qonnx_form) == (15, 8, "thresholds")
    assert (found.neuron, found.granularity, found.encode_input) == (
        "multi-threshold",
        "tensor",
        True,
    )


def test_what_does_not_agree_as_much_as_was_asked_for_is_refused(tmp_path):
    with pytest.raises(VerificationError, match="more levels"):
        compiled("multilayer", tmp_path, levels=1, weight_bits=2, min_agreement=1.0)


def test_the_same_bytes_twice_and_spikes_are_counted(tmp_path):
    outputs = [tmp_path / name for name in ("one.onnx", "two.onnx")]
    report = tmp_path / "report.json"
    for output in outputs:
        arguments = ["--calibration", CALIBRATION, "--target", "qonnx", "--report", report]
        done = CliRunner().invoke(main, [str(a) for a in (DIGITS, "-o", output, *arguments)])
        assert done.exit_code == 0, done.output
        assert "hardware: 17 of 18" in done.output
        assert "it reads the network's input" in done.output
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    arguments = ["--data", MODELS / "digits_test.npz", "--no-latency", "--json"]
    done = CliRunner().invoke(evaluate, [str(a) for a in (DIGITS, outputs[0], *arguments)])
    assert done.exit_code == 0, done.output
    found, compiled_ = json.loads(done.stdout), json.loads(report.read_text())
    assert [text for text in found["warnings"] if "latency is that of its neurons" in text]
    named = [(neuron["name"], neuron["op"]) for neuron in compiled_["neurons"]]
    assert [(neuron["name"], neuron["op"]) for neuron in found["neurons"]] == named


def test_a_sweep_is_of_the_same_target_and_weights(tmp_path, monkeypatch):
    output, seen = tmp_path / "snn.onnx", []

    def sweep(*arguments):
        seen.append((arguments[0].target, arguments[0].weight_bits))
        return []

    monkeypatch.setattr("snn_compile.compiler.evaluation.evaluate.sweep", sweep)
    options = ["--calibration", CALIBRATION, "--target", "qonnx", "--weight-bits", 4]
    done = CliRunner().invoke(main, [str(a) for a in (DIGITS, "-o", output, *options)])
    assert done.exit_code == 0, done.output
    data = ["--data", MODELS / "digits_test.npz", "--calibration", CALIBRATION, "--no-latency"]
    arguments = [DIGITS, output, *data, "--no-flips", "--sweep", "levels=7"]
    done = CliRunner().invoke(evaluate, [str(a) for a in arguments])
    assert done.exit_code == 0, done.output
    assert seen == [("qonnx", 4)]


@pytest.mark.parametrize("form", ["thresholds", "quant"])
def test_the_executor_of_qonnx_gives_the_same_bits(form):
    pytest.importorskip("qonnx", reason="qonnx is not installed (extra 'qonnx')")
    options = CompileOptions(target="qonnx", qonnx_form=form, weight_bits=4)
    result = compile_model(DIGITS, CALIBRATION, options)
    _, claim = result.report.verification.claims
    assert claim == "the executor of qonnx gives the same bits for the first sample"
    with np.load(CALIBRATION) as arrays:
        images = arrays["image"][:8]
    network = result.artifact.files[""]
    (got,) = run_in_qonnx(network, {"image": images})
    (expected,) = run_model(network.attached(), {"image": images})
    assert got.tobytes() == expected.tobytes()


def test_what_the_executor_does_not_run_is_said(monkeypatch, tmp_path):
    def refuses(*_):
        raise NotRunError("Exception: no")

    monkeypatch.setattr(verify, "has_qonnx", lambda: True)
    monkeypatch.setattr(verify, "run_in_qonnx", refuses)
    _, _, result, _ = compiled("multilayer", tmp_path)
    assert result.report.verification.claims[1] == "not run in the executor of qonnx: Exception: no"


def test_other_bits_in_the_executor_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(verify, "has_qonnx", lambda: True)
    zeros = [np.zeros((1, 4), np.float32)]
    monkeypatch.setattr(verify, "run_in_qonnx", lambda *_: zeros)
    with pytest.raises(VerificationError, match="executor of qonnx does not give the bits"):
        compiled("multilayer", tmp_path)
