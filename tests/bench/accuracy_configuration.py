"""What is measured, as it travels between the benchmark and its workers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from snn_compile.compiler import CompileOptions


@dataclass(frozen=True)
class Configuration:
    """One measurement.

    Attributes:
        what: see ``accuracy_worker.py``.
        network: its name.
        seed: chooses the calibration samples, or makes them up where there are none.
        calibration: number of calibration samples; 0 for none.
        test: number of test samples.
        options: fields of CompileOptions by name, where they are not the defaults; none of a
            quantisation.
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

    def compile_options(self) -> CompileOptions:
        """What to compile with.

        Raises:
            TypeError: the compiler has no such option.
        """
        seed = {} if self.calibration else {"seed": self.seed}
        return CompileOptions(**self.options, **seed)


def pack(bits: np.ndarray) -> str:
    """Booleans as hexadecimal digits."""
    return np.packbits(bits).tobytes().hex()


def unpack(digits: str, count: int) -> np.ndarray:
    """The booleans again, [count]."""
    packed = np.frombuffer(bytes.fromhex(digits), np.uint8)
    return np.unpackbits(packed, count=count).astype(bool)
