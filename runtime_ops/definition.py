"""What the operators' definitions share: domain, schema, and function bodies from text.

An operator has four parts that must never drift: the schema (with type and shape inference), the
function body in standard ONNX operators, which is the specification, the C++ kernel, and the tests
that compare kernel and body bit for bit. :class:`Operator` holds the first two.
"""

from __future__ import annotations

import atexit
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from string import Template
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper
from onnx.defs import OpSchema, deregister_schema, get_schema, register_schema

if TYPE_CHECKING:
    from onnx.shape_inference import InferenceContext

DOMAIN = "ai.snn"
SINCE_VERSION = 1

#: The function bodies use Shape with ``start``, of opset 15, where they lay channels along an axis.
MIN_OPSET = 15
#: Model-local functions with default attributes exist since this IR version.
MIN_IR_VERSION = 8
#: float32 counts exactly up to here; the kernels refuse more levels.
MAX_LEVELS = 1 << 24

#: Element types of the operators, and the type each is computed in. float16 is a storage type:
#: inputs are widened to float32 (exactly) and the result is rounded once. The casts are written
#: out in the body, because runtimes without float16 arithmetic drop the roundings in between.
COMPUTED_IN: dict[int, TensorProto.DataType] = {
    TensorProto.FLOAT: TensorProto.FLOAT,
    TensorProto.FLOAT16: TensorProto.FLOAT,
    TensorProto.DOUBLE: TensorProto.DOUBLE,
}
#: Bits of their significands.
_PRECISION: dict[int, int] = {TensorProto.FLOAT: 24, TensorProto.DOUBLE: 53}

#: Lays ``$values`` of shape [C] along an axis of a tensor of shape ``$shape``, whose dimensions
#: from that axis on are ``$tail``: [C, 1, ..., 1]. One value stays a scalar for a scalar tensor;
#: what has rank 2 or more lies as it should and keeps its shape.
ALIGN = """
    zero = Constant <value = int64[1] {0}> ()
    one = Constant <value = int64[1] {1}> ()
    two = Constant <value = int64[1] {2}> ()
    int_max = Constant <value = int64[1] {9223372036854775807}> ()
    trailing_axes = Slice ($tail, one, int_max)
    ones_shape = Shape (trailing_axes)
    ones = ConstantOfShape <value = int64[1] {1}> (ones_shape)
    channels = Size ($values)
    channel_dim = Reshape (channels, one)
    along_axis = Concat <axis = 0> (channel_dim, ones)
    rank = Shape ($shape)
    fitting_shape = Slice (along_axis, zero, rank)
    given_shape = Shape ($values)
    given_rank = Shape (given_shape)
    is_vector = Less (given_rank, two)
    both_shapes = Concat <axis = 0> (given_shape, fitting_shape)
    from_here = Where (is_vector, given_rank, zero)
    to_here = Where (is_vector, int_max, given_rank)
    factor_shape = Slice (both_shapes, from_here, to_here)
    factor = Reshape ($values, factor_shape)
"""
_ALIGN_TO_X = "x_shape = Shape ($X)\ntail = Shape <start: int = @axis> ($X)\n" + ALIGN.replace(
    "$shape", "x_shape"
).replace("$tail", "tail")

#: The number of spikes of the potential ``$u``, for a neuron without negative levels. Below 0 the
#: sum is below 1: Clip makes it 0.
SPIKES = """
    scaled = Div ($u, $threshold)
    charged = Add (scaled, $v0)
    fired = Floor (charged)
    $spikes = Clip (fired, nought, $levels_pos)
"""

#: The same, signed: of the two counts at least one is 0. v0 - scaled is |u| / theta + v0 for a
#: negative u, and a silent neuron has 0 - 0 = +0.
SIGNED_SPIKES = """
    scaled = Div ($u, $threshold)
    charged = Add (scaled, $v0)
    fired = Floor (charged)
    excitatory = Clip (fired, nought, $levels_pos)
    opposite = Sub ($v0, scaled)
    opposite_fired = Floor (opposite)
    inhibitory = Clip (opposite_fired, nought, $levels_neg)
    $spikes = Sub (excitatory, inhibitory)
"""

#: 1 / ``$factor`` as ``reciprocal``, rounded once. Not Div (1, factor): where a product follows,
#: onnxruntime's optimiser makes a division of the two, which rounds otherwise. Reciprocal is an
#: approximation on some processors.
RECIPROCAL = """
    minus_one = Constant <value = $type {-1}> ()
    minus_reciprocal = Div (minus_one, $factor)
    reciprocal = Neg (minus_reciprocal)
"""

NOUGHT = "nought = Constant <value = $type {0}> ()\n"

NEURON_ATTRIBUTES: dict[str, tuple[int | float, str]] = {
    "levels_pos": (1, "N+, the number of positive levels, 0..2^24"),
    "levels_neg": (0, "N-, the number of negative levels, 0..2^24; N+ + N- is at least 1"),
    "axis": (1, "the channel axis of X when theta is of shape [C]; negative counts from the end"),
    "v0": (0.5, "initial membrane potential as a fraction of theta, in [0, 1); 0.5 rounds half up"),
}

#: What a threshold or scale may look like, for the descriptions of inputs.
PER_CHANNEL = "scalar, [C] along axis, or [C, 1, ..., 1] as it lies against X from the right"


class Form(TypedDict):
    """Which form of a function body: the arguments of :meth:`Operator.function_body`."""

    aligned: bool
    signed: bool


def fill(text: str, **names: str) -> str:
    """``text`` with some of its ``$names`` replaced, the others left for later."""
    return Template(text).safe_substitute(names)


def widened(
    x: ArrayLike, scale: ArrayLike
) -> tuple[NDArray[np.floating], NDArray[np.floating], type[np.floating]]:
    """``x`` and ``scale`` in the type that they are computed in, and the type.

    Args:
        x: float16, float32 or float64; anything else counts as float32.
        scale: counts as of the type of ``x``.
    """
    x = np.asarray(x)
    x = x if x.dtype in (np.float16, np.float64) else x.astype(np.float32)
    wide: type[np.floating] = np.float64 if x.dtype == np.float64 else np.float32
    return x.astype(wide), np.asarray(scale, x.dtype).astype(wide), wide


def neurons_below(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of its control-flow bodies that are operators of the domain."""
    for node in graph.node:
        if node.domain == DOMAIN:
            yield node
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from neurons_below(body)


def _constant_shapes(graph: onnx.GraphProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every constant tensor of a graph and of its control-flow bodies."""
    overridable = {value.name for value in graph.input}
    for tensor in graph.initializer:
        if tensor.name not in overridable:
            yield tensor.name, tuple(tensor.dims)
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                yield node.output[0], tuple(attribute.t.dims)
            elif node.op_type == "Constant" and attribute.name == "value_float":
                yield node.output[0], ()
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _constant_shapes(body)


@dataclass(frozen=True)
class Operator:
    """One operator of the domain: its schema and its function body.

    In the texts of the body ``$X`` and the other inputs as ``$name`` are the inputs in the type
    that is computed in, ``$Y`` is the output; ``$factor`` is the second input, theta or scale, as
    it broadcasts against X; an attribute as ``$name`` is its value in that type, ``$type`` the
    type's name and ``$to`` its number, ``$two_to_p`` the literal 2^p for its p bits of precision
    and ``$grid`` the literal 1.5 * 2^(p - 1).

    Attributes:
        name: the op_type.
        doc: what it computes.
        inputs: what each input means, by name; X, the first, decides type and shape of Y.
        attributes: default value and meaning, by name.
        body: node lines in ONNX text.
        one_sided: the cheaper lines for nodes whose attribute ``negative`` is 0, or nothing.
        negative: the attribute that says how far a neuron fires below 0; nothing where ``body``
            is the only form.
        head: node lines before those that make ``$factor``.
        align: node lines that make ``factor`` from an input of shape [C] and the axis.
    """

    name: str
    doc: str
    inputs: dict[str, str]
    attributes: dict[str, tuple[int | float, str]]
    body: str
    one_sided: str = ""
    negative: str = ""
    head: str = ""
    align: str = _ALIGN_TO_X

    @property
    def defaults(self) -> dict[str, int | float]:
        """Default values of the attributes."""
        return {name: default for name, (default, _) in self.attributes.items()}

    @property
    def factor(self) -> str:
        """The name of the input that has one value, or one per channel: theta or scale."""
        return list(self.inputs)[1]

    def nodes_of(self, model: onnx.ModelProto) -> list[onnx.NodeProto]:
        """The nodes that are this operator, those in control-flow bodies included, in order."""
        return [n for n in neurons_below(model.graph) if n.op_type == self.name]

    def form_in(self, model: onnx.ModelProto) -> Form:
        """The cheapest form of the body that holds for all of a model's nodes.

        ``aligned`` where each node's theta or scale is a constant of one value or of rank 2 or
        more, or its axis is the last, -1; ``signed`` where a node fires below 0.
        """
        shapes = dict(_constant_shapes(model.graph))
        aligned, signed = True, False
        for node in self.nodes_of(model):
            given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            attributes = {**self.defaults, **given}
            shape = shapes.get(node.input[1])
            as_it_lies = shape is not None and (len(shape) > 1 or math.prod(shape) == 1)
            aligned = aligned and (as_it_lies or attributes["axis"] == -1)
            signed = signed or bool(self.negative and attributes[self.negative] > 0)
        return {"aligned": aligned, "signed": signed}

    def function_body(
        self,
        opset: int,
        element_type: int = TensorProto.FLOAT,
        *,
        aligned: bool = False,
        signed: bool = True,
    ) -> onnx.FunctionProto:
        """The definition in standard ONNX operators.

        A model holds one function of a name, so all its neurons of one operator share an element
        type and a form; :meth:`form_in` says which.

        Args:
            opset: default-domain opset of the model that will carry the function, at least
                :data:`MIN_OPSET`. Runtimes want both to be the same.
            element_type: TensorProto.FLOAT, FLOAT16 or DOUBLE, the type of X.
            aligned: theta or scale broadcasts against X as it lies: one value, rank 2 or more, or
                channels on the last axis. The body is then arithmetic alone; otherwise it looks at
                shapes and ``axis`` and takes whatever the kernels take.
            signed: neurons fire below 0 too. Where they do not, both forms give the same bits.

        Raises:
            ValueError: ``opset`` is too old for the body, or the type is another.
        """
        if opset < MIN_OPSET:
            raise ValueError(f"the function body needs opset {MIN_OPSET}, the model has {opset}")
        if element_type not in COMPUTED_IN:
            known = ", ".join(TensorProto.DataType.Name(known) for known in COMPUTED_IN)
            raise ValueError(f"element type {element_type} is none of {known}")
        wide = COMPUTED_IN[element_type]
        names = {name: name for name in (*self.inputs, "Y")}
        before = after = ""
        if wide != element_type:
            names = {name: f"{name}_wide" for name in names}
            before = "".join(f"{names[i]} = Cast <to = {wide}> ({i})\n" for i in self.inputs)
            after = f"Y = Cast <to = {element_type}> (Y_wide)\n"
        precision = _PRECISION[wide]
        names |= {
            "factor": names[self.factor] if aligned else "factor",
            "type": TensorProto.DataType.Name(wide).lower(),
            "to": str(wide),
            "two_to_p": str(1 << precision),
            "grid": str(3 << precision - 2),
        }
        body = self.head
        if not aligned:
            body += fill(self.align, values=names[self.factor])
        body += self.body if signed or not self.one_sided else self.one_sided
        body = before + self._attribute_values(body, wide) + fill(body, **names) + after
        body = fill(body, **{name: f"{name}_value" for name in self.attributes})
        lines = "\n".join(line.split("#")[0] for line in body.splitlines())
        attributes = ", ".join(
            f"{name}: {'int' if isinstance(default, int) else 'float'} = {default}"
            for name, default in self.defaults.items()
        )
        function = onnx.parser.parse_function(
            f'<opset_import: ["" : {opset}], domain: "{DOMAIN}">\n'
            f"{self.name} <{attributes}> ({', '.join(self.inputs)}) => (Y) {{ {lines} }}"
        )
        function.doc_string = self.doc.splitlines()[0]
        return function

    def _attribute_values(self, body: str, wide: int) -> str:
        """The lines that make ``name_value`` of every attribute that ``body`` has as ``$name``."""
        lines = ""
        for name, default in self.defaults.items():
            if not re.search(rf"\${name}\b", body):
                continue
            kind = "int" if isinstance(default, int) else "float"
            constant = f"Constant <value_{kind}: {kind} = @{name}> ()"
            if kind == "float" and wide == TensorProto.FLOAT:
                lines += f"{name}_value = {constant}\n"
            else:
                lines += f"{name}_{kind} = {constant}\n"
                lines += f"{name}_value = Cast <to = {wide}> ({name}_{kind})\n"
        return lines

    def register_schema_once(self) -> None:
        """Make ``onnx.checker`` and ``onnx.shape_inference`` know the operator (idempotent)."""
        try:
            get_schema(self.name, SINCE_VERSION, DOMAIN)
            return
        except onnx.defs.SchemaError:
            pass
        parameter = OpSchema.FormalParameter
        schema = OpSchema(
            self.name,
            DOMAIN,
            SINCE_VERSION,
            doc=self.doc,
            inputs=[parameter(name, "T", doc) for name, doc in self.inputs.items()],
            outputs=[parameter("Y", "T", "of X's shape")],
            type_constraints=[
                ("T", ["tensor(float16)", "tensor(float)", "tensor(double)"], "floating point")
            ],
            attributes=[
                OpSchema.Attribute(name, helper.make_attribute(name, default), doc)
                for name, (default, doc) in self.attributes.items()
            ],
        )
        schema.set_type_and_shape_inference_function(_infer)
        register_schema(schema)
        # onnx keeps schemas until the process is gone; before 1.23 it then crashes on a function
        # that Python has already freed.
        atexit.register(deregister_schema, self.name, SINCE_VERSION, DOMAIN)


def _infer(context: InferenceContext) -> None:
    """Y has X's element type and shape."""
    x_type = context.get_input_type(0)
    if x_type is not None:
        context.set_output_type(0, x_type)
