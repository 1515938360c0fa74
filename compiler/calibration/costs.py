"""What neurons cost at the network's outputs where squared error may be the wrong measure.

Neurons are fitted to small squared error. In front of a logarithm, a division or a normalisation
(``passes/analysis/small_values.py``) that may lose all that counts. Networks without such neurons
pay nothing here.

1. The network runs on a few samples with one of these neurons at a time, and with all that are not
   of these. A cost is the relative error of the outputs, its root mean square over them.
2. Squared error is the wrong measure where a cost is above :data:`_TIMES` the relative error of
   what the neuron gives.
3. There, if all its values are at least 0, it is tried with a fit to small relative error, and
   keeps that where it costs a third less.
4. There, an encoder is left out if its cost is above the root of the sum of the squares of all
   other costs: more than all others together. Then the same is asked of the next one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np

from ...passes.analysis.activations import Activation, find_activations
from ...passes.analysis.preprocessing import find_preprocessing
from ...passes.analysis.small_values import far_reader
from ...passes.graph.graph import Graph
from ...passes.graph.network import Network
from ...passes.graph.surgeon import export_network, import_model
from ...passes.neurons.insert_quant_clip import insert_quant_clip
from ...passes.neurons.neuron import Neuron
from ..options import CompileOptions
from ..progress import Progress
from ..running.fidelity import FidelityMeter, float_outputs
from ..running.histograms import observe_samples
from ..running.session import make_session, run_samples
from ..running.signed_histogram import SignedHistogram
from ..samples.base import Feed, Samples
from ..samples.part import Part
from .fitting.watches import Fit, watches_of
from .unknown_scale import mean_squares

#: Samples that are run, and how many at a time.
_SAMPLES, _BATCH = 32, 4
#: Neurons whose costs are measured, at most.
_MOST = 24
#: Cost over the error of what a neuron gives, up to which squared error is no wrong measure.
_TIMES = 2.0
#: Share of the cost that a fit to relative error has to stay below.
_WORTHWHILE = 2 / 3


@dataclass
class Costs:
    """What was decided.

    Attributes:
        relative: neurons to be fitted to relative error, by the tensor that they write.
        left_out: encoders to leave out, likewise, and why.
        changes: a line for each neuron that was measured.
    """

    relative: set[str] = field(default_factory=set)
    left_out: dict[str, str] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)


def measure_costs(
    graph: Graph,
    suspected: Mapping[str, str],
    samples: Samples,
    options: CompileOptions,
    progress: Progress,
) -> Costs:
    """Apply the rules above.

    Args:
        graph: canonical, its encoders in place.
        suspected: as :func:`find_suspected` gives them.
        samples: calibration samples, of which some, evenly spread, are run.
        options: resolved.
        progress: told about neurons measured.

    Raises:
        DataError: the network does not run on the samples.
    """
    activations, _ = find_activations(graph)
    bench = _Bench(export_network(graph), samples)
    if not bench.feeds or not bench.measures:
        return Costs()
    neurons = bench.fitted(activations, options)
    others = {name: neuron for name, neuron in neurons.items() if name not in suspected}
    found = Costs()
    rest = bench.cost(others) if others else 0.0
    costs: dict[str, float] = {}
    chosen = [a for a in activations if a.output in suspected and a.output in neurons]
    for activation in progress.track(chosen, len(chosen), "what encoders cost"):
        name = activation.output
        costs[name] = bench.cost({name: neurons[name]})
        line = f"{activation.op} {activation.name}, in front of {suspected[name]}: "
        line += f"{neurons[name].error:.4f} of what it gives, {costs[name]:.4f} of the outputs"
        relative = bench.relative(activation, options)
        if relative is not None and costs[name] > _TIMES * neurons[name].error:
            fitted = bench.cost({name: relative})
            line += f"; fitted to relative error {fitted:.4f}"
            if fitted < _WORTHWHILE * costs[name]:
                costs[name] = fitted
                found.relative.add(name)
        found.changes.append(line)
    _leave_out(found, chosen, suspected, costs, neurons, rest)
    return found


def find_suspected(graph: Graph, options: CompileOptions) -> dict[str, str]:
    """Neurons of the main graph, by what they write, and what makes much of their small values."""
    activations, _ = find_activations(graph)
    degrees = find_preprocessing(graph).degrees
    fired = {activation.output for activation in activations if not activation.encodes}
    tensors = graph.tensors()
    found: dict[str, str] = {}
    for activation in activations:
        if activation.output not in tensors or activation.input not in tensors:
            continue
        degree = degrees.get(id(tensors[activation.input]), 0.0)
        if options.encodes_whatever_it_costs and degree:
            continue
        reader = far_reader(tensors[activation.output], fired, activation.encodes and degree != 0)
        if reader is not None and (activation.encodes or _may_be_relative(activation)):
            found[activation.output] = f"{reader.op} {reader.name}"
    return dict(islice(found.items(), _MOST))


def _may_be_relative(activation: Activation) -> bool:
    """Whether levels could be relatively close: of an encoder, and where f is x above 0."""
    return activation.encodes or (activation.linear and not activation.signed)


def _leave_out(
    found: Costs,
    chosen: Sequence[Activation],
    suspected: Mapping[str, str],
    costs: dict[str, float],
    neurons: Mapping[str, Neuron],
    rest: float,
) -> None:
    """Rule 4."""
    names = {a.output: a.name for a in chosen if a.encodes}
    left = len(neurons)
    while left > 1:
        name = max(costs, key=lambda one: costs[one], default="")
        if name not in names or costs[name] <= _TIMES * neurons[name].error:
            return
        cost = costs.pop(name)
        others = float(np.sqrt(rest**2 + sum(other**2 for other in costs.values())))
        if cost <= others:
            return
        left -= 1
        found.relative.discard(name)
        found.left_out[name] = (
            f"encoder {names[name]} is left out: {suspected[name]} makes an error of {cost:.2g} at "
            f"the outputs of it, more than that of all other neurons together ({others:.2g})"
        )


class _Bench:
    """A network and a few samples.

    Attributes:
        feeds: the samples.
        measures: whether the network has outputs to compare.
    """

    def __init__(self, network: Network, samples: Samples) -> None:
        self._network = network
        wanted = max(_SAMPLES, samples.fixed_batch or 0)
        self._samples = Part(samples, max(samples.count // wanted, 1), held=True)
        self.feeds: list[Feed] = list(self._samples.batches(_BATCH))
        session = make_session(network)
        self._positions = float_outputs(session)
        self.measures = bool(self._positions)
        self._expected = [run_samples(session, feed, "the model") for feed in self.feeds]
        self._histograms: dict[str, SignedHistogram] = {}
        self._floors: dict[str, float] | None = None

    def fitted(
        self, activations: Sequence[Activation], options: CompileOptions
    ) -> dict[str, Neuron]:
        """Neurons as calibration would fit them to these samples, without any correction."""
        ends = self._samples.ends()
        if ends is not None:
            self._floors = mean_squares(self._network, activations, ends[0])
        fit = self._fit_of(options)
        watches = watches_of(activations, fit.watch)
        observed = observe_samples(
            self._network, watches, self._samples, _BATCH, Progress(), "what neurons see"
        )
        self._histograms = observed.histograms
        return {
            a.output: fit.neuron(a, observed.histograms[a.input])
            for a in activations
            if a.input not in observed.not_finite
        }

    def relative(self, activation: Activation, options: CompileOptions) -> Neuron | None:
        """Fitted to relative error; None where values are below 0, or all are 0."""
        histogram = self._histograms[activation.input]
        if histogram.silent or (activation.encodes and (histogram.minima < 0).any()):
            return None
        return self._fit_of(options).neuron(replace(activation, relative=True), histogram)

    def _fit_of(self, options: CompileOptions) -> Fit:
        """All levels in one step."""
        one_step = replace(options, timesteps=1, levels=options.total_levels)
        return Fit(one_step, {}, self._floors)

    def cost(self, neurons: Mapping[str, Neuron]) -> float:
        """Relative error of the outputs with these neurons; inf where it is not finite."""
        graph = insert_quant_clip(import_model(self._network), neurons).graph
        session = make_session(export_network(graph))
        meters = [FidelityMeter(name) for _, name in self._positions]
        for feed, expected in zip(self.feeds, self._expected, strict=True):
            outputs = run_samples(session, feed, "the model")
            for meter, (position, _) in zip(meters, self._positions, strict=True):
                meter.add(expected[position], outputs[position])
        errors = [meter.result().relative_l2 for meter in meters]
        return float(np.sqrt(np.mean(np.square(errors))))
