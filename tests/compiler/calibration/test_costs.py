"""Networks in which squared error is the wrong measure, compiled as a whole."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import model_from_text, run_model
from snn_compile.compiler.options import CompileOptions
from snn_compile.compiler.pipeline import compile_model

RNG = np.random.default_rng(0)
#: Samples of very different loudness.
LOUDNESS = 10 ** RNG.uniform(-3, 0, (160, 1))
VECTORS = (RNG.standard_normal((160, 32)) * LOUDNESS).astype(np.float32)
IMAGES = (RNG.standard_normal((160, 3, 10, 10)) * LOUDNESS[:, :, None, None]).astype(np.float32)
TIME = np.arange(512)
WAVES = sum(
    LOUDNESS * np.sin(2 * np.pi * TIME * RNG.uniform(1, 16, (160, 1)) / 40) for _ in range(3)
).astype(np.float32)[:, None]


def compiled(tmp_path, model, x, **options):
    """Relative error of the SNN on the last 40 samples, and the report; all others calibrate."""
    np.savez(tmp_path / "x.npz", x=x[:-40])
    result = compile_model(model, tmp_path / "x.npz", CompileOptions(**options))
    (expected,) = run_model(model, {"x": x[-40:]})
    (got,) = run_model(result.model, {"x": x[-40:]}, library=True, optimise=True)
    return np.linalg.norm(got - expected) / np.linalg.norm(expected), result.report


def with_constants(text, constants, seed=0):
    model = model_from_text(text, seed=seed)
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in constants]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in constants.items()
    )
    return model


WINDOW = np.hanning(64)
PHASES = 2 * np.pi * np.outer(np.arange(1, 17), np.arange(64)) / 40
FOURIER = np.concatenate([np.cos(PHASES), np.sin(PHASES)])[:, None] * WINDOW / 16
MEL = np.maximum(1 - np.abs(np.arange(16)[:, None] / 2 - np.arange(8)) / 1.5, 0)
FRONT_ENDS = {
    "decibels": """p0 = Conv <pads = [1, 1]> (x, low) s = Conv <strides = [16]> (p0, fourier)
        re, im = Split <axis = 1> (s, halves) rr = Mul (re, re) ii = Mul (im, im)
        p = Add (rr, ii) t = Transpose <perm = [0, 2, 1]> (p) m = MatMul (t, mel)
        e = Max (m, eps) g = Log (e) d = Mul (g, decibel) l = Transpose <perm = [0, 2, 1]> (d)""",
    "magnitudes": """s = Conv <strides = [16]> (x, fourier) q = Pow (s, two)
        re, im = Split <axis = 1> (q, halves) p = Add (re, im) a = Sqrt (p)
        t = Transpose <perm = [0, 2, 1]> (a) m = MatMul (t, mel) e = Add (m, eps)
        g = Log (e) l = Transpose <perm = [0, 2, 1]> (g)""",
    "cube roots": """s = Conv <strides = [16]> (x, fourier) re, im = Split <axis = 1> (s, halves)
        rr = Mul (re, re) ii = Mul (im, im) p = Add (rr, ii)
        t = Transpose <perm = [0, 2, 1]> (p) m = MatMul (t, mel) g = Pow (m, third)
        l = Transpose <perm = [0, 2, 1]> (g)""",
}


@pytest.mark.parametrize("spelling", FRONT_ENDS)
def test_quiet_bands_of_a_spectrogram_are_kept(tmp_path, spelling):
    model = with_constants(
        f"""g (float[N,1,512] x) => (float[N,5] y) <float[1,1,3] low, float[32,1,64] fourier,
            float[16,8] mel, float eps = {{1e-10}}, float decibel = {{4.3429}}, float two = {{2}},
            float third = {{0.3333}}, int64[2] halves = {{16,16}}, float[12,8,3] k, float[12] b,
            float[12,5] f> {{
            {FRONT_ENDS[spelling]} c = Conv (l, k, b) r = Relu (c) a1 = GlobalAveragePool (r)
            a2 = Flatten (a1) y = MatMul (a2, f) }}""",
        {"low": [[[0.25, 0.5, 0.25]]], "fourier": FOURIER, "mel": MEL},
    )
    error, report = compiled(tmp_path, model, WAVES, levels=255)
    assert error < 0.01
    kept = [line for line in report.coverage.lines if line.reason.startswith("preprocessing")]
    assert {"Conv", "MatMul"} <= {line.op for line in kept}
    assert not report.coverage.kept_activations()


WEIGHTS = """float[32,16] w, float[16,24] v, float[24,10] u, float[16,16] s, float eps = {1e-8},
    float[3,1,3,3] depth, float[8,3,1,1] point, float[8] scale_var, float[8] shift,
    float[8,8,3,3] k, float[8,6] f, int64[1] one = {1}, int64[3] groups = {0,2,-1},
    int64[4] channels = {0,8,8,8}, float[2] group_var, float[2] group_shift"""
IMAGE = """r = Relu (n) c = Conv (r, k) q = Relu (c) g = GlobalAveragePool (q) h = Flatten (g)
    y = MatMul (h, f)"""


@pytest.mark.parametrize(
    ("nodes", "x"),
    [
        (
            """a = MatMul (x, w) d = MatMul (a, v) n = ReduceL2 <axes = [1]> (a) e = Max (n, eps)
            c = Div (d, e) r = Relu (c) y = MatMul (r, u)""",
            VECTORS,
        ),
        (
            """a = MatMul (x, w) b = MatMul (a, s) q = Mul (b, b) n = ReduceSum (q, one)
            e = Sqrt (n) c = Div (b, e) d = MatMul (c, v) r = Relu (d) y = MatMul (r, u)""",
            VECTORS,
        ),
        (
            f"""a = Conv <group = 3> (x, depth) b = Conv (a, point)
            n = InstanceNormalization (b, scale_var, shift) {IMAGE}""",
            IMAGES,
        ),
        (
            f"""a = Conv <group = 3> (x, depth) b = Conv (a, point) b1 = Reshape (b, groups)
            b2 = InstanceNormalization (b1, group_var, group_shift) n = Reshape (b2, channels)
            {IMAGE}""",
            IMAGES,
        ),
    ],
    ids=["cosine", "unit length", "instances", "groups"],
)
def test_an_encoder_that_costs_more_than_all_others_is_left_out(tmp_path, nodes, x):
    shape, width = ("N,32", 10) if x is VECTORS else ("N,3,10,10", 6)
    model = model_from_text(
        f"g (float[{shape}] x) => (float[N,{width}] y) <{WEIGHTS}> {{ {nodes} }}"
    )
    error, report = compiled(tmp_path, model, x)
    assert error < 0.04
    (warning,) = [line for line in report.warnings if "left out" in line]
    assert "encoder a.encoder" in warning
    reasons = {line.name: line.reason for line in report.coverage.lines}
    assert warning in reasons.values()


BEHIND = "a = MatMul (x, w) r = Relu (a)"


@pytest.mark.parametrize(
    "nodes",
    [
        "m = MatMul (r, m_var) e = Add (m, eps) l = Log (e)",
        "n0 = MatMul (r, s) q = Mul (n0, n0) m = MatMul (q, m_var) e = Clip (m, eps) l = Log (e)",
        "m = MatMul (r, m_var) e = Add (m, eps) l = Pow (e, tenth)",
    ],
)
def test_neurons_in_front_of_a_logarithm_are_fitted_to_relative_error(tmp_path, nodes):
    text = f"""g (float[N,32] x) => (float[N,10] y) <float[32,16] w, float[16,16] s,
        float[16,24] m_var, float[24,10] u, float eps = {{1e-6}}, float tenth = {{0.1}}> {{
        {BEHIND} {nodes} z = MatMul (l, u) y = Relu (z) }}"""
    error, report = compiled(tmp_path, model_from_text(text), VECTORS)
    assert error < 0.06
    (step,) = [step for step in report.passes if step.name == "measure_costs"]
    assert any("fitted to relative error" in change for change in step.changes)


def test_networks_without_such_neurons_pay_nothing(tmp_path):
    text = f"""g (float[N,32] x) => (float[N,10] y) <{WEIGHTS}> {{
        a = MatMul (x, w) r = Relu (a) b = MatMul (r, v) y = MatMul (b, u) }}"""
    _, report = compiled(tmp_path, model_from_text(text), VECTORS)
    assert "measure_costs" not in [step.name for step in report.passes]
