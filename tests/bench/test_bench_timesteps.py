"""The benchmark over time: its rows, figures and page; what it measures is not run here."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import bench_timesteps
import numpy as np
import onnx
import pytest
import timesteps_rows
import timesteps_worker
from accuracy_configuration import pack
from accuracy_page import identity, replace_block
from helpers import model_from_text
from shared_networks import DIGITS, RESNET
from snn_compile.compiler.targets import resolve
from snn_compile.passes.graph.network import detach
from snn_compile.runtime_ops.definition import DOMAIN
from snn_compile.runtime_ops.operators import register_schemas
from timesteps_page import ann_top_1, block, plot, ratio, times_block
from timesteps_rows import OTHERS, OURS, Plan

PLAN = Plan((RESNET, DIGITS), rounds=2)
TIMED = dataclasses.replace(PLAN, timed=True)


@pytest.fixture(autouse=True)
def peers(monkeypatch):
    monkeypatch.setattr(timesteps_rows.util, "find_spec", lambda name: name)
    monkeypatch.setattr(timesteps_rows, "versions", lambda names: dict.fromkeys(names, "0"))


def result(steps, snn="1100", same="1101", spikes=12.5):
    bits = {"ann": "1110", "snn": snn, "same": same}
    packed = {key: pack(np.array([c == "1" for c in text])) for key, text in bits.items()}
    return {"steps": {str(t): {"samples": 4, **packed, "spikes": spikes} for t in steps}}


def series(name):
    return next(one for one in (*OURS, *OTHERS) if one.name == name)


def test_every_row_of_ours_has_options_that_exist():
    seen = set()
    for configuration in PLAN.accuracies():
        if configuration.what == "compile":
            options = resolve(configuration.compile_options())
            seen.add((options.timesteps, options.levels, options.kind, options.signed))
    assert (32, 1, "multi-threshold", True) in seen
    assert (32, 1, "multi-threshold", False) in seen
    assert (1, 32, "auto", False) in seen
    assert (1, 1, "multi-threshold", False) in seen


def test_one_step_is_never_delayed_and_not_repeated_over_t():
    first = [PLAN.accuracy(DIGITS, series(name), 1) for name in ("delayed", "immediate", "signed")]
    assert len({identity(one) for one in first}) == 1
    assert PLAN.accuracy(DIGITS, series("one_8"), 1).options == {"levels": 8}
    assert PLAN.accuracy(DIGITS, series("one_8"), 2) is None


def test_one_run_of_another_tool_has_every_t_and_converts_one_network():
    found = [PLAN.accuracy(RESNET, series("robust"), t) for t in (1, 32)]
    assert identity(found[0]) == identity(found[1])
    assert found[0].options["timesteps"] == [1, 2, 4, 8, 16, 32]
    assert {one.network for one in PLAN.accuracies() if one.what != "compile"} == {RESNET.name}


def test_other_tools_are_left_out_where_they_are_absent(monkeypatch):
    monkeypatch.setattr(timesteps_rows.util, "find_spec", lambda _: None)
    assert PLAN.series(RESNET) == OURS
    assert set(TIMED.times()[0].options["series"]) <= {one.name for one in OURS}


def test_times_are_taken_round_by_round():
    rounds = [one.options["round"] for one in TIMED.times()]
    assert rounds == sorted(rounds) and set(rounds) == {0, 1}
    at_one, at_four = (next(TIMED.times_of(DIGITS, t)).options["series"] for t in (1, 4))
    assert "one_32" in at_one and "one_32" not in at_four and "signed" in at_four


def test_a_ratio_is_taken_within_a_round_at_the_better_batch():
    rounds = [
        {"ann": {"50": 1.0, "10": 2.0}, "signed": {"50": 9.0, "10": 3.0}},
        {"ann": {"50": 10.0, "10": 20.0}, "signed": {"50": 50.0, "10": 90.0}},
        {"ann": {"50": 1.0, "10": 1.0}},
    ]
    assert ratio(rounds, "signed", "ann") == 4.0
    assert ratio(rounds, "robust", "ann") is None


def test_a_block_has_both_tables_with_what_was_measured_and_why_not():
    plan = Plan((DIGITS,), rounds=1, quick=True)
    missing = plan.accuracy(DIGITS, series("levels"), 4)
    found = {identity(plan.accuracy(DIGITS, series("signed"), 4)): result([4])}
    lines = block(DIGITS, plan, lambda c: found.get(identity(c)), {identity(missing): "no | room"})
    assert "| network | T = 1 | T = 4 |" in lines
    assert "| signed IF, immediate (default) | - | 50.0 / 75.0 |" in lines
    assert any(line.startswith("ANN: top-1 75.0 [30.1, 95.4] %.") for line in lines)
    row = "| signed IF, immediate (default) | 4 | 50.0 [15.0, 85.0] | 75.0 [30.1, 95.4] | 12 |"
    assert row in lines
    assert "| signed, 4 levels, immediate | 4 | no / room | - | - |" in lines
    heading = next(line for line in lines if "spikes per sample" in line)
    assert heading.count("|") == row.count("|")


def test_times_are_to_the_ann_and_to_another_tool_where_it_is():
    plan = Plan((RESNET, DIGITS), rounds=1, quick=True, timed=True)
    seconds = {"ann": {"50": 1.0}, "signed": {"50": 3.0}, "robust": {"50": 12.0}}
    found = {identity(next(plan.times_of(network, 4))): seconds for network in (RESNET, DIGITS)}
    lines = times_block(RESNET, plan, lambda c: found.get(identity(c)))
    assert lines[-2:] == [
        "| signed IF, immediate (default) | - | 3.00 / 0.25 |",
        "| SpikingJelly, robust | - | 12.00 / 1.00 |",
    ]
    lines = times_block(DIGITS, plan, lambda c: found.get(identity(c)))
    assert lines[-1] == "| signed IF, immediate (default) | - | 3.00 |"


def test_networks_that_are_timed_are_calibrated_with_few_samples_and_are_ours():
    accuracies, timed = PLAN.accuracies(), TIMED.accuracies()
    assert {one.what for one in timed} == {"compile"} < {one.what for one in accuracies}
    assert {one.calibration for one in timed} == {16}
    assert not {identity(one) for one in timed} & {identity(one) for one in accuracies}


def test_equal_results_give_equal_plots(tmp_path):
    plan = Plan((RESNET,), quick=True)
    paths = [tmp_path / name for name in ("a.svg", "b.svg")]
    for path in paths:
        plot(RESNET, plan, lambda _: result([1, 4]), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    text = paths[0].read_text("utf-8")
    # Intervals, in the plot and in its legend.
    assert text.count('id="LineCollection') == 2 * len(plan.series(RESNET))


def test_the_ann_is_that_of_any_result():
    plan = Plan((DIGITS,), quick=True)
    assert ann_top_1(DIGITS, plan, lambda _: None) is None
    assert ann_top_1(DIGITS, plan, lambda _: result([1, 4])).value == 0.75


def test_spikes_are_counted_over_all_steps():
    text = f"""<ir_version: 8, opset_import: ["" : 17, "{DOMAIN}" : 1]>
        g (float[N, 2] x) => (float[N, 2] y) <float theta = {{2.0}}, int64[2] repeats = {{3, 1}}> {{
            steps = Tile (x, repeats)
            y = {DOMAIN}.IntegrateFire <levels_pos = 2, v0 = 0.0, timesteps = 3> (steps, theta)
        }}"""
    register_schemas()
    network = onnx.parser.parse_model(text)
    network.graph.node[-1].name = "neuron"
    feed = {"x": np.array([[2.0, 1.0], [4.0, -1.0]], np.float32)}
    _, spikes = timesteps_worker.run_and_count(detach(network), feed, 3)
    assert spikes == (3 + 1 + 6 + 0) / 2  # 1 a step; one in two steps; 2 a step; none


def test_the_page_has_its_markers_and_the_plot_is_there():
    page = Path(bench_timesteps._PAGE)
    for name in ("timesteps", "times"):
        replace_block(page.read_text("utf-8"), name, "")
    assert page.with_suffix(".svg").is_file()


def test_results_of_other_tools_do_not_depend_on_our_code(tmp_path, monkeypatch):
    monkeypatch.setattr("bench_accuracy.digest", lambda *_: "data")
    chosen = [PLAN.accuracy(RESNET, series(name), 4) for name in ("signed", "robust")]
    first = bench_timesteps.Caches(tmp_path / "times.json", "one", tmp_path)
    for configuration in chosen:
        first.of(configuration).put(configuration, result([4]))
    again = bench_timesteps.Caches(tmp_path / "times.json", "two", tmp_path)
    assert [again.get(configuration) is None for configuration in chosen] == [True, False]
    assert first.network(chosen[0]) != again.network(chosen[0])


def test_a_time_needs_the_compiled_network(tmp_path, monkeypatch):
    ann = model_from_text("g (float[N] x) => (float[N] y) { y = Abs (x) }")
    monkeypatch.setattr(bench_timesteps, "load_model", lambda *_: ann)
    monkeypatch.setattr(bench_timesteps, "run_worker", lambda _: {"seconds": 1.0})
    plan = dataclasses.replace(TIMED, quick=True)
    caches = bench_timesteps.Caches(tmp_path / "times.json", "one", tmp_path)
    with pytest.raises(RuntimeError, match="was not compiled at T = 4"):
        bench_timesteps.measure_times(next(plan.times_of(DIGITS, 4)), caches, plan)
