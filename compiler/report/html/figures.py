"""The figures of the report; ``svg.py`` says how they are drawn.

Each function gives the text of an SVG element. What has no value (None) is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from ...calibration.fitting.membrane import MembraneHistogram
from ...running.layer_errors import LayerError
from ..results import Confusion, ImageBoxes, SweepPoint
from ..sweep_points import accuracy_of, energy_of
from .svg import FILL, GRID, INK, MUTED, SERIES, WIDTH, Margins, drawing, short, told_apart

#: Layers or neurons in one figure, at most.
MOST_ROWS = 60
_ROW = 0.2
#: What options are called in labels.
_SYMBOLS = {"timesteps": "T", "levels": "N"}
#: Markers of lines.
_DOTS = ("o", "s", "^", "D", "v", "x")
#: Shades of a map.
_SHADES = 8
#: The classes of a confusion that have no row of their own.
OTHERS = "others"
#: Points in an inch, and the width of a letter of a label in points.
_INCH, _LETTER = 72, 5.4
#: Markers of several values in one row, and their sizes: all are seen where they coincide.
_MARKS = (("|", 9), ("x", 5), ("o", 3))


@dataclass(frozen=True)
class Point:
    """A value, in percent or as it is, with its interval where there is one."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None


def points_figure(label: str, panels: Mapping[str, Sequence[Point]]) -> str:
    """Values with their intervals, one panel per measure, networks below each other."""
    rows = list(dict.fromkeys(point.label for points in panels.values() for point in points))
    with drawing(label, 0.28 * len(rows), _beside(rows), len(panels), share_y=True) as canvas:
        for axes, (title, points) in zip(canvas.axes, panels.items(), strict=True):
            for point in points:
                if not math.isfinite(point.value):
                    continue
                at = rows.index(point.label)
                colour = SERIES[at % len(SERIES)]
                if point.low is not None and point.high is not None:
                    axes.plot([point.low, point.high], [at, at], color=colour)
                axes.plot([point.value], [at], "o", color=colour, markersize=5)
            axes.set_xlabel(title)
            axes.margins(x=0.15)
            axes.xaxis.set_major_locator(MaxNLocator(3))
            _rows(axes, rows)
    return canvas.svg


def bars_figure(label: str, bars: Mapping[str, float], unit: str) -> str:
    """One bar each, with its value written behind it."""
    names = list(bars)
    known = {name: value for name, value in bars.items() if math.isfinite(value)}
    most = max(known.values(), default=0.0)
    with drawing(label, 0.27 * len(names), _beside(names)) as canvas:
        axes = canvas.axes[0]
        for name, value in known.items():
            at = names.index(name)
            ann = name.startswith("ANN")
            (bar,) = axes.barh(at, value, height=0.62, color=MUTED if ann else SERIES[0])
            canvas.tip(bar, f"{name}: {value:.4g} {unit}")
            text = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
            axes.annotate(
                text, (value, at), (4, 0), textcoords="offset points", va="center", fontsize=8
            )
        axes.set_xlim(0, most * 1.18 or 1.0)
        axes.set_xlabel(unit)
        _rows(axes, names)
    return canvas.svg


def layers_figure(
    label: str,
    layers: Sequence[str],
    bars: Mapping[str, Sequence[float | None]],
    marks: Mapping[str, Sequence[float | None]],
    unit: str,
) -> str:
    """Per layer a bar for each accounting, and a mark for each baseline, on a logarithmic axis.

    Args:
        label: what the figure shows.
        layers: their names, at most :data:`MOST_ROWS`.
        bars: values per layer, by accounting.
        marks: likewise, by baseline.
        unit: of the values.
    """
    every = [v for row in (*bars.values(), *marks.values()) for _, v in _positive(row)]
    least = min(every, default=1.0) / 2
    thick = 0.8 / max(len(bars), 1)
    height = len(layers) * max(_ROW, 0.09 * len(bars))
    rows = -(-(len(bars) + len(marks)) // 2)
    with drawing(label, height, _beside(layers, rows)) as canvas:
        axes = canvas.axes[0]
        for number, (name, values) in enumerate(bars.items()):
            shown = _positive(values)
            drawn = axes.barh(
                [at - 0.4 + thick * (number + 0.5) for at, _ in shown],
                [v - least for _, v in shown],
                left=least, height=thick, color=SERIES[number], label=name,
            )  # fmt: skip
            for bar, (at, value) in zip(drawn, shown, strict=True):
                canvas.tip(bar, f"{layers[at]}, {name}: {value:.4g} {unit}")
        for number, (name, values) in enumerate(marks.items()):
            shown = _positive(values)
            marker, size = _MARKS[number % len(_MARKS)]
            places = [v for _, v in shown], [at for at, _ in shown]
            axes.plot(*places, marker, color=INK, markersize=size, label=name)
        axes.set_xscale("log")
        axes.set_xlim(left=least)
        axes.xaxis.set_major_formatter(_plain)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(unit)
        _rows(axes, layers)
        canvas.figure.legend(loc="upper center", ncols=2)
    return canvas.svg


def firing_figure(
    label: str,
    neurons: Sequence[str],
    rates: Sequence[float],
    shares: Mapping[str, Sequence[float | None]],
) -> str:
    """Per neuron its mean number of spikes, and beside it shares, in percent."""
    height = _ROW * len(neurons)
    with drawing(label, height, _beside(neurons, 1), 2, share_y=True) as canvas:
        left, right = canvas.axes
        bars = left.barh(range(len(neurons)), rates, height=0.7, color=SERIES[0])
        for bar, name, rate in zip(bars, neurons, rates, strict=True):
            canvas.tip(bar, f"{name}: {rate:.3g} spikes per value")
        left.set_xlabel("spikes per value")
        for number, (name, values) in enumerate(shares.items()):
            shown = [(at, 100 * v) for at, v in enumerate(values) if v is not None]
            marker, size = _MARKS[number % len(_MARKS)]
            places = [v for _, v in shown], [at for at, _ in shown]
            if shown:
                right.plot(*places, marker, color=SERIES[number + 1], markersize=size, label=name)
        right.set_xlim(-3, 103)
        right.set_xlabel("%")
        canvas.figure.legend(loc="upper center", ncols=3)
        _rows(left, neurons)
        right.tick_params(left=False)
    return canvas.svg


def neuron_figure(
    label: str,
    membrane: MembraneHistogram | None,
    levels: Sequence[float],
    first: int,
    source: str,
) -> str:
    """What a neuron sees, with its thresholds and levels, beside what it fires.

    Args:
        label: what the figure shows.
        membrane: its membrane potential; None leaves the left panel out.
        levels: share of the values on each level.
        first: the number of the first of them, counted from the silent one.
        source: what the shares were counted on.
    """
    margins = Margins(top=0.3, between=1.15, left=0.5)
    with drawing(label, 1.4, margins, 1 + (membrane is not None)) as canvas:
        if membrane is not None:
            _draw_membrane(canvas.axes[0], membrane)
        axes = canvas.axes[-1]
        edges = [first + i - 0.5 for i in range(len(levels) + 1)]
        _draw_shares(axes, levels, edges, SERIES[0])
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlabel("number of the level")
        axes.set_ylabel("% of values")
        axes.set_title(f"levels, {source}")
    return canvas.svg


def sweep_figure(
    label: str, points: Sequence[SweepPoint], baselines: Sequence[SweepPoint], accounting: str
) -> str:
    """Accuracy against energy: compiled networks, their Pareto fronts, and baselines.

    Networks of integers are squares with a front of their own. Labels that would lie on one another
    are left out: the table has all.

    Args:
        label: what the figure shows.
        points: of :func:`~..evaluation.sweep.sweep`.
        baselines: other networks, such as the int8 one.
        accounting: of the energy.
    """
    with drawing(label, 2.9, Margins()) as canvas:
        axes = canvas.axes[0]
        fronts: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
        places: list[tuple[float, float, str]] = []
        measure = ""
        for number, point in enumerate([*points, *baselines], start=1):
            accuracy, energy = accuracy_of(point), energy_of(point, accounting)
            if accuracy is None or energy is None:
                continue
            measure = accuracy.measure
            x, y = energy / 1e6, accuracy.shown
            compiled, best = number <= len(points), accounting in point.pareto
            colour = SERIES[1]
            if compiled:
                colour = SERIES[2 if point.integers else 0] if best else MUTED
            if accuracy.interval is not None:
                axes.plot([x, x], accuracy.interval, color=colour, linewidth=0.8)
            marker = ("s" if point.integers else "o") if compiled else "D"
            (drawn,) = axes.plot([x], [y], marker, color=colour, markersize=6)
            on_front = ", on the Pareto front" if best else ""
            canvas.tip(drawn, f"{point.label}: {measure} {y:.4g}, {x:.4g} µJ{on_front}")
            places.append((x, y, short(_in_short(point.label))))
            if best:
                fronts[point.integers].append((x, y))
        for integers, front in fronts.items():
            if len(front) > 1:
                colour = SERIES[2 if integers else 0]
                axes.plot(*zip(*sorted(front), strict=True), color=colour, zorder=1)
        if places and min(x for x, _, _ in places) > 0:
            axes.set_xscale("log")
            for formatted in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
                formatted(_plain)
            axes.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.margins(x=0.15, y=0.15)
        axes.set_xlabel(f"estimated energy per sample, µJ ({short(accounting)})")
        axes.set_ylabel(measure)
        _annotate(axes, places, _INCH / canvas.figure.dpi)
    return canvas.svg


def _annotate(axes: Axes, places: Sequence[tuple[float, float, str]], points: float) -> None:
    """A label beside each place where it lies on no other; ``points`` in a pixel."""
    axes.autoscale_view()
    at = [tuple(points * axes.transData.transform((x, y))) for x, y, _ in places]
    taken = [(px - 4, py - 4, px + 4, py + 4) for px, py in at]
    left, right = (points * axes.transAxes.transform((end, 0))[0] for end in (0, 1))
    for (x, y, text), (px, py) in zip(places, at, strict=True):
        width, height = _LETTER * len(text), 9.0
        middle = -width / 2
        for dx, dy in (
            *((6, -4), (-6 - width, -4), (6, 7), (-6 - width, 7), (6, -15), (-6 - width, -15)),
            *((middle, 8), (middle, -16)),
        ):
            box = px + dx, py + dy, px + dx + width, py + dy + height
            inside = box[0] >= left and box[2] <= right + 8
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                axes.annotate(
                    text, (x, y), (dx, dy), textcoords="offset points", fontsize=8,
                    annotation_clip=False,
                )  # fmt: skip
                break


def _in_short(label: str) -> str:
    """The setting with symbols for options, and without their names where values are names."""
    parts = [part.partition("=") for part in label.split()]
    return " ".join(
        value if value and not value[0].isdigit() else _SYMBOLS.get(name, name) + equals + value
        for name, equals, value in parts
    )


def _overlap(
    first: tuple[float, float, float, float], second: tuple[float, float, float, float]
) -> bool:
    return (
        first[0] < second[2]
        and second[0] < first[2]
        and first[1] < second[3]
        and second[1] < first[3]
    )


def timesteps_figure(label: str, points: Sequence[SweepPoint]) -> str:
    """Accuracy over the number of timesteps, a line for each other setting."""
    lines: dict[str, list[tuple[float, float]]] = {}
    measure = ""
    for point in points:
        accuracy = accuracy_of(point)
        if accuracy is None or "timesteps" not in point.setting:
            continue
        measure = accuracy.measure
        parts = [part for part in point.label.split() if not part.startswith("timesteps=")]
        lines.setdefault(" ".join(parts), []).append((point.setting["timesteps"], accuracy.shown))
    with drawing(label, 2.2, Margins(top=0.1 + 0.2 * bool(any(lines)))) as canvas:
        axes = canvas.axes[0]
        for number, (name, line) in enumerate(lines.items()):
            colour, marker = SERIES[number % len(SERIES)], _DOTS[number % len(_DOTS)]
            places = zip(*sorted(line), strict=True)
            called = short(_in_short(name)) if name else None
            axes.plot(*places, f"{marker}-", color=colour, markersize=5, label=called)
            for step, value in sorted(line):
                (drawn,) = axes.plot([step], [value], marker, color=colour, markersize=5)
                canvas.tip(drawn, f"{name} T = {step:g}: {measure} {value:.4g}".strip())
        axes.set_xscale("log", base=2)
        steps = sorted({step for line in lines.values() for step, _ in line})
        axes.set_xticks(steps, [f"{step:g}" for step in steps])
        axes.minorticks_off()
        axes.margins(x=0.08, y=0.15)
        axes.set_xlabel("timesteps T")
        axes.set_ylabel(measure)
        if any(lines):
            canvas.figure.legend(loc="upper center", ncols=3)
    return canvas.svg


def layer_errors_figure(label: str, neurons: Sequence[LayerError]) -> str:
    """Relative error of each neuron alone as a bar, and with all before it as a line, in percent.

    Errors that are not finite are left out.
    """
    names = [neuron.name for neuron in neurons]
    with drawing(label, _ROW * len(names), _beside(names, 1)) as canvas:
        axes = canvas.axes[0]
        curve = []
        for at, neuron in enumerate(neurons):
            if math.isfinite(neuron.single):
                (bar,) = axes.barh(at, 100 * neuron.single, height=0.7, color=SERIES[0])
                canvas.tip(bar, f"{neuron.name} alone: {neuron.single:.3%}")
            if math.isfinite(neuron.cumulative):
                curve.append((100 * neuron.cumulative, at))
        if curve:
            axes.plot(*zip(*curve, strict=True), color=SERIES[1])
        for x, at in curve:
            (mark,) = axes.plot([x], [at], "o", color=SERIES[1], markersize=3.5)
            canvas.tip(mark, f"{neurons[at].name} and all before it: {x:.3f}%")
        axes.set_xlim(left=0)
        axes.set_xlabel("relative error of the outputs, %")
        line = Line2D([], [], color=SERIES[1], marker="o", markersize=3.5)
        marks = [Patch(color=SERIES[0]), line]
        canvas.figure.legend(marks, ["alone", "up to here"], loc="upper center", ncols=2)
        _rows(axes, names)
    return canvas.svg


def confusion_figure(label: str, confusion: Confusion, names: Sequence[str]) -> str:
    """How many samples the ANN (rows) and the SNN (columns) give each pair of classes.

    Where they agree cells are grey: what is coloured is disagreement.
    """
    size = len(names)
    margins = Margins(left=0.9, top=0.35, bottom=0.3)
    with drawing(label, 0.26 * size, margins) as canvas:
        axes = canvas.axes[0]
        counts = confusion.counts
        most = max((counts[a][b] for a in range(size) for b in range(size) if a != b), default=0)
        for a, row in enumerate(counts):
            for b, count in enumerate(row):
                if not count:
                    continue
                agree = a == b  # or both give one of the others
                colour, shade = (MUTED, 0.25) if agree else (SERIES[1], 0.2 + 0.6 * count / most)
                cell = Rectangle((b - 0.5, a - 0.5), 1, 1, facecolor=colour, alpha=shade)
                axes.add_patch(cell)
                canvas.tip(cell, f"ANN {names[a]}, SNN {names[b]}: {count} samples")
                axes.annotate(f"{count}", (b, a), ha="center", va="center", fontsize=7)
        axes.set_xlim(-0.5, size - 0.5)
        axes.set_ylim(size - 0.5, -0.5)
        axes.set_xticks(range(size), names)
        axes.set_yticks(range(size), names)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.set_ylabel("class of the ANN")
        axes.set_xlabel("class of the SNN")
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
    return canvas.svg


def map_figure(label: str, values: Sequence[Sequence[float]], unit: str) -> str:
    """A map in shades: the darker, the larger, from nothing to the largest value."""
    rows, columns = len(values), len(values[0])
    most = max(map(max, values))
    width = min(WIDTH - 0.3, 3.2 * columns / rows)
    margins = Margins(left=0.15, right=WIDTH - width - 0.15, top=0.05, bottom=0.3)
    with drawing(label, width * rows / columns, margins) as canvas:
        axes = canvas.axes[0]
        for shade in range(1, _SHADES + 1):
            cells = [
                (x, y)
                for y, row in enumerate(values)
                for x, value in enumerate(row)
                if most > 0 and math.ceil(_SHADES * value / most) == shade
            ]
            if cells:
                path = Path.make_compound_path(*(Path(_square(*cell)) for cell in cells))
                axes.add_patch(
                    PathPatch(path, facecolor=SERIES[1], alpha=shade / _SHADES, linewidth=0)
                )
        _frame(axes, columns, rows)
        axes.set_xlabel(f"{unit}, at most {most:.3g}", loc="left")  # longer than some maps
    return canvas.svg


def _frame(axes: Axes, columns: float, rows: float) -> None:
    """Axes of a picture: row 0 on top, a line around it and no ticks."""
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(True)


def boxes_figure(label: str, image: ImageBoxes) -> str:
    """The boxes of two networks on one image, as outlines: the ANN's solid, the other's dashed."""
    rows, columns = image.size
    width = min(WIDTH - 0.3, 2.6 * columns / rows)
    margins = Margins(left=0.15, right=WIDTH - width - 0.15, top=0.35, bottom=0.1)
    with drawing(label, width * rows / columns, margins) as canvas:
        axes = canvas.axes[0]
        lines = []
        solid, dashed = (0.0, ()), (0.0, (4.0, 3.0))
        for name, boxes, colour, style in (
            ("ANN", image.ann, SERIES[0], solid),
            ("SNN", image.other, SERIES[1], dashed),
        ):
            lines.append(Line2D([], [], color=colour, linestyle=style, label=name))
            for left, top, right, bottom, score, which in boxes:
                box = Rectangle(
                    (left, top), right - left, bottom - top,
                    fill=False, edgecolor=colour, linestyle=style, linewidth=1.2,
                )  # fmt: skip
                axes.add_patch(box)
                canvas.tip(box, f"{name}: class {which:.0f}, score {score:.2f}")
        _frame(axes, columns, rows)
        canvas.figure.legend(handles=lines, loc="upper left", ncols=2)
    return canvas.svg


def _square(x: int, y: int) -> list[tuple[float, float]]:
    return [(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1), (x, y)]


def _draw_membrane(axes: Axes, membrane: MembraneHistogram) -> None:
    """The histogram, thresholds as lines, and the level as a staircase over it."""
    count = len(membrane.shares)
    width = (membrane.high - membrane.low) / count
    edges = [membrane.low + width * i for i in range(count + 1)]
    top = _draw_shares(axes, membrane.shares, edges, FILL)
    lines_x: list[float] = []
    lines_y: list[float] = []
    for threshold in membrane.thresholds:
        lines_x += [threshold, threshold, math.nan]
        lines_y += [0.0, top, math.nan]
    axes.plot(lines_x, lines_y, color=GRID, linewidth=0.7)
    axes.set_xlim(membrane.low, membrane.high)
    axes.grid(visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    unit = short(membrane.unit)
    axes.set_xlabel(f"membrane potential / {unit}")
    axes.set_ylabel("% of values")
    axes.set_title("at calibration")
    if not membrane.levels:
        return
    right = axes.twinx()
    right.spines["right"].set_visible(True)
    right.stairs(
        membrane.levels, [min(membrane.low, membrane.thresholds[0]), *membrane.thresholds,
                          max(membrane.high, membrane.thresholds[-1])],
        baseline=None, color=SERIES[1],
    )  # fmt: skip
    right.grid(visible=False)
    right.yaxis.set_major_locator(MaxNLocator(4))
    right.tick_params(axis="y", labelcolor=SERIES[1])
    right.set_ylabel(f"level / {unit}", color=SERIES[1])


def _plain(value: float, _: float) -> str:
    """A label of a logarithmic axis; matplotlib's own are TeX."""
    return f"{value:g}"


def _positive(values: Sequence[float | None]) -> list[tuple[int, float]]:
    """Place and value of those that a logarithmic axis has."""
    return [(at, v) for at, v in enumerate(values) if v is not None and 0 < v < math.inf]


def _draw_shares(axes: Axes, shares: Sequence[float], edges: Sequence[float], colour: str) -> float:
    """Bars, in percent; one that hides all others is cut off and labelled. Gives the axis's top."""
    heights = [100 * share for share in shares]
    most = max(heights, default=0.0)
    second = sorted(heights)[-2] if len(heights) > 1 else most
    cut = 0 < 3 * second < most
    top = (3 * second if cut else most or 1.0) * 1.05
    axes.stairs(heights, edges, fill=True, color=colour)
    axes.set_ylim(0, top)
    if cut:
        at = heights.index(most)
        place = ((edges[at] + edges[at + 1]) / 2, top)
        axes.annotate(
            f"{most:.0f} %", place, (4, -9), textcoords="offset points", fontsize=8
        )  # fmt: skip
    return top


def _beside(names: Sequence[str], legend: int = 0) -> Margins:
    """Room for names to the left, and for so many rows of a legend on top."""
    longest = max(map(len, told_apart(names)), default=0)
    return Margins(left=0.25 + 0.066 * longest, top=0.1 + 0.2 * legend)


def _rows(axes: Axes, names: Sequence[str]) -> None:
    """Names down the vertical axis, the first on top."""
    axes.set_yticks(range(len(names)), told_apart(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
