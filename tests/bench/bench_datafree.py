"""The networks of ``models/plain``, trained without BatchNormalization, and how right they are.

    python tests/bench/bench_datafree.py

prints their rows of the table in docs/datafree.md: points of top-1 that the SNN loses against the
ANN with 64 real samples, with 64 of standard normal values, and without data, for seeds 0, 1, 2.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.running.session import make_session

MODELS = Path(__file__).resolve().parents[2] / "models"
PLAIN = sorted((MODELS / "plain").glob("*.onnx"))
SAMPLES = 64


def pixels_of(model, split):
    """Images of ``digits_{split}.npz`` as the network takes them, and its labels, if any."""
    props = {entry.key: entry.value for entry in model.metadata_props}
    with np.load(MODELS / f"digits_{split}.npz") as archive:
        images, labels = archive["image"], archive.get("labels")
    x = np.float32(props["scale"]) * images + np.float32(props["shift"])
    return (x if len(model.graph.input[0].type.tensor_type.shape.dim) == 4 else x[:, 0]), labels


def top1(model, source=None):
    """Percent of the test images that a model answers rightly.

    Args:
        model: the network, or what became of it.
        source: the network, if that is another.
    """
    x, labels = pixels_of(source or model, "test")
    answers = make_session(model).run(None, {"x": x})[0]
    return 100 * float((answers.argmax(axis=1) == labels).mean())


def compiled(model, samples=None, seed=None):
    """What ``compile_model`` makes of a network by default, with or without samples."""
    if samples is None:
        return compile_model(model, None, CompileOptions(seed=seed))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "samples.npy"
        np.save(path, samples)
        return compile_model(model, path)


def standard_normal(model, seed=0):
    """As many standard normal samples as are made up without data."""
    shape = (SAMPLES, *pixels_of(model, "test")[0].shape[1:])
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def row(path, seeds=(0, 1, 2)):
    """A network's row of the table."""
    model = onnx.load(path)
    ann = top1(model)
    real = ann - top1(compiled(model, pixels_of(model, "calibration")[0][:SAMPLES]).model, model)
    normal = [ann - top1(compiled(model, standard_normal(model, s)).model, model) for s in seeds]
    none = [ann - top1(compiled(model, None, s).model, model) for s in seeds]
    cells = [
        f"{real:.1f}",
        *(", ".join(f"{lost:.1f}" for lost in found) for found in (normal, none)),
    ]
    return f"| `{path.stem}` | {ann:.1f} | {' | '.join(cells)} |".replace("-0.0", "0.0")


if __name__ == "__main__":
    for plain in PLAIN:
        print(row(plain), flush=True)
