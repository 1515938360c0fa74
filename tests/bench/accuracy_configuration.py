"""What is measured, as it travels between the benchmark and its workers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from snn_compile.compiler.calibration.options import CalibrationOptions, Corrections
from snn_compile.compiler.options import CompileOptions


@dataclass(frozen=True)
class Configuration:
    """One measurement.

    Attributes:
        what: see ``accuracy_worker.py``.
        network: its name.
        seed: chooses the calibration samples, or makes them up where there are none.
        calibration: number of calibration samples; 0 for none.
        test: number of test samples.
        options: fields of CompileOptions, CalibrationOptions and Corrections by name, where they
            are not the defaults; the method of a quantisation.
    """

    what: str
    network: str
    seed: int
    calibration: int
    test: int
    options: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def compile_options(chosen: dict[str, Any], seed: int) -> CompileOptions:
    """Options whose fields have these values.

    Raises:
        ValueError: no options have such a field.
    """
    left = dict(chosen)

    def take(kind: type) -> dict[str, Any]:
        return {f.name: left.pop(f.name) for f in fields(kind) if f.name in left}

    parts = {
        "calibration": CalibrationOptions(**take(CalibrationOptions)),
        "corrections": Corrections(**take(Corrections)),
    }
    options = CompileOptions(**parts, **take(CompileOptions), seed=seed)
    if left:
        raise ValueError(f"there is no option {', '.join(left)}")
    return options


def pack(bits: np.ndarray) -> str:
    """Booleans as hexadecimal digits."""
    return np.packbits(bits).tobytes().hex()


def unpack(digits: str, count: int) -> np.ndarray:
    """The booleans again, [count]."""
    packed = np.frombuffer(bytes.fromhex(digits), np.uint8)
    return np.unpackbits(packed, count=count).astype(bool)
