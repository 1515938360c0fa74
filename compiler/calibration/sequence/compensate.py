"""Error correction of a linear layer, in closed form, from what spiking made of its input.

Let x be the layer's input in the spiking network, one row per output position, and e the error
there: the ANN's value minus the spiking network's, of the layer's output, or of the sum that adds
it to a residual where that sum can be watched: then the layer makes up for the error of the other
path too. Where a Relu or Clip is all that reads the value, both are cut off at its bounds first:
what the activation does not let through is no error. Means are over positions.

1. Bias: b' = b + mean(e).
2. Weights: W' = W + D with D the ridge regression of e on x, per group of a Conv,

       D = mean((e - mean(e)) (x - mean(x))^T) (C + r diag(C))^-1,   C = cov(x),

   and b' = b + mean(e) - D mean(x). The ridge is in units of each input's own variance, so that
   channels of different ranges are treated alike.
3. Ridge: the samples are halved. Of r in :data:`RIDGES` that one is taken whose D from one half
   reduces the squared error on the other half most, both ways summed; where none reduces it, the
   weights stay as they are. So only what generalises is compensated, however few the rows are. D is
   then computed from all.
4. Only a sample of the positions is used, :data:`ROWS_PER_UNKNOWN` for each unknown, drawn by a
   seed from each batch alike.
5. A layer stays as it is where no ridge helps, where the regression has more than :data:`WIDEST`
   unknowns per output, for ConvTranspose, and for a Conv with automatic padding. Its bias alone is
   corrected only where weights are not to be corrected at all: noise raises the mean of what a Relu
   lets through where the ANN is silent, and a bias that takes this off again takes it off the
   values that carry the signal too. The regression sees both and weighs them.

Least squares on second moments of the quantised input is known from post-training quantisation and
pruning; what it is worth at one timestep is measured in docs/accuracy.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ....passes.analysis.layers import Layer
from ....passes.analysis.operators import properties
from ...running.threads import in_turn, together
from .patches import ConvPatches, as_weight
from .rounding import round_weights
from .sums import CHUNK, BlockNumbers, Halves, Moments, Piece, Rows, Sums, block_rows

#: Output positions that a layer's regression sees: so many for each unknown, within bounds.
ROWS_PER_UNKNOWN = 100
FEWEST_ROWS, MOST_ROWS = 2_000, 20_000
#: Unknowns per output beyond which the regression costs more than it is worth.
WIDEST = 2304
#: Ridges to choose from: rule 3.
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_ALL = (-np.inf, np.inf)
#: Values of a batch of rows, or of a matrix, from which on its halves are worked on at once.
_WORTH_THREADS = 1 << 17


@dataclass(frozen=True)
class Correction:
    """New parameters of a layer.

    Attributes:
        weight: as the layer's weight.
        bias: [O].
        before: root of the mean squared error before the correction.
        after: what is expected of it afterwards.
        ridge: of the regression; None where the weights are as they were.
        left: why the layer stays as it is; "" where it does not.
        steps: the step per output channel of weights that are integers, float32 [O]; else None.
        rounding: root of the mean squared error that rounding them adds, which ``after`` has in it;
            None where weights are not rounded, or it is not known.
    """

    weight: np.ndarray
    bias: np.ndarray
    before: float
    after: float
    ridge: float | None
    left: str = ""
    steps: np.ndarray | None = None
    rounding: float | None = None


@dataclass(frozen=True)
class Rounding:
    """How the weights of a layer become integers: ``rounding.py``.

    Attributes:
        most: the largest integer.
        unit: the step of the layer's input.
    """

    most: int
    unit: float


class LayerErrors:
    """Sums over positions, batch by batch, from which a layer is corrected.

    Args:
        layer: the layer.
        weight: its weight.
        batches: number of batches of all samples, which share the rows.
        weights: whether the weights are corrected, not only the bias.
        seed: of the sample of positions.
        rounding: how the weights are rounded in the end, if they are.
        bounds: what reads the output lets through.
        bias: the layer's bias, where what it gives may be left out of :meth:`add`.
        before: number of batches in front of the first one that is added, as large as it.
        apart: whether batches are summed each for itself, to be taken by :meth:`take`.

    Attributes:
        halves: the sums so far, of both halves of the samples.
        is_left: the layer stays as it is, whatever its errors, and needs none.
        makes_outputs: what it gives may be left out: it follows from what it reads.
    """

    def __init__(
        self,
        layer: Layer,
        weight: np.ndarray,
        batches: int,
        weights: bool,
        seed: int,
        rounding: Rounding | None = None,
        bounds: tuple[float, float] = _ALL,
        bias: np.ndarray | None = None,
        before: int = 0,
        apart: bool = False,
    ) -> None:
        self._layer, self._weight, self._bias = layer, weight, bias
        self._rng, self._before, self._singles = np.random.default_rng(seed), before, 0
        self._groups, self._unknowns = _sizes(layer, weight.shape)
        rows = min(max(ROWS_PER_UNKNOWN * self._unknowns, FEWEST_ROWS), MOST_ROWS)
        self._rows = -(-rows // max(batches, 1))
        self._weights, self._rounding, self._bounds = weights, rounding, bounds
        self._narrow, self._apart = self._unknowns <= WIDEST, apart
        enough = block_rows(self._groups, self._unknowns)
        self._blocks = (BlockNumbers(enough), BlockNumbers(enough))
        self.halves = self._empty()
        self._regress = weights and self._narrow and self._unknowns > 0
        self._observe = self._regress or (rounding is not None and self._unknowns > 0)
        self.is_left = weights and not self._observe
        self.makes_outputs = self._observe and bias is not None

    def add(
        self,
        x: np.ndarray,
        expected: np.ndarray,
        found: np.ndarray | None = None,
        residual: np.ndarray | None = None,
    ) -> None:
        """Take one batch.

        Args:
            x: the layer's input in the spiking network.
            expected: its output in the ANN, or the sum with a residual.
            found: the same in the spiking network; None: it is computed where it is needed, at few
                of the positions.
            residual: what is added then, of the shape of the output.
        """
        axis = self._layer.channel_axis
        lengths = np.moveaxis(expected, axis, -1).shape[:-1]
        count = math.prod(lengths)
        for _ in range(self._before):  # those in front are drawn as well
            self._choose(count, len(x) == 1)
        self._before = 0
        positions, parts = self._choose(count, len(x) == 1)
        wanted = np.clip(_rows_at(expected, axis, positions), *self._bounds)
        given = found if found is not None else residual
        known = None if given is None else _rows_at(given, axis, positions)
        patches = None
        if self._observe and self._layer.geometry is not None:
            patches = ConvPatches(x, self._layer.geometry, lengths[1:])
        flat = x.reshape(-1, x.shape[-1])
        step = max(CHUNK // (4 * max(self._groups * self._unknowns, 1)), 1)

        def take(half: Sums, part: slice) -> None:
            for start in range(part.start, part.stop, step):
                at = slice(start, min(start + step, part.stop))
                inputs = None
                if self._observe:
                    chosen = positions[at]
                    inputs = flat[chosen][None] if patches is None else patches.at(chosen)
                made = np.float32(0) if known is None else known[at]
                with np.errstate(invalid="ignore", over="ignore"):  # inf - inf
                    if found is None and inputs is not None:
                        made = made + self._made(inputs)
                    rows = wanted[at] - np.clip(made, *self._bounds)
                if np.isfinite(rows).all():  # else it is reported where a neuron sees it
                    half.add(rows, inputs)

        work = len(positions) * self._groups * self._unknowns
        both = together if work >= _WORTH_THREADS else in_turn
        both(*(partial(take, *one) for one in zip(self.halves, parts, strict=True)))

    def take(self) -> list[Piece]:
        """The sums of the batch that was added last, of both halves."""
        halves, self.halves = self.halves, self._empty()
        return [block.piece(sums) for block, sums in zip(self._blocks, halves, strict=True)]

    def _empty(self) -> Halves:
        return Halves(*(Sums(self._narrow, not self._apart) for _ in range(2)))

    def _choose(self, count: int, single: bool) -> tuple[np.ndarray, list[slice]]:
        """Which of a batch's ``count`` positions are looked at, ascending, and the two halves."""
        positions = np.arange(count)
        if count > self._rows:
            positions = np.sort(self._rng.choice(count, self._rows, replace=False))
        # Rows of one sample lie together, so that halves of the rows are halves of the samples.
        middle = int(np.searchsorted(positions, count // 2))
        if single:  # one sample a batch: every other one
            middle = len(positions) * (self._singles % 2)
            self._singles += 1
        parts = [slice(0, middle), slice(middle, len(positions))]
        for block, part in zip(self._blocks, parts, strict=True):
            block.add(part.stop - part.start)
        return positions, parts

    def _made(self, inputs: np.ndarray) -> np.ndarray:
        """What the layer gives for these rows of its input: [n, outputs]."""
        products = inputs @ self._matrix(self._weight).transpose(0, 2, 1)
        return np.asarray(products.transpose(1, 0, 2).reshape(inputs.shape[1], -1) + self._bias)

    def solve(self, bias: np.ndarray, correct_bias: bool = True) -> Correction:
        """The corrected parameters.

        Args:
            bias: [O], the layer's bias.
            correct_bias: whether the mean error is corrected.
        """
        if self.is_left:
            return Correction(self._weight, bias, 0.0, 0.0, None, self._obstacle())
        total = self.halves.one + self.halves.other
        if not total.count:
            return Correction(self._weight, bias, 0.0, 0.0, None, "it has no finite output")
        found = self._solve(total, bias, correct_bias)
        if self._rounding is None or not self._observe:
            return found
        return self._rounded(found, total, self._rounding, correct_bias)

    def _solve(self, total: Sums, bias: np.ndarray, correct_bias: bool) -> Correction:
        error, squares = total.error / total.count, total.squares / total.count
        remaining = squares - float((error**2).sum()) if correct_bias else squares
        shift = error.copy() if correct_bias else np.zeros_like(error)
        weight, ridge = self._weight, None
        if self._regress:
            both = together if self._unknowns**2 >= _WORTH_THREADS else in_turn
            halves = both(*(half.centred for half in self.halves if half.count))
            ridge = _best_ridge(halves, both)
        if self._weights and ridge is None:
            rms = float(np.sqrt(squares / error.size))
            return Correction(self._weight, bias, rms, rms, None, self._obstacle())
        if ridge is not None:
            moments = total.centred()
            delta = moments.regression(ridge)
            remaining -= moments.gain(delta)
            shift -= (delta @ moments.mean[:, :, None]).reshape(-1)
            weight = (self._weight + self._shaped(delta)).astype(np.float32)
        return Correction(
            weight,
            (bias + shift).astype(np.float32),
            float(np.sqrt(squares / error.size)),
            float(np.sqrt(max(remaining, 0.0) / error.size)),
            ridge,
        )

    def _rounded(
        self, found: Correction, total: Sums, rounding: Rounding, correct_bias: bool
    ) -> Correction:
        """The weights as multiples of steps, and what that changes in the mean in the bias."""
        weight = self._matrix(found.weight)
        offset = np.abs(found.bias.astype(np.float64)) / rounding.unit
        covariance = total.centred().covariance if self._narrow else None
        integers, steps = round_weights(weight, covariance, rounding.most, offset)
        step = steps.astype(np.float64).reshape(*weight.shape[:2], 1)
        left = weight - integers * step
        shift = (left @ total.mean[:, :, None]).reshape(-1)
        bias = found.bias + shift * correct_bias
        added = None
        if covariance is not None:
            added = float(np.sqrt(max(((left @ covariance) * left).sum(), 0.0) / shift.size))
        return replace(
            found,
            weight=self._shaped(integers * step).astype(np.float32),
            bias=bias.astype(np.float32),
            after=float(np.hypot(found.after, added or 0.0)),
            steps=steps,
            rounding=added,
        )

    def _matrix(self, weight: np.ndarray) -> np.ndarray:
        """The layer's weight as [g, outputs, unknowns]: the inverse of :meth:`_shaped`."""
        if self._layer.geometry is not None:
            channels_last = np.moveaxis(weight, 1, -1)
            return channels_last.reshape(self._groups, -1, self._unknowns)
        return (weight if self._layer.transposed else weight.T)[None]

    def _obstacle(self) -> str:
        """Why the weights stay as they are: rule 5."""
        if self._regress:
            return "no ridge helps"
        if self._unknowns:
            return f"its outputs have {self._unknowns} weights each, more than {WIDEST}"
        if self._layer.op == "Conv":
            return "its padding is automatic"
        return f"{self._layer.op} is not compensated"

    def _shaped(self, delta: np.ndarray) -> np.ndarray:
        """[g, outputs, unknowns] as the layer's weight."""
        if self._layer.geometry is not None:
            return as_weight(delta, self._layer.geometry)
        matrix: np.ndarray = delta[0]
        return matrix if self._layer.transposed else matrix.T


def _sizes(layer: Layer, shape: tuple[int, ...]) -> tuple[int, int]:
    """Groups and unknowns per output; no unknowns where weights cannot be corrected."""
    if layer.geometry is not None:
        return layer.geometry.group, int(np.prod(shape[1:]))
    if not properties(layer.op).convolves:
        return 1, shape[1] if layer.transposed else shape[0]
    return 1, 0


def _rows_at(output: np.ndarray, axis: int, positions: np.ndarray) -> np.ndarray:
    """[positions, channels] of an output whose channels are ``axis``."""
    channels_last = np.moveaxis(output, axis, -1)
    if len(positions) == math.prod(channels_last.shape[:-1]):
        return channels_last.reshape(len(positions), channels_last.shape[-1])
    rows: np.ndarray = channels_last[np.unravel_index(positions, channels_last.shape[:-1])]
    return rows


def _best_ridge(halves: Sequence[Moments | Rows], both: Callable[..., list[float]]) -> float | None:
    """Rule 3; None where no ridge helps on the other half. ``both`` makes two calls.

    The gain rises and falls once with the ridge, so that the best is climbed to from the middle.
    """
    if len(halves) < 2:
        return None
    gains: dict[int, float] = {}

    def gain(at: int) -> float:
        if at not in gains:
            ridge = RIDGES[at]
            one, other = halves
            calls = (
                partial(_gain_elsewhere, one, other, ridge),
                partial(_gain_elsewhere, other, one, ridge),
            )
            gains[at] = sum(both(*calls))
        return gains[at]

    best = len(RIDGES) // 2
    for step in (1, -1):
        while 0 <= best + step < len(RIDGES) and gain(best + step) > gain(best):
            best += step
    return RIDGES[best] if gain(best) > 0 else None


def _gain_elsewhere(one: Moments | Rows, other: Moments | Rows, ridge: float) -> float:
    """What is fitted to one half reduces of the squared error on the other."""
    return other.gain(one.regression(ridge))
