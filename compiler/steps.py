"""The steps of a compilation: each is timed, can be dumped, and is named in what goes wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..passes.graph.graph import Graph, PassResult
from ..passes.graph.network import Network
from ..passes.graph.surgeon import export_network
from ..passes.lowering.function_bodies import function_bodies
from .errors import SnnCompileError
from .model_io.save import check_folder, save_network
from .report.data import PassReport


@dataclass
class Step:
    """What a step leaves behind.

    Attributes:
        changes: lines for the report.
        network: for the dump; None where the step makes none.
    """

    changes: list[str] = field(default_factory=list)
    network: Network | None = None


class Steps:
    """The steps so far.

    Args:
        dump_dir: folder that gets the network after each step, numbered; None: no dumps.

    Raises:
        UsageError: the folder cannot be used.
    """

    def __init__(self, dump_dir: Path | None = None) -> None:
        if dump_dir is not None:
            check_folder(dump_dir)
        self._dump_dir = dump_dir
        self.reports: list[PassReport] = []

    def fork(self) -> Steps:
        """The same steps, to go on from several times."""
        copy = Steps(self._dump_dir)
        copy.reports = list(self.reports)
        return copy

    @contextmanager
    def __call__(self, name: str) -> Iterator[Step]:
        """``with steps("name") as step:`` runs a step; an internal error says where it was."""
        step, begin = Step(), time.perf_counter()
        try:
            yield step
        except SnnCompileError:
            raise
        except Exception as error:
            if hasattr(error, "add_note"):  # Python 3.11
                error.add_note(f"in step {name}")
            raise
        seconds = time.perf_counter() - begin
        self.reports.append(PassReport(name, round(seconds, 4), step.changes))
        if self._dump_dir is not None and step.network is not None:
            save_network(step.network, self._dump_dir / f"{len(self.reports):02d}_{name}.onnx")

    def rewrite(self, name: str, rewrite: Callable[[], PassResult]) -> Graph:
        """Run a pass, as a step, and give its graph."""
        with self(name) as step:
            result = rewrite()
            step.changes += result.changes
            if self._dump_dir is not None:
                step.network = function_bodies(export_network(result.graph))
        return result.graph
