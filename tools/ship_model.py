"""Put a trained model among the bundled ones: half precision, hashes, model card.

::

    python -m tools.ship_model add tiny-follow runs/tiny-follow --recipe recipes/tabletop/tiny-follow.yaml \\
        --data "counterview tabletop …; counterview prepare …" --scores benchmarks/results/held_out.json
    python -m tools.ship_model card tiny-follow --scores benchmarks/results/held_out.json
    python -m tools.ship_model check [tiny-follow runs/tiny-follow]

``check NAME FOLDER`` tells whether the shipped files are what the training run in FOLDER left.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from counterview.config import nearest
from counterview.errors import CheckpointError, ConfigError, CounterviewError, InputError
from counterview.inference import bundled
from counterview.inference.zoo import TRACKERS, method_of
from counterview.media.files import atomic_write, read_json, sha256_file, write_json

BUDGET_BYTES = 20_000_000
"""All shipped models together."""
KEPT_VALUES = 512
"""Vectors of up to so many numbers stay in their own precision: calibration and norms cost no room."""
CARD, README = "card.json", "README.md"


def add(
    name: str, folder: Path, *, data: str = "", recipe: str = "", scores: Path | None = None, note: str = ""
) -> dict[str, Any]:
    """Convert a trained folder and put it among the shipped models.

    Args:
        name: one of :data:`counterview.inference.bundled.BUNDLED`.
        folder: of a training run, or of the model itself.
        data: what it was trained on, as the commands that make the data.
        recipe: the recipe's file, for the card.
        scores: results file of the held-out benchmark.
        note: a line for the card.

    Returns:
        What stands in ``card.json``.

    Raises:
        ConfigError: no such name.
        CheckpointError: the folder holds no model of the method that the name stands for, or weights that do not fit
            into half precision.
        InputError: the models would not fit into :data:`BUDGET_BYTES`; nothing is changed then.
    """
    if name not in bundled.BUNDLED:
        raise ConfigError(f"no model of the name {name!r} ships", fix=nearest(name, list(bundled.BUNDLED)).capitalize())
    run, model = (folder, folder / "model") if (folder / "model" / "config.json").is_file() else (None, folder)
    method = method_of(model)
    root = bundled.models_root()
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=f".{name}.") as temporary:
        aside = Path(temporary)
        facts = convert(model, aside)
        facts = {"name": name, "method": method, "data": data, "recipe": recipe, "note": note, **facts}
        facts |= run_facts(run) if run is not None else {}
        facts["held_out"] = held_out_scores(scores, name) if scores is not None else {}
        write_json(aside / CARD, facts)
        write_card(aside / README, facts)
        _check_loads(aside)
        others = sum(p.stat().st_size for n in bundled.BUNDLED if n != name for p in (root / n).glob("*"))
        size = sum(p.stat().st_size for p in aside.iterdir())
        if others + size > BUDGET_BYTES:
            raise InputError(
                "the shipped models would be too large",
                found=f"{(others + size) / 1e6:.1f} MB",
                expected=f"at most {BUDGET_BYTES / 1e6:.0f} MB",
                fix="Make the model smaller.",
            )
        target = root / name
        target.mkdir(exist_ok=True)
        for old in target.iterdir():
            old.unlink()
        for path in sorted(aside.iterdir()):
            path.replace(target / path.name)
    refresh_hashes()
    return facts


def convert(model: Path, out: Path) -> dict[str, Any]:
    """Write ``config.json`` and every ``.safetensors`` of a model folder into ``out``, in half precision.

    The same input gives the same bytes. Returns sizes and hashes, of what came in and of what went out.

    Raises:
        CheckpointError: weights that cannot be read, or are not finite in half precision.
    """
    import torch

    from counterview.nn.checkpoint import read_tensors, write_tensors

    write_json(out / "config.json", read_json(model / "config.json"))
    weights = sorted(model.glob("*.safetensors"))
    if not weights:
        raise CheckpointError("the weights are missing", path=model, expected="model.safetensors")
    count, before, after = 0, {}, {}
    for path in weights:
        state = read_tensors(path)
        small = {}
        for key, value in sorted(state.items()):
            half = value
            if value.is_floating_point() and not (value.ndim < 2 and value.numel() <= KEPT_VALUES):
                half = value.to(torch.float16)
            if value.is_floating_point() and not torch.isfinite(half).all():
                raise CheckpointError(f"{key!r} is not finite in half precision", path=path)
            small[key] = half.contiguous()
            count += value.numel() if value.is_floating_point() else 0
        write_tensors(out / path.name, small)
        before[path.name], after[path.name] = sha256_file(path), sha256_file(out / path.name)
    size = sum((out / name).stat().st_size for name in after)
    return {"parameters": count, "bytes": size, "trained_sha256": before, "shipped_sha256": after}


def run_facts(run: Path) -> dict[str, Any]:
    """What a training run tells of itself: recipe, seed, steps, seconds, machine, validation scores."""
    facts: dict[str, Any] = {}
    if (run / "result.json").is_file():
        result = read_json(run / "result.json")
        facts |= {"steps": result.get("steps"), "best_step": result.get("best_step")}
        facts["validation"] = result.get("metrics", {})
    states = sorted(run.glob("checkpoints/step_*/state/trainer.json"))
    if states:
        values = read_json(states[-1])
        facts |= {"settings": _names_only(values.get("recipe", {})), "environment": values.get("environment", {})}
        training = facts["settings"].get("training", {})
        facts["seed"] = training.get("seed")
        facts["seconds"] = _seconds(run, int(training.get("log_every") or 1))
    return facts


def _names_only(value: Any) -> Any:
    """The same values with absolute paths cut to their last name: a card says nothing of the machine's folders."""
    if isinstance(value, dict):
        return {k: _names_only(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_names_only(v) for v in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _seconds(run: Path, log_every: int) -> float | None:
    """Seconds of all logged steps and validations; a line stands for ``log_every`` steps."""
    total = 0.0
    for name, factor in (("train.csv", log_every), ("validation.csv", 1)):
        if (run / name).is_file():
            with (run / name).open(encoding="utf-8", newline="") as handle:
                values = [row.get("seconds") or "0" for row in csv.DictReader(handle)]
            total += factor * math.fsum(float(v) for v in values)
    return round(total, 1) or None


def held_out_scores(path: Path, name: str) -> dict[str, Any]:
    """The rows of a model in a results file of ``benchmarks.held_out``, by set.

    Raises:
        InputError: no such file, or no row of this model in it.
    """
    values = read_json(path)
    found: dict[str, Any] = {}
    for title, part in values.get("sets", {}).items() if isinstance(values, dict) else ():
        for table in ("candidates", "proposals"):
            row = part.get(table, {}).get("rows", {}).get(name)
            if row is not None:
                found.setdefault(title, {})[table] = row
    if not found:
        raise InputError(f"holds no scores of {name}", path=path, expected="a file of python -m benchmarks.held_out")
    return found


def refresh_hashes() -> dict[str, str]:
    """Write ``hashes.json`` anew from the files that are there."""
    root = bundled.models_root()
    listed = {
        f"{name}/{path.name}": sha256_file(path)
        for name in bundled.BUNDLED
        for path in sorted((root / name).glob("*"))
        if path.is_file() and not path.name.startswith(".")
    }
    write_json(root / bundled.HASHES, listed)
    return listed


def _check_loads(folder: Path) -> None:
    from counterview.inference.loading import load_source
    from counterview.inference.zoo import resolve

    load_source(resolve(folder), device="cpu")


# ------------------------------------------------------------------------------------------------------- card

_METHODS = {
    "omama": "O-MaMa (ICCV 2025, arXiv 2506.06026)",
    "tiny-match": "Counterview's own, around an O-MaMa head (ICCV 2025, arXiv 2506.06026)",
    "lmeec": "LM-EEC (NeurIPS 2025, arXiv 2510.11417)",
    "tiny-follow": "LM-EEC (NeurIPS 2025, arXiv 2510.11417) with Counterview's appearance prompt and convolutional "
    "image encoder",
}
_PARTS = {
    "tiny-match": """| part | whose |
|---|---|
| matching head: context descriptor, cross-attention, contrastive embedding | O-MaMa |
| features: object crops of 64 px beside a small map | Counterview |
| a plain colour histogram beside them | Counterview |
| descriptor weight 0.75: three quarters of the similarity is the descriptors' own cosine | Counterview |
| homographies between the views, from proposals of both images | Counterview |
| geometric re-ranker: weighs place against similarity, gives the visibility | Counterview |
| proposals: the `tiny` proposer | Counterview |""",
    "tiny-follow": """| part | whose |
|---|---|
| SAM 2's memory attention, mask decoder and memory encoder | SAM 2.1 (architecture; weights from scratch) |
| two memory banks, cross-view prompt, MV-MoE fusion, compression | LM-EEC |
| appearance prompt: fine features of the query object compared with every cell of the target | Counterview |
| convolutional image encoder, from-scratch initial weights, feature matching as a first loss | Counterview |""",
}
_USE = {
    "match": 'model = counterview.load("{name}")\nmatch = model.match(query_image, query_mask, target_image)[0]',
    "track": 'model = counterview.load("{name}")        # one pair of images; over a clip:\n'
    "session = model.session()\nresult = session.step(query_image, {{'mug': query_mask}}, target_image)['mug']",
}
_NOT_FOR = """It was trained on rendered tables alone, to have something that runs before real weights are fetched, and
to test the whole way. It is **not** for measuring the method (Ego-Exo4D is for that), not for people, hands or outdoor
scenes, and not for anything where a wrong answer does harm. Its scores are on rendered takes and say nothing of
Ego-Exo4D. On photographs expect less."""


def write_card(path: Path, facts: Mapping[str, Any]) -> None:
    """Write the model card."""
    rows = {
        "method": _METHODS[facts["method"]],
        "weights": f"{facts['parameters']:,}, half precision, {facts['bytes'] / 1e6:.1f} MB",
        "data": facts.get("data"),
        "recipe": facts.get("recipe"),
        "seed": facts.get("seed"),
        "steps": facts.get("steps"),
        "time": _duration(facts.get("seconds")),
        "machine": _machine(facts.get("environment") or {}),
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items() if value not in (None, ""))
    use = "track" if facts["method"] in TRACKERS else "match"
    parts = [
        f"---\nlibrary_name: counterview\nlicense: apache-2.0\ntags: [image-segmentation, cross-view-correspondence]\n"
        f"---\n# {facts['name']}\n\nShips inside [Counterview](https://github.com/counterview/counterview): "
        f"{bundled.BUNDLED[facts['name']]}, trained from scratch on rendered takes.",
        "```python\nimport counterview\n\n" + _USE[use].format(name=facts["name"]) + "\n```",
        f"| | |\n|---|---|\n{table}",
    ]
    if facts["method"] in _PARTS:
        parts.append(f"## Whose is what\n\n{_PARTS[facts['method']]}")
    if facts.get("ablation"):
        parts.append(_ablation(facts["ablation"]))
    if facts.get("note"):
        parts.append(str(facts["note"]))
    if facts.get("validation"):
        lines = "\n".join(f"| {k} | {v:.4g} |" for k, v in sorted(facts["validation"].items()))
        parts.append(f"## Scores\n\nValidation takes of the recipe, official protocol:\n\n| | |\n|---|---|\n{lines}")
    if facts.get("held_out"):
        parts.append(_held_out(facts["held_out"]))
    parts.append(f"## What it is not for\n\n{_NOT_FOR}")
    hashes = "\n".join(
        f"* `{name}`: `{facts['trained_sha256'][name]}` as trained, `{digest}` as shipped"
        for name, digest in facts["shipped_sha256"].items()
    )
    parts.append(f"## SHA-256\n\n{hashes}")
    with atomic_write(path, "w") as handle:
        handle.write("\n\n".join(parts) + "\n")


def _held_out(scores: Mapping[str, Any]) -> str:
    lines = ["| held-out takes | top-1 among true masks | IoU | LE | CA | BA |", "|---|---|---|---|---|---|"]
    for title, part in scores.items():
        accuracy = part.get("candidates", {}).get("accuracy", {}).get("value")
        found = part.get("proposals", {})
        cells = [accuracy, *(found.get(m, {}).get("value") for m in (
            "iou", "location_error", "contour_accuracy", "balanced_accuracy"))]  # fmt: skip
        lines.append("| " + " | ".join([title, *("-" if c is None else f"{c:.3f}" for c in cells)]) + " |")
    return "Rendered held-out takes, both directions (`python -m benchmarks.held_out`):\n\n" + "\n".join(lines)


def _ablation(sets: Mapping[str, Any]) -> str:
    text = (
        "## What each part is worth\n\nThe model without one part at a time, not trained again, on rendered held-out "
        "takes, official protocol, both directions, 95 % intervals over takes "
        "(`python -m benchmarks.tiny_match_ablation`):"
    )
    for title, part in sets.items():
        lines = [f"| {title}, {part['takes']} takes | IoU | IoU lost | balanced accuracy |", "|---|---|---|---|"]
        for row, values in part["rows"].items():
            cells = [
                "-" if None in values[m] else "{:.3f} ({:.3f}..{:.3f})".format(*values[m])
                for m in ("iou", "iou_lost", "balanced_accuracy")
            ]
            lines.append("| " + " | ".join([row, *cells]) + " |")
        text += "\n\n" + "\n".join(lines)
    return text


def _duration(seconds: Any) -> str | None:
    if not seconds:
        return None
    spent = f"{float(seconds) / 3600:.1f} hours" if seconds >= 3600 else f"{float(seconds) / 60:.0f} minutes"
    return f"{spent} of training and validation"


def _machine(environment: Mapping[str, Any]) -> str:
    keep = [f"{key} {environment[key]}" for key in ("device", "torch", "python") if environment.get(key)]
    return ", ".join(keep)


# ------------------------------------------------------------------------------------------------ command line


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m tools.ship_model``."""
    parser = argparse.ArgumentParser(
        "tools.ship_model", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add", help="put a trained folder among the shipped models")
    adding.add_argument("name")
    adding.add_argument("folder", type=Path)
    for option in ("data", "recipe", "note"):
        adding.add_argument(f"--{option}", default="")
    adding.add_argument("--scores", type=Path)
    card = commands.add_parser("card", help="write a model card anew")
    card.add_argument("name")
    card.add_argument("--scores", type=Path)
    card.add_argument("--note")
    card.add_argument("--ablation", type=Path)
    checking = commands.add_parser("check", help="verify hashes; with NAME FOLDER, that it was made from there")
    checking.add_argument("name", nargs="?")
    checking.add_argument("folder", type=Path, nargs="?")
    options = parser.parse_args(arguments)
    try:
        if options.command == "add":
            facts = add(
                options.name, options.folder, data=options.data, recipe=options.recipe, scores=options.scores,
                note=options.note,
            )  # fmt: skip
            _say(f"{options.name}: {facts['parameters']:,} weights, {facts['bytes'] / 1e6:.2f} MB")
        elif options.command == "card":
            _say(f"wrote {renew_card(options.name, options.scores, options.note, options.ablation)}")
        else:
            _say(check(options.name, options.folder))
    except CounterviewError as error:
        _say(f"shipped: {error}")
        return error.exit_code
    return 0


def renew_card(name: str, scores: Path | None = None, note: str | None = None, ablation: Path | None = None) -> Path:
    """Write ``config.json``, ``README.md`` and ``card.json`` of a bundled model again, in the current format.

    Args:
        name: of the model; its weights are not touched.
        scores: results file of the held-out benchmark.
        note: a line for the card.
        ablation: results file of ``benchmarks.tiny_match_ablation``.
    """
    folder = bundled.bundled_folder(name)
    facts = read_json(folder / CARD)
    facts["method"] = method_of(folder)
    write_json(folder / "config.json", current_config(folder))
    if ablation is not None:
        facts["ablation"] = read_json(ablation)["sets"]
    if scores is not None:
        facts["held_out"] = held_out_scores(scores, name)
    if note is not None:
        facts["note"] = note
    write_json(folder / CARD, facts)
    write_card(folder / README, facts)
    refresh_hashes()
    return folder / README


def current_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a model in the current format, every value spelled out."""
    from counterview.inference.loading import load_source
    from counterview.inference.zoo import Source

    predictor: Any = load_source(Source(folder.name, method_of(folder), folder), device="cpu")
    model = predictor.model if hasattr(predictor, "model") else predictor.matcher.model
    header: dict[str, Any] = model.header()
    return header


def check(name: str | None = None, folder: Path | None = None) -> str:
    """Verify every shipped file; with a name and a folder, that converting the folder gives the shipped weights.

    Raises:
        CheckpointError: a file is missing, damaged, or not what the folder gives.
    """
    for each in bundled.available():
        bundled.bundled_folder(each)
    if name is None or folder is None:
        total = sum((bundled.models_root() / file).stat().st_size for file in bundled.read_hashes())
        return f"{', '.join(bundled.available()) or 'nothing shipped'}: {total / 1e6:.2f} MB, every hash is right"
    place = bundled.bundled_folder(name)
    model = folder / "model" if (folder / "model" / "config.json").is_file() else folder
    with tempfile.TemporaryDirectory() as temporary:
        made = convert(model, Path(temporary))["shipped_sha256"]
    for file, digest in made.items():
        found = sha256_file(place / file) if (place / file).is_file() else "no such file"
        if found != digest:
            raise CheckpointError("is not what the run left", path=place / file, found=found[:12], expected=digest[:12])
    return f"{name} is what {folder} left"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
