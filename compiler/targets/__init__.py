"""What a compilation writes: one module or folder for each target."""

from __future__ import annotations

from collections.abc import Mapping

from ..options import CompileOptions, check_values, resolve_common
from .int8 import Int8
from .nir.target import Nir
from .onnxruntime import OnnxRuntime
from .qonnx import Qonnx
from .standard import Standard
from .target import Target

_ALL: tuple[Target, ...] = (OnnxRuntime(), Standard(), Int8(), Qonnx(), Nir())

#: By name.
TARGETS: Mapping[str, Target] = {target.name: target for target in _ALL}


def resolve(options: CompileOptions, synthetic: bool = False) -> CompileOptions:
    """The options with all defaults in place; resolved ones stay as they are.

    Args:
        options: as the user gives them.
        synthetic: samples are made up, as none are given.

    Raises:
        UsageError: a value cannot be used, options do not go together, one has no effect, or a
            package that the target needs is not installed.
    """
    check_values(options)
    return resolve_common(TARGETS[options.target].resolve(options), synthetic)
