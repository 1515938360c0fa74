"""The metrics of a task as rows of a table."""

from __future__ import annotations

from collections.abc import Iterator

from ..terminal import NAME, Column, show_table
from .results import Estimate, EvaluationResult, Metric, OutputResult

#: Of the networks that a result has, the first is the SNN.
_SNN = "SNN"


def show_task(result: EvaluationResult) -> None:
    """What the task's metrics say of the ANN, the SNN and the baselines; nothing without any.

    Raises:
        UsageError: standard output cannot be written.
    """
    rows = list(task_rows(result))
    if rows:
        columns: list[str | Column] = [Column("output", NAME), "measure", "network", "x 100"]
        columns += ["drop, points"]
        if len({row[0] for row in rows if row[0]}) == 1:
            columns, rows = columns[1:], [row[1:] for row in rows]
        show_table(
            f"{result.task}, {result.samples} samples, with 95 % intervals",
            columns,
            rows,
            ruled=False,
        )


def _networks(result: EvaluationResult) -> dict[str, list[OutputResult]]:
    """Outputs of the SNN and of the baselines, by their names."""
    return {_SNN: result.outputs, **{one.name: one.outputs for one in result.baselines}}


def task_rows(result: EvaluationResult) -> Iterator[list[str]]:
    """For each metric a row of the ANN, then of each network: output, measure, network, figures."""
    networks = _networks(result)
    for i, output in enumerate(result.outputs):
        for j, metric in enumerate(output.metrics):
            if metric.ann is not None:
                yield [output.name, metric.name, "ANN", hundredfold(metric.ann), ""]
            for name, outputs in networks.items():
                one: Metric = outputs[i].metrics[j]
                yield [output.name, one.name, name, hundredfold(one.value), hundredfold(one.drop)]


def hundredfold(estimate: Estimate | None) -> str:
    """A hundred times a value, with its interval."""
    if estimate is None:
        return ""
    parts = (100 * part for part in (estimate.value, estimate.low, estimate.high))
    value, low, high = (f"{part:.2f}".replace("-0.00", "0.00") for part in parts)
    return f"{value} [{low}, {high}]"
