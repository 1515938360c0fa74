"""``snn-eval``: does the spiking network still do what the ANN did, how fast, against what?"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from .terminal import (
    PATH,
    GroupedCommand,
    progress_bar,
    run_command,
    say,
    warn,
    warn_without_kernels,
)

_GROUPS = {
    "Data": ("data", "calibration"),
    "What is measured": (
        *("baseline", "energy_table", "sweep", "flips", "premise", "latency", "batch", "rounds"),
    ),
    "Output": ("as_json", "html", "compile_report"),
}


@click.command(
    "snn-eval",
    cls=GroupedCommand,
    groups=_GROUPS,
    epilog="Exit codes: 0 evaluated, 1 internal error or out of memory, 2 usage, 3 a model "
    "refused, or the two do not belong together, 4 data refused, 128 + n stopped by signal n "
    "(130 Ctrl-C). Warnings go to stderr and into the result, and do not change the exit code.",
)
@click.argument("ann", type=PATH)
@click.argument("snn", type=PATH, required=False)
@click.option(
    "--data",
    required=True,
    type=PATH,
    help="Samples as for snn-compile --calibration; an .npz may hold 'labels', one class index "
    "per sample, for top-1 and top-5.",
)
@click.option(
    "--calibration",
    type=PATH,
    help="Samples to calibrate a baseline and the networks of a sweep on: those that the SNN was "
    "compiled with.",
)
@click.option(
    "--baseline",
    "baseline",
    type=click.Choice(["int8"]),
    help="Evaluate another network made from the ANN too: int8 is onnxruntime's static "
    "quantisation. Needs --calibration.",
)
@click.option(
    "--energy-table",
    type=PATH,
    help="JSON with the pJ of one operation: fp32_mac, fp32_add, int8_mac, int8_add. Default: "
    "45 nm (docs/energy.md).",
)
@click.option(
    "--sweep",
    multiple=True,
    metavar="NAME=V,V,...",
    help="Compile with one setting after another and compare each: levels=4,8,16, scale, "
    "timesteps, neuron, target or calibrator, all else as SNN was compiled; several give all "
    "combinations. Needs --calibration.",
)
@click.option(
    "--flips/--no-flips",
    default=True,
    help="Count the levels that graph optimisation changes, on the first samples.",
)
@click.option(
    "--premise",
    is_flag=True,
    help="Of an SNN of several timesteps: compare T steps with one, neuron by neuron, on the first "
    "samples. The network of one step is ANN where that has spiking neurons, otherwise it is made "
    "from SNN.",
)
@click.option(
    "--latency/--no-latency",
    default=True,
    help="Measure latency and peak memory, at batch 1 and at --batch.",
)
@click.option("--batch", type=click.IntRange(1), default=32, help="The other batch size.")
@click.option(
    "--rounds", type=click.IntRange(1), default=3, help="Processes per network and batch size."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option("--html", type=PATH, help="Write everything as a page too.")
@click.option(
    "--compile-report",
    type=PATH,
    help="What snn-compile --report report.json wrote of this SNN, for the page: coverage, and "
    "what the neurons saw at calibration.",
)
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
@click.version_option(package_name="snn-compile")
@click.pass_context
def main(
    context: click.Context,
    ann: Path,
    snn: Path | None,
    data: Path,
    calibration: Path | None,
    baseline: str | None,
    energy_table: Path | None,
    sweep: tuple[str, ...],
    flips: bool,
    premise: bool,
    latency: bool,
    batch: int,
    rounds: int,
    as_json: bool,
    html: Path | None,
    compile_report: Path | None,
    debug: bool,
) -> None:
    """Compare the network ANN with the compiled network SNN on test data.

    Without SNN it is compiled from --calibration, with default options.
    """

    def work() -> None:
        from .errors import UsageError
        from .evaluation.energy import HOROWITZ_45_NM, read_energy_table
        from .evaluation.evaluate import EvaluationOptions, check_options, evaluate
        from .evaluation.latency import LatencyOptions
        from .evaluation.sweep import parse_sweep
        from .model_io.save import check_output, save_files
        from .report.data import finite
        from .report.html import check_packages, evaluation_html
        from .report.reader import read_report
        from .report.tables import show_result

        if html is not None:  # before any long work
            check_packages()
            read = (snn, data, calibration, energy_table, compile_report)
            check_output(html, ann, *(path for path in read if path is not None))
        elif compile_report is not None:
            raise UsageError("--compile-report serves --html only; leave it out, or add --html")
        compiled = read_report(compile_report) if compile_report is not None else None
        options = EvaluationOptions(
            baselines=[baseline] if baseline else [],
            calibration=calibration,
            flips=flips,
            latency=LatencyOptions(batch, rounds) if latency else None,
            energy=read_energy_table(energy_table) if energy_table else HOROWITZ_45_NM,
            sweep=parse_sweep(sweep) if sweep else [],
            command=context.meta["command"],
            report=compiled,
            premise=premise,
        )
        check_options(options, snn)
        warn_without_kernels()
        with progress_bar() as progress:
            result = evaluate(ann, snn, data, options, progress)
        if html is not None:
            save_files({html: evaluation_html(result, compiled).encode()})
        if as_json:
            say(json.dumps(finite(asdict(result)), indent=2, allow_nan=False))
        else:
            show_result(result)
        for text in result.warnings:
            warn(text)

    run_command(work, debug)
