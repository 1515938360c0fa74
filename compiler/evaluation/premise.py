"""Where T steps equal one: the premise, neuron by neuron, on data.

A T-step network and its spatial network (one step, T times the levels) run on the same samples. For
each neuron, a position of a neuron node's tensor on one sample:

1. The premise: every step's input lies in [-n- theta_IF, n+ theta_IF]. Inputs below and above it
   are counted, and the neurons that have one.
2. Own difference: the K spikes that it fired in T steps against the level of MultiThresholdFire on
   the mean of the inputs that it saw itself. That is what the theorem speaks of, so beside it
   stands the bound (``level_bound.py``), of the same inputs. Sums are taken in float64.
3. Inside the premise, and with v0 = 1/2 where both polarities fire, a difference is a rounding of
   float32 that reached a threshold, or a tie: neurons of which that is so are counted.
4. Total difference: K against the spikes of the spatial network, which saw other inputs wherever an
   earlier neuron differed.

Differences are in levels, units of theta_M = theta_IF / T. Neurons with an input that is not finite
are left out. Which networks belong together: ``time_pair.py``.

At most :data:`SAMPLES` samples are run (one batch, where the model fixes a larger one). Memory is
that of one batch; the neurons' tensors leave the runtime in groups that fit into the budget of
``session.py``, each in a run of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import onnxruntime as ort

from ...passes.graph.network import Network
from ..errors import ModelError
from ..progress import Progress
from ..report.results import Difference, PremiseNeuron, PremiseResult
from ..running.expose import with_outputs
from ..running.fidelity import float_outputs
from ..running.session import ACTIVATION_BUDGET, batch_size, make_session, run_samples
from ..samples.base import Feed, Samples
from .level_bound import level_bounds, one_step_level
from .outputs import OutputComparison
from .time_pair import NeuronPair, pair_neurons

SAMPLES = 64

#: Values of a neuron that are looked at together.
_CHUNK = 1 << 20


def premise_warnings(result: PremiseResult) -> list[str]:
    """What the user should know."""
    left_out = sum(neuron.left_out for neuron in result.neurons)
    if not left_out:
        return []
    return [f"the premise: {left_out} neurons with an input that is not finite were left out"]


def check_premise(
    spatial: Network, temporal: Network, samples: Samples, progress: Progress
) -> PremiseResult:
    """Run both networks on the first samples and compare their neurons.

    Args:
        spatial: one step, of MultiThresholdFire.
        temporal: T steps, of IntegrateFire, with the same inputs.
        samples: for both.
        progress: told about batches done.

    Raises:
        ModelError: the networks do not belong together, or one cannot be run.
        DataError: they do not run on the samples.
    """
    steps, pairs = pair_neurons(spatial, temporal)
    tallies = [_Tally(pair, steps) for pair in pairs]
    groups = list(_groups(tallies, spatial, steps, samples))
    comparison, compared = None, 0
    for number, (group, size) in enumerate(groups, start=1):
        outputs = [value.name for value in spatial.proto.graph.output] if number == 1 else []
        one = _Watched("the spatial network", spatial, [t.pair.spatial for t in group], outputs)
        over_time = [name for t in group for name in (t.pair.potential, t.pair.spikes)]
        many = _Watched("the T-step network", temporal, over_time, outputs)
        floats = [name for _, name in float_outputs(one.session) if name in outputs]
        if comparison is None:
            comparison = OutputComparison(many.what, floats, unbatched=bool(samples.unbatched))
        runs = min(samples.batch_count(size), -(-SAMPLES // (samples.fixed_batch or size)))
        label = "checking the premise"
        label += f", part {number} of {len(groups)}" if len(groups) > 1 else ""
        for feed in progress.track(islice(samples.batches(size), runs), runs, label):
            expected, found = one.run(feed), many.run(feed)
            for tally in group:
                pair = tally.pair
                tally.add(found[pair.potential], found[pair.spikes], expected[pair.spatial])
            if outputs:
                count = samples.count_in(feed)
                own = [[values[name] for name in floats] for values in (expected, found)]
                comparison.add(own[0], own[1], count)
                compared += count
    return PremiseResult(
        timesteps=steps,
        samples=compared,
        neurons=[tally.result(compared) for tally in tallies],
        outputs=comparison.results() if comparison else [],
    )


class _Watched:
    """A session that gives these tensors, by name."""

    def __init__(
        self, what: str, network: Network, tensors: Sequence[str], outputs: Sequence[str] = ()
    ) -> None:
        self.what = what
        self._names = list(dict.fromkeys([*tensors, *outputs]))
        self.session: ort.InferenceSession = make_session(with_outputs(network, self._names))

    def run(self, feed: Feed) -> dict[str, np.ndarray]:
        values = run_samples(self.session, feed, self.what)
        return dict(zip(self._names, values, strict=True))


class _Tally:
    """What the neurons of one node did so far."""

    def __init__(self, pair: NeuronPair, steps: int) -> None:
        self.pair, self._steps = pair, steps
        self._neurons = self._inputs = self._left_out = 0
        self._below = self._above = self._outside = self._inside_differing = 0
        self._own, self._bound, self._total = _Sum(), _Sum(), _Sum()

    def add(self, x: np.ndarray, y: np.ndarray, spatial: np.ndarray) -> None:
        """One run: inputs and outputs [T B, ...] of IntegrateFire, [B, ...] of the other.

        Raises:
            ModelError: the shapes do not fit.
        """
        steps = self._steps
        if x.shape != y.shape or x.shape != (
            steps * (spatial.shape or (0,))[0],
            *spatial.shape[1:],
        ):
            raise ModelError(
                f"'{self.pair.name}' has values {list(x.shape)} over {steps} timesteps, and "
                f"{list(spatial.shape)} in the spatial network: the two do not belong together"
            )
        theta = self.pair.thresholds(spatial.shape).reshape(-1)
        inputs, spikes = x.reshape(steps, -1), y.reshape(steps, -1)
        single = spatial.reshape(-1)
        width = max(_CHUNK // steps, 1)
        for start in range(0, single.size, width):
            part = slice(start, start + width)
            self._add(inputs[:, part], spikes[:, part], single[part], theta[part])

    def _add(self, x: np.ndarray, y: np.ndarray, single: np.ndarray, theta: np.ndarray) -> None:
        finite = np.isfinite(x).all(axis=0) & np.isfinite(single)
        if not finite.all():
            self._left_out += int((~finite).sum())
            x, y, single, theta = x[:, finite], y[:, finite], single[finite], theta[finite]
        x = x.astype(np.float64)
        levels, steps = self.pair.levels, self._steps
        below, above = x < -levels.negative * theta, x > levels.positive * theta
        inside = ~(below | above).any(axis=0)
        sums = np.cumsum(x, axis=0) / theta
        fired = np.rint(y / theta)
        spikes = fired.sum(axis=0)
        level = one_step_level(sums[-1], steps, levels)
        low, high = level_bounds(sums, levels, fired)
        own = np.abs(spikes - level)
        self._neurons += theta.size
        self._inputs += x.size
        self._below += int(below.sum())
        self._above += int(above.sum())
        self._outside += int((~inside).sum())
        self._inside_differing += int((inside & (own > 0)).sum())
        self._own.add(own)
        self._bound.add(np.maximum(high - level, level - low))
        self._total.add(np.abs(spikes - np.rint(single * (steps / theta))))

    def result(self, samples: int) -> PremiseNeuron:
        """All runs together."""
        count, levels = max(self._neurons, 1), self.pair.levels
        return PremiseNeuron(
            name=self.pair.name,
            neurons=(self._neurons + self._left_out) // max(samples, 1),
            levels=(levels.negative, levels.positive),
            v0=levels.v0,
            below=self._below / max(self._inputs, 1),
            above=self._above / max(self._inputs, 1),
            outside=self._outside / count,
            inside_differing=self._inside_differing,
            own=self._own.result(count),
            bound=self._bound.result(count),
            total=self._total.result(count),
            left_out=self._left_out,
        )


class _Sum:
    """Differences: how many are not 0, their sum, the largest."""

    def __init__(self) -> None:
        self._some, self._sum, self._largest = 0, 0.0, 0.0

    def add(self, values: np.ndarray) -> None:
        if values.size:
            self._some += int((values > 0).sum())
            self._sum += float(values.sum())
            self._largest = max(self._largest, float(values.max()))

    def result(self, count: int) -> Difference:
        return Difference(self._some / count, self._sum / count, int(self._largest))


def _groups(
    tallies: Sequence[_Tally], spatial: Network, steps: int, samples: Samples
) -> Iterator[tuple[list[_Tally], int]]:
    """Neurons whose tensors of one batch fit into the budget, and the samples of a batch."""
    feed = next(samples.batches(1))
    names = [tally.pair.spatial for tally in tallies]
    values = _Watched("the spatial network", spatial, names).run(feed)
    # Of each neuron: inputs and outputs over T steps, and the output in one.
    needed = {name: (2 * steps + 1) * value.nbytes for name, value in values.items()}
    group: list[_Tally] = []
    held = 0
    for tally in tallies:
        size = needed[tally.pair.spatial]
        if group and held + size > ACTIVATION_BUDGET:
            yield group, _batch(held)
            group, held = [], 0
        group.append(tally)
        held += size
    yield group, _batch(held)


def _batch(held: int) -> int:
    """A power of two, so that batches make up SAMPLES."""
    size = min(batch_size(held), SAMPLES)
    return 1 << (size.bit_length() - 1)
