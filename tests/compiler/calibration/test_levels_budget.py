"""How levels are distributed over neurons under a budget of synaptic operations."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from helpers import model_from_text, resolved
from hypothesis import given, settings
from hypothesis import strategies as st
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.calibration.fitting.fit_neuron import fit_neuron
from snn_compile.compiler.calibration.fitting.rows import distributions
from snn_compile.compiler.calibration.fitting.watches import Fit, LevelPlan
from snn_compile.compiler.calibration.tuning.levels_budget import (
    Choice,
    allocate,
    count_spikes,
    ladder,
    level_table,
    plan_levels,
)
from snn_compile.compiler.calibration.tuning.sensitivities import measure_sensitivities
from snn_compile.compiler.errors import DataError, UsageError
from snn_compile.compiler.progress import Progress
from snn_compile.compiler.running.counted_histogram import CountedHistogram
from snn_compile.compiler.samples.base import input_specs
from snn_compile.compiler.samples.files import FileSamples
from snn_compile.compiler.targets import resolve
from snn_compile.passes.analysis.activations import find_activations
from snn_compile.passes.canonicalise.canonicalise import canonicalise
from snn_compile.passes.graph.surgeon import export_network, import_model
from snn_compile.passes.neurons.neuron import (
    DualNeuron,
    OctaveNeuron,
    StaircaseNeuron,
    ThresholdNeuron,
)

table = st.lists(
    st.builds(Choice, st.integers(1, 64), st.integers(0, 40), st.integers(0, 20)),
    min_size=1,
    max_size=4,
)
tables = st.lists(table, min_size=1, max_size=4).map(lambda found: dict(enumerate(found)))


def totals(choices):
    return sum(c.error for c in choices), sum(c.cost for c in choices)


@settings(max_examples=300, deadline=None)
@given(tables=tables, price=st.fractions(Fraction(1, 20), 50, max_denominator=20))
def test_nothing_is_better_at_the_cost_of_a_price(tables, price):
    every = [totals(choices) for choices in product(*tables.values())]
    error, cost = min(every, key=lambda pair: (pair[0] + price * pair[1], pair[1]))
    assert totals(allocate(tables, cost).values())[0] == error


@settings(max_examples=300, deadline=None)
@given(tables=tables, budget=st.integers(0, 90))
def test_budget_is_kept_and_less_than_one_neuron_gains_is_lost(tables, budget):
    every = [totals(choices) for choices in product(*tables.values())]
    budget += min(cost for _, cost in every)
    affordable = [error for error, cost in every if cost <= budget]
    error, cost = totals(allocate(tables, budget).values())
    assert cost <= budget
    cheapest = [min(lines, key=lambda c: (c.cost, c.error)) for lines in tables.values()]
    largest = max(
        first.error - min(c.error for c in lines)
        for first, lines in zip(cheapest, tables.values(), strict=True)
    )
    assert error - min(affordable) <= largest


def test_levels_go_where_they_take_off_most_error_per_spike():
    tables = {
        "important": [Choice(4, 8.0, 10), Choice(8, 2.0, 20), Choice(16, 0.5, 40)],
        "dear": [Choice(4, 9.0, 100), Choice(8, 2.0, 200)],
    }
    assert [c.levels for c in allocate(tables, 110).values()] == [4, 4]
    assert [c.levels for c in allocate(tables, 139).values()] == [8, 4]
    assert [c.levels for c in allocate(tables, 140).values()] == [16, 4]
    assert [c.levels for c in allocate(tables, 220).values()] == [16, 4]
    assert [c.levels for c in allocate(tables, 240).values()] == [16, 8]


def test_what_is_left_goes_to_steps_that_still_fit():
    tables = {
        "wide": [Choice(4, 9, 1), Choice(8, 0, 10)],
        "narrow": [Choice(4, 1, 1), Choice(8, 0, 3)],
    }
    chosen = allocate(tables, 5)
    assert (chosen["wide"].levels, chosen["narrow"].levels) == (4, 8)


def test_ties_go_to_the_first_and_to_fewer_levels():
    lines = [Choice(8, 1, 4), Choice(4, 2, 2), Choice(6, 1, 4)]
    chosen = allocate({"a": lines, "b": lines}, 6)
    assert [c.levels for c in chosen.values()] == [6, 4]
    chosen = allocate({"b": lines, "a": lines}, 6)
    assert {key: c.levels for key, c in chosen.items()} == {"b": 6, "a": 4}


def test_ladder_holds_the_levels_asked_for_and_no_more_than_the_neuron_has():
    assert ladder(resolved(levels=16)) == [8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64]
    assert ladder(resolved(levels=4)) == [2, 3, 4, 5, 6, 7, 8]
    assert ladder(resolved(levels=1)) == [1, 2]
    assert ladder(resolved(levels=16, levels_budget=0.25)) == [2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16]
    assert ladder(resolved(levels=60))[-3:] == [180, 210, 240]
    for neuron in ("auto", "scale", "staircase"):
        assert ladder(resolved(levels=255, neuron=neuron))[-1] == 255
    assert ladder(resolved(levels=100, neuron="multi-threshold"))[-1] == 400
    assert 300 in ladder(resolved(levels=300))
    assert ladder(resolved(levels=65536))[-1] == 65536


def test_kind_of_neuron_stays_when_levels_change():
    assert replace(resolved(levels=300), levels=75).kind == "multi-threshold"
    assert replace(resolved(levels=255), levels=64).kind == "auto"
    for neuron in ("scale", "staircase"):
        assert replace(resolved(levels=255, neuron=neuron), levels=64).kind == neuron


def histogram_of(values):
    histogram = CountedHistogram(len(values))
    histogram.add(np.asarray(values, np.float32))
    return histogram


def threshold(theta, positive, negative=0):
    return ThresholdNeuron(
        axis=1,
        calibrator="",
        theta=np.asarray(theta, np.float32),
        levels_pos=positive,
        levels_neg=negative,
    )


# Each value begins a bin of the histogram, and so is known exactly.
VALUES = [-8.0, -3.0, -1.0, 0.0, 0.0, 1.0, 2.0, 3.0, 3.0, 12.0]


@pytest.mark.parametrize(
    ("neuron", "rows", "spikes"),
    [
        (threshold(2, 4), [VALUES], 1 + 1 + 2 + 2 + 4),
        (threshold(2, 4, 2), [VALUES], 2 + 2 + 1 + 1 + 1 + 2 + 2 + 4),
        (threshold([2, 4], 4), [VALUES, VALUES], 10 + 0 + 0 + 1 + 1 + 1 + 3),
        (
            # In units of the smallest step: -1, 0, 1, and 5, the nearest to 4.6.
            StaircaseNeuron.of_staircase(
                scale=np.float32([1, 2]),
                thresholds=np.float32([-2, 1, 3]),
                levels=np.float32([-1, 0, 1, 4.6]),
                axis=1,
                calibrator="",
            ),
            [VALUES, VALUES],
            (1 + 1 + 0 + 1 + 1 + 5 + 5 + 5) + (1 + 1 + 1 + 1 + 5),
        ),
        (
            OctaveNeuron(np.float32([1, 2.5]), 4, 12, 3, axis=1, calibrator=""),
            [VALUES, VALUES],
            (3 + 3 + 1 + 1 + 2 + 3 + 3 + 12) + (3 + 1 + 0 + 0 + 1 + 1 + 1 + 4),
        ),
        (
            DualNeuron(
                axis=1, calibrator="", positive=threshold(2, 4), negative=threshold(2, 0, 3)
            ),
            [VALUES],
            10 + 3 + 2 + 1,
        ),
    ],
)
def test_spikes_are_those_of_the_neuron(neuron, rows, spikes):
    assert count_spikes(neuron, distributions(histogram_of(rows))) == spikes


def test_levels_that_a_neuron_passes_count_where_units_say_nothing():
    """As of a GELU: two of its levels lie so close that the highest is 500 units up."""
    levels, thresholds = np.float32([-0.01, 0, 2, 5]), np.float32([-1, 1, 3])
    neuron = StaircaseNeuron.of_staircase(
        scale=np.float32(1), thresholds=thresholds, levels=levels, axis=1, calibrator=""
    )
    rows = distributions(histogram_of([np.float32([-2, 0, 2, 4])]))
    assert count_spikes(neuron, rows) == 1 + 0 + 200 + 500
    assert count_spikes(neuron, rows, by_level=True) == 1 + 0 + 1 + 2


BRANCHES = """
    agraph (float[N, 8] u, float[N, 8] v) => (float[N, 8] y)
    <float gain = {30.0}> {
        a = Relu (u)
        b = Relu (v)
        loud = Mul (a, gain)
        y = Add (loud, b)
    }
"""


#: Of these, as if linear operators read them.
FAN_OUT = {"a": 4.0, "b": 4.0}


def prepare(text, tmp_path, count=40, **inputs):
    graph = canonicalise(import_model(model_from_text(text))).graph
    network = export_network(graph)
    specs = input_specs(network.proto)
    rng = np.random.default_rng(0)
    arrays = {s.name: rng.standard_normal((count, *s.shape[1:])).astype(s.dtype) for s in specs}
    np.savez(tmp_path / "samples.npz", **(arrays | inputs))
    return network, find_activations(graph)[0], FileSamples(tmp_path / "samples.npz", specs)


def sensitivities(network, steps, samples):
    return measure_sensitivities(network, steps, list(samples.batches(16)), Progress())


def test_sensitivity_is_what_an_error_does_to_the_output(tmp_path):
    network, activations, samples = prepare(BRANCHES, tmp_path, count=16)
    steps = {activation.output: 0.25 for activation in activations}
    found = sensitivities(network, steps, samples)
    feed = next(samples.batches(16))
    a, b = np.maximum(feed["u"], 0), np.maximum(feed["v"], 0)
    power = ((30 * a + b) ** 2).sum()
    assert found["a"] == pytest.approx((30 * a**2).sum() * 30 / power, rel=1e-4)
    assert found["b"] == pytest.approx(
        (b**2).sum() / power, rel=1e-2
    )  # of a sum 1,000 times larger


def test_activation_that_is_not_rounded_has_no_sensitivity(tmp_path):
    network, _, samples = prepare(BRANCHES, tmp_path)
    found = sensitivities(network, {"a": 0.25, "b": 0.0}, samples)
    assert found["a"] > 0
    assert found["b"] == 0


def test_activation_that_is_silent_on_these_samples_counts_as_the_others_do(tmp_path):
    u = np.zeros((40, 8), np.float32)
    network, _, samples = prepare(BRANCHES, tmp_path, u=u)
    found = sensitivities(network, {"a": 0.25, "b": 0.25}, samples)
    assert found["a"] == found["b"] > 0.9


def test_outputs_that_are_infinite_tell_nothing(tmp_path):
    text = "agraph (float[N, 8] u) => (float[N, 8] y) { a = Relu (u)  y = Log (a) }"
    network, _, samples = prepare(text, tmp_path, u=np.full((40, 8), 0.1, np.float32))
    found = sensitivities(network, {"a": 0.3}, samples)
    assert found == {"a": 1.0}


def test_sensitivity_inside_a_body(tmp_path):
    text = """
        agraph (float[N, 4] x) => (float[N, 4] y)
        <float low = {-1000.0}> {
            total = ReduceMax <keepdims = 0> (x)
            yes = Greater (total, low)
            y = If (yes) <
                then_branch = taken () => (float[N, 4] t) { r = Relu (x)  t = Mul (r, r) },
                else_branch = left () => (float[N, 4] e) { e = Relu (x) }
            >
        }
    """
    network, activations, samples = prepare(text, tmp_path)
    steps = {activation.output: 0.01 for activation in activations}
    found = sensitivities(network, steps, samples)
    assert 1 < found["r"] < 8  # d(r^2) = 2 r dr
    assert found["e"] == found["r"]  # of the branch not taken nothing is known


def test_every_error_counts_alike_where_no_output_can_be_compared(tmp_path):
    text = """
        agraph (float[N, 8] u) => (int64[N, 1] y) { a = Relu (u)  y = ArgMax <axis = 1> (a) }
    """
    network, _, samples = prepare(text, tmp_path)
    found = sensitivities(network, {"a": 0.25}, samples)
    assert found == {"a": 1.0}


def test_sensitivities_are_measured_on_samples_from_all_over(tmp_path):
    u = np.zeros((40, 8), np.float32)
    u[20:] = 1  # the first samples are silent
    network, _, samples = prepare(BRANCHES, tmp_path, u=u)
    costly = 1e11  # multiply-accumulates of a sample: few are looked at
    _, report = plan_levels(
        *(network, find_activations(import_model(network))[0], samples, 32),
        *(resolved(levels=8, levels_budget=1.0), costly, FAN_OUT, Progress()),
    )
    assert report.samples == 4
    assert report.neurons[0].spikes > 0 and report.neurons[0].sensitivity > 0


@pytest.mark.parametrize("neuron", ["auto", "scale", "staircase", "multi-threshold"])
def test_table_has_less_error_and_more_spikes_the_more_levels(tmp_path, neuron):
    _, activations, _ = prepare(BRANCHES, tmp_path)
    x = np.random.default_rng(1).standard_normal((1, 20_000))
    options = resolved(levels=8, neuron=neuron)
    lines = level_table(activations[0], histogram_of(x), 100, options)
    assert [line.levels for line in lines] == ladder(options)
    assert all(np.diff([line.error for line in lines]) < 0)
    costs = {line.levels: line.cost for line in lines}
    if neuron != "multi-threshold":
        # A level costs what it is in units of the scale: with another m, 3 may cost as much as 4.
        costs = {levels: cost for levels, cost in costs.items() if levels in (2, 4, 8, 16, 32)}
    assert all(np.diff(list(costs.values())) > 0)
    more = level_table(activations[0], histogram_of(x), 200, options)
    assert [line.cost * 2 for line in more] == pytest.approx([line.cost for line in lines])


@pytest.mark.parametrize("neuron", ["auto", "scale", "staircase", "multi-threshold"])
def test_above_8_levels_octaves_are_fitted_and_others_follow_from_n(tmp_path, neuron):
    _, activations, _ = prepare(BRANCHES, tmp_path)
    histogram = histogram_of(np.random.default_rng(1).standard_normal((1, 20_000)))

    def table_of(levels):
        options = resolved(levels=levels, neuron=neuron)
        return {line.levels: line for line in level_table(activations[0], histogram, 100, options)}

    found = table_of(24)
    octaves = neuron in ("auto", "scale")
    for levels in (12, 18, 36, 48, 96):
        fitted = table_of(levels)[levels]
        assert found[levels].error == pytest.approx(fitted.error, rel=0.05 if octaves else 0.25)
        if octaves:
            assert found[levels].cost == pytest.approx(fitted.cost, rel=0.05)
        else:
            share = levels / 24
            assert found[levels].error == pytest.approx(found[24].error / share**2)
            assert found[levels].cost == pytest.approx(found[24].cost * share)


@pytest.mark.parametrize(("op", "by_level"), [("Relu", False), ("Sigmoid", True)])
def test_spikes_are_units_but_of_curves_levels(tmp_path, op, by_level):
    text = f"g (float[N, 8] u) => (float[N, 8] y) {{ y = {op} (u) }}"
    activation = prepare(text, tmp_path)[1][0]
    histogram = histogram_of(np.random.default_rng(1).standard_normal((1, 20_000)))
    options = replace(resolved(levels=8), calibrator="density")
    neuron = fit_neuron(activation, histogram, options)
    line = next(x for x in level_table(activation, histogram, 100, options) if x.levels == 8)
    counted = {
        way: count_spikes(neuron, distributions(histogram), by_level=way) for way in (True, False)
    }
    assert counted[False] > 1.05 * counted[True]
    assert line.cost * 100 == pytest.approx(counted[by_level])


def test_neuron_that_has_a_level_for_each_value_keeps_them(tmp_path):
    _, activations, _ = prepare(BRANCHES, tmp_path)
    x = np.random.default_rng(1).integers(0, 17, (1, 20_000))
    table = level_table(activations[0], histogram_of(x), 100, resolved(levels=16, neuron="scale"))
    assert [(line.levels, line.error) for line in table] == [(16, 0.0)]


def plan(tmp_path, share, levels=8, fan_out=FAN_OUT, **inputs):
    network, activations, samples = prepare(BRANCHES, tmp_path, count=100, **inputs)
    options = resolved(levels=levels, granularity="tensor", levels_budget=share)
    return plan_levels(network, activations, samples, 32, options, 1e3, fan_out, Progress())


def test_important_neuron_gets_the_levels(tmp_path):
    planned, report = plan(tmp_path, 1.0)
    levels = {key: one.levels for key, one in planned.items()}
    assert levels["a"] > 8 > levels["b"]
    assert report.cost <= report.equal_cost
    assert report.error < report.equal_error
    assert [n.levels for n in report.neurons] == [levels["a"], levels["b"]]
    assert report.neurons[0].sensitivity > report.neurons[1].sensitivity
    assert report.spikes == pytest.approx(sum(n.spikes for n in report.neurons))
    cost = sum(n.spikes * (n.fan_out + 1) for n in report.neurons)
    assert report.cost == pytest.approx(cost)
    error = sum(n.sensitivity * n.error**2 for n in report.neurons)
    assert report.error == pytest.approx(np.sqrt(error))
    assert report.equal_levels == 8
    json.dumps(asdict(report), allow_nan=False)


def test_neuron_whose_spikes_reach_more_synapses_gets_fewer_levels(tmp_path):
    same, _ = plan(tmp_path, 1.0)
    other, report = plan(tmp_path, 1.0, fan_out=FAN_OUT | {"a": 100.0})
    assert other["a"].levels < same["a"].levels and other["b"].levels > same["b"].levels
    assert report.cost <= report.equal_cost and [n.fan_out for n in report.neurons] == [100.0, 4.0]


def test_smaller_budget_fires_fewer_spikes(tmp_path):
    reports = [plan(tmp_path, share)[1] for share in (0.5, 0.7, 1.0, 2.0)]
    for report in reports:
        assert report.cost <= report.share * report.equal_cost
    assert all(np.diff([report.spikes for report in reports]) > 0)
    assert all(np.diff([report.error for report in reports]) < 0)


def test_octave_neuron_becomes_what_was_planned(tmp_path):
    text = """
        g (float[N, 4, 6] x) => (float[N, 4, 6] y)
        <float[4, 4, 1] w = {2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1},
         float[4, 4, 1] v = {1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 1}>
        { a = Conv (x, w)  b = Relu (a)  c = Conv (b, v)  d = Relu (c)  y = Conv (d, w) }
    """
    rng = np.random.default_rng(3)
    x = rng.laplace(size=(400, 4, 6)) * np.array([8, 1, 1, 1]).reshape(4, 1)  # a loud channel
    np.savez(tmp_path / "samples.npz", x=x.astype(np.float32))
    options = {"levels": 16, "encode": "activations", "compensation": False}
    model = model_from_text(text)
    free = compile_model(model, tmp_path / "samples.npz", levels_budget=0.0, **options)
    assert "per channel" in free.report.neurons[0].calibrator
    planned = compile_model(model, tmp_path / "samples.npz", **options).report
    for neuron, wanted in zip(planned.neurons, planned.levels_budget.neurons, strict=True):
        assert neuron.op == "ScaleFire" and neuron.calibrator.startswith("density, per tensor")
        assert "budget of levels" in neuron.calibrator
        assert neuron.levels <= wanted.levels
        assert neuron.error == pytest.approx(wanted.error, rel=0.2)  # here on spiking inputs


def test_plan_of_octaves_has_their_m(tmp_path):
    _, activations, _ = prepare(BRANCHES, tmp_path)
    histogram = histogram_of(np.random.default_rng(1).standard_normal((1, 20_000)))
    table = level_table(activations[0], histogram, 100, resolved(levels=16))
    assert {line.linear for line in table} > {6, 8, 16}
    for line in table:
        fit = Fit(resolved(levels=16), {"a": LevelPlan(line.levels, line.linear)})
        assert fit.neuron(activations[0], histogram).linear == line.linear
    other = Fit(resolved(levels=16), {"a": LevelPlan(16, 12)})
    assert other.neuron(activations[0], histogram).linear == 12


def test_plan_is_the_same_again(tmp_path):
    assert plan(tmp_path, 0.8) == plan(tmp_path, 0.8)


def test_budget_below_the_fewest_levels(tmp_path):
    with pytest.raises(
        UsageError, match=r"budget of levels 0\.01 is below 0\.\d+: with the fewest"
    ):
        plan(tmp_path, 0.01)


@pytest.mark.parametrize("share", [-1.0, float("nan"), float("inf")])
def test_budget_that_is_none(share, tmp_path):
    with pytest.raises(UsageError, match=r"--levels-budget .* give a finite number of at least 0"):
        plan(tmp_path, share)


def test_silent_neuron_takes_nothing_of_the_budget(tmp_path):
    levels, report = plan(tmp_path, 1.0, v=-np.ones((100, 8), np.float32))
    assert levels["b"].levels == min(ladder(resolved(levels=8)))
    assert report.neurons[1].spikes == 0


def test_values_that_are_not_finite_are_refused(tmp_path):
    text = "agraph (float[N, 8] u) => (float[N, 8] y) { root = Sqrt (u)  y = Relu (root) }"
    network, activations, samples = prepare(text, tmp_path)
    with pytest.raises(DataError, match="NaN or infinite: root"):
        plan_levels(
            *(network, activations, samples, 32, resolved(levels_budget=1.0), 1e3),
            *({activation.output: 1.0 for activation in activations}, Progress()),
        )


@pytest.mark.parametrize(
    ("options", "share"),
    [
        ({}, 1.0),
        ({"levels": 4}, 1.0),
        ({"levels_budget": 0.0}, 0.0),
        ({"levels_budget": 0.5, "neuron": "scale"}, 0.5),
        ({"neuron": "scale"}, None),
        ({"levels": 300}, None),  # multi-threshold neurons
        ({"target": "standard"}, None),
        ({"target": "int8"}, None),
        ({"timesteps": 4}, None),
    ],
    ids=str,
)
def test_levels_are_moved_by_default_where_neurons_are_chosen_freely(options, share):
    assert resolved(**options).levels_budget == share


def test_levels_are_not_moved_by_default_on_samples_that_are_made_up():
    assert resolve(CompileOptions(), synthetic=True).levels_budget is None


def test_without_a_budget_every_neuron_has_the_levels_asked_for(tmp_path):
    prepare(BRANCHES, tmp_path)
    compiled = [
        compile_model(
            model_from_text(BRANCHES), tmp_path / "samples.npz", levels=16, levels_budget=share
        )
        for share in (0.0, None)
    ]
    planned = [one.report.levels_budget for one in compiled]
    assert planned[0] is None
    assert {neuron.levels for neuron in compiled[0].report.neurons} == {16}
    assert planned[1].neurons[0].levels > 16
