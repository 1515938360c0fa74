"""Bring a model to the opset that the operators' function bodies need.

1. Opsets 6 and newer are read. Models at MIN_OPSET or newer keep their opset; older ones are
   rewritten node by node, in the graph, in every If, Loop and Scan body and in model-local
   functions, which have opsets of their own. Operators whose later versions only widen the earlier
   one (more types, more attributes with the old behaviour as default) stay as they are.
2. Attributes that became inputs turn into Constant nodes: Clip, Dropout, Pad, ReduceSum, Slice,
   Split, Squeeze, Unsqueeze, TopK.
3. Softmax, LogSoftmax and Hardmax before 13 work on the input flattened to 2-D: where ``axis`` is
   the last one that is the new meaning, otherwise Flatten and Reshape go around the operator.
4. Upsample and Resize before 11 become Resize with the asymmetric coordinates they had. 'nearest'
   rounded down when enlarging and up when shrinking; a Resize that does both, or whose scales are
   not constant, is refused.
5. BatchNormalization with ``spatial = 0`` (statistics per element) becomes arithmetic. Outputs that
   only training fills are dropped when nothing reads them, and refused otherwise; so is the mask
   of Dropout, whose type and values changed.
6. Opset 6: the axis at which a second operand (or the slopes of PRelu) was broadcast becomes
   dimensions of 1; BatchNormalization and Dropout that are not marked ``is_test`` are refused.
7. Scatter is renamed ScatterElements. Scan before 9 had a batch axis: refused.
8. Operators that onnxruntime has and onnx does not, or no longer: ``runtime_operators.py``.
9. Inputs that have an initializer are dropped and the initializer stays as a constant. Up to IR
   version 3 every weight had to be such an input; since 4 it is a default that the caller may
   override, which a compiled network, calibrated with the defaults, cannot honour
   (:func:`overridable_inputs` names them). The other inputs keep names, order and types.

Everything is rewritten in place, so doc strings, metadata, annotations and initializers are not
touched; the data of initializers are not needed, but where 4 asks for scales.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
)
from onnx.defs import SchemaError, get_schema
from onnx.helper import make_attribute, make_node
from onnx.numpy_helper import from_array, to_array

from ...passes.graph.protos import bodies_in, names_below, nodes_below, reads
from ...runtime_ops.definition import MIN_OPSET
from ..errors import ModelError
from .runtime_operators import RUNTIME_OPERATORS, is_run

OLDEST_OPSET = 6

# Functions, and the function bodies of our operators, exist since this IR version.
_MIN_IR = 8

# Since this IR version an initializer need not be an input as well.
_OVERRIDABLE_IR = 4

_STANDARD = ("", "ai.onnx")


def upgrade(model: ModelProto) -> ModelProto:
    """Rewrite ``model`` in place to opset :data:`MIN_OPSET` or newer, and return it.

    Raises:
        ModelError: the opset is unknown, or an operator's old meaning cannot be expressed.
    """
    uses_standard = any(node.domain in _STANDARD for node in model.graph.node)
    if not uses_standard and not any(o.domain in _STANDARD for o in model.opset_import):
        model.opset_import.add(domain="", version=MIN_OPSET)
    opset = _standard_opset(model.opset_import)
    newest = onnx.defs.onnx_opset_version()
    if opset < OLDEST_OPSET:
        raise ModelError(
            f"opset {opset} is too old, {OLDEST_OPSET} is the oldest that is read; "
            f"export the model with opset {MIN_OPSET} or newer"
        )
    if opset > newest:
        raise ModelError(
            f"opset {opset} is newer than the installed onnx knows ({newest}); "
            "install a newer onnx, or export the model with an older opset"
        )
    _drop_inputs_with_initializers(model.graph)
    if opset < MIN_OPSET or _needs_runtime(model.graph, opset):
        rewriter = _Rewriter(opset, names_below(model.graph))
        rewriter.rewrite_graph(model.graph, _inferred(model), _Types())
        _set_opset(model.opset_import)
    for function in model.functions:
        own = _standard_opset(function.opset_import, default=opset)
        if own < OLDEST_OPSET:
            raise ModelError(
                f"function {function.name}: opset {own} is too old, {OLDEST_OPSET} is the oldest "
                f"that is read; export the model with opset {MIN_OPSET} or newer"
            )
        if own < MIN_OPSET or _needs_runtime(function, own):
            inner = _Rewriter(own, names_below(function))
            inner.rewrite_nodes(function.node, _Types(), set(function.output))
            _set_opset(function.opset_import)
    model.ir_version = max(model.ir_version, _MIN_IR)
    return model


def _needs_runtime(proto: GraphProto | FunctionProto, opset: int) -> bool:
    """Whether it has operators that onnx does not know at its opset."""
    nodes = nodes_below(proto)
    return any(is_run(node.op_type, opset) for node in nodes if node.domain in _STANDARD)


def overridable_inputs(model: ModelProto) -> list[str]:
    """Names of the inputs with a default value, which :func:`upgrade` turns into constants.

    Empty up to IR version 3, where weights are listed as inputs without being meant as such.
    """
    if model.ir_version < _OVERRIDABLE_IR:
        return []
    initializers = _initializer_names(model.graph)
    return [value.name for value in model.graph.input if value.name in initializers]


def _standard_opset(imports: Iterable[onnx.OperatorSetIdProto], default: int | None = None) -> int:
    versions = [int(opset.version) for opset in imports if opset.domain in _STANDARD]
    if versions:
        return versions[0]
    if default is None:
        raise ModelError(
            "the model imports no version of the standard operators; "
            "add the domain '' to its opset_import, or export it again"
        )
    return default


def _set_opset(imports: Iterable[onnx.OperatorSetIdProto]) -> None:
    for opset in imports:
        if opset.domain in _STANDARD:
            opset.version = max(opset.version, MIN_OPSET)


def _initializer_names(graph: GraphProto) -> set[str]:
    names = {tensor.name for tensor in graph.initializer}
    return names | {tensor.values.name for tensor in graph.sparse_initializer}


def _drop_inputs_with_initializers(graph: GraphProto) -> None:
    initializers = _initializer_names(graph)
    kept = [value for value in graph.input if value.name not in initializers]
    if len(kept) < len(graph.input):
        del graph.input[:]
        graph.input.extend(kept)


def _inferred(model: ModelProto) -> GraphProto:
    """The graph with types and ranks where inference finds them; at worst without."""
    if model.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
        return model.graph
    try:
        return onnx.shape_inference.infer_shapes(model).graph
    except Exception:  # native code, raises whatever it likes on models that nobody checked
        return model.graph


@dataclass
class _Types:
    """What is known about the tensors of a graph and the graphs around it."""

    element: dict[str, int] = field(default_factory=dict)
    rank: dict[str, int] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)  # length of the first axis, where fixed

    def within(self, graph: GraphProto) -> _Types:
        inner = _Types(dict(self.element), dict(self.rank), dict(self.first))
        for value in [*graph.input, *graph.value_info, *graph.output]:
            inner._add(value)
        for tensor in graph.initializer:
            inner.element[tensor.name] = tensor.data_type
            inner.rank[tensor.name] = len(tensor.dims)
            if tensor.dims:
                inner.first[tensor.name] = tensor.dims[0]
        return inner

    def _add(self, value: ValueInfoProto) -> None:
        tensor = value.type.tensor_type
        if value.type.HasField("tensor_type") and tensor.elem_type:
            self.element[value.name] = tensor.elem_type
            if tensor.HasField("shape"):
                self.rank[value.name] = len(tensor.shape.dim)
                if tensor.shape.dim and tensor.shape.dim[0].HasField("dim_value"):
                    self.first[value.name] = tensor.shape.dim[0].dim_value


class _Rewriter:
    """Rewrites nodes of one opset; knows the names that are taken."""

    def __init__(self, opset: int, taken: set[str]) -> None:
        self.opset = opset
        self._taken = taken
        self._constants: dict[str, TensorProto] = {}

    def rewrite_graph(self, graph: GraphProto, inferred: GraphProto, outer: _Types) -> None:
        """Replace the nodes of a graph; ``inferred`` is the same with types where known."""
        types = outer.within(inferred)
        self._constants.update({tensor.name: tensor for tensor in graph.initializer})
        bodies = [body for node in inferred.node for body in bodies_in(node)]
        self.rewrite_nodes(graph.node, types, {value.name for value in graph.output}, bodies)

    def rewrite_nodes(
        self,
        nodes: Any,
        types: _Types,
        outputs: set[str],
        bodies: list[GraphProto] | None = None,
    ) -> None:
        """Replace the nodes of a repeated field; ``bodies`` are the inferred inner graphs."""
        result: list[NodeProto] = []
        remaining = iter(bodies or [])
        read = outputs | {name for node in nodes for name in reads(node)}
        for node in nodes:
            for body in bodies_in(node):
                self.rewrite_graph(body, next(remaining, body), types)
            self._remember(node)
            if node.domain in _STANDARD and _has_operands(node, self.opset):
                result += self._replacements(Step(self, node, types, read))
            else:
                result.append(node)
        del nodes[:]
        nodes.extend(result)

    def _replacements(self, step: Step) -> list[NodeProto]:
        before: list[NodeProto] = []
        if self.opset < 7:
            *before, step.node = _ADAPTERS_TO_7.get(step.node.op_type, _as_it_is)(step)
        if is_run(step.node.op_type, self.opset):
            return RUNTIME_OPERATORS[step.node.op_type].adapt(step)
        last, adapter = _ADAPTERS.get(step.node.op_type, (0, _as_it_is))
        return [*before, *(adapter(step) if self.opset < last else [step.node])]

    def _remember(self, node: NodeProto) -> None:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                self._constants[node.output[0]] = attribute.t

    def unique(self, wanted: str) -> str:
        name, count = wanted, 0
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name

    def values(self, name: str) -> np.ndarray | None:
        """The values of a constant that the model holds itself, if ``name`` is one."""
        tensor = self._constants.get(name)
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
            return None
        return to_array(tensor)


@dataclass
class Step:
    """One node on its way; an adapter returns the nodes that take its place."""

    rewriter: _Rewriter
    node: NodeProto
    types: _Types
    read: set[str]

    def refuse(self, what: str) -> ModelError:
        """The error for a node whose old meaning cannot be expressed."""
        node = self.node
        return ModelError(
            f"{node.op_type} {node.name or node.output[0]} of opset {self.rewriter.opset}: {what}; "
            f"export the model with opset {MIN_OPSET} or newer"
        )

    def take(self, name: str) -> AttributeProto | None:
        """Remove an attribute from the node and return it."""
        for i, attribute in enumerate(self.node.attribute):
            if attribute.name == name:
                taken = AttributeProto()
                taken.CopyFrom(attribute)
                del self.node.attribute[i]
                return taken
        return None

    def new_name(self, what: str) -> str:
        """A name that nothing has yet, after the node's."""
        return self.rewriter.unique(f"{self.node.name or self.node.output[0]}.{what}")

    def emit(self, op: str, what: str, inputs: list[str], **attributes: Any) -> NodeProto:
        """A node with a fresh output."""
        output = self.new_name(what)
        return make_node(op, inputs, [output], name=self.new_name(f"{what}_op"), **attributes)

    def constant(self, what: str, values: np.ndarray) -> NodeProto:
        """A Constant node."""
        node = self.emit("Constant", what, [], value=from_array(values))
        self.rewriter._remember(node)
        return node

    def attribute_as_constant(
        self, attribute: AttributeProto, what: str, *, scalar: bool = False
    ) -> NodeProto:
        """A Constant with an attribute's value; a reference to a function's attribute stays one."""
        if attribute.ref_attr_name:
            node = self.emit("Constant", what, [])
            reference = AttributeProto(
                name={
                    AttributeProto.INT: "value_int",
                    AttributeProto.INTS: "value_ints",
                    AttributeProto.FLOAT: "value_float",
                    AttributeProto.FLOATS: "value_floats",
                }[attribute.type],
                type=attribute.type,
                ref_attr_name=attribute.ref_attr_name,
            )
            node.attribute.append(reference)
            return node
        values = onnx.helper.get_attribute_value(attribute)
        is_float = attribute.type in (AttributeProto.FLOAT, AttributeProto.FLOATS)
        array = np.array(values, np.float32 if is_float else np.int64)
        return self.constant(what, array if scalar else array.reshape(-1))

    def like_input(self, constant: NodeProto) -> list[NodeProto]:
        """The constant in the element type of the node's first input; the last node has it."""
        element = self.types.element.get(self.node.input[0])
        if element == TensorProto.FLOAT:
            return [constant]
        if element is None:
            inputs = [constant.output[0], self.node.input[0]]
            return [constant, self.emit("CastLike", "typed", inputs)]
        return [constant, self.emit("Cast", "typed", [constant.output[0]], to=element)]

    @property
    def opset(self) -> int:
        """Of the model or function around it, before it is rewritten."""
        return self.rewriter.opset

    def become(self, op: str, inputs: list[str]) -> None:
        """Make another operator of the node, without attributes."""
        self.node.op_type = op
        del self.node.input[:], self.node.attribute[:]
        self.node.input.extend(inputs)

    def set_input(self, index: int, name: str) -> None:
        """Let the node read ``name`` as this input."""
        while len(self.node.input) <= index:
            self.node.input.append("")
        self.node.input[index] = name

    def keep_first_output(self, why: str) -> None:
        """Drop the others; refuse where something reads them."""
        for name in self.node.output[1:]:
            if name and name in self.read:
                raise self.refuse(f"its output {name} is used, {why}")
        del self.node.output[1:]


def _as_it_is(step: Step) -> list[NodeProto]:
    return [step.node]


def _broadcast(step: Step) -> list[NodeProto]:
    broadcast, axis = step.take("broadcast"), step.take("axis")
    if broadcast is None or not broadcast.i or axis is None:
        return [step.node]
    ranks = [step.types.rank.get(name) for name in step.node.input]
    if ranks[0] is None or ranks[1] is None:
        raise step.refuse("it broadcasts along an axis, and the rank of an operand is unknown")
    first = (axis.i + ranks[0] if axis.i < 0 else axis.i) + ranks[1]
    return _with_trailing_ones(step, ranks[1], ranks[0] - first)


def _prelu(step: Step) -> list[NodeProto]:
    rank, slope_rank = (step.types.rank.get(name) for name in step.node.input[:2])
    if slope_rank == 0 or (slope_rank == 1 and rank == 2) or (slope_rank == rank is not None):
        return [step.node]
    if rank is None or slope_rank is None:
        raise step.refuse("its slopes belong to channels, and the rank of an input is unknown")
    return _with_trailing_ones(step, slope_rank, rank - 1 - slope_rank)


def _with_trailing_ones(step: Step, rank: int, ones: int) -> list[NodeProto]:
    """Give the second input dimensions of 1 at its end."""
    if ones <= 0:
        return [step.node]
    axes = step.constant("axes", np.arange(rank, rank + ones, dtype=np.int64))
    shaped = step.emit("Unsqueeze", "shaped", [step.node.input[1], axes.output[0]])
    step.node.input[1] = shaped.output[0]
    return [axes, shaped, step.node]


def _without(*names: str) -> Callable[[Step], list[NodeProto]]:
    """Attributes without effect on the result are dropped."""

    def adapt(step: Step) -> list[NodeProto]:
        for name in names:
            step.take(name)
        return [step.node]

    return adapt


def _only_test(step: Step) -> list[NodeProto]:
    is_test = step.take("is_test")
    if is_test is None or not is_test.i:
        node = step.node
        name = node.name or node.output[0]
        raise ModelError(
            f"{node.op_type} '{name}' of opset {step.opset} in training mode (is_test is 0): "
            "export with model.eval()"
        )
    return [step.node]


def _upsample_by_height_and_width(step: Step) -> list[NodeProto]:
    factors = [step.take("height_scale"), step.take("width_scale")]
    if any(factor is None or factor.ref_attr_name for factor in factors):
        raise step.refuse("it has no scales of its own")
    scales = [1.0, 1.0, *(factor.f for factor in factors if factor is not None)]
    step.node.attribute.append(make_attribute("scales", scales))
    for attribute in step.node.attribute:
        if attribute.name == "mode" and attribute.s == b"bilinear":
            attribute.s = b"linear"
    return [step.node]


def _move(*names: str) -> Callable[[Step], list[NodeProto]]:
    """Integer attributes become inputs 1, 2, ... in this order."""

    def adapt(step: Step) -> list[NodeProto]:
        before = []
        for index, name in enumerate(names, start=1):
            attribute = step.take(name)
            if attribute is None or not (attribute.ref_attr_name or attribute.ints):
                continue
            before.append(step.attribute_as_constant(attribute, name))
            step.set_input(index, before[-1].output[0])
        return [*before, step.node]

    return adapt


def _clip(step: Step) -> list[NodeProto]:
    before: list[NodeProto] = []
    for index, name in enumerate(("min", "max"), start=1):
        attribute = step.take(name)
        if attribute is not None:
            bound = step.attribute_as_constant(attribute, name, scalar=True)
            before += step.like_input(bound)
            step.set_input(index, before[-1].output[0])
    return [*before, step.node]


def _pad(step: Step) -> list[NodeProto]:
    value = step.take("value")
    before = _move("pads")(step)[:-1]
    if len(step.node.input) < 2:
        raise step.refuse("it has no pads")
    if value is not None:
        before += step.like_input(step.attribute_as_constant(value, "value", scalar=True))
        step.set_input(2, before[-1].output[0])
    return [*before, step.node]


def _dropout(step: Step) -> list[NodeProto]:
    step.keep_first_output("and masks have another meaning since opset 12")
    ratio = step.take("ratio")
    before = []
    if ratio is not None:
        before.append(step.attribute_as_constant(ratio, "ratio", scalar=True))
        step.set_input(1, before[-1].output[0])
    return [*before, step.node]


def _topk(step: Step) -> list[NodeProto]:
    k = step.take("k")
    if k is None:
        return [step.node]
    constant = step.attribute_as_constant(k, "k", scalar=bool(k.ref_attr_name))
    before = [constant]
    if k.ref_attr_name:  # a scalar; TopK wants one dimension
        shape = step.constant("k_shape", np.array([1], np.int64))
        inputs = [constant.output[0], shape.output[0]]
        before += [shape, step.emit("Reshape", "k_vector", inputs)]
    step.set_input(1, before[-1].output[0])
    return [*before, step.node]


def _has_operands(node: NodeProto, opset: int) -> bool:
    """Whether a node has what its operator needs; if not, the runtime refuses it as it is."""
    try:
        schema = get_schema(node.op_type, opset, "")
    except SchemaError:  # of the runtime's own
        return bool(node.output)
    return len(node.input) >= schema.min_input and len(node.output) >= schema.min_output


def _softmax(step: Step) -> list[NodeProto]:
    node = step.node
    x, output = node.input[0], node.output[0]
    axis = step.take("axis") or make_attribute("axis", 1)
    node.attribute.append(make_attribute("axis", -1))
    rank = step.types.rank.get(x)
    if not axis.ref_attr_name and (axis.i == -1 or (rank is not None and axis.i == rank - 1)):
        return [node]
    shape = step.emit("Shape", "shape", [x])
    flat = step.emit("Flatten", "flat", [x])
    flat.attribute.append(axis)
    node.input[0] = flat.output[0]
    node.output[0] = step.new_name("result")
    restored = make_node(
        "Reshape", [node.output[0], shape.output[0]], [output], name=step.new_name("restored_op")
    )
    return [shape, flat, node, restored]


def _resize(step: Step) -> list[NodeProto]:
    node = step.node
    mode = next((a.s.decode() for a in node.attribute if a.name == "mode"), "nearest")
    before = []
    scales = step.take("scales")
    if scales is not None:
        before.append(step.attribute_as_constant(scales, "scales"))
        step.set_input(1, before[-1].output[0])
    if len(node.input) < 2:
        raise step.refuse("it has no scales")
    factor = node.input[1]
    nearest = "floor" if mode == "nearest" else None
    if node.op_type == "Resize" and mode == "nearest":
        values = step.rewriter.values(factor)
        if values is None:
            raise step.refuse("how it rounds depends on its scales, which are not constant")
        if np.any(values < 1):
            nearest = "ceil"
            if np.any(values > 1):
                raise step.refuse("it enlarges one axis and shrinks another")
    if any(a.ref_attr_name for a in node.attribute if a.name == "mode"):
        raise step.refuse("its mode is an attribute of the function around it")
    node.op_type = "Resize"
    del node.input[1:]
    node.input.extend(["", factor])
    node.attribute.append(make_attribute("coordinate_transformation_mode", "asymmetric"))
    if nearest is not None:
        node.attribute.append(make_attribute("nearest_mode", nearest))
    return [*before, node]


def _batch_normalization(step: Step) -> list[NodeProto]:
    step.keep_first_output("which only training fills")
    node = step.node
    spatial = step.take("spatial")
    if spatial is None or (spatial.i == 1 and not spatial.ref_attr_name):
        return [node]
    if spatial.ref_attr_name:
        raise step.refuse("'spatial' is an attribute of the function around it")
    epsilon = step.take("epsilon") or make_attribute("epsilon", 1e-5)
    x, scale, bias, mean, var = node.input[:5]
    typed = step.like_input(step.attribute_as_constant(epsilon, "epsilon", scalar=True))
    variance = step.emit("Add", "variance", [var, typed[-1].output[0]])
    deviation = step.emit("Sqrt", "deviation", [variance.output[0]])
    centred = step.emit("Sub", "centred", [x, mean])
    normed = step.emit("Div", "normed", [centred.output[0], deviation.output[0]])
    scaled = step.emit("Mul", "scaled", [normed.output[0], scale])
    node.op_type = "Add"
    del node.input[:], node.attribute[:]
    node.input.extend([scaled.output[0], bias])
    return [*typed, variance, deviation, centred, normed, scaled, node]


def _scatter(step: Step) -> list[NodeProto]:
    step.node.op_type = "ScatterElements"
    return [step.node]


def _scan(step: Step) -> list[NodeProto]:
    node = step.node
    lengths, *inputs = node.input
    if lengths or any(step.types.first.get(name) != 1 for name in inputs):
        raise step.refuse(
            "Scan had a batch axis before opset 9, which newer ones express for a batch of 1 "
            "without sequence lengths only"
        )
    axes = step.constant("batch_axis", np.array([0], np.int64))
    before = [step.emit("Squeeze", f"in_{i}", [x, axes.output[0]]) for i, x in enumerate(inputs)]
    after = []
    for i, output in enumerate(node.output):
        node.output[i] = step.new_name(f"out_{i}")
        after.append(make_node("Unsqueeze", [node.output[i], axes.output[0]], [output]))
    del node.input[:]
    node.input.extend(squeezed.output[0] for squeezed in before)
    directions = step.take("directions")
    if directions is not None:
        directions.name = "scan_input_directions"
        node.attribute.append(directions)
    return [axes, *before, node, *after]


# What opset 7 changed.
_ADAPTERS_TO_7: dict[str, Callable[[Step], list[NodeProto]]] = {
    **dict.fromkeys(("Add", "And", "Div", "Equal", "Greater", "Less"), _broadcast),
    **dict.fromkeys(("Mul", "Or", "Pow", "Sub", "Xor"), _broadcast),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), _without("output_sequence")),
    "BatchNormalization": _only_test,
    "Dropout": _only_test,
    "Gemm": _without("broadcast"),
    "PRelu": _prelu,
    "Upsample": _upsample_by_height_and_width,
}

# Operator: the opset from which on it needs no rewriting, and what rewrites it before.
_ADAPTERS: dict[str, tuple[int, Callable[[Step], list[NodeProto]]]] = {
    "BatchNormalization": (14, _batch_normalization),
    "Clip": (11, _clip),
    "Dropout": (12, _dropout),
    "Hardmax": (13, _softmax),
    "LogSoftmax": (13, _softmax),
    "Pad": (11, _pad),
    "ReduceSum": (13, _move("axes")),
    "Resize": (11, _resize),
    "Scan": (9, _scan),
    "Scatter": (11, _scatter),
    "Slice": (10, _move("starts", "ends", "axes")),
    "Softmax": (13, _softmax),
    "Split": (13, _move("split")),
    "Squeeze": (13, _move("axes")),
    "TopK": (10, _topk),
    "Unsqueeze": (13, _move("axes")),
    "Upsample": (10, _resize),
}
