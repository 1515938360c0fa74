"""Fixtures that the tests share."""

from __future__ import annotations

import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests run side by side. NumPy reads this when it is loaded; threads of its linear algebra that
    # wait for each other spin, and cost up to four times the work where processors are shared.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import onnxruntime as ort
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
MODELS = REPOSITORY / "models"


@pytest.fixture(autouse=True)
def _quiet_runtime() -> None:
    """Refusals are expected in tests; the runtime would print each of them."""
    ort.set_default_logger_severity(4)


@pytest.fixture
def digits() -> Path:
    """The bundled network with BatchNormalization left unfolded."""
    return MODELS / "digits_resnet_torchscript.onnx"


@pytest.fixture
def digits_calibration() -> Path:
    """Its calibration samples."""
    return MODELS / "digits_calibration.npz"
