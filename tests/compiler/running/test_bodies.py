"""Without the operator library: the same results on function bodies, and one warning."""

from __future__ import annotations

import warnings
from dataclasses import asdict

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import MODELS
from helpers import model_from_text
from snn_compile.compiler import CompileOptions, cli, compile_model
from snn_compile.compiler.evaluation.evaluate import EvaluationOptions, evaluate
from snn_compile.compiler.evaluation.latency import LatencyOptions
from snn_compile.compiler.model_io.save import save_network
from snn_compile.compiler.progress import Progress
from snn_compile.compiler.report.html import evaluation_html
from snn_compile.compiler.running.bodies import ObservingSession
from snn_compile.compiler.running.histograms import Watch, with_histograms
from snn_compile.compiler.running.session import make_session
from snn_compile.passes.graph.network import detach
from snn_compile.runtime_ops import has_library, library
from snn_compile.runtime_ops.library import MissingLibraryWarning

DIGITS = MODELS / "digits_resnet_dynamo.onnx"
CALIBRATION = MODELS / "digits_calibration.npz"
TEST = MODELS / "digits_test.npz"
MISSING = "the C\\+\\+ kernels are not installed"


@pytest.fixture
def remove_library(monkeypatch, tmp_path):
    """Call it, and the library is not installed."""

    def remove():
        monkeypatch.delenv("SNN_OPS_LIBRARY", raising=False)
        monkeypatch.setattr(library, "_installed", lambda: tmp_path / "libsnn_ops.so")

    library._warn_once.cache_clear()
    yield remove
    library._warn_once.cache_clear()


@pytest.fixture
def silently(remove_library):
    """The same, where the warning has been given."""

    def remove():
        remove_library()
        with pytest.warns(MissingLibraryWarning, match=MISSING):
            assert not has_library()

    return remove


def test_it_is_said_once(remove_library):
    assert has_library()
    remove_library()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert not has_library()
        assert not has_library()
    assert [warning.category for warning in caught] == [MissingLibraryWarning]


@pytest.mark.parametrize(
    "options",
    [{}, {"timesteps": 3}, {"neuron": "multi-threshold", "levels": 2000}, {"target": "int8"}],
    ids=["default", "timesteps", "many levels", "int8"],
)
def test_compiles_to_the_same_bytes(options, remove_library):
    options = CompileOptions(**options)
    expected = compile_model(DIGITS, CALIBRATION, options)
    remove_library()
    with pytest.warns(MissingLibraryWarning, match=MISSING) as caught:
        got = compile_model(DIGITS, CALIBRATION, options)
    assert len(caught) == 1
    assert got.model.SerializeToString() == expected.model.SerializeToString()
    bodies, kernels = (
        [asdict(part) for part in (*report.neurons, *report.verification.neurons)]
        for report in (got.report, expected.report)
    )
    np.testing.assert_equal(bodies, kernels)  # for which NaN is NaN
    assert got.report.verification.outputs == expected.report.verification.outputs


def test_claims_say_what_was_run(silently):
    silently()
    claims = compile_model(DIGITS, CALIBRATION).report.verification.claims
    assert claims == [
        "quantised ANN and SNN agree bit for bit, on function bodies: the C++ kernels are not "
        "installed"
    ]


def test_the_command_says_it_before_the_work(tmp_path, remove_library):
    remove_library()
    arguments = [DIGITS, "-o", tmp_path / "snn.onnx", "--calibration", CALIBRATION]
    result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("warning: the C++ kernels are not installed")
    assert result.stderr.count("warning") == 1


def test_evaluation_counts_the_same_spikes(tmp_path, silently, monkeypatch):
    monkeypatch.setattr("snn_compile.compiler.evaluation.evaluate.busy_machine", lambda: None)
    snn = tmp_path / "snn.onnx"
    save_network(compile_model(DIGITS, CALIBRATION).network, snn)
    options = EvaluationOptions(latency=LatencyOptions(batch=1, rounds=1, seconds=0.01))
    expected = evaluate(DIGITS, snn, TEST, options, Progress())
    silently()
    got = evaluate(DIGITS, snn, TEST, options, Progress())
    assert got.outputs == expected.outputs
    assert got.neurons == expected.neurons
    assert got.energy == expected.energy
    assert got.warnings == expected.warnings
    assert [one.network for one in expected.latency] == ["ann", "snn", "snn_functions"]
    assert [one.network for one in got.latency] == ["ann", "snn_functions"]
    assert "time, batch 1" in evaluation_html(got, None)


NETWORK = """
    g (float[N,3] x, bool c) => (float[N,3] y) {
        a = Exp (x)
        y = If (c) <
            then_branch = t () => (float[N,3] p) { b = Neg (a) p = Exp (b) },
            else_branch = w () => (float[N,3] q) { f = Tanh (a) q = Neg (f) }
        >
    }"""
WATCHED = [
    Watch("x", None, 1),
    Watch("a", 1, 3),
    Watch("b", 1, 3),
    Watch("f", None, 1),
    Watch("y", None, 1, (5, 20)),
    Watch("x", None, 1, (4, 8), top=128),
]


@pytest.mark.parametrize("taken", [True, False])
def test_observes_the_same_bits(taken, silently):
    x = np.random.default_rng(0).standard_normal((700, 3)).astype(np.float32)
    x[0], x[1, 1] = [np.nan, np.inf, -0.0], 90
    x *= np.float32(4)
    feed = {"x": x, "c": np.array(taken)}
    observing = with_histograms(detach(model_from_text(NETWORK)), WATCHED, ["y", "x"])
    expected = make_session(observing).run(None, feed)
    silently()
    session = make_session(observing)
    assert isinstance(session, ObservingSession)
    assert [value.name for value in session.get_inputs()] == ["x", "c"]
    assert [value.name for value in session.get_outputs()] == ["y", "x"]
    got = session.run(None, feed)
    assert len(got) == len(expected) == 2 + 4 * len(WATCHED)
    for one, other in zip(got, expected, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == other.tobytes()


def test_a_library_that_was_named_must_be_there(remove_library, monkeypatch, tmp_path):
    remove_library()
    monkeypatch.setenv("SNN_OPS_LIBRARY", str(tmp_path / "none.so"))
    assert has_library()
    with pytest.raises(FileNotFoundError, match="SNN_OPS_LIBRARY names no file"):
        make_session(model_from_text(NETWORK))
