"""What the chains of standard operators share that stand for a neuron in the quantised ANN."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..analysis.operators import properties
from ..graph.graph import Graph, Node, Tensor, is_constant, is_standard, shape_of, unique_name
from ..graph.surgeon import add_node, constant, variable


class Chain:
    """Writes the operators of a chain from ``x`` to ``output``, and their constants."""

    def __init__(self, graph: Graph, x: Tensor, output: Tensor) -> None:
        self._graph, self._x, self._output = graph, x, output

    def aligned(self, steps: np.ndarray, axis: int) -> np.ndarray:
        """Steps () or [C] as they broadcast along an axis of x: [C, 1, ..., 1].

        What has rank 2 or more lies as it should.
        """
        if steps.ndim != 1:
            return steps
        return steps.reshape(-1, *[1] * (len(shape_of(self._x)) - axis - 1))

    def constant(self, what: str, values: ArrayLike) -> Tensor:
        """A float32 constant."""
        return constant(self._name(what), np.asarray(values, np.float32))

    def emit(self, op: str, what: str, *inputs: Tensor, **attributes: Any) -> Tensor:
        """The result of a new node."""
        result = variable(self._name(what))
        add_node(self._graph, op, result.name, list(inputs), result, attributes)
        return result

    def end(self, op: str, name: str, *inputs: Tensor) -> Node:
        """The node that writes the output."""
        return add_node(self._graph, op, name, list(inputs), self._output)

    def _name(self, what: str) -> str:
        return unique_name(self._graph, f"{self._output.name}.{what}")


def reciprocal(steps: np.ndarray) -> np.ndarray:
    """1 / steps, rounded to float32 once, as the neurons take it."""
    return np.asarray(np.float32(1) / steps.astype(np.float32), np.float32)


def power_of_two(steps: np.ndarray) -> bool:
    """Whether all are powers of two whose reciprocals are too: dividing is multiplying, exactly."""
    tiny = np.finfo(np.float32).tiny
    mantissas = np.frexp(steps)[0]
    return bool(np.all((mantissas == 0.5) & (steps >= tiny) & (steps <= 1 / tiny)))


def sole_producer(graph: Graph, tensor: Tensor, op: str) -> Node | None:
    """The ``op`` node that makes the tensor for one reader alone."""
    return producer(graph, tensor, (op,))


def producer(graph: Graph, tensor: Tensor, ops: Collection[str], readers: int = 1) -> Node | None:
    """The node, one of ``ops``, that makes a tensor which is read so often and not returned."""
    if len(tensor.inputs) != 1 or len(tensor.outputs) != readers or tensor in graph.outputs:
        return None
    node = tensor.inputs[0]
    return node if node.op in ops and is_standard(node) else None


def per_channel(values: np.ndarray, rank: int | None) -> tuple[np.ndarray | None, int]:
    """``values`` as () or [C], and the channel axis that their broadcast shape speaks of."""
    if values.size == 1:
        return values.reshape(()), 1
    wide = [i for i, length in enumerate(values.shape) if length != 1]
    if rank is None or len(wide) != 1 or values.ndim > rank:
        return None, 1
    return values.reshape(-1), rank - values.ndim + wide[0]


def broadcast(values: np.ndarray) -> np.ndarray:
    """Thresholds or scales of a chain as a neuron takes them: () or of two dimensions at least.

    With one dimension they would be channels along the neuron's ``axis``.
    """
    if values.size == 1:
        return values.reshape(())
    return values if values.ndim > 1 else values.reshape(1, -1)


def usable_steps(steps: np.ndarray) -> bool:
    """Whether thresholds or scales are what a neuron takes."""
    return bool(steps.dtype == np.float32 and np.all(np.isfinite(steps)) and np.all(steps > 0))


def has_bias(x: Tensor) -> bool:
    """Whether a constant that is nowhere -0 is added last: then no sum is -0, and adding 0 idle."""
    layer = x.inputs[0] if len(x.inputs) == 1 else None
    if layer is None or not is_standard(layer):
        return False
    if layer.op == "Add":
        return any(_never_minus_zero(tensor) for tensor in layer.inputs)
    with_bias = properties(layer.op).weighted and len(layer.inputs) == 3
    return with_bias and _never_minus_zero(layer.inputs[2])


def _never_minus_zero(tensor: Tensor) -> bool:
    if not is_constant(tensor):
        return False
    return not np.any((tensor.values == 0) & np.signbit(tensor.values))
