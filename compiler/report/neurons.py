"""What a compiled model says about its own neurons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ...passes.analysis.activations import Activation
from ...passes.graph.graph import METADATA_PREFIX
from ...passes.graph.network import Network
from ...passes.lowering.spiking_form import spiking_form
from ...passes.neurons.neuron import Neuron
from ...runtime_ops.operators import neurons_of
from ..calibration.fitting.membrane import Membrane, MembraneHistogram
from ..counting.insertion import Insertion
from ..counting.neuron_spikes import NeuronSpikes
from .data import NeuronReport

#: What neurons saw, by the activation's name and the polarity of the neuron, "" for any.
Membranes = Mapping[tuple[str, str], MembraneHistogram]


def membrane_histograms(
    activations: Sequence[Activation],
    neurons: Mapping[str, Neuron],
    membranes: Mapping[str, Membrane],
) -> dict[tuple[str, str], MembraneHistogram]:
    """What the neurons of a network saw at calibration.

    Args:
        activations: those that became neurons.
        neurons: as they are by now, by the activation's output tensor.
        membranes: what they were fitted to, keyed likewise.

    Returns:
        By name of the activation and polarity. Activations that share a name are left out.
    """
    times = Counter(activation.name for activation in activations)
    return {
        (activation.name, polarity): histogram
        for activation in activations
        if times[activation.name] == 1
        for polarity, histogram in membranes[activation.output]
        .describe(neurons[activation.output])
        .items()
    }


def neuron_reports(snn: Network, membranes: Membranes | None = None) -> list[NeuronReport]:
    """One entry per neuron, read from the provenance that the nodes carry.

    Args:
        snn: the spiking network.
        membranes: what its neurons saw, where that is known.
    """
    snn = spiking_form(snn)
    seen, spikes = membranes or {}, NeuronSpikes(Insertion(snn, "reported"))
    reports = []
    for node in neurons_of(snn.proto):
        provenance = {p.key.removeprefix(METADATA_PREFIX): p.value for p in node.metadata_props}
        theta, channels = _range(provenance.get("theta") or provenance.get("scale"))
        source = provenance.get("source_node", node.name)
        polarity = provenance.get("polarity", "positive")
        calibrator = provenance.get("calibrator", "none")
        if "reason" in provenance:
            calibrator += f" ({provenance['reason']})"
        reports.append(
            NeuronReport(
                name=node.name,
                op=node.op_type,
                source_node=source,
                source_op=provenance.get("source_op", "quantiser of the source model"),
                polarity=polarity,
                levels=sum(spikes.span(node).levels),
                theta=theta,
                channels=channels,
                calibrator=calibrator,
                clip_rate=float(provenance.get("clip_rate", "nan")),
                error=float(provenance.get("error", "nan")),
                membrane=seen.get((source, polarity)) or seen.get((source, "")),
            )
        )
    return reports


def _range(text: str | None) -> tuple[list[float] | None, int]:
    """[least, largest] and the number of channels, from what ``describe_range`` wrote."""
    if not text:
        return None, 1
    numbers, _, channels = text.partition(" over ")
    try:
        found = [float(number) for number in numbers.split("..")]
        return [found[0], found[-1]], int(channels.split()[0]) if channels else 1
    except ValueError:  # of a model that is not ours
        return None, 1
