"""StaircaseFire: a scale-and-fire neuron with any staircase on a uniform grid.

    rate = (1 / scale) * density
    i = clip(floor(X * rate - start), 0, cells - 1)
    Y = scale * table[i] + 0

X is the membrane potential, scale the step s = lambda * theta (scalar, or one per channel); table
is the staircase G of o = s * G(h / s) (arXiv 2510.23383): cell i reaches from (i + start) / density
to (i + 1 + start) / density in units of scale, and has the level table[i]; what lies below or above
the grid has the first or last one. Thresholds lie wherever two neighbouring cells have different
levels, so they may be dense where activations are, and the levels need not ascend: they may follow
any activation function.

The function body is the specification: one look-up, whatever the table's length. It clips before it
takes whole numbers, which is the same; NaN looks up cell 0 and gives NaN. The C++ kernel
(``src/kernels/staircase.h``) evaluates the same operations in the same order; tests compare the two
bit for bit. Infinities saturate, a level -0 gives +0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .definition import NOUGHT, PER_CHANNEL, RECIPROCAL, Operator, widened

#: The most cells of a table.
MAX_CELLS = 4096

#: Of the largest level, what the smallest step counts as at least.
_SMALLEST_STEP = 2.0**-20

# The length of the table is what only the tensor tells: Size, of a constant, is folded. What is
# added last is 0, or NaN. Gather, not GatherElements of what is flattened, a fifteenth of its time
# in onnxruntime: onnx.reference refuses that for 64 cells and more (docs/kernels.md).
_BODY = (
    RECIPROCAL
    + NOUGHT
    + """
    rate = Mul (reciprocal, $density)
    scaled = Mul ($X, rate)
    position = Sub (scaled, $start)
    cells = Size ($table)
    cells_wide = Cast <to = $to> (cells)
    last = Add (cells_wide, minus_one)
    clipped = Clip (position, nought, last)
    is_nan = IsNaN (clipped)
    known = Where (is_nan, nought, clipped)
    cell = Cast <to = 6> (known)
    level = Gather ($table, cell)
    fired = Mul ($factor, level)
    nothing = Sub (clipped, clipped)
    $Y = Add (fired, nothing)
"""
)

STAIRCASE_FIRE = Operator(
    name="StaircaseFire",
    doc=f"Staircase neuron: Y = scale * table[i].\n\n{__doc__}",
    inputs={
        "X": "membrane potential, any shape",
        "scale": f"s, {PER_CHANNEL}; finite and greater than 0, as is density / s",
        "table": "levels of the cells, [cells], 1..4096 of them, finite, in units of scale",
    },
    attributes={
        "density": (1.0, "cells per unit of scale; finite and greater than 0"),
        "start": (0.0, "where cell 0 begins, in cells from X = 0; finite"),
        "axis": (
            1,
            "the channel axis of X when scale is of shape [C]; negative counts from the end",
        ),
    },
    body=_BODY,
)


def cell_of(
    x: ArrayLike, scale: ArrayLike, density: float, start: float, cells: int
) -> NDArray[np.int64]:
    """The cell of every element, with the roundings of the function body; of NaN, cell 0.

    Args:
        x: membrane potential, float16, float32 or float64; anything else counts as float32.
        scale: s, broadcasts against ``x``.
        density: cells per unit of scale.
        start: where cell 0 begins, in cells from 0.
        cells: the length of the table.

    Returns:
        Indices of the shape that ``x`` and ``scale`` broadcast to.
    """
    x, scale, wide = widened(x, scale)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        rate = wide(1) / scale * wide(np.float32(density))
        position = np.clip(x * rate - wide(np.float32(start)), 0, cells - 1)
    return np.where(np.isnan(position), 0, position).astype(np.int64)


def spikes_of_levels(levels: NDArray[np.floating]) -> NDArray[np.int64]:
    """The signed number of unit spikes k that each level costs: int64 of the same shape.

    A level is sent as its distance from the silent level, which is the one nearest to 0 (the first
    of several), in units of the smallest step: the least distance of two different levels, one of
    them next to the other in value. k is the nearest whole number. Steps below 2^-20 of the largest
    distance count as that: nobody would send a million spikes.

    Args:
        levels: any number, in any order; a level may occur more than once.
    """
    values = np.asarray(levels, np.float64)
    distance = values - values[np.abs(values).argmin()]
    steps = np.diff(np.unique(values))
    unit = max(steps.min(initial=np.inf), np.abs(distance).max(initial=0.0) * _SMALLEST_STEP)
    spikes: NDArray[np.int64] = np.rint(distance / unit).astype(np.int64)
    return spikes
