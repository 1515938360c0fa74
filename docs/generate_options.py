"""Writes the table of options of snn-compile in README.md, as ``compiler/options.py`` has them.

    python docs/generate_options.py

It stands between these markers; what stands outside of them is written by hand.

    <!-- options of snn-compile -->
    ... replaced ...
    <!-- end of options -->
"""

from __future__ import annotations

from pathlib import Path

from snn_compile.compiler.options import GROUPS, OPTIONS, Option, flag

PAGE = Path(__file__).parent.parent / "README.md"
_BEGIN, _END = "<!-- options of snn-compile -->", "<!-- end of options -->"


def table() -> str:
    """All options as Markdown, group by group."""
    lines = ["| option | meaning | default |", "| --- | --- | --- |"]
    for group in GROUPS:
        lines.append(f"| **{group}** | | |")
        for name, option in OPTIONS.items():
            if option.group == group:
                lines.append(f"| {_typed(name, option)} | {option.meaning} | {_default(option)} |")
    return "\n".join(lines)


def written(page: str) -> str:
    """The page with the options as they are now.

    Raises:
        ValueError: the page does not have the markers, once each.
    """
    if page.count(_BEGIN) != 1 or page.count(_END) != 1:
        raise ValueError(f"the page needs {_BEGIN} and {_END}, once each")
    before, rest = page.split(_BEGIN)
    return f"{before}{_BEGIN}\n{table()}\n{_END}{rest.split(_END)[1]}"


def _typed(name: str, option: Option) -> str:
    """How it is typed, and what it may be."""
    if option.choices:
        *choices, last = (f"`{choice}`" for choice in option.choices)
        return f"`{flag(name)}` {', '.join(choices)} or {last}"
    if option.is_switch:
        return f"`{flag(name)}`" + (f", `{flag('no_' + name)}`" if option.default else "")
    return f"`{flag(name)} {option.symbol}`"


def _default(option: Option) -> str:
    """Of a switch that is off, nothing."""
    return "" if option.is_switch and not option.default else option.default_text


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
