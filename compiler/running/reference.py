"""What the ANN gives on all samples, kept while other networks run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import IO

import numpy as np

from ...passes.graph.network import Network
from ..progress import Progress
from ..samples.base import Samples
from .fidelity import float_outputs
from .session import make_session, run_samples


class Reference:
    """The ANN's floating-point outputs on all samples, in a temporary file.

    Attributes:
        positions: position and name of these outputs.
        batch: how many samples ran at a time.
    """

    def __init__(self, ann: Network, samples: Samples, batch: int, progress: Progress) -> None:
        session = make_session(ann, library=False)
        self.positions = float_outputs(session)
        self.batch = batch
        self._batches = 0
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close
        count = samples.batch_count(batch)
        try:
            done = 0
            for feed in progress.track(samples.batches(batch), count, "running the ANN"):
                outputs = run_samples(session, feed, f"the ANN, from sample {done} on,")
                done += samples.count_in(feed)
                self._batches += 1
                for position, _ in self.positions:
                    np.save(self._file, outputs[position], allow_pickle=False)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def batches(self) -> Iterator[list[np.ndarray]]:
        """The outputs of one batch after the other; empty lists if none is floating-point."""
        self._file.seek(0)
        for _ in range(self._batches):
            yield [np.load(self._file, allow_pickle=False) for _ in self.positions]
