"""Calibrators: from the distribution of a tensor or channel to a uniform quantiser.

    y = step * k,   k = sign(x) * min(floor(|x| / step + 1/2), N_pos if x >= 0 else N_neg)

with N_pos + N_neg = N, the number of levels given (2 N of the option where both signs occur).
Keeping negative levels, as many of them as the data need, is polarity
mapping (arXiv 2508.14520, whose equations are not public here: our reading). A tensor without
negative values gets N_neg = 0.

==========  ======================================================================================
max         The outermost levels reach the largest and the least value, and N is divided in that
            proportion. Nothing is clipped, and one outlier decides the step.
percentile  The same with the p-th percentile of all values, those at 0 included, for the largest,
            and the (100 - p)-th for the least. Where that is 0, the extreme takes its place.
mse         Step and division minimise sum (x - y)^2, the error-optimal uniform quantiser
            (W. R. Bennett 1948 for the terms; Panter and Dite 1951).
entropy     Step and division maximise H = -sum_k p_k log2 p_k in bits, p_k the share of the values
            that level k gets: the information kept after quantisation (arXiv 2508.14520 names the
            measure; how it is maximised is our reading). Sharply peaked distributions have many
            steps of nearly the same entropy, the largest of them useless: of the steps within
            0.02 bits of the most, that of mse among them, the one with the least squared error
            is taken.
==========  ======================================================================================

The squared error is exact for values spread evenly over their intervals (``distributions.py``):
with u = |x| / step and k = min(floor(u + 1/2), N), the integral of (t - k(t))^2 from 0 to u is
k / 12 + (u - k)^3 / 3. For a given step each further level on one side takes less off the error
than the one before it, so that the best division is found by bisection.

Steps are searched on a geometric grid from (range / N) down to 1/200 of it, then on a linear grid
around the best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .distributions import Distribution, Side

#: The calibrators of this file, by name.
UNIFORM_CALIBRATORS = ("max", "percentile", "mse", "entropy")

_COARSE = np.geomspace(1.0, 1 / 200, 48)
_FINE = 25
#: Entropies that differ by less, in bits, are the same.
_SAME_ENTROPY = 0.02


@dataclass(frozen=True)
class Uniform:
    """A uniform quantiser.

    Attributes:
        step: distance of the levels, above 0.
        levels_pos: number of levels above 0.
        levels_neg: number of levels below 0.
    """

    step: float
    levels_pos: int
    levels_neg: int = 0

    @property
    def levels(self) -> int:
        """Number of levels besides 0."""
        return self.levels_pos + self.levels_neg


def find_uniform(
    distribution: Distribution,
    levels: int,
    calibrator: str,
    percentile: float = 99.9,
    division: tuple[int, int] | None = None,
) -> Uniform | None:
    """The quantiser that a calibrator chooses; None where every value is 0.

    Args:
        distribution: of the values to be quantised.
        levels: N, at least 1.
        calibrator: one of :data:`UNIFORM_CALIBRATORS`.
        percentile: p of the percentile calibrator, in (0, 100].
        division: N_pos and N_neg where they are given, as for one channel of several.

    Raises:
        ValueError: there is no such calibrator.
    """
    if calibrator not in UNIFORM_CALIBRATORS:
        raise ValueError(f"{calibrator!r} is none of {', '.join(UNIFORM_CALIBRATORS)}")
    positive, negative = distribution.positive.peak, distribution.negative.peak
    if division is not None:  # values of a polarity without levels decide nothing
        ends = zip((positive, negative), division, strict=True)
        positive, negative = (peak if n else 0.0 for peak, n in ends)
    if positive == negative == 0:
        return None
    if calibrator == "percentile":
        tails = _percentiles(distribution, percentile)
        positive, negative = (
            min(tail, peak) or peak for tail, peak in zip(tails, (positive, negative), strict=True)
        )
    if calibrator in ("max", "percentile"):
        return _reaching(positive, negative, division or divide(levels, positive, negative))
    largest = (positive + negative) / levels
    if division is not None:
        largest = _reaching(positive, negative, division).step
    least = _least_error(distribution, levels, largest, division)
    if calibrator == "mse":
        return least
    most = _most_entropy(distribution, levels, largest, division)
    enough = entropy(distribution, most) - _SAME_ENTROPY
    return least if entropy(distribution, least) >= enough else most


def find_shared_step(members: Sequence[tuple[Distribution, tuple[int, int]]]) -> float:
    """The one step of several quantisers with which the sum of their squared errors is least.

    Args:
        members: distributions and the N_pos and N_neg of their quantisers.

    Returns:
        The step; 1 where every value is 0.
    """
    ends = []
    for distribution, (above, below) in members:
        sides = (distribution.positive, above), (distribution.negative, below)
        ends += [side.peak / n for side, n in sides if n]
    largest = max(ends, default=0.0)
    if largest == 0:
        return 1.0

    def objective(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        total = np.zeros(len(steps))
        for distribution, (above, below) in members:
            total += _errors(distribution, steps, np.full(len(steps), above), above + below)
        return total, np.zeros(len(steps), np.int64)

    return _search(objective, largest, 0).step


def divide(levels: int, positive: float, negative: float) -> tuple[int, int]:
    """N_pos and N_neg in proportion to two ranges; none is left without where N is 2 or more."""
    share = positive / (positive + negative)
    least = 1 if positive > 0 and (levels > 1 or positive >= negative) else 0
    most = levels - (1 if negative > 0 and (levels > 1 or positive < negative) else 0)
    above = min(max(round(levels * share), least), most)
    return above, levels - above


def squared_error(distribution: Distribution, quantiser: Uniform) -> float:
    """Sum of (x - y)^2 over all values."""
    steps, above = np.array([quantiser.step]), np.array([quantiser.levels_pos])
    return float(_errors(distribution, steps, above, quantiser.levels)[0])


def entropy(distribution: Distribution, quantiser: Uniform) -> float:
    """Bits that a value keeps on average."""
    masses = _masses(distribution, quantiser.step, quantiser.levels_pos, quantiser.levels_neg)
    return float(_information(masses / distribution.total).sum())


def clip_rate(distribution: Distribution, quantiser: Uniform) -> float:
    """Share of all values beyond the outermost levels: at (N + 1/2) * step and above."""
    beyond = 0.0
    for side, levels in (
        (distribution.positive, quantiser.levels_pos),
        (distribution.negative, quantiser.levels_neg),
    ):
        edge = np.array((levels + 0.5) * quantiser.step)
        beyond += float(side.totals[0] - side.below(edge)[0])
    return beyond / distribution.total if distribution.total else 0.0


def _percentiles(distribution: Distribution, percentile: float) -> tuple[float, float]:
    """The p-th percentile, and the (100 - p)-th as a magnitude; 0 where it has the other sign."""
    kept = percentile / 100 * distribution.total

    def tail(side: Side, others: float) -> float:
        return side.quantile(kept - others) if kept > others else 0.0

    above, below = distribution.positive.totals[0], distribution.negative.totals[0]
    return (
        tail(distribution.positive, distribution.total - above) if above else 0.0,
        tail(distribution.negative, distribution.total - below) if below else 0.0,
    )


def _reaching(positive: float, negative: float, division: tuple[int, int]) -> Uniform:
    """The least step whose outermost levels reach both ends."""
    ends = zip((positive, negative), division, strict=True)
    return Uniform(max(end / n for end, n in ends if n), *division)


def _least_error(
    distribution: Distribution, levels: int, largest: float, division: tuple[int, int] | None
) -> Uniform:
    positive, negative = distribution.positive, distribution.negative

    def objective(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if division is not None:
            above = np.full(len(steps), division[0])
        else:
            above = _best_division(positive, negative, steps, levels)
        return _errors(distribution, steps, above, levels), above

    return _search(objective, largest, levels)


def _best_division(positive: Side, negative: Side, steps: np.ndarray, levels: int) -> np.ndarray:
    """N_pos for each step: as long as a level helps more above 0 than below."""
    if negative.peak == 0 or positive.peak == 0:
        return np.full(len(steps), levels if negative.peak == 0 else 0)

    def gain(side: Side, levels_there: np.ndarray) -> np.ndarray:
        """What one level more takes off the squared error, in units of the step."""
        edge = (levels_there + 0.5) * steps
        tail = side.totals[:, None] - side.below(edge)
        return np.asarray(tail[1] - edge * tail[0])

    low, high = np.zeros(len(steps), np.int64), np.full(len(steps), levels)
    while (low < high).any():
        middle = (low + high) // 2
        more = gain(positive, middle) > gain(negative, np.maximum(levels - 1 - middle, 0))
        open_ = low < high
        low = np.where(open_ & more, middle + 1, low)
        high = np.where(open_ & ~more, middle, high)
    return low


def _errors(
    distribution: Distribution, steps: np.ndarray, above: np.ndarray, levels: int
) -> np.ndarray:
    """Squared error for each step and N_pos."""
    errors = _side_error(distribution.positive, steps, above)
    return np.asarray(errors + _side_error(distribution.negative, steps, levels - above))


def _side_error(side: Side, steps: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Squared error on one side, for each step and number of levels."""
    if len(side.low) == 0:
        return np.zeros(len(steps))
    step, most = steps[:, None], levels[:, None]

    def level(u: np.ndarray) -> np.ndarray:
        return np.asarray(np.minimum(np.floor(u + 0.5), most))

    point = side.low == side.high
    u = side.low[point] / step
    errors = (u - level(u)) ** 2 @ side.counts[point]
    wide = ~point
    low, high = side.low[wide] / step, side.high[wide] / step
    at_low, at_high = level(low), level(high)
    above, below = high - at_high, low - at_low
    # Between two thresholds there is no difference of cubes, which narrow bounds would lose.
    same = at_low == at_high
    width = np.where(same, 1, high - low)
    # (integral up to high) - (integral up to low)
    total = (at_high - at_low) / 12 + (above**3 - below**3) / 3
    mean = np.where(same, (above * above + above * below + below * below) / 3, total / width)
    errors += mean @ side.counts[wide]
    return np.asarray(errors * steps * steps)


def _most_entropy(
    distribution: Distribution, levels: int, largest: float, division: tuple[int, int] | None
) -> Uniform:
    signed = distribution.negative.peak > 0 and distribution.positive.peak > 0

    def objective(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = [_division_of_most_entropy(distribution, step, levels) for step in steps]
        return -np.array([bits for bits, _ in found]), np.array([n for _, n in found])

    def given(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        above = division[0] if division else 0 if distribution.positive.peak == 0 else levels
        quantisers = [Uniform(float(step), above, levels - above) for step in steps]
        bits = np.array([entropy(distribution, quantiser) for quantiser in quantisers])
        return -bits, np.full(len(steps), above)

    def error(steps: np.ndarray, above: np.ndarray) -> np.ndarray:
        return _errors(distribution, steps, above, levels)

    chosen = given if division is not None or not signed else objective
    return _search(chosen, largest, levels, _SAME_ENTROPY, error)


def _division_of_most_entropy(
    distribution: Distribution, step: float, levels: int
) -> tuple[float, int]:
    """Bits and N_pos of the best of the N + 1 windows of neighbouring levels that hold 0."""
    masses = _masses(distribution, step, levels, levels) / distribution.total
    bits = np.append(0, np.cumsum(_information(masses)))
    shares = np.append(0, np.cumsum(masses))
    first = np.arange(levels + 1)  # N_neg = levels - first
    last = first + levels
    inner = bits[last] - bits[first + 1]
    ends = _information(shares[first + 1]) + _information(np.maximum(1 - shares[last], 0))
    best = int(np.argmax(inner + ends))
    return float((inner + ends)[best]), best


def _masses(distribution: Distribution, step: float, above: int, below: int) -> np.ndarray:
    """How many values each level gets, the most negative first: [below + 1 + above]."""

    def side(values: Side, levels: int) -> np.ndarray:
        edges = (np.arange(levels) + 0.5) * step
        counts = np.concatenate([[0.0], values.below(edges)[0], values.totals[:1]])
        return np.asarray(np.diff(counts))

    up, down = side(distribution.positive, above), side(distribution.negative, below)
    silent = up[0] + down[0] + distribution.zeros
    return np.concatenate([down[:0:-1], [silent], up[1:]])


def _information(shares: np.ndarray) -> np.ndarray:
    """-p log2 p."""
    result: np.ndarray = -shares * np.log2(np.where(shares > 0, shares, 1))
    return result


def _search(
    objective: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    largest: float,
    levels: int,
    tolerance: float = 0.0,
    tie: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> Uniform:
    """The step of the least objective, and its division.

    Args:
        objective: of steps; gives values and N_pos of each.
        largest: the largest step of the grid.
        levels: N.
        tolerance: values this close to the least are as good.
        tie: of steps and their N_pos; the least decides between values that are as good.
    """

    def best(steps: np.ndarray) -> tuple[int, int]:
        values, above = objective(steps)
        if tie is not None:
            rank = np.where(values <= values.min() + tolerance, tie(steps, above), np.inf)
        else:
            rank = values
        at = int(np.argmin(rank))
        return at, int(above[at])

    coarse = largest * _COARSE
    k, _ = best(coarse)
    fine = np.linspace(coarse[min(k + 1, len(coarse) - 1)], coarse[max(k - 1, 0)], _FINE)
    at, above = best(fine)
    return Uniform(float(fine[at]), above, levels - above)
