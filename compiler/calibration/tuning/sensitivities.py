"""Sensitivity: what an error at one activation alone does to the outputs of the ANN.

    sensitivity = (||dy||^2 / ||y||^2) / (||da||^2 / ||a||^2)

a the activation, y the outputs, the mean over them. The error is that of rounding to a given step.
Each activation has a branch that rounds, and an input that says whether it is taken. The network is
run in a few parts: what comes before an activation is as in the ANN, and is not run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnxruntime import InferenceSession

from ....passes.graph.network import Network
from ....passes.graph.protos import graphs_below, reads, unused_prefix
from ...progress import Progress
from ...running.expose import with_outputs
from ...running.fidelity import FidelityMeter
from ...running.segment import segment
from ...running.session import make_session, run_samples
from ...samples.base import Feed

#: In how many parts the network is run.
_PARTS = 6


def measure_sensitivities(
    network: Network, steps: Mapping[str, float], feeds: Sequence[Feed], progress: Progress
) -> dict[str, float]:
    """What an error at one activation alone does to the outputs.

    Args:
        network: the canonical ANN.
        steps: to which step each activation is rounded, by its output tensor; 0 if not at all.
        feeds: batches of samples.
        progress: told about activations done.

    Returns:
        Sensitivities: 0 where the step is 0, or no output changes; the mean of the others where the
        activation is silent on these samples; all are 1 where no output can be compared.
    """
    graph = network.proto.graph
    made = {name for node in graph.node for name in node.output}
    outputs = [value.name for value in graph.output if value.name in made and _is_float(value)]
    if not outputs:
        return dict.fromkeys(steps, 1.0)
    parts, sums = _parts(network, steps, outputs, feeds[0])
    expected = [_run(parts, feed, None) for feed in feeds]
    found: dict[str, float] = {}
    states, given = list(feeds), parts[0]
    keys = [(at, key) for at, part in enumerate(parts) for key in part.switches]
    for at, key in progress.track(keys, len(keys), "sensitivities"):
        if parts[at] is not given:
            states, given = [given.run(state, None) for state in states], parts[at]
        if steps[key] == 0:
            continue
        meters = [FidelityMeter(name) for name in outputs]
        totals = np.zeros(2)
        for state, wanted in zip(states, expected, strict=True):
            got = _run(parts[at:], state, key)
            totals += [np.sum(got[name], dtype=np.float64) for name in sums[key]]
            for meter, name in zip(meters, outputs, strict=True):
                meter.add(wanted[name], got[name])
        lost, power = totals.tolist()
        if lost > 0 and 0 < power < np.inf:
            errors = [meter.result().relative_l2 ** 2 for meter in meters]
            found[key] = float(np.mean(errors)) / (lost / power)
    if not np.isfinite(list(found.values())).all():
        return dict.fromkeys(steps, 1.0)
    typical = float(np.mean(list(found.values()))) if found else 1.0
    return {key: found.get(key, typical) if step else 0.0 for key, step in steps.items()}


@dataclass(frozen=True)
class _Part:
    """Nodes that follow each other, of the network whose activations are rounded on demand.

    Attributes:
        session: runs them.
        made: what it gives.
        kept: tensors that later nodes read, outputs and sums: what the next part is given.
        switches: the input that says whether an activation is rounded, by the activation's output.
    """

    session: InferenceSession
    made: list[str]
    kept: list[str]
    switches: dict[str, str]

    def run(self, state: Feed, rounded: str | None) -> Feed:
        """From what the part before kept to what this one keeps, one activation rounded."""
        read = [value.name for value in self.session.get_inputs()]
        on = {switch: np.array(key == rounded) for key, switch in self.switches.items()}
        feed = {name: state[name] for name in read if name not in on} | on
        made = run_samples(self.session, feed, "the model")
        known = state | dict(zip(self.made, made, strict=True))
        return {name: known[name] for name in self.kept}


def _run(parts: Sequence[_Part], state: Feed, rounded: str | None) -> Feed:
    for part in parts:
        state = part.run(state, rounded)
    return state


def _parts(
    network: Network, steps: Mapping[str, float], outputs: Sequence[str], feed: Feed
) -> tuple[list[_Part], dict[str, list[str]]]:
    """The network in parts of about as many activations, and what sums each of them has.

    What comes before an activation is as it is in the ANN, and is computed once.
    """
    switched, switches, sums = _switched(network, steps)
    whole = with_outputs(switched, [*outputs, *(name for pair in sums.values() for name in pair)])
    graph = whole.proto.graph
    wanted = [value.name for value in graph.output]
    lifted = iter(wanted[len(outputs) :])
    sums = {key: [next(lifted), next(lifted)] for key in sums}
    positions = {name: at for at, node in enumerate(graph.node) for name in node.output}
    made_at = {key: positions[lost] for key, (lost, _) in sums.items()}
    order = sorted(made_at.values())
    group = -(-len(order) // _PARTS)
    behind = {at + 1 for at in order[group - 1 :: group]} - {order[-1] + 1}
    read = [set(reads(node)) for node in graph.node]
    parts: list[_Part] = []
    state, since = feed, 0
    for cut in (*sorted(behind), len(graph.node)):
        made = [name for node in graph.node[:cut] for name in node.output]
        needed = {*wanted}.union(*read[cut:])
        kept = [name for name in [*feed, *made] if name in needed]
        own = [name for name in kept if name not in state]
        types = {name: helper.np_dtype_to_tensor_dtype(x.dtype) for name, x in state.items()}
        types |= dict.fromkeys(switches.values(), TensorProto.BOOL)
        session = make_session(segment(whole, types, own), library=False, one_of_many=True)
        keys = {key: switches[key] for key, at in made_at.items() if since <= at < cut}
        part = _Part(session, own, kept, keys)
        after = part.run(state, None)
        if all(isinstance(value, np.ndarray) for value in after.values()):
            parts.append(part)
            state, since = after, cut
    return parts, sums


def _is_float(value: ValueInfoProto) -> bool:
    return value.type.tensor_type.elem_type in (
        TensorProto.FLOAT,
        TensorProto.DOUBLE,
        TensorProto.FLOAT16,
    )


def _switched(
    network: Network, steps: Mapping[str, float]
) -> tuple[Network, dict[str, str], dict[str, list[str]]]:
    """The ANN with activations that are rounded on demand, the input of each that says so, and its
    sums over what rounding changes and over the activation, both squared."""
    proto, names = _copy(network, steps)
    nothing = numpy_helper.from_array(np.zeros((), np.float32))

    def chosen(node: NodeProto) -> list[NodeProto]:
        key, name = node.output[0], names[node.output[0]]
        analog = f"{name}.analog"
        node.output[0] = analog
        branches = {
            "then_branch": [
                *_rounding(analog, name, steps[key]),
                helper.make_node("Sub", [f"{name}.rounded", analog], [f"{name}.change"]),
                helper.make_node("ReduceSumSquare", [f"{name}.change"], [f"{name}.a"], keepdims=0),
                helper.make_node("ReduceSumSquare", [analog], [f"{name}.b"], keepdims=0),
            ],
            "else_branch": [
                helper.make_node("Identity", [analog], [f"{name}.same"]),
                helper.make_node("Constant", [], [f"{name}.c"], value=nothing),
                helper.make_node("Constant", [], [f"{name}.d"], value=nothing),
            ],
        }
        results = {"then_branch": ("rounded", "a", "b"), "else_branch": ("same", "c", "d")}
        graphs = {
            branch: helper.make_graph(
                *(nodes, branch, []),
                [
                    helper.make_tensor_value_info(f"{name}.{result}", TensorProto.FLOAT, None)
                    for result in results[branch]
                ],
            )
            for branch, nodes in branches.items()
        }
        return [node, helper.make_node("If", [f"{name}.on"], [key, *sums[key]], **graphs)]

    sums = {key: [f"{name}.lost", f"{name}.power"] for key, name in names.items()}
    _replace(proto, names, chosen)
    switches = {key: f"{name}.on" for key, name in names.items()}
    proto.graph.input.extend(
        helper.make_tensor_value_info(switch, TensorProto.BOOL, []) for switch in switches.values()
    )
    return Network(proto, network.weights), switches, sums


def _copy(network: Network, keys: Iterable[str]) -> tuple[ModelProto, dict[str, str]]:
    """The network to be changed, and what begins the names of new tensors for each of these."""
    proto = ModelProto()
    proto.CopyFrom(network.proto)
    prefix = unused_prefix(proto.graph, "rounded")
    return proto, {key: f"{prefix}.{number}" for number, key in enumerate(keys)}


def _rounding(value: str, name: str, step: float) -> list[NodeProto]:
    """Nodes that round a value to a step: ``<name>.rounded``."""
    constant = numpy_helper.from_array(np.array(step or 1, np.float32))
    return [
        helper.make_node("Constant", [], [f"{name}.step"], value=constant),
        helper.make_node("Div", [value, f"{name}.step"], [f"{name}.steps"]),
        helper.make_node("Round", [f"{name}.steps"], [f"{name}.whole"]),
        helper.make_node("Mul", [f"{name}.whole", f"{name}.step"], [f"{name}.rounded"]),
    ]


def _replace(
    proto: ModelProto, names: Mapping[str, str], by: Callable[[NodeProto], list[NodeProto]]
) -> None:
    """Replace the nodes that make these tensors, in bodies too."""
    for graph in graphs_below(proto.graph):
        nodes = [NodeProto.FromString(node.SerializeToString()) for node in graph.node]
        if any(node.output and node.output[0] in names for node in nodes):
            del graph.node[:]
            for node in nodes:
                made = node.output and node.output[0] in names
                graph.node.extend(by(node) if made else [node])
