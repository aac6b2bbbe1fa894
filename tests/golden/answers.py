"""What the bundled models answer, as hashes and numbers: the same before and after every change that promises so.

``python -m tests.golden.answers check`` compares to the bit; ``write`` makes the file anew, for a change that means to
answer otherwise.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "answers.json"


def machine() -> dict[str, str]:
    """On what equal bits depend beside the code."""
    import torch

    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "processor": platform.machine(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
    }


def digest(value: Any) -> str:
    """Of bytes, or of plain values as JSON."""
    data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()[:20]


def mask_digest(mask: Any) -> str:
    """Of an ObjectMask."""
    return digest(str(mask.size_hw).encode() + mask.runs.tobytes())


def leaves(value: Any) -> list[str]:
    """Every number and text below, without the keys that lead to it. A flag may become a group of settings."""
    if isinstance(value, dict):
        return sorted(leaf for part in value.values() for leaf in leaves(part))
    if isinstance(value, (list, tuple)):
        return sorted(leaf for part in value for leaf in leaves(part))
    return [] if value is None or isinstance(value, bool) else [json.dumps(value)]


def match_pair(**options: Any) -> dict[str, Any]:
    """Both directions of the bundled pair by a model."""
    import counterview
    from counterview.inference.examples import load_pair

    model, pair = counterview.load(device="cpu", **options), load_pair()
    encoded = {view.name: model.encode(view.image) for view in (pair.near, pair.far)}
    found: dict[str, Any] = {}
    for query, target in ((pair.near, pair.far), (pair.far, pair.near)):
        matches = model.match_encoded(encoded[query.name], list(query.masks.values()), encoded[target.name],
                                      names=list(query.masks))  # fmt: skip
        found[f"{query.name}_to_{target.name}"] = {
            m.name: {
                "mask": mask_digest(m.mask_rle),
                "similarity": m.similarity,
                "visibility": m.visibility,
                "candidates": [[mask_digest(c.mask_rle), c.similarity, c.proposal] for c in m.candidates],
                "notes": len(m.notes),
            }
            for m in matches
        }
    settings = json.loads(json.dumps(model.settings()))
    for part in (settings["matcher"], settings.get("features", {})):
        if isinstance(part.get("weights"), str):
            del part["weights"]  # a hash of names too
    settings["matcher"].pop("name")  # tiny-match was called omama
    return {"answers": found, "settings": leaves(settings)}


def take_answers(name: str, frames: int) -> dict[str, Any]:
    """The first annotated frames of the bundled take, both directions, all cameras."""
    from counterview.data.dataset import DIRECTIONS
    from counterview.data.pairs import pairs_of_take
    from counterview.inference.examples import load_take
    from counterview.inference.loading import load_take_predictor

    take, predictor = load_take(), load_take_predictor(name, device="cpu")
    wanted: dict[int, list[Any]] = defaultdict(list)
    for direction in DIRECTIONS:
        for pair in pairs_of_take(take, direction, targets="annotated"):
            wanted[pair.frame].append((direction, pair))
    chosen = {frame: wanted[frame] for frame in sorted(wanted)[:frames]}
    return {
        f"{frame} {answer.direction} {answer.pair.object} {answer.pair.target_camera}": [
            mask_digest(answer.mask), answer.confidence
        ]
        for frame, answers in predictor.predict(take, chosen)
        for answer in answers
    }  # fmt: skip


def prediction_file() -> dict[str, Any]:
    """One prediction file of the bundled take, and its official scores."""
    from importlib.resources import files

    from counterview.data.dataset import DIRECTIONS
    from counterview.data.open import open_dataset
    from counterview.evaluation import GroundTruth, evaluate, open_predictions
    from counterview.inference.dataset import predict
    from counterview.inference.loading import load_take_predictor

    root = Path(str(files("counterview"))) / "assets" / "take"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "predictions.json"
        predict(load_take_predictor("tiny-follow", device="cpu"), open_dataset(root, "test"), DIRECTIONS, out,
                progress=False)  # fmt: skip
        values = json.loads(out.read_text())
        truth = GroundTruth(root / "annotations" / "relations_test.json")
        source = open_predictions(out)
        scores: dict[str, Any] = {}
        for direction in DIRECTIONS:
            report = evaluate(truth, source, direction)
            scores[direction] = {k: v for k, v in report.to_json().items() if isinstance(v, (int, float, str))}
    results = {key: part["results"] for key, part in values.items() if isinstance(part, dict) and "results" in part}
    return {"file": digest(results), "scores": scores}


def answers() -> dict[str, Any]:
    """All of it, on two threads: other numbers of them add in another order."""
    import torch

    torch.set_num_threads(2)
    return {
        "machine": machine(),
        "match": {
            "knn": match_pair(model="knn"),
            "knn tiny": match_pair(model="knn", features="tiny", proposals="tiny"),
            "tiny-match": match_pair(model="tiny-match"),
            "tiny-follow": match_pair(model="tiny-follow"),
        },
        "take": {"tiny-match": take_answers("tiny-match", 2), "tiny-follow": take_answers("tiny-follow", 10)},
        "predict": prediction_file(),
    }


def differences(expected: Any, found: Any, place: str = "", tolerance: float = 0.0) -> list[str]:
    """Places at which two answers differ. Settings may only gain values."""
    if place.endswith("/settings"):
        rest = list(found)
        missing = [leaf for leaf in expected if leaf not in rest or rest.remove(leaf)]
        return [f"{place}: lost {leaf}" for leaf in missing]
    if isinstance(expected, dict) and isinstance(found, dict):
        keys = [*expected, *(k for k in found if k not in expected)]
        return [d for k in keys for d in differences(expected.get(k), found.get(k), f"{place}/{k}", tolerance)]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = enumerate(zip(expected, found, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{place}[{i}]", tolerance)]
    if tolerance and isinstance(expected, float) and isinstance(found, float):
        return [] if abs(expected - found) <= tolerance else [f"{place}: {expected} -> {found}"]
    return [] if expected == found else [f"{place}: {expected} -> {found}"]


def compare(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """To the bit on the kind of machine that made the file; elsewhere numbers may differ in their last digits."""
    if expected["machine"] == found["machine"]:
        return differences(expected, found)
    changed = differences({**expected, "machine": {}}, {**found, "machine": {}}, tolerance=0.02)
    # A pixel of a mask may flip, and its hash with it.
    return [line for line in changed if not any(word in line for word in ("mask", "candidates", "take", "file"))]


if __name__ == "__main__":
    values = json.loads(json.dumps(answers()))
    if sys.argv[1:] == ["write"]:
        GOLDEN.parent.mkdir(parents=True, exist_ok=True)
        GOLDEN.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")
    else:
        changed = compare(json.loads(GOLDEN.read_text()), values)
        print("\n".join(changed[:40]) or "equal")
        sys.exit(bool(changed))
