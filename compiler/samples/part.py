"""Some of a set of samples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .base import Feed, Samples


class Part(Samples):
    """Of every so many samples the last, or all others.

    Args:
        whole: what it is taken from.
        every: how many.
        held: whether it is the last ones.
    """

    def __init__(self, whole: Samples, every: int, held: bool) -> None:
        held_out = whole.count // every
        self.count = held_out if held else whole.count - held_out
        self.origin = f"{self.count} of {whole.origin}"
        self.synthetic, self.unbatched = whole.synthetic, whole.unbatched
        self.fixed_batch = whole.fixed_batch
        self._whole, self._every, self._held = whole, every, held

    def ends(self) -> tuple[Samples, Samples] | None:
        """Those of the whole."""
        return self._whole.ends()

    def _blocks(self, size: int) -> Iterator[Feed]:
        position = 0
        for block in self._whole._blocks(size):
            rows = np.arange(position, position + len(next(iter(block.values()))))
            position += len(rows)
            mine = (rows % self._every == self._every - 1) == self._held
            if mine.any():
                yield {name: array[mine] for name, array in block.items()}
