"""The page in a browser: headings sort, tooltips show, and without script it is whole."""

from __future__ import annotations

import shutil

import bench_web
import chromium
import made_up_results as made_up
import pytest

pytest.importorskip("jinja2", reason="needs the extra 'report'")
pytest.importorskip("matplotlib", reason="needs the extra 'report'")

from snn_compile.compiler.report.html import evaluation_html
from snn_compile.compiler.report.html.page import Section, Table, render

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed")

VALUES = ["1.2 µJ", "-", "900 nJ", "3 mJ", "1,234 pJ", "inf"]
TABLE = Table("All", ["name", "value\t"], [[f"n{10 - i}", value] for i, value in enumerate(VALUES)])
COLUMN = "[...document.querySelectorAll('tbody tr')].map((r) => r.cells[{}].textContent)"
PRESS = "document.querySelectorAll('thead button')[{}].click()"


@pytest.fixture(scope="module")
def page():
    with chromium.page_in(BROWSER, *bench_web.FLAGS) as opened:
        yield opened


def show(page, folder, html):
    (folder / "page.html").write_text(html, "utf-8")
    page.send("Emulation.setScriptExecutionDisabled", value=False)
    page.go((folder / "page.html").as_uri())


@pytest.fixture
def table(page, tmp_path):
    show(page, tmp_path, render("title", [Section("a", "A", tables=[TABLE])]))
    return page


def test_numbers_are_sorted_with_their_units_and_dashes_last(table):
    table.value(PRESS.format(1))
    up = ["1,234 pJ", "900 nJ", "1.2 µJ", "3 mJ", "inf", "-"]
    assert table.value(COLUMN.format(1)) == up
    table.value(PRESS.format(1))
    assert table.value(COLUMN.format(1)) == [*reversed(up[:-1]), "-"]
    sorted_by = "[...document.querySelectorAll('thead th')].map((h) => h.ariaSort)"
    assert table.value(sorted_by) == [None, "descending"]


def test_texts_are_sorted_as_people_do(table):
    table.value(PRESS.format(0))
    assert table.value(COLUMN.format(0)) == ["n5", "n6", "n7", "n8", "n9", "n10"]


def test_rows_stay_together(table):
    table.value(PRESS.format(0))
    names, values = (table.value(COLUMN.format(i)) for i in (0, 1))
    expected = {f"n{10 - i}": value for i, value in enumerate(VALUES)}
    assert dict(zip(names, values, strict=True)) == expected


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_whole_page_fits_and_says_no_error(page, tmp_path, width, mode):
    page.send(
        "Emulation.setDeviceMetricsOverride",
        width=width, height=900, deviceScaleFactor=1, mobile=width < 500,
    )  # fmt: skip
    features = [{"name": "prefers-color-scheme", "value": mode}]
    page.send("Emulation.setEmulatedMedia", features=features)
    points = [made_up.point(0.8, 1e6, f"levels={n}") for n in (2, 4)]
    html = evaluation_html(made_up.evaluation(20, sweep=points), made_up.compilation())
    show(page, tmp_path, html)
    assert page.value("document.documentElement.scrollWidth") <= width
    assert page.errors == []


def test_a_tooltip_shows_what_is_pointed_at(page, tmp_path):
    points = [made_up.point(0.8, 1e6, "levels=4"), made_up.point(0.9, 2e6, "levels=8")]
    show(page, tmp_path, evaluation_html(made_up.evaluation(sweep=points)))
    shown = """(() => {
        const group = document.querySelector("[data-tip^='levels=8:']");
        const tip = document.querySelector(".tip");
        const before = tip.hidden;
        const over = (target) => target.dispatchEvent(
            new PointerEvent("pointerover", { bubbles: true, clientX: 5000, clientY: 5 }));
        over(group.querySelector("path, use"));
        const found = [before, tip.hidden, tip.textContent, tip.getBoundingClientRect().right];
        over(document.body);
        return [...found, tip.hidden];
    })()"""
    before, hidden, text, right, after = page.value(shown)
    assert (before, hidden, after) == (True, False, True)
    assert text == "levels=8: top-1, % 90, 2 µJ"
    assert right <= page.value("document.documentElement.clientWidth")


def test_without_script_the_page_is_whole(page, tmp_path):
    points = [made_up.point(0.8, 1e6, "levels=4")]
    html = evaluation_html(made_up.evaluation(sweep=points))
    show(page, tmp_path, html)
    with_script = page.value("document.body.innerText")
    page.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.send("Page.reload")
        page.wait("document.readyState == 'complete'")
        without = page.value("document.body.innerText")
        assert page.value("document.querySelectorAll('svg title').length") > 0
    finally:
        page.send("Emulation.setScriptExecutionDisabled", value=False)
    assert without.split() == with_script.split()
