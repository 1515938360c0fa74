"""Insertion: nodes and constants added to a copy of a network, to count while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from ...passes.graph.network import Network, constants_of
from ...passes.graph.protos import unused_prefix
from ...runtime_ops.definition import DOMAIN
from ...runtime_ops.staircase_fire import STAIRCASE_FIRE
from ..errors import ModelError


class Insertion:
    """Adds nodes and constants to the graphs of a model, under names that it does not use.

    Attributes:
        proto: the model that is added to, a copy of the network's.
        weights: its weights that are held apart.
    """

    def __init__(self, network: Network, prefix: str) -> None:
        self.proto = ModelProto()
        self.proto.CopyFrom(network.proto)
        self.weights = network.weights
        self._constants = constants_of(network)
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
                "cannot be counted; thresholds, scales and tables must be initializers"
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

    def staircase(
        self, graph: GraphProto, tensor: str, density: float, start: float, table: ArrayLike
    ) -> str:
        """A StaircaseFire of scale 1."""
        one, levels = self.constant(graph, 1.0), self.constant(graph, table)
        grid = {"density": density, "start": start}
        return self.neuron(graph, STAIRCASE_FIRE.name, tensor, one, levels, **grid)

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
