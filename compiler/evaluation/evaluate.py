"""Compare an ANN with its compiled SNN on test data, in one run.

1. All samples go through the ANN, the SNN and the baselines, batch by batch: outputs, spikes and
   synaptic operations, from which energy is estimated (:mod:`.compare`). Workers of a cluster may
   share them (:mod:`.on_workers`), and partial results be kept (:mod:`.partial`).
2. Level flips on the first samples (:mod:`.flips`).
3. Latency and peak memory, each network in processes of its own (:mod:`.latency`); this process
   holds no session meanwhile.
4. A sweep compiles networks with one setting after another and compares each like the SNN
   (:mod:`.sweep`), starting from the options that the SNN was compiled with (:mod:`.recorded`).
5. Of an SNN of several timesteps the premise: where T steps equal one (:mod:`.premise`). The
   spatial network is the ANN where that has spiking neurons, otherwise it is made from the SNN.

Without a file of an SNN one is compiled from the calibration samples, with default options.
Intermediate files are in one temporary folder, which is gone afterwards whatever happens.
"""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from ...passes.graph.network import Network
from ...runtime_ops import has_library
from ...runtime_ops.operators import neurons_of
from ..distributed.cluster import Cluster
from ..distributed.place import Place
from ..errors import ModelError, UsageError
from ..model_io.load import file_sha256, read_model
from ..model_io.save import save_network
from ..options import CompileOptions
from ..pipeline import compile_model
from ..progress import Progress
from ..report.data import CompileReport
from ..report.results import BaselineResult, EvaluationResult
from ..running.threads import use_threads
from ..samples.base import GivenSamples
from ..samples.source import Data, Source, opened
from .compare import compare
from .energy import HOROWITZ_45_NM, EnergyTable
from .flips import level_flips
from .int8_baseline import BATCH, quantise, saturation_warnings
from .labels import class_warnings, find_labels
from .latency import (
    Candidate,
    LatencyOptions,
    batch_sizes,
    busy_machine,
    measure_latency,
    write_feeds,
)
from .on_workers import Elsewhere
from .pair import Pair, check_report, read_pair
from .partial import Partial
from .premise import check_premise, premise_warnings
from .recorded import recorded_options
from .side_by_side import Networks
from .sweep import Measured, Setting, sweep, tried_here
from .sweep_on_workers import SweepJob, Trial, tried_on_workers
from .tasks.choose import Given, check_task
from .tasks.task import TaskOptions
from .time_pair import spatial_network

INT8 = "int8"

_INT8_DESCRIPTION = (
    "static quantisation of onnxruntime: QDQ, uint8 activations, int8 weights per channel, MinMax; "
    "outputs without graph optimisation"
)


@dataclass(frozen=True)
class EvaluationOptions:
    """What is evaluated.

    Attributes:
        baselines: names of the networks to compare with; "int8" is the one there is.
        calibration: samples for them, for a sweep, and for an SNN that has no file.
        flips: whether level flips are counted.
        latency: how latency is measured; None: not at all.
        energy: energies per operation.
        sweep: settings to compile and measure.
        command: as typed, for the record.
        report: of ``snn-compile``, of this SNN; None: it is not known.
        premise: whether T steps are compared with one, neuron by neuron.
        labels: file or folder that has them, if not the samples' own: ``samples/label_files.py``.
        task: what the networks do, and what is said of its labels.
        threads: that compute, where latency is measured too; None: one per processor, and one in
            each process of a cluster.
        cluster: whose workers run the samples and the points of a sweep; None: this process does.
        resume: a file that partial results are kept in, and read from; None: they are not.
    """

    baselines: Sequence[str] = ()
    calibration: Data | Source | None = None
    flips: bool = True
    latency: LatencyOptions | None = field(default_factory=LatencyOptions)
    energy: EnergyTable = HOROWITZ_45_NM
    sweep: Sequence[Setting] = ()
    command: str = ""
    report: CompileReport | None = None
    premise: bool = False
    labels: Path | None = None
    task: TaskOptions = field(default_factory=TaskOptions)
    threads: int | None = None
    cluster: Cluster | None = None
    resume: Path | None = None


def check_options(options: EvaluationOptions, snn: Path | None) -> None:
    """Refuse options that contradict one another.

    Raises:
        UsageError: says which.
    """
    check_task(options.task)
    unknown = set(options.baselines) - {INT8}
    if unknown:
        raise UsageError(f"no baseline is called {min(unknown)}; there is {INT8}")
    if options.premise and snn is None:
        raise UsageError(
            "--premise is about a network of several timesteps: give the SNN, compiled with "
            "--timesteps"
        )
    serves = {
        "--baseline": bool(options.baselines),
        "--sweep": bool(options.sweep),
        "an SNN that is not given": snn is None,
    }
    wanting = [what for what, wanted in serves.items() if wanted]
    if wanting and options.calibration is None:
        raise UsageError(
            f"{wanting[0]} needs --calibration: the samples that the SNN is calibrated on"
        )
    if options.calibration is not None and not wanting:
        raise UsageError(
            "--calibration serves --baseline and --sweep only; leave it out, or add one of them"
        )


def evaluate(
    ann: Path,
    snn: Path | None,
    data: Data | Source,
    options: EvaluationOptions,
    progress: Progress,
) -> EvaluationResult:
    """Run the networks on all samples.

    Args:
        ann: file of the trained network.
        snn: file of the network that was compiled from it; None: it is compiled, with default
            options.
        data: test samples, and labels if there are, as :mod:`..samples.source` takes them.
        options: what else is measured.
        progress: told about batches done.

    Raises:
        UsageError: options contradict one another, or the report is of another SNN.
        ModelError: a model is unreadable, or the two do not have the same inputs and outputs.
        DataError: the data do not fit the models.
    """
    check_options(options, snn)
    with (
        tempfile.TemporaryDirectory(prefix="snn-eval-") as name,
        opened(data) as source,
        opened(options.calibration) as calibration,
        use_threads(options.threads) as threads,
    ):
        assert source is not None
        folder, options = Path(name), replace(options, calibration=calibration)
        if options.threads and options.latency:
            options = replace(options, latency=replace(options.latency, threads=options.threads))
        pair = read_pair(ann, snn or _compiled(ann, options, folder, progress))
        if options.report is not None:
            check_report(options.report, pair)
        spatial = spatial_network(pair.ann, pair.snn) if options.premise else None
        preprocessing = pair.provenance.get("preprocessing")
        for one in (source, calibration):
            if one is not None:
                one.prepare_images(preprocessing)
        if options.cluster is not None:
            source.read_late()
        samples = source.open(pair.specs, progress)
        if options.sweep and calibration is not None:
            calibration.open(pair.specs, progress)  # refused before any long work
        labels = find_labels(samples, {spec.name for spec in pair.specs}, options.labels)
        given = Given(samples.count, labels, options.task)
        baselines: dict[str, Path] = {}
        warnings = [*pair.warnings, *samples.warnings, *class_warnings(samples)]
        warnings += _other_pixels(samples, preprocessing)
        recorded = CompileOptions()
        if options.sweep:
            recorded, doubts = recorded_options(pair.provenance, pair.integers)
            warnings += doubts
        if INT8 in options.baselines:
            assert calibration is not None
            baselines[INT8] = _int8_baseline(
                pair, calibration.open(pair.specs, progress), folder, warnings, progress
            )
        others = {name: read_model(path) for name, path in baselines.items()}
        networks = Networks(pair.ann, pair.snn, others)
        elsewhere = _elsewhere(options, pair, source, samples)
        kept_in = _partial(options, progress)
        found = compare(networks, samples, given, options.energy, progress, elsewhere, kept_in)
        result = EvaluationResult(
            ann=_describe(ann, pair.ann),
            snn=_describe(snn, pair.snn)
            | {
                "neurons": len(neurons_of(pair.spiking.proto)),
                "integers": pair.integers,
                "metadata": pair.provenance,
            },
            data={
                "file": samples.name,
                "sha256": samples.sha256,
                "samples": samples.count,
                "labels": labels is not None,
            }
            | _images(samples),
            samples=found.samples,
            outputs=found.outputs,
            neurons=found.neurons,
            energy=found.energy,
            task=found.task,
            baselines=[
                BaselineResult(name, _INT8_DESCRIPTION, outputs)
                for name, outputs in found.baselines.items()
            ],
            versions=_versions(),
            threads=threads.runtime,
            command=options.command,
            warnings=[*warnings, *found.warnings],
        )
        if options.flips and neurons_of(pair.spiking.proto):
            _count_flips(pair.snn, samples, result, progress)
        if spatial is not None:
            result.premise = check_premise(spatial, pair.snn, samples, progress)
            result.premise.spatial = "ann" if spatial is pair.ann else "made"
            result.warnings += premise_warnings(result.premise)
        if options.latency is not None:
            _time(pair, baselines, samples, options.latency, folder, result, progress)
        if options.sweep:

            def measure(network: Network) -> Measured:
                trial = Trial.of(pair.ann, network, samples, given, options.energy, progress)
                _warn_of_new(result, trial.warnings)
                return trial.outputs, trial.energy

            trials = tried_here(ann, calibration, measure, progress)
            if elsewhere is not None and calibration is not None:
                kept = Place.of(calibration, calibration.open(pair.specs, progress))
                job = SweepJob(pair.ann, elsewhere, kept, options.energy)
                trials = tried_on_workers(job, partial(_warn_of_new, result), progress)
            result.sweep = sweep(recorded, options.sweep, trials)
        if kept_in is not None:
            kept_in.remove()
    return result


def _warn_of_new(result: EvaluationResult, warnings: Sequence[str]) -> None:
    """Warnings that are not in the result yet."""
    result.warnings += [text for text in warnings if text not in result.warnings]


def _elsewhere(
    options: EvaluationOptions, pair: Pair, source: Source, samples: GivenSamples
) -> Elsewhere | None:
    """The workers and what they need; None where this process does the work."""
    if options.cluster is None:
        return None
    place = Place.of(source, samples)
    labels = options.labels.absolute() if options.labels else None
    threads = options.threads or 1
    return Elsewhere(options.cluster, pair.specs, place, labels, options.task, threads)


def _partial(options: EvaluationOptions, progress: Progress) -> Partial | None:
    """The file of partial results, if there is to be one."""
    if options.resume is None:
        return None
    threads = options.threads or (1 if options.cluster is not None else None)
    return Partial(options.resume, options.labels, threads, progress)


def _images(samples: GivenSamples) -> dict[str, Any]:
    """How pixels became values, and the classes by name; nothing where samples are no images."""
    if not samples.preprocessing:
        return {}
    return {"classes": list(samples.classes), "preprocessing": dict(samples.preprocessing)}


def _other_pixels(samples: GivenSamples, preprocessing: str | None) -> list[str]:
    """A warning if the SNN was calibrated on images whose pixels became other values."""
    own = json.dumps(dict(samples.preprocessing))
    if not samples.preprocessing or preprocessing in (None, own):
        return []
    return [
        f"the SNN was calibrated on images prepared otherwise: {preprocessing}; these are {own}"
    ]


def _compiled(ann: Path, options: EvaluationOptions, folder: Path, progress: Progress) -> Path:
    path = folder / "compiled.onnx"
    save_network(compile_model(ann, options.calibration, progress=progress).network, path)
    return path


def _count_flips(
    snn: Network, samples: GivenSamples, result: EvaluationResult, progress: Progress
) -> None:
    try:
        flips, result.flips_outputs = level_flips(snn, samples, progress)
    except ModelError as reason:  # a neuron of another type than float32, in a branch
        result.warnings.append(f"level flips are not counted: {reason}")
        return
    for neuron in result.neurons:
        neuron.flips = flips.get(neuron.name)


def _int8_baseline(
    pair: Pair,
    samples: GivenSamples,
    folder: Path,
    warnings: list[str],
    progress: Progress,
) -> Path:
    calibrated_on = pair.provenance.get("calibration", samples.origin)
    if calibrated_on != samples.origin:
        warnings.append(
            f"int8 is calibrated on other samples than the SNN: {samples.origin}, and the SNN on "
            f"{calibrated_on}"
        )
    feeds = progress.track(samples.batches(BATCH), samples.batch_count(BATCH), "calibrating int8")
    path = quantise(pair.ann, feeds, folder)
    warnings += saturation_warnings(path)
    return path


def _time(
    pair: Pair,
    baselines: dict[str, Path],
    samples: GivenSamples,
    options: LatencyOptions,
    folder: Path,
    result: EvaluationResult,
    progress: Progress,
) -> None:
    ann, snn = folder / "ann.onnx", folder / "snn.onnx"
    save_network(pair.ann, ann)
    save_network(pair.snn, snn)
    operators = bool(neurons_of(pair.snn.proto))  # of our library, defined by functions too
    candidates = [Candidate("ann", ann, False)]
    if not operators or has_library():
        candidates.append(Candidate("snn", snn, operators))
    candidates += [Candidate("snn_functions", snn, False)] * operators
    candidates += [Candidate(name, path, False) for name, path in baselines.items()]
    sizes = batch_sizes(samples, options)
    if options.batch not in sizes:
        result.warnings.append(
            f"latency is measured at batch {sizes[0]} only, which the model fixes"
        )
    feeds = write_feeds(samples, sizes, folder)
    if (busy := busy_machine()) is not None:
        result.warnings.append(busy)
    result.latency, problems = measure_latency(candidates, feeds, options, progress)
    result.warnings += problems


def _describe(path: Path | None, network: Network) -> dict[str, Any]:
    if path is None:
        return {"file": "compiled with default options", "bytes": network.nbytes()}
    return {"file": str(path), "sha256": file_sha256(path), "bytes": network.nbytes()}


def _versions() -> dict[str, str]:
    return {
        "snn-compile": metadata.version("snn-compile"),
        "onnx": onnx.__version__,
        "onnxruntime": ort.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
