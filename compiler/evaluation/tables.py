"""An evaluation as tables on the terminal; 100 columns hold them where names are short."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..terminal import say, show_table
from .results import Estimate, EvaluationResult, LatencyResult, NeuronResult, OutputResult

_NETWORKS = {"ann": "ANN", "snn": "SNN, C++ kernels", "snn_functions": "SNN, function bodies"}


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
        columns = ["output", "network", "top-1, %", "top-5, %", "drop, points"]
        show_table(f"{result.samples} samples, with 95 % intervals", columns, rows)
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
    if result.latency:
        _show_latency(result.latency)


def _accuracy(ann: OutputResult, networks: dict[str, OutputResult]) -> Iterator[list[str]]:
    """A row for each network; none without labels."""
    if ann.ann_top1 is None:
        return
    yield [ann.name, "ANN", _share(ann.ann_top1), _share(ann.ann_top5), ""]
    for name, output in networks.items():
        yield ["", name, _share(output.top1), _share(output.top5), _points(output.drop)]


def _show_fidelity(title: str, networks: dict[str, list[OutputResult]]) -> None:
    rows = [
        [
            output.name,
            name,
            _share(output.agreement),
            f"{output.relative_l2:.4f}",
            "-" if output.cosine is None else f"{output.cosine:.4f}",
            f"{output.max_abs:.4g}",
        ]
        for name, outputs in networks.items()
        for output in outputs
    ]
    columns = ["output", "network", "agreement, %", "rel. error", "cosine", "largest diff."]
    show_table(title, columns, rows)


def _show_neurons(neurons: list[NeuronResult]) -> None:
    show_table(
        "neurons",
        ["neuron", "replaces", "N", "rate", "silent", "saturated", "clipped", "bits", "flips"],
        [
            [
                neuron.name,
                neuron.source_op,
                f"-{neuron.levels[0]}..{neuron.levels[1]}" if neuron.levels[0] else _upper(neuron),
                f"{neuron.firing_rate:.2f}",
                f"{neuron.silent_neurons:.1%}",
                f"{neuron.saturated_neurons:.1%}",
                "-" if neuron.clip_rate is None else f"{neuron.clip_rate:.2%}",
                f"{neuron.entropy:.2f}",
                "-" if neuron.flips is None else f"{neuron.flips:.3%}",
            ]
            for neuron in neurons
        ],
    )
    say(
        "rate: spikes per neuron and sample; silent, saturated: neurons that never fire, or are "
        "always\nat their outermost level; bits: entropy of the levels"
    )


def _show_latency(latency: list[LatencyResult]) -> None:
    show_table(
        "latency, each network in processes of its own",
        ["network", "batch", "median", "to the ANN", "peak memory"],
        [
            [
                _NETWORKS.get(one.network, one.network),
                str(one.batch),
                _time(one.seconds),
                f"{one.ratio:.2f} x",
                "-" if one.peak_bytes is None else f"{one.peak_bytes / 2**20:.0f} MiB",
            ]
            for one in latency
        ],
    )


def _upper(neuron: NeuronResult) -> str:
    return str(neuron.levels[1])


def _share(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    value, low, high = (100 * part for part in (estimate.value, estimate.low, estimate.high))
    return f"{value:.2f} [{low:.1f}, {high:.1f}]"


def _points(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    parts = (100 * part for part in (estimate.value, estimate.low, estimate.high))
    value, low, high = (f"{part:.2f}".replace("-0.00", "0.00") for part in parts)
    return f"{value} [{low}, {high}]"


def _time(seconds: float) -> str:
    """Three digits, in the unit that suits."""
    unit, name = (1.0, "s") if seconds >= 1 else (1e-3, "ms") if seconds >= 1e-3 else (1e-6, "us")
    value = seconds / unit
    digits = max(2 - math.floor(math.log10(value)), 0) if value > 0 else 0
    return f"{value:.{digits}f} {name}"
