"""What a tensor of the ONNX network is in the NIR graph: a sum over NIR nodes.

NIR nodes hand on what they compute as it is, and a node that several edges lead to reads their sum.
A tensor x of C channels is therefore kept as

    x[c] = offset[c] + sum over terms of weight[c] * sum over p of source[channel[c, p], ::step]

with ``source`` the output of a NIR node. Factors, such as the threshold that a spike stands for,
slices and channels that are padded with zeros need no node of their own until something reads them
that cannot take them in. There is more than one p, a plane, where several neurons stand for one.
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
        channel: int64 [C, P], the channels of the source; any where the weight is 0.
        step: distance of the rows and columns that are read.
        own: the source is a linear node that nothing else reads: its weights may be rescaled.
        nested: of the planes of a channel, each is 1 only where all before it are 1, else 0.
    """

    source: str
    channels: int
    weight: np.ndarray
    channel: np.ndarray
    step: tuple[int, int] = (1, 1)
    own: bool = False
    nested: bool = False

    @property
    def plain(self) -> bool:
        """Whether only factors stand between the source and the tensor."""
        same = np.array_equal(self.channel, one_plane(self.channels))
        return self.step == (1, 1) and same

    @property
    def whole(self) -> bool:
        """Whether only factors and the order and number of channels do."""
        each = np.array_equal(np.sort(self.channel, axis=None), np.arange(self.channels))
        return self.step == (1, 1) and each


@dataclass(frozen=True)
class Window:
    """What a pooling operator reads for each value that it gives."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)

    def size(self, lengths: Iterable[int]) -> tuple[int, ...]:
        """Rows and columns that it makes of so many."""
        each = zip(lengths, self.kernel, self.stride, self.padding, strict=True)
        return tuple((n + 2 * more - k) // by + 1 for n, k, by, more in each)


@dataclass(frozen=True)
class Signal:
    """A tensor of the ONNX network.

    Attributes:
        shape: of one sample, [C] or [C, H, W].
        terms: what it is the sum of.
        offset: float64 [C], a constant current.
        border: zeros before and behind its rows, and columns, that ``shape`` does not count.
        largest: the tensor is the largest value in each of these windows; ``shape`` and terms are
            of what the windows lie on.
    """

    shape: tuple[int, ...]
    terms: tuple[Term, ...]
    offset: np.ndarray
    border: tuple[tuple[int, int], ...] = ((0, 0), (0, 0))
    largest: Window | None = None

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

    def repeated(self, times: int) -> Signal:
        """The signal with each channel so many times, side by side."""
        terms = tuple(
            replace(t, weight=t.weight.repeat(times), channel=t.channel.repeat(times, axis=0))
            for t in self.terms
        )
        shape = (self.shape[0] * times, *self.shape[1:])
        return replace(self, shape=shape, terms=terms, offset=self.offset.repeat(times))

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
            replace(t, weight=np.pad(t.weight, width), channel=np.pad(t.channel, (width, (0, 0))))
            for t in self.terms
        )
        shape = (self.shape[0] + before + after, *self.shape[1:])
        return Signal(shape, tuple(terms), np.pad(self.offset, width))


def one_plane(channels: int) -> np.ndarray:
    """Where channels are that lie as in the source, int64 [C, 1]."""
    return np.arange(channels)[:, None]


def of_source(
    source: str,
    shape: Iterable[int],
    weight: np.ndarray | float = 1.0,
    own: bool = False,
    channel: np.ndarray | None = None,
    nested: bool = False,
) -> Signal:
    """The output of a NIR node times a factor per channel, or one for all.

    Args:
        source: name of the node.
        shape: of the tensor that is made of it.
        weight: the factor, () or [C].
        own: see :class:`Term`.
        channel: int64 [C, P], where the channels are in the source, each of its channels once;
            None where it has one plane of them in their order.
        nested: see :class:`Term`.
    """
    shape = tuple(shape)
    count = shape[0]
    channel = one_plane(count) if channel is None else channel
    factors = np.broadcast_to(np.asarray(weight, np.float64), (count,))
    term = Term(source, channel.size, factors, channel, own=own, nested=nested)
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
