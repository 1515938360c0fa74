"""Options in a file: what ``--config`` reads and ``--save-config`` writes, in TOML.

A key is an option as it is typed, without the dashes in front (``levels-budget = 0.75``); an
underscore may stand for a dash. A switch is true or false, what can be given several times is an
array. Paths are relative to the folder where the command is run, as on the command line, whose
options win over those of the file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from ..options import OPTIONS
from ..samples.image_flags import Several

#: Options that say what the command does or how it talks; no file has them.
_APART = {"config", "save_config", "check", "inspect", "help", "version"}
#: Options that --save-config leaves out: they do not change what is written.
_TALK = {"verbose", "quiet", "debug"}


def read_config(path: Path, command: click.Command) -> dict[str, Any]:
    """The options in a file, by the names of the command's parameters.

    Raises:
        UsageError: it cannot be read, or has what is no option or no value of one.
    """
    known = {key: option for key, option in _keys(command) if option.name not in _APART}
    found: dict[str, Any] = {}
    for given, value in _content(path).items():
        key = given.replace("_", "-")
        if key not in known:
            near = get_close_matches(key, known)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise UsageError(f"{path}: {given} is no option that a file can have{hint}")
        option = known[key]
        name = str(option.name)
        if name in found:
            raise UsageError(f"{path}: {given} is given twice; leave out one of them")
        found[name] = _checked(path, given, value, option)
    return found


def _content(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is no TOML ({error})") from error


def _checked(path: Path, key: str, value: Any, option: click.Option) -> Any:
    """The value as click takes it."""
    declared = OPTIONS.get(str(option.name))
    if declared is None:
        wanted = "true or false" if option.is_flag else "a text or a number"
        kinds = (bool,) if option.is_flag else (str, int, float)
        if isinstance(option.type, Several):
            wanted, kinds = f"{wanted}, or an array of numbers", (*kinds, list)
        sound = isinstance(value, kinds) and (option.is_flag or not isinstance(value, bool))
    else:
        wanted, given = declared.wanted, value
        if declared.several:
            wanted, given = "an array of texts", tuple(value) if isinstance(value, list) else None
        elif declared.is_switch:
            wanted = "true or false"
        elif declared.text:
            given = value if isinstance(value, str) else None
        elif not declared.choices and declared.numbers is None:
            wanted, given = "a text", Path(value) if isinstance(value, str) else None
        sound = given is not None and declared.takes(given)
    if not sound:
        raise UsageError(f"{path}: {key} = {_toml(value)} cannot be used; give {wanted}")
    return value


def config_text(command: click.Command, used: Mapping[str, Any]) -> str:
    """A file with these options: those that are not their defaults; the others as comments.

    Args:
        command: whose options they are.
        used: values by the names of its parameters.

    Raises:
        UsageError: a file name is not UTF-8, so that TOML cannot hold it.
    """
    lines = ["# Options of snn-compile: what was used. Those behind # have their defaults."]
    for key, option in _keys(command):
        name = str(option.name)
        if name in _APART | _TALK or name not in used:
            continue
        declared = OPTIONS.get(name)
        default = None if declared is None else declared.default
        value = used[name]
        if value == default or value is None:
            shown = "" if default in (None, ()) else f" {_toml(default)}"
            lines.append(f"# {key} ={shown}")
        else:
            lines.append(f"{key} = {_toml(value)}")
    text = "\n".join(lines) + "\n"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError("--save-config: a file name is not UTF-8; rename the file") from error
    return text


def _keys(command: click.Command) -> Iterable[tuple[str, click.Option]]:
    """The options by their long spelling."""
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            for typed in parameter.opts:
                if typed.startswith("--"):
                    yield typed.removeprefix("--"), parameter


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml(one) for one in value)}]"
    if isinstance(value, (int, float)):
        return repr(value)
    # Escapes of JSON are those of TOML, which wants one more character escaped.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
