"""``snn-compile --timesteps``: the bundled network over time, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from conftest import MODELS
from helpers import export_model, model_from_text, run_model
from snn_compile.compiler import CompileOptions, cli, compile_model
from snn_compile.compiler.calibration.sequence.over_time import CHARGES, settle
from snn_compile.compiler.errors import ModelError, UsageError
from snn_compile.passes.graph.surgeon import import_model
from snn_compile.passes.lowering.temporal_to_spatial import temporal_to_spatial
from snn_compile.passes.neurons.neuron import ThresholdNeuron

DIGITS = MODELS / "digits_resnet_torchscript.onnx"
CALIBRATION = MODELS / "digits_calibration.npz"
KINDS = {
    "integrate and fire": {"neuron": "multi-threshold"},
    "signed": {},
    "delayed": {"firing": "delayed"},
    "multi-level": {"levels": 3, "neuron": "multi-threshold"},
}


def over_time(timesteps=4, **options):
    return CompileOptions(timesteps=timesteps, **options)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Networks of each kind, from 64 samples."""
    few = tmp_path_factory.mktemp("few") / "few.npz"
    with np.load(CALIBRATION) as samples:
        np.savez(few, image=samples["image"][:64])
    return {
        name: compile_model(DIGITS, few, over_time(**options)) for name, options in KINDS.items()
    }


def accuracy(model):
    with np.load(MODELS / "digits_test.npz") as test:
        (scores,) = run_model(model, {"image": test["image"]}, library=True, optimise=True)
        return float((scores.argmax(axis=1) == test["labels"]).mean())


def neurons(model):
    fired = [node for node in model.graph.node if node.domain == "ai.snn"]
    assert {node.op_type for node in fired} == {"IntegrateFire"}
    return [{a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} for node in fired]


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_still_works_and_its_interface_is_that_of_the_ann(compiled, kind):
    model, ann = compiled[kind].model, onnx.load(DIGITS)
    onnx.checker.check_model(model, full_check=True)
    assert accuracy(model) > 0.95
    for ours, theirs in zip(model.graph.input, ann.graph.input, strict=True):
        assert ours.type == theirs.type
    for ours, theirs in zip(model.graph.output, ann.graph.output, strict=True):
        assert ours.type == theirs.type
    assert compiled[kind].report.verification.claims


def test_levels_per_step_and_polarities(compiled):
    """Encoders follow what may be negative; only signed neurons fire below 0 behind a Relu."""
    for kind, levels, signed in (
        ("integrate and fire", 1, 1),
        ("delayed", 1, 1),
        ("multi-level", 3, 1),
        ("signed", 1, 5),  # the last block's Relu is averaged before it is encoded
    ):
        found = neurons(compiled[kind].model)
        assert len(found) == max(signed, 5) + (kind != "signed")
        assert {n["timesteps"] for n in found} == {4}
        assert {n["levels_pos"] for n in found} == {levels}
        assert [n["levels_neg"] for n in found].count(levels) == signed


def test_neurons_have_initial_potentials_of_their_own(compiled):
    found = [round(n["v0"], 3) for n in neurons(compiled["integrate and fire"].model)]
    assert len(set(found)) > 1
    assert set(found) <= {0.5, *CHARGES}


def test_signed_neurons_follow_running_means_which_are_listed(compiled):
    passes = {p.name: p.changes for p in compiled["signed"].report.passes}
    assert "Relu /Relu: stays in float" in passes["keep_activations"]
    assert "Relu /block1/Relu: on the running mean" in passes["spatial_to_temporal"]
    assert passes["spatial_to_temporal"].count("Relu /Relu: on the running mean") == 0  # constant


def test_over_time_with_a_constant_input_is_the_mean_over_steps():
    none = {"sequential": False, "bias_correction": False, "compensation": False}
    options = over_time(neuron="multi-threshold", **none, time_axis=True)
    result = compile_model(DIGITS, CALIBRATION, options)
    plain = compile_model(DIGITS, CALIBRATION, replace(options, time_axis=False))
    with np.load(MODELS / "digits_test.npz") as test:
        images = test["image"][:20]
    feed = {"image": np.repeat(images[None], 4, axis=0)}
    (stepwise,) = run_model(result.model, feed, library=True)
    assert stepwise.shape == (4, 20, 10)
    (mean,) = run_model(plain.model, {"image": images}, library=True)
    np.testing.assert_allclose(stepwise.mean(axis=0), mean, rtol=1e-5, atol=1e-5)
    assert result.report.verification.agreement == plain.report.verification.agreement


def test_curved_activations_stay_and_are_encoded():
    nodes = "a = Conv (x, w) b = Sigmoid (a) c = Mul (a, b) y = Conv (c, v)"
    model = model_from_text(
        "g (float[N,2,6,6] x) => (float[N,2,6,6] y) <float[3,2,1,1] w, float[2,3,1,1] v> "
        f"{{ {nodes} }}"
    )
    result = compile_model(model, options=over_time(8))
    assert [n.source_op for n in result.report.neurons] == ["Encoder"]
    (line,) = (line for line in result.report.coverage.lines if line.kind == "activation")
    assert line.status == "encoded"
    assert "over several timesteps" in line.reason or "running mean" in line.reason
    assert result.report.verification.outputs[0].relative_l2 < 0.3


def test_strict_takes_activations_that_neurons_follow_and_no_others():
    strict = over_time(4, strict=True)
    text = (
        "g (float[N,2,6,6] x) => (float[N,2,6,6] y) <float[3,2,1,1] w, float[2,3,1,1] v> "
        "{ a = Conv (x, w) b = Relu (a) %s }"
    )
    followed = compile_model(model_from_text(text % "y = Conv (b, v)"), options=strict)
    assert followed.report.coverage.kept_activations() == []
    with pytest.raises(ModelError, match="1 activations would be kept"):
        compile_model(model_from_text(text % "c = Conv (b, v) y = Relu (c)"), options=strict)


def test_the_spatial_network_comes_out_of_the_file(compiled):
    back = export_model(temporal_to_spatial(import_model(compiled["delayed"].model)).graph)
    assert {n.op_type for n in back.graph.node if n.domain == "ai.snn"} == {"MultiThresholdFire"}
    with np.load(MODELS / "digits_test.npz") as test:
        feed = {"image": test["image"][:50]}
    (one,) = run_model(back, feed, library=True)
    (steps,) = run_model(compiled["delayed"].model, feed, library=True)
    np.testing.assert_allclose(steps, one, rtol=1e-4, atol=1e-4)


def test_settling_lowers_the_initial_potential_of_what_comes_unevenly():
    """All current in the first half, taken back in the second: a lower potential fires less."""
    rng = np.random.default_rng(0)
    early = rng.uniform(0, 4, (4, 5000)).astype(np.float32)
    currents = np.concatenate([early, -0.9 * early[::-1]])
    neuron = ThresholdNeuron(
        theta=np.array(0.125, np.float32), levels_pos=8, axis=1, calibrator="mse"
    )
    settled = settle(neuron, currents, np.inf, seed=0)
    assert settled.v0 < neuron.v0
    even = rng.uniform(0, 1, 5000).astype(np.float32)
    kept = settle(neuron, np.tile(even, (8, 1)), np.inf, seed=0)
    assert kept.v0 == pytest.approx(0.5, abs=0.101)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (over_time(0), "from 1 to 1024"),
        (over_time(neuron="scale"), "scale neurons fire in one timestep"),
        (over_time(1, neuron="signed"), "signed neurons"),
        (over_time(firing="delayed", neuron="signed"), "signed neurons"),
        (over_time(firing="late"), "give immediate or delayed"),
        (over_time(1025), "from 1 to 1024"),
        (over_time(1, time_axis=True), "needs neurons that fire immediately"),
        (over_time(search_scale=True), "one timestep only"),
        (over_time(levels_budget=1.0), "one timestep only"),
    ],
)
def test_what_does_not_go_together_is_refused(options, reason):
    with pytest.raises(UsageError, match=reason):
        compile_model(DIGITS, CALIBRATION, options)


def test_a_network_that_mixes_rows_is_refused_with_the_way_out(tmp_path):
    model = model_from_text(
        "g (float[2,3] x) => (float[3,3] y) <float[1,3] c, float[3,3] w> "
        "{ r = Relu (x) m = MatMul (r, w) y = Concat <axis = 0> (m, c) }"
    )
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    arguments = [str(path), "-o", str(tmp_path / "s.onnx"), "--timesteps", "2"]
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 3
    assert "mixes the rows of the batch" in result.stderr
    assert "--firing delayed" in result.stderr
    assert not (tmp_path / "s.onnx").exists()
    assert CliRunner().invoke(cli.main, [*arguments, "--firing", "delayed"]).exit_code == 0


def test_default_levels_are_binary_over_time(tmp_path):
    output = tmp_path / "s.onnx"
    arguments = [str(DIGITS), "-o", str(output), "--timesteps", "2", "--no-compensation", "-v"]
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 0, result.output
    assert {n["levels_pos"] for n in neurons(onnx.load(output))} == {1}
    assert "over time: Relu" in result.stdout


def test_the_model_error_names_the_way_out():
    model = model_from_text(
        "g (float[2,3] x) => (float[3,3] y) <float[1,3] c, float[3,3] w> "
        "{ r = Relu (x) m = MatMul (r, w) y = Concat <axis = 0> (m, c) }"
    )
    with pytest.raises(ModelError, match=r"compile it to one timestep$"):
        compile_model(model, options=over_time(2, time_axis=True))


@pytest.mark.parametrize("firing", ["immediate", "delayed"])
def test_neurons_in_bodies_are_refused_and_no_firing_is_a_way_out(firing):
    model = model_from_text(
        "g (float[N,3] x, bool c) => (float[N,3] y) <float[3,3] w> "
        "{ m = MatMul (x, w) s = If (c) <"
        "then_branch = t () => (float[N,3] p) { p = Relu (m) }, "
        "else_branch = e () => (float[N,3] q) { q = Identity (m) }> y = MatMul (s, w) }"
    )
    with pytest.raises(ModelError, match=r"body of .*compile it to one timestep$"):
        options = over_time(2, neuron="multi-threshold", firing=firing)
        compile_model(model, options=options)
