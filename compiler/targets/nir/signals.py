"""What a tensor of the ONNX network is in the NIR graph: a sum over NIR nodes.

NIR nodes hand on what they compute as it is, and a node that several edges lead to reads their sum.
A tensor x of C channels is therefore kept as

    x[c] = offset[c] + sum over terms of weight[c] * source[channel[c], ::step]

with ``source`` the output of a NIR node. Factors, such as the threshold that a spike stands for,
slices and channels that are padded with zeros need no node of their own until something reads them
that cannot take them in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Term:
    """One NIR node's share of a tensor.

    Attributes:
        source: name of the NIR node.
        channels: number of channels that it has.
        weight: float64 [C], factor of each channel of the tensor.
        channel: int64 [C], the channel of the source; any where the weight is 0.
        step: distance of the rows and columns that are read.
        own: the source is a linear node that nothing else reads: its weights may be rescaled.
    """

    source: str
    channels: int
    weight: np.ndarray
    channel: np.ndarray
    step: tuple[int, int] = (1, 1)
    own: bool = False

    @property
    def plain(self) -> bool:
        """Whether only factors stand between the source and the tensor."""
        same = np.array_equal(self.channel, np.arange(self.channels))
        return self.step == (1, 1) and same


@dataclass(frozen=True)
class Signal:
    """A tensor of the ONNX network.

    Attributes:
        shape: of one sample, [C] or [C, H, W].
        terms: what it is the sum of.
        offset: float64 [C], a constant current.
        border: zeros before and behind its rows, and columns, that ``shape`` does not count.
    """

    shape: tuple[int, ...]
    terms: tuple[Term, ...]
    offset: np.ndarray
    border: tuple[tuple[int, int], ...] = ((0, 0), (0, 0))

    def scaled(self, factor: np.ndarray) -> Signal:
        """The signal times a factor per channel."""
        terms = tuple(replace(term, weight=term.weight * factor) for term in self.terms)
        return replace(self, terms=terms, offset=self.offset * factor)

    def shifted(self, offset: np.ndarray) -> Signal:
        """The signal plus a constant per channel."""
        return replace(self, offset=self.offset + offset)

    def shared(self) -> Signal:
        """The signal where several read it: no source may be rescaled for one of them."""
        return replace(self, terms=tuple(replace(term, own=False) for term in self.terms))

    def selected(self, channels: range) -> Signal:
        """Some channels of the signal."""
        at = np.array(channels, np.int64)
        terms = (replace(t, weight=t.weight[at], channel=t.channel[at]) for t in self.terms)
        return Signal((len(at), *self.shape[1:]), tuple(terms), self.offset[at])

    def strided(self, step: tuple[int, int]) -> Signal:
        """Every ``step``-th row and column of the signal."""
        terms = tuple(
            replace(term, step=(term.step[0] * step[0], term.step[1] * step[1]))
            for term in self.terms
        )
        height, width = (-(-length // by) for length, by in zip(self.shape[1:], step, strict=True))
        return replace(self, shape=(self.shape[0], height, width), terms=terms)

    def padded(self, before: int, after: int) -> Signal:
        """The signal with channels that are always 0."""
        width = (before, after)
        terms = (
            replace(t, weight=np.pad(t.weight, width), channel=np.pad(t.channel, width))
            for t in self.terms
        )
        shape = (self.shape[0] + before + after, *self.shape[1:])
        return Signal(shape, tuple(terms), np.pad(self.offset, width))


def of_source(
    source: str, shape: Iterable[int], weight: np.ndarray | float = 1.0, own: bool = False
) -> Signal:
    """The output of a NIR node times a factor per channel, or one for all."""
    shape = tuple(shape)
    count = shape[0]
    factors = np.broadcast_to(np.asarray(weight, np.float64), (count,))
    term = Term(source, count, factors, np.arange(count), own=own)
    return Signal(shape, (term,), np.zeros(count))


def added(first: Signal, second: Signal) -> Signal:
    """The sum of two signals of one shape; a source that is in both comes out once."""
    terms = list(first.terms)
    for term in second.terms:
        for at, other in enumerate(terms):
            if term.plain and other.plain and term.source == other.source:
                terms[at] = replace(other, weight=other.weight + term.weight, own=False)
                break
        else:
            terms.append(term)
    return Signal(first.shape, tuple(terms), first.offset + second.offset)
