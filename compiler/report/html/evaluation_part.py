"""What an evaluation found, as sections of a page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from ...counting.results import NeuronResult
from ..data import CompileReport
from ..results import (
    Difference,
    Estimate,
    EvaluationResult,
    OutputResult,
    PremiseResult,
    SweepPoint,
)
from ..sweep_points import ACCOUNTINGS, EIGHT_BITS, FLOAT, baseline_points, energy_of
from ..task_tables import hundredfold, task_rows
from .chosen import chosen_of
from .compile_part import (
    MEMBRANE_TEXT,
    clipping,
    coverage,
    layer_errors_section,
    reproduce_compilation,
)
from .energy_part import energy_section, name_of, spiking
from .figures import (
    MOST_ROWS,
    OTHERS,
    Point,
    boxes_figure,
    confusion_figure,
    firing_figure,
    map_figure,
    neuron_figure,
    points_figure,
    sweep_figure,
    timesteps_figure,
)
from .numbers import NOTHING, count, energy, estimate, mebibytes, number, percent, seconds
from .page import Figure, Section, Table


def evaluation_sections(result: EvaluationResult, report: CompileReport | None) -> list[Section]:
    """The page of one evaluation."""
    clipped = {n.name: n.clip_rate for n in result.neurons if n.clip_rate is not None}
    sections = [
        _summary(result),
        _accuracy(result),
        _sweep(result),
        layer_errors_section(report.layer_errors) if report else None,
        _activity(result.neurons),
        _premise(result.premise),
        energy_section(result.energy),
        _chosen(result, report),
        _latency(result),
        clipping(clipped, "test"),
        coverage(report) if report else None,
        _reproduce(result, report is not None),
        reproduce_compilation(report, "") if report else None,
    ]
    return [section for section in sections if section is not None]


def _summary(result: EvaluationResult) -> Section:
    facts = [("samples", count(result.samples), "")]
    for output in result.outputs:
        name = output.name if len(result.outputs) > 1 else ""
        if output.top1 is not None:
            ann = f"ANN {estimate(output.ann_top1)}"
            facts.append((f"top-1 {name}".strip(), percent(output.top1.value), ann))
        for metric in output.metrics:
            ann = f"ANN {hundredfold(metric.ann)}" if metric.ann is not None else ""
            facts.append((f"{metric.name} x 100 {name}".strip(), hundredfold(metric.value), ann))
        if output.agreement is not None:
            found = output.agreement
            interval = f"95 % interval {100 * found.low:.1f} to {100 * found.high:.1f}"
            facts.append((f"agreement {name}".strip(), percent(found.value), interval))
        else:
            facts.append((f"relative error {name}".strip(), number(output.relative_l2, 3), ""))
    if result.neurons:
        sending = _sending(result)
        values = sum(neuron.neurons * neuron.timesteps for neuron in sending)
        spikes = sum(n.spikes_per_value * n.neurons * n.timesteps for n in sending)
        rate = f"{number(spikes / values if values else None, 3)} per value"
        facts.append(("spikes per sample", count(round(spikes)), rate))
    if result.energy is not None:
        # Each beside the ANN of the same precision: docs/energy.md.
        precisions = (("", "ann_fp32", "float32"), ("_int8", "ann_int8", "int8"))
        for suffix, ann, precision in precisions[1:] if result.integers else precisions:
            totals = result.energy.totals
            if (spent := totals.get(f"unary{suffix}")) is not None:
                facts.append(
                    (
                        f"energy, {precision}",
                        energy(spent),
                        f"per sample, estimate, unary; ANN: {energy(totals.get(ann))}",
                    )
                )
    measured = {latency.network for latency in result.latency}
    shown = "snn" if "snn" in measured else "snn_functions"
    for latency in result.latency:
        if latency.network == shown:
            ratio = f"{number(latency.ratio, 3)} times the ANN's"
            facts.append((f"time, batch {latency.batch}", seconds(latency.seconds), ratio))
    return Section("summary", "Summary", facts=facts, warnings=list(result.warnings))


def _sending(result: EvaluationResult) -> list[NeuronResult]:
    """The neurons; of integers those that a linear operator reads: others carry potentials."""
    if not result.integers or result.energy is None:
        return result.neurons
    read = {name for synapse in result.energy.synapses for name in synapse.inputs}
    return [neuron for neuron in result.neurons if neuron.name in read]


def _accuracy(result: EvaluationResult) -> Section:
    networks = [("SNN", result.outputs)]
    networks += [(baseline.name, baseline.outputs) for baseline in result.baselines]
    texts = [
        "Brackets and bars are 95 % intervals over the samples. Agreement: share of samples on "
        "which a network and the ANN give the same class, right or wrong. Drop: that of the ANN "
        "less that of the network, in points, paired."
    ]
    texts += [f"{baseline.name}: {baseline.description}." for baseline in result.baselines]
    figures = []
    for name in dict.fromkeys(output.name for output in result.outputs):
        per_network = [
            (network, output) for network, outputs in networks for output in outputs
            if output.name == name
        ]  # fmt: skip
        panels = _panels(per_network)
        if panels:
            drawn = points_figure(f"Accuracy of output {name}", panels)
            figures.append(Figure(drawn, f"Output {name}."))
    for output in result.outputs:
        figures += _where_different(output)
    header = [
        "network", "output", "top-1\t", "drop\t", "top-5\t", "agreement\t", "relative error\t",
        "cosine\t", "largest diff.\t",
    ]  # fmt: skip
    rows = [
        ["ANN", o.name, estimate(o.ann_top1), NOTHING, estimate(o.ann_top5), *[NOTHING] * 4]
        for o in result.outputs
        if o.ann_top1 is not None
    ]
    rows += [_row(network, o) for network, outputs in networks for o in outputs]
    tables = [Table("Networks against the ANN", header, rows)]
    if metrics := list(task_rows(result)):
        columns = ["output", "measure", "network", "x 100\t", "drop, points\t"]
        tables.insert(0, Table(result.task.capitalize(), columns, metrics))
    if result.flips_outputs:
        texts.append(
            "A runtime that optimises a graph may reorder sums; one unit in the last place at a "
            "threshold is then one level. The second table has the SNN with graph optimisation "
            "against itself without."
        )
        if result.integers:
            texts.append("With it this SNN is computed by integer kernels, without in float.")
        flips = [_row("SNN", output) for output in result.flips_outputs]
        tables.append(Table("Without graph optimisation", header, flips))
    return Section("accuracy", "Accuracy", texts, figures=figures, tables=tables)


def _where_different(output: OutputResult) -> list[Figure]:
    """Classes that are confused, places of a map, boxes of a few images."""
    figures = []
    confusion, found = output.confusion, output.error_map
    if confusion is not None:
        names = [str(one) for one in confusion.shown]
        names += [OTHERS] * (len(confusion.counts) > len(names))
        drawn = confusion_figure(f"Classes of ANN and SNN, output {output.name}", confusion, names)
        said = f"Output {output.name}: samples by the class of ANN and SNN, numbered from 0."
        if len(confusion.counts) > len(confusion.shown):
            said += f" Of {confusion.classes} classes those that are confused most."
        figures.append(Figure(drawn, f"{said} Grey: both give the same."))
    if found is not None:
        said = f"Output {output.name}, {found.size[0]} x {found.size[1]}"
        unit = "root mean square of the difference"
        drawn = map_figure(f"Error by place, output {output.name}", found.error, unit)
        figures.append(Figure(drawn, f"{said}: {unit} between SNN and ANN, by place."))
        if found.other is not None:
            unit = "share of samples"
            drawn = map_figure(f"Other channels, output {output.name}", found.other, unit)
            text = f"{said}: {unit} in which another channel is the largest, by place."
            figures.append(Figure(drawn, text))
    for image in output.boxes:
        drawn = boxes_figure(f"Boxes on sample {image.sample}, output {output.name}", image)
        text = f"Output {output.name}, sample {image.sample}: boxes with a score above 0.5, "
        figures.append(Figure(drawn, f"{text}{len(image.ann)} of ANN, {len(image.other)} of SNN."))
    return figures


def _panels(outputs: Sequence[tuple[str, OutputResult]]) -> dict[str, list[Point]]:
    """What is drawn of one output: its shares with intervals, or its error."""
    top1 = [_point(network, output.top1) for network, output in outputs if output.top1]
    ann = outputs[0][1].ann_top1
    agreement = [_point(network, o.agreement) for network, o in outputs if o.agreement]
    if not agreement:
        errors = [Point(network, output.relative_l2) for network, output in outputs]
        cosines = [Point(network, o.cosine) for network, o in outputs if o.cosine is not None]
        panels = {"relative error": errors, "cosine": cosines}
    else:
        panels = {
            "top-1, %": [*([_point("ANN", ann)] if ann else []), *top1],
            "agreement, %": agreement,
        }
    return {title: points for title, points in panels.items() if points}


def _point(network: str, found: Estimate) -> Point:
    return Point(network, 100 * found.value, 100 * found.low, 100 * found.high)


def _row(network: str, output: OutputResult) -> list[str]:
    drop = output.drop
    return [
        network,
        output.name,
        estimate(output.top1),
        NOTHING
        if drop is None
        else f"{100 * drop.value:.2f} [{100 * drop.low:.2f}, {100 * drop.high:.2f}]",
        estimate(output.top5),
        estimate(output.agreement),
        number(output.relative_l2, 3),
        number(output.cosine, 5),
        number(output.max_abs, 3),
    ]


def _sweep(result: EvaluationResult) -> Section | None:
    if not result.sweep:
        return None
    points, baselines = result.sweep, baseline_points(result)
    figures = [
        Figure(
            sweep_figure("Accuracy against energy", points, baselines, key),
            f"Accuracy against estimated energy ({name_of(key)}). {_FRONTS[key]}",
        )
        for key in ACCOUNTINGS
        if any(key in point.energy for point in points)
    ]
    if len({point.setting.get("timesteps") for point in points}) > 1:
        drawn = timesteps_figure("Accuracy over the number of timesteps", points)
        figures.append(Figure(drawn, "Accuracy over the number of timesteps T."))
    names = _output_names(points)
    measures = ("top-1", "agreement", "relative error")
    spent = spiking(key for point in points for key in point.energy)
    header = ["network", "Pareto front"]
    header += [f"{measure} {name}\t" for name in names for measure in measures]
    header += [name_of(key) + "\t" for key in spent]
    rows = []
    for point in [*points, *baselines]:
        if point.refused:
            continue
        row = [point.label, " and ".join(_WEIGHTS[key] for key in point.pareto)]
        outputs = {output.name: output for output in point.outputs}
        for name in names:
            output = outputs.get(name)
            row += (
                [estimate(output.top1), estimate(output.agreement), number(output.relative_l2, 3)]
                if output
                else [NOTHING] * len(measures)
            )
        rows.append(row + [energy(energy_of(point, key)) for key in spent])
    refused = [[point.label, point.refused] for point in points if point.refused]
    tables = [
        Table("Networks of the sweep", header, rows),
        Table("Settings that cannot be compiled", ["network", "reason"], refused),
    ]
    return Section("sweep", "Sweep", figures=figures, tables=tables)


_COLOURED = (
    "Coloured and joined: on the Pareto front, no other network with weights of this precision is "
    "as accurate for as little."
)
#: The weights that an accounting is of.
_WEIGHTS = {FLOAT: "float", EIGHT_BITS: "8 bits"}
#: What is said below the figure of each accounting.
_FRONTS = {
    FLOAT: f"Networks with weights in float. N: levels, T: timesteps. {_COLOURED}",
    EIGHT_BITS: "Squares: networks of integers. Circles: with weights in float, counted as if they "
    f"had 8 bits; the accuracy is that with weights in float. {_COLOURED} Diamonds: baselines.",
}


def _output_names(points: Sequence[SweepPoint]) -> list[str]:
    return list(dict.fromkeys(output.name for point in points for output in point.outputs))


def _activity(neurons: Sequence[NeuronResult]) -> Section | None:
    if not neurons:
        return None
    drawn = neurons[:MOST_ROWS]
    figure = firing_figure(
        "Spikes per value, and share of active values, of silent and of saturated neurons",
        [neuron.name for neuron in drawn],
        [neuron.spikes_per_value for neuron in drawn],
        {
            "active values": [neuron.active for neuron in drawn],
            "silent neurons": [neuron.silent_neurons for neuron in drawn],
            "saturated": [neuron.saturated_neurons for neuron in drawn],
        },
    )
    caption = (
        "Spikes per value: the mean of |k|. Active: share of values with at least one spike. "
        "Silent, saturated: share of neurons that never fire, or are always at their outermost "
        "level."
    )
    if len(drawn) < len(neurons):
        caption += f" The first {len(drawn)} of {len(neurons)} nodes."
    header = [
        "neuron", "replaces", "operator", "values\t", "levels\t", "k\t", "spikes per value\t",
        "active values\t", "silent neurons\t", "saturated neurons\t", "clipped\t",
        "entropy, bits\t", "flips\t",
    ]  # fmt: skip
    rows = [
        [
            n.name,
            n.source_op,
            n.op,
            count(n.neurons),
            str(sum(n.levels)),
            f"{n.spike_range[0]}..{n.spike_range[1]}",
            number(n.spikes_per_value, 3),
            percent(n.active, 1),
            percent(n.silent_neurons, 1),
            percent(n.saturated_neurons, 1),
            percent(n.clip_rate),
            number(n.entropy, 3),
            percent(n.flips, 4),
        ]
        for n in neurons
    ]
    texts = [
        "Counted on the test samples. Levels: how many there are besides the silent one. k: the "
        "signed number of unit spikes of a level. Flips: share of values whose level is another "
        "one in a session without graph optimisation."
    ]
    tables = [Table("Every neuron", header, rows, folded=len(rows) > MOST_ROWS // 2)]
    return Section(
        "firing", "Firing", texts, figures=[Figure(figure, caption)], tables=tables
    )  # fmt: skip


def _premise(premise: PremiseResult | None) -> Section | None:
    if premise is None:
        return None
    texts = [
        f"{premise.timesteps} timesteps against one step that has {premise.timesteps} times the "
        f"levels, on the first {premise.samples} samples. They are equal where the input of every "
        "step lies in [0, n theta], of neurons of both polarities in [-n theta, n theta] (the "
        "premise). Differences are in levels of the one step.",
        "Own: the spikes of a neuron in all steps against one step on the mean of the inputs that "
        "it saw itself; the bound is what can be proved of that from the same inputs. Total: "
        "against the network of one step, with what earlier neurons passed on. Inside: neurons "
        "that differ though all their inputs are inside, by rounding or a tie.",
    ]
    folded = len(premise.neurons) > MOST_ROWS // 2
    inputs = [
        [
            n.name,
            count(n.neurons),
            f"-{n.levels[0]}..{n.levels[1]}" if n.levels[0] else f"0..{n.levels[1]}",
            number(n.v0, 3),
            percent(n.below, 1),
            percent(n.above, 1),
            percent(n.outside, 1),
        ]
        for n in premise.neurons
    ]
    spikes = [
        [
            n.name,
            percent(n.own.share),
            *_levels_apart(n.own),
            *_levels_apart(n.bound),
            count(n.inside_differing),
            percent(n.total.share),
            *_levels_apart(n.total),
        ]
        for n in premise.neurons
    ]
    input_header = [
        "neuron", "values\t", "levels of a step\t", "v0\t", "inputs below\t", "inputs above\t",
        "neurons with such an input\t",
    ]  # fmt: skip
    header = [
        "neuron", "own: differ\t", "mean\t", "largest\t", "bound: mean\t", "largest\t",
        "inside\t", "total: differ\t", "mean\t", "largest\t",
    ]  # fmt: skip
    tables = [
        Table("Inputs of the steps", input_header, inputs, folded=folded),
        Table("Spikes", header, spikes, folded=folded),
    ]
    return Section("premise", "Timesteps against one", texts, tables=tables)


def _levels_apart(difference: Difference) -> tuple[str, str]:
    return number(difference.mean, 3), count(difference.largest)


def _chosen(result: EvaluationResult, report: CompileReport | None) -> Section | None:
    membranes = {n.name: n.membrane for n in report.neurons} if report else {}
    neurons = {neuron.name: neuron for neuron in result.neurons}
    figures = []
    for name, why in chosen_of(result, report).items():
        neuron, membrane = neurons[name], membranes.get(name)
        total = sum(neuron.level_counts)
        if membrane is None and not total:
            continue
        shares = [times / total for times in neuron.level_counts] if total else []
        drawn = neuron_figure(
            f"Membrane potential and levels of {name}",
            membrane,
            shares,
            -neuron.level_spikes.index(0) if total else 0,
            "test",
        )
        figures.append(Figure(drawn, f"{name}: {why}."))
    if not figures:
        return None
    text = MEMBRANE_TEXT
    if not any(name in membranes for name in neurons):
        text = "How often each level occurs on the test samples, by its number; 0 is silent."
    return Section("chosen", "Chosen neurons", [text], figures=figures)


def _latency(result: EvaluationResult) -> Section | None:
    if not result.latency:
        return None
    rows = [
        [
            result.called(line.network),
            str(line.batch),
            seconds(line.seconds),
            _least_to_largest(line.seconds_range, seconds),
            number(line.ratio, 3),
            _least_to_largest(line.ratio_range, lambda ratio: number(ratio, 3)),
            mebibytes(line.peak_bytes),
        ]
        for line in result.latency
    ]
    header = [
        "network", "batch\t", "time\t", "of processes\t", "to the ANN\t", "of rounds\t",
        "peak memory\t",
    ]  # fmt: skip
    texts = [
        "Median time of a run, one process per network, interleaved; the ratio is the median over "
        "rounds. Beside them the least and the largest. Peak memory is that of the whole process."
    ]
    return Section(
        "latency", "Latency and memory", texts, tables=[Table("Networks", header, rows)]
    )  # fmt: skip


def _least_to_largest(ends: tuple[float, float] | None, shown: Callable[[float], str]) -> str:
    return NOTHING if ends is None else f"{shown(ends[0])} to {shown(ends[1])}"


def _reproduce(result: EvaluationResult, compiled: bool) -> Section:
    rows = []
    for what, facts in (("ANN", result.ann), ("SNN", result.snn), ("data", result.data)):
        rows += [[f"{what}, {name}", text] for name, text in _flat(facts)]
    versions = [[name, version] for name, version in result.versions.items()]
    texts = []
    if not compiled:
        texts.append(
            "Coverage, and what the neurons saw at calibration, are in the compile report: "
            "snn-compile --report report.html."
        )
    if result.energy is None:
        texts.append("Energy was not estimated.")
    if not result.latency:
        texts.append("Latency was not measured.")
    return Section(
        "reproduce",
        "How to reproduce",
        texts,
        command=result.command,
        tables=[
            Table("Files", ["what", "value"], rows),
            Table("Versions", ["package", "version"], versions),
        ],
    )


def _flat(facts: Mapping[str, object]) -> list[tuple[str, str]]:
    """Names and values, those inside of others named by both."""
    found = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            found += [(f"{name}, {inner}", text) for inner, text in _flat(value)]
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            found.append((name, text))
    return found
