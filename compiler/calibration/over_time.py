"""Parts of a network over several timesteps, as sequential calibration runs them.

Neurons that fire immediately do not only round: spikes come unevenly, and what came too early
cannot be taken back. So that the layers behind them make up for that as well, the spiking twin runs
step by step, T times the rows, and what is fitted and corrected sees means over steps.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
from onnx import ValueInfoProto, helper

from ...passes.graph import export_network, import_model
from ...passes.network import Network
from ...passes.spatial_to_temporal import spatial_to_temporal
from .observe import Watch

_MEAN = ".mean_of_steps"


def over_time(
    part: Network,
    timesteps: int,
    timed: Collection[str],
    kept: Sequence[str],
    watches: Sequence[Watch],
) -> tuple[Network, list[Watch], set[str]]:
    """A spiking part step by step.

    Args:
        part: with multi-threshold neurons in it; it is changed.
        timesteps: T.
        timed: inputs that are given step by step, with T times the rows.
        kept: outputs that are wanted like that; all others are means over steps.
        watches: what is observed of means over steps.

    Returns:
        The part, the watches of the tensors there, and those of ``kept`` that depend on time.
    """
    moved = []
    for watch in watches:
        mean = watch.tensor + _MEAN
        part.proto.graph.node.append(helper.make_node("Identity", [watch.tensor], [mean], mean))
        part.proto.graph.output.append(ValueInfoProto(name=mean))
        moved.append(replace(watch, tensor=mean))
    result = spatial_to_temporal(import_model(part), timesteps, timed=timed, kept=kept)
    return export_network(result.graph), moved, result.timed


def mean_of_steps(array: np.ndarray, timesteps: int) -> np.ndarray:
    """Args: array [T * B, ...], time-major. Returns: [B, ...]."""
    stepwise = array.reshape(timesteps, -1, *array.shape[1:])
    return np.asarray(stepwise.mean(axis=0, dtype=array.dtype))
