"""onnxruntime's static quantisation, to compare with: 8 bits, QDQ, as its own guide has it.

The model is prepared with ``quant_pre_process`` (without symbolic shape inference where sympy is
not installed), activations become uint8 per tensor, weights int8 per channel. Thresholds come from
its MinMax, Entropy or Percentile calibration with default settings. Its entropy calibration has as
many bins as quantised bins by default (128), so there is nothing to choose: it gives the ranges of
MinMax. By default operators of all kinds are quantised, also sums and Softmax, and an attention
mask of -10000 shares a scale with the scores it is added to; so there are rows with linear
operators only, which are those that the compiler encodes for.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

_LINEAR = ["Conv", "ConvTranspose", "Gemm", "MatMul"]

#: Samples per run of calibration.
_BATCH = 8


def quantise(
    model: ModelProto,
    samples: dict[str, np.ndarray],
    method: str,
    operators: str,
    folder: Path,
) -> ModelProto:
    """The quantised model.

    Args:
        model: the trained network.
        samples: for calibration, by input name.
        method: of the runtime's calibration: MinMax, Entropy or Percentile.
        operators: "all" that the runtime can quantise, its default, or "linear" ones only.
        folder: for intermediate files.
    """
    source, prepared, output = (folder / f"{i}.onnx" for i in ("source", "prepared", "quantised"))
    onnx.save(model, source)
    no_sympy = importlib.util.find_spec("sympy") is None
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=no_sympy)
    quantize_static(
        str(prepared),
        str(output),
        _Reader(samples),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=_LINEAR if operators == "linear" else None,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[method],
    )
    return onnx.load(output)


class _Reader(CalibrationDataReader):
    def __init__(self, samples: dict[str, np.ndarray]) -> None:
        count = len(next(iter(samples.values())))
        self._feeds = iter(
            {name: array[begin : begin + _BATCH] for name, array in samples.items()}
            for begin in range(0, count, _BATCH)
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)
