"""Writes the table of the front end's passes in docs/architecture.md, from ``FRONT_END``.

    python docs/generate_steps.py

It stands between these markers; what stands outside of them is written by hand.

    <!-- passes of the front end -->
    ... replaced ...
    <!-- end of passes -->
"""

from __future__ import annotations

import inspect
from pathlib import Path

from snn_compile.compiler.front_end import FRONT_END, FrontEndPass
from snn_compile.compiler.options import CompileOptions
from snn_compile.compiler.targets import resolve

PAGE = Path(__file__).parent / "architecture.md"
_BEGIN, _END = "<!-- passes of the front end -->", "<!-- end of passes -->"


def table() -> str:
    """All passes in their order, as Markdown."""
    rows = [f"| `{one.name}` | {_file(one)} | {_purpose(one)} |" for one in FRONT_END]
    return "\n".join(["| step | file | what it is for |", "| --- | --- | --- |", *rows])


def written(page: str) -> str:
    """The page with the passes as they are now.

    Raises:
        ValueError: the page does not have the markers, once each.
    """
    if page.count(_BEGIN) != 1 or page.count(_END) != 1:
        raise ValueError(f"the page needs {_BEGIN} and {_END}, once each")
    before, rest = page.split(_BEGIN)
    return f"{before}{_BEGIN}\n{table()}\n{_END}{rest.split(_END)[1]}"


def _file(one: FrontEndPass) -> str:
    module = one.run.__module__.removeprefix("snn_compile.")
    return f"`{module.replace('.', '/')}.py`"


def _purpose(one: FrontEndPass) -> str:
    """The first line of its file, and whether it is always run."""
    module = inspect.getmodule(one.run)
    first = (module.__doc__ or "").split("\n")[0]
    always = one.wanted(resolve(CompileOptions()))
    return first if always else f"{first} Not by default."


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
