"""ScaleFire: the scale-and-fire neuron, any staircase of up to 255 steps.

    Y = scale * levels[#{i : X >= scale * thresholds[i]}]

X is the membrane potential, scale the step s = lambda * theta between levels (scalar, or one per
channel); thresholds, ascending, and levels, one more, are the staircase G of o = s * G(h / s)
(arXiv 2510.23383). The thresholds may lie where activations are dense, and the levels need not
ascend: they may follow any activation function.

The function body is the specification. It finds the level by eight halvings of a table padded to
255 thresholds, so its memory does not grow with their number. The C++ kernel
(``src/kernels/scale.h``) makes the same comparisons with a search tree held in registers; tests
compare the two bit for bit. Equality fires, NaN gives NaN, infinities saturate.
"""

from __future__ import annotations

import numpy as np

from .definition import ALIGN, Operator, fill

#: Eight halvings tell 2^8 levels apart.
MAX_THRESHOLDS = 255

_HALVING = """
    offset_$step = Constant <value_int = $before> ()
    probe_$step = Add ($position, offset_$step)
    entry_$step = Gather (table, probe_$step)
    threshold_$step = Mul (factor, entry_$step)
    fires_$step = GreaterOrEqual ($$X, threshold_$step)
    jump_$step = Constant <value_int = $step> ()
    passed_$step = Where (fires_$step, jump_$step, none)
    position_$step = Add ($position, passed_$step)
"""


def _halvings() -> str:
    text, position = "", "start"
    for step in (128, 64, 32, 16, 8, 4, 2, 1):
        text += fill(_HALVING, step=str(step), before=str(step - 1), position=position)
        position = f"position_{step}"
    return text


_BODY = (
    "x_shape = Shape ($X)\ntail = Shape <start: int = @axis> ($X)\n"
    + fill(ALIGN, values="$scale", shape="x_shape", tail="tail", aligned="factor")
    + """
    # Behind the last threshold: infinities, which only +inf reaches; Min takes it back.
    infinity_float = Constant <value_float = inf> ()
    infinity = CastLike (infinity_float, $X)
    most = Constant <value_ints = [255]> ()
    padding = Expand (infinity, most)
    padded = Concat <axis = 0> ($thresholds, padding)
    table = Slice (padded, zero, most)
    none = Constant <value_int = 0> ()
    start = Constant <value_int = 0> ()
"""
    + _halvings()
    + """
    last = Size ($thresholds)
    fired = Min (position_1, last)
    level = Gather ($levels, fired)
    staircase = Mul (factor, level)
    is_nan = IsNaN ($X)
    $Y = Where (is_nan, $X, staircase)
"""
)

SCALE_FIRE = Operator(
    name="ScaleFire",
    doc=f"Scale-and-fire neuron: Y = scale * levels[k].\n\n{__doc__}",
    inputs={
        "X": "membrane potential, any shape",
        "scale": "s, scalar or [C]; finite and greater than 0",
        "thresholds": "[K], K in 1..255, ascending and finite, in units of scale",
        "levels": "[K + 1], finite, in units of scale",
    },
    attributes={
        "axis": (
            1,
            "the channel axis of X when scale is of shape [C]; negative counts from the end",
        )
    },
    body=_BODY,
)


def spikes_of_levels(levels: np.ndarray) -> np.ndarray:
    """The signed number of spikes k that each level stands for: int64 [levels].

    k is the number of levels between this one and the silent one, which is the one nearest to 0
    (the first of several). Where a level has the silent one's value, k = 0: nothing is sent.
    """
    silent = int(np.abs(levels).argmin())
    return np.where(levels == levels[silent], 0, np.arange(len(levels)) - silent)
