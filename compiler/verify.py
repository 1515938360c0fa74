"""Verification: runs the claims of a target.

1. :class:`BitExact`: on one batch, without graph optimisation, several networks give the same bits.
2. :class:`Agreement`: ANN against SNN on all samples, as users will run them, but for planes of
   binary spikes: they take many times the memory, and a proof has shown that they change no bit.
   Meanwhile the activity of the neurons is counted: the share of values clipped at the highest
   level, silent, and the mean number of spikes; of a network of integers beside it, in its spiking
   form.
3. Of a network of integers, without samples: :class:`SameParameters` and :class:`NoOverflow`; on a
   few: :class:`Integers`, what the runtime's kernels give is what a reference gives, and
   :class:`SameSpikes`, its neurons against the float network's. ``running/integers`` has how.

The networks run one after the other, so that the runtime holds the weights of one at a time; the
ANN's outputs wait in a temporary file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeAlias

import numpy as np

from ..passes.graph.network import Network
from ..passes.lowering.spiking_form import spiking_form
from ..runtime_ops import has_library
from .counting.activity import ActivityMeter, NeuronActivity
from .errors import VerificationError
from .progress import Progress
from .running.fidelity import FidelityMeter, OutputFidelity
from .running.integers import claims as integers
from .running.qonnx_executor import NotRunError, has_qonnx, run_in_qonnx
from .running.reference import Reference
from .running.session import make_session, run_samples
from .samples.base import Feed, Samples

_PROOF_SAMPLES = 8

_BOTH = ", with and without the C++ kernels"
_BODIES = ", on function bodies: the C++ kernels are not installed"


@dataclass(frozen=True)
class Run:
    """A network, and whether our operator library runs its neurons."""

    network: Network
    library: bool


@dataclass(frozen=True)
class BitExact:
    """Networks give the same bits.

    Runs with our operator library are made without where that is not installed.

    Attributes:
        statement: what is claimed, as a sentence without a full stop; which runs were made is added
            where some ask for the library.
        runs: at least two.
        time_axis: T, where inputs and outputs have it as an axis: every sample is presented at all
            steps.
    """

    statement: str
    runs: Sequence[Run]
    time_axis: int | None = None


@dataclass(frozen=True)
class InQonnx:
    """The executor of qonnx gives the bits of the quantised ANN; only where it is installed.

    Attributes:
        network: in QONNX.
        ann: the quantised ANN, its weights behind Quant: so all multiply alike.
    """

    network: Network
    ann: Network


@dataclass(frozen=True)
class Agreement:
    """ANN and SNN give the same argmax on a share of the samples.

    Attributes:
        snn: the spiking network.
        time_axis: T, where inputs and outputs of the SNN have it as an axis: every sample is
            presented at all steps, and the outputs are means over them.
        at_least: the share; None: nothing is promised, it is measured alone.
    """

    snn: Network
    time_axis: int | None = None
    at_least: float | None = None


@dataclass(frozen=True)
class SameParameters:
    """A network of integers has the float network's thresholds, weights and biases, rounded.

    Attributes:
        network: of integers.
        floats: the float network.
    """

    network: Network
    floats: Network


@dataclass(frozen=True)
class Integers:
    """The runtime's kernels give the integers that a reference in numpy gives.

    Attributes:
        network: of integers.
    """

    network: Network


@dataclass(frozen=True)
class NoOverflow:
    """No sum of a network of integers overflows, whatever the samples.

    Attributes:
        network: of integers.
        pairs: sums of two products fit into 16 bits, beside those of all into 32.
    """

    network: Network
    pairs: bool


@dataclass(frozen=True)
class SameSpikes:
    """How far the neurons of a network of integers fire what those of the float network fire.

    Nothing is promised: a value at a threshold may end on its other side, as biases are rounded,
    and all that reads it then differs. It is counted alone.

    Attributes:
        network: of integers.
        floats: the float network of the same neurons.
    """

    network: Network
    floats: Network


Claim: TypeAlias = (
    BitExact | InQonnx | Agreement | SameParameters | Integers | NoOverflow | SameSpikes
)


@dataclass
class Verification:
    """The outcome of :func:`verify`.

    Attributes:
        samples: number of samples compared.
        claims: what was shown, and would have been refused otherwise.
        outputs: fidelity per floating-point output.
        neurons: activity per neuron.
        flips: of a network of integers, the share of values whose number of spikes is not that of
            the float network, per neuron.
    """

    samples: int
    claims: list[str]
    outputs: list[OutputFidelity]
    neurons: list[NeuronActivity]
    flips: dict[str, float] = field(default_factory=dict)

    @property
    def agreement(self) -> float | None:
        """The lowest agreement of any output that has one."""
        known = [output.agreement for output in self.outputs if output.agreement is not None]
        return min(known, default=None)


def verify(
    claims: Sequence[Claim], reference: Reference, samples: Samples, progress: Progress
) -> Verification:
    """Check the claims on the samples.

    Args:
        claims: of the target.
        reference: what the ANN gives on the samples.
        samples: calibration samples.
        progress: told about batches done.

    Raises:
        VerificationError: a claim does not hold.
    """
    found = Verification(samples.count, [], [], [])
    for claim in claims:
        if isinstance(claim, BitExact):
            found.claims.append(_prove(claim, samples, reference.batch))
        elif isinstance(claim, InQonnx):
            found.claims += _in_qonnx(claim, samples)
        elif isinstance(claim, SameParameters):
            found.claims.append(integers.parameters(claim.network, claim.floats))
        elif isinstance(claim, NoOverflow):
            found.claims.append(integers.no_overflow(claim.network, claim.pairs))
        elif isinstance(claim, Integers):
            found.claims.append(integers.exact(claim.network, _first(samples)))
        elif isinstance(claim, SameSpikes):
            text, found.flips = integers.spikes(claim.network, claim.floats, _first(samples))
            found.claims.append(text)
        else:
            found.outputs, found.neurons = _compare(claim, reference, samples, progress)
            _require(found.agreement, claim.at_least)
    return found


def _prove(claim: BitExact, samples: Samples, batch: int) -> str:
    """What was shown."""
    # Function bodies take many times the memory and time of what they stand for.
    feed = next(samples.batches(min(_PROOF_SAMPLES, batch, samples.count)))
    feed = _presented(feed, claim.time_axis)
    kernels = any(run.library for run in claim.runs) and has_library()
    runs = {(id(run.network), run.library and kernels): run for run in claim.runs}
    first: list[bytes] | None = None
    for run in runs.values():
        session = make_session(run.network, library=run.library, optimise=False)
        bits = [_bits(array) for array in run_samples(session, feed, "the network")]
        del session
        if first is not None and bits != first:
            raise VerificationError(
                f"it does not hold that {claim.statement}; please report this model"
            )
        first = bits
    if not any(run.library for run in claim.runs):
        return claim.statement
    return claim.statement + (_BOTH if kernels else _BODIES)


def _in_qonnx(claim: InQonnx, samples: Samples) -> list[str]:
    """What was shown; nothing where the package is not installed."""
    if not has_qonnx():
        return []
    feed = next(samples.batches(1))
    try:
        got = run_in_qonnx(claim.network, feed)
    except NotRunError as error:
        return [f"not run in the executor of qonnx: {error}"]
    session = make_session(claim.ann, library=False, optimise=False)
    expected = run_samples(session, feed, "the network")
    if [_bits(array) for array in got] != [_bits(array) for array in expected]:
        raise VerificationError(
            "the executor of qonnx does not give the bits of the quantised ANN; please report this "
            "model"
        )
    return ["the executor of qonnx gives the same bits for the first sample"]


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
    claim: Agreement, reference: Reference, samples: Samples, progress: Progress
) -> tuple[list[OutputFidelity], list[NeuronActivity]]:
    names = list(dict.fromkeys(output.name for output in claim.snn.proto.graph.output))
    spiking = spiking_form(claim.snn)
    apart = spiking is not claim.snn
    activity = ActivityMeter(spiking, [] if apart else names)
    counting = make_session(activity.network)
    session = make_session(claim.snn) if apart else counting
    meters = [FidelityMeter(name) for _, name in reference.positions]
    feeds = progress.track(
        samples.batches(reference.batch), samples.batch_count(reference.batch), "verifying"
    )
    for feed, expected in zip(feeds, reference.batches(), strict=True):
        presented = _presented(feed, claim.time_axis)
        outputs = run_samples(session, presented, "the SNN")
        activity.add(run_samples(counting, presented, "its spiking form") if apart else outputs)
        got = dict(zip(names, outputs, strict=False))  # behind them come the counts
        for meter, wanted, (_, name) in zip(meters, expected, reference.positions, strict=True):
            meter.add(wanted, got[name] if claim.time_axis is None else got[name].mean(axis=0))
    return [meter.result() for meter in meters], activity.result()


def _first(samples: Samples) -> Iterator[Feed]:
    """Some samples one by one, or in batches of the size that the model has."""
    runs = -(-_PROOF_SAMPLES // (samples.fixed_batch or 1))
    return islice(samples.batches(1), min(runs, samples.batch_count(1)))


def _require(agreement: float | None, wanted: float | None) -> None:
    if wanted is None:
        return
    if agreement is None:
        raise VerificationError(
            "agreement was asked for, but no output is a [batch, classes] score to take it from"
        )
    if agreement < wanted:
        raise VerificationError(
            f"ANN and SNN agree on {agreement:.2%} of the samples, {wanted:.2%} was asked for; "
            "use more levels, or more and better calibration samples"
        )
