"""Fold the scales of neurons into the linear layers around them.

ScaleFire computes s K, K the level nearest to x / s. With 1 / s in the weights and the bias of the
layer that makes x, and s in the weights of those that read the spikes, the neuron has scale 1 and
its spikes are the whole numbers K: two products per value less where its function body runs, and
what neuromorphic hardware sends. The threshold of a uniform neuron folds in the same way, where
that is asked for.

1. x is made by a Conv, ConvTranspose or Gemm with constant parameters, or by the Add of a constant
   bias to a MatMul with one, and nothing but the neuron reads it or what is between: a MaxPool may
   be.
2. Everything that reads the spikes, directly or moved (MaxPool, Reshape, ...), is such a layer, and
   reads them as its signal.
3. A scale per channel folds where the channels are those of the layers: into the layer in front by
   output channel, into those behind by input channel, which have to read the neuron directly.
4. Else the neuron stays as it is: a Mul on one side costs what the neuron saves. So does one with a
   scale beyond 2^-40..2^40, where parameters could overflow or lose bits, and where one does. So do
   those around weights of 2^20 values or more: what is saved is little beside such a product, and
   the folded weights are held beside those without scales.

5. A threshold folds into the layers behind alone where the one in front cannot take it: what the
   neuron reads is divided by it then.

6. With the threshold goes the initial membrane potential of a neuron that fires on one side only:
   into the bias in front, where there is one. So no runtime adds the two in another order.

Parameters that something else reads too are copied. The function computed is the same up to the
rounding of the parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..analysis.layers import bias_add, multiplies, width
from ..analysis.operators import moved, moves_values, standard, takes_largest
from ..graph.graph import (
    Graph,
    Node,
    PassResult,
    Tensor,
    is_constant,
    optional_input,
    rank_of,
    tidy,
    unique_name,
    values_of,
)
from ..graph.surgeon import add_node, constant, variable
from .chain import power_of_two, reciprocal
from .neuron import Neuron, OctaveNeuron, SingleNeuron, ThresholdNeuron

_LARGEST = float(np.finfo(np.float32).max)
#: Scales, and one over them, are folded up to here.
_MOST = 2.0**40
#: Weights with as many values are left as they are.
_LARGE = 1 << 20


class Parameter(NamedTuple):
    """A constant input of a node, and what it becomes."""

    node: Node
    position: int
    values: np.ndarray


def fold_scales(
    graph: Graph, neurons: Mapping[str, Neuron], thresholds: bool = False
) -> tuple[PassResult, dict[str, Neuron]]:
    """Apply the rules above to the main graph; the graph, and the neurons as they are by then.

    Args:
        graph: of the analog network.
        neurons: by the activation's output tensor.
        thresholds: fold those of uniform neurons too.
    """
    kinds = (OctaveNeuron, ThresholdNeuron) if thresholds else (OctaveNeuron,)
    found, changes = dict(neurons), []
    for node in list(graph.nodes):
        neuron = neurons.get(node.outputs[0].name) if node.outputs else None
        if not isinstance(neuron, kinds):
            continue
        scale = neuron.unit.astype(np.float64)
        if np.any(np.maximum(scale, 1 / scale) > _MOST):
            continue
        behind = layers_behind(graph, node, scale, neuron.axis)
        if behind is None:
            continue
        front = layer_in_front(graph, node.inputs[0], scale, neuron.axis)
        if isinstance(neuron, ThresholdNeuron) and not neuron.levels_neg and front is not None:
            front, neuron = _with_v0(front, neuron)
        parameters = [*(front or []), *behind]
        if not all(np.all(np.abs(parameter.values) <= _LARGEST) for parameter in parameters):
            continue
        if front is None and not _divide(graph, node, neuron):
            continue
        for parameter in parameters:
            set_parameter(graph, parameter)
        one = np.ones((), np.float32)
        if isinstance(neuron, OctaveNeuron):
            found[node.outputs[0].name] = replace(neuron, scale=one, folded=neuron.scale)
        elif isinstance(neuron, ThresholdNeuron):
            found[node.outputs[0].name] = replace(neuron, theta=one, folded=neuron.theta)
        changes.append(f"{node.op} {node.name}: its scale is in the layers around it")
    tidy(graph)
    return PassResult(graph, changes), found


def layers_behind(graph: Graph, node: Node, scale: np.ndarray, axis: int) -> list[Parameter] | None:
    """The weights of the layers that read a neuron, with its scale in them; None: rule 4."""
    found: dict[int, Parameter] = {}
    for layer, direct in _readers(graph, node.outputs[0]):
        weight = None if layer is None else _behind(layer, direct, scale, axis)
        if layer is None or weight is None:
            return None
        found[id(layer)] = weight
    return list(found.values()) or None


def _with_v0(
    front: list[Parameter], neuron: ThresholdNeuron
) -> tuple[list[Parameter], ThresholdNeuron]:
    """Rule 6."""
    if len(front) < 2:
        return front, neuron
    weight, bias = front
    return [weight, bias._replace(values=bias.values + neuron.v0)], replace(neuron, v0=0.0)


def _divide(graph: Graph, node: Node, neuron: SingleNeuron) -> bool:
    """Rule 5: let the node read its input over the threshold."""
    x = node.inputs[0]
    rank = rank_of(x)
    if not isinstance(neuron, ThresholdNeuron) or rank is None:
        return False
    theta, op = neuron.theta, "Div"
    if theta.ndim:
        theta = theta.reshape(-1, *[1] * (rank - neuron.axis % rank - 1))
    if power_of_two(theta):
        theta, op = reciprocal(theta), "Mul"
    scale_input(graph, node, op, theta)
    return True


def scale_input(graph: Graph, node: Node, op: str, values: np.ndarray) -> None:
    """Let the node read its input times ("Mul"), or over ("Div"), a constant."""
    scaled = variable(unique_name(graph, f"{node.outputs[0].name}.scaled"), node.inputs[0])
    by = constant(unique_name(graph, f"{node.outputs[0].name}.theta"), values)
    add_node(graph, op, scaled.name, [node.inputs[0], by], scaled)
    node.inputs[0] = scaled


def layer_in_front(graph: Graph, x: Tensor, scale: np.ndarray, axis: int) -> list[Parameter] | None:
    """Rule 1: weight and bias, divided."""
    if len(x.inputs) != 1 or len(x.outputs) != 1 or x in graph.outputs:
        return None
    layer = bias = x.inputs[0]
    if takes_largest(layer):
        return layer_in_front(graph, layer.inputs[0], scale, axis)
    position = 2
    if layer.op == "Add":
        products = [t.inputs[0] for t in layer.inputs if len(t.inputs) == 1]
        if len(products) != 1 or not _takes_scales(products[0]):
            return None
        found = bias_add(graph, products[0])
        if found is None or found[0] is not layer:
            return None
        layer, (bias, position) = products[0], found
    elif layer.op == "MatMul" or not _takes_scales(layer):
        return None
    if scale.ndim and not (scale.size == width(layer) and _has_channels(layer, x, axis)):
        return None
    weight = values_of(layer.inputs[1])
    parameters = [Parameter(layer, 1, weight / by_channel(layer, scale, output=True))]
    added = optional_input(bias, position)
    if added is not None:
        if not is_constant(added) or added.values.shape != (width(layer),):
            return None
        parameters.append(Parameter(bias, position, added.values / scale))
    return parameters


def _readers(graph: Graph, tensor: Tensor) -> Iterator[tuple[Node | None, bool]]:
    """Rule 2: the layers that read spikes and whether directly; None for anything else."""
    pending = [(tensor, True)]
    while pending:
        spikes, direct = pending.pop()
        if spikes in graph.outputs or not spikes.outputs:
            yield None, direct
        for reader in spikes.outputs:
            if moves_values(reader) and all(tensor is spikes for tensor in moved(reader)):
                pending += [(output, False) for output in reader.outputs]
            elif _takes_scales(reader) and reader.inputs[0] is spikes:
                yield reader, direct
            else:
                yield None, direct


def _behind(layer: Node, direct: bool, scale: np.ndarray, axis: int) -> Parameter | None:
    """The weight of a layer that reads the spikes, times the scale."""
    if scale.ndim and not (direct and _has_channels(layer, layer.inputs[0], axis)):
        return None
    weight = values_of(layer.inputs[1])
    return Parameter(layer, 1, weight * by_channel(layer, scale, output=False))


def _takes_scales(node: Node) -> bool:
    """Whether it multiplies a signal by a weight that is not too large."""
    return multiplies(node) and values_of(node.inputs[1]).size < _LARGE


def _has_channels(layer: Node, tensor: Tensor, axis: int) -> bool:
    """Whether an axis of a tensor that the layer reads or gives is that of its channels."""
    rank = rank_of(tensor)
    return rank is not None and axis % rank == (1 if standard(layer).convolves else rank - 1)


def by_channel(layer: Node, scale: np.ndarray, output: bool) -> np.ndarray:
    """Scales of the output's or the input's channels as they broadcast against the weight."""
    if not scale.ndim:
        return scale
    if not standard(layer).convolves:  # [in, out], or transposed
        return scale.reshape(-1, 1) if bool(layer.attrs.get("transB", 0)) == output else scale
    shape = values_of(layer.inputs[1]).shape
    spatial = [1] * (len(shape) - 2)
    if (layer.op == "Conv") == output:  # [out, in / group, ...], of ConvTranspose the reverse
        return scale.reshape(-1, 1, *spatial)
    groups = int(layer.attrs.get("group", 1))  # one after the other along the first axis
    each = scale.reshape(groups, 1, -1).repeat(shape[0] // groups, axis=1)
    return each.reshape(*shape[:2], *spatial)


def set_parameter(graph: Graph, parameter: Parameter) -> None:
    """Give a layer what a constant input of it becomes."""
    node, position, values = parameter
    tensor = node.inputs[position]
    assert is_constant(tensor)
    values = values.astype(np.float32)
    if len(tensor.outputs) == 1 and tensor not in graph.outputs:
        tensor.values = values
    else:
        name = unique_name(graph, f"{node.name}.{tensor.name}")
        node.inputs[position] = constant(name, values)
