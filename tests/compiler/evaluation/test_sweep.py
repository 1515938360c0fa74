"""Sweeps: which networks are compiled, and which of them are on the Pareto front."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import made_up_results as made_up
import numpy as np
import pytest
from helpers import model_from_text
from made_up_results import point
from snn_compile.compiler import CompileOptions, compile_model, front_end
from snn_compile.compiler.errors import ModelError, UsageError
from snn_compile.compiler.evaluation.sweep import Setting, mark_pareto, parse_sweep, sweep
from snn_compile.compiler.progress import Progress
from snn_compile.compiler.report.results import SweepPoint
from snn_compile.compiler.report.sweep_points import accuracy_of, energy_of
from snn_compile.passes.graph.protos import initializers_below
from snn_compile.runtime_ops.operators import neurons_of

MODEL = """
    g (float[N, 4] x) => (float[N, 3] y) <float[4, 8] w1, float[8, 3] w2> {
        h = MatMul (x, w1)
        a = Relu (h)
        y = MatMul (a, w2)
    }
"""
PLAIN = CompileOptions(
    levels=8,
    calibrator="max",
    granularity="tensor",
    neuron="multi-threshold",
    sequential=False,
    bias_correction=False,
    compensation=False,
)


@pytest.fixture
def samples(tmp_path):
    np.save(tmp_path / "c.npy", np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32))
    return tmp_path / "c.npy"


# Specifications


@pytest.mark.parametrize(
    ("specifications", "expected"),
    [
        (["levels=4,8"], [Setting(4), Setting(8)]),
        (["scale=0.5,1"], [Setting(None, 0.5), Setting(None, 1.0)]),
        (["scale=2", "levels=8,4"], [Setting(8, 2.0), Setting(4, 2.0)]),
        (["levels=2,3", "scale=1,2"], [Setting(*p) for p in itertools.product((2, 3), (1.0, 2.0))]),
    ],
)
def test_specifications(specifications, expected):
    found = parse_sweep(specifications)
    assert found == expected
    assert all(s.levels is None or isinstance(s.levels, int) for s in found)


@pytest.mark.parametrize(
    ("specifications", "message"),
    [
        ([], "needs levels"),
        (["levels"], "expected levels=4,8,16 or scale"),
        (["depth=3"], "expected levels=4,8,16 or scale"),
        (["levels="], "'' is not a whole number above 0"),
        (["levels=4,"], "'' is not a whole number above 0"),
        (["levels=4.5"], "'4.5' is not a whole number above 0"),
        (["levels=0"], "'0' is not a whole number above 0"),
        (["levels=65537"], "at most 65536"),
        (["levels=4,4"], "a value is there twice"),
        (["scale=-1"], "'-1' is not a finite number above 0"),
        (["scale=nan"], "'nan' is not a finite number above 0"),
        (["scale=inf"], "'inf' is not a finite number above 0"),
        (["scale=one"], "'one' is not a finite number above 0"),
        (["levels=4", "levels=8"], "levels is swept twice"),
    ],
)
def test_refused_specifications(specifications, message):
    with pytest.raises(UsageError, match=message):
        parse_sweep(specifications)


def test_labels():
    labels = [setting.label for setting in parse_sweep(["levels=4", "scale=0.5,1"])]
    assert labels == ["levels=4 scale=0.5", "levels=4 scale=1"]


# The Pareto front


def front(*places):
    """Which of (top-1, energy) are marked."""
    return [p.pareto for p in mark_pareto([point(*place) for place in places], "unary")]


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([(0.9, 2.0)], [True]),
        ([(0.9, 2.0), (0.8, 1.0)], [True, True]),
        ([(0.9, 1.0), (0.8, 2.0)], [True, False]),
        ([(0.9, 1.0), (0.9, 2.0)], [True, False]),  # as accurate for less
        ([(0.9, 1.0), (0.8, 1.0)], [True, False]),  # more accurate for as little
        ([(0.9, 1.0), (0.9, 1.0), (0.8, 2.0)], [True, True, False]),  # equal in both
        ([(0.9, math.nan), (0.5, 2.0)], [False, True]),
        ([(math.nan, 1.0), (0.5, 2.0)], [False, True]),
        ([(None, 1.0), (0.5, 2.0)], [False, True]),
        ([(0.9, None), (0.5, 2.0)], [False, True]),
        ([], []),
    ],
)
def test_pareto_front(places, expected):
    assert front(*places) == expected


def test_pareto_front_is_its_definition():
    rng = np.random.default_rng(1)
    places = [(a / 8, float(e)) for a, e in rng.integers(0, 8, (40, 2))]
    for (accuracy, energy), marked in zip(places, front(*places), strict=True):
        better = [
            (a, e) for a, e in places
            if a >= accuracy and e <= energy and (a > accuracy or e < energy)
        ]  # fmt: skip
        assert marked == (not better)


def test_the_front_depends_on_the_accounting():
    cheap = SweepPoint("a", 4, None, [made_up.classes(0.8)], {"unary": 2.0, "graded": 1.0})
    other = SweepPoint("b", 8, None, [made_up.classes(0.9)], {"unary": 1.0, "graded": 2.0})
    assert [p.pareto for p in mark_pareto([cheap, other], "unary")] == [False, True]
    assert [p.pareto for p in mark_pareto([cheap, other], "graded")] == [True, True]


def test_accuracy_is_top1_or_agreement_or_error():
    unlabelled = made_up.classes()
    unlabelled.top1 = None
    wrap = lambda *outputs: SweepPoint("x", None, None, list(outputs), {})  # noqa: E731
    first = accuracy_of(wrap(made_up.embedding(), unlabelled, made_up.classes(0.7)))
    assert (first.measure, first.value, first.shown) == ("top-1, %", 0.7, pytest.approx(70))
    assert first.interval == pytest.approx((69, 71))
    second = accuracy_of(wrap(made_up.embedding(), unlabelled))
    assert (second.measure, second.value) == ("agreement with the ANN, %", 0.95)
    near, far = made_up.embedding(), made_up.embedding()
    near.relative_l2, far.relative_l2 = 0.3, 0.4
    third = accuracy_of(wrap(near, far))
    assert (third.measure, third.shown, third.interval) == (
        "relative error", pytest.approx(math.sqrt(0.125)), None,
    )  # fmt: skip
    assert third.value == -third.shown  # more is better
    assert accuracy_of(wrap()) is None


def test_energy_of_a_baseline_holds_in_every_accounting():
    assert energy_of(SweepPoint("int8", None, None, [], {"ann_int8": 3.0}), "unary") == 3.0
    assert energy_of(point(0.5, 1.0), "graded") == 2.0
    assert energy_of(point(0.5, 1.0), "bit_serial") is None


# Compiling


def levels_and_theta(network):
    """Of the only neuron."""
    (neuron,) = neurons_of(network.proto)
    attributes = {a.name: a.i for a in neuron.attribute}
    (theta,) = [t for t in initializers_below(network.proto.graph) if t.name == neuron.input[1]]
    return attributes["levels_pos"], float(np.frombuffer(theta.raw_data, np.float32)[0])


def test_every_setting_is_compiled_and_measured(samples):
    seen = []

    def measure(network):
        seen.append(levels_and_theta(network))
        levels, _ = seen[-1]
        return [made_up.classes(1 - 1 / levels)], {"unary": float(levels)}

    settings = parse_sweep(["levels=4,8", "scale=1,2"])
    points = sweep(model_from_text(MODEL), samples, PLAIN, settings, measure, Progress())
    assert [p.label for p in points] == [s.label for s in settings]
    assert [(p.levels, p.scale) for p in points] == [(4, 1.0), (4, 2.0), (8, 1.0), (8, 2.0)]
    step = seen[0][1]
    # The calibrator max: 8 levels are half as far apart, the scale doubles the step, and then half
    # of the levels occur.
    assert [theta / step for _, theta in seen] == pytest.approx([1, 2, 0.5, 1])
    assert [levels for levels, _ in seen] == [4, 2, 8, 4]
    assert [p.energy["unary"] for p in points] == [4, 2, 8, 4]
    assert [p.pareto for p in points] == [True, True, True, True]


def test_points_are_compiled_as_alone_from_a_model_prepared_once(samples, monkeypatch):
    loads, load = [], front_end.load_source
    monkeypatch.setattr(front_end, "load_source", lambda model: loads.append(1) or load(model))
    settings = [Setting(4, 1.0), Setting(8, 0.5), Setting(4, 0.5)]
    compiled = []

    def measure(network):
        compiled.append(network.attached().SerializeToString())
        return [], {}

    model, options = model_from_text(MODEL), CompileOptions()
    sweep(model, samples, options, settings, measure, Progress())
    assert len(loads) == 1
    alone = [compile_model(model, samples, one.applied(options)).model for one in settings]
    assert compiled == [network.SerializeToString() for network in alone]
    assert len(set(compiled)) == 3


def test_a_point_that_fails_is_named(samples):
    def measure(_):
        raise ModelError("does not run")

    with pytest.raises(ModelError, match="levels=4: does not run"):
        sweep(model_from_text(MODEL), samples, PLAIN, [Setting(4)], measure, Progress())


def test_bad_options_of_any_point_are_refused_first(samples):
    options = CompileOptions(neuron="scale")
    with pytest.raises(UsageError, match="levels=300: 300 levels"):
        sweep(
            model_from_text(MODEL), samples, options, [Setting(4), Setting(300)], None, Progress()
        )


# The scale of one compilation


def test_a_scale_multiplies_the_steps(samples):
    options = [replace(PLAIN, scale=s) for s in (1.0, 0.5)]
    results = [compile_model(model_from_text(MODEL), samples, o) for o in options]
    (levels, theta), (_, scaled) = (levels_and_theta(result.network) for result in results)
    assert levels == 8 and scaled == theta / 2
    assert results[1].report.settings["scale"] == 0.5
    assert results[1].report.neurons[0].calibrator.startswith("max, per tensor, times 0.5")


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_refused_scales(samples, scale):
    with pytest.raises(UsageError, match=r"--scale .* give a finite number above 0"):
        compile_model(model_from_text(MODEL), samples, CompileOptions(scale=scale))


def test_a_scale_is_given_or_searched(samples):
    with pytest.raises(UsageError, match="searched and given"):
        compile_model(model_from_text(MODEL), samples, CompileOptions(scale=2.0, search_scale=True))
