"""A network of multi-threshold neurons, over T steps or one, as a NIR graph.

Over T steps the network that is written is the one that ``spatial_to_temporal`` makes of the same
source with immediate firing: the input is presented at every step, and a neuron of threshold theta
and N+ = T levels is an integrate-and-fire neuron of threshold T theta that fires at most once a
step. NIR knows no number of steps; the metadata of the graph hold T, and the outputs of the ONNX
network are the means of those of the NIR graph over T steps.

Over one step a neuron of N+ = N levels is N neurons, each of which fires at this step or never, so
that it does not matter how they are reset. They read the input once.

1. Conv of two dimensions -> Conv2d, with groups, strides and dilations. Where one end is padded
   more than the other, the kernel gets weights of 0, and both ends are padded like it. What a Pad
   in front of it puts around rows and columns is padding too.
2. Gemm, MatMul with a constant -> Affine. A missing bias is one of zeros: not every reader has
   nodes without one.
3. MultiThresholdFire with N+ = T, N- = 0 -> IF with r = 1, a threshold per neuron. Where the ONNX
   neuron gives T theta, that of NIR gives 1; the factor goes into what reads the spikes
   (``builder.py``). For v0 > 0 the start pulse (``start.py``) charges it in the first step.
   Over one step -> a convolution of 1 x 1, or a matrix, that copies each channel for each of its
   levels, and IF of one threshold for all (``once.py``): planes of the channel.
4. AveragePool without padding, GlobalAveragePool, ReduceMean over rows and columns -> SumPool2d;
   the divisor is a factor too.
5. Flatten, Reshape and Squeeze that give [N, features] -> Flatten.
6. Add and Sub of signals -> edges to one node. Concat of channels, zero channels from Pad, Slice of
   channels and every n-th row and column -> Conv2d of 1 x 1 with the weights 0 and 1.
7. Mul, Div, Add, Sub with a constant per channel -> factors and biases. Identity, Dropout, Cast
   between floats -> none.
8. MaxPool, GlobalMaxPool of a neuron's spikes, or right in front of a neuron, over one step ->
   SumPool2d and IF: of planes that are nested the largest number is the number of those in which
   any fires.
9. Softmax and LogSoftmax over the classes that give an output -> none: the graph gives the scores
   that they read. Its metadata say so.
10. An output over one step -> I, the potential of an integrator: some tools take what a graph gives
    from neurons alone.
11. Transpose and Reshape to [N, C, H, W] that alone read an input, as exporters of networks with
    channels last put them -> none: the graph reads what they give. Its metadata say so.

Everything else is refused with its reason: all that a network has is listed at once. Tensors have
one axis of samples and [C] or [C, H, W] behind it, whose lengths are known.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from importlib import metadata as distribution
from typing import Any

import numpy as np

from ....passes.analysis.activations import is_shortcut
from ....passes.graph.graph import (
    Graph,
    Node,
    Tensor,
    is_constant,
    is_standard,
    may_be_float,
    optional_input,
)
from ....passes.graph.network import Network
from ....passes.graph.surgeon import import_model
from ....runtime_ops.definition import DOMAIN
from ....runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE
from ...errors import ModelError
from ...running.probe import probe
from ...samples.base import input_specs
from .builder import BORDER, LARGEST, Builder, Geometry, NotInNirError, Pair
from .geometry import padding_of, pair, plain_form, same_at_both_ends
from .once import Once
from .package import load_nir
from .signals import Signal, Window, added, of_source
from .start import NEURON_METADATA, Start

#: Element types of inputs; behind one of float16 is a Cast.
_FLOATS = (np.float32, np.float16)
#: Metadata of a graph: what the ONNX network has in front of it and behind it, a line each.
LEFT_OUT = "left_out"
#: Nodes that a refusal lists.
_LISTED = 8
#: Samples of the feed by which shapes are found, where their number is free.
_SAMPLES = 2

_ACTIVATION = (
    "is an activation in float, NIR has spiking neurons; the compile report says why it was kept"
)
_STATISTICS = "divides by statistics of the values, which no node of NIR computes"
_BOUNDS = "takes an extreme of several values, which no node of NIR does; use AveragePool"
_POOLS = f"{_BOUNDS}, or leave out --timesteps: over one step spikes can be pooled so"
_NOT_CLASSES = "is not over the classes of an output, and not linear"
_WHY = {
    **dict.fromkeys(["ReduceMax", "Max", "Min"], _BOUNDS),
    **dict.fromkeys(["Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "Elu"], _ACTIVATION),
    **dict.fromkeys(["Gelu", "Erf", "HardSwish", "HardSigmoid", "Softplus"], _ACTIVATION),
    **dict.fromkeys(
        ["LayerNormalization", "InstanceNormalization", "GroupNormalization", "LpNormalization"],
        _STATISTICS,
    ),
    "Transpose": "moves axes, which no node of NIR does",
    "Gather": "looks values up, which no node of NIR does",
}


def to_nir(network: Network, timesteps: int) -> Any:
    """Translate a network.

    Args:
        network: as ``compile_model`` leaves it, one step of multi-threshold neurons.
        timesteps: T, the levels of every neuron; 1: neurons have any number of levels.

    Returns:
        nir.NIRGraph; ``package.nir_bytes`` makes a file of it.

    Raises:
        ModelError: NIR cannot express it.
        UsageError: ``nir`` is not installed, or its release has other neurons.
    """
    return _Translation(network, timesteps, load_nir(timesteps)).run()


def check_operators(graph: Graph, neurons: Collection[str], timesteps: int) -> None:
    """Refuse early, before calibration, what is known to be refused then.

    Args:
        graph: a network whose activations are not neurons yet.
        neurons: names of the tensors that neurons are going to write.
        timesteps: T.

    Raises:
        ModelError: an operator has no counterpart in NIR.
    """
    _nodes_with_signals(graph, neurons, timesteps)


def summary(graph: Any) -> list[str]:
    """What a NIR graph consists of, in lines for the compile report."""
    kinds = Counter(type(node).__name__ for node in graph.nodes.values())
    lines = ["NIR graph of " + ", ".join(f"{count} {kind}" for kind, count in kinds.items())]
    for name, node in graph.nodes.items():
        if "start" in getattr(node, "metadata", {}):
            lines.append(
                f"{node.v_threshold.size} neurons {name} are put in: NIR's start at 0, and these "
                "charge the others at the first step (docs/nir.md)"
            )
    if LEFT_OUT in graph.metadata:
        lines += graph.metadata[LEFT_OUT].splitlines()
    if graph.metadata["timesteps"] == 1:
        lines.append(_chain(graph))
    return lines


def _chain(graph: Any) -> str:
    """Whether the graph is a chain, in a line."""
    for end, what in ((0, "is read by"), (1, "reads")):
        name, count = Counter(edge[end] for edge in graph.edges).most_common(1)[0]
        if count > 1:
            return (
                f"the graph is no chain, {name} {what} {count} nodes: not for tools that take "
                "chains alone, such as snn-mlir"
            )
    return "the graph is a chain"


class _Translation:
    def __init__(self, network: Network, timesteps: int, nir: Any) -> None:
        self._network, self._steps, self._nir = network, timesteps, nir
        self._graph: Graph = import_model(network)
        self._builder = Builder(nir)
        self._start = Start(nir, self._builder)
        self._once = Once(nir, self._builder)
        self._signals: dict[str, Signal] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._left_out: list[str] = []

    def run(self) -> Any:
        nodes = _nodes_with_signals(self._graph, (), self._steps)
        self._find_shapes(nodes)
        neurons = [n.outputs[0].name for n in nodes if n.op == MULTI_THRESHOLD_FIRE.name]
        self._start.reach(*(self._shapes[name] for name in neurons if name in self._shapes))
        for given in self._graph.inputs:
            tensor = self._arranged(given, nodes)
            shape = self._shapes[tensor.name]
            single = len(self._graph.inputs) == 1
            port = self._builder.port("input" if single else f"input_{given.name}", shape)
            self._start.offer(port, shape)
            self._keep(tensor, of_source(port, shape))
        refused = []
        for node in nodes:
            if not all(t.name in self._signals for t in _read(node)):
                continue  # behind a refused node
            try:
                self._keep(node.outputs[0], _RULES[node.op](self, node))
            except NotInNirError as reason:
                refused.append(_line(node, str(reason)))
        _refuse(refused)
        for tensor in self._graph.outputs:
            single = len(self._graph.outputs) == 1
            signal = self._signals[tensor.name]
            try:
                sources, _ = self._builder.join(tensor.name, signal, unit=True)
            except NotInNirError as reason:
                _refuse([f"the output '{tensor.name}': {reason}"])
            name = "output" if single else f"output_{tensor.name}"
            if self._steps == 1:
                integrator = self._nir.I(r=np.ones(signal.shape, np.float32))
                sources = [self._builder.node("i", name, integrator, signal.shape, sources)]
            self._builder.port(name, signal.shape, sources)
        return self._builder.graph(self._metadata())

    def _arranged(self, tensor: Tensor, nodes: list[Node]) -> Tensor:
        """What the graph reads of an input; rule 11. The node is taken from those to come."""
        for node in nodes:
            if not _arranges(node, {id(tensor)}):
                continue
            shape = self._shapes.get(node.outputs[0].name, ())
            if len(shape) == 3:
                nodes.remove(node)
                self._left_out.append(_line(node, f"is left out: the graph reads {list(shape)}"))
                return node.outputs[0]
        return tensor

    def _metadata(self) -> dict[str, Any]:
        once = self._steps == 1
        found = {
            "made_by": f"snn-compile {distribution.version('snn-compile')}",
            "timesteps": self._steps,
            "input": "once, all potentials at 0" if once else "the same at every step",
            "output": "of this step" if once else "mean over the steps",
        }
        return found | ({LEFT_OUT: "\n".join(self._left_out)} if self._left_out else {})

    # What there is to translate -----------------------------------------------------------------

    def _find_shapes(self, nodes: list[Node]) -> None:
        """The shape of one sample of every tensor, from running the network."""
        feed, refused = {}, []
        for spec in input_specs(self._network.proto):
            batch, *lengths = spec.shape or (None,)
            known = [length for length in lengths if length is not None]
            if spec.dtype not in _FLOATS or known != lengths or len(lengths) not in (1, 3):
                refused.append(
                    f"the input '{spec.name}' is {spec.dtype} {_dims(spec.shape)}; NIR nodes need "
                    "float32 of [N, C] or [N, C, H, W], with known lengths but for N: export the "
                    "model with a fixed size"
                )
                continue
            feed[spec.name] = np.zeros((batch or _SAMPLES, *known), spec.dtype)
        _refuse(refused)
        found = probe(self._network, [node.outputs[0].name for node in nodes], feed)
        found |= {name: array.shape for name, array in feed.items()}
        batches = {len(array) for array in feed.values()}
        for name, shape in found.items():
            if len(shape) in (2, 4) and {shape[0]} == batches:
                self._shapes[name] = shape[1:]

    def _keep(self, tensor: Tensor, signal: Signal) -> None:
        readers = len(tensor.outputs) + sum(tensor is output for output in self._graph.outputs)
        self._signals[tensor.name] = signal if readers == 1 else signal.shared()

    def _shape(self, node: Node) -> tuple[int, ...]:
        """Of one sample of what the node gives."""
        name = node.outputs[0].name
        if name not in self._shapes:
            raise NotInNirError(
                "what it gives is not [N, C] or [N, C, H, W] with the samples of the input"
            )
        return self._shapes[name]

    def read(self, node: Node, position: int = 0) -> Signal:
        """What a node reads; rule 7."""
        signal = self._signals[node.inputs[position].name]
        if np.any(signal.border):
            raise NotInNirError(BORDER)
        if signal.largest is not None:
            raise NotInNirError(LARGEST)
        return signal

    def cast(self, node: Node) -> Signal:
        """Rule 7."""
        if not may_be_float(node.inputs[0]) or not may_be_float(node.outputs[0]):
            raise NotInNirError("gives or takes something else than floats")
        return self.read(node)

    # Rules --------------------------------------------------------------------------------------

    def conv(self, node: Node) -> Signal:
        """Rule 1."""
        signal = self._signals[node.inputs[0].name]
        given = self._shape(node)
        weight = _constant(node, 1).astype(np.float64)
        if weight.ndim != 4:
            raise NotInNirError("only convolutions of two dimensions are translated")
        stride, dilation = pair(node, "strides"), pair(node, "dilations")
        ends = padding_of(node, signal, given[1:], weight.shape[2:], stride, dilation)
        weight, padding = same_at_both_ends(weight, ends, dilation)
        groups = int(node.attrs.get("group", 1))
        borderless = replace(signal, border=((0, 0), (0, 0)))
        sources, factor, channel = self._builder.join_planes(node.name, borderless)
        # Input channels of each output channel: those of its group.
        by = factor.reshape(groups, -1).repeat(weight.shape[0] // groups, axis=0)
        # The planes of a channel of rows and columns lie side by side.
        weight = (weight * by[:, :, None, None]).repeat(channel.shape[1], axis=1)
        read = (channel.size, *signal.shape[1:])
        geometry = Geometry(stride, padding, dilation, groups)
        if self._steps == 1:
            weight, geometry = plain_form(weight, geometry, read)
        bias = (
            _constant(node, 2).astype(np.float64)
            if optional_input(node, 2)
            else np.zeros(len(weight))
        )
        name = self._builder.linear(
            node.name,
            weight,
            bias,
            geometry,
            read,
            given,
            sources,
        )
        return of_source(name, given, own=True)

    def gemm(self, node: Node) -> Signal:
        """Rule 2."""
        weight = _constant(node, 1).astype(np.float64)
        if node.attrs.get("transA", 0) or self.read(node).shape[1:]:
            raise NotInNirError("its first operand is not [N, C]")
        weight = weight if node.attrs.get("transB", 0) else weight.T
        bias = np.zeros(len(weight))
        if optional_input(node, 2):
            values = _constant(node, 2).astype(np.float64)
            if values.ndim > 1 and values.shape[0] != 1:
                raise NotInNirError("its bias is another one for each sample")
            bias = bias + values.reshape(-1) * float(node.attrs.get("beta", 1.0))
        return self._affine(node, weight * float(node.attrs.get("alpha", 1.0)), bias)

    def matmul(self, node: Node) -> Signal:
        """Rule 2."""
        weight = _constant(node, 1).astype(np.float64)
        if weight.ndim != 2 or self.read(node).shape[1:]:
            raise NotInNirError("only [N, C] times a constant matrix is translated")
        return self._affine(node, weight.T, np.zeros(weight.shape[1]))

    def _affine(self, node: Node, weight: np.ndarray, bias: np.ndarray) -> Signal:
        signal, given = self.read(node), self._shape(node)
        sources, factor, channel = self._builder.join_planes(node.name, signal)
        read = np.zeros((len(weight), channel.size))
        read[:, channel] = (weight * factor)[:, :, None]
        name = self._builder.linear(node.name, read, bias, None, (channel.size,), given, sources)
        return of_source(name, given, own=True)

    def fire(self, node: Node) -> Signal:
        """Rule 3."""
        shape = self._shape(node)
        attrs = {**MULTI_THRESHOLD_FIRE.defaults, **node.attrs}
        if attrs["levels_neg"]:
            raise NotInNirError("fires below 0 too, and the IF neurons of NIR do not")
        theta = _constant(node, 1)
        if theta.size > 1 and attrs["axis"] not in (1, -len(shape)):
            raise NotInNirError(f"has thresholds along axis {attrs['axis']}, channels are axis 1")
        if self._steps == 1:
            signal = self._signals[node.inputs[0].name]
            return self._once.fire(node.name, signal, theta, attrs["levels_pos"], attrs["v0"])
        if attrs["levels_pos"] != self._steps:
            raise NotInNirError(
                f"has {attrs['levels_pos']} levels, and IF neurons fire once a step, so "
                f"{self._steps} times in {self._steps} steps; compile with as many levels as steps"
            )
        threshold = theta * np.float32(self._steps)  # as spatial_to_temporal rounds it
        signal = self.read(node)
        if attrs["v0"]:
            charge = np.broadcast_to(
                attrs["v0"] * threshold.astype(np.float64).reshape(-1), shape[:1]
            )
            signal = added(signal, self._start.pulse(node.name, charge, shape))
        sources, factor = self._builder.join(node.name, signal)
        scaled = np.broadcast_to(threshold.reshape(-1) / factor, shape[:1]).astype(np.float32)
        if not np.all(np.isfinite(scaled) & (scaled > 0)):
            raise NotInNirError("has thresholds beyond float32 once the factors are folded in")
        full = np.broadcast_to(scaled.reshape(-1, *[1] * (len(shape) - 1)), shape).copy()
        neuron = self._nir.IF(
            r=np.ones(shape, np.float32),
            v_threshold=full,
            metadata={
                "onnx_node": node.name,
                "v0": float(attrs["v0"]),
                **NEURON_METADATA,
            },
        )
        name = self._builder.node("if", node.name, neuron, shape, sources)
        return of_source(name, shape, threshold.reshape(-1))

    def max_pool(self, node: Node) -> Signal:
        """Rule 8."""
        signal, given = self.read(node), self._shape(node)
        if len(signal.shape) != 3:
            raise NotInNirError("only pooling of two dimensions is translated")
        if node.op == "GlobalMaxPool":
            window = Window(kernel=signal.shape[1:], stride=(1, 1))
        else:
            kernel = tuple(int(length) for length in node.attrs["kernel_shape"])
            stride, dilation = pair(node, "strides"), pair(node, "dilations")
            ends = padding_of(node, signal, given[1:], kernel, stride, dilation)
            window = Window((kernel[0], kernel[1]), stride, (ends[0][0], ends[1][0]))
            uneven = any(before != behind for before, behind in ends)
            if uneven or dilation != (1, 1) or window.size(signal.shape[1:]) != given[1:]:
                raise NotInNirError(
                    "pools with dilations, beyond the border (ceil_mode), or with another padding "
                    "at one end than at the other; a SumPool2d of NIR has none of these"
                )
        return self._once.largest(node.name, signal, window)

    def softmax(self, node: Node) -> Signal:
        """Rule 9."""
        signal = self.read(node)
        # Over all features up to opset 12, where axis 1 is the default.
        if len(signal.shape) != 1 or node.attrs.get("axis", 1) not in (1, -1):
            raise NotInNirError(_NOT_CLASSES)
        self._left_out.append(_line(node, "is left out: the graph gives scores, of the same class"))
        return signal

    def transpose(self, node: Node) -> Signal:
        """Any but those of rule 11."""
        raise NotInNirError(_WHY[node.op])

    def average_pool(self, node: Node) -> Signal:
        """Rule 4."""
        read = self.read(node).shape
        kernel = tuple(int(length) for length in node.attrs["kernel_shape"])
        if len(kernel) != 2 or len(read) != 3:
            raise NotInNirError("only pooling of two dimensions is translated")
        if any(node.attrs.get("pads", [])) or pair(node, "dilations") != (1, 1):
            raise NotInNirError("pools with padding or dilations, whose sums differ at the border")
        if node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            raise NotInNirError("pools with padding, whose sums differ at the border")
        return self._sum_pool(node, (kernel[0], kernel[1]), pair(node, "strides"))

    def global_pool(self, node: Node) -> Signal:
        """Rule 4."""
        signal = self.read(node)
        if node.op == "ReduceMean":
            axes = node.attrs.get("axes")
            if axes is None:
                axes = _constant(node, 1) if optional_input(node, 1) else []
            if sorted(int(axis) % 4 for axis in axes) != [2, 3]:
                raise NotInNirError("is a mean over other axes than rows and columns")
        if len(signal.shape) != 3:
            raise NotInNirError("is a mean over other axes than rows and columns")
        size = (signal.shape[1], signal.shape[2])
        pooled = signal if size == (1, 1) else self._sum_pool(node, size, size)
        if node.op == "ReduceMean" and not node.attrs.get("keepdims", 1):
            return self._builder.flat(node.name, pooled)
        return pooled

    def _sum_pool(self, node: Node, kernel: Pair, stride: Pair) -> Signal:
        signal, window = self.read(node), Window(kernel, stride)
        given = (signal.shape[0], *window.size(signal.shape[1:]))
        if node.op == "AveragePool" and given != self._shape(node):
            raise NotInNirError("pools beyond the border (ceil_mode)")
        sources, factor, channel = self._builder.join_planes(node.name, signal)
        read = (channel.size, *signal.shape[1:])
        name = self._builder.pool(node.name, window, read, sources)
        return of_source(name, given, factor / math.prod(kernel), channel=channel)

    def flatten(self, node: Node) -> Signal:
        """Rule 5."""
        signal, given = self.read(node), self._shape(node)
        if given == signal.shape:
            return signal
        if given != (math.prod(signal.shape),):
            raise NotInNirError(
                f"makes {list(given)} of {list(signal.shape)}; only all axes but the samples' can "
                "become one"
            )
        return self._builder.flat(node.name, signal)

    def sum(self, node: Node) -> Signal:
        """Rules 6 and 7."""
        first, second = node.inputs
        sign = -1.0 if node.op == "Sub" else 1.0
        if is_constant(first) or is_constant(second):
            at = 0 if is_constant(first) else 1
            signal = self.read(node, 1 - at)
            values = self._per_channel(node, at, signal)
            return (
                signal.scaled(np.array(sign)).shifted(values)
                if at == 0
                else signal.shifted(sign * values)
            )
        left, right = self.read(node), self.read(node, 1)
        if left.shape != right.shape:
            raise NotInNirError(f"repeats {list(left.shape)} or {list(right.shape)} along an axis")
        return added(left, right.scaled(np.array(sign)))

    def scale(self, node: Node) -> Signal:
        """Rule 7."""
        first, second = node.inputs
        if not (is_constant(first) or is_constant(second)):
            raise NotInNirError("is a product of two signals, and NIR nodes read sums")
        at = 0 if is_constant(first) else 1
        if node.op == "Div" and at == 0:
            raise NotInNirError("divides by a signal")
        signal = self.read(node, 1 - at)
        values = self._per_channel(node, at, signal)
        return signal.scaled(1 / values if node.op == "Div" else values)

    def concat(self, node: Node) -> Signal:
        """Rule 6."""
        signals = [self.read(node, at) for at in range(len(node.inputs))]
        if int(node.attrs["axis"]) not in (1, -len(signals[0].shape)):
            raise NotInNirError("joins along another axis than the channels")
        count, before, total = sum(s.shape[0] for s in signals), 0, None
        for signal in signals:
            part = signal.padded(before, count - before - signal.shape[0])
            total = part if total is None else added(total, part)
            before += signal.shape[0]
        assert total is not None
        return total

    def slice(self, node: Node) -> Signal:
        """Rule 6."""
        signal = self.read(node)
        rank = 1 + len(signal.shape)
        starts, ends = (_constant(node, at).tolist() for at in (1, 2))
        axes = _constant(node, 3).tolist() if optional_input(node, 3) else list(range(len(starts)))
        steps = _constant(node, 4).tolist() if optional_input(node, 4) else [1] * len(starts)
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            at = axis % rank - 1
            if at < 0 or step < 1:
                raise NotInNirError("slices the samples, or backwards")
            part = range(*slice(start, end, step).indices(signal.shape[at]))
            if at == 0 and part:
                signal = signal.selected(part)
            elif part == range(0, signal.shape[at], step):
                signal = signal.strided((step, 1) if at == 1 else (1, step))
            else:
                raise NotInNirError("cuts rows or columns off, which no node of NIR does")
        return signal

    def pad(self, node: Node) -> Signal:
        """Rule 6."""
        signal = self.read(node)
        rank = 1 + len(signal.shape)
        axes = _constant(node, 3).tolist() if optional_input(node, 3) else list(range(rank))
        pads = _constant(node, 1).tolist()
        value = float(_constant(node, 2).reshape(())) if optional_input(node, 2) else 0.0
        if node.attrs.get("mode", "constant") != "constant" or value:
            raise NotInNirError("pads with something else than zeros")
        border = list(signal.border)
        for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
            if min(before, after) < 0 or (axis % rank == 0 and (before or after)):
                raise NotInNirError("pads the samples, or cuts off")
            if axis % rank == 1:
                signal = signal.padded(before, after)
            elif axis % rank > 1:
                border[axis % rank - 2] = (before, after)
        return replace(signal, border=tuple(border))

    def _per_channel(self, node: Node, position: int, signal: Signal) -> np.ndarray:
        """A constant operand as [C]."""
        values = _constant(node, position).astype(np.float64)
        rank = 1 + len(signal.shape)
        aligned = values.reshape((1,) * (rank - values.ndim) + values.shape)
        wide = [axis for axis, length in enumerate(aligned.shape) if length != 1]
        if aligned.ndim > rank or wide not in ([], [1]) or aligned.size not in (1, signal.shape[0]):
            raise NotInNirError("its constant is not one value per channel")
        if not np.all(np.isfinite(values)):
            raise NotInNirError("its constant is not finite")
        return np.broadcast_to(aligned.reshape(-1), (signal.shape[0],))


_RULES: dict[str, Callable[[_Translation, Node], Signal]] = {
    "Conv": _Translation.conv,
    "Gemm": _Translation.gemm,
    "MatMul": _Translation.matmul,
    MULTI_THRESHOLD_FIRE.name: _Translation.fire,
    "AveragePool": _Translation.average_pool,
    "GlobalAveragePool": _Translation.global_pool,
    "ReduceMean": _Translation.global_pool,
    "MaxPool": _Translation.max_pool,
    "GlobalMaxPool": _Translation.max_pool,
    "Softmax": _Translation.softmax,
    "LogSoftmax": _Translation.softmax,
    "Flatten": _Translation.flatten,
    "Reshape": _Translation.flatten,
    "Squeeze": _Translation.flatten,
    "Add": _Translation.sum,
    "Sub": _Translation.sum,
    "Mul": _Translation.scale,
    "Div": _Translation.scale,
    "Concat": _Translation.concat,
    "Slice": _Translation.slice,
    "Transpose": _Translation.transpose,
    "Pad": _Translation.pad,
    "Cast": _Translation.cast,
    "Identity": _Translation.read,
    "Dropout": _Translation.read,
}

#: Operators of rule 8, over one step, and of rule 9, at the end.
_OF_SPIKES = frozenset(["MaxPool", "GlobalMaxPool"])
_OF_CLASSES = frozenset(["Softmax", "LogSoftmax"])
#: Operators of rule 11.
_ARRANGING = frozenset(["Transpose", "Reshape"])
#: Operators all of whose inputs that are not constant are signals; of others it is the first.
_READ_ALL = frozenset(["Add", "Sub", "Mul", "Div", "Concat"])


def _read(node: Node) -> Iterator[Tensor]:
    """The signals that the node reads."""
    tensors = node.inputs if node.op in _READ_ALL else node.inputs[:1]
    return (tensor for tensor in tensors if not is_constant(tensor))


def _nodes_with_signals(graph: Graph, neurons: Collection[str], timesteps: int) -> list[Node]:
    """The nodes that signals go through, in order; not those that compute shapes."""
    refused = []
    wanted = {id(tensor) for tensor in graph.outputs}
    inputs = {id(tensor) for tensor in graph.inputs}
    nodes = []
    for tensor in graph.outputs:
        if is_constant(tensor) or not (tensor.inputs or id(tensor) in inputs):
            refused.append(f"the output '{tensor.name}' is constant")
    for node in reversed(graph.nodes):
        made = [tensor for tensor in node.outputs if id(tensor) in wanted]
        if not made:
            continue
        last = made[0].outputs == [] and node.op in _OF_CLASSES
        known = last or made[0].name in neurons or _arranges(node, inputs)
        reason = None if known else _why_unknown(node, timesteps)
        if made != list(node.outputs[:1]):
            refused.append(_line(node, "gives more than one tensor"))
        elif reason is not None:
            refused.append(_line(node, reason))
            signals = [tensor for tensor in node.inputs if not is_constant(tensor)]
            wanted |= {id(tensor) for tensor in signals if len(signals) == 1}
        else:
            nodes.append(node)
            wanted |= {id(tensor) for tensor in _read(node)}
    _refuse(refused[::-1])
    return nodes[::-1]


def _arranges(node: Node, inputs: Collection[int]) -> bool:
    """Whether it may be one of rule 11, of inputs of these ids."""
    if node.op not in _ARRANGING or not is_standard(node):
        return False
    read = node.inputs[0]
    samples_first = node.op == "Reshape" or (node.attrs.get("perm") or [-1])[0] == 0
    return id(read) in inputs and len(read.outputs) == 1 and samples_first


def _why_unknown(node: Node, timesteps: int) -> str | None:
    """Why there is no rule for the node; None where there is one."""
    if node.domain == DOMAIN and node.op != MULTI_THRESHOLD_FIRE.name:
        return "has no levels at multiples of one threshold; compile with --neuron multi-threshold"
    if is_shortcut(node):
        return "is a copy of an activation in float on a shortcut; compile with --shortcuts spikes"
    if node.domain != DOMAIN and not is_standard(node):
        return f"is an operator of the domain {node.domain}"
    if node.op in _OF_SPIKES and timesteps > 1:
        return _POOLS
    if node.op in _OF_CLASSES:
        return _NOT_CLASSES
    if node.op == "Transpose":
        return _WHY[node.op]
    if node.op in _RULES and any(True for _ in _read(node)):
        return None
    return _WHY.get(node.op, "is an operator that no node of NIR stands for")


def _line(node: Node, reason: str) -> str:
    return f"{node.op} '{node.name}' {reason}"


def _refuse(lines: list[str]) -> None:
    """Nothing if there is nothing to refuse."""
    if not lines:
        return
    more = f"; and {len(lines) - _LISTED} more" if len(lines) > _LISTED else ""
    raise ModelError(f"NIR cannot express the network: {'; '.join(lines[:_LISTED])}{more}")


def _dims(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("?" if length is None else str(length) for length in shape) + "]"


def _constant(node: Node, position: int) -> np.ndarray:
    tensor = optional_input(node, position)
    if tensor is None or not is_constant(tensor):
        raise NotInNirError(f"its input {position} is not constant")
    return tensor.values
