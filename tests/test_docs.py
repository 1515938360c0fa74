"""The documentation: what is generated is up to date, and links and navigation lead somewhere."""

from __future__ import annotations

import doctest
import re
import sys
from pathlib import Path

import pytest
import snn_compile

REPOSITORY = Path(__file__).parent.parent
DOCS = REPOSITORY / "docs"
PAGES = sorted([*DOCS.glob("*.md"), REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"])

sys.path.insert(0, str(DOCS))
try:
    import generate_operators
    import generate_options
    import generate_steps
finally:
    sys.path.remove(str(DOCS))


def test_the_operator_reference_is_what_the_schemas_say():
    page = generate_operators.PAGE.read_text("utf-8")
    assert generate_operators.written(page) == page, "run python docs/generate_operators.py"
    stale = page.replace("N-, the number", "the number")
    assert stale != page and generate_operators.written(stale) == page
    with pytest.raises(ValueError, match="<!-- schema: ScaleFire -->"):
        generate_operators.written(page.replace("<!-- schema: ScaleFire -->", ""))


def test_the_passes_of_the_front_end_are_those_that_it_runs():
    page = generate_steps.PAGE.read_text("utf-8")
    assert generate_steps.written(page) == page, "run python docs/generate_steps.py"
    stale = page.replace("| `recognise` |", "| `guess` |")
    assert stale != page and generate_steps.written(stale) == page
    with pytest.raises(ValueError, match="<!-- end of passes -->"):
        generate_steps.written(page.replace("<!-- end of passes -->", ""))


def test_the_options_in_the_readme_are_those_of_the_compiler():
    page = generate_options.PAGE.read_text("utf-8")
    assert generate_options.written(page) == page, "run python docs/generate_options.py"
    stale = page.replace("| `--levels N` |", "| `--level N` |")
    assert stale != page and generate_options.written(stale) == page
    with pytest.raises(ValueError, match="once each"):
        generate_options.written(page.replace("<!-- end of options -->", ""))


def anchors(page):
    """As both the code hosting site and mkdocs make them of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in headings]
    return {re.sub(r"\s", "-", heading) for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.is_file(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}"


def test_every_page_is_in_the_navigation():
    text = (REPOSITORY / "mkdocs.yml").read_text("utf-8")
    listed = re.findall(r"- (\S+\.md)$", text, re.MULTILINE)
    assert sorted(listed) == sorted(page.name for page in DOCS.glob("*.md"))


def test_the_examples_in_python_run_as_they_stand(tmp_path, monkeypatch):
    (tmp_path / "models").symlink_to(REPOSITORY / "models")
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "python.md").read_text("utf-8")
    examples = doctest.DocTestParser().get_doctest(text, {}, "python.md", None, None)
    assert len(examples.examples) > 10
    results = doctest.DocTestRunner().run(examples)
    assert results.failed == 0
    assert (tmp_path / "digits_snn.onnx").is_file()


def test_every_name_of_the_package_is_documented():
    text = (DOCS / "python.md").read_text("utf-8")
    assert [name for name in snn_compile.__all__ if f"`{name}`" not in text] == []
