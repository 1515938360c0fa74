"""Level flips: what graph optimisation does to the levels of the neurons.

With optimisation the runtime fuses operators and sums in another order, so a membrane potential
near a threshold can end on its other side: a level flips. The SNN runs twice on the first samples,
with ORT_ENABLE_ALL and with ORT_DISABLE_ALL, the neurons' outputs among its own:

1. A flip is a value of a neuron that differs between the two. The neuron's levels are the same in
   both, so its values differ exactly where its levels do (NaN in both is no difference). Where the
   number of values differs, which may depend on the data, all of them count.
2. At most :data:`SAMPLES` samples are run, one at a time, or one batch at a time where the model
   fixes its size, so memory is that of all neurons' values of one sample (one batch), twice.
3. Neurons in branches of If are seen where the branch is taken. Those in bodies of Loop and Scan
   are not seen.
4. A neuron is an operator that the runtime does not know, so nothing is fused across it. Giving out
   its output changed no bit of the networks' own outputs where that was tried (ResNet-20,
   EfficientNet-Lite0 and the bundled network, with and without optimisation).
5. Of a network of integers a flip is an integer that differs. With optimisation its operators are
   computed by integer kernels, without in float: more levels differ than in float networks. Giving
   out integers changes what is computed where the runtime would make one of two QuantizeLinear that
   follow on one another; no more were seen to change (ResNet-20, EfficientNet-Lite0, DS-CNN).
"""

from __future__ import annotations

from itertools import islice

import numpy as np
from onnx import ValueInfoProto

from ...passes.graph.network import Network
from ...passes.lowering.spikes_of_integers import holds_integers, integers_by_neuron
from ...runtime_ops.operators import neurons_of
from ..progress import Progress
from ..report.results import OutputResult
from ..running.expose import with_outputs
from ..running.fidelity import float_outputs
from ..running.session import make_session, run_samples
from ..samples.base import Samples
from .outputs import OutputComparison

SAMPLES = 8


def level_flips(
    snn: Network, samples: Samples, progress: Progress
) -> tuple[dict[str, float], list[OutputResult]]:
    """Share of flipped values by neuron, and the outputs without optimisation against those with.

    Args:
        snn: a network with the operators of our library, or one of integers.
        samples: the first of them are run.
        progress: told about samples done.

    Returns:
        Shares by node name, of neurons that had values; and one result per output.
    """
    names = list(dict.fromkeys(value.name for value in snn.proto.graph.output))
    network, positions = _visible(snn, names)
    optimised, plain = (make_session(network, optimise=optimise) for optimise in (True, False))
    floats = [(i, name) for i, name in float_outputs(optimised) if i < len(names)]
    comparison = OutputComparison(
        "the SNN without optimisation",
        [name for _, name in floats],
        unbatched=bool(samples.unbatched),
    )
    flipped, values = dict.fromkeys(positions, 0), dict.fromkeys(positions, 0)
    runs = min(samples.batch_count(1), -(-SAMPLES // (samples.fixed_batch or 1)))
    feeds = islice(samples.batches(1), runs)
    for feed in progress.track(feeds, runs, "comparing levels"):
        first = run_samples(optimised, feed, "the SNN")
        second = run_samples(plain, feed, "the SNN without optimisation")
        own = [[found[i] for i, _ in floats] for found in (first, second)]
        comparison.add(own[0], own[1], samples.count_in(feed))
        for neuron, i in positions.items():
            flipped[neuron] += _different(first[i], second[i])
            values[neuron] += max(first[i].size, second[i].size)
    shares = {name: flipped[name] / count for name, count in values.items() if count > 0}
    return shares, comparison.results()


def _visible(snn: Network, outputs: list[str]) -> tuple[Network, dict[str, int]]:
    """The network with what its neurons fire behind its own outputs, and positions by neuron."""
    tensors = {node.name: node.output[0] for node in neurons_of(snn.proto)}
    if holds_integers(snn):
        tensors = integers_by_neuron(snn)
    while True:
        names = list(dict.fromkeys([*outputs, *tensors.values()]))
        try:
            network = with_outputs(snn, names)
        except KeyError as error:  # in the body of a loop
            tensors = {name: tensor for name, tensor in tensors.items() if tensor != error.args[0]}
            continue
        break
    for value in network.proto.graph.output[len(outputs) :]:
        if value.name in names:  # not of a branch; the runtime knows its type, float32 or another
            value.CopyFrom(ValueInfoProto(name=value.name))
    return network, {name: names.index(tensor) for name, tensor in tensors.items()}


def _different(first: np.ndarray, second: np.ndarray) -> int:
    if first.shape != second.shape:
        return max(first.size, second.size)
    same = (first == second) | (np.isnan(first) & np.isnan(second))
    return int((~same).sum())
