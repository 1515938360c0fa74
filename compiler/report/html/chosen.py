"""Which neurons get a figure of their own: the few that a reader would ask for.

The first two by each of these, as far as they are known, are taken in turn up to
:data:`MOST_CHOSEN` neurons, and shown in the order of the network:

1. estimated energy (unary accounting) of the linear operators that read their spikes;
2. share of values beyond the highest level, if there are any;
3. expected relative error at calibration;
4. spikes per sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..data import CompileReport
from ..results import EvaluationResult

MOST_CHOSEN = 6
_EACH = 2


def chosen_of(result: EvaluationResult, report: CompileReport | None) -> dict[str, str]:
    """Names of neurons of an evaluated network, and why they are shown."""
    spent: dict[str, float] = {}
    for synapse in result.energy.synapses if result.energy else ():
        for name in synapse.inputs:
            spent[name] = spent.get(name, 0.0) + synapse.energy.get("unary", 0.0)
    return choose(
        [neuron.name for neuron in result.neurons],
        {
            "energy": spent,
            "clipping": {n.name: n.clip_rate for n in result.neurons if n.clip_rate is not None},
            "error": _errors(report),
            "spikes": {
                n.name: n.spikes_per_value * n.neurons * n.timesteps for n in result.neurons
            },
        },
    )


def chosen_of_compiled(report: CompileReport) -> dict[str, str]:
    """Names of neurons of a compiled network, and why they are shown."""
    activity = report.verification.neurons if report.verification else []
    return choose(
        [neuron.name for neuron in report.neurons if neuron.membrane is not None],
        {
            "clipping": {neuron.name: neuron.clip_rate for neuron in activity},
            "error": _errors(report),
            "spikes per value": {neuron.name: neuron.spikes_per_value for neuron in activity},
        },
    )


def choose(names: list[str], measures: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """The neurons with most of each measure, in the order of ``names``, and of what.

    Args:
        names: of the neurons there are.
        measures: values above 0 by neuron, by what they measure; NaN and others are ignored.
    """
    known = set(names)
    ranked = {
        what: sorted(
            (name for name, v in values.items() if name in known and not math.isnan(v) and v > 0),
            key=lambda name, values=values: (-values[name], names.index(name)),  # type: ignore[misc]
        )
        for what, values in measures.items()
    }
    found: dict[str, list[str]] = {}
    for place in range(_EACH):
        for what, ranking in ranked.items():
            if place < len(ranking) and (ranking[place] in found or len(found) < MOST_CHOSEN):
                nth = "most" if place == 0 else "second most"
                found.setdefault(ranking[place], []).append(f"{nth} {what}")
    return {name: ", ".join(found[name]) for name in names if name in found}


def _errors(report: CompileReport | None) -> dict[str, float]:
    return {neuron.name: neuron.error for neuron in report.neurons} if report else {}
