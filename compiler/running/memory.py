"""How much memory is free, for what may lie in it or on disk, and how it is handed out."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path

#: Where the kernel tells it.
_MEMINFO, _CGROUPS = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
#: Limit and use of a control group, of version 2 and of version 1.
_LIMITS = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)
#: Number of the parameter of glibc's mallopt.
_MOST_HEAPS = -8
#: Taken where nothing tells it.
_UNKNOWN = 1 << 30


def free_memory() -> int:
    """Bytes that can be had without swapping, within the limit of a container."""
    known = [_available(), *(_left(*names) for names in _LIMITS)]
    return max(min((left for left in known if left is not None), default=_UNKNOWN), 0)


def one_heap() -> None:
    """Let all threads of this process have their memory from one heap.

    Else the C library gives each a heap of its own, and of each what was freed stays: a process of
    few threads holds half as much again. For processes that are ours alone; other C libraries than
    glibc have nothing to set.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_MOST_HEAPS, 1)


def _available() -> int | None:
    def read() -> int:
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) << 10

    return _told(read)


def _left(limit: str, used: str) -> int | None:
    """Of a control group; None without a limit, which is no number in version 2."""

    def read() -> int:
        return int((_CGROUPS / limit).read_text()) - int((_CGROUPS / used).read_text())

    return _told(read)


def _told(read: Callable[[], int]) -> int | None:
    """What is read; None where this system does not tell it."""
    try:
        return read()
    except (OSError, ValueError, KeyError, IndexError):
        return None
