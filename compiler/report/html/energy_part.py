"""The estimated energy of a network, as a section of a page. Definitions: docs/energy.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...counting.results import SynapseResult
from ..results import EnergyResult
from .figures import MOST_ROWS, bars_figure, layers_figure
from .numbers import NOTHING, count, energy, number, percent
from .page import Figure, Section, Table

#: What the accountings are called here, in the order in which they are shown.
_NAMES = {
    "unary": "SNN, unary",
    "bit_serial": "SNN, bit-serial",
    "graded": "SNN, graded",
    "unary_int8": "SNN, unary, int8",
    "bit_serial_int8": "SNN, bit-serial, int8",
    "graded_int8": "SNN, graded, int8",
    "ann_fp32": "ANN, FP32",
    "ann_int8": "ANN, INT8",
    "ann_bits": "ANN, few bits",
}
#: Those that are compared with each other in one figure: weights of one precision.
_INT8 = ("unary_int8", "bit_serial_int8", "graded_int8", "ann_int8", "ann_bits")
_ESTIMATE = (
    "Every figure here is an estimate: operations counted on the test samples times the energy of "
    "one operation from the table of constants. Memory accesses have a table of their own; what "
    "else hardware does is not in it. Unary: an addition for each spike and synapse, so that a "
    "value of k spikes counts k times. Bit-serial: an addition for each bit of k that is set. "
    "Graded: a multiply for "
    "each value that is not silent. Few bits: the ANN with as many bits as the levels need, "
    "ceil(log2(N + 1)). The SNN with int8 has weights of 8 bits, as the ANN in INT8; those of a "
    "compiled network are floats, but for target int8."
)


def name_of(accounting: str) -> str:
    """What an accounting is called on the page."""
    return _NAMES.get(accounting, accounting)


def spiking(accountings: Iterable[str]) -> list[str]:
    """Those of spiking networks, in the order in which they are shown."""
    return [key for key in _ordered(accountings) if not key.startswith("ann")]


def energy_section(result: EnergyResult | None) -> Section | None:
    """Totals, figures and tables; None where nothing was estimated."""
    if result is None:
        return None
    shown = _most_energy(result.synapses)
    of_layers = _ordered(key for synapse in shown for key in synapse.energy)
    figures = [_totals(result)]
    for keys in (
        [key for key in of_layers if key not in _INT8],
        [key for key in of_layers if key in _INT8],
    ):
        if keys:
            figures.append(_layers(shown, len(result.synapses), keys))
    totals = [
        (name_of(key), energy(result.totals[key]), "per sample, estimate")
        for key in _ordered(result.totals)
    ]
    analog = ("analog share", percent(result.analog_share, 1), "of MACs, read no spikes")
    return Section(
        "energy",
        "Energy (estimate)",
        [_ESTIMATE, *result.notes],
        [*totals, analog],
        figures=figures,
        tables=_tables(result),
    )


def _totals(result: EnergyResult) -> Figure:
    bars = {name_of(key): result.totals[key] / 1e6 for key in _ordered(result.totals)}
    label = "Estimated energy per sample by accounting"
    drawn = bars_figure(label, bars, "µJ per sample (estimate)")
    return Figure(drawn, "All linear operators, those with analog input included.")


def _layers(shown: Sequence[SynapseResult], of: int, keys: Sequence[str]) -> Figure:
    """Accountings of spikes as bars, others as marks."""
    drawn = layers_figure(
        "Estimated energy of each linear operator",
        [synapse.name for synapse in shown],
        {name_of(key): _column(shown, key) for key in spiking(keys)},
        {name_of(key): _column(shown, key) for key in keys if key not in spiking(keys)},
        "nJ per sample (estimate)",
    )
    caption = "Linear operators in the order of the network."
    if len(shown) < of:
        caption += f" The {len(shown)} with most energy, of {of}."
    return Figure(drawn, caption)


def _tables(result: EnergyResult) -> list[Table]:
    keys = _ordered(key for synapse in result.synapses for key in synapse.energy)
    header = [
        "node", "operator", "reads", "MACs\t", "events\t", "unary\t", "bit-serial\t", "graded\t",
        "bits\t", *[f"{name_of(key)}\t" for key in keys],
    ]  # fmt: skip
    rows = [
        [
            s.name,
            s.op,
            f"analog: {s.analog}" if s.analog else ", ".join(s.inputs),
            count(s.macs),
            *([NOTHING] * 5 if s.analog else _operations(s)),
            *[energy(s.energy.get(key)) for key in keys],
        ]
        for s in result.synapses
    ]
    constants = [[name, number(value)] for name, value in result.constants.items()]
    residue = [[r.name, r.op, count(r.elements)] for r in result.residue]
    floats = ["node", "operator", "elements\t"]
    return [
        Table("Operations and energy per sample of each linear operator", header, rows, True),
        *_with_memory(result),
        Table(f"Constants ({result.constants_source})", ["operation", "pJ\t"], constants),
        Table("Float operators, in no total", floats, residue, folded=True),
    ]


def _with_memory(result: EnergyResult) -> list[Table]:
    """Totals with memory accesses; rates of events and spikes beside where they break even."""
    memory = [
        [name_of(key), energy(result.memory[key]), energy(result.totals[key] + result.memory[key])]
        for key in _ordered(result.memory)
    ]
    rates = [
        [
            rate.name,
            *map(number, (rate.events, rate.events_break_even, rate.events_break_even_memory)),
            *map(number, (rate.spikes, rate.spikes_break_even, rate.spikes_break_even_memory)),
        ]
        for rate in result.rates
    ]
    below = ["below\t", "below, with memory\t"]
    header = ["node", "events\t", *below, "spikes\t", *below]
    title = "Per multiply-accumulate, and the rate below which a network of few bits takes more"
    found = []
    if memory:
        columns = ["accounting", "memory\t", "with arithmetic\t"]
        found.append(Table("Memory accesses per sample (estimate)", columns, memory))
    if rates:
        found.append(Table(f"{title} (estimate)", header, rates, folded=True))
    return found


def _operations(synapse: SynapseResult) -> list[str]:
    counts = [synapse.events, synapse.unary, synapse.bit_serial, synapse.graded]
    return [*[count(value) for value in counts], str(synapse.bits)]


def _ordered(accountings: Iterable[str]) -> list[str]:
    """Each once, in the order of :data:`_NAMES`, others behind them."""
    keys = list(dict.fromkeys(accountings))
    return [key for key in _NAMES if key in keys] + [key for key in keys if key not in _NAMES]


def _column(synapses: Iterable[SynapseResult], key: str) -> list[float | None]:
    """In nJ."""
    values = [synapse.energy.get(key) for synapse in synapses]
    return [None if value is None else value / 1e3 for value in values]


def _most_energy(synapses: Sequence[SynapseResult]) -> list[SynapseResult]:
    """As many as a figure holds, those with most energy, in the order of the network."""
    ranked = sorted(
        range(len(synapses)), key=lambda i: (-max(synapses[i].energy.values(), default=0.0), i)
    )
    return [synapses[i] for i in sorted(ranked[:MOST_ROWS])]
