"""Count what the source tree promises: docstrings, shapes, types, examples, sizes, import circles, words.

::

    python -m tools.code_metrics [ROOT] [--json] [--compare OTHER_ROOT]

ROOT is the folder of a package (``src/counterview`` unless given). Nothing is imported: files are parsed, so that any
state of the tree can be counted, with the standard library alone. ``--compare`` adds a column for another tree.

What is counted:

- A public function or method has a name without a leading underscore, in modules (and a class) without one. Functions
  in functions and classes in classes are left out, and so are overloads and setters.
- It takes or returns arrays if an annotation names one of :data:`ARRAY_TYPES` or an alias of one
  (``F64 = NDArray[…]``), also an alias that is imported from another module of the tree.
- A shape is a tuple of sizes in the docstring, as in ``(N, 4)``; in double backticks sizes may be words and sums.
- An import counts wherever it stands, in functions too, but not below ``if TYPE_CHECKING``. Names that a package
  imports on first use are strings (``counterview.lazy``) and do not count.
- Words are counted in any case and inside of names: ``close_up`` and ``CloseUp`` are close-ups.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

ARRAY_TYPES = frozenset({"NDArray", "ndarray", "Tensor", "RgbImage", "BoolImage"})
WORDS = {
    "picture(s)": r"\bpictures?\b",
    "close-up(s)": r"\bclose[-\s]*ups?\b",
    "cannot be had": r"\bcannot be had\b",
    "is no X": r"\bis no (?!longer\b|more\b)\w",
    "whole number(s)": r"\bwhole numbers?\b",
    "number type": r"\bnumber types?\b",
    "looked at": r"\blooked at\b",
    "flat picture": r"\bflat pictures?\b",
    "import counterview as cv": r"\bimport counterview as cv\b",
}

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_SIZE = r"(?:len\(\w+\)|\d*[A-Za-z_]\w*'?|\d+|\.\.\.)"
_SIZES = rf"{_SIZE}(?:\s*[-+*/]{{1,2}}\s*{_SIZE})*"
_TUPLE = re.compile(rf"(?<!\w)\(({_SIZES}(?:\s*,\s*{_SIZES})*\s*,?)\)")
_PLAIN_SIZE = re.compile(r"\d*[A-Z]'?(?:\s*[-+*/]\s*\w+)*|\d+|\.\.\.")
_SIZE_WORD = re.compile(r"(?<![A-Za-z_])(?:\d|[A-Za-w](?![a-z_])|(?:width|height|size|side|count|len)\b)|\.\.\.")


@dataclass(frozen=True)
class Function:
    """A public function or method, and what it has."""

    name: str
    documented: bool
    arrays: bool
    shape: bool
    typed: bool


@dataclass
class Metrics:
    """What was counted in one tree."""

    root: str
    files: int = 0
    packages: int = 0
    functions: list[Function] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)
    """Names of public functions, methods and classes with at least one ``>>>`` in the docstring."""
    median_lines: float = 0.0
    largest_lines: int = 0
    largest_file: str = ""
    duplicate_classes: dict[str, list[str]] = field(default_factory=dict)
    """Class name to the modules that define it, of names that more than one module (or one twice) defines."""
    module_circles: list[list[str]] = field(default_factory=list)
    package_circles: list[list[str]] = field(default_factory=list)
    words: dict[str, int] = field(default_factory=dict)

    def rows(self) -> dict[str, str]:
        """The table: a label and a text for each row."""
        arrays = [f for f in self.functions if f.arrays]
        return {
            "files": str(self.files),
            "packages": str(self.packages),
            "public functions and methods": str(len(self.functions)),
            "… with a docstring": _share(sum(f.documented for f in self.functions), len(self.functions)),
            "… with arrays": str(len(arrays)),
            "… with arrays, shape in the docstring": _share(sum(f.shape for f in arrays), len(arrays)),
            "… fully typed": _share(sum(f.typed for f in self.functions), len(self.functions)),
            "calls with a `>>>` example": str(len(self.examples)),
            "median file, lines": f"{self.median_lines:g}",
            "largest file, lines": f"{self.largest_lines} ({self.largest_file})",
            "class names defined more than once": str(len(self.duplicate_classes)),
            "import circles between modules": _circles(self.module_circles),
            "import circles between packages": _circles(self.package_circles),
            **{f'"{word}"': str(count) for word, count in self.words.items()},
        }

    def as_json(self) -> dict[str, Any]:
        """Everything that the table shows, as numbers, and the names behind them."""
        arrays = [f for f in self.functions if f.arrays]
        return {
            "root": self.root,
            "files": self.files,
            "packages": self.packages,
            "functions": len(self.functions),
            "functions_documented": sum(f.documented for f in self.functions),
            "functions_with_arrays": len(arrays),
            "functions_with_arrays_and_shape": sum(f.shape for f in arrays),
            "functions_typed": sum(f.typed for f in self.functions),
            "undocumented": [f.name for f in self.functions if not f.documented],
            "without_shape": [f.name for f in arrays if not f.shape],
            "untyped": [f.name for f in self.functions if not f.typed],
            "examples": self.examples,
            "median_lines": self.median_lines,
            "largest_lines": self.largest_lines,
            "largest_file": self.largest_file,
            "duplicate_classes": self.duplicate_classes,
            "module_circles": self.module_circles,
            "package_circles": self.package_circles,
            "words": self.words,
        }


def _share(part: int, total: int) -> str:
    return f"{part} ({100 * part / total:.1f} %)" if total else "0"


def _circles(circles: Sequence[Sequence[str]]) -> str:
    return f"{len(circles)} ({sum(map(len, circles))} in them)" if circles else "0"


def measure(root: str | Path) -> Metrics:
    """Count everything in the package at ``root``.

    Raises:
        FileNotFoundError: there is no ``__init__.py`` at ``root``.
        SyntaxError: a file does not parse.
    """
    root = Path(root)
    if not (root / "__init__.py").is_file():
        raise FileNotFoundError(f"{root}: not a package; expected a folder with __init__.py")
    texts = {_module_name(root, path): (path, path.read_text(encoding="utf-8")) for path in sorted(root.rglob("*.py"))}
    trees = {name: ast.parse(text, str(path)) for name, (path, text) in texts.items()}
    packages = {name for name, (path, _) in texts.items() if path.name == "__init__.py"}
    metrics = Metrics(str(root), files=len(texts), packages=len(packages))

    aliases = _array_aliases(trees, packages)
    classes: dict[str, list[str]] = defaultdict(list)
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                classes[node.name].append(name)
        if not any(part.startswith("_") for part in name.split(".")):
            for full, definition, in_class in _public(tree.body, name):
                if ">>>" in (ast.get_docstring(definition) or ""):
                    metrics.examples.append(full)
                if not isinstance(definition, ast.ClassDef):
                    metrics.functions.append(_function(full, definition, in_class, aliases[name]))
    metrics.duplicate_classes = {name: where for name, where in sorted(classes.items()) if len(where) > 1}

    lines = {path.relative_to(root).as_posix(): len(text.splitlines()) for path, text in texts.values()}
    metrics.median_lines = statistics.median(lines.values())
    metrics.largest_file = max(lines, key=lambda file: lines[file])
    metrics.largest_lines = lines[metrics.largest_file]

    graph = import_graph(root)
    metrics.module_circles = circles(graph)
    metrics.package_circles = package_circles(graph, packages)
    spaced = [_spaced(text) for _, text in texts.values()]
    metrics.words = {word: sum(len(re.findall(pattern, text)) for text in spaced) for word, pattern in WORDS.items()}
    return metrics


def _module_name(root: Path, path: Path) -> str:
    parts = [root.name, *path.relative_to(root).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _spaced(text: str) -> str:
    """Lower case, names taken apart, one space between words (also where a comment or a docstring wraps)."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text).replace("_", " ").lower()
    return re.sub(r"\n?[ \t]*\n[ \t]*(?:#:? ?)?|[ \t]+", " ", apart)


# Functions and their docstrings


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module or class, also those under an ``if`` or ``try``."""
    for node in body:
        if isinstance(node, ast.If):
            yield from _statements([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            yield from _statements(
                [*node.body, *(s for h in node.handlers for s in h.body), *node.orelse, *node.finalbody]
            )
        else:
            yield node


def _public(body: Iterable[ast.stmt], prefix: str) -> Iterator[tuple[str, _Function | ast.ClassDef, bool]]:
    """Public classes, functions and methods of a module: full name, definition, whether it is a method."""
    functions = set()
    for node in _statements(body):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield f"{prefix}.{node.name}", node, False
            methods = set()
            for item in _statements(node.body):
                if _counts(item) and item.name not in methods:
                    methods.add(item.name)
                    yield f"{prefix}.{node.name}.{item.name}", item, True
        elif _counts(node) and node.name not in functions:
            functions.add(node.name)
            yield f"{prefix}.{node.name}", node, False


def _counts(node: ast.stmt) -> TypeGuard[_Function]:
    if not isinstance(node, _Function) or node.name.startswith("_"):
        return False
    return not any(ast.unparse(d).rpartition(".")[2] in {"overload", "setter", "deleter"} for d in node.decorator_list)


def _function(name: str, node: _Function, in_class: bool, aliases: set[str]) -> Function:
    args = node.args
    parameters = [*args.posonlyargs, *args.args]
    if in_class and not any(ast.unparse(d) == "staticmethod" for d in node.decorator_list):
        parameters = parameters[1:]  # self or cls
    parameters += [*args.kwonlyargs, *(a for a in (args.vararg, args.kwarg) if a)]
    annotations = [*(p.annotation for p in parameters), node.returns]
    docstring = ast.get_docstring(node) or ""
    return Function(
        name,
        documented=bool(docstring),
        arrays=any(a is not None and _names(a) & aliases for a in annotations),
        shape=has_shape(docstring),
        typed=all(a is not None for a in annotations),
    )


def has_shape(docstring: str) -> bool:
    """Whether a docstring names the shape of an array."""
    for number, part in enumerate(docstring.split("``")):
        quoted = number % 2 == 1
        if quoted and part == "()":
            return True
        if any(_is_shape(match[1], quoted) for match in _TUPLE.finditer(part)):
            return True
    return False


def _is_shape(text: str, quoted: bool) -> bool:
    """Whether a tuple is one of sizes: not a word, a point ``(x, y)``, an interval from 0 or two results."""
    sizes = [size.strip() for size in text.split(",")]
    if len(sizes) < 2 or sizes[0] == "0":
        return False
    named = [size for size in sizes if size]
    if not quoted:  # in prose only what cannot be read otherwise
        return all(_PLAIN_SIZE.fullmatch(size) for size in named)
    return len(named) == 1 or any(_SIZE_WORD.search(size) for size in named)


def _names(node: ast.AST) -> set[str]:
    """Names in an annotation, those in quotes too."""
    names = set()
    for item in ast.walk(node):
        if isinstance(item, ast.Name):
            names.add(item.id)
        elif isinstance(item, ast.Attribute):
            names.add(item.attr)
        elif isinstance(item, ast.Constant) and isinstance(item.value, str):
            names.update(re.findall(r"\w+", item.value))
    return names


def _array_aliases(trees: Mapping[str, ast.Module], packages: set[str]) -> dict[str, set[str]]:
    """Names that stand for arrays in each module: those of :data:`ARRAY_TYPES`, its aliases, and aliases it imports."""
    names = {module: set(ARRAY_TYPES) for module in trees}
    statements = {module: list(_statements(tree.body)) for module, tree in trees.items()}
    grown = True
    while grown:  # an alias may be made of an alias, in another module
        grown = False
        for module, body in statements.items():
            new = set()
            for node in body:
                if isinstance(node, ast.ImportFrom):
                    source = _absolute(node, module, packages)
                    new |= {a.asname or a.name for a in node.names if a.name in names.get(source, ())}
                elif (alias := _alias(node)) and _names(alias[1]) & names[module]:
                    new.add(alias[0])
            if not new <= names[module]:
                names[module] |= new
                grown = True
    return names


def _alias(node: ast.stmt) -> tuple[str, ast.expr] | None:
    """Name and value of ``Name = Type[...]``, ``Name: TypeAlias = ...`` or ``type Name = ...``."""
    target: ast.expr | None = None
    value: ast.expr | None = None
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target, value = node.targets[0], node.value
    elif isinstance(node, ast.AnnAssign) and "TypeAlias" in _names(node.annotation):
        target, value = node.target, node.value
    elif type(node).__name__ == "TypeAlias":  # Python 3.12 has a statement for it
        target, value = node.name, node.value  # type: ignore[attr-defined]
    if isinstance(target, ast.Name) and isinstance(value, ast.Name | ast.Attribute | ast.Subscript | ast.BinOp):
        return target.id, value
    return None


# Imports


def import_graph(root: str | Path) -> dict[str, set[str]]:
    """For each module of the package at ``root`` the modules of it that it imports, in functions too."""
    root = Path(root)
    paths = {_module_name(root, path): path for path in sorted(root.rglob("*.py"))}
    packages = {name for name, path in paths.items() if path.name == "__init__.py"}
    graph: dict[str, set[str]] = {}
    for module, path in paths.items():
        graph[module] = set()
        for node in _imports(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            else:
                source = _absolute(node, module, packages)
                submodules = [f"{source}.{alias.name}" for alias in node.names]
                targets = [full if full in paths else source for full in submodules]
            graph[module].update(target for target in targets if target in paths and target != module)
    return graph


def _imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports below a node that run: those for type checkers only are left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and ast.unparse(child.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            for other in child.orelse:
                yield from _imports(ast.Module([other], []))
        else:
            yield from _imports(child)


def _absolute(node: ast.ImportFrom, module: str, packages: set[str]) -> str:
    """The module that ``from … import`` names, relative ones made absolute."""
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    base = parts[: len(parts) - node.level + (module in packages)]
    return ".".join([*base, *([node.module] if node.module else [])])


def package_circles(graph: Mapping[str, set[str]], packages: set[str]) -> list[list[str]]:
    """Circles between packages: the outermost folders and modules of the tree, and the folders within each of them.

    A package and a folder of its own are not two packages: only folders side by side can be in a circle.
    """

    def joined(depth: int) -> dict[str, set[str]]:
        room = {module: ".".join(module.split(".")[:depth]) for module in graph}
        edges: dict[str, set[str]] = defaultdict(set)
        for module, imported in graph.items():
            for other in imported:
                a, b = room[module], room[other]
                if a != b and (depth == 2 or (a in packages and b in packages and _parent(a) == _parent(b))):
                    edges[a].add(b)
        return {name: edges[name] for name in set(room.values())}

    return sorted(circle for depth in (2, 3) for circle in circles(joined(depth)))


def _parent(module: str) -> str:
    return module.rpartition(".")[0]


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Groups of nodes that all reach one another, sorted: strongly connected components of more than one node."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()
    groups: list[list[str]] = []
    for start in sorted(graph):
        if start in index:
            continue
        work: list[tuple[str, Iterator[str]]] = [(start, iter(sorted(graph[start])))]
        index[start] = low[start] = len(index)
        stack.append(start)
        on_stack.add(start)
        while work:
            node, edges = work[-1]
            for other in edges:
                if other not in index:
                    index[other] = low[other] = len(index)
                    stack.append(other)
                    on_stack.add(other)
                    work.append((other, iter(sorted(graph.get(other, ())))))
                    break
                if other in on_stack:
                    low[node] = min(low[node], index[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    group: list[str] = []
                    while not group or group[-1] != node:
                        group.append(stack.pop())
                        on_stack.discard(group[-1])
                    if len(group) > 1:
                        groups.append(sorted(group))
    return sorted(groups)


# Output


def table(columns: Mapping[str, Metrics]) -> str:
    """A Markdown table with a column for each tree."""
    rows = {title: metrics.rows() for title, metrics in columns.items()}
    labels = list(next(iter(rows.values())))
    cells = [["", *rows], *([label, *(row[label] for row in rows.values())] for label in labels)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def details(metrics: Metrics) -> str:
    """The names behind the table: duplicate classes and circles."""
    lines = [f"class {name}: {', '.join(where)}" for name, where in metrics.duplicate_classes.items()]
    lines += [f"circle of modules: {', '.join(circle)}" for circle in metrics.module_circles]
    lines += [f"circle of packages: {', '.join(circle)}" for circle in metrics.package_circles]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.code_metrics", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", nargs="?", default="src/counterview", help="folder of a package")
    parser.add_argument("--json", action="store_true", help="numbers and names instead of a table")
    parser.add_argument("--compare", metavar="OTHER_ROOT", help="folder of another state of the package")
    options = parser.parse_args(arguments)
    roots = [*([options.compare] if options.compare else []), options.root]
    try:
        columns = {root: measure(root) for root in roots}
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps([metrics.as_json() for metrics in columns.values()], indent=2))
        return 0
    print(table(columns))
    for root, metrics in columns.items():
        if names := details(metrics):
            print(f"\n{root}\n{names}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
