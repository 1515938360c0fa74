"""What a session that asks for the operator library does where that is not installed.

1. Neurons run on their function bodies. Those that were added to count with have none yet, so in a
   network that observes itself the bodies are made anew, for all of its neurons.
2. ``Observe`` has no body. What it reads leaves the runtime and is counted here, by the same rules
   and to the same bits, but in more memory: the tensors of a batch are all there at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import ModelProto, NodeProto, ValueInfoProto, helper

from ...passes.graph.network import Network
from ...passes.lowering.function_bodies import function_bodies
from ...runtime_ops.definition import DOMAIN
from ..samples.base import Feed
from .counted_histogram import CountedHistogram

#: Of the operators that serve calibration only.
TOOL_DOMAIN = "ai.snn.tools"


def on_bodies(network: Network) -> tuple[Network, list[NodeProto]]:
    """A copy that runs without the library.

    Returns:
        The copy, whose outputs are those that no ``Observe`` makes, and behind them what these
        nodes read, each once; and the nodes, taken out of it.
    """
    proto = ModelProto()
    proto.CopyFrom(network.proto)
    graph = proto.graph
    observers = [node for node in graph.node if node.domain == TOOL_DOMAIN]
    if observers:
        nodes = [node for node in graph.node if node.domain != TOOL_DOMAIN]
        made = {name for node in observers for name in node.output}
        outputs = [value for value in graph.output if value.name not in made]
        known = {value.name for value in outputs}
        read = dict.fromkeys(node.input[0] for node in observers)
        outputs += [ValueInfoProto(name=name) for name in read if name not in known]
        functions = [function for function in proto.functions if function.domain != DOMAIN]
        for field, kept in (
            (graph.node, nodes),
            (graph.output, outputs),
            (proto.functions, functions),
        ):
            copies = [type(one).FromString(one.SerializeToString()) for one in kept]
            del field[:]
            field.extend(copies)
    return function_bodies(Network(proto, network.weights)), observers


class ObservingSession:
    """A session of :func:`on_bodies`, with the outputs of the network that it was made from."""

    def __init__(
        self, session: ort.InferenceSession, outputs: Sequence[str], observers: Sequence[NodeProto]
    ) -> None:
        """Observe what the session computes; ``outputs`` are those of the network, in order."""
        self._session, self._outputs = session, outputs
        self._observers = [
            (node, {a.name: helper.get_attribute_value(a) for a in node.attribute})
            for node in observers
        ]
        self._computed = [value.name for value in session.get_outputs()]

    def get_inputs(self) -> list[Any]:
        """Name, type and shape of every input."""
        return list(self._session.get_inputs())

    def get_outputs(self) -> list[Any]:
        """Name, type and shape of the outputs that no ``Observe`` makes; they are the first."""
        return [value for value in self._session.get_outputs() if value.name in self._outputs]

    def run(self, _: None, feed: Feed, options: ort.RunOptions | None = None) -> list[Any]:
        """All outputs. Those of ``Observe`` are of this run, whatever its ``runs`` says."""
        values = dict(zip(self._computed, self._session.run(None, feed, options), strict=True))
        for node, attributes in self._observers:
            observed = _observe(values[node.input[0]], **attributes)
            values.update(zip(node.output, observed, strict=True))
        return [values[name] for name in self._outputs]


def _observe(
    x: np.ndarray, axis: int, rows: int, leading: int, octaves: int, top: int, **_: int
) -> list[np.ndarray]:
    """Counts, rests, tops and moments: what an ``Observe`` node of these attributes gives."""
    histogram = CountedHistogram(rows, (leading, octaves))
    table = x.reshape(1, -1)
    if x.size and axis >= 0:
        table = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
    if top and rows == 1:
        histogram.add_below(top, table)
    else:
        histogram.add(table)
    extremes = [histogram.minima, histogram.maxima]
    moments = np.column_stack([histogram.sums, histogram.squares, *extremes, histogram.not_finite])
    return [histogram.counts, histogram.rests, histogram.tops, moments]
