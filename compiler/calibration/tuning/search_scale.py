"""Search one scale for the steps of all neurons: fewer errors, fewer spikes, or both.

The step of every neuron is s = lambda * theta, theta what calibration found, so that lambda = 1 is
the calibrated network (the scale-and-fire neuron of arXiv 2510.23383 has one global lambda that
Bayesian optimisation finds; range, objective and budget below are this project's). A larger lambda
fires fewer spikes and clips less, a smaller one resolves finer and clips more.

1. Objective, to be minimised:

       J(lambda) = error(lambda) / error(1) + weight * spikes(lambda) / spikes(1)

   error: ||y - y_ANN|| / ||y_ANN|| of each floating-point output, the root mean square over the
   outputs. spikes: of all calibrated neurons on a sample (``counting/neuron_spikes.py``). Where the
   calibrated network has no error, or fires no spike, any other than none of it is infinite.
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
5. The SNN is built once. A trial changes the thresholds and scales.

Neurons inside bodies are scaled as all others are.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from types import ModuleType

import numpy as np
from onnx import ModelProto, NodeProto

from ....passes.analysis.activations import Activation
from ....passes.graph.graph import METADATA_PREFIX
from ....passes.graph.network import Network, constant_of, set_constant
from ....passes.lowering.function_bodies import function_bodies
from ....passes.neurons.neuron import Neuron, scaled_step
from ....runtime_ops.operators import neurons_of
from ...counting.activity import ActivityMeter
from ...errors import UsageError
from ...options import CompileOptions
from ...progress import Progress
from ...running.fidelity import FidelityMeter
from ...running.memory import free_memory
from ...running.reference import Reference
from ...running.session import make_session, run_samples
from ...running.spool import Spool
from ...samples.base import Samples
from ...samples.part import Part
from ..fire import fire

#: Samples on which each trial runs, at most.
MOST_SAMPLES = 64

#: Lambda is searched between these; 1, the calibrated network, lies between them.
LEAST_SCALE, MOST_SCALE = 0.25, 2.0

#: Fewer samples are not worth holding out.
_FEWEST = 8

_OBJECTIVE = "error / error(1) + weight * spikes / spikes(1)"
_SAMPLER = "optuna TPESampler"
#: Trials drawn at random before the estimator is asked; optuna's 10 are for many dimensions.
_RANDOM_TRIALS = 5
_FLOAT = np.finfo(np.float32)


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


def hold_out(samples: Samples) -> tuple[Samples, Samples]:
    """Samples to calibrate with, and samples for the search that calibration does not see.

    Every fourth sample is held out, or fewer, about :data:`MOST_SAMPLES`, where there are many. If
    that leaves less than a batch, or less than :data:`_FEWEST`, both are all of the samples.
    """
    every = max(samples.count // MOST_SAMPLES, 4)
    if samples.count // every < (samples.fixed_batch or _FEWEST):
        return samples, samples
    return Part(samples, every, held=False), Part(samples, every, held=True)


def search_scale(
    analog: Network,
    activations: Sequence[Activation],
    neurons: Mapping[str, Neuron],
    samples: Samples,
    reference: Reference,
    options: CompileOptions,
    progress: Progress,
) -> tuple[dict[str, Neuron], SearchReport]:
    """Scale the steps of the calibrated neurons.

    Args:
        analog: the network that was calibrated, its corrected weights in place.
        activations: its activations.
        neurons: the calibrated neurons, keyed by the activation's output tensor.
        samples: held out from calibration, or its own where there are too few.
        reference: the ANN's outputs on all of them.
        options: resolved; how many trials, what spikes count, and the seed.
        progress: told about trials done.

    Returns:
        The neurons, scaled by the best lambda, and how it was found.

    Raises:
        UsageError: optuna is not installed.
    """
    optuna = import_optuna()
    scalable = _scalable(activations, neurons)
    with closing(Spool(int(options.memory * free_memory()))) as spool:
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
        low=LEAST_SCALE,
        high=MOST_SCALE,
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
    return activation.function is None or activation.function.homogeneous


def _search(
    optuna: ModuleType, bench: _Bench, options: CompileOptions, progress: Progress
) -> list[Trial]:
    """All trials, lambda = 1 first."""
    space = {"scale": optuna.distributions.FloatDistribution(LEAST_SCALE, MOST_SCALE, log=True)}
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


def import_optuna() -> ModuleType:
    """The package that a search needs.

    Raises:
        UsageError: it is not installed.
    """
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
        self._snn = function_bodies(fire(analog, neurons))
        keys = {a.name: a.output for a in activations if a.output in neurons}
        self._calibrated: set[str] = set()
        self._steps: dict[str, np.ndarray] = {}
        for node in neurons_of(self._snn.proto):
            key = keys.get(_source_of(node))
            if key is not None:
                self._calibrated.add(node.name)
            if key in scalable:
                self._steps[node.input[1]] = constant_of(self._snn, node.input[1])
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
        chosen = samples.spread(reference.batch, MOST_SAMPLES)
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
            self.samples += samples.count_in(feed)

    def measure(self, scale: float) -> tuple[float, float]:
        """Relative error of the outputs, and spikes per sample."""
        network = Network(ModelProto(), dict(self._snn.weights))
        network.proto.CopyFrom(self._snn.proto)
        for name, step in self._steps.items():
            set_constant(network, name, scaled_step(step, scale))
        activity = ActivityMeter(network, self._outputs, self._batches)
        session = make_session(activity.network)
        meters = [FidelityMeter(name) for name in self._outputs]
        for batch in range(self._batches):
            feed = {name: self._spool.get(f"given/{name}", batch) for name in self._inputs}
            outputs = run_samples(session, feed, "the SNN")
            activity.add(outputs)
            for meter, name, got in zip(meters, self._outputs, outputs, strict=False):
                meter.add(self._spool.get(f"expected/{name}", batch), got)
        errors = [meter.result().relative_l2 for meter in meters]
        counted = [fired for node, fired in activity.fired() if node.name in self._calibrated]
        spikes = sum(fired.spikes for fired in counted) / self.samples
        return float(np.sqrt(np.mean(np.square(errors)))), spikes


def _source_of(node: NodeProto) -> str:
    """Name of the activation that a calibrated neuron stands for, from its provenance."""
    key = METADATA_PREFIX + "source_node"
    return next((entry.value for entry in node.metadata_props if entry.key == key), "")
