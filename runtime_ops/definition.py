"""What the operators' definitions share: domain, schema, and function bodies from text.

An operator has four parts that must never drift: the schema (with type and shape inference), the
function body in standard ONNX operators, which is the specification, the C++ kernel, and the tests
that compare kernel and body bit for bit. :class:`Operator` holds the first two.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from dataclasses import dataclass
from string import Template
from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto, helper
from onnx.defs import OpSchema, deregister_schema, get_schema, register_schema

if TYPE_CHECKING:
    from onnx.shape_inference import InferenceContext

DOMAIN = "ai.snn"
SINCE_VERSION = 1

#: The function bodies use Shape with ``start`` and CastLike, both of opset 15.
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

#: Lays ``$values`` of shape [C] along an axis of a tensor of shape ``$shape``, whose dimensions
#: from that axis on are ``$tail``: [C, 1, ..., 1]. A single value stays one for a scalar tensor.
ALIGN = """
    trailing_axes = Slice ($tail, one, int_max)
    ones_shape = Shape (trailing_axes)
    ones = ConstantOfShape <value = int64[1] {1}> (ones_shape)
    channels = Size ($values)
    channel_dim = Reshape (channels, one)
    aligned = Concat <axis = 0> (channel_dim, ones)
    rank = Shape ($shape)
    fitting_shape = Slice (aligned, zero, rank)
    $aligned = Reshape ($values, fitting_shape)
"""

#: The signed number of spikes of the potential ``$u`` under ``$threshold``, as ``$spikes``.
SPIKES = """
    potential = Abs ($u)
    scaled = Div (potential, $threshold)
    charged = Add (scaled, v0)
    fired = Floor (charged)
    is_negative = Less ($u, nought)
    limit = Where (is_negative, levels_neg, levels_pos)
    saturates = Greater (fired, limit)
    count = Where (saturates, limit, fired)
    # 0 - count and not Neg(count): a silent neuron gives +0.
    inhibitory = Sub (nought, count)
    $spikes = Where (is_negative, inhibitory, count)
"""

#: The attributes of a neuron that counts multiples of theta, in the type of X.
NEURON_CONSTANTS = """
    v0_float = Constant <value_float: float = @v0> ()
    v0 = CastLike (v0_float, $X)
    levels_pos_int = Constant <value_int: int = @levels_pos> ()
    levels_pos = CastLike (levels_pos_int, $X)
    levels_neg_int = Constant <value_int: int = @levels_neg> ()
    levels_neg = CastLike (levels_neg_int, $X)
    nought_float = Constant <value_float = 0.0> ()
    nought = CastLike (nought_float, $X)
"""

_COMMON = """
    zero = Constant <value_ints = [0]> ()
    one = Constant <value_ints = [1]> ()
    int_max = Constant <value_ints = [9223372036854775807]> ()
"""

NEURON_ATTRIBUTES: dict[str, tuple[int | float, str]] = {
    "levels_pos": (1, "N+, the number of positive levels, 0..2^24"),
    "levels_neg": (0, "N-, the number of negative levels, 0..2^24; N+ + N- is at least 1"),
    "axis": (1, "the channel axis of X when theta is of shape [C]; negative counts from the end"),
    "v0": (0.5, "initial membrane potential as a fraction of theta, in [0, 1); 0.5 rounds half up"),
}


def fill(text: str, **names: str) -> str:
    """``text`` with some of its ``$names`` replaced, the others left for later."""
    return Template(text).safe_substitute(names)


def neurons_below(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of its control-flow bodies that are operators of the domain."""
    for node in graph.node:
        if node.domain == DOMAIN:
            yield node
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from neurons_below(body)


@dataclass(frozen=True)
class Operator:
    """One operator of the domain: its schema and its function body.

    Attributes:
        name: the op_type.
        doc: what it computes.
        inputs: what each input means, by name; X, the first, decides type and shape of Y.
        attributes: default value and meaning, by name.
        body: node lines in ONNX text. ``$X`` and the other inputs as ``$name`` are the inputs in
            the type that is computed in, ``$Y`` the output, ``$type`` the name of that type.
    """

    name: str
    doc: str
    inputs: dict[str, str]
    attributes: dict[str, tuple[int | float, str]]
    body: str

    @property
    def defaults(self) -> dict[str, int | float]:
        """Default values of the attributes."""
        return {name: default for name, (default, _) in self.attributes.items()}

    def nodes_of(self, model: onnx.ModelProto) -> list[onnx.NodeProto]:
        """The nodes that are this operator, those in control-flow bodies included, in order."""
        return [n for n in neurons_below(model.graph) if n.op_type == self.name]

    def function_body(
        self, opset: int, element_type: int = TensorProto.FLOAT
    ) -> onnx.FunctionProto:
        """The definition in standard ONNX operators.

        A model holds one function of a name, so all its neurons of one operator share an element
        type.

        Args:
            opset: default-domain opset of the model that will carry the function, at least
                :data:`MIN_OPSET`. Runtimes want both to be the same.
            element_type: TensorProto.FLOAT, FLOAT16 or DOUBLE, the type of X.

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
        names["type"] = TensorProto.DataType.Name(wide).lower()
        body = before + fill(_COMMON + self.body, **names) + after
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
