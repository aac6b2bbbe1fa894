"""README and site: they build without a warning, and what they name exists.

Commands in code are held against the command line itself, ``python -m`` against the modules of this tree, recipes and
links against its files, and the walk-throughs run.
"""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted(DOCS.rglob("*.md"))]
MADE = re.compile(r"(reference/)?(cli|configuration)\.md|(reference/)?api/\w+\.md|notebooks/\w+\.md")
"""Pages that do not exist before the site is built."""

pages = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


def code_of(page: Path) -> list[str]:
    """Fenced lines, continued ones joined, and inline code."""
    text = page.read_text(encoding="utf-8")
    fenced = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in fenced for line in block.replace("\\\n", " ").splitlines()]
    without = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [*lines, *re.findall(r"`([^`\n]+)`", without)]


@pytest.fixture(scope="module")
def commands():
    """The options of each command, of the command line itself under an empty name."""
    import typer

    from counterview.cli.main import app

    group = typer.main.get_command(app)
    known = {"": group, **group.commands}
    return {name: {o for p in c.params for o in p.opts} | {"--help", "-h"} for name, c in known.items()}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site."""
    pytest.importorskip("mkdocs", reason='the site is not built: pip install -e ".[docs]"')
    pytest.importorskip("material", reason='the site is not built: pip install -e ".[docs]"')
    pytest.importorskip("mkdocstrings_handlers.python", reason='the site is not built: pip install -e ".[docs]"')
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert "WARNING" not in done.stderr, done.stderr[-4000:]
    return out


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_asks_nobody(site):
    made = {str(path.relative_to(site)) for path in site.rglob("*.html")}
    assert {"index.html", "reference/cli.html", "reference/configuration.html", "results.html"} <= made
    assert {"notebooks/match_two_images.html", "notebooks/train_and_score.html"} <= made
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(https?:[^"]+)"', text)
        assert loaded == [], f"{path.name} loads {loaded}"


@pytest.mark.slow
def test_the_site_has_every_export_option_and_key(site, commands):
    surface = (ROOT / "tests" / "data" / "public_api.txt").read_text().split()
    for full in surface:
        package, _, name = full.rpartition(".")
        if not name.startswith("__"):
            text = (site / "reference" / "api" / f"{package.rpartition('.')[2]}.html").read_text(encoding="utf-8")
            assert f'id="{full}"' in text, full
    text = (site / "reference" / "cli.html").read_text(encoding="utf-8")
    for name, options in commands.items():
        for option in (o for o in options - {"--help", "-h"} if o.startswith("-")):
            assert f"<code>{option}</code>" in text, f"{name} {option}"
    text = (site / "reference" / "configuration.html").read_text(encoding="utf-8")
    for key in ("max_steps", "cross_attention", "bank_size", "pool_size", "max_masks"):
        assert f"<code>{key}</code>" in text, key


@pages
def test_relative_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target) or target.startswith("#"):
            continue
        name = target.partition("#")[0]
        assert (page.parent / name).exists() or MADE.search(name), target


@pages
def test_commands_and_their_options_exist(page, commands):
    for line in code_of(page):
        for part in re.split(r"\||;|&&|\bdo\b", line):
            words = part.split("#")[0].strip()
            words = re.sub(r"^(\S*bin/|\$ ?|!|[A-Z_0-9]+=\S+ )", "", words)
            if not words.startswith("counterview "):
                continue
            try:
                _, *given = shlex.split(words)
            except ValueError:  # a line of text, not of shell
                continue
            name = next((w for w in given if not w.startswith("-")), "")
            if name in ("COMMAND", "…", "X"):
                continue
            assert name in commands, f"{part}: no such command"
            for word in given:
                if word.startswith("--"):
                    option = word.partition("=")[0]
                    assert option in commands[name] | commands[""], f"{part}: {name} has no {option}"


@pages
def test_modules_and_recipes_that_are_named_exist(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"-m ((?:counterview|benchmarks|tools)(?:\.\w+)+)", text):
        assert importlib.util.find_spec(name) is not None, name
    for name in re.findall(r"recipes/[\w*/.-]+\.yaml", text):
        assert list(ROOT.glob(name)), name
    for name in re.findall(r"`((?:src|tests|benchmarks|tools)/[\w/.-]+)`", text):
        assert (ROOT / name).exists(), name


@pages
def test_imports_of_code_on_the_page_work(page):
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for line in (line for block in blocks for line in block.splitlines()):
        if re.match(r"(from counterview\S* import [\w, ]+|import counterview)$", line.strip()):
            exec(line.strip(), {})


@pages
def test_opencv_keeps_its_alias(page):
    assert not re.search(r"import counterview as cv\b|\bcv\.load\(", page.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(DOCS.glob("how-to/add-a-*.md")), ids=lambda p: p.stem)
def test_walk_throughs_run(page):
    """All code of the page, from top to bottom, on the bundled pair."""
    import counterview
    from counterview.inference.examples import load_pair

    pair = load_pair()
    name = next(iter(pair.near.masks))
    values = {
        "query_image": pair.near.image, "query_mask": pair.near.masks[name], "target_image": pair.far.image,
        "truth": pair.far.masks[name], "prediction": pair.far.masks[name],
    }  # fmt: skip
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks
    module = type(sys)("walk_through")
    sys.modules["walk_through"] = module  # where dataclasses look up their annotations
    module.__dict__.update(values)
    for block in blocks:
        exec(compile(block, f"{page.name}", "exec"), module.__dict__)
    if "match" in module.__dict__:
        match = module.__dict__["match"]
        assert isinstance(match, counterview.Match)
        assert match.mask.shape == pair.far.image.shape[:2]


def test_bundled_images_of_the_readme_are_small():
    images = [DOCS / "images" / name for name in ("match.jpg", "follow.webp")]
    assert sum(path.stat().st_size for path in images) < 1_500_000


def test_contributing_names_every_package():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tree = re.search(r"```\nsrc/counterview/\n(.*?)```", text, re.DOTALL)[1]
    package = ROOT / "src" / "counterview"
    here = {p.name for p in package.iterdir() if (p / "__init__.py").is_file()}
    inner = {
        f"{p.parent.name}/{p.name}" for n in here for p in (package / n).iterdir() if (p / "__init__.py").is_file()
    }
    rows = {line.split()[0].rstrip("/"): line for line in tree.splitlines() if line.startswith("  ") and "/" in line}
    assert here <= set(rows), here - set(rows)
    for name in inner:
        outer, _, part = name.partition("/")
        assert f" {part}/" in rows[outer], name
