"""Which activations become neurons, and why the others do not.

This is the one list that calibration, insertion and the coverage report share.

1. Relu: x >= 0, unbounded.
2. Clip with constant lower bound 0 and a constant upper bound above 0, or none (ReLU6 and others).
3. LeakyRelu and PRelu: a dual (polarity) neuron. The positive branch fires on x > 0, the negative
   branch, with a threshold of its own, on x < 0; its output is scaled by the slope.

Everything else that is an activation is returned as kept, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .graph import Graph, Node, Tensor, is_constant, is_standard

#: Operators that apply a nonlinearity, in any domain that has them under this name.
ACTIVATION_OPS = frozenset(
    [
        *("Relu", "Clip", "LeakyRelu", "PRelu", "ThresholdedRelu", "Elu", "Selu", "Celu"),
        *("Sigmoid", "HardSigmoid", "Tanh", "Softplus", "Softsign", "Erf", "Shrink"),
        *("Gelu", "FastGelu", "QuickGelu", "HardSwish", "Swish", "Mish"),
        *("Softmax", "LogSoftmax", "Hardmax", "LSTM", "GRU", "RNN"),
    ]
)

_ELEMENTWISE = {"Add", "Sub", "Mul", "Div"}


@dataclass(frozen=True)
class Activation:
    """An activation that becomes a neuron.

    Attributes:
        name: node name.
        op: ONNX operator type.
        input: name of the tensor that is the neuron's membrane potential.
        output: name of the tensor that the neuron writes; unique, so it is the key.
        upper: largest output the activation can give; inf when unbounded.
        signed: whether negative inputs give an output too.
        axis: channel axis of the input, or None if unknown.
        channels: number of channels, or None if unknown.
    """

    name: str
    op: str
    input: str
    output: str
    upper: float
    signed: bool
    axis: int | None
    channels: int | None


@dataclass(frozen=True)
class Kept:
    """An activation that stays as it is, and why."""

    name: str
    op: str
    reason: str


class _NotANeuron(Exception):
    """The text is the reason."""


def find_activations(graph: Graph) -> tuple[list[Activation], list[Kept]]:
    """Sort every activation of the graph, subgraphs included, into neurons and kept ones."""
    neurons: list[Activation] = []
    kept: list[Kept] = []
    for node in graph.nodes:
        if node.op not in ACTIVATION_OPS:
            continue
        try:
            neurons.append(_as_neuron(node))
        except _NotANeuron as reason:
            kept.append(Kept(node.name, node.op, str(reason)))
    for subgraph in graph.subgraphs(recursive=True):
        kept += [
            Kept(node.name or node.outputs[0].name, node.op, "inside a control-flow body")
            for node in subgraph.nodes
            if node.op in ACTIVATION_OPS
        ]
    for function in graph.envelope.functions:
        kept += [
            Kept(node.name or node.output[0], node.op_type, f"inside the function {function.name}")
            for node in function.node
            if node.op_type in ACTIVATION_OPS
        ]
    return neurons, kept


def _as_neuron(node: Node) -> Activation:
    if not is_standard(node):
        raise _NotANeuron(f"operator of the domain {node.domain}")
    x = node.inputs[0]
    if node.op == "Relu":
        upper, signed = np.inf, False
    elif node.op == "Clip":
        upper, signed = _clip_upper_bound(node), False
    elif node.op in ("LeakyRelu", "PRelu"):
        upper, signed = np.inf, True
    else:
        raise _NotANeuron(f"no neuron for {node.op} yet")
    if x.dtype is None:
        raise _NotANeuron("its element type is unknown")
    if x.dtype != np.float32:
        raise _NotANeuron(f"its element type is {np.dtype(x.dtype).name}, neurons are float32")
    if is_constant(x):
        raise _NotANeuron("its input is a constant")
    axis, channels = _channels(x)
    return Activation(
        node.name, node.op, x.name, node.outputs[0].name, float(upper), signed, axis, channels
    )


def _clip_upper_bound(node: Node) -> float:
    def bound(index: int, default: float) -> float:
        if len(node.inputs) <= index or node.inputs[index].is_empty():
            return default
        if not is_constant(node.inputs[index]):
            raise _NotANeuron("its bounds are not constant")
        return float(node.inputs[index].values.reshape(()))

    low, high = bound(1, -np.inf), bound(2, np.inf)
    if low != 0:
        raise _NotANeuron(f"its lower bound is {low:g}, neurons are silent below 0")
    if not high > 0:
        raise _NotANeuron(f"its upper bound {high:g} is not above 0")
    # The largest float32 is how exporters write 'no upper bound'.
    return np.inf if high >= np.finfo(np.float32).max else high


def _channels(x: Tensor) -> tuple[int | None, int | None]:
    """Channel axis and count: the linear operator that makes x decides, element-wise ops pass."""
    if x.shape is None or len(x.shape) < 2:
        return None, None
    axis = 1
    tensor = x
    while tensor.inputs:
        producer = tensor.inputs[0]
        if producer.op == "MatMul":
            axis = len(x.shape) - 1
        if producer.op not in _ELEMENTWISE:
            break
        operands = [operand for operand in producer.inputs if not is_constant(operand)]
        if not operands:
            break
        tensor = operands[0]
    count = x.shape[axis]
    return (axis, count) if isinstance(count, int) and count > 0 else (None, None)
