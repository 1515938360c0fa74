"""From the distribution of a tensor's channels to an octave neuron: scale, m and highest levels.

Its levels are the integers 0..m in units of the scale s, then every second up to 2 m, every fourth
up to 4 m, and so on (``scale_fire.py``): N of them in all, besides silence, whatever m is. With
m = N they are equally far apart; the smaller m is, the denser they are near 0.

1. For every m of :data:`_LINEAR` up to N, and N itself, the s with the least expected squared error
   is looked for among values of which each is about a tenth above the one before, then twice more
   between the neighbours of the best one. The highest of N levels then lies between 1/64 of the
   largest value and a little above it; where there are values of both signs, that of N / 2. In the
   end s is moved a few times to where it is best for the values as they are divided between levels.
2. The error of a highest level is known in closed form from sums of values below each threshold, so
   that all of them are tried at once: where there are values of both signs, the division of N that
   has the least error is taken. s and m are the same for both.
3. A scale per channel: the pooled channels are fitted in units of their scales
   (``channel_scales.py``), and a squared error e^2 of a channel of scale c counts as e^2 / c: rules
   8 to 10 of ``staircase.py`` hold for this neuron too.
4. ``upper``, the largest value of a Clip, must not round below the highest level: values beyond it
   reach that level, whatever they are.
5. Where every value is 0, any scale does: the highest level is 1, or ``upper``.
6. Where powers of two are asked for, each scale becomes the one below or above it, whichever has
   the least squared error.
7. m may be given. Next to a neuron that was fitted to the same values with another N, only m of
   about the same share of N are tried, with scales for which the highest level lies about where it
   did: from N / 2 to 4 N the best share of m varies by a fifth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ....passes.neurons.neuron import OctaveNeuron
from ....runtime_ops.scale_fire import MAX_LINEAR, octave_levels
from .channel_scales import channel_scales
from .distributions import Distribution, Side
from .powers_of_two import powers_of_two
from .rows import Rows, Sides, pool

#: m that are tried.
_LINEAR = (2, 4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256)
#: Where the highest level lies at first, as shares of the largest value, and what scales are apart.
_LOWEST, _HIGHEST, _APART = 1 / 64, 1.05, 1.1
#: How often the scale is looked for between the neighbours of the best one, and at how many points.
_REFINEMENTS, _POINTS = 2, 9
#: How often it is moved to its best place in the end.
_MOVES = 4
#: How far from the neuron that is given m and the highest level may lie, and how often the scale is
#: looked for between neighbours, and moved, then.
_NEAR, _NEAR_REFINEMENTS, _NEAR_MOVES = 1.5, 1, 1
#: Share of the error of one scale for all that scales per channel have to stay below.
_WORTHWHILE = 0.9


@dataclass(frozen=True)
class Octave:
    """An octave neuron and how well it does.

    Attributes:
        scale: float32, () or [rows].
        linear: m.
        top_pos: highest level, in units of the scale.
        top_neg: magnitude of the lowest one.
        squared_error: sum of (x - y)^2 over all values.
    """

    scale: np.ndarray
    linear: int
    top_pos: int
    top_neg: int
    squared_error: float


@dataclass(frozen=True)
class _Found:
    """One scale for one distribution; as :class:`Octave`."""

    scale: float
    linear: int
    top_pos: int
    top_neg: int
    squared_error: float


def find_octave(
    rows: Sequence[Distribution],
    levels: int,
    upper: float = np.inf,
    signed: bool = False,
    power_of_two: bool = False,
    near: Octave | OctaveNeuron | None = None,
    linear: int | None = None,
) -> Octave:
    """The octave neuron with the least expected squared error.

    Args:
        rows: distributions of the values to be quantised: one, or one per channel.
        levels: N, besides silence, of both signs together.
        upper: largest value there can be, inf if unbounded.
        signed: whether values below 0 may come even if there are none.
        power_of_two: whether scales are powers of two.
        near: one of the same values with another N, of one scale: rule 7.
        linear: m; None: the one that errs least.
    """
    found, unit = _best(rows, levels, upper, signed, near, linear)
    octave = _bounded(found, unit, upper)
    return _rounded(octave, rows, upper) if power_of_two else octave


def _best(
    rows: Sequence[Distribution],
    levels: int,
    upper: float,
    signed: bool,
    near: Octave | OctaveNeuron | None,
    given: int | None,
) -> tuple[_Found, np.ndarray]:
    """The best one, and the units that its scale is in: () or [rows]."""
    whole = rows[0] if len(rows) == 1 else pool(rows)
    shared = _find(whole, levels, near, given)
    if shared is None:
        negative = levels // 2 if signed else 0
        ceiling = upper if np.isfinite(upper) else 1.0
        linear = min(max(levels, 1), MAX_LINEAR)
        step = ceiling / max(linear - negative, 1)
        shared = _Found(step, linear, linear - negative, negative, 0.0)
        return shared, np.ones(())
    if len(rows) == 1:
        return shared, np.ones(())
    unit = channel_scales(rows).astype(np.float64)
    own = _find(_pooled(rows, unit, unit), levels, None, given)
    alike = _pooled(rows, np.ones(len(rows)), 1 / unit)
    if own is None or own.squared_error >= _WORTHWHILE**2 * _error(alike, shared):
        return shared, np.ones(())
    error = sum(_errors_of_rows(Rows.joined(rows), own, own.scale * unit).tolist())
    return replace(own, squared_error=error), unit


def _rounded(octave: Octave, rows: Sequence[Distribution], upper: float) -> Octave:
    """Rule 6."""
    limits = octave.linear, octave.top_pos, octave.top_neg
    of = rows if octave.scale.ndim else [rows[0] if len(rows) == 1 else pool(rows)]

    def error(row: int, scale: float) -> float:
        return _error(of[row], _Found(scale, *limits, 0.0))

    scale = powers_of_two(octave.scale, error, np.inf)
    total = sum(error(row, float(step)) for row, step in enumerate(scale.reshape(-1)))
    return _bounded(_Found(1.0, *limits, total), scale.astype(np.float64), upper)


def _pooled(rows: Sequence[Distribution], unit: np.ndarray, weight: np.ndarray) -> Distribution:
    """All rows in one, each in its unit, its values counted as often as its weight says."""
    return pool(Rows.joined(rows).weighted(weight), unit)


def _bounded(found: _Found, unit: np.ndarray, upper: float) -> Octave:
    """The neuron with one scale, or one for each of the units, above 0: rule 4."""
    tiny = np.finfo(np.float32).tiny
    scale = np.asarray(np.maximum(found.scale * unit, tiny), np.float32)
    table = octave_levels(found.linear, found.top_pos)
    highest = len(table) - 1
    while highest > 1 and upper / float(scale.max()) < table[highest - 1 : highest + 1].mean():
        highest -= 1
    top = int(table[highest])
    return Octave(scale, found.linear, top, found.top_neg, found.squared_error)


def _find(
    values: Distribution, levels: int, near: Octave | OctaveNeuron | None, given: int | None
) -> _Found | None:
    """Rules 1, 2 and 7; None where every value is 0."""
    peak = max(values.positive.peak, values.negative.peak)
    if peak == 0:
        return None
    both = values.positive.peak > 0 and values.negative.peak > 0
    uniform = min(levels + levels % 2, MAX_LINEAR)
    linears = sorted({*(m for m in _LINEAR if m < levels), uniform}) if given is None else [given]
    around = None if near is None else _around(near, levels, linears)
    searches = []
    for linear in around[0] if around else linears:
        table = octave_levels(linear)[: levels + 1]
        if around:
            _, reach, top = around
            step = reach / table[min(top, len(table) - 1)]
            low, high = step / _NEAR, step * _NEAR
        else:
            low = _LOWEST * peak / table[-1]
            high = _HIGHEST * peak / table[len(table) // 2 if both else -1]
        scales = np.geomspace(low, high, int(np.log(high / low) / np.log(_APART)) + 2)
        searches.append(_Search(linear, table, scales))
    for _ in range((_NEAR_REFINEMENTS if around else _REFINEMENTS) + 1):
        _look(values, searches)
    found = [one for search in searches for one in search.found]
    best = min(found, key=lambda one: one.squared_error)
    for _ in range(_NEAR_MOVES if around else _MOVES):
        best = min(best, _moved(values, best), key=lambda found: found.squared_error)
    return best


def _around(
    near: Octave | OctaveNeuron, levels: int, linears: Sequence[int]
) -> tuple[list[int], float, int]:
    """Rule 7: the m to try, the largest value that has a level, and how many levels lead to it."""
    sides = [len(octave_levels(near.linear, top)) - 1 for top in (near.top_pos, near.top_neg)]
    share = levels / sum(sides)
    wanted = near.linear * share
    tried = [m for m in linears if wanted / _NEAR <= m <= wanted * _NEAR]
    reach = float(near.scale) * max(near.top_pos, near.top_neg)
    closest = min(linears, key=lambda m: abs(m - wanted))
    return tried or [closest], reach, max(round(max(sides) * share), 1)


def _moved(values: Distribution, found: _Found) -> _Found:
    """With the scale that is best for the levels that the values have: sum(x K) / sum(K^2)."""
    products = squares = 0.0
    for side, top in ((values.positive, found.top_pos), (values.negative, found.top_neg)):
        if not side.peak:
            continue
        table = octave_levels(found.linear, top)
        _, (count, first, _) = _on_levels(side, found.scale * table)
        products += float(table @ first)
        squares += float(table**2 @ count)
    scale = products / squares if squares else found.scale
    moved = replace(found, scale=scale)
    return replace(moved, squared_error=_error(values, moved))


@dataclass
class _Search:
    """The search for the scale of one m.

    Attributes:
        linear: m.
        table: its levels.
        scales: to be tried next.
        found: the best of those tried, each time.
    """

    linear: int
    table: np.ndarray
    scales: np.ndarray
    found: list[_Found] = field(default_factory=list)


def _look(values: Distribution, searches: Sequence[_Search]) -> None:
    """Try the scales of all searches, and refine them."""
    errors = {}
    for length in {len(search.table) for search in searches}:  # those of a length at once
        alike = [search for search in searches if len(search.table) == length]
        levels = np.concatenate([search.scales[:, None] * search.table for search in alike])
        cuts = np.cumsum([len(search.scales) for search in alike])[:-1]
        above, below = (
            np.split(_errors(side, levels) if side.peak else np.zeros_like(levels), cuts)
            for side in (values.positive, values.negative)
        )
        for search, *sides in zip(alike, above, below, strict=True):
            errors[search.linear] = sides
    neighbours = []
    for search in searches:
        found = _best_of(values, search, *errors[search.linear])
        search.found.append(found)
        scales = search.scales
        at = int(np.abs(scales - found.scale).argmin())
        neighbours.append((scales[max(at - 1, 0)], scales[min(at + 1, len(scales) - 1)]))
    low, high = np.transpose(neighbours)
    between = np.geomspace(low, high, _POINTS, axis=1)
    for search, scales in zip(searches, between, strict=True):
        search.scales = scales


def _best_of(values: Distribution, search: _Search, above: np.ndarray, below: np.ndarray) -> _Found:
    """The best of the scales, with the best highest levels; errors are as of :func:`_errors`."""
    table, scales = search.table, search.scales
    if not values.negative.peak:
        above, below = above[:, -1:], below[:, :1]
        counts = np.array([len(table) - 1])
    elif not values.positive.peak:
        above, below = above[:, :1], below[:, -1:]
        counts = np.array([0])
    else:
        counts = np.arange(len(table))
        below = below[:, ::-1]
    errors = above + below
    row, column = np.unravel_index(int(errors.argmin()), errors.shape)
    positive = int(counts[column])
    negative = len(table) - 1 - positive
    return _Found(
        float(scales[row]),
        search.linear,
        int(table[positive]),
        int(table[negative]),
        float(errors[row, column]),
    )


def _errors(side: Side | Sides, levels: np.ndarray) -> np.ndarray:
    """Squared errors of one side for each highest level, of each scale: [scales, levels].

    Args:
        side: one distribution, or as many as there are scales.
        levels: of each scale, [scales, levels], ascending.
    """

    def error(sums: np.ndarray) -> np.ndarray:
        count, first, second = sums
        result: np.ndarray = np.maximum(second - 2 * levels * first + levels**2 * count, 0)
        return result

    beyond, on_levels = (error(sums) for sums in _on_levels(side, levels))
    total: np.ndarray = np.cumsum(on_levels, axis=1) - on_levels + beyond
    return total


def _on_levels(side: Side | Sides, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count, sum and sum of squares of the values from each threshold on, and up to the next.

    Args:
        side: the values.
        levels: [..., levels], ascending; of several rows [rows, levels].
    """
    edges = (levels[..., 1:] + levels[..., :-1]) / 2
    nothing = np.zeros((3, *levels.shape[:-1], 1))
    rows = side.totals.shape[1:]
    totals = nothing + side.totals.reshape(3, *rows, *[1] * (levels.ndim - len(rows)))
    below = np.concatenate([nothing, side.below(edges), totals], axis=-1)
    return totals - below[..., :-1], np.diff(below, axis=-1)


def _error(values: Distribution, found: _Found) -> float:
    """The squared error of a neuron over some values."""
    total = 0.0
    for side, top in ((values.positive, found.top_pos), (values.negative, found.top_neg)):
        if not side.peak:
            continue
        table = octave_levels(found.linear, top)
        total += float(_errors(side, found.scale * table[None])[0, -1])
    return total


def _errors_of_rows(rows: Rows, found: _Found, scales: np.ndarray) -> np.ndarray:
    """The squared error over each row, of a neuron with a scale for each: float64 [rows]."""
    total = np.zeros(len(rows))
    for side, top in ((rows.positive, found.top_pos), (rows.negative, found.top_neg)):
        table = octave_levels(found.linear, top)
        total += _errors(side, scales[:, None] * table)[:, -1]
    return total
