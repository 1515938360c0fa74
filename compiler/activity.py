"""What each neuron of a spiking network does on the samples: clipped, silent, spikes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto, helper, numpy_helper

from ..passes.graph import initializers_below
from ..passes.network import Network, is_detached
from ..runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE
from ..runtime_ops.operators import neurons_of


@dataclass
class NeuronActivity:
    """What one neuron did on the samples, as shares and means over all its values.

    Attributes:
        name: node name.
        clip_rate: share beyond the highest level of a MultiThresholdFire; nan for a ScaleFire,
            whose outer levels have no end.
        silent_rate: share that fires no spike: the output is 0.
        mean_spikes: mean number of spikes |k|; of a ScaleFire, levels away from the silent one.
    """

    name: str
    clip_rate: float
    silent_rate: float
    mean_spikes: float


class Counter(ABC):
    """Counts what one neuron does.

    Attributes:
        input: name of the neuron's membrane potential.
    """

    def __init__(self, node: NodeProto) -> None:
        self.input = node.input[0]
        self._name = node.name
        self._attributes: dict[str, Any] = {
            a.name: helper.get_attribute_value(a) for a in node.attribute
        }
        self._values = self._clipped = self._silent = 0
        self._spikes = 0.0

    @abstractmethod
    def add(self, x: np.ndarray) -> None:
        """Count one batch of membrane potentials."""

    def result(self) -> NeuronActivity:
        """The shares and means so far."""
        total = max(self._values, 1)
        return NeuronActivity(
            self._name, self._clipped / total, self._silent / total, self._spikes / total
        )

    def _aligned(self, values: np.ndarray, x: np.ndarray) -> np.ndarray:
        """[C] laid along the channel axis of x."""
        if not values.ndim:
            return values
        axis = self._attributes["axis"] % x.ndim
        return values.reshape([-1] + [1] * (x.ndim - axis - 1))


class _MultiThreshold(Counter):
    def __init__(self, node: NodeProto, theta: np.ndarray) -> None:
        super().__init__(node)
        self._theta = theta
        self._v0 = np.float32(self._attributes["v0"])
        self._most = np.float32(self._attributes["levels_pos"])
        self._least = np.float32(self._attributes["levels_neg"])

    def add(self, x: np.ndarray) -> None:
        level = np.floor(np.abs(x) / self._aligned(self._theta, x) + self._v0)
        limit = np.where(x < 0, self._least, self._most)
        spikes = np.minimum(level, limit)
        self._values += level.size
        # A side without levels is cut off by the function, it does not saturate.
        self._clipped += int(((level > limit) & (limit > 0)).sum())
        self._silent += level.size - int(np.count_nonzero(spikes))
        self._spikes += float(spikes.sum(dtype=np.float64))


class _Scale(Counter):
    def __init__(
        self, node: NodeProto, scale: np.ndarray, thresholds: np.ndarray, levels: np.ndarray
    ) -> None:
        super().__init__(node)
        self._scale, self._thresholds = scale, thresholds
        self._distance = np.abs(np.arange(len(levels)) - int(np.abs(levels).argmin()))
        self._is_silent = levels == 0

    def add(self, x: np.ndarray) -> None:
        level = np.searchsorted(self._thresholds, x / self._aligned(self._scale, x), side="right")
        counts = np.bincount(level.reshape(-1), minlength=len(self._distance))
        self._values += level.size
        self._silent += int(counts[self._is_silent].sum())
        self._spikes += float(counts @ self._distance)

    def result(self) -> NeuronActivity:
        found = super().result()
        found.clip_rate = float("nan")
        return found


def activity_of(snn: Network) -> list[Counter]:
    """A counter for each neuron of the network."""
    small = (t for t in initializers_below(snn.proto.graph) if not is_detached(t))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in small} | snn.weights
    counters: list[Counter] = []
    for node in neurons_of(snn.proto):
        arrays = [constants[name] for name in node.input[1:]]
        kind = _MultiThreshold if node.op_type == MULTI_THRESHOLD_FIRE.name else _Scale
        counters.append(kind(node, *arrays))
    return counters
