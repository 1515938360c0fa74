"""An evaluation in ten to twenty lines: accuracy, spikes, energy, latency, sweep."""

from __future__ import annotations

from collections.abc import Iterator

from ..counting.results import NeuronResult
from ..terminal import say_wrapped, show_table
from ..terminal.layout import in_sentence
from .results import EnergyResult, EvaluationResult, LatencyResult, OutputResult, PremiseResult
from .tables import count, levels_that_pay, points, share, show_sweep
from .task_tables import show_task

#: How many outputs and neurons are shown.
_MOST, _NEURONS = 5, 3


def show_summary(result: EvaluationResult) -> None:
    """The summary, without warnings.

    Raises:
        UsageError: standard output cannot be written.
    """
    _show_outputs(result)
    show_task(result)
    if result.neurons:
        _show_neurons(result.neurons)
    flips = [neuron for neuron in result.neurons if neuron.flips]
    if flips:
        most = max(flips, key=lambda neuron: neuron.flips or 0.0)
        say_wrapped(
            f"graph optimisation changes levels of {len(flips)} neurons, {most.flips:.3%} of the "
            f"values of {in_sentence(most.name)} at most",
            "  ",
        )
    if result.premise is not None:
        _say_premise(result.premise)
    if result.energy is not None:
        _say_energy(result.energy, "int8" if result.integers else "float32", result.accountings)
    if result.latency:
        _say_latency(result)
    if result.sweep:
        show_sweep(result)


def _show_outputs(result: EvaluationResult) -> None:
    networks = {"SNN": result.outputs, **{b.name: b.outputs for b in result.baselines}}
    labelled = any(output.ann_top1 is not None for output in result.outputs)
    title = f"{result.samples} samples"
    if any(output.agreement is not None for output in result.outputs):
        title += ", with 95 % intervals"
    rows = [
        row
        for i, output in enumerate(result.outputs[:_MOST])
        for row in _of_output(output, {name: outputs[i] for name, outputs in networks.items()})
    ]
    if len({output.name for output in result.outputs}) == 1:
        title, rows = (
            f"{title}, output {in_sentence(result.outputs[0].name)}",
            [row[1:] for row in rows],
        )
    elif len(result.outputs) > _MOST:
        title += f", the first {_MOST} of {len(result.outputs)} outputs"
    columns = ["output", "network", "top-1, %", "drop, points", "agreement, %", "rel. error"]
    columns = columns[len(columns) - len(rows[0]) if rows else 0 :]
    show_table(title if labelled else f"{title}, against the ANN", columns, rows, ruled=False)


def _of_output(ann: OutputResult, networks: dict[str, OutputResult]) -> Iterator[list[str]]:
    if ann.ann_top1 is not None:
        yield [ann.name, "ANN", share(ann.ann_top1), "", "", ""]
    for name, one in networks.items():
        fidelity = [share(one.agreement), f"{one.relative_l2:.4f}"]
        yield [ann.name, name, share(one.top1), points(one.drop), *fidelity]


def _show_neurons(neurons: list[NeuronResult]) -> None:
    spikes = sum(neuron.spikes for neuron in neurons)
    values = sum(neuron.neurons * neuron.timesteps for neuron in neurons)
    most = sorted(neurons, key=lambda neuron: -neuron.spikes)[:_NEURONS]
    title = f"{len(neurons)} neurons, {count(spikes).strip()} spikes per sample"
    if values:
        title += f", {spikes / values:.2f} per value"
    show_table(
        title + "; those of most spikes:",
        ["neuron", "replaces", "spikes", "spikes per value", "silent neurons", "clipped"],
        [
            [
                neuron.name,
                neuron.source_op,
                count(neuron.spikes).strip(),
                f"{neuron.spikes_per_value:.2f}",
                f"{neuron.silent_neurons:.1%}",
                "-" if neuron.clip_rate is None else f"{neuron.clip_rate:.2%}",
            ]
            for neuron in most
        ],
        ruled=False,
    )


def _say_premise(premise: PremiseResult) -> None:
    differing = [neuron for neuron in premise.neurons if neuron.own.share]
    text = f"{premise.timesteps} timesteps against one: {len(differing)} of {len(premise.neurons)} "
    text += "neurons fire other counts"
    if differing:
        most = max(differing, key=lambda neuron: neuron.own.share)
        text += f", {most.own.share:.3%} of the values of {in_sentence(most.name)} at most"
    say_wrapped(text, "  ")


def _say_energy(energy: EnergyResult, precision: str, accountings: list[str]) -> None:
    ann = energy.totals.get("ann_int8" if precision == "int8" else "ann_fp32")
    parts = [
        f"{name} {count(energy.totals[name] * 1e-12)}J"
        + (f" ({energy.totals[name] / ann:.2f} x)" if ann else "")
        for name in accountings
        if name in energy.totals
    ]
    compared = f", to the ANN in {precision} ({count(ann * 1e-12)}J)" if ann else ""
    say_wrapped(f"energy per sample, estimates{compared}: {'; '.join(parts)}", "  ")
    if sentence := levels_that_pay(energy):
        say_wrapped(sentence, "  ")


def _say_latency(result: EvaluationResult) -> None:
    """Medians, and in brackets the least and largest of the rounds."""
    for batch in sorted({one.batch for one in result.latency}):
        parts = [_latency(result, one) for one in result.latency if one.batch == batch]
        say_wrapped(f"latency at batch {batch}: {'; '.join(parts)}", "  ")


def _latency(result: EvaluationResult, one: LatencyResult) -> str:
    called = result.called(one.network)
    if one.network == "ann":
        text, between = f"{called} {count(one.seconds)}s", one.seconds_range
        shown = [f"{count(seconds)}s" for seconds in between or ()]
    else:
        text, between = f"{called} {count(one.seconds)}s, {one.ratio:.2f} x", one.ratio_range
        shown = [f"{ratio:.2f}" for ratio in between or ()]
    return text + (f" ({' to '.join(shown)})" if shown else "")
