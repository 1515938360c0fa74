"""Element-wise operators between a Transpose and the Transpose back: both Transposes go.

    Transpose (x, perm) -> f1 -> ... -> fn -> Transpose (.., inverse of perm)  =>  f1 -> ... -> fn

1. Each f applies a function to every element: it has one operand that is no constant, all its
   constants have one element and no more dimensions than the operand.
2. Nothing else reads the results in between.

Exporters that turn channels last into channels first leave these inside of activations. The
function computed is unchanged, to the bit.
"""

from __future__ import annotations

from ..analysis.operators import standard
from ..graph.graph import Graph, Node, Tensor, is_constant, is_standard, scopes


def join_transposes(graph: Graph, node: Node) -> list[str]:
    """Let the Transpose ``node`` do nothing if it takes back an earlier one; in place.

    Returns:
        One line if it did.
    """
    perm = node.attrs.get("perm")
    if perm is None:
        return []
    chain: list[Node] = []
    tensor = node.inputs[0]
    while (step := _elementwise(graph, tensor, len(perm))) is not None:
        if not _is_read_only_by(graph, tensor, chain[-1] if chain else node):
            return []
        chain.append(step)
        tensor = _operand(step)
    first = tensor.inputs[0] if len(tensor.inputs) == 1 else None
    if not chain or first is None or first.op != "Transpose" or not is_standard(first):
        return []
    before = first.attrs.get("perm")
    if before is None or [before[axis] for axis in perm] != list(range(len(perm))):
        return []
    innermost = chain[-1]
    innermost.inputs = [first.inputs[0] if t is tensor else t for t in innermost.inputs]
    for step in chain:
        step.outputs[0].shape = node.outputs[0].shape
        graph.extras.value_infos.pop(step.outputs[0].name, None)  # it has the shape from before
    node.attrs["perm"] = list(range(len(perm)))
    return [f"Transpose {node.name}: takes back Transpose {first.name}"]


def _elementwise(graph: Graph, tensor: Tensor, rank: int) -> Node | None:
    """The node of this graph that computes ``tensor`` element by element from one other."""
    node: Node | None = tensor.inputs[0] if len(tensor.inputs) == 1 else None
    if node is None or not standard(node).elementwise:
        return None
    given = [t for t in node.inputs if not t.is_empty()]
    if not standard(node).broadcasts and is_constant(given[0]):  # its shape is the output's
        return None
    constants = [t for t in given if is_constant(t)]
    operands = {id(t) for t in given if not is_constant(t)}
    if len(operands) != 1 or any(t.values.size != 1 or t.values.ndim > rank for t in constants):
        return None
    return node if any(node is other for other in graph.nodes) else None


def _operand(node: Node) -> Tensor:
    return next(t for t in node.inputs if not t.is_empty() and not is_constant(t))


def _is_read_only_by(graph: Graph, tensor: Tensor, reader: Node) -> bool:
    if any(consumer is not reader for consumer in tensor.outputs):
        return False
    return not any(out is tensor for scope in scopes(graph) for out in scope.graph.outputs)
