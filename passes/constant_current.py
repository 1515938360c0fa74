"""Let a constant current stand for the initial membrane potential of neurons.

A neuron that starts at v(0) = v0 theta, and one that starts at 0 and gets the current v0 theta
more, fire alike in one step:

    MultiThresholdFire(x, theta, N+ = N, N- = 0, v0)
        = MultiThresholdFire(x + v0 theta, theta, N+ = N, N- = 0, v0 = 0)

since floor(x / theta + v0) = floor((x + v0 theta) / theta), and below 0 neither fires. (In floats
the two sums are rounded, so an input within a rounding error of a threshold may fire one level more
or less.) Over T steps they are different networks: the current comes as v0 theta_IF / T at each
step, spikes come later, and are as many after T steps as long as each step's input is in
[0, theta_IF]. What has no initial membrane potential, such as NIR's IF, needs the second form.

Of neurons with v0 > 0 that never fire below 0:

1. Conv or Gemm with a constant bias, or none, whose output only the neuron reads: the current is
   added to the bias, a copy where others use it too.
2. An Add, read by the neuron only, of which one operand comes from such a Conv or Gemm: likewise.
3. Anything else: an Add of the current in front of the neuron.

Neurons that fire below 0 are left: sign(x) times the levels of |x| is no shift of x. So are
neurons whose threshold is not constant. Both are listed.
"""

from __future__ import annotations

import numpy as np

from ..runtime_ops.definition import DOMAIN
from ..runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE
from .graph import (
    METADATA_PREFIX,
    Graph,
    Node,
    PassResult,
    Tensor,
    add_node,
    constant,
    is_constant,
    is_standard,
    metadata,
    scopes,
    tidy,
    unique_name,
    variable,
)

_BIAS = 2


def constant_current(graph: Graph) -> PassResult:
    """Apply the rules above to the graph and its open bodies."""
    changes = []
    for scope in [scope.graph for scope in scopes(graph) if not scope.closed]:
        for node in list(scope.nodes):
            if node.domain != DOMAIN or node.op != MULTI_THRESHOLD_FIRE.name:
                continue
            attributes = {**MULTI_THRESHOLD_FIRE.defaults, **node.attrs}
            if attributes["v0"]:
                changes.append(f"{node.op} {node.name}: {_charge(scope, node, attributes)}")
    tidy(graph)
    return PassResult(graph, changes)


def _charge(graph: Graph, node: Node, attributes: dict[str, float]) -> str:
    """Apply the rules to one neuron; returns what was done, or why nothing was."""
    x, theta = node.inputs
    if attributes["levels_neg"]:
        return "keeps its initial membrane potential, it fires below 0 too"
    if not is_constant(theta) or (theta.values.ndim and x.shape is None):
        return "keeps its initial membrane potential, its threshold or shape is not known"
    v0, axis = attributes["v0"], int(attributes["axis"])
    current = (theta.values.astype(np.float64) * v0).astype(theta.values.dtype)
    linear = _linear(graph, x, axis, current)
    if linear is not None:
        _add_to_bias(graph, linear, current)
        where = f"the bias of {linear.op} {linear.name}"
    else:
        where = f"Add {_add_in_front(graph, node, axis, current)}"
    node.attrs["v0"] = 0.0
    metadata(node)[METADATA_PREFIX + "initial_potential"] = f"a constant current of {v0:g} theta"
    return f"a current in {where} stands for its initial membrane potential of {v0:g} theta"


def _linear(graph: Graph, x: Tensor, axis: int, current: np.ndarray) -> Node | None:
    """Rules 1 and 2: the node whose bias takes the current."""
    if current.ndim and axis != 1:
        return None
    producer = _only_for_one(graph, x)
    if producer is None or not is_standard(producer):
        return None
    if producer.op == "Add":
        operands = [_only_for_one(graph, tensor) for tensor in producer.inputs]
        shapes = [tensor.shape for tensor in producer.inputs]
        found = [
            node
            for node, shape in zip(operands, shapes, strict=True)
            if node is not None and shape is not None and shape == x.shape and _has_room(node)
        ]
        return found[0] if found else None
    return producer if _has_room(producer) else None


def _only_for_one(graph: Graph, tensor: Tensor) -> Node | None:
    """What makes the tensor for one reader alone."""
    if is_constant(tensor) or len(tensor.outputs) != 1 or not tensor.inputs:
        return None
    if any(tensor is output for output in graph.outputs):
        return None
    return tensor.inputs[0]


def _has_room(node: Node) -> bool:
    """Whether the node has one bias per channel, or may get one."""
    if not is_standard(node) or node.op not in ("Conv", "Gemm") or not is_constant(node.inputs[1]):
        return False
    if node.op == "Gemm" and float(node.attrs.get("beta", 1.0)) != 1.0:
        return False
    if len(node.inputs) <= _BIAS or node.inputs[_BIAS].is_empty():
        return True
    bias = node.inputs[_BIAS]
    return is_constant(bias) and bias.values.ndim == 1


def _channels(node: Node) -> int:
    """Number of output channels of a Conv or Gemm."""
    weight = node.inputs[1]
    transposed = node.op == "Gemm" and not node.attrs.get("transB", 0)
    return int(weight.shape[1 if transposed else 0])


def _add_to_bias(graph: Graph, node: Node, current: np.ndarray) -> None:
    """Rule 1."""
    name = unique_name(graph, f"{node.name}.charged_bias")
    if len(node.inputs) > _BIAS and not node.inputs[_BIAS].is_empty():
        node.inputs[_BIAS] = constant(name, node.inputs[_BIAS].values + current)
        return
    del node.inputs[_BIAS:]
    node.inputs.append(constant(name, np.zeros(_channels(node), current.dtype) + current))


def _add_in_front(graph: Graph, node: Node, axis: int, current: np.ndarray) -> str:
    """Rule 3; returns the name of the Add."""
    x = node.inputs[0]
    if current.ndim:
        current = current.reshape(-1, *[1] * (len(x.shape) - axis % len(x.shape) - 1))
    name = unique_name(graph, f"{node.name}.charge")
    charged = variable(unique_name(graph, f"{x.name}.charged"), x)
    values = constant(unique_name(graph, f"{node.name}.current"), current)
    add_node(graph, "Add", name, [x, values], charged)
    node.inputs[0] = charged
    return name
