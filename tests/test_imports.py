"""How the product's modules lean on each other: one way, no circles, some things at one place."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
#: Each folder imports from those behind it alone.
FOLDERS = ("compiler", "passes", "runtime_ops")
MOST_ROOMS = 21


def dotted(path):
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {
    path: ast.parse(path.read_text("utf-8"))
    for folder in FOLDERS
    for path in sorted((REPOSITORY / folder).glob("**/*.py"))
}
MODULES = {dotted(path) for path in TREES}


def is_for_types_alone(statement):
    return isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING"


def imports_of(path, tree):
    """Names of the modules that a module imports, in functions too; relative ones in full."""
    waiting, found = [tree], set()
    while waiting:
        node = waiting.pop()
        if is_for_types_alone(node):
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(REPOSITORY).parts[: -node.level] if node.level else ()
            module = ".".join([*package, *([node.module] if node.module else [])])
            inside = {f"{module}.{alias.name}" for alias in node.names} & MODULES
            found |= inside or {module}
    return found


IMPORTS = {dotted(path): imports_of(path, tree) for path, tree in TREES.items()}


def room(module):
    """A top-level file or folder of one of the folders."""
    return ".".join(module.split(".")[:2])


def require_no_circle(leans_on):
    graphlib.TopologicalSorter(leans_on).prepare()


def test_imports_are_found_and_circles_refused():
    assert "passes.graph.graph" in IMPORTS["passes.graph.surgeon"]
    assert "passes.graph.network" in IMPORTS["compiler.running.expose"]
    assert "onnx_graphsurgeon" in IMPORTS["passes.graph.surgeon"]
    with pytest.raises(graphlib.CycleError):
        require_no_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})


def test_folders_import_one_way():
    for module, imported in IMPORTS.items():
        own = FOLDERS.index(module.split(".")[0])
        for name in imported:
            top = name.split(".")[0]
            assert top != "snn_compile", f"{module} imports {name}, imports here are relative"
            assert top not in FOLDERS[:own], f"{module} imports {name}"


def test_modules_import_without_circles():
    require_no_circle({module: imported & MODULES for module, imported in IMPORTS.items()})


def test_rooms_import_without_circles():
    rooms = {}
    for module, imported in IMPORTS.items():
        others = {room(name) for name in imported & MODULES}
        rooms.setdefault(room(module), set()).update(others - {room(module)})
    require_no_circle(rooms)


def test_the_compiler_has_few_rooms():
    no_rooms = ("__init__.py", "py.typed", "__pycache__")
    rooms = [path.name for path in (REPOSITORY / "compiler").iterdir() if path.name not in no_rooms]
    assert len(rooms) <= MOST_ROOMS, sorted(rooms)


def test_one_file_knows_the_graph_library():
    found = {
        module
        for module, imported in IMPORTS.items()
        if any(name.split(".")[0] == "onnx_graphsurgeon" for name in imported)
    }
    assert found == {"passes.graph.surgeon"}


def test_bodies_in_attributes_are_found_at_one_place():
    found = {
        dotted(path)
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("g", "graphs")
    }
    # The operators are below the passes and have a walk of their own.
    assert found == {"passes.graph.protos", "runtime_ops.definition"}
