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
from .solve import solve_definite

#: Output positions that a layer's regression sees: so many for each unknown, within bounds.
ROWS_PER_UNKNOWN = 100
FEWEST_ROWS, MOST_ROWS = 2_000, 20_000
#: Unknowns per output beyond which the regression costs more than it is worth.
WIDEST = 2304
#: Ridges to choose from: rule 3.
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
#: Variances below this share of the mean one count as that: an input that is hardly ever active.
_LEAST_VARIANCE = 1e-4
#: Bytes of rows handled at a time, and the fewest rows, and no fewer than there are unknowns, that
#: are multiplied at once where they take less.
_CHUNK = 32 << 20
_BLOCK_ROWS = 1024
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
        batches: number of batches to come, which share the rows.
        weights: whether the weights are corrected, not only the bias.
        seed: of the sample of positions.
        rounding: how the weights are rounded in the end, if they are.
        bounds: what reads the output lets through.
        bias: the layer's bias, where what it gives may be left out of :meth:`add`.

    Attributes:
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
    ) -> None:
        self._layer, self._weight, self._bias = layer, weight, bias
        self._rng = np.random.default_rng(seed)
        self._groups, self._unknowns = _sizes(layer, weight.shape)
        rows = min(max(ROWS_PER_UNKNOWN * self._unknowns, FEWEST_ROWS), MOST_ROWS)
        self._rows = -(-rows // max(batches, 1))
        self._weights, self._rounding, self._bounds = weights, rounding, bounds
        self._narrow = self._unknowns <= WIDEST
        self._halves = [_Sums(self._narrow), _Sums(self._narrow)]
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
        positions = np.arange(count)
        if count > self._rows:
            positions = np.sort(self._rng.choice(count, self._rows, replace=False))
        wanted = np.clip(_rows_at(expected, axis, positions), *self._bounds)
        given = found if found is not None else residual
        known = None if given is None else _rows_at(given, axis, positions)
        patches = None
        if self._observe and self._layer.geometry is not None:
            patches = ConvPatches(x, self._layer.geometry, lengths[1:])
        flat = x.reshape(-1, x.shape[-1])
        step = max(_CHUNK // (4 * max(self._groups * self._unknowns, 1)), 1)
        # Rows of one sample lie together, so that halves of the rows are halves of the samples.
        middle = int(np.searchsorted(positions, count // 2))
        parts = (slice(0, middle), slice(middle, len(positions)))
        if len(x) == 1:  # one sample a batch: every other one
            parts = (slice(0, len(positions)), slice(0, 0))
            self._halves.reverse()

        def take(half: _Sums, part: slice) -> None:
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
        both(*(partial(take, *one) for one in zip(self._halves, parts, strict=True)))

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
            both = together if self._unknowns**2 >= _WORTH_THREADS else in_turn
            halves = both(*(half.centred for half in self._halves if half.count))
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


class _Moments:
    """Means and centred second moments of one half of the samples, or of all.

    Args:
        mean: of the inputs, [groups, unknowns].
        covariance: of the inputs, [groups, unknowns, unknowns].
        cross: of errors and inputs, [groups, outputs, unknowns].

    Attributes:
        mean, covariance: these.
    """

    def __init__(self, mean: np.ndarray, covariance: np.ndarray, cross: np.ndarray) -> None:
        self.mean, self.covariance = mean, covariance
        self._unit = _units(np.einsum("gii->gi", covariance))
        # In these units they are correlations: with the least of the ridges no system of them is so
        # near to singular that float32 would not do.
        self._covariance = covariance.astype(np.float32)
        self._covariance /= self._unit[:, :, None]
        self._covariance /= self._unit[:, None, :]
        self._cross = cross.astype(np.float32) / self._unit[:, None, :]

    def regression(self, ridge: float) -> np.ndarray:
        """D of rule 2, [groups, outputs, unknowns]."""
        damped = self._covariance.copy()
        np.einsum("gii->gi", damped)[:] += np.float32(ridge)
        right = self._cross.transpose(0, 2, 1)
        if len(damped) == 1:
            delta = solve_definite(damped[0], right[0])[None]
        else:
            delta = np.linalg.solve(damped, right)
        return np.asarray(delta.transpose(0, 2, 1) / self._unit[:, None, :])

    def gain(self, delta: np.ndarray) -> float:
        """By how much D reduces the mean squared error here, summed over the outputs."""
        scaled = delta * self._unit[:, None, :]
        return float(np.vdot(scaled, 2 * self._cross - scaled @ self._covariance))


class _Rows:
    """The same of fewer rows than unknowns, from the rows themselves.

    With X the rows of inputs and E those of errors, both centred and in their units, and n of them,

        D = E^T (X X^T + n r I)^-1 X,

    which is a system of n unknowns.

    Args:
        inputs: [n, unknowns].
        errors: [n, outputs].

    Attributes:
        mean: of the inputs, [1, unknowns].
    """

    def __init__(self, inputs: np.ndarray, errors: np.ndarray) -> None:
        self.mean = inputs.mean(axis=0, dtype=np.float64, keepdims=True)
        self._centred = (inputs - self.mean).astype(np.float32)
        self._errors = (errors - errors.mean(axis=0, dtype=np.float64)).astype(np.float32)
        self._unit = _units(np.square(self._centred).mean(axis=0, dtype=np.float64)[None])[0]
        self._scaled = self._centred / self._unit
        self._products = self._scaled @ self._scaled.T

    @property
    def covariance(self) -> np.ndarray:
        """Of the inputs, [1, unknowns, unknowns]."""
        wide = self._centred.astype(np.float64)
        covariance: np.ndarray = (wide.T @ wide)[None] / len(wide)
        return covariance

    def regression(self, ridge: float) -> np.ndarray:
        """D of rule 2, [1, outputs, unknowns]."""
        damped = self._products.copy()
        np.einsum("ii->i", damped)[:] += np.float32(len(damped) * ridge)
        delta = solve_definite(damped, self._errors).T @ self._scaled
        return np.asarray(delta / self._unit)[None]

    def gain(self, delta: np.ndarray) -> float:
        """By how much D reduces the mean squared error here, summed over the outputs."""
        made = self._scaled @ (delta[0] * self._unit).T
        return float(np.vdot(made, 2 * self._errors - made)) / len(made)


def _units(variance: np.ndarray) -> np.ndarray:
    """The deviation of each input, as far as rule 2 knows it: float32 [groups, unknowns]."""
    least = _LEAST_VARIANCE * variance.mean(axis=1, keepdims=True)
    units = np.sqrt(np.maximum(variance, least)).astype(np.float32)
    return np.where(units > 0, units, np.float32(1))


class _Sums:
    """Sums over rows.

    Args:
        second: whether second moments are summed too, not means alone.
    """

    def __init__(self, second: bool = True) -> None:
        self.count = 0
        self.squares = 0.0
        self.error: np.ndarray = np.zeros(1)
        self._second = second
        self._input: np.ndarray = np.zeros(1)
        self._moments: np.ndarray | None = None
        self._cross: np.ndarray = np.zeros(1)
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []

    @property
    def mean(self) -> np.ndarray:
        """Of the inputs, [groups, unknowns]."""
        return self._input / self.count

    def add(self, error: np.ndarray, inputs: np.ndarray | None) -> None:
        """Add rows.

        Args:
            error: float32 [n, outputs].
            inputs: float32 [groups, n, unknowns].
        """
        wide = error.astype(np.float64)
        self.count += len(error)
        self.squares += float(np.vdot(wide, wide))
        self.error = self.error + wide.sum(axis=0)
        if inputs is None:
            return
        self._input = self._input + inputs.sum(axis=1, dtype=np.float64)
        if self._second:
            self._waiting.append((error, inputs))
            rows = sum(len(one) for one, _ in self._waiting)
            enough = rows >= max(_BLOCK_ROWS, inputs.shape[-1])
            if enough or sum(x.nbytes for _, x in self._waiting) >= _CHUNK:
                self._multiply()

    def _waited(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows that wait: errors and inputs."""
        if len(self._waiting) > 1:
            errors = np.concatenate([error for error, _ in self._waiting])
            inputs = np.concatenate([x for _, x in self._waiting], axis=1)
            self._waiting = [(errors, inputs)]
        return self._waiting[0]

    def _multiply(self) -> None:
        """Add the moments of the rows that wait: many at once take far less time than few."""
        if not self._waiting:
            return
        error, inputs = self._waited()
        self._waiting = []
        if len(inputs) == 1:  # two dimensions: numpy then has the product with itself done by half
            rows = inputs[0]
            moments, cross = (rows.T @ rows)[None], (error.T @ rows)[None]
        else:
            by_group = error.reshape(len(error), len(inputs), -1).transpose(1, 2, 0)
            moments = inputs.transpose(0, 2, 1) @ inputs
            cross = np.ascontiguousarray(by_group) @ inputs
        if self._moments is None:
            self._moments, self._cross = moments.astype(np.float64), cross.astype(np.float64)
        else:
            self._moments += moments
            self._cross += cross

    def __add__(self, other: _Sums) -> _Sums:
        total = _Sums(self._second)
        total.count, total.squares = self.count + other.count, self.squares + other.squares
        total.error = self.error + other.error
        total._input = self._input + other._input
        if self._moments is None and other._moments is None:
            total._waiting = [*self._waiting, *other._waiting]
            return total
        for one in (self, other):
            one._multiply()
            if one._moments is not None:
                sums = (0.0, 0.0) if total._moments is None else (total._moments, total._cross)
                total._moments, total._cross = sums[0] + one._moments, sums[1] + one._cross
        return total

    def centred(self) -> _Moments | _Rows:
        """Means and centred moments."""
        if self._moments is None:
            errors, inputs = self._waited()
            if len(inputs) == 1 and len(errors) < inputs.shape[-1]:
                return _Rows(inputs[0], errors)
        self._multiply()
        assert self._moments is not None  # none are asked for where none are summed
        mean = self.mean
        error = (self.error / self.count).reshape(len(mean), -1)
        covariance = self._moments / self.count
        covariance -= mean[:, :, None] * mean[:, None, :]
        cross = self._cross / self.count - error[:, :, None] * mean[:, None, :]
        return _Moments(mean, covariance, cross)


def _rows_at(output: np.ndarray, axis: int, positions: np.ndarray) -> np.ndarray:
    """[positions, channels] of an output whose channels are ``axis``."""
    channels_last = np.moveaxis(output, axis, -1)
    if len(positions) == math.prod(channels_last.shape[:-1]):
        return channels_last.reshape(len(positions), channels_last.shape[-1])
    rows: np.ndarray = channels_last[np.unravel_index(positions, channels_last.shape[:-1])]
    return rows


def _best_ridge(
    halves: Sequence[_Moments | _Rows], both: Callable[..., list[float]]
) -> float | None:
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


def _gain_elsewhere(one: _Moments | _Rows, other: _Moments | _Rows, ridge: float) -> float:
    """What is fitted to one half reduces of the squared error on the other."""
    return other.gain(one.regression(ridge))
