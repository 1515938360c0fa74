"""Levels where they matter: N per neuron under a budget of spikes.

A neuron with few levels fires few spikes and errs much. Neurons differ in both: in how many values
they have, and in what their error does to the outputs.

1. Table. For each neuron and each N of a ladder around the N that was asked for (half of it to
   twice, :func:`ladder`) there are the squared relative error to be expected, e^2, and as cost the
   spikes on a sample to be expected (``counting/neuron_spikes.py``). The neuron is fitted to the
   distribution of its membrane potential in the ANN with each of these numbers; above 8 levels with
   the least, the asked and the most, between which both figures are powers of N. The ladder is
   short, as rule 3 counts on errors that are small: from a quarter to four times the N, networks
   lost more at N = 4.
2. Sensitivity. What an error at one neuron alone does to the outputs,

       sensitivity = (||dy||^2 / ||y||^2) / (||da||^2 / ||a||^2)

   a the activation, y the outputs, the mean over them. Measured on some samples with the
   activation rounded to a step whose error is about that of the neuron with N levels. All neurons
   are measured in one session: what is added to an activation is multiplied by an input.
3. Choice. The sum of sensitivity * e^2, which is the squared relative error of the outputs if the
   neurons' errors are independent and small, is minimised under sum of costs <= budget.
   :func:`allocate` goes up the lower convex hull of each table, always by the step that takes off
   most error per spike (H. Everett, Generalized Lagrange multiplier method, 1963; Y. Shoham and
   A. Gersho, Efficient bit allocation for an arbitrary set of quantizers, 1988). For what it has
   spent before the first step that no longer fits, no choice has less error, hull or not; the rest
   of the budget goes to later steps that still fit.

The budget is a share of what N levels for every neuron would fire, by the same tables: with 1 the
levels are only moved, with 0.5 half of the spikes have to go.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ....passes.analysis.activations import Activation
from ....passes.analysis.functions import ActivationFunction
from ....passes.graph.network import Network
from ....passes.graph.protos import graphs_below, unused_prefix
from ....passes.neurons.neuron import Neuron
from ...errors import DataError, UsageError
from ...options import AUTO, DENSITY, MOST_LEVELS, MOST_PLACED, MULTI_THRESHOLD, CompileOptions
from ...progress import Progress
from ...running.expose import with_outputs
from ...running.fidelity import FidelityMeter, float_outputs
from ...running.histograms import observe_samples
from ...running.probe import first_not_finite
from ...running.session import make_session, run_samples
from ...running.signed_histogram import SignedHistogram
from ...samples.files import Feed, Samples
from ..fitting.distributions import Distribution
from ..fitting.fit_neuron import fit_neuron
from ..fitting.rows import distributions
from ..fitting.watches import Fit, watches_of

#: Samples on which sensitivities are measured, at most; of large networks so many that all runs
#: together take about so many multiply-accumulates.
MOST_SAMPLES = 64
_WORK = 1e11
#: How many of them run at a time.
_BATCH = 4
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
        DataError: the network does not run on the samples, or gives NaN or inf.
    """
    share = options.levels_budget
    assert share is not None
    histograms, seen = _observe(network, activations, samples, size, options, progress)
    tables: dict[str, list[Choice]] = {}
    steps: dict[str, float] = {}
    for a in progress.track(activations, len(activations), "tables of levels"):
        histogram = histograms[a.output]
        tables[a.output] = level_table(a, histogram, seen, options)
        equal_error = _line(tables[a.output], _asked(options)).error
        steps[a.output] = _step(histogram, a.function, math.sqrt(equal_error))
    most = int(np.clip(_WORK / max(macs * len(activations), 1), 1, MOST_SAMPLES))
    sensitivities, used = measure_sensitivities(network, steps, samples, size, most, progress)
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
    rungs = ladder(options)
    known: dict[int, Choice] = {}
    few = options.levels <= _FEW
    for levels in rungs if few else {rungs[0], _asked(options), rungs[-1]}:
        neuron = fit_neuron(activation, histogram, replace(options, levels=levels))
        known[levels] = Choice(levels, neuron.error**2, count_spikes(neuron, rows) / samples)
    return [known.get(levels) or _between(known, levels) for levels in rungs]


def _between(known: Mapping[int, Choice], levels: int) -> Choice:
    """A choice between two known ones: logarithms are linear in that of N."""
    less = known[max(one for one in known if one < levels)]
    more = known[min(one for one in known if one > levels)]
    share = math.log(levels / less.levels) / math.log(more.levels / less.levels)

    def power(first: float, last: float) -> float:
        if first <= 0 or last <= 0:
            return first + share * (last - first)
        return float(first * (last / first) ** share)

    return Choice(levels, power(less.error, more.error), power(less.cost, more.cost))


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
    network: Network,
    steps: Mapping[str, float],
    samples: Samples,
    size: int,
    most: int,
    progress: Progress,
) -> tuple[dict[str, float], int]:
    """What an error at one activation alone does to the outputs: rule 2.

    Args:
        network: the canonical ANN.
        steps: to which step each activation is rounded, by its output tensor; 0 if not at all.
        samples: calibration samples.
        size: how many may run at a time.
        most: how many are run.
        progress: told about activations done.

    Returns:
        Sensitivities, and how many samples they were measured on. 0 where the step is 0, or no
        output changes; the mean of the others where the activation is silent on these samples; all
        are 1 where no output can be compared.
    """
    feeds, used = _spread(samples, size, most)
    outputs = [name for _, name in float_outputs(make_session(network, library=False))]
    if not outputs:
        return dict.fromkeys(steps, 1.0), used
    rounded = _Rounded(network, steps)
    expected, shares = rounded.measure_shares(feeds, outputs)
    session = make_session(with_outputs(rounded.network, outputs), library=False)
    found: dict[str, float] = {}
    for key in progress.track(list(steps), len(steps), "sensitivities"):
        if shares[key] == 0:
            continue
        meters = [FidelityMeter(name) for name in outputs]
        for feed, wanted in zip(feeds, expected, strict=True):
            got = run_samples(session, feed | rounded.gates(key), "the model")
            for meter, reference, other in zip(meters, wanted, got, strict=True):
                meter.add(reference, other)
        errors = [meter.result().relative_l2 ** 2 for meter in meters]
        found[key] = float(np.mean(errors)) / shares[key]
    if not np.isfinite(list(found.values())).all():
        return dict.fromkeys(steps, 1.0), used
    typical = float(np.mean(list(found.values()))) if found else 1.0
    return {key: found.get(key, typical) if step else 0.0 for key, step in steps.items()}, used


class _Rounded:
    """The ANN, with activations that a gate rounds: a + gate * (round(a / step) - a / step).

    Attributes:
        network: with a scalar input per gate.
    """

    def __init__(self, network: Network, steps: Mapping[str, float]) -> None:
        proto = ModelProto()
        proto.CopyFrom(network.proto)
        self.network = Network(proto, network.weights)
        self._steps = {key: np.float32(step) for key, step in steps.items()}
        prefix = unused_prefix(proto.graph, "rounded")
        self._names = {key: f"{prefix}.{number}" for number, key in enumerate(steps)}
        for graph in graphs_below(proto.graph):
            nodes = [NodeProto.FromString(node.SerializeToString()) for node in graph.node]
            if any(node.output[0] in steps for node in nodes if node.output):
                del graph.node[:]
                for node in nodes:
                    self._round(graph, node)
        for name in self._names.values():
            gate = helper.make_tensor_value_info(f"{name}.gate", TensorProto.FLOAT, [])
            proto.graph.input.append(gate)

    def gates(self, active: str | None = None) -> dict[str, np.ndarray]:
        """A feed that rounds one activation, or none."""
        return {
            f"{name}.gate": np.array(self._steps[key] if key == active else 0, np.float32)
            for key, name in self._names.items()
        }

    def measure_shares(
        self, feeds: Sequence[Feed], outputs: Sequence[str]
    ) -> tuple[list[list[np.ndarray]], dict[str, float]]:
        """The outputs where nothing is rounded, and ||da||^2 / ||a||^2 of each activation."""
        sums = [f"{name}.{what}" for name in self._names.values() for what in ("lost", "power")]
        visible = with_outputs(self.network, [*outputs, *sums])
        session = make_session(visible, library=False)
        expected = []
        totals = np.zeros(len(sums))
        for feed in feeds:
            got = run_samples(session, feed | self.gates(), "the model")
            expected.append(got[: len(outputs)])
            totals += [np.sum(array, dtype=np.float64) for array in got[len(outputs) :]]
        pairs = zip(self._steps.items(), totals.reshape(-1, 2), strict=True)
        return expected, {
            key: float(step) ** 2 * float(lost / power) if power > 0 else 0.0
            for (key, step), (lost, power) in pairs
        }

    def _round(self, graph: GraphProto, node: NodeProto) -> None:
        """Append a node, and what rounds its output if that is an activation's."""
        graph.node.append(node)
        key = node.output[0] if node.output else ""
        if key not in self._names:
            return
        name = self._names[key]
        graph.node[-1].output[0] = f"{name}.analog"
        step = np.array(self._steps[key] or 1, np.float32)
        graph.initializer.append(numpy_helper.from_array(step, f"{name}.step"))

        def add(op: str, inputs: str, output: str, **attributes: Any) -> None:
            names = [f"{name}.{what}" for what in inputs.split()]
            graph.node.append(helper.make_node(op, names, [output], **attributes))

        add("Div", "analog step", f"{name}.scaled")
        add("Round", "scaled", f"{name}.rounded")
        add("Sub", "rounded scaled", f"{name}.change")
        add("Mul", "change gate", f"{name}.added")
        add("Add", "analog added", key)
        add("ReduceSumSquare", "change", f"{name}.lost", keepdims=0)
        add("ReduceSumSquare", "analog", f"{name}.power", keepdims=0)


def _spread(samples: Samples, size: int, most: int) -> tuple[list[Feed], int]:
    """Batches evenly spread over the samples, and how many samples they hold."""
    batch = samples.fixed_batch or min(size, _BATCH, most)
    chosen = samples.spread(batch, most)
    feeds = [feed for position, feed in enumerate(samples.batches(batch)) if position in chosen]
    return feeds, sum(samples.count_in(feed) for feed in feeds)


def _observe(
    network: Network,
    activations: Sequence[Activation],
    samples: Samples,
    size: int,
    options: CompileOptions,
    progress: Progress,
) -> tuple[dict[str, SignedHistogram], int]:
    """The distribution of every membrane potential in the ANN, by the activation's output."""
    watches = watches_of(activations, Fit(options, {}).watch)
    observations = observe_samples(network, watches, samples, size, progress, "distributions")
    fixed = samples.fixed_batch
    seen = samples.batch_count(size) * fixed if fixed else samples.count
    if observations.not_finite:
        names = sorted(observations.not_finite)
        raise DataError(
            f"the samples make the input of a neuron NaN or infinite: {', '.join(names)}; check "
            f"their scaling: {first_not_finite(network, names, samples)}"
        )
    return {a.output: observations.histograms[a.input] for a in activations}, seen


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
