"""The operators of a network of integers, as runtimes find them (``quantise_linear.py``).

A tensor of integers q stands for step * (q - zero). DequantizeLinear says so, and an operator whose
operands are all of this kind is computed on the integers:

1. QuantizeLinear behind such an operator belongs to it, where it alone reads the output: its scale
   and zero point are those of the result. This holds for the operators of :data:`KERNELS`.
2. Gemm and MatMul have kernels that give floats too.
3. Any other QuantizeLinear has floats to round, and Min limits integers.

Operators of :data:`HIDDEN` between DequantizeLinear and QuantizeLinear become one kernel too, with
tables and approximations of its own. Its floats cannot be seen without taking it apart, and nothing
is said of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from ....passes.analysis.operators import OPERATORS, Bytes
from ....passes.graph.network import Network, constants_of
from ....passes.graph.protos import attributes_of, graphs_below, nodes_below
from ....passes.lowering.quantise_linear import MOST_LEVELS

#: Operators that, with QuantizeLinear behind them, become one kernel of integers.
KERNELS = frozenset(name for name, what in OPERATORS.items() if what.bytes is Bytes.COMPUTED)
HIDDEN = frozenset(name for name, what in OPERATORS.items() if what.bytes is Bytes.LOOKED_UP)

QUANTISE, LIMIT = "QuantizeLinear", "Min"
_DEQUANTISE = "DequantizeLinear"


@dataclass(frozen=True)
class Operand:
    """Integers that an operator reads.

    Attributes:
        tensor: its name.
        step: float32, of rank 0, or [O] of a weight or bias.
        zero: the integer of 0; of constants already taken off.
        top: the largest integer that there can be.
        values: of a constant, int32; else None.
        axis: of a constant, the one that ``step`` lies along.
    """

    tensor: str
    step: np.ndarray
    zero: int
    top: int
    values: np.ndarray | None = None
    axis: int = 0


@dataclass(frozen=True)
class IntegerOperator:
    """An operator that reads or gives integers.

    Attributes:
        node: the operator itself; QuantizeLinear or Min where there is no other.
        neuron: name of the QuantizeLinear whose integers these are; empty where floats come out.
        operands: one for each input, None where it is absent; of QuantizeLinear none.
        output: name of the tensor of integers or floats that comes out.
        step: of the integers; None where floats come out.
        zero: the integer of 0.
    """

    node: NodeProto
    neuron: str
    operands: tuple[Operand | None, ...]
    output: str
    step: np.float32 | None
    zero: int

    @property
    def kind(self) -> str:
        """The operator's type."""
        return self.node.op_type

    @property
    def present(self) -> list[Operand]:
        """The operands that are there."""
        return [operand for operand in self.operands if operand is not None]


@dataclass(frozen=True)
class WeightedOperator:
    """An operator with a weight of int8, computed on integers or not.

    Attributes:
        node: the operator.
        signal: what it multiplies.
        weight: constant.
        bias: constant, where there is one.
    """

    node: NodeProto
    signal: Operand
    weight: Operand
    bias: Operand | None


def integer_operators(network: Network) -> list[IntegerOperator]:
    """All of them in order, those in control-flow bodies included."""
    reader = _Reader(network)
    found = [reader.read(node) for node in nodes_below(network.proto.graph)]
    return [operator for operator in found if operator is not None]


def weighted_operators(network: Network) -> list[WeightedOperator]:
    """All of them, those in control-flow bodies included."""
    reader = _Reader(network)
    found = [reader.read_weighted(node) for node in nodes_below(network.proto.graph)]
    return [operator for operator in found if operator is not None]


class _Reader:
    def __init__(self, network: Network) -> None:
        nodes = list(nodes_below(network.proto.graph))
        self._constants = constants_of(network)
        self._writers = {name: node for node in nodes for name in node.output}
        graphs = list(graphs_below(network.proto.graph))
        reads = Counter(name for node in nodes for name in node.input)
        self._reads = reads + Counter(value.name for graph in graphs for value in graph.output)
        self._readers = {node.input[0]: node for node in nodes if node.op_type == QUANTISE}
        self._tops = _tops(nodes, self._constants)
        self._neurons: dict[str, tuple[str, np.float32, int]] = {}

    def read(self, node: NodeProto) -> IntegerOperator | None:
        """What a node is; those before it were asked for."""
        if node.op_type == QUANTISE:
            return self._quantise(node)
        if node.op_type == LIMIT and node.input[0] in self._neurons:
            return self._limit(node)
        if node.op_type not in ("Gemm", "MatMul") or self._quantiser(node) is not None:
            return None
        operands = self._operands(node)
        if operands is None:
            return None
        return IntegerOperator(node, "", operands, node.output[0], None, 0)

    def read_weighted(self, node: NodeProto) -> WeightedOperator | None:
        """A node with a weight of int8."""
        sources = [self._writers.get(name) for name in node.input]
        read = [s for s in sources if s is not None and s.op_type == _DEQUANTISE]
        if len(read) != len(sources) or len(read) < 2:
            return None
        weight = self._constants.get(read[1].input[0])
        if weight is None or weight.dtype != np.int8:
            return None
        signal, constant, *rest = (self._operand(source) for source in read)
        return WeightedOperator(node, signal, constant, rest[0] if rest else None)

    def _quantise(self, node: NodeProto) -> IntegerOperator | None:
        step, zero = np.float32(self._constants[node.input[1]]), int(self._constants[node.input[2]])
        output = node.output[0]
        self._neurons[output] = node.name, step, zero
        source = self._writers.get(node.input[0])
        if source is not None and self._quantiser(source) is node:
            operands = self._operands(source)
            if operands is not None and source.op_type in KERNELS | HIDDEN:
                return IntegerOperator(source, node.name, operands, output, step, zero)
        return IntegerOperator(node, node.name, (), output, step, zero)

    def _limit(self, node: NodeProto) -> IntegerOperator:
        name, step, zero = self._neurons[node.input[0]]
        top = int(self._constants[node.input[1]])
        operand = Operand(node.input[0], np.asarray(step), zero, top)
        return IntegerOperator(node, name, (operand,), node.output[0], step, zero)

    def _quantiser(self, node: NodeProto) -> NodeProto | None:
        """The QuantizeLinear that alone reads a node's output."""
        output = node.output[0]
        return self._readers.get(output) if self._reads[output] == 1 else None

    def _operands(self, node: NodeProto) -> tuple[Operand | None, ...] | None:
        found: list[Operand | None] = []
        for name in node.input:
            source = self._writers.get(name)
            if name and (source is None or source.op_type != _DEQUANTISE):
                return None
            found.append(None if source is None else self._operand(source))
        return tuple(found)

    def _operand(self, node: NodeProto) -> Operand:
        tensor, step = node.input[0], self._constants[node.input[1]]
        zero = self._constants[node.input[2]] if len(node.input) > 2 else np.asarray(0)
        values = self._constants.get(tensor)
        if values is None:
            return Operand(tensor, step, int(zero), self._tops.get(tensor, MOST_LEVELS))
        axis = int(attributes_of(node).get("axis", 1)) if step.ndim else 0
        shape = [-1 if step.ndim and i == axis else 1 for i in range(values.ndim)]
        centred = values.astype(np.int32) - zero.astype(np.int32).reshape(shape)
        top = int(values.max(initial=0))
        return Operand(tensor, step, 0, top, centred, axis)


def _tops(nodes: list[NodeProto], constants: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The largest integer of every tensor of uint8 that a neuron gave, wherever it was moved to."""
    tops: dict[str, int] = {}
    for node in nodes:
        if node.op_type == QUANTISE:
            top = MOST_LEVELS
        elif node.op_type == _DEQUANTISE or not node.input or node.input[0] not in tops:
            continue
        elif node.op_type == LIMIT:
            top = int(constants[node.input[1]])
        else:
            top = tops[node.input[0]]
        tops.update(dict.fromkeys(node.output, top))
    return tops
