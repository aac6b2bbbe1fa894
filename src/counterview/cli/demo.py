"""``counterview demo``: the main job on pictures that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("counterview-demo"),
) -> None:
    """Match the objects of a bundled pair of pictures, offline, and say how well it went."""
    from counterview.cli.match import describe, write
    from counterview.masks.geometry import iou
    from counterview.pipeline.bundled import load_pair
    from counterview.pipeline.predictor import load

    pair = load_pair()
    model = load("knn")
    results = []
    for query, target in ((pair.near, pair.far), (pair.far, pair.near)):
        names = list(query.masks)
        matches = model.match(query.image, list(query.masks.values()), target.image, names=names)
        result = describe(
            Path(query.name),
            Path(target.name),
            query.image,
            target.image,
            list(query.masks.values()),
            matches,
            model.settings(),
        )
        folder = out / f"{query.name}_to_{target.name}"
        paths = write(folder, result, query.image, target.image, list(query.masks.values()), matches)
        scores = [iou(item.mask_rle, target.masks[item.name]) for item in matches]
        results.append((query.name, target.name, names, scores, matches, paths))
    for query_name, target_name, names, scores, matches, _ in results:
        print(f"{query_name} -> {target_name}, proposals and features without weights (graph, classical):")
        for name, score, item in zip(names, scores, matches, strict=True):
            print(f"  {name:<16} IoU {score:.2f}   visibility {item.visibility:.2f}")
        print(f"  {'mean':<16} IoU {sum(scores) / len(scores):.2f}")
    print("The pictures, and the answers as JSON and masks:")
    for *_, paths in results:
        for path in paths:
            if path.name in ("overlay.png", "match.json"):
                print(f"  {path}")
