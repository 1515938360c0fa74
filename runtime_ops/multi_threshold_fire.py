"""MultiThresholdFire: a T-step integrate-and-fire neuron in one step.

    k = sign(X) * min(floor(|X| / theta + v0), levels_pos if X >= 0 else levels_neg)
    Y = theta * k

X is the membrane potential, theta the threshold (scalar, or one per channel), v0 the initial
membrane potential as a fraction of theta and k the number of spikes. With ``levels_neg = 0`` it is
the multi-threshold neuron that equals a T-step integrate-and-fire neuron for inputs in
[0, T * theta], N = T (arXiv 2510.23383); with ``levels_neg > 0`` it keeps negative levels (our
reading of polarity mapping, arXiv 2508.14520).

The function body is the specification. The C++ kernel (``src/kernels/fire.h``) evaluates the same
operations in the same order; tests compare the two bit for bit. Equality fires, NaN gives NaN,
infinities saturate, a silent neuron gives +0.
"""

from __future__ import annotations

from .definition import (
    NEURON_ATTRIBUTES,
    NOUGHT,
    PER_CHANNEL,
    SIGNED_SPIKES,
    SPIKES,
    Operator,
    fill,
)

_FIRE = "$Y = Mul ($factor, spikes)\n"

MULTI_THRESHOLD_FIRE = Operator(
    name="MultiThresholdFire",
    doc=f"Multi-threshold spiking neuron: Y = theta * k.\n\n{__doc__}",
    inputs={
        "X": "membrane potential, any shape",
        "theta": f"threshold, {PER_CHANNEL}; finite and greater than 0",
    },
    attributes=NEURON_ATTRIBUTES,
    body=NOUGHT + fill(SIGNED_SPIKES, u="$X", threshold="$factor", spikes="spikes") + _FIRE,
    one_sided=NOUGHT + fill(SPIKES, u="$X", threshold="$factor", spikes="spikes") + _FIRE,
    negative="levels_neg",
)
