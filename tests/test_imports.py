"""No two modules, and no two packages, import each other, directly or through others.

Imports inside functions count: they postpone a circle, they do not remove it. Imports for type checkers alone do not
count, nor does the lazy public API, whose ``__init__`` files name their modules in tables.
"""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
Graph = dict[str, set[str]]


def modules() -> dict[str, Path]:
    paths = {".".join(p.relative_to(SRC).with_suffix("").parts): p for p in SRC.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in paths.items()}


def runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield child
            yield from runtime_nodes(child)


def module_graph(paths: dict[str, Path]) -> Graph:
    graph: Graph = {}
    for name, path in paths.items():
        imported: set[str] = set()
        for node in runtime_nodes(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name}: relative import"
                # "from package import name" imports the module of that name, if it is one.
                targets = (f"{node.module}.{alias.name}" for alias in node.names)
                imported |= {target if target in paths else str(node.module) for target in targets}
            elif isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
        graph[name] = {target for target in imported if target in paths and target != name}
    return graph


def package_of(module: str) -> str:
    """``counterview.data.formats.release`` to ``counterview.data``; a top-level module is its own package."""
    return ".".join(module.split(".")[:2])


def package_graph(graph: Graph) -> Graph:
    packages: Graph = {}
    for module, imported in graph.items():
        package = package_of(module)
        packages.setdefault(package, set()).update(package_of(target) for target in imported)
        packages[package].discard(package)
    return packages


def circle(graph: Graph) -> list[str] | None:
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return None


def test_no_modules_import_each_other() -> None:
    graph = module_graph(modules())
    assert len(graph) > 200
    assert sum(map(len, graph.values())) > 500
    assert circle(graph) is None


def test_no_packages_import_each_other() -> None:
    graph = package_graph(module_graph(modules()))
    assert {"counterview.data", "counterview.masks", "counterview.types", "counterview.cli"} <= set(graph)
    assert circle(graph) is None


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ("import counterview.a", True),
        ("def f():\n    from counterview import a", True),
        ("from counterview.a import x", True),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import counterview.a", False),
        ("import math", False),
    ],
)
def test_a_circle_is_noticed(tmp_path: Path, second: str, expected: bool) -> None:
    (tmp_path / "a.py").write_text("from counterview.b import x")
    (tmp_path / "b.py").write_text(second)
    found = circle(module_graph({"counterview.a": tmp_path / "a.py", "counterview.b": tmp_path / "b.py"}))
    assert (found is not None) is expected
