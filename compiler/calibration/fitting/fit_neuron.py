"""Which neuron an activation becomes, and which calibrator fits it.

Kinds (``--neuron``):

1. scale: ScaleFire, the octave neuron (``octave.py``), where f is linear on either side of 0: Relu,
   Clip from 0, x itself (encoders), with levels on both sides of 0 where there are values on both.
   LeakyRelu and PRelu are two neurons, one for either sign, N levels each. Every other f stays in
   float, and an encoder follows what it gives (``keep_activations.py``).
2. staircase: one StaircaseFire, which follows f. Where f(a x) = a f(x) for a > 0 (x itself, Relu,
   LeakyRelu, PRelu of one slope) channels may have scales of their own.
3. multi-threshold: MultiThresholdFire, where scale has a ScaleFire; every other f is a
   StaircaseFire.
4. auto: multi-threshold where N > 255, staircase where N <= 8: few levels have to lie exactly, many
   need not. Else, where scale has one ScaleFire, that, if the squared error to be expected of it is
   at most :data:`_WITHIN` times a StaircaseFire's, and the StaircaseFire where it is more.
   LeakyRelu and PRelu are one StaircaseFire. docs/octaves.md has what that costs and what it saves.
5. Neurons that are marked so have their errors counted relative to the values (``costs.py``).
6. PRelu with a slope per channel is no staircase that channels could share: two neurons of either
   kind (auto: ScaleFire), one that follows max(x, 0) and one that follows min(x, 0).

Levels: N of one polarity. A neuron that carries both signs has 2 N levels besides silence, divided
between the polarities as its calibrator finds best (arXiv 2508.14520: keep the negative levels); a
StaircaseFire has at most 255. Over T timesteps a neuron has N levels in each, T N in all, and
where it carries both signs as many of either.

Calibrators (``--calibrator``): density is ``octave.py`` or ``staircase.py``, the others are
``uniform_calibrators.py``. auto takes the one with the least expected squared error of

- scale, staircase: density, mse;
- multi-threshold: mse, max.

The error that is expected on new values is (n + p) / (n - p) times that on the n values seen, p
the numbers fitted to them (H. Akaike, Fitting autoregressive models for prediction, 1969): a
staircase fits thresholds, levels and scales, an octave neuron scales, m and the division by
polarity, mse its steps and the division, max nothing. What the ANN and the spiking network make of
a sample (``sequential.py``) are one value here. With many values density wins, with fewer than a
few per level it only fits the samples. Where n <= p nothing is known about new values, and the
calibrator that fits least is taken. Beside density, mse is tried only where (n + p) / (n - p)
exceeds 1.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, TypeVar

import numpy as np

from ....passes.analysis.activations import Activation
from ....passes.analysis.functions import ActivationFunction
from ....passes.neurons.neuron import (
    DualNeuron,
    Neuron,
    OctaveNeuron,
    SingleNeuron,
    StaircaseNeuron,
    ThresholdNeuron,
)
from ....passes.neurons.rounded_chain import linear_of
from ...options import (
    AUTO,
    CHANNEL,
    DENSITY,
    MOST_INT8,
    MOST_PLACED,
    MULTI_THRESHOLD,
    PERCENTILE,
    SCALE,
    STAIRCASE,
    CompileOptions,
)
from ...running.signed_histogram import SignedHistogram
from ...running.threads import together
from .distributions import Distribution
from .octave import find_octave
from .rows import Rows, distributions, points_of, pool
from .staircase import Staircase, find_scaled_staircase, find_staircase
from .thresholds import find_thresholds
from .uniform_staircase import find_uniform_staircase

#: Points, at most, at which the error of a staircase is measured.
_POINTS = 200_000
_PARTS = 8
#: Expected error over the error seen, from which a staircase is fitted to too few values.
_FEW = 1.1
#: Expected squared error of an octave neuron over that of a staircase, up to which it is taken.
_WITHIN = 1.5
#: Levels N up to which they are placed one by one.
_FEW_LEVELS = 8
#: Levels of one sign of an integer of 8 bits.
_MOST_SIGNED = MOST_INT8 // 2
_ENOUGH = "auto: enough values for levels that follow the density"

_POSITIVE = ActivationFunction(lambda x: np.maximum(x, 0.0), homogeneous=True)
_NEGATIVE = ActivationFunction(lambda x: np.minimum(x, 0.0), homogeneous=True)
_MIRRORED = ActivationFunction(lambda x: -np.minimum(x, 0.0), homogeneous=True)

_Kind = TypeVar("_Kind", bound=SingleNeuron)


@dataclass(frozen=True)
class _Candidate(Generic[_Kind]):
    """What a calibrator gives.

    Attributes:
        calibrator: its name.
        neuron: without reason and error.
        squared_error: over the values seen.
        fitted: how many numbers were fitted to them.
    """

    calibrator: str
    neuron: _Kind
    squared_error: float
    fitted: int

    def expected(self, values: float) -> float:
        """The squared error to be expected on as many new values; inf where nothing is known."""
        if self.fitted >= values:
            return np.inf
        return self.squared_error * (values + self.fitted) / (values - self.fitted)


def fit_neuron(
    activation: Activation,
    histogram: SignedHistogram,
    options: CompileOptions,
    floor: float | None = None,
    linear: int | None = None,
) -> Neuron:
    """The neuron of an activation: as :class:`NeuronFit`, once."""
    return NeuronFit(activation, histogram, floor).neuron(options, linear=linear)


class NeuronFit:
    """Fits the neuron of an activation, as often as is asked for, to what was seen once.

    Args:
        activation: what becomes a neuron.
        histogram: of the neuron's membrane potential; one row, or one per channel where
            :func:`channel_axis` names an axis.
        floor: mean square on samples of the least scale, where their scale is not known: rule 1 of
            ``unknown_scale.py``; levels follow the density then.

    Attributes:
        seen: the distribution of each row of the histogram.
    """

    def __init__(
        self, activation: Activation, histogram: SignedHistogram, floor: float | None = None
    ) -> None:
        self._activation = activation
        self.seen = rows = distributions(histogram)
        self._values = sum(rows.totals.tolist()) / histogram.views
        self._by_density = floor is not None and not activation.relative
        if activation.relative:
            rows = Rows.joined([(pool(rows) if len(rows) > 1 else rows[0]).relative()])
        elif floor is not None:
            rows = Rows.joined([row.relative_above(floor) for row in rows])
        self._rows = rows

    def neuron(
        self,
        options: CompileOptions,
        near: OctaveNeuron | None = None,
        linear: int | None = None,
    ) -> Neuron:
        """The neuron with its calibrator, the reason and its expected relative error.

        Args:
            options: resolved.
            near: what the neuron is with another N, of one scale, if it is known: rule 7 of
                ``octave.py``.
            linear: m, if it becomes a single ScaleFire; None: the one that errs least.

        Raises:
            ValueError: the function is NaN or infinite at a value seen.
        """
        activation, rows = self._activation, self._rows
        if self._by_density:
            options = replace(options, calibrator=DENSITY)
        fit = _Fit(rows, options, activation.axis if len(rows) > 1 else None, self._values)
        function, kind = activation.function, options.kind
        if function is None or (activation.signed and kind in (SCALE, MULTI_THRESHOLD)):
            return _dual(fit, kind, rows)
        few = kind == AUTO and options.levels <= _FEW_LEVELS
        if not activation.linear or activation.signed or kind == STAIRCASE or few:
            return fit.staircase_neuron(function, _why_staircase(activation, options))
        if kind == MULTI_THRESHOLD:
            return fit.threshold_neuron(function, activation.upper, activation.encodes)
        octave = partial(
            fit.octave_neuron, function, activation.upper, activation.encodes, near, linear
        )
        if kind == SCALE:
            return octave()
        staircase = partial(fit.staircase_neuron, function)
        neurons: list[SingleNeuron] = together(octave, staircase)
        return _cheaper(*neurons)


def channel_axis(activation: Activation, options: CompileOptions) -> int | None:
    """The axis along which the neuron has rows of its own in the histogram; None for one row."""
    if options.granularity != CHANNEL or not activation.channels or activation.relative:
        return None
    function = activation.function
    multiples = activation.linear and options.kind in (SCALE, MULTI_THRESHOLD)
    scalable = function is None or function.homogeneous or multiples
    return activation.axis if scalable else None


def levels_of_signs(rows: Sequence[Distribution], levels: int, signed: bool) -> tuple[int, int]:
    """N_pos and N_neg of a neuron whose spikes are an integer of so many bits, or one of a sign.

    With both signs it has as many levels of either, one bit more; never more than 8.

    Args:
        rows: of the values that it follows.
        levels: N.
        signed: whether values of both signs may come.
    """
    above = any(row.positive.peak > 0 for row in rows)
    below = any(row.negative.peak > 0 for row in rows)
    if signed or (above and below):
        one = min(levels, _MOST_SIGNED)
        return one, one
    return (0, levels) if below else (levels, 0)


class _Fit:
    """Fits neurons to the distributions of one membrane potential."""

    def __init__(
        self,
        rows: Rows,
        options: CompileOptions,
        axis: int | None,
        values: float,
    ) -> None:
        self._rows, self._options, self._values = rows, options, values
        self._axis = 1 if axis is None else axis

    def threshold_neuron(
        self, function: ActivationFunction, upper: float = np.inf, signed: bool = False
    ) -> ThresholdNeuron:
        """A MultiThresholdFire of ``function``, which is linear through 0 up to ``upper``."""
        rows = self._rows.of(function.evaluate)
        above, below = rows.has_positive, rows.has_negative
        signed = signed and not self._options.equal_steps  # bits are those of the values there are
        both = signed or (above and below)
        levels = self._levels(both)
        division = None
        if self._options.timesteps > 1:  # a step has as many levels as any other
            one = self._options.total_levels
            division = (one, one) if both else (0, one) if below else (one, 0)

        def candidate(calibrator: str) -> _Candidate[ThresholdNeuron]:
            found = find_thresholds(
                rows,
                levels,
                calibrator,
                self._options.percentile,
                upper,
                signed,
                division,
                self._options.power_of_two,
            )
            neuron = ThresholdNeuron(
                theta=found.theta,
                levels_pos=found.levels_pos,
                levels_neg=found.levels_neg,
                clip_rate=found.clip_rate,
                axis=self._axis,
                calibrator=self._describe(calibrator, found.theta),
            )
            fitted = 0 if calibrator == "max" else found.theta.size + 1
            return _Candidate(calibrator, neuron, found.squared_error, fitted)

        return self._best([candidate(name) for name in self._asked("mse", "max")], rows.power)

    def octave_neuron(
        self,
        function: ActivationFunction,
        upper: float = np.inf,
        signed: bool = False,
        near: OctaveNeuron | None = None,
        linear: int | None = None,
    ) -> OctaveNeuron:
        """A ScaleFire of ``function``, which is linear through 0 up to ``upper``."""
        rows = self._rows.of(function.evaluate)
        above, below = rows.has_positive, rows.has_negative
        levels = self._levels(above and below)

        def candidate(calibrator: str) -> _Candidate[OctaveNeuron]:
            if calibrator == DENSITY:
                found = find_octave(
                    rows, levels, upper, signed, self._options.power_of_two, near, linear
                )
                scale, error, fitted = found.scale, found.squared_error, found.scale.size + 2
                rounded, tops = found.linear, (found.top_pos, found.top_neg)
            else:
                uniform = find_thresholds(
                    rows,
                    levels,
                    calibrator,
                    self._options.percentile,
                    upper,
                    signed,
                    power_of_two=self._options.power_of_two,
                )
                scale, error = uniform.theta, uniform.squared_error
                tops = uniform.levels_pos, uniform.levels_neg
                rounded = linear_of(max(tops))
                fitted = 0 if calibrator == "max" else scale.size + 1
            neuron = OctaveNeuron(
                scale=scale,
                linear=rounded,
                top_pos=tops[0],
                top_neg=tops[1],
                axis=self._axis,
                calibrator=self._describe(calibrator, scale),
            )
            return _Candidate(calibrator, neuron, error, fitted)

        return self._density_or_mse(candidate, rows.power)

    def staircase_neuron(self, function: ActivationFunction, why: str = "") -> StaircaseNeuron:
        """A StaircaseFire that follows ``function``; ``why`` it is one goes before the reason."""
        options, rows = self._options, self._rows
        x, scales, weights = points_of(rows, _POINTS, 1, _PARTS)
        f = function.evaluate(x)
        levels = min(self._levels(bool((f < 0).any() and (f > 0).any())), MOST_PLACED)

        def candidate(calibrator: str) -> _Candidate[StaircaseNeuron]:
            if calibrator != DENSITY:
                scale, staircase = find_uniform_staircase(
                    rows, function, levels, calibrator, options.percentile
                )
                fitted = 0 if calibrator == "max" else scale.size + 1
            elif len(rows) > 1:
                scale, staircase = find_scaled_staircase(rows, function.evaluate, levels)
                fitted = _numbers(staircase) + (scale.size if scale.ndim else 0)
            else:
                scale = np.ones((), np.float32)
                row = rows[0]
                staircase = find_staircase(row.means, row.counts, function.evaluate, levels)
                fitted = _numbers(staircase)
            neuron = StaircaseNeuron.of_staircase(
                scale,
                staircase.thresholds,
                staircase.levels,
                axis=self._axis,
                calibrator=self._describe(calibrator, scale),
            )
            unit = scale.astype(np.float64)[scales] if scale.ndim else float(scale)
            thresholds, reached = neuron.staircase()
            y = unit * reached[np.searchsorted(thresholds, x / unit, side="right")]
            return _Candidate(calibrator, neuron, float(weights @ (f - y) ** 2), fitted)

        return self._density_or_mse(candidate, float(weights @ f**2), why)

    def _density_or_mse(
        self, candidate: Callable[[str], _Candidate[_Kind]], power: float, why: str = ""
    ) -> _Kind:
        """The calibrator asked for, or density unless there are too few values for it."""
        asked = self._asked(DENSITY, "mse")
        found = [candidate(asked[0])]
        # What is fitted to the density has the least error on the values seen, so that others can
        # only be better where there are few of them.
        if found[0].expected(self._values) > _FEW * found[0].squared_error:
            found += [candidate(name) for name in asked[1:]]
        elif len(asked) > 1:
            why = "; ".join([*([why] if why else []), _ENOUGH])
        return self._best(found, power, why)

    def _levels(self, both: bool) -> int:
        """Levels besides silence, for values of one polarity or of both."""
        levels = self._options.total_levels * (2 if both else 1)
        return min(levels, MOST_INT8) if self._options.integers else levels

    def _asked(self, *automatic: str) -> tuple[str, ...]:
        """The calibrators to try, the one that fits least last."""
        return automatic if self._options.calibrator == AUTO else (self._options.calibrator,)

    def _best(self, candidates: Sequence[_Candidate[_Kind]], power: float, why: str = "") -> _Kind:
        expected = [candidate.expected(self._values) for candidate in candidates]
        at = int(np.argmin(expected)) if np.isfinite(expected).any() else len(candidates) - 1
        reasons = [why] if why else []
        if len(candidates) > 1:
            others = ", ".join(
                f"{candidate.calibrator} {_share(error, power)}"
                for candidate, error in zip(candidates, expected, strict=True)
            )
            reasons.append(f"auto: of the errors to be expected ({others}) the least")
        error = expected[at] if np.isfinite(expected[at]) else candidates[at].squared_error
        return replace(
            candidates[at].neuron,
            reason="; ".join(reasons),
            error=float(np.sqrt(error / power)) if power > 0 else 0.0,
        )

    def _describe(self, calibrator: str, scale: np.ndarray) -> str:
        """The calibrator as provenance shows it."""
        if calibrator == PERCENTILE:
            calibrator = f"percentile {self._options.percentile:g}"
        return f"{calibrator}, {'per channel' if scale.ndim else 'per tensor'}"


def _share(error: float, power: float) -> str:
    if not np.isfinite(error):
        return "unknown, too few values"
    return f"{np.sqrt(error / power) if power > 0 else 0.0:.2%}"


def _numbers(staircase: Staircase) -> int:
    return len(staircase.thresholds) + len(staircase.levels)


def _why_staircase(activation: Activation, options: CompileOptions) -> str:
    """Why it is a StaircaseFire, and has fewer levels than were asked for; empty: as asked."""
    if activation.linear:
        few = options.kind == AUTO and not activation.signed
        return f"auto: up to {_FEW_LEVELS} levels are placed one by one" if few else ""
    why = f"{activation.op} is curved"
    if options.levels > MOST_PLACED:
        why += f", a StaircaseFire has at most {MOST_PLACED} levels"
    return why


def _cheaper(octave: SingleNeuron, staircase: SingleNeuron) -> Neuron:
    """Rule 4: the octave neuron costs less, a staircase has its levels where they should be."""
    ratio = octave.error**2 / staircase.error**2 if staircase.error else np.inf
    if octave.error == 0:
        ratio = 1.0
    taken: Neuron = octave if ratio <= _WITHIN else staircase
    compared = (
        f"auto: octaves of levels have {ratio:.2f} times the squared error of levels placed one by "
        f"one, up to {_WITHIN:g} are taken"
    )
    if not np.isfinite(ratio):
        compared = "auto: levels placed one by one have no error, octaves of levels have one"
    reasons = [taken.reason, compared]
    return replace(taken, reason="; ".join(reason for reason in reasons if reason))


def _dual(fit: _Fit, kind: str, rows: Rows) -> DualNeuron:
    """Two neurons in one; the slope, which weighs the negative side, is taken as 1."""
    positive: SingleNeuron
    negative: SingleNeuron
    if kind == MULTI_THRESHOLD:
        positive = fit.threshold_neuron(_POSITIVE)
        negative = fit.threshold_neuron(_MIRRORED).mirrored()
    elif kind == STAIRCASE:
        positive, negative = fit.staircase_neuron(_POSITIVE), fit.staircase_neuron(_NEGATIVE)
    else:
        positive = fit.octave_neuron(_POSITIVE)
        negative = fit.octave_neuron(_MIRRORED).mirrored()
    above, below = (sum(squares) for squares in rows.squares)
    error = positive.error**2 * above + negative.error**2 * below
    return DualNeuron(
        positive=positive,
        negative=negative,
        axis=positive.axis,
        calibrator=positive.calibrator,
        reason=positive.reason,
        error=float(np.sqrt(error / (above + below))) if above + below > 0 else 0.0,
    )
