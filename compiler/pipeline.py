"""The whole journey from a trained network to a spiking one, on one screen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata as distribution
from pathlib import Path

from onnx import ModelProto

from ..passes.analysis.time_rules import NotOverTimeError, check_over_time
from ..passes.graph.network import Network
from ..passes.graph.surgeon import import_model, infer_shapes
from .balance import balanced
from .choose_neurons import Chosen, choose_neurons, quantise
from .errors import DataError, ModelError
from .front_end import Prepared, prepare
from .options import STANDARD, CompileOptions
from .progress import Progress
from .report.data import CompileReport
from .report.neurons import membrane_histograms, neuron_reports
from .targets import TARGETS, resolve
from .targets.target import Artifact
from .verify import verify

SYNTHETIC_WARNING = (
    "no calibration data: thresholds come from synthetic inputs and the accuracy is likely to "
    "suffer; give --calibration with about 256 real samples"
)


@dataclass
class CompileResult:
    """The spiking network and the report on how it was made.

    Attributes:
        artifact: what the target made: the files to write, and the network as ONNX.
        report: what was done, what was not and why, and how well it works.
        external_data: the files in which the source kept its weights, if outside the model file.
    """

    artifact: Artifact
    report: CompileReport
    external_data: list[Path]

    @property
    def network(self) -> Network:
        """The spiking network, its large weights apart."""
        return self.artifact.snn

    @cached_property
    def model(self) -> ModelProto:
        """The network whole; runs in any ONNX runtime, faster with our operator library."""
        return self.network.attached()


def compile_model(
    model: str | Path | ModelProto,
    calibration: str | Path | None = None,
    options: CompileOptions | None = None,
    progress: Progress | None = None,
) -> CompileResult:
    """Compile a trained network into a single-timestep spiking network.

    Args:
        model: path of an ONNX model, or the model itself (left unchanged).
        calibration: .npz keyed by input name, .npy for a single input, or a folder of either;
            None for synthetic samples.
        options: defaults where None.
        progress: told about batches done.

    Returns:
        The compiled model, which runs in any ONNX runtime, and the report.

    Raises:
        ModelError: the model is refused, or nothing in it could be converted.
        DataError: the calibration data are refused.
        UsageError: the options cannot be used: see :func:`.targets.resolve`, or a package that they
            need is missing, or ``options.dump_dir`` is no folder.
        VerificationError: the result falls short of ``options.min_agreement``, or a proof failed.
    """
    chosen = resolve(options or CompileOptions(), synthetic=calibration is None)
    progress = progress or Progress()
    with (
        refusals_explained(calibration, chosen),
        prepare(model, calibration, chosen, progress) as prepared,
    ):
        return compile_prepared(prepared, chosen, progress)


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
    if options.timesteps > 1 and options.stepwise:
        fired = {activation.output for activation in prepared.activations}
        check_over_time(infer_shapes(import_model(prepared.analog)), fired)
    if options.integers:
        prepared = balanced(prepared, options, steps, progress)
    chosen = choose_neurons(prepared, options, steps, progress)
    artifact = target.lower(quantise(chosen, steps, options.target == STANDARD), options, steps)
    report = _new_report(prepared, chosen, options)
    artifact.sign(report.provenance())
    with steps("verify"):
        report.verification = verify(
            artifact.claims, prepared.reference, prepared.samples, progress
        )
    report.passes = steps.reports
    membranes = membrane_histograms(prepared.activations, chosen.neurons, chosen.membranes)
    report.neurons = neuron_reports(artifact.snn, membranes)
    if not report.verification.outputs:
        report.warnings.append("no output holds floats: how close the SNN is was not measured")
    return CompileResult(artifact, report, prepared.external_data)


@contextmanager
def refusals_explained(calibration: str | Path | None, options: CompileOptions) -> Iterator[None]:
    """Refusals say what else the user may do."""
    try:
        yield
    except NotOverTimeError as error:
        delayed = error.stepwise and options.stepwise and not options.time_axis
        way_out = ", or with --firing delayed" if delayed else ""
        raise ModelError(f"{error}; compile it to one timestep{way_out}") from error
    except DataError as error:
        if calibration is not None:
            raise
        raise ModelError(
            f"on synthetic inputs {error}; if these inputs are the cause, "
            "give real samples with --calibration"
        ) from error


def _new_report(prepared: Prepared, chosen: Chosen, options: CompileOptions) -> CompileReport:
    samples = prepared.samples
    silent = [f"{a.op} {a.name} is silent on every sample" for a in chosen.silent]
    return CompileReport(
        version=distribution.version("snn-compile"),
        model=prepared.model,
        settings=options.settings(),
        calibration={
            "samples": samples.count,
            "origin": samples.origin,
            "synthetic": samples.synthetic,
        },
        coverage=prepared.coverage,
        levels_budget=chosen.levels_budget,
        search=chosen.search,
        threads=prepared.threads,
        warnings=[SYNTHETIC_WARNING] * samples.synthetic + prepared.warnings + silent,
    )
