"""The error of 8-bit files on a processor without 8-bit dot products, emulated, and on this one.

    python tests/bench/bench_haswell.py --data DATA [--samples 16] [--networks NAME ...]

On x86 without VNNI onnxruntime's kernels add two products of uint8 and int8 in 16 bits, where more
saturates in silence; ``qemu-x86_64-static -cpu Haswell-noTSX`` is such a machine. Each shared
network (``shared_networks.py``) is compiled to ``int8`` with default options (N = 255) and
quantised by onnxruntime's quantize_static as the baseline of snn-eval, both with its calibration
samples of seed 0. Graph optimisation is on, where the integer kernels are.

Printed: the relative error |y - ANN| / |ANN| over the outputs of all test samples used, the ANN on
this machine; the emulated error over the native one; how often the largest output is the ANN's.

Exit code 1: an emulated error of a file of ours is more than 1 % off the native one. 77: something
is missing, named in the last line.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import shared_networks
from bench_latency import quantised, write_compiled
from snn_compile.compiler import CompileOptions

_WORKER = Path(__file__).with_name("runtimes_worker.py")
_QEMU, _PROCESSOR = "qemu-x86_64-static", "Haswell-noTSX"
_NETWORKS = ["cifar10_resnet20", "imagenet_efficientnet_lite0", "kws_mlperf_dscnn"]
#: Of the native error, that the emulated one may be off.
_TOLERANCE = 0.01
_MISSING = 77


def missing() -> str | None:
    """Why nothing can be emulated on this machine, or None."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "the emulator runs this machine's Python, which has to be one of Linux on x86-64"
    if shutil.which(_QEMU) is None:
        return f"{_QEMU} is not installed (Debian's package qemu-user-static)"
    return None


def outputs(model: Path, feed: Path, *, emulated: bool) -> np.ndarray:
    """The first output of onnxruntime, [samples, ...]: of this processor or of the emulated one.

    Args:
        model: the file.
        feed: an .npz with arrays [samples, ...] by input name.
        emulated: on which one.

    Raises:
        RuntimeError: it does not run.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "outputs.npz"
        request = {"runtime": "onnxruntime", "model": str(model), "feed": str(feed)}
        request |= {"outputs": str(file), "patience": float("inf"), "seconds": 0}
        command = [_QEMU, "-cpu", _PROCESSOR] if emulated else []
        command += [sys.executable, str(_WORKER), json.dumps(request)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not file.is_file():
            raise RuntimeError(f"{model.name}: {(done.stdout + done.stderr).strip()}")
        with np.load(file) as arrays:
            result: np.ndarray = arrays["outputs"]
    return result


def relative_error(values: np.ndarray, reference: np.ndarray) -> float:
    """|values - reference| / |reference|, norms over all elements."""
    return float(np.linalg.norm(values - reference) / np.linalg.norm(reference))


def compare(
    files: dict[str, Path], ann: Path, feed: Path, name: str, tolerance: float = _TOLERANCE
) -> bool:
    """Print a line for each file; whether the emulated error of the first is near the native one.

    Args:
        files: of 8 bits, by title, ours first.
        ann: the trained network.
        feed: an .npz with arrays [samples, ...] by input name.
        name: of the network, for the lines.
        tolerance: of the native error.
    """
    reference = outputs(ann, feed, emulated=False)
    ratios = []
    for title, file in files.items():
        both = [outputs(file, feed, emulated=emulated) for emulated in (False, True)]
        native, emulated = (relative_error(values, reference) for values in both)
        ratios.append(emulated / native if native else float(emulated == 0) or float("inf"))
        first, second = (100 * _agreement(values, reference) for values in both)
        print(
            f"{name:28s} {title:16s} {native:8.4f} {emulated:8.4f} {ratios[-1]:8.4f}  "
            f"{first:6.1f} {second:6.1f}",
            flush=True,
        )
    return abs(ratios[0] - 1) <= tolerance


def _agreement(values: np.ndarray, reference: np.ndarray) -> float:
    return float(np.mean(values.argmax(-1) == reference.argmax(-1)))


def _stop(reason: str) -> NoReturn:
    print(f"left out: {reason}", file=sys.stderr)
    raise SystemExit(_MISSING)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--networks", nargs="+", default=_NETWORKS)
    chosen = parser.parse_args(arguments)
    reason = missing()
    if reason:
        _stop(reason)
    vnni = "vnni" in Path("/proc/cpuinfo").read_text()
    print(f"this processor has {'' if vnni else 'no '}VNNI; {chosen.samples} samples")
    print(f"{'':45s} error of outputs           agreement, %")
    print(f"{'network':28s} {'file':16s}   native emulated    ratio  native emulated")
    good, measured = True, 0
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        for name in chosen.networks:
            network = shared_networks.NETWORKS[name]
            gone = shared_networks.absent(network, chosen.data)
            if gone:
                print(f"{name}: left out, {gone}")
                continue
            model = shared_networks.load_model(network, chosen.data)
            samples = shared_networks.calibration_samples(
                network, chosen.data, network.calibration, 0
            )
            options = CompileOptions(target="int8")
            paths = write_compiled(name, model, samples, options, folder)
            theirs = quantised(paths["ann.onnx"], samples, folder)
            feed, _ = shared_networks.test_samples(network, chosen.data, chosen.samples)
            np.savez(folder / "feed.npz", **feed)
            files = {"int8, N = 255": paths["snn.onnx"], "quantize_static": theirs}
            good &= compare(files, paths["ann.onnx"], folder / "feed.npz", name)
            measured += 1
    if not measured:
        _stop("no network in the data folder")
    if not good:
        print(f"an error of ours is more than {100 * _TOLERANCE:g} % off", file=sys.stderr)
    return int(not good)


if __name__ == "__main__":
    raise SystemExit(main())
