"""Insert quantisation after every activation that becomes a neuron: the quantised ANN.

In standard operators only, so that any runtime shows what spiking will do to the network.

1. Relu, Clip, encoders that never fire below 0: with act the activation, Relu for an encoder and
   where theta is folded into the layers around it,
       y = theta * Clip(Floor(act(x) / theta + v0), 0, N+)
2. Encoders that fire below 0, in one neuron:
       y = theta * (Clip(Floor(Relu( x) / theta + v0), 0, N+)
                  - Clip(Floor(Relu(-x) / theta + v0), 0, N-))
3. LeakyRelu, PRelu (slope a) in two neurons, each a chain, or each as in rule 4 or 5:
       positive = theta+ * Clip(Floor(Relu( x) / theta+ + v0), 0, N+)
       negative = -(theta- * Clip(Floor(Relu(-x) / theta- + v0), 0, N-))
       y = positive + a * negative
   For a = 0 channels the negative neuron contributes nothing, whatever its threshold.
4. Octave neurons: y = f(x), linear on either side of 0, becomes the chain of ``octave_chain.py``,
   which clips x itself.
5. Staircase neurons: y = f(x) becomes a staircase of x, the chain of ``staircase_chain.py``.
   Nothing of f is left.

The tensor name of y is kept. The Mul that ends a chain carries the provenance of the neuron:
source node, operator, calibrator and why it was taken, theta or scale, polarity, expected error
and, of a threshold, clip rate. Control-flow bodies are rewritten where :func:`graph.scopes` says
they may be.

Precondition: for Clip, theta is at most a N-th of the upper bound.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..analysis.activations import is_encoder, op_of
from ..graph.graph import (
    METADATA_PREFIX,
    Graph,
    Node,
    PassResult,
    Tensor,
    inherit,
    metadata,
    scopes,
    tidy,
    unique_name,
)
from ..graph.surgeon import add_node, constant, variable
from .chain import Chain
from .neuron import (
    DualNeuron,
    Neuron,
    OctaveNeuron,
    StaircaseNeuron,
    ThresholdNeuron,
    describe_range,
)
from .octave_chain import OctaveChain, emit_octave
from .staircase_chain import StaircaseChain, emit_staircase

#: Polarity of a chain that is the only one of its activation.
WHOLE = "whole"


def insert_quant_clip(graph: Graph, neurons: Mapping[str, Neuron]) -> PassResult:
    """Quantise the output of every activation that has a neuron.

    Args:
        graph: see the precondition above.
        neurons: calibrated, by the activation's output tensor.
    """
    changes = []
    for scope in [scope.graph for scope in scopes(graph) if not scope.closed]:
        for node in list(scope.nodes):
            neuron = neurons.get(node.outputs[0].name) if node.outputs else None
            if neuron is None:
                continue
            match neuron:
                case DualNeuron():
                    _split_by_polarity(scope, node, neuron)
                case OctaveNeuron() | StaircaseNeuron():
                    _replace(scope, node, neuron)
                case ThresholdNeuron():
                    _quantise(scope, node, neuron)
            steps = " + ".join(str(part.level_count) for part in neuron.parts.values())
            changes.append(f"{op_of(node)} {node.name}: quantised to {steps} levels")
    tidy(graph)
    return PassResult(graph, changes)


def _replace(graph: Graph, node: Node, neuron: OctaveNeuron | StaircaseNeuron) -> None:
    """Rules 4 and 5."""
    x, output = node.inputs[0], node.outputs[0]
    node.outputs.clear()
    name = unique_name(graph, f"{node.name}.levels")
    _emit(graph, node, neuron, x, output, name, WHOLE)


def _emit(
    graph: Graph,
    source: Node,
    neuron: OctaveNeuron | StaircaseNeuron,
    x: Tensor,
    output: Tensor,
    name: str,
    polarity: str,
) -> None:
    """A chain of rule 4 or 5, the only one of its node or one of two."""
    if isinstance(neuron, OctaveNeuron):
        limits = neuron.linear, neuron.top_pos, neuron.top_neg
        last = emit_octave(graph, OctaveChain(x, neuron.scale, *limits, neuron.axis), output, name)
    else:
        grid = neuron.density, neuron.start, neuron.table
        last = emit_staircase(
            graph, StaircaseChain(x, neuron.scale, *grid, neuron.axis), output, name
        )
    inherit(last, source)
    found = {"scale": describe_range(neuron.scale)}
    if isinstance(neuron, OctaveNeuron) and neuron.folded is not None:
        found = {"scale": describe_range(neuron.folded), "folded": "into the layers around it"}
    _describe(last, source, neuron, polarity, found)


def _quantise(graph: Graph, node: Node, neuron: ThresholdNeuron) -> None:
    """Rules 1 and 2."""
    x, output = node.inputs[0], node.outputs[0]
    if neuron.levels_neg:
        node.outputs.clear()
        _append_signed_chain(graph, node, neuron, x, output)
        return
    analog = variable(unique_name(graph, f"{output.name}.analog"), output)
    if is_encoder(node) or neuron.folded is not None:
        node.outputs.clear()  # its name is free: tidy drops it
        add_node(graph, "Relu", node.name, [x], analog)
    else:
        node.outputs[0] = analog
    _append_chain(graph, node, neuron, "positive", analog, output)


def _split_by_polarity(graph: Graph, node: Node, neuron: DualNeuron) -> None:
    """Rule 3."""
    x, output = node.inputs[0], node.outputs[0]
    slope = node.inputs[1] if node.op == "PRelu" else _leaky_slope(graph, node)
    node.outputs.clear()

    def emit(op: str, what: str, *inputs: Tensor) -> Tensor:
        result = variable(unique_name(graph, f"{output.name}.{what}"), output)
        add_node(graph, op, unique_name(graph, f"{node.name}.{what}"), list(inputs), result)
        return result

    def side(polarity: str, member: Neuron) -> Tensor:
        result = variable(unique_name(graph, f"{output.name}.{polarity}"), output)
        if isinstance(member, (OctaveNeuron, StaircaseNeuron)):
            name = unique_name(graph, f"{node.name}.{polarity}_levels")
            _emit(graph, node, member, x, result, name, polarity)
            return result
        assert isinstance(member, ThresholdNeuron)
        potential = x if polarity == "positive" else emit("Neg", "mirrored", x)
        rectified = emit("Relu", f"{polarity}_analog", potential)
        _append_chain(graph, node, member, polarity, rectified, result)
        return result if polarity == "positive" else emit("Neg", "negative_spikes", result)

    excitatory = side("positive", neuron.positive)
    inhibitory = side("negative", neuron.negative)
    scaled = emit("Mul", "negative_scaled", inhibitory, slope)
    name = unique_name(graph, f"{node.name}.polarity_sum")
    total = add_node(graph, "Add", name, [excitatory, scaled], output)
    inherit(total, node)


def _leaky_slope(graph: Graph, node: Node) -> Tensor:
    alpha = np.array(node.attrs.get("alpha", 0.01), np.float32)
    return constant(unique_name(graph, f"{node.name}.slope"), alpha)


class _Counts:
    """Writes chains of one neuron, which share their threshold."""

    def __init__(self, graph: Graph, neuron: ThresholdNeuron, output: Tensor) -> None:
        self._chain, self._v0 = Chain(graph, output, output), neuron.v0
        theta = self._chain.aligned(neuron.theta, neuron.axis)
        self.theta = self._chain.constant("theta", theta)
        self.emit = self._chain.emit

    def count(self, analog: Tensor, levels: int) -> Tensor:
        """analog -> Div theta -> Add v0 -> Floor -> Clip(0, N)."""
        constant = self._chain.constant
        scaled = self.emit("Div", "scaled", analog, self.theta)
        charged = self.emit("Add", "charged", scaled, constant("v0", self._v0))
        fired = self.emit("Floor", "fired", charged)
        return self.emit("Clip", "count", fired, constant("zero", 0.0), constant("levels", levels))


def _append_chain(
    graph: Graph,
    source: Node,
    neuron: ThresholdNeuron,
    polarity: str,
    analog: Tensor,
    output: Tensor,
) -> None:
    """analog -> count -> Mul theta -> output."""
    chain = _Counts(graph, neuron, output)
    count = chain.count(analog, neuron.levels_neg or neuron.levels_pos)
    _end_chain(graph, source, neuron, polarity, [count, chain.theta], output)


def _append_signed_chain(
    graph: Graph, source: Node, neuron: ThresholdNeuron, x: Tensor, output: Tensor
) -> None:
    """Rule 2. The difference of the counts is +0 where neither side fires, as the neuron's is."""
    chain = _Counts(graph, neuron, output)
    excitatory = chain.count(chain.emit("Relu", "above", x), neuron.levels_pos)
    mirrored = chain.emit("Relu", "below", chain.emit("Neg", "mirrored", x))
    inhibitory = chain.count(mirrored, neuron.levels_neg)
    spikes = chain.emit("Sub", "spikes", excitatory, inhibitory)
    _end_chain(graph, source, neuron, "both", [spikes, chain.theta], output)


def _end_chain(
    graph: Graph,
    source: Node,
    neuron: ThresholdNeuron,
    polarity: str,
    factors: list[Tensor],
    output: Tensor,
) -> None:
    name = unique_name(graph, f"{source.name}.quant_{polarity}")
    last = add_node(graph, "Mul", name, factors, output)
    inherit(last, source)
    found = {"theta": describe_range(neuron.theta)}
    if neuron.folded is not None:
        found = {"theta": describe_range(neuron.folded), "folded": "into the layers around it"}
    found["clip_rate"] = f"{neuron.clip_rate:.6g}"
    _describe(last, source, neuron, polarity, found)


def _describe(
    last: Node, source: Node, neuron: Neuron, polarity: str, found: dict[str, str]
) -> None:
    provenance = {
        "source_node": source.name,
        "source_op": op_of(source),
        "calibrator": neuron.calibrator,
        "reason": neuron.reason,
        **found,
        "error": f"{neuron.error:.6g}",
        "polarity": polarity,
    }
    metadata(last).update(
        {METADATA_PREFIX + key: value for key, value in provenance.items() if value}
    )
