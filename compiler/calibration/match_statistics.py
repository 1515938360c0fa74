"""The scale and mean of made-up inputs from what training left in a network.

1. Batch normalisation (training it keeps ``mu`` and ``v``, the mean and variance of its input per
   channel): where the network has it, its input must be so distributed. For mean m and variance s
   that the samples cause in a channel, the mismatch is the Kullback-Leibler divergence of two
   normal distributions,

       D = (s / v + (m - mu)^2 / v - 1 - log(s / v)) / 2.

2. Once folded, only the bias b of the linear operator is left: with z = W a + b, b = beta - E[W a]
   cancels the mean of what the operator receives, so that E[z] = beta, and the standard deviation
   of z is |gamma|. Trained networks have |beta / gamma| of about 1 and below. Where inputs are too
   small, b stands alone and |E[z]| is many standard deviations; where they are too large, b cancels
   nothing and E[z] is what the weights make of the mean. So for mean m and variance s of z the
   mismatch of a channel is

       D = m^2 / s.

3. The mismatch J of a network is the mean over operators of the mean over channels of log(1 + D):
   the logarithm keeps channels that are dead, also on real inputs, from deciding. Operators of
   rule 1 count where there are any, else those of rule 2: Conv, ConvTranspose, Gemm, and MatMul
   with Add, with a constant bias of one value per channel that is not zero throughout.
4. The same few samples, scaled by s and shifted by o * s, are run through the network. J is
   minimised over s = 2^-6, 2^-4, ..., 2^10 and o = -1, 0, 1 on a part of them, then on all of them
   over neighbours: s one octave away, o one and a half away, s one and half an octave away.
   Of all pairs whose J exceeds the least by no more than a tenth or 0.02, the one nearest to
   standard normal inputs, with the least |log2 s| + |o|, is taken: J is flat where neither is
   known.
5. At the border of the search there is no match. Biases that were trained without batch
   normalisation cancel no mean. Of them J knows only when inputs are too small: it falls towards
   what it is without any bias, its least value over o at scales that are as good as infinite. So
   by rule 2 there is no match where the least J lies above 7/8 of that limit, or less than 0.02
   below it; and it is not sure above 0.73 of it: then there is none more than two octaves from
   scale 1. (Networks whose batch normalisation is folded have 0.2 to 0.7, EfficientNet-Lite0 0.83;
   of 67 without batch normalisation, 65 have more than 0.82 at every seed.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from ...passes.analysis.operators import properties
from ...passes.graph.network import Network, constants_of
from ..progress import Progress
from ..samples.base import Feed, InputSpec
from ..samples.synthetic import Look
from .probes import NotMatchedError, Probes

_GRID = [(float(octave), offset) for octave in range(-6, 11, 2) for offset in (-1.0, 0.0, 1.0)]
_LEAST, _MOST = _GRID[0][0], _GRID[-1][0]
#: Scales as good as infinite: next to them biases vanish.
_LIMIT = [(14.0, offset) for offset in (-1.0, -0.5, 0.0, 0.5, 1.0)]
_TIE, _NEGLIGIBLE = 1.1, 0.02
#: A match, and one that is sure, has at most so much of the mismatch of infinite scale.
_MATCH, _SURE = 7 / 8, 0.73
#: Octaves from scale 1 that a match which is not sure may lie.
_NEAR = 2.0


@dataclass(frozen=True)
class StatisticsMatch:
    """What was found.

    Attributes:
        look: of the samples.
        text: what it was matched to.
        sure: rule 5.
        kept: training kept these statistics itself: rule 1.
    """

    look: Look
    text: str
    sure: bool
    kept: bool


def match_statistics(
    network: Network, spec: InputSpec, look: Look, seed: int, progress: Progress
) -> StatisticsMatch:
    """The scale and mean with the least mismatch.

    Args:
        network: in canonical form.
        spec: its only input, of floats.
        look: the samples' pattern and frame.
        seed: the same seed gives the same samples.
        progress: told about scales and means tried.

    Raises:
        NotMatchedError: the network does not tell; why.
    """
    return _Search(network, spec, look, seed, progress).result()


@dataclass(frozen=True)
class _Observed:
    """A tensor whose distribution per channel is compared.

    Attributes:
        name: the tensor.
        axis: its channel axis.
        mean: mu per channel, or None: rule 2.
        variance: v per channel.
    """

    name: str
    axis: int
    mean: np.ndarray | None = None
    variance: np.ndarray | None = None

    def mismatch(self, mean: np.ndarray, variance: np.ndarray) -> float:
        """Mean over channels of log(1 + D)."""
        tiny = np.finfo(np.float32).tiny
        variance = np.maximum(variance, tiny)
        if self.mean is None or self.variance is None:
            return float(np.log1p(mean**2 / variance).mean())
        wanted = np.maximum(self.variance, tiny)
        ratio = variance / wanted
        divergence = (ratio + (mean - self.mean) ** 2 / wanted - 1 - np.log(ratio)) / 2
        return float(np.log1p(np.maximum(divergence, 0)).mean())


class _Search:
    """Rule 4 and 5."""

    def __init__(
        self, network: Network, spec: InputSpec, look: Look, seed: int, progress: Progress
    ) -> None:
        self._look, self._progress = look, progress
        self._observed, self._what = observed_in(network)
        if not self._observed:
            raise NotMatchedError(
                "which has no batch normalisation and no linear operator with a bias"
            )
        names = [observed.name for observed in self._observed]
        self._probes = Probes(network, spec, look, seed, names)
        self._tried: dict[tuple[float, float], float] = {}

    def result(self) -> StatisticsMatch:
        """The look with the least mismatch."""
        octave, offset = self._coarse()
        self._try([(0.0, 0.0), *((octave + step, offset) for step in (-1, 0, 1))])
        octave, offset = self._best(self._tried)
        self._try([(octave, offset + step) for step in (-1, -0.5, 0.5, 1)])
        octave, offset = self._best(self._tried)
        self._try([(octave + step, offset) for step in (-1, -0.5, 0.5, 1)])
        best = self._best(self._tried)
        part = self._part_of_limit(best)
        least = self._tried[best]
        enough = max(_TIE * least, least + _NEGLIGIBLE)
        good = [pair for pair, mismatch in self._tried.items() if mismatch <= enough]
        octave, offset = min(good, key=lambda pair: (abs(pair[0]) + abs(pair[1]), pair))
        text = (
            f"matched to {self._what} (mismatch {self._tried[octave, offset]:.3f}, "
            f"{self._tried[0.0, 0.0]:.3f} at scale 1 and mean 0)"
        )
        look = replace(self._look, scale=2.0**octave, offset=offset)
        kept = self._observed[0].mean is not None
        return StatisticsMatch(look, text, part <= _SURE, kept)

    def _part_of_limit(self, best: tuple[float, float]) -> float:
        """Rule 5."""
        least, inside = self._tried[best], _LEAST < best[0] < _MOST
        if inside and self._observed[0].mean is not None:
            return 0.0
        limit = min(self._mismatch(pair, self._probes.feeds) for pair in _LIMIT)
        most = min(_MATCH * limit, limit - _NEGLIGIBLE)
        near = abs(best[0]) <= _NEAR or least <= _SURE * limit
        if inside and np.isfinite(limit) and least <= most and near:
            return least / limit
        raise NotMatchedError(
            f"as {self._what} do not tell the scale of its inputs (mismatch {least:.3f} at best, "
            f"{limit:.3f} at very large scales)"
        )

    def _coarse(self) -> tuple[float, float]:
        tracked = self._progress.track(_GRID, len(_GRID), "matching inputs")
        first = self._probes.feeds[:1]
        return self._best({pair: self._mismatch(pair, first) for pair in tracked})

    def _try(self, pairs: list[tuple[float, float]]) -> None:
        new = list(dict.fromkeys(pair for pair in pairs if pair not in self._tried))
        for pair in self._progress.track(new, len(new), "matching inputs"):
            self._tried[pair] = self._mismatch(pair, self._probes.feeds)

    @staticmethod
    def _best(tried: dict[tuple[float, float], float]) -> tuple[float, float]:
        best = min(tried, key=lambda pair: (tried[pair], pair))
        if not np.isfinite(tried[best]):
            raise NotMatchedError("whose values are not finite on any made-up inputs")
        return best

    def _mismatch(self, pair: tuple[float, float], feeds: list[Feed]) -> float:
        """J; infinite where the network does not run or what it gives is not finite."""
        sums = [_Moments() for _ in self._observed]
        for feed in feeds:
            outputs = self._probes.run(feed, *pair)
            if outputs is None:
                return float("inf")
            for moments, observed, array in zip(sums, self._observed, outputs, strict=True):
                moments.add(array, observed.axis)
        pairs = zip(sums, self._observed, strict=True)
        with np.errstate(all="ignore"):
            mismatch = np.mean([o.mismatch(*m.result()) for m, o in pairs if m.count])
        return float(mismatch) if np.isfinite(mismatch) else float("inf")


class _Moments:
    """Mean and variance per channel, gathered in float64."""

    def __init__(self) -> None:
        self.count = 0
        self._sum: np.ndarray = np.zeros(())
        self._square: np.ndarray = np.zeros(())

    def add(self, values: np.ndarray, axis: int) -> None:
        rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
        self.count += rows.shape[1]
        self._sum = self._sum + rows.sum(axis=1, dtype=np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            self._square = self._square + np.einsum("ij,ij->i", rows, rows, dtype=np.float64)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance, float64 [channels]."""
        mean = self._sum / self.count
        return mean, np.maximum(self._square / self.count - mean**2, 0)


def observed_in(network: Network) -> tuple[list[_Observed], str]:
    """What is compared, rule 3, and its name."""
    constants = constants_of(network)
    nodes = list(network.proto.graph.node)
    normalised = [found for node in nodes for found in _batchnorm(node, constants)]
    if normalised:
        return normalised, f"the statistics of {len(normalised)} batch normalisations"
    producers = {name: node for node in nodes for name in node.output}
    biased = [found for node in nodes for found in _biased(node, constants, producers)]
    return biased, f"the biases of {len(biased)} linear operators"


_Constants = Mapping[str, np.ndarray]


def _input(node: NodeProto, place: int, constants: _Constants) -> np.ndarray | None:
    """Values of an input in float64; None where it is missing, computed or no number."""
    values = constants.get(node.input[place]) if place < len(node.input) else None
    return values.astype(np.float64) if values is not None and values.dtype.kind == "f" else None


def _batchnorm(node: NodeProto, constants: _Constants) -> Iterator[_Observed]:
    if node.op_type != "BatchNormalization" or node.domain not in ("", "ai.onnx"):
        return
    if any(a.name == "training_mode" and a.i for a in node.attribute):
        return
    mean, variance = (_input(node, place, constants) for place in (3, 4))
    if mean is not None and variance is not None and np.isfinite(mean + variance).all():
        yield _Observed(node.input[0], 1, mean, variance)


def _biased(
    node: NodeProto, constants: _Constants, producers: Mapping[str, NodeProto]
) -> Iterator[_Observed]:
    if node.domain not in ("", "ai.onnx"):
        return
    if properties(node.op_type).weighted:
        if _is_bias(_input(node, 2, constants)):
            yield _Observed(node.output[0], 1)
    elif node.op_type == "Add":
        for place in (0, 1):
            producer = producers.get(node.input[1 - place])
            is_product = producer is not None and producer.op_type == "MatMul"
            if is_product and _is_bias(_input(node, place, constants)):
                yield _Observed(node.output[0], -1)


def _is_bias(values: np.ndarray | None) -> bool:
    return values is not None and values.ndim == 1 and len(values) > 1 and bool(values.any())
