"""What of a network is preprocessing: a fixed front end up to a logarithm.

Networks for sound compute their spectrogram themselves: windows and a Fourier transform (as Conv,
MatMul, DFT or STFT), squares, a filter bank, a floor, then Log, decibels or another compression.
Encoders in there would keep the squared error of waveform and energies small, and lose the quiet
bands that the logarithm shows.

1. A tensor has a degree d where it is made from the network's inputs without a neuron, by operators
   of which f(a x) = a^d f(x) for a > 0, constants that are added left aside: linear operators with
   constant weights, sums, products, powers, norms, the largest of several, floors, Loops and Scans
   of these, and what only moves values. Inputs have d = 1. Exp of a multiple of a Log is a power.
2. A compression is a Log, or a power that leaves a degree below 1 (cube roots, PCEN).
3. Preprocessing are linear operators that read a tensor with a degree, where all that is made of
   what they give ends in compressions, and a linear operator or an activation comes behind one of
   these; and all operators between them, the compressions included.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..graph.graph import Graph, Node, Tensor, bodies, is_constant, is_standard, optional_input
from .activations import find_activations, is_activation
from .edges import Carries, EdgeAnalysis
from .operators import Inputs, Role, is_linear, moves_values, standard


@dataclass(frozen=True)
class Preprocessing:
    """What of a graph is preprocessing.

    Attributes:
        nodes: the operators, each with a compression behind it, which may be itself.
        degrees: of the tensors of rule 1, by id.
    """

    nodes: list[tuple[Node, Node]] = field(default_factory=list)
    degrees: dict[int, float] = field(default_factory=dict)


def find_preprocessing(graph: Graph) -> Preprocessing:
    """Apply the rules above to the main graph of a canonical model."""
    degrees = _Degrees(graph)
    ends = _Ends(graph, degrees)
    found = Preprocessing(degrees=degrees.of_tensors)
    between: set[int] = set()
    for node in graph.nodes:
        if id(node) in between and ends.compresses(node):
            found.nodes.append((node, node))
        elif degrees.has(node) and (is_linear(node) or id(node) in between):
            compression = ends.behind(node)
            if compression is not None and _is_followed(compression):
                found.nodes.append((node, compression))
                between |= {id(reader) for tensor in node.outputs for reader in tensor.outputs}
    return found


def is_floor(node: Node) -> bool:
    """Whether it is a Clip whose one bound is a constant above 0, from below."""
    low, high = optional_input(node, 1), optional_input(node, 2)
    if node.op != "Clip" or not is_standard(node) or low is None or not is_constant(low):
        return False
    largest = np.finfo(np.float32).max
    unbounded = high is None or (is_constant(high) and bool(np.all(high.values >= largest)))
    return unbounded and bool(np.all(low.values > 0))


class _Degrees:
    """Rule 1.

    Attributes:
        of_tensors: the degrees, by id.
        edges: what the tensors carry.
    """

    def __init__(self, graph: Graph) -> None:
        self._fired = {activation.output for activation in find_activations(graph)[0]}
        self.edges = EdgeAnalysis(graph, self._fired)
        self.of_tensors: dict[int, float] = {id(tensor): 1.0 for tensor in graph.inputs}
        self._of_logs: dict[int, float] = {}
        self._nodes: set[int] = set()
        for node in graph.nodes:
            degree = self._made(node)
            if degree is not None:
                self._nodes.add(id(node))
                self.of_tensors |= {id(tensor): degree for tensor in node.outputs}

    def has(self, node: Node) -> bool:
        """Whether what a node makes has a degree."""
        return id(node) in self._nodes

    def _made(self, node: Node) -> float | None:
        if not is_standard(node):
            return None
        if is_activation(node) and not (is_floor(node) or self._is_kept(node)):
            return None
        signals = [t for t in node.inputs if self.edges.of(t) != Carries.CONSTANT]
        if len(signals) == 1 and self._of_log(node, signals[0]):
            return self._of_logs[id(signals[0])] if node.op == "Exp" else None
        known = [self.of_tensors[id(t)] for t in signals if id(t) in self.of_tensors]
        if not known or len(known) < len(signals):
            return None
        if bodies(node):
            return max(known) if all(_is_plain(body) for body in bodies(node)) else None
        return self._of_operator(node, known)

    def _of_operator(self, node: Node, known: list[float]) -> float | None:
        what = standard(node)
        if node.op == "Mul":
            return sum(known)
        if node.op in ("Div", "Pow"):
            return self._quotient_or_power(node)
        if what.power is not None:
            return what.power * max(known)
        if is_linear(node) or is_activation(node):
            return known[0] if len(known) == 1 else None
        if moves_values(node) or what.affine in (Inputs.FIRST, Inputs.ALL):
            return max(known)
        return None

    def _quotient_or_power(self, node: Node) -> float | None:
        first, second = (self.of_tensors.get(id(tensor), 0.0) for tensor in node.inputs)
        if node.op == "Div":
            return first - second
        exponent = _number(node.inputs[1])
        return None if exponent is None else first * exponent

    def _of_log(self, node: Node, signal: Tensor) -> bool:
        """Whether a node reads a multiple of a Log; what it makes of it is one too, or a power."""
        if node.op == "Log" and id(signal) in self.of_tensors:
            self._of_logs[id(node.outputs[0])] = self.of_tensors[id(signal)]
            return False
        slope = self._of_logs.get(id(signal))
        if slope is None:
            return False
        others = [_number(t) for t in node.inputs if t is not signal]
        if node.op in ("Mul", "Div"):
            factor = others[0] if len(others) == 1 else None
            if not factor or (node.inputs[0] is not signal and node.op == "Div"):
                return True
            slope *= factor if node.op == "Mul" else 1 / factor
        elif node.op == "Neg" or (node.op == "Sub" and node.inputs[0] is not signal):
            slope = -slope
        elif not moves_values(node) and standard(node).affine is not Inputs.ALL:
            return True
        self._of_logs[id(node.outputs[0])] = slope
        return True

    def _is_kept(self, node: Node) -> bool:
        """Whether it bounds values and is no neuron, as in front of a Log."""
        return node.op in ("Clip", "Relu") and node.outputs[0].name not in self._fired


class _Ends:
    """Rules 2 and 3: where all that is made of a tensor ends."""

    def __init__(self, graph: Graph, degrees: _Degrees) -> None:
        self._degrees = degrees
        self._outputs = {id(tensor) for tensor in graph.outputs}
        self._known: dict[int, Node | None] = {}

    def behind(self, node: Node) -> Node | None:
        """A compression, if all that is made of what the node gives ends in one."""
        if id(node) not in self._known:
            self._known[id(node)] = self._behind(node)
        return self._known[id(node)]

    def _behind(self, node: Node) -> Node | None:
        found = None
        for reader in (reader for tensor in node.outputs for reader in tensor.outputs):
            if all(self._degrees.edges.of(t) == Carries.CONSTANT for t in reader.outputs):
                continue  # it reads the shape
            if self.compresses(reader):
                end: Node | None = reader
            else:
                end = self.behind(reader) if self._degrees.has(reader) else None
            if end is None:
                return None
            found = found or end
        returned = any(id(tensor) in self._outputs for tensor in node.outputs)
        return None if returned else found

    def compresses(self, node: Node) -> bool:
        """Rule 2."""
        if node.op in ("Log", "ReduceLogSum"):
            return is_standard(node)
        if node.op not in ("Pow", "Sqrt") or not self._degrees.has(node):
            return False
        return self._degrees.of_tensors[id(node.outputs[0])] < 1


def _is_followed(node: Node) -> bool:
    """Whether a linear operator or an activation comes behind a node."""
    seen: set[int] = set()
    pending = [node]
    while pending:
        for reader in (reader for tensor in pending.pop().outputs for reader in tensor.outputs):
            if is_linear(reader) or is_activation(reader):
                return True
            if id(reader) not in seen:
                seen.add(id(reader))
                pending.append(reader)
    return False


def _is_plain(body: Graph) -> bool:
    """Whether a body has neither activations nor layers of its own."""
    roles = (Role.NORMALISATION, Role.RECURRENT, Role.LINEAR)
    return not any(
        is_activation(node) or bodies(node) or standard(node).role in roles for node in body.nodes
    )


def _number(tensor: Tensor) -> float | None:
    """The one value of a constant."""
    if not is_constant(tensor) or tensor.values.size == 0:
        return None
    low, high = float(tensor.values.min()), float(tensor.values.max())
    return low if low == high else None
