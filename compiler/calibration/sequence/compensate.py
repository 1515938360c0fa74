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

from dataclasses import dataclass, replace

import numpy as np

from ....passes.analysis.layers import Layer
from ....passes.analysis.operators import properties
from .patches import ConvPatches, as_weight
from .rounding import round_weights

#: Output positions that a layer's regression sees: so many for each unknown, within bounds.
ROWS_PER_UNKNOWN = 100
FEWEST_ROWS, MOST_ROWS = 2_000, 20_000
#: Unknowns per output beyond which the regression costs more than it is worth.
WIDEST = 2304
#: Ridges to choose from: rule 3.
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
#: Variances below this share of the mean one count as that: an input that is hardly ever active.
_LEAST_VARIANCE = 1e-4
#: Bytes of rows handled at a time.
_CHUNK = 32 << 20


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
        batches: number of batches to come, which share the rows.
        weights: whether the weights are corrected, not only the bias.
        seed: of the sample of positions.
        rounding: how the weights are rounded in the end, if they are.
    """

    def __init__(
        self,
        layer: Layer,
        weight: np.ndarray,
        batches: int,
        weights: bool,
        seed: int,
        rounding: Rounding | None = None,
    ) -> None:
        self._layer, self._weight = layer, weight
        self._rng = np.random.default_rng(seed)
        self._groups, self._unknowns = _sizes(layer, weight.shape)
        rows = min(max(ROWS_PER_UNKNOWN * self._unknowns, FEWEST_ROWS), MOST_ROWS)
        self._rows = -(-rows // max(batches, 1))
        self._halves = [_Sums(), _Sums()]
        self._weights, self._rounding = weights, rounding
        self._narrow = self._unknowns <= WIDEST
        self._regress = weights and self._narrow and self._unknowns > 0
        self._observe = self._regress or (rounding is not None and self._unknowns > 0)

    def add(self, x: np.ndarray, error: np.ndarray) -> None:
        """Take one batch.

        Args:
            x: the layer's input in the spiking network.
            error: the ANN's value minus the spiking network's, of the shape of the output.
        """
        outputs_last = np.moveaxis(error, self._layer.channel_axis, -1)
        rows = outputs_last.reshape(-1, outputs_last.shape[-1])
        if not len(rows) or not np.isfinite(rows).all():
            return  # what is not finite is reported where a neuron sees it
        positions = np.arange(len(rows))
        if len(rows) > self._rows:
            positions = np.sort(self._rng.choice(len(rows), self._rows, replace=False))
        geometry = self._layer.geometry
        patches = None
        if self._observe and geometry is not None:
            patches = ConvPatches(x, geometry, error.shape[2:])
        flat = x.reshape(-1, x.shape[-1])
        step = max(_CHUNK // (4 * max(self._groups * self._unknowns, 1)), 1)
        # Rows of one sample lie together, so that halves of the rows are halves of the samples.
        middle = int(np.searchsorted(positions, len(rows) // 2))
        parts = (positions[:middle], positions[middle:])
        if len(x) == 1:  # one sample a batch: every other one
            parts = (positions, positions[:0])
            self._halves.reverse()
        for half, part in zip(self._halves, parts, strict=True):
            for start in range(0, len(part), step):
                chosen = part[start : start + step]
                inputs = None
                if self._observe:
                    inputs = flat[chosen][None] if patches is None else patches.at(chosen)
                half.add(rows[chosen], inputs, self._narrow)

    def solve(self, bias: np.ndarray, correct_bias: bool = True) -> Correction:
        """The corrected parameters.

        Args:
            bias: [O], the layer's bias.
            correct_bias: whether the mean error is corrected.
        """
        total = self._halves[0] + self._halves[1]
        if not total.count:
            return Correction(self._weight, bias, 0.0, 0.0, None, "it has no finite output")
        found = self._solve(total, bias, correct_bias)
        if self._rounding is None or not self._observe:
            return found
        return self._rounded(found, total, self._rounding, correct_bias)

    def _solve(self, total: _Sums, bias: np.ndarray, correct_bias: bool) -> Correction:
        error, squares = total.error / total.count, total.squares / total.count
        remaining = squares - float((error**2).sum()) if correct_bias else squares
        shift = error.copy() if correct_bias else np.zeros_like(error)
        weight, ridge = self._weight, None
        if self._regress:
            ridge = _best_ridge(*(half.centred() for half in self._halves if half.count))
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
        self, found: Correction, total: _Sums, rounding: Rounding, correct_bias: bool
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


@dataclass(frozen=True)
class _Moments:
    """Means and centred second moments of one half of the samples, or of all.

    Attributes:
        mean: of the inputs, [groups, unknowns].
        covariance: of the inputs, [groups, unknowns, unknowns].
        cross: of errors and inputs, [groups, outputs, unknowns].
    """

    mean: np.ndarray
    covariance: np.ndarray
    cross: np.ndarray

    def regression(self, ridge: float) -> np.ndarray:
        """D of rule 2, [groups, outputs, unknowns]."""
        variance = np.einsum("gii->gi", self.covariance)
        least = _LEAST_VARIANCE * variance.mean(axis=1, keepdims=True)
        damping = ridge * np.maximum(variance, least) + np.finfo(np.float64).tiny
        damped = self.covariance + damping[:, :, None] * np.eye(variance.shape[1])
        delta: np.ndarray = np.linalg.solve(damped, self.cross.transpose(0, 2, 1))
        return delta.transpose(0, 2, 1)

    def gain(self, delta: np.ndarray) -> float:
        """By how much D reduces the mean squared error here, summed over the outputs."""
        return float(2 * (delta * self.cross).sum() - ((delta @ self.covariance) * delta).sum())


class _Sums:
    """Sums over rows."""

    def __init__(self) -> None:
        self.count = 0
        self.squares = 0.0
        self.error: np.ndarray = np.zeros(1)
        self._input: np.ndarray = np.zeros(1)
        self._moments: np.ndarray = np.zeros(1)
        self._cross: np.ndarray = np.zeros(1)

    @property
    def mean(self) -> np.ndarray:
        """Of the inputs, [groups, unknowns]."""
        return self._input / self.count

    def add(self, error: np.ndarray, inputs: np.ndarray | None, second: bool = True) -> None:
        """Add rows.

        Args:
            error: [n, outputs].
            inputs: [groups, n, unknowns].
            second: whether second moments are summed too, not means alone.
        """
        self.count += len(error)
        self.squares += float(np.square(error, dtype=np.float64).sum())
        self.error = self.error + error.sum(axis=0, dtype=np.float64)
        if inputs is None:
            return
        self._input = self._input + inputs.sum(axis=1, dtype=np.float64)
        if not second:
            return
        if len(inputs) == 1:  # two dimensions: numpy then has the product with itself done by half
            rows = inputs[0]
            self._moments = self._moments + (rows.T @ rows)[None]
            self._cross = self._cross + (error.T @ rows)[None]
        else:
            by_group = error.reshape(len(error), len(inputs), -1).transpose(1, 2, 0)
            self._moments = self._moments + inputs.transpose(0, 2, 1) @ inputs
            self._cross = self._cross + np.ascontiguousarray(by_group) @ inputs

    def __add__(self, other: _Sums) -> _Sums:
        total = _Sums()
        total.count, total.squares = self.count + other.count, self.squares + other.squares
        total.error = self.error + other.error
        total._input, total._cross = self._input + other._input, self._cross + other._cross
        total._moments = self._moments + other._moments
        return total

    def centred(self) -> _Moments:
        """Means and centred moments."""
        mean = self.mean
        error = (self.error / self.count).reshape(len(mean), -1)
        return _Moments(
            mean,
            self._moments / self.count - mean[:, :, None] * mean[:, None, :],
            self._cross / self.count - error[:, :, None] * mean[:, None, :],
        )


def _best_ridge(*halves: _Moments) -> float | None:
    """Rule 3; None where no ridge helps on the other half.

    The gain rises and falls once with the ridge, so that the best is climbed to from the middle.
    """
    if len(halves) < 2:
        return None
    gains: dict[int, float] = {}

    def gain(at: int) -> float:
        if at not in gains:
            ridge = RIDGES[at]
            pairs = (halves, halves[::-1])
            gains[at] = sum(other.gain(one.regression(ridge)) for one, other in pairs)
        return gains[at]

    best = len(RIDGES) // 2
    for step in (1, -1):
        while 0 <= best + step < len(RIDGES) and gain(best + step) > gain(best):
            best += step
    return RIDGES[best] if gain(best) > 0 else None
