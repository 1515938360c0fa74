"""How much each neuron adds to the error of a network's outputs: where accuracy goes.

Two figures of each neuron, in the order in which they run:

* single: it alone spikes. Everything else is the ANN, with the weights that it has. What the neuron
  costs by itself, if nothing made up for it.
* cumulative: it and all before it spike, and the layers that read them have the weights that
  calibration has corrected for that; what comes behind is the ANN. The steps of this curve are what
  a neuron costs where it stands, its corrections included; the last value is that of the SNN.

1. The ANN is the network that calibration starts from: BatchNormalization folded, channels balanced
   where the target wants that. It computes what the source does, but for rounding.
2. The error is the relative L2 error of an output, ||y - ann|| / ||ann||, over all samples; of
   several floating-point outputs the root mean square. It is infinite where shapes differ, as the
   number of detections may. Agreement is the share of samples with the same argmax, the lowest of
   the outputs [samples, classes].
3. A layer has its corrected weights, biases and rounded weights too, once all neurons spike whose
   values it reads with nothing that fires between.
4. An activation with a neuron for each polarity (LeakyRelu, PRelu) counts as one.
5. Neurons are those of one timestep, whatever the target makes of them: rounding to int8 beyond the
   weights, and what several timesteps do besides, are not in these figures.

What it costs: for N neurons N runs of a network that holds ANN and neurons (``switch_neurons.py``),
and N of one that holds the corrected layers beside the others, which takes up to twice as long and
has their weights twice. Large networks are run on fewer samples: :func:`samples_for`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...passes.analysis.activations import Activation
from ...passes.graph.network import Network, constants_of
from ...passes.graph.surgeon import export_network, import_model
from ...passes.lowering.function_bodies import function_bodies
from ...passes.neurons.insert_quant_clip import insert_quant_clip
from ...passes.neurons.neuron import Neuron
from ...passes.neurons.replace_activation import replace_activation
from ...passes.neurons.switch_neurons import Switched, switch_neurons
from ..progress import Progress
from ..samples.base import Feed, Samples
from .fidelity import FidelityMeter, OutputFidelity, float_outputs
from .session import make_session, run_samples

#: So many samples are run, or where that is much work fewer.
SAMPLES, FEWEST = 32, 8
#: Multiply-accumulates that is meant to take: about a minute on one core.
_WORK = 1e12
#: Runs of the ANN that are as much work as those of one neuron.
_RUNS = 3


@dataclass(frozen=True)
class LayerError:
    """What one neuron does to the outputs; the module's text says what is compared.

    Attributes:
        name: of the activation, or encoder.
        op: its operator, or "Encoder".
        output: the tensor that it writes, by which calibration knows it.
        single: relative error with this neuron alone.
        cumulative: relative error with it and all before it.
        single_agreement: share of samples with the ANN's argmax; None without classes.
        cumulative_agreement: likewise.
    """

    name: str
    op: str
    output: str
    single: float
    cumulative: float
    single_agreement: float | None
    cumulative_agreement: float | None


@dataclass(frozen=True)
class LayerErrors:
    """What :func:`layer_errors` found.

    Attributes:
        samples: how many were run.
        neurons: in the order in which they run.
    """

    samples: int
    neurons: list[LayerError] = field(default_factory=list)


def layer_errors(
    ann: Network,
    activations: Sequence[Activation],
    neurons: Mapping[str, Neuron],
    corrected: Network,
    samples: Samples,
    size: int,
    progress: Progress,
    most: int = SAMPLES,
) -> LayerErrors:
    """Measure every neuron by itself, and all up to it.

    Args:
        ann: the analog network, as calibration was given it.
        activations: of the neurons.
        neurons: calibrated, by the activation's output tensor.
        corrected: the analog network with the parameters that calibration has given it.
        samples: some of them are run, evenly spread.
        size: how many at a time.
        progress: told beforehand how many neurons there are, and how long it takes.
        most: samples to run; a batch size that the model fixes is filled.

    Raises:
        DataError: the network does not run on the samples.
    """
    size = samples.fixed_batch or min(size, most)
    wanted = samples.spread(size, most)
    feeds = [feed for i, feed in enumerate(samples.batches(size)) if i in wanted]
    count = sum(map(samples.count_in, feeds))
    by_output = {activation.output: activation for activation in activations}
    found: list[dict[str, list[OutputFidelity]]] = []
    for make in (_single, _cumulative):
        runner = _Runner(make(ann, neurons, corrected), bool(samples.unbatched))
        seconds = runner.seconds(feeds[0]) * len(feeds) * len(neurons)
        if not found:
            progress.tell(
                f"measuring {len(neurons)} neurons one by one on {count} samples, about "
                f"{math.ceil(_RUNS * seconds)} s"
            )
        found.append(runner.compare(feeds, samples, progress))
        del runner  # before the next one holds its weights
    return LayerErrors(
        count, [_record(by_output[output], *(one[output] for one in found)) for output in found[0]]
    )


def samples_for(macs: float, neurons: int) -> int:
    """How many samples of a network bound the time.

    Args:
        macs: multiply-accumulates of a sample.
        neurons: how many are measured.
    """
    affordable = _WORK / (_RUNS * neurons * macs) if macs > 0 and neurons else SAMPLES
    return int(min(max(affordable, FEWEST), SAMPLES))


@dataclass(frozen=True)
class _Mixtures:
    """A network in which neurons spike or not.

    Attributes:
        network: with an input for each switch.
        switches: the names of these inputs.
        on: those that are on by the neuron that is measured, in the order in which neurons run.
    """

    network: Network
    switches: list[str]
    on: dict[str, set[str]]


def _single(ann: Network, neurons: Mapping[str, Neuron], _: Network) -> _Mixtures:
    switched = switch_neurons(import_model(ann), list(neurons), {})
    on = {output: {switch} for output, switch in switched.neurons.items()}
    return _Mixtures(_fired(switched, neurons), list(switched.neurons.values()), on)


def _cumulative(ann: Network, neurons: Mapping[str, Neuron], corrected: Network) -> _Mixtures:
    """Rule 3."""
    before = constants_of(ann)
    parameters = {
        name: values
        for name, values in constants_of(corrected).items()
        if not np.array_equal(values, before[name], equal_nan=values.dtype.kind == "f")
    }
    switched = switch_neurons(import_model(ann), list(neurons), parameters)
    on, fired = {}, set()
    for output in switched.neurons:
        fired.add(output)
        layers = [layer for layer, read in switched.reads.items() if read <= fired]
        on[output] = {switched.neurons[one] for one in fired}
        on[output] |= {switched.layers[layer] for layer in layers}
    switches = [*switched.neurons.values(), *switched.layers.values()]
    return _Mixtures(_fired(switched, neurons), switches, on)


def _fired(switched: Switched, neurons: Mapping[str, Neuron]) -> Network:
    graph = insert_quant_clip(switched.graph, neurons).graph
    return function_bodies(export_network(replace_activation(graph).graph))


class _Runner:
    """Runs mixtures, and compares them with the one in which nothing is on."""

    def __init__(self, mixtures: _Mixtures, unbatched: bool) -> None:
        self._mixtures, self._unbatched = mixtures, unbatched
        self._session = make_session(mixtures.network)
        self._floats = float_outputs(self._session)

    def seconds(self, feed: Feed) -> float:
        """What a run takes, the first one aside."""
        self._run(feed, set())
        begin = time.perf_counter()
        self._run(feed, set())
        return time.perf_counter() - begin

    def compare(
        self, feeds: Sequence[Feed], samples: Samples, progress: Progress
    ) -> dict[str, list[OutputFidelity]]:
        """By the neuron that is measured, of each floating-point output."""
        on = self._mixtures.on
        meters = {neuron: [FidelityMeter(name) for _, name in self._floats] for neuron in on}

        def jobs() -> Iterator[tuple[Feed, list[np.ndarray], str]]:
            for feed in feeds:
                expected = self._run(feed, set())
                for neuron in on:
                    yield feed, expected, neuron

        total = len(feeds) * len(on)
        for feed, expected, neuron in progress.track(jobs(), total, "layer errors"):
            got = self._run(feed, on[neuron])
            for meter, first, second in zip(meters[neuron], expected, got, strict=True):
                meter.add(first, second, samples.count_in(feed))
        return {neuron: [one.result() for one in own] for neuron, own in meters.items()}

    def _run(self, feed: Feed, on: set[str]) -> list[np.ndarray]:
        switches = {name: np.array(name in on) for name in self._mixtures.switches}
        found = run_samples(self._session, {**feed, **switches}, "the ANN with some neurons")
        outputs = [found[position] for position, _ in self._floats]
        return [o[None] if self._unbatched and o.ndim == 1 else o for o in outputs]


def _record(
    activation: Activation, single: list[OutputFidelity], cumulative: list[OutputFidelity]
) -> LayerError:
    errors, agreements = [], []
    for found in (single, cumulative):
        squares = [one.relative_l2**2 for one in found]
        errors.append(math.sqrt(sum(squares) / len(squares)) if squares else math.nan)
        known = [one.agreement for one in found if one.agreement is not None]
        agreements.append(min(known, default=None))
    return LayerError(activation.name, activation.op, activation.output, *errors, *agreements)
