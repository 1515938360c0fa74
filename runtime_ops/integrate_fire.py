"""IntegrateFire: an integrate-and-fire neuron over timesteps, reset by subtraction.

Axis 0 of X is time-major, timesteps * B: step t of sample b is X[t * B + b]. For each step, with
the residual membrane potential r = 0 at first,

    u = r + X[t]
    k = sign(u) * min(floor(|u| / theta + v0), levels_pos if u >= 0 else levels_neg)
    Y[t] = theta * k
    r = u - Y[t]

r is the membrane potential less its initial value: with ``levels_pos = 1, levels_neg = 0`` and
v = r + v0 * theta this is the classical neuron, h = v + x, a spike where h >= theta,
v = h - theta * spike, v(0) = v0 * theta (arXiv 2510.23383). More levels let a step fire several
spikes; negative ones treat both polarities alike (the residual potential over several steps is our
reading of polarity multi-spike mapping, arXiv 2508.14520). With ``timesteps = 1`` it is
MultiThresholdFire.

The function body is the specification. The C++ kernel (``src/kernels/integrate.h``) evaluates the
same operations in the same order; tests compare the two bit for bit. Equality fires; a NaN makes
its neuron NaN from that step on, an infinity saturates it from that step on, the two infinities one
after the other make it NaN; a silent neuron gives +0. For float16 the residual is kept in float32.
"""

from __future__ import annotations

from .definition import (
    ALIGN,
    NEURON_ATTRIBUTES,
    NOUGHT,
    PER_CHANNEL,
    SIGNED_SPIKES,
    SPIKES,
    Operator,
    fill,
)

# X as [timesteps, B, ...]; B = X.shape[0] / timesteps must come out even.
_HEAD = """
    single = Constant <value = int64[1] {1}> ()
    timesteps_int = Constant <value_int: int = @timesteps> ()
    timesteps = Reshape (timesteps_int, single)
    batches = Shape <start = 0, end = 1> ($X)
    batch = Div (batches, timesteps)
    features = Shape <start = 1> ($X)
    step_shape = Concat <axis = 0> (batch, features)
    timed_shape = Concat <axis = 0> (timesteps, step_shape)
    timed = Reshape <allowzero = 1> ($X, timed_shape)
"""

_ALIGN = """
    axis_int = Constant <value_int: int = @axis> ()
    axis_single = Constant <value = int64[1] {1}> ()
    axis = Reshape (axis_int, axis_single)
    axis_end = Constant <value = int64[1] {9223372036854775807}> ()
    tail = Slice (step_shape, axis, axis_end)
""" + fill(ALIGN, shape="step_shape", tail="tail")


def _body(spikes: str) -> str:
    """All but the head, with the lines that count spikes."""
    return (
        NOUGHT
        + """
    # One row per step: runtimes want to know the rank of what a Loop carries.
    every = Expand ($factor, step_shape)
    neurons = Size (every)
    row_shape = Reshape (neurons, single)
    thresholds = Reshape <allowzero = 1> (every, row_shape)
    rows_shape = Concat <axis = 0> (timesteps, row_shape)
    rows = Reshape <allowzero = 1> (timed, rows_shape)
    rest = Sub (thresholds, thresholds)
    always = Constant <value = bool {1}> ()
    final, fired_rows = Loop <body = step
        (int64 t, bool going, $type[neurons] residual)
        => (bool go_on, $type[neurons] left, $type[neurons] y) {
        go_on = Identity (going)
        x = Gather <axis = 0> (rows, t)
        u = Add (residual, x)
"""
        + fill(spikes, u="u", threshold="thresholds", spikes="spikes")
        + """
        y = Mul (thresholds, spikes)
        left = Sub (u, y)
    }> (timesteps_int, always, rest)
    x_shape = Shape ($X)
    $Y = Reshape <allowzero = 1> (fired_rows, x_shape)
"""
    )


INTEGRATE_FIRE = Operator(
    name="IntegrateFire",
    doc=f"Integrate-and-fire neuron over timesteps.\n\n{__doc__}",
    inputs={
        "X": "input current, axis 0 is timesteps * B, time-major",
        "theta": f"threshold, {PER_CHANNEL} (of one step); finite and greater than 0",
    },
    attributes={
        **NEURON_ATTRIBUTES,
        "axis": (1, "the channel axis of one step, [B, ...], when theta is of shape [C]"),
        "timesteps": (1, "T, 1..2^31; divides axis 0 of X"),
    },
    body=_body(SIGNED_SPIKES),
    one_sided=_body(SPIKES),
    negative="levels_neg",
    head=_HEAD,
    align=_ALIGN,
)
