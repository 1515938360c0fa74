"""The whole journey on the bundled network: stages, proof, provenance, determinism."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import onnx
import pytest
from helpers import model_from_text, run_model
from onnx.reference import ReferenceEvaluator
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.errors import DataError, ModelError, VerificationError
from snn_compile.compiler.front_end import FRONT_END
from snn_compile.compiler.samples.base import input_specs
from snn_compile.compiler.samples.synthetic import SyntheticSamples
from snn_compile.compiler.targets import onnxruntime as onnxruntime_target
from snn_compile.compiler.targets import resolve

#: For what does not depend on them: they take most of the time.
NO_CORRECTIONS = {"sequential": False, "bias_correction": False, "compensation": False}


def images(count=16):
    return {"image": np.random.default_rng(0).random((count, 1, 8, 8), np.float32)}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The bundled network compiled once, with dumps."""
    from conftest import MODELS

    folder = tmp_path_factory.mktemp("dump")
    result = compile_model(
        MODELS / "digits_resnet_torchscript.onnx",
        MODELS / "digits_calibration.npz",
        CompileOptions(dump_dir=folder),
    )
    return result, folder


@pytest.fixture(scope="module")
def synthetic():
    """The same without calibration samples."""
    from conftest import MODELS

    return compile_model(MODELS / "digits_resnet_torchscript.onnx")


@pytest.fixture(scope="module")
def thresholds():
    """The same with multi-threshold neurons, fitted to the values of the ANN."""
    from conftest import MODELS

    options = CompileOptions(neuron="multi-threshold", **NO_CORRECTIONS)
    model, data = MODELS / "digits_resnet_torchscript.onnx", MODELS / "digits_calibration.npz"
    return compile_model(model, data, options)


def test_every_activation_is_a_neuron_and_no_batchnorm_is_left(compiled):
    result, _ = compiled
    nodes = result.model.graph.node
    ops = [node.op_type for node in nodes]
    assert ops.count("ScaleFire") == 6
    assert not {"BatchNormalization", "Identity"} & set(ops)
    copies = [node.name for node in nodes if node.op_type == "Relu"]
    assert copies == ["/Relu.shortcut"]  # of the one block that adds its own input
    assert result.report.coverage.kept_activations() == []
    assert [neuron.op for neuron in result.report.neurons] == ["ScaleFire"] * 6


def test_multi_threshold_neurons_where_they_are_asked_for(thresholds):
    ops = [node.op_type for node in thresholds.model.graph.node]
    assert (ops.count("MultiThresholdFire"), ops.count("ScaleFire")) == (6, 0)


def test_result_is_valid_and_runs_everywhere_with_the_same_bits(compiled):
    model = compiled[0].model
    onnx.checker.check_model(model, full_check=True)
    bodies = run_model(model, images(), library=False)[0]
    kernels = run_model(model, images(), library=True)[0]
    np.testing.assert_array_equal(kernels.view(np.uint32), bodies.view(np.uint32))
    if tuple(map(int, onnx.__version__.split(".")[:2])) < (1, 23):
        pytest.skip(
            "the evaluator of onnx before 1.23 fails to gather by indices that are not contiguous"
        )
    reference = ReferenceEvaluator(model).run(None, images(2))[0]
    # The evaluator sums in another order than the runtime, which can flip a level.
    assert np.abs(reference - bodies[:2]).max() < 0.1 * np.abs(bodies).max()


#: Of a compilation with default options.
REWRITES = [one.name for one in FRONT_END if one.wanted(resolve(CompileOptions()))]
STEPS = [
    *("load", *REWRITES, "reference", "plan_levels", "calibrate", "shrink_levels"),
    *("fold_scales", "insert_quant_clip", "replace_activation", "function_bodies", "verify"),
]


def test_dumped_stages_are_valid_and_agree(compiled):
    _, folder = compiled
    stages = {path.stem[3:]: onnx.load(path) for path in folder.iterdir()}
    without_a_network = {"reference", "plan_levels", "calibrate", "shrink_levels", "verify"}
    assert sorted(path.name for path in folder.iterdir()) == [
        f"{number:02d}_{name}.onnx"
        for number, name in enumerate(STEPS, 1)
        if name not in without_a_network
    ]
    outputs = {}
    for name, model in stages.items():
        onnx.checker.check_model(model, full_check=True)
        outputs[name] = run_model(model, images())[0]
    for same in ("canonicalise", "recognise"):
        np.testing.assert_array_equal(outputs["load"], outputs[same])
    for same in ("membrane_shortcuts", "encode_edges", "own_parameters"):
        np.testing.assert_array_equal(outputs["fold_batchnorm"], outputs[same])
    np.testing.assert_allclose(outputs["fold_batchnorm"], outputs["load"], rtol=1e-4, atol=1e-4)
    quantised = outputs["insert_quant_clip"].view(np.uint32)
    np.testing.assert_array_equal(outputs["replace_activation"].view(np.uint32), quantised)
    np.testing.assert_array_equal(outputs["function_bodies"].view(np.uint32), quantised)
    standard = {node.domain for node in stages["insert_quant_clip"].graph.node}
    assert standard == {""}


def test_interface_and_users_metadata_are_kept(digits, digits_calibration):
    model = onnx.load(digits)
    model.metadata_props.add(key="author", value="me")
    model.doc_string = "my network"
    before = model.SerializeToString(deterministic=True)
    options = CompileOptions(**NO_CORRECTIONS)
    result = compile_model(model, digits_calibration, options).model
    assert model.SerializeToString(deterministic=True) == before
    assert list(result.graph.input) == list(model.graph.input)
    assert list(result.graph.output) == list(model.graph.output)
    assert result.doc_string == "my network"
    props = {p.key: p.value for p in result.metadata_props}
    assert props["author"] == "me"
    assert props["snn_compile.levels"] == "32"
    assert props["snn_compile.calibration_is_synthetic"] == "false"
    assert props["snn_compile.calibration"].startswith("256 samples, sha256 ")


def test_report_accounts_for_every_step_and_neuron(compiled):
    report = json.loads(compiled[0].report.to_json())
    assert [step["name"] for step in report["passes"]] == STEPS
    changes = {step["name"]: step["changes"] for step in report["passes"]}
    folded = changes["fold_batchnorm"]
    assert len([line for line in folded if "folded into Conv" in line]) == 6
    assert len(report["neurons"]) == len(report["verification"]["neurons"]) == 6
    for neuron, activity in zip(report["neurons"], report["verification"]["neurons"], strict=True):
        assert neuron["name"] == activity["name"]
        assert neuron["clip_rate"] is None
        assert 0 < neuron["error"] < 0.1
        assert "density" in neuron["calibrator"]
        assert 0 < activity["silent_values"] < 1
        assert 0 < activity["spikes_per_value"] < 4 * 32
    corrected = changes["calibrate"]
    told = (" corrected, error ", ": left as it is, ")
    assert len([line for line in corrected if any(words in line for words in told)]) == 6
    assert report["coverage"]["counts"]["activation converted"] == 5
    assert report["coverage"]["counts"]["activation shortcut"] == 1
    assert 0.98 < report["coverage"]["spiking_share"] < 1
    assert report["verification"]["claims"] == [
        "quantised ANN and SNN agree bit for bit, with and without the C++ kernels"
    ]
    assert report["verification"]["outputs"][0]["agreement"] >= 0.98


def test_clip_rates_of_calibration_are_those_of_verification(thresholds):
    report = thresholds.report
    for neuron, activity in zip(report.neurons, report.verification.neurons, strict=True):
        assert neuron.name == activity.name
        assert neuron.clip_rate == pytest.approx(activity.clip_rate, abs=2e-3)
    assert any(neuron.clip_rate > 0 for neuron in report.neurons)


def test_activity_is_that_of_a_count_by_hand(thresholds, digits_calibration):
    """The first neuron: spikes from its output, clipping from its input and the formula."""
    model = onnx.ModelProto()
    model.CopyFrom(thresholds.model)
    node = next(n for n in model.graph.node if n.op_type == "MultiThresholdFire")
    for name in (node.output[0], node.input[0]):
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
    theta = next(
        onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name == node.input[1]
    )
    data = {"image": np.load(digits_calibration)["image"]}
    _, fired, potential = run_model(model, data, library=True, optimise=True)
    theta = theta.reshape(-1, 1, 1)
    spikes = fired / theta
    activity = thresholds.report.verification.neurons[0]
    assert activity.spikes_per_value == pytest.approx(spikes.mean(), rel=1e-4)
    assert activity.silent_values == pytest.approx((spikes == 0).mean(), rel=1e-4)
    beyond = (potential >= 32.5 * theta).mean()
    assert beyond > 0
    assert activity.clip_rate == pytest.approx(beyond, rel=0.02)


@pytest.mark.parametrize("calibrator", ["density", "mse", "percentile"])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_every_calibrator_keeps_the_answers(digits, digits_calibration, calibrator, granularity):
    options = CompileOptions(calibrator=calibrator, granularity=granularity, **NO_CORRECTIONS)
    result = compile_model(digits, digits_calibration, options)
    assert result.report.verification.agreement >= 0.98


def test_more_levels_give_a_smaller_error(digits, digits_calibration):
    errors = []
    for levels in (2, 8, 32, 255):
        options = CompileOptions(levels=levels)
        result = compile_model(digits, digits_calibration, options)
        errors.append(result.report.verification.outputs[0].relative_l2)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02


def test_same_input_same_bytes(compiled, synthetic, digits, digits_calibration):
    for first, calibration in ((compiled[0], digits_calibration), (synthetic, None)):
        second = compile_model(digits, calibration)
        assert first.model.SerializeToString(deterministic=True) == second.model.SerializeToString(
            deterministic=True
        )


def test_path_and_model_give_the_same_and_the_source_is_untouched(digits, digits_calibration):
    model = onnx.load(digits)
    before = model.SerializeToString(deterministic=True)
    options = CompileOptions(**NO_CORRECTIONS)
    from_model = compile_model(model, digits_calibration, options).model
    assert model.SerializeToString(deterministic=True) == before
    assert from_model == compile_model(digits, digits_calibration, options).model


def test_of_large_networks_fewer_synthetic_samples_are_drawn(monkeypatch, digits):
    monkeypatch.setattr("snn_compile.compiler.front_end._SYNTHETIC_WORK", 1e3)
    assert compile_model(digits).report.calibration["samples"] == 16


def test_without_calibration_everything_says_so(synthetic):
    result = synthetic
    assert result.report.calibration["synthetic"] is True
    assert "synthetic" in result.report.warnings[0]
    props = {p.key: p.value for p in result.model.metadata_props}
    assert props["snn_compile.calibration_is_synthetic"] == "true"
    assert props["snn_compile.calibration"].startswith("64 synthetic samples, seed 0: ")


def test_seed_changes_the_synthetic_samples(digits):
    thetas = [
        [neuron.theta for neuron in compile_model(digits, None, options).report.neurons]
        for options in (
            CompileOptions(neuron="multi-threshold", **NO_CORRECTIONS, seed=seed) for seed in (0, 1)
        )
    ]
    assert thetas[0] != thetas[1]


def test_minimum_agreement(digits, digits_calibration):
    with pytest.raises(VerificationError, match=r"agree on .*99\.90% was asked for"):
        compile_model(digits, digits_calibration, CompileOptions(levels=1, min_agreement=0.999))
    compile_model(digits, digits_calibration, CompileOptions(min_agreement=0.98))


def test_minimum_agreement_needs_classes():
    model = model_from_text("g (float[N,3,4] x) => (float[N,3,4] y) { y = Relu (x) }")
    with pytest.raises(VerificationError, match="no output is a"):
        compile_model(model, None, CompileOptions(min_agreement=0.5))


def wrong_potential(network):
    """The membrane potential of MultiThresholdFire starts elsewhere."""
    for node in network.proto.graph.node:
        for attribute in node.attribute:
            if attribute.name == "v0":
                attribute.f = 0.25


def wrong_octaves(network):
    """The octaves of one ScaleFire begin too early."""
    node = next(node for node in network.proto.graph.node if node.op_type == "ScaleFire")
    for attribute in node.attribute:
        if attribute.name == "linear":
            attribute.i //= 2


def wrong_level(network):
    """Each cell of one StaircaseFire has the level of the next one."""
    node = next(node for node in network.proto.graph.node if node.op_type == "StaircaseFire")
    levels = network.weights[node.input[2]]
    network.weights[node.input[2]] = np.append(levels[1:], levels[-1:])


@pytest.mark.parametrize(
    ("neuron", "break_it"),
    [
        ("multi-threshold", wrong_potential),
        ("scale", wrong_octaves),
        ("staircase", wrong_level),
    ],
)
def test_a_broken_conversion_is_found(digits, digits_calibration, monkeypatch, neuron, break_it):
    """Verification must notice when the SNN is not the quantised ANN."""
    original = onnxruntime_target.function_bodies

    def lower_wrongly(network):
        break_it(network)
        return original(network)

    monkeypatch.setattr(onnxruntime_target, "function_bodies", lower_wrongly)
    options = CompileOptions(neuron=neuron, **NO_CORRECTIONS)
    with pytest.raises(VerificationError, match="bit for bit"):
        compile_model(digits, digits_calibration, options)


LOOP = """
    g (float[3] x, int64 n, bool c) => (float[3] y) {
        y = Loop (n, c, x) <body = b (int64 i, bool go, float[3] p) => (bool on, float[3] q) {
            on = Identity (go)
            q = Relu (p)
        }>
    }"""


def test_nothing_to_convert_is_refused_with_the_reasons():
    with pytest.raises(ModelError, match=r"nothing to convert.*Relu .*inside the body of Loop"):
        compile_model(model_from_text(LOOP))
    model = model_from_text("g (float[N,3] x) => (float[N,3] y) { y = Neg (x) }")
    with pytest.raises(ModelError, match="it has none"):
        compile_model(model)


def test_strict_refuses_what_the_default_keeps():
    model = model_from_text("""
        g (float[N,3] x) => (float[N,3] y) { a = Relu (x) y = Softmax (a) }""")
    kept = compile_model(model).report.coverage.kept_activations()
    assert [(line.op, line.reason) for line in kept] == [
        ("Softmax", "stays in float; no linear operator reads it")
    ]
    with pytest.raises(ModelError, match=r"1 activations would be kept.*Softmax Softmax:y"):
        compile_model(model, None, CompileOptions(strict=True))


def test_encode_chooses_what_is_encoded(digits, digits_calibration):
    def encoders(**options):
        chosen = CompileOptions(**NO_CORRECTIONS, **options)
        report = compile_model(digits, digits_calibration, chosen).report
        return [n.name for n in report.neurons if n.source_op == "Encoder"]

    assert len(encoders()) == 1
    assert encoders(encode="activations") == []
    assert len(encoders(encode_input=True)) == 2


def test_several_inputs_and_outputs(tmp_path):
    model = model_from_text("""
        g (float[N,3] a, float[N,3] b, int64[N] k) => (float[N,3] p, float[N,3] q, int64[N] r) {
            s = Sub (a, b)
            p = Relu (s)
            q = LeakyRelu (s)
            r = Neg (k)
        }""")
    rng = np.random.default_rng(0)
    data = {name: rng.standard_normal((50, 3)).astype(np.float32) for name in "ab"}
    np.savez(tmp_path / "c.npz", k=np.arange(50), **data)
    result = compile_model(model, tmp_path / "c.npz")
    assert [value.name for value in result.model.graph.output] == ["p", "q", "r"]
    assert [output.name for output in result.report.verification.outputs] == ["p", "q"]
    assert len(result.report.neurons) == 2

    dual = CompileOptions(neuron="multi-threshold")
    branches = compile_model(model, tmp_path / "c.npz", dual).report.neurons
    polarities = sorted(neuron.polarity for neuron in branches)
    assert polarities == ["negative", "positive", "positive"]


def test_fixed_batch_and_inputs_without_batch(tmp_path):
    data = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    np.save(tmp_path / "c.npy", data)
    for dims in ("8,4", "4"):
        model = model_from_text(f"g (float[{dims}] x) => (float[{dims}] y) {{ y = Relu (x) }}")
        result = compile_model(model, tmp_path / "c.npy")
        assert len(result.report.neurons) == 1


def test_samples_that_the_network_does_not_run_on_are_refused(tmp_path):
    """Dynamic dimensions let a shape pass that the network itself cannot take."""
    model = model_from_text("""
        g (float[N,K] x) => (float[N,4] y) <float[3,4] w> { a = MatMul (x, w) y = Relu (a) }""")
    np.save(tmp_path / "c.npy", np.ones((5, 7), np.float32))
    with pytest.raises(DataError, match=r"does not run on inputs of shape .*\[1, 7\]"):
        compile_model(model, tmp_path / "c.npy")


def test_models_that_the_runtime_cannot_run_are_refused():
    model = model_from_text("g (float[N,3] x) => (float[N,3] y) { a = Relu (x) y = Neg (a) }")
    model.graph.node[1].domain = "unknown.domain"
    model.opset_import.append(onnx.helper.make_opsetid("unknown.domain", 1))
    with pytest.raises(ModelError, match=r"unknown\.domain"):
        compile_model(model)


def test_old_opset_compiles():
    model = model_from_text(
        """
        g (float[N,3] x) => (float[N,4] y) <float[3,4] w> {
            a = MatMul (x, w)
            y = Clip <min = 0.0, max = 6.0> (a)
        }""",
        opset=9,
    )
    result = compile_model(model)
    assert [neuron.source_op for neuron in result.report.neurons] == ["Clip"]
    feed = next(SyntheticSamples(input_specs(model), 8, 1).batches(8))
    before, after = run_model(model, feed)[0], run_model(result.model, feed, library=True)[0]
    assert np.abs(before - after).max() < 0.5


def test_warns_where_no_output_can_be_compared():
    model = model_from_text("""
        g (float[N,3] x) => (int64[N] y) {
            a = Relu (x)
            y = ArgMax <axis = 1, keepdims = 0> (a)
        }""")
    assert any("was not measured" in text for text in compile_model(model).report.warnings)


def test_an_output_without_a_shape_compiles():
    model = model_from_text("g (float[N,3] x) => (float[N,3] y) { y = Relu (x) }")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    compiled = compile_model(model).model
    assert compiled.graph.output[0] == model.graph.output[0]


def test_the_report_has_the_digest_of_the_file_and_thresholds_as_numbers(digits, tmp_path):
    report = json.loads(compile_model(digits, None, CompileOptions()).report.to_json())
    assert report["model"]["sha256"] == hashlib.sha256(digits.read_bytes()).hexdigest()
    for neuron in report["neurons"]:
        least, most = neuron["theta"]
        assert 0 < least <= most
        assert neuron["channels"] >= 1 and (least < most) <= (neuron["channels"] > 1)
    assert any(neuron["channels"] > 1 for neuron in report["neurons"])
    saved = tmp_path / "again.onnx"
    model = onnx.load(digits)
    model.doc_string = "saved anew"
    onnx.save(model, saved)
    again = compile_model(saved, None, CompileOptions()).report
    assert again.model["sha256"] == hashlib.sha256(saved.read_bytes()).hexdigest()
    assert again.model["sha256"] != report["model"]["sha256"]
