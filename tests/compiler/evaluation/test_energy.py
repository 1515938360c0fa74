"""Energy from counts and a table of constants; the float residue."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from snn_compile.compiler.counting.results import NeuronResult, SynapseResult
from snn_compile.compiler.errors import UsageError
from snn_compile.compiler.evaluation.energy import (
    ACCOUNTINGS,
    HOROWITZ_45_NM,
    EnergyTable,
    estimate_energy,
    read_energy_table,
)
from snn_compile.compiler.evaluation.residue import float_residue
from snn_compile.compiler.report.results import ResidueResult
from spikes_by_hand import measure, network

CONSTANTS = {"fp32_mac": 7.0, "fp32_add": 3.0, "int8_mac": 0.5, "int8_add": 0.125}
SPIKING = SynapseResult("b", "Conv", ["n"], "", 1000, 10, 400, 120, 80, bits=6)
ANALOG = SynapseResult("a", "Conv", [], "reads the network's own input", 200)


MADE_UP = EnergyTable(CONSTANTS, "made up")


def spiker(name="n", levels=(0, 32), timesteps=1):
    return replace(neuron("ScaleFire", name), levels=levels, timesteps=timesteps)


def neuron(op, name="n"):
    return NeuronResult(name, op, "", "", 1, (0, 32), (0, 32), 1.0, 1.0, 0.0, 0.0, None, 0.0)


def test_accountings():
    table = EnergyTable(CONSTANTS, "made up")
    result = estimate_energy([], [ANALOG, SPIKING], [], table)
    analog, spiking = (synapse.energy for synapse in result.synapses)
    assert spiking == {
        "unary": 3 * 400, "bit_serial": 3 * 120, "graded": 7 * 80,
        "unary_int8": 0.125 * 400, "bit_serial_int8": 0.125 * 120, "graded_int8": 0.5 * 80,
        "ann_fp32": 7 * 1000, "ann_int8": 0.5 * 1000, "ann_bits": 0.5 * 1000 * 6 / 8,
    }  # fmt: skip
    assert analog == {
        name: (0.5 if name.endswith(("int8", "bits")) else 7) * 200 for name in ACCOUNTINGS
    }
    assert result.totals == {name: analog[name] + spiking[name] for name in ACCOUNTINGS}
    assert result.analog_share == 200 / 1200
    assert (result.constants, result.constants_source) == (CONSTANTS, "made up")
    assert SPIKING.energy == {}


def test_memory_by_loops_over_accesses():
    table = EnergyTable({**CONSTANTS, "memory_byte": 2.0}, "made up")
    result = estimate_energy([], [ANALOG, SPIKING], [], table)
    analog, spiking = (synapse.memory for synapse in result.synapses)
    weight = {"": 4, "_int8": 1}
    for suffix, size in weight.items():
        accesses = size + 4 + 4  # the weight, the sum before, the sum behind
        assert spiking["unary" + suffix] == sum(2.0 * accesses for _ in range(400))
        assert spiking["graded" + suffix] == sum(2.0 * accesses for _ in range(80))
        assert spiking["bit_serial" + suffix] == spiking["graded" + suffix]
        assert analog["unary" + suffix] == 2.0 * (size + size) * 200
    assert spiking["ann_fp32"] == 2.0 * (4 + 4) * 1000
    assert spiking["ann_int8"] == 2.0 * (1 + 1) * 1000
    assert spiking["ann_bits"] == 2.0 * (1 + 6 / 8) * 1000
    assert result.memory == {name: analog[name] + spiking[name] for name in ACCOUNTINGS}
    assert result.totals == estimate_energy([], [ANALOG, SPIKING], [], MADE_UP).totals


def test_a_table_without_memory_has_no_figures_of_it():
    result = estimate_energy([spiker()], [SPIKING], [], MADE_UP)
    assert result.memory == result.synapses[0].memory == {}
    assert set(result.cheaper_up_to) == {"fp32", "int8"}
    (rate,) = result.rates
    assert rate.events_break_even_memory is rate.spikes_break_even_memory is None


def test_at_the_break_even_rate_both_take_the_same():
    """Counts put to the rate that was found: the SNN takes what the network of few bits takes."""
    (rate,) = estimate_energy([], [ANALOG, SPIKING], []).rates
    assert (rate.name, rate.events, rate.spikes) == ("b", 80 / 1000, 400 / 1000)
    for memory, events, spikes in (
        (False, rate.events_break_even, rate.spikes_break_even),
        (True, rate.events_break_even_memory, rate.spikes_break_even_memory),
    ):
        there = replace(SPIKING, graded=1000 * events, unary=1000 * spikes)
        found = estimate_energy([], [there], [])
        both = {
            name: found.totals[name] + memory * found.memory[name]
            for name in ("graded_int8", "unary_int8", "ann_bits")
        }
        assert both["graded_int8"] == pytest.approx(both["ann_bits"])
        assert both["unary_int8"] == pytest.approx(both["ann_bits"])


def test_a_layer_that_nothing_reaches_has_no_break_even_rate():
    (rate,) = estimate_energy([], [replace(SPIKING, unary=0, graded=0, bit_serial=0)], []).rates
    assert rate.events == rate.spikes == 0
    assert rate.events_break_even is rate.spikes_break_even is None
    assert estimate_energy([], [ANALOG], []).rates == []


def test_levels_at_which_spikes_take_what_the_ann_takes():
    """Spikes grow with N: at the N found, unary energy is that of the ANN."""
    result = estimate_energy([spiker(levels=(8, 32))], [ANALOG, SPIKING], [])
    assert result.levels == 32
    for precision, suffix in (("fp32", ""), ("int8", "_int8")):
        for memory in (False, True):
            most = result.cheaper_up_to[precision + "_memory" * memory]
            there = replace(SPIKING, unary=400 * most / 32)
            found = estimate_energy([], [ANALOG, there], [])
            both = [
                found.totals[name] + memory * found.memory[name]
                for name in (f"unary{suffix}", f"ann_{precision}")
            ]
            assert both[0] == pytest.approx(both[1])


def test_of_levels_that_are_no_multiples_no_such_number_is_known():
    for neurons in ([], [neuron("StaircaseFire")], [neuron("ScaleFire", "not read")]):
        result = estimate_energy(neurons, [SPIKING], [])
        assert (result.levels, result.cheaper_up_to) == (0, {})


@pytest.mark.parametrize("value", [0.0, 1e300])
def test_what_has_no_finite_answer_has_none(value):
    """Operations that are free, and such that no sum of them is finite."""
    table = EnergyTable({**CONSTANTS, "fp32_add": value, "int8_add": value}, "made up")
    large = replace(SPIKING, macs=1e10, unary=1e10, graded=1e10, bit_serial=1e10)
    result = estimate_energy([spiker()], [large], [], table)
    assert result.rates[0].spikes_break_even in (None, 0.0)
    assert all(np.isfinite(most) for most in result.cheaper_up_to.values())


def test_levels_of_most_neurons_over_all_timesteps():
    read = [replace(SPIKING, inputs=[name]) for name in "abc"]
    neurons = [spiker(name, (0, 16 if name == "a" else 3), timesteps=4) for name in "abc"]
    assert estimate_energy(neurons, read, []).levels == 12


def test_terms_of_neurobench():
    """By its definitions, over arrays: 3 x 4 activations into 5 outputs."""
    k = np.array([[0, 2, 0, 1], [3, 0, 0, 0], [1, 1, 0, 2]])
    synapse = replace(
        SPIKING, macs=5 * 4, unary=5 * k.sum() / 3, graded=5 * np.count_nonzero(k) / 3
    )
    fired = replace(spiker(levels=(0, 4)), neurons=4, active=np.count_nonzero(k) / 12)
    assert estimate_energy([fired], [ANALOG, synapse], []).neurobench == {
        "activation_sparsity": pytest.approx(np.mean(k == 0)),
        "dense": 220,
        "effective_macs": 200 + 5 * np.count_nonzero(k) / 3,
        "effective_acs": 5 * k.sum() / 3,
        "effective_macs_of_binary": 200,
    }


def test_constants_of_45_nm():
    spiking = estimate_energy([], [SPIKING], []).totals
    assert spiking["ann_fp32"] == pytest.approx(4600)
    assert spiking["unary"] == pytest.approx(360)
    assert spiking["ann_int8"] == pytest.approx(230)
    assert spiking["unary_int8"] == pytest.approx(12)


@pytest.mark.parametrize(
    ("op", "name", "told"),
    [("StaircaseFire", "n", True), ("StaircaseFire", "m", False), ("ScaleFire", "n", False)],
)
def test_levels_that_are_no_multiples_are_told(op, name, told):
    notes = estimate_energy([neuron(op, name)], [SPIKING], []).notes
    assert any("only the graded accounting is that" in note for note in notes) == told
    assert notes[0].startswith("Estimates:")


def test_what_is_left_out_is_told():
    lost = SynapseResult("c", "Einsum", [], "not counted: its equation", 0)
    residue = [ResidueResult("s", "Softmax", 1500.0)]
    result = estimate_energy([], [SPIKING, lost], residue)
    assert any("In no figure: c," in note for note in result.notes)
    assert any("1,500 values" in note for note in result.notes)
    assert result.residue == residue
    assert result.totals == estimate_energy([], [SPIKING], []).totals


def test_a_network_without_products_has_no_energy():
    result = estimate_energy([], [], [])
    assert set(result.totals.values()) == {0}
    assert result.analog_share == 0


def test_a_table_is_read(tmp_path):
    path = tmp_path / "table.json"
    path.write_text(json.dumps({**CONSTANTS, "fp32_mac": 7, "source": "7 nm, made up"}))
    assert read_energy_table(path) == EnergyTable(CONSTANTS, "7 nm, made up")
    path.write_text(json.dumps({**CONSTANTS, "memory_byte": 12.5}))
    assert read_energy_table(path).constants == {**CONSTANTS, "memory_byte": 12.5}
    path.write_text(json.dumps(CONSTANTS))
    assert read_energy_table(path).source == str(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no readable JSON file"),
        ("[" * 200_000, "no readable JSON file"),
        ("\x80", "holds no JSON object"),
        ("[1]", "holds no JSON object"),
        (json.dumps({**CONSTANTS, "fp16_mac": 1}), "unknown key 'fp16_mac'"),
        (json.dumps({"fp32_mac": 1, "int8_mac": 1}), "no key 'fp32_add', 'int8_add'"),
        (json.dumps({**CONSTANTS, "int8_add": -1}), "'int8_add' is -1"),
        (json.dumps({**CONSTANTS, "int8_add": "1"}), "'int8_add' is '1'"),
        (json.dumps({**CONSTANTS, "int8_add": True}), "'int8_add' is True"),
        (json.dumps({**CONSTANTS, "int8_add": float("nan")}), "'int8_add' is nan"),
        (json.dumps({**CONSTANTS, "int8_add": float("inf")}), "'int8_add' is inf"),
        (json.dumps({**CONSTANTS, "int8_add": 10**400}), "'int8_add' is 1000"),
        (json.dumps({**CONSTANTS, "memory_byte": -1}), "'memory_byte' is -1"),
        (json.dumps({**CONSTANTS, "source": 3}), "'source' is 3"),
        (" " * (1 << 20) + "{}", "larger than"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, text, message):
    path = tmp_path / "table.json"
    path.write_text("3" if text == "\x80" else text)
    with pytest.raises(UsageError, match=message) as refused:
        read_energy_table(path)
    assert str(path) in str(refused.value)
    assert refused.value.exit_code == 2


def test_a_table_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no readable JSON file"):
        read_energy_table(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(UsageError, match="no readable JSON file"):
        read_energy_table(tmp_path / "latin.json")


TEXT = """g (float[N, 3, 4] x) => (float[N, 3] z) {
    scaled = Mul (x, half)
    y = ai.snn.MultiThresholdFire <levels_pos = 4> (scaled, theta)
    a = Conv (y, w)
    t = Transpose <perm = [0, 2, 1]> (a)
    s = Softmax (t)
    z = ReduceMean <axes = [1], keepdims = 0> (s)
}"""


def test_float_arithmetic_is_listed_by_its_values():
    snn = network(TEXT, half=np.float32(0.5), theta=np.float32(1), w=np.ones((3, 3, 1), np.float32))
    x = np.ones((2, 3, 4), np.float32)
    found = [(r.name, r.op, r.elements) for r in float_residue(snn, {"x": x}, 2)]
    assert found == [
        ("Mul of scaled", "Mul", 12), ("Softmax of s", "Softmax", 12),
        ("ReduceMean of z", "ReduceMean", 12),
    ]  # fmt: skip


def test_everything_together():
    snn = network(TEXT, half=np.float32(0.5), theta=np.float32(1), w=np.ones((3, 3, 1), np.float32))
    feed = {"x": np.full((2, 3, 4), 5, np.float32)}
    neurons, synapses = measure(snn, feed)
    result = estimate_energy(
        list(neurons.values()), list(synapses.values()), float_residue(snn, feed, 2)
    )
    products = 3 * 3 * 4
    assert result.totals["ann_fp32"] == HOROWITZ_45_NM.constants["fp32_mac"] * products
    # round half up of 2.5
    assert result.totals["unary"] == HOROWITZ_45_NM.constants["fp32_add"] * (products * 3)
