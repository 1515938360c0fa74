"""MultiThresholdFire: a T-step integrate-and-fire neuron in one step.

    k = sign(X) * min(floor(|X| / theta + v0), levels_pos if X >= 0 else levels_neg)
    Y = theta * k

X is the membrane potential, theta the threshold (scalar, or one per channel), v0 the initial
membrane potential as a fraction of theta and k the number of spikes. With ``levels_neg = 0`` it is
the multi-threshold neuron that equals a T-step integrate-and-fire neuron for inputs in
[0, T * theta], N = T (arXiv 2510.23383); with ``levels_neg > 0`` it keeps negative levels (our
reading of polarity mapping, arXiv 2508.14520).

The function body below is the specification. The C++ kernel (``src/fire.cc``) evaluates the same
operations in the same order and element type; tests compare the two bit for bit. Equality fires,
NaN gives NaN, infinities saturate, a silent neuron gives +0.
"""

from __future__ import annotations

import atexit
from typing import TYPE_CHECKING

import onnx
from onnx import helper
from onnx.defs import OpSchema, deregister_schema, get_schema, register_schema

if TYPE_CHECKING:
    from onnx.shape_inference import InferenceContext

DOMAIN = "ai.snn"
OP_TYPE = "MultiThresholdFire"
SINCE_VERSION = 1

#: The function body uses Shape with ``start`` and CastLike, both of opset 15.
MIN_OPSET = 15
#: Model-local functions with default attributes exist since this IR version.
MIN_IR_VERSION = 8
#: float32 counts exactly up to here; the kernel refuses more levels.
MAX_LEVELS = 1 << 24

DEFAULTS: dict[str, int | float] = {"levels_pos": 1, "levels_neg": 0, "axis": 1, "v0": 0.5}

_ATTRIBUTE_DOCS = {
    "levels_pos": "N+, the number of positive levels, 0..2^24",
    "levels_neg": "N-, the number of negative levels, 0..2^24; N+ + N- is at least 1",
    "axis": "the channel axis of X when theta is of shape [C]; negative counts from the end",
    "v0": "initial membrane potential as a fraction of theta, in [0, 1); 0.5 rounds half up",
}

_BODY = """
    # theta of shape [C] is laid along `axis`: [C, 1, ..., 1]; a scalar stays one for a scalar X.
    tail = Shape <start: int = @axis> (X)
    trailing_axes = Slice (tail, one, int_max)
    ones_shape = Shape (trailing_axes)
    ones = ConstantOfShape <value = int64[1] {1}> (ones_shape)
    channels = Size (theta)
    channel_dim = Reshape (channels, one)
    aligned = Concat <axis = 0> (channel_dim, ones)
    x_shape = Shape (X)
    rank = Shape (x_shape)
    theta_shape = Slice (aligned, zero, rank)
    threshold = Reshape (theta, theta_shape)

    v0_float = Constant <value_float: float = @v0> ()
    v0 = CastLike (v0_float, X)
    levels_pos_int = Constant <value_int: int = @levels_pos> ()
    levels_pos = CastLike (levels_pos_int, X)
    levels_neg_int = Constant <value_int: int = @levels_neg> ()
    levels_neg = CastLike (levels_neg_int, X)
    nought_float = Constant <value_float = 0.0> ()
    nought = CastLike (nought_float, X)

    potential = Abs (X)
    scaled = Div (potential, threshold)
    charged = Add (scaled, v0)
    fired = Floor (charged)
    is_negative = Less (X, nought)
    limit = Where (is_negative, levels_neg, levels_pos)
    saturates = Greater (fired, limit)
    count = Where (saturates, limit, fired)
    # 0 - count and not Neg(count): a silent neuron gives +0.
    inhibitory = Sub (nought, count)
    spikes = Where (is_negative, inhibitory, count)
    Y = Mul (threshold, spikes)
"""

_SHAPE_CONSTANTS = """
    zero = Constant <value_ints = [0]> ()
    one = Constant <value_ints = [1]> ()
    int_max = Constant <value_ints = [9223372036854775807]> ()
"""


def function_body(opset: int) -> onnx.FunctionProto:
    """The definition of MultiThresholdFire in standard ONNX operators.

    Args:
        opset: default-domain opset of the model that will carry the function, at least
            :data:`MIN_OPSET`. Runtimes want both to be the same.

    Raises:
        ValueError: ``opset`` is too old for the body.
    """
    if opset < MIN_OPSET:
        raise ValueError(f"the function body needs opset {MIN_OPSET}, the model has {opset}")
    text = f"""<opset_import: ["" : {opset}], domain: "{DOMAIN}">
    {OP_TYPE} <axis: int = 1, levels_pos: int = 1, levels_neg: int = 0, v0: float = 0.5>
    (X, theta) => (Y) {{ {_SHAPE_CONSTANTS} {_BODY} }}"""
    lines = (line.split("#")[0] for line in text.splitlines())
    function = onnx.parser.parse_function("\n".join(lines))
    function.doc_string = "Multi-threshold spiking neuron: Y = theta * k."
    return function


def neurons_of(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes of the main graph that are this operator, in order."""
    return [n for n in model.graph.node if (n.domain, n.op_type) == (DOMAIN, OP_TYPE)]


def _infer(context: InferenceContext) -> None:
    """Y has X's element type and shape."""
    x_type = context.get_input_type(0)
    if x_type is not None:
        context.set_output_type(0, x_type)


def register_schema_once() -> None:
    """Make ``onnx.checker`` and ``onnx.shape_inference`` know the operator (idempotent)."""
    try:
        get_schema(OP_TYPE, SINCE_VERSION, DOMAIN)
        return
    except onnx.defs.SchemaError:
        pass
    parameter = OpSchema.FormalParameter
    schema = OpSchema(
        OP_TYPE,
        DOMAIN,
        SINCE_VERSION,
        doc=__doc__ or "",
        inputs=[
            parameter("X", "T", "membrane potential, any shape"),
            parameter("theta", "T", "threshold, scalar or [C]; finite and greater than 0"),
        ],
        outputs=[parameter("Y", "T", "theta times the number of spikes, shape of X")],
        type_constraints=[
            ("T", ["tensor(float16)", "tensor(float)", "tensor(double)"], "floating point")
        ],
        attributes=[
            OpSchema.Attribute(name, helper.make_attribute(name, value), _ATTRIBUTE_DOCS[name])
            for name, value in DEFAULTS.items()
        ],
    )
    schema.set_type_and_shape_inference_function(_infer)
    register_schema(schema)
    # onnx keeps schemas until the process is gone; before 1.23 it then crashes on a function that
    # Python has already freed.
    atexit.register(deregister_schema, OP_TYPE, SINCE_VERSION, DOMAIN)
