"""Draw docs/levels.svg: levels of three neurons over the values that one Relu of a network gives.

    python docs/draw_levels.py

The network and its samples are the bundled digits; the neurons have 16 levels besides silence:
uniform ones (least squared error), octaves, and levels placed one by one (Lloyd-Max).
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import onnx
import onnxruntime as ort
from matplotlib.figure import Figure
from snn_compile.compiler.calibration.fitting.distributions import Distribution, pool
from snn_compile.compiler.calibration.fitting.octave import find_octave
from snn_compile.compiler.calibration.fitting.staircase import find_staircase
from snn_compile.compiler.calibration.fitting.uniform_calibrators import find_uniform, squared_error
from snn_compile.runtime_ops.scale_fire import octave_levels

ROOT = Path(__file__).resolve().parents[1]
LEVELS = 16


def relu_values() -> np.ndarray:
    """What the widest Relu gives on the calibration samples, ascending."""
    model = onnx.load(ROOT / "models" / "digits_resnet_torchscript.onnx")
    names = [node.output[0] for node in model.graph.node if node.op_type == "Relu"]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with np.load(ROOT / "models" / "digits_calibration.npz") as samples:
        feed = {name: samples[name] for name in samples.files}
    outputs = session.run(names, feed)
    return np.sort(max(outputs, key=lambda values: float(values.std())).reshape(-1))


def main() -> None:
    """Fit the neurons, print their errors, write the picture."""
    x = relu_values().astype(np.float64)
    values = pool([Distribution(x, x, x, np.ones(len(x)))])
    uniform = find_uniform(values, LEVELS, "mse", 99.9)
    octave = find_octave([values], LEVELS)
    free = find_staircase(values.means, values.counts, lambda v: v, LEVELS)
    assert uniform is not None
    rows = [
        ("uniform", uniform.step * np.arange(LEVELS + 1), squared_error(values, uniform)),
        (
            f"octaves, m = {octave.linear}",
            float(octave.scale) * octave_levels(octave.linear, octave.top_pos),
            octave.squared_error,
        ),
        ("placed one by one", free.levels, free.error**2 * values.power),
    ]
    matplotlib.rcParams.update({"svg.hashsalt": "levels", "font.size": 9})
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1, 1])
    above.hist(x[x > 0], bins=120, color="0.7")
    above.set_ylabel("values above 0")
    for position, (name, levels, error) in enumerate(rows):
        share = error / values.power
        print(f"{name}: squared error {share:.5f} of the values' squares")
        below.plot(levels, np.full(len(levels), -position), "|", markersize=14, color="C0")
    below.set_yticks([0, -1, -2], [name for name, _, _ in rows])
    below.set_ylim(-2.6, 0.6)
    below.set_xlabel("output of the Relu")
    figure.savefig(ROOT / "docs" / "levels.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
