"""Undo ``quantise_linear``: a network of 8-bit integers as one of spiking neurons, to count spikes.

1. QuantizeLinear of floats to uint8, and the Min behind it where there is one, become

       r = theta Round(x / theta)
       y = MultiThresholdFire(r, theta), N- the zero point, N+ the largest integer less that

   so that y is theta k, with k the integer less the zero point: QuantizeLinear divides and rounds
   ties to even, and the neuron changes no multiple of theta but those beyond its levels. The three
   operators that make r are parts of the neuron (:func:`is_part_of_neuron`).
2. Operators that move integers move y instead; a Pad fills with 0.
3. DequantizeLinear of these integers goes. That of weights and biases becomes a constant.

All other operators are as they were: in float, as the runtime computes them without graph
optimisation. So all values but NaN are those that the file has there, bit for bit, where the
runtime multiplies matrices of constants and of computed weights alike.
"""

from __future__ import annotations

import numpy as np

from ...runtime_ops.definition import DOMAIN
from ...runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE
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
    optional_input,
    scopes,
    tidy,
    unique_name,
    values_of,
)
from ..graph.network import Network
from ..graph.protos import nodes_below
from ..graph.surgeon import (
    add_node,
    constant,
    import_model,
    make_constant,
    variable,
)
from ..neurons.integer_edges import moves_integers
from .quantise_linear import MOST_LEVELS

_PART = METADATA_PREFIX + "part_of_neuron"
_QUANTISE, _DEQUANTISE = "QuantizeLinear", "DequantizeLinear"


def is_part_of_neuron(node: Node) -> bool:
    """Whether a node rounds for the neuron behind it: rule 1."""
    return _PART in metadata(node)


def holds_integers(network: Network) -> bool:
    """Whether a network is what ``quantise_linear`` made of one: a QuantizeLinear says its neuron.

    Quantised networks of others have no such metadata.
    """
    return any(
        node.op_type == _QUANTISE
        and any(p.key.startswith(METADATA_PREFIX) for p in node.metadata_props)
        for node in nodes_below(network.proto.graph)
    )


def integers_by_neuron(network: Network) -> dict[str, str]:
    """The tensors that hold the integers of each neuron, by its name, those in bodies included."""
    found = {}
    for scope in scopes(import_model(network)):
        for node in scope.graph.nodes:
            if _is_neuron(node):
                found[node.name] = str(_fired(node)[0].name)
    return found


def spikes_of_integers(graph: Graph) -> PassResult:
    """Apply the rules above to the graph and its open bodies."""
    changes: list[str] = []
    for scope in [scope.graph for scope in scopes(graph) if not scope.closed]:
        reader = _Reader(scope)
        for node in list(scope.nodes):
            reader.visit(node)
        changes += reader.changes
    tidy(graph)
    return PassResult(graph, changes)


class _Reader:
    """Reads one graph.

    Attributes:
        changes: one line per neuron.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        # Integers, and the floats that they stand for, by the id of the first.
        self._spikes: dict[int, tuple[Tensor, Tensor]] = {}
        self.changes: list[str] = []

    def visit(self, node: Node) -> None:
        """Read a node; those before it are."""
        if _is_neuron(node):
            self._fire(node)
        elif node.op == _DEQUANTISE and is_standard(node) and node.outputs:
            self._dequantise(node)
        elif node.inputs and id(node.inputs[0]) in self._spikes:
            self._move(node)

    def _fire(self, node: Node) -> None:
        """Rule 1."""
        x, theta = node.inputs[:2]
        fired, top = _fired(node)
        zero = int(values_of(node.inputs[2]).reshape(()))
        scaled, rounded, potential = (
            variable(unique_name(self._graph, f"{node.name}.{what}"), x)
            for what in ("scaled", "rounded", "potential")
        )
        for op, inputs, output in (
            ("Div", [x, theta], scaled),
            ("Round", [scaled], rounded),
            ("Mul", [rounded, theta], potential),
        ):
            part = add_node(self._graph, op, output.name, inputs, output)
            metadata(part)[_PART] = node.name
        levels = {"levels_pos": top - zero, "levels_neg": zero}
        name, inputs = MULTI_THRESHOLD_FIRE.name, [potential, theta]
        neuron = add_node(self._graph, name, node.name, inputs, self._floats(fired), levels, DOMAIN)
        inherit(neuron, node)
        self.changes.append(f"{node.name}: levels -{zero}..{top - zero} as spikes")

    def _move(self, node: Node) -> None:
        """Rule 2."""
        if node.op == "Pad" and optional_input(node, 2) is not None:
            name = unique_name(self._graph, f"{node.name}.fill")
            node.inputs[2] = constant(name, np.zeros((), np.float32))
        if moves_integers(node):
            node.inputs[0] = self._spikes[id(node.inputs[0])][1]
            for position, output in enumerate(list(node.outputs)):
                node.outputs[position] = self._floats(output)

    def _dequantise(self, node: Node) -> None:
        """Rule 3."""
        given, output = node.inputs[0], node.outputs[0]
        if is_constant(given):
            make_constant(output, _values(node))
        elif id(given) in self._spikes:  # a second one: the first is gone
            node.op = "Identity"
            node.attrs.clear()
            node.inputs.clear()
            node.inputs.append(self._spikes[id(given)][1])

    def _floats(self, integers: Tensor) -> Tensor:
        """What DequantizeLinear made of integers, to be written by another node."""
        readers = [node for node in integers.outputs if node.op == _DEQUANTISE]
        if readers:
            floats = readers[0].outputs[0]
            floats.inputs.clear()
        else:
            floats = variable(unique_name(self._graph, f"{integers.name}.floats"), integers)
            floats.dtype = np.dtype(np.float32)
        self._spikes[id(integers)] = integers, floats
        return floats


def _is_neuron(node: Node) -> bool:
    """Whether a node quantises floats by one threshold, to uint8."""
    if node.op != _QUANTISE or not is_standard(node) or len(node.inputs) != 3:
        return False
    scale, zero = node.inputs[1:]
    if not is_constant(scale) or not is_constant(zero) or scale.dtype != np.float32:
        return False
    return zero.dtype == np.uint8 and scale.values.size == zero.values.size == 1


def _fired(neuron: Node) -> tuple[Tensor, int]:
    """What holds a neuron's integers, and the largest of them."""
    output = neuron.outputs[0]
    if len(output.outputs) == 1:
        (reader,) = output.outputs
        most = reader.inputs[-1]
        if reader.op == "Min" and is_constant(most) and most.values.size == 1:
            return reader.outputs[0], int(most.values.reshape(()))
    return output, MOST_LEVELS


def _values(node: Node) -> np.ndarray:
    """What DequantizeLinear makes of a constant, with the runtime's roundings."""
    integers, step = values_of(node.inputs[0]), values_of(node.inputs[1])
    zero = optional_input(node, 2)
    if step.size > 1:
        axis = int(node.attrs.get("axis", 1)) % integers.ndim
        step = step.reshape(-1, *[1] * (integers.ndim - 1 - axis))
    less = integers.astype(np.int32)
    if zero is not None:
        less = less - values_of(zero).astype(np.int32).reshape(step.shape)
    values: np.ndarray = less.astype(np.float32) * step
    return values
