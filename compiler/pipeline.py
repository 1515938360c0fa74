"""The whole journey from a trained network to a spiking one, on one screen."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import metadata as distribution
from pathlib import Path
from typing import TypeVar

import onnx
from onnx import ModelProto

from ..passes.activations import Kept, find_activations
from ..passes.canonicalise import canonicalise
from ..passes.fold_batchnorm import fold_batchnorm
from ..passes.graph import METADATA_PREFIX, Graph, PassResult, export_model, import_model
from ..passes.insert_quant_clip import insert_quant_clip
from ..passes.lower import lower
from ..passes.neuron import PassContext
from ..passes.replace_activation import replace_activation
from ..runtime_ops.operators import register_schemas
from .calibrate import CalibrationOptions, calibrate
from .errors import ModelError, VerificationError
from .load import check_model, keeps_external_data, load_model
from .progress import Progress
from .report import CompileReport, PassReport
from .samples import FileSamples, InputSpec, Samples, SyntheticSamples, input_specs
from .save import check_folder, save_model
from .summary import neuron_reports
from .verify import verify

T = TypeVar("T")

SYNTHETIC_SAMPLES = 64
SYNTHETIC_WARNING = (
    "no calibration data: thresholds come from synthetic inputs and the accuracy is likely to "
    "suffer; give --calibration with about 256 real samples"
)


@dataclass(frozen=True)
class CompileOptions:
    """What the user may choose.

    Attributes:
        calibration: how thresholds are found.
        seed: seed of the synthetic samples.
        min_agreement: lowest share of samples on which ANN and SNN must give the same argmax.
        dump_dir: folder that gets the model after each step.
    """

    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    seed: int = 0
    min_agreement: float | None = None
    dump_dir: Path | None = None


@dataclass
class CompileResult:
    """The spiking network and the report on how it was made.

    Attributes:
        model: runs in any ONNX runtime, faster with our operator library registered.
        report: what was done, what was not and why, and how well it works.
        external_data: whether the source kept its weights outside the model file.
    """

    model: ModelProto
    report: CompileReport
    external_data: bool


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
        UsageError: ``options.dump_dir`` cannot be used.
        VerificationError: the result falls short of ``options.min_agreement``, or a proof failed.
    """
    options = options or CompileOptions()
    steps = _Steps(options.dump_dir, progress or Progress())
    register_schemas()

    ann = steps.run("load", lambda: _load(model))
    specs = input_specs(ann)
    samples = _samples(calibration, specs, options)
    report = _new_report(model, ann, samples, options)

    graph = import_model(ann)
    graph = steps.rewrite("canonicalise", lambda: canonicalise(graph))
    graph = steps.rewrite("fold_batchnorm", lambda: fold_batchnorm(graph))

    activations, report.kept = find_activations(graph)
    if not activations:
        raise ModelError(_nothing_to_convert(report.kept))
    folded = export_model(graph)
    neurons, warnings = steps.run(
        "calibrate",
        lambda: calibrate(folded, activations, samples, options.calibration, steps.progress),
    )
    context = PassContext(neurons)
    graph = steps.rewrite("insert_quant_clip", lambda: insert_quant_clip(graph, context))
    quantised = export_model(graph)
    graph = steps.rewrite("replace_activation", lambda: replace_activation(graph))
    snn = steps.run("lower", lambda: lower(export_model(graph)))
    _stamp(snn, report)

    onnx.checker.check_model(snn, full_check=True)
    verification = steps.run("verify", lambda: verify(ann, quantised, snn, samples, steps.progress))
    report.passes = steps.reports
    report.neurons = neuron_reports(snn)
    report.verification = verification
    report.warnings += warnings
    if not verification.bit_exact:
        raise VerificationError(
            "the SNN does not reproduce the quantised ANN bit for bit; please report this model"
        )
    _require_agreement(verification.agreement, options.min_agreement)
    external_data = not isinstance(model, ModelProto) and keeps_external_data(Path(model))
    return CompileResult(snn, report, external_data)


class _Steps:
    """Runs the steps, times them, and dumps the model after each."""

    def __init__(self, dump_dir: Path | None, progress: Progress) -> None:
        self.reports: list[PassReport] = []
        self.progress = progress
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
            save_model(lower(export_model(result.graph)), path)
        elif isinstance(result, ModelProto):
            save_model(result, path)


def _load(model: str | Path | ModelProto) -> ModelProto:
    if isinstance(model, ModelProto):
        copy = ModelProto()
        copy.CopyFrom(model)
        return check_model(copy)
    return load_model(Path(model))


def _samples(
    calibration: str | Path | None, specs: list[InputSpec], options: CompileOptions
) -> Samples:
    if calibration is None:
        return SyntheticSamples(specs, SYNTHETIC_SAMPLES, options.seed)
    return FileSamples(Path(calibration), specs)


def _new_report(
    model: str | Path | ModelProto, ann: ModelProto, samples: Samples, options: CompileOptions
) -> CompileReport:
    source = {
        "file": None if isinstance(model, ModelProto) else Path(model).name,
        "producer": f"{ann.producer_name} {ann.producer_version}".strip(),
        "sha256": hashlib.sha256(ann.SerializeToString(deterministic=True)).hexdigest(),
    }
    return CompileReport(
        version=distribution.version("snn-compile"),
        model=source,
        settings={**asdict(options.calibration), "seed": options.seed},
        calibration={
            "samples": samples.count,
            "origin": samples.origin,
            "synthetic": samples.synthetic,
        },
        warnings=[SYNTHETIC_WARNING] if samples.synthetic else [],
    )


def _stamp(snn: ModelProto, report: CompileReport) -> None:
    """Write the model's own provenance beside the user's metadata."""
    provenance = {
        "version": report.version,
        "source_sha256": report.model["sha256"],
        "levels": report.settings["levels"],
        "calibrator": report.settings["calibrator"],
        "calibration": report.calibration["origin"],
        "calibration_is_synthetic": str(report.calibration["synthetic"]).lower(),
    }
    for key, value in provenance.items():
        snn.metadata_props.add(key=METADATA_PREFIX + key, value=str(value))


def _nothing_to_convert(kept: list[Kept]) -> str:
    listed = "; ".join(f"{item.op} {item.name}: {item.reason}" for item in kept[:5])
    what = f"none of its {len(kept)} activations can ({listed})" if kept else "it has none"
    return f"nothing to convert: no activation of the model becomes a neuron, {what}"


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
