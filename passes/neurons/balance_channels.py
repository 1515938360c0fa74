"""Give the channels of an activation one range, where one threshold has to serve all of them.

The layer in front of an activation divides each of its channels by a scale, and the layers behind
multiply by it again: the network computes the same where the activation f has f(a x) = a f(x) for
a > 0 (cross-layer equalisation, M. Nagel et al., arXiv 1906.04721). A uniform neuron with one
threshold then rounds each channel as one with a threshold per channel would.

Which layers take scales is said in ``fold_scales.py``, rules 1 to 3.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..graph.graph import Graph, PassResult, rank_of, tidy
from .fold_scales import layer_in_front, layers_behind, scale_input, set_parameter


def balance_channels(graph: Graph, scales: Mapping[str, np.ndarray], divide: bool) -> PassResult:
    """Divide channels of activations by scales, in the layers around them: rules 1 to 3.

    What they are followed by multiplies by them again, so that the network computes the same where
    the activation f has f(a x) = a f(x) for a > 0.

    Args:
        graph: of the analog network.
        scales: of activations along axis 1 by the tensor that they write, above 0, [C].
        divide: where no layer in front takes them, divide what the activation reads.
    """
    changes = []
    for node in list(graph.nodes):
        scale = scales.get(node.outputs[0].name) if node.outputs else None
        rank = rank_of(node.inputs[0]) if scale is not None else None
        if scale is None or rank is None:
            continue
        behind = layers_behind(graph, node, scale, 1)
        front = layer_in_front(graph, node.inputs[0], scale, 1)
        if behind is None or (front is None and not divide):
            continue
        for parameter in (*(front or []), *behind):
            set_parameter(graph, parameter)
        if front is None:
            by = (1 / scale).astype(np.float32).reshape(-1, *[1] * (rank - 2))
            scale_input(graph, node, "Mul", by)
        spread = scale.max() / scale.min()
        changes.append(f"{node.op} {node.name}: {scale.size} channels, scales {spread:.3g} apart")
    tidy(graph)
    return PassResult(graph, changes)
