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

Twins and sums are one side (``shard.py``), fitting and correcting the other (``settling.py``). Sums
of shards of the samples add, so the first side can be in several processes; here it is in this one.
The ANN depends on nothing that is settled, and is one stage ahead, in a thread of its own.

Where neurons fire step by step over T timesteps, the spiking twin has T times the rows
(``over_time.py``); what is fitted and corrected are means over steps.

Every batch passes each layer once in either twin, whatever the depth of the network. Between rounds
the frontier waits in a spool, in memory as far as the options let it and on disk beyond: else
memory holds a few batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing

from ....passes.analysis.activations import Activation
from ....passes.analysis.layers import Layer
from ....passes.graph.network import Network
from ....passes.neurons.neuron import Neuron
from ...options import CompileOptions
from ...progress import Progress
from ...running.memory import free_memory
from ...running.spool import Spool
from ...samples.base import Samples
from ..fitting.watches import Fit, watches_of
from .exchange import Job, Opener, Seen, Settled, Side
from .schedule import make_schedule
from .settling import Calibrated, Settling
from .shard import Part, Shard


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
    opener: Opener | None = None,
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
        opener: of the side of the samples, where it is not in this process.

    Raises:
        DataError: the network does not run on the samples.
        NotFiniteError: what a neuron sees is NaN or infinite.
    """
    corrected = layers if options.corrects_layers else ()
    schedule = make_schedule(network.proto, activations, corrected)
    watches = [watches_of(this.neurons, fit.watch) for this in schedule.rounds]
    batches, each = samples.batch_count(size), samples.fixed_batch or size
    full = max(samples.count // each, 1)
    job = Job(network, schedule, watches, options, settled, batches, full)
    settling = Settling(job, fit)
    if not schedule.rounds:
        return settling.result
    with closing(opener(job) if opener else _Here(job, samples, size)) as side:
        seen, count = side.start(), len(schedule.rounds)
        for stage in progress.track(range(count), count, "calibrating"):
            found = settling.settle(stage, seen)
            if stage + 1 < count:
                seen = side.advance(found)
    return settling.result


class _Here(Side):
    """All samples, in this process."""

    def __init__(self, job: Job, samples: Samples, size: int) -> None:
        self._batches = samples.batches(size)
        spool = Spool(int(job.options.memory * free_memory()))
        self._shard = Shard(job, Part(0, job.batches, whole=True), spool)

    def start(self) -> Seen:
        return self._shard.start(self._batches)

    def advance(self, settled: Settled) -> Seen:
        return self._shard.advance(settled)

    def close(self) -> None:
        self._shard.close()
