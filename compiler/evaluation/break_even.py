"""From where on spikes pay: per layer against a network of few bits, in levels N against the ANN.

``ann_bits`` takes e per multiply-accumulate, the SNN c per synaptic operation; at a rate r of
operations per multiply-accumulate the SNN takes r c, so it takes less where r < e / c. Spikes sent
one by one grow with N where levels share the same range: n times as many levels, n times the
spikes. The levels of a StaircaseFire are no multiples of one step, so its spikes grow otherwise:
then there is no such N. Both are estimates from what was counted (docs/energy.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mode

from ...runtime_ops.staircase_fire import STAIRCASE_FIRE
from ..counting.results import NeuronResult, SynapseResult
from ..report.results import LayerRate


def layer_rates(synapses: Sequence[SynapseResult]) -> list[LayerRate]:
    """Of the operators that read spikes.

    Args:
        synapses: with their energies.
    """
    return [
        LayerRate(
            synapse.name,
            synapse.graded / synapse.macs,
            _break_even(synapse, "graded_int8", synapse.graded, False),
            _break_even(synapse, "graded_int8", synapse.graded, True),
            synapse.unary / synapse.macs,
            _break_even(synapse, "unary_int8", synapse.unary, False),
            _break_even(synapse, "unary_int8", synapse.unary, True),
        )
        for synapse in synapses
        if not synapse.analog and synapse.macs
    ]


def _break_even(
    synapse: SynapseResult, accounting: str, operations: float, memory: bool
) -> float | None:
    """Operations per multiply-accumulate at which both take the same; None: it is not known."""
    if memory and not synapse.memory:
        return None
    spent, wanted = (
        synapse.energy[name] + (synapse.memory[name] if memory else 0.0)
        for name in (accounting, "ann_bits")
    )
    rate = wanted / spent * operations / synapse.macs if spent else math.inf
    return rate if math.isfinite(rate) else None


def levels_of(neurons: Sequence[NeuronResult], synapses: Sequence[SynapseResult]) -> int:
    """N of most neurons that linear operators read: levels of one polarity, over all timesteps.

    Returns:
        0 where none are read, or one is a StaircaseFire.
    """
    read = {name for synapse in synapses for name in synapse.inputs}
    found = [neuron for neuron in neurons if neuron.name in read]
    if any(neuron.op == STAIRCASE_FIRE.name for neuron in found):
        return 0
    return mode(max(n.levels) * n.timesteps for n in found) if found else 0


def cheaper_up_to(levels: int, synapses: Sequence[SynapseResult]) -> dict[str, float]:
    """The N at which spikes sent one by one take what the ANN takes, by its precision.

    Args:
        levels: N of the network that was counted; 0: nothing is known.
        synapses: with their energies.
    """
    found: dict[str, float] = {}
    if not levels:
        return found
    for precision, unary in (("fp32", "unary"), ("int8", "unary_int8")):
        for suffix, memory in (("", False), ("_memory", True)):
            if memory and not all(synapse.memory for synapse in synapses):
                continue
            ann = _sum(synapses, f"ann_{precision}", memory)
            analog = _sum([s for s in synapses if s.analog], unary, memory)
            spiking = _sum([s for s in synapses if not s.analog], unary, memory)
            most = levels * (ann - analog) / spiking if spiking else math.inf
            if math.isfinite(most):
                found[precision + suffix] = most
    return found


def _sum(synapses: Sequence[SynapseResult], accounting: str, memory: bool) -> float:
    return math.fsum(
        synapse.energy[accounting] + (synapse.memory[accounting] if memory else 0.0)
        for synapse in synapses
    )
