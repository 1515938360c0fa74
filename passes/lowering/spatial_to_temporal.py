"""From one timestep to T: every multi-threshold neuron becomes an integrate-and-fire neuron.

A neuron of N levels fires N / T of them at most in each step, and carries the rest of its membrane
potential to the next:

    MultiThresholdFire(x, theta, N+, N-, v0)  ->  IntegrateFire(x, T theta, N+ / T, N- / T, v0, T)

Firing immediately, as spikes come in (``delayed = False``):

1. Axis 0 of a tensor that depends on time is T times as long, time-major: step t of row b is
   t * B + b. What does not depend on time is computed once, and repeated where an operator that
   does reads it. The network's inputs are presented at every step; the first layer is computed
   once. With ``time_axis`` inputs and outputs have T as a new first axis.
2. A tensor is there step by step, as what it stands for at each step (its mean over steps is what
   it stands for in the spatial network), or as running mean: row t is the mean of steps 0 to t.
   Operators that are affine (``time_rules.py``) take either. The others take running means, and are
   listed: neurons read step by step, m_t t - m_(t-1) (t - 1) from running means m.
3. The outputs are means over all steps.
4. Where a node does not treat what lies along axis 0 apart (a Transpose that moves it, a Split of
   it, sums of tensors of different ranks), time is an axis of its own meanwhile: ``time_apart.py``.
5. Shapes are those of the spatial network: what asks for the shape of a tensor that depends on time
   gets it without the T, and Reshape and Expand multiply the first length by T.

Delayed firing: a neuron fires once it has integrated all T steps of its input, whose mean it then
sees at each step. Layers run one after the other, T steps each. Nothing but the neurons depends on
time, and the network computes what the spatial one does (docs/equivalence.md).

Refused (:class:`NotOverTimeError`): neurons whose N is no multiple of T or whose levels
are placed freely (ScaleFire); of immediate firing also operators that mix the rows of a batch, or
of which it is not known, neurons in control flow, inputs without a batch axis.

Nodes that are put in say so in their metadata, for ``temporal_to_spatial.py``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

import numpy as np

from ...runtime_ops.definition import DOMAIN
from ...runtime_ops.integrate_fire import INTEGRATE_FIRE
from ...runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE
from ..analysis.operators import properties
from ..analysis.rows import Found, follow_rows, rows_of_input
from ..analysis.time_rules import (
    NotOverTimeError,
    is_affine,
    is_float,
    needs_time_apart,
    refused,
    rows_over_time,
)
from ..graph.graph import (
    Graph,
    Node,
    PassResult,
    Tensor,
    bodies,
    is_constant,
    metadata,
    rank_of,
    redirect,
    scopes,
    shape_of,
    tidy,
    unique_name,
    values_of,
)
from ..graph.surgeon import constant, infer_shapes, variable
from .time_apart import with_time
from .time_nodes import APART, INPUT_STEPS, OUTPUT, OUTPUT_STEPS, REPEATED, TIME, TimeNodes

#: Operands of a MatMul have rows of their own from this rank on.
_BATCHED_RANK = 3
#: Above this are no weights.
_HUGE = 1e30
#: The mask of an Attention has rows where it has all axes: [B, heads, L, M].
_MASK, _MASK_RANK = 3, 4


@dataclass
class TimedResult(PassResult):
    """What the pass returns.

    Attributes:
        timed: names of the outputs that are given step by step, of those asked for like that.
    """

    timed: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Form:
    """How a tensor that depends on time is there.

    Attributes:
        mean: as running mean, not step by step; rule 2.
        apart: T is an axis of its own; rule 4.
    """

    mean: bool = False
    apart: bool = False


_STEPS, _APART = _Form(), _Form(apart=True)


def spatial_to_temporal(
    graph: Graph,
    timesteps: int,
    *,
    delayed: bool = False,
    time_axis: bool = False,
    timed: Collection[str] = (),
    kept: Collection[str] | None = None,
) -> TimedResult:
    """Apply the rules above.

    Args:
        graph: a network of multi-threshold neurons.
        timesteps: T, at least 1.
        delayed: neurons fire once all of their input is there.
        time_axis: inputs and outputs have T as a new first axis; not with ``delayed``.
        timed: inputs whose rows are T times as many, step by step.
        kept: outputs that are wanted like that, of a part of a network: its inputs may have the
            rows of the batch along any axis, and nothing is refused for mixing them.

    Raises:
        NotOverTimeError: what is refused.
        ValueError: the arguments do not go together.
    """
    if timesteps < 1 or (delayed and (time_axis or timed or kept is not None)):
        raise ValueError("T is below 1, or delayed firing is combined with a time axis")
    return _Rewriting(infer_shapes(graph), timesteps, kept).run(delayed, time_axis, timed)


class _Rewriting:
    def __init__(self, graph: Graph, timesteps: int, kept: Collection[str] | None) -> None:
        self._graph, self._steps, self._kept = graph, timesteps, set(kept or ())
        self._put = TimeNodes(graph, timesteps)
        self._forms: dict[int, dict[_Form, Tensor]] = {}
        self._aligned: dict[tuple[int, int], Tensor] = {}
        self._repeated: dict[tuple[int, bool], Tensor] = {}
        self._rows: dict[int, Found] = {}
        if kept is None:
            self._rows = {id(tensor): rows_of_input(tensor) for tensor in graph.inputs}
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
                self._now(tensor, _STEPS)
        for node in list(graph.nodes):
            if node.domain == DOMAIN:
                self._fire(node, delayed)
            elif any(self._of(tensor) for tensor in node.inputs):
                self._compute(node)
            else:
                follow_rows(node, self._rows)
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
        if self._of(x):
            node.inputs[0] = self._get(x, _STEPS)
        else:
            node.inputs[0] = self._repeat(x, apart=False)
        y = node.outputs[0]
        self._rows[id(y)] = self._rows.get(id(x))
        if not delayed:
            self._now(y, _STEPS)
            return
        spikes = variable(unique_name(self._graph, f"{y.name}.spikes"))
        spikes.dtype = y.dtype
        node.outputs[0] = spikes
        chain = self._put.chain(spikes, OUTPUT, y)
        self._put.mean_of_all(chain, spikes, mean=False, apart=False)

    # Other nodes --------------------------------------------------------------------------------

    def _compute(self, node: Node) -> None:
        timed = {at for at, tensor in enumerate(node.inputs) if self._of(tensor)}
        if node.op in ("Shape", "Size"):
            self._shape_without_time(node)
            return
        stepwise = any(not form.mean for at in timed for form in self._forms[id(node.inputs[at])])
        affine = is_affine(node, timed)
        rows = rows_over_time(node, timed, self._rows)
        apart = needs_time_apart(node, timed, rows)
        counts = any(not is_float(node.inputs[at]) for at in timed)
        if not affine and not (counts and stepwise):  # integers select, step by step
            stepwise = False
            self.changes.append(f"{node.op} {node.name}: on the running mean")
        elif stepwise and not counts and _may_be_huge(node, timed):
            stepwise = False
        form = _Form(mean=not stepwise, apart=apart)
        if apart:
            self._apart(node, timed, form)
        else:
            self._joined(node, timed, form)
        if node.op == "Flatten":  # [T, D, ...] as [T, -1]: what was one row is T
            form = replace(form, apart=False)
        for output in node.outputs:
            self._now(output, form)

    def _joined(self, node: Node, timed: set[int], form: _Form) -> None:
        """Let a node read steps that are joined."""
        repeated = _with_rows(node, timed)
        for at in timed:
            node.inputs[at] = self._get(node.inputs[at], form)
        for at in repeated:
            node.inputs[at] = self._repeat(node.inputs[at], apart=False)
        if node.op in ("Reshape", "Expand"):
            above = 0 if node.op == "Reshape" else 1
            node.inputs[1] = self._put.timed_shape(node.inputs[1], above)
        if node.op == "Resize" and len(node.inputs) > 3:
            node.inputs[3] = self._put.timed_shape(node.inputs[3], 0)

    def _apart(self, node: Node, timed: set[int], form: _Form) -> None:
        """Rule 4."""
        with_time(self._graph, node, timed, self._steps, self._put.prefix)
        largest = _largest_rank(node)
        whole = node.op in ("Concat", "GatherElements") or "batch_dims" in node.attrs
        for at, tensor in enumerate(node.inputs):
            if at in timed:
                node.inputs[at] = self._get(tensor, form)
                if largest > len(shape_of(tensor)):
                    node.inputs[at] = self._align(tensor, node.inputs[at], largest)
            elif whole:
                node.inputs[at] = self._repeat(tensor, apart=True)
        metadata(node)[TIME] = APART

    def _shape_without_time(self, node: Node) -> None:
        """Shape or Size of what depends on time."""
        tensor, asked = node.inputs[0], node.outputs[0]
        start, rank = int(node.attrs.get("start", 0)), rank_of(tensor)
        if rank == 0 or (rank is None and start < 0):
            raise refused(node, "reads a scalar" if rank == 0 else "its rank is not known")
        joined = next(iter(self._forms[id(tensor)]))
        node.inputs[0] = self._get(tensor, replace(joined, apart=False))
        if node.op == "Shape" and (start > 0 or -(rank or 0) < start < 0):
            return
        readers = list(asked.outputs)
        chain = self._put.chain(asked, "shape")
        if node.op == "Size":
            new = chain.end("Div", asked, self._put.integers(self._steps))
        else:
            new = chain.end("Concat", *self._put.without_time(chain, asked), axis=0)
        new.shape = asked.shape  # a rule may ask how many lengths there are
        redirect(readers, asked, new)

    # Forms --------------------------------------------------------------------------------------

    def _of(self, tensor: Tensor) -> dict[_Form, Tensor] | None:
        return self._forms.get(id(tensor))

    def _now(self, tensor: Tensor, form: _Form) -> None:
        """From here on the tensor depends on time."""
        self._timed.append(tensor)
        self._forms[id(tensor)] = {form: tensor}
        self._graph.extras.value_infos.pop(tensor.name, None)

    def _get(self, tensor: Tensor, form: _Form) -> Tensor:
        """A tensor that depends on time as it is wanted; made of what there is."""
        forms = self._forms[id(tensor)]
        if form in forms:
            return forms[form]
        turned = replace(form, apart=not form.apart)
        if turned not in forms:  # first of the other kind, then laid out
            other = next(iter(forms))
            source, turned = forms[other], replace(form, apart=other.apart)
            _check_float(tensor)
            chain = self._put.chain(source, "means" if form.mean else "steps")
            turn = self._put.means_of if form.mean else self._put.steps_of
            forms[turned] = turn(chain, source, tensor)
        if form not in forms:
            source = forms[turned]
            if form.apart:
                forms[form] = self._put.part(self._put.chain(source, "parted"), source)
            else:
                forms[form] = self._put.join(self._put.chain(source, "joined"), source)
        return forms[form]

    def _align(self, tensor: Tensor, apart: Tensor, rank: int) -> Tensor:
        """A tensor that is apart, with as many axes behind T as the others have."""
        key = id(apart), rank
        if key not in self._aligned:
            chain = self._put.chain(apart, "aligned")
            count = rank - len(shape_of(tensor))
            self._alive.append(apart)
            self._aligned[key] = self._put.align(chain, apart, count)
        return self._aligned[key]

    def _repeat(self, tensor: Tensor, *, apart: bool) -> Tensor:
        """What does not depend on time, at every step."""
        key = id(tensor), apart
        if key not in self._repeated:
            rank = len(tensor.shape or ())
            if rank == 0:
                raise NotOverTimeError(
                    f"'{tensor.name}' has to be repeated at every step, and has no known batch axis"
                )
            self._alive.append(tensor)
            chain = self._put.chain(tensor, REPEATED)
            self._repeated[key] = self._put.repeat(chain, tensor, rank, apart)
        return self._repeated[key]

    # The network's interface --------------------------------------------------------------------

    def _open_axis(self, tensor: Tensor) -> None:
        """An input gets T as first axis; inside, steps are rows."""
        if not tensor.shape:
            raise NotOverTimeError(f"the input '{tensor.name}' has no batch axis to put T before")
        readers = list(tensor.outputs)
        inside = self._put.join(self._put.chain(tensor, INPUT_STEPS), tensor)
        inside.shape = list(tensor.shape)  # of the spatial network, as all rules speak of it
        redirect(readers, tensor, inside)
        self._rows[id(inside)] = self._rows.get(id(tensor))
        self._now(inside, _STEPS)
        _put_axis(self._graph, tensor, self._steps)

    def _close(self, position: int, tensor: Tensor, time_axis: bool) -> None:
        """What the network gives: all steps, rows step by step, or the mean over steps."""
        graph, forms = self._graph, self._of(tensor)
        if forms is None and not time_axis:
            return
        name = tensor.name
        if forms is not None and name in self._kept and forms.get(_STEPS) is tensor:
            return
        steps: Tensor | None = None
        if forms is None:
            steps = self._repeat(tensor, apart=False)
        elif time_axis or name in self._kept:
            steps = forms.get(_APART) if time_axis else None
            steps = self._get(tensor, _STEPS) if steps is None else steps
        tensor.name = unique_name(graph, f"{name}.inside")
        output = variable(name, tensor)
        graph.outputs[position] = output
        if steps is None:
            self._mean_of_all(tensor, output)
        elif not time_axis:
            self._put.chain(tensor, OUTPUT, output).end("Identity", steps)
        else:
            chain = self._put.chain(tensor, OUTPUT_STEPS, output)
            if forms is not None and steps is forms.get(_APART):
                chain.end("Identity", steps)
            else:
                self._put.part(chain, steps)
            _put_axis(graph, output, self._steps)

    def _mean_of_all(self, tensor: Tensor, into: Tensor) -> None:
        """The mean over all steps, without time."""
        form, source = next(iter(self._forms[id(tensor)].items()))
        if not form.mean:
            _check_float(tensor)
        chain = self._put.chain(tensor, OUTPUT, into)
        self._put.mean_of_all(chain, source, mean=form.mean, apart=form.apart)


def _check_float(tensor: Tensor) -> None:
    if not is_float(tensor):
        raise NotOverTimeError(
            f"'{tensor.name}' holds no floats and depends on time: it has no mean over steps"
        )


def _may_be_huge(node: Node, timed: set[int]) -> bool:
    """Whether a node puts in what sums of steps overflow with: the lowest float that masks write.

    Of what is selected while the network runs nothing is known.
    """
    for at, tensor in enumerate(node.inputs):
        if at in timed or not is_float(tensor):
            continue
        if not is_constant(tensor):
            if node.op == "Where":
                return True
        elif tensor.values.size and np.abs(tensor.values).max() > _HUGE:
            return True
    return False


def _largest_rank(node: Node) -> int:
    """What the inputs of a node are aligned to; 0 where they are not."""
    if node.op == "Expand":
        return len(shape_of(node.outputs[0]))
    ranks = [len(tensor.shape or ()) for tensor in node.inputs]
    aligned = properties(node.op).broadcasts and not (node.op == "MatMul" and 1 in ranks)
    return max(ranks) if aligned else 0


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
    if node.op == "Attention":
        return [at for at in others if at != _MASK or _has_rows(node.inputs[at], _MASK_RANK)]
    if node.op == "Einsum":
        terms = str(node.attrs["equation"]).replace(" ", "").partition("->")[0].split(",")
        label = terms[min(timed)][0]
        return [at for at in others if terms[at][:1] == label]
    if node.op == "Gemm":
        others = [at for at in others if at == 2]
    elif not properties(node.op).broadcasts or (node.op == "MatMul" and largest < _BATCHED_RANK):
        return []
    return [at for at in others if _has_rows(node.inputs[at], largest)]


def _has_rows(tensor: Tensor, rank: int) -> bool:
    shape = shape_of(tensor)
    return len(shape) == rank and shape[0] != 1


def _put_axis(graph: Graph, tensor: Tensor, steps: int) -> None:
    """Declare T as a new first axis of an input or output whose rank is known."""
    value = graph.interface[tensor.name]
    if not value.type.tensor_type.HasField("shape"):
        return
    new = type(value)()
    new.CopyFrom(value)
    shape = new.type.tensor_type.shape
    lengths = list(shape.dim)
    del shape.dim[:]
    shape.dim.add(dim_value=steps)
    shape.dim.extend(lengths)
    graph.interface[tensor.name] = new
    graph.extras.value_infos.pop(tensor.name, None)
