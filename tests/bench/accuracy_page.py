"""The tables of docs/accuracy.md, written between their markers.

    <!-- table: NAME -->
    ... replaced ...
    <!-- end: NAME -->

The text around them stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from accuracy_configuration import unpack
from accuracy_intervals import drop_over_seeds, mean_over_seeds
from accuracy_tables import Section
from snn_compile.compiler.evaluation.statistics import wilson
from snn_compile.compiler.report.results import Estimate

Result = Mapping[str, Any]

_HEADINGS = {
    "classes": ("ANN top-1, %", "SNN top-1, %", "drop, points", "drop, seeds", "agreement, %"),
    "embeddings": ("mean cosine", "cosine, seeds", "least cosine"),
    "boxes": ("mean F1", "F1, seeds", "least F1"),
    "pairs": ("ANN Spearman x 100", "SNN Spearman x 100", "drop, points", "drop, seeds"),
    "pixels": ("ANN mIoU, %", "SNN mIoU, %", "drop, points", "drop, seeds", "same class, %"),
}

#: Kinds of figures that are one number per test sample, and its name in a result.
_PER_SAMPLE = {"embeddings": "cosine", "boxes": "f1"}


def replace_block(page: str, name: str, block: str) -> str:
    """The page with a table's block replaced.

    Raises:
        ValueError: the page does not have the table's two markers once each, in order.
    """
    begin, end = f"<!-- table: {name} -->", f"<!-- end: {name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if page.count(begin) != 1 or page.count(end) != 1 or not pattern.search(page):
        raise ValueError(f"the page needs {begin} and {end}, once each")
    return pattern.sub(lambda _: f"{begin}\n{block.strip()}\n{end}", page)


def table(section: Section, results: Mapping[Any, Result], errors: Mapping[Any, str]) -> list[str]:
    """Markdown lines of one section.

    Args:
        section: its rows.
        results: of configurations, by the key of :func:`identity`.
        errors: why a configuration has none.
    """
    headings = (*section.labels, *_HEADINGS[section.figures], "seeds")
    numbers = " | ".join(
        ["---"] * len(section.labels) + ["---:"] * (len(headings) - len(section.labels))
    )
    lines = [f"| {' | '.join(headings)} |", f"| {numbers} |"]
    for row in section.rows:
        keys = [identity(configuration) for configuration in row.configurations]
        found = [results[key] for key in keys if key in results]
        count = f"{len(found)}" if len(found) == len(keys) else f"{len(found)} of {len(keys)}"
        if not found:
            reason = next((errors[key] for key in keys if key in errors), "not measured")
            cells = [reason.replace("|", "/")] + [""] * (len(_HEADINGS[section.figures]) - 1)
        else:
            cells = figures(section.figures, found)
        lines.append(f"| {' | '.join([*row.labels, *cells, count])} |")
    return lines


def identity(configuration: Any) -> str:
    """A configuration as text, equal for equal ones."""
    return repr(sorted(configuration.as_dict().items(), key=lambda item: item[0]))


def figures(kind: str, results: Sequence[Result]) -> list[str]:
    """The cells of one row, from the results of its seeds."""
    if kind in _PER_SAMPLE:
        values = np.array([result[_PER_SAMPLE[kind]] for result in results])
        means = values.mean(axis=1)
        estimate = mean_over_seeds(values)
        return [
            f"{estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]",
            f"{means.min():.4f} to {means.max():.4f}",
            f"{values.min():.4f}",
        ]
    if kind in ("pairs", "pixels"):
        scores, lost = (
            np.array([result[name] for result in results]) for name in ("score", "drop")
        )
        ann, snn = 100 * scores.mean(axis=0)
        cells = [f"{ann:.2f}", f"{snn:.2f}", *_drop(100 * lost.mean(axis=0), 100 * lost[:, 0])]
        if kind == "pixels":
            cells.append(f"{100 * np.mean([result['pixels'] for result in results]):.2f}")
        return cells
    count = results[0]["samples"]
    ann = unpack(results[0]["ann"], count)
    snn = np.array([unpack(result["snn"], count) for result in results])
    same = np.array([unpack(result["same"], count) for result in results])
    drops = 100 * (ann.mean() - snn.mean(axis=1))
    drop = drop_over_seeds(ann, snn)
    return [
        _share(wilson(float(ann.mean()), count)),
        _share(wilson(float(snn.mean()), count)),
        *_drop(100 * np.array([drop.value, drop.low, drop.high]), drops),
        _share(wilson(float(same.mean()), count)),
    ]


def _share(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.2f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _drop(estimate: np.ndarray, seeds: np.ndarray) -> list[str]:
    """Two cells, in points: value, low and high of the drop, and that of each seed."""
    value, low, high = map(_signed, estimate)
    return [f"{value} [{low}, {high}]", f"{_signed(seeds.min())} to {_signed(seeds.max())}"]


def _signed(points: float) -> str:
    return f"{points:.2f}".replace("-0.00", "0.00")
