"""The start pulse: how neurons of NIR, which start at 0, come to an initial membrane potential.

Two more neurons of threshold 1 per input pixel get nothing but a constant current, e = 2^-20:

    early  gets 1 + e and fires at every step;
    late   gets 1 - e and fires at every step but the first.

Every neuron that starts at v(0) is reached by a weight of v(0) from an early and -v(0) from a late
one: v(0) at the first step, and exactly 0 at all others. All potentials of the two are multiples
of e below 2, which float32 holds, so this lasts for 2^20 - 1 steps, whether a neuron fires at
v > 1 or v >= 1, once a step or as often as its threshold fits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .builder import Builder, Geometry, NotInNirError
from .signals import Signal, of_source

#: What NIR does not say of a neuron.
NEURON_METADATA = {"reset": "subtraction", "fires": "v >= v_threshold"}

_EPSILON = 2.0**-20
_EARLY, _LATE = 0, 1


class Start:
    """Makes the two neurons when they are first asked for.

    Args:
        nir: the ``nir`` module.
        builder: of the graph.
    """

    def __init__(self, nir: Any, builder: Builder) -> None:
        self._nir, self._builder = nir, builder
        self._inputs: list[tuple[str, tuple[int, ...]]] = []
        self._largest = [1, 1]
        self._neurons: Signal | None = None
        self._flat: Signal | None = None

    def offer(self, port: str, shape: tuple[int, ...]) -> None:
        """An input that the neurons may hang on; the one with the most pixels is taken."""
        self._inputs.append((port, shape))

    def reach(self, *shapes: tuple[int, ...]) -> None:
        """Neurons that are going to be charged: there are as many pairs as pixels of any."""
        for shape in shapes:
            for axis, length in enumerate(shape[1:]):
                self._largest[axis] = max(self._largest[axis], length)

    def pulse(self, name: str, charge: np.ndarray, shape: tuple[int, ...]) -> Signal:
        """What charges neurons at the first step.

        Args:
            name: of the ONNX node.
            charge: float64 [C].
            shape: of the neurons, [C] or [C, H, W].

        Raises:
            NotInNirError: no input has rows and columns.
        """
        weight: np.ndarray = np.zeros((len(charge), 2))
        weight[:, _EARLY], weight[:, _LATE] = charge, -charge
        geometry, neurons = None, self._made()
        if len(shape) == 1:
            neurons = self._one_pixel(neurons)
        else:
            strides, kernel = _reach(neurons.shape[1:], shape[1:])
            taps = np.zeros((*weight.shape, *kernel))
            taps[:, :, 0, 0] = weight
            weight, geometry = taps, Geometry(stride=strides)
        sources, factor = self._builder.join(name, neurons)
        assert np.all(factor == 1)
        source = self._builder.linear(
            f"{name}_start", weight, np.zeros(len(charge)), geometry, neurons.shape, shape, sources
        )
        return of_source(source, shape, own=True)

    def _made(self) -> Signal:
        """The two neurons, one pair per pixel."""
        if self._neurons is None:
            port, read = max(self._inputs, key=lambda found: (len(found[1]), found[1][1:]))
            weight = np.zeros((2, read[0], *[1] * (len(read) - 1)))
            geometry = None
            shape: tuple[int, ...] = (2,)
            if len(read) > 1:
                more = [
                    max(0, a - b + 1) // 2 for a, b in zip(self._largest, read[1:], strict=True)
                ]
                geometry = Geometry(padding=(more[0], more[1]))
                shape = (2, read[1] + 2 * more[0], read[2] + 2 * more[1])
            current = np.array([1 + _EPSILON, 1 - _EPSILON])
            source = self._builder.linear("start", weight, current, geometry, read, shape, [port])
            ones = np.ones(shape, np.float32)
            metadata = {"start": "0 fires at every step, 1 at every step but the first"}
            neuron = self._nir.IF(
                r=ones, v_threshold=ones.copy(), metadata={**metadata, **NEURON_METADATA}
            )
            name = self._builder.node("if", "start", neuron, shape, [source])
            self._neurons = of_source(name, shape)
        return self._neurons

    def _one_pixel(self, neurons: Signal) -> Signal:
        """The two neurons as [2]."""
        if len(neurons.shape) == 1:
            return neurons
        if self._flat is None:
            height, width = neurons.shape[1:]
            self._flat = self._builder.flat("start", neurons.strided((height, width)))
        return self._flat


def _reach(
    read: tuple[int, ...], given: tuple[int, ...]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Strides and kernel of a convolution that makes ``given`` rows and columns of ``read``."""
    if len(read) != 2:
        raise NotInNirError("starts above 0 and has rows and columns, which no input has")
    strides = [(n - 1) // (m - 1) if m > 1 else n for n, m in zip(read, given, strict=True)]
    kernel = [n - (m - 1) * s for n, m, s in zip(read, given, strides, strict=True)]
    kernel = [1 if m == 1 else k for k, m in zip(kernel, given, strict=True)]
    return (strides[0], strides[1]), (kernel[0], kernel[1])
