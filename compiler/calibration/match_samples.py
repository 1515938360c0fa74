"""Made-up samples for which a network's values are those of a trained network.

Thresholds follow the values that the samples cause, so made-up inputs have to be of the scale and
mean that the network was trained with. Neither is in the model, but both have left their traces:

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

   Biases that were trained without batch normalisation leave the same trace, though fainter.
3. The mismatch J of a network is the mean over operators of the mean over channels of log(1 + D):
   the logarithm keeps channels that are dead, also on real inputs, from deciding. Operators of
   rule 1 count where there are any, else those of rule 2: Conv, ConvTranspose, Gemm, and MatMul
   with Add, with a constant bias of one value per channel that is not zero throughout.
4. The same few samples, scaled by s and shifted by o * s, are run through the network. J is
   minimised over s = 2^-6, 2^-4, ..., 2^10 and o = -1, 0, 1 on a part of them, then on all of them
   over neighbours: s one octave away, o one and a half away, s one and half an octave away.
   Of all pairs whose J exceeds the least by no more than a tenth or 0.02, the one nearest to
   standard normal inputs, with the least |log2 s| + |o|, is taken: J is flat where neither is
   known, as in a network of one layer, whose inputs may have no mean to cancel.
5. Inputs of rank 4 are dead leaves, others noise: see ``synthetic.py``.
6. Integers that a Gather looks up in a constant table are drawn from its rows, directly or after
   operators that keep values. Other integers whose name has "mask" in it are 1: nothing is hidden.
7. The samples are standard normal, as they are, and the origin says why: several inputs of floats
   or none, an input of integers beside it, no operator to compare, a network that does not run on
   such inputs, or values that are never finite.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto

from ...passes.analysis.operators import Inputs, properties
from ...passes.graph.network import Network, constants_of
from ...passes.graph.protos import attributes_of
from ..errors import DataError, ModelError
from ..progress import Progress
from ..running.expose import with_outputs
from ..running.session import make_session, run_samples
from ..samples.files import Feed, InputSpec
from ..samples.synthetic import Look, SyntheticSamples

#: Samples that each scale and offset is tried on, and bytes of what is observed of them.
_PROBES, _FIRST_PROBES = 32, 8
_PROBE_BUDGET = 64 << 20
_GRID = [(float(octave), offset) for octave in range(-6, 11, 2) for offset in (-1.0, 0.0, 1.0)]
_TIE, _NEGLIGIBLE = 1.1, 0.02


def matched_samples(
    network: Network,
    specs: list[InputSpec],
    count: int,
    seed: int,
    progress: Progress,
) -> SyntheticSamples:
    """Made-up samples that suit the network.

    Args:
        network: a model that runs, in canonical form (``canonicalise.py``); constants elsewhere
            than in initializers of the graph are not seen.
        specs: its inputs.
        count: number of samples.
        seed: the same seed gives the same samples.
        progress: told about scales and offsets tried.

    Returns:
        Samples whose ``origin`` says what they look like, or why they are standard normal.
    """
    looks = _integer_looks(network.proto.graph, specs)
    lookups = [f"integers of {n} from 0 to {k.rows - 1}" for n, k in looks.items() if not k.low]
    try:
        match = _Match(network, specs, seed, progress)
        look, text = match.search()
        looks[specs[0].name] = look
    except _NotMatched as reason:
        text = f"not matched to the network, {reason}"
    return SyntheticSamples(specs, count, seed, looks, "; ".join([text, *lookups]))


class _NotMatched(Exception):
    """Why the samples are what they are: rule 7."""


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


class _Match:
    """Searches scale and offset of a network's only input."""

    def __init__(
        self, network: Network, specs: list[InputSpec], seed: int, progress: Progress
    ) -> None:
        if len(specs) != 1 or specs[0].dtype.kind != "f":
            raise _NotMatched("which has other inputs than one of floats")
        self._spec, self._progress = specs[0], progress
        self._observed, self._what = _observed(network)
        if not self._observed:
            raise _NotMatched("which has no batch normalisation and no linear operator with a bias")
        self._pattern = "leaves" if len(self._spec.shape) == 4 else "noise"
        base = SyntheticSamples(specs, _PROBES, seed, {self._spec.name: Look(self._pattern)})
        names = [observed.name for observed in self._observed]
        try:
            self._session = make_session(with_outputs(network, names), library=False)
            self._feeds = self._probes(base)
        except (DataError, ModelError, KeyError) as error:
            raise _NotMatched(f"which does not show its values: {error}") from error
        self._tried: dict[tuple[float, float], float] = {}

    def _probes(self, base: SyntheticSamples) -> list[Feed]:
        """As many samples as the budget allows, at least one; the first ones are the first feed."""
        first = next(base.batches(1))
        size = sum(array.nbytes for array in run_samples(self._session, first, "the model"))
        most = int(np.clip(_PROBE_BUDGET * len(first[self._spec.name]) // max(size, 1), 1, _PROBES))
        feeds, held = [], 0
        for feed in base.batches(min(most, _FIRST_PROBES)):
            if held >= most:
                break
            feeds.append(feed)
            held += len(feed[self._spec.name])
        return feeds

    def search(self) -> tuple[Look, str]:
        """The look with the least mismatch, rule 4, and what to say about it."""
        octave, offset = self._coarse()
        self._try([(0.0, 0.0), *((octave + step, offset) for step in (-1, 0, 1))])
        octave, offset = self._best(self._tried)
        self._try([(octave, offset + step) for step in (-1, -0.5, 0.5, 1)])
        octave, offset = self._best(self._tried)
        self._try([(octave + step, offset) for step in (-1, -0.5, 0.5, 1)])
        self._best(self._tried)
        least = min(self._tried.values())
        enough = max(_TIE * least, least + _NEGLIGIBLE)
        good = [pair for pair, mismatch in self._tried.items() if mismatch <= enough]
        octave, offset = min(good, key=lambda pair: (abs(pair[0]) + abs(pair[1]), pair))
        look = Look(self._pattern, 2.0**octave, offset)
        images = "dead leaves images" if self._pattern == "leaves" else "noise"
        text = (
            f"{images} of scale {look.scale:.3g} and mean {offset * look.scale:.3g}, matched to "
            f"{self._what} (mismatch {self._tried[octave, offset]:.3f}, "
            f"{self._tried[0.0, 0.0]:.3f} at scale 1 and mean 0)"
        )
        return look, text

    def _coarse(self) -> tuple[float, float]:
        tracked = self._progress.track(_GRID, len(_GRID), "matching inputs")
        return self._best({pair: self._mismatch(pair, self._feeds[:1]) for pair in tracked})

    def _try(self, pairs: list[tuple[float, float]]) -> None:
        new = list(dict.fromkeys(pair for pair in pairs if pair not in self._tried))
        for pair in self._progress.track(new, len(new), "matching inputs"):
            self._tried[pair] = self._mismatch(pair, self._feeds)

    @staticmethod
    def _best(tried: dict[tuple[float, float], float]) -> tuple[float, float]:
        best = min(tried, key=lambda pair: (tried[pair], pair))
        if not np.isfinite(tried[best]):
            raise _NotMatched("whose values are not finite on any made-up inputs")
        return best

    def _mismatch(self, pair: tuple[float, float], feeds: list[Feed]) -> float:
        """J; infinite where the network does not run or what it gives is not finite."""
        octave, offset = pair
        scale = np.float32(2.0**octave)
        sums = [_Moments() for _ in self._observed]
        for feed in feeds:
            with np.errstate(over="ignore"):
                values = scale * (feed[self._spec.name] + np.float32(offset))
                shown = {self._spec.name: values.astype(self._spec.dtype)}
            try:
                outputs = run_samples(self._session, shown, "the model")
            except DataError:
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


def _observed(network: Network) -> tuple[list[_Observed], str]:
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


def _integer_looks(graph: GraphProto, specs: list[InputSpec]) -> dict[str, Look]:
    """Rule 6."""
    looks = {}
    for spec in specs:
        if spec.dtype.kind == "f":
            continue
        rows = _table_rows(graph, spec.name)
        if rows is not None and spec.dtype.kind in "iu":
            looks[spec.name] = Look(rows=min(rows, int(np.iinfo(spec.dtype).max)))
        elif "mask" in spec.name.lower():
            looks[spec.name] = Look(low=1, rows=1)
    return looks


def _table_rows(graph: GraphProto, name: str) -> int | None:
    """Rows of the shortest constant table in which the input's values are looked up."""
    tables = {tensor.name: tensor for tensor in graph.initializer}
    same, rows = {name}, []
    for node in graph.node:  # sorted, so one walk is enough
        if _keeps_values(node) and node.input[0] in same:
            same.update(node.output)
        elif node.op_type == "Gather" and node.input[1] in same and node.input[0] in tables:
            rows.append(_length(tables[node.input[0]], _axis(node)))
    found = min((length for length in rows if length), default=0)
    return found or None


def _keeps_values(node: NodeProto) -> bool:
    """Whether its outputs hold values of its first input, moved, selected or of another type."""
    return node.op_type == "Cast" or properties(node.op_type).moves is Inputs.FIRST


def _axis(node: NodeProto) -> int:
    return int(attributes_of(node).get("axis", 0))


def _length(tensor: TensorProto, axis: int) -> int:
    return int(tensor.dims[axis]) if -len(tensor.dims) <= axis < len(tensor.dims) else 0
