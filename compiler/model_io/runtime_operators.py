"""Operators in ONNX's own domain that onnxruntime runs, and onnx does not know or has deprecated.

Each is written as operators of ONNX that compute the same but for rounding:

1. GroupNormalization of opsets 18 to 20, with scale and bias per group: InstanceNormalization of
   the groups.
2. LayerNormalization before opset 17, and SimplifiedLayerNormalization, which onnxruntime's
   optimisation writes: means, differences and a division, as exporters do.
3. ImageScaler, Crop, Affine, Scale, ScaledTanh, ParametricSoftplus before opset 10, which
   converters from Core ML wrote; ThresholdedRelu before opset 10 is that of opset 10.

An output that only these have (the mean, say) is refused where something reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import NodeProto

from ...passes.graph.protos import attributes_of

if TYPE_CHECKING:
    from .upgrade import Step

#: Since this opset the axes of a mean are an input.
_AXES_ARE_AN_INPUT = 18
#: What a slice takes for 'to the end'.
_END = 2**31 - 1


@dataclass(frozen=True)
class RuntimeOperator:
    """An operator that only the runtime has, in these opsets.

    Attributes:
        first: the first opset of them.
        until: the opset in which ONNX has it, or the runtime no longer.
        adapt: gives the nodes that take its place.
    """

    first: int
    until: float
    adapt: Callable[[Step], list[NodeProto]]


def is_run(op: str, opset: int) -> bool:
    """Whether the runtime has an operator that ONNX does not have at this opset."""
    known = RUNTIME_OPERATORS.get(op)
    return known is not None and known.first <= opset < known.until


def _attributes(step: Step, *required: str) -> dict[str, Any]:
    """The node's attributes by name."""
    if any(attribute.ref_attr_name for attribute in step.node.attribute):
        raise step.refuse("it has an attribute of the function around it")
    attributes = attributes_of(step.node)
    missing = [name for name in required if name not in attributes]
    if missing:
        raise step.refuse(f"it has no {missing[0]}")
    return attributes


def _group_normalization(step: Step) -> list[NodeProto]:
    node, attributes = step.node, _attributes(step, "num_groups")
    groups = np.array([0, int(attributes["num_groups"]), -1], np.int64)
    target = step.constant("groups", groups)
    grouped = step.emit("Reshape", "grouped", [node.input[0], target.output[0]])
    shape = step.emit("Shape", "shape", [node.input[0]])
    normal = step.emit(
        "InstanceNormalization",
        "normal",
        [grouped.output[0], *node.input[1:3]],
        epsilon=float(attributes.get("epsilon", 1e-5)),
    )
    step.become("Reshape", [normal.output[0], shape.output[0]])
    return [target, grouped, shape, normal, node]


def _normalization(step: Step, *, centred: bool) -> list[NodeProto]:
    step.keep_first_output("which only training needs")
    node, attributes = step.node, _attributes(step)
    x = node.input[0]
    axis, rank = int(attributes.get("axis", -1)), step.types.rank.get(x)
    if axis >= 0 and rank is None:
        raise step.refuse("its axis counts from the first, and the rank of its input is unknown")
    axes = list(range(axis if axis < 0 else axis - (rank or 0), 0))
    nodes: list[NodeProto] = []

    def mean(what: str, tensor: str) -> str:
        if step.opset < _AXES_ARE_AN_INPUT:
            nodes.append(step.emit("ReduceMean", what, [tensor], axes=axes))
        else:
            nodes.append(step.constant("axes", np.array(axes, np.int64)))
            nodes.append(step.emit("ReduceMean", what, [tensor, nodes[-1].output[0]]))
        return str(nodes[-1].output[0])

    def made(op: str, what: str, *inputs: str) -> str:
        nodes.append(step.emit(op, what, list(inputs)))
        return str(nodes[-1].output[0])

    centre = made("Sub", "centred", x, mean("mean", x)) if centred else x
    square = made("Mul", "square", centre, centre)
    variance = mean("variance", square)
    epsilon = np.array(attributes.get("epsilon", 1e-5), np.float32)
    nodes += step.like_input(step.constant("epsilon", epsilon))
    deviation = made("Sqrt", "deviation", made("Add", "shifted", variance, nodes[-1].output[0]))
    normal = made("Div", "normal", centre, deviation)
    if not node.input[1:2] or not node.input[1]:
        raise step.refuse("it has no scale")
    scale, *bias = [name for name in node.input[1:3] if name]
    if bias:
        normal = made("Mul", "scaled", normal, scale)
    step.become("Add" if bias else "Mul", [normal, bias[0] if bias else scale])
    return [*nodes, node]


def _layer_normalization(step: Step) -> list[NodeProto]:
    return _normalization(step, centred=True)


def _rms_normalization(step: Step) -> list[NodeProto]:
    return _normalization(step, centred=False)


def _scaled(step: Step, what: str, x: str, values: object) -> list[NodeProto]:
    """``x`` times a number; the last node has the product."""
    factor = step.like_input(step.constant(what, np.array(values, np.float32)))
    return [*factor, step.emit("Mul", f"times_{what}", [x, factor[-1].output[0]])]


def _shifted(step: Step, what: str, default: float | list[float]) -> list[NodeProto]:
    """The node becomes an Add: its input times one attribute, plus another (per channel)."""
    factor = {"beta": "alpha", "bias": "scale"}[what]
    attributes = _attributes(step)
    before = _scaled(step, factor, step.node.input[0], attributes.get(factor, 1.0))
    values = np.array(attributes.get(what, default), np.float32)
    values = values.reshape(-1, 1, 1) if values.ndim else values
    shift = step.like_input(step.constant(what, values))
    step.become("Add", [before[-1].output[0], shift[-1].output[0]])
    return [*before, *shift, step.node]


def _affine(step: Step) -> list[NodeProto]:
    return _shifted(step, "beta", 0.0)


def _image_scaler(step: Step) -> list[NodeProto]:
    return _shifted(step, "bias", [0.0])


def _scale(step: Step) -> list[NodeProto]:
    factor = _attributes(step).get("scale", 1.0)
    typed = step.like_input(step.constant("scale", np.array(factor, np.float32)))
    step.become("Mul", [step.node.input[0], typed[-1].output[0]])
    return [*typed, step.node]


def _stretched(op: str) -> Callable[[Step], list[NodeProto]]:
    """alpha * op(beta * x)."""

    def adapt(step: Step) -> list[NodeProto]:
        attributes = _attributes(step, "alpha", "beta")
        inner = _scaled(step, "beta", step.node.input[0], attributes["beta"])
        bent = step.emit(op, "bent", [inner[-1].output[0]])
        factor = step.like_input(step.constant("alpha", np.array(attributes["alpha"], np.float32)))
        step.become("Mul", [bent.output[0], factor[-1].output[0]])
        return [*inner, bent, *factor, step.node]

    return adapt


def _crop(step: Step) -> list[NodeProto]:
    node, attributes = step.node, _attributes(step, "border")
    left, top, right, bottom = (int(border) for border in attributes["border"])
    ends = [-bottom or _END, -right or _END]
    if "scale" in attributes:
        height, width = (int(length) for length in attributes["scale"])
        ends = [top + height, left + width]
    bounds = [
        step.constant(what, np.array(values, np.int64))
        for what, values in (("starts", [top, left]), ("ends", ends), ("axes", [2, 3]))
    ]
    step.become("Slice", [node.input[0], *(bound.output[0] for bound in bounds)])
    return [*bounds, node]


def _thresholded_relu(step: Step) -> list[NodeProto]:
    return [step.node]


#: The operators by name.
RUNTIME_OPERATORS: Mapping[str, RuntimeOperator] = {
    "GroupNormalization": RuntimeOperator(18, 21, _group_normalization),
    "LayerNormalization": RuntimeOperator(1, 17, _layer_normalization),
    "SimplifiedLayerNormalization": RuntimeOperator(1, np.inf, _rms_normalization),
    "ThresholdedRelu": RuntimeOperator(1, 10, _thresholded_relu),
    "ImageScaler": RuntimeOperator(1, 10, _image_scaler),
    "Crop": RuntimeOperator(1, 10, _crop),
    "Affine": RuntimeOperator(1, 10, _affine),
    "Scale": RuntimeOperator(1, 10, _scale),
    "ScaledTanh": RuntimeOperator(1, 10, _stretched("Tanh")),
    "ParametricSoftplus": RuntimeOperator(1, 10, _stretched("Softplus")),
}
