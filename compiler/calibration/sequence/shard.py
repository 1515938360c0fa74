"""The side of the samples: two twins of the network run on some of the samples, or all of them.

The twins are the ANN, and the network that spikes as far as it is settled. Stage by stage they
compute what is needed of the next one, and sum what is seen there. Between stages the frontier
waits in a spool. The ANN depends on nothing that is settled, and is one stage ahead, in a thread of
its own.

Which positions of a layer's output are looked at, and in which half of the samples they are,
depends on the numbers that batches have among all: sums of shards add to those of the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, helper

from ....passes.analysis.layers import Layer
from ....passes.graph.network import Network, set_constant
from ....passes.neurons.neuron import Neuron
from ...running.histograms import Observations, Watch, with_histograms
from ...running.segment import segment
from ...running.session import make_session, run_each
from ...running.spool import Spool
from ...samples.base import Feed
from ..fire import fire
from .compensate import LayerErrors
from .exchange import Job, Seen, Settled
from .over_time import by_steps, over_time
from .sums import Summed

#: Prefix in the spool of the spiking network's tensors where they differ from the ANN's.
_SPIKING = "spiking/"
#: Batches that a neuron over time is settled on.
_BATCHES = 4


@dataclass(frozen=True)
class Part:
    """Batches that follow each other.

    Attributes:
        first: number of the first of them among all.
        count: how many there are.
        whole: whether these are all. Then errors are summed in the order of the batches; else
            those of each batch for itself, to be added to those of other parts.
    """

    first: int
    count: int
    whole: bool


class Shard:
    """The twins on some of the samples.

    Args:
        job: what is calibrated.
        part: which batches of the samples.
        spool: where the frontier waits; it is closed with this.
    """

    def __init__(self, job: Job, part: Part, spool: Spool) -> None:
        self._job, self._part, self._spool = job, part, spool
        self._ann, self._schedule = job.network, job.schedule
        self._snn = Network(ModelProto(), dict(job.network.weights))
        self._snn.proto.CopyFrom(job.network.proto)
        self._neurons: dict[str, Neuron] = dict(job.settled)
        self._types: dict[str, int] = {}
        self._stepwise: set[str] = set()
        self._totals = [
            {layer.name: job.watched(layer, stage) for layer in this.layers}
            for stage, this in enumerate(self._schedule.rounds)
        ]
        self._inputs: list[str] = []
        self._ahead = ThreadPoolExecutor(1)
        self._observed: Future[Observations]
        self._stopped = False
        self.stage = -1

    def close(self) -> None:
        """End what runs ahead, and forget the tensors."""
        self._stopped = True
        self._ahead.shutdown()
        self._spool.close()

    def start(self, batches: Iterable[Feed]) -> Seen:
        """Take the samples and compute stage 0, which is the same in both twins.

        Raises:
            DataError: the network does not run on the samples.
        """
        for number, feed in enumerate(batches):
            for name, array in feed.items():
                self._put(name, number, array)
        self._inputs = list(self._types)
        self._observed = self._run_ahead(0)
        return self._compute(0)

    def advance(self, settled: Settled) -> Seen:
        """Compute the next stage, with the neurons and parameters that were settled of the last.

        Raises:
            DataError: the network does not run on the samples.
        """
        self._neurons |= settled.neurons
        for name, values in settled.parameters.items():
            set_constant(self._snn, name, values)
        return self._compute(self.stage + 1)

    def _compute(self, stage: int) -> Seen:
        """Compute a stage from the one before, and observe it."""
        self.stage = stage
        analog = self._observed.result()
        if analog.not_finite:
            return Seen(not_finite=frozenset(analog.not_finite))
        if stage + 1 < len(self._schedule.rounds):
            self._observed = self._run_ahead(stage + 1)
        part = self._part
        errors = self._job.errors(stage, self._neurons, part.first, apart=not part.whole)
        spiking, summed = self._run_spiking(stage, errors)
        if spiking.not_finite:
            return Seen(not_finite=frozenset(spiking.not_finite))
        for name in set(self._kept(stage - 1)).difference(self._kept(stage)):
            self._spool.drop(name)
            self._spool.drop(_SPIKING + name)
        for name, histogram in spiking.histograms.items():
            analog.histograms[name].merge_seen_again(histogram)
        return Seen(analog.histograms, summed, self._currents(stage))

    def _currents(self, stage: int) -> dict[str, dict[int, np.ndarray]]:
        """What the neurons of a stage read step by step, of those of the first batches that are
        here."""
        first, last = self._part.first, min(self._part.first + self._part.count, _BATCHES)
        read = {activation.input for activation in self._schedule.rounds[stage].neurons}
        return {
            name: {at: self._get(name, at - first, spiking=True) for at in range(first, last)}
            for name in read.intersection(self._stepwise)
        }

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

    def _run_ahead(self, stage: int) -> Future[Observations]:
        """Compute a stage of the ANN; the future has what its neurons see."""

        def work() -> Observations:
            given = self._kept(stage - 1)
            wanted = [name for name in self._kept(stage) if name not in given]
            watches = self._job.watches[stage]
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
            return observations

        return self._ahead.submit(work)

    def _run_spiking(
        self, stage: int, errors: Sequence[LayerErrors]
    ) -> tuple[Observations, dict[str, Summed]]:
        """Compute a stage of the spiking network, see its neurons, and sum its layers' errors."""
        this, fires = self._schedule.rounds[stage], self._schedule.spiking
        given = list(self._schedule.rounds[stage - 1].frontier) if stage else self._inputs
        missing = [name for name in this.frontier if name in fires and name not in given]
        watches = self._job.watches[stage] if self._job.options.sequential else []
        watches = [watch for watch in watches if watch.tensor in fires]
        observations = Observations(watches)
        summed = {layer.name: Summed() for layer in this.layers}
        layers = [pair for pair in zip(this.layers, errors, strict=True) if not pair[1].is_left]
        totals = self._totals[stage]
        # What layers give is computed from the rows that are looked at, where that can be done.
        run = [layer for layer, own in layers if not self._is_made(layer, stage, own)]
        wanted = [*missing, *dict.fromkeys(totals[layer.name] for layer in run)]
        for batch, outputs, observed in self._run(self._snn, given, wanted, watches, missing):
            observations.add(observed)
            for name in missing:
                self._put(name, batch, outputs[name], spiking=True)
            for layer, own in layers:
                total = totals[layer.name]
                x = self._mean(layer.input, batch)
                residual = None
                if total not in outputs and layer.residual and total != layer.output:
                    residual = self._mean(layer.residual, batch)
                own.add(x, self._get(total, batch), outputs.get(total), residual)
                if not self._part.whole:
                    summed[layer.name].add(self._part.first + batch, own.take())
            for name in set(given).difference(this.frontier):
                self._spool.drop(_SPIKING + name, batch)
        if self._part.whole:
            summed |= {layer.name: Summed.of_all(own.halves) for layer, own in layers}
        return observations, summed

    def _is_made(self, layer: Layer, stage: int, errors: LayerErrors) -> bool:
        """Whether what a layer gives follows from tensors that are kept."""
        alone = self._totals[stage][layer.name] == layer.output
        kept = alone or layer.residual in self._schedule.rounds[stage].frontier
        return kept and errors.makes_outputs

    def _mean(self, name: str, batch: int) -> np.ndarray:
        """A tensor of the spiking network, over time the mean over steps."""
        array = self._get(name, batch, spiking=True)
        if name not in self._stepwise:
            return array
        steps = by_steps(array, self._job.timesteps)
        return np.asarray(steps.mean(axis=0, dtype=array.dtype))

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
            part = fire(part, self._neurons)
            if self._job.timesteps > 1:
                timed = self._stepwise.intersection(given)
                part, watches, found = over_time(
                    part, self._job.timesteps, timed, stepwise, watches
                )
                self._stepwise |= found
        count = self._part.count
        session = make_session(with_histograms(part, watches, wanted, count), one_of_many=True)
        inputs = [value.name for value in part.proto.graph.input]
        feeds = (
            {name: self._get(name, batch, spiking) for name in inputs} for batch in range(count)
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
