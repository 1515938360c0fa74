"""``snn-compile``: the command line of the compiler. Results go to stdout, progress to stderr."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .options import COMMON, GROUPS, NIR, OPTIONS, OUTPUT, CompileOptions, Numbers, flag
from .samples.image_flags import IMAGE_FLAGS, IMAGES, with_image_options
from .terminal import (
    MOST_WARNINGS,
    PATH,
    VOLUME,
    GroupedCommand,
    Volume,
    chosen_volume,
    progress_bar,
    run_command,
    say,
    say_wrapped,
    volume_options,
    warn,
    warn_of,
    warn_without_kernels,
)
from .terminal.config import config_text, read_config

if TYPE_CHECKING:  # these take half a second to import; --help needs none of them
    from .report.data import CompileReport
    from .samples.image_options import ImageOptions

F = TypeVar("F", bound=Callable[..., Any])


class _Declared(click.Option):
    """An option of ``options.py``; its help is said there, ranges and defaults included."""

    def get_help_extra(self, ctx: click.Context) -> Any:  # noqa: ARG002
        """Nothing."""
        return {}

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """A switch that is on has both spellings in one."""
        record = super().get_help_record(ctx)
        if record is None or not self.secondary_opts:
            return record
        return self.opts[0].replace("--", "--[no-]"), record[1] + " [on]"


def _declared(name: str) -> Callable[[F], F]:
    """What the command line makes of an option, by the name of its field."""
    option = OPTIONS[name]
    known: dict[str, Any] = {"cls": _Declared, "default": option.default, "help": option.help}
    if option.is_switch and option.default is not False:
        return click.option(f"{flag(name)}/{flag('no_' + name)}", **known)
    if option.is_switch:
        return click.option(flag(name), is_flag=True, **known)
    if option.several:
        known["multiple"] = True
    elif option.choices:
        known["type"] = click.Choice(option.choices)
    elif option.numbers is not None:
        known["type"] = _range(option.numbers)
    elif option.text:
        known["type"] = str
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
    groups[COMMON] += ["output", "calibration", "config", "check", "inspect"]
    groups[OUTPUT] += ["report_path", "save_config", *VOLUME]
    for name, option in OPTIONS.items():
        groups[option.group].append(name)
    images = {IMAGES: list(IMAGE_FLAGS)}
    return {COMMON: groups.pop(COMMON), **images, **groups}


#: Where a context keeps the file that its options came from.
_CONFIG = "snn_compile.config"


def _configured(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Options of a file become defaults of the command line."""
    if path is None:
        return
    from .errors import UsageError

    try:
        context.default_map = read_config(path, context.command)
        context.meta[_CONFIG] = path
    except UsageError as error:
        raise click.UsageError(str(error), context) from error


@click.command(
    "snn-compile",
    cls=GroupedCommand,
    groups=_groups(),
    epilog="Exit codes: 0 written, 1 internal error or out of memory, 2 usage, 3 model refused, "
    "4 calibration data refused, 5 verification fell short, 128 + n stopped by signal n (130 "
    "Ctrl-C). Nothing is written unless it is 0.",
)
@click.argument("model", type=PATH)
@click.option(
    "-o",
    "--output",
    type=PATH,
    metavar="FILE",
    help="Compiled model to write [MODEL_snn.onnx, in this folder]",
)
@click.option(
    "--calibration",
    type=PATH,
    metavar="DATA",
    help="Samples: .npz keyed by input name, .npy for one input, a folder of either, or of images "
    "[synthetic inputs]",
)
@with_image_options
@click.option(
    "--config",
    type=PATH,
    metavar="FILE",
    is_eager=True,
    expose_value=False,
    callback=_configured,
    help="Take options from a TOML file (levels = 16)",
)
@click.option("--check", is_flag=True, help="Say what would become of MODEL, and stop")
@click.option("--inspect", is_flag=True, help="Say what MODEL, compiled or not, holds, and stop")
@_with_options
@click.option(
    "--report",
    "report_path",
    type=PATH,
    metavar="FILE",
    help="Write the report: a page if the name ends in .html, otherwise JSON",
)
@click.option("--save-config", type=PATH, metavar="FILE", help="Write the options used, as TOML")
@volume_options
@click.option("--debug", is_flag=True, help="Show a traceback when something fails")
@click.version_option(package_name="snn-compile", help="Show the version and exit")
@click.pass_context
def main(
    context: click.Context,
    /,
    model: Path,
    output: Path | None,
    calibration: Path | None,
    images: ImageOptions | None,
    check: bool,
    inspect: bool,
    report_path: Path | None,
    save_config: Path | None,
    verbose: bool,
    quiet: bool,
    debug: bool,
    **chosen: Any,
) -> None:
    """Compile the trained network MODEL (.onnx) into a spiking network, of a single timestep.

    The README and docs/ say more of each option.
    """

    def work() -> None:
        from .running.memory import one_heap

        one_heap()
        volume = chosen_volume(verbose, quiet)
        options = CompileOptions(**chosen)
        if check or inspect:
            _refuse_idle(context)
        if inspect:
            _inspect(model, volume)
        elif check:
            _check(model, calibration, images, options, volume)
        else:
            written = output or default_output(model, options.target)
            files = _Files(model, written, calibration, images, report_path, save_config)
            files.check(context.meta.get(_CONFIG))
            config = config_text(context.command, context.params) if save_config else None
            _compile(files, options, context.meta["command"], volume, config)

    run_command(work, debug)


def default_output(model: Path, target: str) -> Path:
    """Where the result goes if the user does not say: in the folder where the command is run."""
    return Path(f"{model.stem}_snn{'.nir' if target == NIR else '.onnx'}")


@dataclass(frozen=True)
class _Files:
    """The files of a compilation, as they were given."""

    model: Path
    output: Path
    calibration: Path | None
    images: ImageOptions | None
    report: Path | None
    config: Path | None

    def check(self, options: Path | None) -> None:
        """Refuse what cannot be written, before any long work.

        Args:
            options: the file that options were read from; only options may take its place.
        """
        from .errors import UsageError
        from .model_io.save import check_output
        from .report.html import check_packages, is_html

        read = [] if self.calibration is None else [self.calibration]
        kept = read if options is None else [*read, options]
        check_output(self.output, self.model, *kept)
        taken = {self.output.resolve(): "the output"}
        for what, path in (("report", self.report), ("file of options", self.config)):
            if path is None:
                continue
            check_output(path, self.model, *(read if path is self.config else kept))
            if path.resolve() in taken:
                raise UsageError(
                    f"{path}: is {taken[path.resolve()]} too; give the {what} another name"
                )
            taken[path.resolve()] = f"the {what}"
        if self.report is not None and is_html(self.report):
            check_packages()


def _refuse_idle(context: click.Context) -> None:
    """Refuse options that have no effect where nothing is compiled.

    Raises:
        UsageError: names them.
    """
    from .errors import UsageError

    typed = click.core.ParameterSource.COMMANDLINE
    given = {name for name in context.params if context.get_parameter_source(name) == typed}
    given -= {"model", "check", "inspect", "debug", *VOLUME}
    if context.params["check"] and context.params["inspect"]:
        raise UsageError("--check and --inspect exclude each other; leave out one of them")
    mode = "--inspect"
    if context.params["check"]:
        mode, given = "--check", given & {"output", "report_path", "save_config", "dump_dir"}
    if given:
        flags = {param.name: param.opts[-1] for param in context.command.params}
        named = ", ".join(sorted(flags[name] for name in given))
        raise UsageError(f"{named} has no effect with {mode}, which writes nothing; leave it out")


def _inspect(path: Path, volume: Volume) -> None:
    from .evaluation.inspect_file import inspect_file
    from .report.inspection_tables import show_inspection

    found = inspect_file(path)
    if volume > Volume.QUIET:
        show_inspection(found, volume)


def _check(
    model: Path,
    calibration: Path | None,
    images: ImageOptions | None,
    options: CompileOptions,
    volume: Volume,
) -> None:
    from .pipeline import check
    from .report.inspection_tables import show_check

    checked = check(model, calibration, options, images=images)
    if volume > Volume.QUIET:
        show_check(str(model), checked.activations, checked.coverage, volume)
        warn_of(checked.warnings)


def _compile(
    files: _Files, options: CompileOptions, command: str, volume: Volume, config: str | None
) -> None:
    from .pipeline import SYNTHETIC_WARNING, compile_model
    from .report.hints import hint
    from .report.html import compile_html, is_html
    from .samples.source import opened

    loud = volume > Volume.QUIET
    if loud and files.calibration is None:
        warn(SYNTHETIC_WARNING)
    warn_without_kernels(loud)
    with progress_bar(loud) as progress, opened(files.calibration, images=files.images) as data:
        result = compile_model(files.model, data, options, progress)
    _show(result.report, volume)  # first: a result that cannot be shown writes nothing
    others: dict[Path, bytes] = {}
    if files.report is not None:
        page = is_html(files.report)
        text = compile_html(result.report, command) if page else result.report.to_json()
        others[files.report] = text.encode()
    if files.config is not None and config is not None:
        others[files.config] = config.encode()
    result.save(files.output, others)
    if loud:
        say(f"wrote {files.output}" + (f" and the report {files.report}" if files.report else ""))
    if volume == Volume.NORMAL and files.report is None:
        say("-v shows every neuron and operator; --report FILE.html writes that as a page")
    verified = result.report.verification
    advice = hint(result.report.other_levels, verified.agreement if verified else None)
    if loud and advice:
        say_wrapped(advice, "  ")


def _show(report: CompileReport, volume: Volume) -> None:
    """What was done, as tables or in short, and warnings; those said before are left out."""
    from .pipeline import SYNTHETIC_WARNING
    from .report.compile_summary import show_summary
    from .report.compile_tables import show_report

    if volume == Volume.QUIET:
        return
    verbose = volume == Volume.VERBOSE
    (show_report if verbose else show_summary)(report)
    texts = [text for text in report.warnings if text != SYNTHETIC_WARNING]
    warn_of(texts, None if verbose else MOST_WARNINGS)
