"""What of a network in QONNX FINN can make hardware of, and why not of the rest.

1. A neuron (MultiThreshold, or Quant of a signal) gives integers of so many bits, and so does what
   moves them; times a constant they have a step.
2. Conv and MatMul are hardware where they read integers and their weight is Quant; what they give
   are sums of integers, with a constant added or multiplied by one as well. The same holds of a
   GlobalAveragePool of integers. A Conv that takes one channel for each gives integers again.
3. A sum of integers with one step is a sum of integers, one bit wider.
4. A neuron is hardware where it reads sums of integers; of Quant FINN makes thresholds up to 8
   bits, MultiThreshold may have more. The network's own input is in float: the
   neurons that read it are listed, and stay with the processor or get integers.

These rules say what FINN's conversion looks at, not that a network fits into a device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..analysis.operators import Role, moved, moves_values, standard
from ..graph.graph import Graph, Node, is_constant, is_standard, may_be_float, values_of
from .multi_threshold import MULTI_THRESHOLD, QONNX_DOMAIN, QUANT

#: Of the Quant that FINN converts, by default.
_MOST_BITS = 8


@dataclass(frozen=True)
class _Integers:
    """Integers, times a step where there is one."""

    bits: int
    step: float | None = None


@dataclass(frozen=True)
class _Sums:
    """Sums of integers times constants, at most one per channel."""


@dataclass(frozen=True)
class _Floats:
    """Anything else.

    Attributes:
        why: as a clause.
    """

    why: str


_Signal = _Integers | _Sums | _Floats
_READS = "it reads "
_INPUT = _READS + "the network's input, which is in float"


def hardware(graph: Graph) -> list[str]:
    """How many layers and neurons FINN can map, what it cannot by kind, and a line for each.

    Args:
        graph: what ``multi_threshold`` made, shapes inferred.
    """
    signals: dict[int, _Signal] = {id(tensor): _Floats(_INPUT) for tensor in graph.inputs}
    lines, mapped, all_ = [], 0, 0
    kinds: dict[str, int] = {}
    for node in graph.nodes:
        if all(is_constant(tensor) for tensor in node.inputs):
            continue
        signal, why = _of_node(node, signals)
        for output in node.outputs:
            signals[id(output)] = signal
        counted = _is_neuron(node) or standard(node).role is Role.LINEAR
        all_, mapped = all_ + counted, mapped + (counted and not why)
        if why:
            lines.append(f"{node.op} {node.name}: no hardware, {why}")
            inherited = why.startswith(_READS) and why != _INPUT
            kind = f"{node.op}, {'it reads what is in float' if inherited else why}"
            kinds[kind] = kinds.get(kind, 0) + 1
    first = f"hardware: {mapped} of {all_} layers and neurons can be, as FINN reads them"
    return [first, *(f"not hardware: {n} {kind}" for kind, n in kinds.items()), *lines]


def _of_node(node: Node, signals: dict[int, _Signal]) -> tuple[_Signal, str]:
    """What a node gives, and why it is no hardware itself; empty where it is, or needs none."""
    read = [signals.get(id(t), _Floats("")) for t in node.inputs if not is_constant(t)]
    first: _Signal = read[0] if read else _Floats("")
    if _is_neuron(node):
        bits = _bits(node)
        if node.op == QUANT and bits > _MOST_BITS:
            return _in_float(node), f"Quant of {bits} bits, more than {_MOST_BITS}"
        return _Integers(bits), first.why if isinstance(first, _Floats) else ""
    if node.domain == QONNX_DOMAIN:  # the weight's
        return first, ""
    if is_standard(node) and moves_values(node):
        inputs = [signals.get(id(t), _Floats("")) for t in moved(node) if not is_constant(t)]
        return _joined(inputs), ""
    if standard(node).role is Role.LINEAR:
        why = _why_no_product(node, first)
        given = first if _takes(node) else _Sums()
        return _in_float(node) if why else given, why
    if node.op == "GlobalAveragePool" and isinstance(first, _Integers):
        return _Sums(), ""
    if node.op in ("Mul", "Add") and len(read) == 1 and not isinstance(first, _Floats):
        return _by_constant(node, first), ""
    if node.op == "Add" and len(read) == 2 and all(isinstance(one, _Integers) for one in read):
        joined = _joined(read)
        if isinstance(joined, _Integers):
            return _Integers(joined.bits + 1, joined.step), ""
        return joined, "its operands have different steps"
    signal = _in_float(node)
    if not any(map(may_be_float, node.outputs)):
        return signal, ""  # a shape, an index
    inherited = [one.why for one in read if isinstance(one, _Floats)]
    return signal, inherited[0] if inherited and inherited[0] else "it has no layer in hardware"


def _in_float(node: Node) -> _Floats:
    return _Floats(f"{_READS}{node.op} {node.name}, which is in float")


def _is_neuron(node: Node) -> bool:
    if node.domain != QONNX_DOMAIN:
        return False
    return node.op == MULTI_THRESHOLD or (node.op == QUANT and not is_constant(node.inputs[0]))


def _bits(neuron: Node) -> int:
    if neuron.op == QUANT:
        return int(values_of(neuron.inputs[3]))
    digits = "".join(c for c in str(neuron.attrs["out_dtype"]) if c.isdigit())
    return int(digits or 1)


def _joined(signals: list[_Signal]) -> _Signal:
    """What several tensors hold together."""
    if not signals:
        return _Floats("")
    integers = [one for one in signals if isinstance(one, _Integers)]
    if len(integers) == len(signals) and len({one.step for one in integers}) == 1:
        return _Integers(max(one.bits for one in integers), integers[0].step)
    if len(signals) == 1:
        return signals[0]
    floats = [one for one in signals if isinstance(one, _Floats)]
    return floats[0] if floats else _Floats("different steps come in")


def _by_constant(node: Node, signal: _Signal) -> _Signal:
    """Integers or sums, times a constant or with one added."""
    constants = [values_of(tensor) for tensor in node.inputs if is_constant(tensor)]
    if node.op == "Mul" and isinstance(signal, _Integers) and constants[0].size == 1:
        step = float(np.float32(constants[0].item()) * np.float32(signal.step or 1))
        return _Integers(signal.bits, step)
    return _Sums()


def _why_no_product(node: Node, read: _Signal) -> str:
    """Why a linear operator is no hardware; empty where it is."""
    if node.op not in ("Conv", "MatMul"):
        return f"{node.op} has no layer in hardware"
    if isinstance(read, _Floats):
        return read.why or "floats come in"
    if not isinstance(read, _Integers):
        return "no neuron has quantised the sums that come in"
    weight = node.inputs[1]
    if is_constant(weight) or not any(_is_weight(maker) for maker in weight.inputs):
        return "what it multiplies is no constant weight"
    return ""


def _takes(node: Node) -> bool:
    """Whether each output channel of a Conv is one input channel, or zero."""
    makers = node.inputs[1].inputs if node.op == "Conv" else []
    if len(makers) != 1 or not _is_weight(makers[0]):
        return False
    weight, step = (values_of(tensor) for tensor in makers[0].inputs[:2])
    rows = np.abs(weight).reshape(len(weight), -1)
    return bool(np.all(step == 1) and np.isin(weight, (0, 1)).all() and rows.sum(axis=1).max() <= 1)


def _is_weight(node: Node) -> bool:
    return node.domain == QONNX_DOMAIN and node.op == QUANT and is_constant(node.inputs[0])
