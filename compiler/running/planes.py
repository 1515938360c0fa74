"""Networks whose neurons send binary spikes: made on request, and read again.

What counts spikes (``activity.py``, ``evaluation/``) counts them at the neurons, in the network
without planes. It is the same network: :func:`without_planes` gives one only if expanding it makes
the very planes and decoders that were there.
"""

from __future__ import annotations

from ...passes.graph.graph import Graph, PassResult
from ...passes.graph.network import Network
from ...passes.graph.protos import nodes_below
from ...passes.graph.surgeon import export_network, import_model
from ...passes.lowering.binary_spikes import (
    KINDS,
    MARK,
    TooManySpikes,
    binary_spikes,
)
from ...passes.lowering.join_planes import decoded_tensors, join_planes, same_tensor
from ..errors import ModelError


def with_planes(graph: Graph, kind: str) -> PassResult:
    """``binary_spikes``.

    Raises:
        ModelError: a neuron fires more spikes than there may be planes for.
    """
    try:
        return binary_spikes(graph, kind)
    except TooManySpikes as error:
        raise ModelError(str(error)) from error


def without_planes(network: Network) -> Network:
    """The network that this one is the expansion of; itself where it has no planes.

    Raises:
        ModelError: planes or decoders are not those that the compiler makes.
    """
    nodes = nodes_below(network.proto.graph)
    kinds = {p.value for node in nodes for p in node.metadata_props if p.key == MARK}
    if not kinds:
        return network
    joined = export_network(join_planes(import_model(network)).graph)
    if kinds <= set(KINDS) and len(kinds) == 1 and _expands_to(joined, kinds.pop(), network):
        return joined
    raise ModelError(
        "the planes of binary spikes are not as snn-compile made them, so spikes of its neurons "
        "are not those in the planes; evaluate the network as it was compiled"
    )


def _expands_to(joined: Network, kind: str, network: Network) -> bool:
    if any(p.key == MARK for n in nodes_below(joined.proto.graph) for p in n.metadata_props):
        return False
    theirs = decoded_tensors(import_model(network))
    ours = decoded_tensors(with_planes(import_model(joined), kind).graph)
    return ours.keys() == theirs.keys() and all(
        same_tensor(tensor, theirs[name]) for name, tensor in ours.items()
    )
