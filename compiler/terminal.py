"""What the two commands share on the terminal: help, refusals, signals, progress, tables.

A reader that goes away (``| head``) ends the output, not the command. Where standard output cannot
be written for another reason, a full disk for one, that is an error. What goes to stderr may get
lost.
"""

from __future__ import annotations

import errno
import io
import os
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any, TypeVar

import click

from .errors import SnnCompileError, UsageError, readable
from .progress import Progress

T = TypeVar("T")

_SIGNALLED = 128  # plus the signal's number, as shells report it
INTERRUPTED = _SIGNALLED + signal.SIGINT

#: Signals besides Ctrl-C that ask to stop; their default would leave temporary files behind.
_STOPPING = ("SIGTERM", "SIGHUP")

#: What writing to a full disk, or beyond a quota or a limit, gives.
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}

#: Columns that no table needs: what rich measures a table against.
_UNLIMITED = 100_000

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}

#: Of a parameter that names a file or a folder.
PATH = click.Path(path_type=Path)


class GroupedCommand(click.Command):
    """A command that shows its options in groups and keeps what was typed.

    What was typed is ``context.meta["command"]``, fit for a shell.

    Args:
        groups: names of parameters by the title of their group, in the order of the help.
    """

    def __init__(self, groups: Mapping[str, Sequence[str]], **known: Any) -> None:
        super().__init__(**known, context_settings=_SETTINGS)
        self.groups = groups

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of each group, then those of none."""
        records = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                records[parameter.name] = record
        for title, names in self.groups.items():
            with formatter.section(title):
                formatter.write_dl([records.pop(name) for name in names])
        with formatter.section("Other"):
            formatter.write_dl(list(records.values()))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep what was typed, then parse it."""
        ctx.meta["command"] = shlex.join([self.name or "", *args])
        return super().parse_args(ctx, args)


class _Stopped(BaseException):
    """Another signal than Ctrl-C asked to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run_command(work: Callable[[], None], debug: bool) -> None:
    """Run ``work`` and turn what it raises into a message and an exit code."""
    # Exit outside the handlers: inside, the exception would keep sessions alive until the
    # interpreter is torn down, which older runtimes answer with a crash.
    with _stopping_signals_raise():
        code = _guarded(work, debug)
    if code:
        sys.exit(code)


def _guarded(work: Callable[[], None], debug: bool) -> int:
    try:
        work()
    except SnnCompileError as error:
        if debug:
            raise
        _tell(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        _tell("interrupted: nothing was written")
        return INTERRUPTED
    except _Stopped as stopped:
        _tell(f"stopped by {signal.Signals(stopped.number).name}: nothing was written")
        return _SIGNALLED + stopped.number
    except MemoryError as error:
        where = f" ({error})" if str(error) else ""
        _tell(f"error: out of memory{where}; give a smaller model or a machine with more")
        return 1
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.errno in _FULL:  # of temporary files
            _tell(f"error: a disk is full ({error}); make room there, or set TMPDIR to another one")
            return UsageError.exit_code
        notes = "".join(f", {note}" for note in getattr(error, "__notes__", []))
        _tell(
            f"internal error{notes}: {type(error).__name__}: {error}\n"
            "This is a bug. Run again with --debug and report the traceback."
        )
        return 1
    return 0


@contextmanager
def _stopping_signals_raise() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind the stack like Ctrl-C; those that are ignored stay so."""

    def stop(number: int, _: FrameType | None) -> None:
        raise _Stopped(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in _STOPPING:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
        _discard(sys.stdout)
    except OSError as error:
        _discard(sys.stdout)
        raise UsageError(f"standard output cannot be written ({error.strerror})") from error


def warn(text: str) -> None:
    """A line on stderr that is hard to overlook."""
    _tell(click.style("warning: ", fg="yellow", bold=True, reset=True) + text)


def warn_without_kernels() -> None:
    """Say at once, not in the midst of the work, that the operator library is not installed."""
    from ..runtime_ops import has_library

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        has_library()
    for warning in caught:
        warn(str(warning.message))


def _tell(text: str) -> None:
    try:
        click.echo(readable(text), err=True)
    except OSError:
        _discard(sys.stderr)


def _discard(stream: IO[str]) -> None:
    """Let everything written to the stream vanish, what it still holds at exit too."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout. Piped output is wide enough for every cell.

    Raises:
        UsageError: standard output cannot be written.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    shown = Console()
    whole = Console(width=_UNLIMITED).measure(table).maximum
    width = shown.width if shown.is_terminal else max(80, whole)
    text = io.StringIO()  # printing to stdout, rich would exit where nobody reads
    Console(file=text, force_terminal=shown.is_terminal, width=width).print(table)
    say(text.getvalue().removesuffix("\n"))


class _BarProgress(Progress):
    """Progress as bars of rich on stderr."""

    def __init__(self, bars: object) -> None:
        self._bars = bars

    def track(self, items: Iterable[T], total: int, label: str) -> Iterator[T]:
        yield from self._bars.track(items, total, description=label)  # type: ignore[attr-defined]

    def tell(self, text: str) -> None:
        from rich.text import Text

        self._bars.console.print(Text(readable(text)))  # type: ignore[attr-defined]


class _Lossy:
    """A stream whose text may get lost: rich writes from a thread that has no one to tell."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            _discard(self._stream)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Progress shown while a block runs."""
    from rich.console import Console
    from rich.progress import Progress as Bars

    if sys.stderr is None:
        yield Progress()
        return
    console = Console(file=_Lossy(sys.stderr))  # type: ignore[arg-type]
    with Bars(console=console, redirect_stdout=False, redirect_stderr=False) as bars:
        yield _BarProgress(bars)
