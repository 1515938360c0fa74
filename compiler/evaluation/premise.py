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
are left out. Networks belong together if their MultiThresholdFire and IntegrateFire have the same
names (without a name, outputs of the same name), thresholds and levels in the ratio T, and the same
v0; neurons in control flow are refused.

At most :data:`SAMPLES` samples are run (one batch, where the model fixes a larger one). Memory is
that of one batch; the neurons' tensors leave the runtime in groups that fit into the budget of
``session.py``, each in a run of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import onnxruntime as ort
from onnx import NodeProto

from ...passes.graph import export_network, import_model
from ...passes.network import Network, constant_of
from ...passes.temporal_to_spatial import temporal_to_spatial
from ...passes.timesteps import NotOverTimeError
from ...runtime_ops.definition import DOMAIN
from ...runtime_ops.integrate_fire import INTEGRATE_FIRE
from ...runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE
from ...runtime_ops.operators import neurons_of
from ..errors import ModelError
from ..fidelity import float_outputs
from ..observe import with_outputs
from ..progress import Progress
from ..samples import Feed, Samples
from ..session import ACTIVATION_BUDGET, batch_size, make_session, run_samples
from ..twins import attributes_of
from .level_bound import Levels, level_bounds, one_step_level
from .outputs import OutputComparison
from .results import Difference, PremiseNeuron, PremiseResult

SAMPLES = 64

#: Values of a neuron that are looked at together.
_CHUNK = 1 << 20
#: T theta_M is rounded to float32, and so is theta_IF / T.
_THETA_TOLERANCE = 1e-6


@dataclass(frozen=True)
class NeuronPair:
    """IntegrateFire and the MultiThresholdFire that it stands for.

    Attributes:
        name: of the nodes.
        spatial: output of the MultiThresholdFire.
        temporal: input and output of the IntegrateFire.
        theta: theta_IF, scalar or [C], float64.
        axis: of the channels within a step.
        levels: of a step.
    """

    name: str
    spatial: str
    temporal: tuple[str, str]
    theta: np.ndarray
    axis: int
    levels: Levels

    def thresholds(self, shape: Sequence[int]) -> np.ndarray:
        """theta_IF of every neuron of a step of this shape."""
        if self.theta.size == 1:
            return np.full(shape, self.theta.reshape(()))
        trailing = len(shape) - 1 - self.axis % len(shape)
        return np.broadcast_to(self.theta.reshape(-1, *[1] * trailing), shape)


def spatial_network(ann: Network, snn: Network) -> Network:
    """The network of one step: ``ann`` where it has spiking neurons, otherwise made from ``snn``.

    Raises:
        ModelError: there is none that belongs to ``snn``.
    """
    spatial = ann
    if not neurons_of(ann.proto):
        try:
            spatial = export_network(temporal_to_spatial(import_model(snn)).graph)
        except NotOverTimeError as reason:
            raise ModelError(
                f"no network of one timestep can be made from the SNN: {reason}"
            ) from reason
    pair_neurons(spatial, snn)
    return spatial


def premise_warnings(result: PremiseResult) -> list[str]:
    """What the user should know."""
    left_out = sum(neuron.left_out for neuron in result.neurons)
    if not left_out:
        return []
    return [f"the premise: {left_out} neurons with an input that is not finite were left out"]


def pair_neurons(spatial: Network, temporal: Network) -> tuple[int, list[NeuronPair]]:
    """T, and each neuron of the T-step network with its own of the spatial one, in their order.

    Raises:
        ModelError: the networks do not belong together.
    """
    if not INTEGRATE_FIRE.nodes_of(temporal.proto):
        swapped = bool(INTEGRATE_FIRE.nodes_of(spatial.proto))
        raise ModelError(
            "the premise is about networks of several timesteps, and the SNN has no IntegrateFire; "
            + ("are the two swapped?" if swapped else "compile it with --timesteps")
        )
    ones = _neurons(spatial, MULTI_THRESHOLD_FIRE.name)
    many = _neurons(temporal, INTEGRATE_FIRE.name)
    if lonely := sorted(ones.keys() ^ many.keys()):
        op, where = ("MultiThresholdFire", "the spatial network")
        if lonely[0] in many:
            op, where = ("IntegrateFire", "the T-step network")
        raise _no_pair(
            f"{op} '{lonely[0]}' is in {where} only ({len(ones)} neurons against {len(many)})"
        )
    timesteps = {_attributes(node)["timesteps"] for node in many.values()}
    if len(timesteps) > 1:
        raise _no_pair(f"neurons fire over {sorted(timesteps)} timesteps")
    (steps,) = timesteps
    pairs = [
        _pair(name, steps, (spatial, ones[name]), (temporal, node)) for name, node in many.items()
    ]
    return steps, pairs


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
        wanted = [t.pair.spatial for t in group], [n for t in group for n in t.pair.temporal]
        one, many = (
            _Watched(network, [*names, *outputs], what)
            for network, names, what in zip(
                (spatial, temporal), wanted, ("the spatial network", "the T-step network"),
                strict=True,
            )
        )  # fmt: skip
        floats = [name for _, name in float_outputs(one.session) if name in outputs]
        if comparison is None:
            comparison = OutputComparison(
                "the T-step network", floats, unbatched=bool(samples.unbatched)
            )
        runs = min(samples.batch_count(size), -(-SAMPLES // (samples.fixed_batch or size)))
        label = "checking the premise"
        label += f", part {number} of {len(groups)}" if len(groups) > 1 else ""
        for feed in progress.track(islice(samples.batches(size), runs), runs, label):
            expected, found = one.run(feed), many.run(feed)
            if outputs:
                count = samples.count_in(feed)
                compared += count
                both = [[values[name] for name in floats] for values in (expected, found)]
                comparison.add(*both, count)
            for tally in group:
                x, y = (found[name] for name in tally.pair.temporal)
                tally.add(x, y, expected[tally.pair.spatial])
    return PremiseResult(
        timesteps=steps,
        samples=compared,
        neurons=[tally.result(compared) for tally in tallies],
        outputs=comparison.results() if comparison else [],
    )


class _Watched:
    """A session that gives these tensors, by name."""

    def __init__(self, network: Network, names: Sequence[str], what: str) -> None:
        self._names, self._what = list(dict.fromkeys(names)), what
        self.session: ort.InferenceSession = make_session(with_outputs(network, self._names))

    def run(self, feed: Feed) -> dict[str, np.ndarray]:
        values = run_samples(self.session, feed, self._what)
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
            raise _no_pair(
                f"'{self.pair.name}' has values {list(x.shape)} over {steps} timesteps, and "
                f"{list(spatial.shape)} in the spatial network"
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
    values = _Watched(spatial, names, "the spatial network").run(feed)
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
    size = min(batch_size([np.broadcast_to(np.uint8(0), held)]), SAMPLES)
    return 1 << (size.bit_length() - 1)


def _neurons(network: Network, op: str) -> dict[str, NodeProto]:
    found = [node for node in network.proto.graph.node if node.domain == DOMAIN]
    if len(found) < len(neurons_of(network.proto)):
        raise ModelError("neurons inside control flow cannot be compared between timesteps")
    others = [node for node in found if node.op_type != op]
    if others:
        node = others[0]
        raise _no_pair(f"'{node.name}' is a {node.op_type}, and {op} was expected")
    return {node.name or node.output[0]: node for node in found}


def _pair(
    name: str, steps: int, one: tuple[Network, NodeProto], many: tuple[Network, NodeProto]
) -> NeuronPair:
    """Both nodes, checked."""
    spatial, temporal = _attributes(one[1]), _attributes(many[1])
    theta_m, theta_if = (_theta(network, node) for network, node in (one, many))
    for side in ("levels_pos", "levels_neg"):
        if spatial[side] != steps * temporal[side]:
            raise _no_pair(
                f"{side} of '{name}' is {temporal[side]} in each of {steps} timesteps and "
                f"{spatial[side]} in one; it must be {steps * temporal[side]}"
            )
    if spatial["v0"] != temporal["v0"]:
        raise _no_pair(f"v0 of '{name}' is {temporal['v0']:g} and {spatial['v0']:g}")
    fits = theta_m.size in (1, theta_if.size) or theta_if.size == 1
    if not fits or not np.allclose(theta_if, steps * theta_m, rtol=_THETA_TOLERANCE, atol=0):
        raise _no_pair(
            f"theta of '{name}' is not {steps} times that of the spatial network: "
            f"{_shown(theta_if)} against {_shown(theta_m)}"
        )
    levels = Levels(temporal["levels_pos"], temporal["levels_neg"], temporal["v0"])
    tensors = many[1].input[0], many[1].output[0]
    return NeuronPair(name, one[1].output[0], tensors, theta_if, temporal["axis"], levels)


def _attributes(node: NodeProto) -> dict[str, int | float]:
    return INTEGRATE_FIRE.defaults | attributes_of(node)


def _theta(network: Network, node: NodeProto) -> np.ndarray:
    try:
        return constant_of(network, node.input[1]).astype(np.float64)
    except KeyError:
        raise ModelError(
            f"the threshold of {node.op_type} '{node.name}' is computed while the network runs; it "
            "must be an initializer to check the premise"
        ) from None


def _shown(theta: np.ndarray) -> str:
    return ", ".join(f"{value:.7g}" for value in theta.reshape(-1)[:3])


def _no_pair(difference: str) -> ModelError:
    return ModelError(
        f"the two networks are not one over T timesteps and in one: {difference}; give a network "
        "and what spatial_to_temporal or temporal_to_spatial made of it"
    )
