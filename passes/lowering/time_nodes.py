"""Nodes that are put in to join, part and sum up timesteps.

They say what they are there for in their metadata, for ``temporal_to_spatial.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..graph.graph import (
    METADATA_PREFIX,
    Graph,
    Tensor,
    dtype_of,
    metadata,
    opset_version,
    unique_name,
)
from ..graph.surgeon import add_node, constant, variable

#: What a node that was put in is there for; of the last node of several, with what it stands for.
TIME = METADATA_PREFIX + "time"
STANDS_FOR = METADATA_PREFIX + "stands_for"
#: Values of :data:`TIME`: an input or output that has T as an axis, and what has its name without.
INPUT_STEPS, OUTPUT_STEPS, OUTPUT = "input_steps", "output_steps", "output"
#: What does not depend on time, at every step.
REPEATED = "repeated"
#: Of a node of the network: T is the first axis of what it reads.
APART = "apart"

#: Behind the last element of any list of lengths.
_END = 1 << 30
#: Of ReduceMean, from this opset on.
_AXES_ARE_AN_INPUT = 18
#: Steps whose mean is taken at once.
_MOST_ROWS = 8


class Chain:
    """Nodes that are put in for one purpose, one reading the other.

    Args:
        graph: the graph.
        tensor: what the end of the chain stands for in the spatial network.
        purpose: goes into the metadata.
        into: what the end writes, if there is such a tensor; it takes the name over.
    """

    def __init__(
        self, graph: Graph, tensor: Tensor, purpose: str, into: Tensor | None = None
    ) -> None:
        self._graph, self._tensor, self._purpose, self._into = graph, tensor, purpose, into

    def node(
        self, op: str, *inputs: Tensor, into: Tensor | None = None, **attributes: Any
    ) -> Tensor:
        """A node and what it gives."""
        base = f"{self._tensor.name}.{self._purpose}"
        output = variable(unique_name(self._graph, base)) if into is None else into
        name = unique_name(self._graph, f"{base}.{op}")
        added = add_node(self._graph, op, name, list(inputs), output, attributes)
        metadata(added)[TIME] = self._purpose
        return output

    def end(self, op: str, *inputs: Tensor, **attributes: Any) -> Tensor:
        """The last node, and what it gives."""
        output = self._into
        if output is None:
            name = unique_name(self._graph, f"{self._tensor.name}.{self._purpose}")
            output = variable(name)
            output.dtype = self._tensor.dtype
        output = self.node(op, *inputs, into=output, **attributes)
        metadata(output.inputs[0])[STANDS_FOR] = str(self._tensor.name)
        return output


class TimeNodes:
    """Puts nodes for T timesteps into a graph.

    Joined are [T * D, ...], time-major, apart [T, D, ...].
    """

    def __init__(self, graph: Graph, steps: int) -> None:
        self._graph, self._steps = graph, steps
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Tensor] = {}

    def chain(self, tensor: Tensor, purpose: str, into: Tensor | None = None) -> Chain:
        """Of this graph; as :class:`Chain`."""
        return Chain(self._graph, tensor, purpose, into)

    def part(self, chain: Chain, joined: Tensor) -> Tensor:
        """Joined steps apart, the end of the chain."""
        lengths = self.without_time(chain, chain.node("Shape", joined))
        steps = self.integers([self._steps])
        return chain.end("Reshape", joined, chain.node("Concat", steps, *lengths, axis=0))

    def join(self, chain: Chain, apart: Tensor) -> Tensor:
        """Steps that are apart joined, the end of the chain; not of scalars."""
        rest = self.behind(chain, chain.node("Shape", apart), 2)
        rows = chain.node("Concat", self.integers([-1]), rest, axis=0)
        return chain.end("Reshape", apart, rows)

    def align(self, chain: Chain, apart: Tensor, count: int) -> Tensor:
        """So many axes of length 1 behind T, the end of the chain."""
        axes = list(range(1, 1 + count))
        return chain.end("Unsqueeze", apart, self.integers(axes))

    def repeat(self, chain: Chain, tensor: Tensor, rank: int, apart: bool) -> Tensor:
        """What does not depend on time at every step, the end of the chain."""
        if apart:
            return chain.end("Expand", tensor, self.integers([self._steps] + [1] * rank))
        return chain.end("Tile", tensor, self.integers([self._steps] + [1] * (rank - 1)))

    def steps_of(self, chain: Chain, means: Tensor, like: Tensor) -> Tensor:
        """What each step adds to running means, the end of the chain."""
        table = chain.node("Reshape", means, self.integers([self._steps, -1]))
        sums = chain.node("Mul", table, self._counts(like))
        zero, last = self.integers([0]), self.integers([self._steps - 1])
        earlier = chain.node("Slice", sums, zero, last, zero)
        before = chain.node("Pad", earlier, self.integers([1, 0, 0, 0]))
        steps = chain.node("Sub", sums, before)
        return chain.end("Reshape", steps, chain.node("Shape", means))

    def means_of(self, chain: Chain, steps: Tensor, like: Tensor) -> Tensor:
        """Running means of steps, the end of the chain."""
        table = chain.node("Reshape", steps, self.integers([self._steps, -1]))
        sums = chain.node("CumSum", table, self.integers(0))
        means = chain.node("Div", sums, self._counts(like))
        return chain.end("Reshape", means, chain.node("Shape", steps))

    def mean_of_all(self, chain: Chain, tensor: Tensor, *, mean: bool, apart: bool) -> None:
        """The mean over all steps, without time: the end of the chain.

        Args:
            chain: to be continued.
            tensor: steps, or running means.
            mean: it is running means.
            apart: it is apart.
        """
        if mean:
            table = chain.node("Reshape", tensor, self.integers([self._steps, -1]))
            result = chain.node("Gather", table, self.integers(self._steps - 1), axis=0)
        else:
            result = self._mean_over_steps(chain, tensor)
        lengths = chain.node("Shape", tensor)
        if apart:
            shape = self.behind(chain, lengths, 1)
        else:
            shape = chain.node("Concat", *self.without_time(chain, lengths), axis=0)
        chain.end("Reshape", result, shape)

    def timed_shape(self, shape: Tensor, above: int) -> Tensor:
        """The first length T times as large; up to ``above``, where it is none, as it is."""
        chain = self.chain(shape, "shape")
        first, rest = self.first_and_rest(chain, shape)
        larger = chain.node("Mul", first, self.integers([self._steps]))
        known = chain.node("Greater", first, self.integers([above]))
        return chain.end("Concat", chain.node("Where", known, larger, first), rest, axis=0)

    def prefix(self, shape: Tensor, first: int) -> Tensor:
        """A list of lengths with one in front."""
        return self.chain(shape, "shape").end("Concat", self.integers([first]), shape, axis=0)

    def first_and_rest(self, chain: Chain, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The first of several lengths, and all behind it."""
        zero, one = self.integers([0]), self.integers([1])
        return chain.node("Slice", lengths, zero, one), self.behind(chain, lengths, 1)

    def behind(self, chain: Chain, lengths: Tensor, count: int) -> Tensor:
        """All lengths behind the first ones."""
        return chain.node("Slice", lengths, self.integers([count]), self.integers([_END]))

    def without_time(self, chain: Chain, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The first length of joined steps without the T, and all lengths behind it."""
        first, rest = self.first_and_rest(chain, lengths)
        return chain.node("Div", first, self.integers([self._steps])), rest

    def _mean_over_steps(self, chain: Chain, rows: Tensor) -> Tensor:
        """Steps as one row, the mean over T.

        Of some steps at a time, then of these means: the runtime takes a sixth of the time that it
        takes for 32 rows at once, which lie a power of two apart and share a line of the cache.
        """
        together = max(n for n in range(1, _MOST_ROWS + 1) if self._steps % n == 0)
        shape = [self._steps // together, together, -1]
        if together in (1, self._steps):
            shape = [self._steps, -1]
        result = chain.node("Reshape", rows, self.integers(shape))
        for axis in reversed(range(len(shape) - 1)):
            if opset_version(self._graph) >= _AXES_ARE_AN_INPUT:
                result = chain.node("ReduceMean", result, self.integers([axis]), keepdims=0)
            else:
                result = chain.node("ReduceMean", result, axes=[axis], keepdims=0)
        return result

    def integers(self, values: int | list[int]) -> Tensor:
        """A constant, int64."""
        return self._constant(np.array(values, np.int64))

    def _counts(self, tensor: Tensor) -> Tensor:
        """1 to T in a column, in the tensor's element type."""
        return self._constant(np.arange(1, self._steps + 1, dtype=dtype_of(tensor))[:, None])

    def _constant(self, values: np.ndarray) -> Tensor:
        key = str(values.dtype), values.shape, values.tobytes()
        if key not in self._constants:
            self._constants[key] = constant(unique_name(self._graph, "time.constant"), values)
        return self._constants[key]
