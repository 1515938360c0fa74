"""Intervals of statistics that are no shares of samples, all at 95 %.

1. A statistic is a function of sums over samples. Of each resample, sample i is in every sum
   w_i times, w_i drawn from Poisson(1) (Chamandy et al., "Estimating uncertainty for massive data
   streams", Google 2012): that is the bootstrap with a random number of samples, and its sums can
   be added up while the samples come, so memory does not grow with their number.
2. The interval is the value -+ 1.96 standard deviations over the resamples, within the range of the
   statistic. Of a single sample it is the whole range: one sample says nothing of others.
3. Two networks are compared within each resample: both answer the same samples.
4. The weights are the same in every run: those of a sample depend on its number alone, so that
   samples may be counted in parts (``merge``). Sums over weights have the order of the samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...report.results import Estimate
from ..statistics import Z

#: How often is resampled: the standard deviation is then good to about 2 %.
RESAMPLES = 1000

#: The range of a share, and that of a difference of two shares or correlations.
SHARE, DIFFERENCE = (0.0, 1.0), (-1.0, 1.0)

#: From sums [..., sums] to the statistic [...]; NaN where it is not defined.
Statistic = Callable[[np.ndarray], np.ndarray]


class Bootstrap:
    """Sums over samples, and over resamples of them.

    Args:
        sums: how many there are.
    """

    def __init__(self, sums: int) -> None:
        self._total = np.zeros(sums)
        self._resampled = np.zeros((RESAMPLES, sums))
        self.samples = 0

    def add(self, rows: np.ndarray, start: int | None = None) -> None:
        """What the next samples add to each sum.

        Args:
            rows: [samples, sums].
            start: number of the first of them; None: they follow those before.
        """
        first = self.samples if start is None else start
        self._total += rows.sum(axis=0)
        for number, row in enumerate(rows, first):
            weights = np.random.default_rng(number).poisson(1.0, RESAMPLES)
            used = np.flatnonzero(row)
            self._resampled[:, used] += weights[:, None] * row[used]
        self.samples += len(rows)

    def state(self) -> dict[str, Any]:
        """What :meth:`merge` takes."""
        return {"total": self._total, "resampled": self._resampled, "samples": self.samples}

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add the sums of samples behind these."""
        self._total += state["total"]
        self._resampled += state["resampled"]
        self.samples += state["samples"]

    def estimate(self, statistic: Statistic, limits: tuple[float, float] = SHARE) -> Estimate:
        """A statistic and its interval."""
        value = float(statistic(self._total))
        return interval(value, statistic(self._resampled), self.samples, limits)


def interval(
    value: float, resampled: np.ndarray, samples: int, limits: tuple[float, float]
) -> Estimate:
    """A value and its interval, rule 2; a value that is not defined has the whole range.

    Args:
        value: of all samples.
        resampled: of each resample; those that are NaN are left out.
        samples: how many there are.
        limits: the range.
    """
    known = resampled[np.isfinite(resampled)]
    if samples < 2 or len(known) < 2 or not np.isfinite(value):
        return Estimate(value, *limits)
    half = Z * float(known.std())
    return Estimate(value, max(value - half, limits[0]), min(value + half, limits[1]))


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """One sum over another; NaN where that is 0, as in a resample without samples."""
    there = whole > 0
    return np.where(there, part / np.where(there, whole, 1), np.nan)
