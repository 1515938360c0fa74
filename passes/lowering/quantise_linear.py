"""Write a spiking network with spikes and weights as integers of 8 bits, in standard operators.

The form (QDQ) is that of ONNX's quantised networks: an operator between DequantizeLinear and
QuantizeLinear is computed by one integer kernel where the runtime has one, and in float elsewhere.

1. A neuron MultiThresholdFire with one threshold theta, y = theta k, k from -N- to N+:

       q = QuantizeLinear(x, theta, N-)       uint8, q = k + N-, at least 0
       q = Min(q, N+ + N-)                    only where that is below 255
       y = DequantizeLinear(q, theta, N-)

   QuantizeLinear rounds ties to even, the neuron away from 0; v0 has to be 1/2.
2. Operators that only move values (``integer_edges.moves_integers``) move q; Pad fills with N-, and
   DequantizeLinear follows. A Pad of spatial axes that convolutions alone read becomes theirs.
3. A linear operator with a constant float32 weight that reads such a y: the weight becomes int8
   behind DequantizeLinear, symmetric, with a step per output channel; the bias int32 in steps of
   theta times those of the weight. A MatMul of rank 2 and the Add of its bias become Gemm; behind
   one of higher rank the bias stays in float.
4. Safe weights: |w| <= min(127, floor(32767 / (2 top))), with top the largest q that the operator
   reads. On x86 without VNNI kernels add two products of uint8 and int8 in 16 bits, where more
   saturates in silence.
5. A table of float32 that Gather takes rows of (an embedding) becomes int8, with a step per row;
   the rows that are taken are multiplied by theirs, in float.
6. All else is computed in float, between DequantizeLinear and QuantizeLinear, and listed with the
   reason.

Scale and zero point have rank 0, those of weights [O] (of a ConvTranspose with groups the channels
of one group). Equal constants are shared, names are short: files are small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from ...runtime_ops.definition import DOMAIN
from ...runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE
from ..analysis.layers import bias_add, multiplies, width
from ..analysis.operators import Bytes, Role, is_arithmetic, moved, properties, standard
from ..graph.graph import (
    Graph,
    Node,
    PassResult,
    Tensor,
    inherit,
    is_constant,
    is_standard,
    optional_input,
    rank_of,
    redirect,
    scopes,
    tidy,
    unique_name,
    values_of,
)
from ..graph.surgeon import add_node, constant, variable
from ..neurons.integer_edges import moves_integers

#: Levels besides silence of 8 bits, and the largest weight of int8 on either side of 0.
MOST_LEVELS, MOST_WEIGHT = 255, 127
#: Sums of two products that fit into 16 bits.
_MOST_SUM = 32767
#: Integers of a bias, at most: far enough below 2^31 for the sum that it is added to.
MOST_BIAS = 2.0**30


@dataclass(frozen=True)
class Integers:
    """A tensor of integers that stands for floats: step * (q - zero).

    Attributes:
        tensor: uint8.
        step: float32 constant of rank 0.
        zero: the integer of 0, a uint8 constant of rank 0.
        top: the largest integer, 1..255.
    """

    tensor: Tensor
    step: Tensor
    zero: Tensor
    top: int

    @property
    def unit(self) -> np.float32:
        """The step as a number."""
        return np.float32(values_of(self.step))


def safe_weight(top: int) -> int:
    """The largest weight of which two products with integers up to ``top`` fit into 16 bits."""
    return min(MOST_WEIGHT, _MOST_SUM // (2 * top))


def largest_weight(top: int, full: bool) -> int:
    """The largest weight of an operator that reads integers up to ``top``: safe, or of 8 bits."""
    return MOST_WEIGHT if full else safe_weight(top)


def weight_axis(node: Node) -> int:
    """The axis of a linear operator's weight that its output channels lie along."""
    if node.op == "ConvTranspose":
        return 1
    return 0 if node.op == "Conv" or node.attrs.get("transB", 0) else 1


def quantise_linear(
    graph: Graph, steps: Mapping[str, np.ndarray], full: bool = False
) -> PassResult:
    """Apply the rules above to the graph and its open bodies.

    Args:
        graph: a spiking network whose neurons are MultiThresholdFire, one threshold each.
        steps: of weights that are multiples of theirs, by the weight's name, float32 [O]; others
            are rounded here.
        full: weights are not limited to safe ones.
    """
    changes: list[str] = []
    for scope in [scope.graph for scope in scopes(graph) if not scope.closed]:
        writer = _Writer(scope, steps, full)
        for node in list(scope.nodes):
            writer.visit(node)
        changes += writer.changes
        changes += [f"in float: {n} {op}, {why}" for (op, why), n in writer.in_float.items()]
    tidy(graph)
    return PassResult(graph, changes)


class _Writer:
    def __init__(self, graph: Graph, steps: Mapping[str, np.ndarray], full: bool) -> None:
        self._graph, self._steps, self._full = graph, steps, full
        self._integers: dict[int, Integers] = {}
        self._constants: dict[str, Tensor] = {}
        self.changes: list[str] = []
        self.in_float: dict[tuple[str, str], int] = {}

    def visit(self, node: Node) -> None:
        """Write a node; those before it are."""
        if node.domain == DOMAIN and node.op == MULTI_THRESHOLD_FIRE.name:
            self._fire(node)
        elif moves_integers(node) and self._holds_integers(moved(node)[0]):
            self._move(node)
        elif multiplies(node) and self._holds_integers(node.inputs[0]):
            self._multiply(node)
            if node.op == "ConvTranspose":
                self._list(node, "no kernel adds up its integers")
        elif _is_embedding(node):
            self._embed(node)
        elif not self._is_computed_on_integers(node):
            self._list(node, _why_in_float(node))

    def _list(self, node: Node, why: str) -> None:
        """Rule 6."""
        if why and any(output.dtype == np.float32 for output in node.outputs):
            self.changes.append(f"{node.op} {node.name}: in float, {why}")
            self.in_float[node.op, why] = self.in_float.get((node.op, why), 0) + 1

    def _is_computed_on_integers(self, node: Node) -> bool:
        computed = standard(node).bytes is Bytes.COMPUTED
        return computed and all(map(self._holds_integers, node.inputs))

    def _holds_integers(self, tensor: Tensor) -> bool:
        return id(tensor) in self._integers

    def _fire(self, node: Node) -> None:
        """Rule 1."""
        x, output = node.inputs[0], node.outputs[0]
        below, above = (int(node.attrs.get(f"levels_{sign}", 0)) for sign in ("neg", "pos"))
        step = np.float32(values_of(node.inputs[1]).reshape(()))
        node.outputs.clear()
        k = self._new(output)
        parameters = (
            self._constant(f"{k.name}.step", step),
            self._shared(np.uint8(below), f"zero.{below}"),
        )
        q = Integers(k, *parameters, below + above)
        fired = k if q.top == MOST_LEVELS else self._new(output)
        last = add_node(self._graph, "QuantizeLinear", node.name, [x, *parameters], fired)
        if q.top != MOST_LEVELS:
            name = unique_name(self._graph, f"{node.name}.top")
            most = self._shared(np.uint8(q.top), f"top.{q.top}")
            add_node(self._graph, "Min", name, [fired, most], q.tensor)
        inherit(last, node)
        self._dequantise(q, output)

    def _move(self, node: Node) -> None:
        """Rule 2."""
        source = self._integers[id(moved(node)[0])]
        if self._is_padding(node):
            return
        node.inputs[0] = source.tensor
        if node.op == "Pad" and str(node.attrs.get("mode", "constant")) == "constant":
            if len(node.inputs) > 2:
                node.inputs[2] = source.zero
            else:
                node.inputs.append(source.zero)
        for position, output in enumerate(list(node.outputs)):
            result = self._new(output)
            node.outputs[position] = result
            self._dequantise(Integers(result, source.step, source.zero, source.top), output)

    def _embed(self, node: Node) -> None:
        """Rule 5."""
        table, indices, output = *node.inputs, node.outputs[0]
        self._list(node, "its table alone is of integers")
        values = values_of(table).astype(np.float64)
        step = weight_steps(values, MOST_WEIGHT, np.zeros(1))
        integers = np.rint(values / step.astype(np.float64)[:, None]).astype(np.int8)
        node.outputs.clear()

        def gathered(name: str, rows: np.ndarray) -> Tensor:
            result = variable(unique_name(self._graph, f"{name}.rows"))
            held = self._constant(name, rows)
            add_node(self._graph, "Gather", result.name, [held, indices], result, {"axis": 0})
            return result

        counts = variable(unique_name(self._graph, "w.float"), output)
        cast = {"to": int(TensorProto.FLOAT)}
        add_node(self._graph, "Cast", counts.name, [gathered("w", integers)], counts, cast)
        steps = gathered("w.step", step[:, None])
        inherit(add_node(self._graph, "Mul", node.name, [counts, steps], output), node)

    def _is_padding(self, node: Node) -> bool:
        """Whether a Pad went into the convolutions behind it."""
        if node.op != "Pad" or str(node.attrs.get("mode", "constant")) != "constant":
            return False
        x, output = node.inputs[0], node.outputs[0]
        rank = rank_of(x)
        if rank is None or optional_input(node, 3) is not None:
            return False
        if not is_constant(node.inputs[1]) or output in self._graph.outputs:
            return False
        pads = node.inputs[1].values.reshape(2, -1)
        readers = list(output.outputs)
        if pads.shape[1] != rank or np.any(pads[:, :2]) or np.any(pads < 0):
            return False
        if not readers or not all(_takes_padding(reader, output) for reader in readers):
            return False
        for reader in {id(reader): reader for reader in readers}.values():
            own = reader.attrs.get("pads") or [0] * (2 * (rank - 2))
            total = np.array(own) + pads[:, 2:].reshape(-1)
            reader.attrs["pads"] = [int(value) for value in total]
        redirect(readers, output, x)
        return True

    def _multiply(self, node: Node) -> None:
        """Rule 3."""
        if node.op == "MatMul" and rank_of(node.inputs[0]) == 2:
            node = self._as_gemm(node)
        read, weight, axis = self._integers[id(node.inputs[0])], node.inputs[1], weight_axis(node)
        bias = optional_input(node, 2)
        outputs = width(node)
        if bias is not None and not (is_constant(bias) and bias.values.size in (1, outputs)):
            self._list(node, "its bias is no constant per output channel")
            return
        offset = np.zeros(outputs)
        if bias is not None:
            offset = values_of(bias).astype(np.float64).reshape(-1)
        values = rows_of(values_of(weight), axis).astype(np.float64)
        step = self._steps.get(weight.name)
        if step is None:
            most = largest_weight(read.top, self._full)
            # The bias of a ConvTranspose with groups has a row of values for each of them.
            largest = (
                np.abs(np.broadcast_to(offset, [outputs])).reshape(-1, len(values)).max(axis=0)
            )
            step = weight_steps(values, most, largest / float(read.unit))
        rounded = np.rint(values / step.astype(np.float64)[:, None])
        shape = np.moveaxis(values_of(weight), axis, 0).shape
        integers = np.moveaxis(rounded.reshape(shape), 0, axis).astype(np.int8)
        node.inputs[1] = self._parameter("w", integers, step, axis)
        if bias is not None:
            unit = np.tile(step * read.unit, outputs // len(step))
            counts = np.rint(np.broadcast_to(offset, [outputs]) / unit)
            node.inputs[2] = self._parameter("b", counts.astype(np.int32), unit, 0)

    def _as_gemm(self, node: Node) -> Node:
        """A MatMul with the bias behind it, where there is one, as one operator."""
        found = bias_add(self._graph, node)
        if found is None:
            return node
        add, position = found
        inputs, output = [*node.inputs, add.inputs[position]], add.outputs[0]
        add.outputs.clear()
        gemm = add_node(self._graph, "Gemm", node.name, inputs, output)
        inherit(gemm, node)
        return gemm

    def _parameter(self, name: str, integers: np.ndarray, step: np.ndarray, axis: int) -> Tensor:
        q = self._constant(name, integers)
        inputs = [q, self._constant(f"{q.name}.step", step)]
        if integers.dtype == np.int8:  # a zero point may be left out, but not every kernel is found
            inputs.append(self._shared(np.zeros(step.shape, np.int8), f"zeros.{step.size}"))
        result = variable(unique_name(self._graph, f"{q.name}.float"))
        result.dtype, result.shape = np.dtype(np.float32), integers.shape
        add_node(self._graph, "DequantizeLinear", result.name, inputs, result, {"axis": axis})
        return result

    def _dequantise(self, q: Integers, output: Tensor) -> None:
        """Let ``output`` hold what the integers stand for."""
        output.inputs.clear()
        self._integers[id(output)] = q
        name = unique_name(self._graph, f"{q.tensor.name}.float")
        add_node(self._graph, "DequantizeLinear", name, [q.tensor, q.step, q.zero], output)

    def _shared(self, values: np.ndarray | np.uint8, name: str) -> Tensor:
        """A constant that is the same wherever it is used."""
        if name not in self._constants:
            self._constants[name] = self._constant(name, values)
        return self._constants[name]

    def _constant(self, name: str, values: np.ndarray | np.uint8 | np.float32) -> Tensor:
        return constant(unique_name(self._graph, name), np.asarray(values))

    def _new(self, like: Tensor) -> Tensor:
        made = variable(unique_name(self._graph, "k"), like)
        made.dtype = np.dtype(np.uint8)
        return made


def _takes_padding(node: Node, x: Tensor) -> bool:
    """Whether a node is a Conv of x with explicit padding."""
    explicit = node.attrs.get("auto_pad", "NOTSET") == "NOTSET"
    return node.op == "Conv" and is_standard(node) and node.inputs[0] is x and explicit


def _is_embedding(node: Node) -> bool:
    if node.op != "Gather" or not is_standard(node) or node.attrs.get("axis", 0) != 0:
        return False
    table, indices = node.inputs
    if not is_constant(table) or is_constant(indices):
        return False
    return bool(table.values.dtype == np.float32 and table.values.ndim == 2)


def _why_in_float(node: Node) -> str:
    """Of an operator that no kernel of integers computes; empty where it has no arithmetic."""
    role = properties(node.op).role
    if role is Role.ACTIVATION:
        return "what it gives is not linear on either side of 0 with one step"
    if role is Role.NORMALISATION:
        return "no kernel normalises integers"
    if role is Role.RECURRENT:
        return "its state is in float"
    if role is Role.LINEAR:
        return "what it multiplies is no constant of float32, or not of integers"
    if is_arithmetic(node) or not is_standard(node):
        return "what it reads is in float"
    return ""


def rows_of(weight: np.ndarray, axis: int) -> np.ndarray:
    """A weight as [O, weights of an output channel]."""
    return np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)


def weight_steps(rows: np.ndarray, most: int, offset: np.ndarray) -> np.ndarray:
    """A step per output channel with which weights become integers up to ``most``: float32 [O].

    Args:
        rows: [O, n], the weights.
        most: 1..127.
        offset: of the bias, in units of the input's step, [O] or one for all: times the step it
            has to fit into 32 bits.
    """
    step = np.maximum(np.abs(rows).max(axis=1, initial=0.0) / most, offset / MOST_BIAS)
    return np.where(step > 0, np.maximum(step, np.finfo(np.float32).tiny), 1.0).astype(np.float32)
