"""Search one scale for the steps of all neurons: fewer errors, fewer spikes, or both.

The step of every neuron is s = lambda * theta, theta what calibration found, so that lambda = 1 is
the calibrated network (the scale-and-fire neuron of arXiv 2510.23383 has one global lambda that
Bayesian optimisation finds; range, objective and budget below are this project's). A larger lambda
fires fewer spikes and clips less, a smaller one resolves finer and clips more.

1. Objective, to be minimised:

       J(lambda) = error(lambda) / error(1) + weight * spikes(lambda) / spikes(1)

   error: ||y - y_ANN|| / ||y_ANN|| of each floating-point output, the root mean square over the
   outputs. spikes: of all calibrated neurons on a sample, |k| of a MultiThresholdFire, and of a
   ScaleFire the number of levels away from the silent one. Where the calibrated network has no
   error, or fires no spike, any other than none of it is infinite.
2. Scaled are neurons of functions with f(a x) = a f(x) for a > 0: x itself (encoders), Relu and
   Clip without upper bound, LeakyRelu, PRelu. A step of these moves along both axes. Bounded Clips
   and curved functions stay: their levels have places that the function gives them.
3. The sampler is optuna's tree-structured Parzen estimator (J. Bergstra et al., Algorithms for
   hyper-parameter optimization, 2011) on log lambda: J is cheap to model in one dimension, and
   optuna's Gaussian processes would need PyTorch. lambda = 1 is trial 0 and the first of equals
   wins, so that the result is never worse than the calibrated network, on these samples. A seed
   gives the same trials with the same release of optuna.
4. At most :data:`MOST_SAMPLES` samples are used, batches evenly spread over those given; a batch
   that the model fixes is never split. They should be samples that calibration has not seen
   (:func:`hold_out`): the correction of weights fits those it sees at lambda = 1, so that on them
   every other lambda looks worse than it is.
5. The SNN is built once. A trial changes the thresholds and scales, and spikes are counted inside
   the graph, so that no activation leaves the runtime.

Neurons inside bodies are scaled as all others are.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from ....passes.analysis.activations import Activation
from ....passes.graph.graph import METADATA_PREFIX
from ....passes.graph.network import Network, is_detached
from ....passes.graph.protos import graphs_below, initializers_below, unused_prefix
from ....passes.lowering.function_bodies import lower
from ....passes.neurons.neuron import Neuron, scaled_step
from ....runtime_ops.definition import DOMAIN
from ....runtime_ops.scale_fire import SCALE_FIRE
from ...errors import UsageError
from ...progress import Progress
from ...running.expose import with_outputs
from ...running.fidelity import FidelityMeter
from ...running.reference import Reference
from ...running.session import make_session, run_samples
from ...running.spool import Spool
from ...samples.files import Feed, Samples
from ..fire import fire

#: Samples on which each trial runs, at most.
MOST_SAMPLES = 64

#: Fewer samples are not worth holding out.
_FEWEST = 8

_OBJECTIVE = "error / error(1) + weight * spikes / spikes(1)"
_SAMPLER = "optuna TPESampler"
#: Trials drawn at random before the estimator is asked; optuna's 10 are for many dimensions.
_RANDOM_TRIALS = 5
#: First opset at which the axes of ReduceL1 are an input.
_AXES_INPUT = 18
_FLOAT = np.finfo(np.float32)


@dataclass(frozen=True)
class SearchOptions:
    """What the user may choose.

    Attributes:
        trials: how many scales are tried, 1 among them.
        spike_weight: what spikes count against error; 0 looks at the error alone.
        low: least lambda, above 0 and at most 1.
        high: largest lambda, at least 1.
        seed: of the sampler.
    """

    trials: int = 20
    spike_weight: float = 0.5
    low: float = 0.25
    high: float = 2.0
    seed: int = 0


@dataclass(frozen=True)
class Trial:
    """One scale that was tried.

    Attributes:
        scale: lambda.
        error: relative error of the outputs; inf where one is not finite.
        spikes: mean number per sample.
        objective: J; smaller is better.
        efficient: whether no other trial has at most as much of both error and spikes, and less of
            one.
    """

    scale: float
    error: float
    spikes: float
    objective: float
    efficient: bool = False


@dataclass(frozen=True)
class SearchReport:
    """How the scale was found.

    Attributes:
        scale: the best lambda.
        objective: the formula of J.
        spike_weight: its weight.
        low: least lambda.
        high: largest lambda.
        sampler: what chose the trials, with its release.
        seed: of the sampler.
        samples: how many each trial ran on.
        origin: what these are taken from.
        scaled: number of neurons whose step is scaled.
        fixed: number of neurons that stay.
        trials: all of them, in order; the first is lambda = 1.
    """

    scale: float
    objective: str
    spike_weight: float
    low: float
    high: float
    sampler: str
    seed: int
    samples: int
    origin: str
    scaled: int
    fixed: int
    trials: list[Trial] = field(default_factory=list)


def check_search(options: SearchOptions) -> None:
    """Refuse options that make no search, before anything is computed.

    Raises:
        UsageError: a number out of range, or optuna is not installed.
    """
    if options.trials < 1:
        raise UsageError(f"{options.trials} trials: a search needs at least 1")
    if not (options.spike_weight >= 0 and math.isfinite(options.spike_weight)):
        raise UsageError(f"the weight {options.spike_weight:g} of spikes is not 0 or more")
    if not (0 < options.low <= 1 <= options.high < math.inf):
        raise UsageError(
            f"scales from {options.low:g} to {options.high:g} do not hold 1, the calibrated network"
        )
    _import_optuna()


def hold_out(samples: Samples) -> tuple[Samples, Samples]:
    """Samples to calibrate with, and samples for the search that calibration does not see.

    Every fourth sample is held out, or fewer, about :data:`MOST_SAMPLES`, where there are many. If
    that leaves less than a batch, or less than :data:`_FEWEST`, both are all of the samples.
    """
    every = max(samples.count // MOST_SAMPLES, 4)
    if samples.count // every < (samples.fixed_batch or _FEWEST):
        return samples, samples
    return _Part(samples, every, held=False), _Part(samples, every, held=True)


class _Part(Samples):
    """Of every so many samples the last, or all others."""

    def __init__(self, whole: Samples, every: int, held: bool) -> None:
        held_out = whole.count // every
        self.count = held_out if held else whole.count - held_out
        self.origin = f"{self.count} of {whole.origin}"
        self.synthetic, self.unbatched = whole.synthetic, whole.unbatched
        self.fixed_batch = whole.fixed_batch
        self._whole, self._every, self._held = whole, every, held

    def _blocks(self, size: int) -> Iterator[Feed]:
        position = 0
        for block in self._whole._blocks(size):
            rows = np.arange(position, position + len(next(iter(block.values()))))
            position += len(rows)
            mine = (rows % self._every == self._every - 1) == self._held
            if mine.any():
                yield {name: array[mine] for name, array in block.items()}


def search_scale(
    analog: Network,
    activations: Sequence[Activation],
    neurons: Mapping[str, Neuron],
    samples: Samples,
    reference: Reference,
    options: SearchOptions,
    progress: Progress,
) -> tuple[dict[str, Neuron], SearchReport]:
    """Scale the steps of the calibrated neurons.

    Args:
        analog: the network that was calibrated, its corrected weights in place.
        activations: its activations.
        neurons: the calibrated neurons, keyed by the activation's output tensor.
        samples: held out from calibration, or its own where there are too few.
        reference: the ANN's outputs on all of them.
        options: what is searched, and for how long.
        progress: told about trials done.

    Returns:
        The neurons, scaled by the best lambda, and how it was found.

    Raises:
        UsageError: the options make no search, or optuna is not installed.
    """
    check_search(options)
    optuna = _import_optuna()
    scalable = _scalable(activations, neurons)
    with closing(Spool()) as spool:
        bench = _Bench(analog, activations, neurons, scalable, spool)
        bench.keep(samples, reference)
        trials = _search(
            optuna, bench, options if scalable else replace(options, trials=1), progress
        )
    best = min(trials, key=lambda trial: trial.objective).scale
    report = SearchReport(
        scale=best,
        objective=_OBJECTIVE,
        spike_weight=options.spike_weight,
        low=options.low,
        high=options.high,
        sampler=f"{_SAMPLER} {optuna.__version__}",
        seed=options.seed,
        samples=bench.samples,
        origin=samples.origin,
        scaled=len(scalable),
        fixed=len(neurons) - len(scalable),
        trials=trials,
    )
    return scale_steps(activations, neurons, best), report


def scale_steps(
    activations: Sequence[Activation], neurons: Mapping[str, Neuron], scale: float
) -> dict[str, Neuron]:
    """The neurons, the steps of those that rule 2 names scaled.

    Args:
        activations: of the network.
        neurons: keyed by the activation's output tensor.
        scale: lambda, above 0.
    """
    scalable = _scalable(activations, neurons)
    return {
        name: neuron.scaled(scale) if name in scalable else neuron
        for name, neuron in neurons.items()
    }


def _scalable(activations: Sequence[Activation], neurons: Mapping[str, Neuron]) -> set[str]:
    return {a.output for a in activations if a.output in neurons and is_homogeneous(a)}


def is_homogeneous(activation: Activation) -> bool:
    """Whether f(a x) = a f(x) for every a > 0, so that the neuron's step may be scaled: rule 2."""
    if activation.function is not None:
        return activation.function.homogeneous
    return math.isinf(activation.upper)  # of Clip; Relu, LeakyRelu, PRelu have no bound


def _search(
    optuna: ModuleType, bench: _Bench, options: SearchOptions, progress: Progress
) -> list[Trial]:
    """All trials, lambda = 1 first."""
    space = {"scale": optuna.distributions.FloatDistribution(options.low, options.high, log=True)}
    trials: list[Trial] = []
    with _silenced(optuna):
        sampler = optuna.samplers.TPESampler(seed=options.seed, n_startup_trials=_RANDOM_TRIALS)
        study = optuna.create_study(sampler=sampler)
        study.enqueue_trial({"scale": 1.0})
        for _ in progress.track(range(options.trials), options.trials, "searching the scale"):
            asked = study.ask(space)
            scale = float(asked.params["scale"])
            error, spikes = bench.measure(scale)
            first = trials[0] if trials else Trial(scale, error, spikes, 0.0)
            errors, costs = _ratio(error, first.error), _ratio(spikes, first.spikes)
            objective = errors + (options.spike_weight * costs if options.spike_weight else 0.0)
            trials.append(Trial(scale, error, spikes, objective))
            study.tell(asked, objective)
    return [replace(trial, efficient=_is_efficient(trial, trials)) for trial in trials]


def _ratio(value: float, first: float) -> float:
    """value / first; nothing of nothing is as much as it was."""
    if value == first:
        return 1.0
    return value / first if first and math.isfinite(value) else math.inf


def _is_efficient(trial: Trial, trials: Sequence[Trial]) -> bool:
    """Whether the trial is on the Pareto front."""
    mine = trial.error, trial.spikes
    others = [(other.error, other.spikes) for other in trials]
    return not any(e <= mine[0] and s <= mine[1] and (e, s) != mine for e, s in others)


def _import_optuna() -> ModuleType:
    try:
        return importlib.import_module("optuna")  # takes a second, and only this needs it
    except ImportError as error:
        raise UsageError(
            "the search of a scale needs optuna: pip install 'snn-compile[search]'"
        ) from error


@contextmanager
def _silenced(optuna: ModuleType) -> Iterator[None]:
    """What goes wrong arrives as an exception, the rest is not the user's."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


class _Bench:
    """The SNN, on which scales are tried.

    Attributes:
        samples: how many a trial runs on.
    """

    def __init__(
        self,
        analog: Network,
        activations: Sequence[Activation],
        neurons: Mapping[str, Neuron],
        scalable: set[str],
        spool: Spool,
    ) -> None:
        self._snn = lower(fire(analog, neurons))
        keys = {a.name: a.output for a in activations if a.output in neurons}
        self._counters = _add_counters(self._snn, keys)
        constants = {t.name: t for t in initializers_below(self._snn.proto.graph)}
        self._steps = {c.step: _values(self._snn, constants[c.step]) for c in self._counters}
        self._scaled = {c.step for c in self._counters if c.activation in scalable}
        self._spool = spool
        self._outputs: list[str] = []
        self._inputs: list[str] = []
        self._batches = 0
        self.samples = 0

    def keep(self, samples: Samples, reference: Reference) -> None:
        """Choose the batches that every trial runs on.

        Raises:
            UsageError: the network has no output that could be compared.
        """
        if not reference.positions:
            raise UsageError(
                "no output holds floats, so the search of a scale has no error to look at; "
                "compile without it"
            )
        self._outputs = [name for _, name in reference.positions]
        there = samples.batch_count(reference.batch)
        wanted = min(max(MOST_SAMPLES // (samples.fixed_batch or reference.batch), 1), there)
        chosen = {(2 * position + 1) * there // (2 * wanted) for position in range(wanted)}
        pairs = zip(samples.batches(reference.batch), reference.batches(), strict=True)
        for position, (feed, expected) in enumerate(pairs):
            if position not in chosen:
                continue
            self._inputs = list(feed)
            for name, array in feed.items():
                self._spool.put(f"given/{name}", self._batches, array)
            for name, array in zip(self._outputs, expected, strict=True):
                self._spool.put(f"expected/{name}", self._batches, array)
            self._batches += 1
            self.samples += 1 if samples.unbatched else len(next(iter(feed.values())))

    def measure(self, scale: float) -> tuple[float, float]:
        """Relative error of the outputs, and spikes per sample."""
        steps = {
            name: scaled_step(step, scale) if name in self._scaled else step
            for name, step in self._steps.items()
        }
        names = [*self._outputs, *(counter.sums for counter in self._counters)]
        network = with_outputs(self._snn, list(dict.fromkeys(names)))
        _set_values(network, steps)
        session = make_session(network)
        meters = [FidelityMeter(name) for name in self._outputs]
        spikes = 0.0
        for batch in range(self._batches):
            feed = {name: self._spool.get(f"given/{name}", batch) for name in self._inputs}
            outputs = run_samples(session, feed, "the SNN")
            for meter, name, got in zip(meters, self._outputs, outputs, strict=False):
                meter.add(self._spool.get(f"expected/{name}", batch), got)
            for counter, sums in zip(self._counters, outputs[len(meters) :], strict=True):
                spikes += counter.spikes(sums, steps[counter.step])
        errors = [meter.result().relative_l2 for meter in meters]
        return float(np.sqrt(np.mean(np.square(errors)))), spikes / self.samples


@dataclass(frozen=True)
class _Counter:
    """Where the spikes of one neuron are counted: sums of its step times the spikes.

    Attributes:
        activation: what the neuron stands for, by its output tensor.
        step: name of its threshold or scale.
        sums: name of the tensor with the sums: [any] for one step, [C * any] for one per channel.
    """

    activation: str
    step: str
    sums: str

    def spikes(self, sums: np.ndarray, step: np.ndarray) -> float:
        """The number of spikes."""
        wide = sums.astype(np.float64).reshape(step.size, -1).sum(axis=1)
        return float((wide / step.reshape(-1)).sum())


def _add_counters(snn: Network, keys: Mapping[str, str]) -> list[_Counter]:
    """Count the spikes of calibrated neurons inside the graph, and in its bodies.

    Args:
        snn: changed in place.
        keys: output tensors of activations by node name.
    """
    prefix = unused_prefix(snn.proto.graph, "spikes")
    opset = next(o.version for o in snn.proto.opset_import if o.domain in ("", "ai.onnx"))
    sizes = {t.name: t for t in initializers_below(snn.proto.graph)}
    counters: list[_Counter] = []
    for graph in graphs_below(snn.proto.graph):
        for node in [node for node in graph.node if node.domain == DOMAIN]:
            key = keys.get(_source_of(node))
            if key is None:
                continue
            per_channel = bool(sizes[node.input[1]].dims)
            name = f"{prefix}.{len(counters)}"
            weighted = _weigh(graph, node, name, sizes) if _is_scale_fire(node) else node.output[0]
            _sum(graph, weighted, name, _axis(node) if per_channel else None, opset)
            counters.append(_Counter(key, node.input[1], name))
    return counters


def _weigh(
    graph: GraphProto, node: NodeProto, name: str, constants: Mapping[str, TensorProto]
) -> str:
    """A ScaleFire that gives scale * spikes; returns the tensor's name."""
    levels = numpy_helper.to_array(constants[node.input[3]])
    distance = np.abs(np.arange(len(levels)) - int(np.abs(levels).argmin())).astype(np.float32)
    graph.initializer.append(numpy_helper.from_array(distance, f"{name}.levels"))
    twin = graph.node.add()
    twin.CopyFrom(node)
    twin.name = twin.output[0] = f"{name}.weighted"
    twin.input[3] = f"{name}.levels"
    return f"{name}.weighted"


def _sum(graph: GraphProto, tensor: str, name: str, axis: int | None, opset: int) -> None:
    """Sum magnitudes in the graph as far as float32 is exact enough: a few thousand at a time."""
    at = 0 if axis is not None else -1
    if axis is not None:
        view = helper.make_node("Flatten", [tensor], [f"{name}.view"], axis=axis)
    else:  # a scalar gets an axis too
        graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int64), f"{name}.front"))
        view = helper.make_node("Unsqueeze", [tensor, f"{name}.front"], [f"{name}.view"])
    axes: dict[str, Any] = {}
    inputs = [f"{name}.view"]
    if opset < _AXES_INPUT:
        axes["axes"] = [at]
    else:
        inputs.append(f"{name}.axes")
        graph.initializer.append(numpy_helper.from_array(np.array([at]), f"{name}.axes"))
    total = helper.make_node("ReduceL1", inputs, [name], keepdims=0, **axes)
    graph.node.extend([view, total])


def _source_of(node: NodeProto) -> str:
    """Name of the activation that a calibrated neuron stands for, from its provenance."""
    key = METADATA_PREFIX + "source_node"
    return next((entry.value for entry in node.metadata_props if entry.key == key), "")


def _is_scale_fire(node: NodeProto) -> bool:
    return bool(node.op_type == SCALE_FIRE.name)


def _axis(node: NodeProto) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "axis"), 1)


def _values(network: Network, tensor: TensorProto) -> np.ndarray:
    """The values of an initializer, wherever they are."""
    if is_detached(tensor):
        return network.weights[tensor.name]
    return numpy_helper.to_array(tensor)


def _set_values(network: Network, values: Mapping[str, np.ndarray]) -> None:
    """Give initializers, of bodies too, other values; the arrays of another network stay."""
    network.weights = dict(network.weights)
    for tensor in initializers_below(network.proto.graph):
        if tensor.name not in values:
            continue
        if is_detached(tensor):
            network.weights[tensor.name] = values[tensor.name]
        else:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
