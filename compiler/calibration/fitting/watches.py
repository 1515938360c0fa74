"""What has to be observed to fit neurons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from ....passes.analysis.activations import Activation
from ....passes.neurons.neuron import Neuron
from ...options import CompileOptions
from ...running.histograms import Watch
from ...running.signed_histogram import SignedHistogram
from .fit_neuron import channel_axis


class NotFiniteError(Exception):
    """An observed tensor holds NaN or infinity.

    Attributes:
        tensors: names of these tensors.
    """

    def __init__(self, tensors: Iterable[str]) -> None:
        super().__init__(", ".join(sorted(tensors)))
        self.tensors = frozenset(tensors)


class Fit(Protocol):
    """How a neuron is fitted to what it sees."""

    def watch(self, activation: Activation) -> Watch:
        """What is observed for the neuron: its input, per channel or as a whole."""

    def neuron(self, activation: Activation, histogram: SignedHistogram) -> Neuron:
        """The neuron for this distribution of its membrane potential."""

    def silent(self, activation: Activation, histogram: SignedHistogram) -> bool:
        """Whether the activation is 0 on everything that was seen."""


def watch_of(activation: Activation, options: CompileOptions) -> Watch:
    """The membrane potential, per channel where a neuron of this kind has channels."""
    axis = channel_axis(activation, options)
    return Watch(activation.input, axis, 1 if axis is None else activation.channels or 1)


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
