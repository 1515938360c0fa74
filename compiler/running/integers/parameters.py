"""That a network of integers has the parameters of the float network that it was made from.

Nodes are matched by name:

1. A neuron's threshold is the scale of its QuantizeLinear, its negative levels are the zero point,
   and all of them the largest integer.
2. A weight of int8 times its step lies within half a step of the float weight, and so does a bias
   of int32 where the float operator has one of its own.

Weights that calibration has rounded are multiples of their steps already.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from ....passes.graph.network import Network, constant_of, constants_of
from ....passes.graph.protos import attributes_of, nodes_below
from ....passes.lowering.quantise_linear import MOST_LEVELS
from ....runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE
from .form import LIMIT, IntegerOperator, Operand, integer_operators, weighted_operators

#: Half a step, but for the rounding of a quotient in float32.
_HALF = 0.5 + 2.0**-16


def differing_parameters(network: Network, floats: Network) -> list[str]:
    """What differs, as sentences without full stops; empty if nothing does.

    Args:
        network: in the form that ``quantise_linear.py`` writes.
        floats: of neurons MultiThresholdFire, one threshold each.
    """
    constants = constants_of(floats)
    nodes = list(nodes_below(floats.proto.graph))
    found = []
    fired: dict[str, list[IntegerOperator]] = {}
    for operator in integer_operators(network):
        fired.setdefault(operator.neuron, []).append(operator)
    for node in nodes:
        if node.op_type == MULTI_THRESHOLD_FIRE.name and node.name in fired:
            theta = np.float32(constant_of(floats, node.input[1]).reshape(()))
            if not _is_neuron(fired[node.name], node, theta):
                found.append(f"neuron {node.name} has another threshold or other levels")
    by_name = {node.name: node for node in nodes}
    for weighted in weighted_operators(network):
        node = by_name.get(weighted.node.name, NodeProto())
        for operand, name in zip([weighted.weight, weighted.bias], node.input[1:], strict=False):
            if operand is not None and not _is_rounded(operand, constants[name]):
                found.append(f"{node.op_type} {node.name} has another weight or bias")
    return found


def _is_neuron(operators: list[IntegerOperator], node: NodeProto, theta: np.float32) -> bool:
    attributes = attributes_of(node)
    below, above = (int(attributes.get(f"levels_{sign}", 0)) for sign in ("neg", "pos"))
    tops = [o.present[0].top for o in operators if o.node.op_type == LIMIT] or [MOST_LEVELS]
    steps = {operator.step for operator in operators}
    zeros = {operator.zero for operator in operators}
    return steps == {theta} and zeros == {below} and tops == [below + above]


def _is_rounded(operand: Operand, floats: np.ndarray) -> bool:
    assert operand.values is not None
    along = [-1 if i == operand.axis else 1 for i in range(operand.values.ndim)]
    steps = operand.step.astype(np.float64).reshape(along)
    if floats.size == 1:  # a bias that is the same for all channels
        floats = floats.reshape(())
    elif floats.size == operand.values.size:
        floats = floats.reshape(operand.values.shape)
    else:
        return False
    errors = np.abs(floats.astype(np.float64) / steps - operand.values)
    return bool((errors <= _HALF).all())
