"""What an evaluation has found so far, in a file from which an interrupted one goes on.

1. The file holds what the tallies of all shards done give, those from the first on without a gap,
   so that the result of a run that goes on is that of one without interruption.
2. It is written beside itself and renamed, after the first shard, then not more often than it
   takes a twentieth of the time, and when the run ends early. It is an .npz of numbers and a JSON
   text: nothing in it is executed.
3. It belongs to networks, samples, labels, options that matter, threads and versions, our own code
   included; with any other of them it is refused. A file that is none of ours is never overwritten.
4. Whoever has the whole result removes it.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..distributed.versions import versions
from ..errors import UsageError
from ..model_io.save import check_output, save_files
from ..progress import Progress
from ..running.threads import of_sessions
from ..samples.base import GivenSamples
from ..samples.stored import UNREADABLE
from .shards import Shards
from .side_by_side import Networks
from .tasks.choose import Given
from .tasks.task import Seen

_FORMAT = "partial evaluation of snn-eval, 1"
#: Seconds between two times of writing, and how many times longer than writing takes.
_OFTEN, _SHARE = 5.0, 20


class Partial:
    """A file of partial results.

    Args:
        path: of the file; it need not be there.
        labels: file or folder of labels that lie apart.
        threads: of the sessions that run the samples; None: as many as here.
        progress: told where an interrupted run can go on.

    Attributes:
        done: shards that an earlier run has done.
        state: what it found, as tallies merge it; None: nothing.
        seen: what the task was chosen by; None: it is not known yet.

    Raises:
        UsageError: the file cannot be read, or is another one.
    """

    def __init__(
        self, path: Path, labels: Path | None, threads: int | None, progress: Progress
    ) -> None:
        check_output(path, None)
        self._path, self._labels, self._threads, self._progress = path, labels, threads, progress
        self._belongs: dict[str, Any] = {}
        self._kept = _read(path) if path.exists() else None
        self.done, self.state = 0, None  # type: int, dict[str, Any] | None
        self.seen: Mapping[str, Seen] | None = None
        self._written, self._took, self._shards = 0.0, 0.0, 0

    def begin(
        self, networks: Networks, samples: GivenSamples, given: Given, shards: Shards
    ) -> None:
        """Take what the file has, if it belongs to these: rule 3.

        Raises:
            UsageError: it does not.
        """
        self._shards = shards.count
        self._belongs = {
            "ANN": networks.ann.sha256(),
            "SNN": networks.snn.sha256(),
            "baselines": {name: one.sha256() for name, one in networks.baselines.items()},
            "samples": samples.sha256,
            "preprocessing": dict(samples.preprocessing),
            "labels": _digest(self._labels),
            "options of the task": asdict(given.options),
            "shards": asdict(shards),
            "number of threads": self._threads or of_sessions(),
            "versions": dict(versions()),
        }
        if self._kept is None:
            return
        own = json.loads(json.dumps(self._belongs))
        for what, value in own.items():
            if self._kept["belongs"].get(what) != value:
                raise UsageError(
                    f"--resume {self._path}: was begun with another {what} ("
                    f"{_shown(self._kept['belongs'].get(what), value)}); give what it was begun "
                    "with, or remove the file to begin anew"
                )
        self.done, self.state = self._kept["done"], self._kept["state"]
        seen = self._kept["seen"]
        self.seen = {name: Seen(tuple(one["shape"]), one["inside"]) for name, one in seen.items()}
        self._kept = None

    @contextmanager
    def keeping(
        self, state: Callable[[], dict[str, Any]]
    ) -> Iterator[Callable[[], AbstractContextManager[None]]]:
        """Write what was found now and then: rule 2.

        Args:
            state: gives what was found so far.

        Yields:
            What to merge a shard in: a block that is interrupted leaves nothing to be written.
        """
        sound = 0  # shards of what was found so far, once one is whole
        self._written = -math.inf

        @contextmanager
        def merging() -> Iterator[None]:
            nonlocal sound
            sound = 0
            yield
            self.done += 1
            sound = self.done
            if time.monotonic() - self._written > max(_OFTEN, _SHARE * self._took):
                self._write(state())

        try:
            yield merging
        except BaseException:
            if sound:
                with suppress(UsageError):  # the disk is full: what led here is what is told
                    self._write(state())
                    self._progress.tell(
                        f"{self._path} has {sound} of {self._shards} parts: the same command goes "
                        "on from there"
                    )
            raise
        self._write(state())

    @contextmanager
    def trusted(self) -> Iterator[None]:
        """Use :attr:`state`.

        Raises:
            UsageError: it is not what tallies of these networks give.
        """
        try:
            yield
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            raise UsageError(
                f"--resume {self._path}: is damaged ({type(error).__name__}: {error}); remove the "
                "file to begin anew"
            ) from error

    def remove(self) -> None:
        """Rule 4."""
        self._path.unlink(missing_ok=True)

    def _write(self, state: Mapping[str, Any]) -> None:
        begin = time.monotonic()
        arrays: dict[str, np.ndarray] = {}
        seen = {name: {"shape": one.shape, "inside": one.inside} for name, one in self._seen()}
        content = {
            "format": _FORMAT,
            "belongs": self._belongs,
            "done": self.done,
            "seen": seen,
            "state": packed(state, arrays),
        }
        text = np.frombuffer(json.dumps(content).encode(), np.uint8)
        stream = io.BytesIO()
        np.savez(stream, json=text, **arrays)  # type: ignore[arg-type]
        save_files({self._path: stream.getvalue()})
        self._written = time.monotonic()
        self._took = self._written - begin

    def _seen(self) -> list[tuple[str, Seen]]:
        return list((self.seen or {}).items())


def packed(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Plain data as JSON has it; arrays go into ``arrays``, and are named in their place."""
    if isinstance(value, np.ndarray):
        name = f"a{len(arrays)}"
        arrays[name] = value
        return {"array": name}
    if isinstance(value, Mapping):
        return {"mapping": {name: packed(one, arrays) for name, one in value.items()}}
    if isinstance(value, (list, tuple)):
        return [packed(one, arrays) for one in value]
    return value.item() if isinstance(value, np.generic) else value


def unpacked(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """What :func:`packed` was given; tuples are lists."""
    if isinstance(value, dict):
        if "array" in value:
            return arrays[value["array"]]
        return {name: unpacked(one, arrays) for name, one in value["mapping"].items()}
    return [unpacked(one, arrays) for one in value] if isinstance(value, list) else value


def _read(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            content = json.loads(archive["json"].tobytes())
            if content["format"] != _FORMAT:
                raise ValueError(f"its format is {content['format']}")
            content["state"] = unpacked(content["state"], archive)
            for name, kind in (("belongs", dict), ("done", int), ("seen", dict)):
                if not isinstance(content[name], kind):
                    raise ValueError(f"its '{name}' is damaged")
    except (*UNREADABLE, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UsageError(
            f"--resume {path}: is no file that snn-eval keeps results in, or damaged ({error}); "
            "give another name, or remove it"
        ) from error
    found: dict[str, Any] = content
    return found


def _digest(path: Path | None) -> str:
    """Of labels that lie apart: of a file its bytes, of a folder names and lengths."""
    if path is None:
        return ""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    files = sorted((str(file), file.stat().st_size) for file in path.rglob("*") if file.is_file())
    return hashlib.sha256(repr(files).encode()).hexdigest()


def _shown(then: Any, now: Any) -> str:
    """What differs, in short."""
    if isinstance(then, dict) and isinstance(now, dict):
        for name in now:
            if then.get(name) != now[name]:
                return f"{name}: then {_shown(then.get(name), now[name])}"
    if isinstance(then, str) and len(then) == len(now) == 64:
        then, now = then[:12], now[:12]
    return f"then {then}, now {now}"
