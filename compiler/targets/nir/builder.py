"""A NIR graph in the making: nodes, edges, and how a node comes to read a signal.

A node that reads a signal (``signals.py``) takes over a factor u per channel: it reads x / u, and
folds u into its own weights or threshold. For a signal of one term u is the term's weight, so no
node stands between the two. Of a sum, for each term

1. a linear node that nothing else reads gets the factor, and the offset, into its own weights;
2. a term whose factor is u is an edge;
3. any other goes through a linear node of its own: a convolution of 1 x 1 whose matrix holds the
   factors, moves the channels and whose stride skips rows and columns; a matrix for [C].

u is the factor of the first term that cannot be rescaled. Nodes that can read planes take those of
a signal of one term as they are, and repeat their weights. Weights are kept in float64 until all
factors are in, and rounded once.

The matrices are dense: sinabs 3.1.3 cannot read convolutions with groups (docs/nir.md).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .signals import Signal, Term, Window, of_source, one_plane

#: Elements of the matrix of rule 3. Larger ones are refused: they grow with the square of C.
_LARGEST_MATRIX = 1 << 24

BORDER = "reads zeros that Pad put around it; in NIR only a convolution can"
LARGEST = (
    "reads the largest of values that are no spikes of one neuron; put the activation in front of "
    "or right behind the pooling"
)

Pair = tuple[int, int]


class NotInNirError(Exception):
    """Why NIR cannot express a node."""


@dataclass(frozen=True)
class Geometry:
    """Where a convolution reads."""

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclass
class _Linear:
    """Conv2d where there is a geometry, else Affine; weights in float64."""

    weight: np.ndarray
    bias: np.ndarray
    geometry: Geometry | None
    shape: tuple[int, ...]  # that it reads


class Builder:
    """Collects the nodes and edges of a graph.

    Args:
        nir: the ``nir`` module.
    """

    def __init__(self, nir: Any) -> None:
        self._nir = nir
        self._nodes: dict[str, Any] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._edges: list[tuple[str, str]] = []

    def port(self, wanted: str, shape: tuple[int, ...], sources: Sequence[str] = ()) -> str:
        """An input, or with sources an output, of the graph."""
        kind = self._nir.Output if sources else self._nir.Input
        what = "output_type" if sources else "input_type"
        node = kind(**{what: {what.removesuffix("_type"): np.array(shape)}})
        return self._add(_plain(wanted), node, shape, sources)

    def linear(
        self,
        name: str,
        weight: np.ndarray,
        bias: np.ndarray,
        geometry: Geometry | None,
        read: tuple[int, ...],
        given: tuple[int, ...],
        sources: Sequence[str],
    ) -> str:
        """A Conv2d, or without a geometry an Affine, of float64 weights.

        Args:
            name: of the ONNX node.
            weight: [C_out, C_in / groups, rows, columns] or [C_out, C_in].
            bias: [C_out].
            geometry: of a convolution.
            read: shape of what it reads.
            given: shape of what it gives.
            sources: what it reads.
        """
        node = _Linear(weight, bias, geometry, read)
        return self.node("affine" if geometry is None else "conv2d", name, node, given, sources)

    def node(
        self, kind: str, name: str, node: Any, shape: tuple[int, ...], sources: Sequence[str]
    ) -> str:
        """A node and its edges; its name starts with its number, so that readers that sort names,
        as HDF5 does, find each node behind those that it reads.
        """
        return self._add(f"n{len(self._nodes):04d}_{kind}_{_plain(name)}", node, shape, sources)

    def pool(self, name: str, window: Window, read: tuple[int, ...], sources: Sequence[str]) -> str:
        """A SumPool2d of what has the shape [C, H, W]."""
        given = (read[0], *window.size(read[1:]))
        pool = self._nir.SumPool2d(
            kernel_size=np.array(window.kernel),
            stride=np.array(window.stride),
            padding=np.array(window.padding),
        )
        pool.input_type, pool.output_type = {"input": read}, {"output": given}
        return self.node("sumpool2d", name, pool, given, sources)

    def join(self, name: str, signal: Signal, *, unit: bool = False) -> tuple[list[str], Any]:
        """What a node reads that reads a signal: the rules above.

        Args:
            name: of the ONNX node, for nodes that are put in between.
            signal: what is read.
            unit: the factor has to be 1.

        Returns:
            The NIR nodes that edges come from, and u, float64 [C].

        Raises:
            NotInNirError: a matrix would be too large, or the signal has a border.
        """
        if np.any(signal.border):
            raise NotInNirError(BORDER)
        if signal.largest is not None:
            raise NotInNirError(LARGEST)
        offset = signal.offset
        own = [term for term in signal.terms if term.own and term.plain]
        fixed = [
            term for term in signal.terms if term.plain and not term.own and np.all(term.weight > 0)
        ]
        between = [t for t in signal.terms if not any(t is other for other in (*own, *fixed))]
        if np.any(offset) and not own and not between:
            between.append(fixed.pop(0))  # a constant current needs a bias to be in
        ones = np.ones(signal.shape[0])
        factor = fixed[0].weight if fixed and not unit else ones
        between += [term for term in fixed if not np.array_equal(term.weight, factor)]
        carrier = next(iter([*own, *between]), None)
        sources = []
        for term in signal.terms:
            current = offset / factor if term is carrier else np.zeros_like(offset)
            if any(term is other for other in between):
                sources.append(self._between(name, term, signal, factor, current))
                continue
            if any(term is other for other in own):
                self._rescale(term, factor, current)
            sources.append(term.source)
        return sources, factor

    def join_planes(self, name: str, signal: Signal) -> tuple[list[str], Any, Any]:
        """The same for a node that can read planes.

        Returns:
            The NIR nodes that edges come from, u, float64 [C], and where the channels are in what
            is read, int64 [C, P], each of its channels once.

        Raises:
            NotInNirError: as :meth:`join`.
        """
        terms = signal.terms
        if len(terms) == 1 and terms[0].channel.shape[1] > 1 and terms[0].whole:
            apart = np.any(signal.offset) or np.any(signal.border) or signal.largest is not None
            if not apart:
                return [terms[0].source], terms[0].weight, terms[0].channel
        sources, factor = self.join(name, signal)
        return sources, factor, one_plane(signal.shape[0])

    def flat(self, name: str, signal: Signal) -> Signal:
        """All axes of one sample as one."""
        sources, factor, channel = self.join_planes(name, signal)
        read, size = (channel.size, *signal.shape[1:]), math.prod(signal.shape[1:])
        flatten = self._nir.Flatten(input_type={"input": np.array(read)}, start_dim=0, end_dim=-1)
        source = self.node("flatten", name, flatten, (math.prod(read),), sources)
        features = (channel[:, None] * size + one_plane(size)).reshape(-1, channel.shape[1])
        return of_source(source, (len(features),), factor.repeat(size), channel=features)

    def graph(self, metadata: dict[str, Any]) -> Any:
        """The NIR graph."""
        nodes = {
            name: self._finished(node, self._shapes[name]) if isinstance(node, _Linear) else node
            for name, node in self._nodes.items()
        }
        return self._nir.NIRGraph(nodes=nodes, edges=self._edges, metadata=metadata)

    def _add(self, wanted: str, node: Any, shape: tuple[int, ...], sources: Sequence[str]) -> str:
        name, count = wanted, 0
        while name in self._nodes:
            count += 1
            name = f"{wanted}_{count}"
        self._nodes[name], self._shapes[name] = node, shape
        self._edges += [(source, name) for source in sources]
        return name

    def _rescale(self, term: Term, factor: np.ndarray, current: np.ndarray) -> None:
        """Rule 1."""
        node = self._nodes[term.source]
        by = term.weight / factor
        node.weight = node.weight * by.reshape(-1, *[1] * (node.weight.ndim - 1))
        node.bias = node.bias * by + current

    def _between(
        self, name: str, term: Term, signal: Signal, factor: np.ndarray, current: np.ndarray
    ) -> str:
        """Rule 3."""
        given = signal.shape
        if given[0] * term.channels > _LARGEST_MATRIX:
            raise NotInNirError(
                f"what it reads has to be scaled or copied on the way, by a matrix of {given[0]} "
                f"x {term.channels}, which is too large"
            )
        matrix = np.zeros((given[0], term.channels))
        matrix[one_plane(given[0]), term.channel] = (term.weight / factor)[:, None]
        geometry = None
        if len(given) > 1:
            matrix, geometry = matrix[:, :, None, None], Geometry(stride=term.step)
        read = self._shapes[term.source]
        return self.linear(f"{name}_scale", matrix, current, geometry, read, given, [term.source])

    def _finished(self, node: _Linear, shape: tuple[int, ...]) -> Any:
        weight, bias = node.weight.astype(np.float32), node.bias.astype(np.float32)
        if node.geometry is None:
            return self._nir.Affine(weight=weight, bias=bias)
        conv = self._nir.Conv2d(
            input_shape=node.shape[1:],
            weight=weight,
            stride=node.geometry.stride,
            padding=node.geometry.padding,
            dilation=node.geometry.dilation,
            groups=node.geometry.groups,
            bias=bias,
        )
        # What nir infers is wrong for groups and for kernels that are not square.
        conv.input_type = {"input": np.array(node.shape)}
        conv.output_type = {"output": np.array(shape)}
        return conv


def _plain(name: str) -> str:
    """A name that files and Python take: in HDF5 a slash opens a group."""
    return re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
