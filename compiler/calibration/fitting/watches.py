"""How neurons are fitted: what has to be observed, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ....passes.analysis.activations import Activation
from ....passes.neurons.neuron import Neuron
from ...options import SCALE, TENSOR, CompileOptions
from ...running.histograms import Watch
from ...running.signed_histogram import SignedHistogram
from .distributions import Distribution
from .fit_neuron import channel_axis, fit_neuron, levels_of_signs
from .membrane import Membrane
from .shared_step import SharedStep, share_steps

#: Bins per octave of a channel, as a power of two, and octaves, where scales are not known.
_WIDE_BINS = (4, 24)


#: Why a neuron is a ScaleFire of one scale.
_PLANNED = "auto: planned with the others, so that all cost what the budget of levels allows"


class NotFiniteError(Exception):
    """An observed tensor holds NaN or infinity.

    Attributes:
        tensors: names of these tensors.
    """

    def __init__(self, tensors: Iterable[str]) -> None:
        super().__init__(", ".join(sorted(tensors)))
        self.tensors = frozenset(tensors)


@dataclass(frozen=True)
class LevelPlan:
    """What is planned of a neuron before it is fitted.

    Attributes:
        levels: N.
        linear: m of a ScaleFire with one scale for all channels; None: kind, m and scales are those
            that err least. What a neuron fires depends on them as much as on N: with a scale per
            channel quiet ones fire as much as loud ones.
    """

    levels: int
    linear: int | None = None


class Fit:
    """How the options have neurons fitted to what they see.

    Args:
        options: resolved.
        levels: what is planned of neurons, by the activation's output tensor; others have as many
            levels as the options say.
        floors: mean squares of what activations read on samples of the least scale, by tensor,
            where the scale of the samples is not known (``unknown_scale.py``); else None.

    Attributes:
        shared: steps that several neurons have, by the activation's output tensor.
        membranes: what the neurons were fitted to, by the activation's output tensor.
    """

    def __init__(
        self,
        options: CompileOptions,
        levels: Mapping[str, LevelPlan],
        floors: Mapping[str, float] | None = None,
    ) -> None:
        self._options, self._levels, self._floors = options, levels, floors
        self.shared: dict[str, SharedStep] = {}
        self.membranes: dict[str, Membrane] = {}

    def watch(self, activation: Activation) -> Watch:
        """What is observed: the input, per channel where a neuron of this kind has channels."""
        axis = channel_axis(activation, self._options_of(activation))
        rows = 1 if axis is None else activation.channels or 1
        bins = _WIDE_BINS if self._floors is not None and axis is not None else None
        return Watch(activation.input, axis, rows, bins)

    def neuron(self, activation: Activation, histogram: SignedHistogram) -> Neuron:
        """The neuron for this distribution of its membrane potential."""
        shared = self.shared.get(activation.output)
        if shared is not None:
            neuron: Neuron = shared.neuron(activation, histogram)
        else:
            floor = None if self._floors is None else self._floors.get(activation.input, 0.0)
            plan = self._levels.get(activation.output)
            neuron = fit_neuron(
                *(activation, histogram, self._options_of(activation), floor),
                linear=plan.linear if plan else None,
            )
            if plan and plan.linear is not None:
                neuron = replace(neuron, reason="; ".join(filter(None, [neuron.reason, _PLANNED])))
        self.membranes[activation.output] = Membrane(histogram, neuron)
        return neuron

    def share(
        self, groups: Sequence[Sequence[Activation]], histograms: Mapping[str, SignedHistogram]
    ) -> None:
        """Give the neurons of each group one step; ``histograms`` is what they see in the ANN."""

        def levels(activation: Activation, seen: Distribution) -> tuple[int, int]:
            options = self._options_of(activation)
            return levels_of_signs([seen], options.levels, activation.encodes)

        self.shared = share_steps(groups, histograms, levels)

    def _options_of(self, activation: Activation) -> CompileOptions:
        plan = self._levels.get(activation.output)
        if plan is None:
            return self._options
        options = replace(self._options, levels=plan.levels)
        if plan.linear is None:
            return options
        return replace(options, neuron=SCALE, granularity=TENSOR)

    def silent(self, activation: Activation, histogram: SignedHistogram) -> bool:
        """Whether all values count as 0, or all are below 0 where that gives 0."""
        cut_off = activation.linear and not activation.signed and not activation.encodes
        return histogram.silent or (cut_off and not (histogram.maxima > 0).any())


def watches_of(
    activations: Sequence[Activation], watch_of_one: Callable[[Activation], Watch]
) -> list[Watch]:
    """One watch for each tensor; where neurons want it differently, as a whole."""
    found: dict[str, Watch] = {}
    for activation in activations:
        watch = watch_of_one(activation)
        if found.setdefault(watch.tensor, watch) != watch:
            found[watch.tensor] = Watch(watch.tensor, None, 1)
    return list(found.values())
