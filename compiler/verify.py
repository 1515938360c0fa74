"""Verification: does the spiking network still do what the ANN did?

1. Conversion proof: on one batch, without graph optimisation, the quantised ANN, the SNN on the C++
   kernels and the SNN on its function bodies must give the same bits. Over several timesteps that
   holds of the spatial network, which the SNN was made from, and the SNN itself must give the same
   bits on kernels and bodies. How far it is from the spatial one is for ``snn-eval --premise``.
2. Fidelity: ANN against SNN on all samples, as users will run them, but for planes of binary
   spikes: they take many times the memory, and the proof has shown that they change no bit.
3. Activity: per neuron, the share of values clipped at the highest level, silent, and the mean
   number of spikes.

The networks run one after the other, so that the runtime holds the weights of one at a time; the
ANN's outputs wait in a temporary file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..passes.graph.network import Network
from .counting.activity import ActivityMeter, NeuronActivity
from .progress import Progress
from .running.fidelity import FidelityMeter, OutputFidelity
from .running.planes import without_planes
from .running.reference import Reference
from .running.session import make_session, run_samples
from .samples.files import Feed, Samples

_PROOF_SAMPLES = 8


@dataclass
class Verification:
    """The outcome of :func:`verify`.

    Attributes:
        samples: number of samples compared.
        bit_exact: whether the conversion proof held.
        outputs: fidelity per floating-point output.
        neurons: activity per neuron.
    """

    samples: int
    bit_exact: bool
    outputs: list[OutputFidelity]
    neurons: list[NeuronActivity]

    @property
    def agreement(self) -> float | None:
        """The lowest agreement of any output that has one."""
        known = [output.agreement for output in self.outputs if output.agreement is not None]
        return min(known, default=None)


def verify(
    reference: Reference,
    quantised: Network,
    snn: Network,
    samples: Samples,
    progress: Progress,
    spatial: Network | None = None,
    time_axis: int | None = None,
) -> Verification:
    """Compare the networks on ``samples``; see the module's text for what is compared.

    Args:
        reference: what the ANN gives.
        quantised: the quantised ANN.
        snn: the spiking network.
        samples: calibration samples.
        progress: told about batches done.
        spatial: what the SNN was made from, where that has several timesteps.
        time_axis: T, where inputs and outputs of the SNN have it as an axis: every sample is
            presented at all steps, and the outputs are means over them.
    """
    plain = without_planes(snn)
    proved = [(quantised, False), (spatial or snn, True), (spatial or snn, False)]
    exact = _bit_exact(proved, samples, reference.batch, None)
    if spatial is not None:
        over_time = [(plain, True), (snn, True), (snn, False)]
        exact &= _bit_exact(over_time, samples, reference.batch, time_axis)
    meters, activity = _compare(reference, plain, samples, progress, time_axis)
    return Verification(samples.count, exact, [meter.result() for meter in meters], activity)


def _bit_exact(
    networks: Sequence[tuple[Network, bool]], samples: Samples, batch: int, time_axis: int | None
) -> bool:
    """Whether networks, each with or without the library, give the same bits."""
    # Function bodies take many times the memory and time of what they stand for.
    feed = _presented(next(samples.batches(min(_PROOF_SAMPLES, batch, samples.count))), time_axis)
    results = []
    for network, library in networks:
        session = make_session(network, library=library, optimise=False)
        results.append([_bits(array) for array in run_samples(session, feed, "the network")])
        del session
    return all(result == results[0] for result in results)


def _bits(output: object) -> bytes:
    """All bits of an output: a tensor, a sequence of them, text, or nothing."""
    if isinstance(output, (list, tuple)):
        return b"".join(_bits(item) for item in output)
    if isinstance(output, np.ndarray) and not output.dtype.hasobject:
        return output.tobytes()
    return repr(output.tolist() if isinstance(output, np.ndarray) else output).encode()


def _presented(feed: Feed, timesteps: int | None) -> Feed:
    """The samples at each of T steps, where the network has a time axis."""
    if timesteps is None:
        return feed
    return {name: np.repeat(array[None], timesteps, axis=0) for name, array in feed.items()}


def _compare(
    reference: Reference,
    snn: Network,
    samples: Samples,
    progress: Progress,
    time_axis: int | None,
) -> tuple[list[FidelityMeter], list[NeuronActivity]]:
    names = list(dict.fromkeys(output.name for output in snn.proto.graph.output))
    activity = ActivityMeter(snn, names)
    session = make_session(activity.network)
    meters = [FidelityMeter(name) for _, name in reference.positions]
    feeds = progress.track(
        samples.batches(reference.batch), samples.batch_count(reference.batch), "verifying"
    )
    for feed, expected in zip(feeds, reference.batches(), strict=True):
        outputs = run_samples(session, _presented(feed, time_axis), "the SNN")
        activity.add(outputs)
        got = dict(zip(names, outputs, strict=False))  # behind them come the counts
        for meter, wanted, (_, name) in zip(meters, expected, reference.positions, strict=True):
            meter.add(wanted, got[name] if time_axis is None else got[name].mean(axis=0))
    return meters, activity.result()
