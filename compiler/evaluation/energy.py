"""Estimated energy, from counted operations and a table of energies per operation.

Definitions, sources and limits: docs/energy.md. Every figure is an estimate: operations times a
constant. What moving data adds, which costs more than arithmetic on most machines, stands beside
the totals.

    accounting        an operator that reads spikes                    an analog one
    unary             fp32_add * unary                                 fp32_mac * MACs
    bit_serial        fp32_add * bit-serial                            fp32_mac * MACs
    graded            fp32_mac * graded                                fp32_mac * MACs
    unary_int8        int8_add * unary                                 int8_mac * MACs
    bit_serial_int8   int8_add * bit-serial                            int8_mac * MACs
    graded_int8       int8_mac * graded                                int8_mac * MACs
    ann_fp32          fp32_mac * MACs                                  fp32_mac * MACs
    ann_int8          int8_mac * MACs                                  int8_mac * MACs
    ann_bits          int8_mac * MACs * bits / 8                       int8_mac * MACs

MACs of the SNN's analog operators count at every timestep at which they are computed.

The accountings of the SNN with int8 weights stand beside ``ann_int8``, so that a precision of the
weights is not taken for a merit of spikes. They are those of a network whose spikes and weights are
integers (target ``int8``). ``ann_bits`` is a network of the same number of levels:
activations of bits = ceil(log2(N + 1)) and weights of 8; that the energy of a product is in
proportion to the bits of one factor is an assumption: an array multiplier has a row of adders for
each bit of it.

Memory, if a byte has an energy: bytes per operation, all at one price. A dense network reads weight
and activation of each MAC and keeps the sum in a register. One driven by events reads the weight,
and reads and writes the sum (a membrane potential), at each accumulate or multiply-accumulate; bits
of one event are shifted on the way, so bit_serial takes what graded takes. Weights and activations
have 4 bytes (float32) or 1 (int8), activations of ann_bits bits / 8, sums 4.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...runtime_ops.staircase_fire import STAIRCASE_FIRE
from ..counting.results import NeuronResult, SynapseResult
from ..errors import UsageError
from ..report.results import EnergyResult, ResidueResult
from .break_even import cheaper_up_to, layer_rates, levels_of
from .neurobench import neurobench_terms

#: Accountings of the SNN and of networks of the same operators without spikes.
ACCOUNTINGS = (
    *("unary", "bit_serial", "graded", "unary_int8", "bit_serial_int8", "graded_int8"),
    *("ann_fp32", "ann_int8", "ann_bits"),
)

_SOURCE = "45 nm, M. Horowitz, Computing's energy problem, ISSCC 2014"
_BITS_OF_INT8 = 8
_SUM_BYTES = 4
#: What a table may leave out: then memory has no figures.
MEMORY = "memory_byte"
#: Bytes of a table's file; a table has five numbers.
_LARGEST_FILE = 1 << 20


@dataclass(frozen=True)
class EnergyTable:
    """Energies per operation.

    Attributes:
        constants: pJ by operation: "fp32_mac", "fp32_add", "int8_mac" and "int8_add", and maybe
            "memory_byte": of a byte that is read or written.
        source: where they come from.
    """

    constants: Mapping[str, float]
    source: str


#: A multiply-accumulate is a multiplication (3.7 and 0.2 pJ) and an addition; 8 bytes from a cache
#: of 8 KB take 10 pJ.
HOROWITZ_45_NM = EnergyTable(
    {"fp32_mac": 4.6, "fp32_add": 0.9, "int8_mac": 0.23, "int8_add": 0.03, MEMORY: 1.25}, _SOURCE
)


def read_energy_table(path: Path) -> EnergyTable:
    """A table from a JSON file: the keys of :data:`HOROWITZ_45_NM`, in pJ, and maybe "source";
    without "memory_byte" moving data has no figures.

    Raises:
        UsageError: it is not readable, a key is missing or unknown, or a value is no energy.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise UsageError(f"{path}: larger than {_LARGEST_FILE} bytes; {_expected()}")
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: no readable JSON file: {error}; {_expected()}") from error
    if not isinstance(read, dict):
        raise UsageError(f"{path}: holds no JSON object; {_expected()}")
    source = read.pop("source", str(path))
    if not isinstance(source, str):
        raise UsageError(f"{path}: 'source' is {source!r}; give a text")
    wanted = HOROWITZ_45_NM.constants
    missing = set(wanted) - set(read) - {MEMORY}
    for problem, keys in (("unknown", set(read) - set(wanted)), ("no", missing)):
        if keys:
            names = ", ".join(f"'{key}'" for key in sorted(keys))
            raise UsageError(f"{path}: {problem} key {names}; {_expected()}")
    for key, value in read.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= 1e300 or not math.isfinite(value):
            raise UsageError(f"{path}: '{key}' is {value!r}; give a finite number of pJ, 0 or more")
    return EnergyTable({key: float(read[key]) for key in wanted if key in read}, source)


def _expected() -> str:
    keys = ", ".join(f'"{key}"' for key in HOROWITZ_45_NM.constants if key != MEMORY)
    return f'give an object with the keys {keys}, in pJ, and maybe "{MEMORY}" and "source"'


def estimate_energy(
    neurons: Sequence[NeuronResult],
    synapses: Sequence[SynapseResult],
    residue: Sequence[ResidueResult],
    table: EnergyTable = HOROWITZ_45_NM,
    integers: bool = False,
) -> EnergyResult:
    """Energies per sample of each operator and in total, by the accountings above.

    Args:
        neurons: of :meth:`.spikes.SpikeMeter.result`.
        synapses: likewise; they are left as they are.
        residue: of :func:`.residue.float_residue`.
        table: energies per operation.
        integers: the network's spikes and weights are integers of 8 bits.
    """
    counted = [
        replace(synapse, energy=_energies(synapse, table), memory=_memory(synapse, table))
        for synapse in synapses
    ]
    totals = {name: math.fsum(s.energy[name] for s in counted) for name in ACCOUNTINGS}
    memory = ACCOUNTINGS if MEMORY in table.constants else ()
    levels = levels_of(neurons, synapses)
    macs = sum(synapse.macs for synapse in synapses)
    analog = sum(synapse.macs for synapse in synapses if synapse.analog)
    return EnergyResult(
        constants=dict(table.constants),
        constants_source=table.source,
        synapses=counted,
        residue=list(residue),
        totals=totals,
        analog_share=analog / macs if macs else 0.0,
        notes=_notes(neurons, synapses, residue, integers),
        memory={name: math.fsum(s.memory[name] for s in counted) for name in memory},
        rates=layer_rates(counted),
        levels=levels,
        cheaper_up_to=cheaper_up_to(levels, counted),
        neurobench=neurobench_terms(neurons, synapses),
    )


def _energies(synapse: SynapseResult, table: EnergyTable) -> dict[str, float]:
    pj, macs = table.constants, synapse.macs
    bits = _BITS_OF_INT8 if synapse.analog else synapse.bits
    ann = {
        "ann_fp32": pj["fp32_mac"] * macs,
        "ann_int8": pj["int8_mac"] * macs,
        "ann_bits": pj["int8_mac"] * macs * bits / _BITS_OF_INT8,
    }
    found = {}
    for suffix, kind in (("", "fp32"), ("_int8", "int8")):
        mac, add = pj[f"{kind}_mac"], pj[f"{kind}_add"]
        spiking = {
            "unary": add * synapse.unary,
            "bit_serial": add * synapse.bit_serial,
            "graded": mac * synapse.graded,
        }
        for name, energy in spiking.items():
            found[name + suffix] = mac * macs * synapse.repeats if synapse.analog else energy
    return {**found, **ann}


def _memory(synapse: SynapseResult, table: EnergyTable) -> dict[str, float]:
    """Of reading and writing operands, by accounting."""
    byte = table.constants.get(MEMORY)
    if byte is None:
        return {}
    macs = byte * synapse.macs
    bits = _BITS_OF_INT8 if synapse.analog else synapse.bits
    found = {"ann_fp32": 8 * macs, "ann_int8": 2 * macs, "ann_bits": macs * (1 + bits / 8)}
    for suffix, weight in (("", 4), ("_int8", 1)):
        event_driven = byte * (weight + 2 * _SUM_BYTES)
        spiking = {
            "unary": event_driven * synapse.unary,
            "bit_serial": event_driven * synapse.graded,
            "graded": event_driven * synapse.graded,
        }
        for name, energy in spiking.items():
            found[name + suffix] = 2 * weight * macs * synapse.repeats if synapse.analog else energy
    return found


def _notes(
    neurons: Sequence[NeuronResult],
    synapses: Sequence[SynapseResult],
    residue: Sequence[ResidueResult],
    integers: bool,
) -> list[str]:
    spiking = {name for synapse in synapses for name in synapse.inputs}
    notes = [
        "Estimates: operations times a constant; the neurons themselves, sending spikes and idle "
        "circuits are left out, and moving weights, activations and sums is in the figures with "
        "memory alone, all of it at the price of one small memory.",
    ]
    if integers:
        notes.append(
            "Spikes and weights of this network are integers of 8 bits: the accountings with _int8 "
            "are its own, those without are the same spikes with weights in float."
        )
    if any(neuron.op == STAIRCASE_FIRE.name and neuron.name in spiking for neuron in neurons):
        notes.append(
            "Levels of StaircaseFire are in general no multiples of one step: its k is the nearest "
            "multiple of the smallest step between two levels, counted from the silent one. Unary "
            "and bit_serial are then what a machine would spend that rounds levels so; only the "
            "graded accounting is that of the network as it computes."
        )
    uncounted = [s.name for s in synapses if s.analog.startswith("not counted")]
    if uncounted:
        notes.append(f"In no figure: {', '.join(uncounted)}, which could not be counted.")
    elements = sum(result.elements for result in residue)
    if elements:
        what = "sums, means and float arithmetic" if integers else "float arithmetic"
        notes.append(f"In no total: {what} on {elements:,.0f} values per sample, listed apart.")
    return notes
