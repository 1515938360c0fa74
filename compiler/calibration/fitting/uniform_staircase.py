"""A staircase whose levels are equally far apart: the uniform calibrators for ScaleFire neurons.

1. f(a x) = a f(x) for a > 0: f is p x above 0 and q x below. In units of the step, the thresholds
   on the side of slope p lie at (k - 1/2) / |p|, and the levels are k, up to N_pos or N_neg by the
   sign of f. A step per channel is the scale of the neuron.
2. Any other f: thresholds where round(f(x) / step), within -N_neg..N_pos, changes over the range of
   the values seen. Where f rises and falls it passes levels twice.
3. A staircase has at most N thresholds. Where passing levels twice takes more, the step is that of
   as many levels fewer.
4. Where f is 0 on all values, it is the staircase of rule 6 of ``staircase.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....passes.analysis.functions import ActivationFunction
from .distributions import Distribution
from .rows import Rows, pool
from .staircase import Function, Staircase, evaluate, find_staircase, join_levels
from .thresholds import Thresholds, find_thresholds

#: Points per level at which rule 2 evaluates f, besides the means of the bins.
_POINTS = 64


def find_uniform_staircase(
    rows: Sequence[Distribution],
    function: ActivationFunction,
    levels: int,
    calibrator: str,
    percentile: float,
) -> tuple[np.ndarray, Staircase]:
    """Scales and the staircase that the channels share.

    Args:
        rows: distributions of x: one per channel where ``function`` is homogeneous, or one.
        function: f.
        levels: number of thresholds N, 1..255.
        calibrator: one of ``UNIFORM_CALIBRATORS``.
        percentile: p of the percentile calibrator.

    Returns:
        Scales, float32 [rows], or [] of one row, and the staircase in units of the scale; its
        error is not measured.

    Raises:
        ValueError: f is NaN or infinite at a value of x.
    """
    x = rows[0] if len(rows) == 1 else pool(rows)
    if not np.any(evaluate(function.evaluate, x.means)):
        return np.ones((), np.float32), find_staircase(x.means, x.counts, function.evaluate, levels)
    values = Rows.joined(rows).of(function.evaluate)
    wanted = levels
    while True:
        found = find_thresholds(values, wanted, calibrator, percentile)
        staircase = _homogeneous(found, function) if function.homogeneous else None
        if staircase is None:
            staircase = _anywhere(found, x, function.evaluate)
        too_many = len(staircase.thresholds) - levels
        if too_many <= 0 or wanted == 1:
            break
        wanted = max(wanted - too_many, 1)
    scale = found.theta if function.homogeneous else np.ones((), np.float32)
    return scale, staircase


def _homogeneous(found: Thresholds, function: ActivationFunction) -> Staircase:
    """Rule 1."""
    thresholds, levels = [], [np.zeros(1)]
    below, above = function.evaluate(np.array([-1.0, 1.0]))
    if below:
        k = np.arange(1, (found.levels_pos if below > 0 else found.levels_neg) + 1)
        thresholds.append(-((k - 0.5) / abs(below))[::-1])
        levels.insert(0, np.sign(below) * k[::-1])
    if above:
        k = np.arange(1, (found.levels_pos if above > 0 else found.levels_neg) + 1)
        thresholds.append((k - 0.5) / abs(above))
        levels.append(np.sign(above) * k)
    return Staircase(
        np.concatenate(thresholds).astype(np.float32), np.concatenate(levels).astype(np.float32), 0
    )


def _anywhere(found: Thresholds, x: Distribution, function: Function) -> Staircase:
    """Rule 2."""
    total = found.levels_pos + found.levels_neg
    grid = np.linspace(x.low[0], x.high[-1], _POINTS * total + 1)
    grid = np.unique(np.concatenate([grid, x.means]))
    f = evaluate(function, grid)
    step = float(found.theta)
    k = np.clip(np.sign(f) * np.floor(np.abs(f) / step + 0.5), -found.levels_neg, found.levels_pos)
    cuts = np.flatnonzero(np.diff(k)) + 1
    if len(cuts) == 0:  # the calibrator left no level that is reached but one
        level = np.full(2, k[0] * step, np.float32)
        return Staircase(np.full(1, x.low[0], np.float32), level, 0)
    starts = np.concatenate([[0], cuts])
    return join_levels(grid, f, np.append(starts, len(grid)), k[starts] * step, function)
