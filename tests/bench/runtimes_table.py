"""The tables of docs/runtimes.md: what a cell says, and the notes and the claim below a table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

#: Share of samples with the right class from which a runtime counts as running a network.
_ENOUGH = 0.99
#: Characters of a reason.
_WIDTH = 320
#: Reasons of a runtime that are alike so far are told once: the next names another node.
_ALIKE = 28
#: What is said after a reason, and where it arose in the runtime's own code.
_AFTER = re.compile("Stack backtrace:|Invoked with:")
_WHERE = re.compile(r"Exception from \S+: ")


@dataclass
class Measured:
    """One file in one runtime.

    Attributes:
        outputs: of the samples run, [samples, ...].
        times: seconds of a run, one for each round.
        version: of the runtime.
        reason: why there are none, or "".
    """

    outputs: np.ndarray | None = None
    times: list[float] = field(default_factory=list)
    version: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Expected:
    """What onnxruntime gives for the samples of one network.

    Attributes:
        outputs: of the same file, [samples, ...].
        classes: of the ANN, [samples].
    """

    outputs: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True)
class Cell:
    """One network in one runtime.

    Attributes:
        text: what the table says.
        reason: why something is missing, for a note; or "".
        agreement: share of samples with the ANN's class, of those on which onnxruntime has it;
            None where the file does not run.
    """

    text: str
    reason: str = ""
    agreement: float | None = None


def classes(outputs: np.ndarray) -> np.ndarray:
    """Where the largest output of each sample is, [samples]."""
    found: np.ndarray = outputs.reshape(len(outputs), -1).argmax(1)
    return found


def cell(file: Measured, ann: Measured, expected: Expected) -> Cell:
    """What the table says of one file.

    Args:
        file: what was measured of it.
        ann: what was measured of the ANN in the same runtime.
        expected: for the same samples, or more of them.
    """
    if file.reason.startswith("absent"):
        return Cell("not tried", file.reason)
    if file.reason:
        return Cell("refused", "the ANN is refused too: " * bool(ann.reason) + file.reason)
    if file.outputs is None:
        raise AssertionError("neither outputs nor a reason")
    count = len(file.outputs)
    outputs, reference = (x.reshape(count, -1) for x in (file.outputs, expected.outputs[:count]))
    if outputs.shape != reference.shape:
        return Cell("refused", f"{outputs.shape[1]} outputs instead of {reference.shape[1]}")
    wanted = expected.classes[:count]
    asked = classes(reference) == wanted
    right = asked & (classes(outputs) == wanted)
    parts = [_difference(outputs, reference), f"{right.sum()}/{asked.sum()}"]
    agreement = float(right.sum() / max(asked.sum(), 1))
    if ann.reason:
        return Cell(", ".join([*parts, "no time"]), f"the ANN is refused: {ann.reason}", agreement)
    ratios = np.array(file.times) / np.array(ann.times)
    parts.append(f"{np.median(file.times) / np.median(ann.times):.2f}")
    if len(ratios) > 1:
        parts[-1] += f" ({ratios.min():.2f} to {ratios.max():.2f})"
    return Cell(", ".join(parts), "", agreement)


def _difference(outputs: np.ndarray, reference: np.ndarray) -> str:
    if np.array_equal(outputs, reference):
        return "same bits"
    # In double: outputs of float32 may be further apart than float32 has room for.
    off = np.abs(outputs.astype(np.float64) - reference).max()
    return f"{off / np.abs(reference).max():.0e}"


def table(networks: Mapping[str, str], rows: Mapping[str, Sequence[Cell]]) -> list[str]:
    """Markdown lines: the table, the reasons and what the table shows.

    Args:
        networks: titles of the columns, each with the samples on which onnxruntime has the ANN's
            class with this file.
        rows: cells by runtime.
    """
    lines = [f"| runtime | {' | '.join(networks)} |", "| --- " * (len(networks) + 1) + "|"]
    notes: dict[tuple[str, str], str] = {}
    for runtime, cells in rows.items():
        texts = []
        for one in cells:
            if not one.reason:
                texts.append(one.text)
                continue
            reason = short(one.reason)
            key = (runtime, reason[:_ALIKE])
            notes.setdefault(key, f"{runtime}: `{reason}`")
            texts.append(f"{one.text} [{list(notes).index(key) + 1}]")
        lines.append(f"| {runtime} | {' | '.join(texts)} |")
    tried = [cells for cells in rows.values() if any(one.text != "not tried" for one in cells)]
    run = [cells for cells in tried if all(one.agreement is not None for one in cells)]
    good = [cells for cells in run if all((one.agreement or 0) >= _ENOUGH for one in cells)]
    lines += [
        "",
        f"{len(run)} of {len(tried)} runtimes run all of these networks, {len(good)} with",
    ]
    lines[-1] += f" the class on at least {100 * _ENOUGH:.0f} % of the samples."
    own = ", ".join(f"{title} {share}" for title, share in networks.items())
    lines += ["", f"With these files onnxruntime has the ANN's class on so many samples: {own}."]
    if notes:
        lines += ["", *(f"{i}. {note}" for i, note in enumerate(notes.values(), 1))]
    return lines


def short(reason: str) -> str:
    """One line of a reason as a runtime words it, without folders and backticks."""
    line = " ".join(_AFTER.split(reason)[0].split())
    line = _WHERE.sub("", line)
    line = re.sub(r"(?<![\w.])/(?:[^\s/:'\",()]+/)+", "", line)
    line = line.replace("`", "'")
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 3]}..."
