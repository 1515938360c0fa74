"""Sweeps: which networks are compiled, and which of them are on the Pareto front."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import made_up_results as made_up
import numpy as np
import pytest
from helpers import model_from_text, resolved
from made_up_results import point
from snn_compile.compiler import CompileOptions, compile_model, front_end
from snn_compile.compiler.errors import DataError, ModelError, UsageError
from snn_compile.compiler.evaluation.recorded import recorded_options
from snn_compile.compiler.evaluation.sweep import Setting, mark_pareto, parse_sweep, tried_here
from snn_compile.compiler.evaluation.sweep import sweep as sweep_over
from snn_compile.compiler.progress import Progress
from snn_compile.compiler.report.results import Metric, SweepPoint
from snn_compile.compiler.report.sweep_points import accuracy_of, baseline_points, energy_of
from snn_compile.compiler.targets import recorded, resolve
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
        (["levels=4,8"], [{"levels": 4}, {"levels": 8}]),
        (["scale=0.5,1"], [{"scale": 0.5}, {"scale": 1.0}]),
        (["scale=2", "levels=8, 4"], [{"levels": n, "scale": 2.0} for n in (8, 4)]),
        (
            ["levels=2,3", "scale=1,2"],
            [{"levels": n, "scale": s} for n, s in itertools.product((2, 3), (1.0, 2.0))],
        ),
        (["timesteps=1,4"], [{"timesteps": 1}, {"timesteps": 4}]),
        (["neuron=scale,staircase"], [{"neuron": "scale"}, {"neuron": "staircase"}]),
        (["calibrator=mse"], [{"calibrator": "mse"}]),
        (
            ["levels=3,7", "target=int8,onnxruntime"],
            [{"target": t, "levels": n} for t in ("int8", "onnxruntime") for n in (3, 7)],
        ),
    ],
)
def test_specifications(specifications, expected):
    found = parse_sweep(specifications)
    assert [dict(setting.values) for setting in found] == expected
    assert all(isinstance(setting.values.get("levels", 1), int) for setting in found)


@pytest.mark.parametrize(
    ("specifications", "message"),
    [
        ([], "needs levels"),
        (["levels"], "expected levels=4,8,16 for example; target, timesteps, neuron"),
        (["depth=3"], "expected levels=4,8,16 for example"),
        (["levels="], "'' is not a whole number from 1 to 65536"),
        (["levels=4,"], "'' is not a whole number from 1 to 65536"),
        (["levels=4.5"], "'4.5' is not a whole number from 1 to 65536"),
        (["levels=0"], "'0' is not a whole number from 1 to 65536"),
        (["levels=65537"], "'65537' is not a whole number from 1 to 65536"),
        (["timesteps=1,2000"], "'2000' is not a whole number from 1 to 1024"),
        (["target=int8,tpu"], "'tpu' is not one of onnxruntime, standard, int8, qonnx or nir"),
        (["neuron=relu"], "'relu' is not one of auto, scale"),
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


@pytest.mark.parametrize(
    ("specifications", "expected"),
    [
        (["levels=4", "scale=0.5,1"], ["scale=0.5", "scale=1"]),
        (["levels=4,8", "target=int8,qonnx"], [f"target={t} levels={n}" for t, n in
         itertools.product(("int8", "qonnx"), (4, 8))]),
        (["levels=4", "scale=2"], ["levels=4 scale=2"]),
        (["levels=4"], ["levels=4"]),
    ],
)  # fmt: skip
def test_labels_say_what_varies(specifications, expected):
    assert [setting.label for setting in parse_sweep(specifications)] == expected


# The Pareto front


def front(*places):
    """Which of (top-1, energy) are marked."""
    return ["unary" in p.pareto for p in mark_pareto([point(*place) for place in places])]


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


def compiled(accuracy, *, integers=False, **energy):
    outputs = [made_up.classes(accuracy)]
    return SweepPoint("x", {}, outputs, energy, integers=integers)


def test_the_front_depends_on_the_accounting():
    cheap = compiled(0.8, unary=2.0, unary_int8=1.0)
    other = compiled(0.9, unary=1.0, unary_int8=2.0)
    assert [p.pareto for p in mark_pareto([cheap, other])] == [
        ["unary_int8"], ["unary", "unary_int8"],
    ]  # fmt: skip
    assert cheap.pareto == []  # as they were


def test_fronts_are_of_weights_of_one_precision():
    floats = [compiled(0.9, unary=4.0, unary_int8=1.0), compiled(0.8, unary=5.0, unary_int8=1.0)]
    integers = [compiled(a, integers=True, unary_int8=3.0) for a in (0.7, 0.6)]
    marked = [p.pareto for p in mark_pareto([*floats, *integers])]
    assert marked == [["unary", "unary_int8"], [], ["unary_int8"], []]


def test_accuracy_is_top1_or_agreement_or_error():
    unlabelled = made_up.classes()
    unlabelled.top1 = None
    wrap = lambda *outputs: SweepPoint("x", {}, list(outputs), {})  # noqa: E731
    first = accuracy_of(wrap(made_up.embedding(), unlabelled, made_up.classes(0.7)))
    assert (first.measure, first.value, first.shown) == ("top-1, %", 0.7, pytest.approx(70))
    assert first.interval == pytest.approx((69, 71))
    second = accuracy_of(wrap(made_up.embedding(), unlabelled))
    assert (second.measure, second.value) == ("agreement with the ANN, %", 0.95)
    scored = made_up.embedding()
    scored.metrics = [Metric("mIoU", made_up.estimate(0.5)), Metric("other", made_up.estimate(0.6))]
    found = accuracy_of(wrap(unlabelled, scored))
    assert (found.measure, found.value) == ("mIoU x 100", 0.5)
    near, far = made_up.embedding(), made_up.embedding()
    near.relative_l2, far.relative_l2 = 0.3, 0.4
    third = accuracy_of(wrap(near, far))
    assert (third.measure, third.shown, third.interval) == (
        "relative error", pytest.approx(math.sqrt(0.125)), None,
    )  # fmt: skip
    assert third.value == -third.shown  # more is better
    assert accuracy_of(wrap()) is None


def test_a_baseline_of_int8_is_compared_in_8_bits_alone():
    (baseline,) = baseline_points(made_up.evaluation())
    totals = made_up.evaluation().energy.totals
    assert energy_of(baseline, "unary_int8") == totals["ann_int8"]
    assert energy_of(baseline, "unary") is None
    assert energy_of(point(0.5, 1.0), "graded") == 2.0
    assert energy_of(point(0.5, 1.0), "bit_serial") is None


# Compiling


def sweep(model, samples, options, settings, measure, progress):
    trials = tried_here(model, samples, measure, progress)
    return sweep_over(options, settings, trials, synthetic=samples is None)


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
    assert [p.setting for p in points] == [
        {"levels": n, "scale": s} for n, s in itertools.product((4, 8), (1.0, 2.0))
    ]
    step = seen[0][1]
    # The calibrator max: 8 levels are half as far apart, the scale doubles the step, and then half
    # of the levels occur.
    assert [theta / step for _, theta in seen] == pytest.approx([1, 2, 0.5, 1])
    assert [levels for levels, _ in seen] == [4, 2, 8, 4]
    assert [p.energy["unary"] for p in points] == [4, 2, 8, 4]
    assert [p.pareto for p in points] == [["unary"]] * 4


def test_points_are_compiled_as_alone_from_a_model_prepared_once(samples, monkeypatch):
    loads, load = [], front_end.load_source
    monkeypatch.setattr(front_end, "load_source", lambda model: loads.append(1) or load(model))
    settings = [
        Setting({"levels": n, "scale": s, "calibrator": c})
        for n, s, c in ((4, 1.0, "auto"), (8, 0.5, "auto"), (4, 0.5, "mse"))
    ]
    compiled = []

    def measure(network):
        compiled.append(network.attached().SerializeToString())
        return [], {}

    model, options = model_from_text(MODEL), CompileOptions()
    sweep(model, samples, options, settings, measure, Progress())
    assert len(loads) == 1
    every = [replace(options, **one.values) for one in settings]
    alone = [compile_model(model, samples, one).model for one in every]
    assert compiled == [network.SerializeToString() for network in alone]
    assert len(set(compiled)) == 3


SETTINGS = [
    ["target=int8,onnxruntime", "levels=15,255"],
    ["timesteps=1,2,4"],
    ["neuron=scale,multi-threshold,staircase"],
    ["target=qonnx,standard"],
]


@pytest.mark.parametrize("specifications", SETTINGS)
def test_points_of_other_front_ends_are_compiled_as_alone_too(samples, specifications):
    compiled = []

    def measure(network):
        compiled.append(network.attached().SerializeToString())
        return [], {}

    model, settings = model_from_text(MODEL), parse_sweep(specifications)
    if "target=qonnx,standard" in specifications:
        settings = [Setting({**one.values, "levels": 3}, one.label) for one in settings]
    points = sweep(model, samples, CompileOptions(), settings, measure, Progress())
    assert [p.refused for p in points] == [""] * len(settings)
    for one, found in zip(settings, compiled, strict=True):
        alone = compile_model(model, samples, replace(CompileOptions(), **one.values))
        assert alone.network.attached().SerializeToString() == found


def test_where_no_point_is_left_the_first_reason_is_raised(samples):
    def measure(_):
        raise ModelError("does not run")

    settings = parse_sweep(["levels=4,8"])
    with pytest.raises(ModelError, match="levels=4: does not run"):
        sweep(model_from_text(MODEL), samples, PLAIN, settings, measure, Progress())


def test_a_point_that_fails_keeps_the_reason_and_the_others_go_on(samples):
    def measure(network):
        if levels_and_theta(network)[0] == 4:
            raise ModelError("does not run")
        return [made_up.classes(0.9)], {"unary": 1.0}

    settings = parse_sweep(["levels=4,8"])
    few, many = sweep(model_from_text(MODEL), samples, PLAIN, settings, measure, Progress())
    assert few.refused == "does not run" and not few.outputs and not few.pareto
    assert not many.refused and many.pareto == ["unary"]


def test_samples_that_are_refused_end_a_sweep(samples):
    def measure(_):
        raise DataError("holds NaN")

    settings = parse_sweep(["levels=4,8"])
    with pytest.raises(DataError, match="levels=4: holds NaN"):
        sweep(model_from_text(MODEL), samples, PLAIN, settings, measure, Progress())


def test_options_that_do_not_go_together_are_a_reason_too(samples):
    options = CompileOptions(neuron="scale")
    settings = parse_sweep(["levels=4,300"])
    measure = lambda _: ([made_up.classes(0.9)], {})  # noqa: E731
    four, many = sweep(model_from_text(MODEL), samples, options, settings, measure, Progress())
    assert not four.refused
    assert many.refused.startswith("300 levels: scale neurons have at most 255")


def test_where_no_options_go_together_nothing_is_compiled(samples, monkeypatch):
    monkeypatch.setattr("snn_compile.compiler.evaluation.sweep.prepare", pytest.fail)
    options, settings = CompileOptions(neuron="scale"), parse_sweep(["levels=300,400"])
    with pytest.raises(UsageError, match="levels=300: 300 levels"):
        sweep(model_from_text(MODEL), samples, options, settings, None, Progress())


def test_integers_have_the_energy_of_integers_alone(samples):
    energy = {"unary": 2.0, "unary_int8": 1.0, "ann_fp32": 3.0}
    measure = lambda _: ([made_up.classes(0.9)], energy)  # noqa: E731
    settings = parse_sweep(["target=onnxruntime,int8"])
    floats, integers = sweep(
        model_from_text(MODEL), samples, CompileOptions(), settings, measure, Progress()
    )
    assert floats.energy == energy and not floats.integers
    assert integers.energy == {"unary_int8": 1.0, "ann_fp32": 3.0} and integers.integers
    assert (floats.pareto, integers.pareto) == (["unary", "unary_int8"], ["unary_int8"])


@pytest.mark.parametrize(
    ("given", "setting", "expected"),
    [
        ({"target": "int8", "int8_weights": "full"}, {"target": "onnxruntime"}, "int8_weights"),
        ({"timesteps": 4, "firing": "delayed"}, {"timesteps": 1}, "firing"),
        ({"calibrator": "percentile", "percentile": 99.0}, {"calibrator": "mse"}, "percentile"),
        ({"granularity": "channel"}, {"target": "int8"}, "granularity"),
    ],
)
def test_options_of_other_settings_are_left_out_where_they_have_no_effect(given, setting, expected):
    options = CompileOptions(**given, compensation=False)
    found = Setting(setting).applied(options)
    assert found.compensation is False
    assert getattr(found, expected) == getattr(resolved(**setting), expected)


def test_options_that_matter_are_kept():
    options = CompileOptions(target="int8", int8_weights="full", shortcuts="membrane")
    found = Setting({"levels": 15}).applied(options)
    assert (found.int8_weights, found.shortcuts, found.levels) == ("full", "membrane", 15)


# What an SNN records


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"levels": 5, "calibrator": "percentile", "percentile": 99.5, "bias_correction": False},
        {"target": "int8", "int8_weights": "full"},
        {"target": "qonnx", "weight_bits": 3, "levels": 7},
        {"timesteps": 4, "neuron": "multi-threshold", "firing": "delayed"},
        {"target": "standard", "power_of_two": True},
        {"scale": 0.5, "min_agreement": 0.1, "layer_errors": True},
    ],
)
def test_what_a_network_records_gives_the_options_it_was_compiled_with(samples, given):
    options = CompileOptions(**given)
    compiled = compile_model(model_from_text(MODEL), samples, options)
    provenance = compiled.report.provenance()
    network = {p.key: p.value for p in compiled.network.proto.metadata_props}
    assert network["snn_compile.options"] == provenance["options"]
    found, warnings = recorded_options(provenance, False)
    assert warnings == []
    shown = {"min_agreement": None, "layer_errors": False}
    assert resolve(found) == replace(resolve(options), **shown)
    again = compile_model(model_from_text(MODEL), samples, found)
    assert again.model.SerializeToString() == compiled.model.SerializeToString()


def test_only_what_differs_from_the_defaults_is_recorded():
    assert recorded(resolved(), False) == {}
    assert recorded(resolved(target="int8", levels=255), False) == {"target": "int8"}
    assert recorded(resolved(levels=8, strict=True), False) == {"levels": 8}


@pytest.mark.parametrize(
    ("provenance", "expected", "warning"),
    [
        ({}, {}, ""),
        ({"options": '{"levels": 8, "seed": 3}'}, {"levels": 8}, ""),
        ({"options": '{"levels": 8, "magic": 1}'}, {"levels": 8}, "does not have (magic)"),
        ({"options": '{"levels": "8", "neuron": "x"}'}, {}, "does not have (levels, neuron)"),
        ({"options": '{"levels": 8, "dump_dir": "/"}'}, {"levels": 8}, ""),
        ({"options": "[1]"}, {}, "not readable"),
        ({"options": "{"}, {}, "not readable"),
        (
            {"target": "int8", "int8_weights": "full", "levels": "15", "version": "0.1.0"},
            {"target": "int8", "int8_weights": "full", "levels": 15},
            "but for target int8, int8_weights full, levels 15",
        ),
        ({"weight_bits": "4"}, {"target": "qonnx", "weight_bits": 4}, "but for weight_bits 4"),
        ({"levels": "8", "timesteps": "x"}, {"levels": 8}, "but for levels 8"),
    ],
)
def test_records_are_anyones(provenance, expected, warning):
    options, warnings = recorded_options(provenance, False)
    assert options == CompileOptions(**expected)
    assert warning in " ".join(warnings) and bool(warnings) == bool(warning)


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
