"""Fan-out: how many products each value of an operand enters, over weights that are not 0.

    Conv            Y[o, p] = sum over c, i of W[o, c, i] X[c, p s + i d - a]
    ConvTranspose   Y[o, p s + i d - a] += W[c, o, i] X[c, p]
    MatMul          Y[..., m, n] = sum over k of A[..., m, k] B[..., k, n]
    Gemm            Y[m, n] = sum over k of A'[m, k] B'[k, n], A' and B' transposed where said
    Einsum          two operands, no ellipsis and no label twice in one operand

with stride s, dilation d and padding a at the beginning of each spatial axis (from ``auto_pad``,
``output_shape`` and ``output_padding`` where they decide it), and groups of channels.

1. The fan-out of a value is the number of pairs (weight, output) with that weight not 0 in whose
   product the value stands: one near a border, that fewer windows reach, has less.
2. For Conv and ConvTranspose it is a product over spatial axes, summed over the kernel: with
   m[c, i] weights that are not 0, and hit[i, x] = 1 where kernel position i meets position x at an
   output that exists, f[c, x] = sum over i of m[c, i] hit[i, x].
3. Of the others it is the number of weights that are not 0 and share the value's indices.
4. Of two operands that both spike there are as many pairs as products: for each combination of the
   indices that both have, the sums over each operand's own indices are multiplied.

Biases, alpha, beta and C of Gemm are no products with a spike and are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...passes.analysis.operators import properties

#: Sums of products up to here are made in int64.
_INT64_SUMS = 2**62

Shape = tuple[int, ...]


class NotCounted(Exception):
    """The operator's products are not counted; the message says why."""


@dataclass(frozen=True)
class LinearOperator:
    """A linear operator.

    Attributes:
        op: Conv, ConvTranspose, Gemm, MatMul or Einsum.
        attributes: its attributes by name, strings as bytes.
        padding: of Conv and ConvTranspose, zeros that a Pad before it puts at the beginning and at
            the end of each spatial axis; none if empty. They are borders as its own are.
    """

    op: str
    attributes: dict[str, Any]
    padding: tuple[tuple[int, int], ...] = ()

    def fan_out(self, position: int, shape: Shape, mask: np.ndarray) -> np.ndarray:
        """Fan-out of the values of one operand.

        Args:
            position: of the operand, 0 or 1.
            shape: of the operand.
            mask: bool, where the other operand is not 0; of its shape.

        Returns:
            int64, of a shape that broadcasts to ``shape``.

        Raises:
            NotCounted: see :attr:`op` and the operators above.
        """
        if properties(self.op).convolves:
            if position != 0:
                raise NotCounted("its weights are computed by the network")
            return self._of_windows(shape, mask)
        if self.op == "MatMul":
            return _of_matmul(position, shape, mask)
        own, other = self._labels(position)
        kept = "".join(label for label in own if label in other)
        counts: np.ndarray = np.einsum(f"{other}->{kept}", mask.astype(np.int64))
        return counts.reshape(
            [size if label in kept else 1 for label, size in zip(own, shape, strict=True)]
        )

    def varies_along_first(self, position: int, rank: int | None, other_rank: int) -> bool:
        """Whether the fan-out may differ along axis 0 of an operand, so that it is no batch axis.

        Args:
            position: of the operand.
            rank: of the operand, None if unknown.
            other_rank: of the other one.
        """
        if properties(self.op).convolves:
            return False
        if self.op == "MatMul":  # its last axis, or last but one, is that of the sum
            return rank is None or rank < 2 + position or 2 < rank <= other_rank
        own, other = self._labels(position)
        return own[0] in other

    def own_axes(self, position: int, rank: int | None) -> list[int]:
        """Axes of an operand that the other one does not have, rule 4."""
        if self.op == "MatMul":
            return [] if rank == 1 else [(-2, -1)[position]]
        own, other = self._labels(position)
        return [axis for axis, label in enumerate(own) if label not in other]

    def pairs(self, first: np.ndarray, second: np.ndarray) -> int:
        """Sum of the products of two operands, rule 4.

        Args:
            first: int64, the first operand summed over its own axes.
            second: likewise.
        """
        if self.op == "Einsum":
            a, b = ("".join(x for x in own if x in other) for own, other in self._both())
            second = np.einsum(f"{b}->{a}", second)
        largest = float(first.max(initial=0)) * float(second.max(initial=0))
        kind: Any = np.int64 if largest * max(first.size, second.size) < _INT64_SUMS else object
        return int((first.astype(kind) * second.astype(kind)).sum())

    def products(self, first: Shape, second: Shape) -> int:
        """Number of products of two operands of these shapes, all of them not 0.

        Raises:
            NotCounted: see :meth:`fan_out`.
        """
        if self.op == "MatMul":
            rows = first[-2] if len(first) > 1 else 1
            columns = second[-1] if len(second) > 1 else 1
            batch = np.broadcast_shapes(first[:-2], second[:-2])
            return math.prod(batch) * rows * columns * first[-1]
        return total_fan_out(self.fan_out(0, first, np.ones(second, bool)), first)

    def _both(self) -> list[tuple[str, str]]:
        return [self._labels(position) for position in (0, 1)]

    def _labels(self, position: int) -> tuple[str, str]:
        """Indices of an operand and of the other one, a letter each."""
        if self.op == "Gemm":
            first = "km" if self.attributes.get("transA", 0) else "mk"
            second = "nk" if self.attributes.get("transB", 0) else "kn"
            terms = [first, second]
        else:
            equation = self.attributes["equation"].decode().replace(" ", "")
            terms = equation.split("->")[0].split(",")
            if "." in equation or len(terms) != 2:
                raise NotCounted(f"its equation {equation} is not of two operands with all labels")
            if any(len(set(term)) < len(term) for term in terms):
                raise NotCounted(f"its equation {equation} has a label twice in one operand")
        return terms[position], terms[1 - position]

    def check(self) -> None:
        """Nothing, for operators that are counted.

        Raises:
            NotCounted: an equation that is not.
        """
        if self.op == "Einsum":
            self._labels(0)

    def _of_windows(self, shape: Shape, mask: np.ndarray) -> np.ndarray:
        """Rule 2."""
        groups = self.attributes.get("group", 1)
        counts: np.ndarray
        if self.op == "Conv":
            split = mask.reshape(groups, -1, *mask.shape[1:])
            counts = split.sum(1, dtype=np.int64).reshape(-1, *mask.shape[2:])
        else:
            counts = mask.sum(1, dtype=np.int64)
        for axis, (size, kernel) in enumerate(zip(shape[2:], mask.shape[2:], strict=True)):
            before, after = self.padding[axis] if self.padding else (0, 0)
            hit = self._hits(axis, len(shape) - 2, before + size + after, kernel)
            counts = np.tensordot(counts, hit[:, before : before + size], ([1], [0]))
        return counts[None]

    def _hits(self, axis: int, spatial: int, size: int, kernel: int) -> np.ndarray:
        """hit[i, x] of one spatial axis: int64 [kernel, size]."""
        stride = self.attributes.get("strides", [1] * spatial)[axis]
        dilation = self.attributes.get("dilations", [1] * spatial)[axis]
        pads = self.attributes.get("pads", [0] * (2 * spatial))
        begin, end = pads[axis], pads[axis + spatial]
        auto = self.attributes.get("auto_pad", b"NOTSET").decode()
        reach = (kernel - 1) * dilation + 1
        offset = np.arange(kernel)[:, None] * dilation
        x = np.arange(size)[None]
        if self.op == "Conv":
            if auto.startswith("SAME"):
                length = -(-size // stride)
                begin, end = _split(max((length - 1) * stride + reach - size, 0), auto)
            elif auto == "VALID":
                begin = end = 0
            length = (size + begin + end - reach) // stride + 1
            step, rest = np.divmod(x + begin - offset, stride)
            hits: np.ndarray = (rest == 0) & (step >= 0) & (step < length)
            return hits.astype(np.int64)
        extra = self.attributes.get("output_padding", [0] * spatial)[axis]
        full = stride * (size - 1) + extra + reach
        if "output_shape" in self.attributes:
            length = self.attributes["output_shape"][axis - spatial]
            begin, end = _split(max(full - length, 0), auto)
        elif auto.startswith("SAME"):
            length = size * stride
            begin, end = _split(max(full - length, 0), auto)
        elif auto == "VALID":
            begin = end = 0
        length = full - begin - end
        position = x * stride + offset - begin
        hits = (position >= 0) & (position < length)
        return hits.astype(np.int64)


def total_fan_out(fan_out: np.ndarray, shape: Shape) -> int:
    """The sum over all values of an operand of this shape."""
    return int(fan_out.sum()) * (math.prod(shape) // max(fan_out.size, 1))


def _split(total: int, auto: str) -> tuple[int, int]:
    """Padding at the beginning and at the end; the odd one is where ``auto_pad`` says."""
    less = total // 2
    return (less, total - less) if auto == "SAME_UPPER" else (total - less, less)


def _of_matmul(position: int, shape: Shape, mask: np.ndarray) -> np.ndarray:
    if mask.ndim == 1:
        counts = mask.astype(np.int64)
        return counts if position == 0 else counts[:, None] if len(shape) > 1 else counts
    counts = mask.sum(-1 if position == 0 else -2, dtype=np.int64)  # [..., k]
    if len(shape) == 1:
        return _summed_to(counts, shape)
    return _summed_to(counts[..., None, :] if position == 0 else counts[..., None], shape)


def _summed_to(counts: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Sum over the batch axes along which one operand is repeated for the other."""
    more = counts.ndim - len(shape)
    if more > 0:
        counts = counts.sum(tuple(range(more)))
    aligned = shape[len(shape) - counts.ndim :]
    repeated = [
        axis
        for axis, (have, size) in enumerate(zip(counts.shape, aligned, strict=True))
        if size == 1 and have > 1
    ]
    return counts.sum(tuple(repeated), keepdims=True) if repeated else counts
