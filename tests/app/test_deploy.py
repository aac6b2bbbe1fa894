"""The Space and the container start the page with options that it has."""

import re
import runpy
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from counterview.cli.main import app

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def parsed(arguments: list[str]) -> dict:
    """The options of ``counterview serve`` as it would read them; fails for one that it has not."""
    command = typer.main.get_command(app).commands["serve"]
    return command.make_context("serve", list(arguments)).params


def test_the_space():
    header = yaml.safe_load((DEPLOY / "space" / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert header["sdk"] == "gradio"
    assert (DEPLOY / "space" / header["app_file"]).is_file()
    assert len(header["short_description"]) <= 60, "the Hub refuses longer ones"
    needed = next(Requirement(text).specifier for text in PROJECT["optional-dependencies"]["app"])
    assert header["sdk_version"] in needed
    assert header["python_version"] in SpecifierSet(PROJECT["requires-python"])
    options = runpy.run_path(str(DEPLOY / "space" / "app.py"))["OPTIONS"]
    assert options[0] == "serve"
    read = parsed(options[1:])
    assert (read["host"], read["port"], read["keep"]) == ("0.0.0.0", 7860, 1800)
    lines = (DEPLOY / "space" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert Requirement(lines[-1]).extras == {"app"}


def test_the_container():
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    entry = next(line for line in lines if line.startswith("ENTRYPOINT "))
    command = yaml.safe_load(entry.removeprefix("ENTRYPOINT "))
    assert command[:2] == ["counterview", "serve"]
    assert parsed(command[2:])["host"] == "0.0.0.0"
    assert [line for line in lines if line.startswith("ARG ")] == ["ARG TORCH=cpu"], "one argument, for CUDA"
    assert lines.index("USER counterview") < lines.index(entry), "not as root"
    for line in lines:
        if line.startswith("COPY "):
            for source in shlex.split(line)[1:-1]:
                assert (ROOT / source).exists(), source
    version = re.search(r"FROM python:(3\.\d+)-", text)
    assert version is not None
    assert f"{version[1]}.0" in SpecifierSet(PROJECT["requires-python"])


def test_an_option_that_serve_has_not_would_be_found():
    with pytest.raises(Exception, match="--no-such"):
        parsed(["--no-such"])
