"""Takes one network in QONNX through FINN's transformations up to hardware layers.

    python tests/bench/finn_worker.py MODEL SAMPLES [--save FILE]

SAMPLES is an .npz with an array [samples, ...] by the input's name. The answer is the last line of
the output, JSON: ``versions``; ``stages``, see ``Stage``; and ``left``, see ``Left``. Or
``absent``, the module that is not installed.

1. The steps and their order are those of ``finn/builder/build_dataflow_steps.py``, without those
   that need Vivado: ConvertQONNXtoFINN; convolutions become matrix products, and the graph is
   streamlined as one with branches (StreamlinePlus); the Infer* steps make hardware layers.
2. Two things are otherwise. Global pools become layers first and not near the end, so that the
   division by their size, which stands behind them then, goes into the thresholds that read it.
   InferReshape and InferShuffle are left out, which make layers of what only moves values.
3. Every stage runs in qonnx's executor, one sample at a time; what it gives is compared with what
   the file gives.

Only finn-plus and what comes with it is needed, so that it may have an environment of its own.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

_HARDWARE = "finn.custom_op.fpgadataflow"
#: Modules and classes in the order of FINN's step_convert_to_hw.
_LAYERS = (
    ("thresholding", "InferThresholdingLayer"),
    ("quantized_matrix_vector_activation", "InferQuantizedMatrixVectorActivation"),
    ("vector_vector_activation", "InferVectorVectorActivation"),
    ("fm_padding", "InferFMPadding"),
    ("pool", "InferPool"),
    ("conv_inp_gen", "InferConvInpGen"),
    ("concat", "InferConcatLayer"),
    ("split", "InferSplitLayer"),
    ("elementwise_binary_operation", "InferElementwiseBinaryOperation"),
    ("upsample", "InferUpsample"),
    ("duplicate_streams", "InferDuplicateStreamsLayer"),
)
#: What is no neuron any more once it is a layer.
_NEURONS = ("MultiThreshold", "Quant", "Thresholding")
#: Rounding of float32 sums changes an output by less, a level more or less of a spike by more.
_ROUNDING = 1e-5


@dataclass
class Stage:
    """The graph after some of the steps.

    Attributes:
        name: of the stage.
        nodes: their number by operator.
        flipped: samples whose output differs by more than rounding from what the file gives.
        difference: the largest one, relative to the largest output.
        seconds: that the steps took.
    """

    name: str
    nodes: dict[str, int]
    flipped: int
    difference: float
    seconds: float


@dataclass
class Left:
    """A node of the last stage that is no hardware layer, or is one of floats.

    Attributes:
        op: operator.
        name: of the node.
        hardware: whether it is a layer.
        reads: FINN's types of what it reads, constants apart.
        between: whether it stands between two neurons.
    """

    op: str
    name: str
    hardware: bool
    reads: list[str]
    between: bool


class _Stages:
    """A model and what became of it, stage by stage."""

    def __init__(self, model: Any, samples: np.ndarray) -> None:
        self.model, self._samples = model, samples
        self.stages: list[Stage] = []
        self._began = time.perf_counter()
        self._expected: np.ndarray | None = None

    def apply(self, *transformations: Any) -> None:
        """With names and types kept up, as FINN's own steps do."""
        from qonnx.transformation.general import GiveReadableTensorNames, GiveUniqueNodeNames
        from qonnx.transformation.infer_data_layouts import InferDataLayouts
        from qonnx.transformation.infer_datatypes import InferDataTypes

        for transformation in transformations:
            self.model = self.model.transform(transformation)
        names = (GiveUniqueNodeNames(), GiveReadableTensorNames())
        for transformation in (*names, InferDataTypes(), InferDataLayouts()):
            self.model = self.model.transform(transformation)

    def end(self, name: str) -> None:
        """End a stage; the first one is the file's."""
        seconds = time.perf_counter() - self._began
        outputs = self._outputs()
        expected = outputs if self._expected is None else self._expected
        self._expected = expected
        apart = np.abs(outputs - expected).reshape(len(outputs), -1).max(axis=1)
        relative = apart / np.abs(expected).max()
        nodes = dict(Counter(node.op_type for node in self.model.graph.node).most_common())
        flipped = int((relative > _ROUNDING).sum())
        self.stages.append(Stage(name, nodes, flipped, float(relative.max()), round(seconds, 1)))
        self._began = time.perf_counter()

    def _outputs(self) -> np.ndarray:
        from qonnx.core.onnx_exec import execute_onnx

        (x,), (y,) = self.model.graph.input, self.model.graph.output
        runs = (execute_onnx(self.model, {x.name: one[None]}) for one in self._samples)
        return np.concatenate([run[y.name] for run in runs])


def take_through(path: Path, samples: np.ndarray) -> tuple[Any, list[Stage]]:
    """The model as hardware layers, for one sample at a time, and the stages on the way."""
    from finn.transformation.move_reshape import RemoveCNVtoFCFlatten
    from finn.transformation.qonnx.convert_qonnx_to_finn import ConvertQONNXtoFINN
    from finn.transformation.streamline import absorb, reorder
    from finn.transformation.streamline.round_thresholds import RoundAndClipThresholds
    from finn.transformation.streamline.streamline_plus import StreamlinePlus
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.fold_constants import FoldConstants
    from qonnx.transformation.general import RemoveStaticGraphInputs
    from qonnx.transformation.infer_shapes import InferShapes
    from qonnx.transformation.lower_convs_to_matmul import LowerConvsToMatMul
    from qonnx.util.cleanup import cleanup_model

    model = ModelWrapper(str(path))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    run = _Stages(cleanup_model(model), samples)
    run.end("file")
    run.apply(ConvertQONNXtoFINN())
    run.apply(InferShapes(), FoldConstants(), RemoveStaticGraphInputs())
    run.end("ConvertQONNXtoFINN")
    run.apply(LowerConvsToMatMul(), StreamlinePlus())
    run.apply(reorder.MakeMaxPoolNHWC(), absorb.AbsorbConsecutiveTransposes())
    run.end("streamlined")
    run.apply(_layer("global_acc_pool", "InferGlobalAccPoolLayer"))
    run.apply(absorb.AbsorbConsecutiveTransposes(), reorder.MoveScalarLinearPastInvariants())
    if not run.model.get_nodes_by_op_type("Reshape"):  # it fails on one to another rank than 2
        run.apply(absorb.AbsorbTransposeIntoFlatten())
    run.apply(absorb.AbsorbMulIntoMultiThreshold(), absorb.AbsorbTransposeIntoMultiThreshold())
    run.apply(RoundAndClipThresholds())
    for layer in _LAYERS:
        run.apply(_layer(*layer))
    run.apply(absorb.AbsorbConsecutiveTransposes(), RemoveCNVtoFCFlatten())
    run.apply(InferShapes())
    run.end("hardware")
    return run.model, run.stages


def _layer(module: str, name: str) -> Any:
    found = import_module(f"finn.transformation.fpgadataflow.convert_to_hw.{module}")
    return getattr(found, name)()


def left(model: Any) -> Iterator[Left]:
    """What of the last stage is not hardware on integers."""
    behind = _linked(model, "input", "output")
    ahead = _linked(model, "output", "input")
    for at, node in enumerate(model.graph.node):
        read = [name for name in node.input if name and model.get_initializer(name) is None]
        types = [model.get_tensor_datatype(name) for name in read]
        hardware = node.domain.startswith(_HARDWARE)
        if not hardware or not all(one.is_integer() for one in types):
            names = [one.name for one in types]
            yield Left(node.op_type, node.name, hardware, names, at in behind and at in ahead)


def _linked(model: Any, reads: str, gives: str) -> set[int]:
    """The places of the nodes that neurons are linked to, one way or the other."""
    nodes = list(enumerate(model.graph.node))
    tensors: set[str] = set()
    found = set()
    for at, node in nodes if reads == "input" else reversed(nodes):
        linked = any(name in tensors for name in getattr(node, reads))
        if linked:
            found.add(at)
        if linked or _is_neuron(node):
            tensors.update(getattr(node, gives))
    return found


def _is_neuron(node: Any) -> bool:
    without = {attribute.name: attribute.i for attribute in node.attribute}.get("noActivation", 1)
    return node.op_type in _NEURONS or not without


def main() -> None:
    """Answer."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("samples", type=Path)
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    try:
        import_module("finn.transformation")
    except ModuleNotFoundError as absent:
        print(json.dumps({"absent": absent.name}))
        return
    with np.load(arguments.samples) as archive:
        (samples,) = archive.values()
    model, stages = take_through(arguments.model, samples)
    if arguments.save:
        model.save(str(arguments.save))
    versions = {name: importlib.metadata.version(name) for name in ("finn-plus", "qonnx")}
    answer = {"versions": versions, "stages": [asdict(stage) for stage in stages]}
    print(json.dumps({**answer, "left": [asdict(one) for one in left(model)]}))


if __name__ == "__main__":
    main()
