"""Counts of spikes packed into float32, so that sums over samples are exact and leave as one map.

Of each k these are counted:

    spikes    |k|                  events     [k is not 0]
    bits      popcount(|k|)        outermost  [k is the lowest or highest], where k has both signs

1. One tensor holds all counts, each in a field of its own: with `most` the largest count of a
   field, sums of n samples need the product of the (n * most + 1) to be at most 2^24, up to which
   float32 holds integers exactly. It is a StaircaseFire on the grid that tells k (:class:`Grid`).
2. A grid has 4,096 cells. Where there are more k, each count is a tensor of its own, made of the
   code: popcount(m) = m - floor(m / 2) - floor(m / 4) - ...
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, TensorProto

from ...passes.graph.graph import Tensor
from .codes import Codes
from .insertion import Insertion
from .neuron_spikes import Span

#: float32 holds integers exactly up to here.
EXACT = 1 << 24


@dataclass(frozen=True)
class Packed:
    """Packed counts of a tensor of spikes.

    Attributes:
        tensors: by name, the largest value of each count that it holds, the lowest field first.
        fitting: samples in one sum, by rule 1.
    """

    tensors: dict[str, dict[str, int]]
    fitting: int

    def take_apart(self, sums: np.ndarray, tensor: str) -> dict[str, np.ndarray]:
        """The counts in sums of at most ``fitting`` samples, int32, of one of the tensors."""
        found = {}
        *lower, (highest, _) = self.tensors[tensor].items()
        for name, most in lower:
            radix = np.int32(self.fitting * most + 1)
            above = sums // radix
            found[name] = sums - above * radix
            sums = above
        return found | {highest: sums}


def pack(insert: Insertion, codes: Codes, home: GraphProto, tensor: Tensor) -> Packed:
    """Count a tensor of spikes, in the graph ``home``."""
    grid, span = codes.grid(home, tensor), codes.span(tensor)
    if grid is None:
        most = max(span.high, -span.low)
        limits = {"spikes": most, "bits": most.bit_length(), "events": 1, "outermost": 1}
        names = _of_code(insert, home, codes.code(home, tensor), span)
        return Packed({names[count]: {count: limits[count]} for count in names}, EXACT // most)
    counts = _of_cells(grid.k, span)
    largest = {name: max(int(count.max()), 1) for name, count in counts.items()}
    fitting = _samples_that_fit(largest.values())
    packed = np.zeros(len(grid.k), np.int64)
    for name in reversed(largest):
        packed = packed * (fitting * largest[name] + 1) + counts[name]
    return Packed({grid.map(insert, home, packed): largest}, fitting)


def apart(insert: Insertion, codes: Codes, home: GraphProto, tensor: Tensor) -> Mapping[str, str]:
    """A tensor for each count of a tensor of spikes, made in the graph ``home``."""
    grid, span = codes.grid(home, tensor), codes.span(tensor)
    if grid is None:
        return _of_code(insert, home, codes.code(home, tensor), span)
    counts = _of_cells(grid.k, span)
    return {name: grid.map(insert, home, count) for name, count in counts.items()}


def _of_cells(k: np.ndarray, span: Span) -> dict[str, np.ndarray]:
    """What is counted of cells with these spikes: int64 [cells]."""
    magnitude = np.abs(k)
    counts = {"events": k != 0, "bits": popcount(magnitude), "spikes": magnitude}
    if span.low < 0 < span.high:
        counts["outermost"] = (k == span.low) | (k == span.high)
    return {name: count.astype(np.int64) for name, count in counts.items()}


def _of_code(insert: Insertion, home: GraphProto, code: str, span: Span) -> dict[str, str]:
    """Rule 2: names of tensors."""
    magnitude = bits = part = insert.node(home, "Abs", code)
    half = insert.constant(home, 0.5)
    for _ in range(max(span.high, -span.low).bit_length() - 1):
        part = insert.node(home, "Floor", insert.node(home, "Mul", part, half))
        bits = insert.node(home, "Sub", bits, part)
    counts = {"events": insert.node(home, "Sign", magnitude), "bits": bits, "spikes": magnitude}
    if span.low < 0 < span.high:
        ends = [insert.constant(home, float(k)) for k in (span.low, span.high)]
        reached = [insert.node(home, "Equal", code, end) for end in ends]
        either = insert.node(home, "Or", *reached)
        counts["outermost"] = insert.node(home, "Cast", either, to=TensorProto.FLOAT)
    return counts


def popcount(values: np.ndarray) -> np.ndarray:
    """Number of bits that are 1, of integers from 0 to 2^24."""
    bits = (values[..., None] >> np.arange(EXACT.bit_length())) & 1
    counts: np.ndarray = bits.sum(-1)
    return counts


def _samples_that_fit(largest: Collection[int]) -> int:
    n = 1
    while math.prod((n + 1) * most + 1 for most in largest) <= EXACT:
        n += 1
    return n
