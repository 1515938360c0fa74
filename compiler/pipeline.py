"""The whole journey from a trained network to a spiking one, on one screen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata as distribution
from pathlib import Path

import onnx
from onnx import ModelProto

from ..passes.analysis.time_rules import NotOverTimeError
from ..passes.graph.graph import METADATA_PREFIX
from ..passes.graph.network import Network, check
from ..passes.graph.surgeon import export_network, import_model
from ..passes.neurons.insert_quant_clip import insert_quant_clip
from ..passes.neurons.neuron import Neuron
from ..passes.neurons.own_parameters import set_parameters
from ..passes.neurons.replace_activation import replace_activation
from .calibration.calibrate import calibrate
from .calibration.sequence.sequential import Calibrated
from .calibration.tuning.levels_budget import plan_levels
from .calibration.tuning.search_scale import scale_steps, search_scale
from .calibration.tuning.shrink_levels import shrink_levels
from .errors import DataError, ModelError
from .front_end import Prepared, prepare
from .options import CompileOptions
from .progress import Progress
from .report.data import CompileReport
from .report.neurons import membrane_histograms, neuron_reports
from .steps import Steps
from .targets import TARGETS, resolve
from .targets.target import Artifact, Quantised
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
    target = TARGETS[options.target]
    target.check(prepared)
    report, steps = _new_report(prepared, options), prepared.steps.fork()
    neurons, calibrated, corrected = _calibrate(prepared, options, report, steps, progress)
    artifact = target.lower(_quantise(corrected, neurons, steps), options, steps)
    _finish(artifact.snn.proto, report)
    with steps("verify"):
        claims = artifact.claims
        report.verification = verify(claims, prepared.reference, prepared.samples, progress)
    report.passes = steps.reports
    membranes = membrane_histograms(prepared.activations, neurons, calibrated.membranes)
    report.neurons = neuron_reports(artifact.snn, membranes)
    report.warnings += [f"{a.op} {a.name} is silent on every sample" for a in calibrated.silent]
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


def _calibrate(
    prepared: Prepared,
    options: CompileOptions,
    report: CompileReport,
    steps: Steps,
    progress: Progress,
) -> tuple[Mapping[str, Neuron], Calibrated, Network]:
    """The neurons, what calibration found, and the network with its layers corrected."""
    analog, activations, block = prepared.analog, prepared.activations, prepared.block
    levels: Mapping[str, int] = {}
    if options.levels_budget is not None:
        with steps("plan_levels"):
            levels, report.levels_budget = plan_levels(
                analog, activations, prepared.seen, block, options, progress
            )
    with steps("calibrate") as step:
        calibrated = calibrate(
            *(analog, activations, prepared.layers, prepared.seen, block),
            *(options, progress, levels),
        )
        step.changes += calibrated.changes
    graph = import_model(analog)
    set_parameters(graph, calibrated.parameters)
    corrected, neurons = export_network(graph), dict(calibrated.neurons)
    if prepared.held is not None:
        with steps("search_scale"):
            neurons, report.search = search_scale(
                corrected, activations, neurons, *prepared.held, options, progress
            )
    if options.scale != 1:
        with steps("scale_steps"):
            neurons = scale_steps(activations, neurons, options.scale)
    if options.timesteps == 1:  # several timesteps share the levels, all of them
        with steps("shrink_levels") as step:
            neurons, changes = shrink_levels(
                corrected, activations, neurons, prepared.samples, block, progress
            )
            step.changes += changes
    return neurons, calibrated, corrected


def _quantise(corrected: Network, neurons: Mapping[str, Neuron], steps: Steps) -> Quantised:
    graph = steps.rewrite(
        "insert_quant_clip", lambda: insert_quant_clip(import_model(corrected), neurons)
    )
    ann = export_network(graph)
    graph = steps.rewrite("replace_activation", lambda: replace_activation(import_model(ann)))
    return Quantised(ann, export_network(graph))


def _new_report(prepared: Prepared, options: CompileOptions) -> CompileReport:
    samples = prepared.samples
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
        warnings=[SYNTHETIC_WARNING] * samples.synthetic + prepared.warnings,
    )


def _finish(snn: ModelProto, report: CompileReport) -> None:
    """Write the model's own provenance beside the user's metadata, and check the model.

    Raises:
        ModelError: it is invalid; then the source contradicts itself.
    """
    for key, value in report.provenance().items():
        snn.metadata_props.add(key=METADATA_PREFIX + key, value=value)
    try:
        check(snn)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(
            f"the model contradicts itself, as is seen once its constants are known: {error}; "
            "export it with the output shapes that it has"
        ) from error
