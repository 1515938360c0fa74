"""The float residue: arithmetic that no accounting of synapses sees.

1. Listed: every node that computes with a signal and is neither a neuron nor a linear operator, nor
   only moves or selects values: Softmax, normalisations, sums of branches, pooled means,
   activations that were kept. Nor is what rounds for a neuron of integers listed.
2. What it is measured by: elements, the values of its largest operand or result, whichever has
   more, seen on one run.
3. In bodies of Loop and Scan, and in a branch of If that was not taken, elements are 0.
"""

from __future__ import annotations

import numpy as np

from ...passes.analysis.edges import Carries, EdgeAnalysis
from ...passes.analysis.operators import is_linear, moves_values
from ...passes.graph.graph import Node, Tensor, bodies, is_constant, scopes
from ...passes.graph.network import Network
from ...passes.graph.surgeon import import_model
from ...passes.lowering.spikes_of_integers import is_part_of_neuron
from ...runtime_ops.definition import DOMAIN
from ..report.results import ResidueResult
from ..running.probe import probe
from ..samples.base import Feed

_SIGNAL = (Carries.ANALOG, Carries.INPUT)


def float_residue(snn: Network, feed: Feed, samples: int = 1) -> list[ResidueResult]:
    """The operators of rule 1, in order.

    Args:
        snn: spiking network.
        feed: what it is run on, once.
        samples: how many samples that is.
    """
    graph = import_model(snn)
    every = [(scope, node) for scope in scopes(graph) for node in scope.graph.nodes]
    neurons = {node.outputs[0].name for _, node in every if node.domain == DOMAIN}
    analysis = EdgeAnalysis(graph, neurons)
    found = [(scope.closed, node) for scope, node in every if _computes(node, analysis)]
    names = [tensor.name for closed, node in found if not closed for tensor in _values(node)]
    shapes = probe(snn, names, feed)
    results = []
    for _, node in found:
        sizes = [np.prod(shapes[t.name]) for t in _values(node) if t.name in shapes]
        elements = float(max(sizes, default=0)) / samples
        results.append(ResidueResult(str(node.name), str(node.op), elements))
    return results


def _computes(node: Node, analysis: EdgeAnalysis) -> bool:
    if node.domain == DOMAIN or is_linear(node) or bodies(node) or moves_values(node):
        return False
    if is_part_of_neuron(node):
        return False
    if not any(analysis.of(tensor) in _SIGNAL for tensor in node.outputs):
        return False
    return any(_is_float(tensor) for tensor in node.outputs)


def _values(node: Node) -> list[Tensor]:
    """What a node reads and writes that is no constant."""
    tensors = [*node.inputs, *node.outputs]
    return [t for t in tensors if not is_constant(t) and not t.is_empty() and _is_float(t)]


def _is_float(tensor: Tensor) -> bool:
    return tensor.dtype is None or tensor.dtype == np.float32
