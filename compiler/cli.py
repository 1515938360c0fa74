"""``snn-compile``: the command line of the compiler. Results go to stdout, progress to stderr."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .options import COMMON, GROUPS, OPTIONS, OUTPUT, CompileOptions, Numbers, flag
from .terminal import (
    PATH,
    GroupedCommand,
    progress_bar,
    run_command,
    say,
    show_table,
    warn,
    warn_without_kernels,
)

if TYPE_CHECKING:  # these take half a second to import; --help needs none of them
    from ..passes.graph.network import Network
    from .report.coverage import Coverage
    from .report.data import CompileReport

F = TypeVar("F", bound=Callable[..., Any])


def _declared(name: str) -> Callable[[F], F]:
    """What the command line makes of an option, by the name of its field."""
    option, text = OPTIONS[name], OPTIONS[name].meaning
    if option.default is None and option.default_text:
        text += f"  [default: {option.default_text}]"
    known: dict[str, Any] = {"default": option.default, "help": text}
    if option.is_switch and option.default:
        return click.option(f"{flag(name)}/{flag('no_' + name)}", **known)
    if option.is_switch:
        return click.option(flag(name), is_flag=True, help=text)
    if option.choices:
        known["type"] = click.Choice(option.choices)
    elif option.numbers is not None:
        known["type"] = _range(option.numbers)
    else:
        known["type"] = PATH
    return click.option(flag(name), metavar=option.symbol or None, **known)


def _range(numbers: Numbers) -> click.IntRange | click.FloatRange:
    most = None if numbers.most == math.inf else numbers.most
    if numbers.kind is int:
        return click.IntRange(int(numbers.least), None if most is None else int(most))
    return click.FloatRange(numbers.least, most, min_open=numbers.above)


def _with_options(command: F) -> F:
    """The function with a parameter for each option."""
    for name in reversed(OPTIONS):
        command = _declared(name)(command)
    return command


def _groups() -> dict[str, list[str]]:
    """Parameters by group: files in the first and the last, options in theirs."""
    groups: dict[str, list[str]] = {group: [] for group in GROUPS}
    groups[COMMON] += ["output", "calibration"]
    groups[OUTPUT] += ["report_path"]
    for name, option in OPTIONS.items():
        groups[option.group].append(name)
    return groups


@click.command(
    "snn-compile",
    cls=GroupedCommand,
    groups=_groups(),
    epilog="Exit codes: 0 written, 1 internal error or out of memory, 2 usage, 3 model refused, "
    "4 calibration data refused, 5 verification fell short, 128 + n stopped by signal n (130 "
    "Ctrl-C). Nothing is written unless it is 0.",
)
@click.argument("model", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, help="Compiled model to write.")
@click.option(
    "--calibration",
    type=PATH,
    help="Samples: .npz keyed by input name, .npy for a single input, or a folder of either. "
    "Without it, synthetic inputs are used.",
)
@_with_options
@click.option(
    "--report",
    "report_path",
    type=PATH,
    help="Write the report: as a page if the name ends in .html, otherwise as JSON.",
)
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
@click.version_option(package_name="snn-compile")
@click.pass_context
def main(
    context: click.Context,
    /,
    model: Path,
    output: Path,
    calibration: Path | None,
    report_path: Path | None,
    debug: bool,
    **chosen: Any,
) -> None:
    """Compile the trained network MODEL (.onnx) into a spiking network, of a single timestep."""

    def work() -> None:
        from .errors import UsageError
        from .model_io.save import check_output, save_files
        from .pipeline import SYNTHETIC_WARNING, compile_model
        from .report.html import check_packages, compile_html, is_html
        from .running.memory import one_heap

        one_heap()
        read = [] if calibration is None else [calibration]
        check_output(output, model, *read)
        if report_path is not None:
            check_output(report_path, model, *read)
            if report_path.resolve() == output.resolve():
                raise UsageError(f"{report_path}: is the output too; give the report another name")
            if is_html(report_path):
                check_packages()
        if calibration is None:
            warn(SYNTHETIC_WARNING)
        warn_without_kernels()
        with progress_bar() as progress:
            result = compile_model(model, calibration, CompileOptions(**chosen), progress)
        _show(result.report)  # first: a result that cannot be shown writes nothing
        contents: dict[Path, Network | bytes] = {}
        if report_path is not None:
            page = is_html(report_path)
            command = context.meta["command"]
            text = compile_html(result.report, command) if page else result.report.to_json()
            contents[report_path] = text.encode()
        for suffix, content in result.artifact.files.items():
            contents[output.with_name(output.name + suffix)] = content
        save_files(
            contents,
            external_data=bool(result.external_data),
            keep=[model, *result.external_data],
        )
        say(f"wrote {output}")

    run_command(work, debug)


def _show(report: CompileReport) -> None:
    verification = report.verification
    if verification is None:
        raise AssertionError("a compiled model is always verified")
    activity = {neuron.name: neuron for neuron in verification.neurons}
    show_table(
        f"{len(report.neurons)} neurons",
        ["neuron", "replaces", "N", "theta", "clipped", "error", "silent", "mean spikes"],
        [
            [
                neuron.name,
                neuron.source_op,
                str(-neuron.levels if neuron.polarity == "negative" else neuron.levels),
                _short_theta(neuron.theta),
                _percent(activity[neuron.name].clip_rate),
                _percent(neuron.error),
                f"{activity[neuron.name].silent_rate:.1%}",
                f"{activity[neuron.name].mean_spikes:.2f}",
            ]
            for neuron in report.neurons
        ],
    )
    _show_coverage(report.coverage)
    show_table(
        f"ANN against SNN on {report.calibration['origin']}",
        ["output", "agreement (argmax)", "relative error", "largest difference"],
        [
            [
                output_.name,
                "-" if output_.agreement is None else f"{output_.agreement:.2%}",
                f"{output_.relative_l2:.4f}",
                f"{output_.max_abs:.4g}",
            ]
            for output_ in verification.outputs
        ],
    )
    for text in report.warnings:
        warn(text)
    for step in report.passes:
        if step.name == "spatial_to_temporal" and step.changes:
            say("over time: " + "; ".join(step.changes))
    for claim in verification.claims:
        say(claim)
    for step in report.passes:
        for line in step.changes:
            if line.startswith(_TOLD.get(step.name, _NOTHING)):
                say(line)


#: Lines of steps that the user is told, by how they begin.
_TOLD: dict[str, tuple[str, ...]] = {
    "to_nir": ("",),
    "quantise_linear": ("in float",),
    "hardware": ("hardware", "not hardware"),
}
_NOTHING: tuple[str, ...] = ()


def _show_coverage(coverage: Coverage) -> None:
    show_table(
        "coverage: " + ", ".join(f"{count} {what}" for what, count in coverage.counts.items()),
        ["node", "operator", "kind", "became", "MACs", "source", "reason"],
        [
            [
                line.name,
                line.op,
                line.kind,
                line.status,
                "" if line.macs is None else f"{line.macs:,}",
                line.location,
                line.reason,
            ]
            for line in coverage.lines
        ],
    )
    share = coverage.spiking_share
    text = "no multiply-accumulates are known" if share is None else f"{share:.1%}"
    unknown = (
        f", {coverage.unknown_macs} operators of unknown size" if coverage.unknown_macs else ""
    )
    say(f"multiply-accumulates that receive spikes: {text} of {coverage.macs:,}{unknown}")


def _percent(share: float) -> str:
    """A share, or nothing where it does not apply."""
    return "" if math.isnan(share) else f"{share:.3%}"


def _short_theta(theta: str) -> str:
    """Provenance keeps all digits; a table shows four."""
    head, separator, tail = theta.partition(" over ")
    numbers = [f"{float(part):.4g}" for part in head.split("..")] if head[:1].isdigit() else [head]
    return "..".join(numbers) + separator + tail
