"""Tables and text that fit the page: what is too wide is shortened, wrapped or divided, never cut.

A name is shortened at its front or in its middle, such that different names stay different; where
that cannot be, it goes over several lines. Text is wrapped. Everything else, numbers and intervals
above all, stays whole: what does not fit side by side becomes a second table, whose rows begin with
the names again. Columns without content are left out.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from ..errors import readable

#: Kinds of columns: names of rows, numbers and words that stay whole, sentences.
NAME, WHOLE, TEXT = "name", "whole", "text"

#: Cells that say nothing.
_EMPTY = {"", "-"}

#: Characters that names and sentences are not made narrower than: a table is divided rather.
_LEAST = {NAME: 20, TEXT: 24}
#: Characters that names are given to be told apart; beyond, they go over several lines.
_MOST_NAME = 80
#: Characters of a name in a sentence, at most.
_IN_SENTENCE = 36
#: How much of a shortened name is its beginning, in the order they are tried.
_HEADS = (0.0, 0.25, 0.5, 0.75)
_GAP = "…"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: its heading.
        kind: NAME, WHOLE or TEXT.
        trivial: a cell that says nothing if all others are like it.
    """

    title: str
    kind: str = WHOLE
    trivial: str = ""


@dataclass(frozen=True)
class _Shown:
    """A column with its cells, and how wide it has to be."""

    column: Column
    texts: list[str]
    widest: int
    least: int

    @property
    def title(self) -> int:
        return cells(self.column.title)

    @property
    def word(self) -> int:
        return max(cells(word) for word in self.column.title.split() or [""])


@dataclass(frozen=True)
class Piece:
    """A part of a table that fits the page.

    Attributes:
        titles: of its columns; line breaks are in their places.
        rows: cells, likewise.
    """

    titles: list[str]
    rows: list[list[str]]


def one_line(text: str) -> str:
    """Text of a model or a file name on one line: what cannot be printed is shown escaped."""
    shown = readable(text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def in_sentence(name: str, most: int = _IN_SENTENCE) -> str:
    """A name on one line, shortened at its front such that a sentence can hold it."""
    return _gapped(one_line(name), most, 0.0)


def wrapped(text: str, width: int, hanging: str = "") -> str:
    """Text on lines of at most this width where its words allow it, all but the first indented."""
    return textwrap.fill(
        text, width, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False
    )


def shortened(names: Sequence[str], width: int) -> list[str] | None:
    """Names of at most ``width`` characters, different where the names are.

    Returns:
        One for each name; None where no way of shortening keeps them apart.
    """
    different = set(names)
    for shorten in _ways(different, width):
        short = {name: shorten(name) for name in different}
        fits = all(cells(text) <= width for text in short.values())
        if fits and len(set(short.values())) == len(different):
            return [short[name] for name in names]
    return None


def _ways(names: set[str], width: int) -> Iterator[Callable[[str], str]]:
    """Ways of shortening names: at the front, in the middle, at what all have in common."""
    yield str
    for head in _HEADS:
        yield lambda name, head=head: _gapped(name, width, head)  # type: ignore[misc]
    front, back = _common(names)
    if front or back:
        # Where they differ, and as much around it as fits.
        longest = max(map(len, names)) - front - back
        around = max(width - longest - 2 * len(_GAP), 0) // 2
        front, back = max(front - around, 0), max(back - around, 0)
        marks = _GAP * bool(front), _GAP * bool(back)

        def inner(name: str) -> str:
            return f"{marks[0]}{name[front : len(name) - back]}{marks[1]}"

        yield inner
        for head in _HEADS:
            yield lambda name, head=head: _gapped(inner(name), width, head)  # type: ignore[misc]


def _gapped(name: str, width: int, head: float) -> str:
    if len(name) <= width:
        return name
    kept = max(width - len(_GAP), 0)
    begin = int(kept * head)
    return name[:begin] + _GAP + name[len(name) - (kept - begin) :]


def _common(names: set[str]) -> tuple[int, int]:
    """How many characters all names begin and end with alike."""
    least, most = min(names, default=""), max(names, default="")
    front = next((i for i, (a, b) in enumerate(zip(least, most, strict=False)) if a != b), 0)
    shortest = min((len(name) for name in names), default=0)
    back = 0
    while back < shortest - front and len({name[len(name) - 1 - back] for name in names}) == 1:
        back += 1
    return front, back


def cells(text: str) -> int:
    """How many columns of a terminal the text takes."""
    from rich.cells import cell_len

    return cell_len(text)


def pieces(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None, between: int = 3
) -> list[Piece]:
    """A table such that it fits the page.

    Args:
        columns: those of names that it begins with are repeated where it is divided.
        rows: a cell for each column.
        width: of the page; None: as wide as its cells.
        between: characters that each column takes beside its cells; one more is at the end.

    Returns:
        At least one piece; several where the columns do not fit side by side.
    """
    shown = [
        _shown(column, [one_line(row[i]) for row in rows])
        for i, column in enumerate(columns)
        if i == 0 or {row[i] for row in rows} - _EMPTY - {column.trivial}
    ]
    if width is None:
        return [_piece(shown, [max(one.title, one.widest) for one in shown])]
    names = next((i for i, one in enumerate(shown) if one.column.kind != NAME), len(shown))
    first, rest = shown[:names], shown[names:]
    parts = []
    while True:
        taken = 0
        while taken < len(rest) and _fitted([*first, *rest[: taken + 1]], width, between):
            taken += 1
        taken = max(taken, min(1, len(rest)))  # what fits in no case is wider than the page
        parts.append([*first, *rest[:taken]])
        rest = rest[taken:]
        if not rest:
            break
    widths = [_fitted(part, width, between) or [one.least for one in part] for part in parts]
    alike = [min(column) for column in zip(*(one[:names] for one in widths), strict=True)]
    return [_piece(part, [*alike, *one[names:]]) for part, one in zip(parts, widths, strict=True)]


def _shown(column: Column, texts: list[str]) -> _Shown:
    widest = max((cells(text) for text in texts), default=0)
    least = min(widest, _LEAST.get(column.kind, widest))
    if column.kind == NAME:  # as few as keep names apart
        enough = range(least, min(widest, _MOST_NAME) + 1)
        least = next((w for w in enough if shortened(texts, w) is not None), least)
    return _Shown(column, texts, widest, least)


def _fitted(shown: Sequence[_Shown], width: int, between: int) -> list[int] | None:
    """Widths with which these columns fit side by side, or None."""
    room = width - between * len(shown) - 1
    widths = [max(one.widest, one.title) for one in shown]
    if sum(widths) > room:
        widths = [max(one.widest, one.word) for one in shown]
    for kind in (TEXT, NAME):
        for i, one in reversed(list(enumerate(shown))):
            surplus = sum(widths) - room
            if one.column.kind == kind and surplus > 0:
                widths[i] = max(one.least, one.word, widths[i] - surplus)
    return widths if sum(widths) <= room else None


def _piece(shown: Sequence[_Shown], widths: Sequence[int]) -> Piece:
    titles = [
        textwrap.fill(one.column.title, max(width, 1), break_long_words=False)
        for one, width in zip(shown, widths, strict=True)
    ]
    texts = [_within(one, width) for one, width in zip(shown, widths, strict=True)]
    return Piece(titles, [list(row) for row in zip(*texts, strict=True)])


def _within(shown: _Shown, width: int) -> list[str]:
    kind, texts = shown.column.kind, shown.texts
    if kind == WHOLE or shown.widest <= width:
        return texts
    if kind == TEXT:
        return [textwrap.fill(text, width) if text else "" for text in texts]
    return shortened(texts, width) or [_folded(text, width) for text in texts]


def _folded(text: str, width: int) -> str:
    from rich.cells import chop_cells

    return "\n".join(chop_cells(text, width))


def plain(piece: Piece, indent: str = "  ") -> Iterator[str]:
    """The lines of a table without rules: columns two spaces apart."""
    table = [piece.titles, *piece.rows]
    widths = [
        max(cells(line) for row in table for line in row[i].split("\n"))
        for i in range(len(piece.titles))
    ]
    for row in table:
        for parts in zip_longest(*(cell.split("\n") for cell in row), fillvalue=""):
            line = "  ".join(
                part + " " * (width - cells(part))
                for part, width in zip(parts, widths, strict=True)
            )
            yield (indent + line).rstrip()
