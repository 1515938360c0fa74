"""Level flips: how many neurons fire another level when the runtime optimises the graph.

Optimisation reorders sums of floats; a threshold turns a rounding into a level. Both sessions run
the C++ kernels, on the same samples. Here codes do leave the runtime, so it is for a few batches.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ...passes.network import Network
from ..observe import with_outputs
from ..samples import Feed
from ..session import make_session, run_samples
from ..twins import Twins
from .codes import Codes


def level_flips(snn: Network, feeds: Iterable[Feed]) -> dict[str, float]:
    """Share of values whose k differs between sessions with and without graph optimisation.

    Args:
        snn: spiking network of one timestep with float32 neurons.
        feeds: what both are run on.

    Returns:
        By name of the neuron node; 0 where it had no values.

    Raises:
        ModelError: see :class:`.codes.Codes`.
    """
    twins = Twins(snn, "flips")
    codes = Codes(twins)
    found = {node.name: codes.raised(home, node) for home, node in list(codes.neurons())}
    network = with_outputs(twins.finish(), list(found.values()))
    sessions = [make_session(network, optimise=optimise) for optimise in (True, False)]
    flips = dict.fromkeys(found, 0)
    values = dict.fromkeys(found, 0)
    for feed in feeds:
        runs = [run_samples(session, feed, "the SNN") for session in sessions]
        for name, one, other in zip(found, *runs, strict=True):
            if one.shape == other.shape:
                differs = (one != other) & ~(np.isnan(one) & np.isnan(other))
                flips[name] += int(np.count_nonzero(differs))
                values[name] += one.size
            else:  # another branch, or another number of detections
                flips[name] += max(one.size, other.size)
                values[name] += max(one.size, other.size)
    return {name: flips[name] / max(values[name], 1) for name in found}
