"""Numbers as the report shows them; what does not apply is a dash."""

from __future__ import annotations

import math

from ..results import Estimate

NOTHING = "-"


def percent(share: float | None, digits: int = 2) -> str:
    """A share between 0 and 1."""
    return NOTHING if share is None or math.isnan(share) else f"{100 * share:.{digits}f} %"


def number(value: float | None, digits: int = 4) -> str:
    """Any number, to so many significant digits."""
    return NOTHING if value is None or math.isnan(value) else f"{value:.{digits}g}"


def count(value: float | None) -> str:
    """A number of things, or a mean of it: whole where it is large."""
    if value is None or math.isnan(value):
        return NOTHING
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:,.2f}"


def estimate(found: Estimate | None) -> str:
    """A share with its 95 % interval."""
    if found is None:
        return NOTHING
    return f"{percent(found.value)} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def energy(picojoules: float | None) -> str:
    """An energy in a unit that leaves few digits."""
    if picojoules is None or math.isnan(picojoules):
        return NOTHING
    for unit, size in (("mJ", 1e9), ("µJ", 1e6), ("nJ", 1e3)):
        if picojoules >= size:
            return f"{picojoules / size:.3g} {unit}"
    return f"{picojoules:.3g} pJ"


def seconds(value: float) -> str:
    """A time."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-6:.3g} µs"


def mebibytes(value: int | None) -> str:
    """An amount of memory in bytes."""
    return NOTHING if value is None else f"{value / 2**20:,.0f} MiB"
