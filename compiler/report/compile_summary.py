"""A compilation in ten to twenty lines: what was converted and what not, what errs, how it went."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ..terminal import say, say_wrapped, show_table
from ..terminal.layout import in_sentence
from .compile_tables import show_layer_errors, spiking_macs, told
from .coverage import ENCODED, KEPT, Coverage, CoverageLine
from .data import CompileReport, NeuronReport

#: How many of each are shown.
_WORST, _GROUPS, _OUTPUTS, _CLAIMS, _TOLD = 5, 4, 3, 2, 3


def show_summary(report: CompileReport) -> None:
    """The summary, without warnings.

    Raises:
        UsageError: standard output cannot be written.
    """
    verification = report.verification
    if verification is None:
        raise AssertionError("a compiled model is always verified")
    say_wrapped(_neurons(report.neurons), "  ")
    show_kept(report.coverage)
    _show_worst(report)
    say_wrapped(f"ANN against SNN on {report.calibration['origin']}:", "  ")
    _show_some(
        [
            f"{in_sentence(output.name)}: "
            + ("" if output.agreement is None else f"agreement {output.agreement:.2%}, ")
            + f"relative error {output.relative_l2:.4f}, largest difference {output.max_abs:.4g}"
            for output in verification.outputs
        ],
        _OUTPUTS,
        "outputs",
        "  ",
    )
    _show_some(verification.claims, _CLAIMS, "claims that hold")
    _show_some(told(report), _TOLD, "notes on the file")


def _neurons(neurons: Sequence[NeuronReport]) -> str:
    """How many there are, of how many levels, and in place of what."""
    made = counts(neuron.source_op for neuron in neurons)
    return f"{len(neurons)} neurons of {levels_of(neurons)} levels: {made}"


def levels_of(neurons: Sequence[NeuronReport]) -> str:
    """How many levels neurons have: one number, or the least and the most."""
    levels = [neuron.levels for neuron in neurons]
    least, most = min(levels, default=0), max(levels, default=0)
    return str(least) if least == most else f"{least} to {most}"


def counts(things: Iterable[str]) -> str:
    """How many there are of each, the most frequent first."""
    return ", ".join(f"{count} {what}" for what, count in Counter(things).most_common())


@dataclass
class _Group:
    """Operators that were not converted for one reason."""

    reason: str
    lines: list[CoverageLine] = field(default_factory=list)

    def __str__(self) -> str:
        example = in_sentence(self.lines[0].name)
        such = "" if len(self.lines) == 1 else "such as "
        return f"{counts(line.op for line in self.lines)} ({such}{example}): {self.reason}"


def show_kept(coverage: Coverage) -> None:
    """What linear operators read, and what was not converted, by reason.

    Raises:
        UsageError: standard output cannot be written.
    """
    linear = [line for line in coverage.lines if line.kind == "linear"]
    spiking = sum(line.status != KEPT for line in linear)
    say_wrapped(
        f"{spiking} of {len(linear)} linear operators read spikes; spiking MACs: "
        f"{spiking_macs(coverage)}",
        "  ",
    )
    groups = list(_groups(coverage))
    if groups:
        say("not converted:")
        _show_some([str(group) for group in groups], _GROUPS, "reasons", "  ")


def _groups(coverage: Coverage) -> Iterator[_Group]:
    """Those of most operators first; activations before linear operators."""
    found: dict[tuple[bool, str], _Group] = {}
    for line in coverage.lines:
        encoded = line.status == ENCODED and line.kind != "linear"
        if line.status != KEPT and not encoded:
            continue
        reason = line.reason or "stays in float; linear operators read it as spikes"
        key = (line.kind == "linear", reason)
        found.setdefault(key, _Group(reason)).lines.append(line)
    for _, group in sorted(found.items(), key=lambda item: (item[0][0], -len(item[1].lines))):
        yield group


def _show_worst(report: CompileReport) -> None:
    if report.layer_errors is not None:
        show_layer_errors(report.layer_errors, _WORST)
        return
    verification = report.verification
    activity = {n.name: n for n in verification.neurons} if verification else {}
    known = [neuron for neuron in report.neurons if not math.isnan(neuron.error)]
    worst = sorted(known, key=lambda neuron: -neuron.error)[:_WORST]
    show_table(
        "neurons with the largest error at calibration:" if worst else "",
        ["neuron", "replaces", "N", "error", "clipped"],
        [
            [
                neuron.name,
                neuron.source_op,
                str(neuron.levels),
                f"{neuron.error:.2%}",
                "" if math.isnan(neuron.clip_rate) else f"{activity[neuron.name].clip_rate:.2%}",
            ]
            for neuron in worst
        ],
        ruled=False,
    )


def _show_some(texts: Sequence[str], most: int, what: str, indent: str = "") -> None:
    """The first of them, and how many more there are."""
    for text in texts[:most]:
        say_wrapped(indent + text, indent + "  ")
    if len(texts) > most:
        say(f"{indent}and {len(texts) - most} more {what}")
