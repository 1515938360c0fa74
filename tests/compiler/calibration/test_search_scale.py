"""The search of one scale for the steps of all neurons."""

from __future__ import annotations

import json
import logging
import math
import sys
from contextlib import closing
from dataclasses import asdict

import numpy as np
import pytest
from helpers import model_from_text, resolved
from onnx import helper, numpy_helper
from snn_compile.compiler.calibration.tuning.search_scale import (
    LEAST_SCALE,
    MOST_SAMPLES,
    MOST_SCALE,
    hold_out,
    is_homogeneous,
    search_scale,
)
from snn_compile.compiler.errors import UsageError
from snn_compile.compiler.progress import Progress
from snn_compile.compiler.running.expose import with_outputs
from snn_compile.compiler.running.fidelity import FidelityMeter
from snn_compile.compiler.running.reference import Reference
from snn_compile.compiler.running.session import make_session
from snn_compile.compiler.samples.base import input_specs
from snn_compile.compiler.samples.files import FileSamples
from snn_compile.passes.analysis.activations import find_activations
from snn_compile.passes.canonicalise.canonicalise import canonicalise
from snn_compile.passes.graph.network import is_detached
from snn_compile.passes.graph.protos import initializers_below
from snn_compile.passes.graph.surgeon import export_network, import_model
from snn_compile.passes.lowering.function_bodies import function_bodies
from snn_compile.passes.neurons.encode_edges import encode_edges
from snn_compile.passes.neurons.insert_quant_clip import insert_quant_clip
from snn_compile.passes.neurons.neuron import (
    DualNeuron,
    OctaveNeuron,
    StaircaseNeuron,
    ThresholdNeuron,
)
from snn_compile.passes.neurons.replace_activation import replace_activation
from snn_compile.runtime_ops.operators import neurons_of, register_schemas

optuna = pytest.importorskip("optuna", reason="needs optuna, the extra 'search'")

PERCEPTRON = """
    agraph (float[N, 8] x) => (float[N, 4] y, float[N, 12] seen)
    <float[8, 12] w1, float[12] b1, float[12, 12] w2, float[12, 12] w3, float[12, 4] w4,
     float low = {0.0}, float high = {6.0}> {
        h1 = MatMul (x, w1)
        p1 = Add (h1, b1)
        seen = Relu (p1)
        h2 = MatMul (seen, w2)
        leaky = LeakyRelu <alpha = 0.2> (h2)
        h3 = MatMul (leaky, w3)
        clipped = Clip (h3, low, high)
        curved = Sigmoid (h3)
        both = Add (clipped, curved)
        y = MatMul (both, w4)
    }
"""
IMAGE = """
    agraph (float[N, 2, 6, 6] x) => (float[N, 3, 6, 6] y)
    <float[4, 2, 3, 3] w1, float[3, 4, 3, 3] w2> {
        h = Conv <pads = [1, 1, 1, 1]> (x, w1)
        a = Relu (h)
        y = Conv <pads = [1, 1, 1, 1]> (a, w2)
    }
"""
BODY = """
    agraph (float[N, 4] x) => (float[N, 4] y)
    <float low = {-1000.0}> {
        total = ReduceMax <keepdims = 0> (x)
        yes = Greater (total, low)
        y = If (yes) <
            then_branch = taken () => (float[N, 4] t) { m = Neg (x)  r = Relu (m)  t = Mul (r, r) },
            else_branch = left () => (float[N, 4] e) { n = Neg (x)  e = Relu (n) }
        >
    }
"""


class Case:
    """A network whose neurons have their steps set by hand."""

    def __init__(
        self, text, folder, kind="scale", opset=17, count=40, batch=16, factor=1.0, channels=False
    ):
        register_schemas()
        graph = canonicalise(import_model(model_from_text(text, opset))).graph
        graph = encode_edges(graph, False).graph
        self.network = export_network(graph)
        self.activations = find_activations(graph)[0]
        specs = input_specs(self.network.proto)
        rng = np.random.default_rng(3)
        arrays = {s.name: rng.standard_normal((count, *s.shape[1:])) for s in specs}
        np.savez(folder / "samples.npz", **{k: v.astype(np.float32) for k, v in arrays.items()})
        self.samples = FileSamples(folder / "samples.npz", specs)
        self.batch = batch
        names = [activation.input for activation in self.activations]
        session = make_session(with_outputs(self.network, list(dict.fromkeys(names))))
        values = session.run(None, next(self.samples.batches(count)))
        tops = (np.abs(v).max(initial=0) for v in values)  # nothing of a branch not taken
        largest = dict(zip(dict.fromkeys(names), tops, strict=True))
        self.neurons = {
            a.output: self._neuron(a, kind, factor * largest[a.input] / 8, channels)
            for a in self.activations
            if largest[a.input] > 0
        }

    @staticmethod
    def _neuron(activation, kind, step, channels):
        if channels and activation.channels:
            step = step * np.linspace(0.5, 1, activation.channels)
        step = np.asarray(step, np.float32)
        given = {"axis": activation.axis or 1, "calibrator": "hand", "error": 0.1}
        k = np.arange(9)
        if not activation.linear:
            levels = activation.function.evaluate(k - 4.0)
            return StaircaseNeuron.of_staircase(
                **given,
                scale=np.ones((), np.float32),
                thresholds=np.float32(k[:8] - 3.5),
                levels=np.float32(levels),
            )
        if activation.upper < np.inf:
            step = np.asarray(activation.upper / 8, np.float32)
        if activation.signed:
            positive, negative = (_multiples(kind, step, sign, given) for sign in (1, -1))
            return DualNeuron(**given, positive=positive, negative=negative)
        return _multiples(kind, step, 1, given)

    def search(self, **options):
        with closing(Reference(self.network, self.samples, self.batch, Progress())) as reference:
            return search_scale(
                self.network,
                self.activations,
                self.neurons,
                self.samples,
                reference,
                resolved(search_scale=True, **options),
                Progress(),
            )

    def measure(self, neurons):
        """Error and spikes per sample as verification would find them, on all samples."""
        graph = insert_quant_clip(import_model(self.network), neurons).graph
        snn = function_bodies(export_network(replace_activation(graph).graph))
        outputs = [value.name for value in snn.proto.graph.output]
        fired = neurons_of(snn.proto)
        names = list(dict.fromkeys([*outputs, *(node.input[0] for node in fired)]))
        feed = next(self.samples.batches(self.samples.count))
        got = make_session(with_outputs(snn, names)).run(None, feed)
        found = dict(zip(names, got, strict=True))
        meters = [FidelityMeter(name) for name in outputs]
        for meter, wanted in zip(meters, make_session(self.network).run(None, feed), strict=True):
            meter.add(wanted, found[meter.result().name])
        error = np.sqrt(np.mean([meter.result().relative_l2 ** 2 for meter in meters]))
        spikes = sum(_spikes(snn, node, found[node.input[0]]) for node in fired)
        return error, spikes / self.samples.count


def _multiples(kind, step, sign, given):
    """A neuron with levels up to 8 steps above 0, or below it."""
    if kind == "staircase":
        k = np.arange(9)
        thresholds, levels = (k[:8] + 0.5, k) if sign > 0 else (k[:8] - 7.5, k - 8)
        return StaircaseNeuron.of_staircase(step, thresholds, levels, **given)
    tops = (8, 0) if sign > 0 else (0, 8)
    if kind == "scale":
        return OctaveNeuron(step, 4, *tops, **given)
    return ThresholdNeuron(step, *tops, **given)


def _spikes(snn, node, x):
    """Spikes that a neuron fires on its membrane potentials."""
    small = (t for t in initializers_below(snn.proto.graph) if not is_detached(t))
    constants = {t.name: numpy_helper.to_array(t) for t in small} | snn.weights
    step, *table = (constants[name] for name in node.input[1:])
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if step.ndim == 1 and x.size:
        step = step.reshape(-1, *[1] * (x.ndim - given["axis"] - 1))
    if table:
        [levels] = table
        unit = np.diff(np.unique(levels.astype(np.float64))).min()
        k = np.rint((levels - levels[np.abs(levels).argmin()]) / unit)
        cell = x * (np.float32(given["density"]) / step) - np.float32(given["start"])
        return float(np.abs(k)[np.clip(cell, 0, len(k) - 1).astype(int)].sum())
    if "linear" in given:
        # Of m = 4 and at most 8, levels are 0, 1, 2, 3, 4, 6, 8.
        assert given["linear"] == 4
        edges = np.array([0.5, 1.5, 2.5, 3.5, 5, 7])
        limit = np.where(x < 0, given["top_neg"], given["top_pos"])
        k = np.array([0, 1, 2, 3, 4, 6, 8])[np.searchsorted(edges, np.abs(x / step))]
        return float(np.minimum(k, limit).sum())
    limit = np.where(x < 0, given["levels_neg"], given["levels_pos"])
    return float(np.minimum(np.floor(np.abs(x) / step + 0.5), limit).sum())


@pytest.mark.parametrize("kind", ["scale", "staircase", "multi-threshold"])
@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("text", [PERCEPTRON, IMAGE])
@pytest.mark.parametrize("opset", [15, 18])
def test_trials_measure_the_scaled_network(text, kind, channels, opset, tmp_path):
    case = Case(text, tmp_path, kind, opset, channels=channels)
    _, report = case.search(trials=3)
    assert report.samples == 40
    assert report.trials[0].scale == 1
    for trial in report.trials:
        scaled = {
            a.output: case.neurons[a.output].scaled(trial.scale)
            if is_homogeneous(a)
            else case.neurons[a.output]
            for a in case.activations
        }
        error, spikes = case.measure(scaled)
        assert trial.error == pytest.approx(error, rel=1e-4)
        assert trial.spikes == pytest.approx(spikes, rel=1e-5)


def test_large_constants_are_scaled_too(tmp_path):
    text = "agraph (float[N, 1500] x) => (float[N, 1500] y) { h = Neg (x)  y = Relu (h) }"
    case = Case(text, tmp_path, "multi-threshold", channels=True)
    found, report = case.search(trials=2, spike_weight=0.0)
    other = case.neurons["y"].scaled(report.trials[1].scale)
    assert report.trials[1].error == pytest.approx(case.measure({"y": other})[0], rel=1e-4)
    assert found["y"].theta.shape == (1500,)


def test_neurons_inside_bodies_are_scaled(tmp_path):
    case = Case(BODY, tmp_path, "multi-threshold", factor=2.0)
    found, report = case.search(trials=6, spike_weight=0.0)
    assert report.scale < 1
    error, spikes = case.measure(found)
    best = min(report.trials, key=lambda trial: trial.error)
    assert best.error == pytest.approx(error, rel=1e-4)
    assert best.spikes == pytest.approx(spikes, rel=1e-5)


@pytest.mark.parametrize(("factor", "better"), [(2.0, [0]), (0.5, [1, 2])])
def test_steps_that_were_wrong_are_found(factor, better, tmp_path):
    case = Case(PERCEPTRON, tmp_path, factor=factor)
    _, report = case.search(trials=12, spike_weight=0.0)
    assert int(report.scale) in better
    first, best = report.trials[0], min(report.trials, key=lambda trial: trial.error)
    assert best.scale == report.scale
    assert best.error < 0.9 * first.error


def test_spikes_weigh_against_error(tmp_path):
    scales = [
        Case(PERCEPTRON, tmp_path).search(trials=12, spike_weight=weight)[1].scale
        for weight in (0.0, 100.0)
    ]
    assert scales[1] > max(scales[0], 1.5)


def test_objective_is_the_documented_one(tmp_path):
    _, report = Case(PERCEPTRON, tmp_path).search(trials=8, spike_weight=0.7)
    first = report.trials[0]
    for trial in report.trials:
        expected = trial.error / first.error + 0.7 * trial.spikes / first.spikes
        assert trial.objective == pytest.approx(expected)
    assert first.objective == pytest.approx(1.7)
    best = min(report.trials, key=lambda trial: trial.objective)
    assert report.scale == best.scale
    assert best.objective <= first.objective


def test_efficient_trials_are_the_pareto_front(tmp_path):
    _, report = Case(PERCEPTRON, tmp_path).search(trials=12)
    for trial in report.trials:
        dominated = any(
            other.error <= trial.error
            and other.spikes <= trial.spikes
            and (other.error < trial.error or other.spikes < trial.spikes)
            for other in report.trials
        )
        assert trial.efficient != dominated
    assert 0 < sum(trial.efficient for trial in report.trials) < len(report.trials)


def test_search_is_the_same_again_and_the_seed_changes_it(tmp_path):
    def trials(seed):
        return Case(PERCEPTRON, tmp_path).search(trials=8, seed=seed)[1].trials

    assert trials(1) == trials(1)
    assert trials(1) != trials(2)


def test_bounded_and_curved_neurons_stay(tmp_path):
    case = Case(PERCEPTRON, tmp_path, factor=2.0)
    found, report = case.search(trials=6, spike_weight=0.0)
    assert report.scale != 1
    stay = [a for a in case.activations if not is_homogeneous(a)]
    assert {a.op for a in stay} == {"Clip", "Sigmoid"}
    assert all(found[a.output] is case.neurons[a.output] for a in stay)
    moved = {a.op for a in case.activations if is_homogeneous(a)}
    assert moved == {"Relu", "LeakyRelu", "Encoder"}
    assert (report.scaled, report.fixed) == (len(case.activations) - 2, 2)


def test_nothing_to_scale_is_one_trial(tmp_path):
    text = "agraph (float[N, 8] x) => (float[N, 8] y) { h = Neg (x)  y = Sigmoid (h) }"
    case = Case(text, tmp_path)
    found, report = case.search(trials=9)
    assert [trial.scale for trial in report.trials] == [1.0]
    assert report.scaled == 0
    assert found == case.neurons


def test_scales_stay_in_their_range(tmp_path):
    _, report = Case(PERCEPTRON, tmp_path).search(trials=10)
    assert all(LEAST_SCALE <= trial.scale <= MOST_SCALE for trial in report.trials)


def test_at_most_so_many_samples_are_used(tmp_path):
    _, report = Case(PERCEPTRON, tmp_path, count=200, batch=8).search(trials=1)
    assert report.samples == MOST_SAMPLES == 64


def test_samples_are_from_all_over(tmp_path):
    case = Case(PERCEPTRON, tmp_path, count=200, batch=8)
    x = np.zeros((200, 8), np.float32)
    x[100:] = 1
    np.savez(tmp_path / "samples.npz", x=x)
    _, report = case.search(trials=1)
    _, spikes = case.measure(case.neurons)
    assert report.trials[0].spikes == pytest.approx(spikes, rel=0.1)


def parts(count, folder, text=PERCEPTRON):
    case = Case(text, folder, count=count)
    return case.samples, *hold_out(case.samples)


def rows(samples):
    return np.concatenate([feed["x"] for feed in samples.batches(7)])


@pytest.mark.parametrize(("count", "held"), [(32, 8), (100, 25), (256, 64), (640, 64), (700, 70)])
def test_samples_held_out_are_not_calibrated_with(count, held, tmp_path):
    whole, rest, kept = parts(count, tmp_path)
    assert (rest.count, kept.count) == (count - held, held)
    assert (len(rows(rest)), len(rows(kept))) == (count - held, held)
    assert kept.origin.startswith(f"{held} of {count} samples")
    together = np.concatenate([rows(rest), rows(kept)])
    order = np.lexsort(together.T), np.lexsort(rows(whole).T)
    np.testing.assert_array_equal(together[order[0]], rows(whole)[order[1]])
    every = count // held
    np.testing.assert_array_equal(rows(kept), rows(whole)[every - 1 :: every][:held])


def test_few_samples_are_not_split(tmp_path):
    whole, rest, kept = parts(31, tmp_path)
    assert rest is kept is whole


def test_batch_that_the_model_fixes_is_held_out_whole_or_not_at_all(tmp_path):
    text = PERCEPTRON.replace("[N, ", "[10, ")
    whole, rest, kept = parts(39, tmp_path, text)
    assert rest is kept is whole
    whole, rest, kept = parts(40, tmp_path, text)
    assert kept.fixed_batch == rest.fixed_batch == 10
    assert [len(feed["x"]) for feed in kept.batches(32)] == [10]


def test_network_without_error_keeps_its_scale(tmp_path):
    text = "agraph (float[N, 4] x) => (float[N, 4] y) { h = Abs (x)  m = Neg (h)  y = Relu (m) }"
    found, report = (case := Case(text, tmp_path)).search(trials=5)
    assert report.scale == 1
    assert found == case.neurons
    assert all(trial.error == trial.spikes == 0 for trial in report.trials)


def test_report_is_json_and_tells_how_to_repeat_it(tmp_path):
    _, report = Case(PERCEPTRON, tmp_path).search(trials=3, seed=7)
    content = json.loads(json.dumps(asdict(report), allow_nan=False))
    assert content["seed"] == 7
    assert content["sampler"] == f"optuna TPESampler {optuna.__version__}"
    assert len(content["trials"]) == 3
    assert "spikes / spikes(1)" in content["objective"]


def test_optuna_says_nothing_and_keeps_its_verbosity(tmp_path):
    said = []
    handler = logging.Handler()
    handler.emit = said.append
    case = Case(PERCEPTRON, tmp_path)
    before = optuna.logging.get_verbosity()
    logging.getLogger("optuna").addHandler(handler)
    try:
        case.search(trials=2)
    finally:
        logging.getLogger("optuna").removeHandler(handler)
    assert not said
    assert optuna.logging.get_verbosity() == before


def test_optuna_is_missing(tmp_path, monkeypatch):
    case = Case(PERCEPTRON, tmp_path)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"needs optuna: pip install 'snn-compile\[search\]'"):
        case.search()


def test_network_without_outputs_to_compare(tmp_path):
    text = "agraph (float[N, 8] x) => (int64[N, 1] y) { a = Relu (x)  y = ArgMax <axis = 1> (a) }"
    with pytest.raises(UsageError, match="no output holds floats"):
        Case(text, tmp_path).search()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "--trials 0 cannot be used; give a whole number of at least 1"),
        ({"spike_weight": -0.1}, "--spike-weight -0.1 cannot be used; give a finite number of at"),
        ({"spike_weight": math.nan}, "--spike-weight nan cannot be used"),
    ],
)
def test_options_that_make_no_search(options, message):
    with pytest.raises(UsageError, match=message):
        resolved(search_scale=True, **options)
