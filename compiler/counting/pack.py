"""Counts of spikes packed into float32, so that sums over samples are exact and leave as one map.

Of each k these are counted:

    spikes    |k|                  negative   [k < 0], of neurons of both signs
    bits      popcount(|k|)        clipped    [the level is one beyond], of MultiThresholdFire
    events    [k is not 0]

1. A table gives all counts in one number, each in a field of its own: with `most` the largest count
   of a field, sums of n samples need the product of the (n * most + 1) to be at most 2^24, up to
   which float32 holds integers exactly. Such a table is a ScaleFire, with thresholds half way
   between levels that ascend (2^-18 of the largest apart, or more): of what a ScaleFire gives,
   divided by the step where each channel has one, else of the codes (``codes.py``).
2. A ScaleFire has 256 levels. Where a neuron has more, |k| is cut into digits of 8 bits, exactly,
   since it is divided by powers of 2. A table for each digit gives "spikes", worth 1, 2^8, ..., and
   "bits"; another one the rest.
3. A batch is summed by a product with a matrix of ones and zeros, a row per n samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, NodeProto

from ...runtime_ops.integrate_fire import INTEGRATE_FIRE
from ...runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE
from ...runtime_ops.scale_fire import MAX_THRESHOLDS, spikes_of_levels
from .codes import Codes, Span
from .twins import Twins

#: float32 holds integers exactly up to here.
_EXACT = 1 << 24
_DIGIT = 256
#: Least distance of levels, of the largest one: far more than is lost by a product and a quotient.
_APART = 2.0**-18


@dataclass(frozen=True)
class Field:
    """One count of a table.

    Attributes:
        name: "negative", "spikes", "bits", "events" or "clipped".
        worth: what it is multiplied by.
        counts: int64, for each level of the table.
    """

    name: str
    worth: int
    counts: np.ndarray


@dataclass(frozen=True)
class Table:
    """Counts of what a tensor holds.

    Attributes:
        tensor: its name.
        thresholds: float32, ascending; one fewer than levels.
        fields: what is counted, the highest one first.
        values: float64, what the tensor holds at each level, up to rounding; None where it holds
            several.
        k: int64, the spikes of each level; None likewise.
    """

    tensor: str
    thresholds: np.ndarray
    fields: tuple[Field, ...]
    values: np.ndarray | None = None
    k: np.ndarray | None = None

    def radices(self, n: int) -> list[int]:
        """Sizes of the fields for sums of ``n``."""
        return [n * int(field.counts.max()) + 1 for field in self.fields]

    def packed(self, n: int) -> np.ndarray:
        """The packed counts of each level, int64."""
        levels = np.zeros(len(self.thresholds) + 1, np.int64)
        for field, radix in zip(self.fields, self.radices(n), strict=True):
            levels = levels * radix + field.counts
        return levels


@dataclass(frozen=True)
class Packed:
    """Packed counts of a tensor of spikes.

    Attributes:
        tables: that count it.
        fitting: samples in one sum, by rule 1.
        tensors: names of the packed counts, one per table.
    """

    tables: list[Table]
    fitting: int
    tensors: list[str]

    @classmethod
    def of(cls, twins: Twins, home: GraphProto, tables: list[Table]) -> Packed:
        """Make them in the graph ``home``."""
        fitting = _samples_that_fit(tables)
        tensors = []
        for table in tables:
            thresholds = twins.constant(home, table.thresholds)
            tensors.append(twins.staircase(home, table.tensor, thresholds, table.packed(fitting)))
        return cls(tables, fitting, tensors)

    def levels(self) -> bytes:
        """What tells the levels apart, if one table has them all in ascending order; else empty."""
        levels = self.tables[0].packed(self.fitting)
        if len(self.tables) > 1 or np.any(np.diff(levels) <= 0):
            return b""
        return levels.tobytes()


def popcount(values: np.ndarray) -> np.ndarray:
    """Number of bits that are 1, of integers from 0 to 2^24."""
    bits = (values[..., None] >> np.arange(_EXACT.bit_length())) & 1
    counts: np.ndarray = bits.sum(-1)
    return counts


def tables_of_neuron(
    twins: Twins, codes: Codes, home: GraphProto, neuron: NodeProto
) -> list[Table]:
    """What counts a neuron, in the graph ``home``."""
    span = codes.span_of(neuron)
    if neuron.op_type == MULTI_THRESHOLD_FIRE.name:
        return _tables(twins, home, codes.raised(home, neuron), span, clips=True)
    if neuron.op_type == INTEGRATE_FIRE.name:
        return _tables(twins, home, codes.raised(home, neuron), span, clips=False)
    scale, _, levels = twins.parameters(neuron)
    wide = levels.astype(np.float64)
    if np.any(np.diff(wide) < _APART * np.abs(wide).max()):
        return _tables(twins, home, codes.raised(home, neuron), span, clips=False)
    k, between = spikes_of_levels(levels), (wide[1:] + wide[:-1]) / 2
    given = neuron.output[0]
    if scale.size > 1:
        given = codes.divided(home, neuron, given, scale)
    else:
        between *= float(scale.reshape(()))
        wide *= float(scale.reshape(()))
    return [Table(given, between.astype(np.float32), _fields(k, span, clips=False), wide, k)]


def tables_of_code(twins: Twins, home: GraphProto, code: str, span: Span) -> list[Table]:
    """What counts a code."""
    return _tables(twins, home, code, span, clips=False)


def _tables(twins: Twins, home: GraphProto, code: str, span: Span, clips: bool) -> list[Table]:
    k = _levels(span, clips)
    if k is not None:
        fired = np.clip(k, span.low, span.high)
        return [Table(code, _between(k), _fields(k, span, clips), k.astype(np.float64), fired)]
    found = []
    bounds = [twins.constant(home, float(end)) for end in (span.low, span.high)]
    code = twins.node(home, "Round", code)
    rest = twins.node(home, "Abs", twins.node(home, "Clip", code, *bounds))
    base = twins.constant(home, float(_DIGIT))
    worth, most = 1, max(span.high, -span.low)
    while most:
        size = np.arange(min(most, _DIGIT - 1) + 1)
        above = twins.node(home, "Floor", twins.node(home, "Div", rest, base))
        digit = twins.node(home, "Sub", rest, twins.node(home, "Mul", above, base))
        fields = (Field("spikes", worth, size), Field("bits", 1, popcount(size)))
        found.append(Table(digit, _between(size), fields))
        rest, worth, most = above, worth * _DIGIT, most // _DIGIT
    edges = {span.low - 1, span.low, span.low + 1, 0, 1, span.high, span.high + 1}
    k = np.array(sorted(k for k in edges if abs(k) <= _EXACT))  # the least one of each level
    flags = [field for field in _fields(k, span, clips) if field.name not in ("spikes", "bits")]
    found.append(Table(code, k[1:].astype(np.float32), tuple(flags)))
    return found


def _between(k: np.ndarray) -> np.ndarray:
    """Thresholds between integers that follow on one another."""
    return k[1:].astype(np.float32) - np.float32(0.5)


def _levels(span: Span, clips: bool) -> np.ndarray | None:
    """Each k that one table tells apart, or None if they are too many."""
    low = span.low - (clips and span.low < 0)
    high = span.high + (clips and span.high > 0)
    high = max(high, low + 1)  # a table has a threshold
    return np.arange(low, high + 1) if high - low <= MAX_THRESHOLDS else None


def _fields(k: np.ndarray, span: Span, clips: bool) -> tuple[Field, ...]:
    """What is counted of levels with these spikes, by name."""
    fired = np.clip(k, span.low, span.high)
    fields = [
        Field("spikes", 1, np.abs(fired)),
        Field("bits", 1, popcount(np.abs(fired))),
        Field("events", 1, (fired != 0).astype(np.int64)),
    ]
    if span.low < 0 < span.high:
        fields.insert(0, Field("negative", 1, (fired < 0).astype(np.int64)))
    if clips:
        fields.append(Field("clipped", 1, (fired != k).astype(np.int64)))
    return tuple(fields)


def _samples_that_fit(found: Sequence[Table]) -> int:
    n = 1
    while all(math.prod(table.radices(n + 1)) <= _EXACT for table in found):
        n += 1
    return n
