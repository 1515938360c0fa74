"""An evaluation as tables on the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..counting.results import NeuronResult
from ..terminal import NAME, Column, say_wrapped, show_table
from .results import (
    SPIKING_ACCOUNTINGS,
    Difference,
    EnergyResult,
    Estimate,
    EvaluationResult,
    OutputResult,
    PremiseResult,
    SweepPoint,
)
from .sweep_points import (
    ACCOUNTINGS,
    accuracy_of,
    baseline_points,
    energy_of,
)
from .task_tables import show_task

_NETWORK = Column("network", NAME)

_PREFIXES = {-4: "p", -3: "n", -2: "u", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T"}


def show_result(result: EvaluationResult) -> None:
    """Everything that was measured.

    Raises:
        UsageError: standard output cannot be written.
    """
    networks = {"SNN": result.outputs, **{b.name: b.outputs for b in result.baselines}}
    rows = [
        row
        for i, output in enumerate(result.outputs)
        for row in _accuracy(output, {name: outputs[i] for name, outputs in networks.items()})
    ]
    if rows:
        columns: list[str | Column] = ["output", _NETWORK, "top-1, %", "top-5, %", "drop, points"]
        show_table(f"{result.samples} samples, with 95 % intervals", columns, rows)
    show_task(result)
    _show_fidelity(
        "against the ANN" if rows else f"{result.samples} samples, against the ANN", networks
    )
    if result.neurons:
        _show_neurons(result.neurons)
    if result.flips_outputs:
        _show_fidelity(
            "SNN without graph optimisation against SNN with it, first samples",
            {"SNN": result.flips_outputs},
        )
    if result.premise is not None:
        _show_premise(result.premise)
    if result.energy is not None:
        _show_energy(result.energy, "int8" if result.integers else "float32")
    if result.latency:
        _show_latency(result)
    if result.sweep:
        show_sweep(result, full=True)


def _accuracy(ann: OutputResult, networks: dict[str, OutputResult]) -> Iterator[list[str]]:
    """A row for each network; none without labels."""
    if ann.ann_top1 is None:
        return
    yield [ann.name, "ANN", share(ann.ann_top1), share(ann.ann_top5), ""]
    for name, output in networks.items():
        yield ["", name, share(output.top1), share(output.top5), points(output.drop)]


def _show_fidelity(title: str, networks: dict[str, list[OutputResult]]) -> None:
    rows = [
        [
            output.name,
            name,
            share(output.agreement),
            f"{output.relative_l2:.4f}",
            "-" if output.cosine is None else f"{output.cosine:.4f}",
            f"{output.max_abs:.4g}",
        ]
        for name, outputs in networks.items()
        for output in outputs
    ]
    columns: list[str | Column] = [
        "output",
        _NETWORK,
        "agreement, %",
        "rel. error",
        "cosine",
        "largest diff.",
    ]
    show_table(title, columns, rows)


def _show_neurons(neurons: list[NeuronResult]) -> None:
    show_table(
        "neurons",
        [
            *("neuron", "replaces", "N", "k", "spikes per value", "silent neurons"),
            *("saturated neurons", "clipped", "bits", "flips"),
        ],
        [
            [
                neuron.name,
                neuron.source_op,
                _levels(neuron.levels),
                _levels((-neuron.spike_range[0], neuron.spike_range[1])),
                f"{neuron.spikes_per_value:.2f}",
                f"{neuron.silent_neurons:.1%}",
                f"{neuron.saturated_neurons:.1%}",
                "-" if neuron.clip_rate is None else f"{neuron.clip_rate:.2%}",
                f"{neuron.entropy:.2f}",
                "-" if neuron.flips is None else f"{neuron.flips:.3%}",
            ]
            for neuron in neurons
        ],
    )
    say_wrapped(
        "k: unit spikes of a level; spikes per value: |k| per neuron, sample and timestep; silent, "
        "saturated neurons: those that never fire, or are always at their outermost level; bits: "
        "entropy of levels"
    )


def _show_premise(premise: PremiseResult) -> None:
    spatial = "ANN" if premise.spatial == "ann" else "made from the SNN"
    show_table(
        f"{premise.timesteps} timesteps against one ({spatial}), first {premise.samples} samples",
        ["neuron", "n", "below", "above", "differ", "by", "bound", "inside", "from one step", "by"],
        [
            [
                neuron.name,
                _levels(neuron.levels),
                f"{neuron.below:.1%}",
                f"{neuron.above:.1%}",
                f"{neuron.own.share:.3%}",
                _by(neuron.own),
                _by(neuron.bound),
                str(neuron.inside_differing),
                f"{neuron.total.share:.3%}",
                _by(neuron.total),
            ]
            for neuron in premise.neurons
        ],
    )
    notes = (
        "n: levels of a step; below, above: step inputs outside [0, n theta], of both polarities "
        "[-n theta, n theta]; differ: neurons whose spikes are others than those of one step on "
        "the mean of the same inputs; by: mean and largest difference in levels; bound: likewise, "
        "what can be proved from these inputs; inside: how many differ with all inputs inside "
        "(roundings, ties); from one step: against the spikes of the network of one step, with "
        "what earlier neurons passed on"
    )
    say_wrapped(notes)
    if premise.outputs:
        _show_fidelity("against the network of one step", {"SNN": premise.outputs})


def _by(difference: Difference) -> str:
    return f"{difference.mean:.3g}, {difference.largest}"


def _show_latency(result: EvaluationResult) -> None:
    show_table(
        "latency, each network in processes of its own",
        ["network", "batch", "median", "spread", "to the ANN", "peak memory"],
        [
            [
                result.called(one.network),
                str(one.batch),
                f"{count(one.seconds)}s",
                "-" if one.spread is None else f"{one.spread:.0%}",
                f"{one.ratio:.2f} x",
                "-" if one.peak_bytes is None else f"{one.peak_bytes / 2**20:.0f} MiB",
            ]
            for one in result.latency
        ],
    )


def _show_energy(energy: EnergyResult, precision: str) -> None:
    """``precision``: of the ANN that energies are compared with, that of the SNN's weights."""
    show_table(
        "per sample: multiply-accumulates of the ANN, synaptic operations of the SNN",
        ["layer", "operator", "reads", "MACs", "events", "unary", "bit_serial", "graded"],
        [
            [
                layer.name,
                layer.op,
                "analog" if layer.analog else "spikes",
                count(layer.macs),
                *(
                    "-" if layer.analog else count(operations)
                    for operations in (layer.events, layer.unary, layer.bit_serial, layer.graded)
                ),
            ]
            for layer in energy.synapses
        ],
    )
    ann = energy.totals.get("ann_int8" if precision == "int8" else "ann_fp32")
    both = {name: pj + energy.memory.get(name, 0.0) for name, pj in energy.totals.items()}
    ann_both = both.get("ann_int8" if precision == "int8" else "ann_fp32")

    def to(pj: float) -> str:
        return f"{pj / ann_both:.2f} x" if ann_both else "-"

    to_ann = f"to the ANN in {precision}"
    show_table(
        f"energy per sample, estimates ({energy.constants_source})",
        ["accounting", "energy", to_ann, "with memory", to_ann][: 5 if energy.memory else 3],
        [
            [
                *(name, f"{count(pj * 1e-12)}J", f"{pj / ann:.2f} x" if ann else "-"),
                *((f"{count(both[name] * 1e-12)}J", to(both[name])) if energy.memory else ()),
            ]
            for name, pj in energy.totals.items()
        ],
    )
    _show_rates(energy)
    say_wrapped(
        f"{energy.analog_share:.1%} of the multiply-accumulates are in layers with analog input"
    )
    for note in energy.notes:
        say_wrapped(note)


def _show_rates(energy: EnergyResult) -> None:
    """Rates beside those from which on a network of few bits takes less."""
    if not energy.rates:
        return
    show_table(
        "per multiply-accumulate: events and unit spikes, and below which rate they take less "
        "energy than a network of ceil(log2(N + 1)) bits, estimates",
        ["linear operator", "events", "below", "with memory", "spikes", "below", "with memory"],
        [
            [
                rate.name,
                *_rate(rate.events, rate.events_break_even, rate.events_break_even_memory),
                *_rate(rate.spikes, rate.spikes_break_even, rate.spikes_break_even_memory),
            ]
            for rate in energy.rates
        ],
    )
    for sentence in (levels_that_pay(energy), _neurobench(energy)):
        if sentence:
            say_wrapped(sentence)


def _rate(*rates: float | None) -> list[str]:
    return ["-" if rate is None else f"{rate:.3f}" for rate in rates]


def levels_that_pay(energy: EnergyResult) -> str:
    """Up to which N spikes sent one by one take no more than the ANN; "" where it is not known."""

    def at(kinds: dict[str, str]) -> str:
        known = {name: energy.cheaper_up_to.get(key) for key, name in kinds.items()}
        return ", ".join(
            f"{'no N' if most < 1 else f'N = {math.floor(most)}'} in {name}"
            for name, most in known.items()
            if most is not None
        )

    plain = at({"fp32": "float32", "int8": "int8"})
    memory = at({"fp32_memory": "float32", "int8_memory": "int8"})
    if not plain:
        return ""
    return f"estimate, unary: no more than the ANN up to {plain}" + (
        f"; with memory up to {memory}" if memory else ""
    )


def _neurobench(energy: EnergyResult) -> str:
    terms = energy.neurobench
    if not terms:
        return ""
    return (
        f"in the terms of NeuroBench: activation sparsity {terms['activation_sparsity']:.3f}; "
        f"synaptic operations: dense {count(terms['dense']).strip()}, effective MACs "
        f"{count(terms['effective_macs']).strip()}, or with binary spikes effective ACs "
        f"{count(terms['effective_acs']).strip()} and MACs "
        f"{count(terms['effective_macs_of_binary']).strip()}"
    )


def show_sweep(result: EvaluationResult, full: bool = False) -> None:
    """Points with their energy in each accounting that one of them has, and what was refused.

    Args:
        result: with a sweep.
        full: every accounting of spikes, and fidelity; otherwise what fronts are of.

    Raises:
        UsageError: standard output cannot be written.
    """
    points = [*result.sweep, *baseline_points(result)]
    known = SPIKING_ACCOUNTINGS if full else ACCOUNTINGS
    accountings = [name for name in known if any(name in one.energy for one in points)]
    shown = [one for one in points if not one.refused]
    found = [accuracy for point in shown if (accuracy := accuracy_of(point)) is not None]
    measure = found[0].measure if found else "accuracy"
    show_table(
        "sweep; *: on the Pareto front, of weights of this precision",
        [
            *("network", measure),
            *(_FIDELITY if full else ()),
            *(name.replace("_int8", ", int8") for name in accountings),
        ],
        [
            [
                *(point.label, _accuracy_of(point)),
                *(_fidelity(point) if full else ()),
                *(_energy_on_front(point, name) for name in accountings),
            ]
            for point in shown
        ],
    )
    for point in points:
        if point.refused:
            say_wrapped(f"{point.label}: refused: {point.refused}", "  ")


_FIDELITY = ("agreement, %", "rel. error")


def _accuracy_of(point: SweepPoint) -> str:
    accuracy = accuracy_of(point)
    return "-" if accuracy is None else f"{accuracy.shown:.4g}"


def _fidelity(point: SweepPoint) -> tuple[str, str]:
    if not point.outputs:
        return "-", "-"
    return share(point.outputs[0].agreement), f"{point.outputs[0].relative_l2:.4f}"


def _energy_on_front(point: SweepPoint, accounting: str) -> str:
    pj = energy_of(point, accounting)
    if pj is None:
        return "-"
    return f"{count(pj * 1e-12)}J" + " *" * (accounting in point.pareto)


def _levels(levels: tuple[int, int]) -> str:
    negative, positive = levels
    return f"-{negative}..{positive}" if negative else str(positive)


def count(value: float) -> str:
    """Three digits and the prefix of the unit."""
    if value == 0:
        return "0 "
    power = min(max(math.floor(math.log10(abs(value)) / 3), -4), 4)
    scaled = value / 1000.0**power
    digits = max(2 - math.floor(math.log10(abs(scaled))), 0)
    return f"{scaled:.{digits}f} {_PREFIXES[power]}"


def share(estimate: Estimate | None) -> str:
    """In percent, with its interval."""
    if estimate is None:
        return "-"
    value, low, high = (100 * part for part in (estimate.value, estimate.low, estimate.high))
    return f"{value:.2f} [{low:.1f}, {high:.1f}]"


def points(estimate: Estimate | None) -> str:
    """A difference of shares in percentage points, with its interval."""
    if estimate is None:
        return "-"
    parts = (100 * part for part in (estimate.value, estimate.low, estimate.high))
    value, low, high = (f"{part:.2f}".replace("-0.00", "0.00") for part in parts)
    return f"{value} [{low}, {high}]"
