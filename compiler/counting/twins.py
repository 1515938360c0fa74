"""Twins: operators put beside the neurons of a network, to count what these do while it runs.

A twin stands in the same graph or body as its neuron, sees the same membrane potential and makes
the same comparisons, but gives other values.

What counts as a spike, for a neuron at its i-th level of i = 0, 1, ...:

1. MultiThresholdFire: k is the signed number of thresholds that its output is made of.
2. ScaleFire: k = i - i0, the levels between this one and the silent one, which is the one nearest
   to 0 (the first of several). Where a level has the silent one's value, k = 0: nothing is sent
   (``scale_fire.spikes_of_levels``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from ...passes.graph.network import Network, is_detached
from ...passes.graph.protos import initializers_below, unused_prefix
from ...runtime_ops.definition import DOMAIN, MAX_LEVELS
from ...runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE
from ...runtime_ops.scale_fire import SCALE_FIRE
from ..errors import ModelError


class Twins:
    """Adds nodes and constants to the graphs of a model, under names that it does not use.

    Attributes:
        proto: the model that is added to, a copy of the network's.
        weights: its weights that are held apart.
    """

    def __init__(self, network: Network, prefix: str) -> None:
        self.proto = ModelProto()
        self.proto.CopyFrom(network.proto)
        self.weights = network.weights
        self._constants = _constants(network)
        self._prefix = unused_prefix(self.proto.graph, prefix)
        self._made = 0
        self._front: list[str] = []

    def parameters(self, neuron: NodeProto) -> list[np.ndarray]:
        """The constant inputs of a neuron: all but its membrane potential.

        Raises:
            ModelError: one of them is computed while the network runs.
        """
        missing = [name for name in neuron.input[1:] if name not in self._constants]
        if missing:
            raise ModelError(
                f"{neuron.op_type} '{neuron.name}': {missing[0]} is not constant, so its spikes "
                "cannot be counted; thresholds, scales and levels must be initializers"
            )
        return [self._constants[name] for name in neuron.input[1:]]

    def node(self, graph: GraphProto, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output; the name of the output."""
        name = self.name()
        graph.node.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def neuron(self, graph: GraphProto, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node of the operators' domain."""
        return self.node(graph, op, *inputs, domain=DOMAIN, **attributes)

    def constant(self, graph: GraphProto, values: ArrayLike, dtype: Any = np.float32) -> str:
        """Append an initializer."""
        name = self.name()
        graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    @contextmanager
    def at_front(self) -> Iterator[None]:
        """Put the nodes of the main graph that are made meanwhile before all others.

        :meth:`finish` moves them, behind those that were put there before.
        """
        nodes = self.proto.graph.node
        before = len(nodes)
        yield
        self._front += [node.name for node in nodes[before:]]

    def finish(self) -> Network:
        """The network with all that was added."""
        graph, front = self.proto.graph, set(self._front)
        ordered = sorted(graph.node, key=lambda node: node.name not in front)
        kept = GraphProto(node=ordered)
        del graph.node[:]
        graph.node.extend(kept.node)
        return Network(self.proto, self.weights)

    def name(self) -> str:
        """A name that nothing in the model has."""
        self._made += 1
        return f"{self._prefix}.{self._made}"

    def of_scale_fire(self, graph: GraphProto, neuron: NodeProto, levels: ArrayLike) -> str:
        """The twin of a ScaleFire with one step for all channels, that gives these levels.

        The step moves into the thresholds, rounded as the kernel rounds their product.
        """
        scale, thresholds, _ = self.parameters(neuron)
        own = self.constant(graph, (scale * thresholds).reshape(-1))
        return self.staircase(graph, neuron.input[0], own, levels)

    def staircase(
        self, graph: GraphProto, potential: str, thresholds: str, levels: ArrayLike
    ) -> str:
        """A ScaleFire of step 1."""
        one = self.constant(graph, 1.0)
        held = self.constant(graph, levels)
        return self.neuron(graph, SCALE_FIRE.name, potential, one, thresholds, held)

    def scaled_staircase(
        self, graph: GraphProto, neuron: NodeProto, thresholds: str, levels: ArrayLike
    ) -> str:
        """A ScaleFire of the neuron's membrane potential with the neuron's own steps.

        Levels are multiplied by the step of the channel.
        """
        held = self.constant(graph, levels)
        axis = {name: value for name, value in attributes_of(neuron).items() if name == "axis"}
        inputs = [neuron.input[0], neuron.input[1], thresholds, held]
        return self.neuron(graph, SCALE_FIRE.name, *inputs, **axis)


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """The attributes that the node has, by name."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def raised_attributes(neuron: NodeProto) -> dict[str, Any]:
    """The attributes of a MultiThresholdFire, with one level more on each side that has any."""
    attributes = MULTI_THRESHOLD_FIRE.defaults | attributes_of(neuron)
    for side in ("levels_pos", "levels_neg"):
        # A side without levels is cut off by the function, it does not saturate.
        attributes[side] = min(attributes[side] + (attributes[side] > 0), MAX_LEVELS)
    return attributes


def _constants(network: Network) -> dict[str, np.ndarray]:
    """The values of all initializers by name, wherever they are held."""
    values = dict(network.weights)
    for tensor in initializers_below(network.proto.graph):
        if not is_detached(tensor):
            values[tensor.name] = numpy_helper.to_array(tensor)
    return values
