"""The network of one timestep that a T-step network stands for, neuron by neuron.

Two networks belong together if the MultiThresholdFire of the one and the IntegrateFire of the other
have the same names (without a name, outputs of the same name) and

    theta_IF = T theta_M,    N+ = T n+,    N- = T n-,    the same v0, axis and T for all

where theta may differ by float32's rounding. Neurons of other types or in control flow are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from ...passes.analysis.time_rules import NotOverTimeError
from ...passes.graph.network import Network, constant_of
from ...passes.graph.protos import attributes_of
from ...passes.graph.surgeon import export_network, import_model
from ...passes.lowering.temporal_to_spatial import temporal_to_spatial
from ...runtime_ops.definition import DOMAIN
from ...runtime_ops.integrate_fire import INTEGRATE_FIRE
from ...runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE
from ...runtime_ops.operators import neurons_of
from ..errors import ModelError
from .level_bound import Levels

#: T theta_M is rounded to float32, and so is theta_IF / T.
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class NeuronPair:
    """An IntegrateFire and the MultiThresholdFire that it stands for.

    Attributes:
        name: of the nodes.
        spatial: output of the MultiThresholdFire.
        potential: input of the IntegrateFire.
        spikes: output of the IntegrateFire.
        theta: theta_IF, float64, scalar or [C].
        axis: of the channels within a step.
        levels: of a step.
    """

    name: str
    spatial: str
    potential: str
    spikes: str
    theta: np.ndarray
    axis: int
    levels: Levels

    def thresholds(self, shape: Sequence[int]) -> np.ndarray:
        """theta_IF of every neuron of a step of this shape."""
        if self.theta.size == 1:
            return np.full(shape, self.theta.reshape(()))
        trailing = len(shape) - 1 - self.axis % len(shape)
        return np.broadcast_to(self.theta.reshape(-1, *[1] * trailing), shape)


def spatial_network(ann: Network, snn: Network) -> Network:
    """The network of one step: ``ann`` where it has spiking neurons, otherwise made from ``snn``.

    Raises:
        ModelError: there is none that belongs to ``snn``.
    """
    spatial = ann
    if not neurons_of(ann.proto):
        try:
            spatial = export_network(temporal_to_spatial(import_model(snn)).graph)
        except NotOverTimeError as reason:
            raise ModelError(
                f"no network of one timestep can be made from the SNN: {reason}"
            ) from reason
    pair_neurons(spatial, snn)
    return spatial


def pair_neurons(spatial: Network, temporal: Network) -> tuple[int, list[NeuronPair]]:
    """T, and each neuron of the T-step network with its own of the spatial one, in their order.

    Raises:
        ModelError: the networks do not belong together.
    """
    if not INTEGRATE_FIRE.nodes_of(temporal.proto):
        swapped = bool(INTEGRATE_FIRE.nodes_of(spatial.proto))
        raise ModelError(
            "the premise is about networks of several timesteps, and the SNN has no IntegrateFire; "
            + ("are the two swapped?" if swapped else "compile it with --timesteps")
        )
    ones = _neurons(spatial, MULTI_THRESHOLD_FIRE.name)
    many = _neurons(temporal, INTEGRATE_FIRE.name)
    if lonely := sorted(ones.keys() ^ many.keys()):
        name = lonely[0]
        where = "the T-step network" if name in many else "the spatial network"
        raise _no_pair(f"'{name}' is in {where} only ({len(ones)} neurons against {len(many)})")
    timesteps = {neuron.timesteps for neuron in many.values()}
    if len(timesteps) > 1:
        raise _no_pair(f"neurons fire over {sorted(timesteps)} timesteps")
    return timesteps.pop(), [_pair(name, ones[name], own) for name, own in many.items()]


@dataclass(frozen=True)
class _Neuron:
    """A node, its attributes and threshold."""

    node: NodeProto
    levels: Levels
    axis: int
    timesteps: int
    theta: np.ndarray


def _neurons(network: Network, op: str) -> dict[str, _Neuron]:
    nodes = [node for node in network.proto.graph.node if node.domain == DOMAIN]
    if len(nodes) < len(neurons_of(network.proto)):
        raise ModelError("neurons inside control flow cannot be compared between timesteps")
    for node in nodes:
        if node.op_type != op:
            raise _no_pair(f"'{node.name}' is a {node.op_type}, and {op} was expected")
    return {node.name or node.output[0]: _neuron(network, node) for node in nodes}


def _neuron(network: Network, node: NodeProto) -> _Neuron:
    given = INTEGRATE_FIRE.defaults | attributes_of(node)
    up, down, axis, steps = (
        int(given[name]) for name in ("levels_pos", "levels_neg", "axis", "timesteps")
    )
    try:
        theta = constant_of(network, node.input[1]).astype(np.float64)
    except KeyError:
        raise ModelError(
            f"the threshold of {node.op_type} '{node.name}' is computed while the network runs; it "
            "must be an initializer to check the premise"
        ) from None
    return _Neuron(node, Levels(up, down, float(given["v0"])), axis, steps, theta)


def _pair(name: str, one: _Neuron, many: _Neuron) -> NeuronPair:
    """Both, checked."""
    steps, levels = many.timesteps, many.levels
    expected = Levels(steps * levels.positive, steps * levels.negative, levels.v0)
    if one.levels != expected:
        raise _no_pair(
            f"'{name}' has {_described(levels)} in each of {steps} timesteps and "
            f"{_described(one.levels)} in one; it must have {_described(expected)}"
        )
    size = max(one.theta.size, many.theta.size)
    theta, single = (np.resize(neuron.theta, size) for neuron in (many, one))
    fits = {one.theta.size, many.theta.size} <= {1, size}
    if not fits or not np.allclose(theta, steps * single, rtol=_TOLERANCE, atol=0):
        raise _no_pair(
            f"theta of '{name}' is {_shown(many.theta)} over {steps} timesteps and "
            f"{_shown(one.theta)} in one; it must be {steps} times that"
        )
    if size > 1 and one.axis != many.axis:
        raise _no_pair(f"'{name}' has its channels along axis {many.axis} and {one.axis}")
    node = many.node
    return NeuronPair(
        name, one.node.output[0], node.input[0], node.output[0], many.theta, many.axis, levels
    )


def _described(levels: Levels) -> str:
    return f"{levels.positive} positive and {levels.negative} negative levels, v0 {levels.v0:g}"


def _shown(theta: np.ndarray) -> str:
    values = ", ".join(f"{value:.7g}" for value in theta.reshape(-1)[:3])
    return f"[{values}{', ...' if theta.size > 3 else ''}]" if theta.ndim else values


def _no_pair(difference: str) -> ModelError:
    return ModelError(
        f"the two networks are not one over T timesteps and in one: {difference}; give a network "
        "and what spatial_to_temporal or temporal_to_spatial made of it"
    )
