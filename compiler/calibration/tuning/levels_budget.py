"""Levels where they matter: N per neuron under a budget of spikes.

A neuron with few levels fires few spikes and errs much. Neurons differ in both: in how many values
they have, and in what their error does to the outputs.

1. Table. For each neuron and each N of a ladder around the N that was asked for (half of it to
   twice, :func:`ladder`) there are the squared relative error to be expected, e^2, and as cost the
   spikes on a sample to be expected (``counting/neuron_spikes.py``). The neuron is fitted to the
   distribution of its membrane potential in the ANN, of all channels together, with each of these
   numbers; above 8 levels with the N that was asked for, as e^2 goes with N^-2 then, and spikes
   with N. The ladder is short, as rule 3 counts on errors that are small: from a quarter to four
   times the N, networks lost more at N = 4.
2. Sensitivity. What an error at one neuron alone does to the outputs,

       sensitivity = (||dy||^2 / ||y||^2) / (||da||^2 / ||a||^2)

   a the activation, y the outputs, the mean over them. Measured with the activation rounded to a
   step whose error is about that of the neuron with N levels. All neurons are measured in one
   session: each has a branch that rounds, and an input that says whether it is taken.
3. Choice. The sum of sensitivity * e^2, which is the squared relative error of the outputs if the
   neurons' errors are independent and small, is minimised under sum of costs <= budget.
   :func:`allocate` goes up the lower convex hull of each table, always by the step that takes off
   most error per spike (H. Everett, Generalized Lagrange multiplier method, 1963; Y. Shoham and
   A. Gersho, Efficient bit allocation for an arbitrary set of quantizers, 1988). For what it has
   spent before the first step that no longer fits, no choice has less error, hull or not; the rest
   of the budget goes to later steps that still fit.

Both are measured on the same few samples, evenly spread over those of calibration.

The budget is a share of what N levels for every neuron would fire, by the same tables: with 1 the
levels are only moved, with 0.5 half of the spikes have to go.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ....passes.analysis.activations import Activation
from ....passes.analysis.functions import ActivationFunction
from ....passes.graph.network import Network
from ....passes.graph.protos import graphs_below, unused_prefix
from ....passes.neurons.neuron import Neuron
from ...errors import DataError, UsageError
from ...options import (
    AUTO,
    DENSITY,
    MOST_LEVELS,
    MOST_PLACED,
    MULTI_THRESHOLD,
    SCALE,
    TENSOR,
    CompileOptions,
)
from ...progress import Progress
from ...running.expose import with_outputs
from ...running.fidelity import FidelityMeter, float_outputs
from ...running.histograms import Observations, with_histograms
from ...running.probe import first_not_finite
from ...running.session import make_session, run_samples
from ...running.signed_histogram import SignedHistogram
from ...samples.files import Feed, Samples
from ..fitting.distributions import Distribution
from ..fitting.fit_neuron import fit_neuron
from ..fitting.rows import distributions
from ..fitting.watches import Fit, watches_of

#: Samples that are looked at; of large networks so many, but no fewer than that, that all runs
#: together take about so many multiply-accumulates.
MOST_SAMPLES, _FEWEST_SAMPLES = 64, 4
_WORK = 5e10
#: Relative errors to which activations are rounded, bounded: rounding to a step of several times
#: the values leaves nothing of them.
_LEAST_ERROR, _MOST_ERROR = 0.01, 0.5

#: Up to so many levels each rung is fitted: errors are no powers of N yet.
_FEW = 8
#: The ladder, as multiples of the N that was asked for.
_RUNGS = (1 / 2, 5 / 8, 3 / 4, 7 / 8, 1, 5 / 4, 3 / 2, 7 / 4, 2)


@dataclass(frozen=True)
class Choice:
    """One line of a neuron's table.

    Attributes:
        levels: N.
        error: what it adds to the objective; at least 0.
        cost: what it takes of the budget; at least 0.
    """

    levels: int
    error: float
    cost: float


@dataclass(frozen=True)
class NeuronBudget:
    """What became of one neuron.

    Attributes:
        name: the activation's node.
        levels: N that it gets.
        sensitivity: squared relative error of the outputs per squared relative error here.
        error: relative error to be expected of the neuron.
        spikes: to be expected per sample.
    """

    name: str
    levels: int
    sensitivity: float
    error: float
    spikes: float


@dataclass(frozen=True)
class BudgetReport:
    """How levels were distributed.

    Attributes:
        share: the budget, as a share of the spikes of equal levels.
        equal_levels: N of that comparison.
        equal_spikes: spikes per sample with N levels everywhere, to be expected.
        spikes: spikes per sample with the levels chosen.
        equal_error: square root of the objective with N levels everywhere.
        error: square root of the objective with the levels chosen.
        samples: how many the sensitivities were measured on.
        neurons: one line each.
    """

    share: float
    equal_levels: int
    equal_spikes: float
    spikes: float
    equal_error: float
    error: float
    samples: int
    neurons: list[NeuronBudget] = field(default_factory=list)


def plan_levels(
    network: Network,
    activations: Sequence[Activation],
    samples: Samples,
    size: int,
    options: CompileOptions,
    macs: float,
    progress: Progress,
) -> tuple[dict[str, int], BudgetReport]:
    """The number of levels of every neuron.

    Args:
        network: the canonical ANN.
        activations: what becomes a neuron.
        samples: calibration samples.
        size: how many run at a time.
        options: resolved; how neurons are chosen and fitted. ``levels`` is the N of comparison,
            ``levels_budget`` the budget as a share of the spikes of N levels everywhere.
        macs: multiply-accumulates of a sample.
        progress: told about batches and neurons done.

    Returns:
        N by the activation's output tensor, and how it came to that.

    Raises:
        UsageError: the budget is below what the fewest levels cost.
        DataError: the network does not run on these samples, or gives NaN or inf.
    """
    share = options.levels_budget
    assert share is not None
    most = int(np.clip(_WORK / max(macs * len(activations), 1), _FEWEST_SAMPLES, MOST_SAMPLES))
    feeds, used = _spread(samples, size, most)
    histograms = _observe(network, activations, feeds, samples, options)
    tables: dict[str, list[Choice]] = {}
    steps: dict[str, float] = {}
    for a in progress.track(activations, len(activations), "tables of levels"):
        histogram = histograms[a.output]
        tables[a.output] = level_table(a, histogram, used, options)
        equal_error = _line(tables[a.output], _asked(options)).error
        steps[a.output] = _step(histogram, a.function, math.sqrt(equal_error))
    sensitivities = measure_sensitivities(network, steps, feeds, progress)
    weighted = {
        key: [replace(line, error=line.error * sensitivities[key]) for line in table]
        for key, table in tables.items()
    }
    equal = {key: _line(table, _asked(options)) for key, table in weighted.items()}
    spikes = math.fsum(line.cost for line in equal.values())
    least = math.fsum(min(line.cost for line in table) for table in tables.values())
    if share * spikes < least:
        raise UsageError(
            f"the budget of levels {share:g} is below {least / spikes:.4g}: with the fewest levels "
            f"the neurons fire {least:.6g} spikes per sample, with {_asked(options)} for each "
            f"{spikes:.6g}"
        )
    chosen = allocate(weighted, share * spikes)
    report = BudgetReport(
        share=share,
        equal_levels=_asked(options),
        equal_spikes=spikes,
        spikes=math.fsum(line.cost for line in chosen.values()),
        equal_error=math.sqrt(math.fsum(line.error for line in equal.values())),
        error=math.sqrt(math.fsum(line.error for line in chosen.values())),
        samples=used,
        neurons=[
            NeuronBudget(
                a.name,
                chosen[a.output].levels,
                sensitivities[a.output],
                math.sqrt(_line(tables[a.output], chosen[a.output].levels).error),
                chosen[a.output].cost,
            )
            for a in activations
        ],
    )
    return {key: line.levels for key, line in chosen.items()}, report


def ladder(options: CompileOptions) -> list[int]:
    """The numbers of levels that a neuron may get, ascending."""
    middle = options.levels * min(options.levels_budget or 1.0, 1.0)
    wanted = {max(round(rung * middle), 1) for rung in _RUNGS} | {options.levels}
    most = MOST_LEVELS if options.kind == MULTI_THRESHOLD else MOST_PLACED
    return sorted({min(levels, most) for levels in wanted})


def level_table(
    activation: Activation,
    histogram: SignedHistogram,
    samples: int,
    options: CompileOptions,
) -> list[Choice]:
    """Error and cost of a neuron for each N of the ladder.

    Args:
        activation: what becomes a neuron.
        histogram: of its membrane potential, as for :func:`~.fit_neuron.fit_neuron`.
        samples: how many the histogram has seen.
        options: how neurons are chosen and fitted.

    Returns:
        Squared relative error to be expected, and spikes per sample, by N.
    """
    rows = distributions(histogram)
    if options.calibrator == AUTO:
        options = replace(options, calibrator="mse" if options.kind == MULTI_THRESHOLD else DENSITY)

    def fitted(levels: int) -> Choice:
        neuron = fit_neuron(activation, histogram, replace(options, levels=levels))
        return Choice(levels, neuron.error**2, count_spikes(neuron, rows) / samples)

    if options.levels <= _FEW:
        return [fitted(levels) for levels in ladder(options)]
    if options.kind == AUTO:  # what decides between kinds is a constant factor of the error
        options = replace(options, neuron=SCALE)
    asked = fitted(_asked(options))
    if asked.error == 0:  # as many levels as there are values: fewer are too few
        return [asked]
    return [
        Choice(levels, asked.error / share**2, asked.cost * share)
        for levels in ladder(options)
        if (share := levels / asked.levels)
    ]


def count_spikes(neuron: Neuron, rows: Sequence[Distribution]) -> float:
    """Spikes that a neuron fires on values of these distributions, of a row per channel or one."""
    return sum(
        sum(
            float(weights @ part.spikes(x, row))
            for row, (x, weights) in enumerate(values.points() for values in rows)
        )
        for part in neuron.parts.values()
    )


def allocate(tables: Mapping[str, Sequence[Choice]], budget: float) -> dict[str, Choice]:
    """One choice of each table, of the least sum of errors under a budget: rule 3.

    Ties go to the table that comes first, and to fewer levels.

    Args:
        tables: at least one choice each.
        budget: the most that the costs may sum up to; at least what the cheapest choices cost.
    """
    hulls = {key: _lower_hull(table) for key, table in tables.items()}
    chosen = {key: hull[0] for key, hull in hulls.items()}
    steps = [
        (_slope(before, after), position, key, after)
        for position, (key, hull) in enumerate(hulls.items())
        for before, after in pairwise(hull)
    ]
    # Slopes rise along a hull, so that its steps come in order; behind one that does not fit no
    # other of the same neuron does.
    for _, _, key, after in sorted(steps, key=lambda step: step[:2]):
        others = [choice.cost for name, choice in chosen.items() if name != key]
        if math.fsum([*others, after.cost]) <= budget:
            chosen[key] = after
    return chosen


def _lower_hull(table: Sequence[Choice]) -> list[Choice]:
    """The choices that are best for some price of a spike, by rising cost."""
    hull: list[Choice] = []
    for choice in sorted(table, key=lambda line: (line.cost, line.error, line.levels)):
        if hull and choice.error >= hull[-1].error:
            continue
        while len(hull) > 1 and _slope(hull[-1], choice) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(choice)
    return hull


def _slope(before: Choice, after: Choice) -> float:
    """Change of the error per spike, below 0."""
    return (after.error - before.error) / (after.cost - before.cost)


def measure_sensitivities(
    network: Network, steps: Mapping[str, float], feeds: Sequence[Feed], progress: Progress
) -> dict[str, float]:
    """What an error at one activation alone does to the outputs: rule 2.

    Args:
        network: the canonical ANN.
        steps: to which step each activation is rounded, by its output tensor; 0 if not at all.
        feeds: batches of samples.
        progress: told about activations done.

    Returns:
        Sensitivities: 0 where the step is 0, or no output changes; the mean of the others where the
        activation is silent on these samples; all are 1 where no output can be compared.
    """
    outputs = [name for _, name in float_outputs(make_session(network, library=False))]
    if not outputs:
        return dict.fromkeys(steps, 1.0)
    expected, shares = _shares(network, steps, feeds, outputs)
    switched, switches = _switched(network, steps)
    session = make_session(with_outputs(switched, outputs), library=False)
    found: dict[str, float] = {}
    for key in progress.track(list(steps), len(steps), "sensitivities"):
        if shares[key] == 0:
            continue
        only = {switch: np.array(name == key) for name, switch in switches.items()}
        meters = [FidelityMeter(name) for name in outputs]
        for feed, wanted in zip(feeds, expected, strict=True):
            got = run_samples(session, feed | only, "the model")
            for meter, reference, other in zip(meters, wanted, got, strict=True):
                meter.add(reference, other)
        errors = [meter.result().relative_l2 ** 2 for meter in meters]
        found[key] = float(np.mean(errors)) / shares[key]
    if not np.isfinite(list(found.values())).all():
        return dict.fromkeys(steps, 1.0)
    typical = float(np.mean(list(found.values()))) if found else 1.0
    return {key: found.get(key, typical) if step else 0.0 for key, step in steps.items()}


def _shares(
    network: Network, steps: Mapping[str, float], feeds: Sequence[Feed], outputs: Sequence[str]
) -> tuple[list[list[np.ndarray]], dict[str, float]]:
    """The outputs of each feed, and ||da||^2 / ||a||^2 of each activation."""
    proto, names = _copy(network, steps)

    def summed(node: NodeProto) -> list[NodeProto]:
        key, name = node.output[0], names[node.output[0]]
        return [
            node,
            *_rounding(key, name, steps[key]),
            helper.make_node("Sub", [f"{name}.rounded", key], [f"{name}.change"]),
            helper.make_node("ReduceSumSquare", [f"{name}.change"], [f"{name}.lost"], keepdims=0),
            helper.make_node("ReduceSumSquare", [key], [f"{name}.power"], keepdims=0),
        ]

    _replace(proto, names, summed)
    sums = [f"{name}.{what}" for name in names.values() for what in ("lost", "power")]
    visible = with_outputs(Network(proto, network.weights), [*outputs, *sums])
    session = make_session(visible, library=False)
    expected = []
    totals = np.zeros(len(sums))
    for feed in feeds:
        got = run_samples(session, feed, "the model")
        expected.append(got[: len(outputs)])
        totals += [np.sum(array, dtype=np.float64) for array in got[len(outputs) :]]
    pairs = zip(steps, totals.reshape(-1, 2), strict=True)
    return expected, {
        key: float(lost / power) if steps[key] and 0 < power < np.inf else 0.0
        for key, (lost, power) in pairs
    }


def _switched(network: Network, steps: Mapping[str, float]) -> tuple[Network, dict[str, str]]:
    """The ANN with activations that are rounded on demand, and the input of each that says so."""
    proto, names = _copy(network, steps)

    def chosen(node: NodeProto) -> list[NodeProto]:
        key, name = node.output[0], names[node.output[0]]
        analog = f"{name}.analog"
        node.output[0] = analog
        branches = {
            "then_branch": (_rounding(analog, name, steps[key]), f"{name}.rounded"),
            "else_branch": (
                [helper.make_node("Identity", [analog], [f"{name}.same"])],
                f"{name}.same",
            ),
        }
        graphs = {
            branch: helper.make_graph(
                nodes, branch, [], [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)]
            )
            for branch, (nodes, result) in branches.items()
        }
        return [node, helper.make_node("If", [f"{name}.on"], [key], **graphs)]

    _replace(proto, names, chosen)
    switches = {key: f"{name}.on" for key, name in names.items()}
    proto.graph.input.extend(
        helper.make_tensor_value_info(switch, TensorProto.BOOL, []) for switch in switches.values()
    )
    return Network(proto, network.weights), switches


def _copy(network: Network, keys: Iterable[str]) -> tuple[ModelProto, dict[str, str]]:
    """The network to be changed, and what begins the names of new tensors for each of these."""
    proto = ModelProto()
    proto.CopyFrom(network.proto)
    prefix = unused_prefix(proto.graph, "rounded")
    return proto, {key: f"{prefix}.{number}" for number, key in enumerate(keys)}


def _rounding(value: str, name: str, step: float) -> list[NodeProto]:
    """Nodes that round a value to a step: ``<name>.rounded``."""
    constant = numpy_helper.from_array(np.array(step or 1, np.float32))
    return [
        helper.make_node("Constant", [], [f"{name}.step"], value=constant),
        helper.make_node("Div", [value, f"{name}.step"], [f"{name}.steps"]),
        helper.make_node("Round", [f"{name}.steps"], [f"{name}.whole"]),
        helper.make_node("Mul", [f"{name}.whole", f"{name}.step"], [f"{name}.rounded"]),
    ]


def _replace(
    proto: ModelProto, names: Mapping[str, str], by: Callable[[NodeProto], list[NodeProto]]
) -> None:
    """Replace the nodes that make these tensors, in bodies too."""
    for graph in graphs_below(proto.graph):
        nodes = [NodeProto.FromString(node.SerializeToString()) for node in graph.node]
        if any(node.output and node.output[0] in names for node in nodes):
            del graph.node[:]
            for node in nodes:
                made = node.output and node.output[0] in names
                graph.node.extend(by(node) if made else [node])


def _spread(samples: Samples, size: int, most: int) -> tuple[list[Feed], int]:
    """Batches evenly spread over the samples, and how many samples they hold."""
    batch = samples.fixed_batch or min(size, most)
    chosen = samples.spread(batch, most)
    feeds = [feed for position, feed in enumerate(samples.batches(batch)) if position in chosen]
    return feeds, sum(samples.count_in(feed) for feed in feeds)


def _observe(
    network: Network,
    activations: Sequence[Activation],
    feeds: Sequence[Feed],
    samples: Samples,
    options: CompileOptions,
) -> dict[str, SignedHistogram]:
    """The distribution of every membrane potential in the ANN, by the activation's output."""
    watches = watches_of(activations, Fit(replace(options, granularity=TENSOR), {}).watch)
    observations = Observations(watches)
    session = make_session(with_histograms(network, watches, runs=len(feeds)))
    for feed in feeds:
        observations.add(run_samples(session, feed, "the model"))
    if observations.not_finite:
        names = sorted(observations.not_finite)
        raise DataError(
            f"the samples make the input of a neuron NaN or infinite: {', '.join(names)}; check "
            f"their scaling: {first_not_finite(network, names, samples)}"
        )
    return {a.output: observations.histograms[a.input] for a in activations}


def _step(histogram: SignedHistogram, function: ActivationFunction | None, error: float) -> float:
    """The step to which rounding errs about as much, 0 where the activation is silent."""
    rows = distributions(histogram)
    if function is not None:
        rows = rows.of(function.evaluate)
    active = sum(row.total - row.zeros for row in rows)
    if active == 0:
        return 0.0
    power = sum(row.power for row in rows) / active
    return math.sqrt(12 * power) * min(max(error, _LEAST_ERROR), _MOST_ERROR)


def _asked(options: CompileOptions) -> int:
    """N of equal levels, as the ladder has it."""
    return min(options.levels, ladder(options)[-1])


def _line(table: Sequence[Choice], levels: int) -> Choice:
    return next(line for line in table if line.levels == levels)
