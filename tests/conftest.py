"""Fixtures that the tests share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import onnxruntime as ort
import pytest
import pytest_randomly

REPOSITORY = Path(__file__).resolve().parent.parent
MODELS = REPOSITORY / "models"


# Tests started in the background or by nohup have these ignored, and so would the commands that
# they start and interrupt.
for _name, _usual in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    _number = getattr(signal, _name, None)
    if _number is not None and signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _usual)


# The package qonnx would print a line for each test, among what tests capture.
pytest_randomly.entrypoint_reseeds = []


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Threads of NumPy's linear algebra that wait for each other spin; processes that run tests
    side by side, which inherit this, would spend most of their time so."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _quiet_runtime() -> None:
    """Refusals are expected in tests; the runtime would print each of them."""
    ort.set_default_logger_severity(4)


@pytest.fixture(autouse=True)
def _wide_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """xdist sets it for its processes; tables are as wide as their cells unless a test says so."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def digits() -> Path:
    """The bundled network with BatchNormalization left unfolded."""
    return MODELS / "digits_resnet_torchscript.onnx"


@pytest.fixture
def digits_calibration() -> Path:
    """Its calibration samples."""
    return MODELS / "digits_calibration.npz"
