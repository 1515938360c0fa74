"""The report as one HTML file: of a compilation, or of an evaluation.

1. The file loads nothing: style, figures (SVG) and a few lines of script are in it, and its content
   security policy forbids the rest. It can be read without script, which only sorts tables by the
   heading that is pressed and shows tooltips at once. It follows the reader's choice of light or
   dark, prints in light colours, and fits a phone: wide tables scroll inside their box.
2. Figures are for a bounded number of layers and neurons (``figures.py``, ``chosen.py``), so that
   the size grows with the rows of the tables only.
3. Names and texts of models are anyone's: all are escaped, and shown in figures as short ASCII.
4. The same result gives the same bytes, with the same releases of jinja2 and matplotlib.
5. A section without data is left out.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import UsageError

if TYPE_CHECKING:
    from ..data import CompileReport
    from ..results import EvaluationResult

#: File names that ask for HTML.
SUFFIXES = (".html", ".htm")


def is_html(path: Path) -> bool:
    """Whether a report of this name is to be HTML."""
    return path.suffix.lower() in SUFFIXES


def check_packages() -> None:
    """Refuse an HTML report early where it cannot be made.

    Raises:
        UsageError: jinja2 or matplotlib is not installed.
    """
    for name in ("jinja2", "matplotlib"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UsageError(
                f"an HTML report needs {name}: pip install 'snn-compile[report]'"
            ) from error


def compile_html(report: CompileReport, command: str = "") -> str:
    """The compile report as a page.

    Args:
        report: of ``compile_model``.
        command: as typed, to show how to repeat it.

    Raises:
        UsageError: a package that it needs is not installed.
    """
    check_packages()
    from .compile_part import compile_sections
    from .page import render

    name = report.model.get("file") or "a model"
    return render(f"{name}: compile report", compile_sections(report, command))


def evaluation_html(result: EvaluationResult, compile_report: CompileReport | None = None) -> str:
    """An evaluation as a page.

    Args:
        result: of ``snn-eval``.
        compile_report: of the same SNN, where it is known: adds what the neurons saw at
            calibration, coverage, and how it was compiled.

    Raises:
        UsageError: a package that it needs is not installed.
    """
    check_packages()
    from .evaluation_part import evaluation_sections
    from .page import render

    name = result.snn.get("file") or "a compiled model"
    sections = evaluation_sections(result, compile_report)
    return render(f"{Path(str(name)).name}: evaluation", sections)
