"""Verification: does the spiking network still do what the ANN did?

1. Conversion proof: on one batch, without graph optimisation, the quantised ANN, the SNN on the C++
   kernels and the SNN on its function bodies must give the same bits.
2. Fidelity: ANN against SNN on all samples, as users will run them.
3. Activity: per neuron, the share of values clipped at the highest level, silent, and the mean
   number of spikes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from ..runtime_ops.operators import neurons_of
from .fidelity import FidelityMeter, OutputFidelity, float_outputs
from .progress import Progress
from .samples import Samples
from .session import batch_size, make_session, run_samples, with_outputs

_PROOF_SAMPLES = 8


@dataclass
class NeuronActivity:
    """What one neuron did on the samples, as shares and means over all its values.

    Attributes:
        name: node name.
        clip_rate: share whose level exceeds N.
        silent_rate: share that fires no spike.
        mean_spikes: mean number of spikes, |k|.
    """

    name: str
    clip_rate: float
    silent_rate: float
    mean_spikes: float


@dataclass
class Verification:
    """The outcome of :func:`verify`.

    Attributes:
        samples: number of samples compared.
        bit_exact: whether the conversion proof held.
        outputs: fidelity per floating-point output.
        neurons: activity per neuron.
    """

    samples: int
    bit_exact: bool
    outputs: list[OutputFidelity]
    neurons: list[NeuronActivity]

    @property
    def agreement(self) -> float | None:
        """The lowest agreement of any output that has one."""
        known = [output.agreement for output in self.outputs if output.agreement is not None]
        return min(known, default=None)


def verify(
    ann: ModelProto, quantised: ModelProto, snn: ModelProto, samples: Samples, progress: Progress
) -> Verification:
    """Compare the three models on ``samples``; see the module's text for what is compared."""
    exact = _bit_exact(quantised, snn, samples)
    meters, activity = _compare(ann, snn, samples, progress)
    return Verification(
        samples.count, exact, [meter.result() for meter in meters], [a.result() for a in activity]
    )


def _bit_exact(quantised: ModelProto, snn: ModelProto, samples: Samples) -> bool:
    feed = next(samples.batches(min(_PROOF_SAMPLES, samples.count)))
    results = []
    for model, library in ((quantised, False), (snn, True), (snn, False)):
        session = make_session(model, library=library, optimise=False)
        results.append([array.tobytes() for array in run_samples(session, feed, "the network")])
    return all(result == results[0] for result in results)


class _Activity:
    """Counts what one neuron does."""

    def __init__(self, node: NodeProto, constants: dict[str, np.ndarray]) -> None:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self._name = node.name
        self._theta = constants[node.input[1]]
        self._axis = attributes["axis"]
        self._v0 = np.float32(attributes["v0"])
        self._levels = max(attributes["levels_pos"], attributes["levels_neg"])
        self._sign = np.float32(1 if attributes["levels_pos"] else -1)
        self._values = self._clipped = self._silent = 0
        self._spikes = 0.0

    def add(self, x: np.ndarray) -> None:
        theta = self._theta
        if theta.ndim:
            theta = theta.reshape([-1] + [1] * (x.ndim - self._axis % x.ndim - 1))
        level = np.floor(np.maximum(self._sign * x, 0) / theta + self._v0)
        self._values += level.size
        self._clipped += int((level > self._levels).sum())
        self._silent += level.size - int(np.count_nonzero(level))
        self._spikes += float(np.minimum(level, self._levels).sum(dtype=np.float64))

    def result(self) -> NeuronActivity:
        total = max(self._values, 1)
        return NeuronActivity(
            self._name, self._clipped / total, self._silent / total, self._spikes / total
        )


def _compare(
    ann: ModelProto, snn: ModelProto, samples: Samples, progress: Progress
) -> tuple[list[FidelityMeter], list[_Activity]]:
    nodes = neurons_of(snn)
    wanted = {node.input[1] for node in nodes}
    constants = {
        t.name: numpy_helper.to_array(t) for t in snn.graph.initializer if t.name in wanted
    }
    activity = [_Activity(node, constants) for node in nodes]
    outputs = [output.name for output in snn.graph.output]
    names = list(dict.fromkeys([*outputs, *(node.input[0] for node in nodes)]))

    reference, spiking = make_session(ann, library=False), make_session(with_outputs(snn, names))
    positions = float_outputs(reference)
    meters = [FidelityMeter(name) for _, name in positions]
    size = samples.fixed_batch or batch_size(
        run_samples(spiking, next(samples.batches(1)), "the SNN")[len(outputs) :]
    )
    for feed in progress.track(samples.batches(size), samples.batch_count(size), "verifying"):
        expected = run_samples(reference, feed, "the ANN")
        got = dict(zip(names, run_samples(spiking, feed, "the SNN"), strict=True))
        for (position, name), meter in zip(positions, meters, strict=True):
            meter.add(expected[position], got[name])
        for node, counter in zip(nodes, activity, strict=True):
            counter.add(got[node.input[0]])
    return meters, activity
