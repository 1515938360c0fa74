"""Coverage: what became of every activation and every linear operator, and of the arithmetic.

One line each:

- activation: *converted* (it is a neuron), *shortcut* (a copy of one that is a neuron; it carries
  the membrane potential past the linear operators), *encoded* (over several timesteps: it stays in
  float, and linear operators read the neuron that follows it), or *kept*, with the reason.
  A curve, element-wise operators that read one tensor, counts as an activation if it is not affine
  and a linear operator reads it, under the name of its last operator: *kept*.
- Softmax, normalisation: *encoded* (it stays in float; linear operators read its output as spikes),
  or *kept*: no linear operator reads it. So are curves that are part of one.
- floor or curve of preprocessing (``keep_preprocessing.py``): *kept*.
- recurrent layer: *kept*.
- linear operator: *converted* (everything it reads are spikes of activations), *encoded* (it reads
  the spikes of an encoder) or *kept*: an operand is analog, with the reason.

Multiply-accumulates are those of one sample, whose shapes a run tells (``probe.py``). Operators in
bodies that are left alone or were not taken count as unknown and are left out of the share.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto, NodeProto

from ...passes.analysis.activations import (
    Activation,
    Kept,
    is_activation,
    is_shortcut,
    why_kept,
)
from ...passes.analysis.curves import RemainingCurve, remaining_curves
from ...passes.analysis.edges import Carries, EdgeAnalysis
from ...passes.analysis.operators import Role, is_linear, properties, signal_inputs
from ...passes.graph.graph import (
    Graph,
    Node,
    Tensor,
    is_constant,
    readers_behind,
    scopes,
    type_name,
)
from ...passes.graph.protos import nodes_below
from ...passes.neurons.keep_activations import FOLLOWED
from ...passes.neurons.keep_preprocessing import is_preprocessing

Shapes = Mapping[str, tuple[int, ...]]

CONVERTED, ENCODED, SHORTCUT, KEPT = "converted", "encoded", "shortcut", "kept"

_OWN_INPUT = "reads the network's own input; --encode-input encodes it"


@dataclass
class CoverageLine:
    """What became of one operator.

    Attributes:
        name: node name.
        op: operator type.
        kind: "activation", "preprocessing", "normalisation", "recurrent" or "linear".
        status: "converted", "encoded", "shortcut" or "kept".
        reason: why it was not converted; empty where it was.
        location: where it is in the source: file and line if the exporter says so, and position.
        macs: multiply-accumulates of one sample for a linear operator; None if unknown.
    """

    name: str
    op: str
    kind: str
    status: str
    reason: str
    location: str
    macs: int | None = None


@dataclass
class Coverage:
    """Coverage of a network.

    Attributes:
        lines: one per activation, curve, normalisation, recurrent layer and linear operator.
        counts: number of lines by "kind status".
        macs: multiply-accumulates of one sample, of all linear operators where they are known.
        spiking_macs: those whose operands are all spikes (or constants).
        unknown_macs: number of linear operators left out.
        fan_out: by the output of each activation that becomes a neuron, with how many weights one
            of its spikes is multiplied, on average; 0 where that is not known.
    """

    lines: list[CoverageLine] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    macs: int = 0
    spiking_macs: int = 0
    unknown_macs: int = 0
    fan_out: dict[str, float] = field(default_factory=dict)

    @property
    def spiking_share(self) -> float | None:
        """Share of multiply-accumulates that receive spikes; None where there are none."""
        return self.spiking_macs / self.macs if self.macs else None

    def kept_activations(self) -> list[CoverageLine]:
        """Everything nonlinear that stays and feeds no neuron."""
        listed = [line for line in self.lines if line.kind not in ("linear", "preprocessing")]
        return [line for line in listed if line.status == KEPT]


def measure_coverage(
    graph: Graph,
    activations: list[Activation],
    kept: list[Kept],
    source: ModelProto,
    shapes: Shapes,
) -> Coverage:
    """Coverage of a graph whose encoders are in place.

    Args:
        graph: the canonical graph with its encoders.
        activations: what becomes a neuron.
        kept: activations that do not.
        source: the model as it was read, for locations.
        shapes: those of :func:`linear_tensors` in a run of one sample, where they are known.
    """
    locations = _locations(source)
    fired = {activation.output for activation in activations}
    encoders = {activation.output for activation in activations if activation.encodes}
    reasons = {(item.name, item.op): item.reason for item in kept}
    analysis = EdgeAnalysis(graph, fired)
    curves = {id(one.curve.last): one for one in remaining_curves(graph)}
    coverage = Coverage(fan_out=dict.fromkeys(fired, 0.0))
    for scope in scopes(graph):
        for node in scope.graph.nodes:
            status = _status(node, analysis, fired, encoders, reasons, scope.closed)
            if id(node) in curves:
                status = _status_of_curve(curves[id(node)], analysis, encoders, scope.closed)
            if status is None:
                continue
            kind, verdict, reason = status
            line = CoverageLine(
                node.name, node.op, kind, verdict, reason, locations.get(node.name, "")
            )
            if kind == "linear":
                line.macs = _macs(node, shapes)
                _add_macs(coverage, line)
                _add_fan_out(coverage, line, node, analysis, shapes)
            coverage.lines.append(line)
            key = f"{kind} {verdict}"
            coverage.counts[key] = coverage.counts.get(key, 0) + 1
    coverage.lines += [
        CoverageLine(item.name, item.op, "activation", KEPT, item.reason, "")
        for item in kept
        if item.reason.startswith("inside the function")
    ]
    return coverage


def _add_macs(coverage: Coverage, line: CoverageLine) -> None:
    if line.macs is None:
        coverage.unknown_macs += 1
        return
    coverage.macs += line.macs
    if line.status != KEPT:
        coverage.spiking_macs += line.macs


def _add_fan_out(
    coverage: Coverage, line: CoverageLine, node: Node, analysis: EdgeAnalysis, shapes: Shapes
) -> None:
    """Of the neurons whose spikes a linear operator reads: each value enters as many products."""
    for tensor in _operands(node):
        if line.macs and analysis.of(tensor) is Carries.SPIKES and tensor.name in shapes:
            each = line.macs / math.prod(shapes[tensor.name])
            for source in _sources(tensor):
                if source.name in coverage.fan_out:
                    coverage.fan_out[source.name] += each


def _status(
    node: Node,
    analysis: EdgeAnalysis,
    fired: set[str],
    encoders: set[str],
    reasons: dict[tuple[str, str], str],
    closed: str,
) -> tuple[str, str, str] | None:
    """Kind, status and reason of a node that has a line."""
    if is_activation(node):
        if is_shortcut(node):
            return "activation", SHORTCUT, "carries the membrane potential past linear operators"
        if node.outputs[0].name in fired:
            return "activation", CONVERTED, ""
        if is_preprocessing(node):
            return "preprocessing", KEPT, why_kept(node)
        reason = reasons.get((node.name, node.op), "")
        followed = reason in FOLLOWED and _is_encoded(node, encoders)
        return "activation", ENCODED if followed else KEPT, reason
    if properties(node.op).role is Role.RECURRENT:
        return "recurrent", KEPT, closed or "a recurrent layer; its gates stay analog"
    if _normalises(node) and node.outputs:
        if _is_encoded(node, encoders):
            return "normalisation", ENCODED, ""
        return "normalisation", KEPT, closed or "stays in float; no linear operator reads it"
    if not is_linear(node):
        return None
    operands = _operands(node)
    carried = {analysis.of(tensor) for tensor in operands}
    if carried <= {Carries.CONSTANT}:
        return "linear", KEPT, "computed from constants alone"
    if closed:
        return "linear", KEPT, closed
    if why_kept(node) and carried & {Carries.INPUT, Carries.ANALOG}:
        return "linear", KEPT, why_kept(node)
    if Carries.INPUT in carried:
        return "linear", KEPT, _OWN_INPUT
    if Carries.ANALOG in carried:
        wrong = [t for t in operands if analysis.of(t) == Carries.ANALOG]
        types = sorted({type_name(tensor) for tensor in wrong})
        analog = f"reads analog values of type {', '.join(types)}"
        return "linear", KEPT, analog if types != ["float32"] else "reads analog values"
    encoded = any(one.name in encoders for tensor in operands for one in _sources(tensor))
    return "linear", ENCODED if encoded else CONVERTED, ""


def _status_of_curve(
    remaining: RemainingCurve, analysis: EdgeAnalysis, encoders: set[str], closed: str
) -> tuple[str, str, str] | None:
    curve = remaining.curve
    fixed = [node for node in curve.nodes if is_preprocessing(node)]
    if fixed:
        return "preprocessing", KEPT, why_kept(fixed[0])
    if analysis.of(curve.source) is Carries.CONSTANT:
        return None
    if remaining.normalises:
        if not closed and _is_encoded(curve.last, encoders):
            return "normalisation", ENCODED, ""
        return "normalisation", KEPT, closed or "part of a normalisation; stays in float"
    ops = ", ".join(dict.fromkeys(node.op for node in curve.nodes))
    reason = f"a function of one value ({ops}) that is no known activation; stays in float"
    return "activation", KEPT, closed or reason


def _is_encoded(node: Node, encoders: set[str]) -> bool:
    """Whether an encoder reads it, directly or through nodes that move, shift and scale values."""
    return any(
        reader.outputs[0].name in encoders
        for reader in readers_behind(node.outputs[0], lambda n: not _is_own(n))
    )


def _is_own(node: Node) -> bool:
    return is_linear(node) or is_activation(node) or _normalises(node)


def _normalises(node: Node) -> bool:
    return properties(node.op).role is Role.NORMALISATION


def _operands(node: Node) -> list[Tensor]:
    """What a linear operator reads and that may carry a signal."""
    return [node.inputs[i] for i in signal_inputs(node) if i < len(node.inputs)]


def _sources(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor and what it is made of, back to activations and linear operators; each once."""
    seen: set[int] = set()
    pending = [tensor]
    while pending:
        current = pending.pop()
        if id(current) in seen or is_constant(current):
            continue
        seen.add(id(current))
        yield current
        if current.inputs and not (
            is_linear(current.inputs[0]) or is_activation(current.inputs[0])
        ):
            pending += list(current.inputs[0].inputs)


def _locations(model: ModelProto) -> dict[str, str]:
    """Where each node is in the source, by the name that it has after canonicalisation."""
    found: dict[str, str] = {}
    for position, node in enumerate(nodes_below(model.graph)):
        name = node.name or (f"{node.op_type}:{node.output[0]}" if node.output else "")
        line = _source_line(node)
        found.setdefault(name, f"node {position}, {line}" if line else f"node {position}")
    return found


def _source_line(node: NodeProto) -> str:
    """File and line that the exporter recorded in metadata or in the doc string."""
    texts = [p.value for p in node.metadata_props if p.key.endswith("stack_trace")]
    for text in (*texts, node.doc_string):
        places = re.findall(r'File "([^"\n]+)", line (\d+)', text) or re.findall(
            r"^(\S+\.py)[:(](\d+)", text, re.MULTILINE
        )
        if places:
            file, line = places[-1] if texts else places[0]
            return f"{file}:{line}"
    return ""


def linear_tensors(graph: Graph) -> list[str]:
    """What linear operators read and write, as far as a run shows it."""
    linear = [
        node
        for scope in scopes(graph)
        for node in scope.graph.nodes
        if not scope.closed and is_linear(node)
    ]
    tensors = [tensor for node in linear for tensor in (*node.inputs, node.outputs[0])]
    return [tensor.name for tensor in tensors if _is_observable(tensor)]


def _is_observable(tensor: Tensor) -> bool:
    return not is_constant(tensor) and not tensor.is_empty() and tensor.dtype == np.float32


def _macs(node: Node, shapes: Shapes) -> int | None:
    """Multiply-accumulates of a linear operator, borders counted as if they were not padding."""

    def shape(tensor: Tensor) -> Sequence[int]:
        return tensor.shape if is_constant(tensor) else shapes[tensor.name]

    try:
        first = shape(node.inputs[0])
        if node.op == "Conv":
            return math.prod(shape(node.outputs[0])) * math.prod(shape(node.inputs[1])[1:])
        if node.op == "ConvTranspose":
            return math.prod(first) * math.prod(shape(node.inputs[1])[1:])
        if node.op == "Gemm":
            inner = first[0 if node.attrs.get("transA", 0) else 1]
            return math.prod(shape(node.outputs[0])) * inner
        if node.op == "MatMul":
            return math.prod(shape(node.outputs[0])) * first[-1]
        return _einsum_macs(str(node.attrs["equation"]), [shape(t) for t in node.inputs])
    except (KeyError, IndexError):
        return None


def _einsum_macs(equation: str, shapes: Sequence[Sequence[int]]) -> int | None:
    """Product of the lengths of all labels; None for equations with an ellipsis."""
    if "." in equation:
        return None
    lengths: dict[str, int] = {}
    terms = equation.replace(" ", "").split("->")[0].split(",")
    for term, shape in zip(terms, shapes, strict=True):
        lengths.update(zip(term, shape, strict=True))
    return math.prod(lengths.values())
