"""Examples in docstrings run, and Python in the pages compiles and names what is there."""

import ast
import doctest
import importlib
import importlib.util
import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "counterview"
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
FENCE = re.compile(
    r"^(?P<indent>[ \t]*)```(?:python|py)\b[^\n]*\n(?P<code>.*?)^(?P=indent)```[ \t]*$", re.MULTILINE | re.DOTALL
)


def module_of(path: Path) -> str:
    return ".".join(["counterview", *path.relative_to(SRC).with_suffix("").parts]).removesuffix(".__init__")


def documented(node: ast.AST, name: str) -> list[str]:
    """Names of everything in a module whose docstring has an example."""
    names = []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    if isinstance(node, kinds) and ">>>" in (ast.get_docstring(node) or ""):
        names.append(name)
    for child in ast.iter_child_nodes(node):
        names += documented(child, f"{name}.{child.name}" if isinstance(child, kinds[1:]) else name)
    return names


WITH_EXAMPLES = {
    module_of(path): names
    for path in sorted(SRC.rglob("*.py"))
    if (names := documented(ast.parse(path.read_text(encoding="utf-8")), module_of(path)))
}


def run(test: doctest.DocTest) -> str:
    """What an example printed wrongly; empty if all is right."""
    output: list[str] = []
    doctest.DocTestRunner(optionflags=OPTIONS, verbose=False).run(test, out=output.append)
    return "".join(output)


def test_there_are_examples():
    assert WITH_EXAMPLES


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tests = [test for test in doctest.DocTestFinder().find(importlib.import_module(name)) if test.examples]
    assert {test.name for test in tests} == set(WITH_EXAMPLES[name]), "an example that doctest does not find is not run"
    assert [failure for test in tests if (failure := run(test))] == []


def test_a_wrong_example_fails():
    right, wrong = (doctest.DocTestParser().get_doctest(f">>> 1 + 1\n{n}\n", {}, "sum", None, 0) for n in (2, 3))
    assert run(right) == ""
    assert "Expected:\n    3\nGot:\n    2" in run(wrong)


def blocks() -> list[tuple[str, str]]:
    """Every Python block of README and pages: where it is and its code, what is typed at a prompt taken out."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    listed = []
    for page in sorted(pages):
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            code = textwrap.dedent(match["code"])
            if ">>>" in code:
                code = "".join(example.source for example in doctest.DocTestParser().get_examples(code))
            listed.append((f"{page.relative_to(ROOT).as_posix()}:{text.count(chr(10), 0, match.start()) + 1}", code))
    return listed


@pytest.mark.parametrize(("where", "code"), blocks(), ids=lambda value: value if "\n" not in value else "code")
def test_python_in_the_pages_compiles_and_names_what_is_there(where, code):
    tree = ast.parse(code, where)
    modules = {"counterview": "counterview"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "counterview":
                    importlib.import_module(alias.name)
                    modules[alias.asname or "counterview"] = alias.name if alias.asname else "counterview"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "counterview":
            module = importlib.import_module(node.module or "")
            missing = [a.name for a in node.names if not hasattr(module, a.name) and not is_module(module, a.name)]
            assert missing == [], f"{where}: {node.module}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            module = importlib.import_module(modules[node.value.id])
            assert hasattr(module, node.attr) or is_module(module, node.attr), f"{where}: {ast.unparse(node)}"


def is_module(package, name: str) -> bool:
    return importlib.util.find_spec(f"{package.__name__}.{name}") is not None if hasattr(package, "__path__") else False


def test_the_readme_has_python_in_it():
    assert sum(where.startswith("README.md:") for where, _ in blocks()) >= 2
