"""Compiled networks in OpenVINO and OpenCV, which are not onnxruntime and know no `ai.snn`."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
from bench_runtimes import available, run_python, write_files
from runtimes_table import classes

SAMPLES = 100
#: Largest difference relative to the largest output, where it is not the rounding of sums.
_ROUNDED_OTHERWISE = {
    # Integer kernels round ties of their scaling otherwise, and a value takes the next level.
    ("openvino", "int8"): 0.05,
    ("opencv", "int8"): 0.01,
}


@pytest.mark.slow
@pytest.mark.parametrize(("runtime", "module"), [("openvino", "openvino"), ("opencv", "cv2")])
@pytest.mark.parametrize("target", [name for name in available() if name != "onnxruntime"])
def test_digits_in_another_runtime(runtime, module, target, tmp_path):
    if importlib.util.find_spec(module) is None:
        pytest.skip("needs the extra 'runtimes'")
    files, feed = write_files("digits", [target], None, SAMPLES, tmp_path)
    found, reference = (
        run_python(name, sys.executable, files[target], feed, True)
        for name in (runtime, "onnxruntime")
    )
    assert found.reason == reference.reason == ""
    assert len(found.outputs) == len(reference.outputs)
    off = np.abs(found.outputs - reference.outputs).max() / np.abs(reference.outputs).max()
    assert off <= _ROUNDED_OTHERWISE.get((runtime, target), 1e-5)
    assert np.mean(classes(found.outputs) == classes(reference.outputs)) >= 0.99
