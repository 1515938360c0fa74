"""Which channels of a network's tensors may be scaled without changing what it computes.

Every channel c that parameters make has a scale s_c > 0: the operator that makes the channel gives
x_c / s_c, what reads it as such multiplies by s_c. This analysis finds which channels must have one
scale, which the inverse of another's, and which have to keep 1. It changes nothing.

1. New channels: outputs of Conv, ConvTranspose, Gemm and MatMul whose weight and bias are constant,
   and of LayerNormalization, RMSNormalization, InstanceNormalization, BatchNormalization and
   GroupNormalization (from opset 21) whose gain and bias are. The weight (gain) and bias are
   divided by s along the output channels.
2. A linear operator of rule 1 that reads channels along the axis it sums over has its weight
   multiplied by s along the input channels.
3. The same channels: results of operators that are homogeneous, f(a x) = a f(x) for a > 0, and
   treat channels alone: Relu, LeakyRelu, PRelu, Clip at 0 from below alone, Abs, Neg, Identity,
   Dropout, Mul and Div by what has no channels of its own, pools, Pad, Slice, Split, Gather and
   reductions along other axes.
4. Moved channels: Reshape, Flatten, Squeeze and Unsqueeze where the sizes from the channels on are
   known, Transpose, Concat, and Slice, Split and Gather (constant indices) along the channels.
   Zeros that Pad adds as channels may have any scale.
5. Add and Sub: the channels of both operands have one scale. A constant is divided by s.
6. MatMul of two signals: channels that are not summed over pass. Those that are, as in Q K^T,
   have scales that are inverse to each other.
7. All else that reads a channel (other operators, outputs of the network, control-flow bodies)
   keeps its scale at 1, and so does being joined with what has no channels.

A tensor's channels are an array of channel numbers with its rank, of size 1 along the axes on which
the scale does not depend. Everything is float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ..graph.graph import (
    ANN_DOMAIN,
    Graph,
    Node,
    Tensor,
    bodies,
    is_constant,
    is_standard,
    opset_version,
)
from .operators import Role, properties

_LINEAR = frozenset(["Conv", "ConvTranspose", "Gemm", "MatMul"])
#: Normalisations with a gain and bias per channel.
NORM_OPS = frozenset(
    [
        *("LayerNormalization", "RMSNormalization", "InstanceNormalization"),
        *("BatchNormalization", "GroupNormalization"),
    ]
)
#: These read the shape of a tensor, not its values.
_SHAPE_READERS = frozenset(["Shape", "Size"])


class Channels:
    """Channel numbers, and which of them have one scale: union-find with inverses."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._sign: list[int] = []  # the scale is the parent's to this power
        self._fixed: dict[int, str] = {}

    def new(self, *shape: int) -> np.ndarray:
        """Numbers of channels that are free to have any scale; int64 of that shape."""
        start, count = len(self._parent), int(np.prod(shape))
        self._parent += range(start, start + count)
        self._sign += [1] * count
        return np.arange(start, start + count).reshape(shape)

    def tie(self, a: np.ndarray, b: np.ndarray, sign: int = 1) -> None:
        """Let a have the scale of b to the power ``sign``, element by element."""
        pairs = np.stack([array.ravel() for array in np.broadcast_arrays(a, b)])
        for one, other in np.unique(pairs, axis=1).T:
            (root, of_one), (target, of_other) = self._find(int(one)), self._find(int(other))
            relation = of_one * of_other * sign
            if root == target:
                if relation < 0:
                    self._fixed.setdefault(root, "its scale would be its own inverse")
                continue
            self._parent[root], self._sign[root] = target, relation
            if root in self._fixed:
                self._fixed.setdefault(target, self._fixed.pop(root))

    def fix(self, numbers: np.ndarray, reason: str) -> None:
        """Keep the scale of these channels at 1."""
        for number in np.unique(numbers):
            self._fixed.setdefault(self._find(int(number))[0], reason)

    def roots(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each channel, the number whose scale it has, -1 where it is 1, and to which power."""
        found = {int(number): self._find(int(number)) for number in np.unique(numbers)}
        pairs = [found[int(number)] for number in numbers.ravel()]
        roots = np.array([-1 if root in self._fixed else root for root, _ in pairs], np.int64)
        signs = np.array([sign for _, sign in pairs], np.int64)
        return roots.reshape(numbers.shape), signs.reshape(numbers.shape)

    def why_fixed(self, numbers: np.ndarray) -> str:
        """The first reason for which one of these channels keeps 1; empty where none does."""
        for number in np.unique(numbers):
            root, _ = self._find(int(number))
            if root in self._fixed:
                return self._fixed[root]
        return ""

    def _find(self, number: int) -> tuple[int, int]:
        path = []
        while self._parent[number] != number:
            path.append(number)
            number = self._parent[number]
        sign = 1
        for step in reversed(path):
            sign *= self._sign[step]
            self._parent[step], self._sign[step] = number, sign
        return number, sign


@dataclass(frozen=True)
class Parameter:
    """A constant input that changes with the scales.

    Attributes:
        node: its reader.
        position: which input it is.
        shape: what it is reshaped to before it is scaled; None: as it is.
        channels: channel numbers, broadcastable with that shape.
        power: 1 where it is multiplied by the scales, -1 where it is divided.
    """

    node: Node
    position: int
    shape: tuple[int, ...] | None
    channels: np.ndarray
    power: int


class _Blocked(Exception):
    """The rules end here; the text is the reason."""


class ChannelFlow:
    """The channels of every tensor of a graph.

    Attributes:
        channels: which channels have one scale.
        parameters: what changes with the scales.

    Args:
        graph: a canonical graph with inferred shapes, sorted. Bodies are not looked into.
    """

    def __init__(self, graph: Graph) -> None:
        self.channels = Channels()
        self.parameters: list[Parameter] = []
        self._graph = graph
        self._numbers: dict[int, np.ndarray] = {}
        self._why: dict[int, str] = {}
        for tensor in graph.inputs:
            self._why[id(tensor)] = f"it comes from the network's input {tensor.name}"
        for node in graph.nodes:
            self._visit(node)
        for tensor in graph.outputs:
            self._fix(tensor, f"{tensor.name} is an output of the network")

    def of(self, tensor: Tensor) -> np.ndarray | None:
        """Channel numbers of a tensor; None where its scale is 1."""
        return self._numbers.get(id(tensor))

    def why_none(self, tensor: Tensor) -> str:
        """Why a tensor has no channels."""
        return self._why.get(id(tensor), "it is not computed in the main graph")

    def _visit(self, node: Node) -> None:
        for tensor in _captured(node):
            self._fix(tensor, f"a body of {node.op} {node.name} reads {tensor.name}")
        if node.op in _SHAPE_READERS and is_standard(node):
            return
        try:
            found = self._rule(node)(self, node) if self._concerns(node) else []
        except _Blocked as reason:
            for tensor in node.inputs:
                self._fix(tensor, str(reason))
            found = []
        for tensor, numbers in zip(node.outputs, found, strict=False):
            if numbers is not None:
                self._numbers[id(tensor)] = numbers
        for tensor in node.outputs:
            if id(tensor) not in self._numbers:
                self._why[id(tensor)] = self._origin(node)

    def _concerns(self, node: Node) -> bool:
        """Whether the node makes channels or reads some."""
        makes = node.op in _LINEAR or node.op in NORM_OPS
        return makes or any(self.of(tensor) is not None for tensor in node.inputs)

    def _rule(self, node: Node) -> _Rule:
        known = is_standard(node) or (node.domain == ANN_DOMAIN and node.op in NORM_OPS)
        if not known or node.op not in _RULES or bodies(node):
            raise _Blocked(_reads(node))
        return _RULES[node.op]

    def _origin(self, node: Node) -> str:
        """Why what this node computes has no channels."""
        if properties(node.op).role is Role.ACTIVATION and (
            node.op not in _RULES or _is_bounded(node)
        ):
            return _reads(node)
        signals = [tensor for tensor in node.inputs if not is_constant(tensor)]
        if node.op in _RULES and node.op not in (_LINEAR | NORM_OPS) and signals:
            inherited = self._why.get(id(signals[0]))
            if inherited is not None:
                return inherited
        return f"it comes from {node.op} {node.name}"

    def _fix(self, tensor: Tensor, reason: str) -> None:
        numbers = self.of(tensor)
        if numbers is not None:
            self.channels.fix(numbers, reason)

    # One method for each kind of operator: the channels of its outputs, None where there are none.
    # Those that make no channels are called where an input has some.

    def _linear(self, node: Node) -> _Found:
        """Rules 1, 2 and 6."""
        weight = node.inputs[1]
        if not is_constant(weight):
            if node.op == "MatMul":
                return self._product(node)
            raise _Blocked(f"the weight of {node.op} {node.name} is not constant")
        if is_constant(node.inputs[0]):
            raise _Blocked(_reads(node))
        if weight.dtype != np.float32 or (node.op == "MatMul" and len(weight.shape) != 2):
            raise _Blocked(f"the weight of {node.op} {node.name} is no matrix of float32")
        if node.attrs.get("transA", 0):
            raise _Blocked(f"Gemm {node.name} transposes its input")
        layout = _layout(node)
        numbers = self.of(node.inputs[0])
        if numbers is not None:
            self._sum_over(node, numbers, layout)
        return [self._new_outputs(node, layout)]

    def _sum_over(self, node: Node, numbers: np.ndarray, layout: _Layout) -> None:
        axis = layout.axis % numbers.ndim
        if numbers.size != numbers.shape[axis] or numbers.size not in (1, layout.inputs):
            reason = f"{node.op} {node.name} sums over another axis than that of the channels"
            self.channels.fix(numbers, reason)
            return
        numbers = np.broadcast_to(numbers.ravel(), layout.inputs)
        view = numbers.reshape(layout.input_shape)
        self.parameters.append(Parameter(node, 1, layout.view, view, 1))

    def _new_outputs(self, node: Node, layout: _Layout) -> np.ndarray | None:
        rank = layout.rank or _rank(node.outputs[0])
        if rank is None:
            return None
        bias = node.inputs[2] if len(node.inputs) > 2 and not node.inputs[2].is_empty() else None
        if bias is not None and not _is_float_constant(bias):
            self._fix(bias, _reads(node))
            return None
        numbers = self.channels.new(layout.outputs)
        view = numbers.reshape(layout.output_shape)
        self.parameters.append(Parameter(node, 1, layout.view, view, -1))
        if bias is not None:
            self.parameters.append(Parameter(node, 2, None, numbers, -1))
        return _along(numbers, layout.axis, rank)

    def _product(self, node: Node) -> _Found:
        """Rule 6."""
        a, b = (self.of(tensor) for tensor in node.inputs)
        rank = _rank(node.outputs[0])
        if (a is None and b is None) or rank is None:
            raise _Blocked(f"MatMul {node.name} multiplies two signals")
        if any(numbers is not None and numbers.ndim < 2 for numbers in (a, b)):
            raise _Blocked(f"MatMul {node.name} multiplies by a vector")
        summed_a = a is not None and a.shape[-1] > 1
        summed_b = b is not None and b.shape[-2] > 1
        if a is not None and b is not None:
            if a.shape[-2] > 1 or b.shape[-1] > 1:
                raise _Blocked(f"MatMul {node.name} multiplies two signals with channels")
            self.channels.tie(_aligned(a, rank), np.swapaxes(_aligned(b, rank), -1, -2), -1)
            return []
        if summed_a or summed_b:
            raise _Blocked(f"MatMul {node.name} sums over the channels")
        return [_aligned(_either(a, b), rank)]

    def _norm(self, node: Node) -> _Found:
        """Rule 1."""
        self._fix(node.inputs[0], f"{node.op} {node.name} normalises it")
        rank = _rank(node.outputs[0])
        gain, *rest = node.inputs[1:3]
        given = [tensor for tensor in (gain, *rest) if not tensor.is_empty()]
        for tensor in node.inputs[1:]:
            self._fix(tensor, _reads(node))
        if rank is None or not all(_is_float_constant(tensor) for tensor in given):
            return []
        if node.attrs.get("training_mode", 0) or len(gain.shape) > rank:
            return []
        if node.op == "GroupNormalization" and opset_version(self._graph) < 21:
            return []  # its gain is one value per group
        numbers = self.channels.new(*gain.shape)
        for position, tensor in enumerate(node.inputs[1:3], 1):
            if not tensor.is_empty():
                self.parameters.append(Parameter(node, position, None, numbers, -1))
        trailing = node.op in ("LayerNormalization", "RMSNormalization")
        return [_aligned(numbers, rank) if trailing else _along(numbers, 1, rank)]

    def _homogeneous(self, node: Node) -> _Found:
        """Rule 3, element by element."""
        if _is_bounded(node) or (node.op == "Dropout" and _has(node, 2)):
            raise _Blocked(_reads(node))
        return [self._first(node)]

    def _scaled(self, node: Node) -> _Found:
        """Mul and Div of rule 3."""
        a, b = (self.of(tensor) for tensor in node.inputs)
        rank = _rank(node.outputs[0])
        if rank is None or (b is not None and (a is not None or node.op == "Div")):
            raise _Blocked(f"{node.op} {node.name} combines it with another signal")
        return [_aligned(_either(a, b), rank)]

    def _sum(self, node: Node) -> _Found:
        """Rule 5."""
        a, b = (self.of(tensor) for tensor in node.inputs)
        rank = _rank(node.outputs[0])
        if rank is None:
            raise _Blocked(f"the rank of what {node.op} {node.name} gives is unknown")
        if a is not None and b is not None:
            a, b = _aligned(a, rank), _aligned(b, rank)
            self.channels.tie(a, b)
            return [a if a.size >= b.size else b]
        position = 0 if a is None else 1
        other = node.inputs[position]
        if not _is_float_constant(other):
            why = self.why_none(other)
            raise _Blocked(f"{node.op} {node.name} adds {other.name}: {why}")
        aligned = _aligned(_either(a, b), rank)
        self.parameters.append(Parameter(node, position, None, aligned, -1))
        return [aligned]

    def _pool(self, node: Node) -> _Found:
        numbers = self._first(node)
        if max(numbers.shape[2:], default=1) > 1:
            raise _Blocked(f"{node.op} {node.name} combines its channels")
        return [numbers]

    def _reduce(self, node: Node) -> _Found:
        numbers = self._first(node)
        axes = _integers(node, 1, "axes")
        if not axes or any(numbers.shape[axis] > 1 for axis in axes):
            raise _Blocked(f"{node.op} {node.name} combines its channels")
        keeps = node.attrs.get("keepdims", 1)
        return [numbers if keeps else np.squeeze(numbers, tuple(axes))]

    def _pad(self, node: Node) -> _Found:
        numbers = self._first(node)
        pads = _integers(node, 1, "pads")
        fill = node.inputs[2] if len(node.inputs) > 2 else None
        mode = node.attrs.get("mode", "constant")
        if pads is None or (mode == "constant" and not _is_zero(fill, node.attrs.get("value", 0))):
            raise _Blocked(f"Pad {node.name} adds other values than zeros")
        chosen = _integers(node, 3, "axes")
        axes = list(range(numbers.ndim)) if chosen is None else chosen
        for axis, before, after in zip(axes, pads, pads[len(axes) :], strict=False):
            if numbers.shape[axis] == 1 or not (before or after):
                continue
            if mode != "constant" or min(before, after) < 0:
                raise _Blocked(f"Pad {node.name} changes its channels")
            sizes = [list(numbers.shape), list(numbers.shape)]
            sizes[0][axis], sizes[1][axis] = before, after
            parts = [self.channels.new(*sizes[0]), numbers, self.channels.new(*sizes[1])]
            numbers = np.concatenate(parts, axis)
        return [numbers]

    def _slice(self, node: Node) -> _Found:
        numbers = self._first(node)
        starts, ends, axes, steps = (
            _integers(node, i, name)
            for i, name in enumerate(("starts", "ends", "axes", "steps"), 1)
        )
        if (axes is None and _has(node, 3)) or (steps is None and _has(node, 4)):
            raise _Blocked(f"Slice {node.name} is not constant")
        for i, axis in enumerate(range(len(starts or ())) if axes is None else axes):
            if numbers.shape[axis] == 1:
                continue
            step = steps[i] if steps else 1
            if starts is None or ends is None or step < 1:
                raise _Blocked(f"Slice {node.name} is not constant")
            taken = range(numbers.shape[axis])[starts[i] : ends[i] : step]
            numbers = np.take(numbers, list(taken), axis)
        if starts is None and numbers.size > 1 and axes is None:
            raise _Blocked(f"Slice {node.name} is not constant")
        return [numbers]

    def _gather(self, node: Node) -> _Found:
        numbers = self._first(node)
        axis, indices = node.attrs.get("axis", 0), node.inputs[1]
        if numbers.shape[axis] == 1:
            rank = _rank(indices)
            if rank is None:
                raise _Blocked(_reads(node))
            return [np.take(numbers, np.zeros((1,) * rank, np.int64), axis)]
        if not is_constant(indices):
            raise _Blocked(f"Gather {node.name} selects channels at run time")
        return [np.take(numbers, indices.values, axis)]

    def _split(self, node: Node) -> _Found:
        numbers = self._first(node)
        axis = node.attrs.get("axis", 0)
        if numbers.shape[axis] == 1:
            return [numbers] * len(node.outputs)
        found = [None if t.shape is None else t.shape[axis] for t in node.outputs]
        sizes = [size for size in found if isinstance(size, int)]
        if len(sizes) < len(found):
            raise _Blocked(f"Split {node.name} has outputs of unknown size")
        return list(np.split(numbers, np.cumsum(sizes)[:-1], axis))

    def _concat(self, node: Node) -> _Found:
        found = [self.of(tensor) for tensor in node.inputs]
        given = [numbers for numbers in found if numbers is not None]
        axis = node.attrs["axis"] % given[0].ndim
        if len(given) == len(found) and all(numbers.shape[axis] == 1 for numbers in given):
            for other in given[1:]:
                self.channels.tie(given[0], other)
            return [max(given, key=np.size)]
        parts = []
        for tensor, numbers in zip(node.inputs, found, strict=True):
            part = numbers
            if part is None:
                part = self.channels.new(*[1] * given[0].ndim)
                self.channels.fix(part, f"{node.op} {node.name} joins it with {tensor.name}")
            if part.shape[axis] == 1:
                size = None if tensor.shape is None else tensor.shape[axis]
                if not isinstance(size, int):
                    raise _Blocked(f"{node.op} {node.name} joins parts of unknown size")
                part = np.repeat(part, size, axis)
            parts.append(part)
        others = np.broadcast_shapes(*(part.take([0], axis).shape for part in parts))
        wide = [np.broadcast_to(part, _with(others, axis, part.shape[axis])) for part in parts]
        return [_narrowed(np.concatenate(wide, axis))]

    def _transpose(self, node: Node) -> _Found:
        return [np.transpose(self._first(node), node.attrs.get("perm"))]

    def _reshape(self, node: Node) -> _Found:
        """Row-major order aligns the last axes, whatever the sizes of the first ones are."""
        numbers = self._first(node)
        before, after = _sizes(node.inputs[0]), _sizes(node.outputs[0])
        if numbers.size == 1 and after:
            return [numbers.reshape((1,) * len(after))]
        first = next((i for i, size in enumerate(numbers.shape) if size > 1), numbers.ndim)
        for start in range(min(first, len(before) - 1), -1, -1):
            block = _known(before[start:])
            for other in range(len(after) - 1, -1, -1):
                target = _known(after[other:])
                if block and target and np.prod(block) == np.prod(target):
                    moved = np.broadcast_to(numbers[(0,) * start], block).reshape(target)
                    return [_aligned(_narrowed(moved), len(after))]
        raise _Blocked(f"where {node.op} {node.name} puts the channels is not known")

    def _first(self, node: Node) -> np.ndarray:
        """Channels of the first input, where the others have none."""
        numbers = self.of(node.inputs[0])
        if numbers is None or any(self.of(tensor) is not None for tensor in node.inputs[1:]):
            raise _Blocked(_reads(node))
        return numbers


_Found = list[np.ndarray | None]
_Rule = Callable[[ChannelFlow, Node], _Found]

_RULES: dict[str, _Rule] = {
    **dict.fromkeys(_LINEAR, ChannelFlow._linear),
    **dict.fromkeys(NORM_OPS, ChannelFlow._norm),
    **dict.fromkeys(
        ("Relu", "LeakyRelu", "PRelu", "Clip", "Abs", "Neg", "Identity", "Dropout"),
        ChannelFlow._homogeneous,
    ),
    **dict.fromkeys(("Mul", "Div"), ChannelFlow._scaled),
    **dict.fromkeys(("Add", "Sub"), ChannelFlow._sum),
    **dict.fromkeys(
        ("MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool"),
        ChannelFlow._pool,
    ),
    **dict.fromkeys(
        ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2"),
        ChannelFlow._reduce,
    ),
    "Pad": ChannelFlow._pad,
    "Slice": ChannelFlow._slice,
    "Gather": ChannelFlow._gather,
    "Split": ChannelFlow._split,
    "Concat": ChannelFlow._concat,
    "Transpose": ChannelFlow._transpose,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), ChannelFlow._reshape),
}


@dataclass(frozen=True)
class _Layout:
    """How the weight of a linear operator holds its channels.

    Attributes:
        inputs: number of channels it sums over.
        outputs: number of channels it makes.
        axis: axis of both in the signals.
        rank: of the output, None where it depends on the input.
        view: shape of the weight with groups and channels on axes of their own.
        input_shape: shape of the input channels there, 1 on the other axes.
        output_shape: likewise for the output channels.
    """

    inputs: int
    outputs: int
    axis: int
    rank: int | None
    view: tuple[int, ...]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]


def _layout(node: Node) -> _Layout:
    shape = tuple(int(size) for size in node.inputs[1].shape)
    if node.op in ("Gemm", "MatMul"):
        rank = 2 if node.op == "Gemm" else None
        if node.attrs.get("transB", 0):
            return _Layout(shape[1], shape[0], -1, rank, shape, (1, shape[1]), (shape[0], 1))
        return _Layout(shape[0], shape[1], -1, rank, shape, (shape[0], 1), (1, shape[1]))
    groups = int(node.attrs.get("group", 1))
    if shape[0] % groups:
        raise _Blocked(f"the weight of {node.op} {node.name} does not fit its groups")
    kernel, ones = shape[2:], (1,) * (len(shape) - 2)
    first, second = shape[0] // groups, shape[1]
    view = (groups, first, second, *kernel)
    along_first, along_second = (groups, first, 1, *ones), (groups, 1, second, *ones)
    if node.op == "Conv":
        inputs, outputs, to, by = second * groups, shape[0], along_second, along_first
    else:
        inputs, outputs, to, by = shape[0], second * groups, along_first, along_second
    return _Layout(inputs, outputs, 1, len(shape), view, to, by)


def _reads(node: Node) -> str:
    if properties(node.op).role is Role.ACTIVATION:
        return f"{node.op} {node.name} is not homogeneous"
    return f"{node.op} {node.name} reads it"


def _captured(node: Node) -> Iterator[Tensor]:
    """What the bodies of a node read, tensors of outer scopes included."""
    for body in bodies(node):
        yield from body.outputs
        for inner in body.nodes:
            yield from inner.inputs
            yield from _captured(inner)


def _rank(tensor: Tensor) -> int | None:
    return None if tensor.shape is None else len(tensor.shape)


def _is_float_constant(tensor: Tensor) -> bool:
    return is_constant(tensor) and tensor.dtype == np.float32


def _is_bounded(clip: Node) -> bool:
    """Whether a Clip has another lower bound than 0, or an upper one."""
    if clip.op != "Clip":
        return False
    low = clip.inputs[1] if _has(clip, 1) else None
    if low is None or not is_constant(low) or np.any(low.values != 0):
        return True
    high = clip.inputs[2] if _has(clip, 2) else None
    # The largest float32 is how exporters write 'no upper bound'.
    largest = np.finfo(np.float32).max
    return high is not None and not (is_constant(high) and bool(np.all(high.values >= largest)))


def _is_zero(fill: Tensor | None, value: float) -> bool:
    if fill is None or fill.is_empty():
        return value == 0
    return is_constant(fill) and not np.any(fill.values)


def _has(node: Node, index: int) -> bool:
    return len(node.inputs) > index and not node.inputs[index].is_empty()


def _integers(node: Node, position: int, attribute: str) -> list[int] | None:
    """A list of integers that is an attribute or, in newer opsets, a constant input."""
    if attribute in node.attrs:
        return [int(value) for value in node.attrs[attribute]]
    if not _has(node, position) or not is_constant(node.inputs[position]):
        return None
    return [int(value) for value in node.inputs[position].values.ravel()]


def _along(numbers: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """[C] as [1, C, 1, ...] of a rank."""
    return numbers.reshape(_with((1,) * rank, axis % rank, numbers.size))


def _with(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


def _aligned(numbers: np.ndarray, rank: int) -> np.ndarray:
    """With axes of size 1 in front, as broadcasting adds them."""
    return numbers.reshape((1,) * (rank - numbers.ndim) + numbers.shape)


def _either(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray:
    """The operand that has channels."""
    numbers = a if a is not None else b
    assert numbers is not None
    return numbers


def _narrowed(numbers: np.ndarray) -> np.ndarray:
    """Of size 1 along every axis on which nothing changes."""
    for axis in range(numbers.ndim):
        one = numbers.take([0], axis)
        if np.all(numbers == one):
            numbers = one
    return numbers


def _sizes(tensor: Tensor) -> list[int | str | None]:
    """The shape; the last size where a product with a weight matrix alone tells it."""
    sizes = list(tensor.shape or ())
    reader = tensor
    while sizes and not isinstance(sizes[-1], int) and len(reader.outputs) == 1:
        node = reader.outputs[0]
        if node.op == "Identity":
            reader = node.outputs[0]
            continue
        if node.op in ("Gemm", "MatMul") and is_constant(node.inputs[1]):
            matrix = node.inputs[1].shape
            fits = node.inputs[0] is reader and len(matrix) == 2
            if fits and not node.attrs.get("transA", 0):
                sizes[-1] = int(matrix[1 if node.attrs.get("transB", 0) else 0])
        break
    return sizes


def _known(sizes: list[int | str | None]) -> tuple[int, ...]:
    """The sizes; empty where one is not known."""
    known = tuple(size for size in sizes if isinstance(size, int) and size > 0)
    return known if len(known) == len(sizes) else ()
