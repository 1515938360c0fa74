"""Neurons over one step: each of several levels as as many that fire at most once.

A MultiThresholdFire gives theta * k for x from the k-th of its thresholds on, t_k. In float32 t_k
is not the product (k - v0) * theta, but the least x for which the operator's formula gives k; here
it is found by halving, over the bits of float32, which are ordered as the positive numbers are.

A neuron of level k compares s x + (1 - s t_k) with 1, where s is the power of two that brings
s t_k into [2, 4). Products with s are exact, and rounding keeps order: from t_k on the sum is 1 or
more. Below it is 1 - 2^-23 at most, as numbers below s t_k are that far apart. So with 1 - 2^-24 as
the threshold exactly the same x fire, and it never matters whether equality fires. Nor does it
matter what a neuron is reset to, as the potentials are 0 before the step and not read after it.

The largest of several k, each sent by neurons of which one fires only where all of lower levels do,
is the number of levels at which any fires. Of values that are not sent so the largest is taken
behind the next neuron: it gives no less for more.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .builder import Builder, NotInNirError
from .signals import Signal, Window, of_source

#: The threshold of all these neurons.
_THRESHOLD = np.float32(1 - 2.0**-24)

#: That any neuron of a window fired.
_ANY = np.float32(0.5)

_INFINITY = int(np.float32(np.inf).view(np.int32))


class Once:
    """Makes the neurons.

    Args:
        nir: the ``nir`` module.
        builder: of the graph.
    """

    def __init__(self, nir: Any, builder: Builder) -> None:
        self._nir, self._builder = nir, builder

    def fire(self, name: str, signal: Signal, theta: np.ndarray, levels: int, v0: float) -> Signal:
        """What a neuron gives.

        Args:
            name: of the ONNX node.
            signal: what it reads.
            theta: its threshold, () or [C].
            levels: N.
            v0: initial membrane potential as a fraction of theta.

        Raises:
            NotInNirError: a threshold is no number of float32, or as :meth:`Builder.join`.
        """
        if not levels:
            raise NotInNirError("never fires above 0")
        window, signal = signal.largest, replace(signal, largest=None)
        theta = np.broadcast_to(theta.reshape(-1), signal.shape[:1]).astype(np.float32)
        thresholds = first_to_fire(theta, levels, v0)
        tiny = np.finfo(np.float32).tiny
        if not np.all(np.isfinite(thresholds) & (thresholds >= tiny)):
            raise NotInNirError("has thresholds beyond float32")
        scale, bias = scale_and_bias(thresholds.reshape(-1))
        planes = signal.repeated(levels).scaled(scale).shifted(bias)
        sources, _ = self._builder.join(name, planes, unit=True)
        says = {"onnx_node": name, "levels": levels, "v0": float(v0)}
        neurons = self._neurons(name, planes.shape, _THRESHOLD, sources, says)
        channel = np.arange(planes.shape[0]).reshape(-1, levels)
        fired = of_source(neurons, signal.shape, theta, channel=channel, nested=True)
        return fired if window is None else self.largest(name, fired, window)

    def largest(self, name: str, signal: Signal, window: Window) -> Signal:
        """The largest value in each window.

        Args:
            name: of the ONNX node.
            signal: [C, H, W].
            window: where it lies.
        """
        term = signal.terms[0]
        spikes = len(signal.terms) == 1 and term.nested and term.step == (1, 1)
        if not spikes or np.any(term.weight < 0):
            return replace(signal, largest=window)
        read, lengths = (term.channels, *signal.shape[1:]), window.size(signal.shape[1:])
        counts = self._builder.pool(f"{name}_largest", window, read, [term.source])
        any_fired = self._neurons(f"{name}_any", (term.channels, *lengths), _ANY, [counts], {})
        shape = (signal.shape[0], *lengths)
        return replace(signal, shape=shape, terms=(replace(term, source=any_fired),))

    def _neurons(
        self,
        name: str,
        shape: tuple[int, ...],
        threshold: np.float32,
        sources: list[str],
        says: dict[str, Any],
    ) -> str:
        neuron = self._nir.IF(
            r=np.ones(shape, np.float32),
            v_threshold=np.full(shape, threshold),
            metadata={**says, "reset": "any", "fires": "v > v_threshold; no v equals it"},
        )
        return self._builder.node("if", name, neuron, shape, sources)


def first_to_fire(theta: np.ndarray, levels: int, v0: float) -> np.ndarray:
    """The least x that fires k times, for k = 1 .. ``levels``.

    Args:
        theta: float32 [C], above 0.
        levels: N.
        v0: initial membrane potential as a fraction of theta, below 1.

    Returns:
        float32 [C, N]; infinite where nothing below fires so often.
    """
    k = np.arange(1, levels + 1, dtype=np.float32)
    silent = np.zeros((len(theta), levels), np.int64)
    fires = np.full_like(silent, _INFINITY)
    while np.any(fires - silent > 1):
        middle = (silent + fires) // 2
        x = middle.astype(np.int32).view(np.float32)
        with np.errstate(over="ignore"):
            enough = np.floor(x / theta[:, None] + np.float32(v0)) >= k
        fires, silent = np.where(enough, middle, fires), np.where(enough, silent, middle)
    return fires.astype(np.int32).view(np.float32)


def scale_and_bias(thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """s and 1 - s t, float64, of thresholds t, finite and above 0."""
    t = thresholds.astype(np.float64)
    scale = np.exp2(1 - np.floor(np.log2(t)))
    return scale, 1 - scale * t
