"""What a compilation writes: one module or folder for each target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import UsageError
from ..options import OPTIONS, OUTPUT, CompileOptions, check_values
from .common import resolve_common
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


def recorded(resolved: CompileOptions, synthetic: bool) -> dict[str, Any]:
    """The fewest options that resolve to these, by name; those that only check or show left out.

    Others may be changed, and what then depends on them is resolved anew: of int8 with 255 levels
    the shortcuts for one, which are others with fewer levels.

    Args:
        resolved: of :func:`resolve`.
        synthetic: as there.
    """
    default = CompileOptions()
    wanted = {
        name: getattr(resolved, name)
        for name, option in OPTIONS.items()
        if option.group != OUTPUT and getattr(resolved, name) != getattr(default, name)
    }
    shown = {name: getattr(resolved, name) for name in OPTIONS if OPTIONS[name].group == OUTPUT}
    for name in list(wanted):
        fewer = {key: value for key, value in wanted.items() if key != name}
        try:
            same = resolve(CompileOptions(**fewer, **shown), synthetic) == resolved
        except UsageError:
            continue
        if same:
            wanted = fewer
    return wanted
