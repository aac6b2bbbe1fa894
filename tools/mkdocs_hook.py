"""What the site (``mkdocs.yml``) has beside the files of ``docs/``: pages made from the code, never stale.

* the command line reference, from the command line itself;
* the configuration reference, from the help texts of dataclass fields;
* an API page for each public package: whatever stands in ``__all__``, so modules may move;
* the notebooks as pages, from their committed outputs;
* the list of reports, from the files in ``docs/reports``.

mkdocs calls the functions that begin with ``on_``; mkdocstrings loads :class:`PlainDocstrings`.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import importlib
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "counterview"
if str(PACKAGE.parent) not in sys.path:
    sys.path.insert(0, str(PACKAGE.parent))

WITHOUT_EXPORTS = ("types", "errors", "config", "masks", "media")
"""Documented module by module, though they have no ``__all__``: what every other page refers to."""

TITLES = {
    "training": "The engine: `training` of every recipe",
    "omama": "O-MaMa",
    "lmeec": "LM-EEC",
    "tiny": "tiny-match and tiny-follow",
    "data": "Data of a recipe",
    "proposals": "Proposers",
    "features": "Features",
    "tabletop": "Tabletop",
    "geometry": "Geometry",
}
"""Headings of the configuration page, in this order; further packages follow by name."""


# ------------------------------------------------------------------------------------------------------ mkdocs calls


def on_config(config: Any) -> Any:
    """Fill the parts of the navigation that follow from files: API pages and reports."""
    api = [{name: f"reference/api/{name}.md"} for name in api_pages()]
    reports = sorted((ROOT / "docs" / "reports").glob("[0-9]*.md"), reverse=True)
    for section in config.nav:
        if "Reference" in section:
            section["Reference"] = [{"API": api} if "API" in item else item for item in section["Reference"]]
        if "Reports" in section:
            section["Reports"] += [{_title(path): f"reports/{path.name}"} for path in reports]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made from the code."""
    from mkdocs.structure.files import File

    made = {
        "reference/cli.md": command_line(),
        "reference/configuration.md": configuration(),
        **{f"reference/api/{name}.md": text for name, text in api_pages().items()},
    }
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        made[f"notebooks/{path.stem}.md"] = notebook(path)
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_content(text: str, **_: Any) -> str:
    """Turn roles of Sphinx (``:class:`~a.b.C```), which docstrings have, into links."""

    def link(match: re.Match[str]) -> str:
        label, target = match[1], match[1]
        if titled := re.fullmatch(r"(.+?)\s*&lt;(.+)&gt;", label, re.DOTALL):
            label, target = titled[1], titled[2]
        elif label.startswith("~"):
            label, target = label.rpartition(".")[2], label[1:]
        return f'<autoref optional identifier="{target.strip()}"><code>{label}</code></autoref>'

    return re.sub(r":(?:class|func|meth|mod|data|attr|exc|obj):<code>([^<]+)</code>", link, text)


class PlainDocstrings(griffe.Extension):
    """Docstrings as Markdown: examples (``>>>``) become code blocks, tables of RST become tables."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Rewrite every docstring of the package."""
        for item in _objects(pkg):
            if item.docstring is not None:
                item.docstring.value = _markdown(item.docstring.value)


# --------------------------------------------------------------------------------------------------- pages from code


def api_pages() -> dict[str, str]:
    """Text of an API page for each public package, by the package's name below ``counterview``."""
    pages = {}
    names = [p.name for p in PACKAGE.iterdir() if (p / "__init__.py").is_file()]
    for name in ["counterview", *sorted(names)]:
        full = name if name == "counterview" else f"counterview.{name}"
        exports = list(getattr(importlib.import_module(full), "__all__", []))
        members = [item for item in exports if not item.startswith("__")]
        if members:
            lines = "".join(f"        - {item}\n" for item in members)
            pages[name] = (
                f"# `{full}`\n\n::: {full}\n    options:\n      show_root_heading: false\n      members:\n{lines}"
            )
    for name in WITHOUT_EXPORTS:
        place = PACKAGE / name
        if name in pages:
            continue
        if place.is_dir():
            modules = sorted(p.stem for p in place.glob("*.py") if not p.stem.startswith("_"))
            parts = [f"counterview.{name}.{module}" for module in modules]
        else:
            parts = [f"counterview.{name}"]
        body = "\n".join(f"::: {part}\n    options:\n      show_root_full_path: true\n" for part in parts)
        pages[name] = f"# `counterview.{name}`\n\n{body}"
    return pages


def command_line() -> str:
    """The command line reference."""
    import typer

    from counterview.cli.main import app

    group: Any = typer.main.get_command(app)
    lines = [
        "# Command line",
        "",
        "Made from the commands' own help texts. `counterview COMMAND --help` prints the same.",
        "",
        "Exit codes: 0 done, 1 failed, 2 bad input, 130 stopped with Ctrl-C. Options before the command:",
        "",
        *_options(group),
        "",
    ]
    for name, command in group.commands.items():
        arguments = [p for p in command.params if p.param_type_name == "argument" and not getattr(p, "hidden", False)]
        usage = " ".join([_metavar(p) for p in arguments])
        lines += [
            f"## {name}",
            "",
            "```",
            f"counterview {name} {usage} [OPTIONS]".replace("  ", " "),
            "```",
            "",
            textwrap.dedent(command.help or "").strip(),
            "",
            *(["| argument | |\n|---|---|", *(f"| `{_metavar(p)}` | {_cell(p.help)} |" for p in arguments), ""]
              if arguments else []),
            *_options(command),
            "",
        ]  # fmt: skip
    return "\n".join(lines)


def configuration() -> str:
    """The configuration reference: every dataclass whose fields have a help text."""
    groups: dict[str, list[type]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if '"help":' not in path.read_text(encoding="utf-8"):
            continue
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        module = importlib.import_module(".".join(p for p in parts if p != "__init__"))
        for value in vars(module).values():
            is_own = isinstance(value, type) and value.__module__ == module.__name__
            if (
                is_own
                and dataclasses.is_dataclass(value)
                and any("help" in f.metadata for f in dataclasses.fields(value))
            ):
                groups.setdefault(parts[1], []).append(value)
    lines = [
        "# Configuration",
        "",
        "Made from the help texts of the configuration classes. A recipe is a YAML file: `method`, `training`, and "
        "the keys of the method's own recipe class (`OMaMaRecipe`, `LMEECRecipe`, …), each a class below. "
        "`key=value` on the command line of `counterview train` is laid over the file, `training.lr=1e-4` for "
        "instance. Unknown keys and values out of range are reported together.",
        "",
    ]
    for group in [*(g for g in TITLES if g in groups), *sorted(g for g in groups if g not in TITLES)]:
        lines += [f"## {TITLES.get(group, group.capitalize())}", ""]
        for cls in groups[group]:
            about = (cls.__doc__ or "").strip().partition("\n\n")[0].replace("\n", " ")
            lines += [f"### {cls.__name__} {{ #{cls.__module__}.{cls.__name__} }}", "", _roles(about), ""]
            lines += ["| key | default | meaning |", "|---|---|---|"]
            for field in dataclasses.fields(cls):
                if field.init:
                    former = field.metadata.get("formerly", ())
                    note = f" Earlier name: {', '.join(f'`{n}`' for n in former)}." if former else ""
                    text = field.metadata.get("help") or f"see `{field.type}` below or above"
                    lines.append(f"| `{field.name}` | {_default(field)} | {_cell(text)}{note} |")
            lines.append("")
    return "\n".join(lines)


def notebook(path: Path) -> str:
    """A notebook as Markdown, with the outputs that it was committed with."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines: list[str] = []
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            lines += [source, ""]
            if len(lines) == 2:
                lines += [f"This page is the notebook `docs/notebooks/{path.name}`: [download]({path.name}).", ""]
            continue
        lines += ["```python", source, "```", ""]
        for output in cell.get("outputs", []):
            lines += [*_output(output), ""]
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------------ helpers


def _title(path: Path) -> str:
    heading = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
    return f"{path.name[:10]}: {heading}"


def _options(command: Any) -> list[str]:
    options = [p for p in command.params if p.param_type_name == "option" and not getattr(p, "hidden", False)]
    lines = ["| option | default | |", "|---|---|---|"]
    for option in options:
        names = ", ".join(f"`{n}`" for n in option.opts)
        kind = "" if option.is_flag else f" `{_metavar(option)}`"
        if isinstance(option.show_default, str):
            default = f"`{option.show_default}`"
        elif option.required:
            default = "required"
        elif option.is_flag or option.default in (None, [], ()) or callable(option.default):
            default = ""
        else:
            default = f"`{option.default}`"
        more = " May be given several times." if option.multiple else ""
        lines.append(f"| {names}{kind} | {default} | {_cell(option.help)}{more} |")
    return lines


def _metavar(parameter: Any) -> str:
    if parameter.metavar:
        return str(parameter.metavar)
    if parameter.param_type_name == "argument":
        return str(parameter.name).upper()
    described = getattr(parameter, "type_descriptor", None)  # typer's own, where it no longer stands on click
    kind = str(parameter.type if described is None else described.annotation).lower()
    for part, name in (("path", "PATH"), ("int", "N"), ("float", "NUMBER")):
        if part in kind:
            return name
    return "TEXT"


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "required"
    if dataclasses.is_dataclass(value):
        return f"[{type(value).__name__}](#{type(value).__module__}.{type(value).__name__})"
    plain = list(value) if isinstance(value, tuple) else value
    return f"`{json.dumps(plain)}`"


def _cell(text: str | None) -> str:
    return html.escape(" ".join((text or "").split()), quote=False).replace("|", "\\|")


def _roles(text: str) -> str:
    return re.sub(r":\w+:(`+)~?(?:[\w.]+\.)?(\w+)\1", r"`\2`", text)


def _output(output: dict[str, Any]) -> Iterator[str]:
    if output["output_type"] == "stream":
        yield from ("```text", "".join(output["text"]).rstrip("\n"), "```")
        return
    data = output.get("data", {})
    for kind in ("image/jpeg", "image/png"):
        if kind in data:
            code = "".join(data[kind]).replace("\n", "")
            base64.b64decode(code, validate=True)
            yield f'<img alt="output" src="data:{kind};base64,{code}">'
            return
    if "text/plain" in data:
        yield from ("```text", "".join(data["text/plain"]), "```")


def _objects(item: Any) -> Iterator[Any]:
    yield item
    for member in item.members.values():
        if not member.is_alias:
            yield from _objects(member)


def _markdown(text: str) -> str:
    lines: list[str] = []
    in_example = in_table = False
    for line in text.splitlines():
        bare = line.lstrip()
        indent = line[: len(line) - len(bare)]
        if bare.startswith(">>>") and not in_example:
            in_example = True
            lines.append(f"{indent}```pycon")
            fence = indent
        if in_example and not bare:
            in_example = False
            lines.append(f"{fence}```")
        if re.fullmatch(r"=+(\s+=+)+", bare):  # the rule of a table of RST, of two columns
            if not in_table and lines and lines[-1].strip():
                lines.append("")
            if not in_table:
                lines += [f"{indent}| | |", f"{indent}|---|---|"]
            in_table = not in_table
            continue
        if in_table:
            name, _, value = bare.partition("  ")
            if name and line.startswith(indent) and not line.startswith(indent + " " * 8) and value:
                lines.append(f"{indent}| {name} | {value.strip()} |")
            else:  # a row that goes on
                lines[-1] = lines[-1].removesuffix(" |") + " " + bare + " |"
            continue
        lines.append(line)
    if in_example:
        lines.append(f"{fence}```")
    return "\n".join(lines)
