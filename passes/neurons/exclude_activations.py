"""Keep in float what the user names: activations, and encoders.

1. A pattern is a name, or one with wildcards as shells have them (``fnmatch``, case counts). It is
   matched with the names of an activation and of its outputs, and with those that an encoder would
   have: ``TENSOR.encoder``, and the tensor's.
2. An activation so named becomes no neuron. Linear operators that read it, directly or through
   operators that only move values, read it in float: an encoder would be the neuron again.
3. A linear operator that would read an encoder so named reads its tensor in float. The network's
   own input has an encoder only if that is asked for.
4. Sums, pooling and whatever else computes with an excluded activation give analog values like any
   others, and are encoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from ..analysis.activations import find_activations, is_activation, mark_kept
from ..analysis.edges import Carries, EdgeAnalysis
from ..analysis.operators import is_linear, moves_values, signal_inputs
from ..graph.graph import Graph, Node, PassResult, Tensor, readers_behind, scopes

EXCLUDED = "excluded by --exclude"
#: How alike a name is that the user may have meant, and how many are told.
_ALIKE, _TOLD = 0.3, 3


class NothingExcludedError(ValueError):
    """A pattern that matches nothing; the text says which, and names that are like it."""


def exclude_activations(
    graph: Graph, patterns: Sequence[str], encode_input: bool = False
) -> PassResult:
    """Mark what the patterns name.

    Args:
        graph: canonical, without encoders.
        patterns: at least one.
        encode_input: whether the network's own input would be encoded.

    Raises:
        NothingExcludedError: one of them matches nothing.
    """
    changes, known, unused = [], set(), set(patterns)
    for node, names in _candidates(graph, encode_input):
        known |= names
        matching = {pattern for pattern in patterns if _matches(names, pattern)}
        unused -= matching
        if not matching:
            continue
        mark_kept(node, EXCLUDED)
        changes.append(f"{node.op} {node.name}: excluded, stays in float")
        if is_activation(node):
            for reader in _linear_readers(node.outputs[0]):
                mark_kept(reader, EXCLUDED)
    for pattern in patterns:
        if pattern in unused:
            near = get_close_matches(pattern, sorted(known), _TOLD, _ALIKE) or sorted(known)[:_TOLD]
            hint = f"; there are {', '.join(near)}" if near else ""
            raise NothingExcludedError(f"no activation and no encoder is called {pattern!r}{hint}")
    return PassResult(graph, changes)


def _candidates(graph: Graph, encode_input: bool) -> Iterator[tuple[Node, set[str]]]:
    """What can be excluded, and its names; a linear operator stands for the encoders it reads."""
    fired = {str(activation.output) for activation in find_activations(graph)[0]}
    analysis = EdgeAnalysis(graph, fired)
    wanted = {Carries.ANALOG, Carries.INPUT} if encode_input else {Carries.ANALOG}
    for scope in scopes(graph):
        for node in scope.graph.nodes:
            if is_activation(node) and not scope.closed:
                yield node, {str(node.name), *(str(tensor.name) for tensor in node.outputs)}
    for scope in scopes(graph):
        for node in scope.graph.nodes:
            if is_linear(node) and not scope.closed:
                yield node, _encoders(node, analysis, wanted)


def _encoders(node: Node, analysis: EdgeAnalysis, wanted: set[Carries]) -> set[str]:
    """Names of the encoders that a linear operator may read, and of their tensors."""
    operands = [node.inputs[i] for i in signal_inputs(node) if i < len(node.inputs)]
    tensors = [tensor for tensor in operands if analysis.of(tensor) in wanted]
    return {name for tensor in tensors for name in (str(tensor.name), f"{tensor.name}.encoder")}


def _matches(names: set[str], pattern: str) -> bool:
    """Names may hold brackets, which are wildcards too."""
    return any(name == pattern or fnmatchcase(name, pattern) for name in names)


def _linear_readers(tensor: Tensor) -> Iterator[Node]:
    """Linear operators that read it, directly or through operators that only move values."""
    return filter(is_linear, readers_behind(tensor, moves_values))
