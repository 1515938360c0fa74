"""What a compiled model says about its own neurons."""

from __future__ import annotations

from onnx import ModelProto, helper

from ..passes.graph import METADATA_PREFIX
from ..runtime_ops.operators import neurons_of
from .report import NeuronReport


def neuron_reports(snn: ModelProto) -> list[NeuronReport]:
    """One entry per neuron, read from the provenance that the nodes carry."""
    reports = []
    for node in neurons_of(snn):
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        provenance = {p.key.removeprefix(METADATA_PREFIX): p.value for p in node.metadata_props}
        reports.append(
            NeuronReport(
                name=node.name,
                source_node=provenance.get("source_node", node.name),
                source_op=provenance.get("source_op", "quantiser of the source model"),
                polarity=provenance.get("polarity", "positive"),
                levels=max(attributes["levels_pos"], attributes["levels_neg"]),
                theta=provenance.get("theta", "of the source model"),
                calibrator=provenance.get("calibrator", "none"),
                clip_rate=float(provenance.get("clip_rate", "nan")),
            )
        )
    return reports
