"""Writes the parts of docs/operators.md that the operators' schemas say.

    python docs/generate_operators.py

Per operator, between its markers, the schema's documentation and the table of its inputs, output
and attributes. What stands outside of the markers is written by hand.

    <!-- schema: NAME -->
    ... replaced ...
    <!-- end: NAME -->
"""

from __future__ import annotations

import re
from pathlib import Path

import onnx
from onnx.defs import OpSchema, get_schema
from snn_compile.runtime_ops.definition import DOMAIN
from snn_compile.runtime_ops.operators import OPERATORS, register_schemas

PAGE = Path(__file__).parent / "operators.md"


def described(schema: OpSchema) -> str:
    """An operator as Markdown."""
    title, text = schema.doc.split("\n", 1)  # what follows has a title of its own
    lines = [
        text.strip() or title,
        "",
        "| name | type | default | meaning |",
        "| --- | --- | --- | --- |",
    ]
    values = [("input", schema.inputs), ("output", schema.outputs)]
    for kind, parameters in values:
        for parameter in parameters:
            meaning = _cell(parameter.description)
            lines.append(f"| {parameter.name} ({kind}) | {parameter.type_str} | | {meaning} |")
    for name, attribute in sorted(schema.attributes.items()):
        kind = attribute.type.name.lower()
        default = onnx.helper.get_attribute_value(attribute.default_value)
        lines.append(f"| `{name}` | {kind} | {default:g} | {_cell(attribute.description)} |")
    types = "; ".join(
        f"{constraint.type_param_str}: {', '.join(sorted(constraint.allowed_type_strs))}"
        for constraint in schema.type_constraints
    )
    return "\n".join(
        [*lines, "", f"Domain `{schema.domain}`, version {schema.since_version}. {types}."]
    )


def written(page: str) -> str:
    """The page with every operator as its schema is now.

    Raises:
        ValueError: the page does not have the markers of an operator once each, in order.
    """
    register_schemas()
    for operator in OPERATORS:
        begin, end = f"<!-- schema: {operator.name} -->", f"<!-- end: {operator.name} -->"
        found = re.findall(re.escape(begin) + ".*?" + re.escape(end), page, re.DOTALL)
        if len(found) != 1 or page.count(begin) != 1 or page.count(end) != 1:
            raise ValueError(f"the page needs {begin} and {end}, once each")
        block = described(get_schema(operator.name, 1, DOMAIN))
        page = page.replace(found[0], f"{begin}\n{block}\n{end}")
    return page


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
