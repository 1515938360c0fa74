"""Sequential calibration: neurons are fitted, and layers corrected, on what their predecessors,
already spiking, give them.

Two twins of the network run side by side, round by round (``schedule.py``): the ANN, and the
network in which everything of earlier rounds spikes and is corrected. In each round

1. the neurons that read this stage are fitted to the distribution of their membrane potential,
   which was observed as the stage was computed: in both twins, of each sample once, or in the ANN
   alone where sequential calibration is switched off. The spiking twin has what the neuron will
   read, but a corrected layer is a regression, which pulls towards the mean: its largest values
   are smaller than the ANN's, so these count as much (``docs/calibration.md``);
2. the layers that read this stage have their weights and biases corrected by the error of their
   output (``compensate.py``), which was summed as the stage was computed: the ANN went on to these
   outputs, and of the spiking twin they are computed, with the weights that it had, at the few
   positions that are looked at (all of them where only the bias is corrected);
3. both twins compute the next stage, with the neurons and layers just settled, go on to what its
   layers give, and observe what its neurons see.

The ANN depends on nothing that is settled, and is one stage ahead, in a thread of its own.

Where neurons fire step by step over T timesteps, the spiking twin has T times the rows
(``over_time.py``); what is fitted and corrected are means over steps.

Every batch passes each layer once in either twin, whatever the depth of the network. Between rounds
the frontier waits in a spool, in memory as far as the options let it and on disk beyond: else
memory holds a few batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
from ...running.memory import free_memory
from ...running.segment import segment
from ...running.session import make_session, run_each
from ...running.signed_histogram import SignedHistogram
from ...running.spool import Spool
from ...samples.files import Samples
from ..fire import fire
from ..fitting.membrane import Membrane
from ..fitting.watches import Fit, NotFiniteError, watches_of
from .compensate import Correction, LayerErrors, Rounding
from .over_time import by_steps, over_time, settle
from .schedule import Schedule, make_schedule

#: Prefix in the spool of the spiking network's tensors where they differ from the ANN's.
_SPIKING = "spiking/"
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
    spool = Spool(int(options.memory * free_memory()))
    with closing(spool), closing(_Twins(network, schedule, spool, fit, options, settled)) as twins:
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
        self._totals = [
            {layer.name: self._total(layer, stage) for layer in this.layers}
            for stage, this in enumerate(schedule.rounds)
        ]
        self._histograms: dict[str, SignedHistogram] = {}
        self._errors: dict[str, LayerErrors] = {}
        self._inputs: list[str] = []
        self._ahead = ThreadPoolExecutor(1)
        self._observed: Future[dict[str, SignedHistogram]]
        self._stopped = False
        self.result = Calibrated()

    def close(self) -> None:
        """End what runs ahead."""
        self._stopped = True
        self._ahead.shutdown()

    def start(self, samples: Samples, size: int) -> None:
        """Compute stage 0, which is the same in both."""
        if not self._schedule.rounds:
            return
        for feed in samples.batches(size):
            for name, array in feed.items():
                self._put(name, self._batches, array)
            self._batches += 1
        self._inputs = list(self._types)
        self._observed = self._run_ahead(0)
        self._advance(0)

    def round(self, number: int) -> None:
        """Settle what reads the stage ``number``, then compute the next one."""
        this = self._schedule.rounds[number]
        for activation in this.neurons:
            histogram = self._histograms[activation.input]
            if self._fit.silent(activation, histogram):
                self.result.silent.append(activation)
            neuron = self._fit.neuron(activation, histogram)
            self.result.neurons[activation.output] = self._settled_over_time(activation, neuron)
        for layer in this.layers:
            correction = self._errors.pop(layer.name).solve(
                constant_of(self._snn, layer.bias), self._options.bias_correction
            )
            self._apply(layer, correction)
        if number + 1 < len(self._schedule.rounds):
            self._advance(number + 1)

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

    def _kept(self, stage: int) -> list[str]:
        """What the ANN holds of a stage: its frontier, and what its layers are corrected towards.

        In front of stage 0 these are the network's inputs.
        """
        if stage < 0:
            return self._inputs
        return list({**self._schedule.rounds[stage].frontier, **self._wanted(stage)})

    def _wanted(self, stage: int) -> dict[str, None]:
        """Where the errors of the layers of a stage are watched."""
        return dict.fromkeys(self._totals[stage].values())

    def _advance(self, stage: int) -> None:
        """Compute a stage from the one before, and observe it."""
        self._histograms = self._observed.result()
        if stage + 1 < len(self._schedule.rounds):
            self._observed = self._run_ahead(stage + 1)
        self._run_spiking(stage)
        for name in set(self._kept(stage - 1)).difference(self._kept(stage)):
            self._spool.drop(name)
            self._spool.drop(_SPIKING + name)

    def _run_ahead(self, stage: int) -> Future[dict[str, SignedHistogram]]:
        """Compute a stage of the ANN; the future has what its neurons see."""

        def work() -> dict[str, SignedHistogram]:
            given = self._kept(stage - 1)
            wanted = [name for name in self._kept(stage) if name not in given]
            watches = watches_of(self._schedule.rounds[stage].neurons, self._fit.watch)
            observations = Observations(watches)
            gone = self._schedule.spiking.intersection(given).difference(self._kept(stage))
            if stage:  # the spiking network is compared with these meanwhile
                gone.difference_update(self._wanted(stage - 1))
            for batch, outputs, observed in self._run(self._ann, given, wanted, watches):
                observations.add(observed)
                for name, array in outputs.items():
                    self._put(name, batch, array)
                for name in gone:  # of these it has its own
                    self._spool.drop(name, batch)
            return _histograms(observations)

        return self._ahead.submit(work)

    def _run_spiking(self, stage: int) -> None:
        """Compute a stage of the spiking network, see its neurons, and sum its layers' errors."""
        this, fires = self._schedule.rounds[stage], self._schedule.spiking
        given = list(self._schedule.rounds[stage - 1].frontier) if stage else self._inputs
        missing = [name for name in this.frontier if name in fires and name not in given]
        watches = watches_of(this.neurons, self._fit.watch) if self._options.sequential else []
        watches = [watch for watch in watches if watch.tensor in fires]
        self._errors = {
            layer.name: self._errors_of(layer, stage, position)
            for position, layer in enumerate(this.layers)
        }
        observations = Observations(watches)
        totals = self._totals[stage]
        # What layers give is computed from the rows that are looked at, where that can be done.
        run = [
            layer
            for layer in this.layers
            if not (self._errors[layer.name].is_left or self._is_made(layer, stage))
        ]
        wanted = [*missing, *dict.fromkeys(totals[layer.name] for layer in run)]
        for batch, outputs, observed in self._run(self._snn, given, wanted, watches, missing):
            observations.add(observed)
            for name in missing:
                self._put(name, batch, outputs[name], spiking=True)
            for layer in this.layers:
                total, errors = totals[layer.name], self._errors[layer.name]
                if errors.is_left:
                    continue
                x = self._mean(layer.input, batch)
                residual = None
                if total not in outputs and layer.residual and total != layer.output:
                    residual = self._mean(layer.residual, batch)
                errors.add(x, self._get(total, batch), outputs.get(total), residual)
            for name in set(given).difference(this.frontier):
                self._spool.drop(_SPIKING + name, batch)
        for name, histogram in _histograms(observations).items():
            self._histograms[name].merge_seen_again(histogram)

    def _is_made(self, layer: Layer, stage: int) -> bool:
        """Whether what a layer gives follows from tensors that are kept."""
        alone = self._totals[stage][layer.name] == layer.output
        kept = alone or layer.residual in self._schedule.rounds[stage].frontier
        return kept and self._errors[layer.name].makes_outputs

    def _mean(self, name: str, batch: int) -> np.ndarray:
        """A tensor of the spiking network, over time the mean over steps."""
        array = self._get(name, batch, spiking=True)
        if name not in self._stepwise:
            return array
        return np.asarray(by_steps(array, self._timesteps).mean(axis=0, dtype=array.dtype))

    def _errors_of(self, layer: Layer, stage: int, position: int) -> LayerErrors:
        """Sums of the errors of a layer that reads this stage, the ``position``-th of them."""
        return LayerErrors(
            layer,
            constant_of(self._snn, layer.weight),
            self._batches,
            self._options.compensation,
            position,
            self._rounding(layer),
            layer.bounds if self._totals[stage][layer.name] == layer.total else _ALL,
            constant_of(self._snn, layer.bias),
        )

    def _run(
        self,
        network: Network,
        given: list[str],
        wanted: list[str],
        watches: Sequence[Watch],
        stepwise: Sequence[str] = (),
    ) -> Iterator[tuple[int, dict[str, np.ndarray], list[np.ndarray]]]:
        """Number, tensors and what the watches saw of each batch; nothing if nothing is wanted.

        Of the spiking network over time the tensors ``stepwise`` have the rows of all steps; the
        others are means over them.
        """
        names = list(dict.fromkeys([*wanted, *(watch.tensor for watch in watches)]))
        if not names:
            return
        spiking = network is self._snn
        part = segment(network, {name: self._types[name] for name in given}, names)
        if spiking:
            part = fire(part, {**self._settled, **self.result.neurons})
            if self._timesteps > 1:
                timed = self._stepwise.intersection(given)
                part, watches, found = over_time(part, self._timesteps, timed, stepwise, watches)
                self._stepwise |= found
        session = make_session(
            with_histograms(part, watches, wanted, self._batches), one_of_many=True
        )
        inputs = [value.name for value in part.proto.graph.input]
        feeds = (
            {name: self._get(name, batch, spiking) for name in inputs}
            for batch in range(self._batches)
        )
        for batch, outputs in enumerate(run_each(session, feeds, "the model")):
            if self._stopped:
                return
            yield batch, dict(zip(wanted, outputs, strict=False)), outputs[len(wanted) :]

    def _get(self, name: str, batch: int, spiking: bool = False) -> np.ndarray:
        own = spiking and name in self._schedule.spiking
        return self._spool.get(_SPIKING + name if own else name, batch)

    def _put(self, name: str, batch: int, array: np.ndarray, spiking: bool = False) -> None:
        self._types[name] = helper.np_dtype_to_tensor_dtype(array.dtype)
        self._spool.put(_SPIKING + name if spiking else name, batch, array)


def _histograms(observations: Observations) -> dict[str, SignedHistogram]:
    """What was observed.

    Raises:
        NotFiniteError: of these values some are not finite.
    """
    if observations.not_finite:
        raise NotFiniteError(observations.not_finite)
    return observations.histograms
