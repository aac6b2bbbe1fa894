"""How good are the proposals: best IoU with known objects by number of masks, and seconds a picture?

``python -m benchmarks.proposals [FOLDER …] [--proposals NAME] [--save]``: the bundled pair, and every folder
with pictures ``NAME.jpg`` (or ``.png``) and masks ``NAME_OBJECT.png``. Each object counts with the best IoU among
the first 50, 100, 200 and 300 proposals; the mean is over objects. Processor seconds are of one call, and hold
where the machine is shared.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path

from tqdm import tqdm

from benchmarks.common import record, show, timed
from counterview.masks.geometry import iou
from counterview.masks.png import read_mask
from counterview.media.images import read_image
from counterview.proposals import Proposer, load_proposer
from counterview.types import ObjectMask

COUNTS = (50, 100, 200, 300)


def pictures(folder: Path) -> Iterator[tuple[Path, dict[str, ObjectMask]]]:
    """The pictures of a folder that have masks beside them, and the masks by object name."""
    images = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for image in images:
        masks = [path for path in images if path.suffix == ".png" and path.stem.startswith(f"{image.stem}_")]
        # Of pictures called a and a_b, the masks of the second belong to it alone.
        nearer = [other.stem for other in images if other.suffix != ".png" and other.stem.startswith(f"{image.stem}_")]
        masks = [path for path in masks if not any(path.stem.startswith(f"{stem}_") for stem in nearer)]
        if masks:
            names = {path.stem[len(image.stem) + 1 :]: path for path in masks}
            yield image, {name: ObjectMask.from_array(read_mask(path)) for name, path in names.items()}


def measure(proposer: Proposer, folder: Path, repeat: int) -> list[dict[str, object]]:
    """One row a picture: number of masks, seconds, and for every object the best IoU by number of masks."""
    rows: list[dict[str, object]] = []
    for path, objects in tqdm(list(pictures(folder)), desc=folder.name, unit="picture"):
        image = read_image(path)
        started = time.process_time()
        proposals = proposer(image, path.stem)
        processor = time.process_time() - started
        best = {}
        for name, mask in objects.items():
            overlaps = [iou(proposal, mask) for proposal in proposals]
            best[name] = [max(overlaps[:count], default=0.0) for count in COUNTS]
        rows.append(
            {
                "picture": path.name,
                "size_hw": list(image.shape[:2]),
                "masks": len(proposals),
                "best_iou": best,
                "processor_s": processor,
                **timed(lambda p=proposer, i=image, n=path.stem: p(i, n), repeat=repeat, warmup=0),  # type: ignore[misc]
            }
        )
    return rows


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--proposals", default="graph")
    parser.add_argument("--repeat", type=int, default=3, help="timed calls a picture")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    proposer = load_proposer(options.proposals)
    results = {}
    with as_file(files("counterview") / "assets" / "pair") as bundled:
        for name, folder in [("bundled pair", bundled), *((str(f.name), f) for f in options.folders)]:
            results[name] = measure(proposer, folder, options.repeat)
    table, summary = [], {}
    for name, rows in results.items():
        objects = [values for row in rows for values in row["best_iou"].values()]  # type: ignore[attr-defined]
        means = [statistics.fmean(values[i] for values in objects) for i in range(len(COUNTS))] if objects else []
        seconds = statistics.median(row["median_s"] for row in rows) if rows else float("nan")  # type: ignore[type-var]
        processor = statistics.median(row["processor_s"] for row in rows) if rows else float("nan")  # type: ignore[type-var]
        masks = statistics.fmean(row["masks"] for row in rows) if rows else 0.0  # type: ignore[misc]
        summary[name] = {
            "mean_best_iou": dict(zip(map(str, COUNTS), means, strict=False)),
            "median_s": seconds,
            "processor_s": processor,
        }
        table.append(
            [name, len(rows), len(objects), masks, *(means or [float("nan")] * len(COUNTS)), seconds, processor]
        )
    show(
        f"Mean best IoU of proposals {options.proposals!r}",
        [
            "pictures of",
            "pictures",
            "objects",
            "masks",
            *(f"first {count}" for count in COUNTS),
            "seconds",
            "processor s",
        ],
        table,
    )
    record(
        "proposals",
        {"proposals": options.proposals, "settings": proposer.settings(), "summary": summary, "pictures": results},
        save=options.save,
    )


if __name__ == "__main__":
    main()
