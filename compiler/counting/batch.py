"""The samples of a run, inside the graph: how many there are, where they lie, what sums over them.

1. Axis 0 of a tensor counts samples where its length is a multiple of the number B of samples in
   the run, samples foremost. Otherwise, and where the caller says so, the run is one sample.
2. Rows of a tensor of spikes that were fired over T timesteps are T times as many, time-major: axis
   0 has T B rows, where its length is a multiple of that, or else T. Each is counted like a sample,
   and what is counted is divided by B in the end: what depends on time is summed over the steps,
   what does not (it was computed once, or repeated by Tile, before spikes depend on time) counts
   as often as it is computed. How many steps there are says the attribute of the neurons.
3. Tensors whose axis 0 has the same known length have the same samples. What a model declares may
   be wrong: the lengths that were seen leave the runtime beside the counts and are compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from onnx import GraphProto, TensorProto

from .insertion import Insertion


class Batch:
    """The samples of a run.

    Attributes:
        size: name of a float32 tensor [1], the number of samples B.
    """

    def __init__(self, insert: Insertion, source: str | None) -> None:
        """Count along axis 0 of the network's input ``source``; None: a run is one sample."""
        self._insert = insert
        self._rows: dict[tuple[int, str | int | None, int], Rows] = {}
        graph = insert.proto.graph
        with insert.at_front():
            if source is None:
                self._samples = insert.constant(graph, [1], np.int64)
            else:
                counted = insert.node(graph, "Shape", source, start=0, end=1)
                one = insert.constant(graph, [1], np.int64)  # nothing is divided by 0
                self._samples = insert.node(graph, "Max", counted, one)
            self.size = insert.node(graph, "Cast", self._samples, to=TensorProto.FLOAT)

    def rows(
        self,
        home: GraphProto,
        tensor: str,
        length: str | int | None = None,
        timesteps: int = 1,
        fixed: bool = False,
    ) -> Rows:
        """The samples of a tensor.

        Args:
            home: the graph to make them in.
            tensor: name of packed counts.
            length: of its axis 0, where it is known.
            timesteps: that its spikes were fired over.
            fixed: the run is one sample.
        """
        length = None if fixed else length or tensor
        key = id(home), length, timesteps
        if key not in self._rows:
            if fixed:
                count = self._insert.constant(home, [1], np.int64)
            else:
                count = self._count(home, tensor, timesteps)
            self._rows[key] = Rows(self._insert, home, self._samples, count, timesteps, fixed)
        return self._rows[key]

    def _count(self, home: GraphProto, tensor: str, timesteps: int) -> str:
        """Rules 1 and 2: int64 [1]."""
        insert = self._insert
        first = insert.node(home, "Shape", tensor, start=0, end=1)
        length = insert.node(home, "ReduceProd", first, keepdims=1)  # a scalar has none
        nothing, rows = (insert.constant(home, [value], np.int64) for value in (0, 1))
        steps = insert.constant(home, [timesteps], np.int64)
        candidates = [self._samples]
        if timesteps > 1:
            candidates = [steps, insert.node(home, "Mul", self._samples, steps)]
        for candidate in candidates:
            rest = insert.node(home, "Mod", length, candidate)
            fits = insert.node(home, "Equal", rest, nothing)
            rows = insert.node(home, "Where", fits, candidate, rows)
        return rows


class Rows:
    """The samples of tensors in one graph.

    Attributes:
        lengths: name of float32 [2], B and how many rows of samples lie along axis 0.
        matrix: name of int64 [2], the shape of a tensor with a row per sample.
    """

    def __init__(
        self,
        insert: Insertion,
        home: GraphProto,
        samples: str,
        count: str,
        timesteps: int,
        fixed: bool,
    ) -> None:
        self._insert, self._home = insert, home
        self._timesteps, self._fixed = timesteps, fixed
        self._count = count
        # A float, as all that is to leave a body of If.
        self.lengths = insert.node(home, "Cast", self._join(samples, count), to=TensorProto.FLOAT)
        self.matrix = self._join(count, self._integers([-1]))
        self._zero, self._one, self._axis = (self._integers(value) for value in (0, 1, [0]))
        self._each = self._up_to(count)
        self._selections: dict[int, str] = {}

    def selection(self, fitting: int) -> str:
        """What a tensor with a row per sample is multiplied by to sum ``fitting`` at a time.

        Returns:
            Name of float32 [groups, rows], ones where a row is in a group.
        """
        if fitting not in self._selections:
            self._selections[fitting] = self._select(fitting)
        return self._selections[fitting]

    def expected(self, samples: int, shape: Sequence[int]) -> int:
        """How many rows a tensor of this shape has in a run of so many samples."""
        if self._fixed:
            return 1
        length = math.prod(shape[:1])
        candidates = (samples * self._timesteps, self._timesteps)
        return next((count for count in candidates if length % count == 0), 1)

    def _select(self, fitting: int) -> str:
        insert, home = self._insert, self._home
        more = insert.node(home, "Add", self._count, self._integers([fitting - 1]))
        groups = insert.node(home, "Div", more, self._integers([fitting]))
        column = insert.node(home, "Unsqueeze", self._up_to(groups), self._integers([1]))
        own = insert.node(home, "Div", self._each, self._integers(fitting))
        members = insert.node(home, "Equal", column, own)
        return insert.node(home, "Cast", members, to=TensorProto.FLOAT)

    def _up_to(self, count: str) -> str:
        insert, home = self._insert, self._home
        end = insert.node(home, "Squeeze", count, self._axis)
        return insert.node(home, "Range", self._zero, end, self._one)

    def _join(self, *tensors: str) -> str:
        return self._insert.node(self._home, "Concat", *tensors, axis=0)

    def _integers(self, values: int | list[int]) -> str:
        return self._insert.constant(self._home, values, np.int64)
