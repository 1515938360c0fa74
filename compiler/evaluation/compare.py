"""Compare networks on all samples: what their outputs are, what fires.

The samples run shard by shard (:mod:`.shards`), here (:mod:`.side_by_side`) or on the workers of a
cluster (:mod:`.on_workers`), and what is found in each is merged in their order. Memory grows with
the networks, not with the samples. Where spikes cannot be counted, or a membrane potential is NaN
on a sample, that is a warning, and the outputs are compared.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from ...passes.lowering.spikes_of_integers import holds_integers
from ...passes.lowering.spiking_form import spiking_form
from ..counting.results import NeuronResult
from ..progress import Progress
from ..report.results import EnergyResult, OutputResult
from ..running.planes import without_planes
from ..running.session import batch_size
from ..samples.base import GivenSamples
from .energy import EnergyTable, estimate_energy
from .on_workers import Elsewhere
from .partial import Partial
from .residue import float_residue
from .shards import Shards
from .side_by_side import THE_SNN, Networks, SideBySide
from .tally import Tally
from .tasks.choose import Given


@dataclass
class Comparison:
    """What all samples tell.

    Attributes:
        samples: how many were run.
        outputs: SNN against ANN.
        neurons: of the SNN; empty where spikes are not counted.
        energy: None where they are not.
        baselines: outputs of the other networks against the ANN, by name.
        task: what the labels belong to.
        warnings: what the user should know.
    """

    samples: int = 0
    outputs: list[OutputResult] = field(default_factory=list)
    neurons: list[NeuronResult] = field(default_factory=list)
    energy: EnergyResult | None = None
    baselines: dict[str, list[OutputResult]] = field(default_factory=dict)
    task: str = ""
    warnings: list[str] = field(default_factory=list)


def compare(
    networks: Networks,
    samples: GivenSamples,
    given: Given,
    table: EnergyTable,
    progress: Progress,
    elsewhere: Elsewhere | None = None,
    partial: Partial | None = None,
) -> Comparison:
    """Run the networks on all samples.

    Args:
        networks: what is compared.
        samples: test samples.
        given: the labels, and what is said of them.
        table: energies per operation.
        progress: told about batches done, or shards.
        elsewhere: workers that run the shards; None: they run here.
        partial: keeps what was found so far, and has what an earlier run found.

    Raises:
        ModelError: a network cannot be run.
        DataError: a network does not run on the samples, or they are not fit for it.
        ClusterError: the workers were lost.
        UsageError: what is found cannot be kept.
    """
    sample = next(samples.batches(1))
    size = samples.fixed_batch or batch_size(sum(array.nbytes for array in sample.values()))
    shards = Shards.of(samples, size)
    whole = elsewhere is None and partial is None
    sides = SideBySide(networks, samples, given, shards, whole)
    if partial is not None:
        partial.begin(networks, samples, given, shards)
        sides.seen = partial.seen
    found = Comparison()
    with closing(_states(sides, shards, progress, elsewhere, partial)) as states:
        tallies, found.samples = _merged(sides, states, partial, elsewhere is None)
    found.task, found.warnings = sides.task().name, list(sides.warnings)
    if sides.counting.problem:
        found.warnings.insert(0, f"spikes are not counted: {sides.counting.problem}")
    snn = tallies[THE_SNN]
    found.outputs = snn.results()
    counted = snn.counted()
    if counted is not None:
        found.neurons, synapses = counted
        residue = []
        if networks.in_detail:
            counting = without_planes(spiking_form(networks.snn))
            residue = float_residue(counting, sample, samples.count_in(sample))
        integers = holds_integers(networks.snn)
        found.energy = estimate_energy(found.neurons, synapses, residue, table, integers)
    found.baselines = {name: tallies[name].results() for name in networks.baselines}
    if snn.problem:
        found.warnings.append(f"spikes are not counted: {snn.problem}")
    found.warnings += snn.comparison.warnings(of_ann=True)
    for tally in tallies.values():
        found.warnings += tally.comparison.warnings(of_ann=False)
    if not sides.names:
        found.warnings.append("the networks have no floating-point output, so none is compared")
    if left := samples.count - found.samples:
        found.warnings.append(
            f"the last {left} samples were left out: they do not fill a batch of "
            f"{samples.fixed_batch}, which the model fixes"
        )
    return found


def _states(
    sides: SideBySide,
    shards: Shards,
    progress: Progress,
    elsewhere: Elsewhere | None,
    partial: Partial | None,
) -> Generator[dict[str, Any], None, None]:
    """What each shard gives, but those that an earlier run has done."""
    first = partial.done if partial is not None else 0
    if elsewhere is not None:
        yield from elsewhere.run(sides, range(first, shards.count), progress)
        return
    feeds = progress.track(sides.batches(first), shards.batches - first * shards.runs, "evaluating")
    for number in range(first, shards.count):
        yield sides.run(number, feeds)
    next(feeds, None)  # they end, and the progress


def _merged(
    sides: SideBySide,
    states: Iterator[dict[str, Any]],
    partial: Partial | None,
    runs_here: bool,
) -> tuple[dict[str, Tally], int]:
    """Everything that was found, and how many samples were run."""
    tallies: dict[str, Tally] = {}
    samples = 0

    def add(state: dict[str, Any]) -> int:
        if state["uncounted"]:
            sides.counting.give_up(state["uncounted"])
        tallies.update(tallies or sides.totals(runs_here))
        if sides.counting.problem:
            tallies[THE_SNN].spikes = None
        for name, tally in tallies.items():
            tally.merge(state["tallies"][name])
        return int(state["samples"])

    if partial is None:
        for state in states:
            samples += add(state)
        return tallies, samples

    def whole() -> dict[str, Any]:
        kept = {name: tally.state() for name, tally in tallies.items()}
        return {"samples": samples, "tallies": kept, "uncounted": sides.counting.problem}

    with partial.keeping(whole) as merging:
        if (before := partial.state) is not None:
            with partial.trusted():
                samples = add(before)
        for state in states:
            with merging():
                samples += add(state)
                partial.seen = sides.seen
    return tallies, samples
