"""What is claimed of a network of integers, in words, or the refusal where it does not hold."""

from __future__ import annotations

from collections.abc import Iterable

from ....passes.graph.network import Network
from ...errors import VerificationError
from ...samples.base import Feed
from .compare import compare_integers
from .flips import compare_spikes
from .overflow import MOST_PAIR, MOST_TOTAL, largest_sums
from .parameters import differing_parameters

_REPORT = "please report this model"


def parameters(network: Network, floats: Network) -> str:
    """Thresholds, weights and biases are those of the float network, rounded.

    Raises:
        VerificationError: they are not; names the first node.
    """
    wrong = differing_parameters(network, floats)
    if wrong:
        raise VerificationError(
            f"the network of integers is not the float network: {wrong[0]}; {_REPORT}"
        )
    return "integers stand for the float network's thresholds, weights and biases, rounded"


def no_overflow(network: Network, pairs: bool) -> str:
    """No sum overflows, whatever the samples.

    Args:
        network: of integers.
        pairs: sums of two products have to fit into 16 bits.

    Raises:
        VerificationError: one can; names the operator.
    """
    sums = largest_sums(network)
    for most in sums:
        if pairs and most.pair > MOST_PAIR:
            _overflows(most.operator, "two products", most.pair, 16)
        if most.total > MOST_TOTAL:
            _overflows(most.operator, "all products", most.total, 32)
    pair = max((most.pair for most in sums), default=0)
    total = max((most.total for most in sums), default=0)
    if pairs:
        return (
            f"no sum overflows, whatever the samples: of two products at most {pair:,} in 16 bits, "
            f"of all {total:,} in 32"
        )
    return (
        f"no sum of all products overflows, whatever the samples: at most {total:,} in 32 bits; "
        f"weights are full, sums of two products, at most {pair:,}, may on x86 without VNNI"
    )


def _overflows(operator: str, terms: str, most: int, bits: int) -> None:
    raise VerificationError(
        f"{operator} has sums of {terms} up to {most:,}, which {bits} bits do not hold; {_REPORT}"
    )


def exact(network: Network, feeds: Iterable[Feed]) -> str:
    """The runtime's kernels give what the reference gives.

    Raises:
        VerificationError: one does not; names the operator with most differences.
    """
    found = compare_integers(network, feeds)
    worst = max(found, key=lambda compared: compared.wrong, default=None)
    if worst is not None and worst.wrong:
        raise VerificationError(
            f"{worst.wrong:,} of {worst.values:,} results of {worst.operator} in onnxruntime are "
            f"not those of exact arithmetic, integers differ by up to {worst.largest}; "
            + _advice(network)
        )
    values = sum(compared.values for compared in found)
    text = f"{values:,} results of onnxruntime's integer kernels are those of the integer reference"
    differing = sum(compared.differing for compared in found)
    if differing:
        text += f", but for {differing:,} halfway between two integers, rounded the other way"
    return text


def _advice(network: Network) -> str:
    if any(most.pair > MOST_PAIR for most in largest_sums(network)):
        return (
            "with full weights this processor's sums saturate; leave out --int8-weights full, or "
            "compile on a processor with VNNI or on Arm"
        )
    return f"{_REPORT} and the processor"


def spikes(
    network: Network, floats: Network, feeds: Iterable[Feed]
) -> tuple[str, dict[str, float]]:
    """How many values of the neurons have another number of spikes than in the float network.

    Returns:
        The statement, and the share of values by neuron.
    """
    found = compare_spikes(network, floats, feeds)
    shares = {name: found.flipped[name] / count for name, count in found.values.items() if count}
    text = f"{found.share:.2%} of the neurons' spike counts are not those of the float network"
    if shares:
        worst = max(shares, key=lambda name: shares[name])
        text += f", at most {shares[worst]:.2%} of a neuron's ({worst})"
    if found.agreement is not None:
        text += f"; argmax agrees on {found.agreement:.2%} of these samples"
    return text, shares
