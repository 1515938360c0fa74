"""What the two commands share on the terminal: refusals, progress, tables."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import click

from .errors import SnnCompileError
from .progress import Progress

T = TypeVar("T")

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def run_command(work: Callable[[], None], debug: bool) -> None:
    """Run ``work`` and turn what it raises into a message and an exit code."""
    # Exit outside the handlers: inside, the exception would keep sessions alive until the
    # interpreter is torn down, which older runtimes answer with a crash.
    code = _guarded(work, debug)
    if code:
        sys.exit(code)


def _guarded(work: Callable[[], None], debug: bool) -> int:
    try:
        work()
    except SnnCompileError as error:
        if debug:
            raise
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    except KeyboardInterrupt:
        click.echo("interrupted: nothing was written", err=True)
        return INTERRUPTED
    except MemoryError:
        click.echo("error: out of memory; give a smaller model or a machine with more", err=True)
        return 1
    except Exception as error:
        if debug:
            raise
        click.echo(
            f"internal error: {type(error).__name__}: {error}\n"
            "This is a bug. Run again with --debug and report the traceback.",
            err=True,
        )
        return 1
    return 0


def warn(text: str) -> None:
    """A line on stderr that is hard to overlook."""
    click.echo(click.style("warning: ", fg="yellow", bold=True, reset=True) + text, err=True)


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout. Piped output is wide enough for every cell."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(80, console.measure(table).maximum))
    console.print(table)


class _BarProgress(Progress):
    """Progress as bars of rich on stderr."""

    def __init__(self, bars: object) -> None:
        self._bars = bars

    def track(self, items: Iterable[T], total: int, label: str) -> Iterator[T]:
        yield from self._bars.track(items, total, description=label)  # type: ignore[attr-defined]


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Progress shown while a block runs."""
    from rich.console import Console
    from rich.progress import Progress as Bars

    with Bars(console=Console(stderr=True)) as bars:
        yield _BarProgress(bars)
