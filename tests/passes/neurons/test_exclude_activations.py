"""What the user names stays in float, and so does what reads it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from helpers import model_from_text
from snn_compile.compiler import CompileOptions, cli, compile_model
from snn_compile.compiler.errors import ModelError, UsageError
from snn_compile.passes.analysis.activations import why_kept
from snn_compile.passes.graph.surgeon import import_model
from snn_compile.passes.neurons.exclude_activations import (
    EXCLUDED,
    NothingExcludedError,
    exclude_activations,
)

MODEL = """g (float[N,3,8,8] x) => (float[N,2] y)
    <float[4,3,3,3] w1, float[4,4,3,3] w2, float[4,2] w3, int64[1] axes = {{1}}> {{
    a = Conv <pads = [1, 1, 1, 1]> (x, w1)
    r1 = Relu (a)
    p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r1)
    b = Conv <pads = [1, 1, 1, 1]> (p, w2)
    r2 = {second} (b)
    m = GlobalAveragePool (r2)
    f = Flatten (m)
    y = MatMul (f, w3)
}}"""
NAMES = {  # as exporters write them, by the output
    "torch": {"r1": "/features/features.0/act/Relu", "r2": "/features/features.1/act/Relu"},
    "keras": {"r1": "model/re_lu/Relu", "r2": "model/re_lu_1/Relu;model/bn/FusedBatchNormV3"},
    "jax": {"r1": "jit(relu)[0]/max_0", "r2": "jit(relu)[1]/max_1"},
}


def network(second="Relu", names=()):
    model = model_from_text(MODEL.format(second=second))
    rng = np.random.default_rng(1)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("w"):
            values = rng.normal(0, 0.3, tuple(tensor.dims)).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    for node in model.graph.node:
        node.name = dict(names).get(node.output[0], f"n_{node.output[0]}")
    return model


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "x.npy"
    np.save(path, np.random.default_rng(0).normal(0, 1, (16, 3, 8, 8)).astype(np.float32))
    return path


def coverage(report):
    return {line.name: (line.status, line.reason) for line in report.coverage.lines}


def marked(graph):
    return {node.name for node in graph.nodes if why_kept(node) == EXCLUDED}


@pytest.mark.parametrize("style", NAMES)
@pytest.mark.parametrize("wanted", ["name", "output", "wildcard"])
def test_an_activation_is_named_by_itself_its_output_or_a_pattern(style, wanted):
    names = NAMES[style]
    graph = import_model(network(names=names))
    pattern = {"name": names["r1"], "output": "r1", "wildcard": names["r1"][:-3] + "*"}[wanted]
    if wanted == "wildcard" and style == "jax":
        pattern = "jit(relu)?0?/*"
    exclude_activations(graph, [pattern])
    assert marked(graph) == {names["r1"], "n_b"}  # and what reads it through the pooling


def test_an_excluded_activation_reaches_linear_operators_in_float(samples):
    report = compile_model(network(), samples, CompileOptions(exclude=("n_r1",))).report
    found = coverage(report)
    assert found["n_r1"] == found["n_b"] == ("kept", EXCLUDED)
    assert found["n_r2"] == ("converted", "")
    assert {neuron.name for neuron in report.neurons} == {"n_r2", "f.encoder"}
    assert report.settings["exclude"] == ["n_r1"]


def test_an_encoder_is_excluded_by_its_name_or_its_tensors(samples):
    for pattern in ("f.encoder", "f", "?.encoder"):
        report = compile_model(network(), samples, CompileOptions(exclude=(pattern,))).report
        assert coverage(report)["n_y"] == ("kept", EXCLUDED)
        assert {neuron.name for neuron in report.neurons} == {"n_r1", "n_r2"}


def test_what_reads_the_networks_own_input_is_excluded_only_where_that_is_encoded(samples):
    for pattern in ("x", "x.encoder", "x.*"):
        with pytest.raises(UsageError, match="no encoder is called"):
            compile_model(network(), samples, CompileOptions(exclude=(pattern,)))
        both = CompileOptions(exclude=(pattern,), encode_input=True)
        assert coverage(compile_model(network(), samples, both).report)["n_a"] == ("kept", EXCLUDED)
    report = compile_model(network(), samples, CompileOptions(exclude=("*.encoder",))).report
    assert "--encode-input" in coverage(report)["n_a"][1]
    assert coverage(report)["n_y"] == ("kept", EXCLUDED)


def test_what_is_not_excluded_is_as_without_it(samples):
    """The last activation has nothing but the pooling behind it."""
    plain = compile_model(network(), samples).model
    less = compile_model(network(), samples, CompileOptions(exclude=("n_r2",))).model
    kinds = [[node.op_type for node in model.graph.node] for model in (plain, less)]
    assert kinds[1].count("Relu") == 1 and kinds[0].count("Relu") == 0
    provenance = {entry.key: entry.value for entry in less.metadata_props}
    assert provenance["snn_compile.exclude"] == "n_r2"


@pytest.mark.parametrize("target", ["standard", "int8", "qonnx"])
def test_every_target_takes_it(samples, target):
    options = CompileOptions(target=target, exclude=("n_r1",))
    result = compile_model(network(), samples, options)
    assert coverage(result.report)["n_r1"] == ("kept", EXCLUDED)


@pytest.mark.parametrize("second", ["Sigmoid", "Tanh", "Elu", "HardSwish"])
def test_curves_are_excluded_too(samples, second):
    report = compile_model(network(second), samples, CompileOptions(exclude=("*r2",))).report
    assert coverage(report)["n_r2"] == ("kept", EXCLUDED)


def test_a_pattern_that_matches_nothing_is_refused_with_names_like_it(samples, tmp_path):
    with pytest.raises(NothingExcludedError, match=r"called 'r3'; there are .*r2"):
        exclude_activations(import_model(network()), ["r1", "r3"])
    for pattern in ("n_r3", "N_R1", "n_b"):  # case counts; a Conv is no activation
        with pytest.raises(UsageError, match="--exclude: no activation and no encoder is called"):
            compile_model(network(), samples, CompileOptions(exclude=("n_r1", pattern)))
    onnx.save(network(), tmp_path / "m.onnx")
    arguments = [tmp_path / "m.onnx", "-o", tmp_path / "s.onnx", "--calibration", samples]
    arguments += ["--exclude", "n_r1", "--exclude", "relu"]
    result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
    assert result.exit_code == 2 and "'relu'" in result.stderr
    assert not (tmp_path / "s.onnx").exists()


def test_if_everything_is_excluded_nothing_is_left_to_convert(samples):
    with pytest.raises(ModelError, match=r"nothing to convert.*excluded by --exclude"):
        compile_model(network(), samples, CompileOptions(exclude=("*",)))
