"""Calibration: run the network on samples and give every activation a neuron.

The samples are streamed once. For each activation the distribution of its input is gathered in a
histogram per tensor, or per channel; memory depends on the model and the batch, not on the number
of samples. The batch is chosen so that the activations copied out of the runtime stay within a
fixed budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from ..passes.activations import Activation
from ..passes.neuron import Branch, Neuron
from .errors import DataError
from .histogram import Histogram
from .progress import Progress
from .samples import Samples
from .session import batch_size, make_session, run_samples, with_outputs
from .thresholds import clip_rate, find_theta


@dataclass(frozen=True)
class CalibrationOptions:
    """How thresholds are found.

    Attributes:
        levels: number of levels N of each neuron and polarity.
        calibrator: "mse" or "percentile".
        percentile: p of the percentile calibrator.
        per_channel: one threshold per channel instead of one per tensor.
    """

    levels: int = 32
    calibrator: str = "mse"
    percentile: float = 99.9
    per_channel: bool = True

    def describe(self) -> str:
        """The calibrator as provenance shows it."""
        name = self.calibrator
        if name == "percentile":
            name = f"percentile {self.percentile:g}"
        return f"{name}, {'per channel' if self.per_channel else 'per tensor'}"


class _Observer:
    """The distributions of one activation's input."""

    def __init__(self, activation: Activation, per_channel: bool) -> None:
        self._activation = activation
        self.axis = activation.axis if per_channel and activation.channels else None
        rows = activation.channels if self.axis is not None and activation.channels else 1
        self.positive = Histogram(rows)
        self.negative = Histogram(rows) if activation.signed else None

    def add(self, x: np.ndarray) -> None:
        if not np.isfinite(x).all():
            raise DataError(
                f"the samples make the input of {self._activation.op} {self._activation.name} "
                "NaN or infinite; check their scaling"
            )
        if self.axis is None:
            rows = x.reshape(1, -1)
        else:
            rows = np.moveaxis(x, self.axis, 0).reshape(x.shape[self.axis], -1)
        self.positive.add(np.minimum(rows, np.float32(self._activation.upper)))
        if self.negative is not None:
            self.negative.add(-rows)


def calibrate(
    model: ModelProto,
    activations: Sequence[Activation],
    samples: Samples,
    options: CalibrationOptions,
    progress: Progress,
) -> tuple[dict[str, Neuron], list[str]]:
    """Thresholds for every activation.

    Args:
        model: the canonical ANN.
        activations: what becomes a neuron.
        samples: calibration samples.
        options: how thresholds are found.
        progress: told about batches done.

    Returns:
        Neurons keyed by the activation's output tensor, and warnings.

    Raises:
        DataError: the network does not run on the samples, or gives NaN or inf.
    """
    names = list(dict.fromkeys(activation.input for activation in activations))
    session = make_session(with_outputs(model, names), library=False)
    observers = {a.output: _Observer(a, options.per_channel) for a in activations}
    size = samples.fixed_batch or batch_size(
        run_samples(session, next(samples.batches(1)), "the model")
    )
    for feed in progress.track(samples.batches(size), samples.batch_count(size), "calibrating"):
        outputs = dict(zip(names, run_samples(session, feed, "the model"), strict=True))
        for activation in activations:
            observers[activation.output].add(outputs[activation.input])
    neurons = {}
    warnings = []
    for activation in progress.track(activations, len(activations), "thresholds"):
        observer = observers[activation.output]
        neurons[activation.output] = _neuron(activation, observer, options)
        if not observer.positive.counts.any() and observer.negative is None:
            warnings.append(f"{activation.op} {activation.name} is silent on every sample")
    return neurons, warnings


def _neuron(activation: Activation, observer: _Observer, options: CalibrationOptions) -> Neuron:
    def branch(histogram: Histogram) -> Branch:
        theta = find_theta(
            histogram, options.levels, options.calibrator, options.percentile, activation.upper
        )
        return Branch(theta, clip_rate(histogram, theta, options.levels))

    return Neuron(
        positive=branch(observer.positive),
        negative=None if observer.negative is None else branch(observer.negative),
        levels=options.levels,
        axis=1 if observer.axis is None else observer.axis,
        calibrator=options.describe(),
    )
