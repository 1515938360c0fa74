"""What a model holds, or what would become of it, on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from ...passes.analysis.activations import Activation
from ..terminal import TEXT, Column, Volume, say, say_wrapped, show_table
from ..terminal.layout import in_sentence, one_line
from .compile_summary import counts, levels_of, show_kept
from .compile_tables import show_coverage
from .coverage import Coverage
from .inspection import Inspection

#: Operators and metadata that are shown unless everything is.
_MOST = 12
#: Characters of a name or an entry of the metadata that are shown unless everything is.
_ENTRY = 60


def show_inspection(found: Inspection, volume: Volume) -> None:
    """What a model holds.

    Raises:
        UsageError: standard output cannot be written.
    """
    verbose = volume == Volume.VERBOSE
    say_wrapped(f"{found.file}: {found.kind}, {found.bytes:,} bytes", "  ")
    say_wrapped(f"inputs: {_listed(found.inputs, verbose)}", "  ")
    say_wrapped(f"outputs: {_listed(found.outputs, verbose)}", "  ")
    operators = [f"{count} {name}" for name, count in found.operators.items()]
    say_wrapped(f"operators: {_listed(operators, verbose)}", "  ")
    if found.neurons:
        kinds = counts(neuron.op for neuron in found.neurons)
        sources = counts(neuron.source_op for neuron in found.neurons)
        say_wrapped(
            f"{len(found.neurons)} neurons of {levels_of(found.neurons)} levels: {kinds}; in place "
            f"of {sources}",
            "  ",
        )
    if found.provenance:
        say("how it was compiled:")
    elif found.kind == "ONNX":
        say("not compiled by snn-compile, as far as its metadata say")
    for key, value in found.provenance.items():
        say_wrapped(f"  {key}: {one_line(value)}", "    ")
    entries = list(found.metadata.items())
    for key, value in entries if verbose else entries[:_MOST]:
        shown = one_line(value)
        cut = not verbose and len(shown) > _ENTRY
        say_wrapped(f"metadata {one_line(key)}: {shown[:_ENTRY] + '…' if cut else shown}", "  ")
    say("a runtime needs:")
    for text in found.needs:
        say_wrapped(f"  {text}", "    ")
    if verbose and found.neurons:
        show_table(
            "neurons",
            [
                *("neuron", "replaces", "operator", "N", Column("theta", trivial="1")),
                *("error", Column("calibrator", TEXT)),
            ],
            [
                [
                    *(neuron.name, neuron.source_op, neuron.op, str(neuron.levels)),
                    neuron.theta_text,
                    "" if neuron.error != neuron.error else f"{neuron.error:.3%}",
                    neuron.calibrator,
                ]
                for neuron in found.neurons
            ],
        )


def show_check(
    model: str, activations: Sequence[Activation], coverage: Coverage, volume: Volume
) -> None:
    """What would become of a model.

    Raises:
        UsageError: standard output cannot be written.
    """
    say_wrapped(f"{model} can be compiled; nothing was calibrated or written", "  ")
    say_wrapped(
        f"{len(activations)} neurons would be made: {counts(one.op for one in activations)}", "  "
    )
    if volume == Volume.VERBOSE:
        show_coverage(coverage)
    else:
        show_kept(coverage)


def _listed(things: Sequence[str], whole: bool) -> str:
    shown = things if whole else things[:_MOST]
    more = len(things) - len(shown)
    text = ", ".join(one_line(thing) if whole else in_sentence(thing, _ENTRY) for thing in shown)
    return text + (f" and {more} more" if more else "")
