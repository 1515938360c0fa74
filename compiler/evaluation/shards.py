"""Shards: the samples in parts that are evaluated apart and put together in their order.

1. A shard is a fixed number of batches, which depends on the number of samples alone: neither on
   workers nor on what was done before. There are about :data:`SHARDS`, of :data:`MOST` samples at
   most, but for a last one that may have fewer.
2. Sums of floating-point numbers are taken within a shard, then added in the order of the shards,
   in one process too. So they are the same however many workers there are, and where an evaluation
   was interrupted and goes on.
3. Where a batch has an odd number of samples a shard has an even number of batches: samples 2i and
   2i + 1 may be a pair.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..samples.base import Samples

SHARDS, MOST = 64, 512


@dataclass(frozen=True)
class Shards:
    """How samples are split.

    Attributes:
        size: samples of a batch.
        batches: all of them.
        runs: batches of a shard.
    """

    size: int
    batches: int
    runs: int

    @classmethod
    def of(cls, samples: Samples, size: int) -> Shards:
        """Those of samples in batches of so many."""
        batches = samples.batch_count(size)
        size = samples.fixed_batch or size
        runs = min(-(-batches // SHARDS), max(MOST // size, 1))
        return cls(size, batches, runs + runs % 2 * size % 2)

    @property
    def count(self) -> int:
        """How many there are."""
        return -(-self.batches // self.runs)

    def runs_of(self, number: int) -> int:
        """Batches of one of them."""
        return min(self.runs, self.batches - number * self.runs)

    def start_of(self, number: int) -> int:
        """Its first sample."""
        return number * self.runs * self.size
