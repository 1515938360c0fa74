"""Sequential calibration: neurons are fitted, and layers corrected, on what their predecessors,
already spiking, give them.

Two twins of the network run side by side, round by round (``schedule.py``): the ANN, and the
network in which everything of earlier rounds spikes and is corrected. In each round

1. the neurons that read this stage are fitted to the distribution of their membrane potential,
   which was observed as the stage was computed: in both twins, of each sample once, or in the ANN
   alone where sequential calibration is switched off. The spiking twin has what the neuron will
   read, but a corrected layer is a regression, which pulls towards the mean: its largest values
   are smaller than the ANN's, so these count as much (``docs/calibration.md``);
2. the layers that read this stage run in both twins; the error of their output corrects their
   weights and biases (``compensate.py``);
3. both twins compute the next stage, with the neurons and layers just settled.

Where neurons fire step by step over T timesteps, the spiking twin has T times the rows
(``over_time.py``); what is fitted and corrected are means over steps.

Every batch passes each layer three times, whatever the depth of the network. Between rounds the
frontier waits in a temporary folder: memory holds one batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto, helper

from ....passes.analysis.activations import Activation
from ....passes.analysis.layers import Layer
from ....passes.graph.network import Network, constant_of, set_constant
from ....passes.lowering.quantise_linear import largest_weight
from ....passes.neurons.neuron import Neuron, SingleNeuron, ThresholdNeuron
from ...options import FULL, CompileOptions
from ...progress import Progress
from ...running.histograms import Observations, Watch, with_histograms
from ...running.segment import segment
from ...running.session import make_session, run_samples
from ...running.signed_histogram import SignedHistogram
from ...running.spool import Spool
from ...samples.files import Samples
from ..fire import fire
from ..fitting.membrane import Membrane
from ..fitting.watches import Fit, NotFiniteError, watches_of
from .compensate import Correction, LayerErrors, Rounding
from .over_time import by_steps, over_time, settle
from .schedule import Round, Schedule, make_schedule

#: Prefixes in the spool: of the spiking network's tensors where they differ from the ANN's, and of
#: the ANN's values that a layer is corrected towards.
_SPIKING, _EXPECTED = "spiking/", "expected/"
#: Batches that a neuron over time is settled on.
_BATCHES = 4
_ALL = (-np.inf, np.inf)


@dataclass
class Calibrated:
    """What calibration found.

    Attributes:
        neurons: keyed by the activation's output tensor.
        parameters: corrected weights and biases by name.
        weight_steps: of weights that are rounded, the step per output channel, by name.
        changes: one line per corrected layer.
        silent: activations that are 0 on every sample.
        membranes: what the neurons were fitted to, keyed like these.
    """

    neurons: dict[str, Neuron] = field(default_factory=dict)
    parameters: dict[str, np.ndarray] = field(default_factory=dict)
    weight_steps: dict[str, np.ndarray] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)
    silent: list[Activation] = field(default_factory=list)
    membranes: dict[str, Membrane] = field(default_factory=dict)


def calibrate_sequentially(
    network: Network,
    activations: Sequence[Activation],
    layers: Sequence[Layer],
    samples: Samples,
    size: int,
    fit: Fit,
    options: CompileOptions,
    settled: Mapping[str, Neuron],
    progress: Progress,
) -> Calibrated:
    """Fit every neuron and correct every layer.

    Args:
        network: the canonical ANN; its layers have parameters of their own.
        activations: those of the main graph.
        layers: layers to correct.
        samples: calibration samples.
        size: how many run at a time.
        fit: how neurons are fitted.
        options: resolved; which errors are corrected, and over how many timesteps neurons fire.
        settled: neurons inside bodies, fitted before.
        progress: told about rounds done.

    Raises:
        DataError: the network does not run on the samples.
        NotFiniteError: what a neuron sees is NaN or infinite.
    """
    corrected = layers if options.corrects_layers else ()
    schedule = make_schedule(network.proto, activations, corrected)
    with closing(Spool()) as spool:
        twins = _Twins(network, schedule, spool, fit, options, settled)
        twins.start(samples, size)
        count = len(schedule.rounds)
        for number in progress.track(range(count), count, "calibrating"):
            twins.round(number)
    return twins.result


class _Twins:
    """The ANN, and the network that spikes as far as it is settled."""

    def __init__(
        self,
        network: Network,
        schedule: Schedule,
        spool: Spool,
        fit: Fit,
        options: CompileOptions,
        settled: Mapping[str, Neuron],
    ) -> None:
        self._ann = network
        self._timesteps = options.timesteps if options.stepwise else 1
        self._snn = Network(ModelProto(), dict(network.weights))
        self._snn.proto.CopyFrom(network.proto)
        self._schedule, self._spool = schedule, spool
        self._fit, self._options, self._settled = fit, options, settled
        self._makers = {name: node for node in network.proto.graph.node for name in node.output}
        self._types: dict[str, int] = {}
        self._stepwise: set[str] = set()
        self._batches = 0
        self._histograms: dict[str, SignedHistogram] = {}
        self.result = Calibrated()

    def start(self, samples: Samples, size: int) -> None:
        """Compute stage 0, which is the same in both."""
        if not self._schedule.rounds:
            return
        for feed in samples.batches(size):
            for name, array in feed.items():
                self._put(name, self._batches, array)
            self._batches += 1
        self._advance(list(self._types), 0)

    def round(self, number: int) -> None:
        """Settle what reads the stage ``number``, then compute the next one."""
        this = self._schedule.rounds[number]
        for activation in this.neurons:
            histogram = self._histograms[activation.input]
            if self._fit.silent(activation, histogram):
                self.result.silent.append(activation)
            neuron = self._fit.neuron(activation, histogram)
            self.result.neurons[activation.output] = self._settled_over_time(activation, neuron)
        self._histograms.clear()
        if this.layers:
            self._correct(number, this)
        if number + 1 < len(self._schedule.rounds):
            self._advance(list(this.frontier), number + 1)
        else:
            self._forget(this.frontier)

    def _settled_over_time(self, activation: Activation, neuron: Neuron) -> Neuron:
        """The neuron for the step by step input that it has, if it has."""
        name = activation.input
        if name not in self._stepwise:
            return neuron
        batches = range(min(self._batches, _BATCHES))
        currents = (self._get(name, batch, spiking=True) for batch in batches)
        joined = np.concatenate([by_steps(array, self._timesteps) for array in currents], axis=1)

        def settled(_: str, part: SingleNeuron) -> SingleNeuron:
            assert isinstance(part, ThresholdNeuron)  # no other neuron fires step by step
            return settle(part, joined, activation.upper, self._batches)

        return neuron.changed(settled)

    def _correct(self, number: int, this: Round) -> None:
        """Correct the layers of a round."""
        totals = {layer.name: self._total(layer, number) for layer in this.layers}
        errors = {
            layer.name: LayerErrors(
                layer,
                constant_of(self._snn, layer.weight),
                self._batches,
                self._options.compensation,
                position,
                self._rounding(layer),
            )
            for position, layer in enumerate(this.layers)
        }
        wanted = list(dict.fromkeys(totals.values()))
        frontier = list(this.frontier)
        for batch, outputs, _ in self._run(self._ann, frontier, wanted, spiking=False):
            for name, array in outputs.items():
                self._spool.put(_EXPECTED + name, batch, array)
        for batch, outputs, _ in self._run(self._snn, frontier, wanted, True, stepwise=False):
            for layer in this.layers:
                name = totals[layer.name]
                expected = self._spool.get(_EXPECTED + name, batch)
                x = self._get(layer.input, batch, spiking=True)
                if layer.input in self._stepwise:
                    x = by_steps(x, self._timesteps).mean(axis=0, dtype=x.dtype)
                bounds = layer.bounds if name == layer.total else _ALL
                with np.errstate(invalid="ignore"):  # inf - inf; add leaves it out
                    error = np.clip(expected, *bounds) - np.clip(outputs[name], *bounds)
                errors[layer.name].add(x, error)
        for name in wanted:
            self._spool.drop(_EXPECTED + name)
        for layer in this.layers:
            correction = errors[layer.name].solve(
                constant_of(self._snn, layer.bias), self._options.bias_correction
            )
            self._apply(layer, correction)

    def _rounding(self, layer: Layer) -> Rounding | None:
        """How its weights are rounded, where they are and one neuron fires what it reads."""
        if not self._options.integers:
            return None
        name = layer.input
        while name not in self.result.neurons and name in self._makers:
            name = self._makers[name].input[0]
        neuron = self.result.neurons.get(name)
        if not isinstance(neuron, ThresholdNeuron):
            return None
        most = self._options.most_of_bits
        if most is None:
            most = largest_weight(neuron.level_count, self._options.int8_weights == FULL)
        return Rounding(most, float(neuron.theta))

    def _apply(self, layer: Layer, correction: Correction) -> None:
        if correction.steps is not None:
            self.result.weight_steps[layer.weight] = correction.steps
        elif correction.left:
            self.result.changes.append(f"{layer.op} {layer.name}: left as it is, {correction.left}")
            return
        what = "bias" if correction.ridge is None else f"weights (ridge {correction.ridge:g}), bias"
        self.result.changes.append(
            f"{layer.op} {layer.name}: {what} corrected, error "
            f"{correction.before:.4g} -> {correction.after:.4g}"
            + ("" if correction.rounding is None else f", rounding adds {correction.rounding:.4g}")
        )
        for name, values in ((layer.weight, correction.weight), (layer.bias, correction.bias)):
            self.result.parameters[name] = values
            set_constant(self._snn, name, values)

    def _total(self, layer: Layer, stage: int) -> str:
        """Where the error of a layer is watched: behind the residual if that is settled."""
        known = layer.residual is not None and self._schedule.stages[layer.residual] <= stage
        return layer.total if known else layer.output

    def _advance(self, frontier: list[str], stage: int) -> None:
        """Compute the frontier of a stage from another one, and observe what its neurons see."""
        following = self._schedule.rounds[stage]
        missing = [name for name in following.frontier if name not in frontier]
        watches = watches_of(following.neurons, self._fit.watch)
        fires = self._schedule.spiking
        also = fires if self._options.sequential else set()
        self._compute(self._ann, frontier, missing, watches, spiking=False)
        self._compute(
            self._snn,
            frontier,
            [name for name in missing if name in fires],
            [watch for watch in watches if watch.tensor in also],
            spiking=True,
        )
        self._forget(name for name in frontier if name not in following.frontier)

    def _compute(
        self,
        network: Network,
        given: list[str],
        wanted: list[str],
        watches: list[Watch],
        spiking: bool,
    ) -> None:
        """Compute tensors of one of the two networks, keep them, and observe some."""
        if not wanted and not watches:
            return
        observations = Observations(watches)
        for batch, outputs, observed in self._run(network, given, wanted, spiking, watches):
            observations.add(observed)
            for name, array in outputs.items():
                self._put(name, batch, array, spiking)
        if observations.not_finite:
            raise NotFiniteError(observations.not_finite)
        for name, histogram in observations.histograms.items():
            if name in self._histograms:
                self._histograms[name].merge_seen_again(histogram)
            else:
                self._histograms[name] = histogram

    def _run(
        self,
        network: Network,
        given: list[str],
        wanted: list[str],
        spiking: bool,
        watches: Sequence[Watch] = (),
        stepwise: bool = True,
    ) -> Iterator[tuple[int, dict[str, np.ndarray], list[np.ndarray]]]:
        """Number, tensors and what the watches saw of each batch.

        Tensors of the spiking network are ``stepwise``, or means over steps.
        """
        names = list(dict.fromkeys([*wanted, *(watch.tensor for watch in watches)]))
        part = segment(network, {name: self._types[name] for name in given}, names)
        if spiking:
            part = fire(part, {**self._settled, **self.result.neurons})
            if self._timesteps > 1:
                timed = self._stepwise.intersection(given)
                kept = wanted if stepwise else ()
                part, watches, found = over_time(part, self._timesteps, timed, kept, watches)
                self._stepwise |= found
        session = make_session(with_histograms(part, watches, wanted, self._batches))
        inputs = [value.name for value in part.proto.graph.input]
        for batch in range(self._batches):
            feed = {name: self._get(name, batch, spiking) for name in inputs}
            outputs = run_samples(session, feed, "the model")
            tensors = dict(zip(wanted, outputs, strict=False))
            yield batch, tensors, outputs[len(wanted) :]

    def _get(self, name: str, batch: int, spiking: bool) -> np.ndarray:
        own = spiking and name in self._schedule.spiking
        return self._spool.get(_SPIKING + name if own else name, batch)

    def _put(self, name: str, batch: int, array: np.ndarray, spiking: bool = False) -> None:
        self._types[name] = helper.np_dtype_to_tensor_dtype(array.dtype)
        self._spool.put(_SPIKING + name if spiking else name, batch, array)

    def _forget(self, names: Iterable[str]) -> None:
        for name in names:
            self._spool.drop(name)
            self._spool.drop(_SPIKING + name)
