"""How convolutions and pooling operators of ONNX lie on what they read, as NIR has it."""

from __future__ import annotations

import numpy as np

from ....passes.graph.graph import Node
from .builder import Geometry, NotInNirError, Pair
from .signals import Signal

#: Weights of a convolution whose groups are written out.
_MOST_WEIGHTS = 1 << 24


def pair(node: Node, name: str) -> Pair:
    """An attribute of rows and columns, 1 where there is none."""
    first, second = node.attrs.get(name) or (1, 1)
    return int(first), int(second)


def padding_of(
    node: Node,
    signal: Signal,
    given: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: Pair,
    dilation: Pair,
) -> list[Pair]:
    """Zeros before and behind rows, and columns, those of a Pad in front among them."""
    how = node.attrs.get("auto_pad", "NOTSET")
    read = [n + sum(border) for n, border in zip(signal.shape[1:], signal.border, strict=True)]
    if how in ("NOTSET", "VALID"):
        pads = (node.attrs.get("pads") if how == "NOTSET" else None) or (0, 0, 0, 0)
        own = zip(pads[:2], pads[2:], strict=True)
        return [
            (int(before) + more[0], int(behind) + more[1])
            for (before, behind), more in zip(own, signal.border, strict=True)
        ]
    ends = []
    for at in range(2):
        reach = (given[at] - 1) * stride[at] + (kernel[at] - 1) * dilation[at] + 1
        total = max(reach - read[at], 0)
        less, more = total // 2, total - total // 2
        first, last = (less, more) if how == "SAME_UPPER" else (more, less)
        ends.append((first + signal.border[at][0], last + signal.border[at][1]))
    return ends


def same_at_both_ends(
    weight: np.ndarray, ends: list[Pair], dilation: Pair
) -> tuple[np.ndarray, Pair]:
    """Weights with zeros at one end, so that as many zeros may be at both ends of what is read.

    Raises:
        NotInNirError: there is no such number of zeros.
    """
    zeros = []
    for (before, behind), by in zip(ends, dilation, strict=True):
        if min(before, behind) < 0 or (before - behind) % by:
            raise NotInNirError(
                f"pads {before} and {behind} zeros; a Conv2d of NIR pads as many at either end"
            )
        zeros.append((max(behind - before, 0) // by, max(before - behind, 0) // by))
    padded = np.pad(weight, [(0, 0), (0, 0), *zeros])
    return padded, (max(ends[0]), max(ends[1]))


def plain_form(
    weight: np.ndarray, geometry: Geometry, read: tuple[int, ...]
) -> tuple[np.ndarray, Geometry]:
    """The same convolution without groups and dilations, of a square kernel.

    From 1.0.5 on nir cannot read others: it takes them for ones of other shapes.

    Args:
        weight: [C_out, C_in / groups, rows, columns].
        geometry: how it lies.
        read: [C_in, H, W], of what it reads.

    Raises:
        NotInNirError: it would be too large, or no kernel is square and gives the same.
    """
    out, wide, *taps = weight.shape
    groups, (rows, columns) = geometry.groups, geometry.dilation
    kernel = [(n - 1) * by + 1 for n, by in zip(taps, geometry.dilation, strict=True)]
    size, padding = max(kernel), list(geometry.padding)
    if out * wide * groups * size**2 > _MOST_WEIGHTS:
        raise NotInNirError("is too large without groups, as tools for NIR need it")
    spread = np.zeros((out, wide, *kernel))
    spread[:, :, ::rows, ::columns] = weight
    dense = np.zeros((out, wide * groups, *kernel))
    for c in range(out):
        first = c // (out // groups) * wide
        dense[c, first : first + wide] = spread[c]
    zeros = [(0, 0), (0, 0)]
    for axis in range(2):
        more, by = size - kernel[axis], geometry.stride[axis]
        over = (read[1 + axis] + 2 * padding[axis] - kernel[axis]) % by
        # Zeros in front move the kernel, so there is as much more padding; at the other end of
        # what is read that makes room for `before - behind` more, or less.
        fits = [n for n in range(more + 1) if 0 <= over + 2 * n - more < by]
        if not fits:
            raise NotInNirError(
                f"has a kernel of {kernel[0]} x {kernel[1]}, which nir from 1.0.5 on cannot read, "
                "and no square one gives the same"
            )
        zeros[axis] = (fits[0], more - fits[0])
        padding[axis] += fits[0]
    dense = np.pad(dense, [(0, 0), (0, 0), *zeros])
    return dense, Geometry(geometry.stride, (padding[0], padding[1]))
