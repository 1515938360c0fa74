"""The C example: ONNX Runtime and the operator library in a program without Python."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import MODELS, REPOSITORY
from snn_compile.compiler import compile_model
from snn_compile.runtime_ops import library_path, register

SOURCE = REPOSITORY / "runtime_ops" / "examples" / "embed.c"
SHAPE = (2, 3, 4)


@pytest.fixture(scope="module")
def runtime():
    """The runtime's own shared library; Python's extension module beside it has no C API."""
    folder = Path(ort.__file__).parent / "capi"
    found = [
        *sorted(folder.glob("libonnxruntime.so*")),
        *sorted(folder.glob("libonnxruntime*.dylib")),
    ]
    if not found:
        pytest.skip(f"the wheel of onnxruntime {ort.__version__} has no libonnxruntime")
    return found[0]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The example, compiled."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: neither cc nor gcc is on the path")
    path = tmp_path_factory.mktemp("embed") / "embed"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror"]
    built = subprocess.run(
        [compiler, *flags, "-o", path, SOURCE, "-ldl"], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    return path


@pytest.fixture(scope="module")
def digits_snn(tmp_path_factory):
    """The bundled network, compiled."""
    result = compile_model(
        MODELS / "digits_resnet_torchscript.onnx", MODELS / "digits_calibration.npz"
    )
    path = tmp_path_factory.mktemp("digits") / "digits_snn.onnx"
    onnx.save(result.model, path)
    return path


@pytest.fixture
def neuron(tmp_path):
    """One neuron without its definition in standard operators: only the library can run it."""
    return neuron_model(tmp_path / "neuron.onnx")


@pytest.fixture
def values(tmp_path):
    """Input values of SHAPE in a file, awkward ones among them."""
    array = np.random.default_rng(0).normal(0, 2, SHAPE).astype(np.float32)
    array.flat[:6] = [-0.0, np.inf, -np.inf, 1e-45, -1e-45, 0.25]
    path = tmp_path / "values.f32"
    array.tofile(path)
    return path


def neuron_model(path, inputs="float[n,c,4] X", theta="float[3] theta = {0.5, 0.7, 0.1}"):
    text = f"""<ir_version: 8, opset_import: ["" : 17, "ai.snn" : 1]>
        g ({inputs}) => (float[n,c,4] Y) <{theta}> {{
            [neuron] Y = ai.snn.MultiThresholdFire <levels_pos = 7, levels_neg = 3> (X, theta)
        }}"""
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def run(program, *arguments):
    """The example in an empty environment."""
    return subprocess.run(
        [program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={},
        timeout=60,
    )


def outputs(finished):
    """What it printed, as arrays by output name."""
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    arrays = {}
    for block in finished.stdout.split("# ")[1:]:
        head, *lines = block.splitlines()
        name, shape = head.rsplit(" ", 1)
        dims = [int(dim) for dim in shape.strip("[]").split(",") if dim]
        arrays[name] = np.array(lines, np.float64).astype(np.float32).reshape(dims)
    return arrays


def expected(model, array):
    """The same from Python."""
    session = ort.InferenceSession(
        model, register(ort.SessionOptions()), providers=["CPUExecutionProvider"]
    )
    results = session.run(None, {session.get_inputs()[0].name: array})
    return dict(zip([output.name for output in session.get_outputs()], results, strict=True))


def assert_same_outputs(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(
            first[name].view(np.uint32), second[name].view(np.uint32), strict=True
        )


def assert_refused(finished, code, *named):
    """Failed with one message, which names what is wrong."""
    assert finished.returncode == code, finished.stderr
    assert finished.stdout == ""
    for text in named:
        assert str(text) in finished.stderr


def test_neuron_gives_the_bits_of_python(program, runtime, neuron, values):
    printed = outputs(run(program, runtime, library_path(), neuron, values, *SHAPE))
    array = np.fromfile(values, np.float32).reshape(SHAPE)
    assert_same_outputs(printed, expected(neuron, array))
    assert len(np.unique(printed["Y"])) > 5


def test_compiled_network_gives_the_bits_of_python(program, runtime, digits_snn, tmp_path):
    images = np.random.default_rng(0).random((16, 1, 8, 8), np.float32)
    images.tofile(tmp_path / "images.f32")
    arguments = (runtime, library_path(), digits_snn, tmp_path / "images.f32", *images.shape)
    printed = outputs(run(program, *arguments))
    assert printed["logits"].shape == (16, 10)
    assert_same_outputs(printed, expected(digits_snn, images))


def test_zeros_and_the_shape_that_the_model_declares(program, runtime, digits_snn):
    printed = outputs(run(program, runtime, library_path(), digits_snn, "zeros"))
    assert_same_outputs(printed, expected(digits_snn, np.zeros((1, 1, 8, 8), np.float32)))


def test_no_values_at_all(program, runtime, neuron):
    printed = outputs(run(program, runtime, library_path(), neuron, "zeros", 0, 3, 4))
    assert printed["Y"].shape == (0, 3, 4)


def test_missing_files_are_named(program, runtime, neuron, values, tmp_path):
    missing = tmp_path / "missing"
    good = (runtime, library_path(), neuron, values)
    for index in range(len(good)):
        arguments = [*good[:index], missing, *good[index + 1 :], *SHAPE]
        assert_refused(run(program, *arguments), 1, missing)


def test_libraries_that_are_something_else_are_named(program, runtime, neuron, values):
    library = library_path()
    finished = run(program, library, library, neuron, values, *SHAPE)
    assert_refused(finished, 1, library, "OrtGetApiBase")
    finished = run(program, runtime, runtime, neuron, values, *SHAPE)
    assert_refused(finished, 1, runtime, "RegisterCustomOps")


@pytest.mark.parametrize(
    ("dims", "amount"),
    [((2, 3, 5), "only 96 bytes"), ((1, 3, 4), "more than 48 bytes"), ((2, 3), "more than 24")],
    ids=str,
)
def test_wrong_number_of_values_is_named(program, runtime, neuron, values, dims, amount):
    finished = run(program, runtime, library_path(), neuron, values, *dims)
    shape = "[" + ",".join(map(str, dims)) + "]"
    assert_refused(finished, 1, values, amount, f"{np.prod(dims)} values", shape)


def test_shape_beyond_memory_is_refused(program, runtime, neuron):
    finished = run(program, runtime, library_path(), neuron, "zeros", 2**40, 2**40, 4)
    assert_refused(finished, 1, f"[{2**40},{2**40},4]")


def test_what_the_kernel_and_the_runtime_refuse_is_passed_on(program, runtime, neuron):
    library = library_path()
    assert_refused(run(program, runtime, library, neuron, "zeros", 1, 2, 4), 1, "neuron", "theta")
    assert_refused(run(program, runtime, library, neuron, "zeros", 1, 3, 5), 1, neuron, "X")


def test_models_the_example_is_not_for_are_refused(program, runtime, tmp_path):
    two = neuron_model(tmp_path / "two.onnx", "float[n,c,4] X, float[3] theta", theta="")
    assert_refused(run(program, runtime, library_path(), two, "zeros"), 1, two, "2 inputs")
    integers = tmp_path / "integers.onnx"
    text = '<ir_version: 8, opset_import: ["" : 17]> g (int64[2] X) => (int64[2] Y) { Y = Abs(X) }'
    onnx.save(onnx.parser.parse_model(text), integers)
    assert_refused(run(program, runtime, library_path(), integers, "zeros"), 1, integers, "float32")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "usage"),
        (["runtime", "library", "model"], "usage"),
        (["runtime", "library", "model", "zeros", "2", "x"], "'x'"),
        (["runtime", "library", "model", "zeros", "-1"], "'-1'"),
        (["runtime", "library", "model", "zeros", "9" * 30], "'999"),
        (["runtime", "library", "model", "zeros", *["1"] * 33], "33 dimensions"),
    ],
    ids=str,
)
def test_usage_errors(program, arguments, named):
    assert_refused(run(program, *arguments), 2, named)
