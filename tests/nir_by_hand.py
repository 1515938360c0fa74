"""A NIR graph run step by step in NumPy, by nothing but the equations of nir's documentation."""

from __future__ import annotations

import itertools
from graphlib import TopologicalSorter

import nir
import numpy as np


class Simulation:
    """Runs a graph; membrane potentials start at 0.

    Args:
        graph: nir.NIRGraph.
        strictly: fire at v > v_threshold, as nir's equations have it, not at v >= v_threshold.
    """

    def __init__(self, graph: nir.NIRGraph, *, strictly: bool = False) -> None:
        self._nodes, self._strictly = graph.nodes, strictly
        self._reads = {name: [a for a, b in graph.edges if b == name] for name in graph.nodes}
        self._order = list(TopologicalSorter(self._reads).static_order())
        self._potentials: dict[str, np.ndarray] = {}

    def step(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What every node gives at this step, batches first."""
        values = {}
        for name in self._order:
            node = self._nodes[name]
            if isinstance(node, nir.Input):
                x = inputs[name]
                assert x.shape[1:] == tuple(node.input_type["input"])
                values[name] = x
                continue
            read = [values[source] for source in self._reads[name]]
            assert len({array.shape for array in read}) == 1, f"{name} reads {read}"
            values[name] = self._apply(name, node, np.sum(read, axis=0, dtype=np.float32))
        return values

    def run(self, inputs: dict[str, np.ndarray], steps: int) -> dict[str, np.ndarray]:
        """[T, B, ...] of every node, with the same input at every step."""
        seen = [self.step(inputs) for _ in range(steps)]
        return {name: np.stack([values[name] for values in seen]) for name in self._order}

    def _apply(self, name, node, x):
        match node:
            case nir.Conv2d():
                return conv2d(node, x)
            case nir.Affine():
                return x @ node.weight.T + node.bias
            case nir.SumPool2d():
                padded = pad(x, node.padding)
                return windows(padded, node.kernel_size, node.stride, (1, 1)).sum((-2, -1))
            case nir.Flatten():
                assert (node.start_dim, node.end_dim) == (0, -1)
                return x.reshape(len(x), -1)
            case nir.I():
                self._potentials[name] = self._potentials.get(name, 0) + node.r * x
                return self._potentials[name]
            case nir.IF():
                return self._fire(name, node, x)
            case nir.Output():
                assert x.shape[1:] == tuple(node.output_type["output"])
                return x
        raise AssertionError(f"{name} is a {type(node).__name__}")

    def _fire(self, name, node, x):
        assert node.v_threshold.shape == x.shape[1:], "a threshold per neuron"
        v = self._potentials.get(name, np.zeros_like(x)) + node.r * x
        z = v > node.v_threshold if self._strictly else v >= node.v_threshold
        self._potentials[name] = v - z * node.v_threshold
        return z.astype(np.float32)


def potential(graph: nir.NIRGraph, values: dict[str, np.ndarray], name: str) -> np.ndarray:
    """What a neuron compares with its threshold at each step, [T, B, ...], in float64."""
    node = graph.nodes[name]
    current = sum(values[a].astype(np.float64) for a, b in graph.edges if b == name)
    spikes = values[name].astype(np.float64) * node.v_threshold
    return np.cumsum(current * node.r, axis=0) - (np.cumsum(spikes, axis=0) - spikes)


def windows(x, kernel, stride, dilation):
    """[B, C, H, W] as [B, C, rows, columns, kernel rows, kernel columns]."""
    reach = [(int(k) - 1) * int(d) + 1 for k, d in zip(kernel, dilation, strict=True)]
    views = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(2, 3))
    return views[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]


def pad(x, padding):
    """Zeros at both ends of rows and columns."""
    rows, columns = padding
    return np.pad(x, ((0, 0), (0, 0), (rows, rows), (columns, columns)))


def conv2d(node, x):
    groups = int(node.groups)
    seen = windows(pad(x, node.padding), node.weight.shape[2:], node.stride, node.dilation)
    out, wide = node.weight.shape[:2]
    result = []
    for c in range(out):
        first = c // (out // groups) * wide
        taps = seen[:, first : first + wide] * node.weight[c][None, :, None, None]
        result.append(taps.sum((1, 4, 5), dtype=np.float32) + node.bias[c])
    return np.stack(result, 1).astype(np.float32)


def neurons(graph: nir.NIRGraph) -> dict[str, str]:
    """The NIR name of each neuron by its name in the ONNX network."""
    found = {}
    for name, node in graph.nodes.items():
        if isinstance(node, nir.IF) and "onnx_node" in node.metadata:
            found[node.metadata["onnx_node"]] = name
    return found


def edge_names(graph: nir.NIRGraph) -> set[tuple[str, str]]:
    """Edges between the kinds of nodes, with the numbers left out."""
    return {(a.partition("_")[2] or a, b.partition("_")[2] or b) for a, b in graph.edges}


def pairs(values):
    return list(itertools.pairwise(values))
