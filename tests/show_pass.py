"""Print the network as it leaves one pass of the front end, as ONNX text.

    make pass NAME=fold_batchnorm MODEL=models/digits_resnet_torchscript.onnx

Options have their defaults. Weights of more than eight values are shown as {}.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from onnx import TensorProto
from onnx.printer import to_text
from snn_compile.compiler.errors import SnnCompileError
from snn_compile.compiler.front_end import FRONT_END, apply_passes
from snn_compile.compiler.model_io.load import load_source
from snn_compile.compiler.options import CompileOptions
from snn_compile.compiler.steps import Steps
from snn_compile.compiler.targets import resolve
from snn_compile.passes.graph.surgeon import export_network, import_model

OPTIONS = resolve(CompileOptions())
PASSES = [one for one in FRONT_END if one.wanted(OPTIONS)]
NAMES = [one.name for one in PASSES]
_VALUES_SHOWN = 8


def text_behind(name: str, model: Path) -> str:
    """The network as it leaves the pass of this name.

    Raises:
        ModelError: the model is refused.
    """
    graph = import_model(load_source(model).network)
    graph = apply_passes(graph, PASSES[: NAMES.index(name) + 1], OPTIONS, Steps())
    proto = export_network(graph).proto
    for tensor in proto.graph.initializer:
        if math.prod(tensor.dims) > _VALUES_SHOWN:
            tensor.CopyFrom(
                TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
            )
    return str(to_text(proto))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=NAMES, help="of the pass")
    parser.add_argument("model", type=Path, help="an ONNX file")
    arguments = parser.parse_args()
    try:
        text = text_behind(arguments.name, arguments.model)
    except SnnCompileError as error:
        sys.exit(str(error))
    print(text)


if __name__ == "__main__":
    main()
