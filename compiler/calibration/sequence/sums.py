"""Sums over the rows of a layer's errors and inputs, and the regressions that follow from them.

Moments are sums of products of blocks of rows, in float32, added in float64. A block is the rows of
batches that follow each other, until they are enough. :class:`Summed` has sums that were made in
several places: blocks are the same as in one place, so float32 rounds alike, and are added in an
order that depends on their numbers alone, not on who summed which.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .solve import solve_definite

#: Variances below this share of the mean one count as that: an input that is hardly ever active.
_LEAST_VARIANCE = 1e-4
#: Rows that are multiplied at once, at least, and no fewer than there are unknowns, where they take
#: less than so many bytes.
_BLOCK_ROWS = 1024
CHUNK = 32 << 20


class Moments:
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


class Rows:
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


class Sums:
    """Sums over rows.

    Args:
        second: whether second moments are summed too, not means alone.
        by_itself: whether rows are multiplied when there are enough of them, not when told.
    """

    def __init__(self, second: bool = True, by_itself: bool = True) -> None:
        self._by_itself = by_itself
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
            self._multiply_many()

    def merge(self, other: Sums) -> None:
        """Add other sums of rows, which are used up."""
        self.count += other.count
        self.squares += other.squares
        self.error = self.error + other.error
        self._input = self._input + other._input
        if self._moments is None:
            self._moments, self._cross = other._moments, other._cross
        elif other._moments is not None:
            self._moments += other._moments
            self._cross += other._cross
        self._waiting += other._waiting
        self._multiply_many()

    def _multiply_many(self) -> None:
        """Add the moments of the rows that wait, if there are enough of them."""
        if not self._waiting or not self._by_itself:
            return
        rows = sum(len(one) for one, _ in self._waiting)
        if rows >= block_rows(*self._waiting[0][1].shape[::2]):
            self.multiply()

    def _waited(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows that wait: errors and inputs."""
        if len(self._waiting) > 1:
            errors = np.concatenate([error for error, _ in self._waiting])
            inputs = np.concatenate([x for _, x in self._waiting], axis=1)
            self._waiting = [(errors, inputs)]
        return self._waiting[0]

    def multiply(self) -> None:
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

    def __add__(self, other: Sums) -> Sums:
        """The sums of both, which stay as they are."""
        total = Sums(self._second)
        total.count, total.squares = self.count + other.count, self.squares + other.squares
        total.error = self.error + other.error
        total._input = self._input + other._input
        if self._moments is None and other._moments is None:
            total._waiting = [*self._waiting, *other._waiting]
            return total
        for one in (self, other):
            one.multiply()
            if one._moments is not None:
                sums = (0.0, 0.0) if total._moments is None else (total._moments, total._cross)
                total._moments, total._cross = sums[0] + one._moments, sums[1] + one._cross
        return total

    def centred(self) -> Moments | Rows:
        """Means and centred moments."""
        if self._moments is None:
            errors, inputs = self._waited()
            if len(inputs) == 1 and len(errors) < inputs.shape[-1]:
                return Rows(inputs[0], errors)
        self.multiply()
        assert self._moments is not None  # none are asked for where none are summed
        mean = self.mean
        error = (self.error / self.count).reshape(len(mean), -1)
        covariance = self._moments / self.count
        covariance -= mean[:, :, None] * mean[:, None, :]
        cross = self._cross / self.count - error[:, :, None] * mean[:, None, :]
        return Moments(mean, covariance, cross)


@dataclass
class Halves:
    """Sums over the two halves of the samples.

    Attributes:
        one, other: these.
    """

    one: Sums
    other: Sums

    def __iter__(self) -> Iterator[Sums]:
        """Both."""
        return iter((self.one, self.other))


def block_rows(groups: int, unknowns: int) -> int:
    """How many rows are enough to be multiplied, for inputs [groups, rows, unknowns]."""
    fill = -(-CHUNK // (4 * max(groups * unknowns, 1)))
    return min(max(_BLOCK_ROWS, unknowns), fill)


@dataclass(frozen=True)
class Piece:
    """The rows of one batch, of one half.

    Attributes:
        sums: theirs, not multiplied.
        block: the number of their block.
        opens: whether they are its first.
        closes: whether they are its last.
    """

    sums: Sums
    block: int
    opens: bool
    closes: bool


class BlockNumbers:
    """To which blocks batches belong, those of one half.

    Args:
        enough: rows of a block.
    """

    def __init__(self, enough: int) -> None:
        self._enough, self._rows, self._block, self._opens = enough, 0, 0, True
        self._closes = False

    def add(self, rows: int) -> None:
        """The next batch, by its number of rows."""
        self._block += self._closes
        self._opens = self._closes or (self._opens and self._rows == 0)
        self._rows = rows if self._closes else self._rows + rows
        self._closes = self._rows >= self._enough

    def piece(self, sums: Sums) -> Piece:
        """That of the batch that was added last."""
        return Piece(sums, self._block, self._opens, self._closes)


class Summed:
    """Sums of a layer's batches, of both halves, wherever they were summed."""

    def __init__(self) -> None:
        self._halves = (_Blocks(), _Blocks())
        self._all: Halves | None = None

    @classmethod
    def of_all(cls, halves: Halves) -> Summed:
        """Those of all batches, which were summed in one place."""
        summed = cls()
        summed._all = halves
        return summed

    def add(self, batch: int, pieces: Sequence[Piece]) -> None:
        """Add a batch, by its number, which is higher than those before: a piece for each half."""
        for half, piece in zip(self._halves, pieces, strict=True):
            half.add(batch, piece)

    def merge(self, other: Summed) -> None:
        """Add the sums of other batches, which are used up."""
        for half, more in zip(self._halves, other._halves, strict=True):
            half.merge(more)

    def total(self) -> Halves:
        """Of all batches, once."""
        return self._all or Halves(*(half.total() for half in self._halves))


class _Blocks:
    """Sums of blocks. Those of blocks 2 i and 2 i + 1 are added, then these in pairs, and so on.

    A pair is added as soon as both are there, so that few wait at a time. Of a block that is not
    complete the pieces are kept.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[int, int], Sums] = {}  # by first block and number of blocks
        self._pieces: dict[int, Piece] = {}  # by batch

    def add(self, batch: int, piece: Piece) -> None:
        """Add a piece."""
        self._pieces[batch] = piece
        if not piece.closes:
            return
        own = [at for at, one in self._pieces.items() if one.block == piece.block]
        if any(self._pieces[at].opens for at in own):
            sums = self._joined(own)
            sums.multiply()
            self._add(piece.block, 1, sums)

    def merge(self, other: _Blocks) -> None:
        """Add other blocks."""
        for (first, size), sums in sorted(other._sums.items(), key=lambda one: one[0]):
            self._add(first, size, sums)
        pieces = {**self._pieces, **other._pieces}
        self._pieces = {}
        for batch in sorted(pieces):
            self.add(batch, pieces[batch])

    def total(self) -> Sums:
        """The sum of all; the rows of the last block, if they are not enough, wait."""
        sums = [own for _, own in sorted(self._sums.items(), key=lambda one: one[0])]
        if self._pieces:
            sums.append(self._joined(sorted(self._pieces)))
        total = sums[0] if sums else Sums()
        for more in sums[1:]:
            total.merge(more)
        return total

    def _joined(self, batches: Sequence[int]) -> Sums:
        """The sum of these pieces, which are used up."""
        sums, *others = [self._pieces.pop(batch).sums for batch in batches]
        for more in others:
            sums.merge(more)
        return sums

    def _add(self, first: int, size: int, sums: Sums) -> None:
        while (before := self._sums.pop((first ^ size, size), None)) is not None:
            if first & size:
                first ^= size
                before, sums = sums, before
            sums.merge(before)
            size *= 2
        self._sums[first, size] = sums
