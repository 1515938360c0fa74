"""Look into a model: any ONNX file, those of every target among them, or a NIR graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, ValueInfoProto

from ...passes.graph.graph import METADATA_PREFIX
from ...passes.graph.network import Network
from ...passes.graph.protos import nodes_below
from ...runtime_ops.definition import DOMAIN
from ..errors import ModelError
from ..model_io.load import bytes_on_disk, is_hdf5, read_model
from ..report.data import NeuronReport
from ..report.inspection import Inspection
from ..report.neurons import neuron_reports
from ..targets.nir.package import read_nir


def inspect_file(path: Path) -> Inspection:
    """Look into a file.

    Raises:
        ModelError: it is missing, no model, or unsafe to read.
        UsageError: it is a NIR graph and ``nir`` is not installed.
    """
    if path.is_file() and is_hdf5(path):
        return _of_nir(path)
    return _of_onnx(path, read_model(path))


def _of_onnx(path: Path, network: Network) -> Inspection:
    model = network.proto
    entries = {entry.key: entry.value for entry in model.metadata_props}
    own = {key for key in entries if key.startswith(METADATA_PREFIX)}
    constants = {tensor.name for tensor in model.graph.initializer}
    return Inspection(
        file=str(path),
        kind="ONNX",
        bytes=bytes_on_disk(path),
        inputs=[_value(v) for v in model.graph.input if v.name not in constants],
        outputs=[_value(v) for v in model.graph.output],
        operators=_counts(
            f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            for node in nodes_below(model.graph)
        ),
        neurons=_neurons(network),
        provenance={key.removeprefix(METADATA_PREFIX): entries[key] for key in sorted(own)},
        metadata={key: value for key, value in entries.items() if key not in own},
        needs=_needs(model),
    )


def _neurons(network: Network) -> list[NeuronReport]:
    try:
        return neuron_reports(network)
    except (ModelError, KeyError, ValueError):  # nodes of that name that the compiler did not make
        return []


def _needs(model: ModelProto) -> list[str]:
    """Opset and IR, then every other domain and who defines its operators."""
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    opset = opsets.get("", opsets.get("ai.onnx", 0))
    needs = [f"opset {opset} and IR version {model.ir_version}{_release(opset, model.ir_version)}"]
    defined = {(function.domain, function.name) for function in model.functions}
    used = {(node.domain, node.op_type) for node in nodes_below(model.graph)}
    for domain in sorted({domain for domain, _ in used} - {"", "ai.onnx"}):
        names = {name for other, name in used if other == domain}
        missing = sorted(name for name in names if (domain, name) not in defined)
        if not missing:
            library = (
                "; the library of this package (ONNX Runtime 1.16 or newer) is optional, and faster"
                if domain == DOMAIN
                else ""
            )
            needs.append(f"domain {domain}: functions in the file define it{library}")
        elif domain == DOMAIN:
            needs.append(
                f"domain {domain}: the library of this package, for {', '.join(missing)}"
                " (ONNX Runtime 1.16 or newer)"
            )
        else:
            needs.append(f"domain {domain}: a runtime that has {', '.join(missing)}")
    return needs


def _release(opset: int, ir: int) -> str:
    """The first release of ONNX that knows both."""
    for name, knows_ir, knows_opset, *_ in onnx.helper.VERSION_TABLE:
        if knows_ir >= ir and knows_opset >= opset:
            return f" (ONNX {'.'.join(name.split('.')[:2])} or newer)"
    return ""


def _value(value: ValueInfoProto) -> str:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return f"{value.name} {(kind or 'of unknown type').removesuffix('_type')}"
    tensor = value.type.tensor_type
    element = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    if not tensor.HasField("shape"):
        return f"{value.name} {element}"
    sizes = [
        str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?"
        for dim in tensor.shape.dim
    ]
    return f"{value.name} {element}[{', '.join(sizes)}]"


def _of_nir(path: Path) -> Inspection:
    graph = read_nir(path)
    return Inspection(
        file=str(path),
        kind="NIR",
        bytes=path.stat().st_size,
        inputs=[_nir_value(name, node) for name, node in graph.inputs.items()],
        outputs=[_nir_value(name, node) for name, node in graph.outputs.items()],
        operators=_counts(type(node).__name__ for node in graph.nodes.values()),
        metadata={str(key): str(value) for key, value in graph.metadata.items()},
        needs=["a tool that reads NIR"],
    )


def _nir_value(name: str, node: Any) -> str:
    sizes = [str(int(size)) for shape in node.input_type.values() for size in shape]
    return f"{name} [{', '.join(sizes)}]"


def _counts(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())
