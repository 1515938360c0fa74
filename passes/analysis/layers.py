"""The linear layers whose weights and biases calibration corrects.

A layer is a Conv, ConvTranspose, Gemm or MatMul of float32 in the main graph that multiplies a
signal by a constant weight, where a neuron fires somewhere before the signal: without one there is
no error to correct.

Left out: Gemm with alpha or beta other than 1, or that transposes its input; a MatMul whose weight
is not the right operand of rank 2; a Gemm whose constant is not one value per output channel; a
layer whose bias is computed. Least squares lose small values; so a layer is left out where these
count as much as large ones (:mod:`.small_values`): a Log reads what it gives, or it is divided by a
signal, or the neuron in front of it is fitted to relative error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..graph.graph import Graph, Node, Tensor, is_constant, is_standard, optional_input, values_of
from .activations import is_activation, is_encoder, is_relative
from .operators import moves_values, properties, standard, takes_largest
from .small_values import close_reader, divided

#: Values that a layer may give.
_RANGE = np.linspace(0.0, 1.0, 11)


@dataclass(frozen=True)
class Geometry:
    """How a Conv slides; empty tuples stand for the operator's defaults.

    Attributes:
        kernel: size per spatial axis.
        strides: step per spatial axis.
        pads: zeros before and after, as ONNX orders them.
        dilations: distance of the weights per spatial axis.
        group: number of groups.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    group: int


@dataclass(frozen=True)
class Layer:
    """A linear layer that reads a signal and has parameters of its own.

    Attributes:
        name: node name.
        op: operator type.
        input: name of the signal.
        weight: name of the weight; Conv [O, C / group, ...], ConvTranspose [C, O / group, ...],
            MatMul [C, O], Gemm [C, O], or [O, C] where ``transposed``.
        bias: name of the bias [O], always added to the output's channels.
        output: name of the output, the bias included.
        residual: name of the other operand where one Add is all that reads the output and both
            have one shape, else None.
        total: name of the sum there, else the output.
        bounds: what the activation that reads the total, or the largest values of it, lets through:
            (0, inf) for Relu, its bounds for Clip; (-inf, inf) where something else reads it.
        transposed: whether the weight of a Gemm is [O, C].
        geometry: of a Conv whose padding is explicit, else None.
    """

    name: str
    op: str
    input: str
    weight: str
    bias: str
    output: str
    residual: str | None
    total: str
    bounds: tuple[float, float]
    transposed: bool
    geometry: Geometry | None

    @property
    def channel_axis(self) -> int:
        """Axis of the output's channels."""
        return 1 if properties(self.op).convolves else -1


def find_layers(graph: Graph) -> list[Layer]:
    """The layers of a graph whose parameters are their own, in the order they run."""
    return [_layer(graph, node) for node in layer_nodes(graph)]


def layer_nodes(graph: Graph) -> list[Node]:
    """The linear operators of these layers, in the order they run."""
    fired: set[int] = set()
    found = []
    for node in graph.nodes:
        signal = any(id(tensor) in fired for tensor in node.inputs)
        if signal or is_activation(node) or is_encoder(node) or node.op == "If":
            fired |= {id(tensor) for tensor in node.outputs}
        if signal and _is_layer(node):
            found.append(node)
    return found


def _is_layer(node: Node) -> bool:
    if not multiplies(node) or _counts_small_values(node):
        return False
    bias = optional_input(node, 2)
    return bias is None or (is_constant(bias) and bias.values.shape == (width(node),))


def _counts_small_values(node: Node) -> bool:
    tensor = node.inputs[0]
    while tensor.inputs and moves_values(tensor.inputs[0]) and not is_relative(tensor.inputs[0]):
        tensor = tensor.inputs[0].inputs[0]
    if tensor.inputs and is_relative(tensor.inputs[0]):
        return True
    output = node.outputs[0]
    return close_reader(output, _RANGE) is not None or divided(output)


def multiplies(node: Node) -> bool:
    """Whether its first input, a signal, is all that it multiplies by a constant float32 weight."""
    if not standard(node).weighted or len(node.inputs) < 2:
        return False
    x, weight = node.inputs[:2]
    if is_constant(x) or not is_constant(weight) or weight.values.dtype != np.float32:
        return False
    if node.op == "MatMul":
        return bool(weight.values.ndim == 2)
    if node.op == "Gemm":
        attributes = [node.attrs.get(name, 1.0) for name in ("alpha", "beta")]
        return attributes == [1.0, 1.0] and not node.attrs.get("transA", 0)
    return True


def width(node: Node) -> int:
    """Number of output channels."""
    shape = values_of(node.inputs[1]).shape
    if node.op == "Conv":
        return int(shape[0])
    if node.op == "ConvTranspose":
        return int(shape[1]) * int(node.attrs.get("group", 1))
    return int(shape[0] if node.attrs.get("transB", 0) else shape[1])


def bias_add(graph: Graph, node: Node) -> tuple[Node, int] | None:
    """The Add of a constant per output channel that is all that reads a MatMul: its bias.

    Returns:
        The Add, and which of its operands is the constant.
    """
    add, position = _only_add(graph, node.outputs[0])
    if add is None:
        return None
    other = add.inputs[position]
    if not is_constant(other) or other.values.dtype != np.float32:
        return None
    return (add, position) if other.values.shape == (width(node),) else None


def _only_add(graph: Graph, output: Tensor) -> tuple[Node | None, int]:
    """The Add that is all that reads a tensor, and the position of its other operand."""
    if len(output.outputs) != 1 or output in graph.outputs:
        return None, 0
    add = output.outputs[0]
    if add.op != "Add" or not is_standard(add) or add not in graph.nodes:
        return None, 0
    return add, 1 if add.inputs[0] is output else 0


def _layer(graph: Graph, node: Node) -> Layer:
    last, position = node, 2
    if node.op == "MatMul":
        found = bias_add(graph, node)
        if found is None:
            raise AssertionError(f"own_parameters left MatMul {node.name} without a bias")
        last, position = found
    output = last.outputs[0]
    total, residual = _residual_sum(graph, output)
    return Layer(
        node.name,
        node.op,
        node.inputs[0].name,
        node.inputs[1].name,
        last.inputs[position].name,
        output.name,
        residual,
        total.name,
        _bounds(graph, total),
        bool(node.attrs.get("transB", 0)),
        _geometry(node) if node.op == "Conv" else None,
    )


def _residual_sum(graph: Graph, output: Tensor) -> tuple[Tensor, str | None]:
    """The sum of a layer's output with a signal, and the name of that; else the output alone."""
    add, position = _only_add(graph, output)
    if add is None:
        return output, None
    other = add.inputs[position]
    if other is output or is_constant(other) or output.shape is None:
        return output, None
    return (add.outputs[0], other.name) if other.shape == output.shape else (output, None)


def _bounds(graph: Graph, tensor: Tensor) -> tuple[float, float]:
    """The range outside which no reader of the tensor tells values apart."""
    found = {
        _bounds(graph, reader.outputs[0]) if takes_largest(reader) else _passes(reader)
        for reader in tensor.outputs
    }
    return found.pop() if len(found) == 1 and tensor not in graph.outputs else (-np.inf, np.inf)


def _passes(node: Node) -> tuple[float, float]:
    if not is_standard(node):
        return -np.inf, np.inf
    if node.op == "Relu":
        return 0.0, np.inf
    if node.op != "Clip":
        return -np.inf, np.inf
    ends = [-np.inf, np.inf]
    for position in (1, 2):
        bound = optional_input(node, position)
        if bound is not None:
            if not is_constant(bound):
                return -np.inf, np.inf
            ends[position - 1] = float(bound.values.reshape(()))
    return ends[0], ends[1]


def _geometry(node: Node) -> Geometry | None:
    if node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    kernel = tuple(int(size) for size in values_of(node.inputs[1]).shape[2:])
    axes = len(kernel)

    def attribute(name: str, default: int, count: int) -> tuple[int, ...]:
        return tuple(int(value) for value in node.attrs.get(name) or [default] * count)

    return Geometry(
        kernel,
        attribute("strides", 1, axes),
        attribute("pads", 0, 2 * axes),
        attribute("dilations", 1, axes),
        int(node.attrs.get("group", 1)),
    )
