"""The evaluation as Python code calls it: networks in memory too, data as they are."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import ModelProto

from ..errors import UsageError
from ..model_io.save import save_network
from ..pipeline import CompileResult
from ..progress import Progress
from ..report.results import EvaluationResult
from ..samples.image_options import ImageOptions
from ..samples.source import Data, Source, opened
from .evaluate import EvaluationOptions
from .evaluate import evaluate as evaluate_files

#: What results call a network that has no file.
_IN_MEMORY = "in memory"


def evaluate(
    ann: str | Path | ModelProto,
    snn: str | Path | ModelProto | CompileResult | None = None,
    data: Data | Source | None = None,
    options: EvaluationOptions | None = None,
    progress: Progress | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    images: ImageOptions | None = None,
) -> EvaluationResult:
    """Compare a trained network with its spiking network on test data.

    Args:
        ann: path of the trained network, or the network itself.
        snn: what was compiled from it; None: it is compiled from ``options.calibration``, with
            default options.
        data: test samples as for ``compile``, with an array 'labels', or one more in each batch,
            of class indices [samples] if there are labels. It is needed.
        options: what else is measured; None: level flips and latency. ``EvaluationOptions(
            latency=None)`` is without the latter, which takes longest.
        progress: told about batches done.
        columns: what data that have names call an input, by its name in the model, or 'labels'.
        images: how pixels become values, if the data are images; None: as the SNN says.

    Raises:
        UsageError: there are no data, or options contradict one another.
        ModelError: a model is unreadable, or the two do not have the same inputs and outputs.
        DataError: the data do not fit the models.
    """
    if data is None:
        raise UsageError("there is nothing to evaluate on; give data=, the test samples")
    options = options or EvaluationOptions()
    with (
        tempfile.TemporaryDirectory(prefix="snn-evaluate-") as name,
        opened(data, columns, images) as source,
    ):
        assert source is not None
        first = _file(ann, Path(name) / "ann.onnx")
        second = None if snn is None else _file(snn, Path(name) / "snn.onnx")
        result = evaluate_files(first, second, source, options, progress or Progress())
    for network, about in ((ann, result.ann), (snn, result.snn)):
        if isinstance(network, (ModelProto, CompileResult)):
            about["file"] = _IN_MEMORY
    return result


def _file(network: str | Path | ModelProto | CompileResult, path: Path) -> Path:
    """The file of a network; one that has none is written to ``path``."""
    if isinstance(network, (str, Path)):
        return Path(network)
    if isinstance(network, CompileResult):
        save_network(network.network, path)
    else:
        onnx.save(network, path)
    return path
