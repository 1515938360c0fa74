"""Round the weights of a linear layer to integers, so that its outputs change least.

Weights of an output channel become w = step * q, q from -most to most. Rounded each to the nearest,
errors add up in the layer's output; but of inputs that vary together, the error of one weight can
be made up for by the next ones. With C the covariance of the inputs (of a group), the weights are
rounded one after the other, those of the inputs that vary most first, and what each leaves over is
given to those that follow, in the way that adds least to the squared error of the output given what
is rounded already (as GPTQ does, E. Frantar et al., arXiv 2210.17323). The mean of the error is
taken off the bias: b' = b + (W - W') mean(x).

1. C is damped by :data:`_DAMPING` of its mean diagonal, so that inputs that hardly vary are neither
   divided by nor given the errors of others.
2. Without C, of layers with too many inputs for it, all weights are rounded to the nearest.
3. The step of a channel is its largest weight over ``most``, or one of :data:`_SHARES` of that,
   with which rounding to the nearest leaves the least squared error, each input weighted by its
   variance; never one in which the bias does not fit into 32 bits.
"""

from __future__ import annotations

import numpy as np

from ....passes.lowering.quantise_linear import MOST_BIAS, weight_steps

_DAMPING = 0.01
_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)


def round_weights(
    weight: np.ndarray, covariance: np.ndarray | None, most: int, offset: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The integers and their steps.

    Args:
        weight: [groups, outputs, inputs].
        covariance: of the inputs, [groups, inputs, inputs]; None if it is not known.
        most: largest integer, 1..127.
        offset: of the bias, in units of the input's step, [groups * outputs].

    Returns:
        Integers as float64, of the weight's shape, and steps, float32 [groups * outputs].
    """
    groups, outputs, inputs = weight.shape
    rows = weight.reshape(-1, inputs)
    largest = weight_steps(rows, most, offset)
    floor = offset / MOST_BIAS
    if covariance is None:
        steps = _best_steps(rows, np.ones((1, inputs)), largest, floor, most)
        nearest = np.rint(rows / steps.astype(np.float64)[:, None])
        return np.clip(nearest, -most, most).reshape(weight.shape), steps
    variance = np.einsum("gii->gi", covariance)
    steps = _best_steps(rows, np.repeat(variance, outputs, axis=0), largest, floor, most)
    step = steps.astype(np.float64).reshape(groups, outputs)
    damping = _DAMPING * variance.mean(axis=1) + np.finfo(np.float64).tiny
    damped = covariance + damping[:, None, None] * np.eye(inputs)
    order = np.argsort(-variance, axis=1, kind="stable")
    across, down = order[:, None, :], order[:, :, None]
    damped = np.take_along_axis(np.take_along_axis(damped, down, 1), across, 2)
    # Row i tells how the error of the i-th weight is made up for by those after it.
    upper = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)
    left = np.take_along_axis(weight.astype(np.float64), across, 2)
    rounded = np.empty_like(left)
    for i in range(inputs):
        rounded[:, :, i] = np.clip(np.rint(left[:, :, i] / step), -most, most)
        error = (left[:, :, i] - rounded[:, :, i] * step) / upper[:, i, i, None]
        left[:, :, i + 1 :] -= error[:, :, None] * upper[:, i, None, i + 1 :]
    result = np.empty_like(rounded)
    np.put_along_axis(result, np.broadcast_to(across, result.shape), rounded, 2)
    return result, steps


def _best_steps(
    rows: np.ndarray,
    importance: np.ndarray,
    largest: np.ndarray,
    floor: np.ndarray,
    most: int,
) -> np.ndarray:
    """Rule 3: float32 [O]."""
    best, least = largest, np.full(len(rows), np.inf)
    for share in _SHARES:
        step = np.maximum(largest * np.float32(share), floor).astype(np.float32)
        wide = step.astype(np.float64)[:, None]
        rounded = np.clip(np.rint(rows / wide), -most, most) * wide
        error = ((rows - rounded) ** 2 * importance).sum(axis=1)
        best = np.where(error < least, step, best)
        least = np.minimum(error, least)
    return best
