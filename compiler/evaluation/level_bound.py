"""How far T steps of IntegrateFire can be from one step of MultiThresholdFire.

IntegrateFire(theta_IF, n+, n-, v0) sees x_1 .. x_T, here in units of theta_IF, and fires K spikes
in all; MultiThresholdFire(theta_IF / T, n+ T, n- T, v0) sees their mean and is at level M. With
the sums S_j = x_1 + .. + x_j, S_0 = 0, and T - j = m steps left, for any inputs

    min_j (n+ m + max(-n- j, a_j))  <=  K, M  <=  max_j (-n- m + min(n+ j, b_j)),   j = 0 .. T

1. n- = 0: a_j = b_j = floor(S_j + v0).
2. n+ = 0: a_j = b_j = -floor(-S_j + v0).
3. Both polarities, rho = max(v0, 1 - v0): a_j = ceil(S_j - rho), b_j = floor(S_j + rho); below
   v0 = 1/2 the least integer above S_j - rho, and the greatest below S_j + rho.

Proofs: docs/equivalence.md. Where the two sides are equal, K = M; so it is for one polarity and
inputs in [0, n+] (or [-n-, 0]).

4. For a neuron computed in float32 S_j - d_j stands for S_j in a_j and S_j + d_j in b_j, with
   d_j = 2^-21 sum_{t <= j} (|S_t - K_t| + |k_t| + 1), twice what its roundings may add up to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_ROUNDING = 2.0**-21


@dataclass(frozen=True)
class Levels:
    """What both neurons share.

    Attributes:
        positive: n+, levels of a step.
        negative: n-.
        v0: initial membrane potential, as a fraction of the threshold.
    """

    positive: int
    negative: int
    v0: float


def one_step_level(total: np.ndarray, steps: int, levels: Levels) -> np.ndarray:
    """The level M of MultiThresholdFire, from the sum of the inputs in units of theta_IF."""
    fired = np.floor(np.abs(total) + levels.v0)
    up = np.minimum(fired, levels.positive * steps)
    down = np.minimum(fired, levels.negative * steps)
    level: np.ndarray = np.where(total >= 0, up, -down)
    return level


def level_bounds(
    sums: np.ndarray, levels: Levels, spikes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest number of spikes that T steps can fire.

    Args:
        sums: S_1 .. S_T in units of theta_IF, float64 [T, ...]. Sums divided by the threshold are
            exact at its multiples, sums of quotients are not.
        levels: of the neuron.
        spikes: [T, ...], what a neuron computed in float32 fired: rule 4. None: exact arithmetic.

    Returns:
        Both [...].
    """
    slack = np.zeros_like(sums)
    if spikes is not None:
        left = np.abs(sums - np.cumsum(spikes, axis=0))
        slack = _ROUNDING * np.cumsum(left + np.abs(spikes) + 1, axis=0)
    fewest, most = _unsaturated(sums, slack, levels)
    steps = len(sums)
    done = np.arange(1, steps + 1).reshape(-1, *[1] * (sums.ndim - 1))
    up, down = levels.positive, levels.negative
    low = (up * (steps - done) + np.maximum(-down * done, fewest)).min(axis=0)
    high = (-down * (steps - done) + np.minimum(up * done, most)).max(axis=0)
    return np.minimum(low, up * steps), np.maximum(high, -down * steps)  # j = 0


def _unsaturated(
    sums: np.ndarray, slack: np.ndarray, levels: Levels
) -> tuple[np.ndarray, np.ndarray]:
    """a_j and b_j."""
    v0 = levels.v0
    if not levels.negative:
        return np.floor(sums + v0 - slack), np.floor(sums + v0 + slack)
    if not levels.positive:
        return -np.floor(v0 - sums + slack), -np.floor(v0 - sums - slack)
    rho = max(v0, 1 - v0)
    low, high = sums - slack - rho, sums + slack + rho
    if v0 < 1 / 2:
        return np.floor(low) + 1, np.ceil(high) - 1
    return np.ceil(low), np.floor(high)
