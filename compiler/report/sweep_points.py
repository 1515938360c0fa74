"""Points of a sweep as a table and a figure show them: accuracy upwards, energy to the right.

1. Accuracy of a point: of its outputs the first that has labels and classes: top-1. Where none has,
   the first metric of a task: mIoU, for example. Where there is none, the first with classes:
   agreement with the ANN. Where none has, the root mean square of the relative errors, of which
   less is better. All points of a sweep have the same outputs, so they are compared by the same
   measure.
2. Energy of a point: what an accounting says of it. Fronts are of the unary accounting, with
   weights of float32 and of 8 bits. A network with weights in float is in the latter too, as if
   they had 8 bits, its accuracy being that with weights in float; one of integers is in that alone,
   and so is a baseline of int8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .results import EvaluationResult, SweepPoint

#: Those that points are compared by: of weights in float32, and of 8 bits.
ACCOUNTINGS = (FLOAT, EIGHT_BITS) = ("unary", "unary_int8")


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of a point, rule 3.

    Attributes:
        measure: what it is, with its unit.
        value: more is better.
        shown: as it is plotted.
        interval: ends of the 95 % interval, as plotted.
    """

    measure: str
    value: float
    shown: float
    interval: tuple[float, float] | None = None


def accuracy_of(point: SweepPoint) -> Accuracy | None:
    """The accuracy of a point, rule 1; None where it has no outputs."""
    known = [("top-1, %", output.top1) for output in point.outputs]
    known += [(f"{m.name} x 100", m.value) for output in point.outputs for m in output.metrics[:1]]
    known += [("agreement with the ANN, %", output.agreement) for output in point.outputs]
    for measure, found in known:
        if found is not None:
            interval = (100 * found.low, 100 * found.high)
            return Accuracy(measure, found.value, 100 * found.value, interval)
    if not point.outputs:
        return None
    squares = [output.relative_l2**2 for output in point.outputs]
    error = math.sqrt(sum(squares) / len(squares))
    return Accuracy("relative error", -error, error)


def energy_of(point: SweepPoint, accounting: str) -> float | None:
    """The energy of a point in pJ per sample, rule 2; None where it has none."""
    return point.energy.get(accounting)


def baseline_points(result: EvaluationResult) -> list[SweepPoint]:
    """The baselines of an evaluation, to be drawn beside its sweep.

    A baseline "int8" has the energy that the accounting "ann_int8" says, among those of 8 bits.
    """
    totals = result.energy.totals if result.energy is not None else {}
    points = []
    for baseline in result.baselines:
        key = f"ann_{baseline.name}"
        energy = {EIGHT_BITS: totals[key]} if key in totals else {}
        points.append(SweepPoint(baseline.name, {}, baseline.outputs, energy, integers=True))
    return points
