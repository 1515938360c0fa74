"""Compare an ANN with its compiled SNN on test data, in one run.

1. All samples go through the ANN, the SNN and the baselines, batch by batch: outputs, and what the
   neurons do. Memory grows with the models, not with the samples.
2. Level flips on the first samples (:mod:`.flips`).
3. Latency and peak memory, each network in processes of its own (:mod:`.latency`); this process
   holds no session meanwhile.

Intermediate files are in one temporary folder, which is gone afterwards whatever happens.
"""

from __future__ import annotations

import hashlib
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from ...passes.network import Network
from ...runtime_ops.operators import neurons_of
from ..errors import ModelError, UsageError
from ..fidelity import float_outputs, has_classes
from ..load import read_model
from ..progress import Progress
from ..samples import Feed, FileSamples
from ..save import save_network
from ..session import batch_size, make_session, run_samples
from .flips import level_flips
from .int8_baseline import BATCH, quantise
from .labels import labelled_outputs, read_labels
from .latency import Candidate, LatencyOptions, batch_sizes, measure_latency, write_feeds
from .outputs import OutputComparison
from .pair import Pair, read_pair
from .results import BaselineResult, EvaluationResult

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
        calibration: samples for them.
        flips: whether level flips are counted.
        latency: how latency is measured; None: not at all.
        command: as typed, for the record.
    """

    baselines: Sequence[str] = ()
    calibration: Path | None = None
    flips: bool = True
    latency: LatencyOptions | None = field(default_factory=LatencyOptions)
    command: str = ""


def check_options(options: EvaluationOptions) -> None:
    """Refuse options that contradict one another.

    Raises:
        UsageError: says which.
    """
    unknown = set(options.baselines) - {INT8}
    if unknown:
        raise UsageError(f"no baseline is called {min(unknown)}; there is {INT8}")
    if options.baselines and options.calibration is None:
        raise UsageError(
            f"--baseline {options.baselines[0]} needs --calibration: the samples that the SNN was "
            "calibrated on"
        )
    if options.calibration is not None and not options.baselines:
        raise UsageError("--calibration serves --baseline only; leave it out, or add a baseline")


def evaluate(
    ann: Path, snn: Path, data: Path, options: EvaluationOptions, progress: Progress
) -> EvaluationResult:
    """Run the networks on all samples.

    Args:
        ann: file of the trained network.
        snn: file of the network that was compiled from it.
        data: test samples, and labels if there are.
        options: what else is measured.
        progress: told about batches done.

    Raises:
        UsageError: options contradict one another.
        ModelError: a model is unreadable, or the two do not have the same inputs and outputs.
        DataError: the data do not fit the models.
    """
    check_options(options)
    pair = read_pair(ann, snn)
    samples = FileSamples(data, pair.specs)
    labels = read_labels(samples, {spec.name for spec in pair.specs})
    result = EvaluationResult(
        ann=_describe(ann, pair.ann),
        snn=_describe(snn, pair.snn)
        | {"neurons": len(neurons_of(pair.snn.proto)), "metadata": pair.provenance},
        data={
            "file": str(data),
            "sha256": samples.sha256,
            "samples": samples.count,
            "labels": labels is not None,
        },
        samples=0,
        outputs=[],
        versions=_versions(),
        command=options.command,
        warnings=list(pair.warnings),
    )
    with tempfile.TemporaryDirectory(prefix="snn-eval-") as name:
        folder = Path(name)
        baselines = {}
        if INT8 in options.baselines:
            baselines[INT8] = _int8_baseline(pair, options, folder, result, progress)
        _compare(pair, baselines, samples, labels, result, progress)
        if options.flips and neurons_of(pair.snn.proto):
            _count_flips(pair.snn, samples, result, progress)
        if options.latency is not None:
            _time(pair, baselines, samples, options.latency, folder, result, progress)
    return result


@dataclass
class _Runner:
    """A network that runs on every sample, and its comparison with the ANN."""

    name: str
    session: ort.InferenceSession
    comparison: OutputComparison
    positions: list[int]

    def run(self, feed: Feed) -> list[np.ndarray]:
        """The outputs that are compared."""
        outputs = run_samples(self.session, feed, self.name)
        return [outputs[i] for i in self.positions]


def _compare(
    pair: Pair,
    baselines: dict[str, Path],
    samples: FileSamples,
    labels: np.ndarray | None,
    result: EvaluationResult,
    progress: Progress,
) -> None:
    """Fill in what all samples tell: outputs, neurons, baselines."""
    session = make_session(pair.ann)
    names = [name for _, name in float_outputs(session)]

    def runner(name: str, session: ort.InferenceSession) -> _Runner:
        own = {output.name: i for i, output in enumerate(session.get_outputs())}
        comparison = OutputComparison(name, names, unbatched=bool(samples.unbatched))
        return _Runner(name, session, comparison, [own[output] for output in names])

    ann = runner("the ANN", session)
    # The place for a network that counts what its neurons do.
    runners = [runner("the SNN", make_session(pair.snn))]
    runners += [
        runner(name, make_session(read_model(path), library=False, optimise=False))
        for name, path in baselines.items()
    ]
    size = samples.fixed_batch or batch_size(list(next(samples.batches(1)).values()))
    labelled: set[str] = set()
    feeds = progress.track(samples.batches(size), samples.batch_count(size), "evaluating")
    for feed in feeds:
        expected = ann.run(feed)
        count = samples.count_in(feed)
        if labels is not None and result.samples == 0:
            labelled = _labelled(labels, names, expected, count, samples, result)
        own = labels[result.samples : result.samples + count] if labels is not None else None
        for one in runners:
            one.comparison.add(expected, one.run(feed), count, own, labelled)
        result.samples += count
    snn, *others = runners
    result.outputs = snn.comparison.results()
    result.baselines = [
        BaselineResult(one.name, _INT8_DESCRIPTION, one.comparison.results()) for one in others
    ]
    result.warnings += snn.comparison.warnings(of_ann=True)
    for one in runners:
        result.warnings += one.comparison.warnings(of_ann=False)
    if not names:
        result.warnings.append("the networks have no floating-point output, so none is compared")
    if left := samples.count - result.samples:
        result.warnings.append(
            f"the last {left} samples were left out: they do not fill a batch of "
            f"{samples.fixed_batch}, which the model fixes"
        )


def _count_flips(
    snn: Network, samples: FileSamples, result: EvaluationResult, progress: Progress
) -> None:
    try:
        flips, result.flips_outputs = level_flips(snn, samples, progress)
    except ModelError as reason:  # a neuron of another type than float32, in a branch
        result.warnings.append(f"level flips are not counted: {reason}")
        return
    for neuron in result.neurons:
        neuron.flips = flips.get(neuron.name)


def _labelled(
    labels: np.ndarray,
    names: list[str],
    outputs: list[np.ndarray],
    count: int,
    samples: FileSamples,
    result: EvaluationResult,
) -> set[str]:
    """The outputs that the labels belong to, seen on the first batch."""
    shown = [
        output[None] if samples.unbatched and output.ndim == 1 else output for output in outputs
    ]
    classes = {
        name: output.shape[1]
        for name, output in zip(names, shown, strict=True)
        if has_classes(output, count)
    }
    if not classes:
        result.warnings.append("'labels' are not used: no output is [batch, classes]")
    return labelled_outputs(labels, classes)


def _int8_baseline(
    pair: Pair,
    options: EvaluationOptions,
    folder: Path,
    result: EvaluationResult,
    progress: Progress,
) -> Path:
    if options.calibration is None:
        raise AssertionError("options are checked before")
    samples = FileSamples(options.calibration, pair.specs)
    calibrated_on = pair.provenance.get("calibration", samples.origin)
    if calibrated_on != samples.origin:
        result.warnings.append(
            f"int8 is calibrated on other samples than the SNN: {samples.origin}, and the SNN on "
            f"{calibrated_on}"
        )
    feeds = progress.track(samples.batches(BATCH), samples.batch_count(BATCH), "calibrating int8")
    return quantise(pair.ann, feeds, folder)


def _time(
    pair: Pair,
    baselines: dict[str, Path],
    samples: FileSamples,
    options: LatencyOptions,
    folder: Path,
    result: EvaluationResult,
    progress: Progress,
) -> None:
    ann, snn = folder / "ann.onnx", folder / "snn.onnx"
    save_network(pair.ann, ann)
    save_network(pair.snn, snn)
    candidates = [Candidate("ann", ann, False), Candidate("snn", snn, True)]
    candidates += [Candidate("snn_functions", snn, False)]
    candidates += [Candidate(name, path, False) for name, path in baselines.items()]
    sizes = batch_sizes(samples, options)
    if options.batch not in sizes:
        result.warnings.append(
            f"latency is measured at batch {sizes[0]} only, which the model fixes"
        )
    feeds = write_feeds(samples, sizes, folder)
    result.latency, problems = measure_latency(candidates, feeds, options, progress)
    result.warnings += problems


def _describe(path: Path, network: Network) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    return {"file": str(path), "sha256": digest.hexdigest(), "bytes": network.nbytes()}


def _versions() -> dict[str, str]:
    return {
        "snn-compile": metadata.version("snn-compile"),
        "onnx": onnx.__version__,
        "onnxruntime": ort.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
