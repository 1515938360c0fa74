"""The two networks to compare, and whether they belong together.

1. Inputs have the same names, types and shapes, but that an SNN of standard operators may fix
   lengths which the ANN leaves open (``--batch``); outputs have the same names and types; both are
   in the same order. Otherwise the pair is refused.
2. Warned of, not refused: an SNN without neurons, an ANN with neurons, and an SNN that says it was
   compiled from another network than this ANN, or by another version of the compiler. An ANN with
   neurons of one step and an SNN of several timesteps are a pair too: one network over time and
   not; they should be of one source.
3. A report of ``snn-compile`` belongs to the SNN if both name the same neurons and, where the SNN
   says what it was compiled from, the same network, options and calibration samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from onnx import TensorProto, ValueInfoProto

from ...passes.graph.graph import METADATA_PREFIX
from ...passes.graph.network import Network
from ...passes.lowering.function_bodies import function_bodies
from ...passes.lowering.multi_threshold import holds_multi_thresholds
from ...passes.lowering.spikes_of_integers import holds_integers
from ...passes.lowering.spiking_form import spiking_form
from ...passes.lowering.standard_ops import holds_chains
from ...runtime_ops.integrate_fire import INTEGRATE_FIRE
from ...runtime_ops.operators import neurons_of
from ..errors import ModelError, UsageError
from ..model_io.load import load_source, read_model
from ..report.data import CompileReport
from ..samples.base import InputSpec, input_specs


@dataclass
class Pair:
    """An ANN and its SNN.

    Attributes:
        ann: the trained network.
        snn: the network to compare with it.
        spiking: the same with neurons (``spiking_form.py``); ``snn`` itself where it has them.
        specs: inputs of both.
        provenance: what the SNN says of how it was compiled.
        warnings: what does not look like a pair.
    """

    ann: Network
    snn: Network
    spiking: Network
    specs: list[InputSpec]
    provenance: dict[str, str]
    warnings: list[str]

    @property
    def integers(self) -> bool:
        """Whether the SNN holds its spikes as integers of 8 bits."""
        return holds_integers(self.snn)


def read_pair(ann_path: Path, snn_path: Path) -> Pair:
    """Read both networks.

    Raises:
        ModelError: one is unreadable, or the two do not have the same inputs and outputs.
    """
    ann, snn = read_model(ann_path), read_model(snn_path)
    specs = [input_specs(network.proto) for network in (ann, snn)]
    if holds_chains(snn) and _fixes_more(*specs):
        specs[0] = specs[1]
    pairs = {
        "inputs": [[_describe(spec) for spec in own] for own in specs],
        "outputs": [_outputs(network) for network in (ann, snn)],
    }
    for what, (first, second) in pairs.items():
        if first != second:
            raise ModelError(
                f"{ann_path} and {snn_path} have different {what}: {first} and {second}; "
                "give the SNN that was compiled from this ANN"
            )
    provenance, spiking = _provenance(snn), spiking_form(snn)
    warnings = []
    fires = bool(neurons_of(spiking_form(ann).proto))
    over_time = bool(INTEGRATE_FIRE.nodes_of(snn.proto)) and fires
    if fires and not over_time:
        warnings.append(f"{ann_path} is a spiking network, not an ANN; are the two swapped?")
    if not neurons_of(spiking.proto):
        warnings.append(f"{snn_path} has no spiking neurons: it is not a compiled network")
    elif over_time:
        warnings += _one_source(ann_path, snn_path, _provenance(ann), provenance)
    else:
        warnings += _origin_warnings(ann_path, snn_path, provenance)
    if holds_multi_thresholds(snn):  # as functions, which have the same bits, thresholds are slow
        snn = spiking = function_bodies(spiking)
        warnings.append(
            f"{snn_path} is for the qonnx tools: latency is that of its neurons in onnxruntime"
        )
    return Pair(ann, snn, spiking, specs[0], provenance, warnings)


def _fixes_more(ann: list[InputSpec], snn: list[InputSpec]) -> bool:
    """Whether the inputs of the SNN are those of the ANN, lengths fixed that are dynamic there."""
    if [(spec.name, spec.dtype) for spec in ann] != [(spec.name, spec.dtype) for spec in snn]:
        return False
    pairs = [(first.shape, second.shape) for first, second in zip(ann, snn, strict=True)]
    return all(
        len(first) == len(second)
        and all(a in (None, b) for a, b in zip(first, second, strict=True))
        for first, second in pairs
    )


def check_report(report: CompileReport, pair: Pair) -> None:
    """Refuse the report of another SNN: rule 3.

    Raises:
        UsageError: says what differs.
    """
    own = {(str(node.name), str(node.op_type)) for node in neurons_of(pair.spiking.proto)}
    others = sorted(own.symmetric_difference((one.name, one.op) for one in report.neurons))
    if others:
        name, op = others[0]
        raise _other_report(f"{op} '{name}' is in one of the two only")
    for key, value in report.provenance().items():
        if pair.provenance.get(key, value) != value:
            raise _other_report(f"'{key}' is {value}, of the SNN {pair.provenance[key]}")


def _other_report(difference: str) -> UsageError:
    return UsageError(
        f"the compile report is of another SNN: {difference}; give the one that was written with "
        "this SNN"
    )


def _origin_warnings(ann: Path, snn: Path, provenance: dict[str, str]) -> list[str]:
    """What the SNN's provenance says against this ANN; nothing where it has none."""
    made, version = provenance.get("version"), metadata.version("snn-compile")
    if made is None:
        return []
    if made != version:
        # Another version may read the same file into another graph, of another digest.
        return [f"{snn} was compiled by version {made}, this is {version}"]
    try:
        digest = load_source(ann).digest  # the same file may have been saved anew
    except ModelError:  # not a network to compile, as the other warnings say
        return []
    if provenance.get("source_digest") == digest:
        return []
    return [f"{snn} was compiled from another network than {ann}, as its metadata say"]


def _provenance(network: Network) -> dict[str, str]:
    return {
        entry.key.removeprefix(METADATA_PREFIX): entry.value
        for entry in network.proto.metadata_props
        if entry.key.startswith(METADATA_PREFIX)
    }


def _one_source(
    first: Path, second: Path, one: Mapping[str, str], other: Mapping[str, str]
) -> list[str]:
    digests = {facts["source_digest"] for facts in (one, other) if "source_digest" in facts}
    if len(digests) < 2:
        return []
    return [f"{first} and {second} were compiled from different networks, as their metadata say"]


def _describe(spec: InputSpec) -> str:
    shape = ", ".join("?" if dim is None else str(dim) for dim in spec.shape)
    return f"{spec.name} {spec.dtype}[{shape}]"


def _outputs(network: Network) -> list[str]:
    return [f"{value.name}{_kind(value)}" for value in network.proto.graph.output]


def _kind(value: ValueInfoProto) -> str:
    """The type of an output, without its shape; nothing for float32, which nearly all are."""
    kind = value.type.WhichOneof("value") or "tensor_type"
    if kind != "tensor_type":
        return f" {kind.removesuffix('_type')}"
    elements = value.type.tensor_type.elem_type
    name: str = TensorProto.DataType.Name(elements)
    return "" if elements == TensorProto.FLOAT else f" {name.lower()}"
