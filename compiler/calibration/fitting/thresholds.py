"""From the distributions of a tensor's channels to the thresholds of a MultiThresholdFire.

The neuron is a uniform quantiser (``uniform_calibrators.py``) whose step is the threshold theta.

1. One row: theta and the numbers of levels are the calibrator's.
2. A row per channel: every channel has a theta of its own, all share N_pos and N_neg. Where there
   are values of both signs, these are what the calibrator chooses for all channels together, each
   in units of its scale (``channel_scales.py``); squared errors are those in the units of x.
3. A channel that is rarely active gets at least the theta of the whole tensor.
4. Where every value is 0 any theta will do: N * theta is 1, or what the activation can give.
5. Where a division is asked for, of neurons over several timesteps for example, it is kept.
6. N_pos * theta stays at or below ``upper``, as float32 numbers.
7. Where powers of two are asked for, each theta becomes the one below or above it, whichever has
   the least squared error; below it, where rule 6 does not let it grow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .channel_scales import channel_scales, rarely_active
from .distributions import Distribution
from .powers_of_two import powers_of_two
from .rows import pool
from .uniform_calibrators import Uniform, clip_rate, find_uniform, squared_error


@dataclass(frozen=True)
class Thresholds:
    """Thresholds and how well they do.

    Attributes:
        theta: float32, () or [rows].
        levels_pos: N_pos.
        levels_neg: N_neg.
        squared_error: sum of (x - y)^2 over all values.
        clip_rate: share of the values beyond the outermost levels.
    """

    theta: np.ndarray
    levels_pos: int
    levels_neg: int
    squared_error: float
    clip_rate: float


def find_thresholds(
    rows: Sequence[Distribution],
    levels: int,
    calibrator: str,
    percentile: float = 99.9,
    upper: float = np.inf,
    signed: bool = False,
    division: tuple[int, int] | None = None,
    power_of_two: bool = False,
) -> Thresholds:
    """The thresholds that a calibrator chooses.

    Args:
        rows: distributions of the values to be quantised: one, or one per channel.
        levels: N.
        calibrator: one of ``UNIFORM_CALIBRATORS``.
        percentile: p of the percentile calibrator, in (0, 100].
        upper: largest value there can be, inf if unbounded.
        signed: whether values below 0 may come even if there are none.
        division: N_pos and N_neg where they are given; ``levels`` is their sum.
        power_of_two: whether thetas are powers of two.
    """
    whole = rows[0] if len(rows) == 1 else pool(rows)
    shared = find_uniform(whole, levels, calibrator, percentile, division)
    if shared is None:
        negative = levels // 2 if signed else 0
        if division is not None:
            negative = division[1]
        ceiling = upper if np.isfinite(upper) else 1.0
        shared = Uniform(ceiling / max(levels - negative, 1), levels - negative, negative)
        steps = np.full(len(rows), shared.step)
    elif len(rows) == 1:
        steps = np.array([shared.step])
    else:
        shared, steps = _steps(rows, whole, shared, calibrator, percentile, division)
    most = np.float32(min(upper / max(shared.levels_pos, 1), float(np.finfo(np.float32).max)))
    if float(most) * max(shared.levels_pos, 1) > upper:  # rounding has gone up
        most = np.nextafter(most, np.float32(0))
    theta = np.maximum(steps, np.finfo(np.float32).tiny).astype(np.float32)
    theta = np.minimum(theta, most)
    if power_of_two:
        shared, theta = _rounded(rows, shared, theta, upper)
    used = [Uniform(float(t), shared.levels_pos, shared.levels_neg) for t in theta]
    pairs = list(zip(rows, used, strict=True))
    clipped = sum(row.total * clip_rate(row, quantiser) for row, quantiser in pairs)
    return Thresholds(
        theta if len(rows) > 1 else theta.reshape(()),
        shared.levels_pos,
        shared.levels_neg,
        sum(squared_error(row, quantiser) for row, quantiser in pairs),
        clipped / max(sum(row.total for row in rows), 1),
    )


def _rounded(
    rows: Sequence[Distribution], shared: Uniform, theta: np.ndarray, upper: float
) -> tuple[Uniform, np.ndarray]:
    """Steps that are powers of two, and how many levels.

    With all levels no step may be so large that the highest lies above ``upper``; the next power of
    two serves with fewer levels. What errs less is taken.
    """
    choices = [shared]
    if np.isfinite(upper) and shared.levels_pos > 1:
        larger = 2.0 ** np.ceil(np.log2(upper / shared.levels_pos))
        choices.append(replace(shared, levels_pos=max(int(upper / larger), 1)))
    best, least = (shared, theta), np.inf
    for choice in choices:

        def error(row: int, step: float, choice: Uniform = choice) -> float:
            return squared_error(rows[row], replace(choice, step=step))

        found = powers_of_two(theta, error, upper / max(choice.levels_pos, 1))
        total = sum(error(row, float(step)) for row, step in enumerate(found))
        if total < least:
            best, least = (choice, found), total
    return best


def _steps(
    rows: Sequence[Distribution],
    whole: Distribution,
    shared: Uniform,
    calibrator: str,
    percentile: float,
    given: tuple[int, int] | None,
) -> tuple[Uniform, np.ndarray]:
    """Rules 2 and 3: a quantiser for the whole tensor with the final division, and the steps."""
    levels = shared.levels
    division = shared.levels_pos, shared.levels_neg
    if given is None and whole.positive.peak and whole.negative.peak:
        units = pool(rows, channel_scales(rows), weigh=calibrator == "mse")
        scaled = find_uniform(units, levels, calibrator, percentile)
        assert scaled is not None  # scales do not turn values into 0
        division = scaled.levels_pos, scaled.levels_neg
        shared = find_uniform(whole, levels, calibrator, percentile, division) or shared
    found = [find_uniform(row, levels, calibrator, percentile, division) for row in rows]
    own = np.array([shared.step if q is None else q.step for q in found])
    steps: np.ndarray = np.where(rarely_active(rows), np.maximum(own, shared.step), own)
    return shared, steps
