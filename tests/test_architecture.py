"""What the tree promises about its shape: no circles, one name for one class, tests beside sources, a clean wheel."""

import ast
import sys
import zipfile
from collections import defaultdict
from pathlib import Path

import grimp
import pytest

from tools.code_metrics import circles, package_circles

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "counterview"
FILES = sorted(SRC.rglob("*.py"))
TESTS_OF = {"data": "data_egoexo"}  # tests/data holds files
NOT_OF_A_PACKAGE = {"attacks", "benchmarks", "docs", "end_to_end", "golden", "gpu", "tools"}


def module_of(path: Path) -> str:
    return ".".join(["counterview", *path.relative_to(SRC).with_suffix("").parts]).removesuffix(".__init__")


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """Each module and those it imports, also in functions; not those that only a type checker sees.

    What a package imports on first use (``counterview.lazy``) is named by strings and no part of this.
    """
    built = grimp.build_graph("counterview", exclude_type_checking_imports=True, cache_dir=None)
    return {module: built.find_modules_directly_imported_by(module) for module in built.modules}


@pytest.fixture(scope="module")
def packages() -> set[str]:
    return {module_of(path) for path in FILES if path.name == "__init__.py"}


def test_the_graph_holds_every_file(graph, packages):
    print(f"{len(graph)} modules, {len(packages)} packages, {sum(map(len, graph.values()))} imports")
    assert set(graph) == {module_of(path) for path in FILES}
    assert len(graph) > 150
    assert len(packages) > 20
    assert sum(map(len, graph.values())) > 800


def test_the_graph_holds_imports_in_functions(graph):
    inside = {
        (module_of(path), node.module)
        for path in FILES
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and (node.module or "").removesuffix(".__init__") in graph
    }
    plain = {
        (importer, name) for importer, name in inside if (SRC / Path(*name.split(".")[1:])).with_suffix(".py").exists()
    }
    assert len(plain) > 50
    assert {(importer, name) for importer, name in plain if name not in graph[importer]} == set()


def test_no_modules_import_each_other(graph):
    groups = circles(graph)
    assert groups == [], "modules that all reach one another:\n" + "\n".join(" ".join(names) for names in groups)


def test_no_packages_import_each_other(graph, packages):
    groups = package_circles(graph, packages)
    assert groups == [], "packages that all reach one another:\n" + "\n".join(" ".join(names) for names in groups)


def test_a_circle_would_be_found(graph, packages):
    """An import from the bottom to the top closes a circle; one from masks to data a circle of packages."""
    upward = {**graph, "counterview.errors": {*graph["counterview.errors"], "counterview.cli.main"}}
    assert any({"counterview.errors", "counterview.cli.main"} <= set(names) for names in circles(upward))
    downward = {**graph, "counterview.masks.png": {*graph["counterview.masks.png"], "counterview.data"}}
    assert any({"counterview.masks", "counterview.data"} <= set(names) for names in package_circles(downward, packages))


def test_each_class_name_is_defined_once():
    where = defaultdict(list)
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                where[node.name].append(module_of(path))
    assert len(where) > 200
    assert {name: modules for name, modules in where.items() if len(modules) > 1} == {}


def test_nothing_is_deeper_than_package_area_file():
    assert [module_of(path) for path in FILES if len(path.relative_to(SRC).parts) > 3] == []


def test_every_package_has_a_folder_of_tests_and_every_folder_a_package():
    rooms = {path.parent.name for path in SRC.glob("*/__init__.py")}
    folders = {path.parent.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").glob("*/**/test_*.py")}
    assert len(rooms) > 12
    assert {room for room in rooms if TESTS_OF.get(room, room) not in folders} == set(), "packages without tests"
    assert folders - NOT_OF_A_PACKAGE == {TESTS_OF.get(room, room) for room in rooms}, "tests without a package"


def test_every_folder_with_modules_is_a_package():
    assert {path.parent for path in FILES if not (path.parent / "__init__.py").exists()} == set()


def test_the_library_imports_nothing_of_the_maintainers():
    imported = defaultdict(set)
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
            )
            if isinstance(node, ast.Import | ast.ImportFrom):
                for name in names:
                    imported[name.partition(".")[0]].add(module_of(path))
    assert {"numpy", "torch", "counterview"} <= set(imported)
    assert {name: imported[name] for name in ("tools", "tests", "benchmarks") if name in imported} == {}


@pytest.mark.skipif(sys.platform == "win32", reason="the list of files is the same everywhere; built once")
def test_the_wheel_holds_the_package_and_its_recipes_and_nothing_of_the_maintainers(tmp_path):
    """A wheel as ``pip`` would build it."""
    from hatchling.builders.wheel import WheelBuilder

    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    names = set(zipfile.ZipFile(wheel).namelist())
    print(f"{len(names)} files, {Path(wheel).stat().st_size / 1e6:.1f} MB")

    assert {name.split("/")[0].partition("-")[0] for name in names} == {"counterview"}
    inside = {name.removeprefix("counterview/") for name in names if name.startswith("counterview/")}
    sources = {path.relative_to(SRC).as_posix() for path in FILES}
    recipes = {path.relative_to(ROOT).as_posix() for path in (ROOT / "recipes").rglob("*.yaml")}
    assert {name for name in inside if name.endswith(".py")} == sources
    assert {name for name in inside if name.startswith("recipes/")} == recipes
    assert len(recipes) > 40
    assert not {name.split("/")[0] for name in inside} & {"tools", "tests", "benchmarks", "docs"}
    endings = {Path(name).suffix for name in inside if not name.startswith("assets/")}
    assert endings <= {".py", ".typed", ".yaml"}, "files of another kind belong in assets"
    assert "py.typed" in inside
    assert Path(wheel).stat().st_size < 25_000_000
