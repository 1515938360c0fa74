"""Steps that are powers of two: no way to divide by them, or to multiply, rounds differently."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

#: Exponents of steps whose reciprocals are normal float32 numbers too.
_LEAST, _MOST = -126, 126


def powers_of_two(
    steps: np.ndarray, error: Callable[[int, float], float], most: float
) -> np.ndarray:
    """For each step the power of two below or above it, whichever does better.

    Args:
        steps: float32 () or [rows], above 0.
        error: what a row would lose by a step.
        most: no power above it is taken where the one below is not above it too.

    Returns:
        float32, of the shape of ``steps``.
    """
    exponents = np.clip(np.floor(np.log2(steps.astype(np.float64))), _LEAST, _MOST).reshape(-1)
    found = np.empty(len(exponents))
    for row, exponent in enumerate(exponents):
        below, above = 2.0**exponent, 2.0 ** min(exponent + 1, _MOST)
        better = above <= most and error(row, above) < error(row, below)
        found[row] = above if better else below
    return found.reshape(steps.shape).astype(np.float32)
