"""Expand neurons of several levels into planes of binary spikes, 0 and 1.

A neuron fires k, a signed number of unit spikes, in one value: MultiThresholdFire and IntegrateFire
give theta * k, ScaleFire and DualScaleFire scale * k, StaircaseFire a level, for which k is the
number that is counted too (``staircase_fire.spikes_of_levels``): the nearest multiple of the
smallest step. Here k is sent as binary spikes instead, and the neuron's former output is decoded
from them:

    neuron -> Div(step) -> Round -> k -> planes -> ReduceSum -> k -> decoder -> Y

1. The neuron keeps its name, inputs, attributes and metadata. It gives step * k: what it gave
   before, but for StaircaseFire, whose table is replaced by the k of each cell. step is theta or
   scale.
   The quotient of a rounded product is within 2^-6 of k < 2^17, so k is exact.
2. Each polarity that fires has a tensor of planes, float32 of the neuron's shape with the planes as
   a new last axis, so that axis 0 stays what it is. With m = max(k, 0), or max(-k, 0),
       "unary"  plane i = [m > i],                     i = 0 .. max m - 1;   sum of ones = |k|
       "bits"   plane j = floor(m / 2^j) modulo 2,     j = 0, 1, ...;        sum = popcount(|k|)
3. m is the sum of the planes, each times 1 or 2^j, and the received k the positive m less the
   negative one. Small integers: no order of summation rounds. A silent neuron receives +0.
4. Decoder: step * k, or scale * table[cells[k - lowest k]], the same products as in the function
   bodies; cells has one cell of each k. NaN has no k and fires nothing in any plane: Y is the
   neuron's NaN there.
5. Left as they are, with the reason: neurons in closed bodies (:func:`graph.scopes`); an
   IntegrateFire of one level, which is binary; what never fires; other element types than float32;
   parameters that are computed; steps [C] where the rank is not known, or on axis 0; a step that
   overflows when multiplied by the highest k; levels that no k tells apart, or whose product with
   the scale vanishes.
6. Refused: k of a polarity beyond 255 for unary planes, 2^17 or more for bit planes.

Y keeps its name, and its bits on kernels and function bodies, in any order of arithmetic. All nodes
added carry the metadata ``snn_compile.binary_spikes`` with the code as value, and those that write
planes ``snn_compile.planes``, "positive" or "negative"; their tensors are called Y.positive_planes
and Y.negative_planes. ``join_planes`` is the inverse.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto

from ...runtime_ops.definition import DOMAIN
from ...runtime_ops.integrate_fire import INTEGRATE_FIRE
from ...runtime_ops.operators import OPERATORS
from ...runtime_ops.staircase_fire import STAIRCASE_FIRE, spikes_of_levels
from ..graph.graph import (
    METADATA_PREFIX,
    Graph,
    Node,
    PassResult,
    Tensor,
    is_constant,
    metadata,
    scopes,
    tidy,
    unique_name,
)
from ..graph.surgeon import add_node, constant, infer_shapes, variable

UNARY = "unary"
BITS = "bits"
KINDS = (UNARY, BITS)

#: Metadata of every node that is added, and of those that write planes.
MARK = METADATA_PREFIX + "binary_spikes"
PLANES = METADATA_PREFIX + "planes"

#: Highest |k| of unary planes: they take so many times the memory of the tensor.
MAX_UNARY = 255
#: Highest |k| of bit planes.
MAX_BITS = (1 << 17) - 1


class TooManySpikes(ValueError):
    """A neuron fires more spikes than there may be planes for."""


class _Left(Exception):
    """Why a neuron is left as it is."""


class _Spikes(NamedTuple):
    """What a neuron may fire.

    Attributes:
        low: the lowest k, at most 0.
        high: the highest, at least 0.
        of_cells: k of each cell of a StaircaseFire; None of other neurons.
    """

    low: int
    high: int
    of_cells: np.ndarray | None = None


def binary_spikes(graph: Graph, kind: str) -> PassResult:
    """Apply the rules above.

    Args:
        graph: a spiking network; left as it is.
        kind: :data:`UNARY` or :data:`BITS`.

    Raises:
        TooManySpikes: rule 6.
    """
    graph = infer_shapes(graph)  # rule 5 asks for ranks
    changes = []
    for scope in list(scopes(graph)):
        for neuron in [node for node in scope.graph.nodes if node.domain == DOMAIN]:
            try:
                if scope.closed:
                    raise _Left(scope.closed)
                spikes = _expand(scope.graph, neuron, kind)
            except _Left as reason:
                changes.append(f"{neuron.op} {neuron.name}: not expanded: {reason}")
                continue
            planes = sum(plane_count(most, kind) for most in (spikes.high, -spikes.low))
            changes.append(f"{neuron.op} {neuron.name}: spikes as {planes} binary planes ({kind})")
    tidy(graph)
    return PassResult(graph, changes)


def plane_count(most: int, kind: str) -> int:
    """How many planes hold the numbers 0 .. ``most``."""
    return most if kind == UNARY else most.bit_length()


def _expand(graph: Graph, neuron: Node, kind: str) -> _Spikes:
    if any(MARK in metadata(reader) for reader in neuron.outputs[0].outputs):
        raise _Left("its spikes are in planes already")
    parameters = [_constant(tensor) for tensor in neuron.inputs[1:]]
    spikes = _spikes(neuron, parameters)
    step = _aligned_step(neuron, parameters[0], max(-spikes.low, spikes.high))
    _check_count(neuron, spikes, kind)

    output = neuron.outputs[0]
    chain = _Chain(graph, output, kind)
    fired = variable(unique_name(graph, f"{output.name}.fired"), output)
    neuron.outputs[0] = fired
    if spikes.of_cells is not None:  # rule 1
        table = neuron.inputs[2]
        neuron.inputs[2] = chain.constant("spikes", spikes.of_cells)

    factor, nought = chain.constant("step", step), chain.constant("nought", 0.0)
    is_nan = chain.emit("IsNaN", "is_nan", fired)
    fraction = chain.emit("Div", "scaled", fired, factor)
    code = chain.emit("Where", "code", is_nan, nought, chain.emit("Round", "rounded", fraction))
    above = below = nought
    if spikes.high:
        above = chain.send("positive", chain.emit("Max", "excited", code, nought), spikes.high)
    if spikes.low:
        # 0 - k and not Neg(k): there is no -0 in a plane.
        mirrored = chain.emit("Sub", "mirrored", nought, code)
        below = chain.send(
            "negative", chain.emit("Max", "inhibited", mirrored, nought), -spikes.low
        )
    level = chain.emit("Sub", "received", above, below)
    if spikes.of_cells is not None:
        if np.any(np.signbit(parameters[1]) & (parameters[1] == 0)):  # the neuron gives +0
            table = chain.constant("table", parameters[1] + 0.0)
        of_k = np.zeros(spikes.high - spikes.low + 1, np.int64)
        of_k[spikes.of_cells - spikes.low] = np.arange(len(spikes.of_cells))
        cells, lowest = chain.constant("cells", of_k, np.int64), chain.constant("low", spikes.low)
        index = chain.emit("Sub", "index", level, lowest)
        position = chain.emit("Cast", "position", index, to=int(TensorProto.INT64))
        cell = chain.emit("Gather", "cell", cells, position, axis=0)
        level = chain.emit("Gather", "level", table, cell, axis=0)
    value = chain.emit("Mul", "decoded", factor, level)
    chain.emit("Where", "output", is_nan, fired, value, output=output)
    return spikes


def _constant(tensor: Tensor) -> np.ndarray:
    if not is_constant(tensor):
        raise _Left(f"{tensor.name} is not constant")
    if tensor.values.dtype != np.float32:
        raise _Left(f"its element type is {tensor.values.dtype.name}, planes are made of float32")
    return tensor.values


def _spikes(neuron: Node, parameters: list[np.ndarray]) -> _Spikes:
    """What the neuron may fire; some of it is not 0."""
    (operator,) = (operator for operator in OPERATORS if operator.name == neuron.op)
    attributes = operator.defaults | neuron.attrs
    if neuron.op == STAIRCASE_FIRE.name:
        scale, table = parameters
        k = spikes_of_levels(table)
        if len(np.unique(table)) > len(np.unique(k)):
            raise _Left("two of its levels are the same number of spikes")
        if np.any((np.multiply.outer(scale, table) == 0) & (table != 0)):
            raise _Left("a level times its scale vanishes")
        spikes = _Spikes(int(k.min()), int(k.max()), k)
    else:
        side = "top" if "top_pos" in attributes else "levels"
        spikes = _Spikes(-int(attributes[f"{side}_neg"]), int(attributes[f"{side}_pos"]))
        if neuron.op == INTEGRATE_FIRE.name and spikes.high - spikes.low == 1:
            raise _Left("its spikes are binary")
    if not spikes.low and not spikes.high:
        raise _Left("it never fires")
    return spikes


def _aligned_step(neuron: Node, step: np.ndarray, most: int) -> np.ndarray:
    """The step as () or as it broadcasts along the channel axis."""
    with np.errstate(over="ignore"):
        if not np.all(np.isfinite(step * np.float32(most))):
            raise _Left(f"its step {step.max():g} times {most} spikes overflows")
    if step.size == 1:
        return step.reshape(())
    if step.ndim > 1:
        return step
    shape = neuron.outputs[0].shape or neuron.inputs[0].shape
    if shape is None:
        raise _Left("it has a step per channel and its rank is not known")
    axis = int(neuron.attrs.get("axis", 1))
    axis += len(shape) if axis < 0 else 0
    if not 0 < axis < len(shape):
        raise _Left(f"its channels are axis {axis} of {len(shape)}")
    return step.reshape(-1, *[1] * (len(shape) - axis - 1))


def _check_count(neuron: Node, spikes: _Spikes, kind: str) -> None:
    """Rule 6."""
    most = max(-spikes.low, spikes.high)
    limit, name, other = MAX_BITS, "bit", "fewer levels or --neuron multi-threshold"
    if kind == UNARY:
        limit, name, other = MAX_UNARY, "unary", f"bit planes, {other}"
    if most > limit:
        raise TooManySpikes(
            f"{neuron.op} '{neuron.name}' fires up to {most} unit spikes; {name} planes are made "
            f"of up to {limit}; ask for {other}"
        )


class _Chain:
    """Writes the nodes behind one neuron."""

    def __init__(self, graph: Graph, output: Tensor, kind: str) -> None:
        self._graph, self._output, self._kind = graph, output, kind

    def constant(self, what: str, values: Any, dtype: Any = np.float32) -> Tensor:
        """A constant."""
        return constant(self._name(what), np.asarray(values, dtype))

    def emit(
        self, op: str, what: str, *inputs: Tensor, output: Tensor | None = None, **attributes: Any
    ) -> Tensor:
        """The result of a new node."""
        result = variable(self._name(what)) if output is None else output
        node = add_node(self._graph, op, self._name(op), list(inputs), result, attributes)
        metadata(node)[MARK] = self._kind
        return result

    def send(self, polarity: str, m: Tensor, most: int) -> Tensor:
        """Rules 2 and 3: ``m`` as planes, and what is received of them."""
        last = constant(self._name(f"{polarity}_axis"), np.array([-1], np.int64))
        column = self.emit("Unsqueeze", f"{polarity}_column", m, last)
        planes = variable(self._name(f"{polarity}_planes"), self._output)
        planes.dtype = np.dtype(np.float32)
        count = plane_count(most, self._kind)
        if planes.shape is not None:
            planes.shape = [*planes.shape, count]
        if self._kind == UNARY:
            ordinals = self.constant(f"{polarity}_ordinals", np.arange(1, count + 1))
            reached = self.emit("GreaterOrEqual", f"{polarity}_reached", column, ordinals)
            self.emit("Cast", "", reached, output=planes, to=int(TensorProto.FLOAT))
            sent = planes
        else:
            powers = np.exp2(np.arange(count))
            # Exact: the divisors are powers of two.
            parts = self.constant(f"{polarity}_parts", 1 / powers)
            shifted = self.emit("Mul", f"{polarity}_shifted", column, parts)
            whole = self.emit("Floor", f"{polarity}_whole", shifted)
            # whole modulo 2, as Mod of floats gives it in ten times the time.
            half, two = (self.constant(f"{polarity}_{n}", n) for n in (0.5, 2))
            halved = self.emit("Mul", f"{polarity}_halved", whole, half)
            pairs = self.emit("Floor", f"{polarity}_pairs", halved)
            even = self.emit("Mul", f"{polarity}_even", pairs, two)
            self.emit("Sub", "", whole, even, output=planes)
            weights = self.constant(f"{polarity}_weights", powers)
            sent = self.emit("Mul", f"{polarity}_weighted", planes, weights)
        metadata(planes.inputs[0])[PLANES] = polarity
        total = self.emit("ReduceSum", f"{polarity}_total", sent, last, keepdims=0)
        # Of an empty batch onnxruntime keeps an axis that is counted from the end.
        lengths = self.emit("Shape", f"{polarity}_lengths", m)
        return self.emit("Reshape", f"{polarity}_received", total, lengths, allowzero=1)

    def _name(self, what: str) -> str:
        return unique_name(self._graph, f"{self._output.name}.{what}")
