"""Insert quantisation after every activation that becomes a neuron: the quantised ANN.

In standard operators only, so that any runtime shows what spiking will do to the network.

1. Relu, Clip:   y = act(x)   becomes   y = theta * Clip(Floor(act(x) / theta + v0), 0, N)
2. LeakyRelu, PRelu (slope a), split by polarity into two such chains:
       positive = theta+ * Clip(Floor(Relu( x) / theta+ + v0), 0, N)
       negative = theta- * Clip(Floor(Relu(-x) / theta- + v0), 0, N)
       y = positive + a * -negative
   For a = 0 channels the negative branch contributes nothing, whatever its threshold.
3. Every other activation, and every encoder: y = f(x) becomes a staircase of x, the chain of
   ``staircase.py``. Nothing of f is left.

The tensor name of y is kept. The Mul that ends a chain carries the provenance of the neuron:
source node, operator, calibrator, theta or scale, polarity, and clip rate or error. Control-flow
bodies are rewritten where :func:`graph.scopes` says they may be.

Precondition: ``context.neurons`` is filled; for Clip, theta is at most a N-th of the upper bound.
"""

from __future__ import annotations

import numpy as np

from .activations import op_of
from .graph import (
    METADATA_PREFIX,
    Graph,
    Node,
    PassResult,
    Tensor,
    add_node,
    constant,
    inherit,
    metadata,
    scopes,
    tidy,
    unique_name,
    variable,
)
from .neuron import V0, Branch, Neuron, PassContext, StaircaseNeuron, describe_range
from .staircase import Staircase, emit_staircase


def insert_quant_clip(graph: Graph, context: PassContext) -> PassResult:
    """Quantise the output of every activation in ``context.neurons``."""
    changes = []
    for scope in [scope.graph for scope in scopes(graph) if not scope.closed]:
        for node in list(scope.nodes):
            neuron = context.neurons.get(node.outputs[0].name) if node.outputs else None
            if neuron is None:
                continue
            if isinstance(neuron, StaircaseNeuron):
                _replace_by_staircase(scope, node, neuron)
                steps = len(neuron.thresholds)
            elif neuron.negative is None:
                _quantise(scope, node, neuron)
                steps = neuron.levels
            else:
                _split_by_polarity(scope, node, neuron, neuron.negative)
                steps = neuron.levels
            changes.append(f"{node.op} {node.name}: quantised to {steps} levels")
    tidy(graph)
    return PassResult(graph, changes)


def _replace_by_staircase(graph: Graph, node: Node, neuron: StaircaseNeuron) -> None:
    output = node.outputs[0]
    node.outputs.clear()
    staircase = Staircase(
        node.inputs[0], neuron.scale, neuron.thresholds, neuron.levels, neuron.axis
    )
    name = unique_name(graph, f"{node.name}.staircase")
    last = emit_staircase(graph, staircase, output, name)
    inherit(last, node)
    provenance = {
        "source_node": node.name,
        "source_op": op_of(node),
        "calibrator": neuron.calibrator,
        "scale": describe_range(neuron.scale),
        "error": f"{neuron.error:.6g}",
        "polarity": "staircase",
    }
    metadata(last).update({METADATA_PREFIX + key: value for key, value in provenance.items()})


def _quantise(graph: Graph, node: Node, neuron: Neuron) -> None:
    output = node.outputs[0]
    analog = variable(unique_name(graph, f"{output.name}.analog"), output)
    node.outputs[0] = analog
    _append_chain(graph, node, neuron, neuron.positive, "positive", analog, output)


def _split_by_polarity(graph: Graph, node: Node, neuron: Neuron, negative: Branch) -> None:
    x, output = node.inputs[0], node.outputs[0]
    slope = node.inputs[1] if node.op == "PRelu" else _leaky_slope(graph, node)
    node.outputs.clear()

    def emit(op: str, what: str, *inputs: Tensor) -> Tensor:
        result = variable(unique_name(graph, f"{output.name}.{what}"), output)
        add_node(graph, op, unique_name(graph, f"{node.name}.{what}"), list(inputs), result)
        return result

    excitatory = variable(unique_name(graph, f"{output.name}.positive"), output)
    inhibitory = variable(unique_name(graph, f"{output.name}.negative"), output)
    rectified = emit("Relu", "positive_analog", x)
    _append_chain(graph, node, neuron, neuron.positive, "positive", rectified, excitatory)
    mirrored = emit("Relu", "negative_analog", emit("Neg", "mirrored", x))
    _append_chain(graph, node, neuron, negative, "negative", mirrored, inhibitory)
    scaled = emit("Mul", "negative_scaled", emit("Neg", "negative_spikes", inhibitory), slope)
    name = unique_name(graph, f"{node.name}.polarity_sum")
    total = add_node(graph, "Add", name, [excitatory, scaled], output)
    inherit(total, node)


def _leaky_slope(graph: Graph, node: Node) -> Tensor:
    alpha = np.array(node.attrs.get("alpha", 0.01), np.float32)
    return constant(unique_name(graph, f"{node.name}.slope"), alpha)


def _append_chain(
    graph: Graph,
    source: Node,
    neuron: Neuron,
    branch: Branch,
    polarity: str,
    analog: Tensor,
    output: Tensor,
) -> None:
    """analog -> Div theta -> Add v0 -> Floor -> Clip(0, N) -> Mul theta -> output."""

    def scalar(what: str, value: float) -> Tensor:
        return constant(unique_name(graph, f"{output.name}.{what}"), np.array(value, np.float32))

    def emit(op: str, what: str, *inputs: Tensor) -> Tensor:
        result = variable(unique_name(graph, f"{output.name}.{what}"), output)
        add_node(graph, op, unique_name(graph, f"{output.name}.{op}"), list(inputs), result)
        return result

    shape = branch.theta.shape
    if shape:  # [C] broadcasts along the channel axis as [C, 1, ..., 1]
        shape = (shape[0], *[1] * (len(output.shape) - neuron.axis - 1))
    theta = constant(unique_name(graph, f"{output.name}.theta"), branch.theta.reshape(shape))
    scaled = emit("Div", "scaled", analog, theta)
    charged = emit("Add", "charged", scaled, scalar("v0", V0))
    fired = emit("Floor", "fired", charged)
    zero, levels = scalar("zero", 0.0), scalar("levels", neuron.levels)
    count = emit("Clip", "count", fired, zero, levels)
    name = unique_name(graph, f"{source.name}.quant_{polarity}")
    last = add_node(graph, "Mul", name, [count, theta], output)
    inherit(last, source)
    provenance = {
        "source_node": source.name,
        "source_op": source.op,
        "calibrator": neuron.calibrator,
        "theta": describe_range(branch.theta),
        "clip_rate": f"{branch.clip_rate:.6g}",
        "polarity": polarity,
    }
    metadata(last).update({METADATA_PREFIX + key: value for key, value in provenance.items()})
