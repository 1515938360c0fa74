"""Measures one configuration: JSON on stdin, JSON on the last line of stdout.

``what`` is one of

========  ==========================================================================================
compile   the network is compiled (without calibration samples if there are none) and run on the
          test samples beside the ANN
quantise  the same for onnxruntime's static quantisation, by the extremes of all activations
========  ==========================================================================================

The result holds, for classes, one bit per test sample, as hexadecimal digits: ``ann`` and ``snn``
right, ``same`` answer; for embeddings ``cosine`` and for boxes ``f1`` per test sample. For pixels
(mIoU, and ``pixels``, the share that gets the same class) and for pairs (Spearman's correlation)
there are the ``score`` of both networks and the ``drop`` with its interval, as snn-eval has them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from accuracy_configuration import Configuration, pack
from shared_networks import (
    NETWORKS,
    Feed,
    Network,
    calibration_samples,
    load_model,
    test_samples,
)
from snn_compile.compiler import compile_model
from snn_compile.compiler.evaluation import int8_baseline
from snn_compile.compiler.evaluation.labels import Labels
from snn_compile.compiler.evaluation.tasks.boxes import Form, agreement
from snn_compile.compiler.evaluation.tasks.correlation import similarity
from snn_compile.compiler.evaluation.tasks.names import FASTESTDET
from snn_compile.compiler.evaluation.tasks.segmentation import segmentation
from snn_compile.compiler.evaluation.tasks.task import Batch, Seen
from snn_compile.compiler.model_io.load import read_model
from snn_compile.compiler.running.session import make_session
from snn_compile.compiler.samples.base import input_specs
from snn_compile.compiler.samples.files import FileSamples
from snn_compile.passes.graph.network import detach

_OUTPUT = "output"
#: The label of pixels without one.
_NOT_LABELLED = 11

#: Test samples per run: images of ImageNet's size give activations of some hundred MB.
_BATCH_BYTES = 4 << 20


def measure(configuration: Configuration, data: Path, answers: Path) -> dict[str, Any]:
    """The result of one configuration; ``answers`` keeps the ANN's outputs between workers."""
    network = NETWORKS[configuration.network]
    ann = load_model(network, data)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples = _write_samples(configuration, network, data, folder)
        if configuration.what == "quantise":
            if samples is None:
                raise ValueError("quantisation is calibrated with samples")
            feeds = FileSamples(samples, input_specs(ann)).batches(int8_baseline.BATCH)
            other = read_model(int8_baseline.quantise(detach(ann), feeds, folder))
            # Unoptimised, the integers are turned into floats first, which no processor saturates.
            session = make_session(other, library=False, optimise=False)
        else:
            chosen = configuration.compile_options()
            session = make_session(compile_model(ann, samples, chosen).network)
    feed, labels = test_samples(network, data, configuration.test)
    if not answers.is_file():
        keep(answers, run_batches(make_session(ann, library=False), feed))
    return compare(network, np.load(answers), run_batches(session, feed), labels)


def compare(
    network: Network, expected: np.ndarray, got: np.ndarray, labels: np.ndarray | None
) -> dict[str, Any]:
    """Outputs of the ANN and of the other network, [samples, ...]."""
    if network.output == "boxes":
        form = Form(FASTESTDET, "", expected.shape[1] - 5)
        found = [
            agreement(*(form.read(one, (1, 1)) for one in pair), cells=True)
            for pair in zip(expected, got, strict=True)
        ]
        return {"f1": [round(f1, 6) for f1 in found]}
    if network.output in ("pixels", "pairs"):
        return _scores(network, expected, got, labels)
    if network.output == "embeddings":
        norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(got, axis=1)
        cosines = (expected * got).sum(axis=1) / norms
        return {"cosine": [round(float(cosine), 6) for cosine in cosines]}
    answers = expected.argmax(axis=1), got.argmax(axis=1)
    return {
        "samples": len(got),
        "ann": pack(answers[0] == labels),
        "snn": pack(answers[1] == labels),
        "same": pack(answers[0] == answers[1]),
    }


def _scores(
    network: Network, expected: np.ndarray, got: np.ndarray, labels: np.ndarray | None
) -> dict[str, Any]:
    """What the tasks of snn-eval measure."""
    if labels is None:
        raise ValueError(f"{network.name} is scored against labels")
    seen = {_OUTPUT: Seen.of(expected)}
    known = Labels(network.title, [(network.title, labels)])
    if network.output == "pixels":
        task = segmentation(seen, len(got), known, _NOT_LABELLED)
    else:
        task = similarity(seen, len(got), len(got), known)
    if task is None:
        raise ValueError(f"the labels of {network.name} do not fit its outputs")
    meter = task.meters[_OUTPUT]()
    meter.add(Batch({}, {_OUTPUT: expected}, {_OUTPUT: got}, labels))
    metrics = {metric.name: metric for metric in meter.result()}
    chosen = metrics["mIoU" if network.output == "pixels" else "Spearman"]
    if chosen.ann is None or chosen.drop is None:
        raise ValueError(f"{chosen.name} has no value of the ANN")
    result = {
        "score": [chosen.ann.value, chosen.value.value],
        "drop": [chosen.drop.value, chosen.drop.low, chosen.drop.high],
    }
    if network.output == "pixels":
        result["pixels"] = metrics["pixel agreement"].value.value
    return result


def keep(path: Path, outputs: np.ndarray) -> None:
    """Write outputs so that the file is whole at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as stream:
        np.save(stream, outputs)
    partial.replace(path)


def run_batches(session: ort.InferenceSession, feed: Feed) -> np.ndarray:
    """The first output on all samples, a batch at a time."""
    count = len(next(iter(feed.values())))
    bytes_per_sample = sum(array.nbytes for array in feed.values()) // count
    fixed = session.get_inputs()[0].shape[0]
    free = int(np.clip(_BATCH_BYTES // bytes_per_sample, 1, 64))
    size = fixed if isinstance(fixed, int) else free
    name = session.get_outputs()[0].name
    outputs = []
    for begin in range(0, count, size):
        part = {key: array[begin : begin + size] for key, array in feed.items()}
        outputs.append(session.run([name], part)[0])
    return np.concatenate(outputs)


def _write_samples(
    configuration: Configuration, network: Network, data: Path, folder: Path
) -> Path | None:
    if configuration.calibration == 0:
        return None
    count, seed = configuration.calibration, configuration.seed
    path = folder / "calibration.npz"
    np.savez(path, **calibration_samples(network, data, count, seed))
    return path


def main() -> None:
    """The command that the benchmark runs."""
    request = json.load(sys.stdin)
    ort.set_default_logger_severity(3)
    configuration = Configuration(**request["configuration"])
    result = measure(configuration, Path(request["data"]), Path(request["answers"]))
    print("\n" + json.dumps(result))


if __name__ == "__main__":
    main()
