"""The page: sections of facts, figures and tables, and how they become one HTML file.

Its one script (page.js) only sorts tables and shows tooltips; the page's policy names its hash, and
lets no other run.

Everything but the figures is escaped; names in models are anyone's.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata, resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ...errors import readable
from .svg import with_prefix


@dataclass(frozen=True)
class Figure:
    """A drawing: SVG text of ``svg.py``, and what is said below it."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Table:
    """Text in rows.

    Attributes:
        caption: what the rows are.
        header: name of each column; of a column of numbers it ends in a tab.
        rows: as many texts each as there are columns.
        folded: shown on request only.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = False

    def is_number(self, column: int) -> bool:
        """Whether a column is aligned to the right."""
        return self.header[column].endswith("\t")

    def with_content(self) -> Table:
        """Without columns, the first apart, that say nothing in any row."""
        kept = [
            column
            for column in range(len(self.header))
            if column == 0 or any(row[column] not in _EMPTY for row in self.rows)
        ]
        return replace(
            self,
            header=[self.header[column] for column in kept],
            rows=[[row[column] for column in kept] for row in self.rows],
        )


#: Cells that say nothing.
_EMPTY = ("", "-")


@dataclass
class Section:
    """A part of the page, in the order in which it is shown.

    Attributes:
        id: for links within the page.
        title: its heading.
        texts: paragraphs.
        facts: name, value, and a note or "".
        warnings: what the reader should not overlook.
        command: what to type.
        figures: drawings.
        tables: text in rows; tables without rows are left out.
    """

    id: str
    title: str
    texts: list[str] = field(default_factory=list)
    facts: list[tuple[str, str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    command: str = ""
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


def render(title: str, sections: Sequence[Section]) -> str:
    """The page as one HTML file that loads nothing."""
    number = 0
    shown = []
    for section in sections:
        figures = []
        for figure in section.figures:
            number += 1
            figures.append(replace(figure, svg=Markup(with_prefix(figure.svg, f"f{number}-"))))
        tables = [table.with_content() for table in section.tables if table.rows]
        shown.append(replace(section, figures=figures, tables=tables))
    files = resources.files(__package__)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    script = files.joinpath("page.js").read_text("utf-8")
    digest = hashlib.sha256(script.encode()).digest()
    page = environment.from_string(files.joinpath("page.html").read_text("utf-8"))
    text = page.render(
        title=title,
        sections=shown,
        style=Markup(files.joinpath("page.css").read_text("utf-8").strip()),
        script=Markup(script),
        script_hash=Markup(f"sha256-{base64.b64encode(digest).decode()}"),
        version=metadata.version("snn-compile"),
    )
    return readable(text) + "\n"
