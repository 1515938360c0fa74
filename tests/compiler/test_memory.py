"""Peak memory against the size of the model; it does not depend on how busy the machine is."""

from __future__ import annotations

import importlib.util
import sys

import pytest
from conftest import REPOSITORY

SCRIPT = REPOSITORY / "tests" / "bench" / "bench_memory.py"


@pytest.fixture
def bench():
    spec = importlib.util.spec_from_file_location("bench_memory", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak as Linux reports it")
@pytest.mark.parametrize("external", [False, True])
def test_a_model_of_90_megabytes_takes_at_most_six_times_its_size(tmp_path, bench, external):
    model = bench.write_network(tmp_path, 90, 1024, external=external, samples=8)
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert bench.peak_of_compiling(model, None) <= 6 * size
    assert (tmp_path / "snn.onnx.data").exists() == external
