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
from onnx import TensorProto, numpy_helper

from ...passes.activations import Activation
from ...passes.functions import ActivationFunction
from ...passes.graph import initializers_below
from ...passes.network import Network, is_detached
from ...passes.neuron import Branch, Neuron, StaircaseNeuron
from ...runtime_ops.scale_fire import MAX_THRESHOLDS
from ..errors import DataError
from ..observe import with_outputs
from ..progress import Progress
from ..samples import Samples
from ..session import make_session, run_samples
from .histogram import Histogram, SignedHistogram
from .staircase import find_scaled_staircase, find_staircase
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


class _Uniform:
    """Observes the input of an activation whose levels are multiples of a threshold."""

    def __init__(self, activation: Activation, options: CalibrationOptions) -> None:
        self._activation, self._options = activation, options
        self._axis = activation.axis if options.per_channel and activation.channels else None
        rows = activation.channels if self._axis is not None and activation.channels else 1
        self._positive = Histogram(rows)
        self._negative = Histogram(rows) if activation.signed else None

    def add(self, x: np.ndarray) -> None:
        rows = _rows(x, self._axis)
        self._positive.add(np.minimum(rows, np.float32(self._activation.upper)))
        if self._negative is not None:
            self._negative.add(-rows)

    @property
    def silent(self) -> bool:
        return not self._positive.counts.any() and self._negative is None

    def neuron(self) -> Neuron:
        options, upper = self._options, self._activation.upper

        def branch(histogram: Histogram) -> Branch:
            theta = find_theta(
                histogram, options.levels, options.calibrator, options.percentile, upper
            )
            return Branch(theta, clip_rate(histogram, theta, options.levels))

        return Neuron(
            positive=branch(self._positive),
            negative=None if self._negative is None else branch(self._negative),
            levels=options.levels,
            axis=1 if self._axis is None else self._axis,
            calibrator=options.describe(),
        )


class _Curved:
    """Observes the input of an activation whose levels follow its function."""

    def __init__(
        self, activation: Activation, function: ActivationFunction, options: CalibrationOptions
    ) -> None:
        self._function, self._options = function, options
        scalable = options.per_channel and function.homogeneous and activation.channels
        self._axis = activation.axis if scalable else None
        rows = activation.channels if self._axis is not None and activation.channels else 1
        self._histogram = SignedHistogram(rows)

    def add(self, x: np.ndarray) -> None:
        self._histogram.add(_rows(x, self._axis))

    @property
    def silent(self) -> bool:
        return self._histogram.silent

    def neuron(self) -> StaircaseNeuron:
        levels = min(self._options.levels, MAX_THRESHOLDS)
        evaluate = self._function.evaluate
        scale = np.array(1, np.float32)
        if self._axis is None:
            staircase = find_staircase(*self._histogram.distribution(0), evaluate, levels)
        else:
            scale, staircase = find_scaled_staircase(self._histogram, evaluate, levels)
        where = "per channel" if scale.ndim else "per tensor"
        return StaircaseNeuron(
            scale=scale,
            thresholds=staircase.thresholds,
            levels=staircase.levels,
            axis=1 if self._axis is None else self._axis,
            calibrator=f"least squared error, {where}",
            error=staircase.error,
        )


def _advice(network: Network) -> str:
    """What to check when values are not finite: the weights, if they are not, or the samples."""
    small = (t for t in initializers_below(network.proto.graph) if not is_detached(t))
    floats = (t for t in small if t.data_type in (TensorProto.FLOAT, TensorProto.DOUBLE))
    weights = {t.name: numpy_helper.to_array(t) for t in floats} | network.weights
    for name, values in weights.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            return f"the weight '{name}' holds NaN or inf, train or export the network again"
    return "check their scaling"


def _rows(x: np.ndarray, axis: int | None) -> np.ndarray:
    """One row per channel, or a single one."""
    if axis is None:
        return x.reshape(1, -1)
    return np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)


def calibrate(
    network: Network,
    activations: Sequence[Activation],
    samples: Samples,
    size: int,
    options: CalibrationOptions,
    progress: Progress,
) -> tuple[dict[str, Neuron | StaircaseNeuron], list[str]]:
    """Thresholds and levels for every activation.

    Args:
        network: the canonical ANN.
        activations: what becomes a neuron.
        samples: calibration samples.
        size: how many run at a time.
        options: how thresholds are found.
        progress: told about batches done.

    Returns:
        Neurons keyed by the activation's output tensor, and warnings.

    Raises:
        DataError: the network does not run on the samples, or gives NaN or inf.
    """
    names = list(dict.fromkeys(activation.input for activation in activations))
    session = make_session(with_outputs(network, names), library=False)
    observers: dict[str, _Uniform | _Curved] = {
        a.output: _Uniform(a, options) if a.function is None else _Curved(a, a.function, options)
        for a in activations
    }
    for feed in progress.track(samples.batches(size), samples.batch_count(size), "calibrating"):
        outputs = dict(zip(names, run_samples(session, feed, "the model"), strict=True))
        for activation in activations:
            x = outputs[activation.input]
            if x.size == 0:  # of a branch that was not taken
                continue
            if not np.isfinite(x).all():
                raise DataError(
                    f"the samples make the input of {activation.op} {activation.name} "
                    f"NaN or infinite; {_advice(network)}"
                )
            observers[activation.output].add(x)
    del session
    neurons = {}
    warnings = []
    for activation in progress.track(activations, len(activations), "thresholds"):
        observer = observers[activation.output]
        neurons[activation.output] = observer.neuron()
        if observer.silent:
            warnings.append(f"{activation.op} {activation.name} is silent on every sample")
    return neurons, warnings
