"""In which order the parts of a network are calibrated, and what has to be kept meanwhile.

An event is a neuron that is fitted or a linear layer that is corrected. The stage of a tensor is
the largest number of events on a path to it: 0 for the inputs, one more behind an event than before
it, and else the largest stage of what a node reads.

Round r handles all events that read stage r: everything before them is settled by then, and none of
them depends on another. From one round to the next only the frontier has to be kept: the tensors of
stage r or lower that a node of a higher stage reads. Of a tensor that joins others, and is not what
an event reads, these others are kept, which is no more, and nothing where they are kept anyway:
where each layer reads what all before it gave, the frontier has every tensor once, not once for
each join.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from onnx import ModelProto, NodeProto

from ....passes.analysis.activations import Activation
from ....passes.analysis.layers import Layer
from ....passes.analysis.operators import Inputs, properties
from ....passes.graph.protos import reads


@dataclass
class Round:
    """What is calibrated at once.

    Attributes:
        neurons: activations whose inputs are of this stage.
        layers: layers whose inputs are of this stage.
        frontier: tensors of this stage or lower that a later one reads, in order, as keys.
    """

    neurons: list[Activation] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    frontier: dict[str, None] = field(default_factory=dict)


@dataclass
class Schedule:
    """The rounds in order.

    Attributes:
        rounds: each handles the events that read its stage.
        stages: stage of every tensor of the main graph that is not a constant.
        spiking: tensors with a neuron before them.
    """

    rounds: list[Round]
    stages: dict[str, int]
    spiking: set[str]


def make_schedule(
    proto: ModelProto, activations: Sequence[Activation], layers: Sequence[Layer]
) -> Schedule:
    """The rounds of a network.

    Args:
        proto: the network, its nodes sorted topologically.
        activations: neurons; each output is made by a node of the main graph.
        layers: layers that are corrected.
    """
    neurons = {activation.output: activation for activation in activations}
    linear = {layer.weight: layer for layer in layers}  # which no other node reads
    stages = {value.name: 0 for value in proto.graph.input}
    spiking: set[str] = set()
    events: dict[int, Round] = {}
    for node in proto.graph.node:
        read = [name for name in reads(node) if name in stages]
        stage = max((stages[name] for name in read), default=0)
        fires = any(name in spiking for name in read)
        neuron = next((neurons[name] for name in node.output if name in neurons), None)
        layer = next((linear[name] for name in node.input if name in linear), None)
        if neuron is not None:
            events.setdefault(stage, Round()).neurons.append(neuron)
        if layer is not None:
            events.setdefault(stage, Round()).layers.append(layer)
        event = neuron is not None or layer is not None
        for name in node.output:
            if name:
                stages[name] = stage + event
                if fires or neuron is not None:
                    spiking.add(name)
    rounds = [events.get(stage, Round()) for stage in range(max(events, default=-1) + 1)]
    joins = {node.output[0]: node for node in proto.graph.node if _joins(node)}
    for node in proto.graph.node:
        reached = max((stages[name] for name in node.output if name), default=0)
        read = list(reads(node))
        event = reached > max((stages[name] for name in read if name in stages), default=0)
        for name in read if event else _parts(read, joins):
            for stage in range(stages.get(name, reached), min(reached, len(rounds))):
                rounds[stage].frontier[name] = None
    return Schedule(rounds, stages, spiking)


def _joins(node: NodeProto) -> bool:
    """Whether its output is its inputs, one behind the other."""
    what = properties(node.op_type)
    return not node.domain and what.moves is Inputs.ALL and not what.broadcasts


def _parts(names: Iterable[str], joins: Mapping[str, NodeProto]) -> dict[str, None]:
    """These tensors, those that are joined taken apart, in order."""
    found: dict[str, None] = {}
    pending = list(names)[::-1]
    while pending:
        name = pending.pop()
        if name in joins:
            pending += list(joins[name].input)[::-1]
        else:
            found[name] = None
    return found
