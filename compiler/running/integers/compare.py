"""The integers that the runtime's kernels give, against the reference.

Every operator is computed from the runtime's own integers, so that a difference is not carried on
to the operators behind it. The runtime optimises the network as it does for users: only tensors
between its kernels become outputs, which takes none of them apart.

Operators in control-flow bodies are not seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, ValueInfoProto

from ....passes.graph.network import Network
from ...samples.base import Feed
from ..session import make_session, run_samples
from .form import HIDDEN, QUANTISE, IntegerOperator, integer_operators
from .reference import Expected, expected_of


@dataclass
class Compared:
    """What came of one operator.

    Attributes:
        operator: its node's name and type.
        values: integers, or floats, compared.
        differing: integers that are not the reference's.
        wrong: integers or floats that rounding cannot explain.
        largest: difference of two integers.
    """

    operator: str
    values: int = 0
    differing: int = 0
    wrong: int = 0
    largest: int = 0


def compare_integers(network: Network, feeds: Iterable[Feed]) -> list[Compared]:
    """Compare each operator's output; memory is that of all integers of one feed.

    Args:
        network: in the form that ``quantise_linear.py`` writes.
        feeds: run one after the other.
    """
    own = {name for node in network.proto.graph.node for name in node.output}
    operators = [o for o in integer_operators(network) if o.kind not in HIDDEN and o.output in own]
    names = list(dict.fromkeys(name for o in operators for name in [*_reads(o), o.output]))
    seen = with_tensors(network, names)
    given = {value.name for value in network.proto.graph.input}
    session = make_session(seen, library=False)
    found = [Compared(f"{o.kind} {o.node.name}") for o in operators]
    for feed in feeds:
        outputs = run_samples(session, feed, "the network of integers")
        tensors = dict(zip([n for n in names if n not in given], outputs, strict=True)) | feed
        for operator, compared in zip(operators, found, strict=True):
            _compare(operator, tensors, compared)
    return found


def with_tensors(network: Network, names: Sequence[str]) -> Network:
    """A copy whose outputs are these tensors of the main graph, but for its inputs, in order."""
    proto = ModelProto()
    proto.CopyFrom(network.proto)
    graph = proto.graph
    declared = {value.name: value for value in network.proto.graph.output}
    given = {value.name for value in graph.input}
    del graph.output[:]
    # The runtime knows the types of those that are not declared.
    wanted = [declared.get(name) or ValueInfoProto(name=name) for name in names]
    graph.output.extend(value for value in wanted if value.name not in given)
    return Network(proto, network.weights)


def _reads(operator: IntegerOperator) -> list[str]:
    """The tensors that the reference needs."""
    if operator.kind == QUANTISE:
        return [operator.node.input[0]]
    return [operand.tensor for operand in operator.present if operand.values is None]


def _compare(
    operator: IntegerOperator, tensors: Mapping[str, np.ndarray], compared: Compared
) -> None:
    got = tensors[operator.output]
    expected = expected_of(operator, tensors, got.shape)
    compared.values += got.size
    if got.shape != expected.values.shape:
        compared.wrong += max(got.size, expected.values.size)
        return
    compared.wrong += _unexplained(got, expected)
    if expected.integers is not None and got.size:
        differences = np.abs(got.astype(np.int16) - expected.integers.astype(np.int16))
        compared.differing += int(np.count_nonzero(differences))
        compared.largest = max(compared.largest, int(differences.max()))


def _unexplained(got: np.ndarray, expected: Expected) -> int:
    """How many values are not what must come out, nor as far off as rounding errors can be."""
    values = expected.values
    with np.errstate(invalid="ignore"):
        distance = np.abs(got - values)
    if expected.integers is not None:
        return int(np.count_nonzero(~(distance <= 0.5 + expected.slack)))
    same = (got == values) | (np.isnan(got) & np.isnan(values))
    return int(np.count_nonzero(~same & ~(distance <= expected.slack * np.abs(values))))
