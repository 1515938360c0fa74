"""Compute the golden outputs of the example networks: what tests compare with.

    python models/make_golden.py

For each network, on the first 32 test images: the outputs of the ANN and of the SNN compiled with
the bundled calibration images, without graph optimisation. Options are the default ones but for the
compensation in weights: its last bits are those of the processor's linear algebra, and one ULP at a
threshold is a level. Run it only when a change is meant to change these outputs, and say why in the
commit message.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.running.session import make_session

FOLDER = Path(__file__).resolve().parent
NETWORKS = ("digits_resnet_torchscript", "digits_resnet_dynamo")
COUNT = 32


def main() -> None:
    """Write ``<network>_golden.npz`` beside each network."""
    with np.load(FOLDER / "digits_test.npz") as data:
        images = data["image"][:COUNT]
    for name in NETWORKS:
        ann = onnx.load(FOLDER / f"{name}.onnx")
        options = CompileOptions(compensation=False)
        snn = compile_model(ann, FOLDER / "digits_calibration.npz", options).model
        outputs = [
            make_session(model, optimise=False).run(None, {"image": images})[0]
            for model in (ann, snn)
        ]
        np.savez_compressed(
            FOLDER / f"{name}_golden.npz", image=images, ann=outputs[0], snn=outputs[1]
        )


if __name__ == "__main__":
    main()
