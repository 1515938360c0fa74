"""The whole journey from a trained network to a spiking one, on one screen."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata as distribution
from pathlib import Path
from typing import Any, TypeVar

import onnx
from onnx import ModelProto

from ..passes.analysis.activations import Activation, find_activations
from ..passes.analysis.layers import find_layers
from ..passes.analysis.time_rules import NotOverTimeError
from ..passes.canonicalise.canonicalise import canonicalise
from ..passes.fold_batchnorm.fold_batchnorm import fold_batchnorm
from ..passes.graph.graph import METADATA_PREFIX, Graph, PassResult, export_network, import_model
from ..passes.graph.network import Network, check
from ..passes.lowering.function_bodies import lower
from ..passes.lowering.spatial_to_temporal import spatial_to_temporal
from ..passes.neurons.encode_edges import encode_edges
from ..passes.neurons.insert_quant_clip import insert_quant_clip
from ..passes.neurons.keep_activations import keep_activations
from ..passes.neurons.membrane_shortcuts import membrane_shortcuts
from ..passes.neurons.neuron import PassContext
from ..passes.neurons.own_parameters import own_parameters, set_parameters
from ..passes.neurons.replace_activation import replace_activation
from ..passes.recognise.recognise import recognise
from ..runtime_ops.operators import register_schemas
from .calibration.calibrate import calibrate
from .calibration.match_samples import matched_samples
from .calibration.tuning.levels_budget import plan_levels
from .calibration.tuning.search_scale import hold_out, import_optuna, scale_steps, search_scale
from .calibration.tuning.shrink_levels import shrink_levels
from .errors import DataError, ModelError, VerificationError
from .model_io.load import Source, load_source
from .model_io.save import check_folder, save_network
from .options import ALL, MEMBRANE, NIR, CompileOptions, resolve
from .progress import Progress
from .report.coverage import Coverage, measure_coverage
from .report.data import CompileReport, PassReport
from .report.neurons import membrane_histograms, neuron_reports
from .running.expose import with_outputs
from .running.planes import with_planes
from .running.reference import Reference
from .running.session import batch_size, make_session, run_samples
from .samples.files import FileSamples, InputSpec, Samples, input_specs
from .samples.synthetic import SyntheticSamples
from .targets.nir import check_operators, check_package, summary, to_nir
from .verify import verify

T = TypeVar("T")

SYNTHETIC_SAMPLES = 64
#: Activations that the runtime holds at once, taken as large as the largest.
_ALIVE = 3
SYNTHETIC_WARNING = (
    "no calibration data: thresholds come from synthetic inputs and the accuracy is likely to "
    "suffer; give --calibration with about 256 real samples"
)


@dataclass
class CompileResult:
    """The spiking network and the report on how it was made.

    Attributes:
        network: the spiking network, its large weights apart.
        report: what was done, what was not and why, and how well it works.
        external_data: the files in which the source kept its weights, if outside the model file.
        nir: the spiking network as nir.NIRGraph, where the target is "nir".
    """

    network: Network
    report: CompileReport
    external_data: list[Path]
    nir: Any = None

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
        UsageError: the options cannot be used: see ``resolve``, or a package is missing that they
            need, or ``options.dump_dir`` is no folder.
        VerificationError: the result falls short of ``options.min_agreement``, or a proof failed.
    """
    options = resolve(options or CompileOptions(), synthetic=calibration is None)
    try:
        return _compile(model, calibration, options, progress or Progress())
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


def _compile(
    model: str | Path | ModelProto,
    calibration: str | Path | None,
    options: CompileOptions,
    progress: Progress,
) -> CompileResult:
    if options.target == NIR:
        check_package()
    if options.search_scale:
        import_optuna()
    steps = _Steps(options.dump_dir)
    register_schemas()

    source = steps.run(
        "load", lambda: load_source(model if isinstance(model, ModelProto) else Path(model))
    )
    steps.reports[-1].changes += source.changes
    ann = source.network
    samples = _samples(calibration, input_specs(ann.proto), options)
    report = _new_report(model, ann, samples, options)
    report.warnings += source.warnings
    # Before any pass sees it, the runtime has to accept the model.
    run_samples(make_session(ann, library=False), next(samples.batches(1)), "the model")

    graph = import_model(ann)
    graph = steps.rewrite("canonicalise", lambda: canonicalise(graph))
    graph = steps.rewrite("recognise", lambda: recognise(graph))
    if calibration is None:
        samples = steps.run(
            "match_samples",
            lambda: matched_samples(
                export_network(graph),
                input_specs(ann.proto),
                SYNTHETIC_SAMPLES,
                options.seed,
                progress,
            ),
        )
        report.calibration["origin"] = samples.origin
    graph = steps.rewrite("fold_batchnorm", lambda: fold_batchnorm(graph))
    timesteps = options.timesteps
    if timesteps > 1:
        graph = steps.rewrite("keep_activations", lambda: keep_activations(graph, options.signed))
    if options.shortcuts == MEMBRANE:
        graph = steps.rewrite("membrane_shortcuts", lambda: membrane_shortcuts(graph))
    if options.encode == ALL:
        graph = steps.rewrite("encode_edges", lambda: encode_edges(graph, options.encode_input))

    if options.corrects_layers:
        graph = steps.rewrite("own_parameters", lambda: own_parameters(graph))

    activations, kept = find_activations(graph)
    layers = find_layers(graph) if options.corrects_layers else []
    analog = export_network(graph)
    sample = next(samples.batches(1))
    report.coverage = measure_coverage(graph, activations, kept, ann.proto, sample, analog)
    _require_neurons(activations, report.coverage, options.strict)
    if options.target == NIR:
        check_operators(graph, {activation.output for activation in activations})

    size, block = _batches(analog, activations, samples)
    if options.stepwise and not samples.fixed_batch:  # T times the rows
        size, block = max(size // timesteps, 1), max(block // timesteps, 1)
    seen, held = hold_out(samples) if options.search_scale else (samples, samples)
    reference = steps.run("reference", lambda: Reference(ann, samples, size, progress))
    with ExitStack() as open_files:
        open_files.enter_context(closing(reference))
        if options.search_scale:
            wanted = open_files.enter_context(closing(Reference(ann, held, size, progress)))
        ann.weights.clear()  # from here on only those of the folded network are held
        levels: dict[str, int] = {}
        if options.levels_budget is not None:
            levels, report.levels_budget = steps.run(
                "plan_levels",
                lambda: plan_levels(analog, activations, seen, block, options, progress),
            )
        calibrated = steps.run(
            "calibrate",
            lambda: calibrate(
                analog,
                activations,
                layers,
                seen,
                block,
                options,
                progress,
                levels,
            ),
        )
        steps.reports[-1].changes += calibrated.changes
        set_parameters(graph, calibrated.parameters)
        neurons = calibrated.neurons
        if options.search_scale:
            corrected = export_network(graph)
            neurons, report.search = steps.run(
                "search_scale",
                lambda: search_scale(
                    corrected, activations, calibrated.neurons, held, wanted, options, progress
                ),
            )
        if options.scale != 1:
            neurons = steps.run(
                "scale_steps", lambda: scale_steps(activations, calibrated.neurons, options.scale)
            )
        if timesteps == 1:  # steps share the levels, all of them
            neurons, changes = steps.run(
                "shrink_levels",
                lambda: shrink_levels(
                    export_network(graph), activations, neurons, samples, block, progress
                ),
            )
            steps.reports[-1].changes += changes
        context = PassContext(neurons)
        graph = steps.rewrite("insert_quant_clip", lambda: insert_quant_clip(graph, context))
        quantised = export_network(graph)
        graph = steps.rewrite("replace_activation", lambda: replace_activation(graph))
        spatial = nir = None
        if timesteps > 1:
            spatial = lower(export_network(graph))
            if options.target == NIR:
                one_step = spatial
                nir = steps.run("to_nir", lambda: to_nir(one_step, timesteps))
                steps.reports[-1].changes += summary(nir)
            graph = steps.rewrite(
                "spatial_to_temporal",
                lambda: spatial_to_temporal(
                    graph, timesteps, delayed=not options.stepwise, time_axis=options.time_axis
                ),
            )
        if options.binary_spikes is not None:
            kind = options.binary_spikes
            graph = steps.rewrite("binary_spikes", lambda: with_planes(graph, kind))
        snn = steps.run("lower", lambda: lower(export_network(graph)))
        _stamp(snn.proto, report)
        _check(snn)
        axis = timesteps if options.time_axis else None
        report.verification = steps.run(
            "verify", lambda: verify(reference, quantised, snn, samples, progress, spatial, axis)
        )
    report.passes = steps.reports
    membranes = membrane_histograms(activations, neurons, calibrated.membranes)
    report.neurons = neuron_reports(snn, membranes)
    report.warnings += [f"{a.op} {a.name} is silent on every sample" for a in calibrated.silent]
    if not report.verification.outputs:
        report.warnings.append("no output holds floats: how close the SNN is was not measured")
    if not report.verification.bit_exact:
        raise VerificationError(
            "the SNN does not reproduce the quantised ANN bit for bit; please report this model"
        )
    _require_agreement(report.verification.agreement, options.min_agreement)
    return CompileResult(snn, report, source.external_data, nir)


class _Steps:
    """Runs the steps, times them, and dumps the model after each."""

    def __init__(self, dump_dir: Path | None) -> None:
        self.reports: list[PassReport] = []
        self._dump_dir = dump_dir
        if dump_dir is not None:
            check_folder(dump_dir)

    def run(self, name: str, step: Callable[[], T]) -> T:
        begin = time.perf_counter()
        result = step()
        seconds = time.perf_counter() - begin
        changes = result.changes if isinstance(result, PassResult) else []
        self.reports.append(PassReport(name, round(seconds, 4), changes))
        if self._dump_dir is not None:
            self._dump(self._dump_dir / f"{len(self.reports):02d}_{name}.onnx", result)
        return result

    def rewrite(self, name: str, step: Callable[[], PassResult]) -> Graph:
        return self.run(name, step).graph

    def _dump(self, path: Path, result: object) -> None:
        if isinstance(result, PassResult):
            save_network(lower(export_network(result.graph)), path)
        elif isinstance(result, (Network, Source)):
            save_network(result if isinstance(result, Network) else result.network, path)


def _check(snn: Network) -> None:
    """The compiled model must be valid; where it is not, the source contradicts itself."""
    try:
        check(snn.proto)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(
            f"the model contradicts itself, as is seen once its constants are known: {error}; "
            "export it with the output shapes that it has"
        ) from error


def _batches(network: Network, activations: list[Activation], samples: Samples) -> tuple[int, int]:
    """Samples per batch where what all neurons see is copied, and where one at a time is."""
    if samples.fixed_batch:
        return samples.fixed_batch, samples.fixed_batch
    names = list(dict.fromkeys(activation.input for activation in activations))
    session = make_session(with_outputs(network, names), library=False)
    seen = run_samples(session, next(samples.batches(1)), "the model")
    largest = max(seen, key=lambda array: array.nbytes)
    return batch_size(seen), batch_size([largest] * _ALIVE)


def _samples(
    calibration: str | Path | None, specs: list[InputSpec], options: CompileOptions
) -> Samples:
    if calibration is None:
        return SyntheticSamples(specs, SYNTHETIC_SAMPLES, options.seed)
    return FileSamples(Path(calibration), specs)


def _new_report(
    model: str | Path | ModelProto, ann: Network, samples: Samples, options: CompileOptions
) -> CompileReport:
    source = {
        "file": None if isinstance(model, ModelProto) else Path(model).name,
        "producer": f"{ann.proto.producer_name} {ann.proto.producer_version}".strip(),
        "sha256": ann.sha256(),
    }
    return CompileReport(
        version=distribution.version("snn-compile"),
        model=source,
        settings=options.settings(),
        calibration={
            "samples": samples.count,
            "origin": samples.origin,
            "synthetic": samples.synthetic,
        },
        warnings=[SYNTHETIC_WARNING] if samples.synthetic else [],
    )


def _stamp(snn: ModelProto, report: CompileReport) -> None:
    """Write the model's own provenance beside the user's metadata."""
    for key, value in provenance(report).items():
        snn.metadata_props.add(key=METADATA_PREFIX + key, value=value)


def provenance(report: CompileReport) -> dict[str, str]:
    """What a compiled model says of how it was made."""
    model, settings, calibration = report.model, report.settings, report.calibration
    return {
        "version": report.version,
        "source_sha256": str(model.get("sha256")),
        "levels": str(settings.get("levels")),
        "timesteps": str(settings.get("timesteps")),
        "calibrator": str(settings.get("calibrator")),
        "calibration": str(calibration.get("origin")),
        "calibration_is_synthetic": str(calibration.get("synthetic")).lower(),
    }


def _require_neurons(activations: list[Activation], coverage: Coverage, strict: bool) -> None:
    kept = coverage.kept_activations()
    listed = "; ".join(f"{line.op} {line.name}: {line.reason}" for line in kept[:5])
    if not activations:
        what = f"none of its {len(kept)} activations can ({listed})" if kept else "it has none"
        raise ModelError(f"nothing to convert: no activation of the model becomes a neuron, {what}")
    if strict and kept:
        raise ModelError(f"{len(kept)} activations would be kept, --strict allows none: {listed}")


def _require_agreement(agreement: float | None, wanted: float | None) -> None:
    if wanted is None:
        return
    if agreement is None:
        raise VerificationError(
            "agreement was asked for, but no output is a [batch, classes] score to take it from"
        )
    if agreement < wanted:
        raise VerificationError(
            f"ANN and SNN agree on {agreement:.2%} of the samples, {wanted:.2%} was asked for; "
            "use more levels, or more and better calibration samples"
        )
