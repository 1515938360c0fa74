"""``snn-compile``: the command line of the compiler. Results go to stdout, progress to stderr."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .terminal import progress_bar, run_command, show_table, warn

if TYPE_CHECKING:  # these take half a second to import; --help needs none of them
    from .report import CompileReport

MAX_LEVELS = 1 << 16


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 written, 1 internal error, 2 usage, 3 model refused, 4 calibration data "
    "refused, 5 verification fell short, 130 interrupted. Nothing is written unless it is 0.",
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="Compiled model to write.",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    help="Samples: .npz keyed by input name, .npy for a single input, or a folder of either. "
    "Without it, synthetic inputs are used.",
)
@click.option(
    "--calibrator",
    type=click.Choice(["mse", "percentile"]),
    default="mse",
    show_default=True,
    help="How thresholds are found: least squared error, or a percentile as the ceiling.",
)
@click.option(
    "--percentile",
    type=click.FloatRange(0, 100, min_open=True),
    default=99.9,
    show_default=True,
    help="Percentile of the percentile calibrator.",
)
@click.option(
    "--granularity",
    type=click.Choice(["tensor", "channel"]),
    default="channel",
    show_default=True,
    help="One threshold per tensor, or per channel.",
)
@click.option(
    "--levels",
    type=click.IntRange(1, MAX_LEVELS),
    default=32,
    show_default=True,
    help="Levels N of each neuron.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the synthetic inputs.")
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 1),
    help="Fail unless ANN and SNN give the same argmax on this share of the samples.",
)
@click.option(
    "--report", "report_path", type=click.Path(path_type=Path), help="Write the report as JSON."
)
@click.option(
    "--dump-dir", type=click.Path(path_type=Path), help="Write the model after each step into here."
)
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
@click.version_option(package_name="snn-compile")
def main(
    model: Path,
    output: Path,
    calibration: Path | None,
    calibrator: str,
    percentile: float,
    granularity: str,
    levels: int,
    seed: int,
    min_agreement: float | None,
    report_path: Path | None,
    dump_dir: Path | None,
    debug: bool,
) -> None:
    """Compile the trained network MODEL (.onnx) into a single-timestep spiking network."""

    def work() -> None:
        from .calibrate import CalibrationOptions
        from .errors import UsageError
        from .pipeline import CompileOptions, compile_model
        from .save import check_output, save_result

        check_output(output, model)
        if report_path is not None:
            check_output(report_path, model)
            if report_path.resolve() == output.resolve():
                raise UsageError(f"{report_path}: is the output too; give the report another name")
        options = CompileOptions(
            CalibrationOptions(levels, calibrator, percentile, granularity == "channel"),
            seed,
            min_agreement,
            dump_dir,
        )
        if calibration is None:
            from .pipeline import SYNTHETIC_WARNING

            warn(SYNTHETIC_WARNING)
        with progress_bar() as progress:
            result = compile_model(model, calibration, options, progress)
        save_result(
            result.model,
            output,
            external_data=result.external_data,
            report=result.report.to_json(),
            report_path=report_path,
        )
        _show(result.report, output)

    run_command(work, debug)


def _show(report: CompileReport, output: Path) -> None:
    verification = report.verification
    if verification is None:
        raise AssertionError("a compiled model is always verified")
    activity = {neuron.name: neuron for neuron in verification.neurons}
    show_table(
        f"{len(report.neurons)} neurons",
        ["neuron", "replaces", "N", "theta", "clipped", "silent", "mean spikes"],
        [
            [
                neuron.name,
                neuron.source_op,
                str(neuron.levels if neuron.polarity == "positive" else -neuron.levels),
                _short_theta(neuron.theta),
                f"{activity[neuron.name].clip_rate:.3%}",
                f"{activity[neuron.name].silent_rate:.1%}",
                f"{activity[neuron.name].mean_spikes:.2f}",
            ]
            for neuron in report.neurons
        ],
    )
    if report.kept:
        show_table(
            f"{len(report.kept)} activations kept",
            ["activation", "operator", "reason"],
            [[item.name, item.op, item.reason] for item in report.kept],
        )
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
    click.echo("quantised ANN and SNN agree bit for bit, with and without the C++ kernels")
    click.echo(f"wrote {output}")


def _short_theta(theta: str) -> str:
    """Provenance keeps all digits; a table shows four."""
    head, separator, tail = theta.partition(" over ")
    numbers = [f"{float(part):.4g}" for part in head.split("..")] if head[:1].isdigit() else [head]
    return "..".join(numbers) + separator + tail
