"""``snn-eval``: does the spiking network still do what the ANN did, how fast, against what?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .evaluation.tasks.names import BOXES, TASKS
from .options import MOST_THREADS, MOST_WORKERS
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
    warn_of,
    warn_without_kernels,
)

if TYPE_CHECKING:  # what it comes with takes half a second to import; --help needs none of it
    from .report.results import EvaluationResult
    from .samples.image_options import ImageOptions

_GROUPS = {
    "Data": ("data", "calibration"),
    "Task": ("task", "labels", "ignore", "boxes"),
    IMAGES: IMAGE_FLAGS,
    "What is measured": (
        *("baseline", "energy_table", "sweep", "flips", "premise", "latency", "batch", "rounds"),
    ),
    "Where it runs": ("threads", "workers", "scheduler", "resume"),
    "Output": (*VOLUME, "as_json", "html", "compile_report"),
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
    "per sample, for top-1 and top-5. Images: subfolders or a CSV say their classes.",
)
@click.option(
    "--task",
    type=click.Choice(list(TASKS)),
    help="What the networks do; found from the labels and the outputs if it is not given.",
)
@click.option(
    "--labels",
    type=PATH,
    help="Labels that lie apart: .npy, .npz, a folder of label images, PNG, named as the images "
    "are, or boxes in COCO's JSON.",
)
@click.option(
    "--ignore",
    type=int,
    metavar="LABEL",
    help="The label of pixels that are not counted, often 255.",
)
@click.option(
    "--boxes",
    type=click.Choice(list(BOXES)),
    help="How a detector's output holds boxes (docs/evaluation.md).",
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
    help="JSON with the pJ of fp32_mac, fp32_add, int8_mac, int8_add and memory_byte. Default: "
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
@click.option(
    "--threads",
    type=click.IntRange(1, MOST_THREADS),
    metavar="K",
    help="Threads that compute, in the measurement of latency too [one per processor].",
)
@click.option(
    "--workers",
    type=click.IntRange(1, MOST_WORKERS),
    metavar="N",
    help="Share the samples, and the points of a sweep, between N processes, of one thread each "
    "without --threads (docs/distributed.md).",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Share them between the workers of a running cluster of Dask, which see the same files.",
)
@click.option(
    "--resume",
    type=PATH,
    metavar="FILE",
    help="Keep partial results in FILE, go on from there if it exists, remove it in the end.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option("--html", type=PATH, help="Write everything as a page too.")
@click.option(
    "--compile-report",
    type=PATH,
    help="What snn-compile --report report.json wrote of this SNN, for the page: coverage, and "
    "what the neurons saw at calibration.",
)
@with_image_options
@volume_options
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
@click.version_option(package_name="snn-compile")
@click.pass_context
def main(
    context: click.Context,
    ann: Path,
    snn: Path | None,
    data: Path,
    calibration: Path | None,
    task: str | None,
    labels: Path | None,
    ignore: int | None,
    boxes: str | None,
    baseline: str | None,
    energy_table: Path | None,
    sweep: tuple[str, ...],
    flips: bool,
    premise: bool,
    latency: bool,
    batch: int,
    rounds: int,
    threads: int | None,
    workers: int | None,
    scheduler: str | None,
    resume: Path | None,
    as_json: bool,
    html: Path | None,
    compile_report: Path | None,
    images: ImageOptions | None,
    verbose: bool,
    quiet: bool,
    debug: bool,
) -> None:
    """Compare the network ANN with the compiled network SNN on test data.

    Without SNN it is compiled from --calibration, with default options.
    """

    def work() -> None:
        from .distributed.cluster import asked_for
        from .errors import UsageError
        from .evaluation.energy import HOROWITZ_45_NM, read_energy_table
        from .evaluation.evaluate import EvaluationOptions, check_options, evaluate
        from .evaluation.latency import LatencyOptions
        from .evaluation.sweep import parse_sweep
        from .evaluation.tasks.task import TaskOptions
        from .model_io.save import check_output, save_files
        from .report.data import finite
        from .report.html import check_packages, evaluation_html
        from .report.reader import read_report
        from .samples.images import is_images
        from .samples.source import Source, opened

        volume = chosen_volume(verbose, quiet)
        if html is not None:  # before any long work
            check_packages()
            read = (snn, data, calibration, labels, energy_table, compile_report)
            check_output(html, ann, *(path for path in read if path is not None))
        elif compile_report is not None:
            raise UsageError("--compile-report serves --html only; leave it out, or add --html")
        compiled = read_report(compile_report) if compile_report is not None else None
        # Options of images are of the one of the two that is images, where the other is arrays.
        known, own = None, images
        if calibration is not None:
            are_images = is_images(calibration)
            known = Source(calibration, images=images if are_images else None)
            own = None if are_images and not is_images(data) else images
        options = EvaluationOptions(
            baselines=[baseline] if baseline else [],
            calibration=known,
            flips=flips,
            latency=LatencyOptions(batch, rounds) if latency else None,
            energy=read_energy_table(energy_table) if energy_table else HOROWITZ_45_NM,
            sweep=parse_sweep(sweep) if sweep else [],
            command=context.meta["command"],
            report=compiled,
            premise=premise,
            labels=labels,
            task=TaskOptions(task, ignore, boxes),
            threads=threads,
            resume=resume,
        )
        check_options(options, snn)
        loud = volume > Volume.QUIET
        warn_without_kernels(loud)
        if resume is not None:
            others = (snn, data, calibration, labels, energy_table, compile_report, html)
            check_output(resume, ann, *(path for path in others if path is not None))
        with (
            asked_for(scheduler, workers, f"{__package__}.evaluation.evaluate") as cluster,
            progress_bar(loud) as progress,
            opened(data, images=own) as source,
        ):
            assert source is not None
            result = evaluate(ann, snn, source, replace(options, cluster=cluster), progress)
        if html is not None:
            save_files({html: evaluation_html(result, compiled).encode()})
        if as_json:
            say(json.dumps(finite(asdict(result)), indent=2, allow_nan=False))
        _show(result, volume, tables=not as_json)
        if html is not None and loud and not as_json:
            say(f"wrote {html}")
        elif volume == Volume.NORMAL and not as_json:
            say("-v shows every neuron and layer; --html FILE.html writes that as a page")

    run_command(work, debug)


#: Classes that are listed without -v.
_MOST_CLASSES = 5


def _say_images(data: Mapping[str, Any], whole: bool) -> None:
    """Which class has which index, and how pixels became values, where the data are images."""
    classes = [f"{index} {name}" for index, name in enumerate(data.get("classes", ()))]
    if classes:
        listed = ", ".join(classes)
        if len(classes) > _MOST_CLASSES and not whole:
            listed = f"{len(classes)}, {classes[0]} to {classes[-1]}"
        say_wrapped(f"classes: {listed}", "  ")
    if "preprocessing" in data:
        used = (f"{name} {value}" for name, value in data["preprocessing"].items())
        say_wrapped(f"images: {', '.join(used)}", "  ")


def _show(result: EvaluationResult, volume: Volume, tables: bool) -> None:
    """What was found, as tables or in short, and warnings."""
    from .report.evaluation_summary import show_summary
    from .report.tables import show_result

    if volume == Volume.QUIET:
        return
    verbose = volume == Volume.VERBOSE
    if tables:
        _say_images(result.data, verbose)
        (show_result if verbose else show_summary)(result)
    warn_of(result.warnings, None if verbose else MOST_WARNINGS)
