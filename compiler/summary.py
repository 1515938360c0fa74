"""What a compiled model says about its own neurons."""

from __future__ import annotations

from onnx import helper

from ..passes.graph import METADATA_PREFIX, initializers_below
from ..passes.network import Network
from ..runtime_ops.operators import neurons_of
from ..runtime_ops.scale_fire import SCALE_FIRE
from .report import NeuronReport


def neuron_reports(snn: Network) -> list[NeuronReport]:
    """One entry per neuron, read from the provenance that the nodes carry."""
    sizes = {tensor.name: list(tensor.dims) for tensor in initializers_below(snn.proto.graph)}
    reports = []
    for node in neurons_of(snn.proto):
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        provenance = {p.key.removeprefix(METADATA_PREFIX): p.value for p in node.metadata_props}
        if node.op_type == SCALE_FIRE.name:
            levels, value = sizes[node.input[2]][0], "scale"
        else:
            levels, value = attributes["levels_pos"] + attributes["levels_neg"], "theta"
        calibrator = provenance.get("calibrator", "none")
        if "reason" in provenance:
            calibrator += f" ({provenance['reason']})"
        reports.append(
            NeuronReport(
                name=node.name,
                op=node.op_type,
                source_node=provenance.get("source_node", node.name),
                source_op=provenance.get("source_op", "quantiser of the source model"),
                polarity=provenance.get("polarity", "positive"),
                levels=levels,
                theta=provenance.get(value, "of the source model"),
                calibrator=calibrator,
                clip_rate=float(provenance.get("clip_rate", "nan")),
                error=float(provenance.get("error", "nan")),
            )
        )
    return reports
