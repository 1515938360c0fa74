"""From one timestep to T: every multi-threshold neuron becomes an integrate-and-fire neuron.

A neuron of N levels fires N / T of them at most in each step, and carries the rest of its membrane
potential to the next:

    MultiThresholdFire(x, theta, N+, N-, v0)  ->  IntegrateFire(x, T theta, N+ / T, N- / T, v0, T)

Firing immediately, as spikes come in (``delayed = False``):

1. Rows of a tensor that depends on time are T times as many, time-major: step t of row b is
   t * B + b. What does not depend on time is computed once, and repeated where an operator that
   does reads it. The network's inputs are presented at every step; the first layer is computed
   once. With ``time_axis`` inputs and outputs have T as a new first axis.
2. A tensor is there step by step, as what it stands for at each step (its mean over steps is what
   it stands for in the spatial network), or as running mean: row t is the mean of steps 0 to t.
   Operators that are affine (``timesteps.py``) take either. The others take running means, and are
   listed: neurons read step by step, m_t t - m_(t-1) (t - 1) from running means m.
3. The outputs are means over all steps.
4. Where a Transpose moves the rows, or a Gather selects some, time is an axis of its own meanwhile.
5. Shapes are those of the spatial network: what asks for the shape of a tensor that depends on time
   gets it without the T, and Reshape and Expand multiply the rows by T.

Delayed firing: a neuron fires once it has integrated all T steps of its input, whose mean it then
sees at each step. Layers run one after the other, T steps each. Nothing but the neurons depends on
time, and the network computes what the spatial one does (docs/equivalence.md).

Refused (:class:`timesteps.NotOverTimeError`): neurons whose N is no multiple of T or whose levels
are placed freely (ScaleFire); of immediate firing also operators that mix the rows of a batch, or
of which it is not known, neurons in control flow, inputs without a batch axis.

Nodes that are put in say so in their metadata, for ``temporal_to_spatial.py``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...runtime_ops.definition import DOMAIN
from ...runtime_ops.integrate_fire import INTEGRATE_FIRE
from ...runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE
from ..analysis.operators import properties
from ..analysis.time_rules import NotOverTimeError, is_affine, is_float, moves_rows
from ..graph.graph import (
    METADATA_PREFIX,
    Graph,
    Node,
    PassResult,
    Tensor,
    bodies,
    dtype_of,
    is_constant,
    metadata,
    opset_version,
    redirect,
    scopes,
    shape_of,
    tidy,
    unique_name,
    values_of,
)
from ..graph.surgeon import add_node, constant, infer_shapes, variable

#: Behind the last element of any list of lengths.
_END = 1 << 30
#: Operands of a MatMul have rows of their own from this rank on.
_BATCHED_RANK = 3
_AXES_ARE_AN_INPUT = 18
#: Steps whose mean is taken at once.
_MOST_ROWS = 8


#: What a node that was put in is there for; of the last node of several, with what it stands for.
TIME = METADATA_PREFIX + "time"
STANDS_FOR = METADATA_PREFIX + "stands_for"
#: Values of :data:`TIME`: an input or output that has T as an axis, and what has its name without.
INPUT_STEPS, OUTPUT_STEPS, OUTPUT = "input_steps", "output_steps", "output"
#: What does not depend on time, at every step.
REPEATED = "repeated"
#: Of a Transpose or Gather: T is the first axis of what it moves.
UNFOLDED = "unfolded"


@dataclass
class TimedResult(PassResult):
    """What the pass returns.

    Attributes:
        timed: names of the outputs that are given step by step, of those asked for like that.
    """

    timed: set[str] = field(default_factory=set)


@dataclass
class _Views:
    """A tensor that depends on time: rule 2."""

    step: Tensor | None = None
    mean: Tensor | None = None

    @property
    def rows(self) -> Tensor:
        """The one that there is, ``step`` where there are both."""
        rows = self.mean if self.step is None else self.step
        assert rows is not None
        return rows


def spatial_to_temporal(
    graph: Graph,
    timesteps: int,
    *,
    delayed: bool = False,
    time_axis: bool = False,
    timed: Collection[str] = (),
    kept: Collection[str] = (),
) -> TimedResult:
    """Apply the rules above.

    Args:
        graph: a network of multi-threshold neurons.
        timesteps: T, at least 1.
        delayed: neurons fire once all of their input is there.
        time_axis: inputs and outputs have T as a new first axis; not with ``delayed``.
        timed: inputs whose rows are T times as many, step by step.
        kept: outputs that are wanted like that.

    Raises:
        NotOverTimeError: what is refused.
        ValueError: the arguments do not go together.
    """
    if timesteps < 1 or (delayed and (time_axis or timed or kept)):
        raise ValueError("T is below 1, or delayed firing is combined with a time axis")
    return _Rewriting(infer_shapes(graph), timesteps, set(kept)).run(delayed, time_axis, timed)


class _Rewriting:
    def __init__(self, graph: Graph, timesteps: int, kept: set[str]) -> None:
        self._graph, self._steps, self._kept = graph, timesteps, kept
        self._views: dict[int, _Views] = {}
        self._repeated: dict[int, Tensor] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Tensor] = {}
        self._timed: list[Tensor] = []  # also keeps ids valid
        self._alive: list[Tensor] = []
        self.changes: list[str] = []

    def run(self, delayed: bool, time_axis: bool, timed: Collection[str]) -> TimedResult:
        graph = self._graph
        self._check_neurons()
        outputs = list(graph.outputs)
        names = [str(tensor.name) for tensor in outputs]
        for tensor in list(graph.inputs):
            if time_axis:
                self._open_axis(tensor)
            elif tensor.name in timed:
                self._now(tensor, step=tensor)
        for node in list(graph.nodes):
            if node.domain == DOMAIN:
                self._fire(node, delayed)
            elif any(self._of(tensor) for tensor in node.inputs):
                self._compute(node)
            for body in bodies(node):
                self._check_body(node, body)
        for position, tensor in enumerate(outputs):
            self._close(position, tensor, time_axis)
        for tensor in self._timed:
            tensor.shape = None  # from here on that of the spatial network is wrong
        tidy(graph)
        stepwise = {name for name, tensor in zip(names, outputs, strict=True) if self._of(tensor)}
        return TimedResult(graph, self.changes, stepwise & self._kept)

    def _check_body(self, node: Node, body: Graph) -> None:
        for inner in body.nodes:
            for tensor in inner.inputs:
                if self._of(tensor):
                    raise NotOverTimeError(
                        f"a body of {node.op} '{node.name}' reads '{tensor.name}', which depends "
                        "on time"
                    )
            for deeper in bodies(inner):
                self._check_body(node, deeper)

    # Neurons ------------------------------------------------------------------------------------

    def _check_neurons(self) -> None:
        for scope in scopes(self._graph):
            for node in scope.graph.nodes:
                if node.domain != DOMAIN:
                    continue
                where = f"{node.op} '{node.name}'"
                if node.op != MULTI_THRESHOLD_FIRE.name:
                    raise NotOverTimeError(
                        f"{where} has levels that are no multiples of one threshold; compile with "
                        "--neuron multi-threshold"
                    )
                if scope.graph is not self._graph:
                    inside = f"{where} is inside a body of control flow"
                    raise NotOverTimeError(inside, stepwise=False)
                if not is_constant(node.inputs[1]):
                    raise NotOverTimeError(f"the threshold of {where} is not constant")
                levels = _levels(node)
                if any(count % self._steps for count in levels):
                    raise NotOverTimeError(
                        f"{where} has {levels[0]} positive and {levels[1]} negative levels, which "
                        f"{self._steps} timesteps cannot share; use multiples of {self._steps}"
                    )

    def _fire(self, node: Node, delayed: bool) -> None:
        x, theta = node.inputs
        positive, negative = (count // self._steps for count in _levels(node))
        values = values_of(theta)
        scaled = np.asarray(values * values.dtype.type(self._steps), values.dtype)
        node.op = INTEGRATE_FIRE.name
        node.attrs.update(levels_pos=positive, levels_neg=negative, timesteps=self._steps)
        node.inputs[1] = constant(unique_name(self._graph, f"{theta.name}.timed"), scaled)
        node.inputs[0] = self._step(x) if self._of(x) else self._repeat(x)
        y = node.outputs[0]
        if not delayed:
            self._now(y, step=y)
            return
        spikes = variable(unique_name(self._graph, f"{y.name}.spikes"))
        spikes.dtype = y.dtype
        node.outputs[0] = spikes
        self._mean_of_all(_Views(step=spikes), spikes, y)

    # Other nodes --------------------------------------------------------------------------------

    def _compute(self, node: Node) -> None:
        timed = {at for at, tensor in enumerate(node.inputs) if self._of(tensor)}
        if node.op in ("Shape", "Size"):
            self._shape_without_time(node)
            return
        stepwise = any(self._views[id(node.inputs[at])].step is not None for at in timed)
        affine = is_affine(node, timed)
        counts = any(not is_float(node.inputs[at]) for at in timed)
        if not affine and not (counts and stepwise):  # integers select, step by step
            stepwise = False
            self.changes.append(f"{node.op} {node.name}: on the running mean")
        repeated = _with_rows(node, timed)
        for at in timed:
            tensor = node.inputs[at]
            node.inputs[at] = self._step(tensor) if stepwise else self._mean(tensor)
        for at in repeated:
            node.inputs[at] = self._repeat(node.inputs[at])
        if node.op in ("Reshape", "Expand"):
            node.inputs[1] = self._timed_shape(node.inputs[1], 0 if node.op == "Reshape" else 1)
        if node.op == "Resize" and len(node.inputs) > 3:
            node.inputs[3] = self._timed_shape(node.inputs[3], 0)
        outputs = list(node.outputs)
        if moves_rows(node, timed):
            self._unfold(node)
        for output in outputs:
            self._now(output, **{"step" if stepwise else "mean": output})

    def _unfold(self, node: Node) -> None:
        """Rule 4."""
        x, y = node.inputs[0], node.outputs[0]
        chain = _Chain(self._graph, x, "unfolded")
        lengths = self._without_time(chain, chain.node("Shape", x))
        steps = self._integers([self._steps])
        node.inputs[0] = chain.end("Reshape", x, chain.node("Concat", steps, *lengths, axis=0))
        if node.op == "Gather":
            node.attrs["axis"] = 1
        else:
            order = node.attrs.get("perm", range(len(shape_of(y)))[::-1])
            node.attrs["perm"] = [0, *(int(axis) + 1 for axis in order)]
        metadata(node)[TIME] = UNFOLDED
        moved = variable(unique_name(self._graph, f"{y.name}.{UNFOLDED}"))
        moved.dtype, node.outputs[0] = y.dtype, moved
        self._steps_as_rows(_Chain(self._graph, moved, OUTPUT, y), moved)

    def _timed_shape(self, shape: Tensor, above: int) -> Tensor:
        """The first length T times as large; up to ``above``, where it is none, as it is."""
        chain = _Chain(self._graph, shape, "shape")
        first, rest = self._first_and_rest(chain, shape)
        larger = chain.node("Mul", first, self._integers([self._steps]))
        known = chain.node("Greater", first, self._integers([above]))
        return chain.end("Concat", chain.node("Where", known, larger, first), rest, axis=0)

    def _shape_without_time(self, node: Node) -> None:
        """Shape or Size of what depends on time."""
        views, asked = self._views[id(node.inputs[0])], node.outputs[0]
        node.inputs[0] = views.rows
        if node.op == "Shape" and int(node.attrs.get("start", 0)) != 0:
            return
        readers = list(asked.outputs)
        chain = _Chain(self._graph, asked, "shape")
        if node.op == "Size":
            new = chain.end("Div", asked, self._integers(self._steps))
        else:
            new = chain.end("Concat", *self._without_time(chain, asked), axis=0)
        redirect(readers, asked, new)

    def _first_and_rest(self, chain: _Chain, lengths: Tensor) -> tuple[Tensor, Tensor]:
        zero, one, end = (self._integers([at]) for at in (0, 1, _END))
        return chain.node("Slice", lengths, zero, one), chain.node("Slice", lengths, one, end)

    def _without_time(self, chain: _Chain, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The number of rows without the T, and all lengths behind it."""
        first, rest = self._first_and_rest(chain, lengths)
        return chain.node("Div", first, self._integers([self._steps])), rest

    def _steps_as_rows(self, chain: _Chain, tensor: Tensor) -> Tensor:
        """[T, B, ...] as [T * B, ...], the end of the chain."""
        lengths = chain.node("Shape", tensor)
        rest = chain.node("Slice", lengths, self._integers([2]), self._integers([_END]))
        rows = chain.node("Concat", self._integers([-1]), rest, axis=0)
        return chain.end("Reshape", tensor, rows)

    # Views --------------------------------------------------------------------------------------

    def _of(self, tensor: Tensor) -> _Views | None:
        return self._views.get(id(tensor))

    def _now(self, tensor: Tensor, **views: Tensor) -> None:
        """From here on the tensor depends on time."""
        self._timed.append(tensor)
        self._views[id(tensor)] = _Views(**views)
        self._graph.extras.value_infos.pop(tensor.name, None)

    def _step(self, tensor: Tensor) -> Tensor:
        views = self._views[id(tensor)]
        if views.step is None:
            self._check_float(tensor)
            chain = _Chain(self._graph, views.rows, "steps")
            table = chain.node("Reshape", views.rows, self._integers([self._steps, -1]))
            sums = chain.node("Mul", table, self._counts(tensor))
            zero, last = self._integers([0]), self._integers([self._steps - 1])
            earlier = chain.node("Slice", sums, zero, last, zero)
            before = chain.node("Pad", earlier, self._integers([1, 0, 0, 0]))
            steps = chain.node("Sub", sums, before)
            views.step = chain.end("Reshape", steps, chain.node("Shape", views.rows))
        return views.step

    def _mean(self, tensor: Tensor) -> Tensor:
        views = self._views[id(tensor)]
        if views.mean is None:
            self._check_float(tensor)
            chain = _Chain(self._graph, views.rows, "means")
            table = chain.node("Reshape", views.rows, self._integers([self._steps, -1]))
            sums = chain.node("CumSum", table, self._integers(0))
            means = chain.node("Div", sums, self._counts(tensor))
            views.mean = chain.end("Reshape", means, chain.node("Shape", views.rows))
        return views.mean

    def _check_float(self, tensor: Tensor) -> None:
        if not is_float(tensor):
            raise NotOverTimeError(
                f"'{tensor.name}' holds no floats and depends on time: it has no mean over steps"
            )

    def _repeat(self, tensor: Tensor) -> Tensor:
        """What does not depend on time, at every step."""
        if id(tensor) not in self._repeated:
            rank = len(tensor.shape or ())
            if rank == 0:
                raise NotOverTimeError(
                    f"'{tensor.name}' has to be repeated at every step, and has no known batch axis"
                )
            chain = _Chain(self._graph, tensor, REPEATED)
            self._alive.append(tensor)
            repeats = self._integers([self._steps] + [1] * (rank - 1))
            self._repeated[id(tensor)] = chain.end("Tile", tensor, repeats)
        return self._repeated[id(tensor)]

    # The network's interface --------------------------------------------------------------------

    def _open_axis(self, tensor: Tensor) -> None:
        """An input gets T as first axis; inside, steps are rows."""
        if not tensor.shape:
            raise NotOverTimeError(f"the input '{tensor.name}' has no batch axis to put T before")
        readers = list(tensor.outputs)
        chain = _Chain(self._graph, tensor, INPUT_STEPS)
        inside = self._steps_as_rows(chain, tensor)
        inside.shape = list(tensor.shape)  # of the spatial network, as all rules speak of it
        redirect(readers, tensor, inside)
        self._now(inside, step=inside)
        _put_axis(self._graph, tensor, self._steps)

    def _close(self, position: int, tensor: Tensor, time_axis: bool) -> None:
        """What the network gives: all steps, rows step by step, or the mean over steps."""
        graph, views = self._graph, self._of(tensor)
        if views is None and not time_axis:
            return
        if views is not None and tensor.name in self._kept and views.step is tensor:
            return
        name = tensor.name
        steps: Tensor | None = None
        if views is None:
            steps = self._repeat(tensor)
        elif time_axis or name in self._kept:
            steps = self._step(tensor)
        tensor.name = unique_name(graph, f"{name}.inside")
        output = variable(name, tensor)
        graph.outputs[position] = output
        if steps is None:
            assert views is not None
            self._mean_of_all(views, tensor, output)
            return
        if not time_axis:
            _Chain(graph, tensor, OUTPUT, output).end("Identity", steps)
            return
        chain = _Chain(graph, tensor, OUTPUT_STEPS, output)
        lengths = chain.node("Shape", steps)
        _, rest = self._first_and_rest(chain, lengths)
        every = chain.node("Concat", self._integers([self._steps, -1]), rest, axis=0)
        chain.end("Reshape", steps, every)
        _put_axis(graph, output, self._steps)

    def _mean_of_all(self, views: _Views, tensor: Tensor, into: Tensor) -> None:
        """The mean over all steps, without time."""
        chain = _Chain(self._graph, tensor, OUTPUT, into)
        rows = views.rows
        if views.step is not None:
            self._check_float(tensor)
            result = self._mean_over_steps(chain, rows)
        else:
            table = chain.node("Reshape", rows, self._integers([self._steps, -1]))
            result = chain.node("Gather", table, self._integers(self._steps - 1), axis=0)
        lengths = self._without_time(chain, chain.node("Shape", rows))
        chain.end("Reshape", result, chain.node("Concat", *lengths, axis=0))

    def _mean_over_steps(self, chain: _Chain, rows: Tensor) -> Tensor:
        """[T B, ...] as one row, the mean over T.

        Of some steps at a time, then of these means: the runtime takes a sixth of the time that it
        takes for 32 rows at once, which lie a power of two apart and share a line of the cache.
        """
        together = max(n for n in range(1, _MOST_ROWS + 1) if self._steps % n == 0)
        shape = [self._steps // together, together, -1]
        if together in (1, self._steps):
            shape = [self._steps, -1]
        result = chain.node("Reshape", rows, self._integers(shape))
        for axis in reversed(range(len(shape) - 1)):
            if opset_version(self._graph) >= _AXES_ARE_AN_INPUT:
                result = chain.node("ReduceMean", result, self._integers([axis]), keepdims=0)
            else:
                result = chain.node("ReduceMean", result, axes=[axis], keepdims=0)
        return result

    # Constants ----------------------------------------------------------------------------------

    def _integers(self, values: int | list[int]) -> Tensor:
        return self._constant(np.array(values, np.int64))

    def _counts(self, tensor: Tensor) -> Tensor:
        """1 to T in a column, in the tensor's element type."""
        return self._constant(np.arange(1, self._steps + 1, dtype=dtype_of(tensor))[:, None])

    def _constant(self, values: np.ndarray) -> Tensor:
        key = str(values.dtype), values.shape, values.tobytes()
        if key not in self._constants:
            self._constants[key] = constant(unique_name(self._graph, "time.constant"), values)
        return self._constants[key]


class _Chain:
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


def _levels(node: Node) -> tuple[int, int]:
    attributes = MULTI_THRESHOLD_FIRE.defaults | node.attrs
    return int(attributes["levels_pos"]), int(attributes["levels_neg"])


def _with_rows(node: Node, timed: set[int]) -> list[int]:
    """Inputs that do not depend on time and have rows: they are repeated."""
    largest = max(len(node.inputs[at].shape or ()) for at in timed)
    others = [
        at for at, t in enumerate(node.inputs) if at not in timed and not t.is_empty() and t.shape
    ]
    if node.op in ("Concat", "GatherElements"):
        return others
    if node.op == "Einsum":
        terms = str(node.attrs["equation"]).replace(" ", "").partition("->")[0].split(",")
        label = terms[min(timed)][0]
        return [at for at in others if terms[at][:1] == label]
    if node.op == "Gemm":
        others = [at for at in others if at == 2]
    elif not properties(node.op).broadcasts or (node.op == "MatMul" and largest < _BATCHED_RANK):
        return []
    shapes = {at: shape_of(node.inputs[at]) for at in others}
    return [at for at, shape in shapes.items() if len(shape) == largest and shape[0] != 1]


def _put_axis(graph: Graph, tensor: Tensor, steps: int) -> None:
    """Declare T as a new first axis of an input or output."""
    value = graph.interface[tensor.name]
    new = type(value)()
    new.CopyFrom(value)
    shape = new.type.tensor_type.shape
    lengths = list(shape.dim)
    del shape.dim[:]
    shape.dim.add(dim_value=steps)
    shape.dim.extend(lengths)
    graph.interface[tensor.name] = new
    graph.extras.value_infos.pop(tensor.name, None)
