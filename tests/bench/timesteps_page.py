"""Figures of docs/timesteps.md: its tables and its plot.

1. Of each network two tables: top-1 and agreement of each series at each T, and all figures of each
   series and T with their intervals (Wilson). A third one has times.
2. Times are per sample, as ratios to the ANN in onnxruntime and to SpikingJelly (series ``robust``)
   at the same T. In a round the best batch size counts, and SpikingJelly's better mode; a ratio is
   taken within a round, the figure is the median over the rounds.
3. What failed says why. What was not measured is a dash in the first table, and not in the second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from accuracy_configuration import Configuration, unpack
from accuracy_page import identity
from shared_networks import Network
from snn_compile.compiler.evaluation.statistics import wilson
from snn_compile.compiler.report.results import Estimate
from timesteps_rows import PEERS, Plan, Series

Result = Mapping[str, Any]
Get = Callable[[Configuration], Result | None]

_REFERENCE = "robust"
_NONE = "-"


def block(network: Network, plan: Plan, get: Get, errors: Mapping[str, str]) -> list[str]:
    """Markdown lines of one network.

    Args:
        network: which.
        plan: what was to be measured.
        get: finds results.
        errors: why there is none, by :func:`identity`.
    """
    lines = ["", f"### {network.title}", ""]
    every, steps = plan.series(network), plan.timesteps(network)
    ann = ann_top_1(network, plan, get)
    if ann is not None:
        lines += [f"ANN: top-1 {_share(ann)} %. Cells: top-1 / agreement with the ANN, %.", ""]
    lines += _header(["network", *(f"T = {timesteps}" for timesteps in steps)], 1)
    for series in every:
        cells = []
        for timesteps in steps:
            found = _found(plan, network, series, timesteps, get)
            cells.append(_NONE if found is None else _pair(found))
        lines.append(_row([series.title, *cells]))
    headings = ["network", "T", "top-1, %", "agreement, %", "spikes per sample"]
    lines += ["", *_header(headings, 1)]
    for series in every:
        for timesteps in steps:
            configuration = plan.accuracy(network, series, timesteps)
            if configuration is None:
                continue
            found = _found(plan, network, series, timesteps, get)
            if found is None:
                if identity(configuration) not in errors:
                    continue
                cells = [errors[identity(configuration)].replace("|", "/"), _NONE, _NONE]
            else:
                cells = [*map(_share, shares(found)), f"{found['spikes']:,.0f}"]
            lines.append(_row([series.title, str(timesteps), *cells]))
    return lines


def times_block(network: Network, plan: Plan, get: Get) -> list[str]:
    """Markdown lines of the times of one network, as ratios."""
    every, steps = plan.series(network), plan.timesteps(network)
    rounds = {timesteps: _rounds(network, plan, timesteps, get) for timesteps in steps}
    compared = any(series.name == _REFERENCE for series in every)
    cells_are = "time to that of the ANN" + " / to SpikingJelly's, robust, at that T" * compared
    headings = ["network", *(f"T = {timesteps}" for timesteps in steps)]
    lines = ["", f"{network.title}: {cells_are}.", "", *_header(headings, 1)]
    for series in every:
        cells = []
        for timesteps in steps:
            cell = _ratio(rounds[timesteps], series.name, "ann")
            if compared and cell != _NONE:
                cell += f" / {_ratio(rounds[timesteps], series.name, _REFERENCE)}"
            cells.append(cell)
        if set(cells) != {_NONE}:
            lines.append(_row([series.title, *cells]))
    return lines


def ann_top_1(network: Network, plan: Plan, get: Get) -> Estimate | None:
    """That of the ANN, from any result."""
    for series in plan.series(network):
        for timesteps in plan.timesteps(network):
            found = _found(plan, network, series, timesteps, get)
            if found is not None:
                count = found["samples"]
                return wilson(float(unpack(found["ann"], count).mean()), count)
    return None


def shares(found: Result) -> tuple[Estimate, Estimate]:
    """Top-1 and agreement."""
    count = found["samples"]
    snn, same = (float(unpack(found[key], count).mean()) for key in ("snn", "same"))
    return wilson(snn, count), wilson(same, count)


def ratio(rounds: Sequence[Result], name: str, to: str) -> float | None:
    """Median ratio of the times of two networks, in the rounds that have both."""
    found = [
        min(one[name].values()) / min(one[to].values())
        for one in rounds
        if name in one and to in one
    ]
    return median(found) if found else None


def plot(network: Network, plan: Plan, get: Get, path: Path) -> None:
    """Top-1 against T, of all series, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "timesteps"  # equal results, equal files
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    colour, grey = iter(matplotlib.colormaps["tab20"].colors), iter(("0.2", "0.5", "0.7"))
    steps = plan.timesteps(network)
    ann = ann_top_1(network, plan, get)
    if ann is not None:
        axes.axhline(100 * ann.value, color="black", linestyle=":", label="ANN")
    for series in plan.series(network):
        found = {t: _found(plan, network, series, t, get) for t in steps}
        tops = {t: shares(one)[0] for t, one in found.items() if one is not None}
        if not tops:
            continue
        values = np.array([[e.value, e.value - e.low, e.high - e.value] for e in tops.values()])
        if series.one_step:
            look = {"linestyle": "", "marker": "s", "color": next(grey)}
        else:
            style = "--" if series.what in PEERS else "-"
            look = {"linestyle": style, "marker": "o", "color": next(colour)}
        axes.errorbar(
            list(tops),
            100 * values[:, 0],
            yerr=100 * values[:, 1:].T,
            markersize=4,
            capsize=2,
            label=series.title,
            **look,
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(steps, [str(timesteps) for timesteps in steps])
    axes.set_xlabel("timesteps T")
    axes.set_ylabel("top-1, %")
    axes.set_title(f"{network.title}, {plan.counts(network)[1]} test samples, 95 % intervals")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)


def _found(plan: Plan, network: Network, series: Series, timesteps: int, get: Get) -> Result | None:
    configuration = plan.accuracy(network, series, timesteps)
    result = None if configuration is None else get(configuration)
    if result is None:
        return None
    found: Result = result["steps"][str(timesteps)]
    return found


def _rounds(network: Network, plan: Plan, timesteps: int, get: Get) -> list[Result]:
    found = [get(configuration) for configuration in plan.times_of(network, timesteps)]
    return [result for result in found if result is not None]


def _ratio(rounds: Sequence[Result], name: str, to: str) -> str:
    found = ratio(rounds, name, to)
    return _NONE if found is None else f"{found:.2f}"


def _pair(found: Result) -> str:
    top, same = shares(found)
    return f"{100 * top.value:.1f} / {100 * same.value:.1f}"


def _share(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _header(headings: Sequence[str], labels: int) -> list[str]:
    rule = ["---"] * labels + ["---:"] * (len(headings) - labels)
    return [_row(headings), _row(rule)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
