"""Encode analog edges: put a neuron wherever a linear operator would read analog values.

The linear operators are Conv, ConvTranspose, Gemm, MatMul and Einsum; what a tensor carries is told
by :mod:`..analysis.edges`.

Each linear operator reads each analog tensor through an encoder, a neuron that follows the
identity; one serves all linear operators that read the tensor, and everything else still reads the
analog value. Where values of both kinds were joined (Concat of a neuron and a sum), only the analog
part is encoded. The network's own input is encoded when asked. What is marked as kept
(``keep_preprocessing.py``) gets no encoder.

The encoder is an Identity node until ``insert_quant_clip``, so the function computed is unchanged.
Bodies of If are treated like the main graph; in bodies of Loop and Scan nothing is changed.
"""

from __future__ import annotations

import numpy as np

from ..analysis.activations import find_activations, mark_encoder, why_kept
from ..analysis.edges import Carries, EdgeAnalysis
from ..analysis.operators import is_linear, moved, moves_values, signal_inputs
from ..graph.graph import Graph, Node, PassResult, Tensor, scopes, tidy, unique_name
from ..graph.surgeon import add_node, variable


def encode_edges(graph: Graph, encode_input: bool = False) -> PassResult:
    """Put encoders as described above.

    Args:
        graph: a canonical graph.
        encode_input: encode the network's own input too.
    """
    activations, _ = find_activations(graph)
    analysis = EdgeAnalysis(graph, {activation.output for activation in activations})
    wanted = {Carries.ANALOG, Carries.INPUT} if encode_input else {Carries.ANALOG}
    encoding = _Encoding(graph, analysis, wanted)
    for scope in [scope for scope in scopes(graph) if not scope.closed]:
        for node in [n for n in scope.graph.nodes if is_linear(n) and not why_kept(n)]:
            for position in signal_inputs(node):
                node.inputs[position] = encoding.spiking(node.inputs[position])
    tidy(graph)
    return PassResult(graph, encoding.changes)


class _Encoding:
    def __init__(self, graph: Graph, analysis: EdgeAnalysis, wanted: set[Carries]) -> None:
        self._main, self._analysis, self._wanted = graph, analysis, wanted
        self._encoded: dict[int, Tensor] = {}
        self._homes = {
            id(node): scope.graph for scope in scopes(graph) for node in scope.graph.nodes
        }
        self.changes: list[str] = []

    def spiking(self, tensor: Tensor) -> Tensor:
        """The tensor itself, or its encoded version where it is to be encoded."""
        if self._analysis.of(tensor) not in self._wanted:
            return tensor
        if tensor.dtype != np.float32:
            return tensor
        if id(tensor) not in self._encoded:
            self._encoded[id(tensor)] = self._mixed(tensor) or self._encode(tensor)
        return self._encoded[id(tensor)]

    def _mixed(self, tensor: Tensor) -> Tensor | None:
        """Where spikes and analog values were joined, join spikes and encoded values instead."""
        producer = tensor.inputs[0] if tensor.inputs else None
        if producer is None or not moves_values(producer) or len(producer.outputs) != 1:
            return None
        if Carries.SPIKES not in {self._analysis.of(t) for t in self._sources(producer)}:
            return None
        parts = moved(producer)
        inputs = [self.spiking(t) if t in parts else t for t in producer.inputs]
        output = variable(unique_name(self._main, f"{tensor.name}.spikes"), tensor)
        name = unique_name(self._main, f"{producer.name}.spikes")
        home = self._homes[id(producer)]
        clone = add_node(home, producer.op, name, inputs, output, dict(producer.attrs))
        self._homes[id(clone)] = home
        return output

    def _sources(self, node: Node) -> list[Tensor]:
        """What the values of a moving node come from, through any number of moving nodes."""
        found: list[Tensor] = []
        pending = list(moved(node))
        while pending:
            tensor = pending.pop()
            found.append(tensor)
            producer = tensor.inputs[0] if tensor.inputs else None
            joined_before = self._analysis.of(tensor) != Carries.SPIKES
            if producer is not None and moves_values(producer) and joined_before:
                pending += moved(producer)
        return found

    def _encode(self, tensor: Tensor) -> Tensor:
        output = variable(unique_name(self._main, f"{tensor.name}.encoded"), tensor)
        home = self._homes[id(tensor.inputs[0])] if tensor.inputs else self._main
        name = unique_name(self._main, f"{tensor.name}.encoder")
        mark_encoder(add_node(home, "Identity", name, [tensor], output))
        self.changes.append(f"encoder {name} for {tensor.name}")
        return output
