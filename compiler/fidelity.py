"""How close one network's outputs are to another's, accumulated batch by batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class OutputFidelity:
    """Comparison of one output over all samples.

    Attributes:
        name: output name.
        max_abs: largest absolute difference; inf where only one is finite, or shapes differ.
        relative_l2: ||other - reference|| / ||reference||.
        agreement: share of samples with the same argmax over the last axis; None unless the output
            is [batch, classes] with at least 2 classes.
    """

    name: str
    max_abs: float
    relative_l2: float
    agreement: float | None


class FidelityMeter:
    """Accumulates :class:`OutputFidelity` for one floating-point output."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._max_abs = 0.0
        self._error = 0.0
        self._energy = 0.0
        self._agreeing: int | None = 0
        self._rows = 0

    def add(self, reference: np.ndarray, other: np.ndarray) -> None:
        """Compare one batch of outputs; where shapes depend on the data they may differ."""
        if reference.shape != other.shape:
            self._max_abs = self._error = np.inf
            self._agreeing = None
            return
        difference = _difference(reference.astype(np.float64), other.astype(np.float64))
        if difference.size:
            self._max_abs = max(self._max_abs, float(np.abs(difference).max()))
        self._error += float((difference**2).sum())
        finite = reference[np.isfinite(reference)].astype(np.float64)
        self._energy += float((finite**2).sum())
        if reference.ndim != 2 or reference.shape[1] < 2:
            self._agreeing = None
        elif self._agreeing is not None:
            self._agreeing += int((reference.argmax(1) == other.argmax(1)).sum())
            self._rows += len(reference)

    def result(self) -> OutputFidelity:
        """The comparison so far."""
        agreement = None
        if self._agreeing is not None and self._rows:
            agreement = self._agreeing / self._rows
        relative = np.sqrt(self._error / self._energy) if self._energy else float(self._error > 0)
        relative = np.inf if np.isinf(self._error) else relative
        return OutputFidelity(self._name, self._max_abs, float(relative), agreement)


def _difference(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """other - reference, where equal infinities and NaN in both are no difference."""
    same = (reference == other) | (np.isnan(reference) & np.isnan(other))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0, other - reference)
    return np.where(np.isnan(difference), np.inf, difference)


def float_outputs(session: object) -> list[tuple[int, str]]:
    """Position and name of a session's floating-point outputs; the others are not compared."""
    kinds = {"tensor(float)", "tensor(double)", "tensor(float16)"}
    outputs = session.get_outputs()  # type: ignore[attr-defined]
    return [(i, output.name) for i, output in enumerate(outputs) if output.type in kinds]
