"""Read a report that ``snn-compile --report report.json`` wrote.

The classes of the report say what is expected: a dataclass is an object with its fields, a float
may be null (NaN is written so). Fields that are not known are ignored, those with a default may be
missing, so that reports of other releases can be read as far as they agree. Everything else is
refused, and so are histograms that cannot be drawn: the file is anyone's.
"""

from __future__ import annotations

import json
import types
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from ..errors import UsageError
from .data import CompileReport


class _UnlikeError(Exception):
    """A value is not what the report has in that place."""


def read_report(path: Path) -> CompileReport:
    """The report in a file.

    Raises:
        UsageError: it cannot be read, or is not such a report; the message says where.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is not readable as JSON ({error})") from error
    try:
        report = _decode(CompileReport, content, "the report")
        for number, neuron in enumerate(report.neurons):
            sound = neuron.membrane is None or neuron.membrane.is_sound
            _expect(sound, f"the report.neurons[{number}].membrane", "a histogram")
    except _UnlikeError as error:
        raise UsageError(
            f"{path}: is no report of snn-compile --report report.json: {error}"
        ) from error
    assert isinstance(report, CompileReport)
    return report


def _decode(kind: Any, value: Any, where: str) -> Any:
    """``value`` as a ``kind``: a dataclass, a list, tuple or dict of kinds, or a plain value."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        return _decode(next(k for k in inner if k is not type(None)), value, where)
    if is_dataclass(kind):
        return _decode_fields(kind, value, where)
    if origin in (list, tuple):
        _expect(isinstance(value, list), where, "a list")
        return origin(_decode(inner[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        _expect(isinstance(value, dict), where, "an object")
        return {key: _decode(inner[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is float:
        if value is None:
            return float("nan")
        _expect(isinstance(value, (int, float)) and not isinstance(value, bool), where, "a number")
        _expect(isinstance(value, float) or abs(value) < 1 << 1023, where, "a number of that size")
        return float(value)
    _expect(type(value) is kind, where, f"of type {kind.__name__}")
    return value


def _decode_fields(kind: Any, value: Any, where: str) -> Any:
    _expect(isinstance(value, dict), where, "an object")
    hints = get_type_hints(kind)
    found = {}
    for item in fields(kind):
        if item.name in value:
            found[item.name] = _decode(hints[item.name], value[item.name], f"{where}.{item.name}")
        else:
            optional = item.default is not MISSING or item.default_factory is not MISSING
            _expect(optional, f"{where}.{item.name}", "there")
    return kind(**found)


def _expect(condition: bool, where: str, what: str) -> None:
    if not condition:
        raise _UnlikeError(f"{where} is not {what}")
