"""ScaleFire: the octave neuron, a scale-and-fire neuron whose levels are integers.

    r = 1 / scale
    c = clip(X * r, -top_neg, top_pos)
    M = max(|c| * (2^24 / linear), 1.5 * 2^23)
    S = sign(c) * M
    K = S - (S - c)
    Y = scale * K

X is the membrane potential, scale the step s = lambda * theta between the lowest levels (scalar, or
one per channel) of o = s * G(h / s) (arXiv 2510.23383). K, the level, is an integer: every one from
0 to m = ``linear``, the multiples of 2 up to 2 m, the multiples of 4 up to 4 m and so on, up to
``top_pos`` and, below 0, ``top_neg``, which are levels themselves (``top_neg = 0``: it never fires
below 0). Levels lie dense where activations are and reach far where few are. Above an odd m there
are none: it is no multiple of 2, so that c just above it would not go to the nearest level.

The rounding is the adder's: S - c is rounded to a grid that is as wide as the octave of c asks for,
a tie to even, and the second difference is exact. M begins with 1.5 times a power of two, so that
M - c for c up to m stays in one binade. It has to be M - c: a sum c + M just below
an octave's upper edge would round in the octave above while M is a multiple of the finer grid, and
give a level too far away (m = 2, c = 3.9999998: 2 and not 4). In M - c such a value stays in its
octave or falls into the one below, where the edge is a level too; there the finer grid decides as
the coarser one would, as long as m^2 / 2^24 is below 1/2, hence m <= 2048. For double the constants
are 2^53 / m and 1.5 * 2^52. X is multiplied by a reciprocal and not divided, because that is what
some runtimes make of a division.

``DualScaleFire`` is the same operator under a second name, whose function body is always the one
for both signs. A model holds one function of a name, and its neurons need two: most fire on one
side only, and have a body of half the cost (``ScaleFire``).

The function body is the specification. The C++ kernel (``src/kernels/scale.h``) evaluates the same
operations in the same order; tests compare the two bit for bit. NaN gives NaN, infinities saturate,
a silent neuron gives +0.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .definition import NOUGHT, PER_CHANNEL, RECIPROCAL, Operator, widened

#: The largest ``linear``: up to here the grid below an octave's edge decides as the one above.
MAX_LINEAR = 2048
#: The largest level of either sign: float32 counts exactly up to here.
MAX_TOP = 1 << 24

_SCALED = (
    RECIPROCAL
    + """
    scaled = Mul ($X, reciprocal)
    precision = Constant <value = $type {$two_to_p}> ()
    slope = Div (precision, $linear)
    least = Constant <value = $type {$grid}> ()
"""
)

_BODY = (
    _SCALED
    + """
    lowest = Neg ($top_neg)
    clipped = Clip (scaled, lowest, $top_pos)
    magnitude = Abs (clipped)
    steep = Mul (magnitude, slope)
    grid = Max (steep, least)
    sign = Sign (clipped)
    signed_grid = Mul (sign, grid)
    rounded = Sub (signed_grid, clipped)
    level = Sub (signed_grid, rounded)
    $Y = Mul ($factor, level)
"""
)

_ONE_SIDED = (
    _SCALED
    + NOUGHT
    + """
    clipped = Clip (scaled, nought, $top_pos)
    steep = Mul (clipped, slope)
    grid = Max (steep, least)
    rounded = Sub (grid, clipped)
    level = Sub (grid, rounded)
    $Y = Mul ($factor, level)
"""
)

_INPUTS = {
    "X": "membrane potential, any shape",
    "scale": f"s, {PER_CHANNEL}; finite and greater than 0, as is 1 / s",
}
_ATTRIBUTES: dict[str, tuple[int | float, str]] = {
    "linear": (1, "m: all integers up to it are levels, 1..2048; even where a level lies above it"),
    "top_pos": (1, "the largest level, 0..2^24, itself a level"),
    "top_neg": (0, "minus the smallest level, 0..2^24, itself a level; one of the two is above 0"),
    "axis": (1, "the channel axis of X when scale is of shape [C]; negative counts from the end"),
}

SCALE_FIRE = Operator(
    name="ScaleFire",
    doc=f"Octave neuron: Y = scale * K, K an integer.\n\n{__doc__}",
    inputs=_INPUTS,
    attributes=_ATTRIBUTES,
    body=_BODY,
    one_sided=_ONE_SIDED,
    negative="top_neg",
)

DUAL_SCALE_FIRE = Operator(
    name="DualScaleFire",
    doc="Octave neuron for both signs: ScaleFire under a second name.\n\n"
    "DualScaleFire: what ScaleFire computes, with a function body for both signs.\n\n"
    "A model holds one function of a name. Neurons that fire on one side only are ScaleFire and\n"
    "have the cheaper body; those that fire on both are DualScaleFire.",
    inputs=_INPUTS,
    attributes=_ATTRIBUTES,
    body=_BODY,
)


def fire_octave(
    x: ArrayLike, scale: ArrayLike, linear: int, top_pos: int, top_neg: int
) -> NDArray[np.floating]:
    """The level K of every element, with the roundings of the function body.

    Args:
        x: membrane potential, float16, float32 or float64; anything else counts as float32.
        scale: s, broadcasts against ``x``.
        linear: m.
        top_pos: the largest level.
        top_neg: minus the smallest level.

    Returns:
        K of the shape that ``x`` and ``scale`` broadcast to, float64 for a float64 ``x``, else
        float32; NaN where ``x`` is NaN.
    """
    x, scale, wide = widened(x, scale)
    precision = 53 if wide is np.float64 else 24
    slope = wide(1 << precision) / wide(linear)
    least = wide(3 << precision - 2)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        clipped = np.clip(x * (wide(1) / scale), -wide(top_neg), wide(top_pos))
        grid = np.sign(clipped) * np.maximum(np.abs(clipped) * slope, least)
        return np.asarray(grid - (grid - clipped))


@lru_cache(maxsize=256)
def octave_levels(linear: int, top: int = MAX_TOP) -> NDArray[np.float64]:
    """The levels K from 0 to ``top``, ascending.

    Args:
        linear: m; odd, it is the highest level.
        top: the largest one wanted.
    """
    octaves = [np.arange(min(linear, top) + 1.0)]
    step, end = 2, linear
    while end < top and linear % 2 == 0:
        octaves.append(np.arange(end + step, min(2 * end, top) + 1.0, step))
        step, end = 2 * step, 2 * end
    levels = np.concatenate(octaves)
    levels.setflags(write=False)
    return levels


def is_level(linear: int, k: int) -> bool:
    """Whether the magnitude ``k`` is a level."""
    return 0 <= k <= MAX_TOP and k in octave_levels(linear, k)
