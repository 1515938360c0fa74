"""Figures as SVG inside a page: the page's colours and font, small, and the same bytes each time.

1. A figure is about as wide as a phone's screen in points, so that its text is of readable size
   there; the page enlarges it up to a limit.
2. Colours are names of the page's CSS variables, so that one drawing serves light, dark and print:
   matplotlib draws with a code for each of them, which is replaced in its SVG.
3. Text stays text, in the page's font. Text from outside is never read as TeX and is reduced to
   printable ASCII, short: a figure's labels are for recognition, tables have the full names.
4. Ids are those that are referred to, with a prefix for each figure: a page holds many.
5. Tooltips are the titles of what is drawn, which browsers show by themselves.
6. No dates, versions or random ids: equal data give equal bytes with one release of matplotlib.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from ...errors import readable
from ...terminal.layout import shortened

#: Inches; a figure's unit on the page is 1/72 inch.
WIDTH = 5.0
#: Characters of a label in a figure.
_LABEL = 24
_GAP = "\N{HORIZONTAL ELLIPSIS}"  # of names that are shortened elsewhere
#: Begins the id of what has a tooltip.
_TIP = "tip-"

#: What is drawn with: the code that stands for each variable of the page.
INK, MUTED, GRID, FILL = "#010101", "#010102", "#010103", "#010104"
SERIES = ("#010111", "#010112", "#010113", "#010114", "#010115", "#010116")
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", FILL: "--fill"} | {
    code: f"--series-{number}" for number, code in enumerate(SERIES, start=1)
}

#: Any: releases of matplotlib type it differently.
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "snn-compile",
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": False,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same layout everywhere
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "hatch.linewidth": 0.6,
}


class Canvas:
    """A figure being drawn.

    Attributes:
        axes: its panels, from left to right.
        svg: the text of the SVG element, once the block is left.
    """

    def __init__(self, figure: Figure, axes: list[Axes]) -> None:
        self.figure, self.axes = figure, axes
        self.svg = ""
        self.tips: list[str] = []

    def tip(self, artist: Artist, text: str) -> None:
        """What is said where the reader points at something that is drawn."""
        artist.set_gid(f"{_TIP}{len(self.tips)}")
        self.tips.append(text)


@dataclass(frozen=True)
class Margins:
    """Inches around and between the panels, for their labels; a legend is in the top one."""

    left: float = 0.6
    right: float = 0.15
    top: float = 0.1
    bottom: float = 0.5
    between: float = 0.2


@contextmanager
def drawing(
    label: str, height: float, margins: Margins, panels: int = 1, share_y: bool = False
) -> Iterator[Canvas]:
    """A figure to draw on; its SVG is there after the block.

    Args:
        label: what it shows, for those who do not see it.
        height: of the panels, in inches.
        margins: around them.
        panels: side by side.
        share_y: whether they have the vertical axis in common.
    """
    total = height + margins.top + margins.bottom
    width = (WIDTH - margins.left - margins.right - margins.between * (panels - 1)) / panels
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, total))
        FigureCanvasSVG(figure)
        axes = figure.subplots(1, panels, squeeze=False, sharey=share_y)[0].tolist()
        # Not one of matplotlib's layout engines: they take as long as all the rest.
        figure.subplots_adjust(
            left=margins.left / WIDTH,
            right=1 - margins.right / WIDTH,
            top=1 - margins.top / total,
            bottom=margins.bottom / total,
            wspace=margins.between / width,
        )
        canvas = Canvas(figure, axes)
        yield canvas
        stream = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", metadata=nothing)
    canvas.svg = _inline(stream.getvalue(), label, canvas.tips)


def short(name: str) -> str:
    """A name as a label: printable ASCII, both ends kept, since layers differ there."""
    plain = "".join(c if " " <= c <= "~" else "?" for c in name)
    if len(plain) <= _LABEL:
        return plain
    head = _LABEL // 2
    return plain[:head] + ".." + plain[head + 2 - _LABEL :]


def told_apart(names: Sequence[str]) -> list[str]:
    """Labels of rows: as :func:`short`, but different where the names are, longer if it must be."""
    plain = ["".join(c if " " <= c <= "~" else "?" for c in name) for name in names]
    for most in (_LABEL, 2 * _LABEL):
        found = shortened(plain, most)
        if found is not None:
            return [label.replace(_GAP, "..") for label in found]
    return [short(name) for name in names]


def with_prefix(svg: str, prefix: str) -> str:
    """The SVG with ids that no other figure of the page has: rule 4."""
    used = set(re.findall(r"""(?:url\(#|href="#)([^)"]+)""", svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{prefix}{m[1]}"' if m[1] in used else "", svg)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}", svg)


def _inline(document: str, label: str, tips: list[str]) -> str:
    """The SVG element of matplotlib's file, in the page's colours and font."""
    svg = document[document.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    head, rest = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    svg = f'<svg {box[0]} role="img" aria-label={quoteattr(label)}>{rest}'
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    for code, variable in _VARIABLES.items():
        svg = svg.replace(code, f"var({variable})")
    svg = svg.replace(' xlink:href="', ' href="')
    for number, text in enumerate(tips):
        place = f'<g id="{_TIP}{number}">'
        svg = svg.replace(place, f"<g><title>{escape(readable(text))}</title>")
    return re.sub(r"\n\s*", "\n", svg)
