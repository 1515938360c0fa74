"""Let a MaxPool choose between membrane potentials, so that neurons fire on what is left.

The largest of f(x) is f of the largest x, exactly, where f never turns two values around. A
neuron behind the pool fires for one value of each window instead of for all of them: a quarter of
the spikes for windows of 2 x 2, and of the work. So where

1. f is Relu, Clip, or LeakyRelu with a slope of at least 0,
2. a MaxPool (without dilations, and without positions) or a GlobalMaxPool is all that reads it, or
   reads what a Concat of channels makes of such activations, and
3. it is in the main graph,

the two change places; of a Concat each part gets a pool of its own. The pool's result keeps its
name.

Of one timestep only: over several the largest current of a step says little of which neuron would
have fired most. And not of integers, whose pools read 8 bits where they read spikes.
"""

from __future__ import annotations

from ..analysis.operators import takes_largest
from ..graph.graph import Graph, Node, PassResult, is_standard, tidy, unique_name
from ..graph.surgeon import add_node, variable


def pool_first(graph: Graph) -> PassResult:
    """Apply the rules above. The function computed is unchanged."""
    changes = []
    for concat in [node for node in graph.nodes if _joins_channels(node)]:
        while (pool := _only_pool(graph, concat)) is not None and _parts_keep_order(graph, concat):
            _divide(graph, concat, pool)
            changes.append(f"{pool.op} {pool.name}: one for each part of {concat.name}")
    for node in [node for node in graph.nodes if _keeps_order(node)]:
        while (pool := _only_pool(graph, node)) is not None:
            _exchange(graph, node, pool)
            changes.append(f"{node.op} {node.name}: {pool.op} {pool.name} comes first")
    tidy(graph)
    return PassResult(graph, changes)


def _keeps_order(node: Node) -> bool:
    if not is_standard(node):
        return False
    slope = node.attrs.get("alpha", 0.01)
    return node.op in ("Relu", "Clip") or (node.op == "LeakyRelu" and slope >= 0)


def _joins_channels(node: Node) -> bool:
    return is_standard(node) and node.op == "Concat" and node.attrs.get("axis") == 1


def _parts_keep_order(graph: Graph, concat: Node) -> bool:
    """Whether all that it joins are values of activations, or the largest of them, for it alone."""
    return all(
        len(part.outputs) == 1
        and part not in graph.outputs
        and len(part.inputs) == 1
        and (_keeps_order(part.inputs[0]) or takes_largest(part.inputs[0]))
        for part in concat.inputs
    )


def _divide(graph: Graph, concat: Node, pool: Node) -> None:
    result, parts = pool.outputs[0], list(concat.inputs)
    pool.inputs, pool.outputs = [], []
    concat.inputs, concat.outputs = [], [result]
    for part in parts:
        pooled = variable(unique_name(graph, f"{part.name}.pooled"), result)
        if result.shape is not None and part.shape is not None:
            pooled.shape = [result.shape[0], part.shape[1], *result.shape[2:]]
        name = unique_name(graph, f"{pool.name}.{len(concat.inputs)}")
        add_node(graph, pool.op, name, [part], pooled, dict(pool.attrs))
        concat.inputs.append(pooled)


def _only_pool(graph: Graph, node: Node) -> Node | None:
    """The pool that is all that reads a node."""
    output = node.outputs[0]
    if len(output.outputs) != 1 or output in graph.outputs:
        return None
    pool = output.outputs[0]
    if not takes_largest(pool) or pool not in graph.nodes or len(pool.outputs) != 1:
        return None
    dilated = any(step != 1 for step in pool.attrs.get("dilations") or ())
    return None if dilated else pool


def _exchange(graph: Graph, node: Node, pool: Node) -> None:
    result = pool.outputs[0]
    pooled = variable(unique_name(graph, f"{result.name}.potential"), result)
    pool.inputs[0] = node.inputs[0]
    pool.outputs = [pooled]
    node.inputs[0] = pooled
    node.outputs = [result]
