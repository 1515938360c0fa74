"""What an operator of integers must give, computed in numpy from the integers that it reads.

1. Conv, Gemm, MatMul: sums of products of integers, q - zero on either side, and the bias, exact;
   times the scale step_x step_w / step_y, in float32 and rounded after each operation. Without
   QuantizeLinear behind them the scale is step_x step_w and floats come out.
2. Add: (step_a / step_y) a + (step_b / step_y) b + c, c what the zero points come to, in float32
   with fused multiplications and additions. Mul: the product times step_a step_b / step_y.
3. Concat: step_x (q - zero) / step_y. AveragePool: step_x (q - zero) summed up place by place,
   divided by their number, then by step_y. GlobalAveragePool: the sum times one scale.
4. QuantizeLinear of floats x: x / step_y. NaN counts as the lowest integer. Min: exact.
5. All of these round halves to even and saturate at 0 and 255. Zero points are added before (Add,
   Mul, AveragePool) or after.

These are the formulas of ONNX Runtime's kernels on x86 with AVX2 (MLAS). Those of other processors
compute the same values in another order, Arm in part with fixed point: where a value lies halfway
between two integers, but for rounding (``slack``), either is right.

Sums are exact: float32 where all of them stay below 2^24, float64 elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ....passes.graph.protos import attributes_of
from ....passes.lowering.quantise_linear import MOST_LEVELS
from .form import IntegerOperator, Operand
from .windows import window_pieces

#: Rounding errors of a few operations in float32, Arm's fixed point of 22 bits included, relative
#: to the largest value met.
_ROUNDING = 2.0**-20
_EXACT_FLOAT32 = 2.0**24


@dataclass(frozen=True)
class Expected:
    """What must come out.

    Attributes:
        values: before rounding, zero point added; or the floats that come out.
        integers: uint8, the values rounded; None where floats come out.
        slack: how far a runtime's value may lie from these: of integers in integers, of floats as a
            share of the value.
    """

    values: np.ndarray
    integers: np.ndarray | None
    slack: float


def expected_of(
    operator: IntegerOperator, read: Mapping[str, np.ndarray], shape: tuple[int, ...]
) -> Expected:
    """What an operator must give.

    Args:
        operator: one of the network.
        read: the runtime's tensors by name: those of the operands, and what QuantizeLinear reads.
        shape: of the output.
    """
    return _FORMULAS[operator.kind](operator, read, shape)


def _linear(
    operator: IntegerOperator, read: Mapping[str, np.ndarray], shape: tuple[int, ...]
) -> Expected:
    x, weight = operator.present[:2]
    bias = operator.present[2] if len(operator.present) > 2 else None
    sums_of = _convolve if operator.kind == "Conv" else _multiply
    sums = sums_of(operator, x, weight, read, shape)
    along = [1, -1, *[1] * (len(shape) - 2)] if operator.kind == "Conv" else [-1]
    if bias is not None and bias.values is not None:
        sums = sums.astype(np.float64) + bias.values.reshape(along)
    alpha = np.float32(attributes_of(operator.node).get("alpha", 1.0))
    scale = alpha * x.step * weight.step
    if operator.step is None:
        return Expected(sums.astype(np.float32) * scale.reshape(along), None, _ROUNDING)
    scale = (scale / operator.step).reshape(along)
    return _rounded_first(sums.astype(np.float32) * scale, operator.zero)


def _convolve(
    operator: IntegerOperator,
    x: Operand,
    weight: Operand,
    read: Mapping[str, np.ndarray],
    shape: tuple[int, ...],
) -> np.ndarray:
    w = _integers(weight, read)
    rows = np.abs(w).reshape(len(w), -1).sum(axis=1, dtype=np.float64)
    kind = _kind_of_sums(rows.max(initial=0.0))
    attributes = attributes_of(operator.node)
    groups = int(attributes.get("group", 1))
    out, kernel = shape[2:], w.shape[2:]
    places = int(np.prod(out))
    w = w.reshape(groups, len(w) // groups, w.shape[1], -1).astype(kind)
    sums = np.zeros((shape[0], groups, w.shape[1], places), kind)
    centred = _centred(x, read, kind)
    for place, piece in enumerate(window_pieces(centred, kernel, out, attributes)):
        inputs = piece.reshape(len(piece), groups, -1, places)
        factors = w[..., place]
        # Depthwise: products of one row and one column are slow as products of matrices.
        sums += factors * inputs if w.shape[2] == 1 else np.matmul(factors, inputs)
    return sums.reshape(shape)


def _multiply(
    operator: IntegerOperator,
    a: Operand,
    b: Operand,
    read: Mapping[str, np.ndarray],
    _: tuple[int, ...],
) -> np.ndarray:
    attributes = attributes_of(operator.node)
    transposed = [bool(attributes.get(name, 0)) for name in ("transA", "transB")]
    left = _integers(a, read)
    depth = left.shape[0] if transposed[0] else left.shape[-1]
    largest = MOST_LEVELS if b.values is None else int(np.abs(b.values).max(initial=0))
    kind = _kind_of_sums(float(largest * depth))
    matrices = [_centred(operand, read, kind) for operand in (a, b)]
    first, second = (m.T if t else m for m, t in zip(matrices, transposed, strict=True))
    product: np.ndarray = np.matmul(first, second)
    return product


def _add(operator: IntegerOperator, read: Mapping[str, np.ndarray], _: tuple[int, ...]) -> Expected:
    (a, b), step = operator.present, _step(operator)
    first, second = np.float32(a.step / step), np.float32(b.step / step)
    zeros = _fused(first, a.zero, second * np.float32(b.zero))
    values = _fused(second, _integers(b, read), np.float32(operator.zero) - zeros)
    values = _fused(first, _integers(a, read), values)
    largest = MOST_LEVELS * (1.0 + float(first) + float(second))
    return _shifted_first(values, largest)


def _product(
    operator: IntegerOperator, read: Mapping[str, np.ndarray], _: tuple[int, ...]
) -> Expected:
    a, b = operator.present
    scale = a.step * b.step / _step(operator)
    product = _centred(a, read, np.float32) * _centred(b, read, np.float32)
    return _shifted_first(product * scale + np.float32(operator.zero))


def _concat(
    operator: IntegerOperator, read: Mapping[str, np.ndarray], _: tuple[int, ...]
) -> Expected:
    parts = [_centred(x, read, np.float32) * x.step / _step(operator) for x in operator.present]
    axis = int(attributes_of(operator.node)["axis"])
    return _rounded_first(np.concatenate(parts, axis), operator.zero)


def _average(
    operator: IntegerOperator, read: Mapping[str, np.ndarray], shape: tuple[int, ...]
) -> Expected:
    (x,), step, attributes = operator.present, _step(operator), attributes_of(operator.node)
    kernel, out = attributes["kernel_shape"], shape[2:]
    values = _centred(x, read, np.float32) * x.step
    ones = np.ones((1, 1, *values.shape[2:]), np.float32)
    total, count = np.zeros(shape, np.float32), np.zeros((1, 1, *out), np.float32)
    for piece in window_pieces(values, kernel, out, attributes):
        total += piece
    for piece in window_pieces(ones, kernel, out, attributes):
        count += piece
    if attributes.get("count_include_pad", 0):
        count[...] = np.prod(kernel)
    largest = MOST_LEVELS * (1.0 + float(np.prod(kernel)) * float(x.step / step))
    return _shifted_first(total / count / step + np.float32(operator.zero), largest)


def _global_average(
    operator: IntegerOperator, read: Mapping[str, np.ndarray], _: tuple[int, ...]
) -> Expected:
    (x,) = operator.present
    integers = _centred(x, read, np.float64)
    axes = tuple(range(2, integers.ndim))
    count = np.float32(np.prod(integers.shape[2:]))
    scale = x.step / (_step(operator) * count)
    sums = integers.sum(axis=axes, keepdims=True).astype(np.float32)
    return _rounded_first(sums * scale, operator.zero)


def _quantise(
    operator: IntegerOperator, read: Mapping[str, np.ndarray], _: tuple[int, ...]
) -> Expected:
    with np.errstate(over="ignore"):
        scaled = read[operator.node.input[0]].astype(np.float32) / _step(operator)
    return _rounded_first(np.fmax(scaled, np.float32(-operator.zero)), operator.zero)


def _limit(
    operator: IntegerOperator, read: Mapping[str, np.ndarray], _: tuple[int, ...]
) -> Expected:
    (x,) = operator.present
    integers = np.minimum(read[x.tensor], np.uint8(x.top))
    return Expected(integers.astype(np.float32), integers, 0.0)


_Formula = Callable[[IntegerOperator, Mapping[str, np.ndarray], tuple[int, ...]], Expected]

_FORMULAS: Mapping[str, _Formula] = {
    "Conv": _linear,
    "Gemm": _linear,
    "MatMul": _linear,
    "Add": _add,
    "Mul": _product,
    "Concat": _concat,
    "AveragePool": _average,
    "GlobalAveragePool": _global_average,
    "QuantizeLinear": _quantise,
    "Min": _limit,
}


def _fused(
    scale: np.float32, integers: np.ndarray | int, addend: np.ndarray | np.float32
) -> np.ndarray:
    """A product and a sum in float32, rounded once: products of 8 and 24 bits are exact below."""
    product = np.float64(scale) * np.asarray(integers, np.float64)
    return np.asarray(product + addend, np.float32)


def _rounded_first(levels: np.ndarray, zero: int) -> Expected:
    """The zero point is added behind the rounding."""
    levels = np.clip(levels, -zero, MOST_LEVELS - zero)
    integers = (np.rint(levels) + np.float32(zero)).astype(np.uint8)
    return Expected(levels + np.float32(zero), integers, _ROUNDING * MOST_LEVELS)


def _shifted_first(values: np.ndarray, largest: float = MOST_LEVELS) -> Expected:
    """The zero point is in the values already."""
    values = np.clip(values, 0, MOST_LEVELS)
    return Expected(values, np.rint(values).astype(np.uint8), _ROUNDING * largest)


def _kind_of_sums(most: float) -> type[np.floating]:
    """A type in which sums are exact, given sums of the magnitudes of one side's factors."""
    return np.float32 if most * MOST_LEVELS < _EXACT_FLOAT32 else np.float64


def _step(operator: IntegerOperator) -> np.float32:
    assert operator.step is not None
    return operator.step


def _integers(operand: Operand, read: Mapping[str, np.ndarray]) -> np.ndarray:
    return read[operand.tensor] if operand.values is None else operand.values


def _centred(
    operand: Operand, read: Mapping[str, np.ndarray], kind: type[np.floating]
) -> np.ndarray:
    """Its integers without the zero point."""
    centred: np.ndarray = _integers(operand, read).astype(kind) - kind(operand.zero)
    return centred
