"""Add a trained model to the bundled models: half precision, hashes, model card.

::

    python -m tools.ship_model add tiny-follow runs/tiny-follow --recipe recipes/tabletop/tiny-follow.yaml \\
        --data "counterview tabletop …; counterview prepare …" --scores benchmarks/results/held_out.json
    python -m tools.ship_model card tiny-follow --scores benchmarks/results/held_out.json
    python -m tools.ship_model check [tiny-follow runs/tiny-follow]

``card`` writes the files of a bundled model again except its weights. ``check`` verifies all hashes; with NAME and
FOLDER also that the bundled weights are those of the training run in FOLDER.
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
from counterview.features.object_crops import INPUT_PX as CROP_PX
from counterview.inference.zoo import TRACKERS, method_of
from counterview.media.files import atomic_write, read_json, sha256_file, write_json
from counterview.nn import bundled

BUDGET_BYTES = 20_000_000
"""Limit of all bundled models together."""
KEPT_VALUES = 512
"""Vectors of at most this length keep their precision: calibration and norms are small."""
CARD, README = "card.json", "README.md"


def add(
    name: str, folder: Path, *, data: str = "", recipe: str = "", scores: Path | None = None, note: str = ""
) -> dict[str, Any]:
    """Convert a trained model and add it to the bundled models.

    Args:
        name: one of :data:`counterview.nn.bundled.BUNDLED`.
        folder: of a training run, or of the model itself.
        data: the commands that make the training data.
        recipe: file of the recipe.
        scores: results file of the held-out benchmark.
        note: a paragraph for the card.

    Returns:
        The contents of ``card.json``.

    Raises:
        ConfigError: an unknown name.
        CheckpointError: the folder has no model, or weights that are not finite in half precision.
        InputError: the bundled models would exceed :data:`BUDGET_BYTES`, or ``scores`` has none of this model. Nothing
            is changed then.
    """
    if name not in bundled.BUNDLED:
        raise ConfigError(f"no bundled model is called {name!r}", fix=nearest(name, list(bundled.BUNDLED)).capitalize())
    run, model = (folder, folder / "model") if (folder / "model" / "config.json").is_file() else (None, folder)
    method = method_of(model)
    root = bundled.models_root()
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=f".{name}.") as temporary:
        draft = Path(temporary)
        facts = convert(model, draft)
        facts = {"name": name, "method": method, "data": data, "recipe": recipe, "note": note, **facts}
        facts |= run_facts(run) if run is not None else {}
        facts["held_out"] = held_out_scores(scores, name) if scores is not None else {}
        write_json(draft / CARD, facts)
        header = current_config(draft)  # loads the model
        write_json(draft / "config.json", header)
        write_card(draft / README, facts, header["model"])
        others = sum(p.stat().st_size for n in bundled.BUNDLED if n != name for p in (root / n).glob("*"))
        size = sum(p.stat().st_size for p in draft.iterdir())
        if others + size > BUDGET_BYTES:
            raise InputError(
                "the bundled models would be too large",
                found=f"{(others + size) / 1e6:.1f} MB",
                expected=f"at most {BUDGET_BYTES / 1e6:.0f} MB",
                fix="Make the model smaller.",
            )
        target = root / name
        target.mkdir(exist_ok=True)
        for old in target.iterdir():
            old.unlink()
        for path in sorted(draft.iterdir()):
            path.replace(target / path.name)
    refresh_hashes()
    return facts


def convert(model: Path, out: Path) -> dict[str, Any]:
    """Copy ``config.json``, and write every ``.safetensors`` of a model folder to ``out`` in half precision.

    The same input gives the same bytes.

    Returns:
        number of weights, size of the files, and hashes of the files before and after.

    Raises:
        CheckpointError: weights that cannot be read, or are not finite in half precision.
    """
    import torch

    from counterview.nn.weights import read_tensors, write_tensors

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
    return {"parameters": count, "bytes": size, "trained_sha256": before, "bundled_sha256": after}


def run_facts(run: Path) -> dict[str, Any]:
    """Recipe, seed, steps, seconds, machine and validation scores of a training run."""
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
    """The same values, with the last name of every absolute path: folders of a machine are not for a card."""
    if isinstance(value, dict):
        return {k: _names_only(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_names_only(v) for v in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _seconds(run: Path, log_every: int) -> float | None:
    """Seconds of all logged steps and validations; each logged step stands for ``log_every`` steps."""
    total = 0.0
    for name, factor in (("train.csv", log_every), ("validation.csv", 1)):
        if (run / name).is_file():
            with (run / name).open(encoding="utf-8", newline="") as handle:
                values = [row.get("seconds") or "0" for row in csv.DictReader(handle)]
            total += factor * math.fsum(float(v) for v in values)
    return round(total, 1) or None


def held_out_scores(path: Path, name: str) -> dict[str, Any]:
    """The rows of a model in a results file of ``benchmarks.held_out``: set to table to row.

    Raises:
        InputError: no such file, or it has no row of this model.
    """
    values = read_json(path)
    scores: dict[str, Any] = {}
    for title, part in values.get("sets", {}).items() if isinstance(values, dict) else ():
        for table in ("candidates", "proposals"):
            row = part.get(table, {}).get("rows", {}).get(name)
            if row is not None:
                scores.setdefault(title, {})[table] = row
    if not scores:
        raise InputError(f"has no scores of {name}", path=path, expected="a file of python -m benchmarks.held_out")
    return scores


def ablation_tables(path: Path) -> dict[str, Any]:
    """The sets in a results file of ``benchmarks.tiny_match_ablation``.

    Raises:
        InputError: no such file, or another kind of file.
    """
    values = read_json(path)
    if not isinstance(values, dict) or values.get("benchmark") != "tiny_match_ablation" or not values.get("sets"):
        raise InputError("has no ablation", path=path, expected="a file of python -m benchmarks.tiny_match_ablation")
    sets: dict[str, Any] = values["sets"]
    return sets


def refresh_hashes() -> dict[str, str]:
    """Write ``hashes.json`` for the current files."""
    root = bundled.models_root()
    listed = {
        f"{name}/{path.name}": sha256_file(path)
        for name in bundled.BUNDLED
        for path in sorted((root / name).glob("*"))
        if path.is_file() and not path.name.startswith(".")
    }
    write_json(root / bundled.HASHES, listed)
    return listed


# ------------------------------------------------------------------------------------------------------- card

_METHODS = {
    "omama": "O-MaMa (ICCV 2025, arXiv 2506.06026)",
    "tiny-match": "Counterview's own, around an O-MaMa head (ICCV 2025, arXiv 2506.06026)",
    "lmeec": "LM-EEC (NeurIPS 2025, arXiv 2510.11417)",
    "tiny-follow": "LM-EEC (NeurIPS 2025, arXiv 2510.11417) with Counterview's appearance prompt and convolutional "
    "image encoder",
}
_USE = {
    "match": 'model = counterview.load("{name}")\nmatch = model.match(query_image, query_mask, target_image)[0]',
    "track": 'model = counterview.load("{name}")        # one pair of images; over a clip:\n'
    "session = model.session()\nresult = session.step(query_image, {{'mug': query_mask}}, target_image)['mug']",
}
_NOT_FOR = """It was trained on rendered tables alone, to have something that runs before real weights are fetched, and
to test the package from end to end. It is **not** for evaluating the method (Ego-Exo4D is for that), not for people,
hands or outdoor scenes, and not for any use in which a wrong match does harm. Its scores are on rendered takes and are
not scores on Ego-Exo4D. Expect lower ones on photographs."""


def write_card(path: Path, facts: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Write the model card.

    Args:
        path: the file.
        facts: contents of ``card.json``.
        config: the ``model`` part of ``config.json``, in the current format.
    """
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
        f"---\n# {facts['name']}\n\nPart of [Counterview](https://github.com/counterview/counterview): "
        f"{bundled.BUNDLED[facts['name']]}, trained from scratch on rendered takes.",
        "```python\nimport counterview\n\n" + _USE[use].format(name=facts["name"]) + "\n```",
        f"| | |\n|---|---|\n{table}",
    ]
    origins = _origins(facts["method"], config)
    if origins:
        lines = "\n".join(f"| {part} | {origin} |" for part, origin in origins)
        parts.append(f"## Which part is whose\n\n| part | from |\n|---|---|\n{lines}")
    if facts.get("ablation"):
        parts.append(_ablation(facts["ablation"]))
    if facts.get("note"):
        parts.append(f"## Training\n\n{facts['note']}")
    if facts.get("validation"):
        lines = "\n".join(f"| {k} | {v:.4g} |" for k, v in sorted(facts["validation"].items()))
        parts.append(f"## Scores\n\nValidation takes of the recipe, official protocol:\n\n| | |\n|---|---|\n{lines}")
    if facts.get("held_out"):
        parts.append(_held_out(facts["held_out"]))
    parts.append(f"## What it is not for\n\n{_NOT_FOR}")
    hashes = "\n".join(
        f"* `{name}`: `{facts['trained_sha256'][name]}` as trained, `{digest}` as bundled"
        for name, digest in facts["bundled_sha256"].items()
    )
    parts.append(f"## SHA-256\n\n{hashes}")
    with atomic_write(path, "w") as handle:
        handle.write("\n\n".join(parts) + "\n")


def _origins(method: str, config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The parts of a model and where each comes from; empty for the method of a paper."""
    ours = "Counterview"
    if method == "tiny-follow":
        rows = [
            ("memory attention, mask decoder, memory encoder", "SAM 2.1 (architecture; weights from scratch)"),
            ("two memory banks, cross-view prompt, MV-MoE fusion, compression", "LM-EEC"),
        ]
        if config["appearance"]:
            rows.append(("appearance prompt: fine features of the query object, compared with the target", ours))
        if config["backbone"].startswith("conv"):
            rows.append(("convolutional image encoder, initial weights, feature matching as the first loss", ours))
        return rows
    if method != "tiny-match":
        return []
    rows = [("matching head: context descriptor, cross-attention, contrastive embedding", "O-MaMa")]
    network, weight = config["network"], config["descriptor_weight"]
    if network is not None and network["object_crops"]:
        rows.append((f"object crops of {CROP_PX} px as descriptors, beside a small feature map", ours))
    if network is not None and network["histogram"]:
        rows.append(("colour histogram of the object as a part of its descriptor", ours))
    if weight:
        rows.append((f"descriptor weight {weight}: part of the similarity is the cosine of the descriptors", ours))
    if config["reranker"] is not None:
        rows.append(("homographies between the views, from the proposals of both images", ours))
        rows.append(("geometric re-ranker: weighs position against similarity, and estimates the visibility", ours))
    if config.get("alignment") is not None:
        rows.append(("cameras of a pair brought to one look before objects are described, untrained", ours))
    if config["omama"]["proposer"] == "tiny":
        rows.append(("proposals of the proposer `tiny`", ours))
    return rows


def _held_out(scores: Mapping[str, Any]) -> str:
    lines = ["| held-out takes | top-1 among true masks | IoU | LE | CA | BA |", "|---|---|---|---|---|---|"]
    for title, part in scores.items():
        accuracy = part.get("candidates", {}).get("accuracy", {}).get("value")
        row = part.get("proposals", {})
        cells = [accuracy, *(row.get(m, {}).get("value") for m in (
            "iou", "location_error", "contour_accuracy", "balanced_accuracy"))]  # fmt: skip
        lines.append("| " + " | ".join([title, *("-" if c is None else f"{c:.3f}" for c in cells)]) + " |")
    return "Rendered held-out takes, both directions (`python -m benchmarks.held_out`):\n\n" + "\n".join(lines)


def _ablation(sets: Mapping[str, Any]) -> str:
    text = (
        "## Ablation\n\nThe model without one part at a time, without retraining: rendered held-out takes, official "
        "protocol, both directions, 95 % intervals over takes (`python -m benchmarks.tiny_match_ablation`):"
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
    adding = commands.add_parser("add", help="add a trained model to the bundled models")
    adding.add_argument("name")
    adding.add_argument("folder", type=Path)
    for option in ("data", "recipe", "note"):
        adding.add_argument(f"--{option}", default="")
    adding.add_argument("--scores", type=Path)
    card = commands.add_parser("card", help="write configuration and card of a bundled model again")
    card.add_argument("name")
    card.add_argument("--scores", type=Path)
    for option in ("data", "recipe", "note"):
        card.add_argument(f"--{option}")
    card.add_argument("--ablation", type=Path)
    checking = commands.add_parser(
        "check", help="verify hashes; with NAME FOLDER, also that the weights are those of that run"
    )
    checking.add_argument("name", nargs="?")
    checking.add_argument("folder", type=Path, nargs="?")
    options = parser.parse_args(arguments)
    try:
        if options.command == "add":
            facts = add(
                options.name, options.folder, data=options.data, recipe=options.recipe, scores=options.scores,
                note=options.note,
            )  # fmt: skip
            _print(f"{options.name}: {facts['parameters']:,} weights, {facts['bytes'] / 1e6:.2f} MB")
        elif options.command == "card":
            texts = {key: getattr(options, key) for key in ("data", "recipe", "note")}
            _print(f"wrote {renew_card(options.name, options.scores, options.ablation, **texts)}")
        else:
            _print(check(options.name, options.folder))
    except CounterviewError as error:
        _print(f"ship_model: {error}")
        return error.exit_code
    return 0


def renew_card(name: str, scores: Path | None = None, ablation: Path | None = None, **texts: str | None) -> Path:
    """Write ``config.json``, ``README.md`` and ``card.json`` of a bundled model again, in the current format.

    Args:
        name: of the model; its weights are unchanged.
        scores: results file of the held-out benchmark; the card keeps its scores without it.
        ablation: results file of ``benchmarks.tiny_match_ablation``; the card keeps its ablation without it.
        texts: ``data``, ``recipe`` or ``note``, as for :func:`add`; the card keeps what is not given.

    Returns:
        the path of the card.

    Raises:
        InputError: a results file without scores of this model, or of another kind. Nothing is changed then.
        WeightsError: the model is not part of this installation.
        CheckpointError: its files are damaged.
    """
    folder = bundled.bundled_folder(name)
    facts = read_json(folder / CARD)
    facts["method"] = method_of(folder)
    if "shipped_sha256" in facts:  # the name of the first cards
        facts["bundled_sha256"] = facts.pop("shipped_sha256")
    if ablation is not None:
        facts["ablation"] = ablation_tables(ablation)
    if scores is not None:
        facts["held_out"] = held_out_scores(scores, name)
    facts |= {key: text for key, text in texts.items() if text is not None}
    header = current_config(folder)
    write_json(folder / "config.json", header)
    write_json(folder / CARD, facts)
    write_card(folder / README, facts, header["model"])
    refresh_hashes()
    return folder / README


def current_config(folder: Path) -> dict[str, Any]:
    """The contents of ``config.json`` of a model in the current format, with all default values.

    Raises:
        CheckpointError: the model cannot be loaded.
    """
    from counterview.inference.loading import load_source
    from counterview.inference.zoo import Source

    predictor: Any = load_source(Source(folder.name, method_of(folder), folder), device="cpu")
    model = predictor.model if hasattr(predictor, "model") else predictor.matcher.model
    header: dict[str, Any] = model.header()
    return header


def check(name: str | None = None, folder: Path | None = None) -> str:
    """Verify every bundled file; with a name and a folder, also that converting the folder gives the bundled weights.

    Returns:
        a line that reports the result.

    Raises:
        CheckpointError: a file is missing, damaged, or differs from the conversion of the folder.
        WeightsError: the model is not part of this installation.
    """
    for each in bundled.available():
        bundled.bundled_folder(each)
    if name is None or folder is None:
        total = sum((bundled.models_root() / file).stat().st_size for file in bundled.read_hashes())
        return f"{', '.join(bundled.available()) or 'no bundled model'}: {total / 1e6:.2f} MB, all hashes match"
    target = bundled.bundled_folder(name)
    model = folder / "model" if (folder / "model" / "config.json").is_file() else folder
    with tempfile.TemporaryDirectory() as temporary:
        expected = convert(model, Path(temporary))["bundled_sha256"]
    for file, digest in expected.items():
        actual = sha256_file(target / file) if (target / file).is_file() else "no such file"
        if actual != digest:
            raise CheckpointError(
                "differs from the weights of the run", path=target / file, found=actual[:12], expected=digest[:12]
            )
    return f"{name} has the weights of {folder}"


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
