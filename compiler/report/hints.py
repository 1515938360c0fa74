"""One line of advice on the number of levels, from what a compilation measured.

1. The relative errors of the outputs change as those of the neurons do (``other_levels.py``).
2. So does the difference of each sample: its answer is looked up where differences are half and
   twice of what they are, and taken in proportion between.
3. Half the levels are advised where at least :data:`_ENOUGH` of the samples would keep the ANN's
   answer, or all that keep it now; twice as many where that gains :data:`_GAIN`. Otherwise both
   are told. Where no output has classes, errors are told.

All of it is of the calibration samples, and an estimate: ``snn-eval --sweep`` measures.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..calibration.other_levels import Ratios
from ..running.fidelity import OutputFidelity
from ..verify import Verification

_ENOUGH, _GAIN = 0.99, 0.005


@dataclass
class LevelsEstimate:
    """What the network would do with another number of levels.

    Attributes:
        levels: N.
        relative_error: the largest of any output.
        agreement: the lowest of any output; None where none has classes.
        spikes: to those of the network as it is; None where it is not known.
    """

    levels: int
    relative_error: float
    agreement: float | None
    spikes: float | None


def estimates(
    levels: int, ratios: tuple[Ratios, Ratios], verification: Verification
) -> list[LevelsEstimate]:
    """For half and twice the levels.

    Args:
        levels: N of the network.
        ratios: of half and of twice as many.
        verification: of the network.

    Returns:
        None of one level and fewer, and none where no output holds floats.
    """
    if not verification.outputs:
        return []
    # 15 levels are those of 4 bits, so twice as many are 31.
    others = (levels // 2, 2 * levels + levels % 2)
    return [
        LevelsEstimate(
            other,
            max(output.relative_l2 for output in verification.outputs) * ratio.error,
            min(
                (
                    agreement
                    for output in verification.outputs
                    if (agreement := _agreement(output, ratio.error)) is not None
                ),
                default=None,
            ),
            ratio.spikes,
        )
        for other, ratio in zip(others, ratios, strict=True)
        if other >= 1
    ]


def _agreement(output: OutputFidelity, factor: float) -> float | None:
    """Rule 2; beyond half and twice the differences as there."""
    known = output.agreement_at_half, output.agreement, output.agreement_at_double
    if known[0] is None or known[1] is None or known[2] is None:
        return None
    far, at = (known[2], factor - 1) if factor > 1 else (known[0], 2 - 2 * factor)
    return known[1] + (far - known[1]) * min(at, 1.0)


def hint(found: list[LevelsEstimate], agreement: float | None) -> str:
    """The line of advice, rule 3; "" where nothing was estimated.

    Args:
        found: by :func:`estimates`.
        agreement: of the network as it is.
    """
    if not found:
        return ""
    fewer, more = found[0], found[-1]
    if agreement is not None and fewer is not more:
        if fewer.agreement is not None and fewer.agreement >= min(_ENOUGH, agreement):
            return f"estimate: {_told(fewer)}: --levels {fewer.levels}"
        if more.agreement is not None and more.agreement - agreement >= _GAIN:
            return f"estimate: {_told(more)}: --levels {more.levels}"
    return f"estimates: {'; '.join(_told(one) for one in found)}"


def _told(one: LevelsEstimate) -> str:
    if one.agreement is None:
        text = f"{one.levels} levels err by about {one.relative_error:.2g}"
    else:
        text = f"{one.levels} levels keep about {one.agreement:.1%} agreement"
    return text if one.spikes is None else f"{text}, {one.spikes:.2g} x the spikes"
