"""Run networks side by side on all samples, batch by batch: what their outputs are, what fires.

Memory grows with the networks, not with the samples. The SNN counts its own spikes inside the graph
(``spikes.py``); of one that sends planes of binary spikes it is the same network without planes
that runs (``planes.py``). A network of integers, or of standard operators alone, runs as it is, and
beside it its spiking form, which counts (``spiking_form.py``). Where spikes cannot be counted, or a
membrane potential is NaN on a sample, that is a warning, and the outputs are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime as ort

from ...passes.graph.network import Network
from ...passes.lowering.spikes_of_integers import holds_integers
from ...passes.lowering.spiking_form import spiking_form
from ...runtime_ops.operators import neurons_of
from ..counting.results import NeuronResult, SynapseResult
from ..counting.spikes import SpikeMeter
from ..errors import DataError, ModelError
from ..model_io.load import read_model
from ..progress import Progress
from ..report.results import EnergyResult, OutputResult
from ..running.fidelity import float_outputs
from ..running.planes import without_planes
from ..running.session import batch_size, make_session, run_samples
from ..samples.files import Feed, GivenSamples
from .energy import EnergyTable, estimate_energy
from .outputs import OutputComparison
from .residue import float_residue
from .tasks.choose import Given, choose_task
from .tasks.detection import DetectionMeter
from .tasks.task import Batch, Meter, Task


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
    ann: Network,
    snn: Network,
    baselines: Mapping[str, Path],
    samples: GivenSamples,
    given: Given,
    table: EnergyTable,
    progress: Progress,
    in_detail: bool = True,
) -> Comparison:
    """Run the networks on all samples.

    Args:
        ann: the trained network.
        snn: one that was compiled from it.
        baselines: files of other networks made from it, which we wrote, by name.
        samples: test samples.
        given: the labels, and what is said of them.
        table: energies per operation.
        progress: told about batches done.
        in_detail: list the float residue too, and say where outputs differ.

    Raises:
        ModelError: a network cannot be run.
        DataError: a network does not run on the samples, or they are not fit for it.
    """
    found = Comparison()
    session = make_session(ann)
    names = [name for _, name in float_outputs(session)]
    runner = _Runner.of("the ANN", session, names, samples)
    sample = next(samples.batches(1))
    size = samples.fixed_batch or batch_size(sum(array.nbytes for array in sample.values()))
    spiking = spiking_form(snn)
    batches = samples.batch_count(size)
    runners = [_snn_runner(snn, spiking, names, samples, batches, found, in_detail)]
    runners += [
        _Runner.of(
            name, make_session(read_model(path), library=False, optimise=False), names, samples
        )
        for name, path in baselines.items()
    ]
    _run(runner, runners, names, samples, size, given, found, progress)
    snn_runner, *others = runners
    found.outputs = snn_runner.results()
    counted = snn_runner.counted()
    if counted is not None:
        found.neurons, synapses = counted
        residue = []
        if in_detail:
            residue = float_residue(without_planes(spiking), sample, samples.count_in(sample))
        integers = holds_integers(snn)
        found.energy = estimate_energy(found.neurons, synapses, residue, table, integers)
    found.baselines = {one.name: one.results() for one in others}
    if snn_runner.problem:
        found.warnings.append(f"spikes are not counted: {snn_runner.problem}")
    found.warnings += snn_runner.comparison.warnings(of_ann=True)
    for one in runners:
        found.warnings += one.comparison.warnings(of_ann=False)
    if not names:
        found.warnings.append("the networks have no floating-point output, so none is compared")
    if left := samples.count - found.samples:
        found.warnings.append(
            f"the last {left} samples were left out: they do not fill a batch of "
            f"{samples.fixed_batch}, which the model fixes"
        )
    return found


@dataclass
class _Runner:
    """A network that runs on every sample, and its comparison with the ANN.

    Attributes:
        counting: what gives the counts of ``meter``; None: ``session`` does.
        problem: why it has no meter any more.
        task_meters: of the task, by output.
    """

    name: str
    session: ort.InferenceSession
    comparison: OutputComparison
    positions: list[int]
    meter: SpikeMeter | None
    counting: ort.InferenceSession | None = None
    problem: str = ""
    task_meters: dict[str, Meter] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        name: str,
        session: ort.InferenceSession,
        outputs: Sequence[str],
        samples: GivenSamples,
        meter: SpikeMeter | None = None,
        counting: ort.InferenceSession | None = None,
        in_detail: bool = False,
    ) -> _Runner:
        """A session that gives these outputs, among others."""
        own = {output.name: i for i, output in enumerate(session.get_outputs())}
        comparison = OutputComparison(
            name, list(outputs), unbatched=bool(samples.unbatched), in_detail=in_detail
        )
        positions = [own[output] for output in outputs]
        return cls(name, session, comparison, positions, meter, counting)

    def run(self, feed: Feed) -> list[np.ndarray]:
        """The outputs that are compared."""
        outputs = run_samples(self.session, feed, self.name)
        if self.meter is not None:
            counts = outputs
            if self.counting is not None:
                counts = run_samples(self.counting, feed, f"the spiking form of {self.name}")
            try:
                self.meter.add(counts)
            except DataError as reason:  # a membrane potential is NaN
                self.meter, self.problem = None, str(reason)
        return [outputs[i] for i in self.positions]

    def results(self) -> list[OutputResult]:
        """The outputs against those of the ANN."""
        found = self.comparison.results()
        for output in found:
            if output.name in self.task_meters:
                meter = self.task_meters[output.name]
                output.metrics = meter.result()
                if isinstance(meter, DetectionMeter) and self.comparison.in_detail:
                    output.boxes = meter.drawn()
                    output.error_map = None  # of cells and columns, which are no map
        return found

    def counted(self) -> tuple[list[NeuronResult], list[SynapseResult]] | None:
        """What was counted, if it could be."""
        try:
            return None if self.meter is None else self.meter.result()
        except DataError as reason:  # as above, found out now
            self.meter, self.problem = None, str(reason)
        return None


def _snn_runner(
    snn: Network,
    spiking: Network,
    outputs: Sequence[str],
    samples: GivenSamples,
    runs: int,
    found: Comparison,
    in_detail: bool,
) -> _Runner:
    """The SNN, which counts its spikes where there are any and they can be counted."""
    name, apart, meter = "the SNN", spiking is not snn, None
    if neurons_of(spiking.proto):
        kept = [] if apart else outputs
        try:
            meter = SpikeMeter(without_planes(spiking), kept, samples.unbatched, runs)
            counting = make_session(meter.network)
            session = make_session(snn) if apart else counting
            apart_only = counting if apart else None
            return _Runner.of(name, session, outputs, samples, meter, apart_only, in_detail)
        except ModelError as reason:  # several timesteps, another type than float32, changed planes
            found.warnings.append(f"spikes are not counted: {reason}")
    return _Runner.of(name, make_session(snn), outputs, samples, in_detail=in_detail)


def _run(
    ann: _Runner,
    others: Sequence[_Runner],
    names: Sequence[str],
    samples: GivenSamples,
    size: int,
    given: Given,
    found: Comparison,
    progress: Progress,
) -> None:
    task = Task()
    feeds = progress.track(samples.batches(size), samples.batch_count(size), "evaluating")
    for feed in feeds:
        expected = ann.run(feed)
        count = samples.count_in(feed)
        shown = _by_name(names, expected, samples)
        if found.samples == 0:
            task = choose_task(given, shown, count, found.warnings)
            found.task = task.name
            for one in others:
                one.task_meters = {name: make() for name, make in task.meters.items()}
        own = task.labels(found.samples, found.samples + count)
        for one in others:
            outputs = one.run(feed)
            one.comparison.add(expected, outputs, count, own, task.labelled)
            batch = Batch(feed, shown, _by_name(names, outputs, samples), own)
            for meter in one.task_meters.values():
                meter.add(batch)
        found.samples += count


def _by_name(
    names: Sequence[str], outputs: Sequence[np.ndarray], samples: GivenSamples
) -> dict[str, np.ndarray]:
    """Outputs with a batch axis, which those of one sample alone may lack."""
    return {
        name: output[None] if samples.unbatched and output.shape[:1] != (1,) else output
        for name, output in zip(names, outputs, strict=True)
    }
