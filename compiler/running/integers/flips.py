"""Spikes that differ between a network of integers and the float network of the same neurons.

Both run as users run them: the float network with our kernels. Its levels are theta k, so that
k = Y / theta, rounded; an integer q of the neuron of the same name stands for k = q - zero. Both
compute the same values but for the rounding of biases and of float sums. A value that lies at a
threshold may so end on its other side, and what reads it differs from there on.

Neurons in control-flow bodies are not seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import onnxruntime as ort

from ....passes.graph.network import Network, constant_of
from ....runtime_ops.operators import neurons_of
from ...samples.base import Feed
from ..fidelity import FidelityMeter, OutputFidelity
from ..session import make_session, run_samples
from .compare import with_tensors
from .form import integer_operators


@dataclass
class SpikesCompared:
    """What was counted.

    Attributes:
        values: values compared, by neuron.
        flipped: those of them whose number of spikes differs, by neuron.
        outputs: the networks' own outputs, those of floats.
    """

    values: dict[str, int] = field(default_factory=dict)
    flipped: dict[str, int] = field(default_factory=dict)
    outputs: list[OutputFidelity] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Of all values."""
        return sum(self.flipped.values()) / max(sum(self.values.values()), 1)

    @property
    def agreement(self) -> float | None:
        """The lowest agreement of any output that has one."""
        known = [output.agreement for output in self.outputs if output.agreement is not None]
        return min(known, default=None)


@dataclass(frozen=True)
class _Pair:
    """A neuron in both networks."""

    name: str
    floats: str
    theta: np.float32
    integers: str
    zero: int


def compare_spikes(network: Network, floats: Network, feeds: Iterable[Feed]) -> SpikesCompared:
    """Compare the neurons' spikes; memory is that of all spikes of one feed, twice.

    Args:
        network: of integers.
        floats: of neurons MultiThresholdFire of the same names, one threshold each.
        feeds: run one after the other.
    """
    pairs = _pairs(network, floats)
    own = list(dict.fromkeys(value.name for value in network.proto.graph.output))
    names = list(dict.fromkeys([*own, *(pair.integers for pair in pairs)]))
    float_names = list(dict.fromkeys([*own, *(pair.floats for pair in pairs)]))
    sessions = [
        make_session(with_tensors(network, names), library=False),
        make_session(with_tensors(floats, float_names)),
    ]
    found = SpikesCompared({p.name: 0 for p in pairs}, {p.name: 0 for p in pairs})
    meters: dict[str, FidelityMeter] = {}
    for feed in feeds:
        first, second = (_tensors(session, feed) for session in sessions)
        for pair in pairs:
            spikes = first[pair.integers].astype(np.float32) - np.float32(pair.zero)
            wanted = np.rint(second[pair.floats] / pair.theta)
            found.values[pair.name] += spikes.size
            found.flipped[pair.name] += _different(spikes, wanted)
        for name in own:
            if name in second and second[name].dtype == np.float32:
                meters.setdefault(name, FidelityMeter(name)).add(second[name], first[name])
    found.outputs = [meter.result() for meter in meters.values()]
    return found


def _tensors(session: ort.InferenceSession, feed: Feed) -> dict[str, np.ndarray]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, run_samples(session, feed, "the network"), strict=True))


def _pairs(network: Network, floats: Network) -> list[_Pair]:
    own = {name for node in network.proto.graph.node for name in node.output}
    # The last integers of a name are behind what limits them.
    integers = {o.neuron: o for o in integer_operators(network) if o.neuron and o.output in own}
    visible = {name for node in floats.proto.graph.node for name in node.output}
    found = []
    for node in neurons_of(floats.proto):
        operator = integers.get(node.name)
        if operator is not None and node.output[0] in visible:
            theta = np.float32(constant_of(floats, node.input[1]).reshape(()))
            pair = _Pair(node.name, node.output[0], theta, operator.output, operator.zero)
            found.append(pair)
    return found


def _different(spikes: np.ndarray, wanted: np.ndarray) -> int:
    if spikes.shape != wanted.shape:
        return max(spikes.size, wanted.size)
    return int(np.count_nonzero(spikes != wanted))
