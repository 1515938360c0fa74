"""The tables of an evaluation, from results made up here."""

from __future__ import annotations

import pytest
from snn_compile.compiler.counting.results import NeuronResult, SynapseResult
from snn_compile.compiler.report.evaluation_summary import show_summary
from snn_compile.compiler.report.results import (
    BaselineResult,
    EnergyResult,
    Estimate,
    EvaluationResult,
    LatencyResult,
    LayerRate,
    OutputResult,
    SweepPoint,
)
from snn_compile.compiler.report.tables import show_result


def shown(capsys, **parts):
    parts = {"outputs": []} | parts
    show_result(EvaluationResult({}, {}, {}, samples=7, **parts))
    text = capsys.readouterr().out
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines()], text


def test_outputs_with_labels(capsys):
    estimate = Estimate(0.5, 0.25, 0.875)
    drop = Estimate(-0.00001, -0.1, 0.1)
    output = OutputResult(
        "logits", 1.5, 0.25, 0.75, estimate, estimate, estimate, drop, estimate, estimate
    )
    rows, text = shown(capsys, outputs=[output], baselines=[BaselineResult("int8", "", [output])])
    share = "50.00 [25.0, 87.5]"
    assert ["logits", "ANN", share, share, ""] in rows
    assert ["", "SNN", share, share, "0.00 [-10.00, 10.00]"] in rows
    assert ["", "int8", share, share, "0.00 [-10.00, 10.00]"] in rows
    assert ["logits", "int8", share, "0.2500", "0.7500", "1.5"] in rows
    assert "7 samples, with 95 % intervals" in text


def test_outputs_without_labels(capsys):
    rows, text = shown(capsys, outputs=[OutputResult("map", float("inf"), float("inf"))])
    assert ["map", "SNN", "inf", "inf"] in rows
    assert "7 samples, against the ANN" in text
    assert "top-1" not in text


def test_neurons(capsys):
    rates = [2.5, 0.5, 0.125, 0.25]
    neurons = [
        NeuronResult("a", "ScaleFire", "", "Relu", 10, (6, 33), (-8, 512), *rates, None, 3.25),
        NeuronResult("b", "MultiThresholdFire", "", "Clip", 10, (0, 9), (0, 9), *rates, 0.5, 1.0),
    ]
    neurons[1].flips = 0.0001
    rows, _ = shown(capsys, neurons=neurons)
    assert ["a", "Relu", "-6..33", "-8..512", "2.50", "12.5%", "25.0%", "-", "3.25", "-"] in rows
    assert ["b", "Clip", "9", "9", "2.50", "12.5%", "25.0%", "50.00%", "1.00", "0.010%"] in rows


def test_energy(capsys):
    synapses = [
        SynapseResult("c1", "Conv", [], "reads the input", 1_500_000.0),
        SynapseResult("c2", "Conv", ["n"], "", 2e9, 10.0, 12_340.0, 999.0, 0.5),
    ]
    totals = {"unary": 2.5e6, "ann_fp32": 1e7}
    energy = EnergyResult({}, "45 nm", synapses, [], totals, 0.25, ["nothing for memory " * 9])
    rows, text = shown(capsys, energy=energy)
    assert ["c1", "Conv", "analog", "1.50 M", "-", "-", "-", "-"] in rows
    assert ["c2", "Conv", "spikes", "2.00 G", "10.0", "12.3 k", "999", "500 m"] in rows
    assert ["unary", "2.50 uJ", "0.25 x"] in rows
    assert ["ann_fp32", "10.0 uJ", "1.00 x"] in rows
    assert "energy per sample, estimates (45 nm)" in text
    assert "25.0% of the multiply-accumulates" in text
    assert "nothing for memory" in text


def test_energy_with_memory_and_rates(capsys):
    energy = EnergyResult({}, "45 nm", [], [], {"unary": 2.5e6, "ann_fp32": 1e7}, 0.25)
    energy.memory = {"unary": 7.5e6, "ann_fp32": 1e7}
    energy.rates = [LayerRate("c2", 0.4, 0.75, 0.2, 5.0, 5.75, 0.21)]
    energy.levels, energy.cheaper_up_to = 32, {"fp32": 29.7, "int8": 0.5, "fp32_memory": 5.3}
    energy.neurobench = {
        "activation_sparsity": 0.5, "dense": 2e6, "effective_macs": 1e6, "effective_acs": 3e6,
        "effective_macs_of_binary": 0.0,
    }  # fmt: skip
    rows, text = shown(capsys, energy=energy)
    assert ["unary", "2.50 uJ", "0.25 x", "10.0 uJ", "0.50 x"] in rows
    assert ["c2", "0.400", "0.750", "0.200", "5.000", "5.750", "0.210"] in rows
    said = " ".join(text.split())
    assert (
        "estimate, unary: no more than the ANN up to N = 29 in float32, no N in int8; with memory "
        "up to N = 5 in float32" in said
    )
    assert "activation sparsity 0.500; synaptic operations: dense 2.00 M" in said


@pytest.mark.parametrize(
    ("seconds", "time"),
    [(2.5, "2.50 s"), (0.0123, "12.3 ms"), (1e-6, "1.00 us"), (5e-8, "50.0 ns")],
)
def test_latency(capsys, seconds, time):
    latency = [
        LatencyResult(
            "snn_functions", 32, seconds, 1.234, 5 << 20, (0.75 * seconds, 1.25 * seconds)
        ),
        LatencyResult("int8", 1, seconds, 1.0, None),
    ]
    rows, _ = shown(capsys, latency=latency)
    assert ["SNN, function bodies", "32", time, "50%", "1.23 x", "5 MiB"] in rows
    assert ["int8", "1", time, "-", "1.00 x", "-"] in rows


def test_an_snn_of_integers_is_compared_with_the_ann_of_its_precision(capsys):
    totals = {"unary": 5e6, "unary_int8": 1e6, "ann_fp32": 1e7, "ann_int8": 4e6}
    result = EvaluationResult({}, {"integers": True}, {}, samples=7, outputs=[])
    result.energy = EnergyResult({}, "45 nm", [], [], totals, 0.0)
    result.latency = [LatencyResult("snn", 1, 1e-3, 0.5, None)]
    result.sweep = [
        SweepPoint("levels=8", {}, [], {"unary_int8": 3e6}, True, ["unary_int8"]),
        SweepPoint("levels=300", {}, [], {}, refused="300 levels: 8 bits hold 255"),
    ]
    show_result(result)
    text = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines()]
    assert "to the ANN in int8" in text
    assert ["unary_int8", "1.00 uJ", "0.25 x"] in rows
    assert ["SNN", "1", "1.00 ms", "0.50 x"] in rows
    assert ["network", "unary, int8"] in [
        [cell.strip() for cell in line.split("┃")[1:-1]] for line in text.splitlines()
    ]
    assert ["levels=8", "3.00 uJ *"] in rows
    assert "levels=300: refused: 300 levels: 8 bits hold 255" in text


def test_the_summary_has_the_range_of_latencies(capsys):
    latency = [
        LatencyResult("ann", 1, 2e-3, 1.0, None, (1e-3, 3e-3), (1.0, 1.0)),
        LatencyResult("snn", 1, 3e-3, 1.5, None, (2e-3, 4e-3), (1.25, 2.0)),
        LatencyResult("ann", 8, 2e-3, 1.0, None),
    ]
    show_summary(EvaluationResult({}, {}, {}, samples=7, outputs=[], latency=latency))
    text = " ".join(capsys.readouterr().out.split())
    assert "at batch 1: ANN 2.00 ms (1.00 ms to 3.00 ms); " in text
    assert "SNN, C++ kernels 3.00 ms, 1.50 x (1.25 to 2.00)" in text
    assert text.endswith("at batch 8: ANN 2.00 ms")


def test_a_sweep_in_full_has_every_accounting_and_the_fidelity(capsys):
    energy = {"unary": 3e6, "bit_serial": 2e6, "graded_int8": 1e6, "ann_fp32": 9e6}
    point = SweepPoint(
        "levels=8", {}, [OutputResult("y", 1.0, 0.25)], energy, False, ["unary", "unary_int8"]
    )
    refused = SweepPoint("levels=0", {}, [], {}, refused="none")
    rows, text = shown(capsys, sweep=[point, refused])
    assert ["levels=8", "0.25", "0.2500", "3.00 uJ *", "2.00 uJ", "1.00 uJ"] in rows
    assert "graded, int8" in text and "ann_fp32" not in text and "levels=0: refused: none" in text
