"""Compute the golden outputs of the example networks: what tests compare with.

    python models/make_golden.py [NAME ...]

For each network, on the first 32 test images: the outputs of the ANN and of the SNNs compiled with
the bundled calibration images, in float and with ``--target int8``, without graph optimisation.
Without arguments it makes those of all networks; with names, of these. Options are the default ones
but for the compensation in weights and the budget of levels, whose last bits are those of the
processor: one ULP at a threshold is a level. Run it only when a change is meant to change these
outputs, and say why in the commit message.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.running.session import make_session

FOLDER = Path(__file__).resolve().parent
NETWORKS = (
    *("digits_resnet_torchscript", "digits_resnet_dynamo"),
    *("digits_vit_torchscript", "digits_vit_dynamo"),
)
COUNT = 32


def main() -> None:
    """Write ``<network>_golden.npz`` beside each network."""
    with np.load(FOLDER / "digits_test.npz") as data:
        images = data["image"][:COUNT]
    for name in sys.argv[1:] or NETWORKS:
        models = {"ann": onnx.load(FOLDER / f"{name}.onnx")}
        for key, target in (("snn", "onnxruntime"), ("int8", "int8")):
            options = CompileOptions(target=target, compensation=False, levels_budget=0.0)
            compiled = compile_model(models["ann"], FOLDER / "digits_calibration.npz", options)
            models[key] = compiled.model
        outputs = {
            key: make_session(model, optimise=False).run(None, {"image": images})[0]
            for key, model in models.items()
        }
        np.savez_compressed(FOLDER / f"{name}_golden.npz", image=images, **outputs)


if __name__ == "__main__":
    main()
