"""What the compile report says, as sections of a page."""

from __future__ import annotations

import json
import math

from ...running.layer_errors import LayerErrors
from ..data import CompileReport
from .chosen import chosen_of_compiled
from .figures import MOST_ROWS, firing_figure, layer_errors_figure, neuron_figure
from .numbers import NOTHING, count, number, percent, seconds
from .page import Figure, Section, Table

#: Share of a neuron's values beyond its highest level from which it is warned of.
MUCH_CLIPPED = 0.01


def compile_sections(report: CompileReport, command: str) -> list[Section]:
    """The page of one compilation."""
    sections = [
        _summary(report),
        _fidelity(report),
        layer_errors_section(report.layer_errors),
        _activity(report),
        _chosen(report),
        clipping(
            {n.name: n.clip_rate for n in report.verification.neurons}
            if report.verification
            else {},
            "calibration",
        ),
        coverage(report),
        _passes(report),
        reproduce_compilation(report, command),
    ]
    return [section for section in sections if section is not None]


def clipping(rates: dict[str, float], samples: str) -> Section | None:
    """The neurons that clip much: they saw less at calibration, or their calibrator wanted it."""
    much = {
        name: rate for name, rate in rates.items() if not math.isnan(rate) and rate >= MUCH_CLIPPED
    }
    if not much:
        return None
    text = (
        f"These neurons clip at least {percent(MUCH_CLIPPED, 0)} of their values on the {samples} "
        "samples: the values lie beyond the highest level. A calibrator may want that (mse and "
        "entropy trade clipping for resolution); where it comes as a surprise, calibration samples "
        "are missing that look like these."
    )
    ordered = sorted(much.items(), key=lambda item: -item[1])
    rows = [[name, percent(rate)] for name, rate in ordered]
    return Section(
        "clipping", "Clipping", [text], tables=[Table("Clipped", ["neuron", "clipped\t"], rows)]
    )


def layer_errors_section(found: LayerErrors | None) -> Section | None:
    """What each neuron adds to the error of the outputs."""
    if found is None or not found.neurons:
        return None
    drawn = found.neurons
    if len(drawn) > MOST_ROWS:
        largest = sorted(drawn, key=lambda one: -one.single)[:MOST_ROWS]
        drawn = [one for one in drawn if one in largest]
    caption = "Relative error of the outputs with each neuron alone, and with all up to it."
    if len(drawn) < len(found.neurons):
        caption += f" The {len(drawn)} of {len(found.neurons)} that cost most alone."
    known = any(one.cumulative_agreement is not None for one in found.neurons)
    header = ["neuron", "replaces", "alone\t", "up to here\t", "step\t"]
    header += ["agreement\t"] * known
    rows = []
    before = 0.0
    for one in found.neurons:
        row = [one.name, one.op, *(percent(v) for v in (one.single, one.cumulative))]
        row.append(number(100 * (one.cumulative - before), 3))
        if known:
            row.append(percent(one.cumulative_agreement))
        rows.append(row)
        before = one.cumulative
    return Section(
        "layer-errors",
        "Error by neuron",
        [
            f"On {found.samples} calibration samples. Alone: this neuron spikes, all else is the "
            "ANN with its own weights. Up to here: it and all before it spike, and the layers that "
            "read them are corrected; the last value is that of the SNN. Step: what it adds there, "
            "in points; below 0 where corrections make up for more than it costs."
            + " Agreement: of the argmax with the ANN's, up to here."
            * known
        ],
        figures=[Figure(layer_errors_figure("Error by neuron", drawn), caption)],
        tables=[Table("Every neuron", header, rows, folded=len(rows) > MOST_ROWS)],
    )


def coverage(report: CompileReport) -> Section:
    """What was converted, and what was not and why."""
    found = report.coverage
    share = found.spiking_share
    known = "no multiply-accumulates are known" if share is None else percent(share, 1)
    texts = [
        f"Multiply-accumulates that receive spikes: {known} of {count(found.macs)} per sample."
        + (
            f" {found.unknown_macs} operators of unknown size are left out."
            if found.unknown_macs
            else ""
        )
    ]
    header = ["node", "operator", "kind", "became", "MACs\t", "source", "reason"]
    rows = [
        [line.name, line.op, line.kind, line.status, count(line.macs), line.location, line.reason]
        for line in found.lines
    ]
    kept = [row for row in rows if row[3] == "kept"]
    if not kept:
        texts.append("Nothing was kept.")
    facts = [(what, str(times), "") for what, times in found.counts.items()]
    tables = [
        Table("Not converted, and why", header, kept),
        Table("Every activation and linear operator", header, rows, folded=True),
    ]
    return Section("coverage", "Coverage", texts, facts, tables=tables)


def reproduce_compilation(report: CompileReport, command: str) -> Section:
    """What it takes to compile the same network again."""
    settings = [[name, _plain(value)] for name, value in report.settings.items()]
    facts = [["snn-compile", report.version]]
    facts += [[f"model, {name}", _plain(value)] for name, value in report.model.items()]
    facts += [[f"calibration, {name}", _plain(value)] for name, value in report.calibration.items()]
    return Section(
        "compilation",
        "How it was compiled",
        command=command,
        tables=[
            Table("Version, model and calibration samples", ["what", "value"], facts),
            Table("Settings", ["setting", "value"], settings),
        ],
    )


def _summary(report: CompileReport) -> Section:
    verification = report.verification
    facts = [("neurons", str(len(report.neurons)), "")]
    share = report.coverage.spiking_share
    if share is not None:
        facts.append(("spiking MACs", percent(share, 1), "multiply-accumulates that read spikes"))
    kept = len(report.coverage.kept_activations())
    facts.append(("activations kept", str(kept), "not converted; see Coverage" if kept else ""))
    if verification is not None:
        if verification.agreement is not None:
            samples = f"of argmax, on {verification.samples} calibration samples"
            facts.append(("agreement with the ANN", percent(verification.agreement), samples))
        errors = [output.relative_l2 for output in verification.outputs]
        if errors:
            facts.append(("relative error", number(max(errors), 3), "of the outputs, the largest"))
        proofs = "; ".join(verification.claims)
        facts.append(("claims checked", str(len(verification.claims)), proofs))
    facts.append(("time", seconds(sum(step.seconds for step in report.passes)), "to compile"))
    return Section("summary", "Summary", facts=facts, warnings=list(report.warnings))


def _fidelity(report: CompileReport) -> Section | None:
    verification = report.verification
    if verification is None or not verification.outputs:
        return None
    rows = [
        [o.name, percent(o.agreement), number(o.relative_l2, 3), number(o.max_abs, 3)]
        for o in verification.outputs
    ]
    header = ["output", "agreement (argmax)\t", "relative error\t", "largest difference\t"]
    return Section(
        "fidelity",
        "Fidelity",
        [
            "ANN against SNN on the samples that calibration used, to which the SNN was fitted; "
            "snn-eval measures it on test data."
        ],
        tables=[Table("Outputs", header, rows)],
    )


def _activity(report: CompileReport) -> Section | None:
    activity = {n.name: n for n in report.verification.neurons} if report.verification else {}
    shown = [neuron for neuron in report.neurons if neuron.name in activity]
    if not shown:
        return None
    drawn = shown[:MOST_ROWS]
    figure = firing_figure(
        "Spikes per value and share of silent values of each neuron",
        [neuron.name for neuron in drawn],
        [activity[neuron.name].spikes_per_value for neuron in drawn],
        {
            "silent values": [activity[neuron.name].silent_values for neuron in drawn],
            "clipped": [_known(activity[neuron.name].clip_rate) for neuron in drawn],
        },
    )
    caption = "Spikes per value: the mean of |k|. Silent, clipped: share of values."
    if len(drawn) < len(shown):
        caption += f" The first {len(drawn)} of {len(shown)} neurons."
    rows = [
        [
            neuron.name,
            neuron.source_op,
            neuron.op,
            neuron.polarity,
            str(neuron.levels),
            neuron.theta_text,
            percent(_known(neuron.error)),
            percent(_known(activity[neuron.name].clip_rate)),
            percent(activity[neuron.name].silent_values, 1),
            number(activity[neuron.name].spikes_per_value, 3),
            neuron.calibrator,
        ]
        for neuron in shown
    ]
    header = [
        "neuron", "replaces", "operator", "polarity", "N\t", "theta or scale", "expected error\t",
        "clipped\t", "silent values\t", "spikes per value\t", "calibrator",
    ]  # fmt: skip
    return Section(
        "neurons",
        "Neurons",
        ["Counted on the calibration samples."],
        figures=[Figure(figure, caption)],
        tables=[Table("Every neuron", header, rows, folded=True)],
    )


def _chosen(report: CompileReport) -> Section | None:
    membranes = {neuron.name: neuron.membrane for neuron in report.neurons}
    figures = []
    for name, why in chosen_of_compiled(report).items():
        membrane = membranes[name]
        if membrane is None:
            continue
        levels = membrane.level_shares
        silent = membrane.levels.index(0.0) if 0.0 in membrane.levels else 0
        drawn = neuron_figure(
            f"Membrane potential and levels of {name}", membrane, levels, -silent, "at calibration"
        )
        figures.append(Figure(drawn, f"{name}: {why}."))
    if not figures:
        return None
    return Section("chosen", "Chosen neurons", [MEMBRANE_TEXT], figures=figures)


MEMBRANE_TEXT = (
    "Left: the membrane potential at calibration in units of the neuron's theta or scale (each "
    "channel in its own), its thresholds as thin lines, and the level that it gives as a staircase "
    "(right axis). Right: how often each level occurs, by its number; 0 is silent. A bar that "
    "would hide the others is cut off, and its height written beside it."
)


def _passes(report: CompileReport) -> Section:
    rows = [[step.name, seconds(step.seconds), str(len(step.changes))] for step in report.passes]
    lines = [[step.name, change] for step in report.passes for change in step.changes]
    tables = [
        Table("Steps", ["step", "time\t", "changes\t"], rows),
        Table("Every change", ["step", "change"], lines, folded=True),
    ]
    if report.search is not None:
        trials = [
            [number(t.scale), number(t.error), count(t.spikes), number(t.objective)]
            for t in report.search.trials
        ]
        header = ["lambda\t", "error\t", "spikes\t", "objective\t"]
        tables.append(Table("Search of the scale", header, trials, folded=True))
    if report.levels_budget is not None:
        tables.append(Table("Budget of levels", ["what", "value"], _budget(report), folded=True))
    return Section("steps", "What was done", tables=tables)


def _budget(report: CompileReport) -> list[list[str]]:
    assert report.levels_budget is not None
    return [
        [name, _plain(value)]
        for name, value in vars(report.levels_budget).items()
        if not isinstance(value, list)
    ]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _plain(value: object) -> str:
    """A setting as text."""
    if value is None or value == "":
        return NOTHING
    return value if isinstance(value, str) else json.dumps(value, default=str)
