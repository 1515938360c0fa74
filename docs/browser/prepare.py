"""Write a folder that shows a compiled network beside its ANN in a browser (docs/browser.md).

    python docs/browser/prepare.py ANN SNN --data SAMPLES [--samples 16] [--name NAME]
        [-o build/browser]

1. The folder gets the page, ``index.html`` and ``page.js``. Its folder NAME, by default the name
   of the SNN's file, gets ``ann.onnx`` and ``snn.onnx``, copies; ``spikes.onnx``, the SNN with
   more outputs; ``network.json``, which says what they are called; ``samples.json``.
2. ``spikes.onnx`` has an output more for each neuron node: float32, k at each of its values, the
   signed number of unit spikes as ``compiler/counting/neuron_spikes.py`` defines it. Of a network
   of ``--target int8`` k is the integer less the zero point.
3. Networks have one input, of float32, whose first axis counts samples, of which they take one at
   a time, and are below 2 GB.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto
from onnx.checker import MAXIMUM_PROTOBUF
from snn_compile.compiler.counting.insertion import Insertion
from snn_compile.compiler.counting.neuron_spikes import NeuronSpikes, neurons_with_graphs
from snn_compile.compiler.errors import DataError, ModelError, SnnCompileError
from snn_compile.compiler.evaluation.labels import read_labels
from snn_compile.compiler.evaluation.pair import Pair, read_pair
from snn_compile.compiler.model_io.save import check_folder, save_files
from snn_compile.compiler.running.expose import with_outputs
from snn_compile.compiler.samples.files import FileSamples
from snn_compile.passes.graph.network import Network, constants_of
from snn_compile.passes.graph.protos import nodes_with_graphs
from snn_compile.passes.lowering.function_bodies import function_bodies
from snn_compile.passes.lowering.spikes_of_integers import holds_integers, integers_by_neuron
from snn_compile.passes.lowering.spiking_form import spiking_form

_PAGE = Path(__file__).parent
_SITE = _PAGE.parents[1] / "build" / "browser"


def with_spikes(snn: Network) -> tuple[Network, dict[str, str]]:
    """A copy with the spikes of its neurons as outputs, behind its own outputs.

    Returns:
        The copy, and the output of each neuron by the neuron's name: rule 2.

    Raises:
        ModelError: it has no neurons, or a neuron's threshold is not constant.
    """
    insert = Insertion(snn, "spikes")
    codes = _codes_of_integers(snn, insert) if holds_integers(snn) else _codes(insert)
    if not codes:
        raise ModelError("the SNN has no neurons: it is not a compiled network")
    own = [output.name for output in snn.proto.graph.output]
    # Of two outputs that are one tensor the runtime fills only the first.
    graph = insert.proto.graph
    taken = set(own)
    for neuron, code in codes.items():
        if code in taken:
            codes[neuron] = insert.node(graph, "Identity", code)
        taken.add(codes[neuron])
    copy = with_outputs(insert.finish(), [*own, *codes.values()])
    outputs = [output.name for output in copy.proto.graph.output[len(own) :]]
    return copy, dict(zip(codes, outputs, strict=True))


def _codes(insert: Insertion) -> dict[str, str]:
    spikes = NeuronSpikes(insert)
    found = neurons_with_graphs(insert.proto.graph)
    return {node.name: spikes.code(home, node) for home, node in found}


def _codes_of_integers(snn: Network, insert: Insertion) -> dict[str, str]:
    integers, constants, codes = integers_by_neuron(snn), constants_of(snn), {}
    for home, node in list(nodes_with_graphs(insert.proto.graph)):
        if node.name in integers:
            zero = insert.constant(home, float(constants[node.input[2]].reshape(())))
            name = integers[node.name]
            floats = insert.node(home, "Cast", name, to=TensorProto.FLOAT)
            codes[node.name] = insert.node(home, "Sub", floats, zero)
    return codes


def read_samples(pair: Pair, path: Path, most: int) -> tuple[np.ndarray, list[int] | None]:
    """The first samples, float32 [N, ...], and their labels where there are any: rule 3.

    Raises:
        ModelError: the networks have other inputs.
        DataError: the samples do not fit the networks.
    """
    if len(pair.specs) > 1 or pair.specs[0].dtype != np.float32:
        inputs = ", ".join(f"{spec.name} ({spec.dtype})" for spec in pair.specs)
        raise ModelError(f"the page feeds one input of float32; this network has {inputs}")
    samples = FileSamples(path, pair.specs)
    if samples.unbatched or samples.fixed_batch not in (None, 1):
        raise ModelError(
            f"the page feeds one sample at a time; '{pair.specs[0].name}' is "
            f"{list(pair.specs[0].shape)}; export with a batch axis that is dynamic or 1"
        )
    if most < 1:
        raise DataError(f"--samples {most}: give 1 or more")
    (name,) = (spec.name for spec in pair.specs)
    labels = read_labels(samples, [name])
    rows = []
    for feed in samples.batches(most):
        rows += list(feed[name])
        if len(rows) >= most:
            break
    values = np.stack(rows[:most])
    return values, None if labels is None else [int(label) for label in labels[: len(values)]]


def prepare(ann: Path, snn: Path, data: Path, site: Path, name: str, most: int = 16) -> list[str]:
    """Write the folder: rule 1.

    Returns:
        What looks wrong with the pair of networks.

    Raises:
        SnnCompileError: says what is refused.
    """
    pair = read_pair(ann, snn)
    values, labels = read_samples(pair, data, most)
    # Standard operators are read back as neurons; what has neurons stays as it is.
    snn = pair.snn if holds_integers(pair.snn) else function_bodies(spiking_form(pair.snn))
    spikes, outputs = with_spikes(snn)
    for network in (pair.ann, spikes):
        if network.nbytes() >= MAXIMUM_PROTOBUF:
            raise ModelError("the network is 2 GB or more, which a page cannot load as one file")
    described = {
        "input": {
            "name": pair.specs[0].name,
            "shape": values.shape[1:],
            "low": float(values.min()),
            "high": float(values.max()),
        },
        "output": pair.snn.proto.graph.output[0].name,
        "neurons": [{"name": name, "output": output} for name, output in outputs.items()],
    }
    rows = [
        {"values": sample.ravel().tolist()} | ({} if labels is None else {"label": labels[i]})
        for i, sample in enumerate(values)
    ]
    folder = site / name
    check_folder(folder)
    save_files(
        {
            folder / "ann.onnx": pair.ann,
            folder / "snn.onnx": pair.snn,
            folder / "spikes.onnx": spikes,
            folder / "samples.json": json.dumps({"samples": rows}).encode(),
            folder / "network.json": json.dumps(described, indent=1).encode(),
        }
    )
    for file in ("index.html", "page.js"):
        shutil.copyfile(_PAGE / file, site / file)
    return pair.warnings


def main() -> None:
    """Write the folder and say how to look at it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ann", type=Path)
    parser.add_argument("snn", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="as of snn-eval")
    parser.add_argument("--samples", type=int, default=16, help="the first so many are written")
    parser.add_argument("--name", help="of the network's folder")
    parser.add_argument("-o", "--output", type=Path, default=_SITE, dest="site")
    given = parser.parse_args()
    name = given.name or given.snn.stem
    try:
        warnings = prepare(given.ann, given.snn, given.data, given.site, name, given.samples)
    except SnnCompileError as error:
        print(f"prepare.py: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"wrote {given.site / name}; serve {given.site} and open ?model={name}")


if __name__ == "__main__":
    main()
