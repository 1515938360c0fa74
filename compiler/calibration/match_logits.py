"""The scale of made-up inputs from the answers of a classifier, to some octaves.

Where a network was trained without batch normalisation its biases do not tell the scale of its
inputs. Its answers do, roughly: training by cross-entropy ends with logits that differ between
samples by some units, whatever the inputs were measured in.

1. Logits are what a Softmax, LogSoftmax or Sigmoid in front of an output reads, or an output of
   rank 2 with several columns. The read-out is the linear operator that they come from; what moves
   or averages values, and a bias, may follow it.
2. Their spread is the root mean square of what is left of the logits less their mean over classes
   (not with Sigmoid) and less their mean over samples. It is sought at 8, about what trained
   networks have on their own inputs (2 to 17): too large a scale costs less than too small a one.
3. From 1.4 to 16 at scale 1 there is nothing to correct. Otherwise the spread is measured at scales
   2^-3, 2^-2, ..., 2^8, and where it rises to 8 (log-linear in between, the place nearest to
   scale 1) is the match. There is none at the border, or where the spread hardly depends on the
   scale, as with layer normalisation: it has to rise as the scale to the power of 0.6.
4. As it is rough, samples are made up of several scales: within five octaves of all between 1 and
   the match, but no farther than three octaves, so that little is lost where 1 is right; beyond,
   of an octave either side of the match.
5. A read-out that was not trained by descent, but fitted by least squares to classes, has answers
   of another spread, and there is no match. It is told by its gain, the deviation of its weights
   times the square root of how many each answer has: networks start at 0.58 or 1 and end near or
   above that, fitted ones mostly lie below. And by its alignment, its spread against that of random
   weights of the same gain: descent finds what varies most (0.7 to 3.4), least squares mostly what
   varies least (0.2 to 1.5). Asked for are a gain of 0.45 and an alignment of 0.95; of 0.6 where
   the match is more than six octaves away, as no such answers of features near 1 are so small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from ...passes.analysis.operators import Inputs, Role, properties
from ...passes.graph.network import Network, constants_of
from ...passes.graph.protos import attributes_of
from ..progress import Progress
from ..samples.base import InputSpec
from ..samples.synthetic import Look
from .probes import NotMatchedError, Probes

_SPREAD = 8.0
_LEAST_SPREAD, _MOST_SPREAD = 1.4, 16.0
_OCTAVES = range(-3, 9)
#: Octaves from scale 1 within which that may be right too, and how far samples then reach.
_NEAR, _BRIDGED = 5.0, 3.0
_LEAST_POWER = 0.6
_LEAST_GAIN = 0.45
_LEAST_ALIGNMENT, _LEAST_FAR, _FAR = 0.95, 0.6, 6.0


def match_logits(
    network: Network, spec: InputSpec, look: Look, seed: int, progress: Progress
) -> tuple[Look, str] | None:
    """The scales at which a classifier's answers are spread as those of trained ones.

    Args:
        network: in canonical form.
        spec: its only input, of floats.
        look: the samples' pattern and frame.
        seed: the same seed gives the same samples.
        progress: told about scales tried.

    Returns:
        The look, and what it was matched to; None if scale 1 is about right.

    Raises:
        NotMatchedError: there are no logits, or they do not tell.
    """
    logits = logits_in(network)
    if logits is None:
        raise NotMatchedError("which is no classifier")
    if logits.gain is not None and logits.gain < _LEAST_GAIN:
        raise NotMatchedError(f"whose answers are no logits (gain {logits.gain:.2g})")
    probes = Probes(network, spec, look, seed, logits.observed)
    spread, alignment = logits.spread(probes, 0)
    if not 0 < spread < np.inf:
        raise NotMatchedError("whose answers are all the same, or not finite")
    if _LEAST_SPREAD <= spread <= _MOST_SPREAD:
        return None
    tracked = progress.track(_OCTAVES, len(_OCTAVES), "matching inputs")
    found = _rises({octave: logits.spread(probes, octave)[0] for octave in tracked})
    if not alignment >= (_LEAST_FAR if found > _FAR else _LEAST_ALIGNMENT):
        raise NotMatchedError(f"whose answers are no logits (alignment {alignment:.2g})")
    if abs(np.log2(_SPREAD / spread)) < _LEAST_POWER * abs(found):
        raise NotMatchedError("whose answers hardly depend on the scale of its inputs")
    text = f"matched to the spread of the logits ({spread:.3g} at scale 1)"
    if abs(found) > _NEAR:
        return replace(look, scale=2.0 ** (found + 1), octaves=2.0), text
    reach = float(np.clip(found, -_BRIDGED, _BRIDGED))
    return replace(look, scale=2.0 ** max(reach, 0.0), octaves=abs(reach)), text


@dataclass(frozen=True)
class ReadOut:
    """A product with constant weights.

    Attributes:
        input: what it reads, features along the last axis.
        output: what it gives, before any bias of an Add.
        deviation: of its weights.
        fan_in: weights of an answer.
        cancels: root mean square of the sums of weights over answers, over what it is of random
            ones: 0 where all cancel.
        bias_cancels: the same of its bias; 0 where it has none.
    """

    input: str
    output: str
    deviation: float
    fan_in: int
    cancels: float
    bias_cancels: float


@dataclass(frozen=True)
class Logits:
    """Where they are.

    Attributes:
        name: of the tensor.
        axis: along which a constant changes nothing; None: along none.
        raw: an output, of which nothing says that it holds logits.
        read_out: where they come from; None where that was not found.
        linear: whether they come from a linear operator, such as a convolution, at all.
    """

    name: str
    axis: int | None
    raw: bool
    read_out: ReadOut | None
    linear: bool

    @property
    def gain(self) -> float | None:
        """Rule 5."""
        own = self.read_out
        return own.deviation * float(np.sqrt(own.fan_in)) if own else None

    @property
    def observed(self) -> list[str]:
        """The tensors to observe."""
        own = self.read_out
        return [self.name, *([own.input, own.output] if own else [])]

    def spread(self, probes: Probes, octave: int) -> tuple[float, float]:
        """Rule 2, NaN where values are not finite, and the read-out's alignment."""
        batches = [outputs for feed in probes.feeds if (outputs := probes.run(feed, octave))]
        if not batches or any(array.ndim < 2 for outputs in batches for array in outputs):
            raise NotMatchedError("which is no classifier")
        if len({array.shape[1:] for outputs in batches for array in outputs[:1]}) > 1:
            raise NotMatchedError("whose answers differ in shape")
        arrays = [np.concatenate(a).astype(np.float64) for a in zip(*batches, strict=True)]
        values = arrays[0]
        if len(values) < 2 or not all(array.size for array in arrays):
            raise NotMatchedError("which shows too few answers")
        if self.raw and (values.ndim != 2 or values.shape[1] < 2):
            raise NotMatchedError("which is no classifier")
        if self.axis is not None and not -values.ndim <= self.axis < values.ndim:
            raise NotMatchedError("whose answers have no such axis")
        with np.errstate(all="ignore"):
            if self.axis is not None:
                values = values - values.mean(axis=self.axis, keepdims=True)
            spread = float(np.sqrt(values.var(axis=0).mean()))
            if self.read_out is None:
                return spread, 1.0
            features, answers = (array.var(axis=0) for array in arrays[1:])
            random = self.read_out.deviation**2 * features.sum(axis=-1).mean()
            return spread, float(np.sqrt(answers.mean() / random))


def _rises(spreads: dict[int, float]) -> float:
    """The octave at which the spread rises to what is sought."""
    with np.errstate(all="ignore"):
        above = {octave: float(np.log2(spreads[octave] / _SPREAD)) for octave in _OCTAVES}
    crossings = [
        octave - above[octave] / (above[octave + 1] - above[octave])
        for octave in _OCTAVES[:-1]
        if above[octave] <= 0 < above[octave + 1] and np.isfinite(above[octave])
    ]
    if not crossings:
        raise NotMatchedError("whose answers suit inputs of no scale")
    return min(crossings, key=abs)


def logits_in(network: Network) -> Logits | None:
    """Rule 1: those of the first output that has any."""
    producers = {name: node for node in network.proto.graph.node for name in node.output}
    constants = constants_of(network)
    for output in network.proto.graph.output:
        node = _behind(output.name, producers)
        if node is None:
            continue
        name, raw = output.name, True
        axis: int | None = 1
        independent = node.op_type == "Sigmoid"
        if independent or node.op_type in ("Softmax", "LogSoftmax"):
            given = int(attributes_of(node).get("axis", -1))
            name, raw = node.input[0], False
            axis = None if independent else given
            node = _behind(name, producers)
        read_out = _read_out(node, producers, constants)
        if read_out is not None or not raw:
            return Logits(name, axis, raw, read_out, _product(node, producers) is not None)
    return None


def _behind(name: str, producers: Mapping[str, NodeProto]) -> NodeProto | None:
    """The operator from which a tensor comes, apart from those that move or average values."""
    while name in producers and producers[name].domain in ("", "ai.onnx"):
        node = producers[name]
        what = properties(node.op_type)
        passes = what.affine is Inputs.FIRST or what.moves is Inputs.FIRST
        if what.role is Role.LINEAR or not passes:
            return node
        name = node.input[0]
    return None


def _read_out(
    node: NodeProto | None,
    producers: Mapping[str, NodeProto],
    constants: Mapping[str, np.ndarray],
) -> ReadOut | None:
    """The product with weights that a node is, or that it adds a bias to."""
    if node is None:
        return None
    bias = None
    if node.op_type == "Add":
        bias = next((constants[name] for name in node.input if name in constants), None)
    node = _product(node, producers)
    if node is None:
        return None
    if bias is None and len(node.input) > 2:
        bias = constants.get(node.input[2])
    weights = constants.get(node.input[1])
    if weights is None or weights.ndim != 2 or weights.dtype.kind != "f" or not weights.size:
        return None
    attributes = attributes_of(node)
    if attributes.get("transA"):
        return None
    fan_in = weights.shape[1 if attributes.get("transB") else 0]
    by_answer = weights.T if attributes.get("transB") else weights
    cancels = _sums(by_answer), _sums(bias.reshape(1, -1)) if bias is not None else 0.0
    deviation = float(weights.std(dtype=np.float64)) * abs(float(attributes.get("alpha", 1.0)))
    return ReadOut(node.input[0], node.output[0], deviation, fan_in, *cancels)


def _product(node: NodeProto | None, producers: Mapping[str, NodeProto]) -> NodeProto | None:
    """The linear operator that a node is, or that it adds a bias to."""
    if node is not None and node.op_type == "Add":
        added = [producers[name] for name in node.input if name in producers]
        node = added[0] if len(added) == 1 else node
    return node if node is not None and properties(node.op_type).weighted else None


def _sums(weights: np.ndarray) -> float:
    """Root mean square of the sums of rows, over what it is of random values; 0 of zeros."""
    size = float(np.linalg.norm(weights.astype(np.float64)))
    sums = float(np.linalg.norm(weights.sum(axis=1, dtype=np.float64)))
    return sums / size if size else 0.0
