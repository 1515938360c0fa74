"""Progress as bars on stderr: one for each step that is under way, and one in the end."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, TypeVar

from ..errors import readable
from ..progress import Progress
from .output import discard

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

T = TypeVar("T")

_INDENT = "  "


class _BarProgress(Progress):
    """A bar for each step; a step within another is below it, and goes when it is done.

    Of those that are within none the last one stays, so that a command leaves one bar, however many
    networks it compiles.
    """

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._running: list[TaskID] = []
        self._last: TaskID | None = None

    def track(self, items: Iterable[T], total: int, label: str) -> Iterator[T]:
        """Yield ``items``, with a bar."""
        if self._last is not None:
            self._bars.remove_task(self._last)
            self._last = None
        task = self._bars.add_task(_INDENT * len(self._running) + label, total=total)
        self._running.append(task)
        try:
            for item in items:
                yield item
                self._bars.advance(task)
        finally:
            self._running.remove(task)
            if self._running:
                self._bars.remove_task(task)
            else:
                self._last = task

    def tell(self, text: str) -> None:
        """A line above the bars."""
        from rich.text import Text

        self._bars.console.print(Text(readable(text)))


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
            discard(self._stream)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


@contextmanager
def progress_bar(shown: bool = True) -> Iterator[Progress]:
    """Progress shown while a block runs; with ``shown`` False it is not."""
    if sys.stderr is None or not shown:
        yield Progress()
        return
    from rich.console import Console
    from rich.progress import Progress as Bars

    console = Console(file=_Lossy(sys.stderr))  # type: ignore[arg-type]
    with Bars(console=console, redirect_stdout=False, redirect_stderr=False) as bars:
        yield _BarProgress(bars)
