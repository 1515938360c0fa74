"""Levels where they matter: N per neuron under a budget of synaptic operations.

A neuron with few levels fires few spikes and errs much. Neurons differ in how many values they
have, in how many synapses a spike reaches, and in what their error does to the outputs.

1. Table. For each neuron and each N of a ladder around the N that was asked for (from half of it,
   :func:`ladder`) there are the squared relative error to be expected, e^2, and the spikes on a
   sample to be expected (``counting/neuron_spikes.py``). The neuron is fitted to the distribution
   of its membrane potential in the ANN, of all channels together, with each of these numbers. An
   octave neuron fires up to twice as much with one N as with the next, as the m that errs least
   leaps; it is fitted next to that of the N before (``octave.py``, rule 7), and when it is fitted
   for good it keeps that m, and one scale, so that it fires what was planned. Of other neurons
   with more than 8 levels only that of the N that was asked for is fitted, as e^2 goes with N^-2
   then, and spikes with N. The ladder is short, as rule 3 counts on errors that are small: up to
   four times the N lost more than up to twice at N = 4, from N = 8 on it lost less.
   The cost of a spike is what it sets off: one synaptic operation for each weight that it is
   multiplied with (the fan-out, ``report/coverage.py``), and one for itself, so that spikes which
   no linear operator reads are not free. Of a neuron that follows a curve the levels that it
   passes count as its spikes: where the curve is flat its levels lie close, and in units of the
   smallest step between them the GELUs of a transformer fire more than all its other neurons
   (MiniLM: over 90 % of the spikes), so that the budget would bind nothing else.
2. Sensitivity (``sensitivities.py``). What an error at one neuron alone does to the outputs: their
   squared relative error over that of the activation. Measured with the activation rounded to a
   step whose error is about that of the neuron with N levels.
3. Choice. The sum of sensitivity * e^2, which is the squared relative error of the outputs if the
   neurons' errors are independent and small, is minimised under sum of costs <= budget.
   :func:`allocate` goes up the lower convex hull of each table, always by the step that takes off
   most error per cost (H. Everett, Generalized Lagrange multiplier method, 1963; Y. Shoham and
   A. Gersho, Efficient bit allocation for an arbitrary set of quantizers, 1988). For what it has
   spent before the first step that no longer fits, no choice has less error, hull or not; the rest
   of the budget goes to later steps that still fit.

Both are measured on the same few samples, evenly spread over those of calibration.

The budget is a share of what N levels for every neuron would cost, by the same tables: with 1 the
levels are only moved, with 0.5 half of the synaptic operations have to go.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import cast

import numpy as np

from ....passes.analysis.activations import Activation
from ....passes.analysis.functions import ActivationFunction
from ....passes.graph.network import Network
from ....passes.neurons.neuron import Neuron, OctaveNeuron, SingleNeuron
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
from ...running.histograms import Observations, with_histograms
from ...running.probe import first_not_finite
from ...running.session import make_session, run_samples
from ...running.signed_histogram import SignedHistogram
from ...running.threads import as_they_come
from ...samples.base import Feed, Samples
from ..fitting.distributions import Distribution
from ..fitting.fit_neuron import NeuronFit
from ..fitting.rows import Rows, distributions
from ..fitting.watches import Fit, LevelPlan, watches_of
from .sensitivities import measure_sensitivities

#: Samples that are looked at; of large networks so many, but no fewer than that, that all runs
#: together take about so many multiply-accumulates.
MOST_SAMPLES, _FEWEST_SAMPLES = 64, 4
_WORK = 5e10
#: Relative errors to which activations are rounded, bounded: rounding to a step of several times
#: the values leaves nothing of them.
_LEAST_ERROR, _MOST_ERROR = 0.01, 0.5

#: Up to so many levels each rung is fitted: errors are no powers of N yet.
_FEW = 8
#: Points that an interval of values is taken for when spikes are counted.
_PARTS = 8
#: The ladder, as multiples of the N that was asked for; its top where N is at least 8.
_RUNGS = (1 / 2, 5 / 8, 3 / 4, 7 / 8, 1, 5 / 4, 3 / 2, 7 / 4, 2)
_HIGHER = (5 / 2, 3, 7 / 2, 4)


@dataclass(frozen=True)
class Choice:
    """One line of a neuron's table.

    Attributes:
        levels: N.
        error: what it adds to the objective; at least 0.
        cost: what it takes of the budget; at least 0.
        linear: m, where it is a single ScaleFire.
    """

    levels: int
    error: float
    cost: float
    linear: int | None = None


@dataclass(frozen=True)
class NeuronBudget:
    """What became of one neuron.

    Attributes:
        name: the activation's node.
        levels: N that it gets.
        sensitivity: squared relative error of the outputs per squared relative error here.
        error: relative error to be expected of the neuron.
        spikes: to be expected per sample.
        fan_out: with how many weights a spike is multiplied, on average.
    """

    name: str
    levels: int
    sensitivity: float
    error: float
    spikes: float
    fan_out: float


@dataclass(frozen=True)
class BudgetReport:
    """How levels were distributed.

    Attributes:
        share: the budget, as a share of the cost of equal levels.
        equal_levels: N of that comparison.
        equal_cost: synaptic operations and spikes per sample with N levels everywhere, to be
            expected.
        cost: the same with the levels chosen.
        equal_spikes: spikes per sample with N levels everywhere, to be expected.
        spikes: the same with the levels chosen.
        equal_error: square root of the objective with N levels everywhere.
        error: square root of the objective with the levels chosen.
        samples: how many the sensitivities were measured on.
        neurons: one line each.
    """

    share: float
    equal_levels: int
    equal_cost: float
    cost: float
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
    fan_out: Mapping[str, float],
    progress: Progress,
) -> tuple[dict[str, LevelPlan], BudgetReport]:
    """The number of levels of every neuron.

    Args:
        network: the canonical ANN.
        activations: what becomes a neuron.
        samples: calibration samples.
        size: how many run at a time.
        options: resolved; how neurons are chosen and fitted. ``levels`` is the N of comparison,
            ``levels_budget`` the budget as a share of the cost of N levels everywhere.
        macs: multiply-accumulates of a sample.
        fan_out: with how many weights a spike is multiplied, by the activation's output.
        progress: told about batches and neurons done.

    Returns:
        What is planned, by the activation's output tensor, and how it came to that.

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
    made = as_they_come(
        [partial(level_table, a, histograms[a.output], used, options) for a in activations]
    )
    for a, table in zip(
        activations, progress.track(made, len(activations), "tables of levels"), strict=True
    ):
        tables[a.output] = table
        equal_error = _line(table, _asked(options)).error
        steps[a.output] = _step(histograms[a.output], a.function, math.sqrt(equal_error))
    sensitivities = measure_sensitivities(network, steps, feeds, progress)
    weighted = {
        key: [
            replace(
                line, error=line.error * sensitivities[key], cost=line.cost * (fan_out[key] + 1)
            )
            for line in table
        ]
        for key, table in tables.items()
    }
    equal = {key: _line(table, _asked(options)) for key, table in weighted.items()}
    cost = math.fsum(line.cost for line in equal.values())
    least = math.fsum(min(line.cost for line in table) for table in weighted.values())
    if share * cost < least:
        raise UsageError(
            f"the budget of levels {share:g} is below {least / cost:.4g}: with the fewest levels "
            f"the neurons cost {least:.6g} synaptic operations per sample, with "
            f"{_asked(options)} for each {cost:.6g}"
        )
    chosen = allocate(weighted, share * cost)
    neurons = [
        _budgeted(a, _line(tables[a.output], chosen[a.output].levels), sensitivities, fan_out)
        for a in activations
    ]
    report = BudgetReport(
        share=share,
        equal_levels=_asked(options),
        equal_cost=cost,
        cost=math.fsum(line.cost for line in chosen.values()),
        equal_spikes=math.fsum(_line(table, _asked(options)).cost for table in tables.values()),
        spikes=math.fsum(neuron.spikes for neuron in neurons),
        equal_error=math.sqrt(math.fsum(line.error for line in equal.values())),
        error=math.sqrt(math.fsum(line.error for line in chosen.values())),
        samples=used,
        neurons=neurons,
    )
    return {key: LevelPlan(line.levels, line.linear) for key, line in chosen.items()}, report


def _budgeted(
    activation: Activation,
    line: Choice,
    sensitivities: Mapping[str, float],
    fan_out: Mapping[str, float],
) -> NeuronBudget:
    key = activation.output
    error = math.sqrt(line.error)
    return NeuronBudget(
        activation.name, line.levels, sensitivities[key], error, line.cost, fan_out[key]
    )


def ladder(options: CompileOptions) -> list[int]:
    """The numbers of levels that a neuron may get, ascending."""
    middle = options.levels * min(options.levels_budget or 1.0, 1.0)
    rungs = _RUNGS if options.levels < _FEW else _RUNGS + _HIGHER
    wanted = {max(round(rung * middle), 1) for rung in rungs} | {options.levels}
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
        histogram: of its membrane potential, as for :class:`~.fit_neuron.NeuronFit`.
        samples: how many the histogram has seen.
        options: how neurons are chosen and fitted.

    Returns:
        Squared relative error to be expected, and spikes per sample, by N.
    """
    fit = NeuronFit(activation, histogram)
    if options.calibrator == AUTO:
        options = replace(options, calibrator="mse" if options.kind == MULTI_THRESHOLD else DENSITY)
    if options.kind == AUTO and options.levels > _FEW:
        options = replace(options, neuron=SCALE)  # kinds differ by a constant factor of the error

    def fitted(levels: int, near: OctaveNeuron | None = None) -> Neuron:
        return fit.neuron(replace(options, levels=levels), near)

    def choice(levels: int, neuron: Neuron) -> Choice:
        spikes = count_spikes(neuron, fit.seen, by_level=not activation.linear) / samples
        octave = isinstance(neuron, OctaveNeuron) and not activation.relative
        linear = cast(OctaveNeuron, neuron).linear if octave else None
        return Choice(levels, neuron.error**2, spikes, linear)

    if options.levels <= _FEW:
        return [choice(levels, fitted(levels)) for levels in ladder(options)]
    levels = _asked(options)
    neuron = fitted(levels)
    asked = choice(levels, neuron)
    if asked.error == 0:  # as many levels as there are values: fewer are too few
        return [asked]
    if asked.linear is not None and options.calibrator == DENSITY:
        lower = [other for other in reversed(ladder(options)) if other < levels]
        higher = [other for other in ladder(options) if other > levels]
        table = [asked]
        for rungs in (lower, higher):
            near = cast(OctaveNeuron, neuron)
            for other in rungs:
                near = cast(OctaveNeuron, fitted(other, near))
                table.append(choice(other, near))
        return sorted(table, key=lambda line: line.levels)
    return [
        Choice(other, asked.error / share**2, asked.cost * share)
        for other in ladder(options)
        if (share := other / levels)
    ]


def count_spikes(neuron: Neuron, rows: Sequence[Distribution], by_level: bool = False) -> float:
    """Spikes that a neuron fires on values of these distributions, of a row per channel or one.

    Args:
        neuron: fitted.
        rows: of its membrane potential.
        by_level: count the levels between silence and the one reached, not units: rule 1.
    """

    def fired(part: SingleNeuron, x: np.ndarray, row: int) -> np.ndarray:
        if by_level:
            return np.asarray(np.abs(part.level_of(x, row) - part.level_of(np.zeros(1), row)))
        return part.spikes(x, row)

    x, row, weights = Rows.joined(rows).points(_PARTS)
    ends = np.searchsorted(row, np.arange(len(rows) + 1)).tolist()
    return sum(
        sum(
            float(weights[begin:end] @ fired(part, x[begin:end], number))
            for number, (begin, end) in enumerate(pairwise(ends))
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
    """The choices that are best for some price, by rising cost."""
    hull: list[Choice] = []
    for choice in sorted(table, key=lambda line: (line.cost, line.error, line.levels)):
        if hull and choice.error >= hull[-1].error:
            continue
        while len(hull) > 1 and _slope(hull[-1], choice) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(choice)
    return hull


def _slope(before: Choice, after: Choice) -> float:
    """Change of the error per cost, below 0."""
    return (after.error - before.error) / (after.cost - before.cost)


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
