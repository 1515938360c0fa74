"""Networks in sessions, side by side: they run shard after shard of the samples.

The SNN counts its own spikes inside the graph (``spikes.py``); of one that sends planes of binary
spikes it is the same network without planes that runs (``planes.py``). A network of integers, or of
standard operators alone, runs as it is, and beside it its spiking form, which counts
(``spiking_form.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import onnxruntime as ort

from ...passes.graph.network import Network
from ...passes.lowering.spiking_form import spiking_form
from ...runtime_ops.operators import neurons_of
from ..counting.spikes import SpikeMeter
from ..errors import ModelError
from ..running.fidelity import float_outputs
from ..running.histograms import with_runs
from ..running.planes import without_planes
from ..running.session import make_session, run_samples
from ..samples.base import Feed, GivenSamples
from .outputs import OutputComparison
from .shards import Shards
from .tally import Tally
from .tasks.choose import Given, choose_task
from .tasks.task import Batch, Seen, Task

THE_ANN, THE_SNN = "the ANN", "the SNN"


@dataclass(frozen=True)
class Networks:
    """What is compared.

    Attributes:
        ann: the trained network.
        snn: one that was compiled from it.
        baselines: others made from it, by name.
        in_detail: whether it is said where the SNN's outputs differ.
    """

    ann: Network
    snn: Network
    baselines: Mapping[str, Network]
    in_detail: bool = True


class Counting:
    """What counts the spikes of an SNN, without a session.

    Attributes:
        meter: None where there are no spikes, or they cannot be counted.
        apart: whether a network of its own counts, beside the SNN.
        problem: why they cannot be counted; empty where they can, or there are none.

    Args:
        snn: the network.
        names: of its outputs that are compared.
        samples: for which.
        runs: after how many runs the counts come, all at once.
    """

    def __init__(
        self, snn: Network, names: Sequence[str], samples: GivenSamples, runs: int
    ) -> None:
        spiking = spiking_form(snn)
        self.apart, self.problem = spiking is not snn, ""
        self.meter: SpikeMeter | None = None
        if neurons_of(spiking.proto):
            kept = [] if self.apart else names
            try:
                self.meter = SpikeMeter(without_planes(spiking), kept, samples.unbatched, runs)
            except ModelError as reason:  # several timesteps, another type, changed planes
                self.problem = str(reason)

    def give_up(self, problem: str) -> None:
        """Count no spikes, for this reason."""
        self.meter, self.problem = None, problem


class SideBySide:
    """The networks in sessions, and what runs them.

    Attributes:
        networks: what is compared.
        shards: how the samples are split.
        names: of the outputs that are compared, the floating-point ones.
        counting: the spikes of the SNN.
        seen: what the task is chosen by; None before the first shard was run. Who runs another one
            first says it.
        warnings: what the user should know of the task.

    Args:
        networks: what is compared.
        samples: test samples.
        given: the labels, and what is said of them.
        shards: how the samples are split.
        whole: this process runs all shards: spikes are kept in one meter, and come in the end.

    Raises:
        ModelError: a network cannot be run.
    """

    def __init__(
        self,
        networks: Networks,
        samples: GivenSamples,
        given: Given,
        shards: Shards,
        whole: bool,
    ) -> None:
        self.networks, self._samples, self.shards, self._whole = networks, samples, shards, whole
        self._given = given
        self.seen: Mapping[str, Seen] | None = None
        self._first = min(shards.size, samples.count)
        self.warnings: list[str] = []
        self._ann = make_session(networks.ann)
        self.names = [name for _, name in float_outputs(self._ann)]
        runs = shards.batches if whole else shards.runs
        self.counting = Counting(networks.snn, self.names, samples, runs)
        self._counting: dict[int, ort.InferenceSession] = {}
        self._others: dict[str, ort.InferenceSession] = {}
        self._task: Task | None = None
        self._feeds: tuple[int, Iterator[Feed]] | None = None

    def task(self) -> Task:
        """What the labels belong to; it is chosen once.

        Raises:
            DataError: the labels fit no output.
        """
        if self._task is None:
            assert self.seen is not None
            self._task = choose_task(self._given, self.seen, self._first, self.warnings)
        return self._task

    def look(self) -> None:
        """Find out what the task is chosen by, on the first batch, where it is asked for."""
        self.seen = {}
        if self._given.wanted:
            feed = next(self._samples.batches(self.shards.size))
            outputs = self._by_name(self._outputs(self._ann, feed, THE_ANN))
            self.seen = {name: Seen.of(output) for name, output in outputs.items()}

    def make_sessions(self) -> None:
        """Make those of a shard of the usual length now."""
        self._session_that_counts(self.shards.runs)
        if self.counting.meter is None or self.counting.apart:
            self._session(THE_SNN)
        for name in self.networks.baselines:
            self._session(name)

    def batches(self, number: int) -> Iterator[Feed]:
        """The batches of a shard, and of those behind it."""
        return self._samples.batches(self.shards.size, self.shards.start_of(number))

    def run_alone(self, number: int) -> dict[str, Any]:
        """Run a shard, whatever ran before; what is read goes on where that is the one before."""
        expected, feeds = self._feeds or (0, self.batches(0))
        if expected != number:
            feeds = self.batches(number)
        self._feeds = number + 1, feeds
        return self.run(number, feeds)

    def run(self, number: int, feeds: Iterator[Feed]) -> dict[str, Any]:
        """Run a shard.

        Args:
            number: of the shard.
            feeds: its batches; more may follow.

        Returns:
            "samples", how many it had; "tallies", by network, as :class:`.tally.Tally` merges
            them, without spikes where this process runs all shards; "uncounted", why no spikes are
            counted, or empty.

        Raises:
            DataError: a network does not run on the samples, or they are not fit for it.
        """
        runs, start = self.shards.runs_of(number), self.shards.start_of(number)
        tallies: dict[str, Tally] = {}
        counted = self._session_that_counts(runs)
        done = 0
        for feed in islice(feeds, runs):
            expected = self._outputs(self._ann, feed, THE_ANN)
            count, shown = self._samples.count_in(feed), self._by_name(expected)
            if self.seen is None:
                self.seen = {name: Seen.of(output) for name, output in shown.items()}
            task = self.task()
            tallies = tallies or self.tallies(task, self.counting)
            own = task.labels(start + done, start + done + count)
            for name, tally in tallies.items():
                outputs = self._run_one(name, feed, counted, tally)
                tally.comparison.add(expected, outputs, count, own, task.labelled)
                others = self._by_name(outputs)
                tally.add_to_task(Batch(feed, shown, others, own, start + done))
            done += count
        states = {name: tally.state(not self._whole) for name, tally in tallies.items()}
        if self.counting.meter is not None and not self._whole:
            self.counting.meter.clear()
        return {"samples": done, "tallies": states, "uncounted": self.counting.problem}

    def tallies(self, task: Task, counting: Counting) -> dict[str, Tally]:
        """An empty tally of each network but the ANN; the SNN's, the first, counts spikes."""
        tallies = {}
        for name in (THE_SNN, *self.networks.baselines):
            comparison = OutputComparison(
                name,
                self.names,
                unbatched=bool(self._samples.unbatched),
                in_detail=self.networks.in_detail and name == THE_SNN,
            )
            tallies[name] = Tally(comparison, task, counting.meter if name == THE_SNN else None)
        return tallies

    def totals(self, runs_here: bool) -> dict[str, Tally]:
        """Empty tallies that those of shards are merged into.

        Args:
            runs_here: whether shards run in this process.
        """
        counting = self.counting
        if runs_here and not self._whole:  # its meter is that of a shard
            counting = Counting(self.networks.snn, self.names, self._samples, 1)
        return self.tallies(self.task(), counting)

    def _run_one(
        self, name: str, feed: Feed, counted: ort.InferenceSession | None, tally: Tally
    ) -> list[np.ndarray]:
        """The outputs that are compared of a network; its spikes are counted."""
        meter = self.counting.meter if name == THE_SNN else None
        if counted is None or meter is None:
            return self._outputs(self._session(name), feed, name)
        if not self.counting.apart:
            outputs = run_samples(counted, feed, name)
            tally.count(outputs)
            own = [one.name for one in counted.get_outputs()]
            return [outputs[own.index(output)] for output in self.names]
        compared = self._outputs(self._session(name), feed, name)
        tally.count(run_samples(counted, feed, f"the spiking form of {name}"))
        return compared

    def _session(self, name: str) -> ort.InferenceSession:
        """Of a network that does not count."""
        if name not in self._others:
            if name == THE_SNN:
                self._others[name] = make_session(self.networks.snn)
            else:
                baseline = self.networks.baselines[name]
                self._others[name] = make_session(baseline, library=False, optimise=False)
        return self._others[name]

    def _session_that_counts(self, runs: int) -> ort.InferenceSession | None:
        """That gives the counts after so many runs; where all shards run here, after all."""
        meter = self.counting.meter
        if meter is None:
            return None
        runs = self.shards.batches if self._whole else runs
        if runs not in self._counting:
            try:
                self._counting[runs] = make_session(with_runs(meter.network, runs))
            except ModelError as reason:  # neurons of another type than float32
                self.counting.give_up(str(reason))
                return None
        return self._counting[runs]

    def _outputs(self, session: ort.InferenceSession, feed: Feed, name: str) -> list[np.ndarray]:
        own = [output.name for output in session.get_outputs()]
        outputs = run_samples(session, feed, name)
        return [outputs[own.index(one)] for one in self.names]

    def _by_name(self, outputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs with a batch axis, which those of one sample alone may lack."""
        alone = self._samples.unbatched
        return {
            name: output[None] if alone and output.shape[:1] != (1,) else output
            for name, output in zip(self.names, outputs, strict=True)
        }
