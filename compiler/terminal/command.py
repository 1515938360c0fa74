"""What the two commands share: help in groups, how much is said, refusals, signals."""

from __future__ import annotations

import errno
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import click

from ..errors import SnnCompileError, UsageError
from .output import tell

F = TypeVar("F", bound=Callable[..., Any])

_SIGNALLED = 128  # plus the signal's number, as shells report it
INTERRUPTED = _SIGNALLED + signal.SIGINT

#: Signals besides Ctrl-C that ask to stop; their default would leave temporary files behind.
_STOPPING = ("SIGTERM", "SIGHUP")

#: What writing to a full disk, or beyond a quota or a limit, gives.
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}

#: Columns of the help for what is typed; what is longer has a line of its own.
_TYPED = 22

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
        """Write the options of each group, then those of none; all meanings begin in one column."""
        records = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                records[parameter.name] = record
        groups = {
            title: [records.pop(name) for name in names] for title, names in self.groups.items()
        }
        groups["Other"] = list(records.values())
        known = [len(typed) for rows in groups.values() for typed, _ in rows]
        column = max((size for size in known if size <= _TYPED), default=_TYPED)
        for title, rows in groups.items():
            with formatter.section(title):
                formatter.write_dl([(typed.ljust(column), text) for typed, text in rows], _TYPED)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep what was typed, then parse it."""
        ctx.meta["command"] = shlex.join([self.name or "", *args])
        return super().parse_args(ctx, args)


class Volume(IntEnum):
    """How much is said: errors alone, a summary and warnings, or everything."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


#: Parameters of :func:`volume_options`.
VOLUME = ("verbose", "quiet")


def volume_options(command: F) -> F:
    """The command with the parameters of how much it says: ``verbose`` and ``quiet``."""
    command = click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors")(command)
    return click.option("-v", "--verbose", is_flag=True, help="Show every neuron and layer")(
        command
    )


def chosen_volume(verbose: bool, quiet: bool) -> Volume:
    """How much is said.

    Raises:
        UsageError: everything and nothing are asked for.
    """
    if verbose and quiet:
        raise UsageError("--verbose and --quiet exclude each other; leave out one of them")
    return Volume.VERBOSE if verbose else Volume.QUIET if quiet else Volume.NORMAL


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


def _run(work: Callable[[], None]) -> None:
    """Run ``work``; of an exception that a signal is behind, the signal is what is raised.

    An extension module that Ctrl-C interrupts while it is imported makes an ImportError of it.
    """
    try:
        work()
    except Exception as error:
        behind = error.__cause__ or error.__context__
        while behind is not None:
            if isinstance(behind, (KeyboardInterrupt, _Stopped)):
                raise behind from None
            behind = behind.__cause__ or behind.__context__
        raise


def _guarded(work: Callable[[], None], debug: bool) -> int:
    try:
        _run(work)
    except SnnCompileError as error:
        if debug:
            raise
        tell(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        tell("interrupted: nothing was written")
        return INTERRUPTED
    except _Stopped as stopped:
        tell(f"stopped by {signal.Signals(stopped.number).name}: nothing was written")
        return _SIGNALLED + stopped.number
    except MemoryError as error:
        where = f" ({error})" if str(error) else ""
        tell(f"error: out of memory{where}; give a smaller model or a machine with more")
        return 1
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.errno in _FULL:  # of temporary files
            tell(f"error: a disk is full ({error}); make room there, or set TMPDIR to another one")
            return UsageError.exit_code
        notes = "".join(f", {note}" for note in getattr(error, "__notes__", []))
        tell(
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
