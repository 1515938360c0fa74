"""The options that a compiled network says it was made with.

1. It records them as one JSON object (``options``), the fewest from which the others follow.
2. What this version does not know, and values that no option has, are left out with a warning: the
   file is anyone's.
3. A network without such a record has its target, the weights of its target, levels, timesteps and
   calibrator, as far as it names them, with a warning; one that was not compiled has the defaults.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import UsageError
from ..options import INT8, OPTIONS, OUTPUT, QONNX, CompileOptions, check_values

#: What networks said before they recorded all options.
_NUMBERS = ("levels", "timesteps", "weight_bits")
_NAMES = ("target", "calibrator", "int8_weights")


def recorded_options(
    provenance: Mapping[str, str], integers: bool
) -> tuple[CompileOptions, list[str]]:
    """The options, as given rather than resolved, and warnings.

    Args:
        provenance: what the network says of how it was compiled.
        integers: whether it holds integers of 8 bits, whatever it says.
    """
    text = provenance.get("options")
    if text is not None:
        return _read(text)
    found: dict[str, Any] = {name: provenance[name] for name in _NAMES if name in provenance}
    for name in _NUMBERS:
        if provenance.get(name, "").isdecimal():
            found[name] = int(provenance[name])
    if integers:
        found["target"] = INT8
    elif "weight_bits" in found:
        found["target"] = QONNX
    warnings = []
    if found:
        listed = ", ".join(f"{name} {value}" for name, value in found.items())
        warnings.append(
            "the SNN does not record all options that it was compiled with: a sweep starts from "
            f"the defaults, but for {listed}"
        )
    options, unknown = _known(found)
    return options, warnings + unknown


def _read(text: str) -> tuple[CompileOptions, list[str]]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return CompileOptions(), [
            "what the SNN records of its options is not readable: a sweep starts from the defaults"
        ]
    return _known(found)


def _known(found: Mapping[str, Any]) -> tuple[CompileOptions, list[str]]:
    """Rule 2."""
    values: dict[str, Any] = {}
    unknown = []
    for name, value in found.items():
        if name in OPTIONS and OPTIONS[name].group == OUTPUT:
            continue
        try:
            one: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value}
            check_values(CompileOptions(**one))
        except (UsageError, TypeError):
            unknown.append(name)
        else:
            values |= one
    # Of synthetic samples, which a sweep does not have.
    if not values.get("search_scale"):
        values.pop("seed", None)
    warnings = []
    if unknown:
        warnings.append(
            f"the SNN records options that this version does not have ({', '.join(unknown)}): a "
            "sweep does without"
        )
    return CompileOptions(**values), warnings
