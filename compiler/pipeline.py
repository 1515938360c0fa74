"""The whole journey from a trained network to a spiking one, on one screen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import metadata as distribution
from pathlib import Path
from typing import Any

from onnx import ModelProto

from ..passes.analysis.time_rules import NotOverTimeError, check_over_time
from ..passes.graph.network import Network
from ..passes.graph.surgeon import import_model, infer_shapes
from ..passes.neurons.exclude_activations import NothingExcludedError
from .balance import balanced
from .calibration.other_levels import half_and_double
from .choose_neurons import Chosen, choose_neurons, quantise
from .distributed.calibration import calibrating_workers
from .errors import DataError, ModelError, UsageError
from .front_end import Checked, Prepared, check_model, prepare
from .model_io.save import check_output, save_files
from .options import STANDARD, CompileOptions, with_overrides
from .progress import Progress
from .report.data import CompileReport
from .report.hints import LevelsEstimate, estimates
from .report.neurons import membrane_histograms, neuron_reports
from .running.layer_errors import layer_errors, samples_for
from .samples.base import GivenSamples, Samples
from .samples.image_options import ImageOptions
from .samples.source import Data, Source, opened
from .targets import TARGETS, recorded, resolve
from .targets.target import Artifact
from .verify import verify

SYNTHETIC_WARNING = (
    "no calibration data: thresholds come from synthetic inputs and the accuracy is likely to "
    "suffer; give --calibration with about 256 real samples"
)


@dataclass(repr=False)
class CompileResult:
    """The spiking network and the report on how it was made.

    Attributes:
        artifact: what the target made: the files to write, and the network as ONNX.
        report: what was done, what was not and why, and how well it works.
        external_data: the files in which the source kept its weights, if outside the model file.
        source: the file of the trained network; None if it was in memory.
    """

    artifact: Artifact
    report: CompileReport
    external_data: list[Path]
    source: Path | None = None

    @property
    def network(self) -> Network:
        """The spiking network, its large weights apart."""
        return self.artifact.snn

    @cached_property
    def model(self) -> ModelProto:
        """The network whole; runs in any ONNX runtime, faster with our operator library."""
        return self.network.attached()

    def save(self, path: str | Path, others: Mapping[Path, bytes] | None = None) -> None:
        """Write the compiled network: all its files, or none.

        Weights go to ``<name>.data`` beside it where the source had them in files of their own, and
        above 2 GB. Some targets write other files, with suffixes of their own.

        Args:
            path: the file to write; one that is there is replaced.
            others: contents of files to write with it.

        Raises:
            UsageError: a file cannot be written, or is one of the source; old files are unchanged.
        """
        path = Path(path)
        check_output(path, self.source)
        contents: dict[Path, Network | bytes] = dict(others or {})
        for suffix, content in self.artifact.files.items():
            contents[path.with_name(path.name + suffix)] = content
        source = [] if self.source is None else [self.source]
        save_files(
            contents,
            external_data=bool(self.external_data),
            keep=[*source, *self.external_data],
        )

    def __repr__(self) -> str:
        """Target, neurons, how the outputs agree, and how many warnings there are."""
        report = self.report
        facts = [f"target {report.settings['target']}", f"{len(report.neurons)} neurons"]
        for output in report.verification.outputs if report.verification else []:
            same = "" if output.agreement is None else f"agreement {output.agreement:.1%}, "
            facts.append(f"{output.name}: {same}relative error {output.relative_l2:.2g}")
        if report.warnings:
            facts.append(f"{len(report.warnings)} warnings")
        return f"CompileResult({'; '.join(facts)})"


def compile_model(
    model: str | Path | ModelProto,
    calibration: Data | Source | None = None,
    options: CompileOptions | None = None,
    progress: Progress | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    images: ImageOptions | None = None,
    **overrides: Any,
) -> CompileResult:
    """Compile a trained network into a single-timestep spiking network.

    Args:
        model: path of an ONNX model, or the model itself (left unchanged).
        calibration: a path (.npz keyed by input name, .npy for a single input, a folder of either
            or of images), arrays by input name, one array for a single input, or an iterable of
            batches; None for synthetic samples. Samples are along the first axis.
        options: defaults where None.
        progress: told about batches done.
        columns: what calibration data that have names call an input, by its name in the model.
        images: how pixels become values, if the calibration data are images.
        overrides: single options, by the names of the fields of :class:`CompileOptions`.

    Returns:
        The compiled model, which runs in any ONNX runtime, and the report.

    Raises:
        ModelError: the model is refused, or nothing in it could be converted.
        DataError: the calibration data are refused.
        UsageError: the options or columns cannot be used: see :func:`.targets.resolve`, or a
            package that they need is missing, or ``options.dump_dir`` is no folder.
        VerificationError: the result falls short of ``options.min_agreement``, or a proof failed.
    """
    options = with_overrides(options or CompileOptions(), overrides)
    chosen = resolve(options, synthetic=calibration is None)
    progress = progress or Progress()
    source = None if isinstance(model, ModelProto) else Path(model)
    with (
        refusals_explained(calibration is None, chosen),
        opened(calibration, columns, images) as data,
        calibrating_workers(chosen, data) as workers,
        prepare(model, data, chosen, progress) as prepared,
    ):
        if workers is not None:
            prepared.opener = workers.opener(prepared, chosen)
        return replace(compile_prepared(prepared, chosen, progress), source=source)


def check(
    model: str | Path | ModelProto,
    calibration: Data | Source | None = None,
    options: CompileOptions | None = None,
    *,
    images: ImageOptions | None = None,
) -> Checked:
    """What would become of a network, without calibration.

    Args and Raises: as of :func:`compile_model`.
    """
    chosen = resolve(options or CompileOptions(), synthetic=calibration is None)
    with (
        refusals_explained(calibration is None, chosen),
        opened(calibration, images=images) as data,
    ):
        checked = check_model(model, data, chosen)
        TARGETS[chosen.target].check(checked, chosen)
        _check_over_time(checked, chosen)
    return checked


def compile_prepared(
    prepared: Prepared, options: CompileOptions, progress: Progress
) -> CompileResult:
    """Calibrate a prepared network and bring it to its target; it can be done several times.

    Args:
        prepared: by the front end, with options that differ in what calibration reads alone.
        options: resolved.
        progress: told about batches done.

    Raises:
        As :func:`compile_model`.
    """
    target, steps = TARGETS[options.target], prepared.steps.fork()
    target.check(prepared, options)
    _check_over_time(prepared, options)
    if options.integers:
        prepared = balanced(prepared, options, steps, progress)
    chosen = choose_neurons(prepared, options, steps, progress)
    quantised = quantise(chosen, steps, options.target == STANDARD, options.power_of_two)
    artifact = target.lower(quantised, options, steps)
    report = _new_report(prepared, chosen, options)
    artifact.sign(report.provenance())
    with steps("verify"):
        report.verification = verify(
            artifact.claims, prepared.reference, prepared.samples, progress
        )
    if options.layer_errors:
        with steps("layer_errors"):
            report.layer_errors = layer_errors(
                *(prepared.analog, prepared.activations, chosen.neurons, chosen.network),
                *(prepared.samples, prepared.block, progress),
                samples_for(prepared.coverage.macs, len(chosen.neurons)),
            )
    report.passes = steps.reports
    membranes = membrane_histograms(prepared.activations, chosen.neurons, chosen.membranes)
    report.neurons = neuron_reports(artifact.snn, membranes)
    report.other_levels = _other_levels(chosen, report, options)
    if not report.verification.outputs:
        report.warnings.append("no output holds floats: how close the SNN is was not measured")
    return CompileResult(artifact, report, prepared.external_data)


def _other_levels(
    chosen: Chosen, report: CompileReport, options: CompileOptions
) -> list[LevelsEstimate]:
    """Of real samples, and where N is a number that the user can change."""
    planned = options.levels_budget not in (None, 0, 1) or options.integers or options.timesteps > 1
    if planned or report.calibration["synthetic"] or report.verification is None:
        return []
    ratios = half_and_double(chosen.neurons, chosen.membranes)
    return [] if ratios is None else estimates(options.levels, ratios, report.verification)


def _check_over_time(prepared: Prepared | Checked, options: CompileOptions) -> None:
    if options.timesteps > 1 and options.stepwise:
        fired = {activation.output for activation in prepared.activations}
        check_over_time(infer_shapes(import_model(prepared.analog)), fired)


@contextmanager
def refusals_explained(synthetic: bool, options: CompileOptions) -> Iterator[None]:
    """Refusals say what else the user may do; of samples that are made up, give others."""
    try:
        yield
    except NotOverTimeError as error:
        delayed = error.stepwise and options.stepwise and not options.time_axis
        way_out = ", or with --firing delayed" if delayed else ""
        raise ModelError(f"{error}; compile it to one timestep{way_out}") from error
    except NothingExcludedError as error:
        raise UsageError(f"--exclude: {error}") from error
    except DataError as error:
        if not synthetic:
            raise
        raise ModelError(
            f"on synthetic inputs {error}; if these inputs are the cause, "
            "give real samples with --calibration"
        ) from error


def _preprocessing(samples: Samples) -> dict[str, Any]:
    """How images became samples, for the report; nothing where they are none."""
    known = samples.preprocessing if isinstance(samples, GivenSamples) else None
    return {"preprocessing": dict(known)} if known else {}


def _new_report(prepared: Prepared, chosen: Chosen, options: CompileOptions) -> CompileReport:
    samples = prepared.samples
    silent = [f"{a.op} {a.name} is 0 on every sample" for a in chosen.silent]
    return CompileReport(
        version=distribution.version("snn-compile"),
        model=prepared.model,
        settings=options.settings(),
        calibration={
            "samples": samples.count,
            "origin": samples.origin,
            "synthetic": samples.synthetic,
            **_preprocessing(samples),
        },
        coverage=prepared.coverage,
        levels_budget=chosen.levels_budget,
        search=chosen.search,
        threads=prepared.threads,
        warnings=[SYNTHETIC_WARNING] * samples.synthetic + prepared.warnings + silent,
        options=recorded(options, samples.synthetic),
    )
