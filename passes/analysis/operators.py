"""What each ONNX operator does: the one table that passes and the compiler read.

A property is about the operator in any version and whatever its attributes, unless a function
below says otherwise of a node. An operator that is not listed has no property: nothing is known of
it, and whoever asks has to be careful. Operators whose role is given have it in any domain that has
them under this name; all else is about the operators of ONNX itself.

What an activation computes, and whether it is homogeneous, depends on its attributes:
``functions.py`` has that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto

import numpy as np

from ..graph.graph import Node, Tensor, is_constant, is_standard, may_be_float, optional_input


class Role(Enum):
    """What an operator is for in a network.

    Attributes:
        ACTIVATION: a nonlinear function of one value; a neuron may stand for it.
        NORMALISATION: nonlinear, and combines values.
        RECURRENT: a layer with a state.
        LINEAR: sums of products, which spikes are for.
        QUANTISATION: part of a network that is already quantised.
        FUSED: layers and activations that a runtime's graph optimisation joined.
    """

    ACTIVATION = auto()
    NORMALISATION = auto()
    RECURRENT = auto()
    LINEAR = auto()
    QUANTISATION = auto()
    FUSED = auto()


class Inputs(Enum):
    """Some of the inputs of an operator; the others are parameters.

    Attributes:
        FIRST: the first.
        LATER: all but the first, which selects.
        ONE: any one while the others are fixed, as in a product.
        ALL: all together.
    """

    FIRST = auto()
    LATER = auto()
    ONE = auto()
    ALL = auto()


class Bytes(Enum):
    """What runtimes do with an operator of integers of 8 bits (``quantise_linear.py``).

    Attributes:
        MOVED: its kernel takes bytes as it takes floats.
        COMPUTED: between DequantizeLinear and QuantizeLinear it is a kernel of integers.
        LOOKED_UP: so it is, but one with tables and approximations of its own.
    """

    MOVED = auto()
    COMPUTED = auto()
    LOOKED_UP = auto()


@dataclass(frozen=True, kw_only=True)
class Operator:
    """What one operator does.

    Attributes:
        role: what it is for; None for most.
        moves: inputs whose values, or zeros, are all that the outputs hold: moved, repeated or
            selected. Where selects too, but by a condition that is a signal itself.
        affine: inputs in which the outputs are affine: f(a x + (1 - a) y) = a f(x) + (1 - a) f(y).
            Of Cast between floats only; of Dropout and BatchNormalization outside of training.
        elementwise: each element of the output depends on one element of each input alone.
        broadcasts: the inputs are broadcast against each other.
        per_row: row i of the output, along axis 0, depends on row i of each input alone, as long
            as the axes that it works along do not reach axis 0. Parameters have no rows.
        axis: the attribute that names the axis that it works along, and the default.
        axes_input: position of the input that lists the axes it works along (before some version
            the attribute ``axes``); none listed are all.
        signal: whether outputs can carry a signal: they do not where they follow from shapes, or
            are positions.
        shape_only: it reads the shape of its input and no value.
        at_most_one_each: how many values the outputs hold depends on the values of the inputs: for
            each of these one or none, or a position of it.
        random: its outputs may differ from run to run.
        weighted: the second input is its weight where it is constant.
        convolves: the weight slides over spatial axes; channels are axis 1.
        bytes: what kernels of 8 bits there are; None: it is computed in float.
        rearranges: each value of the input is in the output just once, perhaps among zeros.
        power: of the first input, by which the outputs grow: f(a x) = a^power f(x) for a > 0. Of
            operators that are not affine or move values, where it is 1, and no products; a shift
            that they add left aside. None: there is none.
    """

    role: Role | None = None
    moves: Inputs | None = None
    affine: Inputs | None = None
    elementwise: bool = False
    broadcasts: bool = False
    per_row: bool = False
    axis: tuple[str, int] | None = None
    axes_input: int | None = None
    signal: bool = True
    shape_only: bool = False
    at_most_one_each: bool = False
    random: bool = False
    weighted: bool = False
    convolves: bool = False
    bytes: Bytes | None = None
    rearranges: bool = False
    power: float | None = None


_UNARY = Operator(elementwise=True, per_row=True)
_ACTIVATION = replace(_UNARY, role=Role.ACTIVATION)
_NORMALISATION = Operator(role=Role.NORMALISATION, per_row=True)
_ALONG_LAST = replace(_NORMALISATION, axis=("axis", -1))
_WEIGHTED = Operator(role=Role.LINEAR, affine=Inputs.FIRST, per_row=True, weighted=True)
_CONVOLUTION = replace(_WEIGHTED, convolves=True)
_BROADCAST = replace(_UNARY, broadcasts=True)
_SUM = replace(_BROADCAST, affine=Inputs.ALL)
_SCALING = replace(_UNARY, affine=Inputs.FIRST)
_AFFINE = Operator(affine=Inputs.FIRST, per_row=True)
_MOVED = replace(_AFFINE, moves=Inputs.FIRST)
#: Moved from row to row.
_MOVED_ANYWHERE = replace(_MOVED, per_row=False)
#: The largest of several.
_SELECTED = Operator(moves=Inputs.FIRST, per_row=True)
_POOL = Operator(per_row=True)
_REDUCTION = Operator(per_row=True, axes_input=1)
_NORM = replace(_REDUCTION, power=1)
_MEAN = replace(_REDUCTION, affine=Inputs.FIRST)
_INDEX = Operator(per_row=True, axis=("axis", 0))
_JOINED = Operator(role=Role.FUSED)
_QUANTISED = Operator(role=Role.QUANTISATION)
_OF_SHAPE = Operator(signal=False, shape_only=True)

_TABLE: tuple[tuple[tuple[str, ...], Operator], ...] = (
    # Activations; the last line is of com.microsoft, and our function of the tanh of Gelu.
    (("Relu", "Clip", "LeakyRelu", "ThresholdedRelu", "Elu", "Selu", "Celu"), _ACTIVATION),
    (("Sigmoid", "HardSigmoid", "Tanh", "Softplus", "Softsign", "Erf", "Shrink"), _ACTIVATION),
    (("Gelu", "HardSwish", "Swish", "Mish"), _ACTIVATION),
    (("PRelu",), replace(_ACTIVATION, broadcasts=True)),
    (("FastGelu", "QuickGelu", "BiasGelu", "GeluTanh"), _ACTIVATION),
    # Normalisations.
    (("Softmax", "LogSoftmax", "Hardmax"), _ALONG_LAST),
    (("LayerNormalization", "RMSNormalization", "LpNormalization"), replace(_ALONG_LAST, power=0)),
    (("InstanceNormalization", "GroupNormalization"), replace(_NORMALISATION, power=0)),
    (("SimplifiedLayerNormalization",), replace(_NORMALISATION, power=0)),
    (("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "LRN"), _NORMALISATION),
    (("BatchNormalization",), replace(_NORMALISATION, affine=Inputs.FIRST)),
    # Over the rows too.
    (("MeanVarianceNormalization",), Operator(role=Role.NORMALISATION, power=0)),
    # Layers.
    (("LSTM", "GRU", "RNN"), Operator(role=Role.RECURRENT)),
    (("Conv", "ConvTranspose"), _CONVOLUTION),
    (("Gemm",), _WEIGHTED),
    (("MatMul",), replace(_WEIGHTED, affine=Inputs.ONE, broadcasts=True)),
    (("Einsum",), Operator(role=Role.LINEAR, affine=Inputs.ONE, per_row=True)),
    (("AveragePool", "GlobalAveragePool"), _AFFINE),
    (("LpPool", "GlobalLpPool"), replace(_POOL, power=1)),
    (("MaxPool", "GlobalMaxPool"), _SELECTED),
    # Arithmetic.
    (("Add", "Sub", "Sum", "Mean"), _SUM),
    (("Mul",), replace(_BROADCAST, affine=Inputs.ONE)),
    (("Div",), replace(_BROADCAST, affine=Inputs.FIRST)),
    (("Neg", "Cast", "CastLike"), _SCALING),
    (("Max", "Min"), replace(_BROADCAST, moves=Inputs.ALL)),
    (("Where",), replace(_BROADCAST, affine=Inputs.LATER)),
    (("Pow", "Mod", "BitShift"), _BROADCAST),
    (("Exp", "Log", "Sign", "Floor", "Ceil", "Round"), _UNARY),
    (("Abs",), replace(_UNARY, power=1)),
    (("Sqrt",), replace(_UNARY, power=0.5)),
    (("Reciprocal",), replace(_UNARY, power=-1)),
    (("Sin", "Cos", "Tan", "Asin", "Acos", "Atan"), _UNARY),
    (("Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "IsNaN", "IsInf"), _UNARY),
    (("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"), _BROADCAST),
    (("And", "Or", "Xor", "BitwiseAnd", "BitwiseOr", "BitwiseXor"), _BROADCAST),
    (("Not", "BitwiseNot"), _UNARY),
    (("CumSum",), _MEAN),
    # Reductions.
    (("ReduceMean", "ReduceSum"), _MEAN),
    (("ReduceMin", "ReduceL1", "ReduceL2"), _NORM),
    (("ReduceSumSquare",), replace(_REDUCTION, power=2)),
    (("ReduceProd",), _REDUCTION),
    (("ReduceLogSum", "ReduceLogSumExp"), _REDUCTION),
    (("ReduceMax",), replace(_REDUCTION, moves=Inputs.FIRST)),
    (("ArgMax", "ArgMin"), _INDEX),
    (("TopK",), replace(_INDEX, axis=("axis", -1))),
    # What moves values; Pad and Resize with the exceptions of `moves_values`.
    (("Identity",), replace(_MOVED, elementwise=True)),
    (("Dropout",), replace(_MOVED, random=True)),
    (("Reshape", "Transpose", "Expand", "Trilu", "DepthToSpace", "SpaceToDepth"), _MOVED),
    (("Pad", "Resize", "Upsample"), _MOVED),
    (("Flatten",), replace(_MOVED, axis=("axis", 1))),
    (("Split", "Gather", "GatherElements"), replace(_MOVED, axis=("axis", 0))),
    (("Squeeze", "Unsqueeze"), replace(_MOVED, axes_input=1)),
    (("Slice",), replace(_MOVED, axes_input=3)),
    (("Concat",), Operator(moves=Inputs.ALL, affine=Inputs.ALL, per_row=True, axis=("axis", 0))),
    (("GatherND", "Tile", "ReverseSequence", "MaxUnpool"), _MOVED_ANYWHERE),
    (("Compress",), replace(_MOVED_ANYWHERE, at_most_one_each=True)),
    (("Unique",), Operator(at_most_one_each=True)),
    # Spectra.
    (("DFT", "STFT"), Operator(power=1)),
    # Shapes, positions, random numbers.
    (("Shape", "Size", "EyeLike"), _OF_SHAPE),
    (("ConstantOfShape", "Range"), Operator(signal=False)),
    (("NonZero",), Operator(signal=False, at_most_one_each=True)),
    (("RandomNormal", "RandomNormalLike", "RandomUniform"), Operator(random=True)),
    (("RandomUniformLike", "Multinomial", "Bernoulli"), Operator(random=True)),
    (("Sampling", "BiasDropout", "BitmaskDropout", "BitmaskBiasDropout"), Operator(random=True)),
    # Operators of onnxruntime that join several, as its graph optimisation writes them.
    (("FusedConv", "FusedGemm", "FusedMatMul", "TransposeMatMul"), _JOINED),
    (("FusedMatMulActivation", "GemmFastGelu", "NhwcConv", "NhwcFusedConv"), _JOINED),
    (("EmbedLayerNormalization", "BiasSoftmax", "BiasSplitGelu", "SwiGLU"), _JOINED),
    (("GroupNorm", "SkipGroupNorm", "AttnLSTM", "MoE"), _JOINED),
    (("MultiHeadAttention", "DecoderMaskedMultiHeadAttention", "DecoderAttention"), _JOINED),
    (("DecoderMaskedSelfAttention", "GroupQueryAttention", "SparseAttention"), _JOINED),
    (("PackedAttention", "PackedMultiHeadAttention", "LongformerAttention"), _JOINED),
    (("LinearAttention", "PagedAttention"), _JOINED),
    (("Attention",), replace(_JOINED, per_row=True)),  # ONNX has it as well
    # Networks that are already quantised; the lines after the second are of com.microsoft.
    (("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"), _QUANTISED),
    (("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"), _QUANTISED),
    (("MatMulIntegerToFloat", "DynamicQuantizeMatMul"), _QUANTISED),
    (("DynamicQuantizeLSTM", "QAttention", "QGemm", "QMoE"), _QUANTISED),
    (("QEmbedLayerNormalization", "MatMulNBits"), _QUANTISED),
    (("MatMulBnb4", "MatMulFpQ4", "GatherBlockQuantized"), _QUANTISED),
)

_BYTES: Mapping[Bytes, tuple[str, ...]] = {
    Bytes.MOVED: (
        *("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand"),
        *("Slice", "Split", "Gather", "Pad", "MaxPool", "Resize"),
    ),
    Bytes.COMPUTED: (
        *("Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool"),
    ),
    Bytes.LOOKED_UP: ("Softmax", "Sigmoid", "LeakyRelu"),
}
_REARRANGED = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Pad")


def _complete(name: str, what: Operator) -> Operator:
    found = next((kind for kind, names in _BYTES.items() if name in names), None)
    return replace(what, bytes=found, rearranges=name in _REARRANGED)


#: The operators by name.
OPERATORS: Mapping[str, Operator] = {
    name: _complete(name, what) for names, what in _TABLE for name in names
}

_UNKNOWN = Operator()


def properties(op: str) -> Operator:
    """What the operators of a name do: of nodes whose domain is known, or where it does not count.

    Args:
        op: operator type, of a node, a NodeProto or a record of either.
    """
    return OPERATORS.get(op, _UNKNOWN)


def standard(node: Node) -> Operator:
    """What a node does; of other domains than ONNX's nothing is known."""
    return properties(node.op) if is_standard(node) else _UNKNOWN


def with_role(*roles: Role) -> frozenset[str]:
    """The names of the operators that have one of these roles."""
    return frozenset(name for name, what in OPERATORS.items() if what.role in roles)


def is_quantised(op: str) -> bool:
    """Whether operators of this name are those of a quantised network, in any domain."""
    return properties(op).role is Role.QUANTISATION or op.startswith("QLinear")


def is_arithmetic(node: Node) -> bool:
    """Whether each element is a sum, a multiple or a choice of elements at the same place."""
    what = standard(node)
    return what.elementwise and what.affine is not None


def moves_values(node: Node) -> bool:
    """Whether the outputs hold values of the inputs (or zeros) and nothing else."""
    if node.op == "Pad" and is_standard(node):
        fill = optional_input(node, 2)
        if node.attrs.get("mode", "constant") != "constant" or fill is None:
            return True
        return is_constant(fill) and not np.any(fill.values)
    if node.op in ("Resize", "Upsample") and str(node.attrs.get("mode", "nearest")) != "nearest":
        return False
    return standard(node).moves is not None


def moved(node: Node) -> list[Tensor]:
    """The inputs whose values :func:`moves_values` speaks of."""
    return list(node.inputs) if standard(node).moves is Inputs.ALL else [node.inputs[0]]


def takes_largest(node: Node) -> bool:
    """Whether the node gives the largest value of each window, or of each channel."""
    return is_standard(node) and node.op in ("MaxPool", "GlobalMaxPool")


def is_linear(node: Node) -> bool:
    """Whether the node is a linear operator on floats."""
    if standard(node).role is not Role.LINEAR or not node.inputs:
        return False
    return may_be_float(node.inputs[0])


def signal_inputs(node: Node) -> list[int]:
    """Positions of the operands of a linear operator that may carry a signal."""
    return [0, 1] if properties(node.op).weighted else list(range(len(node.inputs)))
