"""Canonicalise: one form for what exporters write in many.

1. Every node gets a name, so that reports and provenance can speak of it.
2. What depends on constants alone is computed (Constant nodes, shape arithmetic, the padding and
   slicing chains of the TorchScript exporter).
3. Identity and inference-mode Dropout are bypassed. When the output is a graph output, its name
   moves to the producer; a bypass from a graph input or a constant straight to a graph output
   stays.
4. Nodes that no output needs are dropped.
5. Shapes and element types are inferred first, and again once constants are known.

The function computed is unchanged. Postcondition: the graph is sorted topologically.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import shape_inference

from .graph import (
    Graph,
    Node,
    PassResult,
    export_model,
    fold_constants,
    import_model,
    is_constant,
    is_standard,
    replace_everywhere,
    tidy,
    unique_name,
)


def canonicalise(graph: Graph) -> PassResult:
    """Apply the rules above. The graph given is used up; the result is a new one."""
    changes: list[str] = []
    before = len(graph.nodes)
    graph = _infer_shapes(graph)
    _name_nodes(graph)
    fold_constants(graph)
    tidy(graph)
    changes += _bypass_identities(graph)
    tidy(graph)
    if before != len(graph.nodes):
        changes.append(f"{before} nodes became {len(graph.nodes)}")
    return PassResult(_infer_shapes(graph), changes)


def _name_nodes(graph: Graph) -> None:
    for node in graph.nodes:
        if not node.name:
            first = node.outputs[0].name if node.outputs else "no_output"
            node.name = unique_name(graph, f"{node.op}:{first}")


def _is_identity(node: Node) -> bool:
    if not is_standard(node):
        return False
    if node.op == "Identity":
        return True
    if node.op != "Dropout":
        return False
    mask_used = len(node.outputs) > 1 and bool(node.outputs[1].outputs)
    training = node.inputs[2] if len(node.inputs) > 2 else None
    if training is not None and not training.is_empty():
        return not mask_used and is_constant(training) and not np.any(training.values)
    return not mask_used


def _bypass_identities(graph: Graph) -> list[str]:
    changes = []
    for node in list(graph.nodes):
        if not _is_identity(node):
            continue
        source, result = node.inputs[0], node.outputs[0]
        if result in graph.outputs:
            is_interface = source in graph.inputs or source in graph.outputs
            if is_interface or is_constant(source) or not source.inputs:
                continue
            producer = source.inputs[0]
            if producer not in graph.nodes:  # computed outside this graph
                continue
            node.outputs.clear()
            position = next(i for i, tensor in enumerate(producer.outputs) if tensor is source)
            producer.outputs[position] = result
            replace_everywhere(graph, source, result)
        else:
            replace_everywhere(graph, result, source)
        node.inputs.clear()
        graph.nodes.remove(node)
        changes.append(f"{node.op} {node.name}: removed, it passes its input on")
    return changes


def _infer_shapes(graph: Graph) -> Graph:
    model = export_model(graph)
    if model.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
        return graph  # shape inference serialises the model, which protobuf limits to 2 GiB
    return import_model(shape_inference.infer_shapes(model, data_prop=True))
