"""Target standard from a model to a file: operators, options, what is refused, what is counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from helpers import model_from_text, resolved, run_model
from onnx import numpy_helper
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.cli import main
from snn_compile.compiler.errors import ModelError, UsageError, VerificationError
from snn_compile.compiler.eval_cli import main as evaluate
from snn_compile.compiler.model_io.load import load_source
from snn_compile.passes.graph.protos import nodes_below
from snn_compile.passes.lowering.spiking_form import spiking_form
from snn_compile.runtime_ops.operators import neurons_of

MODELS = Path(__file__).parents[3] / "models"
DIGITS, CALIBRATION = MODELS / "digits_resnet_dynamo.onnx", MODELS / "digits_calibration.npz"
BLOCK = """g (float[N,4,8,8] x) => (float[N,5] y)
    <float[8,4,3,3] w, float[8] b, float[8,8,3,3] v, float[8] c, float[5,512] m,
     int64[2] to = {0, -1}, float zero = {0}, float six = {6}> {"""
NETWORKS = {
    "relu": f"""{BLOCK} d = Conv <pads=[1,1,1,1]> (x, w, b) e = Relu (d)
        f = Conv <pads=[1,1,1,1]> (e, v, c) h = Relu (f) i = Reshape (h, to)
        y = Gemm <transB=1> (i, m) }}""",
    "clip and a shortcut": f"""{BLOCK} d = Conv <pads=[1,1,1,1]> (x, w, b)
        e = Clip (d, zero, six) f = Conv <pads=[1,1,1,1]> (e, v, c) s = Add (f, d)
        h = Clip (s, zero, six) i = Flatten (h) y = Gemm <transB=1> (i, m) }}""",
    "curves and normalisation": """g (float[N,3,6] x) => (float[N,3,5] y)
        <float[6,8] w, float[8,5] v, float[8] s> {
        a = MatMul (x, w) n = LayerNormalization (a, s) h = Sigmoid (n) g = Mul (n, h)
        y = MatMul (g, v) }""",
    "both signs": """g (float[N,6] x) => (float[N,5] y) <float[6,8] w, float[8,8] u, float[8,5] v> {
        a = MatMul (x, w) l = LeakyRelu <alpha=0.1> (a) b = MatMul (l, u) t = Tanh (b)
        y = MatMul (t, v) }""",
}
OF_NEURONS = {"multi-threshold": "MultiThresholdFire", "scale": "ScaleFire"}


def compiled(name, folder, **options):
    model = model_from_text(NETWORKS[name])
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).standard_normal([48, *shape[1:]]).astype(np.float32)
    np.save(folder / "x.npy", x)
    options = CompileOptions(target="standard", **options)
    return model, x, compile_model(model, folder / "x.npy", options)


def steps_of(model, what):
    """Constants of all chains whose name ends so."""
    return [
        numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.name.rpartition(".")[2].rstrip("_0123456789") == what
    ]


@pytest.mark.parametrize("neuron", ["multi-threshold", "scale", "staircase", "auto"])
@pytest.mark.parametrize("name", NETWORKS)
def test_static_standard_operators_and_the_bits_of_the_kernels(name, neuron, tmp_path):
    """The compilation itself proves the bits; here it is that it claims so."""
    ann, x, result = compiled(name, tmp_path, neuron=neuron)
    (claim,) = result.report.verification.claims
    assert "as functions agree bit for bit" in claim
    model = result.model
    onnx.checker.check_model(model, full_check=True)
    nodes = list(nodes_below(model.graph))
    assert {node.domain for node in nodes} == {""}
    assert {opset.domain for opset in model.opset_import} == {""}
    assert not model.functions
    assert not model.graph.value_info
    used = {node.op_type for node in nodes}
    assert not used & {"Constant", "Shape", "Size", "CastLike", "If", "Loop"}
    exact, got = (run_model(m, {"x": x}, optimise=True)[0] for m in (ann, model))
    assert np.linalg.norm(exact - got) < 0.25 * np.linalg.norm(exact)
    kinds = {neuron.op for neuron in result.report.neurons}
    assert OF_NEURONS.get(neuron, "StaircaseFire") in kinds or neuron == "auto" or "curves" in name
    assert kinds == {node.op_type for node in neurons_of(spiking_form(result.network).proto)}


def test_thresholds_go_into_the_layers_around_a_neuron(tmp_path):
    """The initial potential too. Channels are not those of a layer behind Reshape."""
    chains = {
        "scale": (["Clip", "Round"], ["Mul", "Add", "Clip", "Round", "Mul"]),
        "multi-threshold": (["Clip", "Floor"], ["Div", "Add", "Clip", "Floor", "Mul"]),
    }
    for neuron, (short, long) in chains.items():
        options = {"neuron": neuron, "calibrator": "mse", "power_of_two": False}
        _, _, result = compiled("relu", tmp_path, **options)
        found = [node.op_type for node in result.model.graph.node]
        assert found == ["Conv", *short, "Conv", *long, "Reshape", "Gemm"]
        folded, _ = result.report.neurons
        assert folded.channels == 8
        _, _, result = compiled("relu", tmp_path, granularity="tensor", **options)
        found = [node.op_type for node in result.model.graph.node]
        assert found == [*["Conv", *short] * 2, "Reshape", "Gemm"]


def test_bounds_of_a_clip_are_those_of_the_neuron_where_its_threshold_is_in_the_layers(tmp_path):
    _, _, result = compiled("clip and a shortcut", tmp_path, shortcuts="spikes")
    assert [neuron.source_op for neuron in result.report.neurons].count("Clip") == 2
    neurons = neurons_of(spiking_form(result.network).proto)
    assert len(neurons) == len(result.report.neurons)


@pytest.mark.parametrize("neuron", ["multi-threshold", "scale"])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("name", ["clip and a shortcut", "both signs"])
def test_steps_of_powers_of_two_divide_nothing(name, granularity, neuron, tmp_path):
    _, _, result = compiled(
        name, tmp_path, power_of_two=True, granularity=granularity, neuron=neuron
    )
    assert "Div" not in {node.op_type for node in result.model.graph.node}
    found = [*steps_of(result.model, "theta"), *steps_of(result.model, "scale")]
    assert found
    for steps in found:
        assert np.all(np.frexp(steps)[0] == 0.5)


def test_digits_keep_their_accuracy_with_powers_of_two():
    with np.load(MODELS / "digits_test.npz") as arrays:
        labels, feed = arrays["labels"], {k: arrays[k] for k in arrays.files if k != "labels"}
    right = {}
    for power_of_two in (False, True):
        options = CompileOptions(target="standard", power_of_two=power_of_two)
        model = compile_model(DIGITS, CALIBRATION, options).model
        (scores,) = run_model(model, feed, optimise=True)
        right[power_of_two] = float((scores.argmax(axis=1) == labels).mean())
    (scores,) = run_model(load_source(DIGITS).network.attached(), feed)
    ann = float((scores.argmax(axis=1) == labels).mean())
    assert right[False] >= ann - 0.01
    assert right[True] >= ann - 0.01


def test_any_order_of_sums_gives_the_same_bits():
    """Graph optimisation reorders them. Other runtimes are tried in test_other_runtimes.py."""
    with np.load(MODELS / "digits_test.npz") as arrays:
        feed = {"image": arrays["image"]}
    same = {}
    for power_of_two in (False, True):
        options = CompileOptions(target="standard", power_of_two=power_of_two)
        result = compile_model(DIGITS, CALIBRATION, options)
        plain, fast = (run_model(result.model, feed, optimise=o)[0] for o in (False, True))
        same[power_of_two] = np.array_equal(plain, fast)
        said = [
            change for s in result.report.passes if s.name == "exact_sums" for change in s.changes
        ]
        assert all(change.endswith("exact") for change in said)
        assert bool(said) == power_of_two
    assert same == {False: False, True: True}


def test_the_lowest_opset_or_the_one_asked_for(tmp_path):
    for asked, opset in ((None, 13), (15, 15), (17, 17)):
        model = compiled("relu", tmp_path, opset=asked)[2].model
        assert [(o.domain, o.version) for o in model.opset_import] == [("", opset)]
    normalised = compiled("curves and normalisation", tmp_path)[2].model
    assert normalised.opset_import[0].version == 17
    with pytest.raises(ModelError, match=r"LayerNormalization .* opset 16; leave out --opset"):
        compiled("curves and normalisation", tmp_path, opset=16)
    with pytest.raises(ModelError, match="newer than the installed onnx"):
        compiled("relu", tmp_path, opset=999)


def test_a_fixed_batch_leaves_no_dynamic_shape(tmp_path):
    _, x, result = compiled("relu", tmp_path, batch=4)
    values = [*result.model.graph.input, *result.model.graph.output]
    shapes = [[dim.dim_value for dim in v.type.tensor_type.shape.dim] for v in values]
    assert shapes == [[4, 4, 8, 8], [4, 5]]
    whole = compiled("relu", tmp_path)[2].model
    (expected,) = run_model(whole, {"x": x[:4]})
    (found,) = run_model(result.model, {"x": x[:4]})
    assert np.abs(found - expected).max() < 0.2 * np.abs(expected).max()
    inferred = onnx.shape_inference.infer_shapes(result.model, strict_mode=True)
    for value in inferred.graph.value_info:
        assert all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"timesteps": 4}, "one timestep"),
        ({"time_axis": True}, "one timestep"),
        ({"firing": "delayed"}, "one timestep"),
        ({"neuron": "signed"}, "give --timesteps"),
        ({"binary_spikes": "bits"}, "leave out --binary-spikes"),
        ({"power_of_two": True, "scale": 0.5}, "no powers of two"),
        ({"power_of_two": True, "search_scale": True}, "no powers of two"),
        ({"opset": 12}, "of at least 13"),
        ({"batch": 0}, "from 1 to"),
    ],
)
def test_options_that_do_not_go_with_it_are_refused(options, what):
    with pytest.raises(UsageError, match=what):
        resolved(target="standard", **options)


@pytest.mark.parametrize("target", ["onnxruntime", "int8"])
@pytest.mark.parametrize("options", [{"opset": 17}, {"batch": 1}, {"power_of_two": True}])
def test_its_options_have_no_effect_elsewhere(target, options):
    with pytest.raises(UsageError, match="only with --target standard"):
        resolved(target=target, **options)


def test_defaults():
    found = resolved(target="standard")
    assert (found.neuron, found.levels, found.granularity) == ("scale", 255, "channel")
    assert found.calibrator == "mse"
    assert (found.power_of_two, found.shortcuts, found.encode_input) == (True, "spikes", True)
    scaled = resolved(target="standard", scale=0.5)
    assert (scaled.power_of_two, scaled.shortcuts) == (False, "membrane")
    assert not resolved(target="standard", encode="activations").encode_input
    assert resolved(target="onnxruntime").power_of_two is None
    assert resolved(target="standard", neuron="scale").calibrator == "auto"
    assert resolved(target="standard", calibrator="max").calibrator == "max"
    assert resolved(target="standard", neuron="auto").neuron == "auto"
    assert resolved(target="standard", neuron="auto", levels=300).neuron == "multi-threshold"


def test_operators_of_other_domains_are_refused_and_functions_inlined():
    text = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (float[N,4] x) => (float[N,4] y) <float[4,4] w> {
        a = MatMul (x, w) r = Relu (a) y = own.%s (r) }"""
    function = """<domain: "own", opset_import: ["" : 17]> twice (a) => (b) { b = Add (a, a) }"""
    for op in ("twice", "unknown"):
        model = onnx.parser.parse_model(text % op + (function if op == "twice" else ""))
        weights = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
        for value in list(model.graph.value_info):
            model.graph.value_info.remove(value)
        if op == "unknown":
            with pytest.raises(ModelError):
                compile_model(model, options=CompileOptions(target="standard"))
            continue
        written = compile_model(model, options=CompileOptions(target="standard")).model
        assert not written.functions
        assert [o.domain for o in written.opset_import] == [""]


def test_a_foreign_operator_of_the_runtime_is_refused():
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[N,4] x) => (float[N,4] y) <float[4,4] w = {1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1}> {
        a = MatMul (x, w) r = Relu (a) y = com.microsoft.FastGelu (r) }""")
    for value in model.graph.value_info:
        assert value.name != "r"
    with pytest.raises(ModelError, match=r"domain 'com.microsoft'.*--target onnxruntime"):
        compile_model(model, options=CompileOptions(target="standard"))


def test_what_does_not_agree_as_much_as_was_asked_for_is_refused(tmp_path):
    with pytest.raises(VerificationError, match="more levels"):
        compiled("relu", tmp_path, levels=1, min_agreement=1.0)


def run(command, *arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.mark.parametrize("batch", [None, 4])
def test_the_same_bytes_twice_and_spikes_are_counted(batch, tmp_path):
    outputs = [tmp_path / name for name in ("one.onnx", "two.onnx")]
    arguments = ["--calibration", CALIBRATION, "--target", "standard"]
    arguments += [] if batch is None else ["--batch", batch]
    report = tmp_path / "report.json"
    for output in outputs:
        done = run(main, DIGITS, "-o", output, *arguments, "--report", report)
        assert done.exit_code == 0, done.output
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    arguments = ["--data", MODELS / "digits_test.npz", "--no-latency", "--json"]
    done = run(evaluate, DIGITS, outputs[0], *arguments)
    assert done.exit_code == 0, done.output
    evaluation, compiled_ = json.loads(done.stdout), json.loads(report.read_text())
    assert not evaluation["warnings"]
    named = [(n["name"], n["op"]) for n in compiled_["neurons"]]
    assert [(n["name"], n["op"]) for n in evaluation["neurons"]] == named
    assert {op for _, op in named} == {"ScaleFire"}
    assert not evaluation["snn"]["integers"]
