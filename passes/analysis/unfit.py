"""What a canonical network must not hold, and what to do about it.

1. Operators that draw random numbers, and Dropout in training mode: no two runs agree, so nothing
   can be calibrated or verified. Dropout that is off, or drops nothing, is none of these; where a
   signal says whether it is on, it is.
2. BatchNormalization in training mode: what it makes of a sample depends on the batch. Over
   constants it is none; ``fold_constants`` has computed it.
3. Operators in which a runtime joined several, and ``split_fused`` could not take apart: what is
   inside would be in no line of the report.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..graph.graph import Graph, Node, is_constant, is_standard, optional_input, scopes
from .operators import Role, properties


def unfit(graph: Graph) -> Iterator[str]:
    """A line for each node, bodies included, with its name and the cure."""
    for scope in scopes(graph):
        for node in scope.graph.nodes:
            what = _unfit(node)
            if what:
                yield f"{node.op} '{node.name}' {what}"


def drops(node: Node) -> bool:
    """Whether a Dropout may change what it reads."""
    ratio, training = optional_input(node, 1), optional_input(node, 2)
    if training is None or (is_constant(training) and not np.any(training.values)):
        return False
    return ratio is None or not is_constant(ratio) or bool(np.any(ratio.values))


def _unfit(node: Node) -> str:
    what = properties(node.op)
    if node.op == "Dropout" and is_standard(node):
        if drops(node):
            return "in training mode: it drops values at random; export with model.eval()"
    elif what.random:
        return (
            "draws random numbers, so no two runs agree; export the network without it "
            "(of a distribution that it samples, the mean)"
        )
    elif node.op == "BatchNormalization" and node.attrs.get("training_mode", 0):
        return "in training mode: it normalises by the batch; export with model.eval()"
    elif what.role is Role.FUSED and not is_standard(node):
        return (
            f"of the domain {node.domain} joins several operators, as a runtime's graph "
            "optimisation does; export the model without graph optimisation"
        )
    return ""
