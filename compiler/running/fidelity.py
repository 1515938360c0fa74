"""How close one network's outputs are to another's, accumulated batch by batch.

1. The samples of a run are the rows of an output, or, where it has another number of rows than the
   run has samples, the output as a whole counts as one.
2. An output [samples, classes] of at least two classes answers with its argmax, the first where
   several are equal. A label is among the five highest where fewer than five classes are higher, or
   equal and before it. A row with NaN is never right.
3. The cosine of a sample whose outputs are the same, bit for bit or both NaN, is 1; otherwise it is
   0 where one of them is all 0 or has a value that is not finite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

_FIVE = 5
#: Of differences, by which the agreement is counted too.
_FACTORS = (0.5, 2.0)


@dataclass
class OutputFidelity:
    """Comparison of one output over all samples.

    Attributes:
        name: output name.
        max_abs: largest absolute difference; inf where only one is finite, or shapes differ.
        relative_l2: ||other - reference|| / ||reference||.
        agreement: share of samples with the same argmax over the last axis; None unless the output
            is [batch, classes] with at least 2 classes.
        cosine: mean over samples of the cosine between the two outputs; None where shapes differ.
        agreement_at_half: agreement if each sample's difference were half of what it is.
        agreement_at_double: if it were twice that.
    """

    name: str
    max_abs: float
    relative_l2: float
    agreement: float | None
    cosine: float | None
    agreement_at_half: float | None = None
    agreement_at_double: float | None = None


@dataclass
class Answers:
    """How many samples of an output [batch, classes] were answered how.

    Attributes:
        samples: how many there are.
        agreeing: both networks give the same answer.
        labelled: how many had a label; the counts below are of them.
        right: the reference, and the other network, give the label.
        lost: only the reference gives the label.
        gained: only the other network does.
        among_five: the label is among the five highest of the reference, and of the other network;
            None below six classes.
    """

    samples: int = 0
    agreeing: int = 0
    labelled: int = 0
    right: tuple[int, int] = (0, 0)
    lost: int = 0
    gained: int = 0
    among_five: tuple[int, int] | None = None

    def add(self, other: Answers) -> None:
        """Those of other samples."""
        self.samples += other.samples
        self.agreeing += other.agreeing
        self.labelled += other.labelled
        self.lost += other.lost
        self.gained += other.gained
        self.right = self.right[0] + other.right[0], self.right[1] + other.right[1]
        if other.among_five is not None:
            mine, theirs = self.among_five or (0, 0), other.among_five
            self.among_five = mine[0] + theirs[0], mine[1] + theirs[1]


class FidelityMeter:
    """Accumulates :class:`OutputFidelity` for one floating-point output.

    Attributes:
        not_numbers: how many samples had NaN, of the reference and of the other network.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._max_abs = 0.0
        self._error = 0.0
        self._energy = 0.0
        self._answers: Answers | None = Answers()
        self._at_factors = [0, 0]
        self._cosines = 0.0
        self._compared: int | None = 0
        self.not_numbers = [0, 0]

    def add(
        self,
        reference: np.ndarray,
        other: np.ndarray,
        samples: int | None = None,
        labels: np.ndarray | None = None,
    ) -> None:
        """Compare one batch of outputs; where shapes depend on the data they may differ.

        Args:
            reference: output of the one network.
            other: the same output of the other network.
            samples: how many the run had; None: as many as the output has rows.
            labels: the class of each sample, for outputs [samples, classes]; 0 or above, and below
                the number of classes.
        """
        reference, other = reference.astype(np.float64), other.astype(np.float64)
        rows = [_rows(output, samples) for output in (reference, other)]
        for i in range(2):
            self.not_numbers[i] += int(np.isnan(rows[i]).any(axis=1).sum())
        if reference.shape != other.shape:
            self._max_abs = self._error = np.inf
            self._answers = self._compared = None
            return
        difference = _difference(reference, other)
        if difference.size:
            self._max_abs = max(self._max_abs, float(np.abs(difference).max()))
        self._error += float((difference**2).sum())
        self._energy += float((reference[np.isfinite(reference)] ** 2).sum())
        if self._compared is not None:
            cosines = _cosines(*rows)
            self._cosines += float(cosines.sum())
            self._compared += len(cosines)
        if not has_classes(reference, samples):
            self._answers = None
        elif self._answers is not None:
            _count(self._answers, reference, other, labels)
            for i, factor in enumerate(_FACTORS):
                with np.errstate(invalid="ignore"):  # inf less inf
                    moved = reference + factor * difference
                self._at_factors[i] += int((moved.argmax(1) == reference.argmax(1)).sum())

    def state(self) -> dict[str, Any]:
        """What :meth:`merge` takes, of numbers alone."""
        answers = self._answers
        return {
            "max_abs": self._max_abs,
            "error": self._error,
            "energy": self._energy,
            "answers": None if answers is None else asdict(answers),
            "at_factors": list(self._at_factors),
            "cosines": self._cosines,
            "compared": self._compared,
            "not_numbers": list(self.not_numbers),
        }

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add what another meter of this output has compared, of samples behind these."""
        self._max_abs = max(self._max_abs, state["max_abs"])
        self._error += state["error"]
        self._energy += state["energy"]
        self._cosines += state["cosines"]
        for i, count in enumerate(state["not_numbers"]):
            self.not_numbers[i] += count
        for i, count in enumerate(state["at_factors"]):
            self._at_factors[i] += count
        if self._compared is not None:
            compared = state["compared"]
            self._compared = None if compared is None else self._compared + compared
        if state["answers"] is None:
            self._answers = None
        elif self._answers is not None:
            self._answers.add(Answers(**state["answers"]))

    def result(self) -> OutputFidelity:
        """The comparison so far."""
        answers = self.answers()
        agreement = answers.agreeing / answers.samples if answers else None
        at = [count / answers.samples if answers else None for count in self._at_factors]
        relative = np.sqrt(self._error / self._energy) if self._energy else float(self._error > 0)
        relative = np.inf if np.isinf(self._error) else relative
        cosine = self._cosines / self._compared if self._compared else None
        return OutputFidelity(
            self._name, self._max_abs, float(relative), agreement, cosine, at[0], at[1]
        )

    def answers(self) -> Answers | None:
        """What was counted of an output [batch, classes]; None of others."""
        return self._answers if self._answers and self._answers.samples else None


class Shaped(Protocol):
    """An array, or what is known of one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of its axes."""
        ...


def has_classes(output: Shaped, samples: int | None = None) -> bool:
    """Whether an output is [samples, classes], of at least two classes."""
    shape = output.shape
    return len(shape) == 2 and samples in (None, shape[0]) and shape[1] > 1


def _rows(output: np.ndarray, samples: int | None) -> np.ndarray:
    """The output as [samples, values]."""
    whole = output.ndim == 0 or samples not in (None, len(output))
    count = 1 if whole else len(output)
    return output.reshape(count, output.size // max(count, 1))


def _cosines(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    same = ((reference == other) | (np.isnan(reference) & np.isnan(other))).all(axis=1)
    with np.errstate(all="ignore"):
        norms = np.linalg.norm(reference, axis=1) * np.linalg.norm(other, axis=1)
        cosines = (reference * other).sum(axis=1) / norms
    cosines = np.where(np.isfinite(cosines), np.clip(cosines, -1, 1), 0)
    return np.where(same, 1, cosines)


def _count(
    answers: Answers, reference: np.ndarray, other: np.ndarray, labels: np.ndarray | None
) -> None:
    answers.samples += len(reference)
    answers.agreeing += int((reference.argmax(1) == other.argmax(1)).sum())
    if labels is None:
        return
    answers.labelled += len(labels)
    ranks = [_ranks(scores, labels) for scores in (reference, other)]
    first, second = (rank == 0 for rank in ranks)
    answers.right = _added(answers.right, [first, second])
    answers.lost += int((first & ~second).sum())
    answers.gained += int((second & ~first).sum())
    if reference.shape[1] > _FIVE:
        answers.among_five = _added(answers.among_five or (0, 0), [r < _FIVE for r in ranks])


def _added(counts: tuple[int, int], found: list[np.ndarray]) -> tuple[int, int]:
    return counts[0] + int(found[0].sum()), counts[1] + int(found[1].sum())


def _ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes come before the label; all of them in rows with NaN."""
    own = scores[np.arange(len(labels)), labels][:, None]
    before = np.arange(scores.shape[1])[None] < labels[:, None]
    ranks: np.ndarray = ((scores > own) | ((scores == own) & before)).sum(axis=1)
    return np.where(np.isnan(scores).any(axis=1), scores.shape[1], ranks)


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
