"""What a compilation writes: one module or folder for each target."""

from __future__ import annotations

from collections.abc import Mapping

from .nir.target import Nir
from .onnxruntime import OnnxRuntime
from .target import Target

_ALL: tuple[Target, ...] = (OnnxRuntime(), Nir())

#: By name.
TARGETS: Mapping[str, Target] = {target.name: target for target in _ALL}
