"""``snn-compile``: the command line of the compiler. Results go to stdout, progress to stderr."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .limits import MOST_LEVELS, MOST_TIMESTEPS
from .terminal import progress_bar, run_command, say, show_table, warn

if TYPE_CHECKING:  # these take half a second to import; --help needs none of them
    from ..passes.graph.network import Network
    from .report.coverage import Coverage
    from .report.data import CompileReport

LEVELS = 32


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 written, 1 internal error or out of memory, 2 usage, 3 model refused, "
    "4 calibration data refused, 5 verification fell short, 128 + n stopped by signal n (130 "
    "Ctrl-C). Nothing is written unless it is 0.",
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
    "--neuron",
    type=click.Choice(["auto", "scale", "multi-threshold", "signed"]),
    default="auto",
    show_default=True,
    help="ScaleFire, with levels where the values are; MultiThresholdFire, with levels at "
    "multiples of one threshold; auto: ScaleFire up to the 255 thresholds that it has. Over "
    "several timesteps multi-threshold: IntegrateFire, which fires positive spikes behind a Relu; "
    "signed: negative ones too, which take back what came too early; auto: signed if firing is "
    "immediate.",
)
@click.option(
    "--calibrator",
    type=click.Choice(["auto", "density", "mse", "entropy", "percentile", "max"]),
    default="auto",
    show_default=True,
    help="How levels are found: where values are dense, by least squared error, most entropy, a "
    "percentile or the largest value as the ceiling, or, auto, chosen for each neuron.",
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
    type=click.IntRange(1, MOST_LEVELS),
    help="Levels N of each neuron and polarity, in each timestep.  [default: 32; over several "
    "timesteps 1]",
)
@click.option(
    "--timesteps",
    type=click.IntRange(1, MOST_TIMESTEPS),
    default=1,
    show_default=True,
    help="T: above 1, integrate-and-fire neurons over so many steps.",
)
@click.option(
    "--firing",
    type=click.Choice(["immediate", "delayed"]),
    default="immediate",
    show_default=True,
    help="When these neurons fire: as their input comes in, or once all of it is there.",
)
@click.option(
    "--time-axis",
    is_flag=True,
    help="Give inputs and outputs the timesteps as their first axis: for events and streams.",
)
@click.option(
    "--target",
    type=click.Choice(["onnxruntime", "nir"]),
    default="onnxruntime",
    show_default=True,
    help="ONNX that runs anywhere, or, of a network over several timesteps, a NIR graph for "
    "neuromorphic tools.",
)
@click.option(
    "--shortcuts",
    type=click.Choice(["membrane", "spikes"]),
    help="What the sums of residual blocks read past the linear operators.  [default: membrane; "
    "for NIR spikes]",
)
@click.option(
    "--sequential/--no-sequential",
    default=True,
    show_default=True,
    help="Fit neurons to what spiking predecessors give them too, not to the ANN alone.",
)
@click.option(
    "--bias-correction/--no-bias-correction",
    default=True,
    show_default=True,
    help="Correct the mean error of every linear operator.",
)
@click.option(
    "--compensation/--no-compensation",
    default=True,
    show_default=True,
    help="Compensate in the weights of every linear operator.",
)
@click.option(
    "--levels-budget",
    type=click.FloatRange(0, min_open=True),
    help="Give each neuron levels of its own, at this share of the spikes that --levels for each "
    "would fire; 1 only moves them.",
)
@click.option(
    "--scale",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Multiply the steps of all neurons by this lambda, from a sweep of snn-eval for example.",
)
@click.option("--search-scale", is_flag=True, help="Search one scale for the steps of all neurons.")
@click.option(
    "--trials", type=click.IntRange(1), default=20, show_default=True, help="Trials of the search."
)
@click.option(
    "--spike-weight",
    type=click.FloatRange(0),
    default=0.5,
    show_default=True,
    help="What spikes count against error in the search.",
)
@click.option(
    "--encode",
    type=click.Choice(["all", "activations"]),
    help="Encode every analog value that a linear operator reads, or only replace activations.  "
    "[default: all; for NIR activations]",
)
@click.option("--encode-input", is_flag=True, help="Encode the network's own input too.")
@click.option(
    "--binary-spikes",
    type=click.Choice(["unary", "bits"]),
    help="Send spikes of several levels as planes of 0 and 1, one per level or one per bit.",
)
@click.option("--strict", is_flag=True, help="Fail if an activation would be kept.")
@click.option("--seed", default=0, show_default=True, help="Seed of the synthetic inputs.")
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 1),
    help="Fail unless ANN and SNN give the same argmax on this share of the samples.",
)
@click.option(
    "--report",
    "report_path",
    type=click.Path(path_type=Path),
    help="Write the report: as a page if the name ends in .html, otherwise as JSON.",
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
    levels: int | None,
    timesteps: int,
    firing: str,
    time_axis: bool,
    neuron: str,
    levels_budget: float | None,
    scale: float,
    search_scale: bool,
    trials: int,
    spike_weight: float,
    target: str,
    shortcuts: str | None,
    sequential: bool,
    bias_correction: bool,
    compensation: bool,
    encode: str | None,
    encode_input: bool,
    binary_spikes: str | None,
    strict: bool,
    seed: int,
    min_agreement: float | None,
    report_path: Path | None,
    dump_dir: Path | None,
    debug: bool,
) -> None:
    """Compile the trained network MODEL (.onnx) into a spiking network, of a single timestep."""

    def work() -> None:
        from .calibration.options import CalibrationOptions, Corrections
        from .calibration.tuning.search_scale import SearchOptions
        from .errors import UsageError
        from .model_io.save import check_output, save_files
        from .options import CompileOptions
        from .pipeline import compile_model
        from .report.html import check_packages, compile_html, is_html

        read = [] if calibration is None else [calibration]
        check_output(output, model, *read)
        if report_path is not None:
            check_output(report_path, model, *read)
            if report_path.resolve() == output.resolve():
                raise UsageError(f"{report_path}: is the output too; give the report another name")
            if is_html(report_path):
                check_packages()
        options = CompileOptions(
            CalibrationOptions(
                levels or (1 if timesteps > 1 else LEVELS),
                calibrator,
                percentile,
                granularity == "channel",
                "multi-threshold" if target == "nir" and neuron == "auto" else neuron,
                timesteps,
                firing,
            ),
            Corrections(sequential, bias_correction, compensation),
            shortcuts or ("spikes" if target == "nir" else "membrane"),
            levels_budget=levels_budget,
            search=SearchOptions(trials, spike_weight, seed=seed) if search_scale else None,
            encode=encode or ("activations" if target == "nir" else "all"),
            encode_input=encode_input,
            binary_spikes=binary_spikes,
            strict=strict,
            seed=seed,
            scale=scale,
            time_axis=time_axis,
            target=target,
            min_agreement=min_agreement,
            dump_dir=dump_dir,
        )
        if calibration is None:
            from .pipeline import SYNTHETIC_WARNING

            warn(SYNTHETIC_WARNING)
        with progress_bar() as progress:
            result = compile_model(model, calibration, options, progress)
        _show(result.report)  # first: a result that cannot be shown writes nothing
        contents: dict[Path, Network | bytes] = {}
        if report_path is not None:
            command = shlex.join(["snn-compile", *sys.argv[1:]])
            page = is_html(report_path)
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
        if step.name == "to_nir":
            for line in step.changes:
                say(line)


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
