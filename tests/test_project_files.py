"""Files that only a hosting site or a tool reads: they parse, and agree with pyproject.toml and the pages."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

import counterview
from counterview.cli.main import app

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def read(path: str | Path):
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def workflow():
    return read(".github/workflows/test.yml")


def versions_of_pyproject() -> list[str]:
    listed = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", c)]
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert listed == [f"3.{minor}" for minor in range(40) if f"3.{minor}.0" in allowed], "classifiers, requires-python"
    return listed


def test_the_matrix_has_every_python_and_system(workflow):
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == versions_of_pyproject()
    assert [os.partition("-")[0] for os in matrix["os"]] == ["ubuntu", "macos", "windows"]
    assert set(workflow[True]) == {"push", "pull_request"}  # YAML 1.1 reads "on" as true
    assert workflow["permissions"] == {"contents": "read"}
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py" + versions_of_pyproject()[0].replace(".", "")
    assert PYPROJECT["tool"]["mypy"]["python_version"] == versions_of_pyproject()[0]
    docs = [
        s["with"]["python-version"] for s in workflow["jobs"]["docs"]["steps"] if "setup-python" in s.get("uses", "")
    ]
    assert set(docs) <= set(versions_of_pyproject())


def test_the_workflow_runs_the_lines_of_the_pages(workflow):
    """What a user is told to type without make."""
    lines = [s["run"].replace("$BIN", ".venv/bin") for s in workflow["jobs"]["test"]["steps"] if "run" in s]
    pages = [
        line for page in ("README.md", "CONTRIBUTING.md") for line in (ROOT / page).read_text("utf-8").splitlines()
    ]
    documented = [line.partition("  #")[0].rstrip() for line in pages]
    assert [line for line in lines if line not in documented] == []
    assert lines[-1] == ".venv/bin/python -m pytest -n auto"


def test_the_workflow_checks_what_make_checks(workflow):
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nlint:")[2].partition("\n\n")[0]
    checks = [line.removeprefix("\t$(BIN)/") for line in recipe.splitlines()[1:]]
    assert len(checks) >= 4
    runs = [step.get("run", "") for step in workflow["jobs"]["test"]["steps"]]
    assert " && ".join(f"$BIN/{check}" for check in checks) in runs


def test_the_workflow_names_what_exists(workflow):
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/none@v0"))
            for extra in re.findall(r"\.\[([\w,]+)\]", step.get("run", "")):
                assert set(extra.split(",")) <= set(PROJECT["optional-dependencies"])
            for file in step.get("with", {}).get("cache-dependency-path", "").split():
                assert (ROOT / file).is_file()


def test_pre_commit_is_pinned_and_checks_what_make_checks():
    repos = {repo["repo"]: repo for repo in read(".pre-commit-config.yaml")["repos"]}
    hooks = {hook["id"]: hook for repo in repos.values() for hook in repo["hooks"]}
    assert {
        "ruff-check",
        "ruff-format",
        "mypy",
        "lint-imports",
        "check-added-large-files",
        "check-merge-conflict",
    } <= set(hooks)
    assert all(re.fullmatch(r"v\d+\.\d+\.\d+", repo["rev"]) for url, repo in repos.items() if url != "local")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for hook in repos["local"]["hooks"]:
        assert hook["language"] == "system"
        assert f"$(BIN)/{shlex.split(hook['entry'])[0]}\n" in makefile


def test_no_committed_file_is_larger_than_pre_commit_allows():
    hooks = {hook["id"]: hook for repo in read(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]}
    large = hooks["check-added-large-files"]
    limit_kb = int(large["args"][0].removeprefix("--maxkb="))
    folders = ["src", "tests", "docs", "benchmarks", "recipes", "tools", ".github"]
    files = [
        path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix != ".pyc"
    ]
    names = [path.relative_to(ROOT).as_posix() for path in files if path.stat().st_size > 1024 * limit_kb]
    assert [n for n in names if not re.search(large["exclude"], n) and not n.startswith("tests/data/")] == []


def test_there_are_three_forms():
    assert [path.stem for path in FORMS] == ["bug", "config", "feature", "question"]


@pytest.mark.parametrize("path", [path for path in FORMS if path.stem != "config"], ids=lambda path: path.stem)
def test_issue_forms(path):
    """The rules of GitHub's form schema that a form is refused for."""
    form = read(path)
    assert set(form) <= {"name", "description", "title", "labels", "assignees", "projects", "type", "body"}
    assert form["name"]
    assert form["description"]
    inputs = [item for item in form["body"] if item["type"] != "markdown"]
    assert inputs, "a form of text alone is refused"
    assert len({item["id"] for item in inputs}) == len(inputs)
    for item in form["body"]:
        assert item["type"] in {"markdown", "textarea", "input", "dropdown", "checkboxes"}
        assert item["attributes"]["value" if item["type"] == "markdown" else "label"]
        if item["type"] == "dropdown":
            assert len(set(item["attributes"]["options"])) == len(item["attributes"]["options"]) > 1
        if item["type"] == "checkboxes":
            assert all(option["label"] for option in item["attributes"]["options"])


def test_forms_and_templates_name_commands_that_exist():
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    files = [*FORMS, ROOT / ".github" / "pull_request_template.md"]
    commands_named = {
        word for path in files for word in re.findall(r"`counterview (\w+)", path.read_text(encoding="utf-8"))
    }
    assert "doctor" in commands_named
    assert commands_named <= commands
    options = next(i for i in read(".github/ISSUE_TEMPLATE/bug.yml")["body"] if i.get("id") == "part")["attributes"][
        "options"
    ]
    listed = {
        name for option in options for group in re.findall(r"\(([\w, ]+)\)", option) for name in group.split(", ")
    }
    assert len(listed) > 8
    assert listed <= commands


def test_the_pull_request_template_links_the_rules():
    text = (ROOT / ".github" / "pull_request_template.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (ROOT / ".github" / target).is_file()
    for path in re.findall(r"`([\w/]+\.\w+)`", text):
        assert (ROOT / path).is_file(), path
    assert text.count("- [ ] ") >= 8


def test_citation():
    citation = read("CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert citation["version"] == PROJECT["version"] == counterview.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation["repository-code"] == PROJECT["urls"]["Source"].partition("/tree/")[0]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    papers = [re.search(r"\d{4}\.\d{5}", reference["url"])[0] for reference in citation["references"]]
    assert len(papers) == 2
    assert set(papers) <= set(re.findall(r"\d{4}\.\d{5}", readme))
    for reference, paper in zip(citation["references"], papers, strict=True):
        assert reference["identifiers"] == [{"type": "other", "value": f"arXiv:{paper}"}]
        assert {"type", "title", "authors", "year"} <= set(reference)
