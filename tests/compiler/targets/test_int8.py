"""Target int8 from a model to a file: kernels, options, what stays in float, what is refused."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from helpers import full_weights, model_from_text, resolved
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.cli import main
from snn_compile.compiler.errors import UsageError

CONVS = (
    "float[8,4,3,3] w, float[8] wb, float[8,1,3,3] d, float[8] db, float[4,8,1,1] u, float[4] ub"
)
BLOCK = """a = Conv <pads = [1,1,1,1]> (x, w, wb) r = Clip (a, zero, six)
           b = Conv <group = 8, pads = [1,1,1,1]> (r, d, db) q = Relu (b) c = Conv (q, u, ub)"""
BOUNDS = ", float zero = {0.0}, float six = {6.0}"

NETWORKS = {
    "chain": (BLOCK + " y = Relu (c)", CONVS + BOUNDS, "float[N,4,H,W] y", "float[N,4,8,8] x"),
    "bottleneck": (
        BLOCK
        + """ s = Add (c, x) t = Conv <pads = [1,1,1,1]> (s, w, wb) p = Relu (t)
        g = GlobalAveragePool (p) f = Flatten (g) y = Gemm (f, m, mb)""",
        CONVS + BOUNDS + ", float[8,5] m, float[5] mb",
        "float[N,5] y",
        "float[N,4,8,8] x",
    ),
    "gated": (
        BLOCK + " h = Sigmoid (c) s = Mul (c, h) o = Relu (s) y = Conv <pads = [1,1,1,1]> (o, w)",
        CONVS + BOUNDS,
        "float[N,8,H,W] y",
        "float[N,4,8,8] x",
    ),
    "excited": (
        BLOCK
        + """ m = GlobalAveragePool (c) e = Conv (m, s) h = Sigmoid (e) g = Mul (c, h)
        o = Relu (g) y = Conv <pads = [1,1,1,1]> (o, w)""",
        CONVS + BOUNDS + ", float[4,4,1,1] s",
        "float[N,8,H,W] y",
        "float[N,4,8,8] x",
    ),
    "joined": (
        """a = Conv <pads = [1,1,1,1]> (x, w, wb) r = Relu (a) l = LeakyRelu (a)
           j = Concat <axis = 1> (r, l) p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (j)
           y = Conv (p, k)""",
        CONVS + ", float[3,16,1,1] k",
        "float[N,3,H,W] y",
        "float[N,4,8,8] x",
    ),
    "one dimension": (
        "a = Conv <pads = [1,1]> (x, v, vb) r = Relu (a) y = Conv (r, z)",
        "float[6,4,3] v, float[6] vb, float[3,6,1] z",
        "float[N,3,L] y",
        "float[N,4,12] x",
    ),
    "upsampled": (
        """a = Conv <pads = [1,1,1,1]> (x, w, wb) r = Relu (a) t = ConvTranspose <strides = [2,2]>
           (r, n) y = Relu (t)""",
        CONVS + ", float[8,3,2,2] n",
        "float[N,3,H,W] y",
        "float[N,4,8,8] x",
    ),
    "attention": (
        """q = MatMul (x, wq) k = MatMul (x, wk) kt = Transpose <perm = [0,2,1]> (k)
           e = MatMul (q, kt) s = Softmax (e) v = MatMul (x, wv) o = MatMul (s, v)
           n = Add (o, x) l = LayerNormalization (n, g) h = MatMul (l, wq) r = Relu (h)
           y = MatMul (r, wk)""",
        "float[6,6] wq, float[6,6] wk, float[6,6] wv, float[6] g",
        "float[N,5,6] y",
        "float[N,5,6] x",
    ),
}
KERNELS = {
    "chain": {"QLinearConv": 3},
    "bottleneck": {"QLinearConv": 4, "QLinearAdd": 1, "QLinearGlobalAveragePool": 1, "QGemm": 1},
    "gated": {"QLinearConv": 4},
    "excited": {"QLinearConv": 5, "QLinearMul": 1, "QLinearGlobalAveragePool": 1},
    "joined": {"QLinearConv": 2, "QLinearConcat": 1},
    "one dimension": {"QLinearConv": 2},
    "upsampled": {"QLinearConv": 1},
    "attention": {"MatMulIntegerToFloat": 7},
}
IN_FLOAT = {
    "gated": {"Swish"},
    "excited": {"Sigmoid"},
    "joined": {"LeakyRelu"},
    "upsampled": {"ConvTranspose"},
    "attention": {"Softmax", "LayerNormalization", "Add"},
}


def source(name):
    nodes, weights, outputs, inputs = NETWORKS[name]
    return model_from_text(f"g ({inputs}) => ({outputs}) <{weights}> {{ {nodes} }}")


def samples(name, folder, count=48):
    shape = [dim.dim_value for dim in source(name).graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).standard_normal([count, *shape[1:]]).astype(np.float32)
    np.save(folder / "x.npy", x)
    return x, folder / "x.npy"


def session(model, folder=None):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if folder is not None:
        options.optimized_model_filepath = str(folder / "optimised.onnx")
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def kernels(model, folder):
    session(model, folder)
    return Counter(n.op_type for n in onnx.load(folder / "optimised.onnx").graph.node)


@pytest.mark.parametrize("levels", [255, 32])
@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_of_integers_compute_it_and_it_is_close(name, levels, tmp_path):
    x, file = samples(name, tmp_path)
    options = CompileOptions(target="int8", levels=levels)
    result = compile_model(source(name), file, options)
    model = result.model
    onnx.checker.check_model(model, full_check=True)
    assert {opset.domain for opset in model.opset_import} == {""}
    found = kernels(model, tmp_path)
    assert {op: found[op] for op in KERNELS[name]} == KERNELS[name]
    assert found["Conv"] == found["Gemm"] == found["MatMul"] == 0
    (step,) = [step for step in result.report.passes if step.name == "quantise_linear"]
    listed = {line.split()[0] for line in step.changes if ": in float, " in line}
    assert listed == IN_FLOAT.get(name, set())
    exact, got = (session(m).run(None, {"x": x})[0] for m in (source(name), model))
    error = np.linalg.norm(exact - got) / np.linalg.norm(exact)
    assert error < (0.05 if levels == 255 else 0.3)


def test_the_same_bytes_twice(tmp_path):
    _, file = samples("bottleneck", tmp_path)
    options = CompileOptions(target="int8")
    one, other = (
        compile_model(source("bottleneck"), file, options).model.SerializeToString()
        for _ in range(2)
    )
    assert one == other


def test_weights_are_safe_for_what_each_operator_reads_unless_all_bits_are_asked_for(tmp_path):
    _, file = samples("bottleneck", tmp_path)

    def largest(**options):
        model = compile_model(
            source("bottleneck"), file, CompileOptions(target="int8", **options)
        ).model
        weights = [
            onnx.numpy_helper.to_array(t)
            for t in model.graph.initializer
            if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1
        ]
        return [int(np.abs(w.astype(np.int32)).max()) for w in weights]

    assert largest() == [64] * 5
    # The input and the sum are membranes of 255 levels, the classifier's input has 32.
    assert sorted(largest(levels=32)) == [64, 127, 127, 127, 127]
    with full_weights():
        assert largest(int8_weights="full") == [127] * 5


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"timesteps": 4}, "one timestep"),
        ({"time_axis": True}, "one timestep"),
        ({"firing": "delayed"}, "one timestep"),
        ({"neuron": "scale"}, "multiples of one threshold"),
        ({"neuron": "signed"}, "multiples of one threshold"),
        ({"binary_spikes": "bits"}, "leave out --binary-spikes"),
        ({"levels_budget": 0.5}, "share their levels"),
        ({"search_scale": True}, "share their levels"),
        ({"levels": 256}, "8 bits hold 255"),
        ({"granularity": "channel"}, "one threshold each"),
        ({"encode": "activations"}, "only tensors that are encoded"),
        ({"calibrator": "density"}, "density"),
    ],
)
def test_options_that_8_bits_cannot_have_are_refused(options, what):
    with pytest.raises(UsageError, match=what):
        resolved(target="int8", **options)


def test_defaults_and_what_may_be_chosen():
    found = resolved(target="int8")
    assert (found.levels, found.neuron, found.granularity) == (255, "multi-threshold", "tensor")
    assert (found.shortcuts, found.encode_input, found.int8_weights) == ("spikes", True, "safe")
    assert resolved(target="int8", levels=32).shortcuts == "membrane"
    assert resolved(target="int8", levels=32, shortcuts="spikes").shortcuts == "spikes"
    assert resolved(target="int8", int8_weights="full").int8_weights == "full"
    with pytest.raises(UsageError, match="only with --target int8"):
        resolved(int8_weights="full")


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_says_what_holds_and_writes_nothing_where_a_model_is_refused(tmp_path):
    x, file = samples("gated", tmp_path)
    onnx.save(source("gated"), tmp_path / "ann.onnx")
    output = tmp_path / "snn.onnx"
    arguments = ["--calibration", file, "--target", "int8"]
    done = run(tmp_path / "ann.onnx", "-o", output, *arguments)
    assert done.exit_code == 0
    assert "in float: 1 Swish, " in done.output
    again = run(output, "-o", tmp_path / "twice.onnx", *arguments)
    assert again.exit_code == 3
    assert "already quantised" in again.output
    np.save(file, np.where(x > 1, np.nan, x))
    broken = run(tmp_path / "ann.onnx", "-o", tmp_path / "twice.onnx", *arguments)
    assert broken.exit_code == 4
    assert not (tmp_path / "twice.onnx").exists()


def test_a_branch(tmp_path):
    text = """g (float[N,4] x, bool[1] c) => (float[N,4] y) <float[4,4] w, float[4,4] v> {
        a = MatMul (x, w) r = Relu (a)
        y = If (c) <then_branch = t () => (float[N,4] p) { m = MatMul (r, v) p = Relu (m) },
                    else_branch = e () => (float[N,4] q) { q = Neg (r) }> }"""
    x = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
    model = model_from_text(text)
    np.savez(tmp_path / "x.npz", x=x, c=np.array([True, False] * 30))
    result = compile_model(model, tmp_path / "x.npz", CompileOptions(target="int8"))
    for first, c in enumerate((True, False)):
        feed = {"x": x[first::2], "c": np.array([c])}
        exact, got = (session(m).run(None, feed)[0] for m in (model, result.model))
        assert np.linalg.norm(exact - got) < 0.05 * np.linalg.norm(exact)
