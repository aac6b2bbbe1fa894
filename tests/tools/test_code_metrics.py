"""Numbers counted by hand on small trees, and the import graph against grimp's on the real one."""

import json
from pathlib import Path

import grimp
import pytest

from tools.code_metrics import WORDS, circles, has_shape, import_graph, main, measure, table

SRC = Path(__file__).parents[2] / "src" / "counterview"


def tree(root: Path, **files: str) -> Path:
    """A package ``root/house``: module names (``__`` for a dot) to their texts. Folders get an ``__init__.py``."""
    house = root / "house"
    for name, text in {"": "", **files}.items():
        path = house.joinpath(*name.split("__")) if name else house / "__init__"
        path = path.with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for folder in {path.parent for path in house.rglob("*.py")}:
        (folder / "__init__.py").touch()
    return house


FUNCTIONS = '''
from typing import overload


def documented():
    """Something.

    >>> documented()
    >>> documented()
    """
    def nested():
        """Not counted, >>> no example."""


def bare(a, *, b: int) -> int:
    # >>> not a docstring
    return b


def _private():
    """>>> private"""


class Public:
    """A class.

    >>> Public()
    """

    def method(self, a: int, *rest: str, **more: float) -> None:
        """Typed, and documented."""

    @staticmethod
    def static(a) -> None:
        """The first parameter is a parameter."""

    @property
    def value(self) -> int:
        return 1

    @value.setter
    def value(self, new):
        """A setter is the same name again."""

    def __len__(self):
        return 0

    def _private(self): ...

    class Inner:
        def inner(self): ...


class _Hidden:
    def method(self): ...


@overload
def twice(a: int) -> int: ...
@overload
def twice(a: str) -> str: ...
def twice(a: int | str) -> int | str:
    return a


if True:
    async def under_if(a) -> None: ...
else:
    def under_if(a) -> None: ...
'''


def test_public_functions_and_methods_are_counted_once_each(tmp_path):
    metrics = measure(tree(tmp_path, a=FUNCTIONS, _b="def hidden(): ...", c___d="def hidden(): ..."))
    names = {f.name: f for f in metrics.functions}
    assert list(names) == [
        f"house.a.{name}"
        for name in (
            "documented",
            "bare",
            "Public.method",
            "Public.static",
            "Public.value",
            "twice",
            "under_if",
        )
    ]
    assert [n for n, f in names.items() if f.documented] == [
        "house.a.documented",
        "house.a.Public.method",
        "house.a.Public.static",
    ]
    # bare and static have a parameter without a type, documented no result, under_if's first definition no type
    assert [n for n, f in names.items() if f.typed] == [
        "house.a.Public.method",
        "house.a.Public.value",
        "house.a.twice",
    ]
    assert metrics.examples == ["house.a.documented", "house.a.Public"]
    assert not any(f.arrays for f in metrics.functions)


def test_arrays_are_found_through_aliases_and_imports(tmp_path):
    types = "F64 = NDArray[np.float64]\nPair: TypeAlias = tuple[F64, F64]\nSIZE = max(1, 2)\nObjectMask = list[int]\n"
    uses = '''
from house.types import F64 as Floats, ObjectMask
from .types import Pair
from .types import SIZE

def direct(a: np.ndarray) -> None:
    """``(N, 4)`` boxes."""
def tensor(a: int) -> "torch.Tensor | None":
    """No shape."""
def image(a: dict[str, RgbImage]) -> None: ...
def boolean(a: BoolImage | None = None) -> None: ...
def alias(a: Floats) -> None: ...
def alias_of_alias() -> Pair: ...
def keyword(*, a: Callable[[Tensor], int]) -> None: ...
def rest(*a: Tensor) -> None: ...
def masks(a: list[ObjectMask], b: SIZE) -> None:
    """``(N, 4)``, but no array."""
def inside(a: int) -> None:
    x: Tensor = a
'''
    metrics = measure(tree(tmp_path, types=types, uses=uses))
    arrays = [f.name.rpartition(".")[2] for f in metrics.functions if f.arrays]
    assert arrays == ["direct", "tensor", "image", "boolean", "alias", "alias_of_alias", "keyword", "rest"]
    assert metrics.rows()["… with arrays"] == "8"
    assert metrics.rows()["… with arrays, shape in the docstring"] == "1 (12.5 %)"


@pytest.mark.parametrize(
    "text",
    [
        "Boxes (N, 4).",
        "An image (H, W, 3) and more",
        "``(B, Q, E)``",
        "weights ``(N,)``",
        "``pairs (B, Q, N, 14)`` and more",
        "``(B, h * w, 2C)``",
        "``(H', W')``",
        "``(T - 1, N, ..., C)``",
        "``(length,)``",
        "``(world_size, ...)``",
        "``(len(query), len(target))``",
        "``(width, height)``",
        "rotation (3, 3)",
        "pixels (H * W,)",
        "a scalar, ``()``",
    ],
)
def test_shapes(text):
    assert has_shape(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "No tuple.",
        "(SAM 2, section 4)",
        "(Platt, 1999)",
        "(1999)",
        "(N)",
        "from (0, 1)",
        "in ``(0, 1)``",
        "the point ``(x, y)``",
        "``(loss, parts)``",
        "``hypot(480, 480)``",
        "``take(N, 4)``",
        "(TypeError, ValueError)",
        "``a`` and (x, y) or ``b``",
        "``a`` () ``b``",
    ],
)
def test_what_is_not_a_shape(text):
    assert not has_shape(text)


def test_files_packages_and_lines(tmp_path):
    house = tree(tmp_path, a="1\n" * 10, b__c="1\n" * 7 + "1", b__d="1\n")
    (house / "notes.txt").write_text("1\n" * 99)
    metrics = measure(house)
    assert (metrics.files, metrics.packages) == (5, 2)
    assert metrics.median_lines == 1  # 0, 0, 1, 8, 10
    assert (metrics.largest_lines, metrics.largest_file) == (10, "a.py")


def test_duplicate_classes(tmp_path):
    files = {"a": "class A: ...\nclass B: ...", "b__c": "class A: ...\nclass Aa: ...", "d": "def A(): ...\nB = 1"}
    assert measure(tree(tmp_path, **files)).duplicate_classes == {"A": ["house.a", "house.b.c"]}
    twice = measure(tree(tmp_path / "twice", a="class A:\n    class A: ..."))
    assert twice.duplicate_classes == {"A": ["house.a", "house.a"]}


def test_imports_count_in_functions_and_not_for_type_checkers(tmp_path):
    house = tree(
        tmp_path,
        a="def f():\n    import house.b\n    import numpy\n",
        b="from house import c\nfrom house.d.e import name\n",
        c="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import house.a\nelse:\n    import house.d\n",
        d__e="from . import g\nfrom .. import b\nfrom ..c import x\n",
        d__f='TABLE = {"A": "house.a"}\n',
        d__g="try:\n    from .f import x\nexcept ImportError:\n    pass\n",
    )
    assert import_graph(house) == {
        "house": set(),
        "house.a": {"house.b"},
        "house.b": {"house.c", "house.d.e"},
        "house.c": {"house.d"},
        "house.d": set(),
        "house.d.e": {"house.d.g", "house.b", "house.c"},
        "house.d.f": set(),
        "house.d.g": {"house.d.f"},
    }
    metrics = measure(house)
    assert metrics.module_circles == [["house.b", "house.d.e"]]
    assert metrics.package_circles == [["house.b", "house.c", "house.d"]]


def test_circles_of_packages_are_those_of_folders_side_by_side(tmp_path):
    house = tree(
        tmp_path,
        a__x="import house.b.y",  # a -> b by x, b -> a by z: no circle of modules
        a__w="",
        b__y="",
        b__z="import house.a.w",
        c__top="import house.c.d.low",  # c and its own folder c.d are not two packages
        c__base="",
        c__d__low="import house.c.base",
        c__e__one="import house.c.f.one",  # but two folders of c are
        c__e__two="",
        c__f__one="",
        c__f__two="import house.c.e.two",
    )
    metrics = measure(house)
    assert metrics.module_circles == []
    assert metrics.package_circles == [["house.a", "house.b"], ["house.c.e", "house.c.f"]]


@pytest.mark.parametrize(
    ("graph", "groups"),
    [
        ({}, []),
        ({"a": ["b"], "b": ["c"], "c": []}, []),
        ({"a": ["a"]}, []),
        ({"a": ["b"], "b": ["a"]}, [["a", "b"]]),
        (
            {"c": ["a"], "a": ["b"], "b": ["c"], "d": ["a", "e"], "e": ["d", "f"], "f": []},
            [["a", "b", "c"], ["d", "e"]],
        ),
        ({"a": ["b", "d"], "b": ["c"], "c": ["b"], "d": ["c"]}, [["b", "c"]]),
        ({str(i): [str(i + 1)] for i in range(5000)} | {"5000": ["0"]}, [sorted(map(str, range(5001)))]),
    ],
)
def test_strongly_connected_groups(graph, groups):
    assert circles(graph) == groups


def test_the_import_graph_of_the_real_tree_is_grimps():
    other = grimp.build_graph("counterview", exclude_type_checking_imports=True, cache_dir=None)
    ours = import_graph(SRC)
    assert {module: other.find_modules_directly_imported_by(module) for module in other.modules} == ours
    assert len(ours) > 150


def test_words_are_counted_across_lines_names_and_case(tmp_path):
    text = '''
"""A Picture, two pictures, a depicture; close-ups, close up.

It cannot be
had. This is no mask; it is no longer, is not; whole
# numbers."""
# The number
# type of a whole number; nobody looked  at it.
from x import CloseUp, close_up, picture_of, pictureless
import counterview as cv
import counterview as cvs
'''
    counts = measure(tree(tmp_path, a=text)).words
    assert counts == {
        "picture(s)": 3,
        "close-up(s)": 4,
        "cannot be had": 1,
        "is no X": 1,
        "whole number(s)": 2,
        "number type": 1,
        "looked at": 1,
        "flat picture": 0,
        "import counterview as cv": 1,
    }
    assert list(counts) == list(WORDS)


def test_the_table_compares_two_trees(tmp_path, capsys):
    before = tree(tmp_path / "before", a="def f(a): ...\n")
    after = tree(tmp_path / "after", a='def f(a: int) -> int:\n    """F."""\n', b="import house.c", c="import house.b")
    assert main([str(after), "--compare", str(before)]) == 0
    out = capsys.readouterr().out
    lines = {cells[0]: cells[1:] for line in out.splitlines() if (cells := [c.strip() for c in line.split("|")[1:-1]])}
    assert lines[""] == [str(before), str(after)]
    assert lines["files"] == ["2", "4"]
    assert lines["… with a docstring"] == ["0 (0.0 %)", "1 (100.0 %)"]
    assert lines["… fully typed"] == ["0 (0.0 %)", "1 (100.0 %)"]
    assert lines["import circles between modules"] == ["0", "1 (2 in them)"]
    assert "circle of modules: house.b, house.c" in out
    widths = {len(line) for line in table({"x": measure(after)}).splitlines()}
    assert len(widths) == 1

    assert main([str(after), "--json"]) == 0
    (values,) = json.loads(capsys.readouterr().out)
    assert (values["files"], values["functions"], values["functions_typed"]) == (4, 1, 1)
    assert values["module_circles"] == [["house.b", "house.c"]]


def test_a_folder_without_init_is_an_error(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "not a package" in capsys.readouterr().err
    assert main([str(tree(tmp_path, a="def"))]) == 2
