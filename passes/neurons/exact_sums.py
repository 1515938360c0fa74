"""Round weights and biases such that the sums of layers are exact in float32, in whatever order.

Runtimes add up products in orders of their own. Sums then differ in their last bits, and a
potential that lies as close to a threshold takes another level. But float32 adds multiples of a
grid g exactly while no partial sum exceeds 2^24 g. Here every grid is a power of two:

1. What a neuron with a step s that is a power of two fires is a multiple of s, at most its highest
   level; other neurons, and all else that is computed, have no grid.
2. A layer (Conv, ConvTranspose, Gemm, MatMul) that reads values of a grid gets, for each output
   channel, the finest grid g of which 2^24 hold any partial sum: its weights become multiples of g
   over the grid of what they multiply, its bias one of g. A constant that is added has the grid of
   the sum.
3. A sum of two tensors has the finer of their grids, and needs one of which 2^24 hold it; layers
   that it adds up get that where theirs is finer.
4. What is moved (MaxPool, Reshape, Pad with 0, ...) keeps its grid.

5. A layer is left as it is, and has no grid, if it reads values without one, or if its largest
   weight would be less than 16 steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..analysis.layers import multiplies
from ..analysis.operators import moved, moves_values, standard
from ..graph.graph import (
    Graph,
    Node,
    PassResult,
    Tensor,
    is_constant,
    is_standard,
    optional_input,
    tidy,
    values_of,
)
from .chain import power_of_two
from .fold_scales import Parameter, by_channel, set_parameter
from .neuron import Neuron, OctaveNeuron, ThresholdNeuron

#: Bits of a float32 number.
_BITS = 24
#: Steps that the largest weight of a layer has at least.
_FEWEST = 16
#: Bound of a sum over that of its parameters before they are rounded.
_ROUNDED = 1.02


@dataclass(frozen=True)
class _Range:
    """Multiples of a grid from low to high, float64 () or [C] along ``axis``.

    Every partial sum of what they are made of lies between low and high too.
    """

    grid: np.ndarray
    low: np.ndarray
    high: np.ndarray
    axis: int = 0

    @property
    def bound(self) -> np.ndarray:
        return np.asarray(np.maximum(self.high, -self.low))

    @property
    def exact(self) -> bool:
        return bool(np.all(self.bound <= self.grid * 2.0**_BITS))

    def overall(self) -> _Range:
        """One range for all channels, 0 within."""
        low, high = min(self.low.min(), 0.0), max(self.high.max(), 0.0)
        return _Range(np.asarray(self.grid.min()), np.asarray(low), np.asarray(high))


def exact_sums(graph: Graph, neurons: Mapping[str, Neuron]) -> PassResult:
    """Apply the rules above to the main graph.

    Args:
        graph: of the analog network.
        neurons: by the activation's output tensor.
    """
    return _ExactSums(graph, neurons).result()


class _ExactSums:
    def __init__(self, graph: Graph, neurons: Mapping[str, Neuron]) -> None:
        self._graph, self._neurons = graph, neurons
        self._ranges: dict[int, _Range] = {}
        self._wanted: dict[int, np.ndarray] = {}
        self._left: set[int] = set()

    def result(self) -> PassResult:
        for node in self._graph.nodes:
            self._see(node)
        for node in reversed(list(self._graph.nodes)):
            self._want(node)
        self._ranges.clear()
        changes = []
        for node in list(self._graph.nodes):
            if multiplies(node) and id(node.inputs[0]) in self._ranges:
                self._round(node)
            elif self._is_sum(node):
                self._round_constant(node)
            self._see(node)
            found = self._ranges.get(id(node.outputs[0])) if node.outputs else None
            if multiplies(node) or self._is_sum(node):
                changes.append(f"{node.op} {node.name}: {_says(found)}")
        tidy(self._graph)
        return PassResult(self._graph, changes)

    def _see(self, node: Node) -> None:
        """Rules 1 to 4: the range of what a node writes, where it has one."""
        for output in node.outputs:
            found = self._range(node, output)
            if found is not None:
                self._ranges[id(output)] = found

    def _range(self, node: Node, output: Tensor) -> _Range | None:
        neuron = self._neurons.get(output.name)
        if neuron is not None:
            return _fired(neuron)
        if moves_values(node):
            sources = [self._ranges.get(id(tensor)) for tensor in moved(node)]
            known = [source for source in sources if source]
            return _joined(known) if known and len(known) == len(sources) else None
        if multiplies(node):
            x = self._ranges.get(id(node.inputs[0]))
            return None if x is None or id(node) in self._left else self._of_layer(node, x)
        if self._is_sum(node):
            return self._of_sum(node)
        return None

    def _of_layer(self, node: Node, x: _Range) -> _Range:
        weight = values_of(node.inputs[1]).astype(np.float64)
        low, high = (by_channel(node, end, output=False) for end in (x.low, x.high))
        products = weight * low, weight * high
        bias = _bias(node)
        low = _per_output(node, np.minimum(np.minimum(*products), 0)) + np.minimum(bias, 0)
        high = _per_output(node, np.maximum(np.maximum(*products), 0)) + np.maximum(bias, 0)
        finest = _finest(low, high)
        axis = 1 if standard(node).convolves else -1
        return _Range(self._wanted.get(id(node.outputs[0]), finest), low, high, axis)

    def _is_sum(self, node: Node) -> bool:
        return node.op == "Add" and is_standard(node)

    def _of_sum(self, node: Node) -> _Range | None:
        operands = [self._operand(tensor, node) for tensor in node.inputs]
        first, second = operands
        if first is None or second is None:
            return None
        if first.axis != second.axis or first.low.shape != second.low.shape:
            channels = [one for one in operands if one and one.low.ndim]
            if len(channels) != 1:
                first, second = first.overall(), second.overall()
        low, high = first.low + second.low, first.high + second.high
        axis = first.axis if first.low.ndim else second.axis
        return _Range(np.minimum(first.grid, second.grid), low, high, axis)

    def _operand(self, tensor: Tensor, node: Node) -> _Range | None:
        if not is_constant(tensor):
            return self._ranges.get(id(tensor))
        values = tensor.values.astype(np.float64)
        ends = np.asarray(min(values.min(initial=0), 0)), np.asarray(max(values.max(initial=0), 0))
        return _Range(self._wanted.get(id(node.outputs[0]), np.asarray(np.inf)), *ends)

    def _want(self, node: Node) -> None:
        """Rule 3, from the last node to the first."""
        for output in node.outputs:
            found = self._ranges.get(id(output))
            if found is None or output.name in self._neurons:
                continue
            own = _finest(found.low, found.high)
            wanted = np.maximum(own, _as(self._wanted.get(id(output)), own))
            self._wanted[id(output)] = wanted
            if self._is_sum(node) or moves_values(node):
                sources = node.inputs if self._is_sum(node) else moved(node)
                for tensor in sources:
                    of = self._ranges.get(id(tensor))
                    if of is not None:
                        before = _as(self._wanted.get(id(tensor)), of.low)
                        self._wanted[id(tensor)] = np.maximum(before, _as(wanted, of.low))

    def _round(self, node: Node) -> None:
        """Rule 2."""
        x = self._ranges[id(node.inputs[0])]
        grid = self._wanted[id(node.outputs[0])]
        step = by_channel(node, grid, output=True) / by_channel(node, x.grid, output=False)
        weight = values_of(node.inputs[1]).astype(np.float64)
        if np.any(weight) and np.abs(weight / step).max() < _FEWEST:
            self._left.add(id(node))
            return
        set_parameter(self._graph, Parameter(node, 1, np.rint(weight / step) * step))
        bias = optional_input(node, 2)
        if bias is not None and is_constant(bias):
            values = bias.values.astype(np.float64)
            set_parameter(self._graph, Parameter(node, 2, np.rint(values / grid) * grid))

    def _round_constant(self, node: Node) -> None:
        wanted = self._wanted.get(id(node.outputs[0]))
        for position, tensor in enumerate(node.inputs):
            if wanted is None or not is_constant(tensor):
                continue
            values = tensor.values.astype(np.float64)
            grid = wanted if values.shape[-1:] == wanted.shape else wanted.max()
            rounded = np.rint(values / grid) * grid
            set_parameter(self._graph, Parameter(node, position, rounded))


def _fired(neuron: Neuron) -> _Range | None:
    """Rule 1."""
    if not isinstance(neuron, OctaveNeuron | ThresholdNeuron) or not power_of_two(neuron.unit):
        return None
    unit = neuron.unit.astype(np.float64)
    _, levels = neuron.staircase()
    return _Range(unit, unit * min(levels[0], 0), unit * levels[-1], neuron.axis)


def _joined(ranges: list[_Range]) -> _Range:
    """Rule 4."""
    overall = [one.overall() for one in ranges]
    return _Range(
        np.min([one.grid for one in overall]),
        np.min([one.low for one in overall]),
        np.max([one.high for one in overall]),
    )


def _finest(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The finest grid of which 2^24 hold these sums."""
    bound = np.maximum(np.maximum(high, -low), np.finfo(np.float32).tiny) * _ROUNDED
    return np.asarray(np.exp2(np.ceil(np.log2(bound)) - _BITS))


def _as(grid: np.ndarray | None, like: np.ndarray) -> np.ndarray:
    """The grid for a range of this shape: the coarsest where channels differ."""
    if grid is None:
        return np.zeros_like(like)
    return grid if grid.shape == like.shape else np.full_like(like, grid.max())


def _bias(node: Node) -> np.ndarray:
    bias = optional_input(node, 2)
    if bias is None or not is_constant(bias):
        return np.zeros(())
    return bias.values.astype(np.float64)


def _per_output(node: Node, terms: np.ndarray) -> np.ndarray:
    """The sums of the terms that each output channel adds up: [O]."""
    if node.op == "ConvTranspose":
        groups = int(node.attrs.get("group", 1))
        apart = terms.reshape(groups, terms.shape[0] // groups, terms.shape[1], -1)
        return np.asarray(apart.sum(axis=(1, 3)).reshape(-1))
    outputs = 0 if node.op == "Conv" or node.attrs.get("transB", 0) else 1
    rows = np.moveaxis(terms, outputs, 0).reshape(terms.shape[outputs], -1)
    return np.asarray(rows.sum(axis=1))


def _says(found: _Range | None) -> str:
    if found is None or not found.exact:
        return "its sums may depend on their order"
    bits = np.log2(max(float((found.bound / found.grid).max()), 1.0))
    return f"sums of {bits:.1f} bits, exact"
