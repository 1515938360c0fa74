"""Take operators apart in which onnxruntime's graph optimisation joined several.

A model saved after optimisation has them, in the domain ``com.microsoft``:

1. FusedConv: Conv, Add of its fourth input if it has one, and an activation.
2. FusedGemm: Gemm and an activation.
3. FusedMatMul, TransposeMatMul: Transpose of either operand (``transBatch``: the first axis goes
   in front of the last one; ``trans``: then the last two are swapped), MatMul, Mul by ``alpha``.
4. BiasGelu, FastGelu with a bias: Add and Gelu, in the form that ``recognise`` gives it.
5. SkipLayerNormalization, SkipSimplifiedLayerNormalization: Adds and the normalisation.

The first part has the name and the metadata of the operator. Left whole: an activation that is not
known, transposes of operands of unknown rank, normalisations whose mean or deviation is read.

The function computed is unchanged but for rounding. Precondition: shapes are inferred.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from ..graph.graph import (
    ANN_DOMAIN,
    Graph,
    Node,
    Tensor,
    dtype_of,
    optional_input,
    rank_of,
    scopes,
    unique_name,
)
from ..graph.surgeon import add_node, constant, variable
from ..recognise.ann_functions import spelled

_DOMAIN = "com.microsoft"
#: How the attributes of a FusedGemm that are its activation's begin.
_OF_ACTIVATION = "activation"
#: Attributes of a FusedMatMul, with the letter of the operand behind them.
_TRANSPOSES = ("trans", "transBatch")

#: Activations of a FusedConv, and what the numbers in ``activation_params`` are: attributes, or
#: inputs where the name is that of one.
_CONV_ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
    "HardSwish": (),
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Clip": ("min", "max"),
}
#: Activations of a FusedGemm, and the attributes that it has of them, as ``activation_alpha``.
_GEMM_ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign"), ()),
    **dict.fromkeys(("LeakyRelu", "Elu", "Celu", "ThresholdedRelu"), ("alpha",)),
    "HardSigmoid": ("alpha", "beta"),
    "Selu": ("alpha", "gamma"),
}


def split_fused(graph: Graph) -> list[str]:
    """Apply the rules in every scope, in place; sorting the nodes is for ``tidy``.

    Args:
        graph: the main graph.

    Returns:
        One line per operator that was taken apart.
    """
    changes: list[str] = []
    for scope in [scope.graph for scope in scopes(graph)]:
        for node in list(scope.nodes):
            op, split = node.op, _SPLITS.get(node.op)
            if split is None or node.domain != _DOMAIN:
                continue
            if node.outputs[0].dtype is None:
                node.outputs[0].dtype = node.inputs[0].dtype  # one type for all of them
            if split(_Parts(graph, scope, node)):
                changes.append(f"{op} {node.name}: written as standard operators")
    return changes


class _Parts:
    """What a fused operator becomes.

    Args:
        main: the main graph, which holds functions.
        scope: the graph or body that the node is in.
        node: the operator.
    """

    def __init__(self, main: Graph, scope: Graph, node: Node) -> None:
        self.node = node
        self._main, self._scope = main, scope

    def between(self, what: str) -> Tensor:
        """A tensor between two parts, of the element type and shape of the result."""
        return variable(unique_name(self._main, f"{self.node.name}.{what}"), self.node.outputs[0])

    def number(self, what: str, value: float, shape: tuple[int, ...] = ()) -> Tensor:
        """A constant of the result's element type."""
        values = np.full(shape, value, dtype_of(self.node.outputs[0]))
        return constant(unique_name(self._main, f"{self.node.name}.{what}"), values)

    def add(self, op: str, inputs: Sequence[Tensor], output: Tensor, **attributes: object) -> None:
        """One part: an operator of ONNX, or a function that stands for one."""
        name = unique_name(self._main, f"{self.node.name}.{op}")
        op, written, domain = spelled(self._main, op, attributes, output.dtype)
        read = list(inputs)
        if domain == ANN_DOMAIN and op == "LayerNormalization" and len(read) == 2:
            read.append(self.number("bias", 0.0, shape=(1,)))  # not optional there
        add_node(self._scope, op, name, read, output, written, domain)

    def transposed(self, operand: Tensor, order: list[int]) -> Tensor:
        """The operand with its axes in this order."""
        if order == sorted(order):
            return operand
        turned = variable(unique_name(self._main, f"{self.node.name}.transposed"))
        turned.dtype = operand.dtype
        self.add("Transpose", [operand], turned, perm=order)
        return turned

    def is_returned(self, tensor: Tensor) -> bool:
        """Whether a graph or body gives it to whoever calls it."""
        return any(tensor is out for scope in scopes(self._main) for out in scope.graph.outputs)

    def become(
        self, op: str, inputs: Sequence[Tensor], output: Tensor, **attributes: object
    ) -> None:
        """The fused operator itself becomes the first part."""
        node = self.node
        node.op, node.attrs, node.domain = spelled(self._main, op, attributes, output.dtype)
        node.inputs, node.outputs = list(inputs), [output]


def _given(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [tensor for tensor in tensors if not tensor.is_empty()]


def _conv(parts: _Parts) -> bool:
    node, result = parts.node, parts.node.outputs[0]
    attributes = dict(node.attrs)
    activation = str(attributes.pop("activation", ""))
    numbers = [float(value) for value in attributes.pop("activation_params", [])]
    names = _CONV_ACTIVATIONS.get(activation)
    if activation and (names is None or len(numbers) < len(names)):
        return False
    settings = dict(zip(names or (), numbers, strict=False))
    inputs, residual = node.inputs[:3], optional_input(node, 3)
    linear = parts.between("linear") if activation or residual is not None else result
    parts.become("Conv", _given(inputs), linear, **attributes)
    if residual is not None:
        total = parts.between("sum") if activation else result
        parts.add("Add", [linear, residual], total)
        linear = total
    if activation == "Clip":
        bounds = [parts.number(name, value) for name, value in settings.items()]
        parts.add(activation, [linear, *bounds], result)
    elif activation:
        parts.add(activation, [linear], result, **settings)
    return True


def _gemm(parts: _Parts) -> bool:
    node, result = parts.node, parts.node.outputs[0]
    given = {k: v for k, v in node.attrs.items() if k.startswith(_OF_ACTIVATION)}
    activation = str(given.get(_OF_ACTIVATION, ""))
    names = _GEMM_ACTIVATIONS.get(activation)
    settings = {name: given.get(f"{_OF_ACTIVATION}_{name}") for name in names or ()}
    if names is None or None in settings.values():
        return False
    linear = parts.between("linear")
    attributes = {k: v for k, v in node.attrs.items() if k not in given}
    parts.become("Gemm", node.inputs, linear, **attributes)
    parts.add(activation, [linear], result, **settings)
    return True


def _matmul(parts: _Parts) -> bool:
    node, result = parts.node, parts.node.outputs[0]
    alpha = float(node.attrs.get("alpha", 1.0))
    operands = []
    for side, operand in zip("AB", list(node.inputs), strict=True):
        swapped, batch = (bool(node.attrs.get(f"{flag}{side}", 0)) for flag in _TRANSPOSES)
        rank = rank_of(operand)
        if (swapped or batch) and rank is None:
            return False
        operands.append((operand, _order(rank or 0, swapped, batch)))
    read = [parts.transposed(operand, order) for operand, order in operands]
    product = result if alpha == 1.0 else parts.between("product")
    parts.become("MatMul", read, product)
    if alpha != 1.0:
        parts.add("Mul", [product, parts.number("alpha", alpha)], result)
    return True


def _order(rank: int, swapped: bool, batch: bool) -> list[int]:
    """The order of the axes of an operand of FusedMatMul as MatMul reads it."""
    order = list(range(rank))
    if batch and rank > 1:
        order = [*order[1:-1], 0, rank - 1]
    if swapped and rank > 1:
        order[-2:] = reversed(order[-2:])
    return order


def _biased(op: str) -> Callable[[_Parts], bool]:
    """An activation of a sum; without a bias the operator is one of those that neurons follow."""

    def split(parts: _Parts) -> bool:
        node, result = parts.node, parts.node.outputs[0]
        x, bias = node.inputs[0], optional_input(node, 1)
        if bias is None:
            return False
        total = parts.between("sum")
        parts.become("Add", [x, bias], total)
        parts.add(op, [total], result)
        return True

    return split


def _skip_norm(op: str, bias_at: int) -> Callable[[_Parts], bool]:
    """A normalisation of the sum of two tensors and, as input ``bias_at``, a bias."""

    def split(parts: _Parts) -> bool:
        node, result = parts.node, parts.node.outputs[0]
        statistics, totals = _given(node.outputs[1:3]), _given(node.outputs[3:])
        if any(tensor.outputs or parts.is_returned(tensor) for tensor in statistics):
            return False
        bias, parameters = optional_input(node, bias_at), _given(node.inputs[2:bias_at])
        epsilon = float(node.attrs.get("epsilon", 1e-12))
        total = totals[0] if totals else parts.between("sum")
        total.dtype = result.dtype
        first = total if bias is None else parts.between("skipped")
        parts.become("Add", node.inputs[:2], first)
        if bias is not None:
            parts.add("Add", [first, bias], total)
        parts.add(op, [total, *parameters], result, axes=[-1], epsilon=epsilon)
        return True

    return split


_SPLITS: Mapping[str, Callable[[_Parts], bool]] = {
    "FusedConv": _conv,
    "FusedGemm": _gemm,
    **dict.fromkeys(("FusedMatMul", "TransposeMatMul"), _matmul),
    "BiasGelu": _biased("Gelu"),
    "FastGelu": _biased("GeluTanh"),
    "SkipLayerNormalization": _skip_norm("LayerNormalization", 4),
    "SkipSimplifiedLayerNormalization": _skip_norm("RMSNormalization", 3),
}
