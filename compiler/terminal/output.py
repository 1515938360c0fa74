"""What is written to the terminal: lines, tables, warnings.

A reader that goes away (``| head``) ends the output, not the command. Where standard output cannot
be written for another reason, a full disk for one, that is an error. What goes to stderr may get
lost.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import warnings
from collections.abc import Sequence
from typing import IO

import click

from ..errors import UsageError, readable
from .layout import NAME, WHOLE, Column, Piece, pieces, plain, wrapped

#: Columns that no table needs: what is not to be broken is measured against.
_UNLIMITED = 100_000
#: Columns of text where the page is as wide as its tables.
_TEXT_WIDTH = 100
#: Warnings that are shown unless everything is.
MOST_WARNINGS = 5
#: What a page has at least.
_NARROWEST = 40


def say(text: str) -> None:
    """A line on stdout.

    Raises:
        UsageError: standard output cannot be written; that nobody reads it any more is fine.
    """
    try:
        click.echo(readable(text))
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        discard(sys.stdout)
    except OSError as error:
        discard(sys.stdout)
        raise UsageError(f"standard output cannot be written ({error.strerror})") from error


def warn(text: str) -> None:
    """A line on stderr that is hard to overlook."""
    tell(click.style("warning: ", fg="yellow", bold=True, reset=True) + text)


def warn_of(texts: Sequence[str], most: int | None = None) -> None:
    """Warnings, one each; of more than ``most`` the first, and how many there are."""
    shown = list(texts) if most is None else list(texts)[:most]
    for text in shown:
        warn(text)
    if len(texts) > len(shown):
        warn(f"and {len(texts) - len(shown)} more warnings; -v shows them")


def warn_without_kernels(shown: bool = True) -> None:
    """Say at once, not in the midst of the work, that the operator library is not installed.

    With ``shown`` False it is not said at all, later neither.
    """
    from ...runtime_ops import has_library

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        has_library()
    for warning in caught if shown else ():
        warn(str(warning.message))


def tell(text: str) -> None:
    """A line on stderr, which may get lost."""
    try:
        click.echo(readable(text), err=True)
    except OSError:
        discard(sys.stderr)


def discard(stream: IO[str]) -> None:
    """Let everything written to the stream vanish, what it still holds at exit too."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def page_width() -> int | None:
    """Columns of what standard output is shown on; None where it goes elsewhere: no limit."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return max(int(given), _NARROWEST)
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    return max(shutil.get_terminal_size().columns, _NARROWEST)


def say_wrapped(text: str, hanging: str = "") -> None:
    """A paragraph on stdout, as wide as the page; all lines but the first begin with ``hanging``.

    Raises:
        UsageError: standard output cannot be written.
    """
    say(wrapped(text, page_width() or _TEXT_WIDTH, hanging))


def show_table(
    title: str,
    columns: Sequence[str | Column],
    rows: Sequence[Sequence[str]],
    ruled: bool = True,
) -> None:
    """A table on stdout that fits the page (``layout.py``); columns without content are left out.

    Args:
        title: above it; empty for none.
        columns: their titles, the first of the rows' names and all others of cells that stay
            whole, or columns.
        rows: a cell for each column.
        ruled: with rules; otherwise indented.

    Raises:
        UsageError: standard output cannot be written.
    """
    if title:
        say_wrapped(title)
    if not rows:
        return
    known = [
        column if isinstance(column, Column) else Column(column, WHOLE if i else NAME)
        for i, column in enumerate(columns)
    ]
    between = 3 if ruled else 2
    for piece in pieces(known, rows, page_width(), between):
        say(_ruled(piece) if ruled else "\n".join(plain(piece)))


def _ruled(piece: Piece) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for title in piece.titles:
        table.add_column(Text(title))
    for row in piece.rows:
        table.add_row(*(Text(cell) for cell in row))
    text = io.StringIO()  # printing to stdout, rich would exit where nobody reads
    coloured = sys.stdout is not None and sys.stdout.isatty()
    Console(file=text, force_terminal=coloured, width=_UNLIMITED).print(table)
    return text.getvalue().removesuffix("\n")
