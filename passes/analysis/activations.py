"""Which activations become neurons, and why the others do not.

This is the one list that calibration, insertion and the coverage report share.

1. Relu, and Clip with constant lower bound 0 and an upper bound above 0 or none (ReLU6): a neuron
   whose levels are multiples of its threshold.
2. LeakyRelu and PRelu: a dual (polarity) neuron. The positive branch fires on x > 0, the negative
   branch, with a threshold of its own, on x < 0; its output is scaled by the slope.
3. Every other function of one value (``functions.py``): a staircase neuron, whose levels follow the
   function.
4. Encoders, which ``encode_edges`` puts where a linear operator reads analog values: a staircase
   neuron that follows the identity.

Copies of activations that ``membrane_shortcuts`` puts beside a neuron are neither. Over several
timesteps functions of rule 3 are kept: levels in each step are multiples of one threshold.

Kept, with the reason: activations of other element types than float32, in bodies that are left
alone, with parameters that are not constant or not finite, or read by an operator that is infinite
at 0 (Log, a divisor), where a silent neuron would end in infinity, or would but for an epsilon (the
root of a variance, which divides), or behind constants (1 - s, s + 1e-6) would lose what counts
(:mod:`.small_values`).

Softmax and normalisations combine values, so no neuron stands for them: they stay in float and what
linear operators read of them is encoded. Recurrent layers are kept whole. Activations of integers
are no activations of the network and not listed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..graph.graph import (
    ANN_DOMAIN,
    METADATA_PREFIX,
    Graph,
    Node,
    Tensor,
    is_constant,
    is_standard,
    may_be_float,
    metadata,
    optional_input,
    scopes,
    shape_of,
    type_name,
    values_of,
)
from ..graph.protos import nodes_below
from .functions import ActivationFunction, NotANeuron, activation_function
from .operators import Role, is_arithmetic, properties, standard
from .small_values import close_reader

_ENCODER = METADATA_PREFIX + "encoder"
_SHORTCUT = METADATA_PREFIX + "shortcut"
_MEMBRANE = METADATA_PREFIX + "membrane"
_KEPT = METADATA_PREFIX + "kept"
_RELATIVE = METADATA_PREFIX + "relative"
#: Below it a threshold, a fraction of the bound, is no normal float32.
_SMALLEST_BOUND = 1e-30
#: Inputs at which an activation shows what it gives.
_RANGE = np.linspace(-20.0, 20.0, 401)


@dataclass(frozen=True)
class Activation:
    """An activation that becomes a neuron.

    Attributes:
        name: node name.
        op: ONNX operator type, "Encoder" or "Membrane".
        input: name of the tensor that is the neuron's membrane potential.
        output: name of the tensor that the neuron writes; unique, so it is the key.
        function: what it computes; None of a PRelu whose slope is not one constant number.
        linear: whether that is linear on either side of 0, up to ``upper``, so that levels can be
            multiples of a threshold: Relu, Clip from 0, LeakyRelu, PRelu and encoders.
        upper: largest output of a Clip from 0; inf when unbounded, and of all others.
        signed: whether it is a LeakyRelu or PRelu, which has a threshold of its own below 0.
        axis: channel axis of the input, or None if unknown.
        channels: number of channels, or None if unknown.
        membrane: whether :func:`mark_membrane` was called for it.
        relative: whether :func:`mark_relative` was.
    """

    name: str
    op: str
    input: str
    output: str
    function: ActivationFunction | None
    linear: bool
    upper: float
    signed: bool
    axis: int | None
    channels: int | None
    membrane: bool = False
    relative: bool = False

    @property
    def encodes(self) -> bool:
        """Whether it follows its input and stands for no activation."""
        return self.op in ("Encoder", "Membrane")


@dataclass(frozen=True)
class Kept:
    """An activation that stays as it is, and why."""

    name: str
    op: str
    reason: str


def mark_encoder(node: Node) -> None:
    """Let an Identity node stand for a neuron that encodes its input."""
    metadata(node)[_ENCODER] = "true"


def is_encoder(node: Node) -> bool:
    """Whether :func:`mark_encoder` was called for the node."""
    return _ENCODER in metadata(node)


def mark_shortcut(node: Node) -> None:
    """Let a copy of an activation stay in float, for the shortcuts that read it."""
    metadata(node)[_SHORTCUT] = "true"


def is_shortcut(node: Node) -> bool:
    """Whether :func:`mark_shortcut` was called for the node."""
    return _SHORTCUT in metadata(node)


def mark_membrane(node: Node) -> None:
    """Let an encoder, or a copy of an activation, carry a membrane potential in 8 bits.

    It is a neuron for the sake of integer arithmetic, with as many levels as 8 bits have.
    """
    metadata(node)[_MEMBRANE] = "true"


def is_membrane(node: Node) -> bool:
    """Whether :func:`mark_membrane` was called for the node."""
    return _MEMBRANE in metadata(node)


def mark_relative(node: Node) -> None:
    """Let the neuron be fitted to small relative error: its values are at least 0."""
    metadata(node)[_RELATIVE] = "true"


def is_relative(node: Node) -> bool:
    """Whether :func:`mark_relative` was called for the node."""
    return _RELATIVE in metadata(node)


def mark_kept(node: Node, reason: str) -> None:
    """Let an activation stay in float, or a linear operator read values without an encoder."""
    metadata(node)[_KEPT] = reason


def why_kept(node: Node) -> str:
    """The reason that :func:`mark_kept` was given; empty where it was not called."""
    return metadata(node).get(_KEPT, "")


def op_of(node: Node) -> str:
    """The operator type, "Encoder" or "Membrane"."""
    if is_encoder(node):
        return "Membrane" if is_membrane(node) else "Encoder"
    return str(node.op)


def find_activations(graph: Graph) -> tuple[list[Activation], list[Kept]]:
    """Sort every activation of the graph, bodies and functions included, by what becomes of it."""
    neurons: list[Activation] = []
    kept: list[Kept] = []
    for scope in scopes(graph):
        for node in scope.graph.nodes:
            if not (is_activation(node) or is_encoder(node)):
                continue
            if is_shortcut(node) and not is_membrane(node):
                continue
            try:
                if scope.closed:
                    raise NotANeuron(scope.closed)
                neurons.append(_as_neuron(node))
            except NotANeuron as reason:
                kept.append(Kept(node.name, node.op, str(reason)))
    return neurons, kept + _inside_functions(graph)


def _inside_functions(graph: Graph) -> list[Kept]:
    """Activations of the model's own functions, which loading could not inline."""
    return [
        Kept(node.name, node.op_type, f"inside the function {function.domain}.{function.name}")
        for function in graph.envelope.functions
        if function.domain != ANN_DOMAIN
        for node in nodes_below(function)
        if properties(node.op_type).role is Role.ACTIVATION
    ]


def is_activation(node: Node) -> bool:
    """Whether the node applies a nonlinear function of one value to floats."""
    if properties(node.op).role is not Role.ACTIVATION or not node.inputs:
        return False
    return may_be_float(node.inputs[0])


def _as_neuron(node: Node) -> Activation:
    x = node.inputs[0]
    if x.dtype != np.float32:
        what = type_name(x)
        raise NotANeuron(f"its element type is {what}, neurons are float32")
    if is_constant(x):
        raise NotANeuron("its input is a constant")
    if why_kept(node):
        raise NotANeuron(why_kept(node))
    if any(_is_infinite_at_zero(reader, node.outputs[0]) for reader in node.outputs[0].outputs):
        raise NotANeuron("what reads it is infinite at a level of 0")
    if _divides_as_root(node.outputs[0]):
        raise NotANeuron("its root divides, which a level of 0 would make too large")
    signed = node.op in ("LeakyRelu", "PRelu") and is_standard(node)
    if signed and not _slope_is_finite(node):
        raise NotANeuron("its slope is not finite")
    linear, upper = signed or node.op == "Relu" or is_encoder(node), np.inf
    if node.op == "Clip" and _clips_at_zero(node):
        linear, bound = True, optional_input(node, 2)
        upper = np.inf if bound is None else float(values_of(bound).reshape(()))
        # The largest float32 is how exporters write 'no upper bound'.
        upper = np.inf if upper >= np.finfo(np.float32).max else upper
        if upper < _SMALLEST_BOUND:
            raise NotANeuron(f"its upper bound {upper:g} is too small for levels of float32")
    slopes = node.inputs[1] if node.op == "PRelu" and signed else None
    several = slopes is not None and not (is_constant(slopes) and slopes.values.size == 1)
    function = None if several else activation_function(node)
    if not is_encoder(node):
        _require_small_values_do_not_count(node, function)
    axis, channels = _channels_read(node) if is_encoder(node) else _channels(x)
    return Activation(
        node.name,
        op_of(node),
        x.name,
        node.outputs[0].name,
        function,
        linear,
        upper,
        signed,
        axis,
        channels,
        is_membrane(node),
        is_relative(node),
    )


def _require_small_values_do_not_count(node: Node, function: ActivationFunction | None) -> None:
    """Nothing makes much of values of the activation that are near 0, or near another bound."""
    with np.errstate(all="ignore"):
        values = _RANGE if function is None else function.evaluate(_RANGE)
    reader = close_reader(node.outputs[0], values)
    if reader is not None:
        raise NotANeuron(f"{reader.op} {reader.name} makes much of small differences of its levels")


def _is_infinite_at_zero(node: Node, read: Tensor) -> bool:
    """Whether a silent neuron would make infinity of it, such as Log of a Sigmoid."""
    if node.op in ("Log", "Reciprocal"):
        return True
    return bool(node.op == "Div" and len(node.inputs) > 1 and node.inputs[1] is read)


def _divides_as_root(tensor: Tensor) -> bool:
    """Whether the root of the tensor and of constants, or a power below 0, is a divisor."""
    is_root = False
    while len(tensor.outputs) == 1:
        node = tensor.outputs[0]
        if is_root and _is_infinite_at_zero(node, tensor):
            return True
        others = [t for t in node.inputs if t is not tensor]
        if not standard(node).elementwise or not all(map(_is_one_value, others)):
            return False
        if node.op == "Pow":
            exponent = values_of(node.inputs[1]) if node.inputs[0] is tensor else np.ones(())
            if exponent < 0:
                return True
        is_root = is_root or node.op in ("Sqrt", "Pow")
        tensor = node.outputs[0]
    return False


def _slope_is_finite(node: Node) -> bool:
    if node.op != "PRelu":
        return bool(np.isfinite(node.attrs.get("alpha", 0.01)))
    slope = node.inputs[1]
    return not is_constant(slope) or bool(np.all(np.isfinite(slope.values)))


def _clips_at_zero(node: Node) -> bool:
    """Whether a Clip is constant, 0 below, and above it no constant but a positive one."""
    low, high = optional_input(node, 1), optional_input(node, 2)
    if not is_standard(node) or low is None or not _is_one_value(low):
        return False
    if high is not None and not (_is_one_value(high) and np.all(values_of(high) > 0)):
        return False
    return bool(np.all(values_of(low) == 0))


def _is_one_value(tensor: Tensor) -> bool:
    return is_constant(tensor) and tensor.values.size == 1


def _channels(x: Tensor) -> tuple[int | None, int | None]:
    """Channel axis and count: the linear operator that makes x decides, arithmetic passes."""
    if x.shape is None or len(x.shape) < 2:
        return None, None
    axis = 1
    tensor = x
    while tensor.inputs:
        producer = tensor.inputs[0]
        if producer.op == "MatMul":
            axis = len(x.shape) - 1
        if not is_arithmetic(producer):
            break
        operands = [operand for operand in producer.inputs if not is_constant(operand)]
        if not operands:
            break
        tensor = operands[0]
    return _counted(x, axis)


def _channels_read(node: Node) -> tuple[int | None, int | None]:
    """Channel axis and count of an encoder, for matrix products alone.

    1. In front of a weight matrix: the axis that is summed. LayerNorm leaves channels of very
       different ranges there.
    2. In front of the product of two signals of rank 4, attention: the heads, axis 1.

    In front of convolutions scales per channel gained nothing on networks and data that had not
    been calibrated on.
    """
    x, consumers = node.inputs[0], node.outputs[0].outputs
    if x.shape is None or len(x.shape) < 2 or not consumers:
        return None, None
    if all(c.op == "MatMul" and not any(map(is_constant, c.inputs)) for c in consumers):
        return _counted(x, 1) if len(x.shape) == 4 else (None, None)
    summed_last = all(
        c.op in ("MatMul", "Gemm")
        and c.inputs[0] is node.outputs[0]
        and is_constant(c.inputs[1])
        and not c.attrs.get("transA", 0)
        for c in consumers
    )
    return _counted(x, len(x.shape) - 1) if summed_last else (None, None)


def _counted(x: Tensor, axis: int) -> tuple[int | None, int | None]:
    count = shape_of(x)[axis]
    return (axis, count) if isinstance(count, int) and count > 0 else (None, None)
