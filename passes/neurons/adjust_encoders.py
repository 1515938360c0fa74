"""Leave out encoders, and mark the neurons that are to be fitted to small relative error.

Which they are, was measured (``compiler/calibration/costs.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..analysis.activations import is_encoder, mark_kept, mark_relative
from ..analysis.operators import is_linear
from ..graph.graph import Graph, PassResult, redirect, tidy


def adjust_encoders(
    graph: Graph, left_out: Mapping[str, str], relative: Collection[str]
) -> PassResult:
    """Let what reads these encoders read the analog value.

    Args:
        graph: canonical, with encoders in place.
        left_out: why, by the tensors that the encoders write.
        relative: tensors that the neurons write which are marked.
    """
    for node in graph.nodes:
        output = node.outputs[0] if node.outputs else None
        if output is None:
            continue
        if output.name in relative:
            mark_relative(node)
        if output.name in left_out and is_encoder(node):
            readers = list(output.outputs)
            for reader in readers:
                if is_linear(reader):
                    mark_kept(reader, left_out[output.name])
            redirect(readers, output, node.inputs[0])
    tidy(graph)
    return PassResult(graph, list(left_out.values()))
