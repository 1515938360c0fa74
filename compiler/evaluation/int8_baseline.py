"""onnxruntime's static quantisation, to compare with: 8 bits, QDQ, as its own guide has it.

1. The model is brought to an opset that has integers per channel and prepared with
   ``quant_pre_process`` (without symbolic shape inference where sympy is not installed),
   activations become uint8 per tensor, weights int8 per channel.
2. Ranges come from its default calibration: the extremes of all samples (MinMax).
3. Operators of all kinds are quantised, also sums and Softmax, and an attention mask of -10000
   shares a scale with the scores it is added to.
4. Outputs are to be compared without graph optimisation. With it, linear operators run on integers,
   and on processors without 8-bit dot products the sums of products saturate: an error of the
   machine, not of 8 bits. :func:`saturation_warnings` says of how many operators.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from onnx import ModelProto
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from ...passes.analysis.operators import OPERATORS
from ...passes.graph.network import Network, constants_of
from ...passes.lowering.quantise_linear import MOST_LEVELS, safe_weight
from ..errors import ModelError, SnnCompileError
from ..model_io.load import read_model
from ..model_io.save import save_network
from ..model_io.to_float32 import to_float32
from ..model_io.upgrade import upgrade
from ..samples.base import Feed

#: Samples per run of calibration.
BATCH = 8

_LINEAR = [name for name, what in OPERATORS.items() if what.weighted]


def quantise(ann: Network, feeds: Iterable[Feed], folder: Path) -> Path:
    """The file of the quantised model.

    Args:
        ann: the trained network.
        feeds: batches of calibration samples.
        folder: for the file, and for intermediate ones.

    Raises:
        ModelError: the runtime cannot quantise the network.
    """
    source, prepared, output = (folder / f"{i}.onnx" for i in ("source", "prepared", "quantised"))
    newer = Network(ModelProto(), dict(ann.weights))
    newer.proto.CopyFrom(ann.proto)
    to_float32(newer)  # of other types nothing is quantised
    upgrade(newer.proto)
    save_network(newer, source)
    try:
        with _quiet():
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(output),
                _Reader(feeds),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
            )
    except (SnnCompileError, MemoryError):
        raise
    except Exception as error:  # whatever the runtime and its tools raise
        raise ModelError(f"onnxruntime cannot quantise the ANN: {error}") from error
    return output


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Iterable[Feed]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)


def saturation_warnings(path: Path) -> list[str]:
    """What machines that add two products in 16 bits do to the file of a quantised model.

    From weights and the largest uint8, 255, not from samples: an operator may saturate if
    2 * 255 |w| is above 32767 for a weight of it.
    """
    network = read_model(path)
    constants = constants_of(network)
    makers = {name: node for node in network.proto.graph.node for name in node.output}
    operators, saturating = 0, 0
    for node in network.proto.graph.node:
        maker = makers.get(node.input[1]) if node.op_type in _LINEAR else None
        weight = constants.get(maker.input[0]) if maker is not None else None
        if weight is None or weight.dtype != np.int8:
            continue
        operators += 1
        largest = np.abs(weight.astype(np.int32)).max(initial=0)
        saturating += bool(largest > safe_weight(MOST_LEVELS))
    if not saturating:
        return []
    return [
        f"int8: on x86 without VNNI sums of two products may saturate in {saturating} of "
        f"{operators} operators of onnxruntime's file (2 * 255 |w| above 32767); its accuracy here "
        "is without graph optimisation, where none does"
    ]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser prints, logs and warns of what is not the user's to mend."""
    root, disabled = logging.getLogger(), logging.root.manager.disable
    handlers = root.handlers[:]
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
