"""A compilation as tables on the terminal: every neuron, every operator, every claim."""

from __future__ import annotations

import math

from ..running.layer_errors import LayerErrors
from ..terminal import NAME, Column, say, say_wrapped, show_table
from .coverage import Coverage
from .data import CompileReport

#: Lines of steps that the user is told, by how they begin.
_TOLD: dict[str, tuple[str, ...]] = {
    "to_nir": ("",),
    "quantise_linear": ("in float",),
    "hardware": ("hardware", "not hardware"),
}
_NOTHING: tuple[str, ...] = ()


def show_report(report: CompileReport) -> None:
    """Everything but the warnings.

    Raises:
        UsageError: standard output cannot be written.
    """
    verification = report.verification
    if verification is None:
        raise AssertionError("a compiled model is always verified")
    activity = {neuron.name: neuron for neuron in verification.neurons}
    show_table(
        f"{len(report.neurons)} neurons",
        [
            *("neuron", "replaces", "N", Column("theta", trivial="1"), "clipped", "error"),
            *("silent values", "spikes per value"),
        ],
        [
            [
                neuron.name,
                neuron.source_op,
                str(-neuron.levels if neuron.polarity == "negative" else neuron.levels),
                neuron.theta_text,
                _percent(activity[neuron.name].clip_rate),
                _percent(neuron.error),
                f"{activity[neuron.name].silent_values:.1%}",
                f"{activity[neuron.name].spikes_per_value:.2f}",
            ]
            for neuron in report.neurons
        ],
    )
    show_coverage(report.coverage)
    show_table(
        f"ANN against SNN on {report.calibration['origin']}",
        ["output", "agreement (argmax)", "relative error", "largest difference"],
        [
            [
                output.name,
                "-" if output.agreement is None else f"{output.agreement:.2%}",
                f"{output.relative_l2:.4f}",
                f"{output.max_abs:.4g}",
            ]
            for output in verification.outputs
        ],
    )
    if report.layer_errors is not None:
        show_layer_errors(report.layer_errors)
    for step in report.passes:
        if step.name == "spatial_to_temporal" and step.changes:
            say_wrapped("over time: " + "; ".join(step.changes), "  ")
    for text in (*verification.claims, *told(report)):
        say_wrapped(text, "  ")


def show_layer_errors(found: LayerErrors, worst: int | None = None) -> None:
    """What each neuron does to the outputs, alone and with all before it.

    Args:
        found: of the neurons in their order.
        worst: how many are shown, those that do most alone; None for all.

    Raises:
        UsageError: standard output cannot be written.
    """
    neurons = found.neurons
    if worst is not None:
        neurons = sorted(neurons, key=lambda one: -one.single)[:worst]
    show_table(
        f"relative error of the outputs on {found.samples} samples"
        + (f", the {len(neurons)} neurons that do most" if worst is not None else ""),
        ["neuron", "replaces", "alone", "up to here", "agreement up to here"],
        [
            [
                one.name,
                one.op,
                f"{one.single:.4f}",
                f"{one.cumulative:.4f}",
                "" if one.cumulative_agreement is None else f"{one.cumulative_agreement:.2%}",
            ]
            for one in neurons
        ],
        ruled=worst is None,
    )


def told(report: CompileReport) -> list[str]:
    """What steps of a target say that concerns the user of the file."""
    return [
        line
        for step in report.passes
        for line in step.changes
        if line.startswith(_TOLD.get(step.name, _NOTHING))
    ]


def show_coverage(coverage: Coverage) -> None:
    """What became of every activation and linear operator; reasons stand below, by number.

    Raises:
        UsageError: standard output cannot be written.
    """
    reasons = list(dict.fromkeys(line.reason for line in coverage.lines if line.reason))
    numbers = {reason: f"[{number}]" for number, reason in enumerate(reasons, 1)}
    show_table(
        "coverage: " + ", ".join(f"{count} {what}" for what, count in coverage.counts.items()),
        ["node", "operator", "became", "MACs", Column("source", NAME), "why"],
        [
            [
                line.name,
                line.op,
                line.status,
                "" if line.macs is None else f"{line.macs:,}",
                line.location,
                numbers.get(line.reason, ""),
            ]
            for line in coverage.lines
        ],
    )
    for reason, number in numbers.items():
        say_wrapped(f"{number} {reason}", " " * (len(number) + 1))
    say(f"multiply-accumulates that receive spikes: {spiking_macs(coverage)}")


def spiking_macs(coverage: Coverage) -> str:
    """The share of the multiply-accumulates, of how many."""
    share = coverage.spiking_share
    text = "none are known" if share is None else f"{share:.1%} of {coverage.macs:,}"
    unknown = coverage.unknown_macs
    return text + (f", {unknown} operators of unknown size" if unknown else "")


def _percent(share: float) -> str:
    """A share, or nothing where it does not apply."""
    return "" if math.isnan(share) else f"{share:.3%}"
