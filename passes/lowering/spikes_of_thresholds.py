"""Undo ``multi_threshold``: a network in QONNX as one of spiking neurons, to count and to run it.

1. MultiThreshold that says which neuron it is becomes MultiThresholdFire again, the product with
   theta goes with it: read is what the thresholds compare, times the factors that they hold. It is
   done only where the thresholds are those of that neuron, every one.
2. Quant of a neuron becomes MultiThresholdFire as well.
3. Quant of a weight becomes the weight, which is what Quant makes of it.
4. Operators that moved integers move spikes.
"""

from __future__ import annotations

import numpy as np

from ...runtime_ops.definition import DOMAIN
from ...runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE
from ..graph.graph import (
    Graph,
    Node,
    PassResult,
    Tensor,
    inherit,
    is_constant,
    metadata,
    rank_of,
    redirect,
    tidy,
    unique_name,
    values_of,
)
from ..graph.surgeon import add_node, constant, variable
from ..neurons.neuron import V0
from .multi_threshold import (
    FACTORS,
    MULTI_THRESHOLD,
    QONNX_DOMAIN,
    QUANT,
    UNIT,
    factors_of_text,
    find_thresholds,
)


def spikes_of_thresholds(graph: Graph) -> PassResult:
    """Apply the rules above to the main graph.

    Args:
        graph: shapes inferred where they can be.
    """
    changes = []
    for node in [node for node in graph.nodes if node.domain == QONNX_DOMAIN]:
        if node.op == QUANT and is_constant(node.inputs[0]):
            weight, output = node.inputs[0], node.outputs[0]
            redirect(list(output.outputs), output, weight)
        elif UNIT in metadata(node):
            fired = _of_quant(graph, node) if node.op == QUANT else _of_thresholds(graph, node)
            if fired is not None:
                del metadata(fired)[UNIT]
                metadata(fired).pop(FACTORS, None)
                changes.append(f"{fired.name}: now {fired.op}")
    tidy(graph)
    return PassResult(graph, changes)


def _of_quant(graph: Graph, node: Node) -> Node:
    """Rule 2."""
    x, scale, _, bits = node.inputs
    levels = 2 ** int(values_of(bits)) - 1
    output = node.outputs[0]
    output.inputs.clear()
    return _fire(graph, node, x, np.float32(values_of(scale)), (levels, 0), output)


def _of_thresholds(graph: Graph, node: Node) -> Node | None:
    """Rule 1; None where the thresholds are no neuron's."""
    x, table = node.inputs
    thresholds, below = values_of(table), -round(float(node.attrs.get("out_bias", 0.0)))
    above = thresholds.shape[1] - below
    theta = np.float32(metadata(node)[UNIT])
    factors = factors_of_text(metadata(node).get(FACTORS, ""))
    if node.op != MULTI_THRESHOLD or above < 0 or below < 0 or len(factors) != len(thresholds):
        return None
    if not np.array_equal(find_thresholds(float(theta), V0, above, below, factors), thresholds):
        return None
    rank = rank_of(x) or rank_of(node.outputs[0])
    if len(factors) > 1:
        if rank is None:
            return None
        by = constant(
            unique_name(graph, f"{node.name}.factors"),
            factors.reshape(1, -1, *[1] * (rank - 2)),
        )
        scaled = variable(unique_name(graph, f"{node.name}.scaled"), x)
        add_node(graph, "Mul", scaled.name, [x, by], scaled)
        x = scaled
    elif factors[0] != 1:
        return None
    k = node.outputs[0]
    k.inputs.clear()
    fired = _fire(graph, node, x, theta, (above, below), k)
    _drop_products(graph, k, theta)
    return fired


def _drop_products(graph: Graph, spikes: Tensor, theta: np.float32) -> None:
    """Rule 4: what was multiplied by theta is already."""
    for reader in list(spikes.outputs):
        by = reader.inputs[1] if reader.op == "Mul" else None
        if by is not None and is_constant(by) and by.values.size == 1 and by.values.item() == theta:
            output = reader.outputs[0]
            redirect(list(output.outputs), output, spikes)
            if output in graph.outputs:
                reader.op = "Identity"
                reader.inputs.pop()
        else:
            for output in reader.outputs:
                _drop_products(graph, output, theta)


def _fire(
    graph: Graph,
    node: Node,
    x: Tensor,
    theta: np.float32,
    levels: tuple[int, int],
    output: Tensor,
) -> Node:
    threshold = constant(unique_name(graph, f"{node.name}.threshold"), np.asarray(theta))
    attributes = {"levels_pos": levels[0], "levels_neg": levels[1], "v0": V0}
    fired = add_node(
        *(graph, MULTI_THRESHOLD_FIRE.name, node.name, [x, threshold], output, attributes, DOMAIN)
    )
    inherit(fired, node)
    return fired
