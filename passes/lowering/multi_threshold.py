"""Write a spiking network in QONNX: neurons as thresholds or Quant, weights as Quant.

MultiThreshold and Quant are operators of the domain ``qonnx.custom_op.general`` (A. Pappalardo et
al., arXiv 2206.07527), which FINN makes hardware of:

    MultiThreshold(X, T) = out_scale * #{j: X >= T_j} + out_bias          T ascending
    Quant(X, s, z, b) = s * (round(clip(X / s + z, lowest, highest)) - z)

1. A neuron MultiThresholdFire of one threshold theta, y = theta k, k from -N- to N+, becomes

       K = MultiThreshold(x, T)        out_scale 1, out_bias -N-, out_dtype the least that holds k
       y = Mul(K, theta)

   T_j is the smallest float32 at which the neuron fires its j-th level: found by bisection over all
   float32, of the neuron's own formula, and looked at from both sides.
2. Where a Mul by positive constants per channel makes x, or a Relu does and N- = 0, the thresholds
   are those of what it reads: [C, N- + N+].
3. Form ``quant``: a neuron with N- = 0 and N+ = 2^b - 1 is Quant(x, theta, 0, b), unsigned,
   HALF_UP, instead; it rounds as the neuron does.
4. Operators that only move values (``integer_edges.moves_integers``) move K; the product with theta
   stands in front of each reader that computes. Those that hardware has no layer for become
   convolutions (:mod:`.slices_as_convs`), their weights Quant of 2 bits.
5. A weight that is a multiple of steps becomes Quant of itself: signed, narrow, with these steps.

The two operators travel with the file as ONNX functions, so that runtimes without them run it too,
slowly. They are written for what stands here: thresholds of one row or of one per channel along
axis 1, and Quant that rounds half up or nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from ...runtime_ops.definition import DOMAIN
from ...runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE
from ..analysis.operators import moved
from ..graph.graph import (
    METADATA_PREFIX,
    Graph,
    Node,
    PassResult,
    Tensor,
    inherit,
    is_constant,
    is_standard,
    metadata,
    rank_of,
    tidy,
    unique_name,
    values_of,
)
from ..graph.network import Network
from ..graph.protos import nodes_below
from ..graph.surgeon import add_node, constant, variable
from ..neurons.integer_edges import moves_integers
from .slices_as_convs import slices_as_convs

#: Domain of the operators.
QONNX_DOMAIN = "qonnx.custom_op.general"
MULTI_THRESHOLD, QUANT = "MultiThreshold", "Quant"
#: Of the node that fires: the neuron's threshold, and the factors that its thresholds hold.
UNIT, FACTORS = METADATA_PREFIX + "unit", METADATA_PREFIX + "factors"
_LAYOUTS = {1: "C", 2: "NC", 3: "NCW", 4: "NCHW", 5: "NCDHW"}

_FUNCTIONS = (
    f"""<domain: "{QONNX_DOMAIN}", opset_import: ["" : OPSET]>
    {MULTI_THRESHOLD} <out_bias: float = 0.0, out_scale: float = 1.0, out_dtype: string = "",
            data_layout: string = ""> (X, T) => (Y) {{
        zero = Constant <value = int64[1] {{0}}> ()
        one = Constant <value = int64[1] {{1}}> ()
        two = Constant <value = int64[1] {{2}}> ()
        shape_of_thresholds = Shape (T)
        rows = Slice (shape_of_thresholds, zero, one)
        columns = Slice (shape_of_thresholds, one, two)
        count = Squeeze (columns)
        behind = Shape <start = 2> (X)
        axes_behind = Shape (behind)
        ones = ConstantOfShape <value = int64[1] {{1}}> (axes_behind)
        along = Concat <axis = 0> (rows, ones)
        shape = Shape (X)
        silent = ConstantOfShape <value = float[1] {{0}}> (shape)
        go = Constant <value = bool {{1}}> ()
        total = Loop (count, go, silent) <body = each
                (int64 j, bool before, float[] so_far) => (bool after, float[] sum) {{
            after = Identity (before)
            column = Gather <axis = 1> (T, j)
            threshold = Reshape (column, along)
            reached = GreaterOrEqual (X, threshold)
            more = Cast <to = 1> (reached)
            sum = Add (so_far, more)
        }}>
        scale = Constant <value_float: float = @out_scale> ()
        bias = Constant <value_float: float = @out_bias> ()
        scaled = Mul (total, scale)
        Y = Add (scaled, bias)
    }}""",
    f"""<domain: "{QONNX_DOMAIN}", opset_import: ["" : OPSET]>
    {QUANT} <signed: int = 1, narrow: int = 1, rounding_mode: string = "ROUND">
            (X, s, z, b) => (Y) {{
        zero = Constant <value = float {{0}}> ()
        half = Constant <value = float {{0.5}}> ()
        one = Constant <value = float {{1}}> ()
        two = Constant <value = float {{2}}> ()
        of_sign = Constant <value_int: int = @signed> ()
        sign_bit = Cast <to = 1> (of_sign)
        bits = Sub (b, sign_bit)
        integers = Pow (two, bits)
        highest = Sub (integers, one)
        opposite = Neg (highest)
        lowest = Mul (opposite, sign_bit)
        scaled = Div (X, s)
        moved = Add (scaled, z)
        below = Min (moved, highest)
        clipped = Max (below, lowest)
        magnitude = Abs (clipped)
        raised = Add (magnitude, half)
        whole = Floor (raised)
        sign = Sign (clipped)
        rounded = Mul (sign, whole)
        back = Sub (rounded, z)
        Y = Mul (back, s)
    }}""",
)


@dataclass(frozen=True)
class _Spikes:
    """A tensor of integers that stands for theta times these."""

    tensor: Tensor
    theta: Tensor


def multi_threshold(graph: Graph, form: str) -> PassResult:
    """Apply rules 1 to 4 to the main graph.

    Args:
        graph: a spiking network whose neurons have one threshold each, its layers plain.
        form: "thresholds" or "quant".
    """
    writer = _Writer(graph, form)
    for node in list(graph.nodes):
        writer.visit(node)
    tidy(graph)  # products that nothing reads are gone
    for conv in slices_as_convs(graph, writer.integers):
        conv.inputs[1] = _quantised(graph, conv.inputs[1], np.ones((), np.float32), 2)
        writer.changes.append(f"{conv.name}: takes places and channels as a Conv")
    tidy(graph)
    return PassResult(graph, writer.changes)


def quantise_weights(graph: Graph, steps: Mapping[str, np.ndarray], bits: int) -> PassResult:
    """Apply rule 5 to the main graph.

    Args:
        graph: its layers are plain.
        steps: what weights are multiples of, by name; see ``plain_layers``.
        bits: of the weights.
    """
    changes = []
    for node in list(graph.nodes):
        for position, tensor in enumerate(node.inputs):
            if is_constant(tensor) and tensor.name in steps and node.op != QUANT:
                node.inputs[position] = _quantised(graph, tensor, steps[tensor.name], bits)
                changes.append(f"{node.op} {node.name}: a weight of {bits} bits")
    tidy(graph)  # sorts
    return PassResult(graph, changes)


def qonnx_network(network: Network) -> Network:
    """A network that this pass wrote, with what its operators mean; in place."""
    model = network.proto
    model.opset_import.add(domain=QONNX_DOMAIN, version=1)
    used = {node.op_type for node in nodes_below(model.graph) if node.domain == QONNX_DOMAIN}
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    for text in _FUNCTIONS:
        function = onnx.parser.parse_function(text.replace("OPSET", str(opset)))
        if function.name in used:
            model.functions.append(function)
    return network


def holds_multi_thresholds(network: Network) -> bool:
    """Whether a network is what :func:`multi_threshold` made of one."""
    return any(
        entry.key == UNIT and node.domain == QONNX_DOMAIN
        for node in nodes_below(network.proto.graph)
        for entry in node.metadata_props
    )


class _Writer:
    def __init__(self, graph: Graph, form: str) -> None:
        self._graph, self._form = graph, form
        self._spikes: dict[int, _Spikes] = {}
        #: The ``id`` of each tensor of integers, or of multiples of one number.
        self.integers: set[int] = set()
        self.changes: list[str] = []

    def visit(self, node: Node) -> None:
        """Write a node; those before it are."""
        if node.domain == DOMAIN and node.op == MULTI_THRESHOLD_FIRE.name:
            self._fire(node)
        elif moves_integers(node) and id(moved(node)[0]) in self._spikes:
            self._move(node)
        elif moves_integers(node) and id(moved(node)[0]) in self.integers:
            self.integers.update(map(id, node.outputs))

    def _fire(self, node: Node) -> None:
        """Rules 1 to 3."""
        given = MULTI_THRESHOLD_FIRE.defaults | node.attrs
        above, below = int(given["levels_pos"]), int(given["levels_neg"])
        theta = np.float32(values_of(node.inputs[1]).item())
        x, output = node.inputs[0], node.outputs[0]
        bits = above.bit_length()
        output.inputs.clear()
        if (
            self._form == QUANT.lower()
            and not below
            and above == 2**bits - 1
            and given["v0"] == 0.5
        ):
            values = {"scale": theta, "zero": np.float32(0), "bits": np.float32(bits)}
            inputs = [self._constant(output, name, value) for name, value in values.items()]
            attributes = {"signed": 0, "narrow": 0, "rounding_mode": "HALF_UP"}
            quant = add_node(
                *(self._graph, QUANT, node.name, [x, *inputs], output, attributes, QONNX_DOMAIN)
            )
            inherit(quant, node)
            metadata(quant)[UNIT] = repr(float(theta))
            self.integers.add(id(output))
            return
        x, factors = self._through(x, bool(below))
        thresholds = find_thresholds(float(theta), float(given["v0"]), above, below, factors)
        k = variable(unique_name(self._graph, f"{output.name}.spikes"), output)
        attributes = {
            "out_bias": float(-below),
            "out_scale": 1.0,
            "out_dtype": integer_type(-below, above),
            "data_layout": _LAYOUTS.get(rank_of(output) or 0, "NC"),
        }
        inputs = [x, self._constant(output, "thresholds", thresholds)]
        fired = add_node(
            *(self._graph, MULTI_THRESHOLD, node.name, inputs, k, attributes, QONNX_DOMAIN)
        )
        inherit(fired, node)
        metadata(fired)[UNIT] = repr(float(theta))
        if len(factors) > 1 or factors[0] != 1:
            metadata(fired)[FACTORS] = factors.astype("<f4").tobytes().hex()
        self._stands_for(output, _Spikes(k, self._constant(output, "theta", theta)))

    def _through(self, x: Tensor, below: bool) -> tuple[Tensor, np.ndarray]:
        """Rule 2: what the thresholds compare, and its factors, float32 [C] or [1]."""
        factors = np.ones(1, np.float32)
        while len(x.inputs) == 1:
            node = x.inputs[0]
            if node.op == "Relu" and is_standard(node) and not below:
                x = node.inputs[0]
                continue
            by = _factors(node) if factors.size == 1 and not np.any(factors != 1) else None
            if by is None:
                break
            x, factors = node.inputs[0], by
        return x, factors

    def _move(self, node: Node) -> None:
        """Rule 4."""
        source = self._spikes[id(moved(node)[0])]
        node.inputs[0] = source.tensor
        for position, output in enumerate(list(node.outputs)):
            k = variable(unique_name(self._graph, f"{output.name}.spikes"), output)
            node.outputs[position] = k
            output.inputs.clear()
            self._stands_for(output, _Spikes(k, source.theta))

    def _stands_for(self, output: Tensor, spikes: _Spikes) -> None:
        """Let ``output`` hold theta times the integers."""
        self._spikes[id(output)] = spikes
        self.integers.add(id(spikes.tensor))
        name = unique_name(self._graph, f"{spikes.tensor.name}.scaled")
        add_node(self._graph, "Mul", name, [spikes.tensor, spikes.theta], output)

    def _constant(self, like: Tensor, what: str, values: np.ndarray | np.float32) -> Tensor:
        return constant(unique_name(self._graph, f"{like.name}.{what}"), np.asarray(values))


def _factors(node: Node) -> np.ndarray | None:
    """The positive constants by which a Mul multiplies channels along axis 1, [C] or [1]."""
    if node.op != "Mul" or not is_standard(node) or not is_constant(node.inputs[1]):
        return None
    values, rank = values_of(node.inputs[1]), rank_of(node.outputs[0])
    if values.dtype != np.float32 or rank is None or not np.all(values > 0):
        return None
    if values.size == 1:
        return values.reshape(1)
    channels_last = (
        values.ndim <= rank and values.size == values.shape[1 - rank]
        if values.ndim >= rank - 1
        else False
    )
    return values.reshape(-1) if channels_last else None


def factors_of_text(text: str) -> np.ndarray:
    """Factors as the metadata hold them, float32 [rows]; one of 1 where there are none."""
    if not text:
        return np.ones(1, np.float32)
    return np.frombuffer(bytes.fromhex(text), "<f4").astype(np.float32)


def find_thresholds(
    theta: float, v0: float, above: int, below: int, factors: np.ndarray
) -> np.ndarray:
    """The smallest float32 at which a neuron fires each of its levels: [rows, below + above].

    Args:
        theta: the neuron's threshold.
        v0: its initial potential.
        above: levels above 0.
        below: levels below 0.
        factors: what its potential is multiplied by first, float32 [rows].

    Raises:
        ValueError: a level is reached at no float32.
    """
    wanted = np.arange(1, above + below + 1)
    shape = (len(factors), len(wanted))
    by = factors.astype(np.float32)[:, None]

    def reached(at: np.ndarray) -> np.ndarray:
        """Whether each level is, at the float32 of this place among all of them."""
        with np.errstate(over="ignore", invalid="ignore"):
            u = _float_at(at) * by
            fired = np.floor(np.abs(u) / np.float32(theta) + np.float32(v0))
        spikes = np.where(u < 0, -np.minimum(fired, below), np.minimum(fired, above))
        return np.asarray(spikes + below >= wanted)

    low, high = np.full(shape, -_INFINITE), np.full(shape, _INFINITE)
    while (low + 1 < high).any():
        middle = (low + high) // 2
        there = reached(middle)
        low, high = np.where(there, low, middle), np.where(there, middle, high)
    if not reached(high).all() or reached(high - 1).any():
        raise ValueError(f"a level of threshold {theta:g} is reached at no float32")
    return _float_at(high)


#: The place of infinity among the float32, 0 that of 0.
_INFINITE = int(np.float32(np.inf).view(np.int32))


def _float_at(place: np.ndarray) -> np.ndarray:
    """The float32 of a place: the numbers in their order."""
    magnitude: np.ndarray = np.abs(place).astype(np.int32).view(np.float32)
    return np.where(place < 0, -magnitude, magnitude)


def integer_type(lowest: int, highest: int) -> str:
    """The least type of qonnx that holds integers from ``lowest``, at most 0, to ``highest``."""
    if lowest == 0:
        return "BINARY" if highest == 1 else f"UINT{highest.bit_length()}"
    return f"INT{max((-lowest - 1).bit_length(), highest.bit_length()) + 1}"


def _quantised(graph: Graph, weight: Tensor, step: np.ndarray, bits: int) -> Tensor:
    """Rule 5."""
    result = variable(unique_name(graph, f"{weight.name}.quantised"), weight)
    values = {"step": step, "zero": np.float32(0), "bits": np.float32(bits)}
    inputs = [
        constant(unique_name(graph, f"{weight.name}.{name}"), np.asarray(value, np.float32))
        for name, value in values.items()
    ]
    attributes = {"signed": 1, "narrow": 1, "rounding_mode": "ROUND"}
    name = unique_name(graph, f"{weight.name}.quant")
    add_node(graph, QUANT, name, [weight, *inputs], result, attributes, QONNX_DOMAIN)
    return result
