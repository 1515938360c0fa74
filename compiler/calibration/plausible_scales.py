"""Which scales a classifier's inputs may have had, from the spread of its answers.

No constant of a network that was trained without batch normalisation tells the scale of its inputs
for sure. Its answers rule scales out:

1. Answers are spread as ``match_logits.py`` has it: the root mean square of what is left of them
   less their means. It is measured on the same samples at scales 2^-5, 2^-3, ..., 2^9, from a
   twentieth to the pixels of bytes and beyond, and half-way between two of which one is plausible
   and the other is not; in between it is interpolated.
2. Training by cross-entropy ends with logits whose spread is some units, whatever the inputs were
   measured in: 2 to 12 on a network's own inputs, 1 to 24 on made-up ones of the same scale.
3. A read-out that was fitted by least squares to classes, 0 or 1, has answers of a spread up to
   0.5; on made-up inputs 1/12 to 2, as they have more of what hardly varies in real ones.
4. A Softmax, LogSoftmax or Sigmoid says that it was cross-entropy. The weights of least squares
   cancel when summed over classes, and the biases add up to something: the classes of a sample add
   up to 1. (Where biases cancel too, it may be a logistic regression that started at 0.) Weights
   that do not cancel, with a gain (deviation times the root of the number of inputs) of 0.45, were
   trained by cross-entropy. Otherwise both are possible.
5. Plausible are all scales from the least to the largest of which the spread is one of these;
   where there is none, every scale.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ...passes.graph.network import Network
from ..progress import Progress
from ..samples.base import InputSpec
from ..samples.synthetic import Look
from .match_logits import Logits, logits_in
from .probes import NotMatchedError, Probes

_OCTAVES = range(-5, 10, 2)
#: Steps of an octave between which a spread is interpolated.
_STEPS = 4
_CROSS_ENTROPY = (1.0, 24.0)
_LEAST_SQUARES = (1 / 12, 2.0)
_LEAST_GAIN = 0.45
#: Root of the sum over classes of weights, over what it is of random ones, below which they cancel.
_CANCELS = 0.25
#: The same of biases, where they cancel too.
_ALL_CANCELS = 0.01


def plausible_scales(
    network: Network, spec: InputSpec, look: Look, seed: int, progress: Progress
) -> tuple[float, float] | None:
    """The octaves between which the scale of the inputs lies.

    Args:
        network: in canonical form.
        spec: its only input, of floats.
        look: the samples' pattern and frame.
        seed: the same seed gives the same samples.
        progress: told about scales tried.

    Returns:
        Least and largest octave; None where the network is no classifier with a linear read-out.
    """
    logits = logits_in(network)
    if logits is None or not logits.linear:
        return None
    low, high = _spreads(logits)
    try:
        probes = Probes(network, spec, look, seed, logits.observed)
        tracked = progress.track(_OCTAVES, len(_OCTAVES), "matching inputs")
        spreads = {octave: logits.spread(probes, octave)[0] for octave in tracked}
        if not any(np.isfinite(spread) and spread > 0 for spread in spreads.values()):
            return None
        sides = [int(spread >= low) + int(spread > high) for spread in spreads.values()]
        for octave, (one, other) in zip(_OCTAVES, pairwise(sides), strict=False):
            if one != other:
                spreads[octave + 1] = logits.spread(probes, octave + 1)[0]
    except NotMatchedError:
        return None
    octaves = np.linspace(_OCTAVES[0], _OCTAVES[-1], _STEPS * (_OCTAVES[-1] - _OCTAVES[0]) + 1)
    with np.errstate(all="ignore"):
        known = sorted(spreads)
        between = np.interp(octaves, known, np.log2([spreads[octave] for octave in known]))
        inside = octaves[(between >= np.log2(low)) & (between <= np.log2(high))]
    if not len(inside):
        inside = octaves
    return float(inside[0]), float(inside[-1])


def _spreads(logits: Logits) -> tuple[float, float]:
    """Rules 2 to 4."""
    if not logits.raw:
        return _CROSS_ENTROPY
    read_out, gain = logits.read_out, logits.gain
    if read_out is not None and gain is not None:
        cancels = read_out.cancels < _CANCELS
        if cancels and read_out.bias_cancels >= _ALL_CANCELS:
            return _LEAST_SQUARES
        if not cancels and gain >= _LEAST_GAIN:
            return _CROSS_ENTROPY
    return min(_CROSS_ENTROPY[0], _LEAST_SQUARES[0]), max(_CROSS_ENTROPY[1], _LEAST_SQUARES[1])
